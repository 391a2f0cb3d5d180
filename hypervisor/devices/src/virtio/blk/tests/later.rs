//! Requests that end later: in any order, with errors, across resets; and a guest that writes anything anywhere at any time.

use super::*;
use crate::virtio::tests::hostile::{act, play};
use bus::MmioDevice;
use proptest::prelude::*;

fn rig(depth: u16, features: u64) -> Rig {
    Rig::new(Fake::new(128, depth), features)
}

const OK: Result<(), DiskError> = Ok(());
const BAD: Result<(), DiskError> = Err(DiskError::Io);

#[test]
fn requests_end_in_any_order() {
    let mut r = rig(4, FEATURES);
    r.d.ram.put(DATA, &[5; 512]);
    r.offer(3, write(0, DATA, 512));
    r.offer(1, read(1, DATA + 0x400, 1024));
    r.offer(7, read(3, DATA + 0x800, 512));
    r.offer(2, FLUSH);
    r.offer(9, read(4, DATA + 0xc00, 512));
    r.notify();
    assert_eq!((r.d.collect(), r.disk().open()), (vec![], 4), "as many as the disk takes");
    assert_eq!(r.stats().depth, 4);
    assert!(!r.b.irq.is_high());
    // What is written was copied when it was submitted.
    r.d.ram.put(DATA, &[6; 512]);
    r.disk().end(2, OK);
    r.poke();
    assert_eq!(r.d.collect(), [(7, 513)]);
    assert!(r.b.irq.is_high());
    r.b.acknowledge();
    r.d.set_used_event(r.d.seen);
    assert_eq!(r.d.ram.get(DATA + 0x800, 512), (3 * 512..4 * 512).map(pattern).collect::<Vec<u8>>());
    // Its place was taken by the last one.
    assert_eq!(r.disk().open(), 4);
    r.disk().end(3, OK);
    r.disk().end(2, BAD);
    r.disk().end(0, OK);
    r.poke();
    let mut found = r.d.collect();
    found.sort();
    assert_eq!(found, [(2, 1), (3, 1), (9, 513)]);
    assert_eq!([3, 2, 9, 1].map(|n| r.status(n)), [S_OK, S_IOERR, S_OK, NONE]);
    assert_eq!(r.disk().bytes[..512], [5; 512]);
    assert!(r.b.irq.is_high());
    r.disk().end(0, BAD);
    r.poke();
    assert_eq!((r.d.collect(), r.status(1)), (vec![(1, 0)], S_IOERR));
    let stats =
        Stats { reads: 2, writes: 1, read_bytes: 1024, written_bytes: 512, errors: 2, deepest: 4, ..Stats::default() };
    assert_eq!(r.stats(), stats);
}

#[test]
fn a_large_request_goes_in_pieces() {
    let mut r = rig(2, FEATURES);
    r.offer(0, read(1, DATA + 0x400, 40 << 10));
    r.notify();
    for (n, size) in [16u64, 16, 8].into_iter().enumerate() {
        assert_eq!((r.d.collect(), r.disk().open()), (vec![], 1));
        assert_eq!(r.disk().log[n], Request::Read { at: 512 + ((n as u64) << 14), size: size << 10 });
        r.disk().end(0, OK);
        r.poke();
    }
    assert_eq!(r.d.collect(), [(0, (40 << 10) + 1)]);
    assert_eq!(r.d.ram.get(DATA + 0x400, 40 << 10), (512..512 + (40 << 10)).map(pattern).collect::<Vec<u8>>());
    // An error in the middle: so much is there, and no more.
    r.offer(0, read(0, DATA + 0x400, 40 << 10));
    r.notify();
    r.disk().end(0, OK);
    r.poke();
    r.disk().end(0, BAD);
    r.poke();
    assert_eq!((r.d.collect(), r.status(0), r.disk().open()), (vec![(0, 16 << 10)], S_IOERR, 0));
}

#[test]
fn without_the_feature_writes_are_flushed() {
    let mut r = rig(2, ALL);
    r.offer(0, write(0, DATA, 512));
    r.offer(1, read(1, DATA, 512));
    r.notify();
    r.disk().end(0, OK);
    r.disk().end(0, OK);
    r.poke();
    assert_eq!((r.d.collect(), r.status(0)), (vec![(1, 513)], NONE));
    assert_eq!(r.disk().log.pop(), Some(Request::Flush));
    r.disk().end(0, BAD);
    r.poke();
    assert_eq!((r.d.collect(), r.status(0)), (vec![(0, 1)], S_IOERR));
    assert_eq!((r.stats().writes, r.stats().flushes), (0, 0));
    r.offer(0, write(0, DATA, 512));
    r.notify();
    for _ in 0..2 {
        assert_eq!(r.d.collect(), []);
        r.disk().end(0, OK);
        r.poke();
    }
    assert_eq!((r.d.collect(), r.status(0), r.stats().writes), (vec![(0, 1)], S_OK, 1));
}

/// A reset, or a queue that is taken back, with requests on their way: nobody hears of them, their ends touch nothing of the guest, and
/// nothing new begins before they have ended.
#[test]
fn nobody_waits_after_a_reset() {
    for how in 0..3 {
        let mut r = rig(2, FEATURES);
        r.d.ram.put(DATA, &[1; 512]);
        r.offer(0, write(0, DATA, 512));
        r.offer(1, read(1, DATA + 0x1000, 512));
        r.offer(2, read(1, DATA + 0x1000, 512));
        r.notify();
        match how {
            0 => r.b.set(STATUS, 0),
            1 => r.b.device.reset(),
            _ => {
                r.b.set(QUEUE_SEL, 0);
                r.b.set(QUEUE_READY, 0);
            }
        }
        assert_eq!(r.b.device.device().stats().depth, 0);
        r.again(FEATURES);
        r.d.ram.put(DATA, &[2; 512]);
        r.offer(5, write(0, DATA, 512));
        r.notify();
        assert_eq!((r.disk().open(), r.d.collect()), (2, vec![]));
        r.disk().end(1, OK);
        r.poke();
        assert_eq!((r.disk().open(), r.d.collect()), (1, vec![]), "one of before is still there");
        r.disk().end(0, OK);
        r.b.ram.taken();
        r.poke();
        assert_eq!((r.disk().open(), r.d.collect()), (1, vec![]));
        assert!(r.b.ram.taken().1.iter().all(|(at, _)| (r.d.used..r.d.used + 0x110).contains(at)));
        r.disk().end(0, OK);
        r.poke();
        assert_eq!((r.d.collect(), r.status(5)), (vec![(5, 1)], S_OK));
        assert_eq!(r.disk().bytes[..512], [2; 512]);
        assert_eq!(r.d.ram.get(DATA + 0x1000, 512), [0; 512]);
    }
}

#[test]
fn what_is_on_its_way_is_settled_without_the_guest() {
    let mut r = rig(4, FEATURES);
    r.d.ram.put(DATA, &[3; 512]);
    r.offer(0, write(0, DATA, 512));
    r.offer(1, read(1, DATA + 0x1000, 512));
    r.offer(2, write(2, DATA, 512));
    r.offer(3, read(3, DATA + 0x1200, 512));
    r.notify();
    r.b.device.quiesce();
    r.b.ram.taken();
    assert_eq!(r.b.device.device_mut().settle(), 4);
    r.disk().end(2, BAD);
    r.disk().end(1, OK);
    assert_eq!(r.b.device.device_mut().settle(), 2);
    r.disk().end(0, OK);
    r.disk().end(0, OK);
    assert_eq!(r.b.device.device_mut().settle(), 0);
    r.poke();
    assert_eq!((r.b.ram.taken().0, r.d.collect()), (0, vec![]), "a quiet device touches nothing");
    assert_eq!(r.stats().depth, 4);
    // A copy of it goes on where it was: what was read is read again.
    let state = r.b.device.save();
    let disk = Fake::new(128, 4);
    let mut b =
        Board { device: crate::virtio::mmio::Mmio::new(Blk::new(disk), r.b.irq.clone(), r.b.ram.clone()), ..r.b };
    b.device.restore(state.clone()).unwrap();
    assert_eq!(b.device.save(), state);
    let mut twin = Rig { b, d: r.d };
    twin.b.device.run_waiting();
    assert_eq!(twin.disk().open(), 4);
    twin.b.device.reset();
    assert_eq!(twin.disk().open(), 4);
    // A state that can be none.
    let check = Blk::<Fake>::check;
    assert_eq!(check(&State { version: 2, features: 0, heads: vec![] }), Err(RestoreError::Version(2)));
    assert_eq!(
        check(&State { version: 1, features: 0, heads: vec![0; 33] }),
        Err(RestoreError::OutOfRange("requests"))
    );
    assert_eq!(check(&State { version: 1, features: 0, heads: vec![0xffff; 32] }), Ok(()));
}

#[test]
fn a_settled_device_goes_on() {
    let mut r = rig(4, FEATURES);
    r.d.ram.put(DATA, &[3; 512]);
    r.offer(0, write(0, DATA, 512));
    r.offer(1, read(1, DATA + 0x1000, 512));
    r.offer(2, write(2, DATA, 512));
    r.notify();
    r.disk().end(2, BAD);
    r.disk().end(0, OK);
    r.disk().end(0, OK);
    assert_eq!(r.b.device.device_mut().settle(), 0);
    r.poke();
    let mut found = r.d.collect();
    found.sort();
    assert_eq!((found, r.status(0), r.status(2)), (vec![(0, 1), (2, 1)], S_OK, S_IOERR));
    assert_eq!(r.disk().log.last(), Some(&Request::Read { at: 512, size: 512 }));
    r.disk().end(0, OK);
    r.poke();
    assert_eq!((r.d.collect(), r.status(1)), (vec![(1, 513)], S_OK));
    assert_eq!(r.disk().log.len(), 4, "the writes went once");
}

/// A page may be absent at any access of what ends later, too.
#[test]
fn an_absent_page_leaves_no_trace_later() {
    let run = |first: Option<usize>, second: Option<usize>| {
        let mut r = rig(4, FEATURES);
        r.d.ram.put(DATA, &[7; 1024]);
        r.offer(0, write(1, DATA, 1024));
        r.offer(1, read(3, DATA + 0x1000, 1024));
        r.b.ram.fail(first);
        r.notify();
        let (begun, _) = r.b.ram.taken();
        r.b.ram.fail(None);
        r.b.device.run_waiting();
        assert_eq!(r.disk().open(), 2);
        r.disk().end(1, OK);
        r.disk().end(0, OK);
        r.b.ram.fail(second);
        r.poke();
        let (ended, _) = r.b.ram.taken();
        r.b.ram.fail(None);
        r.b.device.run_waiting();
        let mut found = r.d.collect();
        found.sort();
        assert_eq!(found, [(0, 1), (1, 1025)], "{first:?}, {second:?}");
        assert_eq!((r.status(0), r.status(1)), (S_OK, S_OK));
        assert_eq!(r.d.ram.get(DATA + 0x1000, 1024), (1536..2560).map(pattern).collect::<Vec<u8>>());
        assert_eq!(r.disk().log.len(), 2, "{first:?}, {second:?}: nothing went twice");
        (begun, ended)
    };
    let (begun, ended) = run(None, None);
    assert!(begun > 20 && ended > 20);
    let step = if cfg!(miri) { 11 } else { 1 };
    (0..begun).step_by(step).for_each(|n| assert_eq!(run(Some(n), None).1, ended));
    (0..ended).step_by(step).for_each(|n| assert_eq!(run(None, Some(n)).0, begun));
}

/// A driver may change a chain that the device has: it is checked as at first when it is looked at again.
#[test]
fn a_chain_that_changes_on_its_way_is_the_guest_s_loss() {
    let mut r = rig(2, FEATURES);
    r.offer(0, read(0, DATA, 1024));
    r.notify();
    r.disk().end(0, OK);
    // Less room now.
    r.offer(0, read(0, DATA, 512));
    r.poke();
    assert_ne!(r.b.get(STATUS) & DEVICE_NEEDS_RESET, 0);
    assert_eq!(r.d.collect(), []);
    r.again(FEATURES);
    r.disk().end(0, OK);
    r.notify();
    r.offer(0, read(0, DATA, 512));
    r.notify();
    r.disk().end(0, OK);
    r.poke();
    assert_eq!((r.d.collect(), r.status(0)), (vec![(0, 513)], S_OK));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 150 }, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_guest_does_surprises_a_disk_that_answers_at_once(acts in prop::collection::vec(act(), 1..60)) {
        play(Blk::new(Fake::new(16, 0)), acts, 1000, |device, what| match what % 6 {
            0 => device.run_waiting(),
            1 => device.poke(0),
            2 => device.device_mut().disk_mut().full = usize::from(what / 6 % 4),
            3 => device.device_mut().disk_mut().most = 512 * u64::from(what / 6 % 5),
            4 => device.reset(),
            _ => { device.run_due(); }
        })?;
    }

    #[test]
    fn nothing_that_a_guest_does_surprises_a_disk_that_answers_later(acts in prop::collection::vec(act(), 1..60)) {
        play(Blk::new(Fake::new(16, 3)), acts, 1000, |device, what| match what % 6 {
            0 => device.run_waiting(),
            1 => device.poke(0),
            2 | 3 => {
                let result = if what & 0x80 == 0 { OK } else { BAD };
                device.device_mut().disk_mut().end(usize::from(what / 6), result);
                if what & 0x40 == 0 { device.poke(0) }
            }
            4 => { device.device_mut().settle(); }
            _ => device.quiesce(),
        })?;
    }

    /// With descriptors and requests in a fixed place the writable buffers are known: every write is in one, or in the used ring.
    #[test]
    fn writes_stay_in_the_used_ring_and_in_writable_buffers(
        table in prop::collection::vec((0u64..0x200, prop_oneof![0u32..40, Just(512), Just(513)], any::<bool>(), any::<bool>(), 0u16..16), 16),
        words in prop::collection::vec(prop_oneof![0u64..3, Just(8), Just(11), Just(13), any::<u64>()], 64),
        heads in prop::collection::vec(0u16..16, 1..16),
        later in any::<bool>(),
    ) {
        let mut r = Rig::new(Fake::new(16, if later { 4 } else { 0 }), FEATURES);
        let at = |offset: u64| DATA + offset * 8;
        for (n, word) in (0..).zip(&words) {
            r.d.ram.put(at(n * 9), &word.to_le_bytes());
        }
        for (n, (offset, size, write, more, next)) in (0..).zip(&table) {
            let flags = if *write { DESC_WRITE } else { 0 } | if *more { DESC_NEXT } else { 0 };
            r.d.descriptor(r.d.desc, n, (at(*offset), *size, flags, *next));
        }
        heads.into_iter().for_each(|head| r.d.offer(head));
        r.b.ram.taken();
        r.notify();
        for n in 0..20 {
            r.disk().end(n, if n % 5 == 0 { BAD } else { OK });
            r.poke();
        }
        for (from, size) in r.b.ram.taken().1 {
            let inside = |start: u64, length: u64| from >= start && from + size as u64 <= start + length;
            let used = inside(r.d.used, 6 + 8 * 32);
            let buffer = table.iter().any(|(offset, size, write, ..)| *write && inside(at(*offset), u64::from(*size)));
            prop_assert!(used || buffer, "{from:#x} + {size}");
        }
    }

    /// A driver that keeps the rules finds what a plain disk would have, whatever the order in which its requests end, and whatever it
    /// cannot reach in between.
    #[test]
    fn a_good_driver_finds_a_disk(
        depth in prop_oneof![Just(0u16), Just(1), 2u16..6],
        rounds in prop::collection::vec(
            (prop::collection::vec((0u8..6, 0u64..16, 1u32..9), 1..8), prop::collection::vec((0usize..8, 0u8..10), 0..12), 0usize..200),
            1..8),
    ) {
        let mut r = Rig::new(Fake::new(16, depth), FEATURES);
        let mut model: Vec<u8> = (0..16 * 512).map(pattern).collect();
        for (number, (asks, ends, fails)) in rounds.into_iter().enumerate() {
            // Requests of one round touch sectors of their own, so that their order does not matter.
            let mut taken = [false; 16];
            let mut expected = Vec::new();
            for (n, (kind, sector, sectors)) in asks.into_iter().enumerate() {
                let range = sector as usize..(sector as usize + sectors as usize).min(16);
                if taken[range.clone()].contains(&true) {
                    continue;
                }
                taken[range.clone()].fill(true);
                let (bytes, size) = (range.start * 512..range.end * 512, range.len() as u32 * 512);
                let data = DATA + 0x1000 * n as u64;
                let n = n as u16;
                match kind {
                    0 | 1 => {
                        r.offer(n, read(sector, data, size));
                        expected.push((n, data, model[bytes].to_vec()));
                    }
                    2 | 3 => {
                        let fill: Vec<u8> = (0..size).map(|at| (at as usize * 3 + number + usize::from(n)) as u8).collect();
                        r.d.ram.put(data, &fill);
                        model[bytes].copy_from_slice(&fill);
                        r.offer(n, write(sector, data, size));
                        expected.push((n, data, fill));
                    }
                    4 => {
                        r.offer(n, FLUSH);
                        expected.push((n, data, vec![]));
                    }
                    _ => {
                        r.offer(n, read(sector + 16, data, size));
                        expected.push((n, 0, vec![]));
                    }
                }
            }
            r.b.ram.fail(Some(fails));
            r.notify();
            for (which, how) in ends {
                if how != 0 {
                    r.disk().end(which, OK);
                }
                if how < 5 { r.poke() }
            }
            r.b.ram.fail(None);
            r.b.device.run_waiting();
            for _ in 0..20 {
                r.disk().end(0, OK);
                r.poke();
            }
            let mut found: Vec<u32> = r.d.collect().into_iter().map(|(head, _)| head).collect();
            found.sort();
            prop_assert_eq!(found, expected.iter().map(|(n, ..)| u32::from(*n)).collect::<Vec<_>>());
            for (n, data, bytes) in expected {
                prop_assert_eq!(r.status(n), if data == 0 { S_IOERR } else { S_OK });
                prop_assert_eq!(r.d.ram.get(data.max(BASE), bytes.len()), bytes);
            }
            prop_assert_eq!(&r.disk().bytes, &model);
            prop_assert_eq!(r.stats().depth, 0);
        }
    }
}
