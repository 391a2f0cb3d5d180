//! The fair class of one queue: its virtual time, who comes and leaves, who is eligible.
//!
//! The virtual time is the mean of the virtual starts of all fair vCPUs that are Ready or Running here, weighted by their
//! effective weights; `rest` keeps what the division left over, so it is exact. It follows that somebody is always
//! eligible, and that a vCPU that comes with a lag makes the others' lags larger or smaller by as much in all.
//!
//! Starts are kept relative to the queue's `offset`; start + offset is the machine's virtual time. So a queue can be
//! brought nearer to the others by changing one number.
use crate::{
    SLICE,
    calls::Enqueued,
    class::Class,
    entity::{ORIGIN, Pace, RunState},
    moves::WINDOW,
    pcpu::within,
    queue::RunQueue,
    tree::{Tree, VTime},
};

/// No vCPU is further from its queue's virtual time than this when it arrives, in ns of its own service.
pub(crate) const LAG: u64 = 4 * SLICE;

#[derive(Debug)]
pub(crate) struct Fair {
    /// Those that are Ready, by virtual start.
    pub tree: Tree,
    /// The virtual time, and the sum of weight x (start - now), which is less than the load.
    pub now: VTime,
    pub rest: i128,
    /// How many are Ready or Running, and the sum of their weights.
    pub count: u32,
    pub load: u64,
    inverse: Pace,
    /// From this queue's virtual time to the machine's.
    pub offset: i128,
}

impl Fair {
    pub const fn new() -> Self {
        let inverse = Pace { weight: 0, inverse: 0 };
        Self { tree: Tree::new(), now: ORIGIN, rest: 0, count: 0, load: 0, inverse, offset: 0 }
    }

    /// The machine's virtual time of a time of this queue.
    #[inline]
    pub fn absolute(&self, time: VTime) -> VTime {
        time.wrapping_add_signed(self.offset)
    }

    /// This queue's virtual time of a time of the machine.
    #[inline]
    pub fn relative(&self, time: VTime) -> VTime {
        time.wrapping_add_signed(self.offset.wrapping_neg())
    }

    /// Moves the virtual time so that the weighted lags, which have changed by `by`, are nothing again in sum.
    pub fn settle(&mut self, by: i128) {
        let sum = self.rest.saturating_add(by);
        let load = i128::from(self.load);
        if (0..load).contains(&sum) {
            self.rest = sum;
            return;
        }
        let (by, rest) = divide(sum.unsigned_abs(), self.load);
        // Rounded down, so that the rest is positive.
        let (by, rest) = match (sum < 0, rest) {
            (false, _) => (by.cast_signed(), rest),
            (true, 0) => (by.cast_signed().wrapping_neg(), 0),
            (true, _) => (!by.cast_signed(), self.load.wrapping_sub(rest)),
        };
        self.now = self.now.saturating_add_signed(by);
        self.rest = rest.into();
    }

    /// One of `weight` with this start is counted from now on.
    fn add(&mut self, weight: u64, start: VTime) {
        self.load = self.load.saturating_add(weight);
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            (self.now, self.rest) = (start, 0);
        } else {
            self.settle(moment(weight, start, self.now));
        }
    }

    /// One of `weight` with this start is counted no more.
    fn sub(&mut self, weight: u64, start: VTime) {
        self.load = self.load.saturating_sub(weight);
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            self.rest = 0;
        } else {
            self.settle(moment(weight, start, self.now).saturating_neg());
        }
    }

    /// The mean weight.
    pub fn mean(&self) -> Pace {
        Pace::of(self.load.checked_div(self.count.into()).unwrap_or(0))
    }

    /// How fast the virtual time goes on, as a `Pace::inverse`; divides only where the load has changed.
    pub fn inverse(&mut self) -> u64 {
        if self.inverse.weight != self.load {
            self.inverse = Pace::of(self.load);
        }
        self.inverse.inverse
    }
}

/// Weight x (start - now). A ns of lag is 2^44 of it at any weight: what vCPUs are apart fits.
pub(crate) fn moment(weight: u64, start: VTime, now: VTime) -> i128 {
    i128::from(weight).wrapping_mul(start.wrapping_sub(now).cast_signed())
}

/// Quotient and remainder. What is below 2^80 (a minute of service, and any lag) takes two divide instructions at most.
fn divide(sum: u128, load: u64) -> (u128, u64) {
    const STEP: u32 = 16;
    let Some(load) = core::num::NonZeroU64::new(load) else { return (0, 0) };
    if let Ok(sum) = u64::try_from(sum) {
        return ((sum / load).into(), sum % load);
    }
    if let Ok(high) = u64::try_from(sum >> STEP)
        && load.get() >> (64 - STEP) == 0
    {
        let (first, left) = (high / load, high % load);
        let low = left << STEP | sum as u64 & ((1 << STEP) - 1);
        return (u128::from(first) << STEP | u128::from(low / load), low % load);
    }
    let wide = core::num::NonZeroU128::from(load);
    // A remainder is less than the load.
    (sum / wide, (sum % wide) as u64)
}

impl RunQueue {
    /// Off, Blocked or Throttled to Ready; the first request is of `request` ns.
    pub(crate) fn arrive(&mut self, slot: u32, now: u64, request: u64) -> Enqueued {
        self.charge(now);
        let Some(entity) = self.slab.get_mut(slot) else { return Enqueued::NOTHING };
        entity.become_at(RunState::Ready, now);
        if !entity.is_fair() {
            return match self.enter_rt(slot, now, false) {
                RunState::Ready => self.effect(slot, now),
                _ => Enqueued { preempt: false, tick: self.next_event() },
            };
        }
        let (start, deadline) = (entity.start, entity.node.deadline);
        // Sleep saves nothing up; where this queue has no time of its own, the others' counts.
        let floor = self.floor();
        self.join(slot, floor.map_or(start, |f| start.max(f)), floor, now);
        if let Some(entity) = self.slab.get_mut(slot) {
            let short = entity.start.saturating_add(entity.span(request));
            // A request that was cut short by the sleep keeps its deadline if that is earlier still.
            let kept = if deadline > entity.start { deadline.min(short) } else { short };
            entity.node.deadline = kept;
        }
        self.insert_fair(slot);
        self.effect(slot, now)
    }

    /// The virtual time that an arrival is measured by: this queue's, or if it has none that of the contended ones.
    pub(crate) fn floor(&self) -> Option<VTime> {
        if self.fair.count != 0 {
            return Some(self.fair.now);
        }
        self.shares.pcpus.reference().map(|r| self.fair.relative(r))
    }

    /// Counts a fair vCPU from now on, from `start` or within LAG of `near`; its deadline follows its start.
    pub(crate) fn join(&mut self, slot: u32, start: VTime, near: Option<VTime>, now: u64) {
        let Some(vm) = self.slab.get(slot).map(|e| e.vm) else { return };
        self.shares.runs(vm, true);
        if self.fair.count == 1 {
            self.company(now);
        }
        self.seat(slot, start, near);
    }

    /// As `join`, for one that is among its VM's runnable ones already: it only changes its queue.
    pub(crate) fn seat(&mut self, slot: u32, start: VTime, near: Option<VTime>) {
        self.reweigh_uncounted(slot);
        // As far from the others as this one's or their own slices can have brought it.
        let mean = if self.fair.count == 0 { 0 } else { self.fair.mean().virtual_time(WINDOW) };
        let Some(entity) = self.slab.get_mut(slot) else { return };
        let request = entity.node.deadline.saturating_sub(entity.start);
        entity.start = near.map_or(start, |near| within(start, near, entity.span(LAG).max(mean)));
        entity.node.deadline = entity.start.saturating_add(request);
        self.fair.add(entity.pace.weight, entity.start);
    }

    /// Counts a fair vCPU no more.
    pub(crate) fn leave(&mut self, slot: u32, now: u64) {
        let Some(vm) = self.slab.get(slot).map(|e| e.vm) else { return };
        self.shares.runs(vm, false);
        self.unseat(slot, now);
    }

    /// As `leave`, for one that only changes its queue: if it were not counted meanwhile, its siblings would be charged too little.
    pub(crate) fn unseat(&mut self, slot: u32, now: u64) {
        let Some(entity) = self.slab.get(slot) else { return };
        self.fair.sub(entity.pace.weight, entity.start);
        if self.fair.count == 1 {
            self.shares.pcpus.contend(false, self.fair.now, now);
        }
    }

    /// The only fair vCPU here is about to get company: what it used while nobody had to share is forgotten.
    pub(crate) fn company(&mut self, now: u64) {
        let own = self.fair.absolute(self.fair.now);
        if let Some(reference) = self.shares.pcpus.reference() {
            let inverse = self.fair.inverse().max(self.shares.pcpus.grain());
            self.shift(within(own, reference, Pace { weight: 0, inverse }.virtual_time(LAG)));
        }
        let own = self.fair.absolute(self.fair.now);
        self.shares.pcpus.contend(true, own, now);
    }

    /// Makes this queue's virtual time `to` for the machine.
    pub(crate) fn shift(&mut self, to: VTime) {
        let by = to.wrapping_sub(self.fair.absolute(self.fair.now)).cast_signed();
        self.fair.offset = self.fair.offset.wrapping_add(by);
    }

    /// Puts a fair vCPU that is counted among the Ready ones.
    pub(crate) fn insert_fair(&mut self, slot: u32) {
        let Some(entity) = self.slab.get(slot) else { return };
        let (start, reach) = (entity.start, entity.allowed.0 & !crate::Affinity::only(self.pcpu).0);
        self.fair.tree.insert(&mut self.slab, slot, start, reach);
    }

    /// What the arrival of `slot` means for the pCPU.
    pub(crate) fn effect(&mut self, slot: u32, now: u64) -> Enqueued {
        let Some(running) = self.running else {
            return Enqueued { preempt: true, tick: None };
        };
        let (Some(new), Some(old)) = (self.slab.get(slot), self.slab.get(running)) else { return Enqueued::NOTHING };
        let preempt = match (new.class, old.class) {
            (Class::Fair, Class::Fair) => {
                let eligible = new.start <= self.fair.now;
                let over = old.start > self.fair.now;
                eligible && (over || (new.node.deadline, slot) < (old.node.deadline, running))
            }
            (Class::Rt(new), Class::Rt(old)) => new.priority > old.priority,
            (Class::Rt(_), Class::Fair) => true,
            _ => false,
        };
        let before = self.slice_end;
        if before.is_none() {
            self.slice_end = self.end_of(running, now, true);
        }
        self.publish(now);
        Enqueued { preempt, tick: self.slice_end.filter(|_| before.is_none()) }
    }

    /// By the rule; the one that was yielded to goes first, the one that yielded last. With the end of the slice that it
    /// was given, if it was.
    pub(crate) fn choose(&mut self) -> Option<(u32, Option<u64>)> {
        let next = self.next.take();
        let yielded = self.yielded.take();
        if let Some(first) = self.rt.first(&self.slab) {
            let other = yielded.filter(|y| *y == first).and_then(|y| self.rt_without(y));
            return Some((other.unwrap_or(first), None));
        }
        if let Some((slot, end)) = next
            && self.slab.get(slot).is_some_and(|e| e.is_fair() && e.state == RunState::Ready)
        {
            return Some((slot, end));
        }
        if let Some(other) = yielded.and_then(|slot| self.choose_without(slot)) {
            return Some((other, None));
        }
        if self.fair.tree.len() == 1 {
            return self.fair.tree.first(&self.slab).map(|only| (only, None));
        }
        // The mean of all starts is not before the first of them: somebody is eligible.
        self.fair
            .tree
            .best_until(&self.slab, self.fair.now)
            .or_else(|| self.fair.tree.first(&self.slab))
            .map(|s| (s, None))
    }

    /// Another than `slot`: by the rule, or where `slot` is the only one eligible the one that is eligible next.
    fn choose_without(&mut self, slot: u32) -> Option<u32> {
        self.slab.get(slot).filter(|e| e.state == RunState::Ready && e.is_fair())?;
        self.fair.tree.remove(&mut self.slab, slot);
        let other = self.fair.tree.best_until(&self.slab, self.fair.now).or_else(|| self.fair.tree.first(&self.slab));
        self.insert_fair(slot);
        other
    }
}

#[cfg(test)]
impl RunQueue {
    /// Holds every sum and tree against the vCPUs' records.
    pub(crate) fn check(&self) {
        let of = |s| self.slab.all().filter(move |e| e.state == s);
        let fair = self.fair.tree.check(&self.slab);
        let rt = self.rt.check(&self.slab);
        let throttled = self.throttled.check(&self.slab);
        assert_eq!(fair.len() + rt.len(), of(RunState::Ready).count());
        assert_eq!(throttled.len(), of(RunState::Throttled).count());
        assert!(fair.iter().all(|s| self.slab.get(*s).unwrap().is_fair()));
        assert!(rt.iter().all(|s| !self.slab.get(*s).unwrap().is_fair()));
        assert_eq!(of(RunState::Running).count(), usize::from(self.running.is_some()));
        let counted: std::vec::Vec<_> =
            of(RunState::Ready).chain(of(RunState::Running)).filter(|e| e.is_fair()).collect();
        assert_eq!(self.fair.count as usize, counted.len());
        if !counted.is_empty() {
            assert_eq!(self.fair.load, counted.iter().map(|e| e.pace.weight).sum::<u64>());
            let sum: i128 = counted.iter().map(|e| moment(e.pace.weight, e.start, self.fair.now)).sum();
            assert_eq!(sum, self.fair.rest, "the virtual time is not the mean");
        }
        let owner = self.slab.all().filter(|e| e.class == Class::Partition).map(|e| e.id).next();
        assert_eq!(owner, self.owner);
    }
}
