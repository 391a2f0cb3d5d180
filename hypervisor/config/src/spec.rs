//! What a VM is to be: [`VmSpec`], its limits and the checks that it must pass.
//!
//! The host program checks a manifest with these functions before it writes a bundle; Merus checks with them what it
//! reads from a bundle. Neither trusts the other.

mod device_fault;
mod disk;
mod fault;
mod group;
pub mod key;
mod net;
mod passthrough;
mod power;
mod raw;
mod slots;
pub use device_fault::DeviceFault;
pub use disk::{DiskSource, DiskSpec, HOST_FORM, MAX_SERIAL, SECTOR};
pub use fault::{Bytes, Fault};
pub use group::GroupSpec;
pub use net::{DEFAULT_MTU, MAC_FORM, MAX_PORTS, MAX_SWITCHES, MTUS, Mac, NetSpec, SwitchSpec};
pub use passthrough::{MAX_DEVICE_PATH, MAX_PASSTHROUGH, PASSTHROUGH_FORM, PassthroughSpec, UNSAFE_DMA_FORM};
pub use power::{POWER_KEY_FORM, PowerKey};
pub use slots::{DEVICE_SLOTS, VirtioDevice};

use crate::image::{self, GuestLayout, Raw};
use crate::map;
use addr::BLOCK_SIZE;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// The most vCPUs of one VM.
pub const MAX_VCPUS: u32 = 64;
/// The most VMs of one bundle.
pub const MAX_VMS: usize = 64;
/// The most groups of one bundle, and of one machine.
pub const MAX_GROUPS: usize = 64;
/// The most characters of a VM's name.
pub const MAX_NAME: usize = 32;
/// The most bytes of a command line: Linux keeps 2048 with the NUL at its end (arm64's `COMMAND_LINE_SIZE`).
pub const MAX_CMDLINE: usize = 2047;
/// The least RAM of a VM in bytes.
pub const MIN_MEMORY: u64 = 8 << 20;
/// The weight of a VM that names none, as in cgroup v2.
pub const DEFAULT_WEIGHT: u32 = 100;
/// The least and the most weight, as in cgroup v2.
pub const WEIGHTS: core::ops::RangeInclusive<u32> = 1..=10_000;
/// The least and the most period of `cpu.max` in microseconds, as in cgroup v2.
pub const CPU_PERIODS_US: core::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The period of a `cpu.max` that names none, in microseconds.
pub const DEFAULT_CPU_PERIOD_US: u64 = 100_000;
/// The least quota of `cpu.max` in microseconds, as in cgroup v2.
pub const MIN_CPU_QUOTA_US: u64 = 1_000;
/// Whether a VM that does not say so has a source of random numbers.
pub const DEFAULT_RNG: bool = false;
/// Priorities of the class `rt`.
pub const RT_PRIORITIES: core::ops::RangeInclusive<u32> = 1..=99;
/// The least budget of the class `rt` in microseconds: below it, switching would cost more than it gives.
pub const MIN_RT_BUDGET_US: u64 = 50;
/// The most pCPUs that `cpu.affinity` can name.
pub const MAX_AFFINITY: usize = 512;

/// What a payload is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadKind {
    /// A kernel.
    Kernel,
    /// An initrd.
    Ramdisk,
    /// A disk's image.
    Disk,
}

/// A file in a bundle: where it is and what its bytes must sum up to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PayloadRef {
    /// The name of its node under `/images`.
    pub image: String,
    /// What the manifest calls it: for messages.
    pub name: String,
    /// What it is for.
    pub kind: PayloadKind,
    /// Where it begins, in bytes from the start of the bundle; a multiple of 4 KiB.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
    /// CRC-32 (the polynomial of IEEE 802.3, as the CPU's CRC32B/H/W/X instructions compute it).
    pub crc32: u32,
    /// SHA-256, where the bundle has one.
    pub sha256: Option<[u8; 32]>,
}

/// A cap on pCPU time over all vCPUs of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuMax {
    /// The time that may be used in each period, in microseconds.
    pub quota_us: u64,
    /// The period, in microseconds.
    pub period_us: u64,
}

/// How vCPUs are scheduled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CpuClass {
    /// By weight.
    #[default]
    Fair,
    /// Before all fair ones, by fixed priority, within a budget.
    Rt {
        /// Within [`RT_PRIORITIES`]; the larger goes first.
        priority: u32,
        /// What each vCPU may use in each period, in microseconds.
        budget_us: u64,
        /// The period, in microseconds.
        period_us: u64,
    },
    /// Each vCPU has a pCPU to itself.
    Partition,
}

impl CpuClass {
    /// As [`CpuClass`]'s `Display` writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let class = match words.next()? {
            "fair" => Self::Fair,
            "partition" => Self::Partition,
            "rt" => {
                let mut number = || words.next().and_then(crate::setting::decimal);
                let priority = u32::try_from(number()?).ok()?;
                Self::Rt { priority, budget_us: number()?, period_us: number()? }
            }
            _ => return None,
        };
        words.next().is_none().then_some(class)
    }
}

impl fmt::Display for CpuClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fair => f.write_str("fair"),
            Self::Partition => f.write_str("partition"),
            Self::Rt { priority, budget_us, period_us } => write!(f, "rt {priority} {budget_us} {period_us}"),
        }
    }
}

/// How a VM shares the pCPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuSpec {
    /// Share of contended pCPUs, within [`WEIGHTS`].
    pub weight: u32,
    /// Cap on pCPU time, if any.
    pub max: Option<CpuMax>,
    /// The pCPUs that it may run on; `None` is all of them.
    pub affinity: Option<Vec<u32>>,
    /// How its vCPUs are scheduled.
    pub class: CpuClass,
}

impl Default for CpuSpec {
    fn default() -> Self {
        Self { weight: DEFAULT_WEIGHT, max: None, affinity: None, class: CpuClass::Fair }
    }
}

/// Everything that was asked for one VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmSpec {
    /// Unique among the VMs; 1 to [`MAX_NAME`] characters of `a-z 0-9 - _`.
    pub name: String,
    /// The kernel.
    pub kernel: PayloadRef,
    /// Where it goes, if it has no header that says so.
    pub raw: Raw,
    /// The initrd, if any.
    pub initrd: Option<PayloadRef>,
    /// The kernel's command line; may be empty.
    pub cmdline: String,
    /// RAM in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// How it shares the pCPUs.
    pub cpu: CpuSpec,
    /// Cap in bytes on all memory that is charged to the VM; `None` is no cap.
    pub memory_max: Option<u64>,
    /// The group that it shares a weight and limits with, if any.
    pub group: Option<String>,
    /// Its power keys.
    pub power_key: PowerKey,
    /// The interrupt controller that it must have; `None`: the one that the machine gives its guests.
    pub gic: Option<GuestGic>,
    /// Devices of the board that it is given.
    pub passthrough: PassthroughSpec,
    /// It has a source of random numbers.
    pub rng: bool,
    /// Its disks, in the order that the guest finds them in.
    pub disks: Vec<DiskSpec>,
    /// Its network cards, in the order that the guest finds them in.
    pub nets: Vec<NetSpec>,
}

/// Whose a setting is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The VM of this name.
    Vm(String),
    /// The group of this name.
    Group(String),
    /// The switch of this name.
    Switch(String),
    /// A disk.
    Disk {
        /// The VM's name.
        vm: String,
        /// Its number among the VM's disks, from 0.
        disk: usize,
    },
    /// A network card.
    Net {
        /// The VM's name.
        vm: String,
        /// Its number among the VM's network cards, from 0.
        net: usize,
    },
    /// It is about all of them.
    All,
}

/// Where in the lists of VMs, groups and switches a fault is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The VM of this index.
    Vm(usize),
    /// The group of this index.
    Group(usize),
    /// The switch of this index.
    Switch(usize),
    /// A disk.
    Disk {
        /// The VM's index.
        vm: usize,
        /// The disk's among the VM's.
        disk: usize,
    },
    /// A network card.
    Net {
        /// The VM's index.
        vm: usize,
        /// The card's among the VM's.
        net: usize,
    },
    /// All of them.
    Whole,
}

/// A setting that is refused: whose, which one and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecError {
    /// Whose it is.
    pub owner: Owner,
    /// The setting, one of [`key`]'s; empty where no single one is at fault.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub fault: Fault,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Vm(name) | Owner::Group(name) if name.is_empty() => {}
            Owner::Vm(name) => write!(f, "vm \"{name}\": ")?,
            Owner::Group(name) => write!(f, "group \"{name}\": ")?,
            Owner::Switch(name) => write!(f, "switch \"{name}\": ")?,
            Owner::Disk { vm, disk } => write!(f, "vm \"{vm}\": disk {disk}: ")?,
            Owner::Net { vm, net } => write!(f, "vm \"{vm}\": net {net}: ")?,
            Owner::All => {}
        }
        if !self.key.is_empty() {
            write!(f, "key {}: ", self.key)?;
        }
        self.fault.fmt(f)
    }
}

impl core::error::Error for SpecError {}

impl VmSpec {
    /// An error about one of this VM's settings.
    pub fn error(&self, key: &'static str, fault: Fault) -> SpecError {
        SpecError { owner: Owner::Vm(self.name.to_string()), key, fault }
    }

    /// An error about one of the settings of the VM's disk `disk`.
    pub fn error_of_disk(&self, disk: usize, key: &'static str, fault: Fault) -> SpecError {
        SpecError { owner: Owner::Disk { vm: self.name.to_string(), disk }, key, fault }
    }

    /// An error about one of the settings of the VM's network card `net`.
    pub fn error_of_net(&self, net: usize, key: &'static str, fault: Fault) -> SpecError {
        SpecError { owner: Owner::Net { vm: self.name.to_string(), net }, key, fault }
    }

    /// All that is wrong with this VM taken by itself: its own settings in the order of [`key::ALL`], its disks' and its network cards'.
    pub fn faults(&self) -> Vec<SpecError> {
        let mut found = self.own_faults();
        for (n, disk) in self.disks.iter().enumerate() {
            found.extend(disk.check().map(|(key, fault)| self.error_of_disk(n, key, fault)));
        }
        for (n, net) in self.nets.iter().enumerate() {
            found.extend(net.check().map(|(key, fault)| self.error_of_net(n, key, fault)));
        }
        found
    }

    /// All that is wrong with the VM's own settings.
    fn own_faults(&self) -> Vec<SpecError> {
        let mut found = Vec::new();
        let mut check = |key, result: Result<(), Fault>| {
            if let Err(fault) = result {
                found.push(self.error(key, fault));
            }
        };
        check(key::NAME, check_name(&self.name));
        check(key::KERNEL, check_payload(&self.kernel));
        let (load, entry, room) = raw::check(self);
        check(key::LOAD, load);
        check(key::ENTRY, entry);
        check(key::ROOM, room);
        if let Some(initrd) = &self.initrd {
            check(key::INITRD, check_payload(initrd));
        }
        check(key::CMDLINE, check_cmdline(&self.cmdline));
        check(key::MEMORY, check_memory(self.memory));
        check(key::VCPUS, check_vcpus(self.vcpus));
        check(key::CPU_WEIGHT, check_weight(self.cpu.weight));
        if let Some(max) = self.cpu.max {
            check(key::CPU_MAX, check_cpu_max(max));
        }
        if let Some(cpus) = &self.cpu.affinity {
            check(key::CPU_AFFINITY, check_affinity(cpus));
        }
        check(key::CPU_CLASS, check_class(self.cpu.class));
        if let Some(group) = &self.group {
            check(key::GROUP, check_name(group));
        }
        if self.gic == Some(GuestGic::V2) && self.vcpus > map::GICV2_VCPUS {
            check(key::VCPUS, Err(Fault::GicVcpus { vcpus: self.vcpus, most: map::GICV2_VCPUS }));
        }
        if let Some(max) = self.memory_max.filter(|max| *max < self.memory) {
            check(key::MEMORY_MAX, Err(Fault::MemoryMax { max, memory: self.memory }));
        }
        check(key::PASSTHROUGH, self.passthrough.check());
        check("", slots::check(self));
        found
    }

    /// Reads the kernel's header from `kernel` (its file, or the first [`image::HEADER_SIZE`] bytes at least), unless the
    /// settings say where it goes, and places the parts in the VM's RAM.
    pub fn layout(&self, kernel: &[u8]) -> Result<GuestLayout, SpecError> {
        let initrd = self.initrd.as_ref().map(|initrd| initrd.size);
        let layout = if self.raw.load.is_some() {
            GuestLayout::raw(self.memory, &self.raw, self.kernel.size, initrd)
        } else {
            let header = image::parse(kernel).map_err(|reason| {
                self.error(key::KERNEL, Fault::Kernel { name: self.kernel.name.to_string(), reason })
            })?;
            GuestLayout::new(self.memory, &header, self.kernel.size, initrd)
        };
        layout.map_err(|e| self.error(key::MEMORY, Fault::Layout(e)))
    }
}

/// All that is wrong with these VMs, groups and switches, each taken by itself and all together.
pub fn faults(vms: &[VmSpec], groups: &[GroupSpec], switches: &[SwitchSpec]) -> Vec<SpecError> {
    faults_by_place(vms, groups, switches).into_iter().map(|(_, fault)| fault).collect()
}

/// As [`faults`], each with its place.
pub fn faults_by_place(vms: &[VmSpec], groups: &[GroupSpec], switches: &[SwitchSpec]) -> Vec<(Place, SpecError)> {
    let whole = |fault| (Place::Whole, SpecError { owner: Owner::All, key: "", fault });
    let mut found = Vec::new();
    if vms.is_empty() {
        found.push(whole(Fault::NoVms));
    }
    if vms.len() > MAX_VMS {
        found.push(whole(Fault::TooManyVms));
    }
    for (index, vm) in vms.iter().enumerate() {
        found.extend(vm.own_faults().into_iter().map(|fault| (Place::Vm(index), fault)));
        if vms.iter().take(index).any(|other| other.name == vm.name) {
            found.push((Place::Vm(index), vm.error(key::NAME, Fault::NameTaken)));
        }
        let others = vms.iter().take(index);
        if let Some((other, device)) =
            others.filter_map(|other| Some((other, vm.passthrough.shared(&other.passthrough)?))).next()
        {
            let fault = Fault::DeviceTaken { device: device.to_string(), vm: other.name.to_string() };
            found.push((Place::Vm(index), vm.error(key::PASSTHROUGH, fault)));
        }
        for (disk, spec) in vm.disks.iter().enumerate() {
            let faults = spec.check().chain(disk::beside(vm, disk, vms.iter().take(index)));
            let place = Place::Disk { vm: index, disk };
            found.extend(faults.map(|(key, fault)| (place, vm.error_of_disk(disk, key, fault))));
        }
        for (net, spec) in vm.nets.iter().enumerate() {
            let place = Place::Net { vm: index, net };
            found.extend(spec.check().map(|(key, fault)| (place, vm.error_of_net(net, key, fault))));
        }
    }
    group::faults(vms, groups, &mut found);
    net::switches(switches, &mut found);
    net::ports(vms, switches, &mut found);
    found
}

/// What is wrong first with a VM's disks and network cards beside those of `others`, on a machine with these switches.
pub fn beside<'a>(
    vm: &'a VmSpec,
    others: impl Iterator<Item = &'a VmSpec> + Clone,
    switches: &'a [SwitchSpec],
) -> Option<SpecError> {
    let disk = |disk| disk::beside(vm, disk, others.clone()).map(|(key, fault)| vm.error_of_disk(disk, key, fault));
    if let Some(error) = (0..vm.disks.len()).find_map(disk) {
        return Some(error);
    }
    if vm.nets.is_empty() {
        return None;
    }
    let (mut taken, mut first) = (net::Taken::new(switches), None);
    // Theirs was told when they came.
    others.for_each(|other| taken.add(other, |_, _| {}));
    taken.add(vm, |_, error| {
        first.get_or_insert(error);
    });
    first
}

/// What VMs share on one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    /// pCPUs that are running.
    pub cpus: u32,
    /// RAM in bytes that VMs can have.
    pub free_memory: u64,
    /// What the machine's interrupt controller lets guests have.
    pub gic: GuestGic,
}

/// The interrupt controller of a machine's guests: their list registers are the hardware's, so it is of the same architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestGic {
    /// GICv2: at most [`crate::map::GICV2_VCPUS`] vCPUs.
    V2,
    /// GICv3.
    V3,
}

/// What `gic` looks like.
pub const GIC_FORM: &str = "\"2\" or \"3\" (without it, the one that the machine gives its guests)";

impl GuestGic {
    /// As [`Self::name`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::V2, Self::V3].into_iter().find(|gic| gic.name() == text.trim())
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "2",
            Self::V3 => "3",
        }
    }
}

impl fmt::Display for GuestGic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GICv{}", self.name())
    }
}

/// What about this VM depends on the machine alone, whatever else runs there.
pub fn admit_one(vm: &VmSpec, gic: GuestGic) -> Result<(), SpecError> {
    if let Some(asked) = vm.gic.filter(|asked| *asked != gic) {
        return Err(vm.error(key::GIC, Fault::OtherGic { asked, gic }));
    }
    let most = crate::map::GICV2_VCPUS;
    if gic == GuestGic::V2 && vm.vcpus > most {
        return Err(vm.error(key::VCPUS, Fault::GicVcpus { vcpus: vm.vcpus, most }));
    }
    Ok(())
}

/// Whether the machine's CPUs, as ID_AA64MMFR0_EL1 shows them to guests, have the pages that the VM's kernel was built for. One that
/// they do not have never says a word: it stops at its first look at that register.
pub fn admit_pages(vm: &VmSpec, layout: &GuestLayout, mmfr0: u64) -> Result<(), SpecError> {
    match layout.page_size.kib().filter(|_| !layout.page_size.is_in(mmfr0)) {
        Some(kib) => Err(vm.error(key::KERNEL, Fault::Pages { name: vm.kernel.name.to_string(), kib, mmfr0 })),
        None => Ok(()),
    }
}

/// Whether these VMs fit on `machine` together; the first that does not is the error.
pub fn admit(vms: &[VmSpec], machine: Machine) -> Result<(), SpecError> {
    let mut free = machine.free_memory;
    for vm in vms {
        admit_one(vm, machine.gic)?;
        free = free
            .checked_sub(vm.memory)
            .ok_or_else(|| vm.error(key::MEMORY, Fault::MachineMemory { memory: vm.memory, free }))?;
        let absent = vm.cpu.affinity.iter().flatten().find(|cpu| **cpu >= machine.cpus);
        if let Some(cpu) = absent {
            let fault = Fault::AffinityAbsent { cpu: *cpu, cpus: machine.cpus };
            return Err(vm.error(key::CPU_AFFINITY, fault));
        }
    }
    Ok(())
}

/// Checks a VM's or a group's name.
pub fn check_name(name: &str) -> Result<(), Fault> {
    let length = name.chars().count();
    if length == 0 || length > MAX_NAME {
        return Err(Fault::NameLength { length });
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    match name.chars().find(|c| !allowed(*c)) {
        Some(character) => Err(Fault::NameCharacter { character }),
        None => Ok(()),
    }
}

fn check_payload(payload: &PayloadRef) -> Result<(), Fault> {
    if payload.size == 0 { Err(Fault::EmptyPayload { name: payload.name.to_string() }) } else { Ok(()) }
}

fn check_cmdline(cmdline: &str) -> Result<(), Fault> {
    if cmdline.len() > MAX_CMDLINE {
        return Err(Fault::CmdlineLength { length: cmdline.len() });
    }
    match cmdline.chars().find(|c| c.is_control()) {
        Some(character) => Err(Fault::CmdlineCharacter { character }),
        None => Ok(()),
    }
}

fn check_memory(memory: u64) -> Result<(), Fault> {
    if memory < MIN_MEMORY {
        Err(Fault::MemoryTooSmall { memory })
    } else if memory > map::RAM_MAX {
        Err(Fault::MemoryTooLarge { memory })
    } else if !memory.is_multiple_of(BLOCK_SIZE) {
        Err(Fault::MemoryUneven { memory })
    } else {
        Ok(())
    }
}

fn check_vcpus(vcpus: u32) -> Result<(), Fault> {
    match vcpus {
        0 => Err(Fault::NoVcpus),
        1..=MAX_VCPUS => Ok(()),
        _ => Err(Fault::TooManyVcpus { vcpus }),
    }
}

/// Checks `cpu.weight`.
pub fn check_weight(weight: u32) -> Result<(), Fault> {
    if WEIGHTS.contains(&weight) { Ok(()) } else { Err(Fault::Weight { weight }) }
}

/// Checks `cpu.max`.
pub fn check_cpu_max(max: CpuMax) -> Result<(), Fault> {
    if !CPU_PERIODS_US.contains(&max.period_us) {
        Err(Fault::CpuPeriod { period_us: max.period_us })
    } else if max.quota_us < MIN_CPU_QUOTA_US {
        Err(Fault::CpuQuota { quota_us: max.quota_us })
    } else {
        Ok(())
    }
}

/// Checks `cpu.affinity` without the machine.
pub fn check_affinity(cpus: &[u32]) -> Result<(), Fault> {
    if cpus.is_empty() {
        return Err(Fault::AffinityEmpty);
    }
    if cpus.len() > MAX_AFFINITY {
        return Err(Fault::AffinityLength { cpus: cpus.len() });
    }
    let twice = cpus.iter().enumerate().find(|(index, cpu)| cpus.iter().take(*index).any(|other| other == *cpu));
    match twice {
        Some((_, cpu)) => Err(Fault::AffinityTwice { cpu: *cpu }),
        None => Ok(()),
    }
}

/// Checks `cpu.class` without the machine.
pub fn check_class(class: CpuClass) -> Result<(), Fault> {
    let CpuClass::Rt { priority, budget_us, period_us } = class else { return Ok(()) };
    if !RT_PRIORITIES.contains(&priority) {
        Err(Fault::RtPriority { priority })
    } else if !CPU_PERIODS_US.contains(&period_us) {
        Err(Fault::CpuPeriod { period_us })
    } else if budget_us < MIN_RT_BUDGET_US || budget_us > period_us {
        Err(Fault::RtBudget { budget_us, period_us })
    } else {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
