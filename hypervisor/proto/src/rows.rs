//! What is known of VMs, vCPUs, pCPUs, payloads and events, as it is sent.
//!
//! Times are in ns since Merus started; memory is in bytes; counts never go back while the thing exists.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, sent as such. Unlike a sequence, which is made room for before it is read, they take no more memory than was sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }
    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.to_vec()))
    }
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a VM does not run any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StopKind {
    /// The guest powered off.
    PoweredOff,
    /// All its vCPUs are off.
    AllOff,
    /// Told to, from outside.
    Killed,
    /// A system error that belongs to it.
    SystemError,
    /// It could not be made or made anew.
    Failed,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VmState {
    /// Its memory is being filled.
    Creating,
    /// Ready to be started.
    Created,
    /// Its vCPUs may run.
    Running,
    /// On its way to Paused.
    Pausing,
    /// Its vCPUs are off the pCPUs, and its time stands.
    Paused,
    /// On its way to begin again.
    Resetting,
    /// On its way to Stopped.
    Stopping,
    /// Ended: it has no memory any more, its last output can be read.
    Stopped(StopKind),
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resetting => "resetting",
            Self::Stopping => "stopping",
            Self::Stopped(StopKind::PoweredOff) => "stopped (powered off)",
            Self::Stopped(StopKind::AllOff) => "stopped (all vCPUs off)",
            Self::Stopped(StopKind::Killed) => "stopped (killed)",
            Self::Stopped(StopKind::SystemError) => "stopped (system error)",
            Self::Stopped(StopKind::Failed) => "stopped (failed)",
        })
    }
}

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineRow {
    /// Merus' version.
    pub merus: String,
    /// The board's model, from its tree.
    pub board: String,
    /// pCPUs that are up.
    pub pcpus: u32,
    /// All memory that VMs and Merus' frames are made of.
    pub memory: u64,
    /// What of it is free.
    pub memory_free: u64,
    /// What Merus' heap uses.
    pub heap: u64,
    /// Now.
    pub now_ns: u64,
    /// Ticks of the counter a second.
    pub counter_hz: u64,
    /// Whether tracing is on.
    pub tracing: bool,
    /// Whether HCR_EL2.E2H is 1.
    pub vhe: bool,
    /// Bytes that the control channel has brought or taken in its busiest second so far, 0 before the first one is over.
    pub line_rate: u32,
    /// Frames that were refused since Merus started.
    pub bad_frames: u64,
}

/// A VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmRow {
    /// Its name.
    pub name: String,
    /// Its number, by which trace records name it; free again when it is destroyed.
    pub number: u16,
    /// Its group.
    pub group: Option<String>,
    /// Where it is in its life.
    pub state: VmState,
    /// vCPUs.
    pub vcpus: u32,
    /// RAM.
    pub memory: u64,
    /// All that is charged to it: RAM, tables, Merus' own records of it.
    pub memory_used: u64,
    /// `memory.max`.
    pub memory_max: Option<u64>,
    /// `cpu.weight`.
    pub weight: u32,
    /// `cpu.max`: quota and period in microseconds.
    pub cpu_max: Option<(u64, u64)>,
    /// `cpu.class`.
    pub class: String,
    /// Time on pCPUs, of all its vCPUs together.
    pub ran_ns: u64,
    /// Time ready without a pCPU: steal.
    pub waited_ns: u64,
    /// Time held back by a cap.
    pub throttled_ns: u64,
    /// Exits.
    pub exits: u64,
    /// Resets.
    pub resets: u32,
    /// Bytes that it has written to its console.
    pub console: u64,
    /// Devices that [`crate::Call::Devices`] lists.
    pub devices: u32,
}

/// Why frames of a card's were lost, in the order of [`DeviceCounts::lost`]: those of `host::port::Loss`, whose words these are.
pub const LOSSES: [&str; 8] = ["spoofed", "size", "local", "isolated", "unknown", "closed", "full", "flood"];

/// What a device has done since its VM was made: zeroes where there is no VM in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeviceCounts {
    /// What has come to the guest: reads that were done, frames, buffers of random bytes.
    pub reads: u64,
    /// Bytes in them.
    pub read_bytes: u64,
    /// What has come from the guest: writes that were done, frames.
    pub writes: u64,
    /// Bytes in them.
    pub written_bytes: u64,
    /// Requests without bytes that were done: flushes, discards, write-zeroes.
    pub others: u64,
    /// Requests that were answered with an error, frames to or from the guest that were lost, rings that its driver broke.
    pub errors: u64,
    /// Of the guest's own frames those that were lost, by [`LOSSES`].
    pub lost: [u64; LOSSES.len()],
    /// Requests on their way, frames that wait for the guest.
    pub depth: u64,
    /// At most so far; 0 for devices that do not keep it.
    pub deepest: u64,
}

/// A virtio device of a VM's: the source of random numbers, a disk or a network card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceRow {
    /// `rng`; `disk` or `net` and its number among the VM's, from 0.
    pub name: String,
    /// What it is, in words: a disk's image or place, a card's switch and address.
    pub what: String,
    /// What it has done.
    pub counts: DeviceCounts,
}

/// A switch of the machine's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SwitchRow {
    /// Its name.
    pub name: String,
    /// Its ports, those of VMs that are there and the uplink's.
    pub ports: u32,
    /// Addresses that it has learned behind its uplink.
    pub learned: u32,
    /// What its uplink has done since Merus started, if it has one: what was read came into the machine, what was written has gone out,
    /// what is on its way waits to go out. Frames that were lost either way are errors; those that came in are in `lost` as well.
    pub uplink: Option<DeviceCounts>,
}

/// What a vCPU does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VcpuState {
    /// Powered off.
    Off,
    /// Wants a pCPU.
    Ready,
    /// Has one.
    Running,
    /// Has one to itself: it sleeps there in its WFI now, or may do so without being noticed; that sleep counts as `ran_ns`.
    Native,
    /// Waits for an interrupt.
    Blocked,
    /// Held back by a cap.
    Throttled,
    /// Paused.
    Held,
    /// Ended.
    Stopped,
}

/// Exits of one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExitRow {
    /// Why the guest was left.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// Ticks of the counter spent in Merus, as a histogram: the n-th entry counts exits of 2^n to 2^(n+1) - 1 ticks. Empty unless
    /// tracing was on.
    pub ticks: Vec<u32>,
}

/// A vCPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VcpuRow {
    /// Its number in the VM.
    pub index: u32,
    /// What it does.
    pub state: VcpuState,
    /// The pCPU whose runqueue it is in.
    pub pcpu: u32,
    /// Time on pCPUs.
    pub ran_ns: u64,
    /// Time ready without one.
    pub waited_ns: u64,
    /// Time blocked.
    pub blocked_ns: u64,
    /// Time held back by a cap.
    pub throttled_ns: u64,
    /// Longest time from a wake-up to running.
    pub wake_max_ns: u64,
    /// How often it was loaded.
    pub switches: u64,
    /// How often it went to another pCPU.
    pub moves: u64,
    /// Interrupts injected: put into a list register as pending. One that was not taken before its vCPU left the pCPU counts again.
    pub interrupts: u64,
    /// Exits by reason, those that happened.
    pub exits: Vec<ExitRow>,
    /// Stretches of time by what the vCPU did (`guest`, `blocked`, `wake`: the latency of wake-ups, `steal`, `throttled`), in ticks as
    /// `exits`. Empty unless tracing was on when the VM was made.
    pub spans: Vec<ExitRow>,
}

/// A pCPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PcpuRow {
    /// Its number.
    pub number: u32,
    /// Its affinity.
    pub mpidr: u64,
    /// What runs: VM and vCPU.
    pub running: Option<(String, u32)>,
    /// How many vCPUs wait for it.
    pub ready: u32,
    /// Time that vCPUs have had on it.
    pub busy_ns: u64,
    /// How often it took a vCPU from another.
    pub steals: u64,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupRow {
    /// Its name.
    pub name: String,
    /// `cpu.weight`.
    pub weight: u32,
    /// `cpu.max`: quota and period in microseconds.
    pub cpu_max: Option<(u64, u64)>,
    /// `memory.max`.
    pub memory_max: Option<u64>,
    /// What is charged to its VMs.
    pub memory_used: u64,
    /// Its VMs.
    pub vms: u32,
}

/// A payload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectRow {
    /// What people call it.
    pub name: String,
    /// Its hash, where it is known.
    pub hash: Option<Hash>,
    /// Its length.
    pub size: u64,
    /// How much of it is there.
    pub there: u64,
    /// Whether it is in the boot bundle.
    pub boot: bool,
    /// How many VMs were made from it and are there.
    pub users: u32,
}

/// A piece of a console's output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConsolePart {
    /// Where `bytes` begin: later than asked for if that was gone already.
    pub from: u64,
    /// At most [`crate::MAX_CHUNK`] bytes.
    pub bytes: Bytes,
    /// Whether the VM may write more.
    pub live: bool,
}

/// What happened to a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EventKind {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It was paused.
    Paused,
    /// It goes on.
    Resumed,
    /// It begins again.
    Reset,
    /// It was asked to power off.
    Asked,
    /// It has ended.
    Stopped(StopKind),
    /// It is gone.
    Destroyed,
    /// A setting was changed.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// It could not be made: why.
    Refused(String),
    /// It was asked for, and its making has begun.
    Making,
    /// It has been given the device of this name.
    Attached(String),
    /// The device of this name has been taken from it.
    Detached(String),
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRow {
    /// Its number, from 0 on.
    pub number: u64,
    /// When.
    pub at_ns: u64,
    /// Whose.
    pub vm: String,
    /// What.
    pub kind: EventKind,
}

/// A line of Merus' own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogRow {
    /// Its number, from 0 on.
    pub number: u64,
    /// When.
    pub at_ns: u64,
    /// The line.
    pub text: String,
}

/// A trace record. `kind`, `which` and `argument` are those of the room `trace`: the code of what has happened, the code of its
/// reason (0 where it has none), and what more there is to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceRow {
    /// When, in ticks of the counter.
    pub tick: u64,
    /// What.
    pub kind: u8,
    /// For which reason.
    pub which: u8,
    /// Whose VM, by its [`VmRow::number`]; `u16::MAX` for none.
    pub vm: u16,
    /// Which vCPU; `u16::MAX` for none.
    pub vcpu: u16,
    /// What it says of itself.
    pub argument: u64,
}
