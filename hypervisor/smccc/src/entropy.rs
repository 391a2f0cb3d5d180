//! Where random bytes come from: the [`Entropy`] trait, and [`Drbg`], a generator for machines whose only entropy is the
//! seed that firmware leaves in the device tree.
//!
//! # Model
//! [`Drbg`] is ChaCha20 with fast key erasure: each refill makes 256 bytes of key stream, of which the first 32 replace the
//! key at once and the rest are handed out, each byte wiped as it goes. Whoever reads the state later learns nothing of
//! what was drawn before. A seed of any length is absorbed in 32-byte blocks: key = ChaCha20(key xor block), once for each
//! block and once for the length, so that seeds which differ give unrelated keys.
//!
//! # Not modelled
//! Estimating entropy: a seed is as good as who wrote it. Reseeding by itself: the owner calls [`Drbg::reseed`] when it
//! has something new.
//!
//! RFC 8439, "The ChaCha20 Block Function".
use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use zeroize::Zeroize;

/// A source of random bytes fit for keys.
pub trait Entropy {
    /// Fills `bytes`; `false` where the source has not enough now, and then `bytes` holds nothing of use.
    fn fill(&mut self, bytes: &mut [u8]) -> bool;
}

/// The source of a machine that has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&mut self, _bytes: &mut [u8]) -> bool {
        false
    }
}

const KEY: usize = 32;
/// One refill of the generator, less the part that becomes the next key.
const POOL: usize = 256 - KEY;

/// A ChaCha20 generator with fast key erasure. It cannot be cloned, and its `Debug` shows nothing.
pub struct Drbg {
    key: [u8; KEY],
    pool: [u8; POOL],
    /// Bytes of `pool` not yet handed out; they are its last ones.
    left: usize,
}

impl Drbg {
    /// The shortest seed accepted, in bytes: 128 bits.
    pub const MIN_SEED: usize = 16;

    /// From a seed such as `/chosen` `rng-seed`; `None` if it is shorter than [`Self::MIN_SEED`]. The owner wipes the seed
    /// itself.
    pub fn from_seed(seed: &[u8]) -> Option<Self> {
        if seed.len() < Self::MIN_SEED {
            return None;
        }
        let mut new = Self { key: [0; KEY], pool: [0; POOL], left: 0 };
        new.reseed(seed);
        Some(new)
    }

    /// Mixes in more entropy, of any length; never loses what was there before.
    pub fn reseed(&mut self, seed: &[u8]) {
        for block in seed.chunks(KEY) {
            self.absorb(block);
        }
        // The length last, so that a seed and the same seed with zeros behind it differ.
        let length = u64::try_from(seed.len()).unwrap_or(u64::MAX).to_le_bytes();
        self.absorb(&length);
        self.pool.zeroize();
        self.left = 0;
    }

    /// A generator of its own for one VM: neither can tell the other's output.
    pub fn child(&mut self) -> Self {
        let mut seed = [0; KEY];
        self.draw(&mut seed);
        let mut new = Self { key: [0; KEY], pool: [0; POOL], left: 0 };
        new.reseed(&seed);
        seed.zeroize();
        new
    }

    /// Fills `bytes`; cannot run dry.
    pub fn draw(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.left == 0 {
                self.refill();
            }
            let count = rest.len().min(self.left);
            let from = POOL.saturating_sub(self.left);
            let (part, tail) = rest.split_at_mut(count);
            if let Some(source) = self.pool.get_mut(from..from.saturating_add(count)) {
                part.copy_from_slice(source);
                source.zeroize();
            }
            self.left = self.left.saturating_sub(count);
            rest = tail;
        }
    }

    /// A random number, for instance a `kaslr-seed`.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.draw(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// What is left in the pool.
    #[cfg(test)]
    pub(crate) fn pool(&self) -> &[u8] {
        &self.pool
    }

    fn absorb(&mut self, block: &[u8]) {
        for (key, byte) in self.key.iter_mut().zip(block) {
            *key ^= byte;
        }
        ChaCha20Rng::from_seed(self.key).fill_bytes(&mut self.key);
    }

    fn refill(&mut self) {
        let mut stream = ChaCha20Rng::from_seed(self.key);
        stream.fill_bytes(&mut self.key);
        stream.fill_bytes(&mut self.pool);
        self.left = POOL;
    }
}

impl Entropy for Drbg {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self.draw(bytes);
        true
    }
}

impl Drop for Drbg {
    fn drop(&mut self) {
        self.key.zeroize();
        self.pool.zeroize();
    }
}

impl core::fmt::Debug for Drbg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Drbg")
    }
}
