//! The bytes behind a chain, as one run: the parts that the driver wrote, or those that the device may write.

use addr::{Address, Ipa};
use bus::GuestMemory;
use core::ops::Range;

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
    pub fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Stop> {
        let memory = self.memory;
        self.each(at, into.len(), |from, part| match into.get_mut(part) {
            Some(part) => memory.read(from, part).map_err(Stop::from),
            None => Ok(()),
        })
    }

    /// Writes `from` at byte `at`. (Of what the device may only read, nothing is ever written.)
    pub fn write(&mut self, at: u64, from: &[u8]) -> Result<(), Stop> {
        if !self.write {
            return Err(Broken::Small.into());
        }
        let memory = self.memory;
        self.each(at, from.len(), |to, part| match from.get(part) {
            Some(part) => memory.write(to, part).map_err(Stop::from),
            None => Ok(()),
        })
    }

    /// Where byte `at` is.
    pub(super) fn place(&mut self, at: u64) -> Result<Ipa, Stop> {
        let mut place = None;
        self.each(at, 1, |at, _| {
            place = Some(at);
            Ok(())
        })?;
        Ok(place.ok_or(Broken::Small)?)
    }

    /// Calls `act` for each piece of guest memory behind bytes `at` to `at + size`, with the piece's range among those bytes.
    fn each(
        &mut self,
        at: u64,
        size: usize,
        mut act: impl FnMut(Ipa, Range<usize>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if at < self.before {
            (self.index, self.before) = (0, 0);
        }
        let mut done = 0usize;
        while done < size {
            let segment = self.segments.get(self.index).ok_or(Broken::Small)?;
            let here = if segment.write == self.write { u64::from(segment.size) } else { 0 };
            let skip = at.saturating_add(done as u64).saturating_sub(self.before);
            let Some(room) = here.checked_sub(skip).filter(|room| *room != 0) else {
                self.before = self.before.saturating_add(here);
                self.index = self.index.saturating_add(1);
                continue;
            };
            let count = size.saturating_sub(done).min(usize::try_from(room).unwrap_or(usize::MAX));
            let from = segment.at.checked_add(skip).ok_or(Broken::Outside(segment.at))?;
            let end = done.saturating_add(count);
            act(from, done..end)?;
            done = end;
        }
        Ok(())
    }
}
