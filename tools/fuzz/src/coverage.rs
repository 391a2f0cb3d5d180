//! The compiler's coverage counters (`-C passes=sancov-module` with inline 8-bit counters): a byte for each edge of the program.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static START: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Called by what the compiler adds, before `main`, once or more often with the same range.
///
/// # Safety
/// `start` to `stop` are the program's counters, there for as long as it runs.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    COUNT.store(stop.addr().saturating_sub(start.addr()), Relaxed);
    START.store(start.expose_provenance(), Relaxed);
}

/// How many edges the program has; 0 where it was built without counters.
pub fn edges() -> usize {
    COUNT.load(Relaxed)
}

/// Moves what was counted into `counts`, as many bytes as there are edges, and forgets it.
fn take(counts: &mut [u8]) {
    let counters: *mut u8 = std::ptr::with_exposed_provenance_mut(START.load(Relaxed));
    let count = edges().min(counts.len());
    if count != 0 {
        // SAFETY: the counters are bytes of the program's own, never unmapped and larger than `count`, which
        // `__sanitizer_cov_8bit_counters_init` was told; no reference to them is ever made, and `counts` is not among them. The
        // increments that the compiler has added are this thread's but for a few of the watching thread's, whose counts mean nothing.
        unsafe {
            std::ptr::copy_nonoverlapping(counters, counts.as_mut_ptr(), count);
            std::ptr::write_bytes(counters, 0, count);
        }
    }
}

/// What was seen of each edge since the beginning: a bit for "once", "twice", …, "very often".
#[derive(Default)]
pub struct Seen {
    counts: Vec<u8>,
    bits: Vec<u8>,
    edges: usize,
}

impl Seen {
    /// Nothing was counted so far.
    pub fn clear(&mut self) {
        self.counts.resize(edges(), 0);
        self.bits.resize(edges(), 0);
        take(&mut self.counts);
    }

    /// Adds what was counted; whether any of it is new.
    pub fn add(&mut self) -> bool {
        take(&mut self.counts);
        let mut new = false;
        for (counts, bits) in self.counts.chunks(16).zip(self.bits.chunks_mut(16)) {
            if counts.iter().fold(0, |all, count| all | count) == 0 {
                continue;
            }
            for (count, bits) in counts.iter().zip(bits) {
                let bit = match *count {
                    0 => continue,
                    n @ 1..=3 => 1 << (n - 1),
                    4..=7 => 8,
                    8..=15 => 16,
                    16..=31 => 32,
                    32..=127 => 64,
                    128.. => 128,
                };
                if *bits & bit == 0 {
                    self.edges += usize::from(*bits == 0);
                    *bits |= bit;
                    new = true;
                }
            }
        }
        new
    }

    /// Edges that were reached.
    pub fn edges(&self) -> usize {
        self.edges
    }
}
