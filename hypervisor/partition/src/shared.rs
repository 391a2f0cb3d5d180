//! A drive that several have a part of.
//!
//! # Whose turn it is
//! Each share has tags of its own ([`PER_SHARE`]), and so has its place in the drive's queue, whatever others ask: a request waits for as
//! many requests of another share as that one has tags, and for no more. A share that floods the drive waits for its own.
//!
//! # What becomes of a request
//! | tag | meaning | leaves it |
//! |---|---|---|
//! | `Free` | nobody's | [`Disk::submit`] |
//! | `Going` | the drive has it, since then | [`Shared::attend`] sees that it has ended, or that it takes longer than [`LIMIT`] |
//! | `Ended` | its share's bell was rung | [`Disk::finish`] |
//!
//! A drive that was given up on is reset ([`Shared::recover`]) as soon as nobody waits for anything else that it has.
//!
//! A share that leaves while the drive still has requests of it keeps its part until they have ended ([`Share::leave`]), so that nobody
//! who comes after it finds a write of before.
//!
//! # Who writes where
//! No byte of a drive is written by two shares, by whatever names they came to it. Others may read what one writes.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use host::disk::{Data, Disk, DiskError, DiskShape, Drive, Progress, Request, SECTOR, SERIAL, Tag};
use host::port::Bell;
use sync::{Rank, SpinLock};
use thiserror::Error;

/// Requests that a share has on their way at most.
pub const PER_SHARE: u16 = 4;
/// How long a drive may take over a request, in ns.
pub const LIMIT: u64 = 10_000_000_000;

/// The time, and who looks at a drive when no interrupt comes.
pub trait Watch: Send + Sync {
    /// The time, in ns.
    fn now(&self) -> u64;
    /// [`Shared::attend`] has to be called at `at` or soon after. Called with the drive's lock held.
    fn due(&self, at: u64);
}

/// Why there is no share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AttachError {
    /// There are as many as the drive has tags for.
    #[error("{0} VMs have a part of that disk already, which is as many as can")]
    Full(usize),
    /// Another one writes there.
    #[error("another VM's disk writes there already; give each its own part, or make one of them readonly")]
    Written,
    /// It leads off the drive, or is no whole number of its blocks.
    #[error("it is not on that disk")]
    OffDisk,
}

/// What has happened to a drive's requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Requests that have ended.
    pub requests: u64,
    /// Those of them that failed, for whatever reason.
    pub errors: u64,
    /// Those of the errors that took too long.
    pub timeouts: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Free,
    Going(u64),
    Ended,
}

/// A part that is somebody's.
struct Claim {
    at: u64,
    end: u64,
    writes: bool,
    /// `None`: it has left, and the drive still has requests.
    bell: Option<Box<dyn Bell>>,
}

struct Inner {
    drive: Box<dyn Drive>,
    /// By tag.
    ways: Vec<Way>,
    /// By share: of tags in a row.
    claims: Vec<Option<Claim>>,
    stats: Stats,
    /// Something was given up, and the drive has not begun anew since.
    stuck: bool,
}

/// A drive with its shares.
pub struct Shared {
    inner: SpinLock<Inner>,
    watch: Box<dyn Watch>,
    shape: DiskShape,
    /// Tags of a share.
    tags: u16,
}

impl Inner {
    /// A request has ended: whoever waits for it is to know; of one for which nobody waits, all is forgotten.
    fn has_ended(&mut self, tag: u16, waited_for: bool) {
        let way = if waited_for {
            Way::Ended
        } else {
            let result = self.drive.finish(Tag(tag), None);
            self.count(result);
            Way::Free
        };
        if let Some(place) = self.ways.get_mut(usize::from(tag)) {
            *place = way;
        }
    }

    fn is_stuck(&self) -> bool {
        self.stuck && !self.ways.iter().any(|way| matches!(way, Way::Going(_)))
    }

    fn count(&mut self, result: Result<(), DiskError>) {
        self.stats.requests = self.stats.requests.saturating_add(1);
        if result.is_err() {
            self.stats.errors = self.stats.errors.saturating_add(1);
        }
    }

    /// What has ended of share `number`, whose tags are those, and what has taken too long by `now`.
    fn look(&mut self, number: usize, tags: core::ops::Range<u16>, now: u64) {
        let claimed = self.claims.get(number).and_then(Option::as_ref);
        let Some(waited_for) = claimed.map(|claim| claim.bell.is_some()) else { return };
        let (mut ring, mut going) = (false, false);
        for tag in tags {
            let Some(Way::Going(since)) = self.ways.get(usize::from(tag)).copied() else { continue };
            if !self.drive.has_ended(Tag(tag)) {
                if now.saturating_sub(since) < LIMIT {
                    going = true;
                    continue;
                }
                self.drive.give_up(Tag(tag));
                self.stats.timeouts = self.stats.timeouts.saturating_add(1);
                self.stuck = true;
            }
            self.has_ended(tag, waited_for);
            ring = true;
        }
        let Some(place) = self.claims.get_mut(number) else { return };
        match place.as_ref().and_then(|claim| claim.bell.as_ref()) {
            Some(bell) if ring => bell.ring(),
            None if !going => *place = None,
            _ => {}
        }
    }
}

impl Shared {
    /// Divides a drive. Allocates.
    pub fn new(drive: Box<dyn Drive>, watch: Box<dyn Watch>) -> Arc<Self> {
        let shape = drive.shape();
        let tags = shape.depth.clamp(1, PER_SHARE);
        let shares = usize::from(shape.depth.checked_div(tags).unwrap_or(1).max(1));
        let ways = vec![Way::Free; shares.saturating_mul(tags.into())];
        let claims = (0..shares).map(|_| None).collect();
        let inner = Inner { drive, ways, claims, stats: Stats::default(), stuck: false };
        Arc::new(Self { inner: SpinLock::new(Rank::Backend, inner), watch, shape, tags })
    }

    /// What the drive is like.
    pub fn shape(&self) -> DiskShape {
        self.shape
    }

    /// What has happened.
    pub fn stats(&self) -> Stats {
        self.inner.lock().stats
    }

    /// Gives `size` bytes from byte `at` on to somebody who is told by `bell` when requests have ended. Allocates.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    pub fn attach(
        self: &Arc<Self>,
        (at, size): (u64, u64),
        read_only: bool,
        serial: [u8; SERIAL],
        bell: Box<dyn Bell>,
    ) -> Result<Share, AttachError> {
        let end = at.checked_add(size).filter(|end| *end <= self.shape.bytes()).ok_or(AttachError::OffDisk)?;
        if (at | size) & u64::from(self.shape.block).saturating_sub(1) != 0 {
            return Err(AttachError::OffDisk);
        }
        let read_only = read_only || self.shape.read_only;
        let shape = DiskShape {
            sectors: size.checked_div(SECTOR).unwrap_or(0),
            read_only,
            depth: self.tags,
            serial,
            ..self.shape
        };
        let mut inner = self.inner.lock();
        let meets = |claim: &Claim| claim.writes && at < claim.end && claim.at < end;
        if !read_only && inner.claims.iter().flatten().any(meets) {
            return Err(AttachError::Written);
        }
        let most = inner.claims.len();
        let free = inner.claims.iter().position(Option::is_none).ok_or(AttachError::Full(most))?;
        if let Some(place) = inner.claims.get_mut(free) {
            *place = Some(Claim { at, end, writes: !read_only, bell: Some(bell) });
        }
        let first = u16::try_from(free).unwrap_or(u16::MAX).saturating_mul(self.tags);
        drop(inner);
        Ok(Share { disk: self.clone(), at, shape, first, number: free, left: false })
    }

    /// Takes what the drive has to say, gives up what it takes too long over, and rings the bells of those who wait for either.
    pub fn attend(&self) {
        let mut inner = self.inner.lock();
        inner.drive.attend();
        let (now, was_stuck) = (self.watch.now(), inner.is_stuck());
        let mut first = 0u16;
        for number in 0..inner.claims.len() {
            let end = first.saturating_add(self.tags);
            inner.look(number, first..end, now);
            first = end;
        }
        if inner.is_stuck() && !was_stuck {
            self.watch.due(now);
        }
    }

    /// Whether something was given up, and nothing else is on its way: [`Shared::recover`] is for a step to call.
    pub fn is_stuck(&self) -> bool {
        self.inner.lock().is_stuck()
    }

    /// Has a stuck drive begin anew. May allocate.
    pub fn recover(&self) {
        let mut inner = self.inner.lock();
        if inner.is_stuck() {
            inner.stuck = false;
            inner.drive.recover();
        }
    }

    /// When [`Shared::attend`] has to be called at the latest, in ns.
    pub fn deadline(&self) -> Option<u64> {
        let inner = self.inner.lock();
        let since = inner.ways.iter().filter_map(|way| if let Way::Going(since) = way { Some(*since) } else { None });
        since.min().map(|since| since.saturating_add(LIMIT))
    }
}

/// One's part of a drive, as a disk of its own.
pub struct Share {
    disk: Arc<Shared>,
    /// Where on the drive.
    at: u64,
    shape: DiskShape,
    /// Its first tag there.
    first: u16,
    number: usize,
    left: bool,
}

impl Share {
    /// Gives the part up; what is still asked of it fails. While the drive has requests of it, it stays claimed.
    pub fn leave(&mut self) {
        if core::mem::replace(&mut self.left, true) {
            return;
        }
        let tags = self.first..self.first.saturating_add(self.disk.tags);
        let mut inner = self.disk.inner.lock();
        let claim = inner.claims.get_mut(self.number).and_then(Option::as_mut);
        let bell = claim.and_then(|claim| claim.bell.take());
        for tag in tags.clone() {
            if inner.ways.get(usize::from(tag)) == Some(&Way::Ended) {
                inner.has_ended(tag, false);
            }
        }
        inner.look(self.number, tags, self.disk.watch.now());
        drop(inner);
        drop(bell);
    }

    /// The drive's name for one of its requests.
    fn tag(&self, tag: Tag) -> Result<Tag, DiskError> {
        let known = !self.left && tag.0 < self.disk.tags;
        known.then(|| Tag(self.first.saturating_add(tag.0))).ok_or(DiskError::Io)
    }

    /// The same request, of the drive.
    fn there(&self, request: Request) -> Result<Request, DiskError> {
        self.shape.allows(&request)?;
        // Its end is on the drive: no sum of these can be too large.
        let there = |at: u64| self.at.saturating_add(at);
        Ok(match request {
            Request::Read { at, size } => Request::Read { at: there(at), size },
            Request::Write { at, size } => Request::Write { at: there(at), size },
            Request::Flush => Request::Flush,
            Request::Discard { at, size } => Request::Discard { at: there(at), size },
            Request::Zero { at, size } => Request::Zero { at: there(at), size },
            Request::Unmap { at, size } => Request::Unmap { at: there(at), size },
        })
    }
}

impl Disk for Share {
    fn shape(&self) -> DiskShape {
        self.shape
    }

    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        let (tag, request) = (self.tag(tag)?, self.there(request)?);
        let mut inner = self.disk.inner.lock();
        let answered = inner.drive.submit(tag, request, data);
        match answered {
            Ok(Progress::Started) => {
                let now = self.disk.watch.now();
                if let Some(way) = inner.ways.get_mut(usize::from(tag.0)) {
                    *way = Way::Going(now);
                }
                self.disk.watch.due(now.saturating_add(LIMIT));
            }
            Ok(Progress::Done(_)) => inner.count(Ok(())),
            Err(DiskError::Later | DiskError::Gone) => {}
            Err(error) => inner.count(Err(error)),
        }
        answered
    }

    fn ended(&mut self) -> Option<Tag> {
        let inner = self.disk.inner.lock();
        let own = inner.ways.iter().skip(self.first.into()).take(self.disk.tags.into());
        let number = own.zip(0..).find_map(|(way, number)| (*way == Way::Ended).then_some(number));
        number.filter(|_| !self.left).map(Tag)
    }

    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let tag = self.tag(tag)?;
        let mut inner = self.disk.inner.lock();
        if inner.ways.get(usize::from(tag.0)) != Some(&Way::Ended) {
            return Err(DiskError::Io);
        }
        let result = inner.drive.finish(tag, data);
        if result != Err(DiskError::Gone) {
            inner.count(result);
            if let Some(way) = inner.ways.get_mut(usize::from(tag.0)) {
                *way = Way::Free;
            }
        }
        result
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.leave();
    }
}
