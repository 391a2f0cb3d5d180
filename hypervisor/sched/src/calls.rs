//! What goes into and comes out of a [`crate::RunQueue`]'s calls.
use alloc::boxed::Box;

use crate::entity::{Entity, EntityId, RunState};

/// Why a call was refused; it has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No such vCPU in this queue.
    NotHere,
    /// Its VM is not in the table of shares.
    UnknownVm,
    /// Not possible from the state it is in.
    State(RunState),
    /// It must stay in this queue: its class is tied to the pCPU, or its registers are still loaded there.
    Pinned,
    /// A partition must be alone in its queue, and there are others.
    Occupied,
    /// An affinity without any pCPU.
    Nowhere,
}

/// A vCPU has become Ready in this queue; what its pCPU must do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enqueued {
    /// The pCPU is to `put` (Preempted) what it runs and `pick`: it is idle, or the new one goes first by the rule.
    pub preempt: bool,
    /// The pCPU has something to do at this time (ns) that it did not have before, and must set its timer: the running
    /// vCPU was alone and had no end of slice, or the new one is Throttled until then.
    pub tick: Option<u64>,
}

impl Enqueued {
    pub(crate) const NOTHING: Self = Self { preempt: false, tick: None };
}

/// What [`crate::RunQueue::wake`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// It was Blocked and is Ready (or Throttled, if it has no budget left).
    Enqueued(Enqueued),
    /// It is Running: noted, so that it will not block. Its pCPU may need a kick to see the interrupt.
    Running,
    /// It was Ready before, or Throttled: it will see the interrupt when it runs.
    AlreadyReady,
    /// It is Off or Stopped: nothing to wake.
    Off,
    /// It is not in this queue: read its home again, and go there.
    NotHere,
}

/// What [`crate::RunQueue::start`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Started {
    /// It was Off and is Ready.
    Enqueued(Enqueued),
    /// It is still Running on the way to Off: its `put` will make it Ready.
    WhenPut,
}

/// What [`crate::RunQueue::pick`] chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// The vCPU to run, now Running.
    pub id: EntityId,
    /// When to `put` it as Preempted, in ns; `None` while it is alone and nothing limits it.
    pub slice_end: Option<u64>,
    /// How long it was Ready before, in ns; 0 for one that was Running already.
    pub ready_ns: u64,
    /// How long it has been Ready or Throttled in all its life, in ns: what was stolen from it.
    pub stolen_ns: u64,
}

/// Why a vCPU leaves the pCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its slice is over or a better one has come.
    Preempted,
    /// It has nothing useful to do for the moment (YIELD, a trapped WFE): if any other is Ready, that one is
    /// picked next.
    Yielded,
    /// It waits for an event.
    Blocked,
    /// CPU_OFF.
    Off,
    /// It has ended.
    Stopped,
}

/// A vCPU in no queue: new, between two, or removed for good. Until it is received somewhere nobody can wake it.
#[derive(Debug)]
#[must_use = "a vCPU that no queue receives never runs again"]
pub struct Stolen {
    /// Its virtual start and deadline are the machine's, not a queue's.
    pub(crate) entity: Box<Entity>,
}
