//! Counting, and the line that a row prints.

use core::fmt;
use guest_rt::println;

/// What single events took.
pub struct Samples {
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Samples {
    /// None yet.
    pub const fn new() -> Self {
        Self { count: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// One more event.
    pub fn add(&mut self, ticks: u64) {
        self.count += 1;
        self.sum += ticks;
        self.min = self.min.min(ticks);
        self.max = self.max.max(ticks);
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Prints the row; `all` is what as many events took, for the mean.
    pub fn print(&self, row: &str, all: u64) {
        println!("bench {row} mean={} min={} max={}", Mean(all, self.count), self.min, self.max);
    }
}

/// A quotient with two decimals.
struct Mean(u64, u64);

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = (self.0 * 100 + self.1 / 2) / self.1.max(1);
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}
