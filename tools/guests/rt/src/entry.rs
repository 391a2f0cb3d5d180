//! The Image header and the first instructions of each CPU: masked, MMU off, to Rust with an identity map and caches on.
//!
//! The map: the first GiB is device memory (nothing there may be executed), the 63 GiB above are normal memory, writable
//! and executable, whether there is RAM or not: tests go where nothing is.

use crate::cpu::{STACK_SIZE, Start};
use core::arch::global_asm;
use core::sync::atomic::AtomicU64;

/// SCTLR_EL1 with everything off: its RES1 bits alone (Arm ARM, "SCTLR_EL1, System Control Register (EL1)").
pub const SCTLR_OFF: u64 = 0x30d0_0800;
/// SCTLR_EL1 as the runtime runs: MMU, caches, SP alignment check.
pub const SCTLR_ON: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12;
/// MAIR_EL1: index 0 Device-nGnRnE, 1 normal write-back, 2 normal non-cacheable, 3 Device-nGnRE.
pub const MAIR: u64 = 0x04_44_ff_00;
/// TCR_EL1: 39-bit addresses by TTBR0, 4 KiB granule, inner shareable write-back walks, nothing by TTBR1, 36-bit output.
pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 1 << 32;
/// A 1 GiB block of device memory that nobody may execute, and EL0 may access (LDTR, STTR).
const BLOCK_DEVICE: u64 = 1 | 1 << 6 | 1 << 10 | 3 << 53;
/// A 1 GiB block of normal write-back memory.
const BLOCK_NORMAL: u64 = 1 | 1 << 2 | 3 << 8 | 1 << 10;
/// How many GiB are mapped.
pub const MAPPED_GIB: u64 = 64;
const R_AARCH64_RELATIVE: u64 = 1027;

#[repr(C, align(4096))]
struct Root([AtomicU64; 512]);

/// The root table of the identity map, written by the first instructions.
#[unsafe(no_mangle)]
static RT_ROOT: Root = Root([const { AtomicU64::new(0) }; 512]);

/// Physical address of the runtime's own root table, for TTBR0_EL1.
pub fn root() -> u64 {
    RT_ROOT.0.as_ptr() as u64
}

// SAFETY: the first two are the linker script's, and the third is below; Rust takes their addresses only.
unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    fn rt_secondary();
}

/// First address of the payload in memory, and the one after its last.
pub fn image() -> (u64, u64) {
    (&raw const __image_start as u64, &raw const __image_end as u64)
}

/// Where PSCI starts another CPU; its context identifier is the address of a [`Start`].
pub fn secondary() -> u64 {
    rt_secondary as *const () as u64
}

// The Image header: Linux, Documentation/arch/arm64/booting.rst, "Call the kernel image".
global_asm!(
    r#"
    .section .head.text, "ax"
    .global _start
_start:
    b       rt_primary
    .word   0
    .quad   0                       // text_offset
    .quad   __image_end - _start    // image_size
    .quad   0xa                     // little endian, 4 KiB pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   0

    // Invalidates [x9, x10) to the point of coherency: it was written with the caches off. Clobbers x9, x11, x12.
rt_invalidate:
    mrs     x11, CTR_EL0
    ubfx    x11, x11, #16, #4
    mov     x12, #4
    lsl     x12, x12, x11
    sub     x11, x12, #1
    bic     x9, x9, x11
1:  dc      ivac, x9
    add     x9, x9, x12
    cmp     x9, x10
    b.lo    1b
    dsb     sy
    ret

    // Turns on the MMU with the tables at x0. Clobbers x9.
rt_mmu_on:
    msr     TTBR0_EL1, x0
    ldr     x9, ={tcr}
    msr     TCR_EL1, x9
    ldr     x9, ={mair}
    msr     MAIR_EL1, x9
    adrp    x9, rt_vectors
    add     x9, x9, :lo12:rt_vectors
    msr     VBAR_EL1, x9
    dsb     sy
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    ldr     x9, ={sctlr_on}
    msr     SCTLR_EL1, x9
    isb
    ret

rt_primary:
    mrs     x22, CNTPCT_EL0         // the first instruction's time
    msr     daifset, #0xf
    mov     x21, x0                 // the device tree
    mrs     x9, CurrentEL
    cmp     x9, #4
    b.ne    .                       // at EL1 only; a debugger finds us here
    ldr     x9, ={sctlr_off}
    msr     SCTLR_EL1, x9
    msr     SPSel, #1
    isb
    adrp    x19, _start
    adrp    x9, __bss_start
    add     x9, x9, :lo12:__bss_start
    adrp    x10, __bss_end
    add     x10, x10, :lo12:__bss_end
1:  cmp     x9, x10
    b.hs    1f
    stp     xzr, xzr, [x9], #16
    b       1b
1:
    adrp    x9, __rela_start
    add     x9, x9, :lo12:__rela_start
    adrp    x10, __rela_end
    add     x10, x10, :lo12:__rela_end
1:  cmp     x9, x10
    b.hs    1f
    ldp     x11, x12, [x9], #16
    ldr     x13, [x9], #8
    cmp     w12, #{relative}
    b.ne    .
    add     x13, x13, x19
    str     x13, [x19, x11]
    b       1b
1:
    // The identity map.
    adrp    x0, RT_ROOT
    ldr     x9, ={device}
    str     x9, [x0]
    ldr     x9, ={normal}
    mov     x10, #1
1:  add     x11, x9, x10, lsl #30
    str     x11, [x0, x10, lsl #3]
    add     x10, x10, #1
    cmp     x10, #{mapped}
    b.lo    1b
    dsb     sy
    mov     x9, x19
    adrp    x10, __noinit_start
    bl      rt_invalidate
    adrp    x0, RT_ROOT
    bl      rt_mmu_on
    adrp    x9, RT_STACKS
    add     x9, x9, #{stack_pages}, lsl #12
    mov     sp, x9
    mov     x29, #0
    mov     x0, x21
    mov     x1, x22
    bl      rt_main
    b       .

rt_secondary:
    msr     daifset, #0xf
    mov     x21, x0                 // &Start, cleaned to the point of coherency
    ldr     x9, ={sctlr_off}
    msr     SCTLR_EL1, x9
    msr     SPSel, #1
    isb
    adrp    x0, RT_ROOT
    bl      rt_mmu_on
    ldr     x9, [x21, #{start_stack}]
    mov     sp, x9
    mov     x29, #0
    mov     x30, #0
    mov     x0, x21
    bl      rt_secondary_main
    b       .
    .ltorg
    "#,
    tcr = const TCR,
    mair = const MAIR,
    sctlr_off = const SCTLR_OFF,
    sctlr_on = const SCTLR_ON,
    relative = const R_AARCH64_RELATIVE,
    device = const BLOCK_DEVICE,
    normal = const BLOCK_NORMAL,
    mapped = const MAPPED_GIB,
    stack_pages = const STACK_SIZE / 4096,
    start_stack = const core::mem::offset_of!(Start, stack),
);
