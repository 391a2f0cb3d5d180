//! Requests that a disk answers at once.

use super::*;
use crate::virtio::Broken;
use bus::{AccessSize, MmioDevice};

fn config(rig: &mut Rig, at: usize, size: AccessSize) -> u64 {
    rig.b.device.read(CONFIG + at as u64, size).unwrap()
}

#[test]
fn the_configuration_is_the_disk_s() {
    let mut rig = Rig::new(
        Fake { shape: DiskShape { sectors: 0x12_3456_789a, ..Fake::new(0, 0).shape }, ..Fake::new(0, 0) },
        FEATURES,
    );
    assert_eq!(rig.b.get(DEVICE_ID), 2);
    rig.b.set(DEVICE_FEATURES_SEL, 0);
    let features = rig.b.get(DEVICE_FEATURES);
    assert_eq!(features, 1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | 1 << 14 | 1 << 28 | 1 << 29);
    let words: Vec<u64> = (0..64).step_by(4).map(|at| config(&mut rig, at, AccessSize::B4)).collect();
    let expected = [0x3456_789a, 0x12, 0, 126, 0, 512, 8 << 16 | 3, 0, 0, 1 << 22, 1, 8, 1 << 22, 1, 1, 0];
    assert_eq!(words, expected);
    // Read only, to any access.
    let before = rig.b.device.save();
    for at in 0..0x100 {
        rig.b.device.write(CONFIG + at, AccessSize::B1, 0xff).unwrap();
    }
    assert_eq!(rig.b.device.save(), before);
    // A disk that cannot be written to, of large blocks, and without discard.
    for (read_only, discard) in [(true, true), (true, false), (false, false)] {
        let shape = DiskShape { read_only, discard, block: 4096, ..Fake::new(8, 0).shape };
        let mut rig = Rig::new(Fake { shape, ..Fake::new(8, 0) }, FEATURES);
        let features = rig.b.device.device().features();
        assert_eq!(features & (F_RO | F_DISCARD | F_WRITE_ZEROES), if read_only { F_RO } else { 0 });
        assert_eq!([BLK_SIZE, MAX_DISCARD_SECTORS].map(|at| config(&mut rig, at, AccessSize::B4)), [4096, 0]);
        assert_eq!(config(&mut rig, PHYSICAL_BLOCK_EXP, AccessSize::B1), 0);
        assert_eq!(config(&mut rig, MIN_IO_SIZE, AccessSize::B2), 1);
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut rig = Rig::new(Fake::new(64, 0), FEATURES);
    let data: Vec<u8> = (0..4096u32).map(|n| (n * 7 + n / 256) as u8).collect();
    rig.d.ram.put(DATA, &data);
    assert_eq!(rig.one(write(3, DATA, 4096)), (S_OK, 1));
    assert_eq!(rig.one(FLUSH), (S_OK, 1));
    assert_eq!(rig.one(read(2, DATA + 0x2000, 6 * 512)), (S_OK, 6 * 512 + 1));
    let found = rig.d.ram.get(DATA + 0x2000, 6 * 512);
    assert_eq!(found[..512], (1024..1536).map(pattern).collect::<Vec<u8>>());
    assert_eq!(found[512..], data[..5 * 512]);
    assert_eq!(rig.disk().bytes[3 * 512 + 4096], pattern(3 * 512 + 4096), "and nothing more");
    // Nothing at all is something that can be read, up to the end.
    assert_eq!(rig.one(read(64, DATA, 0)), (S_OK, 1));
    let stats = Stats {
        reads: 2,
        writes: 1,
        flushes: 1,
        read_bytes: 3072,
        written_bytes: 4096,
        deepest: 1,
        ..Stats::default()
    };
    assert_eq!(rig.stats(), stats);
}

#[test]
fn a_request_that_cannot_be_is_refused() {
    const SECTORS: u64 = 64;
    let mut rig = Rig::new(Fake::new(SECTORS, 0), FEATURES);
    let bad = [
        (read(SECTORS, DATA, 512), S_IOERR),
        (read(SECTORS - 1, DATA, 1024), S_IOERR),
        (read(u64::MAX, DATA, 512), S_IOERR),
        (read(u64::MAX / 512, DATA, 512), S_IOERR),
        (read(u64::MAX / 512 + 1, DATA, 512), S_IOERR),
        (read(1 << 63, DATA, 512), S_IOERR),
        (read(1 << 55, DATA, 512), S_IOERR),
        (read(0, DATA, 511), S_IOERR),
        (read(0, DATA, 1), S_IOERR),
        (read(0, DATA, 513), S_IOERR),
        (write(SECTORS, DATA, 512), S_IOERR),
        (write(SECTORS - 7, DATA, 4096), S_IOERR),
        (write(0, DATA, 100), S_IOERR),
        (write(u64::MAX - 3, DATA, 4096), S_IOERR),
        (Ask { kind: 2, ..read(0, DATA, 512) }, S_UNSUPP),
        (Ask { kind: 10, ..read(0, DATA, 512) }, S_UNSUPP),
        (Ask { kind: 14, ..write(0, DATA, 16) }, S_UNSUPP),
        (Ask { kind: u32::MAX, ..write(0, DATA, 512) }, S_UNSUPP),
        (Ask { kind: T_DISCARD, ..write(0, DATA, 0) }, S_IOERR),
        (Ask { kind: T_DISCARD, ..write(0, DATA, 15) }, S_IOERR),
        (Ask { kind: T_DISCARD, ..write(0, DATA, 17) }, S_IOERR),
        // Two ranges where there may be one.
        (Ask { kind: T_WRITE_ZEROES, ..write(0, DATA, 32) }, S_IOERR),
    ];
    for (n, (ask, status)) in bad.into_iter().enumerate() {
        let used = if matches!(ask.kind, T_IN) { 0 } else { 1 };
        assert_eq!(rig.one(ask), (status, used), "number {n}");
    }
    assert_eq!(rig.stats(), Stats { errors: bad.len() as u64, deepest: 1, ..Stats::default() });
    assert!(rig.disk().log.is_empty(), "the disk hears of none");
    assert!((0..SECTORS as usize * 512).all(|at| rig.disk().bytes[at] == pattern(at)));
    // Blocks of 4 KiB.
    let shape = DiskShape { block: 4096, ..Fake::new(SECTORS, 0).shape };
    let mut rig = Rig::new(Fake { shape, ..Fake::new(SECTORS, 0) }, FEATURES);
    for (ask, status) in [(read(1, DATA, 4096), S_IOERR), (read(0, DATA, 512), S_IOERR), (read(8, DATA, 4096), S_OK)] {
        assert_eq!(rig.one(ask).0, status);
    }
}

#[test]
fn a_read_only_disk_is_not_written_to() {
    let shape = DiskShape { read_only: true, ..Fake::new(64, 0).shape };
    let mut rig = Rig::new(Fake { shape, ..Fake::new(64, 0) }, FEATURES);
    assert_eq!(rig.one(write(0, DATA, 512)), (S_IOERR, 1));
    let range = rig.range(T_DISCARD, 0, 8, 0);
    assert_eq!(rig.one(range), (S_UNSUPP, 1));
    let range = rig.range(T_WRITE_ZEROES, 0, 8, 0);
    assert_eq!(rig.one(range), (S_UNSUPP, 1));
    assert!(rig.disk().log.is_empty());
    assert_eq!(rig.one(FLUSH), (S_OK, 1));
    assert_eq!(rig.one(read(0, DATA, 512)), (S_OK, 513));
}

#[test]
fn ranges_are_checked() {
    let most = 1u32 << 22;
    let mut fake = Fake::new(64, 0);
    // A disk that says it is larger than it has bytes for.
    fake.shape.sectors = u64::from(most) * 4;
    let good: [(u32, u64, u32, u32, Request); 5] = [
        (T_DISCARD, 8, 16, 0, Request::Discard { at: 4096, size: 8192 }),
        (T_WRITE_ZEROES, 8, 16, 0, Request::Zero { at: 4096, size: 8192 }),
        (T_WRITE_ZEROES, 1, 1, 1, Request::Unmap { at: 512, size: 512 }),
        (T_DISCARD, 63, 1, 0, Request::Discard { at: 63 * 512, size: 512 }),
        (T_WRITE_ZEROES, 0, 64, 1, Request::Unmap { at: 0, size: 64 * 512 }),
    ];
    let mut rig = Rig::new(Fake::new(64, 0), FEATURES);
    for (kind, sector, sectors, flags, request) in good {
        let ask = rig.range(kind, sector, sectors, flags);
        assert_eq!(rig.one(ask), (S_OK, 1));
        assert_eq!(rig.disk().log.pop(), Some(request));
    }
    assert_eq!(rig.stats().discards, 5);
    let bad: [(u32, u64, u32, u32, u8); 12] = [
        (T_DISCARD, 0, 8, 1, S_UNSUPP),
        (T_DISCARD, 0, 8, 2, S_UNSUPP),
        (T_WRITE_ZEROES, 0, 8, 3, S_UNSUPP),
        (T_WRITE_ZEROES, 0, 8, 1 << 31, S_UNSUPP),
        (T_DISCARD, 64, 1, 0, S_IOERR),
        (T_DISCARD, 57, 8, 0, S_IOERR),
        (T_WRITE_ZEROES, u64::MAX, 1, 0, S_IOERR),
        (T_WRITE_ZEROES, u64::MAX / 512, 1, 0, S_IOERR),
        (T_WRITE_ZEROES, u64::MAX / 512 + 2, u32::MAX, 0, S_IOERR),
        (T_DISCARD, 0, u32::MAX, 0, S_IOERR),
        (T_DISCARD, 0, most + 1, 0, S_IOERR),
        (T_WRITE_ZEROES, 0, most, 0, S_IOERR),
    ];
    for (kind, sector, sectors, flags, status) in bad {
        let ask = rig.range(kind, sector, sectors, flags);
        assert_eq!(rig.one(ask), (status, 1), "{sector:#x} + {sectors:#x}");
    }
    assert!(rig.disk().log.is_empty());
    // The largest range, and one more, where the disk would be large enough for both.
    fake.error = Some(DiskError::Unsupported);
    let mut rig = Rig::new(fake, FEATURES);
    let ask = rig.range(T_DISCARD, 0, most + 1, 0);
    assert_eq!(rig.one(ask), (S_IOERR, 1), "the device's own limit");
    let ask = rig.range(T_DISCARD, 0, most, 0);
    assert_eq!(rig.one(ask), (S_UNSUPP, 1), "the disk's answer");
    // Without the features, whatever the disk can.
    let mut rig = Rig::new(Fake::new(64, 0), ALL);
    for kind in [T_DISCARD, T_WRITE_ZEROES] {
        let ask = rig.range(kind, 0, 8, 0);
        assert_eq!(rig.one(ask), (S_UNSUPP, 1));
    }
}

#[test]
fn the_serial_number_fills_what_there_is() {
    let mut rig = Rig::new(Fake::new(8, 0), FEATURES);
    for (size, used) in [(20, 21), (21, 20), (512, 20), (7, 8), (0, 1)] {
        rig.d.ram.put(DATA, &[b'.'; 600]);
        assert_eq!(rig.one(Ask { kind: T_GET_ID, sector: 0, data: DATA, size }), (S_OK, used));
        let count = size.min(20) as usize;
        assert_eq!(rig.d.ram.get(DATA, count), b"a serial number, 20."[..count]);
        assert!(rig.d.ram.get(DATA + count as u64, 500).iter().all(|byte| *byte == b'.'));
    }
}

#[test]
fn a_chain_without_room_for_head_or_status_breaks_the_ring() {
    for (head, status) in [(16, 0), (15, 1), (0, 1), (1, 512)] {
        let mut rig = Rig::new(Fake::new(8, 0), FEATURES);
        let mut parts = vec![(HEADS, head, 0), (HEADS + 40, status, DESC_WRITE)];
        parts.retain(|part| part.1 != 0);
        let last = parts.len() - 1;
        for (n, (at, size, flags)) in parts.into_iter().enumerate() {
            let next = if n < last { DESC_NEXT } else { 0 };
            rig.d.descriptor(rig.d.desc, n as u16, (at, size, flags | next, n as u16 + 1));
        }
        rig.d.offer(0);
        rig.notify();
        assert_eq!(rig.b.device.stats().last, Some(Broken::Small), "{head} and {status}");
        assert!(rig.disk().log.is_empty());
    }
}

#[test]
fn what_the_disk_says_is_the_answer() {
    for (error, status) in [
        (DiskError::Io, S_IOERR),
        (DiskError::NoSpace, S_IOERR),
        (DiskError::ReadOnly, S_IOERR),
        (DiskError::OutOfRange, S_IOERR),
        (DiskError::Unsupported, S_UNSUPP),
    ] {
        let mut rig = Rig::new(Fake { error: Some(error), ..Fake::new(8, 0) }, FEATURES);
        assert_eq!(rig.one(read(0, DATA, 512)), (status, 0));
        assert_eq!(rig.one(write(0, DATA, 512)), (status, 1));
        assert_eq!(rig.one(FLUSH), (status, 1));
        assert_eq!(rig.stats().errors, 3);
    }
}

#[test]
fn a_step_copies_so_much_and_the_driver_s_store_is_repeated() {
    // 40 KiB, and small ones around it.
    let mut rig = Rig::new(Fake::new(128, 0), FEATURES);
    rig.offer(0, read(0, DATA, 512));
    rig.offer(1, read(1, DATA + 0x400, 40 << 10));
    rig.offer(2, read(2, DATA + 0xb000, 512));
    assert_eq!(rig.b.put(QUEUE_NOTIFY, 0), Err(bus::AccessError::Again));
    assert_eq!(rig.d.collect(), [(0, 513)], "rather all of it in the next step");
    assert_eq!(rig.b.put(QUEUE_NOTIFY, 0), Err(bus::AccessError::Again));
    assert_eq!((rig.d.collect(), rig.stats().depth), (vec![], 1));
    assert_eq!(rig.notify(), 1);
    assert_eq!(rig.d.collect(), [(1, (40 << 10) + 1), (2, 513)]);
    assert_eq!(rig.d.ram.get(DATA + 0x400, 40 << 10), (512..512 + (40 << 10)).map(pattern).collect::<Vec<u8>>());
    assert_eq!(rig.d.ram.get(DATA + 0xb000, 512), (1024..1536).map(pattern).collect::<Vec<u8>>());
    assert_eq!(rig.stats(), Stats { reads: 3, read_bytes: 41 << 10, deepest: 1, ..Stats::default() });
    // Reads of 8 KiB: four a step; of one sector: as many as have 32 descriptors.
    (0..8).for_each(|n| rig.offer(n, read(u64::from(n), DATA, 8192)));
    assert_eq!((rig.notify(), rig.d.collect().len()), (2, 8));
    (0..24).for_each(|n| rig.offer(n, read(u64::from(n), DATA, 512)));
    assert_eq!((rig.notify(), rig.d.collect().len()), (4, 24));
    // A disk that does a block at a time.
    rig.disk().most = 512;
    rig.d.ram.put(DATA, &[9; 4096]);
    assert_eq!(rig.one(write(8, DATA, 4096)), (S_OK, 1));
    assert_eq!(rig.disk().bytes[4096..8192], [9; 4096]);
    assert_eq!(rig.disk().bytes[8192], pattern(8192));
    let ask = rig.range(T_WRITE_ZEROES, 8, 8, 0);
    rig.offer(0, ask);
    assert_eq!(rig.notify(), 2, "a quarter of a step each");
    assert_eq!(rig.disk().bytes[4096..8192], [0; 4096]);
    assert_eq!((rig.d.collect(), rig.status(0)), (vec![(0, 1)], S_OK));
}

#[test]
fn what_the_disk_has_no_room_for_waits_in_the_ring() {
    let mut rig = Rig::new(Fake { full: 2, ..Fake::new(128, 0) }, FEATURES);
    rig.offer(0, write(0, DATA, 512));
    rig.offer(1, read(1, DATA, 512));
    assert_eq!(rig.notify(), 1, "the driver's store is not repeated");
    assert_eq!((rig.d.collect(), rig.stats().depth, rig.b.device.is_due()), (vec![], 0, false));
    rig.notify();
    assert_eq!(rig.d.collect(), []);
    rig.poke();
    assert_eq!(rig.d.collect(), [(0, 1), (1, 513)]);
    // In the middle of a request.
    rig.offer(0, write(0, DATA, 40 << 10));
    assert_eq!(rig.b.put(QUEUE_NOTIFY, 0), Err(bus::AccessError::Again));
    rig.disk().full = 1;
    assert_eq!(rig.notify(), 1);
    assert_eq!((rig.d.collect(), rig.stats().depth), (vec![], 1));
    rig.poke();
    assert_eq!((rig.d.collect(), rig.stats().depth), (vec![(0, 1)], 0));
    assert_eq!(rig.stats().written_bytes, 512 + (40 << 10));
}

/// A request that the disk cannot finish comes behind some that are done, and whose end the driver cannot be told now.
#[test]
fn what_is_done_is_told_before_the_next_is_taken() {
    let run = |fails: Option<usize>| {
        let mut rig = Rig::new(Fake { most: 512, room: 2, ..Fake::new(64, 0) }, FEATURES);
        rig.d.ram.put(DATA, &[4; 1024]);
        rig.offer(0, write(0, DATA, 512));
        rig.offer(1, write(8, DATA, 1024));
        rig.offer(2, read(16, DATA + 0x1000, 512));
        rig.b.ram.fail(fails);
        rig.notify();
        let (accesses, _) = rig.b.ram.taken();
        rig.b.ram.fail(None);
        rig.b.device.run_waiting();
        rig.disk().room = usize::MAX;
        rig.poke();
        assert_eq!(rig.d.collect(), [(0, 1), (1, 1), (2, 513)], "failed access {fails:?}");
        let bytes = &rig.disk().bytes;
        assert_eq!((&bytes[..512], &bytes[4096..5120]), (&[4; 512][..], &[4; 1024][..]));
        assert_eq!((rig.stats().writes, rig.stats().reads, rig.stats().depth), (2, 1, 0));
        accesses
    };
    (0..run(None)).for_each(|n| {
        run(Some(n));
    });
}

/// A page may be absent at any access: the request is done in the end, and once for the driver.
#[test]
#[cfg_attr(miri, ignore)]
fn an_absent_page_leaves_no_trace() {
    let run = |fails: Option<usize>| {
        let mut rig = Rig::new(Fake::new(128, 0), FEATURES);
        rig.d.ram.put(DATA, &[7; 1024]);
        rig.offer(0, write(1, DATA, 1024));
        rig.offer(1, read(1, DATA + 0x1000, 1024));
        rig.offer(2, read(0, DATA + 0x2000, 36 << 10));
        let id = Ask { kind: T_GET_ID, sector: 0, data: DATA + 0xc000, size: 20 };
        rig.offer(3, id);
        rig.b.ram.fail(fails);
        rig.notify();
        let (accesses, _) = rig.b.ram.taken();
        rig.b.ram.fail(None);
        rig.b.device.run_waiting();
        while rig.b.device.run_due() {}
        assert_eq!(rig.d.collect(), [(0, 1), (1, 1025), (2, (36 << 10) + 1), (3, 21)], "failed access {fails:?}");
        assert_eq!([0, 1, 2, 3].map(|n| rig.status(n)), [S_OK; 4]);
        assert_eq!(rig.d.ram.get(DATA + 0x1000, 1024), [7; 1024]);
        assert_eq!(
            rig.d.ram.get(DATA + 0x2000 + 1536, 0x8000),
            (1536..1536 + 0x8000).map(pattern).collect::<Vec<u8>>()
        );
        assert_eq!(rig.d.ram.get(DATA + 0xc000, 8), b"a serial");
        let stats =
            Stats { reads: 2, writes: 1, read_bytes: 37 << 10, written_bytes: 1024, deepest: 1, ..Stats::default() };
        assert_eq!(rig.stats(), stats);
        (accesses, rig.b.device.stats().absent)
    };
    let (accesses, stalled) = run(None);
    assert!(stalled == 0 && accesses > 60);
    let stalls: u64 = (0..accesses).map(|n| run(Some(n)).1).sum();
    // All but the looks whether the driver wants an interrupt.
    assert!(stalls + 5 > accesses as u64, "{stalls} of {accesses}");
}
