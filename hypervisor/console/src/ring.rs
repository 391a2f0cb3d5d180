//! A fixed ring of bytes: what waits for a UART, or for a guest's UART.

use alloc::{boxed::Box, vec};

/// A first-in first-out queue of bytes. Its capacity is a power of two; it allocates when it is made and never again.
#[derive(Debug)]
pub struct Ring {
    bytes: Box<[u8]>,
    /// Bytes taken out, and bytes put in, since the start; they wrap, their difference is the length.
    head: usize,
    tail: usize,
}

impl Ring {
    /// An empty ring for at least `capacity` bytes (rounded up to a power of two, at most 1 MiB).
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 20).next_power_of_two();
        Self { bytes: vec![0; capacity].into_boxed_slice(), head: 0, tail: 0 }
    }

    #[inline]
    fn slot(&self, counter: usize) -> usize {
        counter & self.bytes.len().wrapping_sub(1)
    }

    /// Puts `byte` in; `false`, and nothing changes, where the ring is full.
    #[inline]
    pub fn push(&mut self, byte: u8) -> bool {
        let (full, at) = (self.is_full(), self.slot(self.tail));
        match self.bytes.get_mut(at) {
            Some(slot) if !full => {
                *slot = byte;
                self.tail = self.tail.wrapping_add(1);
                true
            }
            _ => false,
        }
    }

    /// The oldest byte, which stays in.
    #[inline]
    pub fn first(&self) -> Option<u8> {
        if self.is_empty() { None } else { self.bytes.get(self.slot(self.head)).copied() }
    }

    /// The byte after the oldest, which stays in.
    pub(crate) fn second(&self) -> Option<u8> {
        if self.len() < 2 { None } else { self.bytes.get(self.slot(self.head.wrapping_add(1))).copied() }
    }

    /// Takes the oldest byte out.
    #[inline]
    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.first()?;
        self.head = self.head.wrapping_add(1);
        Some(byte)
    }

    /// How many bytes it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head)
    }

    /// Whether it holds none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tail == self.head
    }

    /// Whether it holds as many as it can.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len() >= self.bytes.len()
    }

    /// How many bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the newest bytes back out until `len` are left.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.tail = self.head.wrapping_add(len);
        }
    }
}
