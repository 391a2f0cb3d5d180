//! A virtio disk of the board's ("Block Device") as a [`Drive`]: each request is copied through a buffer of its own, and ends when the
//! device's interrupt has come.
//!
//! | slot (one a [`Tag`]) | leaves it |
//! |---|---|
//! | free | by [`Drive::submit`] |
//! | flying: the device has it | when the device has used it; by [`HostBlk::reset`]; by [`Drive::give_up`] to the requester, but not to the device |
//! | ended | by [`Drive::finish`] |
//! | lost: given up and finished, the device has it still | when the device has used it, or by a reset; until then its tag is answered with errors |
//!
//! | request | is |
//! |---|---|
//! | read, write | one of the device's, up to [`LARGEST`] bytes |
//! | flush | one of the device's, nothing where it has no cache |
//! | discard, zero, unmap | as many of the device's, one after the other, as its largest ranges ask for |
//!
//! # Not modelled
//! Several queues, EVENT_IDX (the crate's test for it fails when the ring's index wraps around), indirect descriptors (they would be
//! allocated for each request), changes of the disk's size.

use super::{Fault, Pages, QUEUE_ENTRIES, Queue, begin, finish, reset};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use host::disk::{Data, DiskError, DiskShape, Drive, Progress, Request, SECTOR, SERIAL, Tag};
use virtio_drivers::Hal;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// Requests on their way at most.
pub const DEPTH: u16 = 32;
/// Bytes of the largest read or write.
pub const LARGEST: u32 = 32 << 10;

// A request takes three entries of the queue.
const _: () = assert!(3 * DEPTH as usize <= QUEUE_ENTRIES);
const QUEUE: u16 = 0;

/// "Feature bits".
mod features {
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// "Device configuration layout": where each field is.
mod config {
    pub const CAPACITY: usize = 0;
    pub const BLK_SIZE: usize = 20;
    pub const PHYSICAL_BLOCK_EXP: usize = 24;
    pub const MAX_DISCARD_SECTORS: usize = 36;
    pub const MAX_WRITE_ZEROES_SECTORS: usize = 48;
    pub const WRITE_ZEROES_MAY_UNMAP: usize = 56;
}

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;
const S_OK: u8 = 0;
const S_UNSUPP: u8 = 2;
const UNMAP: u32 = 1;

/// Bytes of a slot's head (type, reserved, sector), its status behind it, and the place for both.
const HEAD: usize = 16;
const HEADS: usize = 32;
/// Bytes of a range (sector, count, flags).
const RANGE: usize = 16;
const NO_STATUS: u8 = 0xff;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    Flying {
        /// The first of its entries in the queue.
        entry: u16,
        request: Request,
        /// Bytes of a range that are still to be asked for behind what the device has.
        rest: u64,
    },
    Ended(Request, Result<(), DiskError>),
    /// The requester has given it up, and whether that is done with: the device has it.
    Lost {
        entry: u16,
        request: Request,
        finished: bool,
    },
}

/// The disk.
pub struct HostBlk<T: Transport, H: Hal> {
    // The order of the fields is that in which they are dropped: the device is reset before its memory goes.
    transport: T,
    queue: Option<Box<Queue<H>>>,
    /// One a slot: pieces that the heap has sooner than one large one.
    buffers: Vec<Pages<H>>,
    heads: Pages<H>,
    slots: Vec<Slot>,
    shape: DiskShape,
    ranges: Ranges,
    broken: bool,
}

/// The largest ranges in sectors, and whether zeroing may give up what holds them.
#[derive(Clone, Copy, Default)]
struct Ranges {
    discard: u64,
    zero: u64,
    unmap: bool,
}

impl<T: Transport, H: Hal> HostBlk<T, H> {
    /// The disk behind `transport`, which is reset and in use from here on. `wait` is asked while it does not answer whether to wait on.
    /// Allocates [`HostBlk::memory`].
    ///
    /// # Errors
    /// Why it cannot be used; it is reset then.
    pub fn new(transport: T, wait: &mut dyn FnMut() -> bool) -> Result<Self, Fault> {
        let mut disk = Self {
            transport,
            queue: None,
            buffers: (0..DEPTH).map(|_| Pages::new(LARGEST as usize)).collect::<Result<_, _>>()?,
            heads: Pages::new(usize::from(DEPTH) * HEADS)?,
            slots: alloc::vec![Slot::Free; DEPTH.into()],
            shape: DiskShape {
                sectors: 0,
                read_only: false,
                block: SECTOR as u32,
                piece: SECTOR as u32,
                discard: false,
                cached: false,
                largest: LARGEST,
                depth: DEPTH,
                serial: [0; SERIAL],
            },
            ranges: Ranges::default(),
            broken: true,
        };
        let serial = disk.start().and_then(|()| disk.serial(wait));
        match serial {
            Ok(serial) => disk.shape.serial = serial,
            Err(fault) => {
                // It may still write to its memory, which then stays its own.
                if reset(&mut disk.transport).is_err() {
                    core::mem::forget(disk);
                }
                return Err(fault);
            }
        }
        Ok(disk)
    }

    /// Bytes of the heap that one takes.
    pub const fn memory() -> usize {
        DEPTH as usize * LARGEST as usize + (32 << 10)
    }

    /// From reset to use.
    fn start(&mut self) -> Result<(), Fault> {
        use features::*;
        let has = begin(&mut self.transport, RO | BLK_SIZE | FLUSH | TOPOLOGY | DISCARD | WRITE_ZEROES)?;
        self.read_config(has)?;
        // The one before was reset, and knows of its memory no more.
        self.queue = None;
        self.queue = Some(Box::new(VirtQueue::new(&mut self.transport, QUEUE, false, false)?));
        finish(&mut self.transport);
        self.broken = false;
        Ok(())
    }

    fn read_config(&mut self, has: u64) -> Result<(), Fault> {
        use features::*;
        let word = |at: usize| self.transport.read_config_space::<u32>(at);
        let sectors = self.transport.read_consistent(|| {
            Ok(u64::from(word(config::CAPACITY)?) | u64::from(word(config::CAPACITY + 4)?) << 32)
        })?;
        let block = if has & BLK_SIZE != 0 { word(config::BLK_SIZE)? } else { SECTOR as u32 };
        if !block.is_power_of_two() || !(SECTOR as u32..=LARGEST).contains(&block) {
            return Err(Fault::Blocks);
        }
        let exponent = match has & TOPOLOGY {
            0 => 0,
            _ => self.transport.read_config_space::<u8>(config::PHYSICAL_BLOCK_EXP)?,
        };
        let piece = block.checked_shl(exponent.into()).filter(|piece| (block..=1 << 20).contains(piece));
        let discard = has & DISCARD != 0 && has & WRITE_ZEROES != 0;
        if discard {
            // Whole blocks, one or more.
            let most =
                |sectors: u32| (u64::from(sectors) & !(u64::from(block) / SECTOR - 1)).max(u64::from(block) / SECTOR);
            self.ranges = Ranges {
                discard: most(word(config::MAX_DISCARD_SECTORS)?),
                zero: most(word(config::MAX_WRITE_ZEROES_SECTORS)?),
                unmap: self.transport.read_config_space::<u8>(config::WRITE_ZEROES_MAY_UNMAP)? != 0,
            };
        }
        self.shape = DiskShape {
            sectors,
            read_only: has & RO != 0,
            block,
            piece: piece.unwrap_or(block),
            discard,
            cached: has & FLUSH != 0,
            ..self.shape
        };
        Ok(())
    }

    /// The serial number, by the first request; zeroes where the disk has none.
    fn serial(&mut self, wait: &mut dyn FnMut() -> bool) -> Result<[u8; SERIAL], Fault> {
        let request = Request::Read { at: 0, size: SERIAL as u64 };
        self.launch(0, T_GET_ID, 0, request, 0, (SERIAL, true)).map_err(|_| Fault::Broken)?;
        loop {
            self.collect();
            match self.slots.first() {
                Some(&Slot::Ended(_, got)) => {
                    self.free(0);
                    let mut serial = [0; SERIAL];
                    if got.is_ok() {
                        serial = core::array::from_fn(|n| self.buffers.first().map_or(0, |buffer| buffer.byte(n)));
                    }
                    return Ok(serial);
                }
                _ if self.broken => return Err(Fault::Broken),
                _ if !wait() => return Err(Fault::Silent),
                _ => {}
            }
        }
    }

    /// What the device answered what it was not asked, or [`HostBlk::reset`] has failed: it is of no use until it is reset.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Resets the device. What it had on its way ends with an error (some of it may have happened). Allocates.
    ///
    /// # Errors
    /// It is of no use any more.
    pub fn reset(&mut self) -> Result<(), Fault> {
        self.collect();
        self.broken = true;
        // A device that cannot be reset may still write to the buffers: no request will use them again.
        let done = reset(&mut self.transport);
        for number in 0..self.slots.len() {
            match self.slots.get(number) {
                Some(&(Slot::Flying { request, .. } | Slot::Lost { request, finished: false, .. })) => {
                    self.end(number, request, Err(DiskError::Io));
                }
                Some(Slot::Lost { .. }) => self.free(number),
                _ => {}
            }
        }
        done?;
        let before = self.shape;
        self.start()?;
        // Whoever uses it relies on its shape.
        let same = DiskShape { serial: before.serial, ..self.shape } == before;
        if !same {
            self.broken = true;
            return Err(Fault::Broken);
        }
        Ok(())
    }

    /// Hands the device a request of slot `number`: its head, and `data` bytes of the buffer, which the device writes or reads.
    fn launch(
        &mut self,
        number: usize,
        kind: u32,
        sector: u64,
        request: Request,
        rest: u64,
        (data, written): (usize, bool),
    ) -> Result<(), DiskError> {
        let head = number * HEADS;
        let mut bytes = [0; HEAD + 1];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..HEAD].copy_from_slice(&sector.to_le_bytes());
        bytes[HEAD] = NO_STATUS;
        self.heads.write(head, &bytes);
        let (Some(queue), Some(buffer)) = (&mut self.queue, self.buffers.get(number)) else {
            return Err(DiskError::Io);
        };
        // SAFETY: the slot is not flying, so the device knows of none of its bytes, and nobody else has slices of them; none is looked at
        // again before the device has used them. Each part is the slot's own.
        let added = unsafe {
            let (head, status) = (self.heads.slice(head, HEAD), self.heads.slice(head + HEAD, 1));
            let data = (data != 0).then(|| buffer.slice(0, data));
            match (data, written) {
                (None, _) => queue.add(&[head], &mut [status]),
                (Some(data), true) => queue.add(&[head], &mut [data, status]),
                (Some(data), false) => queue.add(&[head, data], &mut [status]),
            }
        };
        // There are entries for all slots.
        let Ok(entry) = added else { return Err(DiskError::Io) };
        if let Some(slot) = self.slots.get_mut(number) {
            *slot = Slot::Flying { entry, request, rest };
        }
        // What the device is told of is in memory before it is told, and before it is asked whether it wants to be.
        fence(Ordering::SeqCst);
        if queue.should_notify() {
            self.transport.notify(QUEUE);
        }
        Ok(())
    }

    /// Hands the device the next range of `size` bytes at `at`.
    fn launch_range(&mut self, number: usize, request: Request, at: u64, size: u64) -> Result<(), DiskError> {
        let (kind, most, flags) = match request {
            Request::Discard { .. } => (T_DISCARD, self.ranges.discard, 0),
            Request::Unmap { .. } if self.ranges.unmap => (T_WRITE_ZEROES, self.ranges.zero, UNMAP),
            _ => (T_WRITE_ZEROES, self.ranges.zero, 0),
        };
        let sectors = (size / SECTOR).min(most);
        let mut range = [0; RANGE];
        range[..8].copy_from_slice(&(at / SECTOR).to_le_bytes());
        range[8..12].copy_from_slice(&(sectors as u32).to_le_bytes());
        range[12..].copy_from_slice(&u32::to_le_bytes(flags));
        if let Some(buffer) = self.buffers.get_mut(number) {
            buffer.write(0, &range);
        }
        self.launch(number, kind, 0, request, size - sectors * SECTOR, (RANGE, false))
    }

    /// Takes back what the device has used. (No more than twice as many as there are slots: the rest another time.)
    fn collect(&mut self) {
        for _ in 0..2 * DEPTH {
            let Some(queue) = self.queue.as_mut().filter(|_| !self.broken) else { return };
            let Some(used) = queue.peek_used() else { return };
            let flying =
                |slot: &Slot| matches!(slot, Slot::Flying { entry, .. } | Slot::Lost { entry, .. } if *entry == used);
            let Some(number) = self.slots.iter().position(flying) else {
                self.broken = true;
                return;
            };
            self.land(number);
        }
    }

    /// The device has used what slot `number` had.
    fn land(&mut self, number: usize) {
        let (Some(queue), Some(buffer)) = (&mut self.queue, self.buffers.get(number)) else { return };
        let (entry, request, rest, lost) = match self.slots.get(number) {
            Some(&Slot::Flying { entry, request, rest }) => (entry, request, rest, None),
            Some(&Slot::Lost { entry, request, finished }) => (entry, request, 0, Some(finished)),
            _ => return,
        };
        let head = number * HEADS;
        let size = request.range().1 as usize;
        // SAFETY: the parts that `launch` added, as large as then; the device has used them.
        let popped = unsafe {
            let (head, status) = (self.heads.slice(head, HEAD), self.heads.slice(head + HEAD, 1));
            match request {
                Request::Flush => queue.pop_used(entry, &[head], &mut [status]),
                Request::Read { .. } => queue.pop_used(entry, &[head], &mut [buffer.slice(0, size), status]),
                Request::Write { .. } => queue.pop_used(entry, &[head, buffer.slice(0, size)], &mut [status]),
                _ => queue.pop_used(entry, &[head, buffer.slice(0, RANGE)], &mut [status]),
            }
        };
        if popped.is_err() {
            self.broken = true;
            return;
        }
        match lost {
            None => {}
            Some(true) => return self.free(number),
            Some(false) => return self.end(number, request, Err(DiskError::Io)),
        }
        let result = match self.heads.byte(head + HEAD) {
            S_OK => Ok(()),
            S_UNSUPP => Err(DiskError::Unsupported),
            _ => Err(DiskError::Io),
        };
        let (at, size) = request.range();
        let end = if rest != 0 && result.is_ok() {
            match self.launch_range(number, request, at + (size - rest), rest) {
                Ok(()) => return,
                Err(error) => Err(error),
            }
        } else {
            result
        };
        self.end(number, request, end);
    }

    fn end(&mut self, number: usize, request: Request, result: Result<(), DiskError>) {
        if let Some(slot) = self.slots.get_mut(number) {
            *slot = Slot::Ended(request, result);
        }
    }

    fn free(&mut self, number: usize) {
        if let Some(slot) = self.slots.get_mut(number) {
            *slot = Slot::Free;
        }
    }

    /// Copies between the requester's bytes and slot `number`'s buffer.
    fn copy(&mut self, number: usize, size: u64, data: &mut dyn Data, to_buffer: bool) -> Result<(), DiskError> {
        let buffer = self.buffers.get(number).ok_or(DiskError::Io)?;
        // SAFETY: the slot is not flying, and nobody else has a slice of its buffer.
        let buffer = unsafe { buffer.slice(0, size as usize) };
        match to_buffer {
            true => data.load(0, buffer)?,
            false => data.store(0, buffer)?,
        }
        Ok(())
    }
}

impl<T: Transport + Send, H: Hal> Drive for HostBlk<T, H> {
    fn shape(&self) -> DiskShape {
        self.shape
    }

    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        let number = usize::from(tag.0);
        self.shape.allows(&request)?;
        if self.broken {
            return Err(DiskError::Io);
        }
        match self.slots.get(number) {
            Some(Slot::Free) => {}
            Some(Slot::Lost { .. }) | None => return Err(DiskError::Io),
            Some(_) => return Err(DiskError::Later),
        }
        let (at, size) = request.range();
        let sector = at / SECTOR;
        match request {
            Request::Flush if !self.shape.cached => return Ok(Progress::Done(0)),
            Request::Flush => self.launch(number, T_FLUSH, 0, request, 0, (0, false))?,
            _ if size == 0 => return Ok(Progress::Done(0)),
            Request::Read { .. } | Request::Write { .. } if size > LARGEST.into() => return Err(DiskError::OutOfRange),
            Request::Read { .. } => self.launch(number, T_IN, sector, request, 0, (size as usize, true))?,
            Request::Write { .. } => {
                self.copy(number, size, data, true)?;
                self.launch(number, T_OUT, sector, request, 0, (size as usize, false))?;
            }
            Request::Discard { .. } | Request::Zero { .. } | Request::Unmap { .. } => {
                self.launch_range(number, request, at, size)?;
            }
        }
        Ok(Progress::Started)
    }

    fn attend(&mut self) {
        self.transport.ack_interrupt();
        self.collect();
    }

    fn has_ended(&self, tag: Tag) -> bool {
        matches!(self.slots.get(usize::from(tag.0)), Some(Slot::Ended(..) | Slot::Lost { finished: false, .. }))
    }

    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let number = usize::from(tag.0);
        let (request, result) = match self.slots.get_mut(number) {
            Some(Slot::Ended(request, result)) => (*request, *result),
            Some(Slot::Lost { finished, .. }) => {
                *finished = true;
                return Err(DiskError::Io);
            }
            _ => return Err(DiskError::Io),
        };
        if let (Request::Read { size, .. }, Some(data), Ok(())) = (request, data, result) {
            self.copy(number, size, data, false)?;
        }
        self.free(number);
        result
    }

    fn recover(&mut self) {
        // One that cannot be reset is broken from here on, and says so to whoever asks.
        let _ = self.reset();
    }

    fn give_up(&mut self, tag: Tag) {
        if let Some(slot) = self.slots.get_mut(usize::from(tag.0))
            && let Slot::Flying { entry, request, .. } = *slot
        {
            *slot = Slot::Lost { entry, request, finished: false };
        }
    }
}
