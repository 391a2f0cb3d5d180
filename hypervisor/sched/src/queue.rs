//! The run queue of one pCPU: the life of its vCPUs. The rule and the states are in the crate's text.
use alloc::{boxed::Box, sync::Arc};

use crate::{
    WAKE_SLICE,
    calls::{Error, Pick, Started, Stolen, Wake, Why},
    class::{Affinity, Class},
    entity::{Entity, EntityId, RunState, Stats},
    fair::Fair,
    shares::{LIMITED, Shares},
    slab::Slab,
    tree::Tree,
};

/// The vCPUs of one pCPU.
#[derive(Debug)]
pub struct RunQueue {
    pub(crate) slab: Slab,
    pub(crate) shares: Arc<Shares>,
    pub(crate) pcpu: usize,
    pub(crate) fair: Fair,
    /// Real-time vCPUs and a partition's owner that are Ready.
    pub(crate) rt: Tree,
    /// Those that are Throttled, by the time at which they are Ready again.
    pub(crate) throttled: Tree,
    /// The slot of the one that has the pCPU.
    pub(crate) running: Option<u32>,
    /// The last one picked: its registers may still be loaded on the pCPU.
    pub(crate) resident: Option<EntityId>,
    pub(crate) slice_end: Option<u64>,
    /// The one that the next `pick` passes over if there is any other.
    pub(crate) yielded: Option<u32>,
    /// The one that the next `pick` chooses, and the end of the slice that it was given.
    pub(crate) next: Option<(u32, Option<u64>)>,
    /// Up to when the running one's service is counted.
    pub(crate) charged: u64,
    /// The partition that owns the pCPU.
    pub(crate) owner: Option<EntityId>,
    /// Counts arrivals of real-time vCPUs.
    pub(crate) arrivals: u64,
    /// When a vCPU was given to another queue last.
    pub(crate) shed_at: u64,
}

/// Room for vCPUs in a queue.
pub struct Room(Slab);

impl Room {
    /// For so many; allocates.
    pub fn new(total: usize) -> Self {
        Self(Slab::with_room(total))
    }
}

impl RunQueue {
    /// The queue of pCPU `pcpu`, for vCPUs of the VMs in `shares`.
    pub fn new(shares: Arc<Shares>, pcpu: usize) -> Self {
        Self {
            slab: Slab::default(),
            shares,
            pcpu,
            fair: Fair::new(),
            rt: Tree::new(),
            throttled: Tree::new(),
            running: None,
            resident: None,
            slice_end: None,
            yielded: None,
            next: None,
            charged: 0,
            owner: None,
            arrivals: 0,
            shed_at: 0,
        }
    }

    /// Room for `total` vCPUs, if there is less: what [`Self::receive`] needs, which does not allocate. Call it on
    /// every queue, with the number of vCPUs in the machine, before that many are admitted. Some 50 bytes each; a vCPU's own record, some 400 bytes, is allocated by [`Stolen::new`] and goes with it.
    pub fn resize(&mut self, total: usize) {
        drop(self.grow(Room::new(total)));
    }

    /// The same with room that was allocated before the queue's lock was taken; what comes back is to be dropped behind it.
    pub fn grow(&mut self, room: Room) -> Room {
        Room(self.slab.grow(room.0))
    }

    /// Takes a new vCPU in, as Off. What is refused comes back, as by [`Self::receive`].
    pub fn admit(&mut self, new: Stolen) -> Result<(), Stolen> {
        self.receive(new, 0).map(drop)
    }

    /// Forgets a vCPU that is not Running. Its record is freed as the answer is dropped: after the queue's lock.
    pub fn remove(&mut self, id: EntityId, now: u64) -> Result<Stolen, Error> {
        let slot = self.slot(id)?;
        if self.running == Some(slot) {
            return Err(Error::State(RunState::Running));
        }
        if self.slab.get(slot).is_some_and(|e| e.state == RunState::Ready && e.is_fair()) {
            self.fair.tree.remove(&mut self.slab, slot);
            self.leave(slot, now);
            if let Some(entity) = self.slab.get_mut(slot) {
                entity.become_at(RunState::Stopped, now);
            }
        }
        self.take_slot(slot, now).ok_or(Error::NotHere)
    }

    /// Off to Ready: the boot vCPU, or CPU_ON. What it starts with must be left for whoever loads it next.
    pub fn start(&mut self, id: EntityId, now: u64) -> Result<Started, Error> {
        let slot = self.slot(id)?;
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        match entity.state {
            RunState::Off => Ok(Started::Enqueued(self.arrive(slot, now, WAKE_SLICE))),
            RunState::Running if !entity.stop_pending => {
                entity.start_pending = true;
                Ok(Started::WhenPut)
            }
            state => Err(Error::State(state)),
        }
    }

    /// Something happened that `id` may be waiting for.
    pub fn wake(&mut self, id: EntityId, now: u64) -> Wake {
        let Some(slot) = self.slab.find(id) else { return Wake::NotHere };
        let Some(entity) = self.slab.get_mut(slot) else { return Wake::NotHere };
        match entity.state {
            RunState::Running => {
                entity.wake_pending = true;
                Wake::Running
            }
            RunState::Ready | RunState::Throttled | RunState::Held => Wake::AlreadyReady,
            RunState::Blocked => {
                entity.woken = Some(now);
                Wake::Enqueued(self.arrive(slot, now, WAKE_SLICE))
            }
            RunState::Off | RunState::Stopped => Wake::Off,
        }
    }

    /// Forgets wake-ups so far, before looking whether there is anything to do; see the crate's text on blocking.
    #[inline]
    pub fn clear_wake(&mut self, id: EntityId) {
        if let Some(entity) = self.slab.find(id).and_then(|slot| self.slab.get_mut(slot)) {
            entity.wake_pending = false;
        }
    }

    /// Chooses what runs next. If one is Running already, that one again. What has no time left in its VM's or group's
    /// pool becomes Throttled here, so a `None` may come with a [`Self::next_event`].
    #[inline]
    pub fn pick(&mut self, now: u64) -> Option<Pick> {
        self.pick_from(now, now)
    }

    /// The same, where the pCPU has had nothing to do since `from` but to put the one that ran before and to pick: that time is
    /// charged to the one that runs next, as far as it was ready. A VM whose vCPUs give way to each other at every turn pays for
    /// its turns so.
    pub fn pick_from(&mut self, now: u64, from: u64) -> Option<Pick> {
        if let Some(slot) = self.running {
            let entity = self.slab.get(slot)?;
            let (id, stolen_ns) = (entity.id, entity.stats.stolen_ns());
            return Some(Pick { id, slice_end: self.slice_end, ready_ns: 0, stolen_ns });
        }
        if self.throttled.len() != 0 {
            self.release_due(now);
        }
        let picked = loop {
            let Some((slot, given)) = self.choose() else { break None };
            let entity = self.slab.get(slot)?;
            if entity.is_fair() {
                self.fair.tree.remove(&mut self.slab, slot);
                self.reweigh(slot);
                if self.slab.get(slot)?.seen.0 & LIMITED != 0 && !self.draw(slot, now) {
                    continue;
                }
            } else {
                self.rt.remove(&mut self.slab, slot);
            }
            break Some((slot, given));
        };
        let Some((slot, given)) = picked else {
            self.publish(now);
            return None;
        };
        let resident = self.resident;
        let entity = self.slab.get_mut(slot)?;
        let from = from.max(entity.since).min(now);
        let ready_ns = now.saturating_sub(entity.since);
        entity.become_at(RunState::Running, from);
        entity.pushed = false;
        if let Some(woken) = entity.woken.take() {
            let waited = now.saturating_sub(woken);
            entity.stats.wake_last_ns = waited;
            entity.stats.wake_max_ns = entity.stats.wake_max_ns.max(waited);
        }
        entity.stats.switches = entity.stats.switches.saturating_add(u64::from(resident != Some(entity.id)));
        let (id, stolen_ns) = (entity.id, entity.stats.stolen_ns());
        self.running = Some(slot);
        self.slab.expect(slot);
        self.charged = from;
        self.slice_end = match given {
            Some(end) => self.end_of(slot, now, true).map(|own| own.min(end.max(now.saturating_add(crate::MIN_RUN)))),
            None => self.end_of(slot, now, self.ready_count() != 0),
        };
        self.publish(now);
        Some(Pick { id, slice_end: self.slice_end, ready_ns, stolen_ns })
    }

    /// The running vCPU leaves the pCPU. Returns the state it is in now, which may be Ready where Blocked or Off was asked
    /// for (see the crate's table), and Throttled where Ready was and its real-time budget is used up.
    pub fn put(&mut self, id: EntityId, now: u64, why: Why) -> Result<RunState, Error> {
        let slot = self.slot(id)?;
        if self.running != Some(slot) {
            return Err(Error::State(self.slab.get(slot).map_or(RunState::Off, |e| e.state)));
        }
        self.charge(now);
        self.running = None;
        self.slice_end = None;
        self.yielded = (why == Why::Yielded).then_some(slot);
        let shares = &*self.shares;
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        if entity.grant != 0 {
            entity.grant = shares.give(entity, entity.grant);
        }
        let fresh = why == Why::Off && entity.start_pending;
        let next = match why {
            _ if entity.stop_pending => RunState::Stopped,
            Why::Stopped => RunState::Stopped,
            Why::Off if !fresh => RunState::Off,
            _ if entity.hold_pending => RunState::Held,
            Why::Blocked if !entity.wake_pending => RunState::Blocked,
            Why::Off | Why::Blocked | Why::Preempted | Why::Yielded => RunState::Ready,
        };
        entity.become_at(next, now);
        entity.wake_pending = false;
        if fresh || next == RunState::Stopped {
            entity.start_pending = false;
        }
        if next == RunState::Stopped {
            entity.stop_pending = false;
        }
        entity.hold_pending = false;
        let fair = entity.is_fair();
        match (next == RunState::Ready, fair) {
            (true, true) => self.insert_fair(slot),
            (true, false) => return Ok(self.enter_rt(slot, now, why == Why::Preempted)),
            (false, true) => self.leave(slot, now),
            (false, false) => {}
        }
        Ok(next)
    }

    /// Ends a vCPU. One that is Running only is marked (`Ok(Running)`): kick its pCPU, whose next `put` ends it.
    pub fn stop(&mut self, id: EntityId, now: u64) -> Result<RunState, Error> {
        let slot = self.slot(id)?;
        if self.running == Some(slot) {
            self.slab.get_mut(slot).ok_or(Error::NotHere)?.stop_pending = true;
            return Ok(RunState::Running);
        }
        self.detach(slot, now);
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        entity.become_at(RunState::Stopped, now);
        entity.woken = None;
        Ok(RunState::Stopped)
    }

    /// Stopped to Off, for a VM's reset.
    pub fn reset(&mut self, id: EntityId) -> Result<(), Error> {
        let slot = self.slot(id)?;
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        match entity.state {
            RunState::Stopped => {
                entity.state = RunState::Off;
                Ok(())
            }
            state => Err(Error::State(state)),
        }
    }

    /// Tells whose registers are in the pCPU from now on: that one stays here until they are saved. Called after a switch, not
    /// by [`Self::pick`]: between the two the *former* one's registers are still in the pCPU, and it must not leave.
    pub fn set_resident(&mut self, id: Option<EntityId>) {
        self.resident = id;
    }

    /// The vCPU that has the pCPU.
    #[inline]
    pub fn running(&self) -> Option<EntityId> {
        self.slab.get(self.running?).map(|e| e.id)
    }

    /// When the running vCPU's slice ends, in ns; `None` where nothing runs, or nothing else is Ready and nothing limits it.
    #[inline]
    pub fn slice_end(&self) -> Option<u64> {
        self.slice_end
    }

    /// When the next Throttled vCPU is Ready again, in ns: the pCPU's timer must be set to it as to [`Self::slice_end`],
    /// and then [`Self::release`] be called.
    #[inline]
    pub fn next_event(&self) -> Option<u64> {
        if self.throttled.len() == 0 {
            return None;
        }
        let first = self.slab.get(self.throttled.first(&self.slab)?)?;
        Some(u64::try_from(first.node.key).unwrap_or(u64::MAX))
    }

    /// How many are Ready, without the running one.
    #[inline]
    pub fn ready_count(&self) -> usize {
        self.fair.tree.len().saturating_add(self.rt.len())
    }

    /// Whether another vCPU wants this pCPU: then a guest that spins (a trapped WFE) is worth a directed yield.
    #[inline]
    pub fn contended(&self) -> bool {
        self.ready_count() != 0
    }

    /// Whether the running vCPU may sleep in its own WFI: it owns the pCPU, or nothing limits it and nobody else is Ready
    /// or Throttled here.
    pub fn native_wfi(&self) -> bool {
        let plain = |e: &Entity| e.class == Class::Partition || e.is_fair() && e.seen.0 & LIMITED == 0;
        self.running.and_then(|slot| self.slab.get(slot)).is_some_and(plain)
            && self.ready_count() == 0
            && self.throttled.len() == 0
    }

    /// The partition that owns the pCPU: it steals nothing, and nothing is placed there.
    pub fn owner(&self) -> Option<EntityId> {
        self.owner
    }

    /// The state of a vCPU, or `None` if it is not here.
    pub fn state(&self, id: EntityId) -> Option<RunState> {
        self.entity(id).map(|e| e.state)
    }

    /// The class of a vCPU, or `None` if it is not here.
    pub fn class(&self, id: EntityId) -> Option<Class> {
        self.entity(id).map(|e| e.class)
    }

    /// Where a vCPU may run, or `None` if it is not here.
    pub fn affinity(&self, id: EntityId) -> Option<Affinity> {
        self.entity(id).map(|e| e.allowed)
    }

    /// What a vCPU has used up to its last change of state (for a running one: up to the last call that charged it).
    pub fn stats(&self, id: EntityId) -> Option<Stats> {
        self.entity(id).map(|e| e.stats)
    }

    pub(crate) fn slot(&self, id: EntityId) -> Result<u32, Error> {
        self.slab.find(id).ok_or(Error::NotHere)
    }

    fn entity(&self, id: EntityId) -> Option<&Entity> {
        self.slab.get(self.slab.find(id)?)
    }

    /// Takes a vCPU that is not Running out of whatever it waits in.
    pub(crate) fn detach(&mut self, slot: u32, now: u64) {
        let Some(entity) = self.slab.get(slot) else { return };
        match (entity.state, entity.is_fair()) {
            (RunState::Ready, true) => {
                self.fair.tree.remove(&mut self.slab, slot);
                self.leave(slot, now);
            }
            (RunState::Ready, false) => self.rt.remove(&mut self.slab, slot),
            (RunState::Throttled, _) => self.throttled.remove(&mut self.slab, slot),
            (RunState::Off | RunState::Running | RunState::Blocked | RunState::Held | RunState::Stopped, _) => {}
        }
    }

    pub(crate) fn forget(&mut self, slot: u32) -> Option<Box<Entity>> {
        let entity = self.slab.remove(slot)?;
        if self.resident == Some(entity.id) {
            self.resident = None;
        }
        if self.owner == Some(entity.id) {
            self.owner = None;
        }
        self.yielded = self.yielded.filter(|s| *s != slot);
        self.next = self.next.filter(|(s, _)| *s != slot);
        Some(entity)
    }
}
