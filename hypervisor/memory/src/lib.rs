//! Who owns each frame of the machine's memory, and how much each owner has.
//!
//! | type | what it is |
//! |---|---|
//! | [`Plan`], [`Space`] | what each part of the address space is for |
//! | [`FreeRam`] | what of the RAM is nobody's, and so can become frames |
//! | [`Frames`] | all memory of one node: 2 MiB blocks for guests, 4 KiB pages for tables |
//! | [`AccountId`], [`Account`] | to whom frames are charged, up to which limit |
//! | [`Dirty`] | memory just handed out, which nobody may see before it is zeroed |
//! | [`FrameCache`] | a few pages at hand where nothing may wait for a lock |
//! | [`GuestRam`] | which memory stands behind a guest's RAM |
//! | [`HandOver`] -> [`Filling`] -> [`HandedOver`] | how memory becomes a guest's RAM: zeroed, filled, cleaned, invalidated |
//!
//! Guests get whole 2 MiB blocks, in as few extents as there can be. Pages come out of blocks that are carved up for
//! them. There is no record for each frame: a lent extent costs one record, a carved block two bytes a page.
//!
//! # Invariants (checked after each step of the random tests)
//! 1. No frame is lent twice, and none that was not added or that is reserved.
//! 2. Free bytes and the bytes charged to all accounts add up to the total.
//! 3. A frame that is not lent to the account that returns it is refused, and nothing changes.
//!
//! # What the caller owes
//! - One caller at a time (a lock of rank `frames`). [`Frames`] uses the heap when it lends and takes back, so neither
//!   happens on an exit path; [`FrameCache`] uses none.
//! - The rule of [`Dirty`]: zeroed before another owner sees it. A guest gets RAM through [`HandOver`] only, which cleans
//!   the caches as well.
//!
//! # Not modelled
//! Several nodes (each has a [`Frames`] of its own, and accounts would move above them), shared frames, copy-on-write.
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

mod account;
mod cache;
mod carved;
mod dirty;
mod frames;
mod guest_ram;
mod handover;
mod plan;
mod pool;

#[cfg(test)]
mod tests;

pub use account::{Account, AccountId};
pub use cache::FrameCache;
pub use dirty::{Dirty, Scrub};
pub use frames::{Frames, Node};
pub use guest_ram::GuestRam;
pub use handover::{Coherency, Filling, HandOver, HandedOver, Prepared, RamOps};
pub use plan::{FreeRam, Overlap, Plan, Space, Use, Window};
pub use pool::Reach;

use addr::Pa;

/// Why memory was not handed out or taken back. Nothing was changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// The machine has not enough free memory of the wanted kind.
    OutOfMemory,
    /// The account's limit would be exceeded; how many bytes are left to it.
    OverLimit {
        /// Bytes that the account may still take.
        left: u64,
        /// Whose limit: the account's own, or its group's.
        of: AccountId,
    },
    /// There is no such account.
    NoAccount,
    /// The account still has frames, so it cannot be closed.
    AccountInUse,
    /// There are as many accounts as there can be.
    TooManyAccounts,
    /// Pages are handed out in powers of two up to 512; extents in whole blocks.
    BadSize,
    /// This memory is not lent to this account: returned twice, or somebody else's. The first such address.
    NotLent {
        /// The first address in question.
        at: Pa,
    },
    /// This memory was added before, or is beyond 48 bits.
    BadRam,
    /// This memory cannot be reserved because it is lent. The first such address.
    InUse {
        /// The first address in question.
        at: Pa,
    },
}
