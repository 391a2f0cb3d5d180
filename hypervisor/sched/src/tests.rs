//! Tests of the crate: the rule, the races and the bookkeeping.
mod bookkeeping;
mod fairness;
mod races;
mod timers;

use crate::{EntityId, RunQueue, Weight};

/// A queue with these weights, all Ready from time 0.
fn ready(weights: &[u32]) -> RunQueue {
    let mut queue = RunQueue::new(64);
    for (id, weight) in (0..).zip(weights) {
        queue.admit(EntityId(id), Weight::new(*weight).unwrap()).unwrap();
        queue.start(EntityId(id), 0).unwrap();
    }
    queue
}
