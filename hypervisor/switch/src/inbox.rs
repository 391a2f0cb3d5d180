//! The frames that wait for one receiver: a ring of bytes of a fixed size, in the order in which they came.
//!
//! ```text
//! [ headroom, frame | headroom, frame | free ...        | (too short for the frame that went to the start) ]
//! ```
//! A frame is in one piece. What it takes, the rest of the ring that it could not use included, is its *span*, and counts as its sender's.

use alloc::boxed::Box;
use alloc::vec;
use core::mem::size_of;
use host::port::{Bell, Checksum, HEADER, HEADROOM, Incoming, Loss, Outgoing, Stats};

use crate::PORTS;
use sync::words;

/// A frame's span is a multiple of this, so that the many short ones are as many as there are records.
const UNIT: usize = 512;
/// How many times what is free one sender may have.
const SHARE: usize = 4;

/// A frame that waits. (Aligned, so that it is copied by words.)
#[derive(Clone, Copy, Default)]
#[repr(align(8))]
struct Record {
    at: u32,
    /// Without its headroom.
    size: u32,
    span: u32,
    from: u8,
    checksum: Option<Checksum>,
}

/// Why a frame does not come in.
#[derive(Debug)]
pub enum Refused<E> {
    /// It is lost.
    Lost(Loss),
    /// Its sender could not give all of it.
    Rest(E),
}

/// The queue of a port.
pub struct Inbox {
    bytes: Box<[u8]>,
    records: Box<[Record]>,
    /// The oldest record, and how many there are.
    first: usize,
    count: usize,
    /// Where the next frame goes, and how many bytes the frames have.
    write: usize,
    used: usize,
    /// How many of those each sender has.
    held: Box<[u32]>,
    longest: usize,
    open: bool,
    checksums: bool,
    bell: Box<dyn Bell>,
    /// The bell was rung, and its owner has not found the queue empty since.
    rung: bool,
    received: u64,
    received_bytes: u64,
    missed: u64,
}

impl Inbox {
    /// A closed one for `queue` bytes of frames no longer than `longest`. Allocates.
    pub fn new(queue: usize, longest: usize, bell: Box<dyn Bell>) -> Self {
        let units = units(queue);
        Self {
            bytes: vec![0; units.saturating_mul(UNIT)].into(),
            records: vec![Record::default(); units].into(),
            first: 0,
            count: 0,
            write: 0,
            used: 0,
            held: vec![0; PORTS].into(),
            longest,
            open: false,
            checksums: false,
            bell,
            rung: false,
            received: 0,
            received_bytes: 0,
            missed: 0,
        }
    }

    /// Bytes that one takes.
    pub fn memory(queue: usize) -> usize {
        let each = UNIT.saturating_add(size_of::<Record>());
        units(queue).saturating_mul(each).saturating_add(size_of::<Self>()).saturating_add(size_of::<[u32; PORTS]>())
    }

    /// Frames come in.
    pub fn open(&mut self, checksums: bool) {
        self.close();
        (self.open, self.checksums) = (true, checksums);
    }

    /// None come in, and those that wait are gone.
    pub fn close(&mut self) {
        (self.open, self.rung) = (false, false);
        (self.first, self.count, self.write, self.used) = (0, 0, 0, 0);
        self.held.fill(0);
    }

    /// Takes a frame of sender `from` in, one of several receivers' or not, and rings.
    pub fn push<E>(
        &mut self,
        from: usize,
        frame: &Outgoing<'_>,
        several: bool,
        rest: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), Refused<E>> {
        if !self.open {
            return Err(Refused::Lost(Loss::Closed));
        }
        if frame.size > self.longest || frame.size < HEADER {
            return Err(Refused::Lost(Loss::Size));
        }
        let Some((at, span)) = self.place(from, frame.size, several) else {
            self.missed = self.missed.saturating_add(1);
            return Err(Refused::Lost(Loss::Full));
        };
        let start = at.saturating_add(HEADROOM);
        let room = self.bytes.get_mut(start..start.saturating_add(frame.size));
        let Some((header, payload)) = room.and_then(|room| room.split_first_chunk_mut::<HEADER>()) else {
            return Err(Refused::Lost(Loss::Size));
        };
        copy_header(frame.header, header);
        if !payload.is_empty() {
            rest(payload).map_err(Refused::Rest)?;
        }
        let mut checksum = frame.checksum.filter(|checksum| checksum.fits(frame.size));
        if let Some(left) = checksum.filter(|_| !self.checksums) {
            left.finish(self.bytes.get_mut(start..start.saturating_add(frame.size)).unwrap_or_default());
            checksum = None;
        }
        self.enter(Record { at: at as u32, size: frame.size as u32, span: span as u32, from: from as u8, checksum });
        if !core::mem::replace(&mut self.rung, true) {
            self.bell.ring();
        }
        Ok(())
    }

    /// Where a frame would go, and its span.
    fn place(&self, from: usize, size: usize, several: bool) -> Option<(usize, usize)> {
        let need = size.saturating_add(HEADROOM).checked_next_multiple_of(UNIT)?;
        let all = self.bytes.len();
        let free = all.saturating_sub(self.used);
        let oldest = self.record(0).map_or(0, |record| self.start(record));
        let behind = all.saturating_sub(self.write);
        let (at, span) = if self.used == 0 {
            (0, need)
        } else if self.write > oldest && need > behind {
            (0, need.saturating_add(behind))
        } else {
            (self.write, need)
        };
        let held = self.held.get(from).map_or(usize::MAX, |held| *held as usize);
        let share = free.saturating_mul(if several { 1 } else { SHARE });
        (span <= free && held.saturating_add(span) <= share && self.count < self.records.len()).then_some((at, span))
    }

    /// Where a record's span begins: before its frame, or, where that went to the start, behind the frame before it.
    fn start(&self, record: &Record) -> usize {
        let need = (record.size as usize).saturating_add(HEADROOM).next_multiple_of(UNIT);
        let skipped = (record.span as usize).saturating_sub(need);
        if skipped == 0 { record.at as usize } else { self.bytes.len().saturating_sub(skipped) }
    }

    fn enter(&mut self, record: Record) {
        let at = self.index(self.count);
        if let (Some(place), Some(held)) = (self.records.get_mut(at), self.held.get_mut(usize::from(record.from))) {
            *place = record;
            *held = held.saturating_add(record.span);
            self.count = self.count.saturating_add(1);
            self.used = self.used.saturating_add(record.span as usize);
            let need = (record.size as usize).saturating_add(HEADROOM).next_multiple_of(UNIT);
            let end = (record.at as usize).saturating_add(need);
            self.write = if end == self.bytes.len() { 0 } else { end };
        }
    }

    /// The index of the `nth` record.
    fn index(&self, nth: usize) -> usize {
        let index = self.first.saturating_add(nth);
        index.checked_sub(self.records.len()).unwrap_or(index)
    }

    fn record(&self, nth: usize) -> Option<&Record> {
        self.records.get(self.index(nth)).filter(|_| nth < self.count)
    }

    /// Shows the `nth` frame. Where there are not as many its owner has seen them all, and is to be rung for the next.
    pub fn show<T>(&mut self, nth: usize, act: impl FnOnce(Incoming<'_>) -> T) -> Option<T> {
        if nth >= self.count {
            self.rung = false;
            return None;
        }
        let index = self.index(nth);
        let Record { at, size, checksum, .. } = *self.records.get(index)?;
        let (at, size) = (at as usize, size as usize);
        let bytes = self.bytes.get_mut(at..at.saturating_add(HEADROOM).saturating_add(size))?;
        Some(act(Incoming { bytes, checksum }))
    }

    /// The oldest `count` frames are taken.
    pub fn discard(&mut self, count: usize) {
        for _ in 0..count {
            let Some(Record { size, span, from, .. }) = self.record(0).copied() else { return };
            self.used = self.used.saturating_sub(span as usize);
            if let Some(held) = self.held.get_mut(usize::from(from)) {
                *held = held.saturating_sub(span);
            }
            self.first = self.index(1);
            self.count = self.count.saturating_sub(1);
            self.received = self.received.saturating_add(1);
            self.received_bytes = self.received_bytes.saturating_add(size.into());
        }
    }

    /// What its port has done, with what it has `sent`.
    pub fn stats(&self, sent: Stats) -> Stats {
        let (received, received_bytes, missed) = (self.received, self.received_bytes, self.missed);
        Stats { received, received_bytes, missed, waiting: self.count as u64, ..sent }
    }
}

/// Copies a header by two words, which overlap.
#[inline]
fn copy_header(from: &[u8; HEADER], to: &mut [u8; HEADER]) {
    if let (Some(first), Some(last)) = (from.first_chunk(), from.last_chunk()) {
        let (first, last) = (words::load(first), words::load(last));
        if let Some(to) = to.first_chunk_mut() {
            words::store(to, first);
        }
        if let Some(to) = to.last_chunk_mut() {
            words::store(to, last);
        }
    }
}

/// How many units a queue of so many bytes has.
fn units(queue: usize) -> usize {
    queue.div_ceil(UNIT)
}
