//! What all pCPUs share: the board, the pCPUs' runqueues, the vCPUs' places, memory.

use crate::console::say;
use crate::gic::Kicker;
use crate::guest::Guest;
use crate::manage::Management;
use crate::slots::{Entities, MAX_ENTITIES, ROOM, Slot, Slots};
use crate::uploads::Uploads;
use addr::{BLOCK_SIZE, PAGE_SIZE, Pa, Span};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use boot::stage1::{self, Kind, Stage1};
use config::board::Ppis;
use config::cpu_model::HostIds;
use console::SourceId;
use control::{Usage, VmNumber};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use el2::errata::Errata;
use el2::features::Features;
use el2::space::FrameSource;
use guest_smccc::Env;
use guest_smccc::entropy::Drbg;
use memory::{AccountId, Coherency, Dirty, Frames, HandedOver, MemoryError, RamOps, Scrub};
use platform::firmware::Firmware;
use sched::{EntityId, RunQueue, Shares, Started, Timers, Wake};
use spin::Once;
use stage2::{Geometry, VmidAllocator, Vmids};
use sync::{Rank, SpinLock};
use trace::{NOBODY, Ring, What};

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

/// Frames, and EL2's own map, which follows them.
pub struct Memory {
    /// The frames.
    pub frames: Frames,
    /// EL2's translation tables.
    pub map: Stage1,
}

impl Memory {
    fn make_visible(&mut self, span: Span<Pa>) -> bool {
        span.align_outwards(BLOCK_SIZE)
            .is_some_and(|blocks| self.map.map(blocks, Kind::Data, true, &mut stage1::page_from_heap).is_ok())
    }
    /// RAM for a guest, visible to EL2; not zeroed yet.
    pub fn guest_ram(&mut self, account: AccountId, bytes: u64) -> Result<Vec<Dirty>, MemoryError> {
        let extents = self.frames.alloc_blocks(account, bytes.div_ceil(BLOCK_SIZE) as usize)?;
        if extents.iter().all(|e| self.make_visible(e.span())) {
            return Ok(extents);
        }
        for extent in extents {
            self.take_back(account, extent.span());
        }
        Err(MemoryError::OutOfMemory)
    }
    /// `count` pages in a row, visible to EL2; not zeroed yet.
    pub fn pages(&mut self, account: AccountId, count: usize) -> Result<Dirty, MemoryError> {
        let pages = self.frames.alloc_pages(account, count)?;
        if self.make_visible(pages.span()) {
            return Ok(pages);
        }
        self.take_back_pages(account, pages.span());
        Err(MemoryError::OutOfMemory)
    }
    /// Whole blocks of Merus' own, visible to EL2, for the heap.
    fn own_blocks(&mut self, count: usize) -> Result<Vec<Dirty>, MemoryError> {
        self.guest_ram(AccountId::HOST, (count as u64).saturating_mul(BLOCK_SIZE))
    }
    /// A guest's RAM comes back, and goes out of EL2's map: nobody has it.
    pub fn take_back(&mut self, account: AccountId, extent: Span<Pa>) {
        if self.frames.free_extent(account, extent).is_ok() {
            // Mapped as whole blocks, or not at all.
            let _ = self.map.unmap_blocks(extent);
        }
    }
    /// Pages come back. Other pages of their block may be somebody's, so it is unmapped with the last of them.
    pub fn take_back_pages(&mut self, account: AccountId, pages: Span<Pa>) {
        // A page that is not this account's stays where it is; the frames' own invariants are tested.
        let count = (pages.size() / PAGE_SIZE) as usize;
        let freed = self.frames.free_pages(account, pages.start(), count).is_ok();
        let block = Span::new(pages.start(), PAGE_SIZE).and_then(|page| page.align_outwards(BLOCK_SIZE));
        if let Some(block) = block.filter(|block| freed && self.frames.is_free_block(block.start())) {
            let _ = self.map.unmap_blocks(block);
        }
    }
}

/// What is done to a guest's RAM before it is the guest's.
pub struct CpuOps<'a>(pub &'a Features);

impl RamOps for CpuOps<'_> {
    fn zero(&mut self, span: Span<Pa>) {
        el2::ram::zero(span, self.0.zva, self.0.mops);
    }
    fn copy(&mut self, from: &[u8], to: Pa) {
        el2::ram::write(to, from);
    }
    fn copy_crc(&mut self, from: &[u8], to: Pa, crc: u32) -> u32 {
        el2::ram::copy_crc(from, to, crc, self.0.crc32)
    }
    fn clean(&mut self, span: Span<Pa>) {
        el2::ram::clean(span, self.0.dline);
    }
    fn invalidate_instructions(&mut self) {
        el2::ram::invalidate_instructions();
    }
}

/// Pages for a VM's tables, charged to it.
pub struct TablePages<'a> {
    /// The machine's memory.
    pub memory: &'a SpinLock<Memory>,
    /// Whom to charge.
    pub account: AccountId,
}

impl FrameSource for TablePages<'_> {
    fn take(&mut self, pages: usize) -> Option<Pa> {
        let mut dirty = self.memory.lock().pages(self.account, pages).ok()?;
        struct Plain;
        impl Scrub for Plain {
            fn zero(&mut self, span: Span<Pa>) {
                let (zva, mops) = machine().map_or((0, false), |m| (m.features.zva, m.features.mops));
                el2::ram::zero(span, zva, mops);
            }
        }
        dirty.scrub(pages as u64 * PAGE_SIZE, &mut Plain);
        dirty.into_clean().ok().map(|span| span.start())
    }
    fn give(&mut self, at: Pa, pages: usize) {
        if let Some(pages) = Span::new(at, pages as u64 * PAGE_SIZE) {
            self.memory.lock().take_back_pages(self.account, pages);
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
    /// Starts a VM by its vCPU 0, with the memory that was handed over to it. `false`: that is another's.
    pub fn launch(&self, guest: &Guest, memory: HandedOver) -> bool {
        if !memory.is(&guest.ram) {
            return false;
        }
        let memory = Arc::new(memory);
        *guest.handed.lock() = Some(memory.clone());
        self.start(guest.entity(0), &memory);
        true
    }
    /// Starts another vCPU of a VM that was launched (PSCI CPU_ON); of one that was not, nothing.
    pub fn cpu_on(&self, id: EntityId) {
        let Some(slot) = self.slot(id) else { return };
        let owner = slot.owner.lock().clone();
        let Some((guest, _)) = owner else { return };
        let memory = guest.handed.lock().clone();
        if let Some(memory) = memory {
            self.start(id, &memory);
        }
    }
    /// Has pCPU `number` look up.
    pub fn kick(&self, number: usize) {
        if number != el2::number()
            && let Some(pcpu) = self.pcpus.get(number)
        {
            self.note(NOBODY, What::Kick, number as u64);
            pcpu.recheck.store(true, Ordering::SeqCst);
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has pCPU `number` look at what is asked of the vCPU that runs there, and at nothing else: neither its timer nor its traps
    /// have to change.
    fn poke(&self, number: usize) {
        if number != el2::number()
            && let Some(pcpu) = self.pcpus.get(number)
        {
            self.note(NOBODY, What::Kick, number as u64);
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has every pCPU look up, this one as well.
    fn kick_all(&self) {
        for pcpu in &self.pcpus {
            pcpu.recheck.store(true, Ordering::SeqCst);
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has pCPU `number` put what it runs and pick again.
    pub fn preempt(&self, number: usize) {
        if let Some(pcpu) = self.pcpus.get(number) {
            pcpu.resched.store(true, Ordering::SeqCst);
            pcpu.recheck.store(true, Ordering::SeqCst);
            // Also to itself: a kick is what makes a pCPU look.
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has this pCPU take an interrupt, and look up.
    pub fn kick_self(&self) {
        if let Some(pcpu) = self.pcpus.get(el2::number()) {
            self.kicker.kick(pcpu.kick);
        }
    }
    /// A vCPU waits on pCPU `home`: an idle one is asked to take it.
    pub fn offer(&self, home: usize) {
        let idle = |(n, p): (usize, &Pcpu)| (n != home && p.idle.load(Ordering::SeqCst) && !self.owned(n)).then_some(n);
        if let Some(idle) = self.pcpus.iter().enumerate().find_map(idle) {
            self.kick(idle);
        }
    }
    /// Whether pCPU `number` is a partition's: nobody else may run there.
    pub fn owned(&self, number: usize) -> bool {
        self.shares.view(number).is_some_and(|view| view.owned)
    }
    /// A vCPU has become ready on pCPU `home`.
    pub fn enqueued(&self, home: usize, effect: sched::Enqueued) {
        if effect.preempt {
            self.preempt(home);
            return;
        }
        self.offer(home);
        if effect.tick.is_some() {
            // The one that runs there was alone and has an end of slice now: its pCPU's timer has to be set.
            if home == el2::number() {
                self.preempt(home);
            } else {
                self.kick(home);
            }
        }
    }
    /// Wakes a vCPU, or kicks its pCPU.
    pub fn wake(&self, id: EntityId) {
        let Some(slot) = self.slot(id) else { return };
        loop {
            let home = slot.home.load(Ordering::Acquire);
            let Some(pcpu) = self.pcpus.get(home) else { return };
            let (woken, sooner) = {
                let mut sched = pcpu.sched.lock();
                let now = crate::time::now_ns();
                let woken = sched.queue.wake(id, now);
                let waits = matches!(woken, Wake::Enqueued(effect) if !effect.preempt);
                (woken, if waits { self.sooner(&mut sched.queue, id, home, now) } else { None })
            };
            match woken {
                Wake::Enqueued(effect) => {
                    self.note_vcpu(id, What::Wake, 0);
                    let Some((stolen, to)) = sooner else { return self.enqueued(home, effect) };
                    let (at, effect) = self.deliver(stolen, home, to);
                    if let Some(effect) = effect {
                        self.enqueued(at, effect);
                    }
                    return;
                }
                Wake::Running => return self.poke(home),
                Wake::AlreadyReady | Wake::Off => return,
                // On its way from one queue to another.
                Wake::NotHere => sync::relax(),
            }
        }
    }
    /// Lets a held vCPU go.
    pub fn unhold(&self, id: EntityId) {
        let Some(slot) = self.slot(id) else { return };
        loop {
            let home = slot.home.load(Ordering::Acquire);
            let Some(pcpu) = self.pcpus.get(home) else { return };
            let effect = pcpu.sched.lock().queue.unhold(id, crate::time::now_ns());
            match effect {
                Ok(Some(effect)) => return self.enqueued(home, effect),
                Err(sched::Error::NotHere) => sync::relax(),
                Ok(None) | Err(_) => return,
            }
        }
    }
    /// Makes a vCPU ready that was off, of the VM whose memory this is. What it starts with is in its port.
    fn start(&self, id: EntityId, _: &HandedOver) {
        let Some(slot) = self.slot(id) else { return };
        if !slot.on.swap(true, Ordering::AcqRel) {
            self.wanting.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            let home = slot.home.load(Ordering::Acquire);
            let Some(pcpu) = self.pcpus.get(home) else { return };
            let started = pcpu.sched.lock().queue.start(id, crate::time::now_ns());
            match started {
                Ok(Started::Enqueued(effect)) => {
                    self.enqueued(home, effect);
                    break;
                }
                Ok(Started::WhenPut) => break,
                Err(sched::Error::NotHere) => sync::relax(),
                // Stopping: the VM's reset or end comes first.
                Err(_) => return self.off(id),
            }
        }
        if self.crowded() {
            // A vCPU in a native WFI must not keep its pCPU from the newcomer, here neither.
            self.kick_all();
        }
    }
    /// A vCPU is off, or its VM has ended.
    pub fn off(&self, id: EntityId) {
        if self.slot(id).is_some_and(|slot| slot.on.swap(false, Ordering::AcqRel)) {
            self.wanting.fetch_sub(1, Ordering::Relaxed);
        }
    }
    /// Whether there are more vCPUs on than pCPUs.
    #[inline]
    pub fn crowded(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) as usize > self.pcpus.len()
    }
}
