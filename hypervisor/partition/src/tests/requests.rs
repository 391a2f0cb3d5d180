//! Several shares of one drive.

use crate::shared::{AttachError, LIMIT, PER_SHARE, Share, Shared, Stats, Watch};
use host::disk::{Data, Disk, DiskError, DiskShape, Drive, Gone, NoData, Progress, Request, SERIAL, Tag};
use host::port::Bell;
extern crate std;

use std::boxed::Box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

const DEPTH: u16 = 8;
const BLOCK: u64 = 512;
const BLOCKS: u64 = 64;

/// What a test sees and does of a drive that is shared.
#[derive(Default)]
struct Inside {
    /// On their way, in the order in which they came.
    queue: Vec<(u16, Request)>,
    ended: Vec<(u16, Result<(), DiskError>)>,
    given_up: Vec<u16>,
    recovered: usize,
    /// What a request is answered with at once.
    at_once: Option<Result<Progress, DiskError>>,
    /// It does as many a look.
    does: usize,
    bytes: Vec<u8>,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Inside>>);

impl Drive for Fake {
    fn shape(&self) -> DiskShape {
        DiskShape {
            sectors: BLOCKS,
            read_only: false,
            block: BLOCK as u32,
            piece: 4096,
            discard: true,
            cached: true,
            largest: 4096,
            depth: DEPTH,
            serial: [0; SERIAL],
        }
    }
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        let mut inside = self.0.lock().unwrap();
        assert!(inside.queue.iter().all(|(other, _)| *other != tag.0), "the tag is another's");
        if let Some(answer) = inside.at_once {
            return answer;
        }
        if let Request::Write { at, size } = request {
            data.load(0, &mut inside.bytes[at as usize..][..size as usize])?;
        }
        inside.queue.push((tag.0, request));
        Ok(Progress::Started)
    }
    fn attend(&mut self) {
        let mut inside = self.0.lock().unwrap();
        for _ in 0..inside.does.min(inside.queue.len()) {
            let (tag, _) = inside.queue.remove(0);
            inside.ended.push((tag, Ok(())));
        }
    }
    fn has_ended(&self, tag: Tag) -> bool {
        self.0.lock().unwrap().ended.iter().any(|(ended, _)| *ended == tag.0)
    }
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let mut inside = self.0.lock().unwrap();
        let place = inside.ended.iter().position(|(ended, _)| *ended == tag.0).expect("has ended");
        if let Some(data) = data {
            data.store(0, &inside.bytes[..BLOCK as usize])?;
        }
        inside.ended.remove(place).1
    }
    fn recover(&mut self) {
        let mut inside = self.0.lock().unwrap();
        assert!(inside.queue.is_empty(), "others wait");
        inside.recovered += 1;
    }
    fn give_up(&mut self, tag: Tag) {
        let mut inside = self.0.lock().unwrap();
        inside.queue.retain(|(other, _)| *other != tag.0);
        inside.given_up.push(tag.0);
        inside.ended.push((tag.0, Err(DiskError::Io)));
    }
}

#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>, Arc<AtomicU64>);

impl Watch for Clock {
    fn now(&self) -> u64 {
        self.0.load(SeqCst)
    }
    fn due(&self, at: u64) {
        self.1.store(at, SeqCst);
    }
}

#[derive(Clone, Default)]
struct Rung(Arc<AtomicUsize>);

impl Bell for Rung {
    fn ring(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct Chain {
    fake: Fake,
    clock: Clock,
    shared: Arc<Shared>,
}

fn chain() -> Chain {
    let fake =
        Fake(Arc::new(Mutex::new(Inside { does: 1, bytes: vec![0; (BLOCK * BLOCKS) as usize], ..Inside::default() })));
    let clock = Clock::default();
    let shared = Shared::new(Box::new(fake.clone()), Box::new(clock.clone()));
    Chain { fake, clock, shared }
}

impl Chain {
    fn share(&self, at: u64, size: u64) -> (Share, Rung) {
        let rung = Rung::default();
        let share = self.attach(at, size, false, &rung);
        (share.unwrap(), rung)
    }
    fn attach(&self, at: u64, size: u64, read_only: bool, rung: &Rung) -> Result<Share, AttachError> {
        self.shared.attach((at * BLOCK, size * BLOCK), read_only, [0; SERIAL], Box::new(rung.clone()))
    }
    fn queue(&self) -> Vec<(u16, Request)> {
        self.fake.0.lock().unwrap().queue.clone()
    }
}

/// Bytes that are there, or are not.
struct Page(Vec<u8>, bool);

impl Data for Page {
    fn load(&mut self, at: u64, into: &mut [u8]) -> Result<(), Gone> {
        self.1.then(|| into.copy_from_slice(&self.0[at as usize..][..into.len()])).ok_or(Gone)
    }
    fn store(&mut self, at: u64, from: &[u8]) -> Result<(), Gone> {
        self.1.then(|| self.0[at as usize..][..from.len()].copy_from_slice(from)).ok_or(Gone)
    }
}

const READ: Request = Request::Read { at: 0, size: BLOCK };

#[test]
fn a_request_is_asked_of_the_part() {
    let chain = chain();
    let (mut share, rung) = chain.share(8, 4);
    let shape = share.shape();
    assert_eq!((shape.sectors, shape.depth, shape.read_only), (4, PER_SHARE, false));
    let mut page = Page(vec![7; 1024], true);
    let write = Request::Write { at: BLOCK, size: 2 * BLOCK };
    assert_eq!(share.submit(Tag(2), write, &mut page), Ok(Progress::Started));
    assert_eq!(chain.queue(), [(2, Request::Write { at: 9 * BLOCK, size: 2 * BLOCK })]);
    assert_eq!((share.ended(), rung.0.load(SeqCst)), (None, 0));
    chain.shared.attend();
    assert_eq!((share.ended(), share.ended(), rung.0.load(SeqCst)), (Some(Tag(2)), Some(Tag(2)), 1));
    assert_eq!(share.finish(Tag(2), Some(&mut page)), Ok(()));
    assert_eq!((share.ended(), chain.shared.stats()), (None, Stats { requests: 1, errors: 0, timeouts: 0 }));
    for beyond in [(4 * BLOCK, BLOCK), (0, 5 * BLOCK), (u64::MAX - 511, BLOCK), (1, BLOCK)] {
        let request = Request::Write { at: beyond.0, size: beyond.1 };
        assert_eq!(share.submit(Tag(0), request, &mut page), Err(DiskError::OutOfRange));
    }
    assert_eq!(share.submit(Tag(PER_SHARE), READ, &mut page), Err(DiskError::Io), "another's tag");
    assert_eq!(share.finish(Tag(1), None), Err(DiskError::Io), "not on its way");
    assert!(chain.queue().is_empty());
}

#[test]
fn every_kind_of_request_moves_with_the_part() {
    let chain = chain();
    let (mut share, _) = chain.share(10, 10);
    chain.fake.0.lock().unwrap().does = 9;
    let (at, size, there) = (BLOCK, BLOCK, 11 * BLOCK);
    for (request, expected) in [
        (Request::Read { at, size }, Request::Read { at: there, size }),
        (Request::Discard { at, size }, Request::Discard { at: there, size }),
        (Request::Zero { at, size }, Request::Zero { at: there, size }),
        (Request::Unmap { at, size }, Request::Unmap { at: there, size }),
        (Request::Flush, Request::Flush),
    ] {
        assert_eq!(share.submit(Tag(0), request, &mut NoData), Ok(Progress::Started));
        assert_eq!(chain.queue(), [(0, expected)]);
        chain.shared.attend();
        assert_eq!(share.finish(Tag(0), None), Ok(()));
    }
}

#[test]
fn one_that_floods_leaves_the_other_its_turn() {
    let chain = chain();
    let ((mut flood, _), (mut other, rung)) = (chain.share(0, 8), chain.share(8, 8));
    let mut page = Page(vec![0; 512], true);
    for tag in 0..PER_SHARE {
        assert_eq!(flood.submit(Tag(tag), READ, &mut page), Ok(Progress::Started));
    }
    assert_eq!(other.submit(Tag(0), READ, &mut page), Ok(Progress::Started));
    // The flood asks again whenever it can.
    let mut waited = 0;
    while rung.0.load(SeqCst) == 0 {
        chain.shared.attend();
        waited += 1;
        while let Some(tag) = flood.ended() {
            flood.finish(tag, Some(&mut page)).unwrap();
            flood.submit(tag, READ, &mut page).unwrap();
        }
    }
    assert_eq!((waited, other.ended()), (u32::from(PER_SHARE) + 1, Some(Tag(0))));
}

#[test]
fn what_one_leaves_unfinished_keeps_nobody_waiting() {
    let chain = chain();
    let ((mut lazy, _), (mut other, _)) = (chain.share(0, 8), chain.share(8, 8));
    let mut page = Page(vec![0; 512], true);
    lazy.submit(Tag(0), READ, &mut page).unwrap();
    other.submit(Tag(3), READ, &mut page).unwrap();
    chain.shared.attend();
    chain.shared.attend();
    assert_eq!(other.ended(), Some(Tag(3)));
    assert_eq!(other.finish(Tag(3), Some(&mut page)), Ok(()));
    assert_eq!(lazy.ended(), Some(Tag(0)));
}

#[test]
fn a_page_that_is_not_there_is_tried_again() {
    let chain = chain();
    let (mut share, _) = chain.share(0, 8);
    let mut page = Page(vec![0; 512], false);
    let write = Request::Write { at: 0, size: BLOCK };
    assert_eq!(share.submit(Tag(0), write, &mut page), Err(DiskError::Gone));
    assert_eq!(share.submit(Tag(0), READ, &mut page), Ok(Progress::Started));
    chain.shared.attend();
    assert_eq!(share.finish(Tag(0), Some(&mut page)), Err(DiskError::Gone));
    assert_eq!(share.ended(), Some(Tag(0)));
    page.1 = true;
    assert_eq!(share.finish(Tag(0), Some(&mut page)), Ok(()));
    assert_eq!(chain.shared.stats(), Stats { requests: 1, errors: 0, timeouts: 0 });
}

#[test]
fn what_takes_too_long_has_failed() {
    let chain = chain();
    let (mut share, rung) = chain.share(0, 8);
    chain.fake.0.lock().unwrap().does = 0;
    let mut page = Page(vec![0; 512], true);
    chain.clock.0.store(100, SeqCst);
    share.submit(Tag(1), READ, &mut page).unwrap();
    assert_eq!((chain.clock.1.load(SeqCst), chain.shared.deadline()), (100 + LIMIT, Some(100 + LIMIT)));
    chain.clock.0.store(99 + LIMIT, SeqCst);
    chain.shared.attend();
    assert_eq!((rung.0.load(SeqCst), share.ended()), (0, None));
    chain.clock.0.store(100 + LIMIT, SeqCst);
    chain.shared.attend();
    assert_eq!((rung.0.load(SeqCst), share.ended(), chain.shared.deadline()), (1, Some(Tag(1)), None));
    assert_eq!(share.finish(Tag(1), Some(&mut page)), Err(DiskError::Io));
    assert_eq!(chain.shared.stats(), Stats { requests: 1, errors: 1, timeouts: 1 });
    assert_eq!(chain.fake.0.lock().unwrap().given_up, [1]);
}

#[test]
fn what_fails_at_once_is_counted_and_what_is_put_off_is_not() {
    let chain = chain();
    let (mut share, _) = chain.share(0, 8);
    for (answer, stats) in [
        (Err(DiskError::Later), (0, 0)),
        (Err(DiskError::Gone), (0, 0)),
        (Err(DiskError::Io), (1, 1)),
        (Ok(Progress::Done(0)), (2, 1)),
    ] {
        chain.fake.0.lock().unwrap().at_once = Some(answer);
        assert_eq!(share.submit(Tag(0), Request::Flush, &mut NoData), answer);
        let now = chain.shared.stats();
        assert_eq!((now.requests, now.errors), stats);
        assert_eq!((share.ended(), chain.shared.deadline()), (None, None));
    }
}

#[test]
fn a_byte_has_one_writer() {
    let chain = chain();
    let rung = Rung::default();
    let attach = |at, size, read_only| chain.attach(at, size, read_only, &rung);
    let first = attach(8, 8, false).unwrap();
    for (at, size) in [(8, 8), (0, 9), (15, 1), (0, 64), (10, 2)] {
        assert_eq!(attach(at, size, false).err(), Some(AttachError::Written), "{at} {size}");
    }
    // Who reads may read what another writes.
    drop(attach(0, 64, true).unwrap());
    let _beside = (attach(7, 1, false).unwrap(), drop(first), attach(8, 8, false));
    assert!(_beside.2.is_ok());
    for (at, size) in [(0, 65), (64, 1), (u64::MAX / BLOCK, 1)] {
        let error =
            chain.shared.attach((at.wrapping_mul(BLOCK), size * BLOCK), true, [0; SERIAL], Box::new(rung.clone()));
        assert_eq!(error.err(), Some(AttachError::OffDisk), "{at} {size}");
    }
    let odd = chain.shared.attach((1, BLOCK), true, [0; SERIAL], Box::new(rung.clone()));
    assert_eq!(odd.err(), Some(AttachError::OffDisk));
}

#[test]
fn there_are_as_many_shares_as_tags_suffice_for() {
    let chain = chain();
    let most = usize::from(DEPTH / PER_SHARE);
    let shares: Vec<_> = (0..most as u64).map(|n| chain.share(n, 1)).collect();
    let rung = Rung::default();
    assert_eq!(chain.attach(50, 1, false, &rung).err(), Some(AttachError::Full(most)));
    drop(shares);
    assert!(chain.attach(50, 1, false, &rung).is_ok());
}

#[test]
fn who_leaves_keeps_the_part_until_the_drive_is_done() {
    let chain = chain();
    let (mut share, rung) = chain.share(0, 8);
    let mut page = Page(vec![9; 512], true);
    share.submit(Tag(0), Request::Write { at: 0, size: BLOCK }, &mut page).unwrap();
    share.submit(Tag(1), READ, &mut page).unwrap();
    share.submit(Tag(2), READ, &mut page).unwrap();
    chain.shared.attend();
    assert_eq!((rung.0.load(SeqCst), share.ended()), (1, Some(Tag(0))));
    share.leave();
    share.leave();
    assert_eq!((share.ended(), share.submit(Tag(3), READ, &mut page)), (None, Err(DiskError::Io)));
    let other = Rung::default();
    assert_eq!(chain.attach(0, 8, false, &other).err(), Some(AttachError::Written));
    // One ends, one takes too long.
    chain.shared.attend();
    assert_eq!(chain.attach(0, 8, false, &other).err(), Some(AttachError::Written));
    chain.fake.0.lock().unwrap().does = 0;
    chain.clock.0.store(LIMIT, SeqCst);
    chain.shared.attend();
    let (mut next, stats) = (chain.attach(0, 8, false, &other).unwrap(), chain.shared.stats());
    assert_eq!((rung.0.load(SeqCst), other.0.load(SeqCst)), (1, 0), "nobody is told of it");
    assert_eq!(stats, Stats { requests: 3, errors: 1, timeouts: 1 });
    assert_eq!((next.ended(), next.submit(Tag(0), READ, &mut page)), (None, Ok(Progress::Started)));
}

#[test]
fn a_drive_that_was_given_up_on_begins_anew_when_nobody_waits_for_it() {
    let chain = chain();
    let ((mut share, _), (mut other, _)) = (chain.share(0, 8), chain.share(8, 8));
    chain.fake.0.lock().unwrap().does = 0;
    let mut page = Page(vec![0; 512], true);
    share.submit(Tag(1), READ, &mut page).unwrap();
    chain.clock.0.store(LIMIT - 1, SeqCst);
    other.submit(Tag(0), READ, &mut page).unwrap();
    let recovered = || {
        chain.shared.recover();
        chain.fake.0.lock().unwrap().recovered
    };
    assert_eq!((chain.shared.is_stuck(), recovered()), (false, 0));
    chain.clock.0.store(LIMIT, SeqCst);
    chain.shared.attend();
    assert_eq!((share.ended(), chain.shared.is_stuck(), recovered()), (Some(Tag(1)), false, 0));
    chain.fake.0.lock().unwrap().does = 1;
    chain.shared.attend();
    // Somebody is to look at once.
    assert_eq!((other.ended(), chain.clock.1.load(SeqCst)), (Some(Tag(0)), LIMIT));
    assert_eq!((chain.shared.is_stuck(), recovered()), (true, 1));
    assert_eq!((chain.shared.is_stuck(), recovered()), (false, 1));
}
