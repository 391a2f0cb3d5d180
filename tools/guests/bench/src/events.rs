//! The events, in assembly: what is measured is what is written here, whatever the compiler does around it.
//!
//! The handler's first instruction reads the counter into x16; the code that waits for it keeps nothing in x15 to x17 while
//! interrupts are unmasked. What a measurement costs by itself is taken off: by the caller, with [`empty`], where events are
//! repeated; here, one instruction for the first read of the counter, where an event ends in the handler.
//!
//! The labels `bench_at_*` name the instructions that leave for the hypervisor: a trace of what is executed is cut at them.

use core::arch::global_asm;
use core::sync::atomic::AtomicU64;
use guest_rt::mmio::{GICC, GICD};
use guest_rt::{gicv2, msr, println, psci, sysreg};

/// Rounds of [`spin`] in the row `loop`, two instructions each.
pub const LOOP: u64 = 10_000_000;

/// `count` events with an argument; the ticks that they took.
pub type Repeat = extern "C" fn(argument: u64, count: u64) -> u64;

// SAFETY: all are below; each takes its arguments in x0 and x1, answers in x0, and keeps what a call must keep. The safe ones reach no
// memory but their arguments' atomics and the devices of the platform. The table is never read: its address is taken.
unsafe extern "C" {
    #[link_name = "bench_empty"]
    safe fn asm_empty(argument: u64, count: u64) -> u64;
    #[link_name = "bench_hypercall"]
    safe fn asm_hypercall(argument: u64, count: u64) -> u64;
    #[link_name = "bench_mmio"]
    safe fn asm_mmio(argument: u64, count: u64) -> u64;
    #[link_name = "bench_idreg"]
    safe fn asm_idreg(argument: u64, count: u64) -> u64;
    #[link_name = "bench_sgi"]
    safe fn asm_sgi(sgi1r: u64) -> u64;
    #[link_name = "bench_timer"]
    safe fn asm_timer(ticks: u64) -> u64;
    #[link_name = "bench_wfi"]
    safe fn asm_wfi(ticks: u64) -> u64;
    #[link_name = "bench_receive"]
    safe fn asm_receive(ready: &AtomicU64) -> u64;
    #[link_name = "bench_send"]
    safe fn asm_send(sgi1r: u64, answer: &AtomicU64) -> u64;
    #[link_name = "bench_sgi_gicv2"]
    safe fn asm_sgi_gicv2(sgir: u64) -> u64;
    #[link_name = "bench_send_gicv2"]
    safe fn asm_send_gicv2(sgir: u64, answer: &AtomicU64) -> u64;
    #[link_name = "bench_spin"]
    safe fn asm_spin(rounds: u64) -> u64;
    #[link_name = "bench_gap"]
    safe fn asm_gap(least: u64, ticks: u64) -> u64;
    static bench_vectors: u8;
    static bench_vectors_gicv2: u8;
}

macro_rules! repeated {
    ($(#[$doc:meta] $name:ident $asm:ident;)*) => {$(
        #[$doc]
        pub extern "C" fn $name(argument: u64, count: u64) -> u64 {
            $asm(argument, count)
        }
    )*};
}
repeated! {
    /// The loop around events with no event in it.
    empty asm_empty;
    /// PSCI_VERSION.
    hypercall asm_hypercall;
    /// Loads of 32 bits from the argument.
    mmio asm_mmio;
    /// Reads of ID_AA64PFR0_EL1.
    idreg asm_idreg;
}

/// Writes ICC_SGI1R_EL1, or GICD_SGIR of a GICv2, with an SGI to this CPU; ticks to the handler.
pub fn sgi(value: u64) -> u64 {
    if gicv2::is_here() { asm_sgi_gicv2(value) } else { asm_sgi(value) }
}

/// Sets the virtual timer `ticks` ahead and spins; ticks from the deadline to the handler.
pub fn timer(ticks: u64) -> u64 {
    asm_timer(ticks)
}

/// As [`timer`], asleep in WFI.
pub fn wfi(ticks: u64) -> u64 {
    asm_wfi(ticks)
}

/// Sleeps.
pub fn after(ticks: u64) {
    asm_wfi(ticks);
}

/// Counts `ready` up and sleeps until an interrupt comes; the counter in its handler.
pub fn receive(ready: &AtomicU64) -> u64 {
    asm_receive(ready)
}

/// Writes ICC_SGI1R_EL1, or GICD_SGIR of a GICv2, and waits until `answer` is the counter in the other's handler; ticks to there.
pub fn send(value: u64, answer: &AtomicU64) -> u64 {
    if gicv2::is_here() { asm_send_gicv2(value, answer) } else { asm_send(value, answer) }
}

/// Loops; the ticks that it took.
pub fn spin(rounds: u64) -> u64 {
    asm_spin(rounds)
}

/// Looks at the counter without a break: the first gap of more than `least` ticks between two looks, or 0 after `ticks` of them.
pub fn gap(least: u64, ticks: u64) -> u64 {
    asm_gap(if least == 0 { u64::MAX } else { least }, ticks)
}

/// Makes this CPU's exceptions come to the vectors below.
pub fn init() {
    let vectors = if gicv2::is_here() { &raw const bench_vectors_gicv2 } else { &raw const bench_vectors };
    msr!("VBAR_EL1", vectors as u64);
    sysreg::isb();
}

#[unsafe(no_mangle)]
extern "C" fn bench_unexpected(esr: u64, elr: u64, far: u64) -> ! {
    guest_rt::console::take_over();
    println!("bench: FAILED: exception: ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}");
    psci::system_off()
}

global_asm!(
    r#"
    .section .text.bench, "ax"
    // Vectors with a handler of interrupts that ends them: where x16 and x17 are free, and x15.
    .macro  VECTORS name, acknowledge:vararg
    .balign 2048
    .global \name
\name:
    .irp    kind, 0, 1, 2, 3, 4
    .balign 128
    b       bench_stray
    .endr
    .balign 128                     // IRQ from the current level
    mrs     x16, CNTVCT_EL0
    msr     CNTV_CTL_EL0, xzr
    \acknowledge
    eret
    .irp    kind, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    .balign 128
    b       bench_stray
    .endr
    .endm
    .macro  END_GICV3
    mrs     x17, ICC_IAR1_EL1
    isb
    msr     ICC_EOIR1_EL1, x17
    isb
    .endm
    .macro  END_GICV2
    ldr     x15, ={gicc}
    ldr     w17, [x15, #0xc]        // GICC_IAR
    isb
    str     w17, [x15, #0x10]       // GICC_EOIR
    dsb     sy
    .endm

    .balign 4096
    VECTORS bench_vectors_gicv2, END_GICV2
    .ltorg
    // (x0 GICD_SGIR) -> x0 ticks
    .global bench_sgi_gicv2, bench_at_sgi_gicv2
bench_sgi_gicv2:
    ldr     x10, ={gicd} + 0xf00
    mov     x16, #0
    msr     daifclr, #2
    isb
    mrs     x9, CNTVCT_EL0
bench_at_sgi_gicv2:
    str     w0, [x10]
1:  cbz     x16, 1b
    msr     daifset, #2
    sub     x0, x16, x9
    sub     x0, x0, #1
    ret

    // (x0 GICD_SGIR, x1 answer) -> x0 ticks
    .global bench_send_gicv2
bench_send_gicv2:
    ldr     x11, ={gicd} + 0xf00
    dsb     ish
    isb
    mrs     x9, CNTVCT_EL0
    str     w0, [x11]
    // As in bench_send.
1:  yield
    ldar    x10, [x1]
    cbz     x10, 1b
    sub     x0, x10, x9
    sub     x0, x0, #1
    ret
    .ltorg

    // A page: the vectors, the events, and at its very end the one whose place matters.
    .balign 4096
    VECTORS bench_vectors, END_GICV3
bench_stray:
    mrs     x0, ESR_EL1
    mrs     x1, ELR_EL1
    mrs     x2, FAR_EL1
    bl      bench_unexpected
    b       .

    // (x0 argument, x1 count) -> x0 ticks
    .macro  REPEATED name, event:vararg
    .global bench_\name
bench_\name:
    stp     x19, x20, [sp, #-32]!
    stp     x21, x30, [sp, #16]
    mov     x19, x0
    mov     x20, x1
    isb
    mrs     x21, CNTVCT_EL0
1:  mov     w0, #{psci_version}
    .global bench_at_\name
bench_at_\name:
    \event
    subs    x20, x20, #1
    b.ne    1b
    isb
    mrs     x0, CNTVCT_EL0
    sub     x0, x0, x21
    ldp     x21, x30, [sp, #16]
    ldp     x19, x20, [sp], #32
    ret
    .endm

    REPEATED empty
    REPEATED hypercall, hvc #0
    REPEATED mmio, ldr w1, [x19]

    // (x0 ICC_SGI1R_EL1) -> x0 ticks
    .global bench_sgi, bench_at_sgi
bench_sgi:
    mov     x16, #0
    msr     daifclr, #2
    isb
    mrs     x9, CNTVCT_EL0
bench_at_sgi:
    msr     ICC_SGI1R_EL1, x0
1:  cbz     x16, 1b
    msr     daifset, #2
    sub     x0, x16, x9
    sub     x0, x0, #1
    ret

    // Sets the virtual timer x0 ahead; x9: the deadline. Clobbers x10, x16.
    .macro  ARM
    mov     x16, #0
    isb
    mrs     x9, CNTVCT_EL0
    add     x9, x9, x0
    msr     CNTV_CVAL_EL0, x9
    mov     x10, #1
    msr     CNTV_CTL_EL0, x10
    isb
    .endm

    // (x0 ticks ahead) -> x0 ticks late
    .global bench_timer, bench_at_timer
bench_timer:
    ARM
    msr     daifclr, #2
bench_at_timer:
    cbz     x16, bench_at_timer
    msr     daifset, #2
    sub     x0, x16, x9
    ret

    .global bench_wfi, bench_at_wfi
bench_wfi:
    ARM
    // Masked, so that no interrupt is handled between the look at x16 and the WFI.
bench_at_wfi:
    wfi
    msr     daifclr, #2
    isb
    msr     daifset, #2
    cbz     x16, bench_at_wfi
    sub     x0, x16, x9
    ret
    .purgem ARM

    // (x0 to count up) -> x0 counter in the handler
    .global bench_receive
bench_receive:
    mov     x16, #0
    ldr     x9, [x0]
    add     x9, x9, #1
    stlr    x9, [x0]
1:  wfi
    msr     daifclr, #2
    isb
    msr     daifset, #2
    cbz     x16, 1b
    mov     x0, x16
    ret

    // (x0 ICC_SGI1R_EL1, x1 answer) -> x0 ticks
    .global bench_send, bench_at_ipi
bench_send:
    dsb     ish
    isb
    mrs     x9, CNTVCT_EL0
bench_at_ipi:
    msr     ICC_SGI1R_EL1, x0
    // The other CPU's turn: where one thread emulates both, a spin without this holds it up.
1:  yield
    ldar    x10, [x1]
    cbz     x10, 1b
    sub     x0, x10, x9
    sub     x0, x0, #1
    ret

    // (x0 rounds) -> x0 ticks
    .global bench_spin
bench_spin:
    isb
    mrs     x9, CNTVCT_EL0
1:  subs    x0, x0, #1
    b.ne    1b
    isb
    mrs     x0, CNTVCT_EL0
    sub     x0, x0, x9
    ret

    // (x0 the least, x1 ticks at most) -> x0 a gap, or 0
    .global bench_gap
bench_gap:
    isb
    mrs     x9, CNTVCT_EL0
    mov     x10, x9
1:  mov     x11, x10
    isb
    mrs     x10, CNTVCT_EL0
    sub     x12, x10, x11
    cmp     x12, x0
    b.hi    2f
    sub     x13, x10, x9
    cmp     x13, x1
    b.lo    1b
    mov     x12, #0
2:  mov     x0, x12
    ret

    // QEMU counts what follows a trapped MRS in its block of code as well, and a block ends with its page.
    .org    bench_vectors + 4096 - (bench_at_idreg - bench_idreg) - 4
    REPEATED idreg, mrs x1, ID_AA64PFR0_EL1
    .purgem REPEATED
    .purgem VECTORS
    .purgem END_GICV2
    .purgem END_GICV3
    "#,
    gicc = const GICC,
    gicd = const GICD,
    psci_version = const psci::VERSION,
);
