//! What can be wrong with a setting of a VM, in words for the person who wrote it.

use super::{
    CPU_PERIODS_US, DeviceFault, GuestGic, MAX_AFFINITY, MAX_CMDLINE, MAX_GROUPS, MAX_NAME, MAX_PASSTHROUGH, MAX_VCPUS,
    MAX_VMS, MIN_CPU_QUOTA_US, MIN_MEMORY, MIN_RT_BUDGET_US, RT_PRIORITIES, WEIGHTS,
};
use crate::image::{ImageError, LayoutError, PageSize};
use crate::map;
use addr::BLOCK_SIZE;
use alloc::string::String;
use core::fmt;
use thiserror::Error;

/// What can be wrong with a setting. Each text says what to do, too.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// There is no VM.
    #[error("there is no VM; describe one in a [[vm]] table")]
    NoVms,
    /// There are more than [`MAX_VMS`].
    #[error("there are more VMs than the {MAX_VMS} that one bundle can hold; leave some out")]
    TooManyVms,
    /// A setting without which there is no VM is absent.
    #[error("is missing; set it")]
    Missing,
    /// The compiled setting has a form that no packer writes.
    #[error("is damaged in the bundle; pack it again")]
    Malformed,
    /// The compiled manifest has a setting that this Merus does not know.
    #[error("the bundle's setting `{name}` is unknown to this Merus; use the `merus` program that came with it")]
    Unknown {
        /// The property's name.
        name: String,
    },
    /// A value that is not of its setting's form.
    #[error("\"{value}\" is not right; write {form}")]
    Form {
        /// What was written.
        value: String,
        /// What would be right.
        form: &'static str,
    },
    /// A setting that a VM keeps for its life.
    #[error("cannot be changed; destroy the VM and create it anew")]
    Fixed,
    /// There is no such setting.
    #[error("is unknown; the settings are cpu.weight, cpu.max, cpu.affinity, cpu.class and memory.max")]
    UnknownKey,
    /// A priority outside [`RT_PRIORITIES`].
    #[error("priority {priority} is out of range; give {} to {}", RT_PRIORITIES.start(), RT_PRIORITIES.end())]
    RtPriority {
        /// As asked for.
        priority: u32,
    },
    /// A budget of nearly nothing, or of more than its period.
    #[error(
        "a budget of {budget_us} us in {period_us} us is not possible; give {MIN_RT_BUDGET_US} us up to the period"
    )]
    RtBudget {
        /// As asked for.
        budget_us: u64,
        /// Its period.
        period_us: u64,
    },
    /// The name is empty or longer than [`MAX_NAME`].
    #[error("has {length} characters; use 1 to {MAX_NAME}")]
    NameLength {
        /// How many characters it has.
        length: usize,
    },
    /// The name has a character beyond the allowed ones.
    #[error("the character {character:?} is not allowed; use a-z, 0-9, - and _")]
    NameCharacter {
        /// The first such character.
        character: char,
    },
    /// Two VMs have the same name.
    #[error("the name is taken by another VM; choose another one")]
    NameTaken,
    /// There are more groups than [`MAX_GROUPS`].
    #[error("there are more groups than the {MAX_GROUPS} that one machine can have; leave some out")]
    TooManyGroups,
    /// Two groups have the same name.
    #[error("the name is taken by another group; choose another one")]
    GroupTaken,
    /// A group that nothing describes.
    #[error("there is no group \"{group}\"; describe it in a [[group]] table, or correct the name")]
    GroupAbsent {
        /// The name.
        group: String,
    },
    /// The cap on a group's memory is below what its VMs have.
    #[error("{} is less than the {} of its VMs together; give at least that", Bytes(*max), Bytes(*memory))]
    GroupMemory {
        /// The cap in bytes.
        max: u64,
        /// The VMs' RAM in bytes.
        memory: u64,
    },
    /// No vCPU.
    #[error("0 vCPUs cannot run anything; give 1 to {MAX_VCPUS}")]
    NoVcpus,
    /// More than [`MAX_VCPUS`].
    #[error("{vcpus} vCPUs are more than are supported; give 1 to {MAX_VCPUS}")]
    TooManyVcpus {
        /// How many were asked for.
        vcpus: u32,
    },
    /// Less than [`MIN_MEMORY`].
    #[error("{} is too little; give at least {}", Bytes(*memory), Bytes(MIN_MEMORY))]
    MemoryTooSmall {
        /// What was asked for, in bytes.
        memory: u64,
    },
    /// No multiple of 2 MiB.
    #[error("{} is no multiple of 2M; give {} or {}", Bytes(*memory), Bytes(down(*memory)), Bytes(up(*memory)))]
    MemoryUneven {
        /// What was asked for, in bytes.
        memory: u64,
    },
    /// More than the platform has addresses for.
    #[error("{} is more than the platform's {}; give less", Bytes(*memory), Bytes(map::RAM_MAX))]
    MemoryTooLarge {
        /// What was asked for, in bytes.
        memory: u64,
    },
    /// The cap on memory is below the RAM.
    #[error("{} is less than the VM's memory of {}; give at least that", Bytes(*max), Bytes(*memory))]
    MemoryMax {
        /// The cap in bytes.
        max: u64,
        /// The RAM in bytes.
        memory: u64,
    },
    /// All VMs together need more RAM than the machine has free.
    #[error(
        "{} do not fit: the machine has {} free for this VM; give this or another VM less, or the machine more",
        Bytes(*memory),
        Bytes(*free)
    )]
    MachineMemory {
        /// What this VM asks for, in bytes.
        memory: u64,
        /// What the VMs before it leave, in bytes.
        free: u64,
    },
    /// Outside [`WEIGHTS`].
    #[error("{weight} is out of range; give {} to {}", WEIGHTS.start(), WEIGHTS.end())]
    Weight {
        /// What was asked for.
        weight: u32,
    },
    /// The period is outside [`CPU_PERIODS_US`].
    #[error(
        "the period of {period_us} us is out of range; give {} to {}",
        CPU_PERIODS_US.start(),
        CPU_PERIODS_US.end()
    )]
    CpuPeriod {
        /// What was asked for, in microseconds.
        period_us: u64,
    },
    /// The quota is below [`MIN_CPU_QUOTA_US`].
    #[error("the quota of {quota_us} us is too short; give at least {MIN_CPU_QUOTA_US}")]
    CpuQuota {
        /// What was asked for, in microseconds.
        quota_us: u64,
    },
    /// An empty list of pCPUs.
    #[error("names no pCPU; name one at least, or leave the key out for all")]
    AffinityEmpty,
    /// A pCPU named twice.
    #[error("names pCPU {cpu} twice; name it once")]
    AffinityTwice {
        /// The pCPU.
        cpu: u32,
    },
    /// More pCPUs than [`MAX_AFFINITY`].
    #[error("names {cpus} pCPUs; name at most {MAX_AFFINITY}")]
    AffinityLength {
        /// How many it names.
        cpus: usize,
    },
    /// An interrupt controller that the machine does not give its guests.
    #[error(
        "asks for a {asked}, but Merus gives the guests of this machine a {gic}, which is what its hardware helps with; \
         leave the key out, or use a machine with a {asked}"
    )]
    OtherGic {
        /// What was asked for.
        asked: GuestGic,
        /// What there is.
        gic: GuestGic,
    },
    /// More than the machine's interrupt controller can tell apart.
    #[error("{vcpus} vCPUs are more than the {most} that guests of a machine with a GICv2 can have; give fewer")]
    GicVcpus {
        /// How many.
        vcpus: u32,
        /// How many there can be.
        most: u32,
    },
    /// A pCPU that the machine does not have.
    #[error("names pCPU {cpu}, but the machine has {cpus} (0 to {}); name one of them", cpus.saturating_sub(1))]
    AffinityAbsent {
        /// The pCPU.
        cpu: u32,
        /// How many there are.
        cpus: u32,
    },
    /// More devices than [`MAX_PASSTHROUGH`].
    #[error("names {devices} devices; name at most {MAX_PASSTHROUGH}")]
    PassthroughCount {
        /// How many.
        devices: usize,
    },
    /// What can be no device.
    #[error(
        "\"{device}\" is no device; write its path in the board's device tree, such as /soc/serial@7e215040, or an alias"
    )]
    DevicePath {
        /// As it was written.
        device: String,
    },
    /// A device named twice.
    #[error("names {device} twice; name it once")]
    DeviceTwice {
        /// The device.
        device: String,
    },
    /// A device that another VM has.
    #[error("{device} is vm \"{vm}\"'s already, and a device is one VM's; give it to one of them")]
    DeviceTaken {
        /// The device.
        device: String,
        /// Whose it is.
        vm: String,
    },
    /// Longer than [`MAX_CMDLINE`].
    #[error("has {length} bytes; Linux keeps {MAX_CMDLINE}: shorten it")]
    CmdlineLength {
        /// How many bytes it has.
        length: usize,
    },
    /// A character that no command line can carry.
    #[error("has the control character {character:?}; leave it out")]
    CmdlineCharacter {
        /// The first such character.
        character: char,
    },
    /// A payload that the bundle does not have.
    #[error("the bundle has no payload `{image}`; pack it again")]
    NoPayload {
        /// The payload's node.
        image: String,
    },
    /// A file without any byte.
    #[error("\"{name}\" is empty; give another file")]
    EmptyPayload {
        /// The file.
        name: String,
    },
    /// The kernel is none that Merus can start.
    #[error("\"{name}\" {reason}")]
    Kernel {
        /// The file.
        name: String,
        /// Why not.
        reason: ImageError,
    },
    /// The kernel was built for pages that the machine's CPUs do not have.
    #[error("\"{name}\" was built for pages of {kib} KiB, and this machine's CPUs have {}; give a kernel for one of those", Pages(*mmfr0))]
    Pages {
        /// The file.
        name: String,
        /// What it was built for.
        kib: u32,
        /// ID_AA64MMFR0_EL1 as guests see it.
        mmfr0: u64,
    },
    /// A setting of a raw binary without the one that makes it one.
    #[error("is of a raw binary's; set `load`, too, or leave it out")]
    NoLoad,
    /// A raw binary that is not all in RAM.
    #[error(
        "{load:#x} to {end:#x} is not all in the VM's RAM, which is {:#x} to {:#x}; give another address, or more memory",
        map::RAM_BASE.as_u64(),
        map::RAM_BASE.as_u64().saturating_add(*memory)
    )]
    LoadOutside {
        /// Where it would begin.
        load: u64,
        /// Where it would end.
        end: u64,
        /// The RAM in bytes.
        memory: u64,
    },
    /// A first instruction outside the binary.
    #[error("{entry:#x} is not in the kernel, which is {load:#x} to {end:#x}; give an address there")]
    EntryOutside {
        /// Where it would start.
        entry: u64,
        /// Where the kernel begins.
        load: u64,
        /// Where it ends.
        end: u64,
    },
    /// An address between two instructions.
    #[error("{address:#x} is no multiple of 4; give one")]
    Crooked {
        /// The address.
        address: u64,
    },
    /// Less room than the file has bytes.
    #[error("{room:#x} is less than the kernel's {size:#x} bytes; give at least that, or leave it out")]
    RoomTooSmall {
        /// As asked for, in bytes.
        room: u64,
        /// The file's bytes.
        size: u64,
    },
    /// Kernel, initrd and device tree do not fit.
    #[error("{0}")]
    Layout(LayoutError),
    /// A fault of a disk, a network card or a switch.
    #[error("{0}")]
    Device(DeviceFault),
}

impl From<DeviceFault> for Fault {
    fn from(fault: DeviceFault) -> Self {
        Self::Device(fault)
    }
}

fn down(bytes: u64) -> u64 {
    bytes & !BLOCK_SIZE.wrapping_sub(1)
}

fn up(bytes: u64) -> u64 {
    down(bytes).saturating_add(BLOCK_SIZE)
}

/// The granules of an ID_AA64MMFR0_EL1: `4 and 64 KiB`.
struct Pages(u64);

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [PageSize::K4, PageSize::K16, PageSize::K64];
        let there = || all.into_iter().filter(|size| size.is_in(self.0)).filter_map(PageSize::kib);
        let last = there().count().saturating_sub(1);
        for (n, kib) in there().enumerate() {
            let between = if n == 0 {
                ""
            } else if n == last {
                " and "
            } else {
                ", "
            };
            write!(f, "{between}{kib}")?;
        }
        f.write_str(" KiB")
    }
}

/// A size as the manifest writes it: `256M`, `2G`, or plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let units = [(30, "G"), (20, "M"), (10, "K")];
        match units.iter().find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", bytes >> shift),
            None => write!(f, "{bytes} bytes"),
        }
    }
}
