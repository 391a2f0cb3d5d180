//! The exception vectors and the only way into a guest and out of it.
//!
//! [`enter`] saves the callee-saved registers, loads the guest's general registers and executes the only `eret` of the
//! hypervisor. An exception from the guest lands in the lower half of the vectors, stores the general registers, ELR and
//! SPSR back and returns to `enter`'s caller. Nothing else is saved or loaded: the guest's EL1 state stays where it is until
//! another vCPU comes ([`crate::world`]).
//!
//! In the build `debug-fp` FP traps (CPTR_EL2) while EL2 runs and not while the guest does ([`crate::door`]).
//!
//! # SErrors
//! PSTATE.A is set while the registers are being saved and clear in Merus proper. The rest of the exit path, from where it is
//! cleared, is the window: an SError that is taken there was pending when the guest was left, and is reported as the guest's
//! ([`Left::serror`]); anywhere else it is Merus' own, and fatal. That the guest's errors are pending by then is the business of
//! an *error synchronization*, and it costs the counted path no instruction (Arm ARM, "RAS PE architecture", "Error synchronization
//! event"):
//!
//! | CPU | synchronized by |
//! |---|---|
//! | with FEAT_IESB | SCTLR_EL2.IESB: the exception entry and the `eret` do it by themselves, so the guest's errors are pending before EL2's first instruction, and EL2's are taken in EL2 |
//! | with FEAT_RAS but not FEAT_IESB | an ESB as each vector's first act; what is pending at it is deferred to DISR_EL1 and reported from there. Vectors of its own, 0x800 behind those without ([`address`]) |
//! | without FEAT_RAS | nothing: only what is pending already is the guest's |
//!
//! An error that comes later than that is fatal although it may have been the guest's: it is never taken for another guest's.
//!
//! # Branch history
//! What a guest taught the branch predictors must not steer EL2. Each pCPU gets the vectors that its core needs
//! ([`BranchHistory`]): nothing, a loop of branches, CLRBHB, or a firmware call before anything indirect is executed.
//!
//! # Faults of EL2
//! Every exception from EL2 itself is fatal. Because the stack may be what is broken, the handler runs on the emergency
//! stack that TPIDR_EL2 points to.

use crate::errata::BranchHistory;
use crate::layout::{E2H_0, E2H_1};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use trap::GuestFrame;

/// How the guest was left.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Left {
    cause: u64,
    /// ESR_EL2. Meaningless after an interrupt.
    pub esr: u64,
}

impl Left {
    /// Whether it was by a synchronous exception, and nothing else came with it.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        self.cause & 0x13 == 0
    }
    /// The vector that was taken.
    #[inline(always)]
    pub fn vector(self) -> trap::Vector {
        match self.cause & 3 {
            0 => trap::Vector::Sync,
            1 => trap::Vector::Irq,
            2 => trap::Vector::Fiq,
            _ => trap::Vector::SError,
        }
    }
    /// The syndrome (25 bits) of an SError that the guest left behind, if it did.
    #[inline(always)]
    pub fn serror(self) -> Option<u32> {
        (self.cause & 0x10 != 0).then_some((self.cause >> 32) as u32)
    }
}

// x31 in a syndrome is the zero register. Should a CPU run ahead with it as an index, it reaches the guest's own program counter.
const _: () = assert!(core::mem::offset_of!(GuestFrame, x) == 0);
const _: () = assert!(core::mem::offset_of!(GuestFrame, pc) == 248);
const _: () = assert!(core::mem::offset_of!(GuestFrame, pstate) == 256);

// SAFETY: all are below. `el2_enter` takes the frame's address in x0, keeps x19-x30 and sp as a call must, and answers in x0 and x1 as
// `Left` is returned. The others are tables of vectors, of which Rust takes the addresses only.
unsafe extern "C" {
    fn el2_enter(frame: *mut GuestFrame) -> Left;
    fn el2_vectors();
    fn el2_vectors_loop();
    fn el2_vectors_clear();
    fn el2_vectors_firmware_1();
    fn el2_vectors_firmware_3();
}

/// Runs the guest whose registers are in `frame` until something happens.
///
/// # Safety
/// This pCPU is set up ([`crate::start`]), the vCPU whose frame this is has its other state loaded ([`crate::world`]), and
/// VTTBR_EL2 holds stage-2 tables that map no memory but what this guest may touch.
#[inline(always)]
pub unsafe fn enter(frame: &mut GuestFrame) -> Left {
    // SAFETY: the caller's promise; the assembly stores to nothing but `frame` and its own stack frame.
    unsafe { el2_enter(frame) }
}

/// How many branches the vectors with a loop take.
static LOOPS: AtomicU64 = AtomicU64::new(1);

/// The vectors' address, for VBAR_EL2, on a CPU that needs this done about its branch history; `esb`: and an explicit error
/// synchronization, because it has FEAT_RAS without FEAT_IESB.
pub fn address(history: BranchHistory, esb: bool) -> u64 {
    let table = match history {
        BranchHistory::Nothing | BranchHistory::Unlisted => el2_vectors,
        BranchHistory::Loop(count) => {
            LOOPS.fetch_max(u64::from(count), Ordering::Relaxed);
            el2_vectors_loop
        }
        BranchHistory::Clear => el2_vectors_clear,
        BranchHistory::Firmware1 => el2_vectors_firmware_1,
        BranchHistory::Firmware3 => el2_vectors_firmware_3,
    };
    table as *const () as u64 + if esb { 0x800 } else { 0 }
}

global_asm!(
    r#"
    // CPTR_EL2, in the layout that E2H asks for. Clobbers x2.
    .macro cptr low high e2h_low e2h_high
    mrs     x2, HCR_EL2
    tbnz    x2, #34, 7f
    movz    x2, #\low
    movk    x2, #\high, lsl #16
    b       8f
7:  movz    x2, #\e2h_low
    movk    x2, #\e2h_high, lsl #16
8:  msr     CPTR_EL2, x2
    .endm

    .section .text.el2, "ax"
    .global el2_enter
el2_enter:
    sub     sp, sp, #112
    str     x0, [sp]
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    stp     x29, x30, [sp, #96]
    ldp     x2, x3, [x0, #248]
    and     x3, x3, #~8             // never EL2 or EL3 (M[3:2]), whatever is in the frame
    msr     ELR_EL2, x2
    msr     SPSR_EL2, x3
    .if {debug_fp}
    cptr    {guest_low} {guest_high} {e2h_guest_low} {e2h_guest_high}
    .endif
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    // Nothing behind an `eret` is ever executed, so this costs nothing, and it holds speculation on every CPU; SB, where there is
    // FEAT_SB, could do no more.
    dsb     nsh
    isb

    // An ESB has deferred an error of the guest to DISR_EL1 (x0), whose layout is the syndrome's; x1 = cause.
guest_exit_deferred:
    msr     S3_0_C12_C1_1, xzr
    bfi     x1, x0, #32, #25
    orr     x1, x1, #0x10
guest_exit:                         // x0, x1 on the stack; x1 = cause
    ldr     x0, [sp, #16]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    .if {debug_fp}
    cptr    {traps_low} {traps_high} {e2h_traps_low} {e2h_traps_high}
    isb
    .endif
    mrs     x2, ELR_EL2
    mrs     x3, SPSR_EL2
    stp     x2, x3, [x0, #248]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mov     x0, x1
    mrs     x1, ESR_EL2
guest_serror_window:                // x0 is the cause from here to the end: el2_serror writes to it
    msr     daifclr, #4
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp, #96]
    add     sp, sp, #112
guest_serror_window_end:
    ret

    // An SError taken to EL2 from EL2, its stack in order.
el2_serror:
    stp     x2, x3, [sp, #-16]!
    mrs     x2, ELR_EL2
    adr     x3, guest_serror_window
    cmp     x2, x3
    b.lo    1f
    adr     x3, guest_serror_window_end
    cmp     x2, x3
    b.hi    1f
    mrs     x2, ESR_EL2
    bfi     x0, x2, #32, #25
    orr     x0, x0, #0x10
    ldp     x2, x3, [sp], #16
    eret
    dsb     nsh
    isb
1:  ldp     x2, x3, [sp], #16
    msr     TPIDR_EL0, x0
    mov     x0, #3
    // falls through

    .global el2_fatal
    // A fault of Merus: x0 = which, the real x0 in TPIDR_EL0 (a guest's register: no guest goes on after this).
el2_fatal:
    msr     daifset, #0xf
    msr     TPIDRRO_EL0, x1
    mov     x1, sp
    msr     TPIDR_EL1, x1
    mrs     x1, TPIDR_EL2
    cbz     x1, 1f
    ldr     x1, [x1]                // the emergency stack's top
    mov     sp, x1
1:  sub     sp, sp, #288
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mrs     x2, TPIDR_EL0
    mrs     x3, TPIDRRO_EL0
    stp     x2, x3, [sp]
    mrs     x2, ELR_EL2
    mrs     x3, SPSR_EL2
    stp     x2, x3, [sp, #248]
    mrs     x2, TPIDR_EL1           // the stack pointer at the fault
    mov     x1, sp
    bl      merus_el2_fault
    b       .

    // Where \esb is 1 the guest's errors are synchronized. x0 is free, x1 = cause.
    .macro leave esb
    .if \esb
    hint    #16                     // ESB; PSTATE.A is set, so what is pending goes to DISR_EL1
    mrs     x0, S3_0_C12_C1_1
    tbz     x0, #31, 3f
    b       guest_exit_deferred
3:
    .endif
    b       guest_exit
    .endm
    .macro from_guest cause count esb
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\cause
    leave   \esb
    .endm
    .macro from_el2 cause
    .balign 0x80
    msr     TPIDR_EL0, x0
    mov     x0, #\cause
    b       el2_fatal
    .endm

    // The branch history of the guest is overwritten by taken branches, as many as the machine's neediest core asks for.
    .macro from_guest_loop cause count esb
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    adrp    x0, {loops}
    ldr     x0, [x0, :lo12:{loops}]
1:  b       2f
2:  subs    x0, x0, #1
    b.ne    1b
    dsb     nsh
    isb
    mov     x1, #\cause
    leave   \esb
    .endm
    // The CPU has an instruction for it: CLRBHB (HINT #22).
    .macro from_guest_clear cause count esb
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    hint    #22
    isb
    mov     x1, #\cause
    leave   \esb
    .endm
    // The firmware does it: SMCCC_ARCH_WORKAROUND_3 (\count = 3) or _1, which keep x4 and up.
    .macro from_guest_firmware cause count esb
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    stp     x2, x3, [sp, #-16]!
    mov     w0, #0x80000000
    .if \count == 3
    orr     w0, w0, #0x3fff
    .else
    orr     w0, w0, #0x8000
    .endif
    smc     #0
    ldp     x2, x3, [sp], #16
    mov     x1, #\cause
    leave   \esb
    .endm

    .macro table entry count esb
    .balign 0x800
    .balign 0x80
    b       el2_probe_sync          // EL2 with SP_EL0: a probe (crate::probe)
    from_el2 0x11
    from_el2 0x12
    .balign 0x80
    b       el2_probe_serror
    from_el2 0                      // EL2
    from_el2 1
    from_el2 2
    .balign 0x80
    b       el2_serror
    \entry 0 \count \esb           // AArch64 below
    \entry 1 \count \esb
    \entry 2 \count \esb
    \entry 3 \count \esb
    \entry 0 \count \esb           // AArch32 below
    \entry 1 \count \esb
    \entry 2 \count \esb
    \entry 3 \count \esb
    .endm

    // Without and, 0x800 further on, with an ESB.
    .macro tables name entry count
    .balign 0x800
    .global \name
\name:
    table   \entry \count 0
    table   \entry \count 1
    .endm

    tables el2_vectors from_guest 0
    tables el2_vectors_loop from_guest_loop 0
    tables el2_vectors_clear from_guest_clear 0
    tables el2_vectors_firmware_1 from_guest_firmware 1
    tables el2_vectors_firmware_3 from_guest_firmware 3
"#,
    loops = sym LOOPS,
    debug_fp = const cfg!(feature = "debug-fp") as u8,
    guest_low = const E2H_0.cptr_guest & 0xffff,
    guest_high = const E2H_0.cptr_guest >> 16,
    traps_low = const E2H_0.cptr_fp_traps & 0xffff,
    traps_high = const E2H_0.cptr_fp_traps >> 16,
    e2h_guest_low = const E2H_1.cptr_guest & 0xffff,
    e2h_guest_high = const E2H_1.cptr_guest >> 16,
    e2h_traps_low = const E2H_1.cptr_fp_traps & 0xffff,
    e2h_traps_high = const E2H_1.cptr_fp_traps >> 16,
);
