//! The machine's frames and EL2's own map, which follows them; what is done to frames before they are a guest's.

use super::machine;
use addr::{BLOCK_SIZE, PAGE_SIZE, Pa, Span};
use alloc::vec::Vec;
use boot::stage1::{self, Kind, Stage1};
use el2::features::Features;
use el2::space::FrameSource;
use memory::{AccountId, Dirty, Frames, MemoryError, RamOps, Reach, Scrub};
use sync::SpinLock;

/// Frames, and EL2's own map, which follows them.
pub struct Memory {
    /// The frames.
    pub frames: Frames,
    /// EL2's translation tables.
    pub map: Stage1,
}

impl Memory {
    fn make_visible(&mut self, span: Span<Pa>) -> bool {
        span.align_outwards(BLOCK_SIZE)
            .is_some_and(|blocks| self.map.map(blocks, Kind::Data, true, &mut stage1::page_from_heap).is_ok())
    }
    /// RAM for a guest, visible to EL2; not zeroed yet.
    pub fn guest_ram(&mut self, account: AccountId, bytes: u64, reach: Reach) -> Result<Vec<Dirty>, MemoryError> {
        let extents = self.frames.alloc_blocks_from(account, bytes.div_ceil(BLOCK_SIZE) as usize, reach)?;
        if extents.iter().all(|e| self.make_visible(e.span())) {
            return Ok(extents);
        }
        for extent in extents {
            self.take_back(account, extent.span());
        }
        Err(MemoryError::OutOfMemory)
    }
    /// `count` pages in a row, visible to EL2; not zeroed yet.
    pub fn pages(&mut self, account: AccountId, count: usize) -> Result<Dirty, MemoryError> {
        let pages = self.frames.alloc_pages(account, count)?;
        if self.make_visible(pages.span()) {
            return Ok(pages);
        }
        self.take_back_pages(account, pages.span());
        Err(MemoryError::OutOfMemory)
    }
    /// Whole blocks of Merus' own, visible to EL2, for the heap.
    pub(super) fn own_blocks(&mut self, count: usize) -> Result<Vec<Dirty>, MemoryError> {
        self.guest_ram(AccountId::HOST, (count as u64).saturating_mul(BLOCK_SIZE), Reach::Any)
    }
    /// A guest's RAM comes back, and goes out of EL2's map: nobody has it.
    pub fn take_back(&mut self, account: AccountId, extent: Span<Pa>) {
        if self.frames.free_extent(account, extent).is_ok() {
            // Mapped as whole blocks, or not at all.
            let _ = self.map.unmap_blocks(extent);
        }
    }
    /// Pages come back. Other pages of their block may be somebody's, so it is unmapped with the last of them.
    pub fn take_back_pages(&mut self, account: AccountId, pages: Span<Pa>) {
        // A page that is not this account's stays where it is; the frames' own invariants are tested.
        let count = (pages.size() / PAGE_SIZE) as usize;
        let freed = self.frames.free_pages(account, pages.start(), count).is_ok();
        let block = Span::new(pages.start(), PAGE_SIZE).and_then(|page| page.align_outwards(BLOCK_SIZE));
        if let Some(block) = block.filter(|block| freed && self.frames.is_free_block(block.start())) {
            let _ = self.map.unmap_blocks(block);
        }
    }
}

/// What is done to a guest's RAM before it is the guest's.
pub struct CpuOps<'a>(pub &'a Features);

impl RamOps for CpuOps<'_> {
    fn zero(&mut self, span: Span<Pa>) {
        el2::ram::zero(span, self.0.zva, self.0.mops);
    }
    fn copy(&mut self, from: &[u8], to: Pa) {
        el2::ram::write(to, from);
    }
    fn copy_crc(&mut self, from: &[u8], to: Pa, crc: u32) -> u32 {
        el2::ram::copy_crc(from, to, crc, self.0.crc32)
    }
    fn clean(&mut self, span: Span<Pa>) {
        el2::ram::clean(span, self.0.dline);
    }
    fn invalidate_instructions(&mut self) {
        el2::ram::invalidate_instructions();
    }
}

/// Pages for a VM's tables, charged to it.
pub struct TablePages<'a> {
    /// The machine's memory.
    pub memory: &'a SpinLock<Memory>,
    /// Whom to charge.
    pub account: AccountId,
}

impl FrameSource for TablePages<'_> {
    fn take(&mut self, pages: usize) -> Option<Pa> {
        let mut dirty = self.memory.lock().pages(self.account, pages).ok()?;
        struct Plain;
        impl Scrub for Plain {
            fn zero(&mut self, span: Span<Pa>) {
                let (zva, mops) = machine().map_or((0, false), |m| (m.features.zva, m.features.mops));
                el2::ram::zero(span, zva, mops);
            }
        }
        dirty.scrub(pages as u64 * PAGE_SIZE, &mut Plain);
        dirty.into_clean().ok().map(|span| span.start())
    }
    fn give(&mut self, at: Pa, pages: usize) {
        if let Some(pages) = Span::new(at, pages as u64 * PAGE_SIZE) {
            self.memory.lock().take_back_pages(self.account, pages);
        }
    }
}
