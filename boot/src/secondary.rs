//! What another CPU needs to know before it can read memory through its caches.

use crate::early::{MmuSetup, mmu_setup};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::mmio::Registers;

/// Handed to a starting CPU by physical address. Its layout is the entry assembly's.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SecondaryStart {
    mmu: MmuSetup,
    stack_top: u64,
    number: u64,
}

// SAFETY: labels in `entry.rs`; Rust takes their addresses for a CPU to start at, and calls neither.
unsafe extern "C" {
    fn boot_secondary();
    fn boot_spun();
}

/// The address of the [`SecondaryStart`] of the CPU that comes from a spin table next, which brings none in x0. A line of its own.
#[repr(C, align(64))]
struct Spun(AtomicU64);

#[unsafe(no_mangle)]
static BOOT_SPUN_START: Spun = Spun(AtomicU64::new(0));

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

/// Starts a CPU that waits by Linux' spin-table protocol, with `start`: writes where to go into its release word, which is `offset`
/// bytes into `page`, and sends an event. One at a time: the next one is not to be started before this one has said that it is up.
pub fn release(start: &'static SecondaryStart, page: &Registers, offset: u64) {
    BOOT_SPUN_START.0.store(start.publish(), Ordering::Release);
    let at = &raw const BOOT_SPUN_START as u64;
    let word = page.base().as_u64().wrapping_add(offset);
    // SAFETY: the CPU reads both with its caches off: ours is cleaned (a line that is its own), and of the firmware's nothing stays in
    // a cache that could be written over what comes next. Cleaning changes no memory's content.
    unsafe {
        asm!("dc cvac, {}", "dc civac, {}", "dsb sy", in(reg) at, in(reg) word, options(nostack, preserves_flags))
    };
    page.write64(offset, boot_spun as *const () as u64);
    // SAFETY: barrier and event: the word is there before the waiting CPUs look.
    unsafe { asm!("dsb sy", "sev", options(nostack, preserves_flags)) };
}
