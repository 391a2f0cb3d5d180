extern crate std;

use super::*;
use addr::Pa;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use host::disk::{Data, Disk, DiskError, Gone, NoData, Progress, Request, Tag};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// RAM of which the disk may touch what it was given. A frame that is new to it holds somebody else's bytes.
#[derive(Clone, Default)]
struct Ram(Arc<Mutex<BTreeMap<u64, Vec<u8>>>>, Arc<Mutex<usize>>);

const FOREIGN: u8 = 0xdb;

impl Ram {
    fn lend(&self, at: Pa) {
        assert!(self.0.lock().unwrap().insert(at.as_u64(), vec![FOREIGN; PAGE as usize]).is_none(), "lent twice");
    }
    fn back(&self, at: Pa) {
        assert!(self.0.lock().unwrap().remove(&at.as_u64()).is_some(), "{at:?} was not lent");
    }
    fn lent(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    /// How often more were asked for since the last look.
    fn asked(&self) -> usize {
        core::mem::take(&mut *self.1.lock().unwrap())
    }
}

impl Frames for Ram {
    fn read(&self, at: Pa, into: &mut [u8]) {
        let (frame, from) = (at.as_u64() & !(PAGE - 1), (at.as_u64() % PAGE) as usize);
        into.copy_from_slice(&self.0.lock().unwrap()[&frame][from..from + into.len()]);
    }
    fn write(&mut self, at: Pa, bytes: &[u8]) {
        let (frame, from) = (at.as_u64() & !(PAGE - 1), (at.as_u64() % PAGE) as usize);
        self.0.lock().unwrap().get_mut(&frame).expect("a frame that was lent")[from..from + bytes.len()]
            .copy_from_slice(bytes);
    }
    fn wanted(&mut self) {
        *self.1.lock().unwrap() += 1;
    }
}

/// A requester's bytes, that are not there at one access.
struct Bytes {
    bytes: Vec<u8>,
    accesses: usize,
    fails: Option<usize>,
}

impl Bytes {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, accesses: 0, fails: None }
    }
    fn access(&mut self, at: u64, size: usize) -> Result<&mut [u8], Gone> {
        let number = self.accesses;
        self.accesses += 1;
        if self.fails == Some(number) { Err(Gone) } else { Ok(&mut self.bytes[at as usize..][..size]) }
    }
}

impl Data for Bytes {
    fn load(&mut self, at: u64, into: &mut [u8]) -> Result<(), Gone> {
        into.copy_from_slice(self.access(at, into.len())?);
        Ok(())
    }
    fn store(&mut self, at: u64, from: &[u8]) -> Result<(), Gone> {
        self.access(at, from.len())?.copy_from_slice(from);
        Ok(())
    }
}

fn pattern(at: usize) -> u8 {
    (at / 512 * 7 + at % 251 + 1) as u8
}

struct Rig {
    disk: Cow<Arc<[u8]>, Ram>,
    ram: Ram,
    next: u64,
}

impl Rig {
    fn new(image: usize, sectors: u64) -> Self {
        Self::over(&(0..image).map(pattern).collect(), sectors)
    }

    fn over(image: &Arc<[u8]>, sectors: u64) -> Self {
        let ram = Ram::default();
        let disk = Cow::new(image.clone(), ram.clone(), sectors, false, [0; 20]).unwrap();
        Self { disk, ram, next: 0x4000_0000 }
    }

    fn give(&mut self, count: usize) {
        for _ in 0..count {
            self.ram.lend(Pa::new(self.next));
            self.disk.give(Pa::new(self.next)).unwrap();
            self.next += PAGE;
        }
    }

    fn ask(&mut self, request: Request, data: &mut dyn Data) -> Result<u64, DiskError> {
        match self.disk.submit(Tag(0), request, data)? {
            Progress::Done(size) => Ok(size),
            Progress::Started => panic!("it answers at once"),
        }
    }

    fn read(&mut self, at: u64, size: u64) -> Vec<u8> {
        let mut data = Bytes::new(vec![0xaa; size as usize]);
        assert_eq!(self.ask(Request::Read { at, size }, &mut data), Ok(size));
        data.bytes
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<u64, DiskError> {
        self.ask(Request::Write { at, size: bytes.len() as u64 }, &mut Bytes::new(bytes.to_vec()))
    }

    /// Every frame that was lent is a page's, a table's or in the reserve.
    fn all_there(&self) {
        let Usage { pages, tables, reserve } = self.disk.usage();
        assert_eq!(pages + tables + reserve, self.ram.lent());
    }
}

fn image(from: usize, size: usize) -> Vec<u8> {
    (from..from + size).map(pattern).collect()
}

#[test]
fn the_image_is_read_where_it_lies() {
    let mut r = Rig::new(0x3100, 64);
    assert_eq!(r.read(0x200, 0x2000), image(0x200, 0x2000));
    // Its end, and zeroes behind.
    let mut tail = image(0x2c00, 0x500);
    tail.resize(0x1400, 0);
    assert_eq!(r.read(0x2c00, 0x1400), tail);
    assert_eq!(r.read(0x5000, 0x3000), [0; 0x3000]);
    assert_eq!(r.read(64 * 512, 0), []);
    // In one piece, however many pages.
    let mut data = Bytes::new(vec![0; 0x3000]);
    r.ask(Request::Read { at: 0, size: 0x3000 }, &mut data).unwrap();
    assert_eq!(data.accesses, 1);
    assert_eq!((r.disk.usage(), r.disk.wants(), r.ram.asked()), (Usage::default(), 0, 0));
    for request in [
        Request::Read { at: 64 * 512, size: 512 },
        Request::Write { at: 63 * 512, size: 1024 },
        Request::Read { at: u64::MAX - 511, size: 512 },
        Request::Read { at: 1, size: 512 },
    ] {
        assert_eq!(r.ask(request, &mut NoData), Err(DiskError::OutOfRange));
    }
}

#[test]
fn a_write_waits_for_frames_and_copies_one_page() {
    let mut r = Rig::new(0x6000, 64);
    assert_eq!(r.write(0x1200, &[9; 512]), Err(DiskError::Later));
    assert_eq!((r.disk.wants(), r.ram.asked()), (RESERVE, 1));
    // A page takes a table as well.
    r.give(1);
    assert_eq!(r.write(0x1200, &[9; 512]), Err(DiskError::Later));
    assert_eq!(r.disk.usage(), Usage { pages: 0, tables: 0, reserve: 1 });
    r.give(RESERVE - 1);
    assert_eq!((r.disk.wants(), r.write(0x1200, &[9; 512])), (0, Ok(512)));
    assert_eq!(r.disk.usage(), Usage { pages: 1, tables: 1, reserve: RESERVE as u64 - 2 });
    let mut expected = image(0x1000, 0x1000);
    expected[0x200..0x400].fill(9);
    assert_eq!(r.read(0x1000, 0x1000), expected);
    assert_eq!(r.read(0, 0x1000), image(0, 0x1000));
    assert_eq!(r.read(0x2000, 0x4000), image(0x2000, 0x4000));
    // Its own from now on, and over the pages' ends.
    assert_eq!(r.write(0xe00, &[8; 0x1400]), Ok(0x1400));
    assert_eq!(r.disk.usage().pages, 3);
    let all = r.read(0, 0x4000);
    assert_eq!(
        (&all[..0xe00], &all[0xe00..0x2200], &all[0x2200..]),
        (&image(0, 0xe00)[..], &[8; 0x1400][..], &image(0x2200, 0x1e00)[..])
    );
    // Behind the image.
    assert_eq!(r.write(0x7000, &[7; 512]), Ok(512));
    assert_eq!(r.read(0x7000, 1024), [[7; 512], [0; 512]].concat());
    r.all_there();
}

#[test]
fn disks_over_one_image_share_nothing_else() {
    let base: Arc<[u8]> = image(0, 0x4000).into();
    let mut disks = [Rig::over(&base, 32), Rig::over(&base, 32)];
    for (n, disk) in disks.iter_mut().enumerate() {
        disk.give(8);
        disk.write(0x400, &[n as u8; 512]).unwrap();
    }
    for (n, disk) in disks.iter_mut().enumerate() {
        assert_eq!(disk.read(0x400, 512), [n as u8; 512]);
    }
    assert_eq!(*base, image(0, 0x4000));
}

#[test]
fn a_write_ends_where_the_frames_do() {
    let mut r = Rig::new(0, 64);
    r.give(3);
    assert_eq!(r.write(0xe00, &[5; 0x4000]), Ok(0x1200), "a table and two pages");
    assert!(r.ram.asked() > 0);
    assert_eq!(r.write(0x2000, &[5; 0x2e00]), Err(DiskError::Later));
    r.disk.refuse();
    assert_eq!(r.write(0x2000, &[5; 0x2e00]), Err(DiskError::NoSpace));
    assert!(r.ram.asked() > 0 && r.disk.wants() == RESERVE, "it asks anyway");
    assert_eq!(r.write(0x1000, &[6; 0x1000]), Ok(0x1000), "what needs none is done");
    assert_eq!(r.ask(Request::Zero { at: 0x1000, size: 0x1000 }, &mut NoData), Ok(0x1000));
    r.give(1);
    assert_eq!(r.write(0x2000, &[5; 0x2e00]), Ok(0x1000));
    assert_eq!(r.write(0x3000, &[5; 0x1e00]), Err(DiskError::Later), "no more is refused");
    r.all_there();
}

#[test]
fn the_reserve_is_asked_for_before_it_is_empty() {
    let mut r = Rig::new(0, 4096);
    assert_eq!(r.write(0, &[1; 512]), Err(DiskError::Later));
    r.give(RESERVE);
    r.ram.asked();
    let mut written = 0;
    while r.ram.asked() == 0 {
        r.write(written * PAGE, &[1; PAGE as usize]).unwrap();
        written += 1;
    }
    assert_eq!(written, RESERVE as u64 / 2, "half of it, with the table");
    assert_eq!(r.disk.wants(), RESERVE - r.disk.usage().reserve as usize);
    r.write(written * PAGE, &[1; PAGE as usize]).unwrap();
    assert_eq!(r.ram.asked(), 0, "once");
    // What a discard frees is kept, and what is more than it wants can be had back.
    r.give(r.disk.wants());
    let mut done = 0;
    while done < 4096 * 512 {
        done += r.ask(Request::Discard { at: done, size: 4096 * 512 - done }, &mut NoData).unwrap();
    }
    assert_eq!(r.disk.usage().pages, 0);
    let mut back = 0;
    while let Some(at) = r.disk.take_back() {
        r.ram.back(at);
        back += 1;
    }
    assert_eq!((back, r.disk.usage().reserve), (written + 1, RESERVE as u64));
    r.all_there();
}

#[test]
fn what_discards_leave_to_spare_is_said() {
    for unmap in [false, true] {
        let mut r = Rig::new(0, 4096);
        r.give(RESERVE + 1);
        for page in 0..RESERVE as u64 {
            r.write(page * PAGE, &[1; PAGE as usize]).unwrap();
        }
        r.give(RESERVE);
        r.ram.asked();
        let mut said = None;
        for page in 0..RESERVE as u64 {
            let (at, size) = (page * PAGE, PAGE);
            let request = if unmap { Request::Unmap { at, size } } else { Request::Discard { at, size } };
            r.ask(request, &mut NoData).unwrap();
            if r.ram.asked() != 0 {
                said = said.or(Some(page));
            }
        }
        assert_eq!(said, Some(RESERVE as u64 / 2), "with half as many again as it wants");
        assert_eq!(r.disk.wants(), 0);
        let mut back = 0;
        while let Some(at) = r.disk.take_back() {
            r.ram.back(at);
            back += 1;
        }
        assert_eq!((back, r.disk.usage().reserve), (RESERVE, RESERVE as u64));
        r.all_there();
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn zeroes_take_no_frames_and_discards_give_them_back() {
    let size = 0x1000 * 1024 * 2 + 0x10000;
    let mut r = Rig::new(size, size as u64 / 512);
    r.give(40);
    let zero = |at, size, unmap| if unmap { Request::Unmap { at, size } } else { Request::Zero { at, size } };
    // Whole pages of the image: a mark in a table. Parts of pages: written.
    assert_eq!(r.ask(zero(0x1e00, 0x2400, true), &mut NoData), Ok(0x2400));
    assert_eq!(r.disk.usage(), Usage { pages: 2, tables: 1, reserve: 37 });
    let mut expected = image(0x1000, 0x4000);
    expected[0xe00..0x3200].fill(0);
    assert_eq!(r.read(0x1000, 0x4000), expected);
    // A write into what is zero.
    r.write(0x2200, &[3; 512]).unwrap();
    assert_eq!(r.read(0x2000, 0x800), [[0; 512], [3; 512], [0; 512], [0; 512]].concat());
    // Zeroes without unmap keep what there is.
    assert_eq!(r.ask(zero(0x2000, 0x1000, false), &mut NoData), Ok(0x1000));
    assert_eq!((r.disk.usage().pages, r.read(0x2000, 0x1000)), (3, vec![0; 0x1000]));
    assert_eq!(r.ask(zero(0x2000, 0x1000, true), &mut NoData), Ok(0x1000));
    assert_eq!((r.disk.usage().pages, r.read(0x2000, 0x1000)), (2, vec![0; 0x1000]));
    // A discard leaves the image alone, and parts of pages.
    let before = r.read(0, 0x6000);
    assert_eq!(r.ask(Request::Discard { at: 0x1200, size: 0x3e00 }, &mut NoData), Ok(0x3e00));
    assert_eq!((r.disk.usage().pages, r.read(0, 0x1000)), (1, before[..0x1000].to_vec()));
    assert_eq!((r.read(0x1000, 0x1000), r.read(0x3000, 0x1000)), (before[0x1000..0x2000].to_vec(), vec![0; 0x1000]));
    // Far ones go in steps, and over what has no table in one.
    let mut steps = 0;
    let (mut at, end) = (0u64, size as u64);
    while at < end {
        at += r.ask(Request::Discard { at, size: end - at }, &mut NoData).unwrap();
        steps += 1;
    }
    assert_eq!((at, steps), (end, 1024 / 64 + 1));
    let (mut at, mut steps) = (0u64, 0);
    while at < end {
        at += r.ask(zero(at, end - at, true), &mut NoData).unwrap();
        steps += 1;
    }
    assert_eq!((at, steps), (end, (2048 + 16) / 64 + 1));
    assert_eq!(r.disk.usage(), Usage { pages: 0, tables: 3, reserve: 37 });
    assert!(r.read(0x3f_f000, 0x2000).iter().all(|byte| *byte == 0));
    r.all_there();
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_disk_gives_everything_back() {
    let size = 0x1000 * 1024 * 3;
    for most in [1, 7, 100_000] {
        let mut r = Rig::new(size, size as u64 / 512);
        r.give(100);
        for at in [0, 0x5000, 0x3f_f000, 0x80_0000, size as u64 - 0x1000] {
            r.write(at, &[1; 0x1000]).unwrap();
        }
        r.ask(Request::Unmap { at: 0x1000, size: 0x2000 }, &mut NoData).unwrap();
        assert_eq!(r.disk.usage(), Usage { pages: 5, tables: 2, reserve: 93 });
        for _ in 0..2 {
            let (ram, mut calls) = (r.ram.clone(), 1);
            while !r.disk.release(most, |at| ram.back(at)) {
                calls += 1;
                assert!(calls < 5000);
            }
            assert_eq!((r.ram.lent(), r.disk.usage(), r.disk.wants()), (0, Usage::default(), 0));
        }
        // It is the image again.
        assert_eq!(r.read(0, 0x6000), image(0, 0x6000));
        r.give(10);
        r.write(0x5200, &[2; 512]).unwrap();
        assert_eq!(r.read(0x5000, 512), image(0x5000, 512));
        r.all_there();
    }
}

#[test]
fn frames_that_cannot_be_ours_are_refused() {
    let mut r = Rig::new(0, 8);
    for at in [0, 0x1000, 0x2001, 0x2800, 1 << 44, !0xfff] {
        assert_eq!(r.disk.give(Pa::new(at)), Err(Pa::new(at)));
    }
    for at in [0x2000, (1 << 44) - 0x1000] {
        r.ram.lend(Pa::new(at));
        assert_eq!(r.disk.give(Pa::new(at)), Ok(()));
    }
    r.write(0, &[1; 512]).unwrap();
    assert_eq!(r.read(0, 1024), [[1; 512], [0; 512]].concat());
}

#[test]
fn a_disk_that_cannot_be_written_to_takes_no_frames() {
    let mut disk = Cow::new(image(0, 4096), Ram::default(), 8, true, *b"12345678901234567890").unwrap();
    let shape = disk.shape();
    assert!(shape.read_only && !shape.discard && shape.serial == *b"12345678901234567890");
    assert_eq!(disk.submit(Tag(0), Request::Write { at: 0, size: 512 }, &mut NoData), Err(DiskError::ReadOnly));
    assert_eq!(disk.submit(Tag(0), Request::Flush, &mut NoData), Ok(Progress::Done(0)));
    let mut data = Bytes::new(vec![0; 4096]);
    assert_eq!(disk.submit(Tag(0), Request::Read { at: 0, size: 4096 }, &mut data), Ok(Progress::Done(4096)));
    assert_eq!((data.bytes, disk.wants()), (image(0, 4096), 0));
    // One that is too large, and the largest.
    let size = |sectors| Cow::new([], Ram::default(), sectors, false, [0; 20]).map(|disk| disk.shape().sectors);
    assert_eq!([size(LARGEST / 512), size(LARGEST / 512 + 1), size(u64::MAX)], [Some(LARGEST / 512), None, None]);
}

/// Bytes that cannot be reached leave the disk as it was, page by page.
#[test]
fn what_cannot_be_reached_changes_nothing() {
    for fails in 0..3 {
        let mut r = Rig::new(0x4000, 32);
        r.give(10);
        r.write(0x1000, &[4; 0x1000]).unwrap();
        let before = (r.read(0, 0x4000), r.disk.usage());
        let mut data = Bytes { fails: Some(fails), ..Bytes::new(vec![7; 0x2400]) };
        let request = Request::Write { at: 0x200, size: 0x2400 };
        assert_eq!(r.ask(request, &mut data), Err(DiskError::Gone));
        let done = [0, 0xe00, 0x1e00][fails];
        let after = r.read(0, 0x4000);
        assert_eq!(after[0x200..0x200 + done], vec![7; done]);
        assert_eq!(after[0x200 + done..], before.0[0x200 + done..]);
        r.all_there();
        data.fails = None;
        assert_eq!(r.ask(request, &mut data), Ok(0x2400));
        let mut data = Bytes { fails: Some(fails), ..Bytes::new(vec![0; 0x4000]) };
        let request = Request::Read { at: 0, size: 0x4000 };
        assert_eq!(r.ask(request, &mut data), Err(DiskError::Gone));
        data.fails = None;
        assert_eq!((r.ask(request, &mut data), &data.bytes[0x200..0x2600]), (Ok(0x4000), &[7; 0x2400][..]));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Read(u64, u64),
    Write(u64, u64, u8),
    Discard(u64, u64),
    Zero(u64, u64, bool),
    Give(usize),
    Back(usize),
    Gone(u64, u64, usize),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever is done to it, the disk reads like a plain one, no frame is lost, and nobody else's bytes turn up.
    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_disk_is_a_disk(
        length in 0usize..80 << 10,
        acts in prop::collection::vec(
            {
                // At the start, and where one table ends and the next begins.
                let place = || (prop_oneof![0u64..200, 8100u64..8300], prop_oneof![0u64..40, Just(8), Just(200)]);
                prop_oneof![
                    3 => place().prop_map(|(at, n)| Act::Read(at, n)),
                    5 => (place(), any::<u8>()).prop_map(|((at, n), fill)| Act::Write(at, n, fill)),
                    1 => place().prop_map(|(at, n)| Act::Discard(at, n)),
                    2 => (place(), any::<bool>()).prop_map(|((at, n), unmap)| Act::Zero(at, n, unmap)),
                    3 => (0usize..30).prop_map(Act::Give),
                    1 => (0usize..100).prop_map(Act::Back),
                    1 => (place(), 0usize..20).prop_map(|((at, n), fails)| Act::Gone(at, n, fails)),
                ]
            },
            1..60),
    ) {
        const SECTORS: u64 = 8704;
        let mut r = Rig::new(length, SECTORS);
        let mut model = image(0, length);
        model.resize(SECTORS as usize * 512, 0);
        let range = |at: u64, n: u64| {
            let n = n.min(SECTORS - at);
            (at * 512, n * 512, (at * 512) as usize..((at + n) * 512) as usize)
        };
        for act in acts {
            match act {
                Act::Read(at, n) => {
                    let (at, size, range) = range(at, n);
                    prop_assert_eq!(&r.read(at, size), &model[range]);
                }
                Act::Write(at, n, fill) => {
                    let (at, size, range) = range(at, n);
                    let bytes: Vec<u8> = (0..size).map(|n| fill.wrapping_add((n / 100) as u8)).collect();
                    match r.write(at, &bytes) {
                        Ok(done) => {
                            prop_assert!(done <= size && done % 512 == 0 && (done != 0 || size == 0));
                            model[range][..done as usize].copy_from_slice(&bytes[..done as usize]);
                        }
                        Err(error) => prop_assert_eq!(error, DiskError::Later),
                    }
                }
                Act::Discard(at, n) => {
                    let (at, size, range) = range(at, n);
                    let done = r.ask(Request::Discard { at, size }, &mut NoData).unwrap();
                    prop_assert!(done <= size && (done != 0 || size == 0));
                    let found = r.read(at, size);
                    for (n, (page, old)) in found.chunks(512).zip(model[range.clone()].chunks(512)).enumerate() {
                        prop_assert!(page == old || (n as u64) < done / 512 && page == [0; 512]);
                    }
                    model[range].copy_from_slice(&found);
                }
                Act::Zero(at, n, unmap) => {
                    let (at, size, range) = range(at, n);
                    let request = if unmap { Request::Unmap { at, size } } else { Request::Zero { at, size } };
                    match r.ask(request, &mut NoData) {
                        Ok(done) => {
                            prop_assert!(done <= size && done % 512 == 0 && (done != 0 || size == 0));
                            model[range][..done as usize].fill(0);
                        }
                        Err(error) => prop_assert_eq!(error, DiskError::Later),
                    }
                }
                Act::Give(count) => r.give(count),
                Act::Back(most) => {
                    for _ in 0..most {
                        let Some(at) = r.disk.take_back() else { break };
                        r.ram.back(at);
                    }
                }
                Act::Gone(at, n, fails) => {
                    // What was there before, so it does not matter how far it came.
                    let (at, size, range) = range(at, n);
                    let mut data = Bytes { fails: Some(fails), ..Bytes::new(model[range].to_vec()) };
                    let _ = r.ask(Request::Write { at, size }, &mut data);
                }
            }
            r.all_there();
        }
        for at in [0, 8064] {
            let (at, size, range) = range(at, 500);
            prop_assert!(r.read(at, size) == model[range]);
        }
        let ram = r.ram.clone();
        while !r.disk.release(1000, |at| ram.back(at)) {}
        prop_assert_eq!(r.ram.lent(), 0);
        prop_assert_eq!(r.read(0, length as u64 / 512 * 512), image(0, length / 512 * 512));
    }
}

/// An image that lies in pieces.
struct Pieces(Vec<u8>);

impl Image for Pieces {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn whole(&self) -> Option<&[u8]> {
        None
    }
    fn read(&self, at: u64, into: &mut [u8]) {
        into.copy_from_slice(&self.0[at as usize..][..into.len()]);
    }
}

#[test]
fn an_image_in_pieces_is_as_good_as_a_whole_one() {
    const SIZE: usize = 0x9200;
    let mut whole = Rig::new(SIZE, 128);
    let ram = Ram::default();
    let mut pieces = Cow::new(Pieces(image(0, SIZE)), ram.clone(), 128, false, [0; 20]).unwrap();
    whole.give(RESERVE);
    for n in 0..RESERVE as u64 {
        ram.lend(Pa::new(0x8000_0000 + n * PAGE));
        pieces.give(Pa::new(0x8000_0000 + n * PAGE)).unwrap();
    }
    let mut both = |request: Request, bytes: Vec<u8>| {
        let (mut one, mut other) = (Bytes::new(bytes.clone()), Bytes::new(bytes));
        let done = whole.ask(request, &mut one);
        let Ok(Progress::Done(count)) = pieces.submit(Tag(0), request, &mut other) else { panic!("{request:?}") };
        assert_eq!((done, &one.bytes), (Ok(count), &other.bytes), "{request:?}");
        one.bytes
    };
    // A page of its own, parts of pages that the image has, that it has in part, and that it has not; its end and what is behind.
    let places =
        [(0x1000, 0x1000), (0x3200, 0x400), (0x5e00, 0x800), (0x9000, 0x200), (0x9000, 0x1000), (0xc200, 0x200)];
    for (at, size) in places {
        both(Request::Write { at, size }, vec![at as u8; size as usize]);
    }
    both(Request::Zero { at: 0x7200, size: 0x200 }, Vec::new());
    let all = both(Request::Read { at: 0, size: 0x1_0000 }, vec![0xaa; 0x1_0000]);
    assert_eq!((&all[..0x1000], &all[0xe000..]), (&image(0, 0x1000)[..], &[0; 0x2000][..]));
    for (at, size) in [(0x200, 0x2000), (0x8e00, 0x400), (0x9200, 0x200), (0, 0x200)] {
        both(Request::Read { at, size }, vec![0xaa; size as usize]);
    }
}
