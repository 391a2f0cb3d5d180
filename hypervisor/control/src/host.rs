//! What management wants of the machine.

use alloc::vec::Vec;
use config::setting::Setting;
use config::spec::{GroupSpec, VmSpec};
use proto::{ConsolePart, DeviceCounts, LogRow, MachineRow, Page, PcpuRow, Refusal, SwitchRow, TraceRow, VcpuRow};

/// A VM's number: its place in the books, free again when it is destroyed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VmNumber(pub u16);

/// Memory that holds an upload; the host's own name for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region(pub u32);

/// Where a payload's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In the boot bundle, where the payload's own description says.
    Boot,
    /// Uploaded: they begin at the region's beginning.
    Object(Region),
}

/// Where a VM's payloads are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payloads {
    /// Its kernel.
    pub kernel: Source,
    /// Its initrd, if it has one.
    pub initrd: Source,
    /// Its disks' images, by the disk's number; of a disk that has none nothing is said.
    pub disks: Vec<Source>,
}

/// What a VM has used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes of memory that are charged to it.
    pub memory: u64,
    /// Time on pCPUs in ns.
    pub ran_ns: u64,
    /// Time ready without a pCPU in ns.
    pub waited_ns: u64,
    /// Time held back by a cap in ns.
    pub throttled_ns: u64,
    /// Exits.
    pub exits: u64,
    /// Bytes written to its console.
    pub console: u64,
}

/// The machine. A call that is refused has changed nothing.
///
/// The host tells [`Control`](crate::Control) of what has come to its end, never from inside one of these calls.
pub trait Host {
    /// ns since Merus started.
    fn now_ns(&self) -> u64;
    /// The machine; the channel's own counters are filled in by the caller.
    fn machine(&self) -> MachineRow;
    /// Memory for an upload of `size` bytes.
    fn object_room(&mut self, size: u64) -> Result<Region, Refusal>;
    /// Puts bytes there; they are within what was asked for.
    fn object_write(&mut self, region: Region, offset: u64, bytes: &[u8]);
    /// Takes the memory back.
    fn object_free(&mut self, region: Region);
    /// Begins to make a VM: its description has been checked, its group is there. The end is told by `made` or `failed`.
    fn create(&mut self, vm: VmNumber, spec: &VmSpec, group: Option<usize>, payloads: Payloads) -> Result<(), Refusal>;
    /// Runs a VM that was made.
    fn start(&mut self, vm: VmNumber);
    /// Begins to take its vCPUs off the pCPUs; the end is told by `paused`.
    fn pause(&mut self, vm: VmNumber);
    /// Lets it go on.
    fn resume(&mut self, vm: VmNumber);
    /// Begins a reset; the end is told by `restarted`.
    fn reset(&mut self, vm: VmNumber);
    /// Presses the power key. `false`: it has none.
    fn press_power(&mut self, vm: VmNumber) -> bool;
    /// Lets go of the power key that was pressed.
    fn release_power(&mut self, vm: VmNumber);
    /// Begins to end a VM and to free its memory; the end is told by `ended`.
    fn kill(&mut self, vm: VmNumber);
    /// Takes away what is left of a VM that has ended, or was made and never started.
    fn destroy(&mut self, vm: VmNumber);
    /// Changes a setting of a VM that has memory.
    fn apply(&mut self, vm: VmNumber, setting: &Setting) -> Result<(), Refusal>;
    /// A group was made or changed: `index` is its place.
    fn group(&mut self, index: usize, group: &GroupSpec) -> Result<(), Refusal>;
    /// Bytes that are charged to a group.
    fn group_memory(&self, index: usize) -> u64;
    /// What a VM has used.
    fn usage(&self, vm: VmNumber) -> Usage;
    /// One of its vCPUs.
    fn vcpu(&self, vm: VmNumber, vcpu: u32) -> Option<VcpuRow>;
    /// What the device in slot `slot` of virtio over MMIO has done; `None`: the VM has no memory, or no such device.
    fn device(&self, vm: VmNumber, slot: u32) -> Option<DeviceCounts>;
    /// The switch of this name.
    fn switch(&self, name: &str) -> Option<SwitchRow>;
    /// A pCPU.
    fn pcpu(&self, number: u32) -> Option<PcpuRow>;
    /// A VM's output from a position on; `live` is filled in by the caller.
    fn console(&self, vm: VmNumber, from: u64) -> ConsolePart;
    /// Types at a VM's console. Returns how many bytes had room.
    fn type_at(&mut self, vm: VmNumber, bytes: &[u8]) -> usize;
    /// Merus' own lines.
    fn log(&self, from: u64) -> Page<LogRow>;
    /// Trace records; `None`: no such pCPU.
    fn trace(&self, pcpu: u32, from: u64) -> Option<Page<TraceRow>>;
    /// Switches tracing.
    fn set_tracing(&mut self, on: bool);
}
