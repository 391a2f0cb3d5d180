//! An extent of declared RAM that is looked into often: that it is declared is found out once, and again after any RAM was withdrawn.

use super::{DECLARED, check, copy};
use addr::{Pa, Span};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use sync::nospec;

/// Declared RAM. Offsets are in bytes from its start, and often a guest's choice; what does not lie in it as a whole is refused.
pub struct Extent {
    start: Pa,
    /// In bytes, not 0.
    size: u64,
    /// The table's epoch in which it was found to be declared.
    epoch: AtomicU32,
}

impl Extent {
    /// The extent `span`; `None` if that is empty or not declared.
    pub fn new(span: Span<Pa>) -> Option<Self> {
        let epoch = AtomicU32::new(DECLARED.epoch());
        let extent = Self { start: span.start(), size: span.size(), epoch };
        (!span.is_empty() && DECLARED.has(extent.start, extent.size)).then_some(extent)
    }

    /// Its size in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the `len` bytes from `offset` on are, if they are in it.
    #[inline(always)]
    fn place(&self, offset: u64, len: u64) -> Option<u64> {
        if offset >= self.size || len > self.size - offset {
            return None;
        }
        // As with any look at the table: whoever has RAM withdrawn has it to himself, so what is withdrawn from here on is not this.
        if self.epoch.load(Ordering::Relaxed) != DECLARED.epoch() {
            self.look_again();
        }
        // What is read there may choose the next offset.
        Some(self.start.as_u64() + nospec::below(offset, self.size))
    }

    #[cold]
    #[inline(never)]
    fn look_again(&self) {
        let epoch = DECLARED.epoch();
        check(self.start, self.size);
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// Copies what is at `offset` into `to`. `false`, and nothing is copied: that is not all in it.
    #[inline]
    pub fn read(&self, offset: u64, to: &mut [u8]) -> bool {
        let Some(at) = self.place(offset, to.len() as u64) else { return false };
        // SAFETY: declared RAM, outside every Rust object, `to` among them; whatever a byte is, it is a `u8`.
        unsafe { copy(at, to.as_mut_ptr().expose_provenance() as u64, to.len()) };
        true
    }

    /// The 16 bytes at `offset` as two words, the first byte lowest; `None`: they are not all in it.
    #[inline]
    pub fn read_pair(&self, offset: u64) -> Option<[u64; 2]> {
        let at = self.place(offset, 16)?;
        let (low, high);
        // SAFETY: declared RAM, outside every Rust object. Alignment does not matter: it is Normal memory, and SCTLR_EL2.A is 0.
        unsafe {
            asm!("ldp {l}, {h}, [{a}]", l = out(reg) low, h = out(reg) high, a = in(reg) at,
                options(nostack, preserves_flags, readonly));
        }
        Some([low, high])
    }

    /// Copies `from` to `offset`. `false`, and nothing is copied: that is not all in it.
    #[inline]
    pub fn write(&self, offset: u64, from: &[u8]) -> bool {
        let Some(at) = self.place(offset, from.len() as u64) else { return false };
        // SAFETY: declared RAM, outside every Rust object, `from` among them.
        unsafe { copy(from.as_ptr().expose_provenance() as u64, at, from.len()) };
        true
    }

    /// An atomic load of a 16-bit ring index (acquire); `None`: it is not aligned, or not in it.
    #[inline]
    pub fn load_u16(&self, offset: u64) -> Option<u16> {
        let at = self.place(offset, 2).filter(|at| at & 1 == 0)?;
        let value: u32;
        // SAFETY: declared RAM, naturally aligned; LDARH is single-copy atomic.
        unsafe { asm!("ldarh {v:w}, [{a}]", v = out(reg) value, a = in(reg) at, options(nostack, preserves_flags)) };
        Some(value as u16)
    }

    /// An atomic store of a 16-bit ring index (release). `false`: it is not aligned, or not in it.
    #[inline]
    pub fn store_u16(&self, offset: u64, value: u16) -> bool {
        let Some(at) = self.place(offset, 2).filter(|at| at & 1 == 0) else { return false };
        // SAFETY: as for `load_u16`; STLRH.
        unsafe {
            asm!("stlrh {v:w}, [{a}]", v = in(reg) u32::from(value), a = in(reg) at, options(nostack, preserves_flags));
        }
        true
    }
}
