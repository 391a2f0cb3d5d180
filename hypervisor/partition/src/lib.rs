//! A disk divided: what its partition table says ([`table`]), which part a name means ([`select`]), and the requests of those who each
//! have a part ([`shared`]).
//!
//! A table is whatever bytes a disk holds. Nothing in it is believed that leads off the disk, and how much of it is read is bounded.
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

mod gpt;
mod mbr;
pub mod select;
pub mod shared;
pub mod table;
#[cfg(test)]
mod tests;
