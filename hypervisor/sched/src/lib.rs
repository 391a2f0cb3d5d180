//! Which vCPU runs on a pCPU, for how long, and what happens when it must wait.
//!
//! One [`RunQueue`] and one [`Timers`] belong to each pCPU; the kernel wraps them in that pCPU's `sched` lock. The queues
//! share one table without a lock, [`Shares`]: the VMs, their groups, weights and maxima. Nothing here reads a clock, takes
//! a lock or touches hardware, and only [`Stolen::new`], [`Room::new`] and [`Timers::room`] allocate: time is an argument, in ns of any
//! clock that all pCPUs share.
//!
//! # Calls
//! | when | call |
//! |---|---|
//! | a group, a VM comes | [`Shares::add_group`], [`Shares::add_vm`]; each queue [`RunQueue::grow`]; each vCPU [`Stolen::new`], [`Stolen::allow`], [`RunQueue::admit`], [`RunQueue::set_class`] after [`admit_rt`] |
//! | the pCPU is free | [`RunQueue::pick`]; nothing: [`RunQueue::steal`] from another, [`RunQueue::receive`] |
//! | before an entry or a sleep | the timer to the earlier of [`RunQueue::slice_end`] and [`RunQueue::next_event`]; WFI native if [`RunQueue::native_wfi`] |
//! | the timer | at `slice_end`: [`RunQueue::put`], [`RunQueue::shed`] (what it gives is received by the pCPU it names, with this queue's lock free), `pick`; at `next_event`: [`RunQueue::release`] |
//! | an interrupt for a vCPU | [`RunQueue::wake`]; where that preempts nobody, [`place`] says who would run it sooner |
//! | a guest spins (trapped WFE) | if [`RunQueue::contended`]: [`RunQueue::yield_to`] a sibling, `put` Yielded, `pick` |
//! | `set web cpu.weight=200`, `cpu.max` | [`Shares::set_vm_weight`], [`Shares::set_vm_max`] and the like, then [`RunQueue::refresh`] for each vCPU |
//! | `cpu.affinity`, `cpu.class` | [`RunQueue::set_affinity`] (and, if it has to leave, [`RunQueue::take`] and `receive`), [`RunQueue::set_class`] |
//! | a VM goes | [`RunQueue::remove`] each vCPU, [`Shares::remove_vm`] |
//!
//! # States
//! | from | call | to |
//! |---|---|---|
//! | (absent) | [`RunQueue::admit`] | Off |
//! | Off | [`RunQueue::start`] (boot, CPU_ON) | Ready, or Throttled without a real-time budget |
//! | Ready | [`RunQueue::pick`] | Running; Throttled if a pool it needs is empty |
//! | Throttled | [`RunQueue::release`] or `pick` when its time has come | Ready |
//! | Running | [`RunQueue::put`] Preempted, Yielded | Ready, or Throttled without a real-time budget |
//! | Running | `put` Blocked | Blocked; Ready if a wake-up came since [`RunQueue::clear_wake`] |
//! | Running | `put` Off | Off; Ready if a `start` came meanwhile |
//! | Running | `put` Stopped, or any `put` after [`RunQueue::stop`] | Stopped |
//! | Blocked | [`RunQueue::wake`] | Ready, or Throttled without a real-time budget |
//! | Ready, Throttled, Blocked | [`RunQueue::hold`] | Held |
//! | Running | any `put` but Off and Stopped after `hold` | Held |
//! | Held | [`RunQueue::unhold`] | Ready, or Throttled without a real-time budget |
//! | Off, Ready, Throttled, Blocked, Held | `stop` | Stopped |
//! | Stopped | [`RunQueue::reset`] | Off |
//! | all but Running | [`RunQueue::take`], [`RunQueue::steal`] and [`RunQueue::shed`] (Ready only), [`RunQueue::receive`] | the same, in another queue |
//! | all but Running | [`RunQueue::remove`] | (absent) |
//!
//! Every other combination is an [`Error`] and changes nothing.
//!
//! # The rule
//! **Classes.** A partition's owner is alone on its pCPU. Real-time vCPUs go before fair ones, by fixed priority and then in
//! the order in which they became Ready; each is a deferrable server with a budget a period, and [`admit_rt`] says whether
//! all of a pCPU's keep their promises. What is left is shared by the fair ones:
//!
//! **Within a queue** by earliest eligible virtual deadline (Stoica and Abdel-Wahab, "Earliest Eligible Virtual Deadline
//! First", 1995). A vCPU has a virtual start time, which grows by 1/weight while it runs; the queue's virtual time is the
//! mean of its Ready and Running vCPUs' starts, weighted. A vCPU whose start is not past the virtual time has had no more
//! than its share and is *eligible*; of the eligible ones the one with the earliest deadline (start + request / weight)
//! runs until its request is served. A request is [`SLICE`] ns, the first after a wake-up [`WAKE_SLICE`]: a vCPU that
//! sleeps much gets its share in shorter, earlier pieces, not more of it.
//!
//! **Weights are a VM's.** A vCPU's effective weight is its VM's divided by the number of the VM's vCPUs that are Ready,
//! Running (anywhere); for a VM of a group, the VM's is the group's weight times the VM's part of the sum of its runnable
//! VMs' weights. A vCPU follows a change when it is charged, arrives or is picked; one that waits had its place in the queue
//! at its former weight, so a change is late by at most that one wait.
//!
//! **Between queues.** Virtual starts are the machine's: all queues' times have one origin, and a vCPU that moves keeps its
//! start, and stays among its VM's runnable ones while it is between two queues. Each queue publishes the virtual start of what
//! runs there and how fast it goes on. At the end of a slice the queue looks at the pCPU whose running vCPU is furthest ahead.
//! The one that is to run next here goes there instead, if the one there is ahead of who has just run here, and would have to
//! wait, by a slice of the latter or more; else another that is a slice late by the time there. Whoever is given away runs there
//! next, and is not given away again before it has run. The one that gives has somebody waiting, hence a tick; so a pCPU whose
//! vCPU is alone needs none even while others are crowded. Idle pCPUs steal whatever is Ready and may run there.
//!
//! - **Fairness between queues** is measured, not proved: a VM's service over all its vCPUs and pCPUs is within 1 % of its share
//!   over 100 slices of the machine's least vCPU. The share is what the weights say where no vCPU would need more than a pCPU;
//!   where one would, it has a pCPU and the others share the rest by their weights. Held by twelve chosen and 96 random sets of
//!   VMs and groups on one to four pCPUs, with vCPUs' effective weights in ratios up to 230 and slices that end up to 0.1 ms late.
//! - **Fairness in a queue**: among vCPUs that stay ready at fixed weights and do not yield, the service of each differs
//!   from its share by at most [`SLICE`] + [`MIN_RUN`] + the longest overrun (from the end of a slice to the `put`).
//! - **Sleeping** neither saves up service nor sheds debt: a woken vCPU starts at the later of its own start time and the
//!   virtual time.
//! - **Lag is bounded**: a gap that no move can close (a weight that would need more than one pCPU for one vCPU, affinities)
//!   is not paid back later. Who arrives is within four slices of its own, or 16 of the queue's mean vCPU, from its queue's
//!   time; who was alone while nobody had to share, within two; who is alone while others have to, within four of its own or of
//!   the lightest queue's mean vCPU; a contended queue, within 16 of that vCPU's of all other contended ones.
//! - **Nobody starves**: who waits is chosen by its queue in its turn, or given to another queue, where it runs next.
//! - **Preemption**: a woken vCPU preempts exactly when `pick` would choose it over the running one at that moment.
//! - **Tick**: a vCPU that is alone and not limited has no end of slice, so its pCPU needs no timer.
//! - **Moves**: a queue gives away at most one vCPU in the time of a slice, and next to none (2 % of the slices were seen) while
//!   the queues keep step.
//!
//! **Maxima** (`cpu.max`) are pools of a VM and of a group, full at each period's start. A limited vCPU takes a grant out of
//! both before it runs and gives back what it did not use; what it runs beyond is a debt of the pools. So any number of
//! pCPUs together use in n periods at most n quotas, a sixteenth of one, and what was granted in the period before. Real-time
//! and partition vCPUs have their own limit and take nothing from the pools.
//!
//! # Costs
//! Every call is O(log n) in the vCPUs Ready or Throttled on this pCPU, `wake` of a running one O(1); `shed` and [`place`]
//! are linear in the pCPUs; `release` and `pick` make at most 32 Throttled ones Ready each. A `pick` that throttles several
//! pays O(log n) for each, which each paid for by becoming Ready. A vCPU that is alone costs no tree and no division. A VM
//! without a maximum pays one branch for maxima.
//!
//! # Blocking without losing a wake-up
//! On its own pCPU: [`RunQueue::clear_wake`], then look for pending interrupts (under their own lock), then `put` Blocked.
//! On any pCPU: make the interrupt pending, then `wake`. Whichever order these interleave in, the vCPU does not sleep on a
//! pending interrupt. A waker that finds [`Wake::NotHere`] reads the vCPU's home again and goes there.
//!
//! # Not modelled
//! More than one level of groups; real-time vCPUs that change pCPU; caches and their distance in the choice of a pCPU; a
//! guarantee between sets of vCPUs whose affinities make their shares unequal by more than the window above.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod calls;
mod charge;
mod class;
mod entity;
mod fair;
mod hold;
mod limits;
mod moves;
mod pcpu;
mod pool;
mod queue;
mod rt;
pub mod scale;
mod shares;
mod slab;
#[cfg(test)]
mod tests;
mod timers;
mod tree;

pub use calls::{Enqueued, Error, Pick, Started, Stolen, Wake, Why};
pub use class::{Affinity, Class, Max, Rt};
pub use entity::{EntityId, RunState, Stats, Weight};
pub use pcpu::{Running, View, place};
pub use queue::{Room, RunQueue};
pub use rt::{AdmissionError, RT_BLOCKING, RT_MAX_PERCENT, RT_MIN_PERIOD, admit_rt};
pub use shares::{GroupId, ShareError, Shares, VmId};
pub use timers::{Kind, TimerId, Timers};

/// How much service one request asks for, in ns. 3 ms: long enough that a switch of some microseconds costs 0.2 % or less,
/// short enough that two vCPUs on one pCPU both run within a tick or two of a guest's clock (4 ms at 250 Hz).
pub const SLICE: u64 = 3_000_000;
/// The first request after a wake-up, in ns.
pub const WAKE_SLICE: u64 = 750_000;
/// No slice ends sooner than this after `pick`, in ns: what is left of a request may be next to nothing.
pub const MIN_RUN: u64 = 100_000;
