//! Aborts that have to ask the guest's own stage 1: what level, and where.

use super::machine::*;
use crate::{Next, Probe, Stage1};
use addr::Va;
use trap::{RawExit, pstate};

/// A level 1 root in RAM (39 bits of address, 4 KiB pages), whose entry for [`VA`]'s own low bits names `table`.
fn map(m: &mut TestMachine, table: u64) {
    let root = FakeRam::SPAN.start + 0x1000;
    m.ram.put(root, (table | 3).to_le_bytes());
    m.cpus[0].hw.stage1 = Stage1 { sctlr: 1, tcr: 25 << 16 | 2 << 30 | 1 << 7, ttbr0: 0, ttbr1: root };
}

/// An abort on the walk for an address of the upper half, in a page where nothing is, that stage 2 found at its level 1.
fn on_walk(page: u64) -> Abort {
    Abort::load(page).bit(7).clear(24).status(0b101)
}

fn give(m: &mut TestMachine, mut raw: RawExit) -> (u64, u64) {
    raw.far |= u64::MAX << 39;
    let before = m.cpus[0].vcpu.frame.clone();
    assert_eq!(m.exit(0, raw), Next::Resume);
    let (esr, far, vector) = m.taken(0, &before);
    assert_eq!((far, vector), (raw.far, 0x200));
    (esr & 0x01ff_ffff, esr >> 26)
}

#[test]
fn the_level_of_an_abort_on_a_walk_is_that_of_the_guests_own_walk() {
    const NOTHING: u64 = 0x7_0000_0000;
    let mut m = TestMachine::new(1);
    map(&mut m, NOTHING);
    assert_eq!(give(&mut m, on_walk(NOTHING).raw()), (0x16, 0x25));
    assert_eq!(give(&mut m, on_walk(NOTHING).bit(6).raw()), (0x56, 0x25), "a store");
    assert_eq!(give(&mut m, on_walk(NOTHING).bit(6).bit(8).raw()), (0x156, 0x25), "AT");
    let mut fetch = on_walk(NOTHING).raw();
    fetch.esr ^= 0x4 << 26;
    assert_eq!(give(&mut m, fetch), (0x16, 0x21), "a fetch");
    let table = FakeRam::SPAN.start + 0x5000;
    map(&mut m, table);
    m.ram.put(table, (NOTHING | 3).to_le_bytes());
    assert_eq!(give(&mut m, on_walk(NOTHING).raw()), (0x17, 0x25));
    m.ram.accesses();
    // The tables lead elsewhere meanwhile: as far as they do.
    m.ram.fail(Some(1));
    assert_eq!(give(&mut m, on_walk(NOTHING).raw()), (0x16, 0x25));
    m.ram.accesses();
    m.ram.fail(Some(0));
    assert_eq!(give(&mut m, on_walk(NOTHING).raw()), (0x15, 0x25));
    // The root itself is not there.
    m.cpus[0].hw.stage1.ttbr1 = NOTHING;
    assert_eq!(give(&mut m, on_walk(NOTHING).status(0b111).raw()), (0x15, 0x25));
    // No walk by these registers, or no word of where it was: stage 2's level.
    assert_eq!(give(&mut m, on_walk(NOTHING).status(0x17).raw()), (0x17, 0x25), "HPFAR_EL2 is not valid");
    m.cpus[0].hw.stage1.sctlr = 0;
    assert_eq!(give(&mut m, on_walk(NOTHING).raw()), (0x15, 0x25));
    assert!(m.cpus[0].hw.translated.is_empty());
}

#[test]
fn the_place_of_a_permission_fault_is_asked_of_stage_1() {
    const REFUSED: u64 = 0b1111;
    let fetch = |mut abort: Abort| {
        abort.esr = (abort.esr ^ 0x4 << 26) & !0x01ff_ffc0;
        abort
    };
    let (load, store) = (Abort::load(UART).status(REFUSED), Abort::store(UART).status(REFUSED));
    for (mode, abort, probe) in [
        (pstate::EL1H, load, Probe::PrivilegedRead),
        (pstate::EL1T, store, Probe::PrivilegedWrite),
        (0, load, Probe::UnprivilegedRead),
        (0, store, Probe::UnprivilegedWrite),
        (pstate::AARCH32, store, Probe::UnprivilegedWrite),
        (pstate::EL1H, fetch(load), Probe::PrivilegedRead),
        (0, fetch(load), Probe::PrivilegedRead),
    ] {
        let mut m = TestMachine::new(1);
        m.cpus[0].vcpu.frame.pstate = mode;
        // The guest has changed its tables: it faults again, or not.
        m.cpus[0].hw.par = 0x80f;
        let before = m.cpus[0].clone();
        assert_eq!(m.exit(0, abort.raw()), Next::Resume);
        let asked = core::mem::take(&mut m.cpus[0].hw.translated);
        assert_eq!(asked, [(Va::new(abort.raw().far), probe)]);
        assert_eq!(m.cpus[0].vcpu.frame, before.vcpu.frame, "the instruction is tried again");
        assert_eq!(m.cpus[0].hw.el1, before.hw.el1, "and nothing is taken");
        // They lead somewhere: nobody emulates a permission, so the guest takes an abort.
        m.cpus[0].hw.par = 0xff00_0000_4005_2b80;
        assert_eq!(m.exit(0, abort.raw()), Next::Resume);
        let (esr, far, _) = m.taken(0, &before.vcpu.frame);
        assert_eq!((esr & 0x3f, far), (0x10, abort.raw().far));
        assert_eq!(m.cpus[0].hw.translated, asked);
    }
}

#[test]
fn nothing_else_asks_stage_1() {
    let mut m = TestMachine::new(1);
    m.cpus[0].hw.par = 1;
    // Faults with an address, on a walk, and those whose address nobody needs.
    for abort in [
        Abort::load(UART),
        Abort::load(UART).clear(24),
        Abort::load(UART).bit(7),
        Abort::load(UART).bit(7).status(0b1111),
        Abort::load(UART).bit(8).status(0b1111),
        Abort::load(UART).status(0x10),
        Abort::load(UART).status(0x10).bit(10),
        Abort::load(UART).status(0x21),
        Abort::load(UART).status(0x30),
    ] {
        assert_eq!(m.exit(0, abort.raw()), Next::Resume);
        assert!(m.cpus[0].hw.translated.is_empty(), "{:#x}", abort.esr);
    }
}
