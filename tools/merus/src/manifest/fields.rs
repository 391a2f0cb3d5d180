//! The settings of one table of a manifest while they are read.

use super::ready::Content;
use super::{MEMORY_SIZE, reason};
use crate::report::{Kind, Report};
use config::disk_image::HEAD;
use config::image::HEADER_SIZE;
use config::spec::{Fault, PayloadKind, PayloadRef, key};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// One setting: its name with dots, where its key is, its value.
pub(super) struct Setting<'a> {
    pub(super) name: String,
    pub(super) at: Range<usize>,
    pub(super) value: &'a DeValue<'a>,
}

/// Where the settings of a table are, for faults that are found later.
pub(super) struct Lines {
    pub(super) table: Range<usize>,
    pub(super) keys: Vec<(String, Range<usize>)>,
    /// Settings that have a fault already: the value in their place is not the manifest's.
    pub(super) faulty: Vec<&'static str>,
    /// The first bytes of the kernel, or of the disk.
    pub(super) head: Vec<u8>,
    /// Those of a VM's disks.
    pub(super) disks: Vec<Lines>,
    /// Those of a VM's network cards.
    pub(super) nets: Vec<Lines>,
}

impl Lines {
    pub(super) fn of(&self, key: &str) -> Range<usize> {
        self.keys.iter().find(|(name, _)| name == key).map_or(self.table.clone(), |(_, at)| at.clone())
    }
}

/// Whose settings they are.
pub(super) struct Who {
    /// `vm`, `group` or `switch`.
    what: &'static str,
    /// The name, or the number among its like, from 1.
    pub(super) label: String,
    /// Which part of it: `disk 0`; empty for the table itself.
    part: String,
}

impl Who {
    /// That of the outer table `index`.
    pub(super) fn outer(what: &'static str, index: usize, table: &DeTable<'_>) -> Self {
        let name = table.get(key::NAME).and_then(|name| name.get_ref().as_str()).filter(|name| !name.is_empty());
        Self { what, label: name.map_or_else(|| format!("#{}", index + 1), str::to_string), part: String::new() }
    }

    /// Table `index` of this name within it.
    pub(super) fn part(&self, name: &str, index: usize) -> Self {
        Self { what: self.what, label: self.label.clone(), part: format!("{name} {index}") }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} \"{}\": ", self.what, self.label)?;
        if self.part.is_empty() { Ok(()) } else { write!(f, "{}: ", self.part) }
    }
}

/// The settings of one table while they are read.
pub(super) struct Fields<'a, 'r> {
    pub(super) who: Who,
    pub(super) settings: Vec<Setting<'a>>,
    pub(super) lines: Lines,
    pub(super) report: &'r mut Report,
}

impl<'a, 'r> Fields<'a, 'r> {
    /// The settings of a table, all of which must be `known` ones.
    pub(super) fn new(
        report: &'r mut Report,
        who: Who,
        at: Range<usize>,
        table: &'a DeTable<'a>,
        known: &[&'static str],
    ) -> Self {
        let settings = settings(table);
        for setting in settings.iter().filter(|setting| !known.contains(&setting.name.as_str())) {
            let text = match nearest(&setting.name, known) {
                Some(known) => format!("is unknown; did you mean `{known}`?"),
                None => format!("is unknown; the keys are {}", known.join(", ")),
            };
            report.add(&setting.at, Kind::Form, format!("{who}key {}: {text}", setting.name));
        }
        for (n, setting) in settings.iter().enumerate() {
            if settings.iter().take(n).any(|before| before.name == setting.name) {
                let text = format!("{who}key {}: is given twice; give it once", setting.name);
                report.add(&setting.at, Kind::Form, text);
            }
        }
        let keys = settings.iter().map(|setting| (setting.name.clone(), setting.at.clone())).collect();
        let lines =
            Lines { table: at, keys, faulty: Vec::new(), head: Vec::new(), disks: Vec::new(), nets: Vec::new() };
        Self { who, settings, lines, report }
    }
}

impl Fields<'_, '_> {
    pub(super) fn fail(&mut self, key: &'static str, fault: impl std::fmt::Display) {
        self.lines.faulty.push(key);
        self.report.add(&self.lines.of(key), Kind::Form, format!("{}key {key}: {fault}", self.who));
    }

    pub(super) fn optional<T>(&mut self, key: &'static str, parse: fn(&DeValue<'_>) -> Result<T, String>) -> Option<T> {
        let setting = self.settings.iter().find(|setting| setting.name == key)?;
        match parse(setting.value) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fail(key, fault);
                None
            }
        }
    }

    pub(super) fn required<T>(&mut self, key: &'static str, parse: fn(&DeValue<'_>) -> Result<T, String>) -> Option<T> {
        if !self.settings.iter().any(|setting| setting.name == key) {
            self.lines.faulty.push(key);
            let capped = key == key::MEMORY && self.settings.iter().any(|setting| setting.name == key::MEMORY_MAX);
            let text = if capped {
                format!("is missing; set {MEMORY_SIZE} beside memory.max")
            } else {
                Fault::Missing.to_string()
            };
            self.report.add(&self.lines.table, Kind::Form, format!("{}key {key}: {text}", self.who));
        }
        self.optional(key, parse)
    }

    /// Takes a file in; `name` is its path from the manifest's folder.
    pub(super) fn payload(
        &mut self,
        files: &mut Vec<Content>,
        folder: &Path,
        name: String,
        kind: PayloadKind,
    ) -> PayloadRef {
        let key = match kind {
            PayloadKind::Kernel => key::KERNEL,
            PayloadKind::Ramdisk => key::INITRD,
            PayloadKind::Disk => key::IMAGE,
        };
        let path = folder.join(&name);
        let mut payload = payload(name, kind);
        match look_at(&path) {
            Ok((size, head)) => {
                payload.size = size;
                if kind != PayloadKind::Ramdisk {
                    self.lines.head = head;
                }
            }
            Err(error) => {
                self.fail(key, format!("\"{}\" cannot be read: {}; give another path", payload.name, reason(&error)));
            }
        }
        payload.image = files.len().to_string();
        files.push(Content::File(path));
        payload
    }
}

pub(super) fn payload(name: String, kind: PayloadKind) -> PayloadRef {
    PayloadRef { image: String::new(), name, kind, offset: 0, size: 0, crc32: 0, sha256: None }
}

/// A file's length and first bytes.
fn look_at(path: &Path) -> io::Result<(u64, Vec<u8>)> {
    let file = File::open(path)?;
    let data = file.metadata()?;
    if data.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut head = Vec::new();
    file.take(HEADER_SIZE.max(HEAD) as u64).read_to_end(&mut head)?;
    Ok((data.len(), head))
}

/// A table's settings; tables in it (`cpu.weight`) are joined by dots, and `memory.size` is `memory`.
fn settings<'a>(table: &'a DeTable<'a>) -> Vec<Setting<'a>> {
    let mut found = Vec::new();
    for (name, value) in table.iter() {
        let setting = |name: String, key: &Spanned<DeString<'_>>, value: &'a Spanned<DeValue<'a>>| Setting {
            name: if name == MEMORY_SIZE { key::MEMORY.to_string() } else { name },
            at: key.span(),
            value: value.get_ref(),
        };
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() && !key::TABLES.contains(&name.get_ref().as_ref()) => found
                .extend(
                    inner
                        .iter()
                        .map(|(sub, value)| setting(format!("{}.{}", name.get_ref(), sub.get_ref()), sub, value)),
                ),
            _ => found.push(setting(name.get_ref().to_string(), name, value)),
        }
    }
    found.sort_by_key(|setting| setting.at.start);
    found
}

/// The known key that differs least from `name`, where that is a likely slip.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let close = known.iter().copied().map(|known| (distance(name, known), known)).min()?;
    (close.0 <= 1 + close.1.len() / 3).then_some(close.1)
}

/// How many characters must be put in, left out, changed or swapped with a neighbour to make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(x != y)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && *x == b[j - 1] {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        let slips = [
            ("memroy", "memory"),
            ("kernal", "kernel"),
            ("vcpu", "vcpus"),
            ("Name", "name"),
            ("cmd_line", "cmdline"),
            ("cpu.weigth", "cpu.weight"),
            ("cpus.max", "cpu.max"),
        ];
        for (slip, meant) in slips {
            assert_eq!(nearest(slip, &key::ALL), Some(meant), "{slip}");
        }
        for stranger in ["network", "disk", "x", "virtio.console"] {
            assert_eq!(nearest(stranger, &key::ALL), None, "{stranger}");
        }
    }
}
