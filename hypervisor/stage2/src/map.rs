//! One VM's stage-2 tables.

use crate::descriptor::{self, Attrs, ENTRIES, Entry, Memory, Rights, decode, entry_size};
use crate::edit::{Cleared, Reserve, index, pieces};
use crate::{Flush, Geometry, OutOfTables, Tables, TlbWork, Vmid};
use addr::{Address, Ipa, PAGE_SIZE, Pa, Span};

/// Why a span could not be mapped, unmapped or changed. Nothing was changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// An address or the size is no multiple of 4 KiB.
    Unaligned,
    /// The span ends above the VM's address space.
    OutsideIpa,
    /// The memory ends above what a descriptor can hold.
    OutsidePa,
    /// Something is mapped in the span already; the first such address.
    Overlap {
        /// The first mapped address of the span, or the start of what is mapped around it.
        at: Ipa,
    },
    /// Device memory is never executable (Arm ARM: a fetch from it is constrained unpredictable).
    ExecutableDevice,
    /// There is no memory for the tables that the change needs.
    OutOfTables,
}

impl From<OutOfTables> for MapError {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

/// What stands behind an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// Memory.
    Mapped {
        /// Where exactly this address lies.
        pa: Pa,
        /// What it is and allows.
        attrs: Attrs,
        /// The level of the leaf: 1 (1 GiB), 2 (2 MiB) or 3 (4 KiB).
        level: u8,
    },
    /// Nothing.
    Unmapped {
        /// The level of the invalid entry.
        level: u8,
    },
    /// The address is beyond the VM's address space.
    OutOfRange,
}

/// One VM's stage-2 tables. Holds memory of [`Tables`] until [`Self::destroy`].
#[derive(Debug)]
#[must_use = "the tables leak unless they are destroyed"]
pub struct Stage2 {
    pub(crate) root: Pa,
    pub(crate) geometry: Geometry,
}

impl Stage2 {
    /// Empty tables.
    pub fn new(geometry: Geometry, tables: &mut impl Tables) -> Result<Self, OutOfTables> {
        Ok(Self { root: tables.alloc(geometry.root_pages())?, geometry })
    }

    /// The first root table.
    pub fn root(&self) -> Pa {
        self.root
    }

    /// The shape of the tables.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// `VTTBR_EL2` for this VM under `vmid` (CnP is 0: pCPUs do not share TLB entries).
    pub fn vttbr(&self, vmid: Vmid) -> u64 {
        u64::from(vmid.as_u16()).wrapping_shl(48) | self.root.as_u64()
    }

    /// Maps `span` to the memory at `pa`, with 1 GiB and 2 MiB blocks wherever both addresses are aligned.
    ///
    /// Refuses a span of which any page is mapped already ([`MapError::Overlap`]).
    pub fn map(
        &mut self,
        span: Span<Ipa>,
        pa: Pa,
        attrs: Attrs,
        tables: &mut impl Tables,
        tlb: &mut impl TlbWork,
    ) -> Result<(), MapError> {
        self.check_span(span)?;
        self.check_memory(span, pa, attrs)?;
        let needed = self.tables_to_fill(Some(self.root), self.geometry.start_level(), span, pa, tables)?;
        let mut reserve = Reserve::take(needed, tables)?;
        let filled = self.fill(self.root, self.geometry.start_level(), span, pa, attrs, tables, &mut reserve);
        reserve.give_back(tables);
        tlb.published();
        Ok(filled?)
    }

    /// Maps `span` to the memory at `pa` whatever was mapped there before. The guest may fault on the span meanwhile.
    ///
    /// The tables on the way to both ends of `span` (six at most) must be free while this runs even if they exist already.
    pub fn remap(
        &mut self,
        span: Span<Ipa>,
        pa: Pa,
        attrs: Attrs,
        tables: &mut impl Tables,
        tlb: &mut impl TlbWork,
    ) -> Result<(), MapError> {
        self.check_span(span)?;
        self.check_memory(span, pa, attrs)?;
        let start = self.geometry.start_level();
        // Counted as if nothing existed. That covers the splits: a block is split only where the fill passes through with
        // a table, and the split's table stays for it, because what lies outside of `span` keeps it from being empty.
        let needed = self.tables_to_fill(None, start, span, pa, tables)?;
        let mut reserve = Reserve::take(needed, tables)?;
        let done = self.clear_span(span, &mut reserve, tables, tlb);
        let done = done.and_then(|()| self.fill(self.root, start, span, pa, attrs, tables, &mut reserve));
        reserve.give_back(tables);
        tlb.published();
        Ok(done?)
    }

    /// Unmaps whatever of `span` is mapped. When it returns, no guest reaches the memory any more.
    ///
    /// Needs memory for tables only where an end of `span` lies inside a block, which is split.
    pub fn unmap(&mut self, span: Span<Ipa>, tables: &mut impl Tables, tlb: &mut impl TlbWork) -> Result<(), MapError> {
        self.check_span(span)?;
        let mut reserve = Reserve::take(self.tables_to_split(span, tables), tables)?;
        let done = self.clear_span(span, &mut reserve, tables, tlb);
        reserve.give_back(tables);
        Ok(done?)
    }

    /// Changes the rights of whatever of `span` is mapped, splitting blocks at its ends. Device memory never becomes
    /// executable. The memory's type is changed by [`Self::remap`] only.
    pub fn protect(
        &mut self,
        span: Span<Ipa>,
        rights: Rights,
        tables: &mut impl Tables,
        tlb: &mut impl TlbWork,
    ) -> Result<(), MapError> {
        self.check_span(span)?;
        let mut reserve = Reserve::take(self.tables_to_split(span, tables), tables)?;
        let split = self.split_ends(span, &mut reserve, tables, tlb);
        reserve.give_back(tables);
        split?;
        let mut changed = Cleared::new();
        self.set_rights(self.root, self.geometry.start_level(), span, rights, tables, &mut changed);
        changed.finish(tables, tlb);
        Ok(())
    }

    /// What stands behind `at`.
    pub fn walk(&self, at: Ipa, tables: &impl Tables) -> Walk {
        if at.as_u64() >= self.geometry.ipa_size() {
            return Walk::OutOfRange;
        }
        let (raw, level) = self.entry_of(at, tables);
        match decode(raw, level) {
            Entry::Leaf(base) => {
                let inside = at.as_u64() & entry_size(level).wrapping_sub(1);
                let pa = Pa::new(base.as_u64().wrapping_add(inside));
                Walk::Mapped { pa, attrs: descriptor::attrs(raw), level }
            }
            _ => Walk::Unmapped { level },
        }
    }

    /// Frees every table. The caller has seen to it that no pCPU's `VTTBR_EL2` names these tables any more.
    pub fn destroy(self, tables: &mut impl Tables, tlb: &mut impl TlbWork) {
        let mut cleared = Cleared::new();
        let pages = self.geometry.root_pages();
        for i in 0..pages.saturating_mul(ENTRIES) {
            let raw = tables.read(self.root, i);
            if raw != 0 {
                tables.write(self.root, i, 0);
                cleared.everything();
            }
            if let Entry::Table(t) = decode(raw, self.geometry.start_level()) {
                cleared.unlinked(t, self.geometry.start_level().saturating_add(1), tables);
            }
        }
        cleared.finish(tables, tlb);
        tables.free(self.root, pages);
    }

    fn check_span(&self, span: Span<Ipa>) -> Result<(), MapError> {
        if !span.start().is_aligned(PAGE_SIZE) || span.size() & PAGE_SIZE.wrapping_sub(1) != 0 {
            return Err(MapError::Unaligned);
        }
        if span.end().as_u64() > self.geometry.ipa_size() { Err(MapError::OutsideIpa) } else { Ok(()) }
    }

    fn check_memory(&self, span: Span<Ipa>, pa: Pa, attrs: Attrs) -> Result<(), MapError> {
        if !pa.is_aligned(PAGE_SIZE) {
            return Err(MapError::Unaligned);
        }
        if pa.checked_add(span.size()).is_none_or(|end| end.as_u64() > self.geometry.pa_size()) {
            return Err(MapError::OutsidePa);
        }
        if attrs.memory == Memory::Device && attrs.rights.execute { Err(MapError::ExecutableDevice) } else { Ok(()) }
    }

    /// The last entry of the walk to `at`, and its level.
    pub(crate) fn entry_of(&self, at: Ipa, tables: &impl Tables) -> (u64, u8) {
        let (mut table, mut level) = (self.root, self.geometry.start_level());
        loop {
            let raw = tables.read(table, index(at, level, self.geometry.start_level()));
            match decode(raw, level) {
                Entry::Table(next) => (table, level) = (next, level.saturating_add(1)),
                _ => return (raw, level),
            }
        }
    }

    /// Splits at both ends of `span`, then makes everything in it invalid.
    fn clear_span(
        &self,
        span: Span<Ipa>,
        reserve: &mut Reserve,
        tables: &mut impl Tables,
        tlb: &mut impl TlbWork,
    ) -> Result<(), OutOfTables> {
        self.split_ends(span, reserve, tables, tlb)?;
        let mut cleared = Cleared::new();
        self.clear(self.root, self.geometry.start_level(), span, tables, &mut cleared);
        cleared.finish(tables, tlb);
        Ok(())
    }

    fn split_ends(
        &self,
        span: Span<Ipa>,
        reserve: &mut Reserve,
        tables: &mut impl Tables,
        tlb: &mut impl TlbWork,
    ) -> Result<(), OutOfTables> {
        if span.is_empty() {
            return Ok(());
        }
        self.split_at(span.start(), reserve, tables, tlb)?;
        self.split_at(span.end(), reserve, tables, tlb)
    }

    /// Splits blocks until `at` lies on a leaf's boundary.
    fn split_at(
        &self,
        at: Ipa,
        reserve: &mut Reserve,
        tables: &mut impl Tables,
        tlb: &mut impl TlbWork,
    ) -> Result<(), OutOfTables> {
        let (mut table, mut level) = (self.root, self.geometry.start_level());
        while !at.is_aligned(entry_size(level)) {
            let slot = index(at, level, self.geometry.start_level());
            let raw = tables.read(table, slot);
            table = match decode(raw, level) {
                Entry::Invalid => return Ok(()),
                Entry::Table(next) => next,
                Entry::Leaf(_) => {
                    let new = reserve.next(tables)?;
                    let step = entry_size(level.saturating_add(1));
                    for (i, offset) in (0..ENTRIES).zip((0_u64..).step_by(step as usize)) {
                        tables.write(new, i, descriptor::child(raw, level, offset));
                    }
                    // Break, and only then make.
                    tables.write(table, slot, 0);
                    tlb.flush(Flush::Leaves(&[crate::Leaf { ipa: at.align_down(entry_size(level)), level }]));
                    tables.write(table, slot, descriptor::table(new));
                    tlb.published();
                    new
                }
            };
            level = level.saturating_add(1);
        }
        Ok(())
    }

    /// Maps `span`, of which nothing is mapped. A new table is filled before anything refers to it.
    #[expect(clippy::too_many_arguments, reason = "one step of a recursion")]
    fn fill(
        &self,
        table: Pa,
        level: u8,
        span: Span<Ipa>,
        pa: Pa,
        attrs: Attrs,
        tables: &mut impl Tables,
        reserve: &mut Reserve,
    ) -> Result<(), OutOfTables> {
        for piece in pieces(span, level, self.geometry.start_level()) {
            let target = piece.target(span, pa);
            let below = level.saturating_add(1);
            if piece.fits_leaf(target) {
                tables.write(table, piece.index, descriptor::leaf(level, target, attrs, self.geometry.fwb()));
            } else if let Entry::Table(next) = decode(tables.read(table, piece.index), level) {
                self.fill(next, below, piece.span, target, attrs, tables, reserve)?;
            } else {
                let new = reserve.next(tables)?;
                self.fill(new, below, piece.span, target, attrs, tables, reserve)?;
                tables.write(table, piece.index, descriptor::table(new));
            }
        }
        Ok(())
    }

    /// Makes everything in `span` invalid and unlinks the tables that become empty.
    fn clear(&self, table: Pa, level: u8, span: Span<Ipa>, tables: &mut impl Tables, cleared: &mut Cleared) {
        for piece in pieces(span, level, self.geometry.start_level()) {
            match decode(tables.read(table, piece.index), level) {
                Entry::Invalid => {}
                Entry::Leaf(_) => {
                    tables.write(table, piece.index, 0);
                    cleared.leaf(piece.span.start(), level);
                }
                Entry::Table(next) => {
                    let below = level.saturating_add(1);
                    if !piece.whole {
                        self.clear(next, below, piece.span, tables, cleared);
                        if (0..ENTRIES).any(|i| tables.read(next, i) != 0) {
                            continue;
                        }
                    }
                    tables.write(table, piece.index, 0);
                    cleared.unlinked(next, below, tables);
                }
            }
        }
    }

    /// Rewrites the rights of every leaf in `span`, in place: rights alone need no break-before-make.
    fn set_rights(
        &self,
        table: Pa,
        level: u8,
        span: Span<Ipa>,
        rights: Rights,
        tables: &mut impl Tables,
        changed: &mut Cleared,
    ) {
        for piece in pieces(span, level, self.geometry.start_level()) {
            let raw = tables.read(table, piece.index);
            match decode(raw, level) {
                Entry::Invalid => {}
                Entry::Table(next) => {
                    self.set_rights(next, level.saturating_add(1), piece.span, rights, tables, changed);
                }
                Entry::Leaf(_) => {
                    let new = descriptor::with_rights(raw, rights);
                    if new != raw {
                        tables.write(table, piece.index, new);
                        changed.leaf(piece.span.start(), level);
                    }
                }
            }
        }
    }
}
