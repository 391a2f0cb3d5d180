//! What one VM writes into the registers of a pCPU, another one that runs there in turn neither sees nor loses.
//!
//! Run in two VMs on one pCPU, with `tag=` 1 and 2: each writes a pattern into a group of registers, lets the other one run, and
//! finds its own pattern; then the same with the pattern's complement, so that a register
//! that takes no writes is told from one that keeps them. Meanwhile nothing takes an exception, so that the exception's registers
//! and the vector base can be among them. What is hidden from guests is `registers`' to show.

use guest_rt::sysreg::isb;
use guest_rt::timer::{ENABLE, IMASK, Timer, now, ticks};
use guest_rt::{check, fdt, mrs, msr, println, run};

use crate::fp;

/// Microseconds without an instruction that mean that another one had the pCPU.
const AWAY: u64 = 50;
/// Microseconds after which nobody else is there any more.
const PATIENCE: u64 = 30_000;
/// Microseconds of a turn, where both sleep in turn.
const SLOT: u64 = 100;

const ROUNDS: u32 = 3;

/// A register: its name, how it is written and read, the bits that take the pattern, and those of the others that have to be 1.
pub struct Register {
    name: &'static str,
    write: fn(u64),
    read: fn() -> u64,
    mask: u64,
    ones: u64,
}

macro_rules! registers {
    ($($name:literal $(as $shown:literal)? : $mask:expr $(, $ones:expr)?;)*) => {
        &[$(Register {
            name: registers!(@name $name $($shown)?),
            write: |value| msr!($name, value),
            read: || mrs!($name),
            mask: $mask,
            ones: registers!(@ones $($ones)?),
        }),*]
    };
    (@name $name:literal $shown:literal) => { $shown };
    (@name $name:literal) => { $name };
    (@ones $ones:expr) => { $ones };
    (@ones) => { 0 };
}

const ALL: u64 = !0;
const LOW: u64 = 0xffff_ffff;

/// The exception's registers, the map and the CPU's controls: as far as they can change while the payload runs. The map's entries are
/// global, so the ASID is of no account; nothing is translated by TTBR1_EL1, and no memory has the attributes 4 to 7.
const CONTROLS: &[Register] = registers! {
    "SCTLR_EL1": 1 << 26 | 1 << 15 | 1 << 14 | 1 << 9 | 1 << 16 | 1 << 18;
    "TTBR0_EL1": 0xff << 48;
    "TTBR1_EL1": 0xff00_00ff_ffff_f000;
    "TCR_EL1": 0x3f << 24 | 1 << 38 | 3 << 16;
    "MAIR_EL1": 0xffff_ffff_0000_0000;
    "AMAIR_EL1": ALL;
    "VBAR_EL1": 0x00ff_ffff_f800;
    "CONTEXTIDR_EL1": LOW;
    "CPACR_EL1": 1 << 28 | 3 << 20;
    "ESR_EL1": LOW;
    "FAR_EL1": ALL;
    "AFSR0_EL1": LOW;
    "AFSR1_EL1": LOW;
    "PAR_EL1": 0xff00_000f_ffff_f001;
    "ELR_EL1": 0x00ff_ffff_fffc;
    "SPSR_EL1": 0xf000_03c0;
    "SP_EL0": 0x00ff_ffff_fff0;
    "TPIDR_EL0": ALL;
    "TPIDRRO_EL0": ALL;
    "TPIDR_EL1": ALL;
    "CSSELR_EL1": 7;
    "ACTLR_EL1": ALL;
};

/// Both timers stand with their interrupts masked, whatever their deadlines are.
const TIMERS: &[Register] = registers! {
    "CNTKCTL_EL1": 0x3ff;
    "CNTV_CVAL_EL0": ALL;
    "CNTV_CTL_EL0": ENABLE, IMASK;
    "CNTP_CVAL_EL0": ALL;
    "CNTP_CTL_EL0": ENABLE, IMASK;
};

/// Breakpoints and watchpoints, all off; as many as each core of the table has.
const DEBUG: &[Register] = registers! {
    "MDSCR_EL1": 1 << 12 | 1 << 13 | 1 << 15;
    "MDCCINT_EL1": 3 << 29;
    "OSDTRRX_EL1": LOW;
    "OSDTRTX_EL1": LOW;
    "OSECCR_EL1": LOW;
    "OSDLR_EL1": 1;
    "DBGBVR0_EL1": 0x00ff_ffff_fffc;
    "DBGBCR0_EL1": 0xc1e6;
    "DBGBVR1_EL1": 0x00ff_ffff_fffc;
    "DBGBCR1_EL1": 0xc1e6;
    "DBGBVR2_EL1": 0x00ff_ffff_fffc;
    "DBGBCR2_EL1": 0xc1e6;
    "DBGBVR3_EL1": 0x00ff_ffff_fffc;
    "DBGBCR3_EL1": 0xc1e6;
    "DBGBVR4_EL1": 0x00ff_ffff_fffc;
    "DBGBCR4_EL1": 0xc1e6;
    "DBGBVR5_EL1": 0x00ff_ffff_fffc;
    "DBGBCR5_EL1": 0xc1e6;
    "DBGWVR0_EL1": 0x00ff_ffff_fff8;
    "DBGWCR0_EL1": 0xdffe;
    "DBGWVR1_EL1": 0x00ff_ffff_fff8;
    "DBGWCR1_EL1": 0xdffe;
    "DBGWVR2_EL1": 0x00ff_ffff_fff8;
    "DBGWCR2_EL1": 0xdffe;
    "DBGWVR3_EL1": 0x00ff_ffff_fff8;
    "DBGWCR3_EL1": 0xdffe;
};

/// Registers of which one is written and another one read.
const DEBUG_PAIRS: &[Register] = &[
    Register {
        name: "OSLAR_EL1",
        write: |value| msr!("OSLAR_EL1", value),
        read: || mrs!("OSLSR_EL1") >> 1 & 1,
        mask: 1,
        ones: 0,
    },
    Register {
        name: "DBGCLAIMSET_EL1",
        write: |value| {
            msr!("DBGCLAIMCLR_EL1", !value & 0xff);
            msr!("DBGCLAIMSET_EL1", value);
        },
        read: || mrs!("DBGCLAIMCLR_EL1"),
        mask: 0xff,
        ones: 0,
    },
];

/// The virtual CPU interface. An active priority is what a guest has that never ended an interrupt.
const GIC: &[Register] = registers! {
    "ICC_PMR_EL1": 0xf8;
    "ICC_BPR0_EL1": 7;
    "ICC_CTLR_EL1": 2;
    "ICC_BPR1_EL1": 7;
    "ICC_IGRPEN0_EL1": 1;
    "ICC_IGRPEN1_EL1": 1;
    "ICC_AP0R0_EL1": 0xffff_0000;
    "ICC_AP1R0_EL1": 0x0000_ffff;
};

const KEYS: &[Register] = registers! {
    "S3_0_C2_C1_0" as "APIAKeyLo_EL1": ALL;
    "S3_0_C2_C1_1" as "APIAKeyHi_EL1": ALL;
    "S3_0_C2_C1_2" as "APIBKeyLo_EL1": ALL;
    "S3_0_C2_C1_3" as "APIBKeyHi_EL1": ALL;
    "S3_0_C2_C2_0" as "APDAKeyLo_EL1": ALL;
    "S3_0_C2_C2_1" as "APDAKeyHi_EL1": ALL;
    "S3_0_C2_C2_2" as "APDBKeyLo_EL1": ALL;
    "S3_0_C2_C2_3" as "APDBKeyHi_EL1": ALL;
    "S3_0_C2_C3_0" as "APGAKeyLo_EL1": ALL;
    "S3_0_C2_C3_1" as "APGAKeyHi_EL1": ALL;
};

const SCXTNUM: &[Register] = registers! {
    "S3_3_C13_C0_7" as "SCXTNUM_EL0": ALL;
    "S3_0_C13_C0_7" as "SCXTNUM_EL1": ALL;
};

/// What was found on the way.
#[derive(Default)]
struct Found {
    /// Registers that keep what is written.
    kept: u32,
    /// Patterns between whose writing and reading the other one had its turn, and all patterns.
    met: u32,
    patterns: u32,
    /// It is the last time.
    last: bool,
}

/// This VM's pattern; the other one's is its complement.
fn pattern() -> u64 {
    let pattern = 0x9e37_79b9_7f4a_7c15;
    if tag() == 1 { pattern } else { !pattern }
}

/// The number of this VM, 1 or 2.
pub fn tag() -> u64 {
    fdt::argument("tag").and_then(|tag| tag.parse().ok()).unwrap_or(1)
}

/// Spins until others have had the pCPU; whether they took it.
pub fn spin() -> bool {
    let mut last = now();
    let end = last + ticks(PATIENCE);
    while last < end {
        let at = now();
        if at - last >= ticks(AWAY) {
            return true;
        }
        last = at;
    }
    false
}

/// Sleeps through the other one's next turn, to the beginning of an own one; whether it was woken in time, and so while the other one
/// sleeps again. The turns are counted by the physical counter, which both share.
pub fn sleep() -> bool {
    let slot = ticks(SLOT);
    let parity = tag() & 1;
    let turn = Timer::Physical.now() / slot + 1;
    let turn = turn + u64::from(turn & 1 != parity);
    doze_until(turn * slot);
    Timer::Physical.now() / slot == turn
}

/// Sleeps until that value of the physical counter.
fn doze_until(end: u64) {
    loop {
        let left = end.saturating_sub(Timer::Physical.now());
        if left == 0 {
            break;
        }
        Timer::Virtual.set_cval(now() + left);
        Timer::Virtual.set_ctl(ENABLE);
        run!("wfi");
    }
    Timer::Virtual.set_ctl(0);
}

/// Sleeps until `from=` milliseconds of the physical counter, which all VMs share: then both are there.
pub fn meet() {
    let from = ticks(1000 * fdt::argument("from").and_then(|from| from.parse().ok()).unwrap_or(300));
    guest_rt::gic::init();
    guest_rt::gic::enable(0, Timer::Virtual.intid());
    doze_until(from);
}

/// `away` lets the other one run.
fn try_group(group: &[Register], away: fn() -> bool, found: &mut Found) {
    const MOST: usize = 32;
    let mut saved = [0; MOST];
    let mut want = [[0; MOST]; 2];
    for (register, saved) in group.iter().zip(&mut saved) {
        *saved = (register.read)();
    }
    let mut wrong = [None; 2];
    for (turn, want) in want.iter_mut().enumerate() {
        let pattern = if turn == 0 { pattern() } else { !pattern() };
        for (n, (register, saved)) in group.iter().zip(&saved).enumerate() {
            (register.write)(pattern.rotate_left(n as u32) & register.mask | (saved | register.ones) & !register.mask);
        }
        isb();
        for (register, want) in group.iter().zip(want.iter_mut()) {
            *want = (register.read)();
        }
        found.met += u32::from(away());
        found.patterns += 1;
        // Nothing is printed while it is not known where an exception would go.
        let same = |n: usize| (group[n].read)() == want[n];
        wrong[turn] = (0..group.len()).find(|n| !same(*n)).map(|n| (n, (group[n].read)(), want[n]));
    }
    for (register, saved) in group.iter().zip(&saved) {
        (register.write)(*saved);
    }
    isb();
    for (n, got, want) in wrong.into_iter().flatten() {
        check!(false, "{}: got {got:#x}, want {want:#x}", group[n].name);
    }
    for (n, register) in group.iter().enumerate() {
        if want[0][n] != want[1][n] {
            found.kept += 1;
        } else if found.last {
            println!("isolation: {} takes no writes", register.name);
        }
    }
}

/// FP and SIMD: 32 registers of 128 bits, FPCR, FPSR.
fn try_fp(found: &mut Found) {
    for round in 0..2 {
        let wrong = fp::kept(tag() as usize, round, || {
            found.met += u32::from(sleep());
            found.patterns += 1;
        });
        check!(wrong.is_none(), "word {wrong:x?} of the FP registers in round {round}");
    }
    found.kept += 34;
}

/// Runs the test.
pub fn state() {
    meet();
    run!("msr daifset, #0xf");
    let mut found = Found::default();
    for round in 1..=ROUNDS {
        found = Found { last: round == ROUNDS, ..Found::default() };
        for group in [CONTROLS, DEBUG, DEBUG_PAIRS] {
            try_group(group, sleep, &mut found);
        }
        // What wakes is not to be relied on here.
        for group in [TIMERS, GIC] {
            try_group(group, spin, &mut found);
        }
        if mrs!("ID_AA64ISAR1_EL1") & 0xff0 != 0 || mrs!("S3_0_C0_C6_2") & 0xf000 != 0 {
            try_group(KEYS, sleep, &mut found);
        }
        // CSV2 of 2 or more, or CSV2_frac of 2.
        if mrs!("ID_AA64PFR0_EL1") >> 56 & 15 >= 2 || mrs!("ID_AA64PFR1_EL1") >> 32 & 15 >= 2 {
            try_group(SCXTNUM, sleep, &mut found);
        }
        try_fp(&mut found);
    }
    let Found { kept, met, patterns, .. } = found;
    println!("isolation: {kept} registers keep what is written, {met} of {patterns} patterns met the other one");
    check!(met * 2 >= patterns, "the other one had no turn: {met} of {patterns}");
}
