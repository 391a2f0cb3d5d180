//! What all pCPUs share: the board, the pCPUs' runqueues, the vCPUs' places, memory.

mod ram;
mod wakes;

pub use ram::{CpuOps, Memory, TablePages};

use crate::console::say;
use crate::gic::Kicker;
use crate::guest::Guest;
use crate::manage::{Management, Untold};
use crate::slots::{Entities, MAX_ENTITIES, ROOM, Slot, Slots};
use crate::switches::Switches;
use crate::uploads::Uploads;
use addr::{BLOCK_SIZE, Pa};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::board::Ppis;
use config::cpu_model::HostIds;
use console::SourceId;
use control::{Usage, VmNumber};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use el2::errata::Errata;
use el2::features::Features;
use guest_smccc::Env;
use guest_smccc::entropy::Drbg;
use memory::{AccountId, Coherency, MemoryError, Space};
use platform::firmware::Firmware;
use sched::{EntityId, RunQueue, Shares, Timers};
use spin::Once;
use stage2::{Geometry, VmidAllocator, Vmids};
use sync::{Rank, SpinLock};
use trace::Ring;
use vgic::Routes;
use vm::VgicPort;

/// Bytes of the heap that [`Machine::heap_room`] leaves beside what is asked for: for whoever does not ask, and for what growing
/// itself takes.
pub const HEAP_MARGIN: usize = 128 << 10;
/// Bytes of the heap that a runqueue's room for a vCPU takes, deadlines included.
const VCPU_ROOM: usize = 144;
/// The SGI that makes a pCPU look up from what it does.
pub const KICK: u8 = 1;

/// One pCPU, as the others see it.
pub struct Pcpu {
    /// Its affinity.
    pub mpidr: u64,
    /// What sends [`KICK`] to it.
    pub kick: u64,
    /// Its runqueue and deadlines.
    pub sched: SpinLock<Sched>,
    /// It has nothing to run.
    pub idle: AtomicBool,
    /// It is to `put` what it runs and `pick` again.
    pub resched: AtomicBool,
    /// VMs that are stopping: it must not hold state of their vCPUs.
    pub evict: SpinLock<Vec<Arc<Guest>>>,
    /// vCPUs in its queue may not run here any more.
    pub strays: AtomicBool,
    /// Whether `evict` or `strays` has something.
    pub evict_asked: AtomicBool,
    /// Its last events, once tracing has been on. Written by itself alone.
    pub ring: Once<Ring>,
    /// Its timer and the traps of its vCPU have to be looked at: set before the kick that asks for it.
    pub recheck: AtomicBool,
    /// There is something for management.
    pub manage_due: AtomicBool,
    /// Time that vCPUs have had here, up to the last one's leaving, in ns.
    pub busy_ns: AtomicU64,
    /// vCPUs taken from other pCPUs.
    pub steals: AtomicU64,
}

/// What `sched` keeps for one pCPU.
pub struct Sched {
    /// The runqueue, in ns.
    pub queue: RunQueue,
    /// Deadlines, in ticks.
    pub timers: Timers,
}

impl Pcpu {
    /// pCPU `number`, with nothing to do.
    pub fn new(mpidr: u64, kick: u64, shares: &Arc<Shares>, number: usize) -> Self {
        let mut queue = RunQueue::new(shares.clone(), number);
        queue.resize(ROOM as usize);
        let sched = Sched { queue, timers: Timers::new(ROOM) };
        Self {
            mpidr,
            kick,
            sched: SpinLock::new(Rank::Sched, sched),
            idle: AtomicBool::new(false),
            resched: AtomicBool::new(false),
            evict: SpinLock::new(Rank::Vm, Vec::new()),
            strays: AtomicBool::new(false),
            evict_asked: AtomicBool::new(false),
            ring: Once::new(),
            recheck: AtomicBool::new(false),
            manage_due: AtomicBool::new(false),
            busy_ns: AtomicU64::new(0),
            steals: AtomicU64::new(0),
        }
    }
}

/// The machine, once it is up.
pub struct Machine {
    /// The pCPUs that are up; 0 is the one that booted.
    pub pcpus: Vec<Pcpu>,
    /// The VMs' shares of the pCPUs.
    pub shares: Arc<Shares>,
    /// Places of vCPUs.
    pub slots: Slots,
    /// vCPUs that every runqueue has room for.
    pub room: AtomicU32,
    /// Frames and EL2's map.
    pub memory: SpinLock<Memory>,
    /// What each part of the address space is for, and which registers VMs have.
    pub space: SpinLock<Space>,
    /// The same of shared interrupts, with the way to the VMs that have them.
    pub routes: SpinLock<Routes<Arc<VgicPort>>>,
    /// What all pCPUs can do.
    pub features: Features,
    /// What one of them needs.
    pub errata: Errata,
    /// The identification registers they have in common.
    pub ids: HostIds,
    /// The shape of stage 2.
    pub geometry: Geometry,
    /// VMIDs without a lock.
    pub vmids: Vmids,
    /// VMIDs with one.
    pub vmid_allocator: SpinLock<VmidAllocator>,
    /// The machine's generator, where it has entropy.
    pub entropy: SpinLock<Option<Drbg>>,
    /// What guests' firmware calls rely on.
    pub env: Env,
    /// The firmware, where there is one.
    pub firmware: Option<Firmware>,
    /// The bundle.
    pub bundle: &'static [u8],
    /// The private interrupts that are Merus' own, the same on each pCPU.
    pub ppis: Ppis,
    /// How pCPUs are kicked.
    pub kicker: Kicker,
    /// The console's interrupt.
    pub uart_intid: Option<u32>,
    /// The control line's.
    pub line_intid: Option<u32>,
    /// Where the board's tree is.
    pub fdt: Pa,
    /// The board's name.
    pub board: String,
    /// VMs by their number.
    pub vms: SpinLock<Vec<Place>>,
    /// Which entities are taken.
    pub entities: SpinLock<Entities>,
    /// Memory of payloads that were uploaded.
    pub uploads: SpinLock<Uploads>,
    /// The accounts of groups.
    pub groups: SpinLock<Vec<AccountId>>,
    /// Where in the bundle those disks' images begin that are as they were packed.
    pub checked_images: SpinLock<Vec<u64>>,
    /// The switches.
    pub switches: Switches,
    /// What management has not been told yet.
    pub untold: Untold,
    /// The books and the control line.
    pub management: SpinLock<Management>,
    /// How many VMs run or are being made.
    pub alive: AtomicU32,
    /// vCPUs that may want a pCPU now: none of them sleeps in a native WFI while they are more than the pCPUs.
    pub wanting: AtomicU32,
    /// Tracing is on ([`crate::observe`]).
    pub traced: AtomicBool,
    /// Stay when the last VM has ended.
    pub stay: bool,
    /// Look at the RAM of a VM that has ended: a test of Merus, which must not get over it.
    pub look_back: bool,
}

/// What the kernel keeps of a VM as long as it is in the books.
#[derive(Default)]
pub struct Place {
    /// Its place at the console.
    pub source: Option<SourceId>,
    /// Itself, while it has memory.
    pub guest: Option<Arc<Guest>>,
    /// What it had used when it ended.
    pub last: Usage,
}

static MACHINE: Once<Machine> = Once::new();

/// Makes the machine known; once.
pub fn publish(machine: Machine) -> &'static Machine {
    MACHINE.call_once(|| machine)
}

/// The machine, if it is up.
pub fn machine() -> Option<&'static Machine> {
    MACHINE.get()
}

impl Machine {
    /// The place of a vCPU.
    #[inline]
    pub fn slot(&self, id: EntityId) -> Option<&Slot> {
        self.slots.get(id)
    }
    /// A VM that has memory.
    pub fn guest(&self, vm: VmNumber) -> Option<Arc<Guest>> {
        self.vms.lock().get(usize::from(vm.0)).and_then(|place| place.guest.clone())
    }
    /// The VM with this place at the console.
    pub fn guest_at(&self, source: SourceId) -> Option<Arc<Guest>> {
        self.vms.lock().iter().find(|place| place.source == Some(source)).and_then(|place| place.guest.clone())
    }
    /// All VMs that have memory.
    pub fn guests(&self) -> Vec<Arc<Guest>> {
        self.vms.lock().iter().filter_map(|place| place.guest.clone()).collect()
    }
    /// Sees to it that there are places for `count` vCPUs from number `first` on, here and in every runqueue. For whoever manages;
    /// from a step, without a lock.
    pub fn vcpu_room(&self, first: u32, count: u32) -> Result<(), MemoryError> {
        let needed = first + count;
        let room = self.room.load(Ordering::Relaxed);
        if room < needed {
            let room = needed.next_power_of_two().min(MAX_ENTITIES);
            self.heap_room(VCPU_ROOM * room as usize * self.pcpus.len())?;
            for pcpu in &self.pcpus {
                let (queue, timers) = (sched::Room::new(room as usize), Timers::room(room));
                let mut sched = pcpu.sched.lock();
                let rest = (sched.queue.grow(queue), sched.timers.grow(timers));
                drop(sched);
                // The heap's lock comes before the queue's.
                drop(rest);
            }
            self.room.store(room, Ordering::Relaxed);
        }
        self.slots.make(first, count);
        Ok(())
    }
    /// What hand-overs of memory may leave out.
    pub fn coherency(&self) -> Coherency {
        Coherency { fwb: self.features.fwb, dic: self.features.dic }
    }
    /// Sees to it that `bytes` and [`HEAP_MARGIN`] can be had from the heap, by whole blocks of RAM where they cannot; blocks stay
    /// with the heap. To be called from a step, before what allocates, without a lock: nothing grows the heap inside an allocation.
    /// (What is free may lie in several gaps: this is for many small pieces. A new block serves one large piece as well.)
    pub fn heap_room(&self, bytes: usize) -> Result<(), MemoryError> {
        let wanted = bytes.saturating_add(HEAP_MARGIN);
        while let Some(missing) = wanted.checked_sub(crate::HEAP.available()).filter(|missing| *missing != 0) {
            // A block holds a little less than its size: the next round sees to that.
            let blocks = missing.div_ceil(BLOCK_SIZE as usize);
            let extents = self.memory.lock().own_blocks(blocks)?;
            let mut refused = false;
            for extent in extents {
                if let Err(extent) = el2::ram::grow_heap(&crate::HEAP, extent) {
                    self.memory.lock().take_back(AccountId::HOST, extent.span());
                    refused = true;
                }
            }
            if refused {
                return Err(MemoryError::OutOfMemory);
            }
            say!("memory: the heap has {} KiB now", crate::HEAP.claimed() >> 10);
        }
        Ok(())
    }
}
