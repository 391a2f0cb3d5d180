//! Requests to a card: one is the card's, the others wait in the order in which they came.
//!
//! | phase of the card's request | leaves it |
//! |---|---|
//! | `Data` | all blocks were moved and the transfer is complete: it has ended; an error: `Stop` |
//! | `Stop` | the card was told to stop, whether it did or knew no transfer: once more from the start, [`ATTEMPTS`] in all |
//!
//! A controller whose circuits cannot be reset is dead: whatever is asked fails at once.

use crate::spec::*;
use crate::{Card, Registers};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use host::disk::{Data, DiskError, DiskShape, Drive, Progress, Request, SERIAL, Tag};

/// Requests at a time.
pub const DEPTH: u16 = 32;
/// Bytes of a request at most.
pub const LARGEST: u32 = 32 << 10;
/// Blocks that are moved at most before the CPU has other things to do.
pub const AT_ONCE: usize = 8;
/// Bytes of a block.
const BYTES: usize = 512;
/// How often a request is tried.
const ATTEMPTS: u8 = 3;
/// How often a register is read before the controller counts as dead.
const PATIENCE: u32 = 1_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Waiting,
    Ended(Result<(), DiskError>),
}

/// A request and its memory.
struct Slot {
    state: State,
    write: bool,
    /// Where, in blocks, and how many.
    at: u32,
    blocks: usize,
    bytes: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Data,
    Stop,
}

/// The request that the card has.
struct Active {
    tag: u16,
    phase: Phase,
    /// Blocks that were moved.
    moved: usize,
    attempts: u8,
}

/// A card as a drive.
pub struct SdDrive<R> {
    card: Card<R>,
    slots: Box<[Slot]>,
    waiting: VecDeque<u16>,
    active: Option<Active>,
    dead: bool,
}

impl<R: Registers> SdDrive<R> {
    /// Of a card that is ready. Its interrupt is on from here on. Allocates.
    pub fn new(card: Card<R>) -> Self {
        let slot =
            |_| Slot { state: State::Free, write: false, at: 0, blocks: 0, bytes: vec![0; LARGEST as usize].into() };
        card.registers.write(SIGNAL_ENABLE, SIGNALLED);
        let waiting = VecDeque::with_capacity(DEPTH.into());
        Self { card, slots: (0..DEPTH).map(slot).collect(), waiting, active: None, dead: false }
    }

    fn end(&mut self, tag: u16, result: Result<(), DiskError>) {
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            slot.state = State::Ended(result);
        }
    }

    /// The card's request has ended; the next one is its.
    fn next(&mut self, result: Result<(), DiskError>) {
        if let Some(active) = self.active.take() {
            self.end(active.tag, result);
        }
        self.start();
    }

    /// Has the card begin with the next request, if there is one.
    fn start(&mut self) {
        while self.active.is_none() {
            let Some(tag) = self.waiting.pop_front() else { return };
            let inhibited = self.card.registers.read(PRESENT) & INHIBIT != 0;
            if self.dead || (inhibited && !self.reset_lines()) {
                self.end(tag, Err(DiskError::Io));
                continue;
            }
            self.active = Some(Active { tag, phase: Phase::Data, moved: 0, attempts: 0 });
            self.transfer();
        }
    }

    /// Has the card begin with the data of its request.
    fn transfer(&mut self) {
        let Some(active) = &mut self.active else { return };
        let Some(slot) = self.slots.get(usize::from(active.tag)) else { return };
        (active.phase, active.moved) = (Phase::Data, 0);
        active.attempts = active.attempts.saturating_add(1);
        let (index, several) = match (slot.write, slot.blocks) {
            (false, 1) => (READ_ONE, 0),
            (false, _) => (READ_SEVERAL, SEVERAL | BLOCK_COUNT | AUTO_STOP),
            (true, 1) => (WRITE_ONE, 0),
            (true, _) => (WRITE_SEVERAL, SEVERAL | BLOCK_COUNT | AUTO_STOP),
        };
        let direction = if slot.write { 0 } else { FROM_CARD };
        // A card that is addressed by bytes has less than 4 GiB.
        let argument = if self.card.by_block { slot.at } else { slot.at.wrapping_mul(BYTES as u32) };
        let registers = &self.card.registers;
        registers.write(STATUS, u32::MAX);
        registers.write(BLOCK, (slot.blocks as u32) << 16 | BYTES as u32);
        registers.write(ARGUMENT, argument);
        registers.write(COMMAND, index << INDEX_SHIFT | R1 | HAS_DATA | several | direction);
    }

    /// Moves the next block of the card's request between its memory and the controller.
    fn block(&mut self) {
        let registers = &self.card.registers;
        let Some(active) = &mut self.active else { return };
        let slot = self.slots.get_mut(usize::from(active.tag)).filter(|slot| active.moved < slot.blocks);
        let Some(slot) = slot else { return };
        let Some(block) = slot.bytes.chunks_exact_mut(BYTES).nth(active.moved) else { return };
        active.moved = active.moved.saturating_add(1);
        let (words, _) = block.as_chunks_mut::<4>();
        for word in words {
            if slot.write {
                registers.write(BUFFER, u32::from_le_bytes(*word));
            } else {
                *word = registers.read(BUFFER).to_le_bytes();
            }
        }
    }

    /// The controller says that a transfer is complete.
    fn complete(&mut self) {
        let Some(active) = &self.active else { return };
        if active.phase == Phase::Stop {
            return self.again();
        }
        let blocks = self.slots.get(usize::from(active.tag)).map_or(0, |slot| slot.blocks);
        let stopped = if blocks > 1 { self.card.registers.read(RESPONSE | 12) } else { 0 };
        let status = self.card.registers.read(RESPONSE) | stopped;
        if active.moved != blocks || status & CARD_ERRORS != 0 {
            return self.fail();
        }
        self.next(Ok(()));
    }

    /// Something of the card's request failed: what is left of it is stopped.
    fn fail(&mut self) {
        if !self.reset_lines() {
            return self.next(Err(DiskError::Io));
        }
        let Some(active) = &mut self.active else { return };
        if core::mem::replace(&mut active.phase, Phase::Stop) == Phase::Stop {
            return self.again();
        }
        let registers = &self.card.registers;
        registers.write(STATUS, u32::MAX);
        registers.write(ARGUMENT, 0);
        registers.write(COMMAND, STOP << INDEX_SHIFT | R1B | ABORT);
    }

    /// Tries the card's request again, unless it was tried often enough.
    fn again(&mut self) {
        match &self.active {
            Some(active) if active.attempts < ATTEMPTS => self.transfer(),
            _ => self.next(Err(DiskError::Io)),
        }
    }

    /// `false`: the controller is dead.
    fn reset_lines(&mut self) -> bool {
        let registers = &self.card.registers;
        let clock = registers.read(CLOCK);
        registers.write(CLOCK, clock | RESET_LINES);
        let done = (0..PATIENCE).any(|_| registers.read(CLOCK) & RESET_LINES == 0);
        registers.write(STATUS, u32::MAX);
        self.dead |= !done;
        done
    }

    /// What is asked, in blocks: (first, count).
    fn blocks(&self, at: u64, size: u64) -> Result<(u32, usize), DiskError> {
        self.shape().allows(&Request::Read { at, size })?;
        let count = usize::try_from(size).unwrap_or(usize::MAX).checked_div(BYTES).unwrap_or(0);
        if size > LARGEST.into() || count == 0 {
            return Err(DiskError::OutOfRange);
        }
        Ok((u32::try_from(at >> 9).map_err(|_| DiskError::OutOfRange)?, count))
    }
}

impl<R: Registers> Drive for SdDrive<R> {
    fn shape(&self) -> DiskShape {
        DiskShape {
            sectors: self.card.sectors,
            read_only: self.card.read_only,
            block: BYTES as u32,
            piece: 4096,
            discard: false,
            cached: false,
            largest: LARGEST,
            depth: DEPTH,
            serial: [0; SERIAL],
        }
    }

    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        let (at, size) = match request {
            Request::Read { at, size } | Request::Write { at, size } => (at, size),
            // A card's writes are on the card when they have ended.
            Request::Flush => return Ok(Progress::Done(0)),
            Request::Discard { .. } | Request::Zero { .. } | Request::Unmap { .. } => {
                return Err(DiskError::Unsupported);
            }
        };
        if request.writes() && self.card.read_only {
            return Err(DiskError::ReadOnly);
        }
        let (first, count) = self.blocks(at, size)?;
        if self.dead {
            return Err(DiskError::Io);
        }
        let slot = self.slots.get_mut(usize::from(tag.0)).filter(|slot| slot.state == State::Free);
        let slot = slot.ok_or(DiskError::Io)?;
        if request.writes() {
            let bytes = slot.bytes.get_mut(..size as usize).ok_or(DiskError::OutOfRange)?;
            data.load(0, bytes)?;
        }
        (slot.state, slot.write, slot.at, slot.blocks) = (State::Waiting, request.writes(), first, count);
        self.waiting.push_back(tag.0);
        self.start();
        Ok(Progress::Started)
    }

    fn attend(&mut self) {
        for _ in 0..AT_ONCE {
            let status = self.card.registers.read(STATUS);
            if self.active.is_none() || status == 0 {
                // Of something that was given up.
                if status != 0 {
                    self.card.registers.write(STATUS, status);
                }
                return;
            }
            if status & ERRORS != 0 {
                self.fail();
            } else if status & (READ_READY | WRITE_READY) != 0 {
                // The next block's readiness comes when this one was moved, and is not to be cleared with this one's.
                self.card.registers.write(STATUS, READ_READY | WRITE_READY);
                self.block();
            } else if status & TRANSFER_COMPLETE != 0 {
                self.card.registers.write(STATUS, status);
                self.complete();
            } else {
                self.card.registers.write(STATUS, status);
            }
        }
    }

    fn has_ended(&self, tag: Tag) -> bool {
        matches!(self.slots.get(usize::from(tag.0)), Some(Slot { state: State::Ended(_), .. }))
    }

    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let slot = self.slots.get_mut(usize::from(tag.0)).ok_or(DiskError::Io)?;
        let State::Ended(result) = slot.state else { return Err(DiskError::Io) };
        if let (Ok(()), false, Some(data)) = (result, slot.write, data) {
            data.store(0, slot.bytes.get(..slot.blocks.saturating_mul(BYTES)).unwrap_or_default())?;
        }
        slot.state = State::Free;
        result
    }

    // What is given up is stopped there.
    fn recover(&mut self) {}

    fn give_up(&mut self, tag: Tag) {
        if self.active.as_ref().is_some_and(|active| active.tag == tag.0) {
            self.reset_lines();
            self.next(Err(DiskError::Io));
        } else if self.waiting.contains(&tag.0) {
            self.waiting.retain(|waiting| *waiting != tag.0);
            self.end(tag.0, Err(DiskError::Io));
        }
    }
}
