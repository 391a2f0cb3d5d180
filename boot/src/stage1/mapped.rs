//! What the tables are used for on a CPU: its TLBs, devices, the firmware's bytes, pages out of the heap.

use super::{Cpus, Kind, MapError, Stage1, Walkers};
use addr::{PAGE_SIZE, Pa, Span};
use core::arch::asm;

impl Walkers for Cpus {
    fn published(&mut self) {
        // SAFETY: barriers only: the stores to the tables are seen by every table walker before anything after this.
        unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) }
    }
    fn forget(&mut self, span: Span<Pa>, size: u64) {
        // SAFETY: a barrier: the invalid entries are seen by every table walker before the invalidations.
        unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
        if span.size() / size > ONE_BY_ONE {
            // SAFETY: takes translations from every CPU's EL2 TLB; those that are still valid are walked for again.
            unsafe { asm!("tlbi alle2is", options(nostack, preserves_flags)) };
        } else {
            let mut at = span.start().as_u64();
            while at < span.end().as_u64() {
                // SAFETY: as above, the translation of one page or block.
                unsafe { asm!("tlbi vae2is, {}", in(reg) at >> 12, options(nostack, preserves_flags)) };
                at += size;
            }
        }
        // SAFETY: barriers: the invalidations are complete on every CPU before anything after this.
        unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    }
}

/// Up to as many entries are invalidated one by one; for more, all of EL2's.
const ONE_BY_ONE: u64 = 64;

impl Stage1 {
    /// Maps the registers of a device and gives access to them.
    pub fn device(
        &mut self,
        span: Span<Pa>,
        page: &mut dyn FnMut() -> Option<Pa>,
    ) -> Result<platform::mmio::Registers, MapError> {
        let pages = span.align_outwards(PAGE_SIZE).ok_or(MapError::BadSpan)?;
        self.map(pages, Kind::Device, true, page)?;
        // SAFETY: mapped as Device memory where it lies, just now; `map` refuses what is mapped as memory already, and
        // nothing ever unmaps it (`unmap_blocks` takes memory only). That it is the device its driver expects is the device tree's word.
        Ok(unsafe { platform::mmio::Registers::new(span.start()) })
    }
    /// Maps what the firmware left in memory for Merus (the bundle), read only, and lends it for good.
    pub fn firmware_bytes(
        &mut self,
        span: Span<Pa>,
        page: &mut dyn FnMut() -> Option<Pa>,
    ) -> Result<&'static [u8], MapError> {
        let pages = span.align_outwards(PAGE_SIZE).ok_or(MapError::BadSpan)?;
        self.map(pages, Kind::ReadOnly, true, page)?;
        // SAFETY: mapped read-only, never unmapped (`unmap_blocks` takes `Data` only), and (because `map` refuses what is mapped already as something else) no
        // part of the image or of RAM that is handed out: nobody writes to it.
        Ok(unsafe { core::slice::from_raw_parts(span.start().as_u64() as *const u8, span.size() as usize) })
    }
}

/// A zeroed page for tables out of the heap (which lies in the image).
pub fn page_from_heap() -> Option<Pa> {
    let layout = core::alloc::Layout::from_size_align(PAGE_SIZE as usize, PAGE_SIZE as usize).ok()?;
    // SAFETY: the layout is not empty.
    let page = unsafe { alloc::alloc::alloc_zeroed(layout) };
    (!page.is_null()).then(|| Pa::new(page as u64))
}
