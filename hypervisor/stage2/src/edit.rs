//! The small parts of an edit: how a span falls onto a table's entries, tables taken in advance, and what was made invalid.

use crate::descriptor::{ENTRIES, Entry, LAST_LEVEL, decode, entry_shift, entry_size};
use crate::{Flush, Leaf, OutOfTables, Tables, TlbWork};
use addr::{Address, Ipa, Pa, Span};

/// Above this many leaves one flush of the whole VM is cheaper than so many broadcasts.
const MAX_LEAVES: usize = 16;

/// Where the entry for `at` stands in a table of `level`. The root may be several tables in a row.
pub(crate) fn index(at: Ipa, level: u8, start_level: u8) -> usize {
    let entry = at.as_u64().wrapping_shr(entry_shift(level)) as usize;
    if level == start_level { entry } else { entry & ENTRIES.wrapping_sub(1) }
}

/// The part of a span that one entry stands for.
pub(crate) struct Piece {
    pub index: usize,
    pub span: Span<Ipa>,
    /// Whether it is all that the entry stands for.
    pub whole: bool,
    level: u8,
}

impl Piece {
    /// Where this piece of `span` goes if `span` goes to `pa`.
    pub fn target(&self, span: Span<Ipa>, pa: Pa) -> Pa {
        let offset = self.span.start().as_u64().wrapping_sub(span.start().as_u64());
        Pa::new(pa.as_u64().wrapping_add(offset))
    }

    /// Whether one block or page can map it to `target`.
    pub fn fits_leaf(&self, target: Pa) -> bool {
        self.level > 0 && self.whole && target.is_aligned(entry_size(self.level))
    }
}

/// `span` cut at the entry boundaries of `level`.
pub(crate) fn pieces(span: Span<Ipa>, level: u8, start_level: u8) -> impl Iterator<Item = Piece> {
    let size = entry_size(level);
    let end = span.end();
    let mut at = span.start();
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = at.align_down(size).checked_add(size).map_or(end, |n| n.min(end));
        let span = Span::from_bounds(at, next)?;
        let piece = Piece { index: index(at, level, start_level), span, whole: span.size() == size, level };
        at = next;
        Some(piece)
    })
}

/// Tables in a row, each one's entry 0 holding the next one's address. Bit 0 of an address is clear, so that a walk that
/// still comes by finds an invalid entry.
struct Chain {
    head: Pa,
    len: usize,
}

impl Chain {
    fn push(&mut self, table: Pa, tables: &mut impl Tables) {
        tables.write(table, 0, self.head.as_u64());
        self.head = table;
        self.len = self.len.saturating_add(1);
    }

    fn pop(&mut self, tables: &mut impl Tables) -> Option<Pa> {
        self.len = self.len.checked_sub(1)?;
        let table = self.head;
        self.head = Pa::new(tables.read(table, 0));
        Some(table)
    }
}

/// Tables taken before the first write of an edit, so that the edit cannot run out of them half-way.
pub(crate) struct Reserve(Chain);

impl Reserve {
    pub fn take(count: usize, tables: &mut impl Tables) -> Result<Self, OutOfTables> {
        let mut reserve = Self(Chain { head: Pa::new(0), len: 0 });
        for _ in 0..count {
            match tables.alloc(1) {
                Ok(table) => reserve.0.push(table, tables),
                Err(e) => {
                    reserve.give_back(tables);
                    return Err(e);
                }
            }
        }
        Ok(reserve)
    }

    /// An empty table. The count given to [`Self::take`] is enough, so this fails only if the count is wrong.
    pub fn next(&mut self, tables: &mut impl Tables) -> Result<Pa, OutOfTables> {
        let table = self.0.pop(tables).ok_or(OutOfTables)?;
        tables.write(table, 0, 0);
        Ok(table)
    }

    pub fn give_back(mut self, tables: &mut impl Tables) {
        while let Some(table) = self.0.pop(tables) {
            tables.free(table, 1);
        }
    }
}

/// What an edit made invalid, and the tables it unlinked: freed when the TLBs have forgotten them.
pub(crate) struct Cleared {
    leaves: [Leaf; MAX_LEAVES],
    len: usize,
    whole_vm: bool,
    unlinked: Chain,
}

impl Cleared {
    pub fn new() -> Self {
        Self {
            leaves: [Leaf { ipa: Ipa::new(0), level: LAST_LEVEL }; MAX_LEAVES],
            len: 0,
            whole_vm: false,
            unlinked: Chain { head: Pa::new(0), len: 0 },
        }
    }

    pub fn leaf(&mut self, ipa: Ipa, level: u8) {
        match self.leaves.get_mut(self.len) {
            Some(slot) => {
                *slot = Leaf { ipa, level };
                self.len = self.len.saturating_add(1);
            }
            None => self.whole_vm = true,
        }
    }

    pub fn everything(&mut self) {
        self.whole_vm = true;
    }

    /// Nothing refers to `table` of `level` any more, nor then to what is below it.
    pub fn unlinked(&mut self, table: Pa, level: u8, tables: &mut impl Tables) {
        self.whole_vm = true;
        if level < LAST_LEVEL {
            for i in 0..ENTRIES {
                if let Entry::Table(next) = decode(tables.read(table, i), level) {
                    self.unlinked(next, level.saturating_add(1), tables);
                }
            }
        }
        self.unlinked.push(table, tables);
    }

    /// Invalidates, then frees.
    pub fn finish(mut self, tables: &mut impl Tables, tlb: &mut impl TlbWork) {
        if self.whole_vm {
            tlb.flush(Flush::Vm);
        } else if let Some(leaves) = self.leaves.get(..self.len).filter(|l| !l.is_empty()) {
            tlb.flush(Flush::Leaves(leaves));
        }
        while let Some(table) = self.unlinked.pop(tables) {
            tables.free(table, 1);
        }
    }
}
