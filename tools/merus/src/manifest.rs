//! Reads a manifest: TOML with one `[[vm]]` table a VM, and one `[[group]]` table a group of them.
//!
//! The document is walked by hand rather than deserialised, so that every fault in it is found in one go and each has
//! its line.

mod devices;
mod fields;
mod ready;
pub use ready::Content;

use crate::report::{Kind, Report};
use crate::value;
use config::image::Raw;
use config::spec::{
    self, CpuSpec, GroupSpec, PassthroughSpec, PayloadKind, PayloadRef, Place, SwitchSpec, VmSpec, key,
};
use fields::{Fields, Lines, Who, payload};
use ready::Made;
use std::io;
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// What a manifest asks for, with the files that it names; offsets and sums of the payloads are not known yet.
#[derive(Default)]
pub struct Plan {
    /// The VMs, in the manifest's order. Their payloads are indices into `files`, as text.
    pub vms: Vec<VmSpec>,
    /// The groups, in the manifest's order.
    pub groups: Vec<GroupSpec>,
    /// The switches, in the manifest's order.
    pub switches: Vec<SwitchSpec>,
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
        plan: Plan::default(),
        vms: Vec::new(),
        groups: Vec::new(),
        switches: Vec::new(),
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

/// The tables that a manifest consists of.
const OUTER: [&str; 3] = ["vm", "group", "switch"];

/// What is wrong with something else of this name.
fn misplaced(what: &str) -> &'static str {
    match what {
        "vm" => "is one table; write [[vm]], one a VM",
        "group" => "is one table; write [[group]], one a group, or put it into a [[vm]] table",
        "switch" => "is one table; write [[switch]], one a switch, or put it into a [[vm.net]] table",
        _ => "is unknown; all settings belong in [[vm]], [[group]] or [[switch]] tables",
    }
}

/// Settings that say where something lies.
const PLACES: [&str; 4] = [key::MEMORY, key::LOAD, key::ENTRY, key::ROOM];

struct Reader<'a> {
    folder: &'a Path,
    report: &'a mut Report,
    plan: Plan,
    vms: Vec<Lines>,
    groups: Vec<Lines>,
    switches: Vec<Lines>,
    made: Vec<Made>,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document.iter() {
            let what = name.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Array(tables) if OUTER.contains(&what) => {
                    for (index, item) in tables.iter().enumerate() {
                        match item.get_ref() {
                            DeValue::Table(table) => self.table(what, index, item.span(), table),
                            _ => {
                                let text = format!("key {what}: is no table; write [[{what}]] tables");
                                self.report.add(&item.span(), Kind::Form, text);
                            }
                        }
                    }
                }
                _ => self.report.add(&name.span(), Kind::Form, format!("key {what}: {}", misplaced(what))),
            }
        }
    }

    fn table(&mut self, what: &str, index: usize, at: Range<usize>, table: &DeTable<'_>) {
        match what {
            "vm" => self.vm(index, at, table),
            "group" => self.group(index, at, table),
            _ => self.switch(index, at, table),
        }
    }

    fn switch(&mut self, index: usize, at: Range<usize>, table: &DeTable<'_>) {
        let who = Who::outer("switch", index, table);
        let mut fields = Fields::new(self.report, who, at, table, &key::OF_SWITCH);
        let name = fields.required(key::NAME, value::text).unwrap_or_else(|| fields.who.label.clone());
        let uplink = fields.optional(key::UPLINK, value::flag).unwrap_or_default();
        self.switches.push(fields.lines);
        self.plan.switches.push(SwitchSpec { name, uplink });
    }

    fn group(&mut self, index: usize, at: Range<usize>, table: &DeTable<'_>) {
        let who = Who::outer("group", index, table);
        let mut fields = Fields::new(self.report, who, at, table, &key::OF_GROUP);
        let spec = GroupSpec {
            name: fields.required(key::NAME, value::text).unwrap_or_else(|| fields.who.label.clone()),
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
        let (who, known) = (Who::outer("vm", index, table), [&key::ALL[..], &key::TABLES].concat());
        let mut fields = Fields::new(self.report, who, at, table, &known);
        let name = fields.required(key::NAME, value::text).unwrap_or_else(|| fields.who.label.clone());
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
        let disks = fields.disks(&mut files, folder);
        let nets = fields.nets();
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
            rng: fields.optional(key::RNG, value::flag).unwrap_or(spec::DEFAULT_RNG),
            disks,
            nets,
        };
        let lines = fields.lines;
        self.vms.push(lines);
        self.plan.vms.push(spec);
        (self.plan.files, self.made) = (files, made);
    }

    /// Checks what the VMs ask for, with the code that Merus runs.
    fn finish(self) -> Option<Plan> {
        let Self { report, plan, vms, groups, switches, .. } = self;
        let mut found = spec::faults_by_place(&plan.vms, &plan.groups, &plan.switches);
        for (vm, (spec, lines)) in plan.vms.iter().zip(&vms).enumerate() {
            let head = |disk: usize, _: &PayloadRef| lines.disks.get(disk).map_or(&[][..], |lines| &lines.head);
            found.extend(spec.image_faults(head).into_iter().map(|(disk, fault)| (Place::Disk { vm, disk }, fault)));
        }
        for (place, fault) in found {
            let lines = match place {
                Place::Vm(index) => vms.get(index),
                Place::Group(index) => groups.get(index),
                Place::Switch(index) => switches.get(index),
                Place::Disk { vm, disk } => vms.get(vm).and_then(|lines| lines.disks.get(disk)),
                Place::Net { vm, net } => vms.get(vm).and_then(|lines| lines.nets.get(net)),
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
            let fits = vm.layout(&lines.head).err().filter(|error| match error.key {
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
