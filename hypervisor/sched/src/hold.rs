//! vCPUs that are kept from the pCPUs for a while, because their VM is paused.
//!
//! What a held vCPU was before is not kept: when it is let go it is Ready, whatever it waited for. A guest that was woken without an
//! interrupt sleeps again (Arm ARM, "Wait For Interrupt": a WFI may complete at any time), and its timers are looked at.
use crate::{
    SLICE,
    calls::{Enqueued, Error},
    entity::{EntityId, RunState},
    queue::RunQueue,
};

impl RunQueue {
    /// Keeps a vCPU from running: a Ready, Throttled or Blocked one is Held at once. A Running one is only marked
    /// (`Ok(Running)`): kick its pCPU, whose next `put` holds it. One that is Off or Stopped stays as it is.
    pub fn hold(&mut self, id: EntityId, now: u64) -> Result<RunState, Error> {
        let slot = self.slot(id)?;
        if self.running == Some(slot) {
            self.slab.get_mut(slot).ok_or(Error::NotHere)?.hold_pending = true;
            return Ok(RunState::Running);
        }
        let state = self.slab.get(slot).ok_or(Error::NotHere)?.state;
        if !matches!(state, RunState::Ready | RunState::Throttled | RunState::Blocked) {
            return Ok(state);
        }
        self.detach(slot, now);
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        entity.become_at(RunState::Held, now);
        entity.woken = None;
        Ok(RunState::Held)
    }

    /// Lets a held vCPU go: Held to Ready, or Throttled without a real-time budget. `None`: it was not held (or is Running and
    /// only was marked).
    pub fn unhold(&mut self, id: EntityId, now: u64) -> Result<Option<Enqueued>, Error> {
        let slot = self.slot(id)?;
        let entity = self.slab.get_mut(slot).ok_or(Error::NotHere)?;
        entity.hold_pending = false;
        if entity.state != RunState::Held {
            return Ok(None);
        }
        Ok(Some(self.arrive(slot, now, SLICE)))
    }
}
