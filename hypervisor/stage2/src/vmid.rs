//! Which VM owns which VMID. VMIDs are handed out in *generations*: when a generation is used up, every TLB is emptied
//! once, and a new generation starts in which each VM gets a VMID on its next load.
//!
//! | who | reads and writes | under the allocator's lock |
//! |---|---|---|
//! | a pCPU that loads a vCPU | [`Vmids::load`]: its own `active` record, the VM's slot, the generation | no |
//! | the same, when that answers `None` | [`VmidAllocator::load`] | yes |
//! | a pCPU that puts a vCPU | [`Vmids::put`] | no |
//! | an exit and entry of the same vCPU | nothing: its VMID stays its own while it is active, over any rollover | no |
//!
//! # Invariants (checked by the random tests)
//! 1. Two VMs that are active on any pCPUs at the same time have different VMIDs.
//! 2. A VMID goes to another VM only after a flush of all TLBs that came after the last use by the former.
//! 3. A VM that is active somewhere, or pinned, keeps its VMID over a rollover.
//!
//! # Why no lock on the fast path
//! A rollover takes each pCPU's `active` record and leaves 0. The fast path replaces a record that is not 0 by
//! compare-and-swap. Either the swap comes first, and the rollover finds the VMID and preserves it; or it finds 0 and fails.
//! [`Vmids::put`] therefore never turns 0 into something else.
//!
//! # What the caller owes
//! `VTTBR_EL2` of a pCPU names the VM's VMID only between load and put; before [`Vmids::put`], and before a load of another
//! VM, it is set to VMID 0, so that no speculative walk fills the TLB under a VMID that is about to change hands.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// A slot or record is generation | VMID: the VMID in the low 16 bits.
const VMID_MASK: u64 = 0xffff;
const FIRST_GENERATION: u64 = 1 << 16;
/// In a slot only: its VMID belongs to this VM in every generation.
const PINNED: u64 = 1 << 63;
/// A record of a pCPU that has nothing loaded: not 0, because it has seen the current generation; and no VM's, because
/// VMID 0 is the host's.
const PARKED: u64 = FIRST_GENERATION;

/// A VM's number in `VTTBR_EL2` and the TLBs. 0 is the host's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Vmid(u16);

impl Vmid {
    /// What `VTTBR_EL2` holds while no VM is loaded.
    pub const HOST: Self = Self(0);

    /// The number.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    const fn of(value: u64) -> Self {
        Self((value & VMID_MASK) as u16)
    }
}

/// A VM's VMID and the generation it is from. Starts without one.
#[derive(Debug, Default)]
pub struct VmidSlot(AtomicU64);

impl VmidSlot {
    /// A VM that never ran.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The VMID for TLB maintenance, `None` if the VM never had one (then no TLB knows it). Out of date it does no harm:
    /// then the TLBs were emptied since the VM ran, and at most another VM's entries are dropped for nothing.
    pub fn vmid(&self) -> Option<Vmid> {
        Some(Vmid::of(self.0.load(Ordering::Relaxed))).filter(|v| *v != Vmid::HOST)
    }
}

/// Why there is no VMID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmidError {
    /// VMIDs have 8 or 16 bits, and must outnumber the pCPUs by two.
    BadSize,
    /// There is no pCPU of this number.
    NoSuchPcpu,
    /// As many VMIDs are pinned as can be without starving the other VMs.
    TooManyPinned,
}

/// What all pCPUs share without a lock.
#[derive(Debug)]
pub struct Vmids {
    generation: AtomicU64,
    /// By pCPU: what it runs under, [`PARKED`], or 0 since the last rollover.
    active: Vec<AtomicU64>,
}

impl Vmids {
    /// The shared part and the allocator (which belongs in a lock) for `pcpus` pCPUs and VMIDs of `bits` (8 or 16).
    pub fn new(bits: u32, pcpus: usize) -> Result<(Self, VmidAllocator), VmidError> {
        match bits {
            8 => Self::with_count(1 << 8, pcpus),
            16 => Self::with_count(1 << 16, pcpus),
            _ => Err(VmidError::BadSize),
        }
    }

    /// `count` VMIDs, 0 among them.
    pub(crate) fn with_count(count: usize, pcpus: usize) -> Result<(Self, VmidAllocator), VmidError> {
        // 0 is the host's, each pCPU may preserve one, and one must be left to hand out.
        let spare = count.checked_sub(pcpus).and_then(|c| c.checked_sub(2)).ok_or(VmidError::BadSize)?;
        let words = count.div_ceil(64);
        let reserved = vec![0; pcpus];
        let mut active = Vec::new();
        active.resize_with(pcpus, || AtomicU64::new(0));
        let allocator =
            VmidAllocator { count, used: Bits::new(words), pinned: Bits::new(words), spare, reserved, next: 1 };
        Ok((Self { generation: AtomicU64::new(FIRST_GENERATION), active }, allocator))
    }

    /// Makes the VM of `slot` the active one of pCPU `pcpu` if its VMID is of the current generation. `None`: ask
    /// [`VmidAllocator::load`].
    #[inline]
    pub fn load(&self, pcpu: usize, slot: &VmidSlot) -> Option<Vmid> {
        let active = self.active.get(pcpu)?;
        let old = active.load(Ordering::Relaxed);
        let wanted = slot.0.load(Ordering::Relaxed) & !PINNED;
        if old == 0 || !self.is_current(slot) {
            return None;
        }
        active.compare_exchange(old, wanted, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(Vmid::of(wanted))
    }

    /// Whether the VMID of `slot` is of the current generation.
    #[inline]
    pub fn is_current(&self, slot: &VmidSlot) -> bool {
        same_generation(slot.0.load(Ordering::Relaxed), self.generation.load(Ordering::Relaxed))
    }

    /// pCPU `pcpu` runs no VM any more: `VTTBR_EL2` no longer names one.
    #[inline]
    pub fn put(&self, pcpu: usize) {
        if let Some(active) = self.active.get(pcpu) {
            let old = active.load(Ordering::Relaxed);
            if old != 0 {
                // Fails only if a rollover left 0, which must stay.
                let _ = active.compare_exchange(old, PARKED, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }
}

#[inline]
const fn same_generation(value: u64, generation: u64) -> bool {
    (value ^ generation) & !PINNED & !VMID_MASK == 0
}

/// Hands out VMIDs. Belongs in a lock that all pCPUs share.
#[derive(Debug)]
pub struct VmidAllocator {
    count: usize,
    /// Handed out in this generation.
    used: Bits,
    /// Not to be handed out in any.
    pinned: Bits,
    /// How many more may be pinned.
    spare: usize,
    /// By pCPU: what it ran under at the last rollover.
    reserved: Vec<u64>,
    /// Where the search for a free one goes on.
    next: usize,
}

impl VmidAllocator {
    /// Makes the VM of `slot` the active one of pCPU `pcpu`, with a new VMID if its own is out of date.
    ///
    /// `flush` is called, before this returns, if a generation is used up. It empties the TLBs of *all* pCPUs: `dsb ishst`;
    /// `tlbi alle1is`; `dsb ish`; `isb` (with `ic ialluis` before the last `dsb` where an instruction cache is tagged by
    /// VMID, CTR_EL0.L1Ip = VPIPT). It must be complete before the lock is let go, because from then on VMIDs have new
    /// owners. Before the VM is entered the caller executes a `dsb ish`, so that an [`crate::TlbWork`] on another pCPU
    /// that saw the former VMID has its table writes seen here.
    pub fn load(
        &mut self,
        shared: &Vmids,
        pcpu: usize,
        slot: &VmidSlot,
        flush: impl FnOnce(),
    ) -> Result<Vmid, VmidError> {
        let active = shared.active.get(pcpu).ok_or(VmidError::NoSuchPcpu)?;
        let value = self.renew(shared, slot, flush);
        active.store(value & !PINNED, Ordering::Release);
        Ok(Vmid::of(value))
    }

    /// Gives the VM of `slot` a VMID that it keeps until [`Self::unpin`] (an SMMU's tables name it). `flush` as in
    /// [`Self::load`]. Pinning twice is pinning once.
    pub fn pin(&mut self, shared: &Vmids, slot: &VmidSlot, flush: impl FnOnce()) -> Result<Vmid, VmidError> {
        let value = slot.0.load(Ordering::Relaxed);
        if value & PINNED != 0 {
            return Ok(Vmid::of(value));
        }
        self.spare = self.spare.checked_sub(1).ok_or(VmidError::TooManyPinned)?;
        let value = self.renew(shared, slot, flush);
        self.pinned.set(Vmid::of(value));
        slot.0.store(value | PINNED, Ordering::Release);
        Ok(Vmid::of(value))
    }

    /// The VM's VMID may change again at the next rollover. Nothing happens if it is not pinned.
    pub fn unpin(&mut self, slot: &VmidSlot) {
        let value = slot.0.load(Ordering::Relaxed);
        if value & PINNED != 0 {
            self.pinned.clear(Vmid::of(value));
            self.spare = self.spare.saturating_add(1);
            slot.0.store(value & !PINNED, Ordering::Release);
        }
    }

    /// Brings `slot` to the current generation.
    fn renew(&mut self, shared: &Vmids, slot: &VmidSlot, flush: impl FnOnce()) -> u64 {
        let old = slot.0.load(Ordering::Relaxed);
        let generation = shared.generation.load(Ordering::Relaxed);
        if same_generation(old, generation) {
            return old;
        }
        let value = match self.keep(old, generation) {
            Some(value) => value,
            None => self.hand_out(shared, flush),
        };
        slot.0.store(value, Ordering::Release);
        value
    }

    /// The old VMID in the new generation, if the last rollover preserved it for this VM.
    fn keep(&mut self, old: u64, generation: u64) -> Option<u64> {
        let value = generation | (old & VMID_MASK);
        let mut preserved = false;
        // Every record of it is brought up to date: the next rollover may have to go by them again.
        for record in self.reserved.iter_mut().filter(|r| **r == old & !PINNED && old != 0) {
            *record = value;
            preserved = true;
        }
        (preserved || old & PINNED != 0).then_some(value | (old & PINNED))
    }

    fn hand_out(&mut self, shared: &Vmids, flush: impl FnOnce()) -> u64 {
        let free = match self.used.first_clear(self.next, self.count) {
            Some(free) => free,
            None => {
                self.roll_over(shared);
                flush();
                // `spare` sees to it that one is left.
                self.used.first_clear(1, self.count).unwrap_or(0)
            }
        };
        let vmid = Vmid(free as u16);
        self.used.set(vmid);
        self.next = free.saturating_add(1);
        shared.generation.load(Ordering::Relaxed) | u64::from(vmid.0)
    }

    fn roll_over(&mut self, shared: &Vmids) {
        let generation = shared.generation.load(Ordering::Relaxed).wrapping_add(FIRST_GENERATION) & !PINNED;
        shared.generation.store(generation, Ordering::Release);
        self.used.copy_from(&self.pinned);
        for (active, reserved) in shared.active.iter().zip(self.reserved.iter_mut()) {
            let ran = active.swap(0, Ordering::AcqRel);
            // 0: it has loaded nothing since the rollover before, so it may still run what it ran then.
            if ran != 0 {
                *reserved = ran;
            }
            self.used.set(Vmid::of(*reserved));
        }
    }
}

/// One bit for each VMID.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(words: usize) -> Self {
        Self(vec![0; words])
    }

    fn set(&mut self, vmid: Vmid) {
        if let Some(word) = self.0.get_mut(usize::from(vmid.0 >> 6)) {
            *word |= 1_u64.wrapping_shl(u32::from(vmid.0));
        }
    }

    fn clear(&mut self, vmid: Vmid) {
        if let Some(word) = self.0.get_mut(usize::from(vmid.0 >> 6)) {
            *word &= !1_u64.wrapping_shl(u32::from(vmid.0));
        }
    }

    fn copy_from(&mut self, other: &Self) {
        self.0.clone_from(&other.0);
    }

    /// The first clear bit from `from` up to, not including, `end`.
    fn first_clear(&self, from: usize, end: usize) -> Option<usize> {
        let mut at = from;
        while at < end {
            let word = self.0.get(at >> 6)?;
            let clear = (!word).wrapping_shr((at & 63) as u32);
            if clear != 0 {
                return Some(at.saturating_add(clear.trailing_zeros() as usize)).filter(|b| *b < end);
            }
            at = (at | 63).saturating_add(1);
        }
        None
    }
}
