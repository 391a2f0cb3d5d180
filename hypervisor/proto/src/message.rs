//! What is asked and answered.

use crate::rows::{
    Bytes, ConsolePart, DeviceRow, EventRow, GroupRow, Hash, LogRow, MachineRow, ObjectRow, PcpuRow, SwitchRow,
    TraceRow, VcpuRow, VmRow, VmState,
};
use crate::{MAX_CHUNK, MAX_MESSAGE, VERSION};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What a client asks. Strings and [`Bytes`] only, no sequences: what Merus decodes takes no more memory than the frame had.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Call {
    /// The machine: who answers, its pCPUs and its memory.
    Machine,
    /// The VMs from the `from`-th on, in the order of their names.
    List {
        /// How many to pass over.
        from: u32,
    },
    /// One VM.
    Info {
        /// Its name.
        vm: String,
    },
    /// A VM's vCPUs from the `from`-th on.
    Vcpus {
        /// The VM's name.
        vm: String,
        /// How many to pass over.
        from: u32,
    },
    /// A VM's disks, network cards and its source of random numbers from the `from`-th on.
    Devices {
        /// The VM's name.
        vm: String,
        /// How many to pass over.
        from: u32,
    },
    /// The switches from the `from`-th on, as the boot bundle has them.
    Switches {
        /// How many to pass over.
        from: u32,
    },
    /// The pCPUs from the `from`-th on.
    Pcpus {
        /// How many to pass over.
        from: u32,
    },
    /// The groups from the `from`-th on.
    Groups {
        /// How many to pass over.
        from: u32,
    },
    /// The payloads that can be used: those of the boot bundle and those that were uploaded.
    Objects {
        /// How many to pass over.
        from: u32,
    },
    /// Begins an upload, or goes on with one. The answer says how much is there: all of it, if it was uploaded before.
    Put {
        /// SHA-256 of all its bytes: its name.
        hash: Hash,
        /// Its length in bytes.
        size: u64,
        /// What people call it.
        name: String,
    },
    /// The next bytes of an upload. The answer says how much is there; what was there already is passed over.
    Chunk {
        /// Which upload.
        hash: Hash,
        /// Where the bytes go.
        offset: u64,
        /// At most [`MAX_CHUNK`] bytes.
        bytes: Bytes,
    },
    /// Gives up an uploaded object, or an upload that has not ended.
    Forget {
        /// Which one.
        hash: Hash,
    },
    /// Makes a VM: its memory is filled, and it waits to be started.
    Create(NewVm),
    /// Runs a VM that was created, or makes a stopped one anew and runs it.
    Start {
        /// Its name.
        vm: String,
    },
    /// Takes a VM's vCPUs off the pCPUs and stops its time.
    Pause {
        /// Its name.
        vm: String,
    },
    /// Lets a paused VM go on.
    Resume {
        /// Its name.
        vm: String,
    },
    /// Makes a VM begin again with its memory as it was at first.
    Reset {
        /// Its name.
        vm: String,
    },
    /// Asks the guest to power off, and ends it by force after a while.
    Stop {
        /// Its name.
        vm: String,
        /// How long the guest has, in ms; 0 does not ask.
        grace_ms: u32,
    },
    /// Takes a VM that does not run away, with everything that it has.
    Destroy {
        /// Its name.
        vm: String,
    },
    /// Gives a stopped VM a device, in the words of the room `config`, such as `disk=boot:root.img,readonly` or `net=lan`.
    Attach {
        /// The VM's name.
        vm: String,
        /// The device.
        device: String,
    },
    /// Takes a device from a stopped VM.
    Detach {
        /// The VM's name.
        vm: String,
        /// The device's name, as in [`DeviceRow`].
        device: String,
    },
    /// Changes a setting by its key in the manifest, such as `cpu.weight`.
    Set {
        /// Of what.
        target: Target,
        /// The key.
        key: String,
        /// The value as it would stand in the manifest, without quotes.
        value: String,
    },
    /// Makes an empty group, or does nothing if there is one of that name.
    MakeGroup {
        /// Its name.
        group: String,
    },
    /// A VM's output from a position on (counted in bytes since it was created).
    Console {
        /// The VM's name.
        vm: String,
        /// The first byte wanted.
        from: u64,
    },
    /// Types at a VM's console. The answer says how many bytes had room.
    Type {
        /// The VM's name.
        vm: String,
        /// At most [`MAX_CHUNK`] bytes.
        bytes: Bytes,
    },
    /// What happened to VMs, from an event's number on.
    Events {
        /// The first number wanted.
        from: u64,
    },
    /// Merus' own lines, from a line's number on.
    Log {
        /// The first number wanted.
        from: u64,
    },
    /// A pCPU's trace records from a number on.
    Trace {
        /// Which pCPU.
        pcpu: u32,
        /// The first number wanted.
        from: u64,
    },
    /// Switches tracing.
    SetTrace {
        /// On or off.
        on: bool,
    },
}

impl Call {
    /// Whether asking twice does no more than asking once.
    pub fn may_repeat(&self) -> bool {
        match self {
            Self::Machine
            | Self::List { .. }
            | Self::Info { .. }
            | Self::Vcpus { .. }
            | Self::Devices { .. }
            | Self::Switches { .. }
            | Self::Pcpus { .. }
            | Self::Groups { .. }
            | Self::Objects { .. }
            | Self::Put { .. }
            | Self::Chunk { .. }
            | Self::Forget { .. }
            | Self::Set { .. }
            | Self::MakeGroup { .. }
            | Self::Console { .. }
            | Self::Events { .. }
            | Self::Log { .. }
            | Self::Trace { .. }
            | Self::SetTrace { .. } => true,
            Self::Create(_)
            | Self::Start { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Reset { .. }
            | Self::Stop { .. }
            | Self::Destroy { .. }
            | Self::Attach { .. }
            | Self::Detach { .. }
            | Self::Type { .. } => false,
        }
    }
}

/// What a setting belongs to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// The VM of this name.
    Vm(String),
    /// The group of this name.
    Group(String),
}

/// Where a payload is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Payload {
    /// Uploaded.
    Object(Hash),
    /// In the boot bundle, by the name that [`Call::Objects`] gives it.
    Boot(String),
}

/// A VM to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewVm {
    /// Its name, unique in the machine.
    pub name: String,
    /// Its group, if any; it must be there.
    pub group: Option<String>,
    /// An arm64 Image.
    pub kernel: Payload,
    /// An initrd.
    pub initrd: Option<Payload>,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// RAM in bytes.
    pub memory: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Settings as for [`Call::Set`], a line each: a key of the manifest, `=`, its value without quotes; and devices as for
    /// [`Call::Attach`].
    pub settings: String,
}

/// Answer or refusal.
pub type Reply = Result<Answer, Refusal>;

/// A piece of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The `from` that brings the next rows; for what grows, also when there are none yet.
    pub next: u64,
    /// Whether there are more now.
    pub more: bool,
    /// How many were gone already between the `from` asked for and the first row.
    pub lost: u64,
}

/// What is answered. Each variant is the answer to the call of its name; `Done` to all that only do something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done, or (create, pause, reset, stop) begun: the VM's state says when it has come to its end.
    Done,
    /// To [`Call::Machine`].
    Machine(MachineRow),
    /// To [`Call::List`].
    List(Page<VmRow>),
    /// To [`Call::Info`].
    Info(VmRow),
    /// To [`Call::Vcpus`].
    Vcpus(Page<VcpuRow>),
    /// To [`Call::Devices`].
    Devices(Page<DeviceRow>),
    /// To [`Call::Switches`].
    Switches(Page<SwitchRow>),
    /// To [`Call::Pcpus`].
    Pcpus(Page<PcpuRow>),
    /// To [`Call::Groups`].
    Groups(Page<GroupRow>),
    /// To [`Call::Objects`].
    Objects(Page<ObjectRow>),
    /// To [`Call::Put`] and [`Call::Chunk`]: so many bytes are there, checked when that is all of them.
    Uploaded(u64),
    /// To [`Call::Console`].
    Console(ConsolePart),
    /// To [`Call::Type`]: how many bytes were taken.
    Typed(u32),
    /// To [`Call::Events`].
    Events(Page<EventRow>),
    /// To [`Call::Log`].
    Log(Page<LogRow>),
    /// To [`Call::Trace`].
    Trace(Page<TraceRow>),
}

/// What is wrong with a description.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SpecFault {
    /// The key that is wrong.
    pub key: String,
    /// Why, and what would be right.
    pub why: String,
}

/// Why a call is not done. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// The message is of another version.
    Version {
        /// The version spoken here.
        ours: u16,
    },
    /// The bytes were no call.
    Malformed(String),
    /// There is no VM of that name.
    NoSuchVm(String),
    /// There is no group of that name.
    NoSuchGroup(String),
    /// There is no payload of that name or hash, or not all of it.
    NoSuchObject(String),
    /// There is no pCPU of that number.
    NoSuchPcpu(u32),
    /// A VM of that name exists.
    NameTaken(String),
    /// The VM is not in a state that allows it.
    State {
        /// The state that it is in.
        is: VmState,
    },
    /// Not enough memory: in the machine, or under a limit.
    NoMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes left.
        left: u64,
        /// Of what: the machine, a VM or a group.
        of: String,
    },
    /// A limit of Merus is reached.
    Limit {
        /// Of what.
        what: String,
        /// How many there may be.
        most: u64,
    },
    /// A description or setting is wrong.
    Spec(SpecFault),
    /// A chunk does not follow what is there.
    Offset {
        /// The offset that would.
        expected: u64,
    },
    /// The bytes uploaded do not have the hash that they were announced with; they are forgotten.
    Hash,
    /// In use by a VM.
    InUse(String),
    /// Not possible on this machine: why.
    Unsupported(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { ours } => {
                write!(
                    f,
                    "Merus speaks version {ours} of the protocol, this program {VERSION}; use the program of its release"
                )
            }
            Self::Malformed(why) => write!(f, "Merus did not understand the call: {why}"),
            Self::NoSuchVm(name) => write!(f, "there is no VM \"{name}\"; `list` names them"),
            Self::NoSuchGroup(name) => write!(f, "there is no group \"{name}\""),
            Self::NoSuchObject(name) => {
                write!(f, "there is no payload {name}, or not all of it; `objects` lists them, `put` uploads")
            }
            Self::NoSuchPcpu(number) => write!(f, "there is no pCPU {number}"),
            Self::NameTaken(name) => write!(f, "there is a VM \"{name}\" already; destroy it, or take another name"),
            Self::State { is } => write!(f, "the VM is {is}"),
            Self::NoMemory { asked, left, of } => {
                let remedy = if of.ends_with("memory.max") { "raise that" } else { "destroy a VM" };
                write!(f, "{asked} bytes of memory asked for, {left} left in {of}; ask for less, or {remedy}")
            }
            Self::Limit { what, most } => write!(f, "no more than {most} {what}"),
            Self::Spec(SpecFault { key, why }) => write!(f, "key {key}: {why}"),
            Self::Offset { expected } => write!(f, "the upload goes on at byte {expected}"),
            Self::Hash => f.write_str("what was uploaded does not have its announced SHA-256; upload it again"),
            Self::InUse(by) => write!(f, "in use by {by}"),
            Self::Unsupported(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for Refusal {}

impl Call {
    /// Whether its parts are within the limits.
    pub fn is_within_limits(&self) -> bool {
        match self {
            Self::Chunk { bytes, .. } | Self::Type { bytes, .. } => bytes.0.len() <= MAX_CHUNK,
            _ => true,
        }
    }
}

impl<T: Serialize> Page<T> {
    /// As many of `rows` as one message holds, at least one. `from` is the number of the first of them; `lost` were gone before it.
    pub fn fill(from: u64, lost: u64, rows: impl IntoIterator<Item = T>) -> Self {
        // The answer's own variant and the page's other fields, at their longest.
        const REST: usize = 40;
        let mut page = Self { rows: Vec::new(), next: from, more: false, lost };
        let mut used = REST;
        for row in rows {
            let size = postcard::experimental::serialized_size(&row).unwrap_or(MAX_MESSAGE);
            used = used.saturating_add(size);
            if used > MAX_MESSAGE && !page.rows.is_empty() {
                page.more = true;
                break;
            }
            page.rows.push(row);
            page.next = page.next.saturating_add(1);
        }
        page
    }
}
