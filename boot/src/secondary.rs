//! What another CPU needs to know before it can read memory through its caches.
//!
//! The CPU comes with MMU and caches off, whoever starts it ([`crate::entry`], `boot_secondary` and `boot_spun`), and executes nothing
//! but the image's text, which is in memory (the loader's, and what [`crate::mode`] changed past the caches), until its MMU is on. It stores nothing before
//! that: its stack, and the atomics of the first lock, are used through caches that are coherent with ours.

use crate::early::{MmuSetup, cache_line, mmu_setup};
use crate::release::{self, Memory, Part};
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::mmio::Registers;

/// Handed to a starting CPU by physical address. Its layout is the entry assembly's.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SecondaryStart {
    mmu: MmuSetup,
    stack_top: u64,
    number: u64,
    /// Whom it is for.
    mpidr: u64,
}

/// Where the assembly finds it.
pub(crate) const STACK_TOP: usize = offset_of!(SecondaryStart, stack_top);
/// See [`STACK_TOP`].
pub(crate) const NUMBER: usize = offset_of!(SecondaryStart, number);
/// See [`STACK_TOP`].
pub(crate) const MPIDR: usize = offset_of!(SecondaryStart, mpidr);
// One cache line, the set-up first.
const _: () = assert!(offset_of!(SecondaryStart, mmu) == 0 && size_of::<SecondaryStart>() == 64);

// SAFETY: labels of the entry assembly, whose addresses are taken; nobody calls them.
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
    /// For CPU `number`, whose affinity is `mpidr` (the affinity fields of MPIDR_EL1 alone), with the stack that ends at `stack_top`
    /// (16-byte aligned).
    pub fn new(number: u64, mpidr: u64, stack_top: u64) -> Self {
        Self { mmu: mmu_setup(), stack_top, number, mpidr }
    }
    /// Writes it back to memory, because the other CPU reads it with its caches off, and returns its address for the
    /// firmware. The value must stay where it is until that CPU has said that it is up.
    pub fn publish(&'static self) -> u64 {
        release::publish(&mut Here { start: self, word: None });
        self.at()
    }
    fn at(&self) -> u64 {
        self as *const Self as u64
    }
}

/// Where the firmware shall start a CPU, with [`SecondaryStart::publish`]'s address in x0.
pub fn entry_point() -> u64 {
    boot_secondary as *const () as u64
}

/// Starts a CPU that waits by Linux' spin-table protocol, with `start`: writes where to go into its release word, which is `offset`
/// bytes into `page` (Device memory to us), and sends an event. One that comes when another one's start has taken the place of its own
/// waits for good: `start` names the CPU.
pub fn release(start: &'static SecondaryStart, page: &Registers, offset: u64) {
    release::release(&mut Here { start, word: Some((page, offset)) });
}

/// This machine's memory and caches.
struct Here<'a> {
    start: &'static SecondaryStart,
    word: Option<(&'a Registers, u64)>,
}

impl Here<'_> {
    /// Where a part is, and its length in bytes.
    fn place(&self, part: Part) -> (u64, u64) {
        match (part, self.word) {
            (Part::Record, _) => (self.start.at(), size_of::<SecondaryStart>() as u64),
            (Part::Pointer, _) => (&raw const BOOT_SPUN_START as u64, size_of::<Spun>() as u64),
            (Part::Word, Some((page, offset))) => (page.base().as_u64().wrapping_add(offset), 8),
            (Part::Word, None) => (0, 0),
        }
    }
    /// Each data cache line of a part.
    fn lines(&self, part: Part) -> impl Iterator<Item = u64> {
        let (at, size) = self.place(part);
        let line = cache_line();
        (at & !(line - 1)..at.wrapping_add(size)).step_by(line as usize)
    }
}

impl Memory for Here<'_> {
    fn store(&mut self, part: Part) {
        match (part, self.word) {
            // Its maker has written it.
            (Part::Record, _) => {}
            (Part::Pointer, _) => BOOT_SPUN_START.0.store(self.start.at(), Ordering::Release),
            (Part::Word, Some((page, offset))) => page.write64(offset, boot_spun as *const () as u64),
            (Part::Word, None) => {}
        }
    }
    fn clean(&mut self, part: Part) {
        for line in self.lines(part) {
            // SAFETY: cleaning changes no memory's content.
            unsafe { asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    fn clean_and_drop(&mut self, part: Part) {
        for line in self.lines(part) {
            // SAFETY: as above; what is dropped has been cleaned.
            unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    fn complete(&mut self) {
        // SAFETY: a barrier: what came before is done for every observer, caches on or off, before anything after it.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
    }
    fn event(&mut self) {
        // SAFETY: a hint.
        unsafe { asm!("sev", options(nostack, preserves_flags)) };
    }
}
