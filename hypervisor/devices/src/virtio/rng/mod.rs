//! A virtio entropy device ("Entropy Device"): random bytes for the guest, from a [`Source`] that also says how fast.
//!
//! | the source has | the device |
//! |---|---|
//! | as many bytes as asked for | gives them |
//! | fewer | gives those: a driver asks again for the rest |
//! | none now | leaves the buffer with the queue, and the guest goes on; [`Mmio::poke`](super::mmio::Mmio::poke) of [`REQUESTQ`], by whoever owns the source, looks again |
//!
//! A buffer gets [`MOST`] bytes at most, and a step gives as many in all: a generator's work is long. The device has no clock. A source that
//! is to be slow keeps an [`Allowance`].

mod allowance;
pub mod spec;
#[cfg(test)]
mod tests;

use super::{Broken, Device, Limits, Ring, Stop};
use crate::state::RestoreError;
pub use allowance::Allowance;
pub use spec::REQUESTQ;

/// Drivers ask for one buffer at a time.
const LIMITS: Limits = Limits { size: 16, chain: 16 };
/// Bytes of a step at most.
pub const MOST: usize = 256;

/// Where random bytes come from.
pub trait Source: Send {
    /// Fills `into`, from its front; how many bytes. With 0 there are none now: the source's owner pokes the device when there are.
    /// Called with the device's lock held, within a guest's exit.
    fn fill(&mut self, into: &mut [u8]) -> usize;
}

/// What has happened since the device was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Buffers that were given back.
    pub requests: u64,
    /// Random bytes in them.
    pub bytes: u64,
    /// How often the source had nothing for one.
    pub waits: u64,
}

/// The device.
pub struct Rng<S: Source> {
    source: S,
    stats: Stats,
    waiting: bool,
}

impl<S: Source> Rng<S> {
    /// A device that gives what `source` has.
    pub fn new(source: S) -> Self {
        Self { source, stats: Stats::default(), waiting: false }
    }

    /// The source.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// What has happened.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether a buffer of the driver's waits for the source.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }
}

impl<S: Source> Device for Rng<S> {
    /// There is nothing to save: requests that wait are in the queue.
    type State = ();

    fn id(&self) -> u32 {
        spec::ID
    }

    fn queues(&self) -> &[Limits] {
        &[LIMITS]
    }

    fn config_read(&self, _: usize, _: &mut [u8]) {}

    fn serve(&mut self, _: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
        self.waiting = false;
        let mut bytes = [0; MOST];
        let mut left = bytes.as_mut_slice();
        while let Some(chain) = ring.peek()? {
            let wanted = usize::try_from(chain.writable()).unwrap_or(usize::MAX).min(left.len());
            if chain.writable() == 0 {
                return Err(Broken::Small.into());
            }
            if wanted == 0 {
                return Err(Stop::Later);
            }
            let (part, rest) = left.split_at_mut_checked(wanted).ok_or(Stop::Later)?;
            let count = self.source.fill(part).min(wanted);
            let random = part.get(..count).unwrap_or_default();
            if random.is_empty() {
                self.waiting = true;
                self.stats.waits = self.stats.waits.saturating_add(1);
                return Ok(());
            }
            ring.write(&chain, 0, random)?;
            ring.complete(chain, count as u32)?;
            self.stats.requests = self.stats.requests.saturating_add(1);
            self.stats.bytes = self.stats.bytes.saturating_add(count as u64);
            left = rest;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.waiting = false;
    }

    fn save(&self) {}

    fn check(&(): &()) -> Result<(), RestoreError> {
        Ok(())
    }

    fn restore(&mut self, (): ()) {
        self.waiting = false;
    }
}
