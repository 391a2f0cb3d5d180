//! Completing an instruction: loads, stores, stepping over, AArch32 conditions.

use super::Syndrome;
use crate::{Condition, Exit, GuestFrame, Il, Mmio, Stepped, decode, pstate};

fn mmio(syndrome: Syndrome) -> Mmio {
    match decode(&syndrome.exit()) {
        Exit::Mmio(mmio) => mmio,
        other => panic!("no MMIO: {other:?}"),
    }
}

/// A frame whose registers all differ and have every byte set.
fn frame() -> GuestFrame {
    let mut frame = GuestFrame { pc: 0x4008_0000, pstate: pstate::EL1H, ..GuestFrame::default() };
    for (n, x) in frame.x.iter_mut().enumerate() {
        *x = 0xaaaa_bbbb_cccc_dd00 | n as u64;
    }
    frame
}

#[test]
fn every_load_extends_as_its_instruction_says() {
    const BUS: u64 = 0x8182_8384_8586_8788;
    const LOW: u64 = 0x0102_0304_0506_0708;
    // name, log2 of the bytes, sign extended, 64-bit register, from the bus, in the register
    let table = [
        ("ldrb w", 0, false, false, BUS, 0x88),
        ("ldrh w", 1, false, false, BUS, 0x8788),
        ("ldr w", 2, false, false, BUS, 0x8586_8788),
        ("ldr x", 3, false, true, BUS, BUS),
        ("ldrsb w, negative", 0, true, false, BUS, 0xffff_ff88),
        ("ldrsb w, positive", 0, true, false, LOW, 0x08),
        ("ldrsb x, negative", 0, true, true, BUS, 0xffff_ffff_ffff_ff88),
        ("ldrsb x, positive", 0, true, true, LOW, 0x08),
        ("ldrsh w, negative", 1, true, false, BUS, 0xffff_8788),
        ("ldrsh w, positive", 1, true, false, LOW, 0x0708),
        ("ldrsh x, negative", 1, true, true, BUS, 0xffff_ffff_ffff_8788),
        ("ldrsh x, positive", 1, true, true, LOW, 0x0708),
        ("ldrsw x, negative", 2, true, true, BUS, 0xffff_ffff_8586_8788),
        ("ldrsw x, positive", 2, true, true, LOW, 0x0506_0708),
        ("ldrsb w, only its sign", 0, true, false, 0x80, 0xffff_ff80),
        ("ldrsb w, the next bit is no sign", 0, true, false, 0x17f, 0x7f),
        // No instruction, but the syndrome has room for them.
        ("ldrb x", 0, false, true, BUS, 0x88),
        ("signed 32 bits to w", 2, true, false, BUS, 0x8586_8788),
        ("signed 64 bits to x", 3, true, true, BUS, BUS),
        ("64 bits to w", 3, false, false, BUS, 0x8586_8788),
    ];
    for (name, sas, sign, sf, bus, want) in table {
        for rt in [0u8, 3, 30] {
            let mut syndrome = Syndrome::load().size(sas).field(16, rt.into());
            syndrome = if sign { syndrome.bit(21) } else { syndrome };
            syndrome = if sf { syndrome.bit(15) } else { syndrome };
            let (mut after, before) = (frame(), frame());
            let mmio = mmio(syndrome);
            assert_eq!((mmio.rt, mmio.write, mmio.sign_extend, mmio.sf), (rt, false, sign, sf), "{name}");
            assert_eq!(mmio.size.bytes(), 1 << sas, "{name}");
            mmio.complete_load(&mut after, bus);
            assert_eq!(after.reg(rt), want, "{name} to register {rt}");
            after.set_reg(rt, before.reg(rt));
            assert_eq!(after, before, "{name}: nothing else changes");
        }
    }
}

#[test]
fn a_load_to_the_zero_register_changes_nothing() {
    for sas in 0..4 {
        let (mut after, before) = (frame(), frame());
        mmio(Syndrome::load().size(sas).field(16, 31)).complete_load(&mut after, u64::MAX);
        assert_eq!(after, before);
    }
}

#[test]
fn stores_give_the_bus_no_more_than_their_width() {
    for (sas, want) in [(0, 0x05), (1, 0xdd05), (2, 0xcccc_dd05), (3, 0xaaaa_bbbb_cccc_dd05)] {
        let store = mmio(Syndrome::store().size(sas).field(16, 5));
        assert!(store.write);
        assert_eq!(store.store_value(&frame()), want);
        assert_eq!(mmio(Syndrome::store().size(sas).field(16, 31)).store_value(&frame()), 0, "XZR");
    }
}

#[test]
fn the_zero_register_reads_zero_and_drops_writes() {
    let (mut after, before) = (frame(), frame());
    for rt in 31..=255 {
        assert_eq!(after.reg(rt), 0);
        after.set_reg(rt, 7);
    }
    assert_eq!(after, before);
    after.set_reg(30, 7);
    assert_eq!((after.reg(30), after.x[30]), (7, 7));
}

#[test]
fn skipping_advances_the_pc_and_clears_ss_and_btype() {
    let mut f = frame();
    assert_eq!(f.skip(Il::Bytes4), Stepped::No);
    assert_eq!((f.pc, f.pstate), (0x4008_0004, pstate::EL1H));

    f.pstate = pstate::EL1H | pstate::SS | pstate::BTYPE | pstate::NZCV | pstate::DAIF | pstate::PAN;
    assert_eq!(f.skip(Il::Bytes4), Stepped::Yes);
    assert_eq!(f.pstate, pstate::EL1H | pstate::NZCV | pstate::DAIF | pstate::PAN);

    f.pc = u64::MAX - 3;
    f.skip(Il::Bytes4);
    assert_eq!(f.pc, 0, "wraps, as the hardware's would");
}

#[test]
fn skipping_in_aarch32_stays_within_32_bits_and_keeps_a64_fields() {
    // Bits 11:10 are IT in AArch32, not BTYPE; with no IT block they are zero anyway.
    let mut f = frame();
    (f.pc, f.pstate) = (0xffff_fffe, pstate::AARCH32 | pstate::T | pstate::SS);
    assert_eq!(f.skip(Il::Bytes2), Stepped::Yes);
    assert_eq!((f.pc, f.pstate), (0, pstate::AARCH32 | pstate::T));
}

/// `IT[7:0]` in its two places.
fn it_bits(it: u64) -> u64 {
    (it >> 2) << 10 | (it & 3) << 25
}

#[test]
fn the_it_state_advances_as_the_manual_tabulates_it() {
    // An IT block of four instructions, condition EQ then else-then-else: 0000 1011 and so on.
    let states = [0b0000_1011, 0b0001_0110, 0b0000_1100, 0b0001_1000, 0b0000_0000];
    let mut f = frame();
    let rest = pstate::AARCH32 | pstate::T | pstate::NZCV | 0xf << 16;
    f.pstate = rest | it_bits(states[0]);
    for (i, state) in states.iter().enumerate() {
        assert_eq!(f.pstate, rest | it_bits(*state), "after {i} instructions");
        f.skip(Il::Bytes2);
    }
    // Every state: the last instruction has IT[2:0] = 0, otherwise IT[4:0] moves up and IT[7:5] stays.
    for it in 0..256u64 {
        f.pstate = rest | it_bits(it);
        f.skip(Il::Bytes4);
        let (base, block) = (it >> 5, it & 31);
        let want = if it % 8 == 0 { 0 } else { (base << 5) | ((block * 2) % 32) };
        assert_eq!(f.pstate, rest | it_bits(want), "from {it:#010b}");
    }
}

#[test]
fn conditions_follow_the_flags() {
    const NAMES: [&str; 16] =
        ["eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al", "al (0b1111)"];
    let mut f = frame();
    for flags in 0..16u64 {
        f.pstate = pstate::AARCH32 | flags << 28;
        let [n, z, c, v] = [8, 4, 2, 1].map(|bit| flags & bit != 0);
        let want =
            [z, !z, c, !c, n, !n, v, !v, c && !z, !c || z, n == v, n != v, !z && n == v, z || n != v, true, true];
        for (code, want) in want.into_iter().enumerate() {
            assert_eq!(f.condition_holds(Condition::Code(code as u8)), want, "{} with {flags:04b}", NAMES[code]);
            let mut in_block = f.clone();
            in_block.pstate |= pstate::T | it_bits((code as u64) << 4 | 0b1000);
            assert_eq!(in_block.condition_holds(Condition::FromIt), want, "IT {} with {flags:04b}", NAMES[code]);
        }
        assert!(f.condition_holds(Condition::FromIt), "no IT block");
    }
    f.pstate = pstate::EL1H;
    assert!(f.condition_holds(Condition::Code(0)), "A64 has no conditional traps");
}
