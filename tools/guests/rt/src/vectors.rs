//! Exceptions: what a test expects is recorded and stepped over, interrupts go to the test's handler, and anything else is
//! the test's failure.
//!
//! | exception | what happens |
//! |---|---|
//! | synchronous, a test's hook takes it | as the hook did |
//! | synchronous, within [`expect`] | recorded; the instruction is skipped (an instruction abort returns to x30) |
//! | IRQ | the handler of [`set_irq`] |
//! | SError, within [`expect`] | recorded |
//! | anything else | the test fails, and the machine is powered off |

use crate::{console, cpu, mrs, println, psci, test};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The registers of the interrupted code, as saved on its stack.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1 (synchronous exceptions and SErrors).
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    pad: u64,
}

impl Frame {
    /// The exception class.
    pub fn class(&self) -> u8 {
        (self.esr >> 26) as u8
    }
}

/// An exception that a test expected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1.
    pub elr: u64,
}

impl Fault {
    /// The exception class, ESR_EL1.EC.
    pub fn class(&self) -> u8 {
        (self.esr >> 26) as u8
    }

    /// The fault status code of an abort, ISS bits 5:0.
    pub fn status(&self) -> u8 {
        (self.esr & 0x3f) as u8
    }
}

impl core::fmt::Debug for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "class {:#x}, ESR {:#x}, FAR {:#x}, ELR {:#x}", self.class(), self.esr, self.far, self.elr)
    }
}

/// Exception classes (Arm ARM, "ESR_EL1, Exception Syndrome Register (EL1)").
pub mod class {
    /// Unknown reason: an undefined instruction.
    pub const UNKNOWN: u8 = 0;
    /// FP/SIMD access trapped.
    pub const FP: u8 = 7;
    /// SVC from AArch64.
    pub const SVC: u8 = 0x15;
    /// MSR, MRS or system instruction trapped.
    pub const SYSREG: u8 = 0x18;
    /// Instruction abort without a change of level.
    pub const INSTRUCTION_ABORT: u8 = 0x21;
    /// PC alignment fault.
    pub const PC_ALIGNMENT: u8 = 0x22;
    /// Data abort without a change of level.
    pub const DATA_ABORT: u8 = 0x25;
    /// SError.
    pub const SERROR: u8 = 0x2f;
    /// Breakpoint without a change of level.
    pub const BREAKPOINT: u8 = 0x31;
    /// Software step without a change of level.
    pub const STEP: u8 = 0x33;
    /// Watchpoint without a change of level.
    pub const WATCHPOINT: u8 = 0x35;
    /// BRK instruction.
    pub const BRK: u8 = 0x3c;
}

/// Fault status of a synchronous external abort that was not on a table walk.
pub const EXTERNAL: u8 = 0x10;
/// Fault status of an alignment fault.
pub const ALIGNMENT: u8 = 0x21;

/// A test's own look at a synchronous exception: true if it has dealt with it.
pub type Hook = fn(&mut Frame) -> bool;

#[repr(align(128))]
struct State {
    expecting: AtomicBool,
    count: AtomicU32,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
}

static STATES: [State; cpu::MAX] = [const {
    State {
        expecting: AtomicBool::new(false),
        count: AtomicU32::new(0),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        elr: AtomicU64::new(0),
    }
}; cpu::MAX];

static IRQ: AtomicUsize = AtomicUsize::new(0);
static HOOK: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn init(cpu: usize) {
    STATES[cpu].expecting.store(false, Ordering::Relaxed);
}

/// Sets what all CPUs do at an IRQ; `None`: it fails the test.
pub fn set_irq(handler: Option<fn()>) {
    IRQ.store(handler.map_or(0, |handler| handler as usize), Ordering::Release);
}

/// Sets what looks at synchronous exceptions of all CPUs first; `None`: nothing.
pub fn set_hook(hook: Option<Hook>) {
    HOOK.store(hook.map_or(0, |hook| hook as usize), Ordering::Release);
}

/// Runs `work`, stepping over faults; returns what it returned (arbitrary where a load faulted), the last fault and how
/// many there were.
pub fn expect_many<R>(work: impl FnOnce() -> R) -> (R, Option<Fault>, u32) {
    let state = &STATES[cpu::index()];
    state.count.store(0, Ordering::Relaxed);
    state.expecting.store(true, Ordering::SeqCst);
    let result = work();
    // An SError that the work caused is due by now.
    crate::run!("dsb sy\nisb");
    state.expecting.store(false, Ordering::SeqCst);
    let count = state.count.load(Ordering::Relaxed);
    let fault = Fault {
        esr: state.esr.load(Ordering::Relaxed),
        far: state.far.load(Ordering::Relaxed),
        elr: state.elr.load(Ordering::Relaxed),
    };
    (result, (count > 0).then_some(fault), count)
}

/// As [`expect_many`] where only the last fault matters.
pub fn expect<R>(work: impl FnOnce() -> R) -> (R, Option<Fault>) {
    let (result, fault, _) = expect_many(work);
    (result, fault)
}

#[unsafe(no_mangle)]
extern "C" fn rt_exception(frame: &mut Frame, kind: u64) {
    match kind & 3 {
        0 => synchronous(frame),
        1 => {
            let handler = IRQ.load(Ordering::Acquire);
            if handler == 0 {
                die(frame, "interrupt without a handler");
            }
            // SAFETY: `set_irq` stored an `fn()`.
            let handler: fn() = unsafe { core::mem::transmute(handler) };
            handler();
        }
        3 => {
            let state = &STATES[cpu::index()];
            if !state.expecting.load(Ordering::Relaxed) {
                die(frame, "SError");
            }
            record(state, frame);
        }
        _ => die(frame, "FIQ"),
    }
}

fn synchronous(frame: &mut Frame) {
    let hook = HOOK.load(Ordering::Acquire);
    if hook != 0 {
        // SAFETY: `set_hook` stored a `Hook`.
        let hook: Hook = unsafe { core::mem::transmute(hook) };
        if hook(frame) {
            return;
        }
    }
    let state = &STATES[cpu::index()];
    if !state.expecting.load(Ordering::Relaxed) {
        die(frame, "exception");
    }
    record(state, frame);
    match frame.class() {
        // Called into nowhere: back to the caller.
        class::INSTRUCTION_ABORT | class::PC_ALIGNMENT => frame.elr = frame.x[30],
        // Its return address is the next instruction already.
        class::SVC => {}
        _ => frame.elr += 4,
    }
}

fn record(state: &State, frame: &Frame) {
    state.esr.store(frame.esr, Ordering::Relaxed);
    state.far.store(frame.far, Ordering::Relaxed);
    state.elr.store(frame.elr, Ordering::Relaxed);
    state.count.fetch_add(1, Ordering::Relaxed);
}

fn die(frame: &Frame, what: &str) -> ! {
    console::take_over();
    println!(
        "test {}: FAILED: {what} on CPU {}: ESR {:#x} (class {:#x}), FAR {:#x}, ELR {:#x} (offset {:#x}), SPSR {:#x}, x30 {:#x}, \
         SCTLR {:#x}",
        test::current(),
        cpu::index(),
        frame.esr,
        frame.class(),
        frame.far,
        frame.elr,
        frame.elr.wrapping_sub(crate::entry::image().0),
        frame.spsr,
        frame.x[30],
        mrs!("SCTLR_EL1"),
    );
    psci::system_off()
}

global_asm!(
    r#"
    .macro  RT_VECTOR kind
    .balign 128
    sub     sp, sp, #{size}
    stp     x0, x1, [sp]
    mov     x1, #\kind
    b       rt_common
    .endm
    .section .text.rt_vectors, "ax"
    .balign 2048
    .global rt_vectors
rt_vectors:
    .irp    kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    RT_VECTOR \kind
    .endr
    .purgem RT_VECTOR
rt_common:
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
    mrs     x2, ELR_EL1
    stp     x30, x2, [sp, #240]
    mrs     x2, SPSR_EL1
    mrs     x3, ESR_EL1
    stp     x2, x3, [sp, #256]
    mrs     x2, FAR_EL1
    str     x2, [sp, #272]
    mov     x0, sp
    bl      rt_exception
    ldp     x30, x2, [sp, #240]
    ldr     x3, [sp, #256]
    msr     daifset, #0xf
    msr     ELR_EL1, x2
    msr     SPSR_EL1, x3
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp], #{size}
    eret
    "#,
    size = const size_of::<Frame>(),
);
