//! FP and SIMD registers of every CPU keep their values, whoever else runs on the pCPU.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use guest_rt::{check, check_eq, cpu, psci, timer};

// The compiler's target has no FP registers, so that they can only be reached in functions of their own.
global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    // x0: 32 times 16 bytes for q0 to q31, then FPCR and FPSR.
fp_load:
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
    msr     FPCR, x1
    msr     FPSR, x2
    ret
fp_store:
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
    mrs     x1, FPCR
    mrs     x2, FPSR
    str     x1, [x0, #512]
    str     x2, [x0, #520]
    ret
    "#
);

/// q0 to q31 in pairs of words, FPCR, FPSR.
#[repr(C, align(16))]
#[derive(PartialEq, Eq)]
struct Registers([u64; 66]);

// SAFETY: both are above, take the registers' address in x0, reach the 66 words there, and change x1, x2 and FP registers, which
// compiled code does not use.
unsafe extern "C" {
    fn fp_load(from: &Registers);
    fn fp_store(to: &mut Registers);
}

fn load(registers: &Registers) {
    // SAFETY: no compiled code uses what is loaded; the function keeps to x0-x2.
    unsafe { fp_load(registers) };
}

fn store(registers: &mut Registers) {
    // SAFETY: it writes exactly the 66 words.
    unsafe { fp_store(registers) };
}

fn pattern(cpu: usize, round: u64) -> Registers {
    let mut registers = Registers([0; 66]);
    for (n, word) in registers.0.iter_mut().enumerate() {
        *word = (cpu as u64 + 1) << 56 | round << 32 | (0x0101_0101 * n as u64);
    }
    // FPCR.RMode and DN, FPSR.QC and the cumulative flags.
    registers.0[64] = (cpu as u64 & 3) << 22 | 1 << 25;
    registers.0[65] = 1 << 27 | (round & 0x1f);
    registers
}

/// Loads the pattern of a CPU and a round, does something, and looks: the first word that is not as it was.
pub fn kept(cpu: usize, round: u64, meanwhile: impl FnOnce()) -> Option<(usize, u64)> {
    let want = pattern(cpu, round);
    load(&want);
    meanwhile();
    let mut found = Registers([0; 66]);
    store(&mut found);
    let wrong = found.0.iter().zip(&want.0).position(|(got, want)| got != want)?;
    Some((wrong, found.0[wrong]))
}

static READY: cpu::Barrier = cpu::Barrier::new();
static AGAIN: AtomicBool = AtomicBool::new(false);

/// Runs the test.
pub fn fp() {
    cpu::on_all(work);
}

fn work(cpu: usize) {
    // As it starts: what another vCPU or VM had there must not show. (Their reset values are UNKNOWN, but under Merus 0.)
    let mut found = Registers([0; 66]);
    store(&mut found);
    // The first CPU starts once, however often the test runs.
    let fresh = cpu != 0 || !AGAIN.swap(true, Ordering::Relaxed);
    if fresh && psci::on_merus() {
        let foreign = found.0.iter().filter(|word| **word != 0).count();
        check!(foreign == 0, "{foreign} words of the FP registers are not 0 at the start");
    }
    READY.wait(cpu::count());
    for round in 0..40 {
        let want = pattern(cpu, round);
        load(&want);
        match round % 4 {
            0 => timer::delay(500),
            1 => {
                psci::call(psci::VERSION, [0; 3]);
            }
            2 => READY.wait(cpu::count()),
            _ => {
                timer::wait_for(2, || false);
            }
        }
        store(&mut found);
        for (n, (got, want)) in found.0.iter().zip(&want.0).enumerate() {
            check_eq!(*got, *want, "word {n} of the FP registers in round {round}");
        }
    }
    // Leaves something for whoever comes next.
    load(&pattern(cpu, 99));
}
