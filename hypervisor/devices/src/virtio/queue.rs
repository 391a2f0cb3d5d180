//! Split virtqueues ("Split Virtqueues"): what the device remembers of one. How far it is in either ring is here and never read back
//! from the guest; for the time of a step a queue is a [`Ring`].

use addr::{Address, Ipa};
use alloc::boxed::Box;
use alloc::vec;
use bus::GuestMemory;

use super::Broken;
use super::descriptor::Ahead;
use super::ring::Ring;
use super::spec::DESCRIPTOR;

/// What a device allows in one of its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Entries at most: a power of two, up to 32,768.
    pub size: u16,
    /// Descriptors of one chain at most, those of its table included. (Drivers make chains no longer than the queue.)
    pub chain: u16,
}

/// A part of a chain: bytes of guest RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where.
    pub at: Ipa,
    /// How many; not 0.
    pub size: u32,
    /// The device's to write, else to read.
    pub write: bool,
}

/// Buffers that the driver made available together. Given back by [`Ring::complete`].
#[derive(PartialEq, Eq, Debug)]
#[must_use = "the driver waits for its buffers"]
pub struct Chain {
    // Whole words: a chain is moved often, and words are moved as words.
    pub(super) head: u64,
    pub(super) segments: usize,
    pub(super) taken: Taken,
    pub(super) readable: u64,
    pub(super) writable: u64,
}

/// Whether the device went on to the next chain in the available ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(super) enum Taken {
    No,
    Yes,
}

impl Chain {
    /// One of which nothing is known but its first descriptor.
    #[inline]
    pub(super) fn new(head: u16) -> Self {
        Self { head: head.into(), segments: 0, taken: Taken::No, readable: 0, writable: 0 }
    }
    /// Its first descriptor, by which [`Ring::again`] finds it.
    pub fn head(&self) -> u16 {
        self.head as u16
    }
    /// Bytes that the device may read.
    pub fn readable(&self) -> u64 {
        self.readable
    }
    /// Bytes that it may write.
    pub fn writable(&self) -> u64 {
        self.writable
    }
}

/// What is saved of a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) desc: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    /// The driver's next entry to look at.
    pub(super) next_avail: u16,
    /// The device's next entry to fill.
    pub(super) next_used: u16,
    /// `next_used` when the driver was last told, or last thought of.
    pub(super) told: u16,
}

impl State {
    fn new(size: u16) -> Self {
        Self { size, ready: false, desc: 0, driver: 0, device: 0, next_avail: 0, next_used: 0, told: 0 }
    }

    /// Whether a queue with these limits can be in this state.
    pub(super) fn fits(&self, limits: Limits) -> bool {
        !self.ready || self.shape(limits).is_ok()
    }

    /// Size and alignment.
    fn shape(&self, limits: Limits) -> Result<(), Broken> {
        if !self.size.is_power_of_two() || self.size > limits.size {
            return Err(Broken::Size(self.size.into()));
        }
        for (at, align) in [(self.desc, DESCRIPTOR), (self.driver, 2), (self.device, 4)] {
            if !Ipa::new(at).is_aligned(align) {
                return Err(Broken::Place(Ipa::new(at)));
            }
        }
        Ok(())
    }

    /// The ring's three parts: where, and how many bytes with the event field at the end.
    pub(super) fn parts(&self) -> [(Ipa, u64); 3] {
        let size = u64::from(self.size);
        let rings = [(self.desc, 0, DESCRIPTOR), (self.driver, 6, 2), (self.device, 6, 8)];
        rings.map(|(at, head, entry)| (Ipa::new(at), size.saturating_mul(entry).saturating_add(head)))
    }
}

/// Entries of the available ring that are read together, a power of two.
pub(super) const HEADS: usize = 16;
/// Elements of the used ring that are written together.
pub(super) const ELEMENTS: usize = 32;

/// What a step notes of a queue, kept from step to step so that none begins with clearing it. What an earlier one left is not used.
pub struct Room {
    /// The parts of a chain, as many as the longest has.
    pub(super) segments: Box<[Segment]>,
    pub(super) heads: [[u8; 2]; HEADS],
    pub(super) elements: [[u8; 8]; ELEMENTS],
    pub(super) ahead: Ahead,
}

/// One queue of a device.
pub struct Queue {
    pub(super) limits: Limits,
    pub(super) state: State,
    /// It is to be served.
    pub(super) due: bool,
    /// Its last step met a page that was not there.
    pub(super) stalled: bool,
}

impl Queue {
    /// A queue that the driver has not set up.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::new(limits.size), due: false, stalled: false }
    }
    /// Room for a step on any of `queues`: one step at a time uses it. Allocates.
    pub fn room(queues: &[Limits]) -> Room {
        let longest = queues.iter().map(|limits| limits.chain).max().unwrap_or(0);
        let segments = vec![Segment { at: Ipa::new(0), size: 0, write: false }; usize::from(longest)].into();
        Room { segments, heads: [[0; 2]; HEADS], elements: [[0; 8]; ELEMENTS], ahead: Ahead::new() }
    }
    /// What the device allows in it.
    pub fn limits(&self) -> Limits {
        self.limits
    }
    /// Back to where the driver has not set it up.
    pub fn reset(&mut self) {
        self.state = State::new(self.limits.size);
        (self.due, self.stalled) = (false, false);
    }
    /// The driver has set it up: it begins at the start of both rings.
    pub fn enable(&mut self, memory: &dyn GuestMemory) -> Result<(), Broken> {
        self.state.shape(self.limits)?;
        for (at, size) in self.state.parts() {
            if !memory.is_ram(at, size) {
                return Err(Broken::Place(at));
            }
        }
        let State { next_avail, next_used, told, ready, .. } = &mut self.state;
        (*next_avail, *next_used, *told, *ready) = (0, 0, 0, true);
        Ok(())
    }
    /// For one step with `features` agreed on, and [`Queue::room`] for a chain; `None` where the driver has not set it up.
    pub fn ring<'a>(&'a mut self, room: &'a mut Room, memory: &'a dyn GuestMemory, features: u64) -> Option<Ring<'a>> {
        if self.state.ready { Some(Ring::new(self, room, memory, features)) } else { None }
    }
}
