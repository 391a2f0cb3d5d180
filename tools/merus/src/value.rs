//! Values as a manifest writes them. Each `Err` says what is wrong and what to do.

use config::setting::{self, ADDRESS_FORM, CPU_CLASS_FORM, CPU_MAX_FORM, SIZE_FORM};
use config::spec::{
    CpuClass, CpuMax, GIC_FORM, GuestGic, MAC_FORM, Mac, PASSTHROUGH_FORM, POWER_KEY_FORM, PowerKey, UNSAFE_DMA_FORM,
};
use toml::de::DeValue;

type Parsed<T> = Result<T, String>;

fn expected<T>(value: &DeValue<'_>, form: &str) -> Parsed<T> {
    Err(format!("is of the type {}; write {form}", value.type_str()))
}

/// Text.
pub fn text(value: &DeValue<'_>) -> Parsed<String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        _ => expected(value, "text in quotation marks"),
    }
}

fn number<T: TryFrom<u64>>(value: &DeValue<'_>, form: &str) -> Parsed<T> {
    let DeValue::Integer(number) = value else {
        return expected(value, form);
    };
    let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| T::try_from(n).ok());
    parsed.ok_or_else(|| format!("{number} is out of range; write {form}"))
}

/// A whole number that is not negative.
pub fn count(value: &DeValue<'_>) -> Parsed<u32> {
    number(value, "a whole number from 0")
}

/// A list of whole numbers.
pub fn list(value: &DeValue<'_>) -> Parsed<Vec<u32>> {
    match value {
        DeValue::Array(items) => items.iter().map(|item| count(item.get_ref())).collect(),
        _ => expected(value, "a list such as [0, 1]"),
    }
}

/// A size in bytes: a number, or text with the suffix K, M or G (powers of 1024).
pub fn size(value: &DeValue<'_>) -> Parsed<u64> {
    match value {
        DeValue::String(text) => setting::size(text).ok_or_else(|| format!("\"{text}\" is no size; write {SIZE_FORM}")),
        _ => number(value, SIZE_FORM),
    }
}

/// An address or a number of bytes.
pub fn address(value: &DeValue<'_>) -> Parsed<u64> {
    match value {
        DeValue::String(text) => {
            setting::address(text).ok_or_else(|| format!("\"{text}\" is no address; write {ADDRESS_FORM}"))
        }
        _ => number(value, ADDRESS_FORM),
    }
}

/// `"50%"` of one pCPU, cgroup v2's `"QUOTA PERIOD"` in microseconds (the period may be left out), or `"max"`.
pub fn cpu_max(value: &DeValue<'_>) -> Parsed<Option<CpuMax>> {
    match value {
        DeValue::String(text) => {
            setting::cpu_max(text).ok_or_else(|| format!("\"{text}\" is no cap; write {CPU_MAX_FORM}"))
        }
        _ => expected(value, CPU_MAX_FORM),
    }
}

/// `"fair"`, `"partition"` or `"rt PRIORITY BUDGET PERIOD"`.
pub fn cpu_class(value: &DeValue<'_>) -> Parsed<CpuClass> {
    match value {
        DeValue::String(text) => {
            CpuClass::parse(text).ok_or_else(|| format!("\"{text}\" is no class; write {CPU_CLASS_FORM}"))
        }
        _ => expected(value, CPU_CLASS_FORM),
    }
}

/// Paths of devices.
pub fn devices(value: &DeValue<'_>) -> Parsed<Vec<String>> {
    match value {
        DeValue::Array(items) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(path) => Ok(path.to_string()),
                other => expected(other, PASSTHROUGH_FORM),
            })
            .collect(),
        _ => expected(value, PASSTHROUGH_FORM),
    }
}

/// True or false.
pub fn flag(value: &DeValue<'_>) -> Parsed<bool> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        _ => expected(value, UNSAFE_DMA_FORM),
    }
}

/// An Ethernet address.
pub fn mac(value: &DeValue<'_>) -> Parsed<Mac> {
    match value {
        DeValue::String(text) => Mac::parse(text).ok_or_else(|| format!("\"{text}\" is no MAC; write {MAC_FORM}")),
        _ => expected(value, MAC_FORM),
    }
}

/// Bytes of a packet.
pub fn mtu(value: &DeValue<'_>) -> Parsed<u16> {
    number(value, "a number of bytes such as 1500")
}

/// Which interrupt controller.
pub fn gic(value: &DeValue<'_>) -> Parsed<GuestGic> {
    match value {
        DeValue::String(text) => {
            GuestGic::parse(text).ok_or_else(|| format!("\"{text}\" is no interrupt controller; write {GIC_FORM}"))
        }
        _ => expected(value, GIC_FORM),
    }
}

/// Which power keys.
pub fn power_key(value: &DeValue<'_>) -> Parsed<PowerKey> {
    match value {
        DeValue::String(text) => {
            PowerKey::parse(text).ok_or_else(|| format!("\"{text}\" is no kind of power key; write {POWER_KEY_FORM}"))
        }
        _ => expected(value, POWER_KEY_FORM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    fn with<T>(text: &str, parse: fn(&DeValue<'_>) -> Parsed<T>) -> Parsed<T> {
        let text = format!("x = {text}");
        let table = DeTable::parse(&text).unwrap();
        parse(table.get_ref().get("x").unwrap().get_ref())
    }

    #[test]
    fn sizes_have_binary_suffixes() {
        let cases = [("\"256M\"", 256 << 20), ("\"2G\"", 2 << 30), ("\"64K\"", 64 << 10), ("\"7\"", 7), ("4096", 4096)];
        for (text, bytes) in cases {
            assert_eq!(with(text, size), Ok(bytes), "{text}");
        }
        for text in
            ["\"\"", "\"M\"", "\"-1M\"", "\"+1M\"", "\"1.5G\"", "\"99999999999G\"", "\"é\"", "-1", "1.5", "true"]
        {
            let error = with(text, size).unwrap_err();
            assert!(error.contains("write a size such as \"256M\""), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_are_numbers_or_text() {
        for text in ["0x40080000", "\"0x40080000\"", "1074266112", "\"1074266112\""] {
            assert_eq!(with(text, address), Ok(0x4008_0000), "{text}");
        }
        assert_eq!(with("\"2M\"", address), Ok(2 << 20));
        for text in ["-1", "\"-1\"", "\"0x\"", "1.5", "true"] {
            assert!(with(text, address).unwrap_err().contains("write a number such as 0x40080000"), "{text}");
        }
    }

    #[test]
    fn caps_are_a_share_or_cgroup_v2s_pair() {
        let max = |quota_us, period_us| Ok(Some(CpuMax { quota_us, period_us }));
        assert_eq!(with("\"50%\"", cpu_max), max(50_000, 100_000));
        assert_eq!(with("\"250%\"", cpu_max), max(250_000, 100_000));
        assert_eq!(with("\"2000 10000\"", cpu_max), max(2_000, 10_000));
        assert_eq!(with("\"2000\"", cpu_max), max(2_000, 100_000));
        assert_eq!(with("\"max\"", cpu_max), Ok(None));
        assert_eq!(with("\"max 100000\"", cpu_max), Ok(None));
        for text in ["\"\"", "\"%\"", "\"half\"", "\"1 2 3\"", "\"1 x\"", "50"] {
            assert!(with(text, cpu_max).unwrap_err().contains("write a share of one pCPU"), "{text}");
        }
    }

    #[test]
    fn devices_are_a_list_of_paths() {
        assert_eq!(with("[\"/a@1\", \"serial1\"]", devices), Ok(vec!["/a@1".to_string(), "serial1".to_string()]));
        for text in ["\"/a@1\"", "[1]", "true"] {
            assert!(with(text, devices).unwrap_err().contains("write a list of paths"), "{text}");
        }
        assert_eq!((with("true", flag), with("false", flag)), (Ok(true), Ok(false)));
        assert!(with("\"yes\"", flag).unwrap_err().contains("write true or false"));
    }

    #[test]
    fn macs_are_six_bytes() {
        assert_eq!(with("\"52:54:00:aB:00:01\"", mac), Ok(Mac([0x52, 0x54, 0, 0xab, 0, 1])));
        for text in [
            "\"\"",
            "\"52:54:00:00:00\"",
            "\"52:54:00:00:00:01:02\"",
            "\"5254:00:00:00:01\"",
            "\"+1:2:3:4:5:6\"",
            "\"52:54:00:00:00:0g\"",
            "1",
        ] {
            assert!(with(text, mac).unwrap_err().contains("write a MAC such as"), "{text}");
        }
        assert_eq!(with("9000", mtu), Ok(9000));
        assert!(with("65536", mtu).unwrap_err().contains("is out of range"));
    }

    #[test]
    fn power_keys_are_words() {
        assert_eq!(with("\"both\"", power_key), Ok(PowerKey::Both));
        assert_eq!(with("\"none\"", power_key), Ok(PowerKey::None));
        assert!(with("\"acpi\"", power_key).unwrap_err().contains("write \"both\", \"gpio\", \"virtio\" or \"none\""));
        assert!(with("true", power_key).is_err());
        assert_eq!(with("\"2\"", gic), Ok(GuestGic::V2));
        assert!(with("\"4\"", gic).unwrap_err().contains("write \"2\" or \"3\""));
        assert!(with("2", gic).is_err());
    }

    #[test]
    fn numbers_are_not_negative() {
        assert_eq!(with("0x10", count), Ok(16));
        assert_eq!(with("1_000", count), Ok(1000));
        assert_eq!(with("-1", count).unwrap_err(), "-1 is out of range; write a whole number from 0");
        assert_eq!(with("4294967296", count).unwrap_err(), "4294967296 is out of range; write a whole number from 0");
        assert_eq!(with("\"2\"", count).unwrap_err(), "is of the type string; write a whole number from 0");
        assert_eq!(with("[0, 1]", list), Ok(vec![0, 1]));
        assert!(with("[0, -1]", list).is_err());
    }
}
