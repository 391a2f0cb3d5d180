//! All MRS and MSR encodings in order, then writes at random: the guest gets an undefined instruction or goes on.

use core::sync::atomic::{AtomicU32, Ordering};
use guest_rt::sysreg::{Encoding, execute, execute_all, isb};
use guest_rt::vectors::{class, expect};
use guest_rt::{check, check_eq, cpu, entry, gic, mmio, mrs, msr, println, psci};

const ALL: u32 = 1 << 15;
const WRITES: u32 = 20_000;

/// op1, CRn, CRm and op2 of registers with op0 = 3 (`None`: any), and which they are.
type Set = (u8, u8, Option<u8>, Option<u8>, &'static str);

/// What the payload itself cannot lose, or what would end it by its own wish. Each is a register of ours that a hypervisor has to let us break.
const OURS: &[Set] = &[
    (0, 1, Some(0), None, "SCTLR_EL1, ACTLR_EL1, CPACR_EL1, SCTLR2_EL1: the MMU"),
    (0, 1, Some(4), None, "SCTLR aliases"),
    (0, 2, Some(0), None, "TTBR0_EL1, TTBR1_EL1, TCR_EL1, TCR2_EL1: the map"),
    (0, 2, Some(5), None, "GCSCR_EL1: guarded returns"),
    (0, 10, None, None, "MAIR_EL1, PIR, POR, LORegions: the map"),
    (0, 12, Some(0), Some(0), "VBAR_EL1: the way out of a fault"),
    (0, 4, Some(2), Some(0), "SPSel: the stack"),
    (0, 13, Some(0), Some(4), "TPIDR_EL1: which CPU this is"),
    (3, 4, Some(2), Some(1), "DAIF: exceptions stay masked"),
    (0, 4, Some(2), Some(3), "PAN: the map's devices are EL0's as well"),
];

/// Whether it is one of those.
pub fn ours(encoding: Encoding) -> bool {
    let fits = |want: Option<u8>, got: u8| want.is_none_or(|want| want == got);
    encoding.op0 == 3
        && OURS.iter().any(|(op1, crn, crm, op2, _)| {
            *op1 == encoding.op1 && *crn == encoding.crn && fits(*crm, encoding.crm) && fits(*op2, encoding.op2)
        })
}

static DEFINED: AtomicU32 = AtomicU32::new(0);
static OTHER: AtomicU32 = AtomicU32::new(0);

/// Runs the test.
pub fn fuzz_sysreg() {
    DEFINED.store(0, Ordering::Relaxed);
    OTHER.store(0, Ordering::Relaxed);
    gic::init();
    cpu::on_all(work);
    println!(
        "fuzz-sysreg: {} reads of {} found a register, {} exceptions were not of class 0",
        DEFINED.load(Ordering::Relaxed),
        ALL as usize * cpu::count(),
        OTHER.load(Ordering::Relaxed)
    );
}

fn work(cpu: usize) {
    // Written and unwritten registers alike may ask for interrupts and debug exceptions: all stay masked.
    run_masked(|| {
        for n in 0..ALL {
            read(Encoding::from_index(n));
        }
        let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ (cpu as u64) << 32;
        for n in 0..WRITES {
            random = next(random);
            let encoding = Encoding::from_index((random >> 16) as u32 % ALL);
            // Every third time a register that is there more likely: the low encodings of EL1 and EL0.
            let encoding =
                if n % 3 == 0 { Encoding { op0: 3, op1: 3 * (encoding.op1 & 1), ..encoding } } else { encoding };
            let value = next(random.rotate_left(23));
            if !ours(encoding) {
                write(encoding, if n % 2 == 0 { value } else { value & 0xff });
            }
        }
    });
    // What may stay written without harm stays; the rest as the runtime has it.
    msr!("MDSCR_EL1", 0);
    msr!("CNTV_CTL_EL0", 0);
    msr!("CNTP_CTL_EL0", 0);
    isb();
    check_eq!(mrs!("SCTLR_EL1") & 0x1005, entry::SCTLR_ON & 0x1005, "SCTLR_EL1 after all writes");
    check_eq!(mrs!("CurrentEL"), 4, "CurrentEL");
    check!(mmio::read32(mmio::GICD + gic::TYPER) != 0, "GICD_TYPER is 0");
    check!(psci::call(psci::VERSION, [0; 3]) > 0, "PSCI_VERSION");
}

fn run_masked(work: impl FnOnce()) {
    guest_rt::run!("msr daifset, #0xf");
    work();
}

/// The next number of a sequence (xorshift).
pub fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}

fn read(encoding: Encoding) {
    let (_, fault) = expect(|| execute(encoding.read_instruction(), 0, 0));
    match fault {
        None => {
            DEFINED.fetch_add(1, Ordering::Relaxed);
        }
        Some(fault) => refused("read", encoding, fault.class(), fault.esr),
    }
}

fn write(encoding: Encoding, value: u64) {
    let (_, fault) = expect(|| {
        // What the write broke of the debug exceptions and the breakpoints is put right before the next instruction fetch
        // of ours could meet it: D stays masked all the time.
        execute_all(&[encoding.write_instruction()], value, 0)
    });
    if let Some(fault) = fault {
        refused("write", encoding, fault.class(), fault.esr);
    }
}

/// Undefined, or a trap of EL1's own to EL1 (FP, SVE, SME, system registers).
fn refused(what: &str, encoding: Encoding, got: u8, esr: u64) {
    if got != class::UNKNOWN {
        OTHER.fetch_add(1, Ordering::Relaxed);
    }
    check!(matches!(got, 0 | 7 | 0x18 | 0x19 | 0x1d), "{what} of {encoding}: class {got:#x}, ESR {esr:#x}");
}
