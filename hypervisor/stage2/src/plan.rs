//! How many tables an edit needs, counted before its first write.

use crate::descriptor::{Entry, LAST_LEVEL, decode, entry_size};
use crate::edit::pieces;
use crate::{MapError, Stage2, Tables};
use addr::{Address, Ipa, Pa, Span};

impl Stage2 {
    /// How many tables `split_ends` takes.
    pub(crate) fn tables_to_split(&self, span: Span<Ipa>, tables: &impl Tables) -> usize {
        if span.is_empty() {
            return 0;
        }
        let for_start = self.splits_at(span.start(), None, tables);
        for_start.saturating_add(self.splits_at(span.end(), Some(span.start()), tables))
    }

    /// How many blocks are split to bring a boundary to `at`, once one was brought to `before`.
    fn splits_at(&self, at: Ipa, before: Option<Ipa>, tables: &impl Tables) -> usize {
        if at.as_u64() >= self.geometry.ipa_size() {
            return 0;
        }
        let (raw, leaf_level) = self.entry_of(at, tables);
        if !matches!(decode(raw, leaf_level), Entry::Leaf(_)) {
            return 0;
        }
        let split_already =
            |size| before.is_some_and(|b: Ipa| b.align_down(size) == at.align_down(size) && !b.is_aligned(size));
        (leaf_level..LAST_LEVEL).map(entry_size).filter(|&size| !at.is_aligned(size) && !split_already(size)).count()
    }

    /// How many tables `fill` takes for `span` below `table` (`None`: a table that does not exist yet).
    pub(crate) fn tables_to_fill(
        &self,
        table: Option<Pa>,
        level: u8,
        span: Span<Ipa>,
        pa: Pa,
        tables: &impl Tables,
    ) -> Result<usize, MapError> {
        if table.is_none() && level == LAST_LEVEL {
            return Ok(0);
        }
        let mut needed = 0_usize;
        for piece in pieces(span, level, self.geometry.start_level()) {
            let target = piece.target(span, pa);
            let raw = table.map_or(0, |t| tables.read(t, piece.index));
            let below = match decode(raw, level) {
                Entry::Leaf(_) => return Err(MapError::Overlap { at: piece.span.start() }),
                Entry::Table(next) => Some(next),
                Entry::Invalid if piece.fits_leaf(target) => continue,
                Entry::Invalid => {
                    needed = needed.saturating_add(1);
                    None
                }
            };
            let more = self.tables_to_fill(below, level.saturating_add(1), piece.span, target, tables)?;
            needed = needed.saturating_add(more);
        }
        Ok(needed)
    }
}
