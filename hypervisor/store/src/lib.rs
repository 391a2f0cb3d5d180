//! Disks in RAM: an image that many VMs share and none changes, and the pages that one VM has written.
//!
//! [`Cow`] is a [`host::disk::Disk`] that answers at once. Its image is read where it lies; what is written goes to frames of its own
//! ([`Frames`]), which are charged to whoever the disk belongs to.
//!
//! An image that does not lie in one piece ([`Image::whole`]) is read by way of a page, one copy more.
//!
//! # Frames come from outside
//! A write happens inside an exit, where nothing is allocated. So the disk has a reserve, and whoever looks after it keeps it filled:
//!
//! | the disk | whoever looks after it |
//! |---|---|
//! | [`Frames::wanted`]: the reserve is low | asks [`Cow::wants`] how many, takes them from the VM's account, [`Cow::give`]s them |
//! | a write answers `Later`: the reserve is empty | the same, then has the device's queue served again |
//! | | has none to give: [`Cow::refuse`], and writes that need a frame answer `NoSpace` until it gives again |
//! | [`Frames::wanted`]: it has much more than it wants, after discards | takes frames back by [`Cow::take_back`] |
//! | is no more, or begins anew from its image | [`Cow::release`], in steps |
//!
//! A frame may hold anything when it is given: it is written as a whole before a byte of it is read. It holds what the VM wrote when it
//! is given back.
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

mod cow;
mod pages;
#[cfg(test)]
mod tests;

pub use cow::{Cow, Image, LARGEST, Usage};
pub use pages::{Frames, PAGE, RESERVE};
