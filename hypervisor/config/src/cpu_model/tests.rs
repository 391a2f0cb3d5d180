use super::*;
use std::vec::Vec;

const PFR0: (u8, u8) = (4, 0);
const PFR1: (u8, u8) = (4, 1);
const DFR0: (u8, u8) = (5, 0);
const ISAR0: (u8, u8) = (6, 0);
const ISAR1: (u8, u8) = (6, 1);
const ISAR2: (u8, u8) = (6, 2);
const MMFR0: (u8, u8) = (7, 0);
const MMFR1: (u8, u8) = (7, 1);
const MMFR2: (u8, u8) = (7, 2);

fn host(registers: &[((u8, u8), u64)]) -> HostIds {
    let mut ids = HostIds { ctr: 1 << 31, dczid: 4, ..HostIds::default() };
    for &((crm, op2), value) in registers {
        ids.set(crm, op2, value);
    }
    ids
}

fn shown(model: &CpuModel, (crm, op2): (u8, u8)) -> u64 {
    model.id_register(crm, op2)
}

fn all_ones() -> HostIds {
    HostIds { id: [u64::MAX; 64], clidr: u64::MAX, ctr: u64::MAX, ..HostIds::default() }
}

/// QEMU's cortex-a53 and cortex-a72 with a GICv3.
fn cortex_a53() -> HostIds {
    let mut ids = host(&[
        (PFR0, 0x0100_2222),
        (DFR0, 0x1030_5106),
        (ISAR0, 0x0001_1120),
        (MMFR0, 0x0000_1122),
        ((1, 0), 0x131),
        ((1, 1), 0x1001_1011),
        ((1, 2), 0x0301_0066),
        ((1, 4), 0x1010_1105),
        ((2, 5), 0x0001_1121),
        ((3, 0), 0x1011_0222),
    ]);
    (ids.midr, ids.ctr, ids.clidr) = (0x410f_d034, 0x8444_8004, 0x0a20_0023);
    ids
}

fn cortex_a72() -> HostIds {
    let mut ids = cortex_a53();
    ids.set(7, 0, 0x1124);
    (ids.midr, ids.ctr) = (0x410f_d083, 0x8444_c004);
    ids
}

fn neoverse_n1() -> HostIds {
    let mut ids = host(&[
        (PFR0, 0x1100_0000_1111_1112),
        (PFR1, 0x20),
        (DFR0, 0x1_1030_5408),
        (ISAR0, 0x1000_1021_1120),
        (ISAR1, 0x0010_0001),
        (MMFR0, 0x0010_1125),
        (MMFR1, 0x1021_2122),
        (MMFR2, 0x1011),
    ]);
    (ids.midr, ids.ctr) = (0x414f_d0c1, 0x8444_c004);
    ids
}

/// In the manner of QEMU's max: every feature that Merus hides is there.
fn max() -> HostIds {
    host(&[
        (PFR0, 0x1201_1111_2111_1112),
        (PFR1, 0x0000_0000_0200_0321),
        ((4, 4), 0x0110_1101_0021_0021),
        ((4, 5), 0x80f0_15f3_0000_0000),
        (DFR0, 0x0000_0011_1030_560a),
        (ISAR0, 0x1221_1111_1021_2120),
        (ISAR1, 0x0011_1111_0121_1052),
        (ISAR2, 0x0000_0000_0011_0000),
        (MMFR0, 0x2200_0032_1020_0126 | 1 << 28),
        (MMFR1, 0x0110_0210_1131_2123),
        (MMFR2, 0x1221_1011_1211_1111),
        ((7, 3), 0x11),
    ])
}

#[test]
fn cortex_a53_and_a72_show_their_base_architecture() {
    let a53 = CpuModel::new(&cortex_a53(), 40, true);
    assert_eq!(shown(&a53, PFR0), 0x0100_0012, "EL2 and EL3 absent, EL1 64-bit only, EL0 as it is");
    assert_eq!(shown(&a53, DFR0), 0x1030_5006, "PMU hidden, breakpoints shown");
    assert_eq!(shown(&a53, ISAR0), 0x0001_1120);
    assert_eq!(shown(&a53, MMFR0), 0x0122);
    assert_eq!(shown(&a53, (1, 0)), 0x131);
    assert_eq!(shown(&a53, (1, 1)), 0x1001_0001, "no Security, no Virtualization");
    assert_eq!(shown(&a53, (1, 2)), 0x6, "no PMU, no trace");
    assert_eq!(shown(&a53, (1, 4)), 0x1010_1105);
    assert_eq!((shown(&a53, (2, 5)), shown(&a53, (3, 0))), (0x0001_1121, 0x1011_0222));
    assert_eq!((a53.midr(), a53.id_register(0, 0)), (0x410f_d034, 0x410f_d034));
    assert_eq!((a53.ctr(), a53.clidr(), a53.pa_bits()), (0x8444_8004, 0x0a20_0023, 40));
    assert!(a53.has(Feature::Aarch32El0) && !a53.has(Feature::Pan) && !a53.has(Feature::Pauth));

    let a72 = CpuModel::new(&cortex_a72(), 40, true);
    assert_eq!(shown(&a72, MMFR0), 0x0122, "44 bits cut to the VM's 40");
    assert_eq!(CpuModel::new(&cortex_a72(), 48, true).pa_bits(), 44, "and never more than the host has");
}

#[test]
fn neoverse_n1_loses_ras_spe_pmu_and_its_el2_features() {
    let n1 = CpuModel::new(&neoverse_n1(), 40, true);
    let v2 = CpuModel::new(&neoverse_n1(), 40, false);
    assert_eq!(n1.id_register(4, 0) & !v2.id_register(4, 0), 1 << 24, "without the system registers of a GICv3");
    assert_eq!(n1.id_register(1, 1) & !v2.id_register(1, 1), 1 << 28);
    assert_eq!(shown(&n1, PFR0), 0x1100_0000_0111_0012);
    assert_eq!(shown(&n1, PFR1), 0x20);
    assert_eq!(shown(&n1, DFR0), 0x1030_5008);
    assert_eq!(shown(&n1, ISAR0), 0x1000_1021_1120);
    assert_eq!(shown(&n1, ISAR1), 0x0010_0001);
    assert_eq!(shown(&n1, MMFR0), 0x0010_0122);
    assert_eq!(shown(&n1, MMFR1), 0x0020_2002);
    assert_eq!(shown(&n1, MMFR2), 0x0011);
    assert!(n1.has(Feature::Ssbs) && n1.has(Feature::Uao) && n1.has(Feature::Pan) && !n1.has(Feature::Bti));
}

#[test]
fn max_is_cut_to_what_guests_may_use() {
    let m = CpuModel::new(&max(), 40, true);
    assert_eq!(shown(&m, PFR0), 0x1201_0000_0111_0012);
    assert_eq!(shown(&m, PFR1), 0x0000_0000_0000_0021);
    assert_eq!(shown(&m, DFR0), 0x1030_5008, "DebugVer cut to Armv8.2's, PMU and SPE hidden");
    assert_eq!(shown(&m, ISAR0), 0x1221_1111_1021_2120, "instructions only: all kept (RNDR, TLB range)");
    assert_eq!(shown(&m, ISAR1), 0x0011_1111_0121_1052, "PAuth with FPACCOMBINE kept");
    assert_eq!(shown(&m, ISAR2), 0x0010_0000, "MOPS hidden, BC kept");
    assert_eq!(shown(&m, MMFR0), 0x1000_0000_0010_0122, "ECV 1, no FGT, no 52-bit granules, 40 bits");
    assert_eq!(shown(&m, MMFR1), 0x0000_0010_0130_2002, "HAFDBS 2, PAN 3, ETS, SpecSEI kept");
    assert_eq!(shown(&m, MMFR2), 0x1001_0011_1011_0111, "no EVT, BBM, FWB, NV, IESB");
    for (crm, op2) in [(4, 4), (4, 5), (7, 3)] {
        assert_eq!(m.id_register(crm, op2), 0);
    }
    for feature in [Feature::Pan, Feature::Uao, Feature::Dit, Feature::Ssbs, Feature::Bti, Feature::Pauth] {
        assert!(m.has(feature), "{feature:?}");
    }
    assert!(m.has(Feature::Scxtnum) && m.has(Feature::Ecv));
}

/// The features that Merus neither switches nor emulates, by register and the low bit of their field.
#[test]
fn on_a_host_of_all_ones_every_hidden_feature_is_absent() {
    let model = CpuModel::new(&all_ones(), 48, true);
    let hidden: &[((u8, u8), &[u32])] = &[
        // EL2, EL3, RAS, SVE, SEL2, MPAM, AMU, RME.
        (PFR0, &[8, 12, 28, 32, 36, 40, 44, 52]),
        // MTE, RAS_frac, MPAM_frac, SME, RNDR_trap, NMI, MTE_frac, GCS, THE, MTEX, DF2, PFAR.
        (PFR1, &[8, 12, 16, 24, 28, 36, 40, 44, 48, 52, 56, 60]),
        // TraceVer, PMUVer, PMSS, SEBEP, PMSVer, TraceFilt, TraceBuffer, MTPMU, BRBE, ExtTrcBuff, HPMN0.
        (DFR0, &[4, 8, 16, 24, 32, 40, 44, 48, 52, 56, 60]),
        // TME.
        (ISAR0, &[0, 24]),
        // XS, LS64.
        (ISAR1, &[56, 60]),
        // WFxT, MOPS, SYSREG_128, SYSINSTR_128, ATS1A.
        (ISAR2, &[0, 16, 32, 36, 60]),
        // SNSMem, TGran16_2, TGran64_2, TGran4_2, NVTGE, FGT.
        (MMFR0, &[12, 32, 36, 40, 48, 52, 56]),
        // VMIDBits, VH, LO, XNX, TWED, HCX, TIDCP1, CMOW.
        (MMFR1, &[4, 8, 16, 28, 32, 40, 52, 56]),
        // IESB, NV, FWB, BBM, EVT.
        (MMFR2, &[12, 24, 40, 44, 52, 56]),
        // AMU and RAS of AArch32.
        ((1, 0), &[20, 28]),
        // Security, Virtualization and their fractions.
        ((1, 1), &[4, 12, 20, 24]),
        // Everything but the debug architecture.
        ((1, 2), &[4, 8, 12, 16, 20, 24, 28]),
        // XNX, EVT.
        ((2, 6), &[8, 28]),
        // RAS_frac.
        ((3, 4), &[8]),
    ];
    for &(register, fields) in hidden {
        for &low in fields {
            assert_eq!(shown(&model, register) >> low & 0xf, 0, "{register:?} bit {low}");
        }
    }
    // Signed fields: all ones is "absent", and stays so.
    for (register, low) in [(PFR0, 16), (PFR0, 20), (DFR0, 36), (MMFR0, 24), (MMFR0, 28)] {
        assert_eq!(shown(&model, register) >> low & 0xf, 0xf, "{register:?} bit {low}");
    }
    // Registers that are not in the table at all: ZFR0, SMFR0, FPFR0, DFR1, DFR2, AFR0, AFR1, ISAR3, MMFR3, MMFR4 and the
    // unallocated ones.
    let named = [0o10, 0o11, 0o12, 0o14, 0o15, 0o16, 0o17, 0o20, 0o21, 0o22, 0o23, 0o24, 0o25, 0o26, 0o27, 0o30, 0o31]
        .into_iter()
        .chain([0o32, 0o34, 0o36, 0o40, 0o41, 0o50, 0o60, 0o61, 0o62, 0o70, 0o71, 0o72])
        .collect::<Vec<usize>>();
    for index in 8..64 {
        let value = model.id_register((index >> 3) as u8, (index & 7) as u8);
        assert_eq!(value != 0, named.contains(&index), "index {index:o}: {value:#x}");
    }
    assert_eq!(model.ctr() >> 32, 0, "TminLine");
    assert_eq!(model.clidr() >> 33, 0, "Ttype");
}

#[test]
fn on_a_host_of_all_ones_no_field_exceeds_what_merus_knows() {
    let model = CpuModel::new(&all_ones(), 48, true);
    for (register, low, most) in [
        (PFR0, 0, 2),
        (PFR0, 48, 1),
        (PFR0, 56, 2),
        (DFR0, 0, 8),
        (ISAR1, 4, 5),
        (ISAR1, 8, 5),
        (ISAR2, 12, 5),
        (MMFR0, 0, 5),
        (MMFR0, 20, 1),
        (MMFR0, 60, 1),
        (MMFR1, 0, 2),
        (MMFR1, 20, 3),
    ] {
        assert_eq!(shown(&model, register) >> low & 0xf, most, "{register:?} bit {low}");
    }
    assert_eq!(shown(&model, PFR0) >> 24 & 0xf, 1, "GIC");
    assert_eq!(shown(&model, PFR0) >> 4 & 0xf, 1, "EL1");
}

#[test]
fn a_host_of_zeros_shows_nothing_but_what_merus_gives() {
    let model = CpuModel::new(&HostIds::default(), 40, true);
    assert_eq!(shown(&model, PFR0), 1 << 24 | 1 << 4);
    for index in 8..64u8 {
        if index != 0o40 {
            assert_eq!(model.id_register(index >> 3, index & 7), 0, "index {index:o}");
        }
    }
}

#[test]
fn without_aarch32_at_el0_its_registers_are_zero() {
    let mut ids = cortex_a53();
    ids.set(4, 0, 0x0100_2221);
    let model = CpuModel::new(&ids, 40, true);
    for crm in 1..4 {
        for op2 in 0..8 {
            assert_eq!(model.id_register(crm, op2), 0, "CRm {crm} op2 {op2}");
        }
    }
    assert!(!model.has(Feature::Aarch32El0));
}

#[test]
fn the_pa_range_is_the_largest_that_promises_no_more() {
    let mut ids = max();
    ids.set(7, 0, 7);
    for (bits, range, told) in [
        (30, 0, 32),
        (32, 0, 32),
        (35, 0, 32),
        (36, 1, 36),
        (40, 2, 40),
        (41, 2, 40),
        (44, 4, 44),
        (48, 5, 48),
        (56, 5, 48),
    ] {
        let model = CpuModel::new(&ids, bits, true);
        assert_eq!((shown(&model, MMFR0) & 0xf, model.pa_bits()), (range, told), "{bits} bits");
    }
}

#[test]
fn unlike_cores_are_merged_by_each_fields_rule() {
    let cases = [
        ("unsigned lower", ISAR0, 20, 2, 0, 0),
        ("unsigned lower", MMFR0, 0, 5, 2, 2),
        ("signed: 0 is more than absent", MMFR0, 24, 0, 0xf, 0xf),
        ("signed: 1 is more than 0", PFR0, 16, 1, 0, 0),
        ("signed: half precision and none", PFR0, 20, 1, 0xf, 0xf),
        ("exact and equal", ISAR1, 4, 5, 5, 5),
        ("exact and unlike", ISAR1, 4, 5, 1, 0),
        ("exact, in the other register", ISAR2, 12, 3, 4, 0),
        ("higher: SpecSEI", MMFR1, 24, 0, 1, 1),
        ("not in the table: lower", (7, 3), 0, 1, 0, 0),
        ("double lock", DFR0, 36, 0, 0xf, 0xf),
    ];
    for (why, register, low, a, b, merged) in cases.into_iter().step_by(if cfg!(miri) { 4 } else { 1 }) {
        for (first, second) in [(a, b), (b, a)] {
            let mut ids = host(&[(register, first << low)]);
            ids.merge(&host(&[(register, second << low)]));
            assert_eq!(ids.get(register.0, register.1), merged << low, "{why}: {first} and {second}");
        }
    }
    // What describes an AArch32 EL1 comes from the first.
    let mut ids = host(&[((1, 4), 0x1010_1105)]);
    ids.merge(&host(&[((1, 4), 0x1020_1105)]));
    assert_eq!(ids.get(1, 4), 0x1010_1105);
}

#[test]
fn merging_a_core_with_itself_changes_nothing_and_order_does_not_matter() {
    let cores = [cortex_a53(), cortex_a72(), neoverse_n1(), max()];
    // Two are enough for Miri.
    let cores = if cfg!(miri) { &cores[2..] } else { &cores[..] };
    for core in cores {
        let mut twice = core.clone();
        twice.merge(core);
        assert_eq!(&twice, core);
    }
    for a in cores {
        for b in cores {
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(b);
            ba.merge(a);
            for index in (8..64).filter(|i| !(0o14..=0o17).contains(i) && ![0o11, 0o72].contains(i)) {
                assert_eq!(ab.id[index], ba.id[index], "index {index:o}");
            }
            assert_eq!(ab.ctr, ba.ctr);
            assert_eq!((ab.midr, ab.revidr), (a.midr, a.revidr), "the first core's");
        }
    }
}

#[test]
fn a_merged_model_promises_no_core_more_than_it_has() {
    let mut both = max();
    both.merge(&cortex_a53());
    let model = CpuModel::new(&both, 40, true);
    let a53 = CpuModel::new(&cortex_a53(), 40, true);
    for register in [ISAR0, ISAR1, ISAR2, PFR1] {
        assert_eq!(shown(&model, register), shown(&a53, register), "{register:?}");
    }
    assert_eq!(shown(&model, MMFR1), 1 << 24, "SpecSEI is a warning, not a promise");
    assert_eq!(shown(&model, MMFR2), 1 << 20, "CCIDX is the format of the first core's CCSIDR_EL1");
    assert!(!model.has(Feature::Pauth) && !model.has(Feature::Scxtnum));
}

#[test]
fn ctr_takes_the_smallest_lines_and_the_largest_granules() {
    let ctr = |dic: u64, idc: u64, cwg: u64, erg: u64, dmin: u64, l1ip: u64, imin: u64| {
        1 << 31 | dic << 29 | idc << 28 | cwg << 24 | erg << 20 | dmin << 16 | l1ip << 14 | imin
    };
    let merged = |a, b| {
        let (mut x, mut y) = (HostIds { ctr: a, ..HostIds::default() }, HostIds { ctr: b, ..HostIds::default() });
        let (first, second) = (x.clone(), y.clone());
        x.merge(&second);
        y.merge(&first);
        assert_eq!(x.ctr, y.ctr, "in either order");
        x.ctr
    };
    let a = ctr(1, 1, 4, 4, 4, 3, 4);
    assert_eq!(merged(a, a), a);
    assert_eq!(merged(a, ctr(0, 1, 5, 3, 3, 3, 5)), ctr(0, 1, 5, 4, 3, 3, 4));
    assert_eq!(merged(a, ctr(1, 0, 4, 4, 4, 2, 4)), ctr(1, 0, 4, 4, 4, 2, 4), "PIPT and VIPT: VIPT");
    assert_eq!(merged(a, ctr(1, 1, 0, 0, 4, 3, 4)), ctr(1, 1, 0, 0, 4, 3, 4), "an unknown granule stays unknown");
}

#[test]
fn clidr_keeps_the_farthest_points_and_the_first_cores_caches() {
    let clidr = |louu: u64, loc: u64, louis: u64, types: u64| louu << 27 | loc << 24 | louis << 21 | types;
    let mut ids = HostIds { clidr: clidr(1, 2, 1, 0o43), ..HostIds::default() };
    ids.merge(&HostIds { clidr: clidr(0, 3, 2, 0o443), ..HostIds::default() });
    assert_eq!(ids.clidr, clidr(1, 3, 2, 0o43));
}

#[test]
fn cache_sizes_follow_csselr() {
    let mut ids = cortex_a53();
    for (index, size) in ids.ccsidr.iter_mut().enumerate() {
        *size = 0x7000 + index as u64;
    }
    ids.ccsidr2 = [9; 16];
    let model = CpuModel::new(&ids, 40, true);
    for csselr in 0..14 {
        assert_eq!((model.ccsidr(csselr), model.ccsidr2(csselr)), (0x7000 + csselr, 9));
    }
    for csselr in [14, 15, 16, 31] {
        assert_eq!((model.ccsidr(csselr), model.ccsidr2(csselr)), (0, 0), "no such cache: {csselr}");
    }
}

#[test]
fn a_core_with_another_zeroing_block_is_refused() {
    let (a, mut b) = (cortex_a53(), cortex_a72());
    assert_eq!(a.check_alike(&b), Ok(()));
    b.dczid = 5;
    assert_eq!(a.check_alike(&b), Err(Unlike::ZeroBlock { merged: 4, refused: 5 }));
}

#[test]
fn a_core_that_is_told_another_counter_frequency_is_refused() {
    let (mut a, mut b) = (cortex_a53(), cortex_a72());
    (a.cntfrq, b.cntfrq) = (54_000_000, 54_000_000);
    assert_eq!(a.check_alike(&b), Ok(()));
    // Another frequency, and none: the firmware set the register on the first CPU only.
    for refused in [62_500_000, 0] {
        b.cntfrq = refused;
        let unlike = a.check_alike(&b).unwrap_err();
        assert_eq!(unlike, Unlike::Counter { merged: 54_000_000, refused });
        assert_eq!(alloc::format!("{unlike}"), alloc::format!("its CNTFRQ_EL0 is {refused} Hz, theirs 54000000 Hz"));
    }
    // Merging changes nothing about what the next one is held against.
    b.cntfrq = 54_000_000;
    a.merge(&b);
    b.cntfrq = 1;
    assert!(a.check_alike(&b).is_err());
}

#[test]
fn reads_outside_the_id_space_wrap_into_it_and_never_panic() {
    let model = CpuModel::new(&max(), 40, true);
    for crm in (0..=255).step_by(if cfg!(miri) { 19 } else { 1 }) {
        for op2 in 0..=255 {
            assert_eq!(model.id_register(crm, op2), model.id_register(crm & 7, op2 & 7));
        }
    }
}

#[test]
fn no_register_names_a_field_twice() {
    for index in 0..64 {
        let mut seen = 0u16;
        for f in table::fields(index) {
            assert!(f.nibble < 16 && seen & 1 << f.nibble == 0, "index {index:o}, field {}", f.nibble);
            seen |= 1 << f.nibble;
        }
    }
}
