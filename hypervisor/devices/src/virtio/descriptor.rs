//! Descriptors ("The Virtqueue Descriptor Table", "Indirect Descriptors"): read once, one by one or a few together.

use addr::{Address, Ipa};
use bus::GuestMemory;
use sync::nospec;

use super::spec::DESCRIPTOR;
use super::{Broken, Stop};

/// Descriptors of a table that are read together.
const AHEAD: usize = 4;

/// A descriptor, as it was at one moment.
pub struct Descriptor {
    pub at: Ipa,
    pub size: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    /// Reads a descriptor of a table, once.
    pub fn read(memory: &dyn GuestMemory, table: Ipa, index: u16) -> Result<Self, Stop> {
        let at = table.checked_add(u64::from(index).wrapping_mul(DESCRIPTOR)).ok_or(Broken::Outside(table))?;
        let mut bytes = [0; DESCRIPTOR as usize];
        memory.read(at, &mut bytes)?;
        Ok(Self::new(bytes))
    }

    fn new(bytes: [u8; DESCRIPTOR as usize]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Self {
            at: Ipa::new(value as u64),
            size: (value >> 64) as u32,
            flags: (value >> 96) as u16,
            next: (value >> 112) as u16,
        }
    }
}

/// Descriptors of a table that were read together, in one access.
#[repr(C, align(16))]
pub struct Ahead {
    bytes: [[u8; DESCRIPTOR as usize]; AHEAD],
    first: u64,
    count: u64,
}

impl Ahead {
    /// Nothing was read.
    pub fn new() -> Self {
        Self { bytes: [[0; DESCRIPTOR as usize]; AHEAD], first: 0, count: 0 }
    }

    /// What was read is not to be used any more: another table follows, or the same one at another time.
    pub fn forget(&mut self) {
        self.count = 0;
    }

    /// Descriptor `index` of a table of `entries`, among which it is.
    pub fn get(&mut self, memory: &dyn GuestMemory, table: Ipa, index: u16, entries: u32) -> Result<Descriptor, Stop> {
        let index = u64::from(index);
        let mut n = index.wrapping_sub(self.first);
        if n >= self.count {
            let at = table.checked_add(index.wrapping_mul(DESCRIPTOR)).ok_or(Broken::Outside(table))?;
            let count = u64::from(entries).saturating_sub(index).min(AHEAD as u64);
            let part = self.bytes.get_mut(..count as usize).unwrap_or_default();
            memory.read(at, part.as_flattened_mut())?;
            (self.first, self.count, n) = (index, count, 0);
        }
        Ok(Descriptor::new(nospec::get(&self.bytes, n as usize).copied().unwrap_or_default()))
    }
}
