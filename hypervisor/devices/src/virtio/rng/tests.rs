use super::{Rng, *};
use crate::virtio::Broken;
use crate::virtio::spec::*;
use crate::virtio::tests::{ALL, BASE, Board, Driver, board};
use proptest::prelude::*;

const DATA: u64 = BASE + 0x3000;

/// Counts bytes, and has so many.
struct Counting {
    next: u8,
    left: usize,
}

impl Source for Counting {
    fn fill(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.left);
        self.left -= count;
        for byte in &mut into[..count] {
            self.next = self.next.wrapping_add(1);
            *byte = self.next;
        }
        count
    }
}

fn up(left: usize) -> (Board<Rng<Counting>>, Driver) {
    let mut b = board(Rng::new(Counting { next: 0, left }));
    b.negotiate(ALL);
    let d = Driver::new(&mut b, 0, 16);
    b.driver_ok();
    (b, d)
}

fn ask(d: &mut Driver, n: u16, size: u32) {
    d.descriptor(d.desc, n, (DATA + 0x400 * u64::from(n), size, DESC_WRITE, 0));
    d.offer(n);
}

#[test]
fn a_driver_gets_its_bytes() {
    let (mut b, mut d) = up(1000);
    assert_eq!(b.get(DEVICE_ID), 4);
    ask(&mut d, 0, 64);
    ask(&mut d, 1, 3);
    assert_eq!(b.repeat(QUEUE_NOTIFY, 0), 1);
    assert_eq!(d.collect(), [(0, 64), (1, 3)]);
    assert!(b.irq.is_high());
    assert_eq!(b.ram.get(DATA, 65), (1..=64).chain([0]).collect::<alloc::vec::Vec<u8>>());
    assert_eq!(b.ram.get(DATA + 0x400, 4), [65, 66, 67, 0]);
    assert_eq!(b.device.device().stats(), Stats { requests: 2, bytes: 67, waits: 0 });
}

#[test]
fn a_step_gives_so_many_bytes_and_no_more() {
    let (mut b, mut d) = up(10_000);
    // More than a buffer gets; then three that share a step.
    ask(&mut d, 0, 1000);
    (1..5).for_each(|n| ask(&mut d, n, 100));
    assert_eq!(b.repeat(QUEUE_NOTIFY, 0), 3);
    assert_eq!(d.collect(), [(0, 256), (1, 100), (2, 100), (3, 56), (4, 100)]);
}

#[test]
fn without_bytes_the_buffer_waits_and_the_guest_goes_on() {
    let (mut b, mut d) = up(5);
    ask(&mut d, 0, 8);
    ask(&mut d, 1, 8);
    assert_eq!(b.repeat(QUEUE_NOTIFY, 0), 1);
    assert_eq!(d.collect(), [(0, 5)]);
    assert!(b.device.device().is_waiting());
    b.device.poke(REQUESTQ);
    assert!(d.collect().is_empty());
    b.device.device_mut().source_mut().left = 8;
    b.device.poke(REQUESTQ);
    assert_eq!(d.collect(), [(1, 8)]);
    assert!(!b.device.device().is_waiting());
    assert_eq!(b.device.device().stats(), Stats { requests: 2, bytes: 13, waits: 2 });
    // What waits at a reset is forgotten; what waits when it is saved goes on.
    b.device.device_mut().source_mut().left = 0;
    ask(&mut d, 2, 8);
    b.set(QUEUE_NOTIFY, 0);
    let state = b.device.save();
    let mut twin = board(Rng::new(Counting { next: 0, left: 8 }));
    twin.device.restore(state).unwrap();
    twin.ram.put(BASE, &b.ram.get(BASE, 0x1000));
    twin.device.run_waiting();
    assert_eq!(twin.ram.get_u16(d.used + USED_IDX), 3);
    bus::MmioDevice::reset(&mut b.device);
    assert!(!b.device.device().is_waiting());
}

#[test]
fn a_buffer_to_read_breaks_the_queue() {
    let (mut b, mut d) = up(100);
    d.descriptor(d.desc, 0, (DATA, 8, 0, 0));
    d.offer(0);
    b.set(QUEUE_NOTIFY, 0);
    assert_eq!(b.device.stats().last, Some(Broken::Small));
    assert_eq!(b.device.device().stats().bytes, 0);
}

#[test]
fn an_allowance_is_spent_and_comes_back() {
    // 1,000 bytes a second: one each millisecond, 64 at once.
    let mut a = Allowance::new(1000, 64);
    assert_eq!(a.take(0, 60), 60);
    assert_eq!(a.take(0, 8), 0);
    assert_eq!(a.when(8), 4_000_000);
    assert_eq!(a.take(3_999_999, 8), 0);
    assert_eq!(a.take(4_000_000, 8), 8);
    // More than it ever has: all of it.
    assert_eq!(a.take(67_999_999, 1000), 0);
    assert_eq!(a.take(68_000_000, 1000), 64);
    // It does not grow beyond that.
    assert_eq!((a.take(u64::MAX / 2, 64), a.take(u64::MAX / 2, 1)), (64, 0));
    for (per_second, burst) in [(0, 0), (u32::MAX, u32::MAX), (1, u32::MAX)] {
        let mut a = Allowance::new(per_second, burst);
        assert!(a.take(0, usize::MAX) >= 1);
        assert!(a.take(u64::MAX, usize::MAX) >= 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

    #[test]
    fn nobody_gets_more_than_the_allowance(
        takes in prop::collection::vec((0u64..50_000_000, 0usize..100), 1..60), rate in 1u32..5000, burst in 1u32..200
    ) {
        let mut a = Allowance::new(rate, burst);
        let (mut now, mut sum) = (0u64, 0u64);
        for (pause, wanted) in takes {
            now += pause;
            let when = a.when(wanted);
            let got = a.take(now, wanted);
            prop_assert_eq!(got == wanted.min(burst as usize), when <= now);
            prop_assert!(got == 0 || when <= now);
            sum += got as u64;
            // (A byte's cost is whole nanoseconds: at these rates a rounding of less than one in 100,000.)
            let most = u64::from(burst) + now * u64::from(rate) / 999_990_000 + 1;
            prop_assert!(sum <= most, "{} bytes by {} ns", sum, now);
        }
    }
}
