//! The instructions that share their space with the system registers: SYS and SYSL (cache, TLB and address translation
//! operations, op0 = 1), hints, barriers and MSR with an immediate (op0 = 0). All encodings in order, then at random.
//!
//! The guest goes on, or gets an undefined instruction or an abort. What is an address points into a page of its own.

use crate::fuzz::next;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guest_rt::sysreg::{Encoding, execute, execute_all, isb};
use guest_rt::test;
use guest_rt::vectors::{class, expect, expect_many};
use guest_rt::{check, check_eq, cpu, entry, gic, mmio, mrs, msr, println, psci};

/// Encodings for one op0.
const ALL: u32 = 1 << 14;
const RANDOM: u32 = 6_000;
const SYSL: u32 = 1 << 21;
const XZR: u32 = 31;
const DAIFSET: u32 = 0xd503_4fdf;
const SPSEL_1: u32 = 0xd500_41bf;

#[repr(align(4096))]
struct Scratch([AtomicU64; 512]);
static SCRATCH: [Scratch; cpu::MAX] = [const { Scratch([const { AtomicU64::new(0) }; 512]) }; cpu::MAX];
static DONE: AtomicU32 = AtomicU32::new(0);
static READY: cpu::Barrier = cpu::Barrier::new();

/// Runs the test.
pub fn sys_ops() {
    DONE.store(0, Ordering::Relaxed);
    gic::init();
    cpu::on_all(work);
    println!("sys-ops: {} instructions did something or nothing", DONE.load(Ordering::Relaxed));
}

/// The instruction with these operands' number `n` (op1, CRn, CRm, op2), and its parts.
fn encoding(op0: u8, n: u32) -> Encoding {
    Encoding { op0, ..Encoding::from_index(n) }
}

fn work(cpu: usize) {
    guest_rt::run!("msr daifset, #0xf");
    if cpu != 0 {
        gic::init_cpu();
    }
    let scratch = SCRATCH[cpu].0.as_ptr() as u64;
    immediates();
    hints(cpu);
    // SYS: with an operand, and with none, which for some is another instruction. Each CPU takes its share.
    for n in (cpu as u32..ALL).step_by(cpu::count()) {
        let encoding = encoding(1, n);
        let sys = encoding.write_instruction();
        attempt(encoding, sys, scratch);
        attempt(encoding, sys | XZR, scratch);
        attempt(encoding, sys | SYSL, scratch);
    }
    let mut random = 0x2545_f491_4f6c_dd1d_u64 ^ (cpu as u64) << 40;
    for n in 0..RANDOM / cpu::count() as u32 {
        random = next(random);
        // The operations that are there: cache and translation (CRn = 7), TLBI (8, 9).
        let mut encoding = encoding(1, (random >> 20) as u32 % ALL);
        if n % 4 != 0 {
            encoding = Encoding { op1: encoding.op1 & 3, crn: 7 + encoding.crn % 3, ..encoding };
        }
        if by_set_and_way(encoding) {
            continue;
        }
        // A cache operation takes an address, and may destroy what is there.
        let operand = if encoding.crn == 7 { scratch + (random & 0xfc0) } else { next(random) };
        attempt(encoding, encoding.write_instruction(), operand);
    }
    READY.wait(cpu::count());
    translations(cpu);
    check_eq!(mrs!("SCTLR_EL1") & 0x1005, entry::SCTLR_ON & 0x1005, "SCTLR_EL1 after all operations");
    check_eq!(mrs!("CurrentEL"), 4, "CurrentEL");
    check!(mmio::read32(mmio::GICD + gic::TYPER) != 0, "GICD_TYPER is 0");
    check!(psci::call(psci::VERSION, [0; 3]) > 0, "PSCI_VERSION");
}

/// DC ISW, CSW and CISW: each may clean all RAM.
fn by_set_and_way(encoding: Encoding) -> bool {
    (encoding.op1, encoding.crn, encoding.op2) == (0, 7, 2) && matches!(encoding.crm, 6 | 10 | 14)
}

fn attempt(encoding: Encoding, instruction: u32, operand: u64) {
    let (_, fault) = expect(|| execute(instruction, operand, 0));
    match fault.map(|fault| fault.class()) {
        None => {
            DONE.fetch_add(1, Ordering::Relaxed);
        }
        // Without an operand an address is 0, where there is nothing.
        Some(class::UNKNOWN | class::SYSREG | class::DATA_ABORT) => {}
        Some(_) => test::fail(format_args!("{encoding} ({instruction:#x}): {fault:?}")),
    }
}

/// op0 = 0 without the hints: MSR (immediate), barriers, and what is not allocated.
fn immediates() {
    for n in 0..ALL {
        let encoding = encoding(0, n);
        if matches!((encoding.op1, encoding.crn), (3, 1 | 2)) {
            continue;
        }
        let instruction = encoding.write_instruction() | XZR;
        // Where it is a field of PSTATE: 0 again. The stack pointer and the masks in any case.
        let back = instruction & !0xf00;
        let undo = if encoding.crn == 4 { back } else { DAIFSET };
        let (_, fault, _) = expect_many(|| execute_all(&[instruction, undo, SPSEL_1, DAIFSET], 0, 0));
        match fault.map(|fault| fault.class()) {
            None => {
                DONE.fetch_add(1, Ordering::Relaxed);
            }
            Some(class::UNKNOWN | class::SYSREG) => {}
            // SMSTART, with SME hidden or trapped by EL1.
            Some(0x1d | 0x19) => {}
            Some(_) => test::fail(format_args!("{encoding} ({instruction:#x}): {fault:?}")),
        }
    }
}

/// Hints, WFI among them, which an interrupt that is pending ends; WFET and WFIT with a deadline that has passed.
fn hints(cpu: usize) {
    gic::send_sgi(cpu, 0);
    for n in 0..128 {
        let encoding = Encoding::new(0, 3, 2, (n >> 3) as u8, (n & 7) as u8);
        let (_, fault) = expect(|| execute(encoding.write_instruction() | XZR, 0, 0));
        check!(fault.is_none(), "hint {n}: {fault:?}");
    }
    for n in 0..128 {
        let encoding = Encoding::new(0, 3, 1, (n >> 3) as u8, (n & 7) as u8);
        attempt(encoding, encoding.write_instruction(), 0);
    }
    check_eq!(gic::acknowledge(), 0, "the SGI that ended WFI");
    gic::end(0);
}

/// What AT leaves in PAR_EL1 is this CPU's: its own page, after exits and after others have asked for theirs.
fn translations(cpu: usize) {
    let page = SCRATCH[cpu].0.as_ptr() as u64;
    for round in 0..50u64 {
        let at = page | round << 4;
        // AT S1E1R or S1E1W, x0.
        execute(0xd508_7800 | ((round & 1) as u32) << 5, at, 0);
        isb();
        let par = mrs!("PAR_EL1");
        check_eq!(par & 1, 0, "PAR_EL1.F for {at:#x}");
        check_eq!(par & 0x000f_ffff_ffff_f000, page, "PAR_EL1.PA for {at:#x}");
        match round % 3 {
            0 => READY.wait(cpu::count()),
            1 => {
                psci::call(psci::VERSION, [0; 3]);
            }
            _ => {
                guest_rt::timer::wait_for(1, || false);
            }
        }
        check_eq!(mrs!("PAR_EL1"), par, "PAR_EL1 in round {round}");
    }
    // Where no map is: a fault of stage 1.
    execute(0xd508_7800, 0x7f_ffff_f000, 0);
    isb();
    check_eq!(mrs!("PAR_EL1") & 1, 1, "PAR_EL1.F where nothing is mapped");
    msr!("PAR_EL1", 0);
}
