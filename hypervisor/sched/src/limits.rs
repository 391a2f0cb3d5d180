//! What a vCPU may use at most: grants out of `cpu.max` pools, real-time budgets, and the wait for the next period.
use crate::{SLICE, calls::Enqueued, class::Class, entity::RunState, queue::RunQueue, tree::VTime};

/// How many Throttled vCPUs become Ready in one call at most; the others are due at once.
const AT_ONCE: u32 = 32;

impl RunQueue {
    /// Makes the Throttled vCPUs Ready whose time has come: call it when [`Self::next_event`] is past (`pick` does the same
    /// for itself). `None`: none was due.
    pub fn release(&mut self, now: u64) -> Option<Enqueued> {
        if self.next_event()? > now {
            return None;
        }
        Some(self.release_due(now))
    }

    pub(crate) fn release_due(&mut self, now: u64) -> Enqueued {
        let mut all = Enqueued::NOTHING;
        for _ in 0..AT_ONCE {
            let Some(slot) = self.throttled.first(&self.slab) else { break };
            if self.slab.get(slot).is_none_or(|e| e.node.key > VTime::from(now)) {
                break;
            }
            self.throttled.remove(&mut self.slab, slot);
            let one = self.arrive(slot, now, SLICE);
            all = Enqueued { preempt: all.preempt || one.preempt, tick: all.tick.or(one.tick) };
        }
        all
    }

    /// Takes a grant for a limited vCPU that is in no tree but counted. `false`: there is none, it is Throttled.
    pub(crate) fn draw(&mut self, slot: u32, now: u64) -> bool {
        let Some(entity) = self.slab.get_mut(slot) else { return false };
        match self.shares.take(entity, SLICE, now) {
            Ok(grant) => {
                entity.grant = entity.grant.saturating_add(grant);
                true
            }
            Err(until) => {
                self.leave(slot, now);
                self.throttle(slot, until, now);
                false
            }
        }
    }

    /// Ready, in no tree and not counted, to Throttled.
    fn throttle(&mut self, slot: u32, until: u64, now: u64) {
        if let Some(entity) = self.slab.get_mut(slot) {
            entity.become_at(RunState::Throttled, now);
            self.throttled.insert(&mut self.slab, slot, until.into(), 0);
        }
    }

    /// A real-time vCPU or a partition's owner, in no tree, wants to run: it is Ready, `first` before its equals, or
    /// Throttled until its budget is full again.
    pub(crate) fn enter_rt(&mut self, slot: u32, now: u64, first: bool) -> RunState {
        let Some(entity) = self.slab.get_mut(slot) else { return RunState::Stopped };
        let key = match entity.class {
            Class::Rt(rt) => {
                if now >= entity.replenish {
                    // Periods follow each other, but one that begins after a rest begins when the vCPU wants to run: two
                    // are never less than a period apart.
                    let late = now.saturating_sub(entity.replenish) >= rt.period();
                    let begin = if late || entity.budget > 0 { now } else { entity.replenish };
                    entity.replenish = begin.saturating_add(rt.period());
                    let full = i64::try_from(rt.budget()).unwrap_or(i64::MAX);
                    entity.budget = full.saturating_add(entity.budget.min(0));
                }
                if entity.budget <= 0 {
                    let until = entity.replenish;
                    self.throttle(slot, until, now);
                    return RunState::Throttled;
                }
                u128::from(u8::MAX.wrapping_sub(rt.priority)).wrapping_add(1) << 64
            }
            Class::Partition | Class::Fair => 0,
        };
        self.arrivals = self.arrivals.wrapping_add(1);
        // Those that were preempted stand before those that came meanwhile, the last one first: it had preempted the others.
        let order = if first {
            (u64::MAX >> 1).wrapping_sub(self.arrivals)
        } else {
            (u64::MAX >> 1).wrapping_add(self.arrivals)
        };
        self.rt.insert(&mut self.slab, slot, key | u128::from(order), 0);
        RunState::Ready
    }

    /// The first real-time vCPU besides `slot`, if its priority is the same.
    pub(crate) fn rt_without(&mut self, slot: u32) -> Option<u32> {
        let key = self.slab.get(slot)?.node.key;
        self.rt.remove(&mut self.slab, slot);
        let other =
            self.rt.first(&self.slab).filter(|o| self.slab.get(*o).is_some_and(|e| e.node.key >> 64 == key >> 64));
        self.rt.insert(&mut self.slab, slot, key, 0);
        other
    }
}
