//! Pointer authentication: keys are each CPU's own, and what one signs it can authenticate after exits.

use guest_rt::sysreg::{execute, isb};
use guest_rt::test::check_no_fault;
use guest_rt::vectors::expect;
use guest_rt::{check, check_eq, cpu, mrs, msr, println, psci, timer};

/// SCTLR_EL1.EnIA, EnIB, EnDA, EnDB.
const ENABLES: u64 = 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13;
const PACIA: u32 = 0xdac1_0020;
const PACDA: u32 = 0xdac1_0820;
const AUTIA: u32 = 0xdac1_1020;
const AUTDA: u32 = 0xdac1_1820;
/// An address with bits of its own in each byte below the authentication code.
const POINTER: u64 = 0x0000_0055_1234_5678;
const MODIFIER: u64 = 0x1122_3344;

static READY: cpu::Barrier = cpu::Barrier::new();

/// Runs the test.
pub fn pauth() {
    let isar1 = mrs!("ID_AA64ISAR1_EL1");
    let isar2 = mrs!("S3_0_C0_C6_2");
    if isar1 & 0xff0 == 0 && isar2 & 0xf000 == 0 {
        println!("pauth: this CPU has none");
        return;
    }
    cpu::on_all(work);
}

fn work(cpu: usize) {
    let sctlr = mrs!("SCTLR_EL1");
    msr!("SCTLR_EL1", sctlr | ENABLES);
    isb();
    let key = (cpu as u64 + 1) << 40 | 0x9e37_79b9;
    let (_, fault) = expect(|| {
        msr!("S3_0_C2_C1_0", key);
        msr!("S3_0_C2_C1_1", !key);
        msr!("S3_0_C2_C2_0", key << 3);
        msr!("S3_0_C2_C2_1", !key << 3);
        isb();
    });
    check_no_fault(format_args!("writes of the keys"), fault);
    READY.wait(cpu::count());
    let signed = execute(PACIA, POINTER, MODIFIER);
    let data = execute(PACDA, POINTER, MODIFIER);
    check!(signed != POINTER && data != POINTER, "signing changed nothing: {signed:#x} {data:#x}");
    check!(signed != data, "two keys sign alike: {signed:#x}");
    for round in 0..20 {
        match round % 3 {
            0 => {
                psci::call(psci::VERSION, [0; 3]);
            }
            1 => {
                timer::wait_for(2, || false);
            }
            _ => READY.wait(cpu::count()),
        }
        check_eq!(mrs!("S3_0_C2_C1_0"), key, "APIAKeyLo_EL1");
        check_eq!(mrs!("S3_0_C2_C2_1"), !key << 3, "APDAKeyHi_EL1");
        check_eq!(execute(PACIA, POINTER, MODIFIER), signed, "the same pointer signed again");
        check_eq!(execute(AUTIA, signed, MODIFIER), POINTER, "autia");
        check_eq!(execute(AUTDA, data, MODIFIER), POINTER, "autda");
    }
    // A wrong one fails: by a fault (FEAT_FPAC), or with an address that is none.
    let (wrong, fault) = expect(|| execute(AUTIA, signed ^ 1 << 50, MODIFIER));
    check!(fault.is_some() || wrong != POINTER, "a wrong signature was authenticated");
    msr!("SCTLR_EL1", sctlr);
    isb();
}
