//! What a stretch of service costs a vCPU, its weight as it changes, the end of its slice, and what the other queues are told.
use crate::{
    MIN_RUN, SLICE,
    class::Class,
    entity::Pace,
    fair::moment,
    pcpu::{ALONE, Running, View, within},
    queue::RunQueue,
    shares::{LIMITED, Shares},
    tree::VTime,
};

impl RunQueue {
    /// Counts the running vCPU's service up to `now`. A request that is served is followed by the next.
    pub(crate) fn charge(&mut self, now: u64) {
        let Some(slot) = self.running else { return };
        let from = self.charged;
        let ran = now.saturating_sub(from);
        self.charged = from.max(now);
        // A maximum that is new counts from here on.
        let limited = self.slab.get(slot).is_some_and(|e| e.seen.0 & LIMITED != 0);
        if self.fair.count == 1 && self.slab.get(slot).is_some_and(|e| e.is_fair()) {
            // Nobody waited for it: the weight that it has now is as good for all the time as any, and what others reckon with.
            self.reweigh(slot);
        }
        let shares = &*self.shares;
        let Some(entity) = self.slab.get_mut(slot) else { return };
        entity.stats.ran_ns = entity.stats.ran_ns.saturating_add(ran);
        match entity.class {
            Class::Fair => {}
            Class::Rt(_) => {
                entity.budget = entity.budget.saturating_sub(i64::try_from(ran).unwrap_or(i64::MAX));
                return;
            }
            Class::Partition => return,
        }
        if limited {
            if ran > entity.grant {
                shares.overrun(entity, ran.saturating_sub(entity.grant));
            }
            entity.grant = entity.grant.saturating_sub(ran);
        }
        let step = entity.span(ran);
        entity.start = entity.start.saturating_add(step);
        if entity.pace.service(entity.node.deadline.saturating_sub(entity.start)) == 0 {
            entity.node.deadline = entity.start.saturating_add(entity.span(SLICE));
        }
        if self.fair.count == 1 {
            self.fair.now = entity.start;
            self.sync(from, now);
        } else {
            let weight = entity.pace.weight;
            self.fair.settle(i128::from(weight).wrapping_mul(step.cast_signed()));
        }
        self.reweigh(slot);
    }

    /// Alone since before others had to share: what was used up to then counts for nothing, and from then on as theirs.
    fn sync(&mut self, from: u64, now: u64) {
        if let Some((floor, since)) = self.shares.pcpus.floor(self.pcpu, from) {
            let pace = Pace { weight: 0, inverse: self.fair.inverse() };
            let to = floor.saturating_add(pace.virtual_time(now.saturating_sub(since)));
            self.shift(self.fair.absolute(self.fair.now).max(to));
        }
        let Some((sync, since)) = self.shares.pcpus.sync().filter(|(_, since)| *since > from) else { return };
        let pace = Pace { weight: 0, inverse: self.fair.inverse() };
        let after = pace.virtual_time(now.saturating_sub(since));
        let then = self.fair.absolute(self.fair.now).saturating_sub(after);
        self.shift(within(then, sync, pace.virtual_time(ALONE)).saturating_add(after));
    }

    /// Gives a counted vCPU, which is in no tree, the weight that it has now. What it used or is owed stays, in ns.
    pub(crate) fn reweigh(&mut self, slot: u32) {
        let Some(entity) = self.slab.get(slot) else { return };
        if entity.seen == self.shares.words(entity) {
            return;
        }
        let before = (entity.pace.weight, entity.start);
        self.fair.load = self.fair.load.saturating_sub(before.0);
        self.reweigh_uncounted(slot);
        let Some(entity) = self.slab.get(slot) else { return };
        let after = moment(entity.pace.weight, entity.start, self.fair.now);
        self.fair.load = self.fair.load.saturating_add(entity.pace.weight);
        if self.fair.count == 1 {
            (self.fair.now, self.fair.rest) = (entity.start, 0);
        } else {
            self.fair.settle(after.saturating_sub(moment(before.0, before.1, self.fair.now)));
        }
    }

    /// The same for one that is not counted.
    pub(crate) fn reweigh_uncounted(&mut self, slot: u32) {
        let Some(entity) = self.slab.get_mut(slot) else { return };
        let words = self.shares.words(entity);
        if entity.seen == words {
            return;
        }
        entity.seen = words;
        let (old, new) = (entity.pace, Shares::pace(words));
        if old == new {
            return;
        }
        let now = self.fair.now;
        let request = new.virtual_time(old.service(entity.node.deadline.saturating_sub(entity.start)));
        let lag = |distance: VTime| new.virtual_time(old.service(distance));
        entity.start = match entity.start.checked_sub(now) {
            Some(ahead) => now.saturating_add(lag(ahead)),
            None => now.saturating_sub(lag(now.saturating_sub(entity.start))),
        };
        entity.node.deadline = entity.start.saturating_add(request);
        entity.pace = new;
    }

    /// When the running vCPU has to leave: it will have been served what it asked for, if `others` are Ready; or it will
    /// have used up what it was granted.
    pub(crate) fn end_of(&self, slot: u32, now: u64, others: bool) -> Option<u64> {
        let entity = self.slab.get(slot)?;
        match entity.class {
            Class::Partition => return None,
            Class::Rt(_) => return Some(now.saturating_add(u64::try_from(entity.budget).unwrap_or(0))),
            Class::Fair => {}
        }
        let granted = (entity.seen.0 & LIMITED != 0).then(|| now.saturating_add(entity.grant));
        if !others {
            return granted;
        }
        let left = entity.pace.service(entity.node.deadline.saturating_sub(entity.start));
        let served = now.saturating_add(left.max(MIN_RUN));
        Some(granted.map_or(served, |g| g.min(served)))
    }

    /// Tells the other queues how this one stands.
    pub(crate) fn publish(&mut self, now: u64) {
        let entity = self.running.and_then(|slot| self.slab.get(slot));
        let (class, vm) = (entity.map(|e| e.class), entity.map_or(0, |e| e.vm));
        let (running, inverse) = match class {
            None => (Running::Idle, 0),
            Some(Class::Fair) => (Running::Fair, entity.map_or(0, |e| e.pace.inverse)),
            Some(Class::Rt(rt)) => (Running::Rt(rt.priority), 0),
            Some(Class::Partition) => (Running::Owner, 0),
        };
        let view = View { running, owned: self.owner.is_some(), load: self.fair.count };
        let vtime = self.fair.absolute(self.fair.now);
        let start = entity.map_or(vtime, |e| self.fair.absolute(e.start));
        self.shares.pcpus.publish(self.pcpu, start, now, inverse, vm, view);
        if self.fair.count > 1 {
            self.shares.pcpus.refer(vtime, now);
        }
    }
}
