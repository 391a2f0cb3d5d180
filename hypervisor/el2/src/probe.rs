//! Probes: what may be answered by an external abort, without dying of it.
//!
//! Merus never runs with SP_EL0 but in a *probe* (`platform::mmio`, and `el2_unmask` below): a leaf routine without a stack that
//! does one such thing. PSTATE.SP is the mark of an expected abort, one for each pCPU, and the vectors for "EL2 with SP_EL0" are
//! its fix-up: the routine returns to its caller at once with the syndrome in x1, where it leaves 0 itself. There is no table to
//! look through and nothing to switch back: the mark ends with the exception.
//!
//! Only a synchronous external abort of a data access, and an SError that is not uncontainable, are answered so; every other
//! fault is fatal in a probe as anywhere in EL2. A probe waits (DSB, ESB) for errors of earlier accesses before it sets the mark, and
//! for its own before it takes it away.

use core::arch::global_asm;

#[repr(C)]
struct Unmasked {
    _x0: u64,
    syndrome: u64,
}

/// Clears PSTATE.A on a pCPU that the firmware has just handed over. The syndrome (ESR_EL2) of an SError that was pending: it is from
/// before Merus, and its end unless it is uncontainable.
///
/// # Safety
/// VBAR_EL2 holds one of the tables of [`crate::vectors::address`].
pub(crate) unsafe fn unmask_serror() -> Option<u64> {
    // SAFETY: the routine changes PSTATE.A, and registers that a call may change; the caller vouches for the vectors.
    let syndrome = unsafe { el2_unmask() }.syndrome;
    (syndrome != 0).then_some(syndrome)
}

// SAFETY: it is below, takes nothing, answers in x0 and x1 as `Unmasked` is returned, and changes no other register but x2.
unsafe extern "C" {
    fn el2_unmask() -> Unmasked;
}

global_asm!(
    r#"
    .section .text.el2, "ax"
    .global el2_unmask
    .global el2_probe_sync
    .global el2_probe_serror
    // Takes PSTATE.A away. What is pending comes now, as in any probe: x1 = its syndrome, or 0.
el2_unmask:
    msr     SPSel, #0
    msr     daifclr, #4
    hint    #16                     // ESB
    isb
    msr     SPSel, #1
    mov     x1, #0
    ret

    // Faults of a probe; x0 to x2 are free.
el2_probe_sync:
    mrs     x1, ESR_EL2
    ubfx    x2, x1, #26, #6
    cmp     x2, #0x25               // data abort from EL2 ...
    b.ne    1f
    and     x2, x1, #0x3f
    cmp     x2, #0x10               // ... external, and not on a table walk
    b.eq    probe_answered
1:  msr     TPIDR_EL0, x0
    mov     x0, #0x10
    b       el2_fatal
el2_probe_serror:
    mrs     x1, ESR_EL2
    ubfx    x2, x1, #24, #1
    cbnz    x2, probe_answered      // IMPLEMENTATION DEFINED syndrome: nothing is known of it
    and     x2, x1, #0x3f
    cmp     x2, #0x11               // categorized?
    b.ne    probe_answered
    tst     x1, #0x1c00             // AET: uncontainable?
    b.ne    probe_answered
    msr     TPIDR_EL0, x0
    mov     x0, #0x13
    b       el2_fatal
probe_answered:
    mrs     x2, SPSR_EL2
    orr     x2, x2, #1              // back to the stack of EL2
    msr     SPSR_EL2, x2
    msr     ELR_EL2, x30
    eret
    dsb     nsh
    isb
"#
);
