//! Values as a manifest writes them. Each `Err` says what is wrong and what to do.

use config::spec::{CpuMax, DEFAULT_CPU_PERIOD_US};
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
    const FORM: &str = "a size such as \"256M\" (K, M or G; or a number of bytes)";
    let DeValue::String(text) = value else {
        return number(value, FORM);
    };
    let text = text.trim();
    let shift = match text.chars().last() {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    let bytes = decimal(digits).and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("\"{text}\" is no size; write {FORM}"))
}

/// A decimal number without a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `"50%"` of one pCPU, cgroup v2's `"QUOTA PERIOD"` in microseconds (the period may be left out), or `"max"`.
pub fn cpu_max(value: &DeValue<'_>) -> Parsed<Option<CpuMax>> {
    const FORM: &str = "a share of one pCPU such as \"50%\", \"QUOTA PERIOD\" in microseconds, or \"max\"";
    let DeValue::String(text) = value else {
        return expected(value, FORM);
    };
    let wrong = || format!("\"{text}\" is no cap; write {FORM}");
    if let Some(percent) = text.trim().strip_suffix('%') {
        let quota = decimal(percent).and_then(|percent| percent.checked_mul(DEFAULT_CPU_PERIOD_US / 100));
        let quota_us = quota.ok_or_else(wrong)?;
        return Ok(Some(CpuMax { quota_us, period_us: DEFAULT_CPU_PERIOD_US }));
    }
    let mut words = text.split_whitespace();
    let quota = words.next().ok_or_else(wrong)?;
    let period_us = words.next().map_or(Some(DEFAULT_CPU_PERIOD_US), decimal).ok_or_else(wrong)?;
    match (quota, words.next()) {
        (_, Some(_)) => Err(wrong()),
        ("max", None) => Ok(None),
        (quota, None) => Ok(Some(CpuMax { quota_us: decimal(quota).ok_or_else(wrong)?, period_us })),
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
