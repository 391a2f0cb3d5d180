//! Which vCPU runs on a pCPU, for how long, and what happens when it must wait.
//!
//! One [`RunQueue`] and one [`Timers`] belong to each pCPU; the kernel wraps them in that pCPU's `sched` lock. Nothing here
//! reads a clock, takes a lock, touches hardware or allocates after construction: time is an argument, in ns of any clock
//! that all pCPUs share.
//!
//! # States
//! | from | call | to |
//! |---|---|---|
//! | (absent) | [`RunQueue::admit`] | Off |
//! | Off | [`RunQueue::start`] (boot, CPU_ON) | Ready |
//! | Ready | [`RunQueue::pick`] | Running |
//! | Running | [`RunQueue::put`] Preempted, Yielded | Ready |
//! | Running | `put` Blocked | Blocked; Ready if a wake-up came since [`RunQueue::clear_wake`] |
//! | Running | `put` Off | Off; Ready if a `start` came meanwhile |
//! | Running | `put` Stopped, or any `put` after [`RunQueue::stop`] | Stopped |
//! | Blocked | [`RunQueue::wake`] | Ready |
//! | Off, Ready, Blocked | `stop` | Stopped |
//! | Stopped | [`RunQueue::reset`] | Off |
//! | all but Running | [`RunQueue::take`], [`RunQueue::steal`] (Ready only), [`RunQueue::receive`] | the same, in another queue |
//! | all but Running | [`RunQueue::remove`] | (absent) |
//!
//! Every other combination is an [`Error`] and changes nothing.
//!
//! # The rule
//! Earliest eligible virtual deadline first (Stoica and Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995). A
//! vCPU has a virtual start time, which grows by 1/weight while it runs, and the queue a virtual time, which grows by
//! 1/(sum of the weights that are ready or running). A vCPU whose start time is not past the virtual time has had no more
//! than its share and is *eligible*; of the eligible ones the one with the earliest deadline (start + request / weight)
//! runs until its request is served. A request is [`SLICE`] ns, the first after a wake-up [`WAKE_SLICE`]: a vCPU that
//! sleeps much gets its share in shorter, earlier pieces, not more of it.
//!
//! - **Fairness**: among vCPUs that stay ready at fixed weights and do not yield, the service of each differs from its share by at most
//!   [`SLICE`] + [`MIN_RUN`] + the longest overrun (from the end of a slice to the `put`). A property test holds the queue to it.
//! - **Sleeping** neither saves up service nor sheds debt: a woken vCPU starts at the later of its own start time and the
//!   virtual time.
//! - **Preemption**: a woken vCPU preempts exactly when `pick` would choose it over the running one at that moment.
//! - **Cost**: every call is O(log n) in the vCPUs *ready* on this pCPU, `wake` of a running one O(1).
//! - **Tick**: a vCPU that is alone has no end of slice, so its pCPU needs no timer.
//!
//! # Blocking without losing a wake-up
//! On its own pCPU: [`RunQueue::clear_wake`], then look for pending interrupts (under their own lock), then `put` Blocked.
//! On any pCPU: make the interrupt pending, then `wake`. Whichever order these interleave in, the vCPU does not sleep on a
//! pending interrupt. A waker that finds [`Wake::NotHere`] reads the vCPU's home again and goes there.
//!
//! # Not modelled
//! Groups (weights nested over a VM's vCPUs), caps, real-time and partition classes, choice of a pCPU for a woken vCPU.
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
mod entity;
mod queue;
#[cfg(test)]
mod tests;
mod timers;
mod tree;

pub use calls::{Enqueued, Error, Pick, Started, Stolen, Wake, Why};
pub use entity::{EntityId, RunState, Stats, Weight};
pub use queue::RunQueue;
pub use timers::{Kind, TimerId, Timers};

/// How much service one request asks for, in ns. 3 ms: long enough that a switch of some microseconds costs 0.2 % or less,
/// short enough that two vCPUs on one pCPU both run within a tick or two of a guest's clock (4 ms at 250 Hz).
pub const SLICE: u64 = 3_000_000;
/// The first request after a wake-up, in ns.
pub const WAKE_SLICE: u64 = 750_000;
/// No slice ends sooner than this after `pick`, in ns: what is left of a request may be next to nothing.
pub const MIN_RUN: u64 = 100_000;
