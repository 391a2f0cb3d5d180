//! Device models: what a guest finds behind the windows of its bus.
//!
//! | module | device | window on `virt` |
//! |---|---|---|
//! | [`pl011`] | UART, the guest's console | 0x0900_0000, SPI 1 |
//! | [`pl031`] | real time clock | 0x0901_0000, SPI 2 |
//! | [`pl061`] | general purpose input, of which line 3 is the power key | 0x0903_0000, SPI 7 |
//! | [`virtio`] | virtio over MMIO, and on it a power key, a network card, random bytes | 0x0a00_0000 + 0x200 n, SPI 16 + n |
//!
//! A model knows offsets, never addresses; a wire ([`bus::IrqLine`]), never an interrupt number. It takes no lock, reads no
//! clock and writes no log: what it counts is in its `Stats`, what it is, in its `State`, which can be saved and restored.
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
mod fakes;
pub mod pl011;
pub mod pl031;
pub mod pl061;
mod primecell;
mod state;
pub mod virtio;

pub use state::RestoreError;
