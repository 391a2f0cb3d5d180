//! A virtio block device ("Block Device") in front of a [`Disk`], which answers at once or later.
//!
//! | request | answer |
//! |---|---|
//! | read, write | done, in pieces of [`BYTES`] a step |
//! | flush | done when all writes that had ended before it are safe; without `VIRTIO_BLK_F_FLUSH` each write is flushed before it ends |
//! | serial number | as many of its 20 bytes as there is room for |
//! | discard, write zeroes | one range each; with flags that are not known, not done (`UNSUPP`) |
//! | beyond the disk, no whole sectors or blocks, a write to a read-only disk | refused (`IOERR`), nothing done |
//! | any other | `UNSUPP` |
//! | a chain without room for head or status | [`Broken::Small`](super::Broken) |
//!
//! # Requests on their way
//! A request that a step does not finish has a slot. A slot knows the chain by its head and looks at it anew in each step, so it is small
//! and nothing in it is an address.
//!
//! | slot | meaning | leaves it |
//! |---|---|---|
//! | `Ready` | a piece of it is the disk's next | with the step's next bytes, or when the disk has room |
//! | `Flying` | the disk has a piece of it | when [`Disk::ended`] says so |
//! | `Ended` | all is done but the answer, which met a page that was not there | when it can be written |
//! | `Orphan` | the disk has a piece of it, and nobody waits for it (a reset) | when [`Disk::ended`] says so |
//!
//! While there are orphans no new request begins: a write from before a reset never comes after one from behind it. [`Blk::settle`] lets
//! what is on its way end without touching guest memory (a VM that is paused or taken down).
//!
//! # Not modelled
//! Several queues, a write cache that the driver switches, geometry, secure erase, lifetime, zones.

mod job;
pub mod spec;
mod step;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use host::disk::{Disk, DiskShape, Request, SECTOR};

use super::{Bytes, Chain, Device, Limits, Ring, Stop};
use crate::state::RestoreError;
use job::{Job, answer};
use spec::*;

/// Bytes that are copied in a step.
pub const BYTES: u64 = 32 << 10;
/// Requests on their way at most.
pub const DEPTH: usize = 32;
/// The format of [`State`].
pub const STATE_VERSION: u16 = 1;

/// A request's data has up to two parts less than the queue has entries, and a table of all of them is one more.
const LIMITS: Limits = Limits { size: 128, chain: 129 };
/// Parts of a request's data.
const SEGMENTS: u32 = 126;

/// What has happened since the device was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Reads, writes, flushes, and discards and write-zeroes together, that were done.
    pub reads: u64,
    /// See `reads`.
    pub writes: u64,
    /// See `reads`.
    pub flushes: u64,
    /// See `reads`.
    pub discards: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Requests on their way now.
    pub depth: u64,
    /// And at most so far.
    pub deepest: u64,
}

impl Stats {
    /// A request was answered; without a `request` it is none of those that are counted.
    fn count(&mut self, request: Option<&Request>, status: u8) {
        self.deepest = self.deepest.max(1);
        let count = match request {
            _ if status != S_OK => &mut self.errors,
            Some(Request::Read { size, .. }) => {
                self.read_bytes = self.read_bytes.saturating_add(*size);
                &mut self.reads
            }
            Some(Request::Write { size, .. }) => {
                self.written_bytes = self.written_bytes.saturating_add(*size);
                &mut self.writes
            }
            Some(Request::Flush) => &mut self.flushes,
            Some(Request::Discard { .. } | Request::Zero { .. } | Request::Unmap { .. }) => &mut self.discards,
            None => return,
        };
        *count = count.saturating_add(1);
    }
}

/// What is saved of the device: requests on their way are begun anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    version: u16,
    features: u64,
    heads: Vec<u16>,
}

/// A request on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    Ready(u16, Job),
    Flying(u16, Job, Request),
    Ended(u16, Job, u8),
    Orphan,
}

impl Slot {
    /// The chain that is to be completed.
    fn head(&self) -> Option<u16> {
        match *self {
            Self::Ready(head, _) | Self::Flying(head, ..) | Self::Ended(head, ..) => Some(head),
            Self::Free | Self::Orphan => None,
        }
    }
}

/// The device.
pub struct Blk<D: Disk> {
    disk: D,
    shape: DiskShape,
    config: [u8; CONFIG_SIZE],
    features: u64,
    slots: Box<[Slot]>,
    /// Chains that were taken before the state was saved, to be begun anew.
    again: ArrayVec<u16, DEPTH>,
    /// Bytes that this step may still copy.
    budget: u64,
    stats: Stats,
    /// Those of requests that the driver has back.
    told: Stats,
}

impl<D: Disk> Blk<D> {
    /// In front of `disk`. Allocates.
    pub fn new(disk: D) -> Self {
        let shape = disk.shape();
        let depth = usize::from(shape.depth).clamp(1, DEPTH);
        Self {
            disk,
            shape,
            config: config(&shape),
            features: 0,
            slots: vec![Slot::Free; depth].into(),
            again: ArrayVec::new(),
            budget: 0,
            stats: Stats::default(),
            told: Stats::default(),
        }
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The disk, for whoever looks after it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// The disk, when the device is no more.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// What has happened.
    pub fn stats(&self) -> Stats {
        let depth = self.taken().count() as u64;
        Stats { depth, deepest: self.stats.deepest.max(depth), ..self.stats }
    }

    /// Lets requests end that the disk is done with, without telling the driver; no guest memory is touched. How many the disk still
    /// has. Those that the driver waits for go on with the queue's next step.
    pub fn settle(&mut self) -> usize {
        for _ in 0..self.slots.len() {
            let Some(tag) = self.disk.ended() else { break };
            let result = self.disk.finish(tag, None);
            let Some(slot) = self.slots.get_mut(usize::from(tag.0)) else { continue };
            *slot = match (*slot, result) {
                (Slot::Flying(head, job, Request::Read { .. }), _) => Slot::Ready(head, job),
                (Slot::Flying(head, mut job, part), Ok(())) => {
                    job.advance(&part, part.range().1);
                    Slot::Ready(head, job)
                }
                (Slot::Flying(head, job, _), Err(error)) => Slot::Ended(head, job, answer(error)),
                (Slot::Orphan, _) => Slot::Free,
                (other, _) => other,
            };
        }
        self.slots.iter().filter(|slot| matches!(slot, Slot::Flying(..) | Slot::Orphan)).count()
    }

    /// The chains that are to be completed.
    fn taken(&self) -> impl Iterator<Item = u16> + '_ {
        self.slots.iter().filter_map(Slot::head).chain(self.again.iter().copied())
    }

    /// Nobody waits any more.
    fn abandon(&mut self) {
        for slot in &mut self.slots {
            *slot = if matches!(slot, Slot::Flying(..) | Slot::Orphan) { Slot::Orphan } else { Slot::Free };
        }
        self.again.clear();
    }
}

/// What a driver reads of the disk's shape.
fn config(shape: &DiskShape) -> [u8; CONFIG_SIZE] {
    let mut bytes = [0; CONFIG_SIZE];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(field) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
            field.copy_from_slice(value);
        }
    };
    let blocks = shape.piece.checked_div(shape.block).unwrap_or(1).max(1);
    put(CAPACITY, &shape.sectors.to_le_bytes());
    put(SEG_MAX, &SEGMENTS.to_le_bytes());
    put(BLK_SIZE, &shape.block.to_le_bytes());
    put(PHYSICAL_BLOCK_EXP, &[blocks.ilog2() as u8]);
    put(MIN_IO_SIZE, &u16::try_from(blocks).unwrap_or(1).to_le_bytes());
    put(OPT_IO_SIZE, &0u32.to_le_bytes());
    if shape.discard && !shape.read_only {
        for (sectors, segments) in
            [(MAX_DISCARD_SECTORS, MAX_DISCARD_SEG), (MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SEG)]
        {
            put(sectors, &job::RANGE_SECTORS.to_le_bytes());
            put(segments, &1u32.to_le_bytes());
        }
        put(DISCARD_SECTOR_ALIGNMENT, &(shape.piece >> SECTOR.trailing_zeros()).to_le_bytes());
        put(WRITE_ZEROES_MAY_UNMAP, &[1]);
    }
    bytes
}

impl<D: Disk> Device for Blk<D> {
    type State = State;

    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        let range = if self.shape.discard && !self.shape.read_only { F_DISCARD | F_WRITE_ZEROES } else { 0 };
        let read_only = if self.shape.read_only { F_RO } else { 0 };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | range | read_only
    }

    fn queues(&self) -> &[Limits] {
        &[LIMITS]
    }

    fn started(&mut self, features: u64) {
        self.features = features;
    }

    fn config_read(&self, at: usize, into: &mut [u8]) {
        for (byte, at) in into.iter_mut().zip(at..) {
            *byte = sync::nospec::get(&self.config, at).copied().unwrap_or(0);
        }
    }

    fn serve(&mut self, _number: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
        self.budget = BYTES;
        let result = self.serve_step(ring);
        self.stats.deepest = self.stats.deepest.max(self.taken().count() as u64);
        result
    }

    fn stopped(&mut self, _number: usize) {
        self.abandon();
    }

    fn reset(&mut self) {
        self.abandon();
        self.features = 0;
    }

    fn save(&self) -> State {
        State { version: STATE_VERSION, features: self.features, heads: self.taken().collect() }
    }

    fn check(state: &State) -> Result<(), RestoreError> {
        if state.version != STATE_VERSION {
            return Err(RestoreError::Version(state.version));
        }
        if state.heads.len() > DEPTH { Err(RestoreError::OutOfRange("requests")) } else { Ok(()) }
    }

    fn restore(&mut self, state: State) {
        self.abandon();
        self.features = state.features;
        // As many as there can be was checked.
        self.again = state.heads.into_iter().take(DEPTH).collect();
    }
}
