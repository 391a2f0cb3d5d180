//! Descriptors ("The Virtqueue Descriptor Table", "Indirect Descriptors"): read once, one by one or a few together.

use addr::{Address, Ipa};
use bus::GuestMemory;
use sync::nospec;

use super::spec::DESCRIPTOR;
use super::{Broken, Stop};

/// Descriptors of a table that are read together.
const AHEAD: usize = 4;

/// A descriptor, as it was at one moment.
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub at: Ipa,
    pub size: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    /// Reads a descriptor of a table, once.
    #[inline]
    pub fn read(memory: &dyn GuestMemory, table: Ipa, index: u16) -> Result<Self, Stop> {
        let at = table.checked_add(u64::from(index).wrapping_mul(DESCRIPTOR)).ok_or(Broken::Outside(table))?;
        let [low, high] = memory.read_pair(at)?;
        Ok(Self::new(low, high))
    }

    fn new(low: u64, high: u64) -> Self {
        Self { at: Ipa::new(low), size: high as u32, flags: (high >> 32) as u16, next: (high >> 48) as u16 }
    }
}

/// Descriptors of a table that were read together, in one access.
#[repr(C, align(16))]
pub struct Ahead {
    /// Two words each.
    bytes: [[[u8; 8]; 2]; AHEAD],
    first: u64,
    count: u64,
}

impl Ahead {
    /// Nothing was read.
    pub fn new() -> Self {
        Self { bytes: [[[0; 8]; 2]; AHEAD], first: 0, count: 0 }
    }

    /// What was read is not to be used any more: another table follows, or the same one at another time.
    pub fn forget(&mut self) {
        self.count = 0;
    }

    /// Descriptor `index` of a table of `entries`, among which it is.
    #[inline]
    pub fn get(&mut self, memory: &dyn GuestMemory, table: Ipa, index: u16, entries: u32) -> Result<Descriptor, Stop> {
        let index = u64::from(index);
        let mut n = index.wrapping_sub(self.first);
        if n >= self.count {
            let at = table.checked_add(index.wrapping_mul(DESCRIPTOR)).ok_or(Broken::Outside(table))?;
            let count = u64::from(entries).saturating_sub(index).min(AHEAD as u64);
            let part = self.bytes.get_mut(..count as usize).unwrap_or_default();
            memory.read(at, part.as_flattened_mut().as_flattened_mut())?;
            (self.first, self.count, n) = (index, count, 0);
        }
        let [low, high] = nospec::get(&self.bytes, n as usize).copied().unwrap_or_default().map(u64::from_le_bytes);
        Ok(Descriptor::new(low, high))
    }
}
