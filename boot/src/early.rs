//! The first translation tables, built with the MMU off: the image with the rights of each part, and the device tree.
//!
//! No atomics, no locks, no heap, no panics that would print: memory is Device memory here.

use crate::entry::{HCR_BOOT, SCTLR_EL1_ON, SCTLR_ON};
use crate::mode::{self, Allowed, Asked, Refusal, Words};
use crate::stage1::{self, Kind, Regime, Stage1};
use addr::{BLOCK_SIZE, PAGE_SIZE, Pa, Span};
use core::arch::asm;
use core::cell::UnsafeCell;
use platform::BootInfo;

/// What `boot_mmu_on` (or `boot_mmu_on_el1`) loads; the order of the fields is the assembly's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MmuSetup {
    /// TCR_EL2 (or _EL1).
    pub tcr: u64,
    /// MAIR_EL2 (or _EL1).
    pub mair: u64,
    /// TTBR0_EL2 (or _EL1).
    pub ttbr: u64,
    /// SCTLR_EL2 (or _EL1).
    pub sctlr: u64,
    /// HCR_EL2 until `el2` writes its own: EL1 is AArch64, TGE is 0, E2H as Merus runs. (At EL1: nothing.)
    pub hcr: u64,
}

/// Pages for the tables of the image (two levels above it, and a page table for each 2 MiB that it and the tree touch).
const POOL: usize = 16;

#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE as usize]);

struct Early {
    pool: UnsafeCell<[Page; POOL]>,
    used: UnsafeCell<usize>,
    setup: UnsafeCell<MmuSetup>,
}

// SAFETY: only the first CPU touches it, before any other runs (`boot_early`), and `boot_rust` once after that.
unsafe impl Sync for Early {}

static EARLY: Early = Early {
    pool: UnsafeCell::new([const { Page([0; PAGE_SIZE as usize]) }; POOL]),
    used: UnsafeCell::new(0),
    setup: UnsafeCell::new(MmuSetup { tcr: 0, mair: 0, ttbr: 0, sctlr: 0, hcr: 0 }),
};

// SAFETY: `linker.ld` sets the first four and `entry.rs` the last; none is ever read, only its address is taken.
unsafe extern "C" {
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_start: u8;
    static __image_end: u8;
    static __el3_start: u8;
    static boot_stack: u8;
    static __guest_regs_start: i32;
    static __guest_regs_end: i32;
}

// SAFETY: the kernel binary, the only one that links this room, defines both with these very types (`hypervisor/src/main.rs`), and the
// same compiler compiles both sides.
unsafe extern "Rust" {
    /// The kernel binary's start on the first CPU.
    fn merus_main(info: BootInfo, map: Stage1) -> !;
    /// The kernel binary's last words where there is no hypervisor mode. The MMU is on, at EL1.
    fn merus_entered_at_el1(info: BootInfo, map: Stage1) -> !;
}

fn bounds(from: *const u8, to: *const u8) -> Option<Span<Pa>> {
    Span::from_bounds(Pa::new(from as u64), Pa::new(to as u64))
}

/// The image in memory: text, constants, data, heap, boot stack, and EL3's own.
pub fn image() -> Span<Pa> {
    bounds(&raw const __image_start, &raw const __image_end).unwrap_or_else(|| stuck())
}

fn page() -> Option<Pa> {
    // SAFETY: the first CPU alone runs; the pool is zeroed bss, and each page is given out once.
    unsafe {
        let used = &mut *EARLY.used.get();
        let page = (*EARLY.pool.get()).get(*used)?;
        *used += 1;
        Some(Pa::new(page as *const Page as u64))
    }
}

/// Nothing can be said yet: stay here, where a debugger finds us.
fn stuck() -> ! {
    loop {
        // SAFETY: waits for an event; changes nothing.
        unsafe { asm!("wfe", options(nomem, nostack)) }
    }
}

/// The MMU settings of every CPU.
pub fn mmu_setup() -> MmuSetup {
    // SAFETY: written by the first CPU before `merus_main`, read-only since.
    unsafe { *EARLY.setup.get() }
}

/// Where the tree is: at x0, or, for a loader that jumps to the image without the boot protocol (x0 = 0, as QEMU's
/// `-device loader` does), at the start of the GiB that the image is in, where QEMU then leaves it.
fn find_tree(x0: u64, base: u64) -> u64 {
    if x0 == 0 { base & !((1 << 30) - 1) } else { x0 }
}

/// Bytes of the smallest data cache line that this CPU's caches have: a power of two.
pub(crate) fn cache_line() -> u64 {
    let ctr: u64;
    // SAFETY: reads an ID register.
    unsafe { asm!("mrs {}, CTR_EL0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    4 << (ctr >> 16 & 0xf)
}

/// Has memory hold `size` bytes from `start`, for one who reads them past the caches.
pub(crate) fn flush(start: u64, size: u64) {
    let line = cache_line();
    let mut at = start & !(line - 1);
    while at < start.saturating_add(size) {
        // SAFETY: cleaning changes no memory's content, and what is dropped has been cleaned.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at = at.saturating_add(line);
    }
    // SAFETY: a barrier: the lines are in memory before anything after this.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

#[unsafe(no_mangle)]
extern "C" fn boot_early(x0: u64, base: u64, at_el1: u64) -> *const MmuSetup {
    let at_el1 = at_el1 != 0;
    let fdt = find_tree(x0, base);
    // The tree's header, and in `asked` the rest, are read past the caches. A loader need not have cleaned them: a kernel of Linux reads
    // its tree with the caches on, as Merus does later.
    flush(fdt, 40);
    let vhe = !at_el1 && allowed().choose(asked(fdt));
    if vhe {
        redirect_guest_registers();
    }
    let Some(root) = page() else { stuck() };
    // SAFETY: a fresh page of the pool, zeroed by the entry code.
    let mut map: Stage1 = unsafe { Stage1::new(root, regime(vhe)) };
    // Up to EL3's own memory, which nobody maps.
    let (start, text, rodata, end) =
        (&raw const __image_start, &raw const __text_end, &raw const __rodata_end, &raw const __el3_start);
    let parts = [(start, text, Kind::Text), (text, rodata, Kind::ReadOnly), (rodata, end, Kind::Data)];
    for (from, to, kind) in parts {
        let Some(span) = bounds(from, to) else { stuck() };
        if map.map(span, kind, false, &mut page).is_err() {
            stuck();
        }
    }
    // The page below the boot stack stays unmapped (at EL1 it may stay mapped: taking it away invalidates EL2's TLB).
    let guard = Pa::new(&raw const boot_stack as u64);
    if !at_el1 && map.unmap_page(guard).is_err() {
        stuck();
    }
    // The tree: its header says how long it is. A wrong x0 is found out, with words, once there is a console.
    if let Some(tree) = tree_span(fdt)
        && map.map(tree, Kind::Data, false, &mut page).is_err()
    {
        stuck();
    }
    let pa_range: u64;
    // SAFETY: reads an ID register.
    unsafe { asm!("mrs {}, ID_AA64MMFR0_EL1", out(reg) pa_range, options(nomem, nostack)) };
    let tcr = if vhe || at_el1 { stage1::tcr_two_levels(pa_range & 0xf) } else { stage1::tcr(pa_range & 0xf) };
    let sctlr = if at_el1 { SCTLR_EL1_ON } else { SCTLR_ON };
    let hcr = HCR_BOOT | if vhe { mode::E2H } else { 0 };
    let setup = MmuSetup { tcr, mair: stage1::MAIR, ttbr: map.root().as_u64(), sctlr, hcr };
    // SAFETY: the first CPU alone runs, with the MMU off.
    unsafe { *EARLY.setup.get() = setup };
    EARLY.setup.get()
}

/// The regime of EL2's tables. (At EL1, where Merus only says that this is the wrong level, they are EL2's as well.)
fn regime(vhe: bool) -> Regime {
    if vhe { Regime::El20 } else { Regime::El2 }
}

/// What this CPU allows. At EL2, where HCR_EL2.E2H has been written 0 before, and not yet 1.
fn allowed() -> Allowed {
    let (mmfr1, mmfr4, hcr): (u64, u64, u64);
    // SAFETY: reads ID registers (all of that space can be read) and HCR_EL2, at EL2.
    unsafe {
        asm!("mrs {}, ID_AA64MMFR1_EL1", "mrs {}, S3_0_C0_C7_4", "mrs {}, HCR_EL2", out(reg) mmfr1, out(reg) mmfr4,
            out(reg) hcr, options(nomem, nostack, preserves_flags));
    }
    Allowed::new(mmfr1, mmfr4, hcr)
}

/// What the tree's bootargs ask for, read with the MMU off.
fn asked(fdt: u64) -> Asked {
    let Some(size) = tree_size(fdt) else { return Asked::Nothing };
    // SAFETY: an aligned word inside the tree, whose size its header has said.
    let word = |at: u32| u32::from_be(unsafe { ((fdt + u64::from(at)) as *const u32).read_volatile() });
    // The two blocks of it that are looked at, by their places and sizes in the header, and what is before them.
    let end = |place, size| u64::from(word(place)) + u64::from(word(size));
    flush(fdt, end(8, 36).max(end(12, 32)).min(u64::from(size)));
    Words::new(size, word).asked()
}

/// Gives each recorded access to a register of the guest the encoding that means it with E2H = 1.
///
/// The first CPU does it before anything else has run or has been fetched with the caches on: the stores go to memory, and what the
/// data caches may hold of these lines is cleaned before and dropped after them. Each CPU empties its instruction cache
/// when it switches its MMU on (`boot_mmu_on`), after this (Arm ARM, "Concurrent modification and execution of instructions").
fn redirect_guest_registers() {
    let (mut record, end) = (&raw const __guest_regs_start, &raw const __guest_regs_end);
    while record < end {
        // SAFETY: the linker script's bounds of an array of such words, each the distance of an instruction of Merus' text from itself
        // (`el2::door`). The MMU is off, so the text can be written, and the first CPU alone runs, which executes none of these here.
        unsafe {
            let at = record.byte_offset(record.read_volatile() as isize).cast::<u32>().cast_mut();
            asm!("dc civac, {}", "dsb sy", in(reg) at, options(nostack, preserves_flags));
            match mode::redirected(at.read_volatile()) {
                Some(instruction) => at.write_volatile(instruction),
                // No access to such a register: `cargo xtask lint` finds it first.
                None => stuck(),
            }
            asm!("dsb sy", "dc ivac, {}", in(reg) at, options(nostack, preserves_flags));
            record = record.add(1);
        }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// What is wrong with the bootargs' `merus.vhe=` on this CPU. At EL2.
pub fn mode_refusal(fdt: Pa) -> Option<Refusal> {
    // E2H is 1 where that was asked for or where it cannot be 0: in both, `off` cannot be had.
    mode::refusal(with_tree(fdt, Words::asked_in)?, allowed())
}

/// The pages of the device tree at `fdt`, by its header (Devicetree Specification, "Header"); `None` where there is none.
pub fn tree_span(fdt: u64) -> Option<Span<Pa>> {
    Span::new(Pa::new(fdt), u64::from(tree_size(fdt)?))?.align_outwards(PAGE_SIZE)
}

/// The bytes of the device tree at `fdt`, by its header.
fn tree_size(fdt: u64) -> Option<u32> {
    if fdt == 0 || !fdt.is_multiple_of(8) {
        return None;
    }
    let word = |at: u64| {
        // SAFETY: the boot protocol puts a tree in RAM at x0; a wrong address reads something else or faults, which the
        // firmware (or a debugger) sees. With the MMU on, only a span that was mapped here is asked for again.
        u32::from_be(unsafe { ((fdt + at) as *const u32).read_volatile() })
    };
    let size = word(4);
    (word(0) == 0xd00d_feed && (40..=BLOCK_SIZE).contains(&u64::from(size))).then_some(size)
}

#[unsafe(no_mangle)]
extern "C" fn boot_rust(x0: u64, base: u64, from_el3: u64, at_el1: u64) -> ! {
    let info = BootInfo { fdt: Pa::new(find_tree(x0, base)), image: image(), from_el3: from_el3 != 0 };
    // SAFETY: `boot_early` made these tables and forgot them; from here on this is their only owner.
    let map: Stage1 = unsafe { Stage1::new(Pa::new(mmu_setup().ttbr), regime(mmu_setup().hcr & mode::E2H != 0)) };
    // SAFETY: the kernel binary defines both with this signature.
    unsafe { if at_el1 == 0 { merus_main(info, map) } else { merus_entered_at_el1(info, map) } }
}

/// Runs `read` over the board's device tree at `fdt`, if there is one.
pub fn with_tree<R>(fdt: Pa, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
    tree_span(fdt.as_u64())?;
    // SAFETY: `tree_span` checked the header; `boot_early` mapped all of the tree, and nobody writes to it while `read` runs: it
    // is kept out of the RAM that is handed out, and `wipe_in_tree` cannot be called meanwhile by the one CPU that runs.
    let bytes = unsafe {
        let size = u32::from_be(((fdt.as_u64() + 4) as *const u32).read_volatile());
        core::slice::from_raw_parts(fdt.as_u64() as *const u8, size as usize)
    };
    Some(read(bytes))
}

/// Where the tree lies, in whole bytes of its header's word.
pub fn tree_bytes(fdt: Pa) -> Option<Span<Pa>> {
    with_tree(fdt, |bytes| Span::new(fdt, bytes.len() as u64))?
}

/// Overwrites `size` bytes at `offset` of the tree with zeroes: a seed that the firmware left for one use.
pub fn wipe_in_tree(fdt: Pa, offset: usize, size: usize) {
    let Some(span) = tree_bytes(fdt) else { return };
    let at = fdt.as_u64() + offset as u64;
    if !span.contains_range(Pa::new(at), size as u64) {
        return;
    }
    for byte in 0..size as u64 {
        // SAFETY: inside the tree, which is mapped writable and of which no reference exists outside `with_tree`.
        unsafe { ((at + byte) as *mut u8).write_volatile(0) };
    }
}
