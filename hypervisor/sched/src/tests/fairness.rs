//! The rule that the crate's text states, held against simulated time.
use proptest::prelude::*;
use std::{vec, vec::Vec};

use super::{admit, ready, shares};
use crate::{EntityId, MIN_RUN, RunQueue, RunState, SLICE, VmId, WAKE_SLICE, Wake, Weight, Why};

fn ran(queue: &RunQueue, id: u32) -> i128 {
    i128::from(queue.stats(EntityId(id)).unwrap().ran_ns)
}

/// The largest distance of any vCPU's service from its share of `total`, in ns.
fn worst_error(queue: &RunQueue, weights: &[u32], total: i128) -> i128 {
    let sum: i128 = weights.iter().map(|w| i128::from(*w)).sum();
    let errors = (0..).zip(weights).map(|(id, w)| (ran(queue, id) - total * i128::from(*w) / sum).abs());
    errors.max().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 32 }))]

    /// Slices that end late by up to 200 us, and now and then early (a preemption): the bound holds after each.
    #[test]
    fn service_stays_within_the_bound(
        weights in prop::collection::vec(1u32..=10_000, 2..12),
        steps in prop::collection::vec((0u64..=200_000, prop::option::weighted(0.2, 1u64..SLICE)), if cfg!(miri) { 30 } else { 300 }),
    ) {
        let mut queue = ready(&weights);
        let (mut now, mut total, mut overrun) = (0, 0, 0);
        for (late, early) in steps {
            let pick = queue.pick(now).unwrap();
            let end = pick.slice_end.unwrap();
            let until = match early {
                Some(early) if now + early < end => now + early,
                _ => { overrun = overrun.max(late); end + late }
            };
            total += i128::from(until - now);
            now = until;
            prop_assert_eq!(queue.put(pick.id, now, Why::Preempted), Ok(RunState::Ready));
            let bound = i128::from(SLICE + MIN_RUN + overrun) + 1;
            let error = worst_error(&queue, &weights, total);
            prop_assert!(error <= bound, "{} ns off with a bound of {}", error, bound);
        }
    }

    /// Every ready vCPU runs within the time that the others' shares and one request each may take.
    #[test]
    fn nobody_starves(weights in prop::collection::vec(1u32..=10_000, 2..12)) {
        let mut queue = ready(&weights);
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut now = 0;
        let mut last = vec![0; weights.len()];
        for _ in 0..if cfg!(miri) { 50 } else { 1_000 } {
            let pick = queue.pick(now).unwrap();
            let at = pick.id.0 as usize;
            // Its own request takes SLICE * sum / weight of wall time at its share; the bound comes on top, twice.
            let limit = SLICE * sum / u64::from(weights[at]) + 2 * (SLICE + MIN_RUN) * sum / u64::from(weights[at]);
            prop_assert!(now - last[at] <= limit, "{} waited {}", at, now - last[at]);
            now = pick.slice_end.unwrap();
            last[at] = now;
            queue.put(pick.id, now, Why::Preempted).unwrap();
        }
    }

    /// A vCPU that sleeps between bursts, whatever their lengths, never costs one that is always ready more than the share:
    /// sleeping is no way to get more.
    #[test]
    fn sleepers_take_no_more_than_their_share(
        weights in prop::collection::vec(10u32..=1_000, 2..8),
        bursts in prop::collection::vec((10_000u64..6_000_000, 0u64..10_000_000), if cfg!(miri) { 20 } else { 400 }),
    ) {
        let mut queue = ready(&weights);
        let sum: i128 = weights.iter().map(|w| i128::from(*w)).sum();
        let hog = EntityId(0);
        let mut now = 0;
        let mut bursts = bursts.into_iter();
        let mut left: Vec<u64> = vec![0; weights.len()];
        let mut asleep: Vec<Option<u64>> = vec![None; weights.len()];
        loop {
            for (id, wake) in (0..).zip(&mut asleep) {
                if wake.take_if(|at| *at <= now).is_some() {
                    queue.wake(EntityId(id), now);
                }
            }
            let pick = queue.pick(now).unwrap();
            let at = pick.id.0 as usize;
            if pick.id != hog && left[at] == 0 {
                let Some((burst, _)) = bursts.as_slice().first() else { break };
                left[at] = *burst;
            }
            let next_wake = asleep.iter().flatten().min().copied().unwrap_or(u64::MAX);
            let mut end = pick.slice_end.unwrap_or(u64::MAX).min(next_wake);
            if pick.id != hog {
                end = end.min(now + left[at]);
                left[at] -= end - now;
            }
            // The hog alone: until the next wake-up, which there is.
            now = end;
            if pick.id != hog && left[at] == 0 {
                let Some((_, sleep)) = bursts.next() else { break };
                queue.put(pick.id, now, Why::Blocked).unwrap();
                asleep[at] = Some(now + sleep);
            } else {
                queue.put(pick.id, now, Why::Preempted).unwrap();
            }
            let share = i128::from(now) * i128::from(weights[0]) / sum;
            let short = share - ran(&queue, 0);
            prop_assert!(short <= i128::from(2 * (SLICE + MIN_RUN)), "{} ns short of its share", short);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "the statistic of 700 picks; other tests make a few of each kind")]
fn one_percent_after_a_hundred_slices() {
    let weights = [100, 200, 400];
    let mut queue = ready(&weights);
    let mut now = 0;
    for _ in 0..700 {
        let pick = queue.pick(now).unwrap();
        now = pick.slice_end.unwrap();
        queue.put(pick.id, now, Why::Preempted).unwrap();
    }
    for (id, weight) in (0..).zip(weights) {
        let share = i128::from(now) * i128::from(weight) / 700;
        assert!((ran(&queue, id) - share).abs() * 100 <= share, "{id} got {} of {share}", ran(&queue, id));
    }
}

#[test]
fn alone_there_is_no_tick_and_company_brings_one() {
    let mut queue = ready(&[100, 100]);
    queue.pick(0).unwrap();
    queue.put(EntityId(0), 10, Why::Blocked).unwrap();
    assert_eq!(queue.pick(10).unwrap().slice_end, None);
    // Hours later; the running one has long been served what it asked for, so the sleeper goes first at once.
    let later = 3_600_000_000_000;
    let Wake::Enqueued(enqueued) = queue.wake(EntityId(0), later) else { panic!("not enqueued") };
    assert!(enqueued.preempt);
    let tick = enqueued.tick.unwrap();
    assert_eq!(queue.slice_end(), Some(tick));
    assert!(tick > later && tick <= later + SLICE);
}

/// At time 0: vCPU 0 Blocked, vCPU 1 Running, the others Ready.
fn asleep_and_running(weights: &[u32]) -> RunQueue {
    let mut queue = RunQueue::new(shares(1, weights), 0);
    for id in (0..weights.len() as u32).map(EntityId) {
        admit(&mut queue, id.0, id.0 as u16);
        queue.start(id, 0).unwrap();
        queue.pick(0).unwrap();
        if id.0 == 0 {
            queue.put(id, 0, Why::Blocked).unwrap();
        }
    }
    assert_eq!(queue.running(), Some(EntityId(1)));
    queue
}

#[test]
fn a_sleeper_waits_for_a_short_request_at_most() {
    for at in (0..10 * SLICE).step_by(if cfg!(miri) { 2_137_531 } else { 137_531 }) {
        let mut queue = asleep_and_running(&[100, 100]);
        let mut now = at;
        let Wake::Enqueued(enqueued) = queue.wake(EntityId(0), now) else { panic!("not enqueued") };
        if !enqueued.preempt {
            now = queue.slice_end().unwrap();
        }
        queue.put(EntityId(1), now, Why::Preempted).unwrap();
        assert_eq!(queue.pick(now).unwrap().id, EntityId(0), "woken at {at}");
        assert!(now - at <= WAKE_SLICE + MIN_RUN, "waited {}", now - at);
    }
}

#[test]
fn a_wake_up_preempts_exactly_when_pick_would_choose_it() {
    for (w0, w1) in [(100, 100), (1, 10_000), (10_000, 1), (100, 300)] {
        for at in (0..3 * SLICE).step_by(if cfg!(miri) { 1_050_021 } else { 50_021 }) {
            // The third keeps the virtual time apart from the running one's.
            let mut queue = asleep_and_running(&[w0, w1, 100]);

            let Wake::Enqueued(enqueued) = queue.wake(EntityId(0), at) else { panic!("not enqueued") };
            queue.put(EntityId(1), at, Why::Preempted).unwrap();
            let chosen = queue.pick(at).unwrap().id;
            // `pick` may choose the third too, but the woken one only if `wake` said so.
            assert!(enqueued.preempt || chosen != EntityId(0), "at {at}");
            assert!(!enqueued.preempt || chosen != EntityId(1), "at {at}");
        }
    }
}

#[test]
fn sleep_saves_nothing_up() {
    let mut queue = asleep_and_running(&[100, 100]);
    let mut now = 1_000_000_000;
    queue.wake(EntityId(0), now);
    queue.put(EntityId(1), now, Why::Preempted).unwrap();
    let (before, since) = (ran(&queue, 1), now);
    for _ in 0..20 {
        let pick = queue.pick(now).unwrap();
        now = pick.slice_end.unwrap();
        queue.put(pick.id, now, Why::Preempted).unwrap();
    }
    let missing = i128::from(now - since) / 2 - (ran(&queue, 1) - before);
    assert!(missing <= i128::from(SLICE + MIN_RUN), "{missing} ns less than half");
}

#[test]
fn a_yield_lets_another_go_first_whatever_the_weights() {
    let mut queue = ready(&[1, 10_000]);
    for now in 0..10 {
        let first = queue.pick(now).unwrap().id;
        queue.put(first, now, Why::Yielded).unwrap();
        assert_ne!(queue.pick(now).unwrap().id, first);
        let second = queue.running().unwrap();
        queue.put(second, now, Why::Preempted).unwrap();
    }
    let mut alone = ready(&[100]);
    alone.pick(0).unwrap();
    alone.put(EntityId(0), 1, Why::Yielded).unwrap();
    assert_eq!(alone.pick(1).unwrap().id, EntityId(0));
}

#[test]
fn a_new_weight_counts_from_then_on() {
    let mut queue = ready(&[100, 100]);
    let mut now = 0;
    let mut run = |queue: &mut RunQueue, slices: u32| {
        let before = [ran(queue, 0), ran(queue, 1)];
        for _ in 0..slices {
            let pick = queue.pick(now).unwrap();
            now = pick.slice_end.unwrap();
            queue.put(pick.id, now, Why::Preempted).unwrap();
        }
        [ran(queue, 0) - before[0], ran(queue, 1) - before[1]]
    };
    let [a, b] = run(&mut queue, if cfg!(miri) { 30 } else { 200 });
    assert!((a - b).abs() <= i128::from(2 * (SLICE + MIN_RUN)));
    queue.shares.set_vm_weight(VmId(1), Weight::new(300).unwrap()).unwrap();
    queue.refresh(EntityId(1), 0).unwrap();
    let [a, b] = run(&mut queue, if cfg!(miri) { 60 } else { 400 });
    assert!((3 * a - b).abs() <= i128::from(8 * (SLICE + MIN_RUN)), "{a} {b}");
}
