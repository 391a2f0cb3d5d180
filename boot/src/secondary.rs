//! What another CPU needs to know before it can read memory through its caches.

use crate::early::{MmuSetup, mmu_setup};
use core::arch::asm;

/// Handed to a starting CPU by physical address. Its layout is the entry assembly's.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SecondaryStart {
    mmu: MmuSetup,
    stack_top: u64,
    number: u64,
}

unsafe extern "C" {
    fn boot_secondary();
}

impl SecondaryStart {
    /// For CPU `number` with the stack that ends at `stack_top` (16-byte aligned).
    pub fn new(number: u64, stack_top: u64) -> Self {
        Self { mmu: mmu_setup(), stack_top, number }
    }
    /// Writes it back to memory, because the other CPU reads it with its caches off, and returns its address for the
    /// firmware. The value must stay where it is until that CPU has said that it is up.
    pub fn publish(&'static self) -> u64 {
        let at = self as *const Self as u64;
        // SAFETY: cleans the one cache line (the type is a line long and aligned) that holds our own data.
        unsafe { asm!("dc cvac, {}", "dsb sy", in(reg) at, options(nostack, preserves_flags)) };
        at
    }
}

/// Where the firmware shall start a CPU, with [`SecondaryStart::publish`]'s address in x0.
pub fn entry_point() -> u64 {
    boot_secondary as *const () as u64
}
