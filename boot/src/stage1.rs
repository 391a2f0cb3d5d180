//! EL2's own translation tables: identity, 4 KiB granule, 48 bits, pages and 2 MiB blocks, never larger.
//!
//! Used first with the MMU off (so: no atomics, no locks, no heap) and later to add what is needed: a device, a span of
//! RAM. A live entry is only ever made valid or made invalid, never changed into another valid one; what was made invalid is
//! out of every TLB before anything is made valid again, which is break-before-make. No block is ever split, because memory is
//! mapped at the size it will be unmapped.
//! (Arm ARM, "The AArch64 Virtual Memory System Architecture", stage 1 of the EL2 translation regime, and with E2H = 1 of the EL2&0
//! translation regime: [`Regime`].)

use addr::{Address, BLOCK_SIZE, PAGE_SIZE, Pa, Span};

#[cfg(target_os = "none")]
mod mapped;
#[cfg(test)]
mod tests;
#[cfg(target_os = "none")]
pub use mapped::page_from_heap;

/// How memory may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Merus' instructions.
    Text,
    /// Constants, and what others wrote for Merus to read.
    ReadOnly,
    /// Ordinary memory.
    Data,
    /// Device registers.
    Device,
}

/// Whose translation the tables are: the descriptors' rights differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Regime {
    /// EL2 alone (E2H = 0): one privilege level, one XN bit, AP\[1\] is RES1.
    El2,
    /// EL2&0 (E2H = 1): EL0 may access nothing and execute nothing (AP\[1\] is 0, UXN is 1), so that PSTATE.PAN, which stays as a guest
    /// had it, means nothing to EL2. Every entry is global: no ASID is ever used.
    El20,
}

/// Why something could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// There is no page left for a table.
    OutOfTables,
    /// A part of it is mapped already, as something else.
    Taken(Pa),
    /// Above the 48 bits that EL2's tables reach, or not page aligned.
    BadSpan,
}

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_DEVICE: u64 = 0 << 2;
const ATTR_NORMAL: u64 = 1 << 2;
/// AP[1] is RES1 in a regime with one privilege level.
const AP_RES1: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;
/// XN with one privilege level, UXN with two.
const EXECUTE_NEVER: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// MAIR_EL2: attribute 0 is Device-nGnRE, attribute 1 is Normal, write-back, read and write allocate.
pub const MAIR: u64 = 0x04 | 0xff << 8;

/// TCR_EL2 (E2H = 0): 48 bits, 4 KiB granule, inner-shareable write-back walks, `PS` as the CPU has it (at most 48 bits).
pub fn tcr(pa_range_field: u64) -> u64 {
    const RES1: u64 = 1 << 31 | 1 << 23;
    const WALKS: u64 = 1 << 8 | 1 << 10 | 3 << 12;
    RES1 | WALKS | 16 | pa_range_field.min(5) << 16
}

/// TCR_EL1, and TCR_EL2 with E2H = 1, for the same tables in TTBR0 (IPS is where PS is not, TTBR1 has the same size and granule and
/// is not walked).
pub fn tcr_two_levels(pa_range_field: u64) -> u64 {
    const NO_TTBR1_WALKS: u64 = 1 << 23;
    const TTBR1_LIKE_TTBR0: u64 = 16 << 16 | 2 << 30;
    (tcr(0) & 0xffff) | NO_TTBR1_WALKS | TTBR1_LIKE_TTBR0 | pa_range_field.min(5) << 32
}

/// Who walks the tables: what has to be said to them after a change.
pub trait Walkers {
    /// The stores to the tables are seen by every walker before anything after this.
    fn published(&mut self);
    /// No TLB has a translation of a page or block of `span`, and its entries are invalid by now. `size`: bytes of each.
    fn forget(&mut self, span: Span<Pa>, size: u64);
}

/// The CPUs.
#[derive(Debug, Default)]
pub struct Cpus;

/// The tables. The root and all tables under it are reached at their physical addresses.
#[derive(Debug)]
pub struct Stage1<W = Cpus> {
    root: u64,
    regime: Regime,
    walkers: W,
}

impl<W: Walkers + Default> Stage1<W> {
    /// Empty tables of this regime with their root in `page`.
    ///
    /// # Safety
    /// `page` is a zeroed page that nobody else uses, at its physical address.
    pub unsafe fn new(page: Pa, regime: Regime) -> Self {
        Self { root: page.as_u64(), regime, walkers: W::default() }
    }
    /// The root's address, for TTBR0_EL2.
    pub fn root(&self) -> Pa {
        Pa::new(self.root)
    }
    /// Maps `span` (whole pages) where it lies, in 2 MiB blocks where `blocks` is set and it is aligned.
    /// `page` gives zeroed pages for tables. Mapping again what is mapped in the same way changes nothing.
    pub fn map(
        &mut self,
        span: Span<Pa>,
        kind: Kind,
        blocks: bool,
        page: &mut dyn FnMut() -> Option<Pa>,
    ) -> Result<(), MapError> {
        if !span.start().is_aligned(PAGE_SIZE)
            || !span.size().is_multiple_of(PAGE_SIZE)
            || span.end().as_u64() >> 48 != 0
        {
            return Err(MapError::BadSpan);
        }
        let mut at = span.start().as_u64();
        let end = span.end().as_u64();
        while at < end {
            let block = blocks && at.is_multiple_of(BLOCK_SIZE) && end - at >= BLOCK_SIZE;
            let (level, size) = if block { (2, BLOCK_SIZE) } else { (3, PAGE_SIZE) };
            let entry = match self.entry(at, level, page)? {
                Found::Entry(entry) => entry,
                Found::Block(block, size) => {
                    // Under a larger block already: fine if that is of the same kind.
                    if block & !ADDRESS != leaf(self.regime, kind, 2) {
                        return Err(MapError::Taken(Pa::new(at)));
                    }
                    at = (at & !(size - 1)) + size;
                    continue;
                }
            };
            let new = at | leaf(self.regime, kind, level);
            let old = load(entry);
            if old & VALID == 0 {
                store(entry, new);
            } else if old != new {
                return Err(MapError::Taken(Pa::new(at)));
            }
            at += size;
        }
        self.walkers.published();
        Ok(())
    }
    /// Takes the mapping of `span` away: whole 2 MiB blocks of [`Kind::Data`] that were mapped as blocks. What of it is not
    /// mapped is passed over; on an error, so is what lies behind. Afterwards no TLB knows any of it.
    pub fn unmap_blocks(&mut self, span: Span<Pa>) -> Result<(), MapError> {
        if !span.start().is_aligned(BLOCK_SIZE) || !span.size().is_multiple_of(BLOCK_SIZE) {
            return Err(MapError::BadSpan);
        }
        let mut at = span.start().as_u64();
        let mut result = Ok(());
        while at < span.end().as_u64() {
            match self.entry(at, 2, &mut || None) {
                Ok(Found::Entry(entry)) if load(entry) == at | leaf(self.regime, Kind::Data, 2) => store(entry, 0),
                Ok(Found::Entry(entry)) if load(entry) & VALID == 0 => {}
                Ok(_) => {
                    result = Err(MapError::Taken(Pa::new(at)));
                    break;
                }
                // There is not even a table for it.
                Err(_) => {}
            }
            at += BLOCK_SIZE;
        }
        self.walkers.forget(span, BLOCK_SIZE);
        result
    }
    /// Takes the mapping of one page away (a guard under a stack). The page must have been mapped as a page.
    pub fn unmap_page(&mut self, at: Pa) -> Result<(), MapError> {
        match self.entry(at.as_u64(), 3, &mut || None)? {
            Found::Entry(entry) => store(entry, 0),
            Found::Block(..) => return Err(MapError::Taken(at)),
        }
        let page = Span::new(at, PAGE_SIZE).ok_or(MapError::BadSpan)?;
        self.walkers.forget(page, PAGE_SIZE);
        Ok(())
    }
    /// The address of the level-`level` entry for `at`, tables made on the way.
    fn entry(&mut self, at: u64, level: u32, page: &mut dyn FnMut() -> Option<Pa>) -> Result<Found, MapError> {
        let mut table = self.root;
        let mut here = 0;
        loop {
            let shift = 39 - 9 * here;
            let entry = table + (at >> shift & 0x1ff) * 8;
            if here == level {
                return Ok(Found::Entry(entry));
            }
            let value = load(entry);
            if value & VALID == 0 {
                let new = page().ok_or(MapError::OutOfTables)?.as_u64();
                // The zeroes of the new table must be seen by the table walker before the table is.
                self.walkers.published();
                store(entry, new | VALID | TABLE_OR_PAGE);
                table = new;
            } else if value & TABLE_OR_PAGE == 0 {
                return Ok(Found::Block(value, 1 << shift));
            } else {
                table = value & ADDRESS;
            }
            here += 1;
        }
    }
}

enum Found {
    Entry(u64),
    Block(u64, u64),
}

fn leaf(regime: Regime, kind: Kind, level: u32) -> u64 {
    let (always, never) = match regime {
        Regime::El2 => (AP_RES1, EXECUTE_NEVER),
        Regime::El20 => (EXECUTE_NEVER, PRIVILEGED_EXECUTE_NEVER),
    };
    let kind = match kind {
        Kind::Text => ATTR_NORMAL | INNER_SHAREABLE | AP_READ_ONLY,
        Kind::ReadOnly => ATTR_NORMAL | INNER_SHAREABLE | AP_READ_ONLY | never,
        Kind::Data => ATTR_NORMAL | INNER_SHAREABLE | never,
        Kind::Device => ATTR_DEVICE | never,
    };
    kind | VALID | always | ACCESS_FLAG | if level == 3 { TABLE_OR_PAGE } else { 0 }
}

fn load(entry: u64) -> u64 {
    // SAFETY: `entry` is an aligned slot of a table page that `Stage1` owns (its maker gave the root, `page` the others).
    unsafe { (entry as *const u64).read_volatile() }
}

fn store(entry: u64, value: u64) {
    // SAFETY: as for `load`; `&mut Stage1` makes us the only writer, and an aligned 64-bit store is single-copy atomic.
    unsafe { (entry as *mut u64).write_volatile(value) }
}
