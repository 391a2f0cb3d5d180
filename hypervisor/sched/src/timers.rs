//! The deadlines of one pCPU: what its one hardware timer is set to next, and what has expired.
//!
//! A binary heap over fixed arrays in which every timer knows its place, so that setting, moving and cancelling are
//! O(log n) and looking at the next is O(1). Deadlines are numbers of any unit (ns or counter ticks); equal ones expire in
//! the order of their numbers.
use alloc::vec::Vec;

use crate::EntityId;

/// What a deadline is for; a vCPU has at most one of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The guest's virtual timer (CNTV) while the vCPU is not loaded.
    Virtual,
    /// The guest's physical timer (CNTP), which is emulated.
    Physical,
    /// Merus' own (a cap's refill, a console flush); the number need not be a vCPU's.
    Service,
}

/// The name of one deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerId {
    /// Whose it is.
    pub id: EntityId,
    /// What for.
    pub kind: Kind,
}

/// Slots of one number: a power of two, so that the last of the four stays unused.
const KIND_BITS: u32 = 2;
/// Not in the heap.
const OUT: u32 = u32::MAX;

impl TimerId {
    fn slot(self) -> usize {
        let kind = match self.kind {
            Kind::Virtual => 0,
            Kind::Physical => 1,
            Kind::Service => 2,
        };
        ((self.id.0 as usize) << KIND_BITS) | kind
    }

    fn from_slot(slot: u32) -> Self {
        let kind = match slot & 3 {
            0 => Kind::Virtual,
            1 => Kind::Physical,
            _ => Kind::Service,
        };
        Self { id: EntityId(slot >> KIND_BITS), kind }
    }
}

/// The deadline queue of one pCPU.
#[derive(Debug)]
pub struct Timers {
    /// (deadline, slot), a binary min-heap; its capacity is that of `places`.
    heap: Vec<(u64, u32)>,
    /// Where in the heap each slot is.
    places: Vec<u32>,
}

impl Timers {
    /// For vCPU numbers below `capacity`. Some 80 bytes are allocated for each, here and in [`Self::room`] and nowhere else.
    pub fn new(capacity: u32) -> Self {
        let slots = (capacity as usize) << KIND_BITS;
        Self { heap: Vec::with_capacity(slots), places: alloc::vec![OUT; slots] }
    }

    /// Room for vCPU numbers below `capacity`, for [`Self::grow`]: allocated before the lock is taken.
    pub fn room(capacity: u32) -> Self {
        Self::new(capacity)
    }

    /// Goes over to `room` with all deadlines, if that is more; what is left over is to be dropped behind the lock.
    pub fn grow(&mut self, mut room: Self) -> Self {
        if room.places.len() <= self.places.len() {
            return room;
        }
        // Both fit: they have grown.
        room.heap.extend_from_slice(&self.heap);
        if let Some(places) = room.places.get_mut(..self.places.len()) {
            places.copy_from_slice(&self.places);
        }
        core::mem::replace(self, room)
    }

    /// Sets or moves a deadline. `true` if the next deadline of all is another time now, so that the hardware must be
    /// told; `false` also where the number is beyond the capacity, and then nothing is set.
    pub fn set(&mut self, timer: TimerId, deadline: u64) -> bool {
        let slot = timer.slot();
        let Some(place) = self.places.get(slot).copied() else {
            return false;
        };
        let before = self.next();
        let at = if place == OUT {
            let at = self.heap.len();
            // A slot fits in 32 bits, and the heap holds each slot once: it never outgrows its capacity.
            self.heap.push((deadline, slot as u32));
            at
        } else {
            let at = place as usize;
            if let Some(entry) = self.heap.get_mut(at) {
                entry.0 = deadline;
            }
            at
        };
        self.settle(at);
        self.next() != before
    }

    /// Takes a deadline back; `true` if it was set.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        match self.places.get(timer.slot()).copied() {
            None | Some(OUT) => false,
            Some(at) => self.take_at(at as usize).is_some(),
        }
    }

    /// The deadline of `timer`, if it is set.
    pub fn get(&self, timer: TimerId) -> Option<u64> {
        let at = *self.places.get(timer.slot())?;
        self.heap.get(at as usize).map(|e| e.0)
    }

    /// The earliest deadline.
    #[inline]
    pub fn next(&self) -> Option<u64> {
        self.heap.first().map(|e| e.0)
    }

    /// Takes out the earliest deadline that is not after `now`. Call it until `None`.
    pub fn expire(&mut self, now: u64) -> Option<TimerId> {
        if self.next()? > now {
            return None;
        }
        self.take_at(0).map(TimerId::from_slot)
    }

    /// Removes the entry at `at`; its slot.
    fn take_at(&mut self, at: usize) -> Option<u32> {
        let last = self.heap.len().checked_sub(1)?;
        self.swap(at, last);
        let (_, slot) = self.heap.pop()?;
        self.place(slot, OUT);
        if at < last {
            self.settle(at);
        }
        Some(slot)
    }

    /// Moves the entry at `at` up or down to where it belongs.
    fn settle(&mut self, at: usize) {
        let mut at = at;
        while let Some(parent) = at.checked_sub(1).map(|a| a / 2) {
            if self.heap.get(parent) <= self.heap.get(at) {
                break;
            }
            self.swap(at, parent);
            at = parent;
        }
        loop {
            let left = at.saturating_mul(2).saturating_add(1);
            let right = left.saturating_add(1);
            let child = match (self.heap.get(left), self.heap.get(right)) {
                (None, _) => break,
                (Some(l), Some(r)) if r < l => right,
                (Some(_), _) => left,
            };
            if self.heap.get(at) <= self.heap.get(child) {
                break;
            }
            self.swap(at, child);
            at = child;
        }
        if let Some((_, slot)) = self.heap.get(at).copied() {
            self.place(slot, at as u32);
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a < self.heap.len() && b < self.heap.len() {
            self.heap.swap(a, b);
        }
        for at in [a, b] {
            if let Some((_, slot)) = self.heap.get(at).copied() {
                self.place(slot, at as u32);
            }
        }
    }

    fn place(&mut self, slot: u32, at: u32) {
        if let Some(place) = self.places.get_mut(slot as usize) {
            *place = at;
        }
    }
}
