//! The UART's FIFO: 32 characters, each with its error bits.

use core::fmt;

use super::spec::FIFO_DEPTH;

const _: () = assert!(FIFO_DEPTH.is_power_of_two());

/// A ring of at most [`FIFO_DEPTH`] entries. Two are equal when they hold the same entries in the same order.
#[derive(Clone, Default)]
pub(super) struct Fifo {
    slots: [u16; FIFO_DEPTH],
    head: usize,
    len: usize,
}

impl Fifo {
    #[inline]
    fn slot(&self, index: usize) -> usize {
        self.head.wrapping_add(index) & FIFO_DEPTH.wrapping_sub(1)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `entry`; `false`, and nothing changes, where all slots are taken.
    pub(super) fn push(&mut self, entry: u16) -> bool {
        let at = self.slot(self.len);
        match self.slots.get_mut(at) {
            Some(slot) if self.len < FIFO_DEPTH => {
                *slot = entry;
                self.len = self.len.wrapping_add(1);
                true
            }
            _ => false,
        }
    }

    /// The oldest entry, which stays in.
    pub(super) fn first(&self) -> Option<u16> {
        self.iter().next()
    }

    /// Takes the oldest entry out.
    pub(super) fn pop(&mut self) -> Option<u16> {
        let entry = self.first()?;
        self.head = self.slot(1);
        self.len = self.len.wrapping_sub(1);
        Some(entry)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn iter(&self) -> impl Iterator<Item = u16> {
        (0..self.len).map_while(|i| self.slots.get(self.slot(i)).copied())
    }
}

impl PartialEq for Fifo {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fifo {}

impl fmt::Debug for Fifo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
