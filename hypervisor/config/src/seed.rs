//! Bytes that nobody may find afterwards: a seed that wipes itself.

use alloc::vec::Vec;
use zeroize::Zeroize;

/// A seed on the heap. It is overwritten with zeroes when it is dropped and when it moves to a larger place; it cannot be
/// cloned, and its `Debug` shows its length only.
#[derive(Default)]
pub struct Seed(Vec<u8>);

impl Seed {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Adds `bytes` to its end.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.0.capacity().saturating_sub(self.0.len()) < bytes.len() {
            // A vector that grows by itself leaves its former bytes in the heap.
            let mut grown = Vec::with_capacity(self.0.len().saturating_add(bytes.len()));
            grown.extend_from_slice(&self.0);
            self.0.as_mut_slice().zeroize();
            self.0 = grown;
        }
        self.0.extend_from_slice(bytes);
    }

    /// The seed. Whoever copies it owes the wiping.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

impl core::fmt::Debug for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Seed({} bytes)", self.0.len())
    }
}
