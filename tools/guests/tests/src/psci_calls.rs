//! PSCI in right and wrong orders.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use guest_rt::mmio::{NO_MEMORY, UART};
use guest_rt::psci::*;
use guest_rt::test::{check_class, step};
use guest_rt::timer::{self, Timer, ticks};
use guest_rt::vectors::{class, expect};
use guest_rt::{check, check_eq, cpu, entry, fdt, gic, mmio, mrs};

const NOBODY: u64 = 0x55_0012_3456;

/// Runs the test.
pub fn psci() {
    step("discovery");
    discovery();
    unknown();
    step("conduit");
    conduit();
    if cpu::count() > 1 {
        step("wrong starts");
        wrong_starts();
        step("on and off");
        on_and_off();
        step("all at once");
        all_at_once();
        step("start state");
        start_state();
    }
}

fn discovery() {
    let version = call(VERSION, [0; 3]);
    check!((0x1_0000..0x2_0000).contains(&version), "PSCI_VERSION is {version:#x}");
    for function in [VERSION, CPU_ON, CPU_OFF, SYSTEM_OFF, SYSTEM_RESET, AFFINITY_INFO, FEATURES, CPU_SUSPEND] {
        let features = call(FEATURES, [u64::from(function), 0, 0]);
        check!(features >= 0, "PSCI_FEATURES({function:#x}) is {features}");
    }
    for function in [0x8400_ffff_u32, 0, 0xc400_0000, 0x8600_0000] {
        check_eq!(call(FEATURES, [u64::from(function), 0, 0]), NOT_SUPPORTED, "PSCI_FEATURES({function:#x})");
    }
    let migrate = call(MIGRATE_INFO_TYPE, [0; 3]);
    check!(matches!(migrate, 2 | NOT_SUPPORTED), "MIGRATE_INFO_TYPE is {migrate}");
    if on_merus() {
        check_eq!(version, 0x1_0001, "PSCI_VERSION");
        check_eq!(call(SMCCC_VERSION, [0; 3]), 0x1_0002, "SMCCC_VERSION");
        check!(call(FEATURES, [u64::from(SMCCC_VERSION), 0, 0]) >= 0, "PSCI_FEATURES does not know SMCCC_VERSION");
        check_eq!(migrate, 2, "MIGRATE_INFO_TYPE");
    }
}

/// Calls with patterns in all registers that SMCCC keeps; returns x0, and reports what was lost.
fn call_keeping(function: u64, smc: bool) -> u64 {
    let mut x0 = function;
    let mut lost = 0u64;
    macro_rules! call_by {
        ($instruction:literal) => {
            // SAFETY: SMCCC keeps x4 to x30; x18, x19 and x29 are the compiler's and are compared by Rust working at all.
            unsafe {
                core::arch::asm!(
                    "mov x4, #0x4444", "mov x5, #0x5555", "mov x6, #0x6666", "mov x7, #0x7777", "mov x8, #0x8888",
                    "mov x9, #0x9999", "mov x10, #0xaaaa", "mov x11, #0xbbbb", "mov x12, #0xcccc", "mov x13, #0xdddd",
                    "mov x14, #0xeeee", "mov x15, #0xffff", "mov x16, #0x1616", "mov x17, #0x1717",
                    $instruction,
                    "mov {lost}, #0",
                    "mov {want}, #0x4444", "sub {want}, {want}, x4", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0x5555", "sub {want}, {want}, x5", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0x6666", "sub {want}, {want}, x6", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0x7777", "sub {want}, {want}, x7", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0x8888", "sub {want}, {want}, x8", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0x9999", "sub {want}, {want}, x9", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0xaaaa", "sub {want}, {want}, x10", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0xbbbb", "sub {want}, {want}, x11", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0xcccc", "sub {want}, {want}, x12", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0xdddd", "sub {want}, {want}, x13", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0xeeee", "sub {want}, {want}, x14", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0xffff", "sub {want}, {want}, x15", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0x1616", "sub {want}, {want}, x16", "orr {lost}, {lost}, {want}",
                    "mov {want}, #0x1717", "sub {want}, {want}, x17", "orr {lost}, {lost}, {want}",
                    inout("x0") x0, inout("x1") 0u64 => _, inout("x2") 0u64 => _, inout("x3") 0u64 => _,
                    lost = out(reg) lost, want = out(reg) _,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
                    out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
                )
            }
        };
    }
    if smc {
        call_by!("smc #0");
    } else {
        call_by!("hvc #0");
    }
    check_eq!(lost, 0, "x4 to x17 after the call {function:#x}: bits that differ");
    x0
}

fn unknown() {
    for function in
        [0x8400_00ff_u64, 0xc400_7777, 0x8000_ffff, 0xffff_ffff, 0, 0x1234, 0xbf00_ff01, 0x8300_0000, 0xc300_ff01]
    {
        check_eq!(call_keeping(function, false), u64::MAX, "unknown function {function:#x}");
    }
    check!(call_keeping(u64::from(VERSION), false) >= 0x1_0000, "PSCI_VERSION with patterns in x4 to x17");
}

/// SMC means the same as HVC under Merus; without EL3 and EL2 it is undefined.
fn conduit() {
    if on_merus() {
        check_eq!(call_keeping(u64::from(VERSION), true), 0x1_0001, "PSCI_VERSION by SMC");
        check_eq!(call_keeping(0x8400_00ff, true), u64::MAX, "an unknown function by SMC");
    } else {
        let (_, fault) = expect(|| guest_rt::run!("smc #0"));
        check_class(format_args!("smc on the bare machine"), fault, class::UNKNOWN);
    }
}

/// CPU_SUSPEND to standby returns at an interrupt that is pending, masked or not.
pub fn suspend() {
    gic::init();
    gic::enable(0, Timer::Virtual.intid());
    for us in [0, 1_000, 10_000] {
        let end = Timer::Virtual.now() + ticks(us);
        Timer::Virtual.set_cval(end);
        Timer::Virtual.set_ctl(timer::ENABLE);
        let mut status = SUCCESS;
        while Timer::Virtual.now() < end && status == SUCCESS {
            status = call(CPU_SUSPEND, [0; 3]);
        }
        check_eq!(status, SUCCESS, "CPU_SUSPEND to standby");
    }
    Timer::Virtual.set_ctl(0);
    gic::disable(0, Timer::Virtual.intid());
}

fn nothing(_: usize) {}

fn wrong_starts() {
    let other = cpu::mpidr(1);
    let context = cpu::prepare(1, nothing);
    check_eq!(affinity_info(cpu::mpidr(0)), 0, "AFFINITY_INFO of a CPU that is on");
    check_eq!(affinity_info(other), 1, "AFFINITY_INFO of a CPU that is off");
    check_eq!(affinity_info(NOBODY), INVALID_PARAMETERS, "AFFINITY_INFO of nobody");
    check_eq!(cpu_on(cpu::mpidr(0), entry::secondary(), 0), ALREADY_ON, "CPU_ON of oneself");
    check_eq!(cpu_on(NOBODY, entry::secondary(), 0), INVALID_PARAMETERS, "CPU_ON of nobody");
    check_eq!(cpu_on(other | 1 << 31, entry::secondary(), 0), INVALID_PARAMETERS, "CPU_ON with MPIDR's bit 31");
    if on_merus() {
        for bad in [NO_MEMORY, UART, mmio::RAM + fdt::memory_size(), mmio::RAM - 4, !3] {
            check_eq!(cpu_on(other, bad, 0), INVALID_ADDRESS, "CPU_ON at {bad:#x}");
        }
        check_eq!(affinity_info(other), 1, "AFFINITY_INFO after starts that were refused");
        check_eq!(call(AFFINITY_INFO, [other, 4, 0]), INVALID_PARAMETERS, "AFFINITY_INFO of level 4");
    }
    check_eq!(cpu_on(other, entry::secondary(), context), SUCCESS, "CPU_ON after refusals");
    cpu::join(1);
    // The 32-bit convention.
    let context = cpu::prepare(1, nothing);
    check_eq!(call(CPU_ON_32, [other, entry::secondary(), context]), SUCCESS, "CPU_ON by the 32-bit convention");
    cpu::join(1);
    check_eq!(call(AFFINITY_INFO_32, [other, 0, 0]), 1, "AFFINITY_INFO by the 32-bit convention");
}

static ROUND: AtomicU32 = AtomicU32::new(0);

fn on_and_off() {
    ROUND.store(0, Ordering::Relaxed);
    const TIMES: u32 = 50;
    for _ in 0..TIMES {
        for other in 1..cpu::count() {
            cpu::start(other, |cpu| {
                ROUND.fetch_add(1, Ordering::Relaxed);
                check_eq!(affinity_info(cpu::mpidr(cpu)), 0, "AFFINITY_INFO of oneself");
            });
        }
        (1..cpu::count()).for_each(cpu::join);
    }
    check_eq!(ROUND.load(Ordering::Relaxed), TIMES * (cpu::count() as u32 - 1), "starts that ran");
}

static GO: AtomicU32 = AtomicU32::new(0);
static WON: AtomicU32 = AtomicU32::new(0);
static REFUSED: AtomicU32 = AtomicU32::new(0);
static ODD: AtomicU64 = AtomicU64::new(0);
static RAN: AtomicU32 = AtomicU32::new(0);
static HOLD: AtomicBool = AtomicBool::new(false);
static CONTEXT: AtomicU64 = AtomicU64::new(0);

/// All others try to start the last CPU: exactly one does, whoever it is.
fn all_at_once() {
    const ROUNDS: u32 = 30;
    let target = cpu::count() - 1;
    let starters = target as u32;
    ODD.store(0, Ordering::Relaxed);
    for round in 1..=ROUNDS {
        HOLD.store(true, Ordering::Relaxed);
        [&WON, &REFUSED, &GO, &RAN].into_iter().for_each(|count| count.store(0, Ordering::Relaxed));
        let context = cpu::prepare(target, |_| {
            RAN.fetch_add(1, Ordering::Relaxed);
            timer::wait_for(cpu::PATIENCE, || !HOLD.load(Ordering::Acquire));
        });
        CONTEXT.store(context, Ordering::Relaxed);
        (1..target).for_each(|other| cpu::start(other, try_start));
        try_start(0);
        let done = || WON.load(Ordering::Acquire) + REFUSED.load(Ordering::Acquire) == starters;
        check!(timer::wait_for(cpu::PATIENCE, done), "not all starters are done");
        HOLD.store(false, Ordering::Release);
        cpu::notify();
        (1..=target).for_each(cpu::join);
        // QEMU's own PSCI says SUCCESS to several.
        if on_merus() {
            check_eq!(WON.load(Ordering::Relaxed), 1, "successful starts in round {round}");
            check_eq!(RAN.load(Ordering::Relaxed), 1, "runs in round {round}");
        }
    }
    check_eq!(ODD.load(Ordering::Relaxed) as i64, 0, "what CPU_ON said beside SUCCESS, ALREADY_ON and ON_PENDING");
}

fn try_start(_: usize) {
    let target = cpu::count() - 1;
    let starters = target as u32;
    GO.fetch_add(1, Ordering::AcqRel);
    cpu::notify();
    timer::wait_for(cpu::PATIENCE, || GO.load(Ordering::Acquire) >= starters);
    match cpu_on(cpu::mpidr(target), entry::secondary(), CONTEXT.load(Ordering::Relaxed)) {
        SUCCESS => WON.fetch_add(1, Ordering::AcqRel),
        ALREADY_ON | ON_PENDING => REFUSED.fetch_add(1, Ordering::AcqRel),
        other => {
            ODD.store(other as u64, Ordering::Relaxed);
            REFUSED.fetch_add(1, Ordering::AcqRel)
        }
    };
    cpu::notify();
}

/// A CPU starts again as after reset, whatever it left behind.
fn start_state() {
    cpu::start(1, |_| {
        guest_rt::msr!("CNTV_CVAL_EL0", 0);
        guest_rt::msr!("CNTV_CTL_EL0", timer::ENABLE | timer::IMASK);
        guest_rt::msr!("MDSCR_EL1", 1 << 15);
    });
    cpu::join(1);
    cpu::start(1, |_| {
        // The runtime has set what it needs; these it has not.
        check_eq!(mrs!("DAIF"), 0x3c0, "DAIF at the start");
        check_eq!(mrs!("MDSCR_EL1") & (1 << 15 | 1), 0, "MDSCR_EL1.MDE and SS at the start");
    });
    cpu::join(1);
}
