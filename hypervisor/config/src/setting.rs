//! Settings as a person types them: by their manifest's key, and a value without quotes.

use crate::image::Raw;
use crate::spec::{self, CpuClass, CpuMax, DEFAULT_CPU_PERIOD_US, Fault, VmSpec, key};
use alloc::vec::Vec;

/// A setting that can be changed while its VM or group exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Setting {
    /// `cpu.weight`.
    Weight(u32),
    /// `cpu.max`; `None` is no cap.
    Max(Option<CpuMax>),
    /// `cpu.affinity`; `None` is all pCPUs.
    Affinity(Option<Vec<u32>>),
    /// `cpu.class`.
    Class(CpuClass),
    /// `memory.max`; `None` is no cap.
    MemoryMax(Option<u64>),
}

impl Setting {
    /// Reads the value of `key` and checks it by itself. The error is for the person who typed it.
    pub fn parse(key: &str, value: &str) -> Result<Self, Fault> {
        let wrong = |form| Fault::Form { value: value.into(), form };
        match key {
            key::CPU_WEIGHT => {
                let weight = decimal(value).and_then(|n| u32::try_from(n).ok());
                let weight = weight.ok_or(wrong("a whole number such as 200"))?;
                spec::check_weight(weight)?;
                Ok(Self::Weight(weight))
            }
            key::CPU_MAX => {
                let max = cpu_max(value).ok_or(wrong(CPU_MAX_FORM))?;
                max.map_or(Ok(()), spec::check_cpu_max)?;
                Ok(Self::Max(max))
            }
            key::CPU_AFFINITY if value.trim() == "all" => Ok(Self::Affinity(None)),
            key::CPU_AFFINITY => {
                let list = value.trim().trim_start_matches('[').trim_end_matches(']');
                let cpus: Option<Vec<u32>> =
                    list.split(',').map(|word| decimal(word.trim()).and_then(|n| u32::try_from(n).ok())).collect();
                let cpus = cpus.ok_or(wrong("a list of pCPUs such as 0,1, or all"))?;
                spec::check_affinity(&cpus)?;
                Ok(Self::Affinity(Some(cpus)))
            }
            key::CPU_CLASS => {
                let class = CpuClass::parse(value).ok_or(wrong(CPU_CLASS_FORM))?;
                spec::check_class(class)?;
                Ok(Self::Class(class))
            }
            key::MEMORY_MAX if value.trim() == "max" => Ok(Self::MemoryMax(None)),
            key::MEMORY_MAX => Ok(Self::MemoryMax(Some(size(value).ok_or(wrong(SIZE_FORM))?))),
            key if key::ALL.contains(&key) || key::TABLES.contains(&key) => Err(Fault::Fixed),
            _ => Err(Fault::UnknownKey),
        }
    }

    /// Its key.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Weight(_) => key::CPU_WEIGHT,
            Self::Max(_) => key::CPU_MAX,
            Self::Affinity(_) => key::CPU_AFFINITY,
            Self::Class(_) => key::CPU_CLASS,
            Self::MemoryMax(_) => key::MEMORY_MAX,
        }
    }

    /// Puts it into a VM's description.
    pub fn apply(&self, spec: &mut VmSpec) {
        match self {
            Self::Weight(weight) => spec.cpu.weight = *weight,
            Self::Max(max) => spec.cpu.max = *max,
            Self::Affinity(cpus) => spec.cpu.affinity = cpus.clone(),
            Self::Class(class) => spec.cpu.class = *class,
            Self::MemoryMax(max) => spec.memory_max = *max,
        }
    }
}

/// What a size looks like.
pub const SIZE_FORM: &str = "a size such as \"256M\" (K, M or G; or a number of bytes)";
/// What `cpu.max` looks like.
pub const CPU_MAX_FORM: &str = "a share of one pCPU such as \"50%\", \"QUOTA PERIOD\" in microseconds, or \"max\"";
/// What `cpu.class` looks like.
pub const CPU_CLASS_FORM: &str =
    "\"fair\", \"partition\", or \"rt PRIORITY BUDGET PERIOD\" (priority 1 to 99, the others in microseconds)";

/// A decimal number without a sign.
pub fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A size in bytes: a number, or one with the suffix K, M or G (powers of 1024).
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (text.get(..at)?, 10),
        Some((at, 'M')) => (text.get(..at)?, 20),
        Some((at, 'G')) => (text.get(..at)?, 30),
        _ => (text, 0),
    };
    decimal(digits)?.checked_mul(1 << shift)
}

/// An address, or a number of bytes: `0x` and hexadecimal digits, or as [`size`].
pub fn address(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => size(text),
    }
}

/// What [`address`] reads.
pub const ADDRESS_FORM: &str = "a number such as 0x40080000 (or with K, M or G)";

/// Takes one of `load`, `entry` and `room`, which a VM keeps for its life, into `raw`; `None`: it is another key.
pub fn raw(key: &str, value: &str, raw: &mut Raw) -> Option<Result<(), Fault>> {
    let place = match key {
        key::LOAD => &mut raw.load,
        key::ENTRY => &mut raw.entry,
        key::ROOM => &mut raw.room,
        _ => return None,
    };
    *place = address(value);
    Some(place.map_or(Err(Fault::Form { value: value.into(), form: ADDRESS_FORM }), |_| Ok(())))
}

/// `50%` of one pCPU, cgroup v2's `QUOTA PERIOD` in microseconds (the period may be left out), or `max`: `Some(None)`.
pub fn cpu_max(text: &str) -> Option<Option<CpuMax>> {
    if let Some(percent) = text.trim().strip_suffix('%') {
        let quota_us = decimal(percent)?.checked_mul(DEFAULT_CPU_PERIOD_US / 100)?;
        return Some(Some(CpuMax { quota_us, period_us: DEFAULT_CPU_PERIOD_US }));
    }
    let mut words = text.split_whitespace();
    let quota = words.next()?;
    let period_us = words.next().map_or(Some(DEFAULT_CPU_PERIOD_US), decimal)?;
    match (quota, words.next()) {
        (_, Some(_)) => None,
        ("max", None) => Some(None),
        (quota, None) => Some(Some(CpuMax { quota_us: decimal(quota)?, period_us })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn settings_are_read_as_in_a_manifest() {
        let cases = [
            ("cpu.weight", "200", Setting::Weight(200)),
            ("cpu.max", "50%", Setting::Max(Some(CpuMax { quota_us: 50_000, period_us: 100_000 }))),
            ("cpu.max", "2000 10000", Setting::Max(Some(CpuMax { quota_us: 2_000, period_us: 10_000 }))),
            ("cpu.max", "max", Setting::Max(None)),
            ("cpu.affinity", "[0, 1]", Setting::Affinity(Some(vec![0, 1]))),
            ("cpu.affinity", "3", Setting::Affinity(Some(vec![3]))),
            ("cpu.affinity", "all", Setting::Affinity(None)),
            ("cpu.class", "fair", Setting::Class(CpuClass::Fair)),
            ("cpu.class", "partition", Setting::Class(CpuClass::Partition)),
            (
                "cpu.class",
                "rt 5 1000 10000",
                Setting::Class(CpuClass::Rt { priority: 5, budget_us: 1_000, period_us: 10_000 }),
            ),
            ("memory.max", "300M", Setting::MemoryMax(Some(300 << 20))),
            ("memory.max", "max", Setting::MemoryMax(None)),
        ];
        for (key, value, setting) in cases {
            assert_eq!(Setting::parse(key, value), Ok(setting.clone()), "{key}={value}");
            assert_eq!(setting.key(), key);
        }
    }

    #[test]
    fn a_raw_binary_s_place_is_read_in_hexadecimal_too() {
        let mut place = Raw::default();
        for (key, value) in [("load", "0x40080000"), ("entry", " 1074266116"), ("room", "2M")] {
            assert_eq!(raw(key, value, &mut place), Some(Ok(())), "{key}");
        }
        assert_eq!(place, Raw { load: Some(0x4008_0000), entry: Some(0x4008_0004), room: Some(2 << 20) });
        for value in ["", "0x", "0x+1", "-1", "0X10", "0x10000000000000000", "é"] {
            let error = raw("load", value, &mut place).unwrap().unwrap_err().to_string();
            assert!(error.contains("0x40080000"), "{value}: {error}");
        }
        assert_eq!(raw("cpu.weight", "1", &mut place), None);
    }

    #[test]
    fn what_is_refused_says_what_would_be_right() {
        let cases = [
            ("cpu.weight", "0", "1"),
            ("cpu.weight", "x", "a whole number such as 200"),
            ("cpu.max", "5 x", "QUOTA PERIOD"),
            ("cpu.max", "1%%", "QUOTA PERIOD"),
            ("cpu.affinity", "", "0,1"),
            ("cpu.affinity", "1,1", "1"),
            ("cpu.class", "rt 5", "rt PRIORITY BUDGET PERIOD"),
            ("cpu.class", "rt 0 10 100", "1 to 99"),
            ("cpu.class", "rt 5 2000 1000", "budget"),
            ("memory.max", "1.5G", "256M"),
            ("memory.max", "é", "256M"),
            ("vcpus", "2", "cannot be changed"),
            ("colour", "red", "unknown"),
        ];
        for (key, value, part) in cases {
            let error = Setting::parse(key, value).unwrap_err().to_string();
            assert!(error.contains(part), "{key}={value}: {error}");
        }
    }
}
