//! The room's tests: sizes and percentiles, the records' form, the ring in every interleaving that matters.

mod loom;

use crate::*;
use proptest::prelude::*;
use std::format;
use std::vec::Vec;

fn event(n: u64) -> Event {
    Event { tick: n, what: What::Exit(Reason::Mmio), pcpu: 3, vm: 1, vcpu: n as u16, argument: n.wrapping_mul(7) }
}

fn all_of(ring: &Ring, mut cursor: Cursor) -> (Vec<u64>, u64) {
    let (mut ticks, mut lost) = (Vec::new(), 0);
    loop {
        match ring.read(&mut cursor) {
            Read::Event(e) => {
                assert_eq!(e, event(e.tick));
                ticks.push(e.tick);
            }
            Read::Lost(n) => lost += n,
            Read::Empty => return (ticks, lost),
        }
    }
}

#[test]
fn buckets_are_powers_of_two() {
    let h = Histogram::new();
    for value in [0, 1, 2, 3, 4, 7, 8, 1 << 38, u64::MAX] {
        h.record(value);
    }
    let s = h.snapshot();
    assert_eq!(&s.buckets[..5], &[1, 1, 2, 2, 1]);
    assert_eq!(s.buckets[39], 2, "2^38 has 39 bits, and the last bucket has all that is larger");
    assert_eq!((s.count(), s.max, s.sum), (9, u64::MAX, u64::MAX));
}

#[test]
fn sums_saturate() {
    let h = Histogram::new();
    h.record(u64::MAX);
    h.record(5);
    assert_eq!(h.snapshot().sum, u64::MAX);
}

#[test]
fn nothing_has_no_percentile() {
    let s = Histogram::new().snapshot();
    assert_eq!((s.count(), s.mean(), s.percentile(50), s.percentile(100)), (0, 0, 0, 0));
}

#[test]
fn a_tail_shows_in_the_last_percents_only() {
    let h = Histogram::new();
    (0..99).for_each(|_| h.record(100));
    h.record(5000);
    let s = h.snapshot();
    assert_eq!((s.percentile(50), s.percentile(99), s.percentile(100)), (127, 127, 5000));
    assert_eq!(s.mean(), 149);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 256 }, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_percentile_is_right_within_its_bucket(mut values in prop::collection::vec(0..1_u64 << 30, 1..200), percent in 1..=100_u32) {
        let h = Histogram::new();
        values.iter().for_each(|v| h.record(*v));
        values.sort_unstable();
        let place = (values.len() * percent as usize).div_ceil(100).max(1);
        let exact = values[place - 1];
        let shown = h.snapshot().percentile(percent);
        prop_assert!(shown >= exact && shown <= exact.saturating_mul(2), "{} for {}", shown, exact);
    }

    #[test]
    fn a_record_comes_back(tick: u64, code in 0..12_u8, which in 0..12_u8, ids: u64, argument: u64) {
        let words = [tick, u64::from(code) | u64::from(which) << 8 | ids << 16, argument];
        if let Some(e) = Event::from_words(words) {
            prop_assert_eq!(e.words(), words);
            prop_assert_ne!(format!("{}", e), "");
        }
    }

    #[test]
    fn what_is_read_late_is_the_newest(capacity in 2..40_usize, written in 0..200_u64) {
        let ring = Ring::new(capacity);
        (0..written).for_each(|n| ring.push(&event(n)));
        let kept = written.min(ring.capacity() as u64);
        let (ticks, lost) = all_of(&ring, Cursor::default());
        prop_assert_eq!(ticks, (written - kept..written).collect::<Vec<_>>());
        prop_assert_eq!(lost, written - kept);
    }
}

#[test]
fn every_kind_has_a_form() {
    let mut kinds = std::vec![What::Begin, What::Shown, What::Taken, What::Wake, What::Slept, What::Moved, What::Kick];
    kinds.extend(Why::ALL.iter().map(|w| What::End(*w)));
    kinds.extend(Reason::ALL.iter().map(|r| What::Exit(*r)));
    kinds.extend(Life::ALL.iter().map(|l| What::Life(*l)));
    for what in kinds {
        let e = Event { what, ..event(9) };
        assert_eq!(Event::from_words(e.words()), Some(e));
    }
    assert_eq!(Event::from_words([0; 3]), None);
}

#[test]
fn the_codes_are_the_places_in_the_tables() {
    for (code, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!((*reason as usize, Reason::of(code as u8)), (code, Some(*reason)));
    }
    assert_eq!(Reason::of(Reason::ALL.len() as u8), None);
}

#[test]
fn a_reader_that_keeps_up_loses_nothing() {
    let ring = Ring::new(4);
    let mut cursor = Cursor::default();
    for n in 0..20 {
        ring.push(&event(n));
        assert_eq!(ring.read(&mut cursor), Read::Event(event(n)));
        assert_eq!(ring.read(&mut cursor), Read::Empty);
    }
}

#[test]
fn the_last_ones_can_be_asked_for() {
    let ring = Ring::new(8);
    (0..5).for_each(|n| ring.push(&event(n)));
    assert_eq!(all_of(&ring, ring.last(2)).0, [3, 4]);
    assert_eq!(all_of(&ring, ring.last(100)).0, [0, 1, 2, 3, 4]);
}

#[test]
fn a_writer_and_a_reader_at_once() {
    let ring = Ring::new(8);
    let count = if cfg!(miri) { 200 } else { 200_000 };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..count).for_each(|n| ring.push(&event(n))));
        let (mut cursor, mut seen, mut next) = (Cursor::default(), 0, 0);
        while seen < count {
            match ring.read(&mut cursor) {
                Read::Event(e) => {
                    assert_eq!(e, event(e.tick), "a torn record");
                    assert!(e.tick >= next);
                    next = e.tick + 1;
                    seen += 1;
                }
                Read::Lost(n) => seen += n,
                Read::Empty => std::thread::yield_now(),
            }
        }
        assert_eq!(seen, count, "each event is read or counted as lost, once");
    });
}

#[test]
fn a_sleep_is_split_at_the_wake_up() {
    let v = VcpuTrace::new();
    v.back(10, 5);
    v.left(Why::Blocked, 100);
    v.back(1000, 40);
    v.left(Why::Preempted, 2000);
    v.back(2500, 500);
    v.left(Why::Throttled, 2600);
    v.back(2900, 100);
    v.left(Why::Off, 3000);
    v.back(9000, 10);
    let of = |span| v.spans(span).unwrap().snapshot();
    assert_eq!((of(Span::Blocked).count(), of(Span::Blocked).sum), (1, 860));
    assert_eq!((of(Span::Wake).count(), of(Span::Wake).sum), (1, 40));
    assert_eq!((of(Span::Steal).count(), of(Span::Steal).sum), (2, 600));
    assert_eq!((of(Span::Throttled).count(), of(Span::Throttled).sum), (1, 200));
    assert_eq!(of(Span::Guest).count(), 0);
}

#[test]
fn exits_are_kept_by_reason() {
    let v = VcpuTrace::new();
    v.exit(Reason::Call, 100);
    v.exit(Reason::Call, 300);
    v.exit(Reason::Other, 7);
    v.show();
    let call = v.exits(Reason::Call).unwrap().snapshot();
    assert_eq!((call.count(), call.mean(), call.max), (2, 200, 300));
    assert_eq!(v.exits(Reason::Other).unwrap().snapshot().count(), 1);
    assert_eq!(v.exits(Reason::Mmio).unwrap().snapshot().count(), 0);
    assert_eq!(v.shown(), 1);
}
