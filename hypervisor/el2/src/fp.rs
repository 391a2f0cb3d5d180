//! A guest's FP and Advanced SIMD registers: the only code of Merus that touches them.
//!
//! `xtask lint` finds FP/SIMD instructions anywhere but in the section below and fails; the build `debug-fp` has them trap
//! ([`crate::door`]). SVE state would take its place beside this one: guests are shown no SVE.

use crate::door::layout;
use crate::regs::{msr, op};
use core::arch::global_asm;

/// V0 to V31, FPSR and FPCR of a vCPU that is not loaded.
#[repr(C, align(16))]
#[derive(Clone, Debug, Default)]
pub struct FpState {
    v: [[u64; 2]; 32],
    fpsr: u64,
    fpcr: u64,
}

const _: () = assert!(core::mem::offset_of!(FpState, fpsr) == 512);

// SAFETY: both are below, take the address in x0, and change no register that the compiler has values in: v0-v31 it never uses here,
// and of the others x1 and x2 alone, which a call may change.
unsafe extern "C" {
    fn el2_fp_save(to: *mut FpState);
    fn el2_fp_load(from: *const FpState);
}

impl FpState {
    /// Stores the registers of the vCPU that leaves.
    pub fn save(&mut self) {
        // SAFETY: writes the 528 bytes of `self`, whose layout is asserted above.
        untrapped(|| unsafe { el2_fp_save(self) });
    }
    /// Loads the registers of the vCPU that comes; nothing of the one before is left.
    pub fn load(&self) {
        // SAFETY: reads the 528 bytes of `self`; EL2's own code uses no FP register (checked in the binary).
        untrapped(|| unsafe { el2_fp_load(self) });
    }
}

/// Runs what may use FP registers. Only the build `debug-fp` has anything to do for it.
#[inline(always)]
fn untrapped(body: impl FnOnce()) {
    if cfg!(feature = "debug-fp") {
        // SAFETY: EL2's own trap, between the two values that the door gives.
        unsafe {
            msr!("CPTR_EL2", layout().cptr_guest);
            op!("isb");
        }
    }
    body();
    if cfg!(feature = "debug-fp") {
        // SAFETY: as above.
        unsafe {
            msr!("CPTR_EL2", layout().cptr_own());
            op!("isb");
        }
    }
}

global_asm!(
    r#"
    .section .text.guest_fp, "ax"
    .arch_extension fp
    .arch_extension simd
    .global el2_fp_save
el2_fp_save:
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    mrs     x1, FPSR
    mrs     x2, FPCR
    str     x1, [x0, #512]
    str     x2, [x0, #520]
    ret
    .global el2_fp_load
el2_fp_load:
    ldp     q0, q1, [x0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    ldr     x1, [x0, #512]
    ldr     x2, [x0, #520]
    msr     FPSR, x1
    msr     FPCR, x2
    ret
    .arch_extension nosimd
    .arch_extension nofp
    .text
"#
);
