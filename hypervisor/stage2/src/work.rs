//! What [`crate::Stage2`] asks of the machine: memory for tables, and TLB maintenance in exact order.

use addr::{Ipa, Pa};

/// There is no memory for another table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfTables;

/// The memory that tables lie in. One instance is charged to one VM.
pub trait Tables {
    /// The descriptor at `index` of the table at `table`, read once as 64 bits.
    fn read(&self, table: Pa, index: usize) -> u64;
    /// Stores a descriptor: single-copy atomic, with *release* order, so that a walk that follows it into a new table
    /// finds what was written there before. `index` is 512 or more in a root of several pages.
    fn write(&mut self, table: Pa, index: usize, descriptor: u64);
    /// `pages` (a power of two) zeroed pages of 4 KiB, aligned to their whole size.
    fn alloc(&mut self, pages: usize) -> Result<Pa, OutOfTables>;
    /// Takes back what [`Self::alloc`] gave. The content is arbitrary.
    fn free(&mut self, at: Pa, pages: usize);
}

/// One translation that is no longer in the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first address it translated, aligned to its size.
    pub ipa: Ipa,
    /// Its level, 1 to 3 (what the TTL hint of FEAT_TTL wants).
    pub level: u8,
}

/// What the TLBs of all pCPUs (and of each SMMU that uses the tables) must forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush<'a> {
    /// These leaves; no table was unlinked. On the PEs, in this order:
    ///
    /// `dsb ishst`; for each leaf `tlbi ipas2e1is`; `dsb ish`; `tlbi vmalle1is` (entries that combine both stages are
    /// not found by IPA); `dsb ish`; `isb`.
    Leaves(&'a [Leaf]),
    /// Everything of this VM, walk caches as well: `dsb ishst`; `tlbi vmalls12e1is`; `dsb ish`; `isb`.
    Vm,
}

/// The TLB maintenance of one VM, executed at once and on the spot.
///
/// The implementor knows the VM: the instructions act on the VMID in `VTTBR_EL2`, so it loads that of the VM's
/// [`crate::VmidSlot`] (read *after* the leading `dsb`), under the erratum sequence for speculative AT instructions where
/// the CPU needs it. A VM that never ran has no VMID and nothing to flush.
pub trait TlbWork {
    /// Entries became valid that were invalid: `dsb ishst`, so that walks find them. Nothing is invalidated, because no
    /// TLB remembers an invalid entry.
    fn published(&mut self);
    /// The entries were made invalid (or their rights changed) in memory before this call. When it returns, no TLB
    /// holds the old ones, and no access that used them is outstanding.
    fn flush(&mut self, work: Flush<'_>);
}
