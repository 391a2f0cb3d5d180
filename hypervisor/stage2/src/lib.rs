//! Stage 2: which machine memory a guest's addresses reach, and under which VMID the hardware may remember it.
//!
//! | type | what it is |
//! |---|---|
//! | [`Geometry`] | the shape of every VM's tables on this machine: address size, start level, `VTCR_EL2` |
//! | [`Stage2`] | one VM's tables: map, unmap, change rights, walk |
//! | [`Vmids`], [`VmidAllocator`], [`VmidSlot`] | who owns which VMID, and when all TLBs must be emptied |
//!
//! Nothing here touches hardware. Table memory is reached through [`Tables`]; what the TLBs need is *said*, in exact order,
//! to [`TlbWork`], whose implementor executes it on the spot (and tells an SMMU that walks the same tables the same thing).
//!
//! # Invariants (checked after each step of the random tests)
//! 1. When an operation has returned, no TLB holds a translation that the tables do not hold.
//! 2. A valid entry is replaced by a different valid entry only with an invalidation between (break-before-make), unless the
//!    access rights are all that changes.
//! 3. No table but the root is empty; a table that becomes empty is freed, after the TLBs forgot it.
//! 4. An operation that fails has changed nothing and holds no table: what it needs is taken before its first write.
//!
//! # What the caller owes
//! - One caller at a time for a [`Stage2`] (a lock of rank `stage2`). Other PEs run the guest meanwhile: for the moment
//!   between break and make a guest may fault on memory that is mapped. So a stage-2 fault whose [`Stage2::walk`] shows a mapping
//!   that allows the access is resumed, not reported.
//! - Table walks are made cacheable and inner shareable by [`Geometry::vtcr`], so table writes through EL2's own Normal
//!   write-back mapping need no cache maintenance.
//! - Time: an operation costs about as much as the entries it writes, plus 512 for each block it splits and table it frees. A caller with an instruction
//!   budget cuts a span into pieces.
//!
//! # Not modelled
//! 16 and 64 KiB granules, 52-bit addresses (FEAT_LPA2), hardware access and dirty flags (FEAT_HAFDBS), the contiguous hint,
//! changing a block's size without a break (FEAT_BBM), secure stage 2, small tables (FEAT_TTST).
//!
//! # References
//! Arm ARM (DDI 0487 issue L.b), "The AArch64 Virtual Memory System Architecture": "Stage 2 translation", "Concatenated
//! translation tables", "Using break-before-make when updating translation table entries", "TLB maintenance".
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

mod descriptor;
mod edit;
mod geometry;
mod map;
mod plan;
mod vmid;
mod work;

#[cfg(test)]
mod tests;

pub use descriptor::{Attrs, Memory, Rights};
pub use geometry::{Geometry, GeometryError, HostLimits};
pub use map::{MapError, Stage2, Walk};
pub use vmid::{Vmid, VmidAllocator, VmidError, VmidSlot, Vmids};
pub use work::{Flush, Leaf, OutOfTables, Tables, TlbWork};
