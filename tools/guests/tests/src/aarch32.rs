//! A 32-bit program at EL0: what it may reach of CP15, CP14 and the FP registers, what traps, and that conditions and IT
//! blocks go on as they should when Merus ends an instruction. Where there is no AArch32, its start is an illegal state.
//!
//! Instructions are given as words, with their A32 or T32 text beside them.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest_rt::mmu::{USER, UserMap};
use guest_rt::sysreg::{Encoding, execute, isb};
use guest_rt::test::{check_class, fail};
use guest_rt::timer::Timer;
use guest_rt::vectors::{self, Frame, class, expect};
use guest_rt::{check, check_eq, cpu, entry, gic, mmio, mrs, msr, println, psci};

global_asm!(
    r#"
    // x0: x0 to x14 for EL0; x1: where; x2: SPSR. Comes back through the hook, to `user_return`.
user_enter:
    stp     x19, x20, [sp, #-96]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    msr     ELR_EL1, x1
    msr     SPSR_EL1, x2
    mov     x15, x0
    ldp     x0, x1, [x15]
    ldp     x2, x3, [x15, #16]
    ldp     x4, x5, [x15, #32]
    ldp     x6, x7, [x15, #48]
    ldp     x8, x9, [x15, #64]
    ldp     x10, x11, [x15, #80]
    ldp     x12, x13, [x15, #96]
    ldr     x14, [x15, #112]
    eret
user_return:
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x19, x20, [sp], #96
    ret
    "#
);

// SAFETY: both are above. `user_enter` takes its arguments in x0 to x2 and keeps, by way of `user_return`, what a call must keep;
// `user_return` is never called: its address is taken.
unsafe extern "C" {
    fn user_enter(registers: &[u64; 15], at: u64, spsr: u64);
    fn user_return();
}

/// SPSR_EL1 for AArch32 User mode with asynchronous exceptions masked; T32 beside it.
const USER_A32: u64 = 0x1d0;
const T32: u64 = 1 << 5;
const SPSR_IL: u64 = 1 << 20;
/// EL1h, all masked.
const EL1: u64 = 0x3c5;
/// Exception classes of AArch32.
const WFX: u8 = 1;
const CP15: u8 = 3;
const CP15_64: u8 = 4;
const CP14: u8 = 5;
const CP14_MEM: u8 = 6;
const CP14_64: u8 = 0xc;
const ILLEGAL: u8 = 0xe;
const SVC32: u8 = 0x11;
const ABORT: u8 = 0x24;

const SVC: u32 = 0xef00_0000;
const UNSET: u64 = 0x5555_aaaa;

#[repr(align(128))]
struct State {
    inside: AtomicBool,
    esr: AtomicU64,
    elr: AtomicU64,
    x: [AtomicU64; 15],
}
static STATES: [State; cpu::MAX] = [const {
    State {
        inside: AtomicBool::new(false),
        esr: AtomicU64::new(0),
        elr: AtomicU64::new(0),
        x: [const { AtomicU64::new(0) }; 15],
    }
}; cpu::MAX];
static READY: cpu::Barrier = cpu::Barrier::new();

fn hook(frame: &mut Frame) -> bool {
    let state = &STATES[cpu::index()];
    if !state.inside.swap(false, Ordering::Relaxed) {
        return false;
    }
    state.esr.store(frame.esr, Ordering::Relaxed);
    state.elr.store(frame.elr, Ordering::Relaxed);
    for (slot, value) in state.x.iter().zip(frame.x) {
        slot.store(value, Ordering::Relaxed);
    }
    frame.elr = user_return as *const () as u64;
    frame.spsr = EL1 & !SPSR_IL;
    true
}

/// What a program came to.
struct Outcome {
    class: u8,
    /// Offset of the return address from the code's start.
    at: u64,
    r: [u32; 15],
}

fn run(map: &UserMap, code: &[u32], thumb: bool, registers: [u64; 15]) -> Outcome {
    let state = &STATES[cpu::index()];
    map.set_code(code);
    state.inside.store(true, Ordering::SeqCst);
    // SAFETY: the hook brings the CPU back with SP as it was; EL0 reaches none of Rust's memory.
    unsafe {
        core::arch::asm!("bl {enter}", enter = sym user_enter, in("x0") &registers, in("x1") USER,
            in("x2") USER_A32 | if thumb { T32 } else { 0 }, clobber_abi("C"));
    }
    Outcome {
        class: (state.esr.load(Ordering::Relaxed) >> 26) as u8,
        at: state.elr.load(Ordering::Relaxed).wrapping_sub(USER),
        r: core::array::from_fn(|n| state.x[n].load(Ordering::Relaxed) as u32),
    }
}

fn registers() -> [u64; 15] {
    let mut registers = [UNSET; 15];
    registers[2] = 0x1234_5678;
    registers[3] = 0x0000_0012;
    registers[4] = mmio::GICD + gic::TYPER;
    registers[5] = USER + 4096;
    registers
}

/// Runs one A32 instruction; which exception of these classes came, or none.
fn one(map: &UserMap, what: &str, instruction: u32, may: &[u8]) -> Option<u32> {
    let outcome = run(map, &[instruction, SVC], false, registers());
    if outcome.class == SVC32 && outcome.at == 8 {
        check!(may.contains(&SVC32), "{what} is executed, r0 = {:#x}", outcome.r[0]);
        return Some(outcome.r[0]);
    }
    check!(
        may.contains(&outcome.class) && outcome.at == 0,
        "{what}: class {:#x} at {:#x}, want one of {may:#x?}",
        outcome.class,
        outcome.at
    );
    None
}

/// Runs the test.
pub fn aarch32() {
    vectors::set_hook(Some(hook));
    gic::init();
    let there = mrs!("ID_AA64PFR0_EL1") & 15 == 2;
    if !there {
        println!("aarch32: no 32-bit EL0 here");
        cpu::on_all(refused);
        return;
    }
    cpu::on_all(work);
}

/// Without AArch32 the return to it is illegal: PSTATE.IL, and an exception of its own before any instruction.
fn refused(cpu: usize) {
    let map = UserMap::enter(cpu);
    let outcome = run(&map, &[SVC], false, registers());
    check_eq!(outcome.class, ILLEGAL, "class of the exception where EL0 is 64-bit only");
    check_eq!(outcome.at, 0, "where that came");
    map.leave();
    check!(psci::call(psci::VERSION, [0; 3]) > 0, "PSCI_VERSION");
}

fn work(cpu: usize) {
    guest_rt::run!("msr daifset, #0xf");
    if cpu != 0 {
        gic::init_cpu();
    }
    let control = mrs!("CNTKCTL_EL1");
    // EL0 may use both timers.
    msr!("CNTKCTL_EL1", control | 3 << 8);
    msr!("TPIDRRO_EL0", 0x1111_0000 + cpu as u64);
    isb();
    let map = UserMap::enter(cpu);
    READY.wait(cpu::count());
    for _ in 0..5 {
        plain(&map);
        timers(&map);
        coprocessors(&map, cpu);
        higher_levels(&map);
        devices(&map);
        it_blocks(&map);
        waits(&map, cpu);
        floating_point(&map, cpu);
    }
    Timer::Physical.set_ctl(0);
    // Nothing for who comes next to find: d0, d15 and FPSCR (as in `floating_point`).
    let outcome = run(&map, &[0xec41_0b10, 0xec43_2b1f, 0xeee1_6a10, SVC], false, [0; 15]);
    check_eq!(outcome.class, SVC32, "zeroes for the FP registers");
    map.leave();
    msr!("CNTKCTL_EL1", control);
    isb();
    no_aarch32_registers();
}

fn plain(map: &UserMap) {
    // mov r0, #42
    let outcome = run(map, &[0xe3a0_002a, SVC], false, registers());
    check_eq!((outcome.class, outcome.at, outcome.r[0]), (SVC32, 8, 42), "mov and svc");
    // udf #0
    one(map, "udf", 0xe7f0_00f0, &[class::UNKNOWN]);
}

fn timers(map: &UserMap) {
    // mrc p15, 0, r0, c14, c0, 0
    let frequency = one(map, "CNTFRQ", 0xee1e_0f10, &[SVC32]);
    check_eq!(frequency.map(u64::from), Some(mrs!("CNTFRQ_EL0")), "CNTFRQ");
    // mrrc p15, 1, r0, r1, c14; mrrc p15, 0, r0, r1, c14
    for (what, instruction, timer) in
        [("CNTVCT", 0xec51_0f1e, Timer::Virtual), ("CNTPCT", 0xec51_0f0e, Timer::Physical)]
    {
        let before = timer.now();
        let outcome = run(map, &[instruction, SVC], false, registers());
        let value = u64::from(outcome.r[1]) << 32 | u64::from(outcome.r[0]);
        check_eq!(outcome.class, SVC32, "class of a read of {what}");
        check!((before..=timer.now()).contains(&value), "{what} is {value} after {before}");
    }
    // mcrr p15, 2, r2, r3, c14; mrrc p15, 2, r0, r1, c14
    let outcome = run(map, &[0xec43_2f2e, 0xec51_0f2e, SVC], false, registers());
    check_eq!((outcome.class, outcome.at), (SVC32, 12), "CNTP_CVAL");
    check_eq!((outcome.r[0], outcome.r[1]), (0x1234_5678, 0x12), "CNTP_CVAL as read");
    check_eq!(Timer::Physical.cval(), 0x12_1234_5678, "CNTP_CVAL_EL0");
    // mcr p15, 0, r2, c14, c2, 1; mrc p15, 0, r0, c14, c2, 1
    let mut values = registers();
    values[2] = 3;
    let outcome = run(map, &[0xee0e_2f32, 0xee1e_0f32, SVC], false, values);
    check_eq!((outcome.class, outcome.at, outcome.r[0] & 3), (SVC32, 12, 3), "CNTP_CTL");
    check_eq!(Timer::Physical.ctl() & 3, 3, "CNTP_CTL_EL0");
    Timer::Physical.set_ctl(0);
    // mrc p15, 0, r0, c14, c3, 1
    one(map, "CNTV_CTL", 0xee1e_0f33, &[SVC32]);
    // EL1 lets go: EL0's access is EL1's to deal with, whoever else would trap it.
    let control = mrs!("CNTKCTL_EL1");
    msr!("CNTKCTL_EL1", control & !(3 << 8));
    isb();
    one(map, "CNTP_CTL that EL1 traps", 0xee1e_0f32, &[class::UNKNOWN, CP15]);
    one(map, "CNTP_CVAL that EL1 traps", 0xec51_0f2e, &[class::UNKNOWN, CP15_64]);
    msr!("CNTKCTL_EL1", control);
    isb();
}

fn coprocessors(map: &UserMap, cpu: usize) {
    // mrc p15, 0, r0, c13, c0, 3 (TPIDRURO) and 2 (TPIDRURW)
    check_eq!(one(map, "TPIDRURO", 0xee1d_0f70, &[SVC32]), Some(0x1111_0000 + cpu as u32), "TPIDRURO");
    msr!("TPIDR_EL0", 0x2222_0000 + cpu as u64);
    check_eq!(one(map, "TPIDRURW", 0xee1d_0f50, &[SVC32]), Some(0x2222_0000 + cpu as u32), "TPIDRURW");
    for (what, instruction) in [
        ("mrc SCTLR", 0xee11_0f10),
        ("mcr SCTLR", 0xee01_0f10),
        ("mrc DACR", 0xee13_0f10),
        ("mrc IFSR", 0xee15_0f30),
        ("mrc MIDR", 0xee10_0f10),
        ("mrc HCR", 0xee91_0f11),
        ("mrc p15, 7, c15, c15, 7", 0xeeff_0fff),
        ("vmrs FPSID", 0xeef0_0a10),
        ("vmrs FPEXC", 0xeef8_0a10),
    ] {
        one(map, what, instruction, &[class::UNKNOWN]);
    }
    // PMCR: hidden; EL1's own PMUSERENR_EL0 may come first.
    one(map, "mrc PMCR", 0xee19_0f1c, &[class::UNKNOWN, CP15]);
    // The debug channel and its neighbours: there or not, to EL1 or undefined.
    let debug = [class::UNKNOWN, SVC32, CP14, CP14_64, CP14_MEM];
    for (what, instruction) in [
        ("mrc DBGDSCRint", 0xee10_0e11),
        ("mrc DBGDIDR", 0xee10_0e10),
        ("mrrc DBGDRAR", 0xec51_0e01),
        ("mrc JIDR", 0xeef0_0e10),
        ("mrc TEECR", 0xeed0_0e10),
        ("mcr DBGDTRTXint", 0xee00_0e15),
        ("ldc p14, c5", 0xed95_5e00),
        ("stc p14, c5", 0xed85_5e00),
    ] {
        one(map, what, instruction, &debug);
    }
}

fn higher_levels(map: &UserMap) {
    one(map, "hvc #0", 0xe140_0070, &[class::UNKNOWN]);
    one(map, "smc #0", 0xe160_0070, &[class::UNKNOWN]);
}

/// Loads that Merus ends, of both lengths, and those whose syndrome says too little.
fn devices(map: &UserMap) {
    let typer = mmio::read32(mmio::GICD + gic::TYPER);
    // ldr r0, [r4]; ldrh r0, [r4] of the UART's flags would do as well, but GICD has words only.
    check_eq!(one(map, "ldr of GICD_TYPER", 0xe594_0000, &[SVC32]), Some(typer), "GICD_TYPER by ldr");
    // cmp r0, r0; ldrne r0, [r4]
    let outcome = run(map, &[0xe150_0000, 0x1594_0000, SVC], false, registers());
    check_eq!((outcome.class, outcome.at, outcome.r[0]), (SVC32, 12, UNSET as u32), "ldrne that is not executed");
    // T32: ldr r0, [r4]; svc #0
    let outcome = run(map, &[0xdf00_6820], true, registers());
    check_eq!((outcome.class, outcome.at, outcome.r[0]), (SVC32, 4, typer), "16-bit ldr of GICD_TYPER");
    // ldm r4, {r0, r1}; ldrd r0, r1, [r4 - 4, aligned by r5 below]
    one(map, "ldm of GICD_TYPER", 0xe894_0003, &[ABORT]);
    let mut values = registers();
    values[4] = mmio::GICD;
    let outcome = run(map, &[0xe1c4_00d0, SVC], false, values);
    check_eq!((outcome.class, outcome.at), (ABORT, 0), "ldrd of GICD_CTLR");
}

/// A trapped instruction in an IT block: not executed where its condition fails; and the block goes on after it.
fn it_blocks(map: &UserMap) {
    Timer::Physical.set_ctl(2);
    // cmp r0, r0; it ne; mrcne p15, 0, r1, c14, c2, 1; movs r0, #7; svc #0
    let outcome = run(map, &[0xbf18_4280, 0x1f32_ee1e, 0xdf00_2007], true, registers());
    check_eq!((outcome.class, outcome.at), (SVC32, 12), "an IT block whose condition fails");
    check_eq!((outcome.r[0], outcome.r[1]), (7, UNSET as u32), "its registers");
    // cmp r0, r0; ittet eq; mrceq p15, 0, r1, c14, c2, 1; ldreq r2, [r4]; movne r0, #9; addeq r3, r3, #1; svc #0
    let outcome = run(map, &[0xbf05_4280, 0x1f32_ee1e, 0x2009_6822, 0xdf00_1c5b], true, registers());
    check_eq!((outcome.class, outcome.at), (SVC32, 16), "an IT block with two trapped instructions");
    check_eq!(outcome.r[0], UNSET as u32, "r0: what its condition keeps away");
    check_eq!(outcome.r[1] & 3, 2, "r1: CNTP_CTL");
    check_eq!(outcome.r[2], mmio::read32(mmio::GICD + gic::TYPER), "r2: GICD_TYPER");
    check_eq!(outcome.r[3], 0x13, "r3: the last of the block");
    // A32: cmp r0, r0; mrcne p15, 0, r0, c14, c2, 1
    let outcome = run(map, &[0xe150_0000, 0x1e1e_0f32, SVC], false, registers());
    check_eq!((outcome.class, outcome.at, outcome.r[0]), (SVC32, 12, UNSET as u32), "mrcne that is not executed");
}

/// WFI and WFE: to EL1 where it says so, else they end, with an interrupt that is pending.
fn waits(map: &UserMap, cpu: usize) {
    // wfi; SCTLR_EL1.nTWI is 0 in the runtime's map. One that would not wait need not trap, and what is pending may be EL2's.
    let trapped = (0..100).any(|_| {
        let outcome = run(map, &[0xe320_f003, SVC], false, registers());
        check!([WFX, SVC32].contains(&outcome.class), "wfi that EL1 traps: class {:#x}", outcome.class);
        outcome.class == WFX
    });
    check!(trapped, "wfi that EL1 traps is executed each time");
    // wfine behind cmp r0, r0
    let outcome = run(map, &[0xe150_0000, 0x1320_f003, SVC], false, registers());
    check_eq!((outcome.class, outcome.at), (SVC32, 12), "wfine that is not executed");
    msr!("SCTLR_EL1", entry::SCTLR_ON | 1 << 16 | 1 << 18);
    isb();
    gic::send_sgi(cpu, 1);
    one(map, "wfi with an interrupt pending", 0xe320_f003, &[SVC32]);
    // wfe
    one(map, "wfe", 0xe320_f002, &[SVC32]);
    // T32: wfi; svc #0
    let outcome = run(map, &[0xdf00_bf30], true, registers());
    check_eq!((outcome.class, outcome.at), (SVC32, 4), "16-bit wfi");
    check_eq!(gic::acknowledge(), 1, "the SGI that ended wfi");
    gic::end(1);
    msr!("SCTLR_EL1", entry::SCTLR_ON);
    isb();
}

/// d0, d15 and FPSCR of each CPU are its own, across exits.
fn floating_point(map: &UserMap, cpu: usize) {
    let mut values = registers();
    (values[0], values[1], values[2], values[3]) = (cpu as u64 + 1, 2, 3, 0x8000_0000 | cpu as u64);
    values[6] = (cpu as u64 & 3) << 22 | 1 << 25;
    // vmov d0, r0, r1; vmov d15, r2, r3; vmsr fpscr, r6
    let outcome = run(map, &[0xec41_0b10, 0xec43_2b1f, 0xeee1_6a10, SVC], false, values);
    check_eq!((outcome.class, outcome.at), (SVC32, 16), "writes of FP registers");
    READY.wait(cpu::count());
    psci::call(psci::VERSION, [0; 3]);
    guest_rt::timer::wait_for(1, || false);
    // vmov r0, r1, d0; vmov r2, r3, d15; vmrs r6, fpscr
    let outcome = run(map, &[0xec51_0b10, 0xec53_2b1f, 0xeef1_6a10, SVC], false, registers());
    check_eq!((outcome.class, outcome.at), (SVC32, 16), "reads of FP registers");
    for (n, value) in [(0, values[0]), (1, values[1]), (2, values[2]), (3, values[3]), (6, values[6])] {
        check_eq!(outcome.r[n], value as u32, "r{n}: FP registers after exits");
    }
}

/// DACR32_EL2, IFSR32_EL2, FPEXC32_EL2 and SDER32: what they hold is nobody's below EL2.
fn no_aarch32_registers() {
    for (what, encoding) in [
        ("DACR32_EL2", Encoding::new(3, 4, 3, 0, 0)),
        ("IFSR32_EL2", Encoding::new(3, 4, 5, 0, 1)),
        ("FPEXC32_EL2", Encoding::new(3, 4, 5, 3, 0)),
        ("SPSR_abt", Encoding::new(3, 4, 4, 3, 1)),
    ] {
        let (value, fault) = expect(|| execute(encoding.read_instruction(), 0, 0));
        check_class(format_args!("read of {what} (value {value:#x})"), fault, class::UNKNOWN);
    }
    if mrs!("CurrentEL") != 4 {
        fail(format_args!("CurrentEL is {:#x}", mrs!("CurrentEL")));
    }
}
