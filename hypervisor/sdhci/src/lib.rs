//! SD cards behind a host controller of the SD Association's kind (SDHCI): the one of a Raspberry Pi 4 (EMMC2; in QEMU its Arasan).
//!
//! | part | what it does |
//! |---|---|
//! | [`Card::start`] | from a reset to a card in its transfer state, four wires wide; polled, in bounded time |
//! | [`SdDrive`] | reads and writes of several requesters, one at a time in the order in which they came, driven by the interrupt |
//!
//! Data goes by the CPU, word by word through the controller's buffer: neither QEMU's controller for these boards nor the Arasan has DMA
//! that a driver may use. So nothing of the machine's memory is reached by the device, and the requests' memory is plain memory.
//! A block takes 128 loads or stores; as many as [`AT_ONCE`] blocks are moved an interrupt.
//!
//! All accesses to registers are of 32 bits, which these controllers ask for.
//!
//! SD Association, "SD Host Controller Simplified Specification", 3.00; "Physical Layer Simplified Specification", 6.00.
//!
//! # Not modelled
//! eMMC, high speed and UHS modes (the clock is 25 MHz), DMA, erasing, a card that is pulled out and put back.
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

mod card;
mod drive;
mod spec;
#[cfg(test)]
mod tests;

pub use card::{Card, SdError};
pub use drive::{AT_ONCE, DEPTH, LARGEST, SdDrive};

/// A controller's registers.
pub trait Registers: Send {
    /// A 32-bit load at this offset.
    fn read(&self, at: u64) -> u32;
    /// A 32-bit store at this offset.
    fn write(&self, at: u64, value: u32);
}
