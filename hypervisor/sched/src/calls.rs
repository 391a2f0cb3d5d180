//! What goes into and comes out of a [`crate::RunQueue`]'s calls.
use crate::{
    entity::{Entity, EntityId, RunState},
    tree::VTime,
};

/// Why a call was refused; it has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No such vCPU in this queue.
    NotHere,
    /// The number is beyond the queue's capacity.
    TooLarge,
    /// There is one with this number already.
    Exists,
    /// Not possible from the state it is in.
    State(RunState),
    /// It must stay in this queue: pinned, or its registers are still loaded on the pCPU.
    Pinned,
}

/// A vCPU has become Ready in this queue; what its pCPU must do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enqueued {
    /// The pCPU is to `put` (Preempted) what it runs and `pick`: it is idle, or the new one goes first by the rule.
    pub preempt: bool,
    /// The running vCPU was alone and had no end of slice. Now it has this one (ns), and its pCPU must set its timer.
    pub tick: Option<u64>,
}

/// What [`crate::RunQueue::wake`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// It was Blocked and is Ready.
    Enqueued(Enqueued),
    /// It is Running: noted, so that it will not block. Its pCPU may need a kick to see the interrupt.
    Running,
    /// It was Ready before.
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
    /// When to `put` it as Preempted, in ns; `None` while it is alone.
    pub slice_end: Option<u64>,
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

/// A vCPU between two queues. It must be received somewhere; until then nobody can wake it.
#[derive(Debug)]
#[must_use = "a vCPU that no queue receives never runs again"]
pub struct Stolen {
    pub(crate) id: EntityId,
    pub(crate) entity: Entity,
    /// Start time after (or, negative, before) the virtual time of the queue it left.
    pub(crate) ahead: i128,
    /// Deadline after start.
    pub(crate) request: VTime,
}

impl Stolen {
    /// Which vCPU it is.
    pub fn id(&self) -> EntityId {
        self.id
    }
}
