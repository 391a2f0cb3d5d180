//! Reads a manifest: TOML with one `[[vm]]` table a VM, and one `[[group]]` table a group of them.
//!
//! The document is walked by hand rather than deserialised, so that every fault in it is found in one go and each has
//! its line.

mod ready;
pub use ready::Content;

use crate::report::{Kind, Report};
use crate::value;
use config::image::{HEADER_SIZE, Raw};
use config::spec::{
    self, CpuSpec, Fault, GroupSpec, Owner, PassthroughSpec, PayloadKind, PayloadRef, Place, SpecError, VmSpec, key,
};
use ready::Made;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// What a manifest asks for, with the files that it names; offsets and sums of the payloads are not known yet.
pub struct Plan {
    /// The VMs, in the manifest's order. Their payloads are indices into `files`, as text.
    pub vms: Vec<VmSpec>,
    /// The groups, in the manifest's order.
    pub groups: Vec<GroupSpec>,
    /// All files, each once for each use.
    pub files: Vec<Content>,
}

/// Reads and checks the manifest at `path`. There is no plan where it could not be understood.
pub fn read(path: &Path) -> (Option<Plan>, Report) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let mut report = Report::new(path, "");
            report.add_whole(Kind::Form, format!("cannot be read: {}; give the path of a manifest", reason(&error)));
            return (None, report);
        }
    };
    let mut report = Report::new(path, &text);
    let (document, errors) = DeTable::parse_recoverable(&text);
    for error in &errors {
        let message = error.message().replace('\n', ", ");
        let at = error.span().unwrap_or(0..0);
        report.add(&at, Kind::Form, format!("{message}; {}", remedy(&text, at.start)));
    }
    if !errors.is_empty() {
        return (None, report);
    }
    let mut reader = Reader {
        folder: path.parent().unwrap_or(Path::new("")),
        report: &mut report,
        plan: Plan { vms: Vec::new(), groups: Vec::new(), files: Vec::new() },
        vms: Vec::new(),
        groups: Vec::new(),
        made: Vec::new(),
    };
    reader.document(document.get_ref());
    let plan = reader.finish();
    (plan, report)
}

/// What to do about a fault of form at `at`. RAM and its cap are one key in TOML's eyes, which is easily tried.
fn remedy(text: &str, at: usize) -> &'static str {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    let line = text.get(start..).unwrap_or_default().trim_start();
    if line.starts_with("memory") || line.starts_with("[vm.memory") {
        "give RAM and its cap together: memory = { size = \"256M\", max = \"300M\" }"
    } else {
        "correct the TOML"
    }
}

/// What the operating system says, without its error number.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_string(),
        io::ErrorKind::InvalidData => "it is no UTF-8 text".to_string(),
        io::ErrorKind::IsADirectory => "it is a directory".to_string(),
        _ => error.to_string(),
    }
}

/// The amount of RAM where its cap stands beside it (`memory.max`): another word for [`key::MEMORY`], because TOML has no key
/// that is a value and a table.
const MEMORY_SIZE: &str = "memory.size";

/// Settings that say where something lies.
const PLACES: [&str; 4] = [key::MEMORY, key::LOAD, key::ENTRY, key::ROOM];

/// One setting: its name with dots, where its key is, its value.
struct Setting<'a> {
    name: String,
    at: Range<usize>,
    value: &'a DeValue<'a>,
}

/// Where the settings of a VM or group are, for faults that are found later.
struct Lines {
    table: Range<usize>,
    keys: Vec<(String, Range<usize>)>,
    /// Settings that have a fault already: the value in their place is not the manifest's.
    faulty: Vec<&'static str>,
    /// The first bytes of the kernel.
    kernel: Vec<u8>,
}

impl Lines {
    fn of(&self, key: &str) -> Range<usize> {
        self.keys.iter().find(|(name, _)| name == key).map_or(self.table.clone(), |(_, at)| at.clone())
    }
}

struct Reader<'a> {
    folder: &'a Path,
    report: &'a mut Report,
    plan: Plan,
    vms: Vec<Lines>,
    groups: Vec<Lines>,
    made: Vec<Made>,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document.iter() {
            match (name.get_ref().as_ref(), value.get_ref()) {
                (what @ ("vm" | "group"), DeValue::Array(tables)) => {
                    for (index, item) in tables.iter().enumerate() {
                        match item.get_ref() {
                            DeValue::Table(table) if what == "vm" => self.vm(index, item.span(), table),
                            DeValue::Table(table) => self.group(index, item.span(), table),
                            _ => {
                                let text = format!("key {what}: is no table; write [[{what}]] tables");
                                self.report.add(&item.span(), Kind::Form, text);
                            }
                        }
                    }
                }
                ("vm", _) => self.report.add(&name.span(), Kind::Form, "key vm: is one table; write [[vm]], one a VM"),
                ("group", _) => {
                    let text = "key group: is one table; write [[group]], one a group, or put it into a [[vm]] table";
                    self.report.add(&name.span(), Kind::Form, text);
                }
                (other, _) => {
                    let text = format!("key {other}: is unknown; all settings belong in [[vm]] or [[group]] tables");
                    self.report.add(&name.span(), Kind::Form, text);
                }
            }
        }
    }

    /// The settings of a table, all of which must be `known` ones.
    fn fields<'d>(
        &mut self,
        what: &'static str,
        index: usize,
        at: Range<usize>,
        table: &'d DeTable<'d>,
        known: &[&'static str],
    ) -> Fields<'d, '_> {
        let settings = settings(table);
        let name = settings.iter().find(|setting| setting.name == key::NAME);
        let name = name.and_then(|setting| setting.value.as_str()).unwrap_or_default();
        let label = if name.is_empty() { format!("#{}", index + 1) } else { name.to_string() };
        for setting in settings.iter().filter(|setting| !known.contains(&setting.name.as_str())) {
            let text = match nearest(&setting.name, known) {
                Some(known) => format!("is unknown; did you mean `{known}`?"),
                None => format!("is unknown; the keys are {}", known.join(", ")),
            };
            self.report.add(&setting.at, Kind::Form, format!("{what} \"{label}\": key {}: {text}", setting.name));
        }
        for (n, setting) in settings.iter().enumerate() {
            if settings.iter().take(n).any(|before| before.name == setting.name) {
                let text = format!("{what} \"{label}\": key {}: is given twice; give it once", setting.name);
                self.report.add(&setting.at, Kind::Form, text);
            }
        }
        let keys = settings.iter().map(|setting| (setting.name.clone(), setting.at.clone())).collect();
        let lines = Lines { table: at, keys, faulty: Vec::new(), kernel: Vec::new() };
        Fields { what, label, settings, lines, report: self.report }
    }

    fn group(&mut self, index: usize, at: Range<usize>, table: &DeTable<'_>) {
        let mut fields = self.fields("group", index, at, table, &key::OF_GROUP);
        let spec = GroupSpec {
            name: fields.required(key::NAME, value::text).unwrap_or_else(|| fields.label.clone()),
            weight: fields.optional(key::CPU_WEIGHT, value::count).unwrap_or(spec::DEFAULT_WEIGHT),
            cpu_max: fields.optional(key::CPU_MAX, value::cpu_max).flatten(),
            memory_max: fields.optional(key::MEMORY_MAX, value::size),
        };
        let lines = fields.lines;
        self.groups.push(lines);
        self.plan.groups.push(spec);
    }

    fn vm(&mut self, index: usize, at: Range<usize>, table: &DeTable<'_>) {
        let (folder, mut files) = (self.folder, std::mem::take(&mut self.plan.files));
        let mut made = std::mem::take(&mut self.made);
        let mut fields = self.fields("vm", index, at, table, &key::ALL);
        let name = fields.required(key::NAME, value::text).unwrap_or_else(|| fields.label.clone());
        let kernel = fields.required(key::KERNEL, value::text);
        let mut kernel = kernel.map(|name| fields.payload(&mut files, folder, name, PayloadKind::Kernel));
        let memory = fields.required(key::MEMORY, value::size).unwrap_or_default();
        let mut raw = Raw {
            load: fields.optional(key::LOAD, value::address),
            entry: fields.optional(key::ENTRY, value::address),
            room: fields.optional(key::ROOM, value::address),
        };
        if let Some(kernel) = &mut kernel {
            fields.make_ready(kernel, &mut raw, memory, &mut files, &mut made);
        }
        let initrd = fields.optional(key::INITRD, value::text);
        let initrd = initrd.map(|name| fields.payload(&mut files, folder, name, PayloadKind::Ramdisk));
        let spec = VmSpec {
            name,
            kernel: kernel.unwrap_or_else(|| payload(String::new(), PayloadKind::Kernel)),
            raw,
            initrd,
            cmdline: fields.optional(key::CMDLINE, value::text).unwrap_or_default(),
            memory,
            vcpus: fields.required(key::VCPUS, value::count).unwrap_or_default(),
            cpu: CpuSpec {
                weight: fields.optional(key::CPU_WEIGHT, value::count).unwrap_or(spec::DEFAULT_WEIGHT),
                max: fields.optional(key::CPU_MAX, value::cpu_max).flatten(),
                affinity: fields.optional(key::CPU_AFFINITY, value::list),
                class: fields.optional(key::CPU_CLASS, value::cpu_class).unwrap_or_default(),
            },
            memory_max: fields.optional(key::MEMORY_MAX, value::size),
            group: fields.optional(key::GROUP, value::text),
            power_key: fields.optional(key::POWER_KEY, value::power_key).unwrap_or_default(),
            gic: fields.optional(key::GIC, value::gic),
            passthrough: PassthroughSpec {
                devices: fields.optional(key::PASSTHROUGH, value::devices).unwrap_or_default(),
                unsafe_dma: fields.optional(key::UNSAFE_DMA, value::flag).unwrap_or_default(),
            },
        };
        let lines = fields.lines;
        self.vms.push(lines);
        self.plan.vms.push(spec);
        (self.plan.files, self.made) = (files, made);
    }

    /// Checks what the VMs ask for, with the code that Merus runs.
    fn finish(self) -> Option<Plan> {
        let Self { report, plan, vms, groups, .. } = self;
        for (place, fault) in spec::faults_by_place(&plan.vms, &plan.groups) {
            let lines = match place {
                Place::Vm(index) => vms.get(index),
                Place::Group(index) => groups.get(index),
                Place::Whole => None,
            };
            match lines {
                Some(lines) if lines.faulty.contains(&fault.key) => {}
                Some(lines) => report.add(&lines.of(fault.key), Kind::Semantic, &fault),
                None => report.add_whole(Kind::Semantic, &fault),
            }
        }
        for (vm, lines) in plan.vms.iter().zip(&vms) {
            let known = |keys: &[&str]| !keys.iter().any(|key| lines.faulty.contains(key));
            let fits = vm.layout(&lines.kernel).err().filter(|error| match error.key {
                key::KERNEL => known(&[key::KERNEL, key::LOAD]),
                // RAM, or a place in it, that is refused by itself has been reported above.
                _ => {
                    known(&[key::KERNEL, key::INITRD, key::MEMORY, key::LOAD, key::ENTRY, key::ROOM])
                        && !vm.faults().iter().any(|f| PLACES.contains(&f.key))
                }
            });
            if let Some(error) = fits.filter(|_| vm.kernel.size > 0) {
                report.add(&lines.of(error.key), Kind::Semantic, error);
            }
        }
        report.is_semantic().then_some(plan)
    }
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
            DeValue::Table(inner) if !inner.is_empty() => found.extend(
                inner.iter().map(|(sub, value)| setting(format!("{}.{}", name.get_ref(), sub.get_ref()), sub, value)),
            ),
            _ => found.push(setting(name.get_ref().to_string(), name, value)),
        }
    }
    found.sort_by_key(|setting| setting.at.start);
    found
}

/// The settings of one VM or group while they are read.
struct Fields<'a, 'r> {
    what: &'static str,
    label: String,
    settings: Vec<Setting<'a>>,
    lines: Lines,
    report: &'r mut Report,
}

impl Fields<'_, '_> {
    fn fail(&mut self, key: &'static str, fault: impl std::fmt::Display) {
        self.lines.faulty.push(key);
        self.report.add(
            &self.lines.of(key),
            Kind::Form,
            format!("{} \"{}\": key {key}: {fault}", self.what, self.label),
        );
    }

    fn optional<T>(&mut self, key: &'static str, parse: fn(&DeValue<'_>) -> Result<T, String>) -> Option<T> {
        let setting = self.settings.iter().find(|setting| setting.name == key)?;
        match parse(setting.value) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fail(key, fault);
                None
            }
        }
    }

    fn required<T>(&mut self, key: &'static str, parse: fn(&DeValue<'_>) -> Result<T, String>) -> Option<T> {
        if !self.settings.iter().any(|setting| setting.name == key) {
            self.lines.faulty.push(key);
            let capped = key == key::MEMORY && self.settings.iter().any(|setting| setting.name == key::MEMORY_MAX);
            if capped {
                let text = format!("vm \"{}\": key {key}: is missing; set {MEMORY_SIZE} beside memory.max", self.label);
                self.report.add(&self.lines.table, Kind::Form, text);
            } else {
                let label = self.label.clone();
                let owner = if self.what == "vm" { Owner::Vm(label) } else { Owner::Group(label) };
                self.report.add(&self.lines.table, Kind::Form, SpecError { owner, key, fault: Fault::Missing });
            }
        }
        self.optional(key, parse)
    }

    /// Takes a file in; `name` is its path from the manifest's folder.
    fn payload(&mut self, files: &mut Vec<Content>, folder: &Path, name: String, kind: PayloadKind) -> PayloadRef {
        let key = match kind {
            PayloadKind::Kernel => key::KERNEL,
            PayloadKind::Ramdisk => key::INITRD,
        };
        let path = folder.join(&name);
        let mut payload = payload(name, kind);
        match look_at(&path) {
            Ok((size, head)) => {
                payload.size = size;
                if kind == PayloadKind::Kernel {
                    self.lines.kernel = head;
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

fn payload(name: String, kind: PayloadKind) -> PayloadRef {
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
    file.take(HEADER_SIZE as u64).read_to_end(&mut head)?;
    Ok((data.len(), head))
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
