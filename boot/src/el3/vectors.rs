//! The instructions at EL3 that no Rust can be: the way in, the vectors, the way down.

use super::monitor::{RECORD, STACK, WORDS};
use super::psci::SLOTS;
use core::arch::global_asm;

/// SCTLR_EL3 with everything off: its RES1 bits alone (Arm ARM, "SCTLR_EL3, System Control Register (EL3)").
const SCTLR_EL3_OFF: u64 = 0x30c5_0830;
/// SPSR_EL3 for the way down: EL2h, all exceptions masked.
const SPSR_EL2H: u64 = 0x3c9;
/// ESR_EL2 of an undefined instruction: exception class 0, an instruction of 32 bits.
const UNKNOWN: u64 = 1 << 25;

global_asm!(
    r#"
    .section .text.boot_el3, "ax"
    // All CPUs, at EL3. The first one (affinity 0) comes back at EL2; the others wait here for it to ask for them.
    // Keeps x19 to x23.
    .global boot_el3
boot_el3:
    movz    x9, #{sctlr_low}
    movk    x9, #{sctlr_high}, lsl #16
    msr     SCTLR_EL3, x9
    isb
    mrs     x10, MPIDR_EL1
    mov     x9, #0x00ffffff
    movk    x9, #0x00ff, lsl #32
    and     x10, x10, x9
    cbnz    x10, 2f

    mov     x24, x30
    adrp    x9, __el3_start         // what the caches may still hold of that memory must not be written over it later
    adrp    x10, __el3_end
    bl      boot_flush
    adrp    x9, boot_el3_ready
    add     x9, x9, :lo12:boot_el3_ready
    add     x10, x9, #4
    bl      boot_flush
    adrp    x9, __el3_start
    adrp    x10, __el3_end
1:  stp     xzr, xzr, [x9], #16
    cmp     x9, x10
    b.lo    1b
    dsb     sy
    adrp    x9, boot_el3_stacks
    add     x9, x9, :lo12:boot_el3_stacks
    add     x9, x9, #{stack}
    mov     sp, x9
    mov     x29, #0
    bl      boot_el3_first
    adrp    x9, boot_el3_ready
    mov     w10, #1
    str     w10, [x9, :lo12:boot_el3_ready]
    dsb     sy
    sev
    mov     x0, x24
    mov     x1, #0
    mov     x2, sp
    b       boot_el3_enter

    // In: x10 = the affinity. One that there is no stack for waits for ever.
2:  lsr     x11, x10, #8            // of the cluster
    cmp     x11, #{clusters}
    b.hs    5f
    and     x12, x10, #0xff
    cmp     x12, #16
    b.hs    5f
    add     x12, x12, x11, lsl #4
    adrp    x9, boot_el3_ready
3:  ldr     w11, [x9, :lo12:boot_el3_ready]
    cbnz    w11, 4f
    wfe
    b       3b
4:  dsb     sy
    adrp    x9, boot_el3_stacks
    add     x9, x9, :lo12:boot_el3_stacks
    add     x12, x12, #1
    mov     x10, #{stack}
    madd    x9, x12, x10, x9
    mov     sp, x9
    mov     x29, #0
    mov     x30, #0
    b       boot_el3_park
5:  wfe
    b       5b

    // In: x0 = where to, x1 = its x0, x2 = this CPU's stack, empty.
    .global boot_el3_enter
boot_el3_enter:
    mov     sp, x2
    msr     ELR_EL3, x0
    mov     x9, #{spsr}
    msr     SPSR_EL3, x9
    mov     x0, x1
    mov     x30, #0
    isb
    eret
    dsb     nsh                     // nothing is speculated beyond
    isb

    // From below, synchronously: the call of EL2, or what nobody should have made.
boot_el3_lower:
    sub     sp, sp, #176
    stp     x9, x10, [sp, #48]
    mrs     x9, ESR_EL3
    lsr     x9, x9, #26
    cmp     x9, #0x17               // SMC of AArch64
    b.ne    boot_el3_reflect
    mrs     x9, SPSR_EL3
    and     x9, x9, #0x1e
    cmp     x9, #0x8                // EL2, with either stack pointer
    b.ne    boot_el3_reflect
    stp     x4, x5, [sp]
    stp     x6, x7, [sp, #16]
    str     x8, [sp, #32]
    stp     x11, x12, [sp, #64]
    stp     x13, x14, [sp, #80]
    stp     x15, x16, [sp, #96]
    stp     x17, x18, [sp, #112]
    stp     x29, x30, [sp, #128]
    mrs     x9, ELR_EL3
    mrs     x10, SPSR_EL3
    stp     x9, x10, [sp, #144]
    mov     x29, #0
    bl      boot_el3_call
    ldp     x9, x10, [sp, #144]
    msr     ELR_EL3, x9
    msr     SPSR_EL3, x10
    ldp     x4, x5, [sp]
    ldp     x6, x7, [sp, #16]
    ldr     x8, [sp, #32]
    ldp     x11, x12, [sp, #64]
    ldp     x13, x14, [sp, #80]
    ldp     x15, x16, [sp, #96]
    ldp     x17, x18, [sp, #112]
    ldp     x29, x30, [sp, #128]
    mov     x1, #0                  // nothing of EL3 goes down
    mov     x2, #0
    mov     x3, #0
    ldp     x9, x10, [sp, #48]
    add     sp, sp, #176
    eret
    dsb     nsh
    isb

    // An undefined instruction for EL2, as if it had come from where it came from straight to EL2.
boot_el3_reflect:
    mrs     x9, ELR_EL3
    msr     ELR_EL2, x9
    mrs     x9, SPSR_EL3
    msr     SPSR_EL2, x9
    mov     x10, #0x400             // a lower level; AArch32 as well, which is EL0 alone: the level right below EL2 counts, AArch64
    tbz     x9, #3, 1f
    mov     x10, #0x200             // EL2 itself, on its own stack pointer
    tbnz    x9, #0, 1f
    mov     x10, #0
1:  mrs     x9, VBAR_EL2
    add     x9, x9, x10
    msr     ELR_EL3, x9
    mov     x9, #{spsr}
    msr     SPSR_EL3, x9
    mov     x9, #{unknown}
    msr     ESR_EL2, x9
    ldp     x9, x10, [sp, #48]
    add     sp, sp, #176
    eret
    dsb     nsh
    isb

    // EL3's own fault, or an interrupt that nobody routes here: there is nobody to tell.
boot_el3_stuck:
    wfe
    b       boot_el3_stuck

    .macro el3_vector to
    .balign 0x80
    b       \to
    .endm
    .balign 0x800
    .global boot_el3_vectors
boot_el3_vectors:
    .rept 8
    el3_vector boot_el3_stuck
    .endr
    el3_vector boot_el3_lower       // AArch64
    .rept 3
    el3_vector boot_el3_stuck
    .endr
    el3_vector boot_el3_lower       // AArch32
    .rept 3
    el3_vector boot_el3_stuck
    .endr

    // Not in bss, which is zeroed when others look at it already: what is loaded is 0.
    .section .data.boot_el3, "aw"
    .balign 64
boot_el3_ready:
    .word   0
    .balign 64

    .section .el3, "aw", @nobits
    .balign 4096
    .global boot_el3_stacks
boot_el3_stacks:
    .space  {stack} * {slots}
    .global boot_el3_records
boot_el3_records:
    .space  {record} * {slots}
    .global boot_el3_setup
boot_el3_setup:
    .space  8 * {words}
    "#,
    sctlr_low = const SCTLR_EL3_OFF & 0xffff,
    sctlr_high = const SCTLR_EL3_OFF >> 16,
    spsr = const SPSR_EL2H,
    unknown = const UNKNOWN,
    stack = const STACK,
    slots = const SLOTS,
    clusters = const SLOTS / 16,
    record = const RECORD,
    words = const WORDS,
);
