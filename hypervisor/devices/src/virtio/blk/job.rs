//! One request of the driver: what it asks for, how far it is, and what it is answered.

use host::disk::{Data, DiskError, DiskShape, Gone, NoData, Request, SECTOR};

use super::spec::*;
use super::{BYTES, Bytes, Chain, Ring, Stop};
use crate::virtio::Broken;

/// A range of sectors at most, of one discard or write-zeroes: 2 GiB, so that their bytes are far from any end.
pub const RANGE_SECTORS: u32 = 1 << 22;

/// What a chain turns out to be.
pub enum Parsed {
    /// Work for the disk, which was filled in.
    Job,
    /// The serial number is wanted.
    Id,
    /// No request that can be served; the answer.
    Refused(u8),
}

/// A request that the disk can serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Job {
    /// All of it.
    pub request: Request,
    /// Bytes of it that are done.
    done: u64,
    /// Whether its end is still to be flushed, or it is a flush.
    flush: Flush,
}

/// Whether there is something to flush. (A word, so that a job is moved as words.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
enum Flush {
    No,
    Yes,
}

impl Job {
    /// None yet.
    pub const NONE: Self = Self { request: Request::Read { at: 0, size: 0 }, done: 0, flush: Flush::No };

    /// Bytes that it has done, from its start.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// What the disk is to be asked next, if it is to copy `most` bytes in blocks of `block`. `None`: nothing is left.
    pub fn next(&self, most: u64, block: u32) -> Option<Request> {
        let (at, size) = self.request.range();
        let (at, left) = (at.saturating_add(self.done), size.saturating_sub(self.done));
        if left == 0 {
            return (self.flush == Flush::Yes).then_some(Request::Flush);
        }
        let block = u64::from(block);
        let size = left.min((most & !block.wrapping_sub(1)).max(block));
        Some(match self.request {
            Request::Read { .. } => Request::Read { at, size },
            Request::Write { .. } => Request::Write { at, size },
            Request::Discard { .. } => Request::Discard { at, size: left },
            Request::Zero { .. } => Request::Zero { at, size: left },
            Request::Unmap { .. } => Request::Unmap { at, size: left },
            Request::Flush => Request::Flush,
        })
    }

    /// The disk has done the first `bytes` of `part`, which [`Job::next`] named.
    pub fn advance(&mut self, part: &Request, bytes: u64) {
        match part {
            Request::Flush => self.flush = Flush::No,
            _ => self.done = self.done.saturating_add(bytes.min(part.range().1)),
        }
    }
}

/// What a piece costs of a step's bytes.
pub fn cost(part: &Request) -> u64 {
    match part {
        Request::Read { size, .. } | Request::Write { size, .. } => *size,
        // The disk goes through its tables.
        Request::Discard { .. } | Request::Zero { .. } | Request::Unmap { .. } => BYTES / 4,
        Request::Flush => 0,
    }
}

/// The answer for what the disk said.
pub fn answer(error: DiskError) -> u8 {
    match error {
        DiskError::Unsupported => S_UNSUPP,
        DiskError::Io
        | DiskError::NoSpace
        | DiskError::ReadOnly
        | DiskError::OutOfRange
        | DiskError::Later
        | DiskError::Gone => S_IOERR,
    }
}

/// Reads a request's head, and of a discard or a write-zeroes its range.
pub fn parse(ring: &Ring<'_>, chain: &Chain, shape: &DiskShape, features: u64, job: &mut Job) -> Result<Parsed, Stop> {
    let mut head = [0; HEAD as usize];
    ring.read(chain, 0, &mut head)?;
    let head = u128::from_le_bytes(head);
    let (kind, sector) = (head as u32, (head >> 64) as u64);
    let room = chain.writable().checked_sub(STATUS_SIZE).ok_or(Broken::Small)?;
    let sent = chain.readable().saturating_sub(HEAD);
    let asked = match kind {
        T_IN => bytes(sector, room).map(|(at, size)| Request::Read { at, size }),
        T_OUT => bytes(sector, sent).map(|(at, size)| Request::Write { at, size }),
        T_FLUSH => Some(Request::Flush),
        T_GET_ID => return Ok(Parsed::Id),
        T_DISCARD if features & F_DISCARD != 0 => return range(ring, chain, shape, true, job),
        T_WRITE_ZEROES if features & F_WRITE_ZEROES != 0 => return range(ring, chain, shape, false, job),
        _ => return Ok(Parsed::Refused(S_UNSUPP)),
    };
    let Some(request) = asked else { return Ok(Parsed::Refused(S_IOERR)) };
    // A driver that does not flush relies on what it was told to be written.
    let unsafe_yet = request.writes() && shape.cached && features & F_FLUSH == 0;
    let flush = if unsafe_yet || request == Request::Flush { Flush::Yes } else { Flush::No };
    *job = Job { request, done: 0, flush };
    Ok(allowed(job, shape))
}

/// Where a request's bytes are on the disk; `None` where that cannot be said.
fn bytes(sector: u64, size: u64) -> Option<(u64, u64)> {
    let at = sector.checked_mul(SECTOR)?;
    size.is_multiple_of(SECTOR).then_some((at, size))
}

/// The range of a discard or a write-zeroes: there is one, and only what is known of its flags.
fn range(ring: &Ring<'_>, chain: &Chain, shape: &DiskShape, discard: bool, job: &mut Job) -> Result<Parsed, Stop> {
    // `max_discard_seg` and `max_write_zeroes_seg` are 1.
    if chain.readable() != HEAD.saturating_add(RANGE) {
        return Ok(Parsed::Refused(S_IOERR));
    }
    let mut range = [0; RANGE as usize];
    ring.read(chain, HEAD, &mut range)?;
    let range = u128::from_le_bytes(range);
    let (sector, sectors, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
    let unmap = flags & RANGE_UNMAP != 0;
    if flags & !RANGE_UNMAP != 0 || discard && unmap {
        return Ok(Parsed::Refused(S_UNSUPP));
    }
    let place = bytes(sector, u64::from(sectors).saturating_mul(SECTOR)).filter(|_| sectors <= RANGE_SECTORS);
    let Some((at, size)) = place else { return Ok(Parsed::Refused(S_IOERR)) };
    let request = match (discard, unmap) {
        (true, _) => Request::Discard { at, size },
        (false, false) => Request::Zero { at, size },
        (false, true) => Request::Unmap { at, size },
    };
    *job = Job { request, done: 0, flush: Flush::No };
    Ok(allowed(job, shape))
}

fn allowed(job: &Job, shape: &DiskShape) -> Parsed {
    match shape.allows(&job.request) {
        Ok(()) => Parsed::Job,
        Err(error) => Parsed::Refused(answer(error)),
    }
}

/// The driver's bytes of one piece of a request, for the disk.
pub struct Guest<'a> {
    bytes: Option<Bytes<'a>>,
    /// Bytes of the chain before the piece's.
    start: u64,
    /// Why they could not be reached.
    stop: Option<Stop>,
}

impl<'a> Guest<'a> {
    /// Those of what comes next of `job`, or of nothing.
    pub fn new(ring: &'a Ring<'_>, chain: &Chain, job: &Job) -> Self {
        let (bytes, start) = match job.request {
            Request::Read { .. } => (Some(ring.bytes(chain, true)), job.done),
            Request::Write { .. } => (Some(ring.bytes(chain, false)), HEAD.saturating_add(job.done)),
            _ => (None, 0),
        };
        Self { bytes, start, stop: None }
    }

    /// What became of the disk's answer: where the bytes were the reason, why.
    pub fn check<T>(self, answer: Result<T, DiskError>) -> Result<Result<T, DiskError>, Stop> {
        match (answer, self.stop) {
            (Err(DiskError::Gone), Some(stop)) => Err(stop),
            (answer, _) => Ok(answer),
        }
    }

    fn note(&mut self, result: Result<(), Stop>) -> Result<(), Gone> {
        result.map_err(|stop| {
            self.stop = Some(stop);
            Gone
        })
    }
}

impl Data for Guest<'_> {
    fn load(&mut self, at: u64, into: &mut [u8]) -> Result<(), Gone> {
        let Some(bytes) = &mut self.bytes else { return NoData.load(at, into) };
        let result = bytes.read(self.start.saturating_add(at), into);
        self.note(result)
    }
    fn store(&mut self, at: u64, from: &[u8]) -> Result<(), Gone> {
        let Some(bytes) = &mut self.bytes else { return NoData.store(at, from) };
        let result = bytes.write(self.start.saturating_add(at), from);
        self.note(result)
    }
}
