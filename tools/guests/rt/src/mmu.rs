//! Changes to the identity map, and translation tables that a test builds for itself.

use crate::entry;
use crate::sysreg::isb;
use core::sync::atomic::{AtomicU64, Ordering};

/// Index of the root entry that tests change: nothing is mapped there otherwise.
const SPARE: u64 = 500;
const VALID_BLOCK: u64 = 1;
const VALID_TABLE: u64 = 3;
const ACCESSED: u64 = 1 << 10;
const INNER: u64 = 3 << 8;

/// Memory types, as MAIR_EL1 has them by [`entry::MAIR`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// Device-nGnRnE.
    Device = 0,
    /// Normal, write-back.
    Cacheable = 1,
    /// Normal, non-cacheable.
    NonCacheable = 2,
}

fn set_spare(value: u64) {
    let root = entry::root() as *const AtomicU64;
    // SAFETY: the root table has 512 entries, all accessed as atomics.
    let entry = unsafe { &*root.add(SPARE as usize) };
    // Break before make.
    for value in [0, value] {
        entry.store(value, Ordering::SeqCst);
        crate::run!("dsb ish\ntlbi vmalle1is\ndsb ish");
        isb();
    }
}

/// Maps a GiB of physical addresses a second time, executable; returns where it starts.
pub fn alias(gib: u64, attribute: Attribute) -> u64 {
    set_spare(gib << 30 | (attribute as u64) << 2 | INNER | ACCESSED | VALID_BLOCK);
    SPARE << 30
}

/// Maps a GiB by a level 2 table at `table`; returns where it starts.
pub fn table_alias(table: u64) -> u64 {
    set_spare(table | VALID_TABLE);
    SPARE << 30
}

/// Takes the alias back.
pub fn unalias() {
    set_spare(0);
}

/// Calls an address, at which there may be nothing: the fault's handler returns.
pub fn call(at: u64) {
    // SAFETY: a fault returns to x30, and code that a test puts there keeps the calling convention.
    unsafe { core::arch::asm!("blr {0}", in(reg) at, clobber_abi("C")) };
}
