//! Turns descriptions into checked values: the board's device tree, the bundle that says what to run, and the device
//! tree that each guest is given.
//!
//! | module | reads | gives |
//! |---|---|---|
//! | [`board`] | the device tree that the firmware hands over | [`board::Board`] |
//! | [`bundle`] | the bundle, packed by the host program `merus` | [`bundle::Bundle`], its payloads, [`spec::VmSpec`] |
//! | [`image`] | the header of a guest's kernel | [`image::ImageHeader`], [`image::GuestLayout`] |
//! | [`device`] | a device in one word | what a VM that does not run gets or loses |
//! | [`disk_image`] | a disk's first sectors | how long its partition table says it is |
//! | [`guest_tree`] | a `VmSpec` and its layout | the guest's device tree |
//! | [`map`] | nothing | the addresses and interrupts that every guest sees |
//!
//! All of it is input from elsewhere, so nothing here panics, and each refusal names the culprit, says what is wrong
//! with it and what to do. The same checks run in the host program before a bundle is written and in Merus when it is
//! read, because a bundle may come from anywhere.
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

pub mod board;
pub mod bundle;
pub mod cpu_model;
pub mod device;
pub mod disk_image;
pub mod guest_tree;
pub mod image;
pub mod map;
pub mod passthrough;
pub mod seed;
pub mod setting;
pub mod spec;
mod tree;

pub use spec::VmSpec;
