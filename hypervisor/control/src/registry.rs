//! The books: which VMs there are, and where each is in its life.

use crate::host::{Payloads, Source, VmNumber};
use alloc::string::String;
use alloc::vec::Vec;
use config::spec::{GroupSpec, VmSpec};
use proto::{Hash, StopKind, VmState};

/// The most VMs, running or not.
pub const MAX_VMS: usize = 256;
/// The most groups.
pub const MAX_GROUPS: usize = config::spec::MAX_GROUPS;

/// Where a VM's payload comes from, so that it can be made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The boot bundle.
    Boot,
    /// An upload.
    Object(Hash, crate::Region),
}

impl Origin {
    pub fn source(self) -> Source {
        match self {
            Self::Boot => Source::Boot,
            Self::Object(_, region) => Source::Object(region),
        }
    }
}

/// Where each of a VM's payloads comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origins {
    pub kernel: Origin,
    pub initrd: Origin,
    /// By the disk's number; `Boot` for those that have no image.
    pub disks: Vec<Origin>,
}

impl Origins {
    /// All in the boot bundle.
    pub fn boot(spec: &VmSpec) -> Self {
        Self { kernel: Origin::Boot, initrd: Origin::Boot, disks: spec.disks.iter().map(|_| Origin::Boot).collect() }
    }

    pub fn sources(&self) -> Payloads {
        let disks = self.disks.iter().map(|origin| origin.source()).collect();
        Payloads { kernel: self.kernel.source(), initrd: self.initrd.source(), disks }
    }

    /// Whether the upload of this hash is one of them.
    pub fn has(&self, hash: &Hash) -> bool {
        let all = [&self.kernel, &self.initrd].into_iter().chain(&self.disks);
        all.into_iter().any(|origin| matches!(origin, Origin::Object(h, _) if h == hash))
    }
}

/// One VM.
#[derive(Clone, Debug)]
pub struct Record {
    pub number: VmNumber,
    pub spec: VmSpec,
    pub origins: Origins,
    pub state: VmState,
    /// It runs as soon as it is made.
    pub run: bool,
    /// How often it has begun again.
    pub resets: u32,
    /// When its grace is over, in ns.
    pub kill_at: Option<u64>,
    /// When its power key, which is held, is let go, in ns.
    pub key_up_at: Option<u64>,
    /// Why it is being ended, where that was asked for from outside.
    pub killed: bool,
}

/// All VMs, by name, and all groups.
#[derive(Default)]
pub struct Registry {
    /// In the order of their names.
    vms: Vec<Record>,
    pub groups: Vec<GroupSpec>,
}

impl Registry {
    pub fn find(&self, name: &str) -> Option<&Record> {
        self.place(name).ok().and_then(|at| self.vms.get(at))
    }

    pub fn find_mut(&mut self, name: &str) -> Option<&mut Record> {
        let at = self.place(name).ok()?;
        self.vms.get_mut(at)
    }

    pub fn numbered(&mut self, number: VmNumber) -> Option<&mut Record> {
        self.vms.iter_mut().find(|r| r.number == number)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Record> + Clone {
        self.vms.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.vms.iter_mut()
    }

    /// The lowest number that is free.
    pub fn free_number(&self) -> Option<VmNumber> {
        (0..MAX_VMS as u16).map(VmNumber).find(|n| self.vms.iter().all(|r| r.number != *n))
    }

    /// Puts a VM into the books, unless its name is there.
    pub fn add(&mut self, record: Record) {
        if let Err(at) = self.place(&record.spec.name) {
            self.vms.insert(at, record);
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Record> {
        self.place(name).ok().map(|at| self.vms.remove(at))
    }

    pub fn group(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|g| g.name == name)
    }

    pub fn users(&self, hash: &Hash) -> u32 {
        self.vms.iter().filter(|r| r.origins.has(hash)).count() as u32
    }

    /// A VM's group by its place.
    pub fn group_of(&self, spec: &VmSpec) -> Option<usize> {
        spec.group.as_deref().and_then(|name| self.group(name))
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.vms.binary_search_by(|r| r.spec.name.as_str().cmp(name))
    }
}

impl Record {
    /// Whether its memory is there.
    pub fn has_memory(&self) -> bool {
        !matches!(self.state, VmState::Stopped(_))
    }

    /// What its end is called: what was asked for from outside comes before what the host says.
    pub fn end(&self, host_says: StopKind) -> StopKind {
        if self.killed { StopKind::Killed } else { host_says }
    }

    pub fn name(&self) -> String {
        self.spec.name.clone()
    }
}
