//! VIRTIO 1.2: one transport ([`mmio`]), one ring ([`queue`], [`ring`]), and the devices on them.
//!
//! | module | device |
//! |---|---|
//! | [`blk`] | a disk |
//! | [`input`] | a power key |
//! | [`net`] | a network card |
//! | [`rng`] | random bytes |
//!
//! A device is a [`Device`]: it says what it is and serves one queue at a time, through a [`Ring`] that has checked everything the
//! guest wrote there. It knows neither registers nor the ring's layout, so another transport (PCI) or another layout (packed) would be
//! none of its business.
//!
//! # A step
//! [`Device::serve`] runs inside an exit, so it is bounded: the ring reads [`ring::STEP`] descriptors and ends the step with
//! [`Stop::Later`]. Whatever the ring refuses goes up by `?`:
//!
//! | [`Stop`] | meaning | the transport |
//! |---|---|---|
//! | `Later` | there is more than one step may do | has the guest's store repeated ([`bus::AccessError::Again`]) |
//! | `Absent` | a page of RAM is not there now; nothing has been done of the step | keeps the queue for [`mmio::Mmio::run_waiting`] and for the next notification |
//! | `Broken` | the driver broke the ring's rules | sets `DEVICE_NEEDS_RESET` and touches guest memory no more |
//!
//! # Not modelled
//! Packed rings, `VIRTIO_F_IN_ORDER`, `VIRTIO_F_ACCESS_PLATFORM`, the reset of single queues, shared memory, the legacy interface.

pub mod blk;
mod bytes;
mod descriptor;
pub mod input;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod ring;
pub mod rng;
pub mod spec;
#[cfg(test)]
pub(crate) mod tests;

use addr::Ipa;
use bus::Absent;
use core::fmt;

use crate::state::RestoreError;
pub use bytes::Bytes;
pub use queue::{Chain, Limits};
pub use ring::Ring;

/// How the driver broke the rules of its ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The size is no power of two up to the queue's largest.
    Size(u32),
    /// A part of the ring is not aligned, or not in RAM.
    Place(Ipa),
    /// More buffers were made available than the ring has entries.
    Runaway,
    /// A descriptor that the table does not have.
    Descriptor(u16),
    /// More descriptors than the device takes (a loop has that, too).
    TooLong,
    /// A table within a table, one without the feature, one that is not whole, or with a successor.
    Indirect,
    /// A buffer to read behind one to write.
    Order,
    /// A buffer of no bytes.
    Empty,
    /// A buffer that is not in RAM.
    Outside(Ipa),
    /// The buffers are too small for what the device reads or writes.
    Small,
}

/// Why a step ends before its queue is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It has done its share.
    Later,
    /// A page is not there now.
    Absent(Absent),
    /// The ring cannot be trusted any more.
    Broken(Broken),
}

impl From<Absent> for Stop {
    fn from(absent: Absent) -> Self {
        Self::Absent(absent)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// What a virtio device does beyond its transport.
pub trait Device: Send {
    /// What is saved of it.
    type State: Clone + PartialEq + Eq + fmt::Debug;

    /// Its type ("Device Types").
    fn id(&self) -> u32;
    /// The features of its own that it offers; those of the ring and of the transport are added.
    fn features(&self) -> u64 {
        0
    }
    /// Its queues.
    fn queues(&self) -> &[Limits];
    /// The driver has agreed to these features and may use the device. (Also after [`Device::restore`], if it had.)
    fn started(&mut self, _features: u64) {}
    /// Fills `into` from byte `at` of its configuration; what is not there stays 0.
    fn config_read(&self, at: usize, into: &mut [u8]);
    /// The driver's store into its configuration.
    fn config_write(&mut self, _at: usize, _from: &[u8]) {}
    /// Works on queue `number`: the driver has made buffers available there, or the device has something to say.
    fn serve(&mut self, number: usize, ring: &mut Ring<'_>) -> Result<(), Stop>;
    /// The driver has taken back queue `number`: nothing that was taken from it is ever completed.
    fn stopped(&mut self, _number: usize) {}
    /// Until the next reset the device is not served any more: the driver broke a ring, or the guest's memory is about to be taken away.
    fn halted(&mut self) {}
    /// Back to the state after power-on.
    fn reset(&mut self);
    /// Its state.
    fn save(&self) -> Self::State;
    /// Whether a saved state can be its own.
    fn check(state: &Self::State) -> Result<(), RestoreError>;
    /// Takes over a state that was checked.
    fn restore(&mut self, state: Self::State);
}
