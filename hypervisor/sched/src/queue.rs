//! The run queue of one pCPU. The rule and the states are in the crate's text.
use alloc::vec::Vec;

use crate::{
    MIN_RUN, SLICE, WAKE_SLICE,
    calls::{Enqueued, Error, Pick, Started, Stolen, Wake, Why},
    entity::{Entity, EntityId, RunState, Stats, Weight, scaled},
    tree::{Tree, VTime},
};

/// The vCPUs of one pCPU.
#[derive(Debug)]
pub struct RunQueue {
    entities: Vec<Option<Entity>>,
    ready: Tree,
    running: Option<EntityId>,
    /// The last one picked: its registers may still be loaded on the pCPU.
    resident: Option<EntityId>,
    slice_end: Option<u64>,
    /// The one that the next `pick` passes over if there is any other.
    yielded: Option<EntityId>,
    /// The virtual time, and the rest of its last division.
    virtual_now: VTime,
    rest: u64,
    /// Sum of the weights that are Ready or Running.
    load: u64,
    /// Up to when the running one's service is counted.
    charged: u64,
}

impl RunQueue {
    /// A queue for vCPU numbers below `capacity`. Some 160 bytes are allocated for each, here and never again.
    pub fn new(capacity: u32) -> Self {
        Self {
            entities: alloc::vec![None; capacity as usize],
            ready: Tree::new(capacity as usize),
            running: None,
            resident: None,
            slice_end: None,
            yielded: None,
            // High enough that a vCPU which arrives from another queue with credit has somewhere to start.
            virtual_now: 1 << 64,
            rest: 0,
            load: 0,
            charged: 0,
        }
    }

    /// Takes a new vCPU in, as Off.
    pub fn admit(&mut self, id: EntityId, weight: Weight) -> Result<(), Error> {
        let slot = self.entities.get_mut(id.0 as usize).ok_or(Error::TooLarge)?;
        if slot.is_some() {
            return Err(Error::Exists);
        }
        *slot = Some(Entity::new(weight));
        self.ready.set_times(id.0, self.virtual_now, self.virtual_now);
        Ok(())
    }

    /// Forgets a vCPU that is not Running; what it used in all.
    pub fn remove(&mut self, id: EntityId) -> Result<Stats, Error> {
        let entity = *self.entity(id)?;
        match entity.state {
            RunState::Running => return Err(Error::State(RunState::Running)),
            RunState::Ready => self.dequeue(id, entity.weight),
            RunState::Off | RunState::Blocked | RunState::Stopped => {}
        }
        self.forget(id);
        Ok(entity.stats)
    }

    /// Off to Ready: the boot vCPU, or CPU_ON. What it starts with must be left for whoever loads it next.
    pub fn start(&mut self, id: EntityId, now: u64) -> Result<Started, Error> {
        let entity = self.entity_mut(id)?;
        match entity.state {
            RunState::Off => Ok(Started::Enqueued(self.arrive(id, now))),
            RunState::Running if !entity.stop_pending => {
                entity.start_pending = true;
                Ok(Started::WhenPut)
            }
            state => Err(Error::State(state)),
        }
    }

    /// Something happened that `id` may be waiting for.
    pub fn wake(&mut self, id: EntityId, now: u64) -> Wake {
        let Ok(entity) = self.entity_mut(id) else {
            return Wake::NotHere;
        };
        match entity.state {
            RunState::Running => {
                entity.wake_pending = true;
                Wake::Running
            }
            RunState::Ready => Wake::AlreadyReady,
            RunState::Blocked => Wake::Enqueued(self.arrive(id, now)),
            RunState::Off | RunState::Stopped => Wake::Off,
        }
    }

    /// Forgets wake-ups so far, before looking whether there is anything to do; see the crate's text on blocking.
    #[inline]
    pub fn clear_wake(&mut self, id: EntityId) {
        if let Ok(entity) = self.entity_mut(id) {
            entity.wake_pending = false;
        }
    }

    /// Chooses what runs next. If one is Running already, that one again.
    pub fn pick(&mut self, now: u64) -> Option<Pick> {
        if let Some(id) = self.running {
            return Some(Pick { id, slice_end: self.slice_end });
        }
        let id = self.choose()?;
        self.ready.remove(id.0);
        let changed = self.resident != Some(id);
        let entity = self.entity_mut(id).ok()?;
        entity.state = RunState::Running;
        entity.stats.waited_ns = entity.stats.waited_ns.saturating_add(now.saturating_sub(entity.since));
        entity.stats.switches = entity.stats.switches.saturating_add(u64::from(changed));
        self.running = Some(id);
        self.charged = now;
        self.slice_end = if self.ready.len() == 0 { None } else { Some(self.end_of_request(id, now)) };
        Some(Pick { id, slice_end: self.slice_end })
    }

    /// The running vCPU leaves the pCPU. Returns the state it is in now, which may be Ready where Blocked or Off was asked
    /// for: see the crate's table.
    pub fn put(&mut self, id: EntityId, now: u64, why: Why) -> Result<RunState, Error> {
        let state = self.entity(id)?.state;
        if state != RunState::Running {
            return Err(Error::State(state));
        }
        self.charge(now);
        self.running = None;
        self.slice_end = None;
        self.yielded = (why == Why::Yielded).then_some(id);
        let entity = self.entity_mut(id)?;
        let fresh = why == Why::Off && entity.start_pending;
        let next = match why {
            _ if entity.stop_pending => RunState::Stopped,
            Why::Stopped => RunState::Stopped,
            Why::Off if !fresh => RunState::Off,
            Why::Blocked if !entity.wake_pending => RunState::Blocked,
            Why::Off | Why::Blocked | Why::Preempted | Why::Yielded => RunState::Ready,
        };
        entity.state = next;
        entity.wake_pending = false;
        if fresh || next == RunState::Stopped {
            entity.start_pending = false;
        }
        if next == RunState::Stopped {
            entity.stop_pending = false;
        }
        entity.since = now;
        let (weight, movable) = (entity.weight, !entity.pinned);
        if next == RunState::Ready {
            self.ready.insert(id.0, movable);
        } else {
            self.load = self.load.saturating_sub(weight.get());
        }
        Ok(next)
    }

    /// Ends a vCPU. One that is Running only is marked (`Ok(Running)`): kick its pCPU, whose next `put` ends it.
    pub fn stop(&mut self, id: EntityId) -> Result<RunState, Error> {
        let entity = self.entity_mut(id)?;
        let weight = entity.weight;
        match entity.state {
            RunState::Running => {
                entity.stop_pending = true;
                return Ok(RunState::Running);
            }
            RunState::Ready => self.dequeue(id, weight),
            RunState::Off | RunState::Blocked | RunState::Stopped => {}
        }
        self.entity_mut(id)?.state = RunState::Stopped;
        Ok(RunState::Stopped)
    }

    /// Stopped to Off, for a VM's reset.
    pub fn reset(&mut self, id: EntityId) -> Result<(), Error> {
        let entity = self.entity_mut(id)?;
        match entity.state {
            RunState::Stopped => {
                entity.state = RunState::Off;
                Ok(())
            }
            state => Err(Error::State(state)),
        }
    }

    /// For an idle pCPU: takes the Ready vCPU with the earliest deadline of those that may leave. The one whose registers
    /// may still be loaded here stays.
    pub fn steal(&mut self) -> Option<Stolen> {
        let kept = self.resident.filter(|r| self.entity(*r).is_ok_and(|e| e.state == RunState::Ready));
        if let Some(kept) = kept {
            self.ready.remove(kept.0);
        }
        let best = self.ready.best_movable().map(EntityId);
        if let Some(kept) = kept {
            let movable = self.entity(kept).is_ok_and(|e| !e.pinned);
            self.ready.insert(kept.0, movable);
        }
        self.take(best?).ok()
    }

    /// Takes a vCPU that is neither Running nor held here out, to be received by another queue.
    pub fn take(&mut self, id: EntityId) -> Result<Stolen, Error> {
        let entity = *self.entity(id)?;
        match entity.state {
            RunState::Running => return Err(Error::State(RunState::Running)),
            _ if entity.pinned || self.resident == Some(id) => return Err(Error::Pinned),
            RunState::Ready => self.dequeue(id, entity.weight),
            RunState::Off | RunState::Blocked | RunState::Stopped => {}
        }
        let (start, deadline) = self.ready.times(id.0);
        self.forget(id);
        // Both fit in 127 bits: virtual times start at 2^64 and grow by less than 2^64 a call.
        let ahead = start.cast_signed().saturating_sub(self.virtual_now.cast_signed());
        Ok(Stolen { id, entity, ahead, request: deadline.saturating_sub(start) })
    }

    /// Takes in what another queue gave up, with the credit or debt it had there (one request's worth at most). What is
    /// refused (the number is too large, or there already) comes back.
    pub fn receive(&mut self, stolen: Stolen, now: u64) -> Result<Option<Enqueued>, Stolen> {
        let id = stolen.id;
        match self.entities.get_mut(id.0 as usize) {
            Some(slot) if slot.is_none() => *slot = Some(stolen.entity),
            _ => return Err(stolen),
        }
        self.charge(now);
        let weight = stolen.entity.weight;
        let limit = i128::from(weight.virtual_time(SLICE));
        let start = self.virtual_now.saturating_add_signed(stolen.ahead.clamp(limit.saturating_neg(), limit));
        self.ready.set_times(id.0, start, start.saturating_add(stolen.request));
        if stolen.entity.state != RunState::Ready {
            return Ok(None);
        }
        self.load = self.load.saturating_add(weight.get());
        self.ready.insert(id.0, !stolen.entity.pinned);
        Ok(Some(self.effect(id, now)))
    }

    /// Holds a vCPU in this queue, or lets it go (affinity; state that only this pCPU has).
    pub fn pin(&mut self, id: EntityId, pinned: bool) -> Result<(), Error> {
        let entity = self.entity_mut(id)?;
        entity.pinned = pinned;
        if entity.state == RunState::Ready {
            self.ready.remove(id.0);
            self.ready.insert(id.0, !pinned);
        }
        Ok(())
    }

    /// Tells whose registers are in the pCPU from now on: that one stays here until they are saved. Called after a switch, not
    /// by [`Self::pick`]: between the two the *former* one's registers are still in the pCPU, and it must not leave.
    pub fn set_resident(&mut self, id: Option<EntityId>) {
        self.resident = id;
    }

    /// Changes a vCPU's weight. What it has used or is owed stays.
    pub fn set_weight(&mut self, id: EntityId, weight: Weight, now: u64) -> Result<(), Error> {
        self.charge(now);
        let entity = self.entity_mut(id)?;
        let (old, state) = (entity.weight, entity.state);
        entity.weight = weight;
        let movable = !entity.pinned;
        if state == RunState::Ready {
            self.ready.remove(id.0);
        }
        let (start, deadline) = self.ready.times(id.0);
        let left = old.service(narrow(deadline.saturating_sub(start)));
        self.ready.set_times(id.0, start, start.saturating_add(weight.virtual_time(left).into()));
        if state == RunState::Ready {
            self.ready.insert(id.0, movable);
        }
        if matches!(state, RunState::Ready | RunState::Running) {
            self.load = self.load.saturating_sub(old.get()).saturating_add(weight.get());
        }
        Ok(())
    }

    /// The vCPU that has the pCPU.
    #[inline]
    pub fn running(&self) -> Option<EntityId> {
        self.running
    }

    /// When the running vCPU's slice ends, in ns; `None` where nothing runs or nothing else is Ready.
    #[inline]
    pub fn slice_end(&self) -> Option<u64> {
        self.slice_end
    }

    /// How many are Ready, without the running one.
    #[inline]
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The sum of the weights that are Ready or Running.
    pub fn load(&self) -> u64 {
        self.load
    }

    /// The state of a vCPU, or `None` if it is not here.
    pub fn state(&self, id: EntityId) -> Option<RunState> {
        self.entity(id).ok().map(|e| e.state)
    }

    /// What a vCPU has used up to its last change of state (for a running one: up to the last call that charged it).
    pub fn stats(&self, id: EntityId) -> Option<Stats> {
        self.entity(id).ok().map(|e| e.stats)
    }

    /// Off or Blocked to Ready.
    fn arrive(&mut self, id: EntityId, now: u64) -> Enqueued {
        self.charge(now);
        let Ok(entity) = self.entity_mut(id) else {
            return Enqueued { preempt: false, tick: None };
        };
        entity.state = RunState::Ready;
        entity.since = now;
        let (weight, movable) = (entity.weight, !entity.pinned);
        self.load = self.load.saturating_add(weight.get());
        let (start, deadline) = self.ready.times(id.0);
        let start = start.max(self.virtual_now);
        let short = start.saturating_add(weight.virtual_time(WAKE_SLICE).into());
        // A request that was cut short by the sleep keeps its deadline if that is earlier still.
        let deadline = if deadline > start { deadline.min(short) } else { short };
        self.ready.set_times(id.0, start, deadline);
        self.ready.insert(id.0, movable);
        self.effect(id, now)
    }

    /// What the arrival of `id` means for the pCPU.
    fn effect(&mut self, id: EntityId, now: u64) -> Enqueued {
        let Some(running) = self.running else {
            return Enqueued { preempt: true, tick: None };
        };
        let tick = if self.slice_end.is_none() { Some(self.end_of_request(running, now)) } else { None };
        self.slice_end = self.slice_end.or(tick);
        let (start, deadline) = self.ready.times(id.0);
        let (running_start, running_deadline) = self.ready.times(running.0);
        let eligible = start <= self.virtual_now;
        let over = running_start > self.virtual_now;
        Enqueued { preempt: eligible && (over || (deadline, id) < (running_deadline, running)), tick }
    }

    /// By the rule; where rounding or a departure left nobody eligible, the virtual time jumps to the first start.
    fn choose(&mut self) -> Option<EntityId> {
        if let Some(other) = self.yielded.take().and_then(|id| self.choose_without(id)) {
            return Some(other);
        }
        let (first, _) = self.ready.times(self.ready.first()?);
        self.virtual_now = self.virtual_now.max(first);
        self.ready.best_eligible(self.virtual_now).map(EntityId)
    }

    /// Another than `id`: by the rule, or where `id` is the only one eligible the one that is eligible next.
    fn choose_without(&mut self, id: EntityId) -> Option<EntityId> {
        let entity = self.entity(id).ok().filter(|e| e.state == RunState::Ready)?;
        let movable = !entity.pinned;
        self.ready.remove(id.0);
        let other = self.ready.best_eligible(self.virtual_now).or_else(|| self.ready.first());
        self.ready.insert(id.0, movable);
        other.map(EntityId)
    }

    /// Counts the running vCPU's service up to `now`. A request that is served is followed by the next.
    fn charge(&mut self, now: u64) {
        let Some(id) = self.running else {
            return;
        };
        let ran = now.saturating_sub(self.charged);
        self.charged = self.charged.max(now);
        let load = self.load;
        let Ok(entity) = self.entity_mut(id) else {
            return;
        };
        entity.stats.ran_ns = entity.stats.ran_ns.saturating_add(ran);
        let weight = entity.weight;
        let (start, mut deadline) = self.ready.times(id.0);
        let start = start.saturating_add(weight.virtual_time(ran).into());
        if weight.service(narrow(deadline.saturating_sub(start))) == 0 {
            deadline = start.saturating_add(weight.virtual_time(SLICE).into());
        }
        self.ready.set_times(id.0, start, deadline);
        let total = scaled(ran).saturating_add(self.rest);
        self.rest = total.checked_rem(load).unwrap_or(0);
        self.virtual_now = self.virtual_now.saturating_add(total.checked_div(load).unwrap_or(0).into());
    }

    /// When the running vCPU will have been served what it asked for.
    fn end_of_request(&self, id: EntityId, now: u64) -> u64 {
        let weight = self.entity(id).map_or(Weight::DEFAULT, |e| e.weight);
        let (start, deadline) = self.ready.times(id.0);
        now.saturating_add(weight.service(narrow(deadline.saturating_sub(start))).max(MIN_RUN))
    }

    fn dequeue(&mut self, id: EntityId, weight: Weight) {
        self.ready.remove(id.0);
        self.load = self.load.saturating_sub(weight.get());
    }

    fn forget(&mut self, id: EntityId) {
        if let Some(slot) = self.entities.get_mut(id.0 as usize) {
            *slot = None;
        }
        if self.resident == Some(id) {
            self.resident = None;
        }
    }

    #[inline]
    fn entity(&self, id: EntityId) -> Result<&Entity, Error> {
        self.entities.get(id.0 as usize).and_then(Option::as_ref).ok_or(Error::NotHere)
    }

    #[inline]
    fn entity_mut(&mut self, id: EntityId) -> Result<&mut Entity, Error> {
        self.entities.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Error::NotHere)
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        let of = |s| self.entities.iter().flatten().filter(move |e| e.state == s);
        assert_eq!(self.ready.check(), of(RunState::Ready).count());
        assert_eq!(of(RunState::Running).count(), usize::from(self.running.is_some()));
        let load: u64 = of(RunState::Ready).chain(of(RunState::Running)).map(|e| e.weight.get()).sum();
        assert_eq!(self.load, load);
    }
}

/// A difference of virtual times; those that matter are far below 2^64.
fn narrow(difference: VTime) -> u64 {
    u64::try_from(difference).unwrap_or(u64::MAX)
}
