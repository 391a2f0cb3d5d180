//! What Merus wants of storage and of networks, whoever provides them: traits for disks ([`disk`]) and network ports ([`port`]).
//!
//! A device model knows these traits and no more, so that the same model serves an image in RAM, a disk of the board, or one that a
//! test makes up. Whoever implements them knows no device model, no queue and no guest.
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

pub mod disk;
pub mod port;
