//! Which memory stands behind a guest's RAM.

use addr::{Address, Ipa, Pa, Span};
use alloc::vec::Vec;

/// A guest's RAM: one span of its addresses, made of extents of the machine's memory in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestRam {
    span: Span<Ipa>,
    /// Ascending, without holes.
    extents: Vec<(Ipa, Span<Pa>)>,
}

impl GuestRam {
    /// RAM from `base` on; `None` if there is none, or if its end would wrap.
    pub fn new(base: Ipa, memory: impl IntoIterator<Item = Span<Pa>>) -> Option<Self> {
        let mut extents = Vec::new();
        let mut end = base;
        for extent in memory.into_iter().filter(|e| !e.is_empty()) {
            extents.push((end, extent));
            end = end.checked_add(extent.size())?;
        }
        let span = Span::from_bounds(base, end).filter(|s| !s.is_empty())?;
        Some(Self { span, extents })
    }

    /// Where the guest sees it.
    pub fn span(&self) -> Span<Ipa> {
        self.span
    }

    /// Each extent's first guest address, and its memory.
    pub fn extents(&self) -> &[(Ipa, Span<Pa>)] {
        &self.extents
    }

    /// The memory at `at`, and how many of the `len` bytes from there lie in a row. `None` outside RAM.
    #[inline]
    pub fn translate(&self, at: Ipa, len: u64) -> Option<(Pa, u64)> {
        let (first, extent) = match self.extents.as_slice() {
            // Most guests' RAM is in one piece, and devices ask for each buffer.
            [only] => only,
            extents => extents.get(extents.partition_point(|(first, _)| *first <= at).checked_sub(1)?)?,
        };
        let offset = at.offset_from(*first)?;
        let left = extent.size().checked_sub(offset).filter(|left| *left != 0)?;
        // The address is often the guest's choice (a descriptor's, a table's), and what is read there chooses the next.
        let offset = sync::nospec::below(offset, extent.size());
        Some((extent.start().checked_add(offset)?, left.min(len)))
    }
}
