//! Disks: bytes by number, read and written in pieces, at once or later.
//!
//! A request is submitted with a [`Tag`] that its requester chose. What becomes of it:
//!
//! | [`Disk::submit`] | meaning | what follows |
//! |---|---|---|
//! | [`Progress::Done`] of `n` bytes | the first `n` bytes of the request are done | the rest is another request; the tag is free |
//! | [`Progress::Started`] | the disk works on it | the tag turns up in [`Disk::ended`]; [`Disk::finish`] delivers and frees it |
//! | [`DiskError::Later`] | nothing has happened, there is no room now | the same request again, after whoever looks after the disk has said so |
//! | [`DiskError::Gone`] | the requester's bytes could not be reached, nothing of it counts | the same request again |
//! | any other error | it failed; some of it may have happened | the tag is free |
//!
//! A disk in RAM answers at once. One that answers later has copied what is to be written when it answers [`Progress::Started`], and
//! hands over what was read in [`Disk::finish`]: between the two it needs nothing of its requester, who may be gone by then.
//!
//! Requests on their way at the same time are in no order. A flush covers the writes that had ended when it was submitted.

use alloc::boxed::Box;

/// The unit of a disk's size and of requests to it, in bytes.
pub const SECTOR: u64 = 512;

/// Bytes of a disk's serial number.
pub const SERIAL: usize = 20;

/// What a disk is like. It stays so while the disk is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskShape {
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// It cannot be written to.
    pub read_only: bool,
    /// Bytes of its blocks: a power of two, 512 or more. Requests begin and end at their boundaries.
    pub block: u32,
    /// Bytes of the pieces that it handles best: a power of two, `block` or more. What is discarded in whole pieces is given up.
    pub piece: u32,
    /// It takes [`Request::Discard`], [`Request::Zero`] and [`Request::Unmap`].
    pub discard: bool,
    /// What was written may be lost until a flush.
    pub cached: bool,
    /// Bytes of its largest read or write: a multiple of `block`.
    pub largest: u32,
    /// Requests at most that it has on their way at a time; 0 where it always answers at once.
    pub depth: u16,
    /// Its serial number, filled with zeroes.
    pub serial: [u8; SERIAL],
}

/// Why a request was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// The disk failed.
    Io,
    /// There is no memory for what was written.
    NoSpace,
    /// It cannot be written to.
    ReadOnly,
    /// The disk does not reach so far, or the request is no multiple of its blocks, or larger than it takes.
    OutOfRange,
    /// The disk cannot do that.
    Unsupported,
    /// Not now, and nothing has happened.
    Later,
    /// [`Data`] answered [`Gone`].
    Gone,
}

/// The requester's bytes cannot be reached now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

impl From<Gone> for DiskError {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// The requester's bytes of one read or write, wherever they are. They may change at any time, so each is copied once.
pub trait Data {
    /// Fills `into` with what is to be written, from byte `at` of the request on.
    fn load(&mut self, at: u64, into: &mut [u8]) -> Result<(), Gone>;
    /// Takes what was read: byte `at` of the request and those behind it.
    fn store(&mut self, at: u64, from: &[u8]) -> Result<(), Gone>;
}

/// For requests that have no bytes.
pub struct NoData;

impl Data for NoData {
    fn load(&mut self, _: u64, _: &mut [u8]) -> Result<(), Gone> {
        Err(Gone)
    }
    fn store(&mut self, _: u64, _: &[u8]) -> Result<(), Gone> {
        Err(Gone)
    }
}

/// What is asked of a disk. Places and sizes are in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Reads.
    Read {
        /// The first byte.
        at: u64,
        /// How many.
        size: u64,
    },
    /// Writes.
    Write {
        /// The first byte.
        at: u64,
        /// How many.
        size: u64,
    },
    /// What was written stays, whatever happens.
    Flush,
    /// Nobody needs the contents any more; what is read there afterwards is the disk's choice, but never another disk's.
    Discard {
        /// The first byte.
        at: u64,
        /// How many.
        size: u64,
    },
    /// Reads as zeroes from now on. What holds the contents stays, so that writing there again cannot fail for want of it.
    Zero {
        /// The first byte.
        at: u64,
        /// How many.
        size: u64,
    },
    /// Reads as zeroes from now on, and the disk may give up what holds the contents.
    Unmap {
        /// The first byte.
        at: u64,
        /// How many.
        size: u64,
    },
}

impl Request {
    /// Its first byte and how many it concerns.
    pub fn range(&self) -> (u64, u64) {
        match *self {
            Self::Read { at, size }
            | Self::Write { at, size }
            | Self::Discard { at, size }
            | Self::Zero { at, size }
            | Self::Unmap { at, size } => (at, size),
            Self::Flush => (0, 0),
        }
    }

    /// Whether it changes the disk.
    pub fn writes(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Flush => false,
            Self::Write { .. } | Self::Discard { .. } | Self::Zero { .. } | Self::Unmap { .. } => true,
        }
    }
}

impl DiskShape {
    /// Its size in bytes, as far as that can be counted.
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }

    /// Whether a disk of this shape takes such a request; how large a read or a write is stands aside.
    pub fn allows(&self, request: &Request) -> Result<(), DiskError> {
        let (at, size) = request.range();
        let mask = u64::from(self.block).wrapping_sub(1);
        let end = at.checked_add(size).ok_or(DiskError::OutOfRange)?;
        if end > self.bytes() || (at | size) & mask != 0 {
            return Err(DiskError::OutOfRange);
        }
        if request.writes() && self.read_only {
            return Err(DiskError::ReadOnly);
        }
        match request {
            Request::Discard { .. } | Request::Zero { .. } | Request::Unmap { .. } if !self.discard => {
                Err(DiskError::Unsupported)
            }
            _ => Ok(()),
        }
    }
}

/// The requester's name for a request on its way: below [`DiskShape::depth`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tag(pub u16);

/// How far a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// So many bytes from its start are done: all, or some and at least one block. (A flush is done by 0.)
    Done(u64),
    /// The disk works on it.
    Started,
}

/// A disk.
///
/// Every method is bounded: what is more work than one step inside an exit may be is done in part. Nothing allocates.
pub trait Disk: Send {
    /// What it is like.
    fn shape(&self) -> DiskShape;
    /// Asks for something that [`DiskShape::allows`]. `tag` is no other request's.
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError>;
    /// A started request that has ended, the same one until it is finished. Which comes first is the disk's choice.
    fn ended(&mut self) -> Option<Tag> {
        None
    }
    /// The end of a request that [`Disk::ended`] named: whether all of it was done. What was read goes to `data`, or nowhere if the
    /// requester does not want it any more. The tag is free then, but after [`DiskError::Gone`].
    fn finish(&mut self, _tag: Tag, _data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        Err(DiskError::Io)
    }
}

impl<D: Disk + ?Sized> Disk for Box<D> {
    fn shape(&self) -> DiskShape {
        (**self).shape()
    }
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        (**self).submit(tag, request, data)
    }
    fn ended(&mut self) -> Option<Tag> {
        (**self).ended()
    }
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        (**self).finish(tag, data)
    }
}

/// A disk of the machine's, as its driver answers for it. Those who share it each have some of its tags, so that nobody waits for another
/// to finish: what a [`Disk`] says in order, a drive says of each tag.
///
/// Every method is bounded, and nothing allocates. The requester's bytes are copied in [`Drive::submit`] and [`Drive::finish`]; what the
/// device itself reads and writes between the two is the driver's own memory.
pub trait Drive: Send {
    /// What it is like; [`DiskShape::depth`] is not 0.
    fn shape(&self) -> DiskShape;
    /// As [`Disk::submit`].
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError>;
    /// Takes what the device has to say: for its interrupt, or whenever somebody would like to know. Nobody's bytes are copied.
    fn attend(&mut self);
    /// Whether this request has ended and is to be finished.
    fn has_ended(&self, tag: Tag) -> bool;
    /// As [`Disk::finish`], of a request that has ended.
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError>;
    /// The device has taken too long over this request, which has not ended: from here on it has, with [`DiskError::Io`]. What the device
    /// still does to the request's memory stays without effect on any other's.
    fn give_up(&mut self, tag: Tag);
    /// After something was given up: the device is reset, so that it has nothing of it any more. To be called from a step, where it may
    /// allocate, and while nothing is on its way that is waited for.
    fn recover(&mut self);
}

impl<D: Drive + ?Sized> Drive for Box<D> {
    fn shape(&self) -> DiskShape {
        (**self).shape()
    }
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        (**self).submit(tag, request, data)
    }
    fn attend(&mut self) {
        (**self).attend();
    }
    fn has_ended(&self, tag: Tag) -> bool {
        (**self).has_ended(tag)
    }
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        (**self).finish(tag, data)
    }
    fn give_up(&mut self, tag: Tag) {
        (**self).give_up(tag);
    }
    fn recover(&mut self) {
        (**self).recover();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: DiskShape = DiskShape {
        sectors: 64,
        read_only: false,
        block: 4096,
        piece: 4096,
        discard: true,
        cached: false,
        largest: 8192,
        depth: 0,
        serial: [0; SERIAL],
    };

    #[test]
    fn a_request_stays_on_the_disk_and_on_its_blocks() {
        let end = 64 * SECTOR;
        for (at, size, good) in [
            (0, end, true),
            (0, end + 4096, false),
            (end, 0, true),
            (end, 4096, false),
            (end - 4096, 4096, true),
            (512, 4096, false),
            (4096, 512, false),
            (u64::MAX - 4095, 4096, false),
            (0, u64::MAX - 4095, false),
        ] {
            let expected = if good { Ok(()) } else { Err(DiskError::OutOfRange) };
            assert_eq!(SHAPE.allows(&Request::Read { at, size }), expected, "{at:#x} + {size:#x}");
            assert_eq!(SHAPE.allows(&Request::Unmap { at, size }), expected, "{at:#x} + {size:#x}");
        }
        let huge = DiskShape { sectors: u64::MAX, ..SHAPE };
        assert_eq!(huge.allows(&Request::Read { at: u64::MAX - 4095, size: 4096 }), Err(DiskError::OutOfRange));
    }

    #[test]
    fn what_a_disk_cannot_do_is_refused() {
        let (read_only, plain) = (DiskShape { read_only: true, ..SHAPE }, DiskShape { discard: false, ..SHAPE });
        let range = (0, 4096);
        let (write, discard) = (Request::Write { at: 0, size: 4096 }, Request::Discard { at: 0, size: 4096 });
        assert_eq!((write.range(), discard.range(), Request::Flush.range()), (range, range, (0, 0)));
        for request in [write, discard, Request::Zero { at: 0, size: 4096 }] {
            assert_eq!(read_only.allows(&request), Err(DiskError::ReadOnly));
            assert_eq!(SHAPE.allows(&request), Ok(()));
        }
        assert_eq!(plain.allows(&discard), Err(DiskError::Unsupported));
        assert_eq!(plain.allows(&write), Ok(()));
        assert_eq!(read_only.allows(&Request::Flush), Ok(()));
    }
}
