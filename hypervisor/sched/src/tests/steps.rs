//! What a decision costs: visits of tree nodes with few vCPUs and with many.
use std::println;

use super::machine::{Machine, busy, sleeper};
use crate::{Affinity, Class, SLICE, Shares, VmId, Weight};

/// Node visits per slice on 4 pCPUs.
fn cost(vcpus: u32) -> f64 {
    let shares = Shares::new(4, 256, 0);
    (0..256).for_each(|v| shares.add_vm(VmId(v), Weight::DEFAULT, None).unwrap());
    let mut m = Machine::new(4, shares);
    for id in 0..vcpus {
        let behaviour = if id % 4 == 0 { sleeper(1_000_000, 5_000_000) } else { busy() };
        // Sparse numbers: what is not there costs nothing.
        m.add(id * 64, (id % 256) as u16, id as usize % 4, Class::Fair, Affinity::ALL, behaviour);
    }
    m.run_until(100 * SLICE, |_| {});
    let visits = |m: &Machine| m.queues.iter().map(|q| q.slab.visits.get()).sum::<u64>();
    let (before, slices) = (visits(&m), m.slices);
    m.run_until(600 * SLICE, |_| {});
    let cost = (visits(&m) - before) as f64 / (m.slices - slices) as f64;
    println!("{vcpus} vCPUs: {cost:.0} visits a slice");
    cost
}

#[test]
#[cfg_attr(miri, ignore = "a long simulation; short ones are run")]
fn a_decision_among_a_thousand_costs_little_more_than_among_eight() {
    let (few, many) = (cost(8), cost(1_024));
    // 2 a queue against 256: the trees are 8 levels higher. A visit is a few instructions of the some hundred that a
    // decision has.
    assert!(many - few <= 8.0 * 32.0, "{few} {many}");
}
