//! Memory for payloads that were uploaded: whole blocks, which EL2 sees and no guest ever does.

use crate::machine::Memory;
use addr::{BLOCK_SIZE, Pa, Span};
use alloc::boxed::Box;
use alloc::vec::Vec;
use control::Region;
use memory::{AccountId, MemoryError, Reach};

/// All uploads, by region.
#[derive(Default)]
pub struct Uploads {
    regions: Vec<Option<Vec<Span<Pa>>>>,
}

impl Uploads {
    /// Takes memory for `size` bytes.
    pub fn take(&mut self, memory: &mut Memory, size: u64) -> Result<Region, MemoryError> {
        let extents = memory.guest_ram(AccountId::HOST, size, Reach::Any)?.iter().map(|extent| extent.span()).collect();
        let place = self.regions.iter().position(Option::is_none).unwrap_or(self.regions.len());
        if place == self.regions.len() {
            self.regions.push(None);
        }
        self.regions[place] = Some(extents);
        Ok(Region(place as u32))
    }

    /// Gives a region's memory back.
    pub fn give(&mut self, memory: &mut Memory, region: Region) {
        let extents = self.regions.get_mut(region.0 as usize).and_then(Option::take);
        for extent in extents.unwrap_or_default() {
            memory.take_back(AccountId::HOST, extent);
        }
    }

    /// Puts bytes into a region.
    pub fn write(&self, region: Region, offset: u64, bytes: &[u8]) {
        self.each(region, offset, bytes.len(), |at, part| {
            if let Some(bytes) = bytes.get(part) {
                el2::ram::write(at, bytes);
            }
        });
    }

    /// Reads bytes of a region; what is beyond it stays as it is in `into`.
    pub fn read(&self, region: Region, offset: u64, into: &mut [u8]) {
        self.each(region, offset, into.len(), |at, part| {
            if let Some(into) = into.get_mut(part) {
                el2::ram::read(at, into);
            }
        });
    }

    /// Where a region's bytes are.
    pub fn extents(&self, region: Region) -> Option<&[Span<Pa>]> {
        self.regions.get(region.0 as usize)?.as_deref()
    }

    fn each(&self, region: Region, offset: u64, len: usize, part: impl FnMut(Pa, core::ops::Range<usize>)) {
        if let Some(extents) = self.extents(region) {
            each(extents, offset, len, part);
        }
    }
}

/// The parts of `len` bytes at `offset` of what lies in these extents, one after the other.
fn each(extents: &[Span<Pa>], offset: u64, len: usize, mut part: impl FnMut(Pa, core::ops::Range<usize>)) {
    let (mut skip, mut done) = (offset, 0);
    for extent in extents {
        if skip >= extent.size() {
            skip -= extent.size();
            continue;
        }
        let here = ((extent.size() - skip) as usize).min(len - done);
        if here == 0 {
            return;
        }
        part(Pa::new(extent.start().as_u64() + skip), done..done + here);
        done += here;
        skip = 0;
    }
}

/// An upload as a disk's image: no one gives its region up while there is a VM in the books that has it.
pub struct Uploaded {
    /// Where it is.
    pub extents: Box<[Span<Pa>]>,
    /// How many bytes of that.
    pub size: u64,
}

impl Uploaded {
    /// Fills `into` with the bytes from `at` on.
    pub fn read(&self, at: u64, into: &mut [u8]) {
        each(&self.extents, at, into.len(), |at, part| {
            if let Some(into) = into.get_mut(part) {
                el2::ram::read(at, into);
            }
        });
    }
}

/// Bytes that an upload of `size` takes.
pub fn rounded(size: u64) -> u64 {
    size.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE)
}
