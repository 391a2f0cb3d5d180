//! `cpu.max` of VMs and groups, by simulation.
use std::{println, vec::Vec};

use super::machine::{Behaviour, Machine, busy, sleeper};
use crate::{Affinity, Class, EntityId, GroupId, Max, RunState, SLICE, Shares, VmId, Weight, Why, pool::Pool};

/// VMs as (quota and period in us or none, group, vCPUs), groups with theirs.
type Limit = Option<(u32, u32)>;

fn max(limit: Limit) -> Option<Max> {
    limit.map(|(quota, period)| Max::new(quota, period).unwrap())
}

fn machine(
    pcpus: usize,
    groups: &[Limit],
    vms: &[(Limit, Option<u16>, u32)],
    behave: impl Fn(u32) -> Behaviour,
) -> Machine {
    let shares = Shares::new(pcpus, vms.len() as u16, groups.len() as u16);
    for (group, limit) in (0..).map(GroupId).zip(groups) {
        shares.add_group(group, Weight::DEFAULT).unwrap();
        shares.set_group_max(group, max(*limit), 0).unwrap();
    }
    for (vm, (limit, group, _)) in (0..).map(VmId).zip(vms) {
        shares.add_vm(vm, Weight::DEFAULT, group.map(GroupId)).unwrap();
        shares.set_vm_max(vm, max(*limit), 0).unwrap();
    }
    let mut machine = Machine::new(pcpus, shares);
    let mut id = 0;
    for (vm, (_, _, vcpus)) in (0..).zip(vms) {
        for _ in 0..*vcpus {
            machine.add(id, vm, id as usize % pcpus, Class::Fair, Affinity::ALL, behave(id));
            id += 1;
        }
    }
    machine
}

fn ran(machine: &Machine, ids: std::ops::Range<u32>) -> f64 {
    ids.map(|id| machine.ran(id)).sum::<u64>() as f64
}

/// 100 periods of 10 ms, a quota of `quota` us for `vcpus` vCPUs: what they got, in quotas.
fn quotas_used(pcpus: usize, quota: u32, vcpus: u32, behave: impl Fn(u32) -> Behaviour) -> f64 {
    let mut m = machine(pcpus, &[], &[(Some((quota, 10_000)), None, vcpus), (None, None, 2)], behave);
    m.late = 20_000;
    m.run_until(1_000_000_000, |_| {});
    m.queues.iter().for_each(|q| q.check());
    let used = ran(&m, 0..vcpus) / f64::from(quota) / 1_000.0;
    println!("{pcpus} pCPUs, {vcpus} vCPUs, quota {quota}: {used:.2} quotas");
    used
}

#[test]
#[cfg_attr(miri, ignore = "a long simulation; short ones are run")]
fn a_maximum_is_met_within_one_percent() {
    for (pcpus, quota, vcpus) in
        [(1, 2_500, 1), (2, 2_500, 1), (4, 5_000, 4), (4, 15_000, 8), (2, 9_000, 3), (4, 1_000, 8)]
    {
        let used = quotas_used(pcpus, quota, vcpus, |_| busy());
        assert!((99.0..=101.0).contains(&used), "{used}");
        // Some sleep now and then; the others want more than there is all the same.
        let used =
            quotas_used(pcpus, quota, vcpus, |id| if id % 2 == 0 { busy() } else { sleeper(123_000, 1_270_000) });
        assert!((99.0..=101.0).contains(&used), "with sleepers: {used}");
    }
}

/// No stretch of periods has more than its quotas, a sixteenth of one, and what was granted before.
#[test]
fn a_maximum_is_never_exceeded() {
    let mut m = machine(4, &[], &[(Some((8_000, 10_000)), None, 8)], |id| {
        if id < 4 { busy() } else { sleeper(400_000 + 100_000 * u64::from(id), 900_000) }
    });
    let mut history = Vec::new();
    for period in 0..if cfg!(miri) { 4 } else { 200 } {
        m.run_until(period * 10_000_000, |_| {});
        history.push(ran(&m, 0..8));
    }
    for (from, start) in history.iter().enumerate() {
        for (periods, end) in history[from..].iter().enumerate() {
            let most = 8e6 * (periods as f64 + 1.0 / 16.0) + 4.0 * SLICE as f64;
            assert!(end - start <= most, "{} in {periods} periods from {from}", end - start);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a long simulation; short ones are run")]
fn a_group_and_its_vms_are_limited() {
    // The group has 12 ms of 20 in each 10; one VM may use 4, another 20, the third is only the group's.
    let vms = [
        (Some((4_000, 10_000)), Some(0), 2),
        (Some((20_000, 20_000)), Some(0), 2),
        (None, Some(0), 1),
        (None, None, 4),
    ];
    let mut m = machine(2, &[Some((12_000, 10_000))], &vms, |_| busy());
    m.run_until(1_000_000_000, |m| m.assert_busy());
    let used = [ran(&m, 0..2), ran(&m, 2..4), ran(&m, 4..5)].map(|ns| ns / 1e6);
    println!("{used:?}");
    let group: f64 = used.iter().sum();
    assert!(used[0] <= 404.0 && used[1] <= 1_010.0 && group <= 1_212.0, "{used:?}");
    // The fourth VM leaves the group half of the machine by weight: less than its maximum.
    assert!(group >= 900.0, "{used:?}");
    // Without it the group's maximum is all that holds it back.
    let mut m = machine(2, &[Some((12_000, 10_000))], &vms[..3], |_| busy());
    m.run_until(1_000_000_000, |_| {});
    let used = [ran(&m, 0..2), ran(&m, 2..4), ran(&m, 4..5)].map(|ns| ns / 1e6);
    println!("{used:?}");
    let group: f64 = used.iter().sum();
    assert!(used[0] <= 404.0 && (1_188.0..=1_212.0).contains(&group), "{used:?}");
}

#[test]
#[cfg_attr(miri, ignore = "a long simulation; short ones are run")]
fn a_maximum_comes_and_goes_while_the_vcpu_runs() {
    let mut m = machine(1, &[], &[(None, None, 1)], |_| busy());
    m.run_until(1_000_000_000, |_| {});
    assert_eq!((ran(&m, 0..1), m.queues[0].slice_end()), (1e9, None));
    let now = m.now;
    m.shares.set_vm_max(VmId(0), max(Some((25_000, 100_000))), now).unwrap();
    m.queues[0].refresh(EntityId(0), now).unwrap();
    assert!(m.queues[0].slice_end().is_some());
    m.run_until(now + 1_000_000_000, |_| {});
    let used = ran(&m, 0..1) - 1e9;
    assert!((used / 25e7 - 1.0).abs() <= 0.01, "{used}");
    let stats = m.queues[0].stats(EntityId(0)).unwrap();
    assert!(stats.throttled_ns > 600_000_000);
    let now = m.now;
    let before = ran(&m, 0..1);
    m.shares.set_vm_max(VmId(0), None, now).unwrap();
    m.queues[0].refresh(EntityId(0), now).unwrap();
    m.run_until(now + 1_000_000_000, |_| {});
    // It comes back when the period in which it was throttled ends.
    assert!(ran(&m, 0..1) - before >= 0.89e9);
    assert_eq!(m.queues[0].slice_end(), None);
}

/// A put that comes far too late is paid for by the periods that follow.
#[test]
fn debt_is_carried() {
    let mut m = machine(1, &[], &[(Some((1_000, 10_000)), None, 1)], |_| busy());
    let queue = &mut m.queues[0];
    assert!(queue.pick(0).unwrap().slice_end.unwrap() <= 1_000_000);
    assert_eq!(queue.put(EntityId(0), 5_000_000, Why::Preempted), Ok(RunState::Ready));
    let mut now = 5_000_000;
    let mut next_run = None;
    for _ in 0..10 {
        match queue.pick(now) {
            None => now = queue.next_event().unwrap(),
            Some(_) => {
                next_run = Some(now);
                break;
            }
        }
        assert_eq!(queue.state(EntityId(0)), Some(RunState::Throttled));
    }
    // 5 ms were used: the quotas of periods 0 to 4.
    assert_eq!(next_run, Some(50_000_000));
}

#[test]
fn grants_never_exceed_the_pool() {
    let pool = Pool::default();
    assert_eq!(pool.take(SLICE, 0), Ok(SLICE));
    pool.set(Max::new(2_000, 10_000), 0);
    let mut sum = 0;
    while let Ok(piece) = pool.take(SLICE, 3) {
        assert!(piece > 0);
        sum += piece;
    }
    assert!((1_999_872..=2_000_000).contains(&sum), "{sum}");
    assert_eq!(pool.take(SLICE, 9_999_999), Err(10_000_000));
    // A clock read before the period's end does not refill it twice.
    assert!(pool.take(128, 10_000_000).is_ok());
    assert!(pool.take(128, 9_999_999).is_ok());
    assert_eq!(Max::new(0, 10_000), None);
    assert_eq!(Max::new(1_000, 999), None);
    assert_eq!(Max::new(1_280_001, 10_000), None);
}
