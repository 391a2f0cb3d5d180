//! Real time, partitions, directed yield and the choice of a pCPU.
use proptest::prelude::*;
use std::vec::Vec;

use super::machine::{Machine, busy};
use super::{admit, ready, shares};
use crate::{
    AdmissionError, Affinity, Class, EntityId, Error, RT_BLOCKING, Rt, RunQueue, RunState, Running, SLICE, Shares,
    Stolen, View, VmId, Weight, Why, admit_rt, place,
};

const fn rt(priority: u8, budget_us: u32, period_us: u32) -> Rt {
    Rt { priority, budget_us, period_us }
}

#[test]
fn admission_says_why() {
    assert_eq!(admit_rt(&[], rt(1, 1, 499)), Err(AdmissionError::Period));
    assert_eq!(admit_rt(&[], rt(1, 0, 1_000)), Err(AdmissionError::Budget));
    assert_eq!(admit_rt(&[], rt(1, 1_001, 1_000)), Err(AdmissionError::Budget));
    assert_eq!(admit_rt(&[], rt(1, 960, 1_000)), Err(AdmissionError::Utilization { ppm: 960_000 }));
    assert_eq!(admit_rt(&[], rt(1, 900, 1_000)), Ok(()));
    // Two budgets of the higher one come before it in the worst case.
    assert_eq!(admit_rt(&[rt(9, 400, 1_000)], rt(1, 180, 1_000)), Ok(()));
    assert!(matches!(
        admit_rt(&[rt(9, 400, 1_000)], rt(1, 181, 1_000)),
        Err(AdmissionError::Late { response: 1_001_000 })
    ));
    assert!(matches!(admit_rt(&[rt(1, 181, 1_000)], rt(9, 400, 1_000)), Err(AdmissionError::Breaks { index: 0, .. })));
    assert_eq!(RT_BLOCKING, 20_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 48 }))]

    /// Whatever was admitted together gets each burst of its budget done within its period, beside fair ones.
    #[test]
    fn deadlines_are_met(
        wanted in prop::collection::vec((0u8..4, 500u32..20_000, 1u32..=90), 1..6),
        rest in prop::collection::vec(0u64..5_000_000, 6),
        late in 0u64..RT_BLOCKING / 8,
    ) {
        let shares = Shares::new(1, 8, 0);
        (0..8).for_each(|v| shares.add_vm(VmId(v), Weight::DEFAULT, None).unwrap());
        let mut m = Machine::new(1, shares);
        m.late = late;
        let mut admitted: Vec<Rt> = Vec::new();
        for (priority, period, percent) in wanted {
            let new = rt(priority, (period * percent / 100).max(1), period);
            if admit_rt(&admitted, new).is_err() {
                continue;
            }
            let id = admitted.len() as u32;
            admitted.push(new);
            let (budget, period) = (new.budget(), new.period());
            let rest = rest[id as usize];
            m.add(id, id as u16, 0, Class::Rt(new), Affinity::ALL, periodic(budget, period + rest));
        }
        m.add(100, 6, 0, Class::Fair, Affinity::ALL, busy());
        m.add(101, 7, 0, Class::Fair, Affinity::ALL, busy());
        m.run_until(if cfg!(miri) { 20_000_000 } else { 400_000_000 }, |_| {});
        m.queues[0].check();
        for (id, rt) in (0..).zip(&admitted) {
            let longest = m.guests[&id].longest;
            prop_assert!(longest <= rt.period(), "{} took {} of {:?}", id, longest, admitted);
        }
        let total: u64 = (0..admitted.len() as u32).chain([100, 101]).map(|id| m.ran(id)).sum();
        prop_assert_eq!(total, m.now);
    }
}

/// Wants `run` and sleeps so that the next burst begins `period` after this one began, or at once.
fn periodic(run: u64, period: u64) -> super::machine::Behaviour {
    std::boxed::Box::new(move |_| (run, period))
}

#[test]
#[cfg_attr(miri, ignore = "a long simulation; short ones are run")]
fn a_budget_holds_even_where_nobody_else_wants_the_pcpu() {
    let shares = Shares::new(1, 1, 0);
    shares.add_vm(VmId(0), Weight::DEFAULT, None).unwrap();
    let mut m = Machine::new(1, shares);
    m.add(0, 0, 0, Class::Rt(rt(5, 2_000, 10_000)), Affinity::ALL, busy());
    m.run_until(1_000_000_000, |_| {});
    assert!((198_000_000..=202_000_000).contains(&m.ran(0)), "{}", m.ran(0));
    assert_eq!(m.queues[0].affinity(EntityId(0)), Some(Affinity::only(0)));
    assert_eq!(m.queues[0].set_affinity(EntityId(0), Affinity::ALL), Err(Error::Pinned));
    let now = m.now;
    m.queues[0].set_class(EntityId(0), Class::Fair, now).unwrap();
    m.queues[0].check();
    m.run_until(now + 100_000_000, |_| {});
    assert!(m.ran(0) >= 290_000_000);
}

#[test]
fn real_time_preempts_by_priority() {
    let mut queue = RunQueue::new(shares(1, &[100; 4]), 0);
    for id in 0..4 {
        admit(&mut queue, id, id as u16);
    }
    queue.set_class(EntityId(1), Class::Rt(rt(1, 1_000, 10_000)), 0).unwrap();
    queue.set_class(EntityId(2), Class::Rt(rt(2, 1_000, 10_000)), 0).unwrap();
    queue.set_class(EntityId(3), Class::Rt(rt(1, 1_000, 10_000)), 0).unwrap();
    let preempts = |q: &mut RunQueue, id| match q.start(EntityId(id), 0).unwrap() {
        crate::Started::Enqueued(e) => e.preempt,
        other => panic!("{other:?}"),
    };
    assert!(preempts(&mut queue, 0));
    queue.pick(0).unwrap();
    assert!(preempts(&mut queue, 1));
    queue.put(EntityId(0), 0, Why::Preempted).unwrap();
    assert_eq!(queue.pick(0).unwrap().id, EntityId(1));
    assert!(!preempts(&mut queue, 3) && preempts(&mut queue, 2));
    queue.put(EntityId(1), 10, Why::Preempted).unwrap();
    let pick = queue.pick(10).unwrap();
    assert_eq!((pick.id, pick.slice_end), (EntityId(2), Some(1_000_010)));
    assert_eq!(queue.put(EntityId(2), 1_000_010, Why::Preempted), Ok(RunState::Throttled));
    assert_eq!(queue.next_event(), Some(10_000_000));
    // The one that was preempted goes on before its equal; a yield lets that one go.
    assert_eq!(queue.pick(1_000_010).unwrap().id, EntityId(1));
    queue.put(EntityId(1), 1_000_020, Why::Yielded).unwrap();
    assert_eq!(queue.pick(1_000_020).unwrap().id, EntityId(3));
    assert!(queue.release(9_999_999).is_none());
    assert!(queue.release(10_000_000).unwrap().preempt);
    queue.check();
}

#[test]
fn a_partition_is_alone() {
    let shares = shares(2, &[100, 100]);
    let mut queue = RunQueue::new(shares.clone(), 0);
    let new = |id, vm| Stolen::new(&shares, EntityId(id), VmId(vm)).unwrap();
    queue.resize(4);
    queue.admit(new(0, 0)).unwrap();
    queue.admit(new(1, 1)).unwrap();
    assert_eq!(queue.set_class(EntityId(0), Class::Partition, 0), Err(Error::Occupied));
    let other = queue.take(EntityId(1), 0).unwrap();
    queue.set_class(EntityId(0), Class::Partition, 0).unwrap();
    let other = queue.receive(other, 0).unwrap_err();
    assert!(queue.admit(new(2, 1)).is_err());
    assert_eq!((queue.owner(), shares.view(0).unwrap().owned), (Some(EntityId(0)), true));
    queue.start(EntityId(0), 5).unwrap();
    assert_eq!(queue.pick(5).unwrap().slice_end, None);
    assert!(queue.native_wfi() && queue.steal(1, 5).is_none());
    queue.put(EntityId(0), 10, Why::Blocked).unwrap();
    assert!(matches!(queue.wake(EntityId(0), 20), crate::Wake::Enqueued(e) if e.preempt));
    queue.set_class(EntityId(0), Class::Fair, 20).unwrap();
    assert!(queue.receive(other, 20).is_ok() && queue.owner().is_none());
    queue.check();
}

#[test]
fn a_directed_yield_gives_the_rest_of_the_slice_and_no_more_than_the_share() {
    let mut queue = ready(&[100, 100, 100]);
    let mut now = 0;
    for _ in 0..if cfg!(miri) { 20 } else { 300 } {
        let pick = queue.pick(now).unwrap();
        let end = pick.slice_end.unwrap();
        if pick.id == EntityId(0) && queue.yield_to(EntityId(2), now + 1_000) == Ok(true) {
            now += 1_000;
            queue.put(pick.id, now, Why::Yielded).unwrap();
            let given = queue.pick(now).unwrap();
            assert_eq!(given.id, EntityId(2));
            assert!(given.slice_end.unwrap() <= end.max(now + crate::MIN_RUN));
            now = given.slice_end.unwrap();
            queue.put(given.id, now, Why::Preempted).unwrap();
        } else {
            now = end;
            queue.put(pick.id, now, Why::Preempted).unwrap();
        }
        queue.check();
    }
    for id in 0..3 {
        let ran = queue.stats(EntityId(id)).unwrap().ran_ns;
        assert!(ran.abs_diff(now / 3) <= 3 * SLICE, "{id} ran {ran} of {now}");
    }
    assert_eq!(queue.yield_to(EntityId(9), now), Err(Error::NotHere));
}

#[test]
fn a_woken_vcpu_goes_where_it_runs_soonest() {
    let view = |running, load| View { running, owned: false, load };
    let all = [
        view(Running::Fair, 3),
        view(Running::Fair, 1),
        view(Running::Rt(5), 0),
        view(Running::Idle, 0),
        View { owned: true, ..view(Running::Idle, 0) },
    ];
    let at = |home, allowed, class, preempts| place(|p| all.get(p).copied(), 5, home, allowed, class, preempts);
    let fair = Class::Fair;
    assert_eq!(at(0, Affinity::ALL, fair, true), Some(0));
    assert_eq!(at(0, Affinity::ALL, fair, false), Some(3));
    let busy: Affinity = [0, 1, 2].into_iter().collect();
    assert_eq!(at(0, busy, fair, false), Some(1));
    assert_eq!(at(2, busy, fair, false), Some(1));
    assert_eq!(at(2, Affinity::only(2), fair, false), Some(2));
    assert_eq!(at(2, busy, Class::Rt(rt(6, 1, 1_000)), false), Some(2));
    assert_eq!(at(2, busy, Class::Rt(rt(4, 1, 1_000)), false), Some(0));
    assert_eq!(at(4, Affinity::only(4), fair, true), None);
}
