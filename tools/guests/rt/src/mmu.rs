//! Changes to the identity map, and translation tables that a test builds for itself.

use crate::mmio::RAM;
use crate::sysreg::isb;
use crate::{cpu, entry, mrs, msr};
use core::sync::atomic::{AtomicU64, Ordering};

/// Index of the root entry that tests change: nothing is mapped there otherwise.
const SPARE: u64 = 500;
const VALID_BLOCK: u64 = 1;
const VALID_TABLE: u64 = 3;
const VALID_PAGE: u64 = 3;
const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const INNER: u64 = 3 << 8;
const NEVER_EXECUTE: u64 = 3 << 53;
const CACHEABLE: u64 = (Attribute::Cacheable as u64) << 2;

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

/// Maps 2 MiB by a level 3 table at `table`; returns where they start.
pub fn last_table_alias(table: u64) -> u64 {
    TABLES[0].set(0, table | VALID_TABLE);
    table_alias(TABLES[0].at())
}

/// Takes the alias back.
pub fn unalias() {
    set_spare(0);
}

/// TCR_EL1: EPD1.
const NO_UPPER: u64 = 1 << 23;

/// Has the upper half translated by tables at `root`, with T1SZ as given (16 to 39).
pub fn set_upper(root: u64, granule: Granule, size: u64) {
    msr!("TCR_EL1", entry::TCR & !NO_UPPER | size << 16 | granule.tg1() << 30);
    msr!("TTBR1_EL1", root);
    forget_upper();
}

/// Has nothing translated in the upper half.
pub fn unset_upper() {
    msr!("TCR_EL1", entry::TCR);
    msr!("TTBR1_EL1", 0);
    forget_upper();
}

fn forget_upper() {
    crate::run!("isb\ntlbi vmalle1\ndsb nsh\nisb");
}

/// Calls an address, at which there may be nothing: the fault's handler returns.
pub fn call(at: u64) {
    // SAFETY: a fault returns to x30, and code that a test puts there keeps the calling convention.
    unsafe { core::arch::asm!("blr {0}", in(reg) at, clobber_abi("C")) };
}

#[repr(align(65536))]
struct Table<const N: usize>([AtomicU64; N]);

impl<const N: usize> Table<N> {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }

    fn at(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    fn set(&self, n: usize, value: u64) {
        self.0[n].store(value, Ordering::SeqCst);
    }
}

/// Turns the MMU off, changes tables and granule, and turns it on again, without an access to memory in between. The
/// code runs at the same address in both maps.
fn switch(ttbr: u64, tcr: u64) {
    // SAFETY: both maps are the identity for all that Rust uses.
    unsafe {
        core::arch::asm!(
            "dsb sy",
            "msr SCTLR_EL1, {off}",
            "isb",
            "msr TTBR0_EL1, {ttbr}",
            "msr TCR_EL1, {tcr}",
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            "msr SCTLR_EL1, {on}",
            "isb",
            off = in(reg) entry::SCTLR_OFF, on = in(reg) entry::SCTLR_ON, ttbr = in(reg) ttbr, tcr = in(reg) tcr,
            options(nostack)
        );
    }
}

/// Words of root, level 2 table, level 3 table and two data pages, 4 KiB each; then room to the next 64 KiB.
const PRIVATE: usize = 8 * 512;
static PRIVATES: [Table<PRIVATE>; cpu::FEW] = [const { Table::new() }; cpu::FEW];
/// The ASID that all CPUs use for their private maps.
const ASID: u64 = 5;

/// A map in which this CPU has a page of its own at an address where other CPUs have theirs, by the same ASID.
pub struct PrivateMap {
    tables: &'static Table<PRIVATE>,
}

impl PrivateMap {
    /// Makes it this CPU's map.
    pub fn enter(cpu: usize) -> Self {
        let tables = &PRIVATES[cpu];
        let root = entry::root() as *const AtomicU64;
        for n in 0..512 {
            // SAFETY: the root table has 512 entries, all accessed as atomics.
            tables.set(n, unsafe { &*root.add(n) }.load(Ordering::SeqCst));
        }
        tables.set(SPARE as usize, (tables.at() + 4096) | VALID_TABLE);
        tables.set(512, (tables.at() + 2 * 4096) | VALID_TABLE);
        tables.set(1024, 0);
        crate::run!("dsb ish");
        switch(tables.at() | ASID << 48, entry::TCR);
        Self { tables }
    }

    /// Where the page is.
    pub fn address(&self) -> u64 {
        SPARE << 30
    }

    /// Makes the address mean this CPU's data page 0 or 1, and invalidates on this CPU only.
    pub fn point_to(&self, page: u64) {
        let data = self.tables.at() + (3 + page) * 4096;
        for value in [0, data | CACHEABLE | INNER | ACCESSED | NOT_GLOBAL | NEVER_EXECUTE | VALID_PAGE] {
            self.tables.set(1024, value);
            let operand = ASID << 48 | self.address() >> 12;
            // SAFETY: invalidates a translation that only the test uses.
            unsafe {
                core::arch::asm!("dsb nshst", "tlbi vae1, {0}", "dsb nsh", "isb", in(reg) operand, options(nostack));
            }
        }
    }

    /// Back to the runtime's map.
    pub fn leave(self) {
        switch(entry::root(), entry::TCR);
    }
}

/// A stage 1 granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// 4 KiB.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

impl Granule {
    /// Bytes of a page.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Kib4 => 4 << 10,
            Self::Kib16 => 16 << 10,
            Self::Kib64 => 64 << 10,
        }
    }

    /// TCR_EL1.TG0.
    pub fn tg0(self) -> u64 {
        match self {
            Self::Kib4 => 0,
            Self::Kib16 => 2,
            Self::Kib64 => 1,
        }
    }

    /// TCR_EL1.TG1.
    pub fn tg1(self) -> u64 {
        match self {
            Self::Kib4 => 2,
            Self::Kib16 => 1,
            Self::Kib64 => 3,
        }
    }

    /// Whether ID_AA64MMFR0_EL1 says that this CPU has it.
    pub fn is_there(self) -> bool {
        let mmfr0 = mrs!("ID_AA64MMFR0_EL1");
        match self {
            Self::Kib4 => mmfr0 >> 28 & 15 != 15,
            Self::Kib16 => mmfr0 >> 20 & 15 != 0,
            Self::Kib64 => mmfr0 >> 24 & 15 != 15,
        }
    }
}

/// 64 KiB each: the root, a level 2 table of identity blocks, one towards the page, its level 3 table, the page.
static TABLES: [Table<8192>; 5] = [const { Table::new() }; 5];

/// Switches this CPU to an identity map of that granule, in blocks; returns an address at which a page of it maps data
/// that [`check_granule_page`] sees. Nothing is mapped beside the page.
pub fn enter_granule(granule: Granule) -> u64 {
    TABLES.iter().flat_map(|table| &table.0).for_each(|word| word.store(0, Ordering::Relaxed));
    let [root, blocks, pages, last, data] = &TABLES;
    let block = |at: u64| {
        let kind = if at < RAM { NEVER_EXECUTE } else { CACHEABLE | INNER };
        at | kind | ACCESSED | VALID_BLOCK
    };
    let page = data.at() | CACHEABLE | INNER | ACCESSED | NEVER_EXECUTE | VALID_PAGE;
    // Where the page is: beyond the identity map, its first address at each level.
    let at = SPARE << 30;
    match granule {
        Granule::Kib4 => {
            (0..entry::MAPPED_GIB).for_each(|n| root.set(n as usize, block(n << 30)));
            root.set(SPARE as usize, pages.at() | VALID_TABLE);
            pages.set(0, last.at() | VALID_TABLE);
        }
        Granule::Kib16 => {
            // Level 1 has 64 GiB an entry, level 2 32 MiB.
            (0..2048).for_each(|n| blocks.set(n as usize, block(n << 25)));
            root.set(0, blocks.at() | VALID_TABLE);
            root.set((at >> 36) as usize, pages.at() | VALID_TABLE);
            pages.set((at >> 25) as usize % 2048, last.at() | VALID_TABLE);
        }
        Granule::Kib64 => {
            // Level 2, 512 MiB an entry, is the root.
            (0..entry::MAPPED_GIB * 2).for_each(|n| root.set(n as usize, block(n << 29)));
            root.set((at >> 29) as usize, last.at() | VALID_TABLE);
        }
    }
    last.set(0, page);
    crate::run!("dsb ish");
    switch(root.at(), entry::TCR | granule.tg0() << 14);
    at
}

/// Back to the runtime's map.
pub fn leave_granule() {
    switch(entry::root(), entry::TCR);
}

/// Calls `see` with number and value of each of the first 512 words of the page's data, read through the identity map.
pub fn check_granule_page(mut see: impl FnMut(u64, u64)) {
    let data = &TABLES[4];
    (0..512).for_each(|n| see(n, data.0[n as usize].load(Ordering::SeqCst)));
}

/// Where [`UserMap`] has its page of code; the page of data follows. Below 4 GiB, for a 32-bit program.
pub const USER: u64 = 3 << 30;

/// A map in which EL0 has a page of code and a page of data of this CPU's own, and the devices as everywhere.
pub struct UserMap {
    tables: &'static Table<PRIVATE>,
}

impl UserMap {
    /// Makes it this CPU's map.
    pub fn enter(cpu: usize) -> Self {
        // Read only and executable; EL0 may read and write, nobody executes. (Executable at EL1 too: an instruction abort would
        // come before the exception for an illegal state.)
        const CODE: u64 = 3 << 6;
        const DATA: u64 = 1 << 6 | NEVER_EXECUTE;
        let tables = &PRIVATES[cpu];
        let root = entry::root() as *const AtomicU64;
        for n in 0..512 {
            // SAFETY: the root table has 512 entries, all accessed as atomics.
            tables.set(n, unsafe { &*root.add(n) }.load(Ordering::SeqCst));
        }
        tables.set((USER >> 30) as usize, (tables.at() + 4096) | VALID_TABLE);
        tables.set(512, (tables.at() + 2 * 4096) | VALID_TABLE);
        for (n, rights) in [CODE, DATA].into_iter().enumerate() {
            let at = tables.at() + (3 + n as u64) * 4096;
            tables.set(1024 + n, at | rights | CACHEABLE | INNER | ACCESSED | NOT_GLOBAL | VALID_PAGE);
        }
        crate::run!("dsb ish");
        switch(tables.at() | ASID << 48, entry::TCR);
        Self { tables }
    }

    /// Writes the code that is at [`USER`].
    pub fn set_code(&self, words: &[u32]) {
        let at = self.tables.at() + 3 * 4096;
        for (n, word) in words.iter().enumerate() {
            crate::mmio::write32(at + 4 * n as u64, *word);
        }
        crate::sysreg::sync_code(at, 4 * words.len() as u64);
        // The code is fetched by another address: an instruction cache may be virtually indexed.
        crate::run!("ic iallu\ndsb nsh\nisb");
    }

    /// Back to the runtime's map.
    pub fn leave(self) {
        switch(entry::root(), entry::TCR);
    }
}
