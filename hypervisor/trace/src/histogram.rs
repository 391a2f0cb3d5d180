//! How often a quantity had which size, in powers of two.

use core::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a histogram. Bucket 0 counts zeros, bucket `k` what has `k` significant bits (2^(k-1) to 2^k - 1); the last one
/// counts everything above as well.
pub const BUCKETS: usize = 40;

/// A histogram with one writer and any number of readers. Counts and the sum stay at 2^64 - 1 once they are there.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }

    /// Counts a value. Only the one writer calls this: a plain load and store a word, no read-modify-write.
    pub fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket(value)) {
            grow(bucket, 1);
        }
        grow(&self.sum, value);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// What it holds now.
    pub fn snapshot(&self) -> Snapshot {
        let mut buckets = [0; BUCKETS];
        for (to, from) in buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        Snapshot { buckets, sum: self.sum.load(Ordering::Relaxed), max: self.max.load(Ordering::Relaxed) }
    }
}

/// Adds to a word that only the caller writes.
pub(crate) fn grow(word: &AtomicU64, by: u64) {
    word.store(word.load(Ordering::Relaxed).saturating_add(by), Ordering::Relaxed);
}

fn bucket(value: u64) -> usize {
    let bits = u64::BITS.saturating_sub(value.leading_zeros()) as usize;
    bits.min(BUCKETS.saturating_sub(1))
}

/// What a histogram held at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The counts: see [`BUCKETS`].
    pub buckets: [u64; BUCKETS],
    /// The sum of all values.
    pub sum: u64,
    /// The largest value.
    pub max: u64,
}

impl Snapshot {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(*bucket))
    }

    /// The mean, rounded down; 0 where there are no values.
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count()).unwrap_or(0)
    }

    /// A bound that `percent` of the values do not exceed: the upper end of the bucket in which the one at that place is, or
    /// the maximum where that is less. At most twice the exact percentile; 0 where there are no values.
    pub fn percentile(&self, percent: u32) -> u64 {
        let count = u128::from(self.count());
        // The place, from 1, rounded up.
        let place = count.saturating_mul(percent.min(100).into()).div_ceil(100).max(1);
        let mut below = 0_u128;
        for (number, bucket) in self.buckets.iter().enumerate() {
            below = below.saturating_add((*bucket).into());
            if below >= place {
                let end = match number.saturating_add(1) < BUCKETS {
                    true => 1_u64.checked_shl(number as u32).unwrap_or(u64::MAX).saturating_sub(1),
                    false => u64::MAX,
                };
                return end.min(self.max);
            }
        }
        0
    }
}
