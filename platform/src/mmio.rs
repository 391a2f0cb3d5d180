//! Single loads and stores to device registers.
//!
//! Written in assembly so that each access is exactly one plain `ldr` or `str`: a compiler may turn a volatile access into
//! a form with writeback, for which a nesting hypervisor gets no valid syndrome.

use addr::Pa;

/// Nothing answered an access: it ended in an external abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoAnswer {
    /// Where, as a physical address.
    pub at: Pa,
    /// ESR_EL2 of the synchronous external abort or SError.
    pub syndrome: u64,
}

impl core::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let how = if self.syndrome >> 26 & 0x3f == 0x2f { "a system error" } else { "an external abort" };
        write!(f, "no device answers at {:#x}: {how}, syndrome {:#x}", self.at.as_u64(), self.syndrome)
    }
}

impl core::error::Error for NoAnswer {}

#[cfg(target_os = "none")]
mod probe {
    //! Loads that may end in an external abort (`el2`, "Probes"): leaf routines without a stack that run with SP_EL0, by which the
    //! exception vectors know them.

    /// What a probe returns, in x0 and x1.
    #[repr(C)]
    pub struct Answer {
        pub value: u64,
        pub syndrome: u64,
    }

    // SAFETY: both are below, take the address in x0, answer in x0 and x1 as `Answer` is returned, and use no stack and no register else;
    // the exception vectors, where a probe may end, change x2 beside them.
    unsafe extern "C" {
        pub fn platform_probe32(at: u64) -> Answer;
        pub fn platform_probe64(at: u64) -> Answer;
    }

    core::arch::global_asm!(
        r#"
    .macro probe name load
    .global \name
\name:
    dsb     sy                      // errors of what came before are not this one's
    hint    #16                     // ESB
    isb
    msr     SPSel, #0
    \load
    dsb     sy                      // the load has its answer
    hint    #16
    isb
    msr     SPSel, #1
    mov     x1, #0
    ret
    .endm

    .section .text.platform_probe, "ax"
    probe platform_probe32 "ldr w0, [x0]"
    probe platform_probe64 "ldr x0, [x0]"
"#
    );
}

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
    /// Where the block is.
    pub fn base(&self) -> Pa {
        Pa::new(self.base)
    }
    /// A 32-bit load of a register that may not be there. Slow: it waits for all accesses before it and for itself.
    ///
    /// # Errors
    /// [`NoAnswer`] where the load ends in an external abort. Needs Merus' exception vectors; before they are set the error is a hang.
    pub fn probe32(&self, offset: u64) -> Result<u32, NoAnswer> {
        self.probe(offset, false).map(|value| value as u32)
    }
    /// A 64-bit load of a register that may not be there, as [`Registers::probe32`].
    ///
    /// # Errors
    /// [`NoAnswer`] where the load ends in an external abort.
    pub fn probe64(&self, offset: u64) -> Result<u64, NoAnswer> {
        self.probe(offset, true)
    }
    fn probe(&self, offset: u64, wide: bool) -> Result<u64, NoAnswer> {
        let at = self.base.wrapping_add(offset);
        #[cfg(target_os = "none")]
        {
            // SAFETY: `new` promised a mapped device block whose registers may be accessed by this driver; the routines touch
            // nothing but registers that a call may change, also where they end by an abort.
            let answer = unsafe { if wide { probe::platform_probe64(at) } else { probe::platform_probe32(at) } };
            match answer.syndrome {
                0 => Ok(answer.value),
                syndrome => Err(NoAnswer { at: Pa::new(at), syndrome }),
            }
        }
        #[cfg(not(target_os = "none"))]
        unreachable!("device registers exist on the target only: {at:#x} {wide}")
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
    /// An 8-bit store.
    #[inline(always)]
    pub fn write8(&self, offset: u64, value: u8) {
        #[cfg(target_arch = "aarch64")]
        // SAFETY: `new` promised a mapped device block whose registers may be accessed by this driver.
        unsafe {
            core::arch::asm!("strb {v:w}, [{a}]", v = in(reg) u32::from(value), a = in(reg) self.base.wrapping_add(offset),
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
