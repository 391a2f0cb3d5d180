//! The table that all queues share: VMs and groups, their weights and maxima, how many of their vCPUs want to run.
//!
//! A VM's word (weight, runnable vCPUs) and a group's (weight, sum of its runnable VMs' weights) are changed by single
//! atomic operations. From the two words follows a vCPU's *effective weight*: group weight x VM weight / sum in the group /
//! runnable vCPUs. A queue computes it when one of the words is another than last time.
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::{
    class::Max,
    entity::{Entity, Pace, WEIGHT_SHIFT, Weight},
    pcpu::Pcpus,
    pool::Pool,
};

/// A VM's number in the table of shares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VmId(pub u16);

/// A group's number in the table of shares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u16);

/// Why a change of the table was refused; it has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareError {
    /// No such VM or group.
    Unknown,
    /// The number is beyond the table.
    TooLarge,
    /// There is one with this number already.
    Exists,
    /// The VM has vCPUs that want to run, or the group has VMs.
    InUse,
}

/// A VM's word: runnable vCPUs in bits 0 to 31, weight in 32 to 47, then flags.
const RUNNABLE: u64 = u32::MAX as u64;
const VM_WEIGHT: u32 = 32;
/// It or its group has a maximum.
pub(crate) const LIMITED: u64 = 1 << 48;
const EXISTS: u64 = 1 << 63;
/// A group's word: the sum of its runnable VMs' weights in bits 0 to 39, its own in 40 to 55, then `EXISTS`.
const SUM: u64 = (1 << 40) - 1;
const GROUP_WEIGHT: u32 = 40;
const NO_GROUP: u32 = u32::MAX;

#[derive(Debug, Default)]
struct VmShare {
    word: AtomicU64,
    group: AtomicU32,
    pool: Pool,
}

#[derive(Debug, Default)]
struct GroupShare {
    word: AtomicU64,
    members: AtomicU32,
    pool: Pool,
}

/// What all queues of a machine share. Changes of VMs and groups (`add_`, `remove_`, `set_`) come from one caller at a time;
/// they may come while queues work.
#[derive(Debug)]
pub struct Shares {
    vms: Box<[VmShare]>,
    groups: Box<[GroupShare]>,
    pub(crate) pcpus: Pcpus,
}

fn weight_of(word: u64, shift: u32) -> u64 {
    (word >> shift) & 0xffff
}

fn with_weight(word: u64, shift: u32, weight: Weight) -> u64 {
    word & !(0xffff << shift) | weight.get() << shift
}

impl Shares {
    /// A table for `pcpus` pCPUs (at most 128 can be named by an affinity), `vms` VMs and `groups` groups.
    pub fn new(pcpus: usize, vms: u16, groups: u16) -> Self {
        Self {
            vms: (0..vms).map(|_| VmShare::default()).collect(),
            groups: (0..groups).map(|_| GroupShare::default()).collect(),
            pcpus: Pcpus::new(pcpus),
        }
    }

    /// Takes a VM in, before its vCPUs are admitted.
    pub fn add_vm(&self, vm: VmId, weight: Weight, group: Option<GroupId>) -> Result<(), ShareError> {
        let share = self.vms.get(usize::from(vm.0)).ok_or(ShareError::TooLarge)?;
        if share.word.load(Relaxed) & EXISTS != 0 {
            return Err(ShareError::Exists);
        }
        let mut limited = 0;
        if let Some(group) = group {
            let group = self.group(group)?;
            group.members.fetch_add(1, Relaxed);
            limited = if group.pool.limits() { LIMITED } else { 0 };
        }
        share.pool.set(None, 0);
        share.group.store(group.map_or(NO_GROUP, |g| g.0.into()), Relaxed);
        share.word.store(EXISTS | limited | weight.get() << VM_WEIGHT, Relaxed);
        Ok(())
    }

    /// Forgets a VM, after its vCPUs were removed.
    pub fn remove_vm(&self, vm: VmId) -> Result<(), ShareError> {
        let share = self.vm(vm)?;
        if share.word.load(Relaxed) & RUNNABLE != 0 {
            return Err(ShareError::InUse);
        }
        if let Some(group) = self.group_of(vm.0).and_then(|g| self.groups.get(usize::from(g))) {
            group.members.fetch_sub(1, Relaxed);
        }
        share.word.store(0, Relaxed);
        Ok(())
    }

    /// Makes a group.
    pub fn add_group(&self, group: GroupId, weight: Weight) -> Result<(), ShareError> {
        let share = self.groups.get(usize::from(group.0)).ok_or(ShareError::TooLarge)?;
        if share.word.load(Relaxed) & EXISTS != 0 {
            return Err(ShareError::Exists);
        }
        share.pool.set(None, 0);
        share.word.store(EXISTS | weight.get() << GROUP_WEIGHT, Relaxed);
        Ok(())
    }

    /// Forgets a group that has no VM any more.
    pub fn remove_group(&self, group: GroupId) -> Result<(), ShareError> {
        let share = self.group(group)?;
        if share.members.load(Relaxed) != 0 {
            return Err(ShareError::InUse);
        }
        share.word.store(0, Relaxed);
        Ok(())
    }

    /// Changes a VM's weight. A vCPU that waits follows when it is picked next; [`crate::RunQueue::refresh`] makes it follow now.
    pub fn set_vm_weight(&self, vm: VmId, weight: Weight) -> Result<(), ShareError> {
        let share = self.vm(vm)?;
        let before = share.word.update(Relaxed, Relaxed, |w| with_weight(w, VM_WEIGHT, weight));
        if before & RUNNABLE != 0 {
            let change = weight.get().wrapping_sub(weight_of(before, VM_WEIGHT));
            self.active_in_group(vm.0, change);
        }
        Ok(())
    }

    /// Changes a group's weight.
    pub fn set_group_weight(&self, group: GroupId, weight: Weight) -> Result<(), ShareError> {
        self.group(group)?.word.update(Relaxed, Relaxed, |w| with_weight(w, GROUP_WEIGHT, weight));
        Ok(())
    }

    /// Sets or lifts a VM's maximum at time `now` (ns). vCPUs that are throttled come back when their old period ends.
    pub fn set_vm_max(&self, vm: VmId, max: Option<Max>, now: u64) -> Result<(), ShareError> {
        self.vm(vm)?.pool.set(max, now);
        self.flag(vm.0);
        Ok(())
    }

    /// Sets or lifts a group's maximum.
    pub fn set_group_max(&self, group: GroupId, max: Option<Max>, now: u64) -> Result<(), ShareError> {
        self.group(group)?.pool.set(max, now);
        for vm in 0..u16::try_from(self.vms.len()).unwrap_or(u16::MAX) {
            if self.group_of(vm) == Some(group.0) {
                self.flag(vm);
            }
        }
        Ok(())
    }

    /// How many vCPUs of a VM want to run or do (fair ones, without those that are throttled).
    pub fn runnable(&self, vm: VmId) -> Option<u32> {
        Some((self.vm(vm).ok()?.word.load(Relaxed) & RUNNABLE) as u32)
    }

    /// The group of a VM that there is.
    pub(crate) fn check_vm(&self, vm: VmId) -> Option<Option<u16>> {
        self.vm(vm).ok()?;
        Some(self.group_of(vm.0))
    }

    /// A vCPU of `vm` wants to run from now on, or no more.
    #[inline]
    pub(crate) fn runs(&self, vm: u16, runs: bool) {
        let Some(share) = self.vms.get(usize::from(vm)) else { return };
        // The number cannot go below 0: each vCPU leaves once for each time it came.
        let before = if runs { share.word.fetch_add(1, Relaxed) } else { share.word.fetch_sub(1, Relaxed) };
        if before & RUNNABLE == u64::from(!runs) {
            let weight = weight_of(before, VM_WEIGHT);
            self.active_in_group(vm, if runs { weight } else { weight.wrapping_neg() });
        }
    }

    /// The two words that a vCPU's effective weight follows from.
    #[inline]
    pub(crate) fn words(&self, entity: &Entity) -> (u64, u64) {
        self.words_of(entity.vm, entity.group)
    }

    #[inline]
    fn words_of(&self, vm: u16, group: Option<u16>) -> (u64, u64) {
        let vm = self.vms.get(usize::from(vm)).map_or(0, |v| v.word.load(Relaxed));
        let group = match group {
            Some(group) => self.groups.get(usize::from(group)).map_or(0, |g| g.word.load(Relaxed)),
            None => 0,
        };
        (vm, group)
    }

    /// The effective weight that follows from `words`.
    pub(crate) fn pace((vm, group): (u64, u64)) -> Pace {
        let weight = weight_of(vm, VM_WEIGHT);
        let whole = match group {
            0 => weight << WEIGHT_SHIFT,
            _ => {
                // 10,000 x 10,000 x 2^24 is below 2^51. The sum may be a step behind.
                let product = weight.wrapping_mul(weight_of(group, GROUP_WEIGHT)) << WEIGHT_SHIFT;
                product.checked_div((group & SUM).max(weight)).unwrap_or(0)
            }
        };
        Pace::of(whole.checked_div((vm & RUNNABLE).max(1)).unwrap_or(0))
    }

    /// The virtual time of another queue.
    pub(crate) fn time_of(&self, pcpu: usize, now: u64) -> Option<crate::tree::VTime> {
        self.pcpus.time_of(pcpu, now, |vm| Self::pace(self.words_of(vm, self.group_of(vm))).inverse)
    }

    /// Takes a piece of at most `want` ns from the pools of a VM and its group; or when there is more.
    pub(crate) fn take(&self, entity: &Entity, want: u64, now: u64) -> Result<u64, u64> {
        let Some(own) = self.vms.get(usize::from(entity.vm)) else { return Ok(want) };
        let piece = own.pool.take(want, now)?;
        let Some(group) = entity.group.and_then(|g| self.groups.get(usize::from(g))) else { return Ok(piece) };
        match group.pool.take(piece, now) {
            Ok(both) => {
                own.pool.give(piece.saturating_sub(both));
                Ok(both)
            }
            Err(until) => {
                own.pool.give(piece);
                Err(until)
            }
        }
    }

    /// Gives `rest` ns back to both pools; returns the part that is less than a unit.
    pub(crate) fn give(&self, entity: &Entity, rest: u64) -> u64 {
        let small = self.vms.get(usize::from(entity.vm)).map_or(0, |v| v.pool.give(rest));
        if let Some(group) = entity.group.and_then(|g| self.groups.get(usize::from(g))) {
            group.pool.give(rest);
        }
        small
    }

    /// `used` ns were used beyond what was granted.
    pub(crate) fn overrun(&self, entity: &Entity, used: u64) {
        if let Some(own) = self.vms.get(usize::from(entity.vm)) {
            own.pool.overrun(used);
        }
        if let Some(group) = entity.group.and_then(|g| self.groups.get(usize::from(g))) {
            group.pool.overrun(used);
        }
    }

    fn vm(&self, vm: VmId) -> Result<&VmShare, ShareError> {
        let share = self.vms.get(usize::from(vm.0)).ok_or(ShareError::TooLarge)?;
        (share.word.load(Relaxed) & EXISTS != 0).then_some(share).ok_or(ShareError::Unknown)
    }

    fn group(&self, group: GroupId) -> Result<&GroupShare, ShareError> {
        let share = self.groups.get(usize::from(group.0)).ok_or(ShareError::TooLarge)?;
        (share.word.load(Relaxed) & EXISTS != 0).then_some(share).ok_or(ShareError::Unknown)
    }

    fn group_of(&self, vm: u16) -> Option<u16> {
        let share = self.vms.get(usize::from(vm))?;
        let exists = share.word.load(Relaxed) & EXISTS != 0;
        u16::try_from(share.group.load(Relaxed)).ok().filter(|_| exists)
    }

    /// Adds to (or, wrapping, takes from) the sum of the group of `vm`.
    fn active_in_group(&self, vm: u16, change: u64) {
        if let Some(group) = self.group_of(vm).and_then(|g| self.groups.get(usize::from(g))) {
            group.word.update(Relaxed, Relaxed, |w| w & !SUM | w.wrapping_add(change) & SUM);
        }
    }

    /// Brings the LIMITED flag of a VM up to date.
    fn flag(&self, vm: u16) {
        let Some(share) = self.vms.get(usize::from(vm)) else { return };
        let group = self.group_of(vm).and_then(|g| self.groups.get(usize::from(g)));
        let limited = share.pool.limits() || group.is_some_and(|g| g.pool.limits());
        share.word.update(Relaxed, Relaxed, |w| if limited { w | LIMITED } else { w & !LIMITED });
    }
}
