//! Registers as the architecture has them: ID registers, what the model hides, what must survive exits, what is undefined.

use guest_rt::sysreg::{Encoding, execute, isb};
use guest_rt::test::{check_class, check_no_fault};
use guest_rt::vectors::{class, expect};
use guest_rt::{check, check_eq, cpu, gicv2, mmio, mrs, msr, psci, timer};

/// Registers that a guest of Merus must not find, with one instruction each.
const HIDDEN: &[(&str, Encoding)] = &[
    ("PMCR_EL0", Encoding::new(3, 3, 9, 12, 0)),
    ("PMCCNTR_EL0", Encoding::new(3, 3, 9, 13, 0)),
    ("PMUSERENR_EL0", Encoding::new(3, 3, 9, 14, 0)),
    ("PMINTENSET_EL1", Encoding::new(3, 0, 9, 14, 1)),
    ("PMEVCNTR0_EL0", Encoding::new(3, 3, 14, 8, 0)),
    ("PMCCFILTR_EL0", Encoding::new(3, 3, 14, 15, 7)),
    ("ZCR_EL1", Encoding::new(3, 0, 1, 2, 0)),
    ("SMCR_EL1", Encoding::new(3, 0, 1, 2, 6)),
    ("SVCR", Encoding::new(3, 3, 4, 2, 2)),
    ("TPIDR2_EL0", Encoding::new(3, 3, 13, 0, 5)),
    ("ERRIDR_EL1", Encoding::new(3, 0, 5, 3, 0)),
    ("ERRSELR_EL1", Encoding::new(3, 0, 5, 3, 1)),
    ("ERXSTATUS_EL1", Encoding::new(3, 0, 5, 4, 2)),
    ("GCR_EL1", Encoding::new(3, 0, 1, 0, 6)),
    ("RGSR_EL1", Encoding::new(3, 0, 1, 0, 5)),
    ("TFSR_EL1", Encoding::new(3, 0, 5, 6, 0)),
    ("PMSCR_EL1", Encoding::new(3, 0, 9, 9, 0)),
    ("TRBLIMITR_EL1", Encoding::new(3, 0, 9, 11, 0)),
    ("MPAM1_EL1", Encoding::new(3, 0, 10, 5, 0)),
    ("AMCR_EL0", Encoding::new(3, 3, 13, 2, 0)),
    ("PMSELR_EL0", Encoding::new(3, 3, 9, 12, 5)),
    ("PMCNTENSET_EL0", Encoding::new(3, 3, 9, 12, 1)),
    ("PMOVSSET_EL0", Encoding::new(3, 3, 9, 14, 3)),
    ("PMXEVCNTR_EL0", Encoding::new(3, 3, 9, 13, 2)),
    ("PMEVTYPER0_EL0", Encoding::new(3, 3, 14, 12, 0)),
    ("TFSRE0_EL1", Encoding::new(3, 0, 5, 6, 1)),
    ("SMPRI_EL1", Encoding::new(3, 0, 1, 2, 4)),
    ("TRFCR_EL1", Encoding::new(3, 0, 1, 2, 1)),
    ("TRCPRGCTLR", Encoding::new(2, 1, 0, 1, 0)),
    ("BRBCR_EL1", Encoding::new(2, 1, 9, 0, 0)),
    ("LORSA_EL1", Encoding::new(3, 0, 10, 4, 0)),
    ("LOREA_EL1", Encoding::new(3, 0, 10, 4, 1)),
    ("LORN_EL1", Encoding::new(3, 0, 10, 4, 2)),
    ("LORC_EL1", Encoding::new(3, 0, 10, 4, 3)),
    ("TCR2_EL1", Encoding::new(3, 0, 2, 0, 3)),
    ("SCTLR2_EL1", Encoding::new(3, 0, 1, 0, 3)),
    ("PIR_EL1", Encoding::new(3, 0, 10, 2, 3)),
    ("PIRE0_EL1", Encoding::new(3, 0, 10, 2, 2)),
    ("POR_EL1", Encoding::new(3, 0, 10, 2, 4)),
    ("POR_EL0", Encoding::new(3, 3, 10, 2, 4)),
    ("MAIR2_EL1", Encoding::new(3, 0, 10, 2, 1)),
    ("AMAIR2_EL1", Encoding::new(3, 0, 10, 3, 1)),
    ("GCSCR_EL1", Encoding::new(3, 0, 2, 5, 0)),
    ("GCSPR_EL1", Encoding::new(3, 0, 2, 5, 1)),
    ("ACCDATA_EL1", Encoding::new(3, 0, 13, 0, 5)),
    ("RCWMASK_EL1", Encoding::new(3, 0, 13, 0, 6)),
    ("FPMR", Encoding::new(3, 3, 4, 4, 2)),
    ("MDSELR_EL1", Encoding::new(2, 0, 0, 4, 2)),
    ("IMPLEMENTATION DEFINED", Encoding::new(3, 0, 15, 0, 0)),
];

/// Encodings that are never there at EL1: unallocated ones, and registers of higher levels.
const UNDEFINED: &[(&str, Encoding)] = &[
    ("HCR_EL2", Encoding::new(3, 4, 1, 1, 0)),
    ("VTTBR_EL2", Encoding::new(3, 4, 2, 1, 0)),
    ("ICH_LR0_EL2", Encoding::new(3, 4, 12, 12, 0)),
    ("CNTHCTL_EL2", Encoding::new(3, 4, 14, 1, 0)),
    ("VPIDR_EL2", Encoding::new(3, 4, 0, 0, 0)),
    ("SP_EL1", Encoding::new(3, 4, 4, 1, 0)),
    ("SCTLR_EL12", Encoding::new(3, 5, 1, 0, 0)),
    ("CNTV_CTL_EL02", Encoding::new(3, 5, 14, 3, 1)),
    ("SCTLR_EL3", Encoding::new(3, 6, 1, 0, 0)),
    ("ICC_SRE_EL3", Encoding::new(3, 6, 12, 12, 5)),
    ("unallocated op1 = 1", Encoding::new(3, 1, 6, 0, 0)),
    ("unallocated op1 = 2", Encoding::new(3, 2, 6, 0, 0)),
    ("unallocated CRn = 8", Encoding::new(3, 0, 8, 0, 0)),
    ("unallocated op1 = 7", Encoding::new(3, 7, 6, 0, 0)),
    ("unallocated op0 = 2", Encoding::new(2, 7, 9, 9, 7)),
];

/// Instructions of features that are hidden.
const HIDDEN_INSTRUCTIONS: &[(&str, u32)] = &[
    ("SVE rdvl x0, #1", 0x04bf_5020),
    ("SVE cntb x0", 0x0420_e3e0),
    ("SVE ptrue p0.b", 0x2518_e3e0),
    ("SME rdsvl x0, #1", 0x04bf_5820),
    ("SME smstart", 0xd503_477f),
];

/// Runs the test.
pub fn registers() {
    id_registers();
    undefined();
    if psci::on_merus() {
        hidden_fields();
        hidden_registers();
    }
    cpu::on_all(|cpu| {
        identity(cpu);
        kept(cpu);
    });
}

fn id_registers() {
    for n in 0..56 {
        let id = Encoding::new(3, 0, 0, 1 + (n / 8) as u8, (n % 8) as u8);
        let (_, fault) = expect(|| execute(id.read_instruction(), 0, 0));
        check_no_fault(format_args!("read of {id}"), fault);
        let (_, fault) = expect(|| execute(id.write_instruction(), 0, 0));
        check_class(format_args!("write of {id}"), fault, class::UNKNOWN);
    }
    let gic = u64::from(!gicv2::is_here());
    check_eq!(mrs!("ID_AA64PFR0_EL1") >> 24 & 15, gic, "PFR0.GIC: system register interface of a GICv3");
    check!(mrs!("ID_AA64PFR0_EL1") >> 4 & 15 >= 1, "PFR0.EL1 is {:#x}", mrs!("ID_AA64PFR0_EL1"));
    check!(mrs!("ID_AA64MMFR0_EL1") & 15 <= 6, "MMFR0.PARange is {:#x}", mrs!("ID_AA64MMFR0_EL1"));
    check!(mrs!("ID_AA64DFR0_EL1") & 15 >= 6, "DFR0.DebugVer is {:#x}", mrs!("ID_AA64DFR0_EL1"));
    for (name, fault) in [
        ("CTR_EL0", expect(|| mrs!("CTR_EL0")).1),
        ("DCZID_EL0", expect(|| mrs!("DCZID_EL0")).1),
        ("CLIDR_EL1", expect(|| mrs!("CLIDR_EL1")).1),
        ("CCSIDR_EL1", expect(|| mrs!("CCSIDR_EL1")).1),
        ("CSSELR_EL1", expect(|| msr!("CSSELR_EL1", 1)).1),
        ("REVIDR_EL1", expect(|| mrs!("REVIDR_EL1")).1),
        ("AIDR_EL1", expect(|| mrs!("AIDR_EL1")).1),
        ("ISR_EL1", expect(|| mrs!("ISR_EL1")).1),
        ("ACTLR_EL1", expect(|| mrs!("ACTLR_EL1")).1),
    ] {
        check_no_fault(format_args!("{name}"), fault);
    }
    msr!("CSSELR_EL1", 0);
}

fn undefined() {
    for (name, encoding) in UNDEFINED {
        let (_, fault) = expect(|| execute(encoding.read_instruction(), 0, 0));
        check_class(format_args!("read of {name}, {encoding}"), fault, class::UNKNOWN);
        let (_, fault) = expect(|| execute(encoding.write_instruction(), 0, 0));
        check_class(format_args!("write of {name}, {encoding}"), fault, class::UNKNOWN);
    }
    let (_, fault) = expect(|| execute(0x0000_0000, 0, 0));
    check_class(format_args!("udf #0"), fault, class::UNKNOWN);
}

fn hidden_fields() {
    let absent = |register: &str, value: u64, fields: &[(&str, u32)]| {
        for (field, shift) in fields {
            check_eq!(value >> shift & 15, 0, "{register}.{field}");
        }
    };
    absent(
        "ID_AA64PFR0_EL1",
        mrs!("ID_AA64PFR0_EL1"),
        &[("RAS", 28), ("SVE", 32), ("MPAM", 40), ("AMU", 44), ("RME", 52)],
    );
    absent("ID_AA64PFR1_EL1", mrs!("ID_AA64PFR1_EL1"), &[("MTE", 8), ("RAS_frac", 12), ("MPAM_frac", 16), ("SME", 24)]);
    absent("ID_AA64ZFR0_EL1", mrs!("S3_0_C0_C4_4"), &[("SVEver", 0), ("AES", 4), ("F32MM", 52), ("F64MM", 56)]);
    check_eq!(mrs!("S3_0_C0_C4_5"), 0, "ID_AA64SMFR0_EL1");
    let dfr0 = mrs!("ID_AA64DFR0_EL1");
    absent(
        "ID_AA64DFR0_EL1",
        dfr0,
        &[("TraceVer", 4), ("PMUVer", 8), ("PMSVer", 32), ("TraceFilt", 40), ("TraceBuffer", 44)],
    );
    absent("ID_AA64DFR0_EL1", dfr0, &[("MTPMU", 48), ("BRBE", 52)]);
    absent("ID_AA64MMFR2_EL1", mrs!("S3_0_C0_C7_2"), &[("NV", 24)]);
    let mmfr0 = mrs!("ID_AA64MMFR0_EL1");
    check!(matches!(mmfr0 >> 28 & 15, 0 | 15), "MMFR0.TGran4 {:#x} shows LPA2", mmfr0 >> 28 & 15);
    check!(matches!(mmfr0 >> 20 & 15, 0 | 1), "MMFR0.TGran16 {:#x} shows LPA2", mmfr0 >> 20 & 15);
    check!(mmfr0 & 15 <= 5, "MMFR0.PARange {:#x} shows LPA2", mmfr0 & 15);
}

fn hidden_registers() {
    // EL1's own traps of SVE and SME out of the way (CPACR_EL1.ZEN and SMEN): they would come first.
    let cpacr = mrs!("CPACR_EL1");
    msr!("CPACR_EL1", cpacr | 3 << 16 | 3 << 20 | 3 << 24);
    isb();
    for (name, encoding) in HIDDEN {
        let (value, fault) = expect(|| execute(encoding.read_instruction(), 0, 0));
        check_class(format_args!("read of {name} (value {value:#x})"), fault, class::UNKNOWN);
        let (_, fault) = expect(|| execute(encoding.write_instruction(), 0, 0));
        check_class(format_args!("write of {name}"), fault, class::UNKNOWN);
    }
    for (name, instruction) in HIDDEN_INSTRUCTIONS {
        let (_, fault) = expect(|| execute(*instruction, 0, 0));
        check_class(format_args!("{name}"), fault, class::UNKNOWN);
    }
    msr!("CPACR_EL1", cpacr);
    isb();
}

fn identity(cpu: usize) {
    let mpidr = mrs!("MPIDR_EL1");
    check_eq!(mpidr & cpu::AFFINITY, cpu::mpidr(cpu), "affinity of MPIDR_EL1 ({mpidr:#x}) against the device tree");
    check_eq!(mpidr >> 30 & 3, 2, "MPIDR_EL1 ({mpidr:#x}): RES1 set, U clear");
    let midr = mrs!("MIDR_EL1");
    check!(midr >> 32 == 0 && midr & 0xfff0 != 0, "MIDR_EL1 is {midr:#x}");
    check_eq!(mrs!("CurrentEL"), 4, "CurrentEL");
}

/// Writes a register, reads it, causes exits of several kinds, reads it again.
macro_rules! keeps {
    ($cpu:expr, $($name:literal = $pattern:expr),+ $(,)?) => {
        // The exception registers change at each interrupt, of which there is none here.
        $({
            let pattern: u64 = $pattern;
            let old = mrs!($name);
            msr!($name, pattern);
            isb();
            let written = mrs!($name);
            exits($cpu);
            check_eq!(mrs!($name), written, concat!($name, " after exits, written {:#x}"), pattern);
            msr!($name, old);
            isb();
        })+
    };
}

fn kept(cpu: usize) {
    let p = (0x1122_3344_5566_0000 * (cpu as u64 + 1)) | 0xabc0;
    keeps!(
        cpu,
        "TPIDR_EL0" = p,
        "TPIDRRO_EL0" = !p,
        "SP_EL0" = p & !15,
        "CONTEXTIDR_EL1" = p & 0xffff_ffff,
        "ELR_EL1" = p & !3,
        "SPSR_EL1" = 0x6000_03c5,
        "ESR_EL1" = p & 0x3ff_ffff,
        "FAR_EL1" = p,
        "AFSR0_EL1" = p & 0xffff_ffff,
        "AFSR1_EL1" = p & 0xffff_ffff,
        "AMAIR_EL1" = p,
        "PAR_EL1" = 0xff00_0000_1234_5b80,
        "TTBR1_EL1" = p & 0xff_ffff_f000,
        "CSSELR_EL1" = (cpu as u64 & 1) << 1,
        "CNTKCTL_EL1" = 3 | 1 << 2 | 7 << 4,
        "CPACR_EL1" = 1 << 20,
        "MDSCR_EL1" = 1 << 12,
        "DBGBVR0_EL1" = p & 0xff_ffff_fffc,
        "DBGWVR0_EL1" = p & 0xff_ffff_fff8,
        "DBGBCR0_EL1" = 0xf << 5 | 2 << 1,
        "DBGWCR0_EL1" = 0xff << 5 | 3 << 3 | 2 << 1,
        "CNTV_CVAL_EL0" = p,
        "CNTP_CVAL_EL0" = !p >> 1,
        "MAIR_EL1" = guest_rt::entry::MAIR | p << 32,
    );
    if !gicv2::is_here() {
        keeps!(cpu, "ICC_PMR_EL1" = 0x50 + 8 * cpu as u64, "ICC_BPR1_EL1" = 4,);
    }
}

/// A hypercall, an emulated register, an ID register and a wait for the timer, in which another CPU may run here.
fn exits(cpu: usize) {
    psci::call(psci::VERSION, [0; 3]);
    let typer = mmio::read32(mmio::GICD + guest_rt::gic::TYPER);
    check!(typer != 0, "GICD_TYPER is 0");
    let pfr0 = mrs!("ID_AA64PFR0_EL1");
    check!(pfr0 != 0, "ID_AA64PFR0_EL1 is 0");
    if cpu.is_multiple_of(2) {
        timer::wait_for(1, || false);
    } else {
        psci::affinity_info(cpu::mpidr(0));
    }
}
