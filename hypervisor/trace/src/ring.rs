//! The last events of one pCPU. The pCPU writes and never waits; anyone reads, and is told what was overwritten.
//!
//! # How a reader knows that a record is whole
//! Each place has a sequence number: `2n + 1` while record `n` is being written there, `2n + 2` once it is. A reader looks at it,
//! copies the record, and looks again. The record's words are stored with release and loaded with acquire: whoever has seen one
//! word of a newer record sees, at the second look, at least the odd number that was stored before it. So a record whose number
//! was right both times has no word of another. There is no read-modify-write and no barrier of its own on either side.
//!
//! `tests::loom` tries the interleavings, with the reorderings that the memory model allows.

use crate::Event;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// The atomic word that a ring is made of; a test puts a model's in.
pub trait Word {
    /// One that holds `value`.
    fn new(value: u64) -> Self;
    /// Reads it.
    fn load(&self, order: Ordering) -> u64;
    /// Writes it.
    fn store(&self, value: u64, order: Ordering);
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
}

/// The ring as the machine has it.
pub type Ring = RingOf<AtomicU64>;

#[derive(Debug)]
struct Place<W> {
    sequence: W,
    words: [W; 3],
}

/// A ring of events over any kind of atomic word.
#[derive(Debug)]
pub struct RingOf<W> {
    places: Box<[Place<W>]>,
    /// How many events there have been.
    written: W,
}

/// Where a reader is: the number of the event that it reads next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// Before the event of this number, from 0.
    pub const fn at(number: u64) -> Self {
        Self(number)
    }
    /// The number of the event that is read next.
    pub const fn position(self) -> u64 {
        self.0
    }
}

/// What a reader gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// The next event.
    Event(Event),
    /// So many events were overwritten before they were read; always the oldest ones.
    Lost(u64),
    /// There is no more for now.
    Empty,
}

impl<W: Word> RingOf<W> {
    /// One for the last `capacity` events, rounded up to a power of two, at least 2. 32 bytes each are allocated, here and never
    /// again.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(2).checked_next_power_of_two().unwrap_or(2);
        let place = |_| Place { sequence: W::new(0), words: [W::new(0), W::new(0), W::new(0)] };
        Self { places: (0..capacity).map(place).collect(), written: W::new(0) }
    }

    /// How many events it holds.
    pub fn capacity(&self) -> usize {
        self.places.len()
    }

    fn place(&self, number: u64) -> Option<&Place<W>> {
        self.places.get(number as usize & self.places.len().wrapping_sub(1))
    }

    /// Writes an event over the oldest. Only the ring's own pCPU calls this, and not while it is in the middle of a call.
    pub fn push(&self, event: &Event) {
        let number = self.written.load(Ordering::Relaxed);
        let Some(place) = self.place(number) else { return };
        let twice = number.wrapping_mul(2);
        place.sequence.store(twice.wrapping_add(1), Ordering::Relaxed);
        for (word, value) in place.words.iter().zip(event.words()) {
            word.store(value, Ordering::Release);
        }
        place.sequence.store(twice.wrapping_add(2), Ordering::Release);
        self.written.store(number.wrapping_add(1), Ordering::Release);
    }

    /// How many events there have been since the ring was made.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// The place of the event that is the `count`th from the end.
    pub fn last(&self, count: u64) -> Cursor {
        Cursor(self.written().saturating_sub(count))
    }

    /// Reads the next event and moves the cursor on. Never waits.
    pub fn read(&self, cursor: &mut Cursor) -> Read {
        let written = self.written();
        if cursor.0 >= written {
            return Read::Empty;
        }
        let oldest = written.saturating_sub(self.places.len() as u64);
        if cursor.0 < oldest {
            let lost = oldest.saturating_sub(cursor.0);
            cursor.0 = oldest;
            return Read::Lost(lost);
        }
        let number = cursor.0;
        cursor.0 = number.saturating_add(1);
        self.copy(number).and_then(Event::from_words).map_or(Read::Lost(1), Read::Event)
    }

    /// Record `number`, if it is still there.
    pub(crate) fn copy(&self, number: u64) -> Option<[u64; 3]> {
        let place = self.place(number)?;
        let whole = number.wrapping_mul(2).wrapping_add(2);
        if place.sequence.load(Ordering::Acquire) != whole {
            return None;
        }
        let [a, b, c] = &place.words;
        let words = [a, b, c].map(|word| word.load(Ordering::Acquire));
        (place.sequence.load(Ordering::Relaxed) == whole).then_some(words)
    }
}
