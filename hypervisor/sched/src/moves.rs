//! From queue to queue, and what may be changed of a vCPU while it exists.
use alloc::boxed::Box;

use crate::{
    SLICE,
    calls::{Enqueued, Error, Stolen},
    class::{Affinity, Class},
    entity::{Entity, EntityId, Pace, RunState, Stats},
    pcpu::View,
    queue::RunQueue,
    shares::{Shares, VmId},
    tree::VTime,
};

/// Who runs elsewhere is this much further ahead than who would have to wait here, in ns of the latter's service, before it is
/// displaced: less than that is what a slice each makes of vCPUs that are served alike.
const GAP: u64 = SLICE;
/// A queue gives one vCPU away in this time at most, in ns.
const BETWEEN: u64 = SLICE;
/// No contended queue is further than this behind or ahead of all others, in ns of the service of the lightest queue's mean vCPU:
/// a gap that moves cannot close (affinities, a vCPU that would need two pCPUs) grows no larger.
pub(crate) const WINDOW: u64 = 16 * SLICE;

impl Shares {
    /// A pCPU as its queue described it last; `None` beyond the machine.
    pub fn view(&self, pcpu: usize) -> Option<View> {
        self.pcpus.view(pcpu)
    }
}

impl Stolen {
    /// A new vCPU of `vm`: Off, fair, allowed on every pCPU. Allocates, so no queue's lock should be held.
    pub fn new(shares: &Shares, id: EntityId, vm: VmId) -> Result<Self, Error> {
        let group = shares.check_vm(vm).ok_or(Error::UnknownVm)?;
        Ok(Self { entity: Box::new(Entity::new(id, vm.0, group)) })
    }

    /// Which vCPU it is.
    pub fn id(&self) -> EntityId {
        self.entity.id
    }

    /// Where it may run.
    pub fn allowed(&self) -> Affinity {
        self.entity.allowed
    }

    /// The same vCPU with another affinity, while it is between two queues.
    pub fn allow(mut self, allowed: Affinity) -> Self {
        self.entity.allowed = allowed;
        self
    }

    /// What it has used so far.
    pub fn stats(&self) -> Stats {
        self.entity.stats
    }
}

impl RunQueue {
    /// For the idle pCPU `by`: takes the Ready vCPU that is furthest behind of the fair ones that may run there. The one
    /// whose registers may still be loaded here stays.
    pub fn steal(&mut self, by: usize, now: u64) -> Option<Stolen> {
        let slot = self.candidate(Affinity::only(by).0, None)?;
        self.take_slot(slot, now)
    }

    /// At the end of a slice, after `put`: gives a vCPU that is due to the pCPU whose running one is furthest ahead, if that one
    /// has had more than who would have to wait here. It is to be received there, with this queue's lock free, and runs there
    /// next; if it is refused, here again. At most one in the time of a slice. Costs O(pCPUs + log n).
    pub fn shed(&mut self, now: u64) -> Option<(Stolen, usize)> {
        if self.fair.count < 2 {
            return None;
        }
        let own = self.fair.absolute(self.fair.now);
        let mask = self.fair.tree.reach(&self.slab);
        let mut best: Option<(VTime, usize)> = None;
        // The slowest and the fastest of the other contended queues, and the lightest mean vCPU of all.
        let mut range: Option<(VTime, VTime)> = None;
        let mut grain = self.fair.mean().inverse;
        self.shares.pcpus.offer(self.pcpu, grain);
        for pcpu in (0..self.shares.pcpus.len()).filter(|p| *p != self.pcpu) {
            let Some(time) = self.shares.time_of(pcpu, now) else { continue };
            if self.shares.pcpus.load_of(pcpu).is_some_and(|(load, _)| load > 1) {
                grain = grain.max(self.shares.pcpus.offered(pcpu));
                range = Some(range.map_or((time, time), |(low, high)| (low.min(time), high.max(time))));
            } else {
                self.shares.pcpus.lift(pcpu, time, own, grain, now);
            }
            if mask & Affinity::only(pcpu).0 != 0 && best.is_none_or(|(b, _)| time > b) {
                best = Some((time, pcpu));
            }
        }
        if let Some((low, high)) = range {
            let window = Pace { weight: 0, inverse: grain }.virtual_time(WINDOW);
            self.shift(own.clamp(low.saturating_sub(window), high.saturating_add(window)));
        }
        self.shares.pcpus.set_grain(grain);
        let (time, pcpu) = best?;
        if now.saturating_sub(self.shed_at) < BETWEEN {
            return None;
        }
        let there = self.fair.relative(time);
        let slot = self.due(pcpu, there)?;
        self.shed_at = now;
        let mut given = self.take_slot(slot, now)?;
        given.entity.pushed = true;
        Some((given, pcpu))
    }

    /// Who is to go to `pcpu`, where somebody runs who has come to `there` (in this queue's time).
    fn due(&mut self, pcpu: usize, there: VTime) -> Option<u32> {
        let kept = self.kept();
        let first = self.fair.tree.best_until(&self.slab, self.fair.now)?;
        let goes = |e: &Entity| !e.pushed && e.allowed.has(pcpu);
        if let Some(kept) = kept.and_then(|s| self.slab.get(s))
            && Some(first) != self.kept()
            && self.slab.get(first).is_some_and(goes)
            && there.saturating_sub(kept.start) >= kept.span(GAP)
        {
            // `first` displaces the one there, and who has just run here goes on.
            return Some(first);
        }
        // `first` runs here. Others are due there if they are a slice late by its time: seldom, so the earliest is looked at first.
        let late = |e: &Entity| there.saturating_sub(e.start) >= e.span(SLICE);
        if !self.fair.tree.first(&self.slab).and_then(|s| self.slab.get(s)).is_some_and(late) {
            return None;
        }
        self.fair.tree.remove(&mut self.slab, first);
        let second = self.candidate(Affinity::only(pcpu).0, Some(first));
        self.insert_fair(first);
        second.filter(|s| self.slab.get(*s).is_some_and(|e| goes(e) && late(e)))
    }

    /// The one whose registers are still here, if it is Ready.
    fn kept(&self) -> Option<u32> {
        let kept = self.resident.and_then(|id| self.slab.find(id));
        kept.filter(|s| self.slab.get(*s).is_some_and(|e| e.state == RunState::Ready && e.is_fair()))
    }

    /// The one furthest behind that the pCPUs of `mask` may take now.
    fn candidate(&mut self, mask: u128, besides: Option<u32>) -> Option<u32> {
        let kept = self.kept().filter(|k| Some(*k) != besides);
        if let Some(kept) = kept {
            self.fair.tree.remove(&mut self.slab, kept);
        }
        let found = self.fair.tree.first_within(&self.slab, mask);
        if let Some(kept) = kept {
            self.insert_fair(kept);
        }
        found
    }

    /// Takes a vCPU that is neither Running nor held here out, to be received by another queue.
    pub fn take(&mut self, id: EntityId, now: u64) -> Result<Stolen, Error> {
        let slot = self.slot(id)?;
        if self.running == Some(slot) {
            return Err(Error::State(RunState::Running));
        }
        if self.resident == Some(id) || self.slab.get(slot).is_none_or(|e| !e.is_fair()) {
            return Err(Error::Pinned);
        }
        self.take_slot(slot, now).ok_or(Error::NotHere)
    }

    pub(crate) fn take_slot(&mut self, slot: u32, now: u64) -> Option<Stolen> {
        if self.slab.get(slot).is_some_and(|e| e.state == RunState::Ready && e.is_fair()) {
            self.fair.tree.remove(&mut self.slab, slot);
            self.unseat(slot, now);
        } else {
            self.detach(slot, now);
        }
        let mut entity = self.forget(slot)?;
        entity.start = self.fair.absolute(entity.start);
        entity.node.deadline = self.fair.absolute(entity.node.deadline);
        entity.stats.moves = entity.stats.moves.saturating_add(1);
        Some(Stolen { entity })
    }

    /// Takes in what another queue gave up, with the credit or debt that it has by the machine's virtual time (some slices'
    /// worth at most). What is refused comes back: this pCPU is not allowed, or a partition's; there is no room
    /// ([`Self::resize`]); the number is here already.
    pub fn receive(&mut self, stolen: Stolen, now: u64) -> Result<Option<Enqueued>, Stolen> {
        let mut entity = stolen.entity;
        if !entity.allowed.has(self.pcpu) || self.owner.is_some() {
            return Err(Stolen { entity });
        }
        self.charge(now);
        let (start, deadline) = (entity.start, entity.node.deadline);
        let state = entity.state;
        entity.start = self.fair.relative(start);
        entity.node.deadline = self.fair.relative(deadline);
        let until = entity.node.key;
        let slot = match self.slab.insert(entity) {
            Ok(slot) => slot,
            Err(mut entity) => {
                (entity.start, entity.node.deadline) = (start, deadline);
                return Err(Stolen { entity });
            }
        };
        match state {
            RunState::Ready => {
                if self.fair.count == 1 {
                    self.company(now);
                }
                // That may have made the queue's time another of the machine's.
                let start = self.fair.relative(start);
                if let Some(entity) = self.slab.get_mut(slot) {
                    (entity.start, entity.node.deadline) = (start, self.fair.relative(deadline));
                }
                self.seat(slot, start, self.floor());
                self.insert_fair(slot);
                Ok(Some(self.directed(slot, now)))
            }
            RunState::Throttled => {
                self.throttled.insert(&mut self.slab, slot, until, 0);
                Ok(Some(Enqueued { preempt: false, tick: self.next_event() }))
            }
            RunState::Off | RunState::Running | RunState::Blocked | RunState::Held | RunState::Stopped => Ok(None),
        }
    }

    /// What the arrival of `slot` from another queue means for the pCPU. One that was pushed here runs next: that is why it came.
    fn directed(&mut self, slot: u32, now: u64) -> Enqueued {
        let effect = self.effect(slot, now);
        if self.next.is_some() || self.slab.get(slot).is_none_or(|e| !e.pushed) {
            return effect;
        }
        self.next = Some((slot, None));
        let fair = self.running.and_then(|r| self.slab.get(r)).is_none_or(Entity::is_fair);
        Enqueued { preempt: effect.preempt || fair, ..effect }
    }

    /// Says on which pCPUs a vCPU may run. `Ok(false)`: not here any more; once it is not Running and not resident, `take`
    /// it and have one of those receive it (until then it goes on here).
    pub fn set_affinity(&mut self, id: EntityId, allowed: Affinity) -> Result<bool, Error> {
        let slot = self.slot(id)?;
        if allowed == Affinity::NONE {
            return Err(Error::Nowhere);
        }
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        if !entity.is_fair() {
            return Err(Error::Pinned);
        }
        entity.allowed = allowed;
        if entity.state == RunState::Ready {
            self.fair.tree.remove(&mut self.slab, slot);
            self.insert_fair(slot);
        }
        Ok(allowed.has(self.pcpu))
    }

    /// Makes a change of weights or maxima in [`Shares`] count for a vCPU at once, instead of from its next pick on: after
    /// [`Shares::set_vm_weight`] or the like, for each vCPU that it concerns. The pCPU must set its timer again.
    pub fn refresh(&mut self, id: EntityId, now: u64) -> Result<(), Error> {
        let slot = self.slot(id)?;
        self.charge(now);
        let entity = self.slab.get(slot).ok_or(Error::NotHere)?;
        match (entity.state, entity.is_fair()) {
            (RunState::Ready, true) => {
                self.fair.tree.remove(&mut self.slab, slot);
                self.reweigh(slot);
                self.insert_fair(slot);
            }
            (RunState::Running, true) => {
                self.reweigh(slot);
                // A maximum that is new: it gets its first grant, if there is one, at its next pick.
                self.slice_end = self.end_of(slot, now, self.ready_count() != 0);
                self.publish(now);
            }
            _ => {}
        }
        Ok(())
    }

    /// Changes a vCPU's class. Real-time and partition tie it to this pCPU: its affinity becomes that, and remains it when
    /// it is fair again. A partition must be the only vCPU of the queue. A running one goes on; the pCPU is to `put` and
    /// `pick` again. Real-time parameters are not checked here: see [`crate::admit_rt`].
    pub fn set_class(&mut self, id: EntityId, class: Class, now: u64) -> Result<(), Error> {
        let slot = self.slot(id)?;
        if class == Class::Partition && self.slab.len() != 1 {
            return Err(Error::Occupied);
        }
        self.charge(now);
        let running = self.running == Some(slot);
        let entity = self.slab.get(slot).ok_or(Error::NotHere)?;
        let (state, was_fair) = (entity.state, entity.is_fair());
        if running && was_fair {
            let shares = &*self.shares;
            if let Some(entity) = self.slab.get_mut(slot) {
                shares.give(entity, entity.grant);
                entity.grant = 0;
            }
            self.leave(slot, now);
        }
        self.detach(slot, now);
        self.owner = (class == Class::Partition).then_some(id).or(self.owner.filter(|o| *o != id));
        let here = Affinity::only(self.pcpu);
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        entity.class = class;
        if let Class::Rt(rt) = class {
            entity.budget = i64::try_from(rt.budget()).unwrap_or(i64::MAX);
            entity.replenish = now.saturating_add(rt.period());
        }
        if class != Class::Fair {
            entity.allowed = here;
        }
        let start = entity.start;
        match (state, class) {
            (RunState::Running, Class::Fair) => {
                let near = self.floor();
                self.join(slot, near.map_or(start, |n| start.max(n)), near, now);
            }
            (RunState::Ready | RunState::Throttled, _) => drop(self.arrive(slot, now, SLICE)),
            _ => {}
        }
        if running {
            self.slice_end = self.end_of(slot, now, self.ready_count() != 0);
        }
        self.publish(now);
        Ok(())
    }

    /// The running vCPU is to give the rest of its slice to `target`, which is Ready here (a sibling that may hold the lock
    /// it spins for): `put` it as Yielded, and `pick` chooses `target`. The time is the target's: it runs it from its own
    /// share, ahead of its turn. `Ok(false)`: it has had a slice ahead of its share already, and must wait for its turn.
    pub fn yield_to(&mut self, target: EntityId, now: u64) -> Result<bool, Error> {
        let slot = self.slot(target)?;
        self.charge(now);
        let entity = self.slab.get(slot).ok_or(Error::NotHere)?;
        if entity.state != RunState::Ready || !entity.is_fair() {
            return Err(Error::State(entity.state));
        }
        let ahead = entity.start.saturating_sub(self.fair.now);
        if ahead > entity.span(SLICE) {
            return Ok(false);
        }
        self.next = Some((slot, self.slice_end));
        Ok(true)
    }
}
