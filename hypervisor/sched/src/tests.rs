//! Tests of the crate: the rule, the races and the bookkeeping.
mod bookkeeping;
mod classes;
mod fairness;
mod histories;
mod loom;
mod machine;
mod maxima;
mod races;
mod steps;
mod timers;
mod weights;

use std::sync::Arc;

use crate::{Affinity, EntityId, RunQueue, Shares, Stolen, VmId, Weight};

/// A table with a VM of each weight, and no groups.
fn shares(pcpus: usize, weights: &[u32]) -> Arc<Shares> {
    let shares = Arc::new(Shares::new(pcpus, 64, 8));
    for (vm, weight) in (0..).zip(weights) {
        shares.add_vm(VmId(vm), Weight::new(*weight).unwrap(), None).unwrap();
    }
    shares
}

/// Admits a vCPU of `vm`.
fn admit(queue: &mut RunQueue, id: u32, vm: u16) {
    let new = Stolen::new(&queue.shares, EntityId(id), VmId(vm)).unwrap();
    let room = queue.slab.len() + 1;
    if queue.slab.room() < room {
        queue.resize(room);
    }
    assert!(queue.admit(new).is_ok());
}

/// A queue with a vCPU of a VM of its own for each weight, all Ready from time 0.
fn ready(weights: &[u32]) -> RunQueue {
    let mut queue = RunQueue::new(shares(2, weights), 0);
    for id in 0..weights.len() {
        admit(&mut queue, id as u32, id as u16);
        queue.start(EntityId(id as u32), 0).unwrap();
    }
    queue
}

/// Holds a vCPU in its queue, or lets it go.
fn pin(queue: &mut RunQueue, id: u32, pinned: bool) -> bool {
    let allowed = if pinned { Affinity::only(queue.pcpu) } else { Affinity::ALL };
    queue.set_affinity(EntityId(id), allowed).is_ok()
}
