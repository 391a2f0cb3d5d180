//! Syndrome to exit, class by class, and that every value decodes.

use std::string::ToString;

use addr::{AccessSize, Ipa, Va};
use proptest::prelude::*;

use super::Syndrome;
use crate::sysreg::*;
use crate::*;

fn fault(syndrome: Syndrome) -> Fault {
    match decode(&syndrome.exit()) {
        Exit::Stage2Fault(fault) => fault,
        other => panic!("no fault: {other:?}"),
    }
}

const FAR: Va = Va::new(0xffff_8000_1234_5018);
const AT: Ipa = Ipa::new(0x900_0018);

#[test]
fn a_plain_device_access_is_mmio_with_all_its_fields() {
    let syndrome = Syndrome::store().field(16, 9).bit(15).bit(14).il(Il::Bytes2).size(1);
    let want = Mmio {
        ipa: AT,
        size: AccessSize::B2,
        sign_extend: false,
        sf: true,
        rt: 9,
        write: true,
        acquire_release: true,
        il: Il::Bytes2,
        va: FAR,
    };
    assert_eq!(decode(&syndrome.exit()), Exit::Mmio(want));
}

#[test]
fn the_ipa_is_52_bits_of_hpfar_and_12_of_far() {
    let mut raw = Syndrome::load().exit();
    (raw.hpfar, raw.far) = (0x0000_0fff_ffff_fff0, 0xffff_ffff_ffff_fabc);
    let Exit::Mmio(mmio) = decode(&raw) else { panic!("no MMIO") };
    assert_eq!(mmio.ipa, Ipa::new(0x000f_ffff_ffff_fabc));
    // The NS bit and the low four bits are no address.
    (raw.hpfar, raw.far) = (1 << 63 | 0xf, 0);
    let Exit::Mmio(mmio) = decode(&raw) else { panic!("no MMIO") };
    assert_eq!(mmio.ipa, Ipa::new(0));
}

#[test]
fn only_a_translation_fault_with_a_valid_syndrome_off_walk_and_maintenance_is_mmio() {
    for fsc in 0..64u64 {
        for flags in 0..8u32 {
            let (isv, cm, s1ptw) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            let mut syndrome = Syndrome::load().clear(24).status(fsc);
            syndrome = if isv { syndrome.bit(24) } else { syndrome };
            syndrome = if cm { syndrome.bit(8) } else { syndrome };
            syndrome = if s1ptw { syndrome.bit(7) } else { syndrome };
            let translation = matches!(fsc, 4..=7 | 0x2a | 0x2b);
            let want = translation && isv && !cm && !s1ptw;
            assert_eq!(matches!(decode(&syndrome.exit()), Exit::Mmio(_)), want, "fsc {fsc:#x}, flags {flags:03b}");
            if !want {
                let fault = fault(syndrome);
                assert_eq!((fault.access.is_some(), fault.cache_maintenance, fault.s1ptw), (isv, cm, s1ptw));
                assert_eq!(fault.status, FaultStatus::from_fsc(fsc as u8));
            }
        }
    }
}

#[test]
fn hpfar_is_used_only_where_the_architecture_writes_it() {
    let known = FaultIpa::Known(AT);
    let page = FaultIpa::Known(Ipa::new(0x900_0000));
    let unknown = FaultIpa::NeedsTranslation;
    // name, status, off a walk, on a walk
    for (name, fsc, plain, on_walk) in [
        ("address size", 0x01, known, page),
        ("translation", 0x06, known, page),
        ("access flag", 0x0a, known, page),
        ("permission", 0x0f, unknown, page),
        ("granule protection", 0x28, known, page),
        ("external", 0x10, unknown, unknown),
        ("external on walk", 0x15, unknown, unknown),
        ("alignment", 0x21, unknown, unknown),
        ("TLB conflict", 0x30, unknown, unknown),
        ("tag check", 0x11, unknown, unknown),
        ("atomic update", 0x31, unknown, unknown),
        ("lockdown", 0x34, unknown, unknown),
        ("unsupported exclusive", 0x35, unknown, unknown),
        ("reserved", 0x3f, unknown, unknown),
    ] {
        for instruction in [false, true] {
            let base = Syndrome::of(if instruction { 0x20 } else { 0x24 }).status(fsc);
            assert_eq!(fault(base).ipa, plain, "{name}");
            assert_eq!(fault(base.bit(7)).ipa, on_walk, "{name} on a walk");
            assert_eq!(fault(base).instruction, instruction);
        }
    }
}

#[test]
fn far_is_not_used_where_fnv_says_so() {
    assert_eq!(fault(Syndrome::of(0x24).status(0x10)).va, Some(FAR));
    assert_eq!(fault(Syndrome::of(0x24).status(0x10).bit(10)).va, None);
    assert_eq!(fault(Syndrome::of(0x20).status(0x10).bit(10)).va, None);
    assert_eq!(fault(Syndrome::of(0x24).status(0x07).bit(10)).va, Some(FAR), "FnV means nothing elsewhere");
}

#[test]
fn a_permission_fault_keeps_the_access_for_emulation() {
    let fault = fault(Syndrome::store().status(0x0f).field(16, 4).size(3).bit(15));
    let access = fault.access.expect("ISV");
    assert_eq!((access.rt, access.size, access.write, access.sf), (4, AccessSize::B8, true, true));
    assert_eq!((fault.write, fault.status), (true, FaultStatus::Permission { level: 3 }));
}

#[test]
fn instruction_aborts_have_no_data_syndrome() {
    let all = fault(Syndrome(0x20 << 26 | 0x01ff_ffc7));
    assert!(all.instruction && all.s1ptw && !all.write && !all.cache_maintenance && all.access.is_none());
}

#[test]
fn fault_status_codes_are_those_of_the_manual() {
    use FaultStatus::*;
    let named = [
        (0x00, AddressSize { level: 0 }),
        (0x03, AddressSize { level: 3 }),
        (0x04, Translation { level: 0 }),
        (0x07, Translation { level: 3 }),
        (0x08, AccessFlag { level: 0 }),
        (0x0b, AccessFlag { level: 3 }),
        (0x0c, Permission { level: 0 }),
        (0x0f, Permission { level: 3 }),
        (0x10, External),
        (0x11, TagCheck),
        (0x12, ExternalOnWalk { level: -2 }),
        (0x13, ExternalOnWalk { level: -1 }),
        (0x14, ExternalOnWalk { level: 0 }),
        (0x17, ExternalOnWalk { level: 3 }),
        (0x18, External),
        (0x1b, ExternalOnWalk { level: -1 }),
        (0x1c, ExternalOnWalk { level: 0 }),
        (0x1f, ExternalOnWalk { level: 3 }),
        (0x21, Alignment),
        (0x22, GranuleProtection),
        (0x27, GranuleProtection),
        (0x28, GranuleProtection),
        (0x29, AddressSize { level: -1 }),
        (0x2a, Translation { level: -2 }),
        (0x2b, Translation { level: -1 }),
        (0x2c, AddressSize { level: -2 }),
        (0x30, TlbConflict),
        (0x31, AtomicUpdate),
        (0x34, Lockdown),
        (0x35, UnsupportedExclusive),
    ];
    for (fsc, status) in named {
        assert_eq!(FaultStatus::from_fsc(fsc), status, "{fsc:#x}");
        assert_eq!(FaultStatus::from_fsc(fsc | 0xc0), status, "six bits count");
    }
    for fsc in [0x19, 0x1a, 0x20, 0x2d, 0x2e, 0x2f, 0x32, 0x33, 0x36, 0x3e, 0x3f] {
        assert_eq!(FaultStatus::from_fsc(fsc), Other(fsc));
    }
    assert_eq!(fault(Syndrome::of(0x24).status(0x06).bit(7)).walk_level(), 2);
    assert_eq!(fault(Syndrome::of(0x24).status(0x2b).bit(7)).walk_level(), 0);
}

#[test]
fn system_register_syndromes_name_register_and_direction() {
    let pack = |op0: u64, op1: u64, crn: u64, crm: u64, op2: u64, rt: u64, read: u64| {
        Syndrome::of(0x18)
            .field(20, op0)
            .field(17, op2)
            .field(14, op1)
            .field(10, crn)
            .field(5, rt)
            .field(1, crm)
            .field(0, read)
    };
    for (syndrome, id, rt, read) in [
        (pack(3, 0, 12, 11, 5, 7, 0), ICC_SGI1R_EL1, 7, false),
        (pack(3, 3, 14, 2, 1, 31, 1), CNTP_CTL_EL0, 31, true),
        (pack(3, 0, 0, 4, 0, 0, 1), ID_AA64PFR0_EL1, 0, true),
        (pack(2, 0, 1, 0, 4, 1, 0), OSLAR_EL1, 1, false),
        (pack(1, 0, 7, 14, 2, 2, 0), DC_CISW, 2, false),
    ] {
        assert_eq!(decode(&syndrome.exit()), Exit::SysReg(SysReg { id, rt, read }));
        // Bits 24:22 are reserved and may hold anything.
        assert_eq!(decode(&syndrome.field(22, 7).exit()), Exit::SysReg(SysReg { id, rt, read }));
    }
}

#[test]
fn register_numbers_survive_packing_and_print_as_the_assembler_takes_them() {
    // Each few of them is enough for Miri.
    for packed in (0..1u32 << 16).step_by(if cfg!(miri) { 211 } else { 1 }) {
        let [op0, op1, crn, crm, op2] =
            [packed >> 14, packed >> 11 & 7, packed >> 7 & 15, packed >> 3 & 15, packed & 7].map(|n| n as u8);
        let id = SysRegId::new(op0, op1, crn, crm, op2);
        assert_eq!((id.op0(), id.op1(), id.crn(), id.crm(), id.op2()), (op0, op1, crn, crm, op2));
        assert_eq!(SysRegId::from_iss(id.as_u32() | !0x003f_fc1e), id);
        let space = (op0, op1, crn) == (3, 0, 0) && (1..=7).contains(&crm);
        assert_eq!(id.feature_id(), space.then_some((crm, op2)));
    }
    assert_eq!(ICC_SGI1R_EL1.to_string(), "S3_0_C12_C11_5 (ICC_SGI1R_EL1)");
    assert_eq!(SysRegId::new(3, 5, 11, 15, 7).to_string(), "S3_5_C11_C15_7");
    assert!(SysRegId::new(3, 5, 11, 15, 7).is_implementation_defined());
    assert!(SysRegId::new(3, 0, 15, 2, 0).is_implementation_defined() && !MIDR_EL1.is_implementation_defined());
}

#[test]
fn calls_carry_their_immediate() {
    assert_eq!(decode(&Syndrome::of(0x16).field(0, 0xbeef).exit()), Exit::Hvc { imm: 0xbeef });
    assert_eq!(decode(&Syndrome::of(0x12).field(0, 0x1234).exit()), Exit::Hvc { imm: 0x1234 });
    let smc = |imm, condition, il| Exit::Smc { imm, condition, il };
    assert_eq!(decode(&Syndrome::of(0x17).field(0, 3).exit()), smc(3, Condition::FromIt, Il::Bytes4));
    // AArch32: no immediate; checked (CCKNOWNPASS 0), or to be checked by CV and COND.
    let smc32 = Syndrome::of(0x13).bit(24).field(20, 1);
    assert_eq!(decode(&smc32.exit()), smc(0, Condition::Code(0b1110), Il::Bytes4));
    assert_eq!(decode(&smc32.bit(19).exit()), smc(0, Condition::Code(1), Il::Bytes4));
    assert_eq!(decode(&smc32.bit(19).clear(24).exit()), smc(0, Condition::FromIt, Il::Bytes4));
}

#[test]
fn waits_are_told_apart_by_ti() {
    let (always, il) = (Condition::Code(14), Il::Bytes4);
    let base = Syndrome::of(0x01).bit(24).field(20, 14).field(5, 6);
    for (ti, kind, deadline) in
        [(0, WfxKind::Wfi, None), (1, WfxKind::Wfe, None), (2, WfxKind::Wfit, Some(6)), (3, WfxKind::Wfet, Some(6))]
    {
        let want = Exit::Wfx(Wfx { kind, deadline, condition: always, il });
        assert_eq!(decode(&base.field(0, ti).bit(2).exit()), want, "register valid");
        let want = Exit::Wfx(Wfx { kind, deadline: None, condition: always, il });
        assert_eq!(decode(&base.field(0, ti).exit()), want, "register not valid");
    }
    let thumb = Wfx { kind: WfxKind::Wfi, deadline: None, condition: Condition::FromIt, il: Il::Bytes2 };
    assert_eq!(decode(&Syndrome::of(0x01).il(Il::Bytes2).exit()), Exit::Wfx(thumb));
}

#[test]
fn aarch32_coprocessor_traps_name_their_instruction() {
    // MRC p15, 0, r3, c9, c13, 2, conditional on NE.
    let mrc = Syndrome::of(0x03).bit(24).field(20, 1).field(17, 2).field(10, 9).field(5, 3).field(1, 13).bit(0);
    let op = CpOp::Transfer32 { opc1: 0, crn: 9, crm: 13, opc2: 2, rt: 3 };
    let trap = |cp, op, read| CpTrap { cp, op, read, condition: Condition::Code(1), il: Il::Bytes4 };
    assert_eq!(decode(&mrc.exit()), Exit::Aarch32Cp(trap(Coprocessor::Cp15, op, true)));
    for (ec, cp) in [(0x05, Coprocessor::Cp14), (0x08, Coprocessor::Cp10)] {
        let other = Syndrome(mrc.0 & !(0x3f << 26) | ec << 26);
        assert_eq!(decode(&other.exit()), Exit::Aarch32Cp(trap(cp, op, true)));
    }
    // MCRR p15, 1, r4, r31 (as its AArch64 view), c14.
    let op = CpOp::Transfer64 { opc1: 1, crm: 14, rt: 4, rt2: 31 };
    for (ec, cp) in [(0x04, Coprocessor::Cp15), (0x0c, Coprocessor::Cp14)] {
        let mcrr = Syndrome::of(ec).bit(24).field(20, 1).field(16, 1).field(10, 31).field(5, 4).field(1, 14);
        assert_eq!(decode(&mcrr.exit()), Exit::Aarch32Cp(trap(cp, op, false)));
    }
    // STC (direction 0: a write to memory) reads the coprocessor, LDC writes it.
    let stc = Syndrome::of(0x06).bit(24).field(20, 1);
    assert_eq!(decode(&stc.exit()), Exit::Aarch32Cp(trap(Coprocessor::Cp14, CpOp::Memory, true)));
    assert_eq!(decode(&stc.bit(0).exit()), Exit::Aarch32Cp(trap(Coprocessor::Cp14, CpOp::Memory, false)));
}

#[test]
fn the_other_classes() {
    let debug = |kind| Exit::Debug(DebugEvent { kind, iss: 0x55 });
    for (ec, want) in [
        (0x07, Exit::FpTrap),
        (0x09, Exit::PauthTrap),
        (0x0e, Exit::IllegalState),
        (0x19, Exit::SveTrap),
        (0x1d, Exit::SmeTrap),
        (0x2f, Exit::SError(SErrorSyndrome { iss: 0x55 })),
        (0x30, debug(DebugKind::Breakpoint)),
        (0x32, debug(DebugKind::Step)),
        (0x34, debug(DebugKind::Watchpoint)),
        (0x38, debug(DebugKind::Bkpt)),
        (0x3a, debug(DebugKind::VectorCatch)),
        (0x3c, debug(DebugKind::Brk)),
    ] {
        assert_eq!(decode(&Syndrome::of(ec).field(0, 0x55).exit()), want);
    }
}

/// The classes that have an exit of their own; all others are unknown, those of the same exception level among them.
const KNOWN: [u8; 27] = [
    0x01, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0c, 0x0e, 0x12, 0x13, 0x16, 0x17, 0x18, 0x19, 0x1d, 0x20, 0x24,
    0x2f, 0x30, 0x32, 0x34, 0x38, 0x3a, 0x3c, 0xff,
];

#[test]
fn every_class_decodes_and_the_unknown_ones_keep_their_syndrome() {
    for ec in (0..64u8).step_by(if cfg!(miri) { 9 } else { 1 }) {
        // Each bit of the syndrome alone, each pair of neighbours, none and all.
        let patterns = (0..25).map(|b| 1u64 << b).chain((0..24).map(|b| 3 << b)).chain([0, 0x01ff_ffff]);
        for iss in patterns {
            for il in [0, 1u64 << 25] {
                let esr = u64::from(ec) << 26 | il | iss;
                let raw = RawExit { vector: Vector::Sync, esr, far: u64::MAX, hpfar: u64::MAX };
                let exit = decode(&raw);
                let unknown = Exit::Unknown { ec, iss: iss as u32 };
                assert_eq!(exit == unknown, !KNOWN.contains(&ec), "{ec:#x}: {exit:?}");
                assert_eq!(decode(&RawExit { esr: esr | 0xffff_ffff << 32, ..raw }), exit, "ISS2 is not looked at");
                assert_eq!(decode(&RawExit { vector: Vector::Irq, ..raw }), Exit::Irq);
                assert_eq!(decode(&RawExit { vector: Vector::Fiq, ..raw }), Exit::Fiq);
                let serror = Exit::SError(SErrorSyndrome { iss: iss as u32 });
                assert_eq!(decode(&RawExit { vector: Vector::SError, ..raw }), serror);
            }
        }
    }
}

#[test]
fn an_serror_costs_what_its_type_says() {
    use SErrorAction::{Fatal, Give, Ignore, Stop};
    let categorized = |aet: u32| aet << 10 | 0b01_0001;
    let external = 1 << 9;
    let by_iesb = 1 << 13;
    let cases = [
        ("uncontainable", categorized(0), Fatal, Fatal),
        ("uncontainable, external", categorized(0) | external, Fatal, Fatal),
        ("unrecoverable", categorized(1), Stop, Stop),
        ("restartable", categorized(2), Give(categorized(2)), Stop),
        ("recoverable", categorized(3), Give(categorized(3)), Stop),
        ("recoverable, external", categorized(3) | external, Give(categorized(3) | external), Stop),
        ("taken by EL2's own synchronization", categorized(3) | by_iesb, Give(categorized(3)), Stop),
        ("reserved bits", categorized(2) | 0x00ff_c1c0, Give(categorized(2)), Stop),
        ("reserved type", categorized(4), Stop, Stop),
        ("reserved type", categorized(5), Stop, Stop),
        ("corrected", categorized(6), Ignore, Ignore),
        ("reserved type", categorized(7), Stop, Stop),
        ("uncategorized", 0, Stop, Stop),
        ("uncategorized, whatever is in AET", 6 << 10, Stop, Stop),
        ("reserved status", 6 << 10 | 0b01_0000, Stop, Stop),
        ("implementation defined", 1 << 24 | categorized(0), Stop, Stop),
        ("implementation defined", 1 << 24 | categorized(6), Stop, Stop),
    ];
    for (name, iss, with_ras, without) in cases {
        assert_eq!(SErrorSyndrome { iss }.action(true), with_ras, "{name}");
        assert_eq!(SErrorSyndrome { iss }.action(false), without, "{name}, and not all CPUs have FEAT_RAS");
    }
}

proptest! {
    #[test]
    fn decoding_is_total_and_depends_on_nothing_else(
        esr: u64, far: u64, hpfar: u64, vector in 0..4usize, x: [u64; 31], pc: u64, pstate: u64, bus: u64,
    ) {
        let vector = [Vector::Sync, Vector::Irq, Vector::Fiq, Vector::SError][vector];
        let raw = RawExit { vector, esr, far, hpfar };
        let exit = decode(&raw);
        prop_assert_eq!(exit, decode(&raw));
        // Whatever came, it can be completed.
        let mut frame = GuestFrame { x, pc, pstate };
        match exit {
            Exit::Mmio(mmio) => {
                prop_assert_eq!(mmio.store_value(&frame) & !mmio.size.mask(), 0);
                mmio.complete_load(&mut frame, bus);
                frame.skip(mmio.il);
            }
            Exit::Stage2Fault(fault) => prop_assert!(fault.walk_level() < 4),
            Exit::Aarch32Cp(cp) => {
                frame.condition_holds(cp.condition);
                frame.skip(cp.il);
            }
            _ => {
                frame.skip(Il::Bytes4);
            }
        }
    }

    #[test]
    fn every_data_abort_is_mmio_or_a_fault_that_says_why_not(iss in 0..1u64 << 25, far: u64, hpfar: u64) {
        let raw = RawExit { vector: Vector::Sync, esr: 0x24 << 26 | iss, far, hpfar };
        match decode(&raw) {
            Exit::Mmio(mmio) => {
                prop_assert_eq!(mmio.ipa.as_u64() & 0xfff, far & 0xfff);
                prop_assert_eq!(mmio.ipa.as_u64() >> 12, hpfar >> 4 & 0xfff_ffff_ffff);
            }
            Exit::Stage2Fault(f) => {
                let translation = matches!(f.status, FaultStatus::Translation { .. });
                prop_assert!(f.s1ptw || f.cache_maintenance || f.access.is_none() || !translation);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
