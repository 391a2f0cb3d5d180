//! The bytes behind a chain, as one run: the parts that the driver wrote, or those that the device may write.

use addr::{Address, Ipa};
use bus::GuestMemory;

use super::queue::Segment;
use super::{Broken, Stop};

/// One kind of a chain's bytes. It remembers where it is, so that going through them from start to end looks at each part once.
pub struct Bytes<'a> {
    segments: &'a [Segment],
    memory: &'a dyn GuestMemory,
    write: bool,
    /// The part that was reached last, and how many bytes of this kind lie before it.
    index: usize,
    before: u64,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(segments: &'a [Segment], memory: &'a dyn GuestMemory, write: bool) -> Self {
        Self { segments, memory, write, index: 0, before: 0 }
    }

    /// Fills `into` from byte `at` on.
    #[inline]
    pub fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Stop> {
        if into.is_empty() {
            return Ok(());
        }
        let (mut place, mut into) = (self.seek(at)?, into);
        while let Some(room) = self.room(&place, into.len()) {
            let (part, rest) = into.split_at_mut_checked(room).ok_or(Broken::Small)?;
            self.memory.read(place.at, part)?;
            (place, into) = (self.next()?, rest);
        }
        Ok(self.memory.read(place.at, into)?)
    }

    /// Writes `from` at byte `at`. (Of what the device may only read, nothing is ever written.)
    #[inline]
    pub fn write(&mut self, at: u64, from: &[u8]) -> Result<(), Stop> {
        if !self.write {
            return Err(Broken::Small.into());
        }
        if from.is_empty() {
            return Ok(());
        }
        let (mut place, mut from) = (self.seek(at)?, from);
        while let Some(room) = self.room(&place, from.len()) {
            let (part, rest) = from.split_at_checked(room).ok_or(Broken::Small)?;
            self.memory.write(place.at, part)?;
            (place, from) = (self.next()?, rest);
        }
        Ok(self.memory.write(place.at, from)?)
    }

    /// Where byte `at` is.
    pub(super) fn place(&mut self, at: u64) -> Result<Ipa, Stop> {
        Ok(self.seek(at)?.at)
    }

    /// Bytes in the part of `place`, where `size` are more than that.
    #[inline]
    fn room(&self, place: &Place, size: usize) -> Option<usize> {
        (size as u64 > place.left).then_some(place.left as usize)
    }

    /// Goes to the part in which byte `at` is.
    #[inline]
    fn seek(&mut self, at: u64) -> Result<Place, Stop> {
        if at < self.before {
            (self.index, self.before) = (0, 0);
        }
        loop {
            let segment = self.segments.get(self.index).ok_or(Broken::Small)?;
            let here = if segment.write == self.write { u64::from(segment.size) } else { 0 };
            let skip = at.saturating_sub(self.before);
            if let Some(left) = here.checked_sub(skip).filter(|left| *left != 0) {
                let at = segment.at.checked_add(skip).ok_or(Broken::Outside(segment.at))?;
                return Ok(Place { at, left });
            }
            self.before = self.before.saturating_add(here);
            self.index = self.index.saturating_add(1);
        }
    }

    /// Goes to the start of the next part.
    #[inline]
    fn next(&mut self) -> Result<Place, Stop> {
        let here = self.segments.get(self.index).ok_or(Broken::Small)?;
        self.before = self.before.saturating_add(here.size.into());
        self.index = self.index.saturating_add(1);
        match self.segments.get(self.index) {
            // No part is empty.
            Some(Segment { at, size, write }) if *write == self.write => Ok(Place { at: *at, left: (*size).into() }),
            _ => Err(Broken::Small.into()),
        }
    }
}

/// A place in a part.
struct Place {
    at: Ipa,
    /// Bytes from there to the part's end, 1 and more.
    left: u64,
}
