//! Exception entry, against a second reading of the manual's rules on named PSTATE fields.

use std::vec::Vec;

use addr::Va;
use proptest::prelude::*;

use crate::*;

/// Saved EL1 registers, by number.
#[derive(Clone, Default, PartialEq, Debug)]
struct Registers([u64; 6]);

impl El1State for Registers {
    fn read(&self, reg: El1Reg) -> u64 {
        self.0[reg as usize]
    }
    fn write(&mut self, reg: El1Reg, value: u64) {
        self.0[reg as usize] = value;
    }
}

fn registers(sctlr: u64, vbar: u64) -> Registers {
    let mut registers = Registers::default();
    registers.write(El1Reg::Sctlr, sctlr);
    registers.write(El1Reg::Vbar, vbar);
    registers.write(El1Reg::Far, 0xfa5);
    registers
}

/// PSTATE with a field for each name that the pseudocode uses.
#[derive(Clone, Copy, Default)]
struct Pstate {
    n: bool,
    z: bool,
    c: bool,
    v: bool,
    d: bool,
    a: bool,
    i: bool,
    f: bool,
    pan: bool,
    uao: bool,
    dit: bool,
    tco: bool,
    btype: u64,
    ssbs: bool,
    allint: bool,
    ss: bool,
    il: bool,
    el: u64,
    nrw: bool,
    sp: bool,
}

impl Pstate {
    /// From an SPSR_EL2 value; what only AArch32 has is dropped, as entry to AArch64 loses it.
    fn parse(spsr: u64) -> Self {
        let bit = |n: u32| spsr >> n & 1 == 1;
        let nrw = bit(4);
        let common = Self {
            n: bit(31),
            z: bit(30),
            c: bit(29),
            v: bit(28),
            dit: bit(24),
            pan: bit(22),
            ss: bit(21),
            il: bit(20),
            nrw,
            ..Self::default()
        };
        if nrw {
            Self { ssbs: bit(23), el: if spsr & 0xf == 0 { 0 } else { 1 }, ..common }
        } else {
            let (tco, uao, allint, ssbs, btype) = (bit(25), bit(23), bit(13), bit(12), spsr >> 10 & 3);
            Self { tco, uao, allint, ssbs, btype, el: spsr >> 2 & 3, sp: bit(0), ..common }
        }
    }

    /// As SPSR would hold it; only AArch64 is needed.
    fn pack(self) -> u64 {
        assert!(!self.nrw);
        let bits = [
            (31, self.n),
            (30, self.z),
            (29, self.c),
            (28, self.v),
            (25, self.tco),
            (24, self.dit),
            (23, self.uao),
            (22, self.pan),
            (21, self.ss),
            (20, self.il),
            (13, self.allint),
            (12, self.ssbs),
            (9, self.d),
            (8, self.a),
            (7, self.i),
            (6, self.f),
            (0, self.sp),
        ];
        bits.iter().map(|&(n, set)| u64::from(set) << n).sum::<u64>() | self.btype << 10 | self.el << 2
    }
}

/// The rules of AArch64.TakeException for target EL1, in the manual's order, as (frame, registers).
fn by_the_manual(
    before: &GuestFrame,
    mut el1: Registers,
    has: &PstateFeatures,
    what: Injection,
) -> (GuestFrame, Registers) {
    let mut after = before.clone();
    let mut p = Pstate::parse(before.pstate);
    let sctlr = el1.read(El1Reg::Sctlr);
    let from_lower = p.el == 0;
    // Vector: 0x600 from AArch32 below, 0x400 from AArch64 below, 0x200 with SP_ELx; SError is the fourth of each four.
    let mut offset = match (from_lower, p.nrw, p.sp) {
        (true, true, _) => 0x600,
        (true, false, _) => 0x400,
        (false, _, true) => 0x200,
        (false, _, false) => 0,
    };
    // Syndrome: class, IL (always one for these), and the class' own bits.
    let (class, iss) = match what {
        Injection::Undefined => (0, 0),
        Injection::ExternalAbort { instruction, write, maintenance, va, on_walk } => {
            let status = on_walk.map_or(0b01_0000, |level| 0b01_0100 + u64::from(level));
            let fnv = u64::from(va.is_none() && on_walk.is_none()) << 10;
            let cm = u64::from(maintenance && !instruction) << 8;
            let wnr = u64::from((write || maintenance) && !instruction) << 6;
            if let Some(va) = va {
                el1.write(El1Reg::Far, va.as_u64());
            }
            (if instruction { 0x20 } else { 0x24 } + u64::from(!from_lower), fnv | cm | wnr | status)
        }
        Injection::SError { iss } => {
            offset += 0x180;
            (0x2f, u64::from(iss) & 0x01ff_ffff)
        }
        Injection::SoftwareStep => (0x32 + u64::from(!from_lower), 1 << 24 | 0b10_0010),
    };
    el1.write(El1Reg::Esr, class << 26 | 1 << 25 | iss);
    el1.write(El1Reg::Spsr, before.pstate);
    el1.write(El1Reg::Elr, before.pc);

    (p.el, p.nrw, p.sp) = (1, false, true);
    p.ss = false;
    p.allint = has.nmi && sctlr >> 62 & 1 == 0;
    (p.d, p.a, p.i, p.f) = (true, true, true, true);
    p.il = false;
    p.pan = has.pan && (p.pan || sctlr >> 23 & 1 == 0);
    p.uao = false;
    p.btype = 0;
    p.ssbs = has.ssbs && sctlr >> 44 & 1 == 1;
    p.tco = has.tco;
    p.dit = has.dit && p.dit;

    after.pstate = p.pack();
    after.pc = (el1.read(El1Reg::Vbar) >> 11 << 11) + offset;
    (after, el1)
}

fn injections() -> Vec<Injection> {
    let mut all = std::vec![
        Injection::Undefined,
        Injection::SoftwareStep,
        Injection::SError { iss: 0 },
        Injection::SError { iss: 0x01ff_ffff },
    ];
    for instruction in [false, true] {
        for write in [false, true] {
            for va in [None, Some(Va::new(0xffff_0000_dead_beef))] {
                for on_walk in [None, Some(0), Some(1), Some(2), Some(3)] {
                    for maintenance in [false, true] {
                        all.push(Injection::ExternalAbort { instruction, write, maintenance, va, on_walk });
                    }
                }
            }
        }
    }
    all
}

fn all_features() -> impl Iterator<Item = PstateFeatures> {
    (0..64u32).map(|n| {
        let [pan, uao, dit, ssbs, tco, nmi] = [1, 2, 4, 8, 16, 32].map(|bit| n & bit != 0);
        PstateFeatures { pan, uao, dit, ssbs, tco, nmi }
    })
}

/// EL0t, EL1t, EL1h, and AArch32 User, as `M[4:0]`.
const MODES: [u64; 4] = [0b00000, 0b00100, 0b00101, 0b10000];

#[test]
fn entry_agrees_with_the_manual_for_every_origin_feature_and_control_bit() {
    for mode in MODES {
        for rest in [0, 0xffff_ffe0] {
            for controls in 0..8u64 {
                let sctlr = (controls & 1) << 23 | (controls >> 1 & 1) << 44 | (controls >> 2) << 62;
                for features in all_features().step_by(if cfg!(miri) { 83 } else { 1 }) {
                    for what in injections().into_iter().step_by(if cfg!(miri) { 17 } else { 1 }) {
                        let before = GuestFrame { pc: 0x40_1234, pstate: mode | rest, ..GuestFrame::default() };
                        let el1 = registers(sctlr, 0xffff_8000_0801_0800);
                        let want = by_the_manual(&before, el1.clone(), &features, what);
                        let (mut frame, mut el1) = (before, el1);
                        inject(&mut frame, &mut el1, &features, what);
                        assert_eq!((frame, el1), want, "{mode:#b} {rest:#x} {features:?} {what:?}");
                    }
                }
            }
        }
    }
}

/// A few whole values written out, so that both readings cannot be wrong in the same way.
#[test]
fn known_entries() {
    let none = PstateFeatures::default();
    let modern = PstateFeatures { pan: true, uao: true, dit: true, ssbs: true, ..none };
    let abort =
        |va| Injection::ExternalAbort { instruction: false, write: false, maintenance: false, va, on_walk: None };
    let translation =
        |va| Injection::ExternalAbort { instruction: false, write: true, maintenance: true, va, on_walk: Some(2) };
    let at = Some(Va::new(0x1000));
    // from, features, SCTLR, what; vector, PSTATE, ESR
    for (from, features, sctlr, what, vector, pstate, esr) in [
        // A kernel's load from nothing: current EL with SPx, data abort of the same level.
        (0x6000_0005, none, 0, abort(at), 0x200, 0x6000_03c5, 0x9600_0010),
        // Its AT by a table in nothing: CM and WnR.
        (0x6000_0005, none, 0, translation(at), 0x200, 0x6000_03c5, 0x9600_0156),
        // A 64-bit program's: lower EL, AArch64.
        (0x8000_0000, none, 0, abort(at), 0x400, 0x8000_03c5, 0x9200_0010),
        // A 32-bit program's, in an IT block (T, IT, GE, Q set): only the flags stay.
        (0xfe0f_fe30, none, 0, abort(at), 0x600, 0xf000_03c5, 0x9200_0010),
        // PAN is set on entry unless SCTLR_EL1.SPAN; SSBS comes from DSSBS; DIT stays.
        (0x0100_0005, modern, 0, Injection::Undefined, 0x200, 0x0140_03c5, 0x0200_0000),
        (0x0100_1005, modern, 1 << 23 | 1 << 44, Injection::Undefined, 0x200, 0x0100_13c5, 0x0200_0000),
        (0x0040_0004, modern, 1 << 23, Injection::Undefined, 0x000, 0x0040_03c5, 0x0200_0000),
        // A step of EL0, SS and BTYPE gone.
        (0x0020_0c00, none, 0, Injection::SoftwareStep, 0x400, 0x0000_03c5, 0xcb00_0022),
        // The kernel's own SError.
        (0x0000_0005, none, 0, Injection::SError { iss: 0x11 }, 0x380, 0x0000_03c5, 0xbe00_0011),
    ] {
        let mut frame = GuestFrame { pc: 0x8888, pstate: from, ..GuestFrame::default() };
        let mut el1 = registers(sctlr, 0x7_0000);
        inject(&mut frame, &mut el1, &features, what);
        assert_eq!((frame.pc, frame.pstate), (0x7_0000 + vector, pstate), "from {from:#x}: {what:?}");
        assert_eq!(el1.read(El1Reg::Esr), esr, "from {from:#x}: {what:?}");
        assert_eq!((el1.read(El1Reg::Elr), el1.read(El1Reg::Spsr)), (0x8888, from));
    }
}

#[test]
fn far_is_written_only_where_the_address_is_known() {
    let far_after = |what| {
        let (mut frame, mut el1) = (GuestFrame::default(), registers(0, 0));
        inject(&mut frame, &mut el1, &PstateFeatures::default(), what);
        el1.read(El1Reg::Far)
    };
    let abort =
        |va, on_walk| Injection::ExternalAbort { instruction: true, write: false, maintenance: false, va, on_walk };
    assert_eq!(far_after(abort(Some(Va::new(7)), None)), 7);
    assert_eq!(far_after(abort(Some(Va::new(7)), Some(1))), 7);
    for what in [abort(None, None), Injection::Undefined, Injection::SError { iss: 0 }, Injection::SoftwareStep] {
        assert_eq!(far_after(what), 0xfa5, "{what:?}");
    }
}

proptest! {
    #[test]
    fn entry_agrees_with_the_manual_for_any_state(
        x: [u64; 31], pc: u64, state in 0..1u64 << 32, mode in 0..4usize, sctlr: u64, vbar: u64,
        feature in 0..64usize, what in 0..84usize,
    ) {
        let features = all_features().nth(feature).unwrap();
        let what = injections()[what];
        let before = GuestFrame { x, pc, pstate: state & !0x1f | MODES[mode] };
        let el1 = registers(sctlr, vbar);
        let want = by_the_manual(&before, el1.clone(), &features, what);
        let (mut frame, mut el1) = (before, el1);
        inject(&mut frame, &mut el1, &features, what);
        prop_assert_eq!((frame, el1), want);
    }

    #[test]
    fn injecting_never_panics_even_from_states_that_cannot_be(
        pc: u64, pstate: u64, sctlr: u64, vbar: u64, iss: u32, level: u8,
    ) {
        let on_walk = Some(level);
        let abort = Injection::ExternalAbort { instruction: false, write: true, maintenance: false, va: None, on_walk };
        for what in [Injection::SError { iss }, abort] {
            let mut frame = GuestFrame { pc, pstate, ..GuestFrame::default() };
            let mut el1 = registers(sctlr, vbar);
            inject(&mut frame, &mut el1, &PstateFeatures::default(), what);
            prop_assert_eq!(frame.pstate & 0x1f, pstate::EL1H);
            prop_assert_eq!(frame.pc & 0x7f, 0);
        }
    }
}
