//! What is known of how vCPUs spend their time: histograms for each vCPU, and a ring of the last events for each pCPU.
//!
//! | type | kept for | written by | read by |
//! |---|---|---|---|
//! | [`VcpuTrace`] | a vCPU | the pCPU that runs it | anyone, at any time |
//! | [`Ring`] | a pCPU | that pCPU | anyone, at any time |
//!
//! Nothing here has a lock, and nobody waits: a writer is never held up by its readers. A histogram is a few words that only
//! grow; a reader may see one event in its sum and not yet in its bucket. A record of the ring is whole, or the reader is told
//! that it was overwritten.
//!
//! Times are ticks of the system counter, as the caller read it; this room reads no clock. The records have a fixed binary form
//! ([`Event::words`]) for whoever carries them out of the machine.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod event;
mod histogram;
mod ring;
mod vcpu;

pub use event::{Event, Life, NOBODY, Reason, What, Why};
pub use histogram::{BUCKETS, Histogram, Snapshot};
pub use ring::{Cursor, Read, Ring, RingOf, Word};
pub use vcpu::{Span, VcpuTrace};

#[cfg(test)]
mod tests;
