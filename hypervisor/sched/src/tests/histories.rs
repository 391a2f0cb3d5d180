//! Random machines whose vCPUs sleep, spin, are pushed, stolen and placed, and whose pCPUs react late: nobody waits for long.
use proptest::prelude::*;

use super::machine::{Behaviour, Machine, YIELD, busy, sleeper};
use crate::{Affinity, Class, GroupId, Max, RunState, SLICE, Shares, VmId, Weight};

/// Runs and sleeps for random times, or spins.
fn random(seed: u64) -> Behaviour {
    let mut seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    std::boxed::Box::new(move |_| match next(4) {
        0 => (1 + next(20_000_000), 1 + next(20_000_000)),
        1 => (1 + next(200_000), YIELD),
        2 => (1 + next(200_000), 1 + next(2_000_000)),
        _ => (1_000 + next(50_000), YIELD),
    })
}

/// The longest that any vCPU was Ready without a turn.
fn longest_wait(m: &mut Machine, end: u64) -> u64 {
    let mut worst = 0;
    m.run_until(end, |m| {
        for queue in &m.queues {
            for e in queue.slab.all().filter(|e| e.state == RunState::Ready) {
                worst = worst.max(m.now - e.since);
            }
        }
    });
    worst
}

/// A vCPU that was pushed was pushed back before it had run, where the pCPUs react late (as QEMU's do on a busy host), for seconds.
#[test]
#[cfg_attr(miri, ignore = "a long simulation; short ones are run")]
fn who_is_pushed_runs_before_it_is_pushed_again() {
    for (vcpus, late) in [(3, 100_000_000), (4, 5_000_000), (4, 20_000_000), (4, 100_000_000), (5, 20_000_000)] {
        let shares = Shares::new(2, 1, 0);
        shares.add_vm(VmId(0), Weight::DEFAULT, None).unwrap();
        let mut m = Machine::new(2, shares);
        (m.late, m.latency) = (late, late);
        for id in 0..vcpus {
            let behaviour = if id == 0 { sleeper(100_000, 3_000_000) } else { busy() };
            m.add(id, 0, id as usize % 2, Class::Fair, Affinity::ALL, behaviour);
        }
        let worst = longest_wait(&mut m, 60_000_000_000);
        // A turn of each of the others that share the pCPU, and the moves.
        let bound = u64::from(vcpus + 1) * (late + SLICE);
        assert!(worst <= bound, "{vcpus} vCPUs, {late} ns late: waited {worst} of {bound} ns");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 48 }))]

    /// Weights, groups, affinities and maxima, sleepers and spinners, on pCPUs that react at once or late: every queue's sums
    /// hold, no pCPU rests while somebody waits who may run there, and who is not limited waits no longer than the others' turns
    /// at their weights take.
    #[test]
    fn nobody_waits_for_long(
        pcpus in 1usize..=4,
        vms in prop::collection::vec((50u32..=400, 1u32..=3, any::<bool>(), any::<u8>()), 1..5),
        late in prop::sample::select(std::vec![0u64, 50_000, 5_000_000]),
        seed in any::<u64>(),
    ) {
        let shares = Shares::new(pcpus, vms.len() as u16, 1);
        shares.add_group(GroupId(0), Weight::new(200).unwrap()).unwrap();
        let mut m = Machine::new(pcpus, shares);
        (m.late, m.latency) = (late, late);
        let mut id = 0;
        for (vm, (weight, vcpus, grouped, kind)) in (0..).zip(&vms) {
            m.shares.add_vm(VmId(vm), Weight::new(*weight).unwrap(), grouped.then_some(GroupId(0))).unwrap();
            if kind % 4 == 3 {
                m.shares.set_vm_max(VmId(vm), Max::new(20_000, 50_000), 0).unwrap();
            }
            for vcpu in 0..*vcpus {
                let home = id as usize % pcpus;
                let allowed = if kind % 5 == 4 { Affinity::only(home).with(0) } else { Affinity::ALL };
                let behaviour = if (seed >> (id % 64)) & 1 == 0 { busy() } else { random(seed ^ u64::from(id + vcpu)) };
                m.add(id, vm, home, Class::Fair, allowed, behaviour);
                id += 1;
            }
        }
        let worst = longest_wait(&mut m, if cfg!(miri) { 10 * SLICE } else { 300 * SLICE });
        m.queues.iter().for_each(|q| q.check());
        // The lightest has a hundredth of all weights or more.
        let bound = 100 * (SLICE + 2 * late) + 30 * SLICE;
        prop_assert!(worst <= bound, "waited {} of {}", worst, bound);
    }
}
