//! Single loads and stores to device registers.
//!
//! Written in assembly so that each access is exactly one plain `ldr` or `str`: a compiler may turn a volatile access into
//! a form with writeback, for which a nesting hypervisor gets no valid syndrome.

use addr::Pa;

/// A block of device registers, identity mapped as Device memory in EL2.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: u64,
}

impl Registers {
    /// The block at `base`.
    ///
    /// # Safety
    /// The whole block is mapped as Device memory at the address that equals its physical one for as long as the value
    /// (or a copy) lives, it holds the device that the caller's driver is for, and accesses at the offsets which that
    /// driver uses have no effect on memory safety (no DMA set up by them).
    pub const unsafe fn new(base: Pa) -> Self {
        Self { base: base.as_u64() }
    }
    /// The block `offset` bytes further on (the next redistributor's, for example).
    ///
    /// # Safety
    /// As for [`Registers::new`], for the block at that place.
    pub const unsafe fn at(&self, offset: u64) -> Self {
        Self { base: self.base.wrapping_add(offset) }
    }
    /// A 32-bit load.
    #[inline(always)]
    pub fn read32(&self, offset: u64) -> u32 {
        #[cfg(target_arch = "aarch64")]
        {
            let value: u32;
            // SAFETY: `new` promised a mapped device block whose registers may be accessed by this driver.
            unsafe {
                core::arch::asm!("ldr {v:w}, [{a}]", v = out(reg) value, a = in(reg) self.base.wrapping_add(offset),
                    options(nostack, preserves_flags));
            }
            value
        }
        #[cfg(not(target_arch = "aarch64"))]
        unreachable!("device registers exist on the target only: {offset:#x}")
    }
    /// A 32-bit store.
    #[inline(always)]
    pub fn write32(&self, offset: u64, value: u32) {
        #[cfg(target_arch = "aarch64")]
        // SAFETY: `new` promised a mapped device block whose registers may be accessed by this driver.
        unsafe {
            core::arch::asm!("str {v:w}, [{a}]", v = in(reg) value, a = in(reg) self.base.wrapping_add(offset),
                options(nostack, preserves_flags));
        }
        #[cfg(not(target_arch = "aarch64"))]
        unreachable!("device registers exist on the target only: {offset:#x} {value:#x}")
    }
    /// A 64-bit load.
    #[inline(always)]
    pub fn read64(&self, offset: u64) -> u64 {
        #[cfg(target_arch = "aarch64")]
        {
            let value: u64;
            // SAFETY: `new` promised a mapped device block whose registers may be accessed by this driver.
            unsafe {
                core::arch::asm!("ldr {v}, [{a}]", v = out(reg) value, a = in(reg) self.base.wrapping_add(offset),
                    options(nostack, preserves_flags));
            }
            value
        }
        #[cfg(not(target_arch = "aarch64"))]
        unreachable!("device registers exist on the target only: {offset:#x}")
    }
    /// A 64-bit store.
    #[inline(always)]
    pub fn write64(&self, offset: u64, value: u64) {
        #[cfg(target_arch = "aarch64")]
        // SAFETY: `new` promised a mapped device block whose registers may be accessed by this driver.
        unsafe {
            core::arch::asm!("str {v}, [{a}]", v = in(reg) value, a = in(reg) self.base.wrapping_add(offset),
                options(nostack, preserves_flags));
        }
        #[cfg(not(target_arch = "aarch64"))]
        unreachable!("device registers exist on the target only: {offset:#x} {value:#x}")
    }
}
