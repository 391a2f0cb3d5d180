//! Edits: named cases, and random ones against the model and the worst PE.

use super::machine::{Handle, Model, Run, Told, runs_of};
use crate::{Attrs, Geometry, HostLimits, MapError, Memory, Rights, Stage2, Vmids, Walk};
use addr::{Ipa, Pa, Span};
use proptest::prelude::*;
use std::vec::Vec;

const K4: u64 = 0x1000;
const M2: u64 = 0x20_0000;
const G1: u64 = 0x4000_0000;

fn span(start: u64, size: u64) -> Span<Ipa> {
    Span::new(Ipa::new(start), size).unwrap()
}

fn new(ipa_bits: u32) -> (Stage2, Handle, Handle) {
    let host = HostLimits { pa_range_bits: 48, vmid_bits: 8, fwb: ipa_bits.is_multiple_of(2), granule_4k: true };
    let geometry = Geometry::new(ipa_bits, host).unwrap();
    let mut machine = Handle::new(&geometry);
    let stage2 = Stage2::new(geometry, &mut machine).unwrap();
    machine.watch(stage2.root());
    (stage2, machine.clone(), machine)
}

fn told(machine: &Handle) -> Vec<Told> {
    std::mem::take(&mut machine.0.borrow_mut().told)
}

#[test]
fn the_largest_blocks_are_used_where_both_addresses_are_aligned() {
    let (mut s, mut t, mut tlb) = new(40);
    s.map(span(G1 - M2 - K4, G1 + M2 + 2 * K4), Pa::new(3 * G1 - M2 - K4), Attrs::RAM, &mut t, &mut tlb).unwrap();
    let levels: Vec<_> = t.0.borrow().check().iter().map(|l| (l.0, l.1)).collect();
    let expected = [(G1 - M2 - K4, 3), (G1 - M2, 2), (G1, 1), (2 * G1, 3)];
    assert_eq!(levels, expected);
    assert_eq!(told(&t), [Told::Published]);
    let at = |ipa| s.walk(Ipa::new(ipa), &t);
    assert_eq!(at(G1 + 5), Walk::Mapped { pa: Pa::new(3 * G1 + 5), attrs: Attrs::RAM, level: 1 });
    assert_eq!(at(0), Walk::Unmapped { level: 2 });
    assert_eq!(at(2 * G1 + K4), Walk::Unmapped { level: 3 });
    assert_eq!(at(1 << 40), Walk::OutOfRange);
    assert_eq!(at(u64::MAX), Walk::OutOfRange);
    s.destroy(&mut t, &mut tlb);
    assert_eq!(t.0.borrow().pages_in_use(), 0);
}

#[test]
fn a_concatenated_root_is_used_to_its_end() {
    // A root of 16 pages is long for Miri; one of two is concatenated as well.
    let roots = [(40, 2), (48, 1), (36, 1), (43, 16), (34, 16)];
    for (bits, pages) in roots.into_iter().take(if cfg!(miri) { 2 } else { 5 }) {
        let (mut s, mut t, mut tlb) = new(bits);
        assert_eq!(s.geometry().root_pages(), pages);
        assert_eq!(s.root().as_u64() % (pages as u64 * K4), 0);
        let last = (1 << bits) - K4;
        s.map(span(last, K4), Pa::new(0x1000), Attrs::RAM, &mut t, &mut tlb).unwrap();
        assert_eq!(s.walk(Ipa::new(last + 8), &t), Walk::Mapped { pa: Pa::new(0x1008), attrs: Attrs::RAM, level: 3 });
        t.0.borrow().check();
        s.destroy(&mut t, &mut tlb);
        assert_eq!(t.0.borrow().pages_in_use(), 0);
    }
}

#[test]
fn a_split_breaks_before_it_makes() {
    let (mut s, mut t, mut tlb) = new(40);
    s.map(span(0, G1), Pa::new(G1), Attrs::RAM, &mut t, &mut tlb).unwrap();
    told(&t);
    s.unmap(span(M2 + K4, K4), &mut t, &mut tlb).unwrap();
    let splits = [Told::Leaves([(0, 1)].into()), Told::Published, Told::Leaves([(M2, 2)].into()), Told::Published];
    let unmapped = Told::Leaves([(M2 + K4, 3)].into());
    assert_eq!(told(&t), splits.into_iter().chain([unmapped]).collect::<Vec<_>>());
    assert_eq!(t.0.borrow().check().len(), 511 + 511);
}

#[test]
fn few_leaves_are_flushed_one_by_one_and_many_or_a_table_at_once() {
    let (mut s, mut t, mut tlb) = new(40);
    s.map(span(0, 40 * K4), Pa::new(0), Attrs::RAM, &mut t, &mut tlb).unwrap();
    told(&t);
    s.unmap(span(0, 16 * K4), &mut t, &mut tlb).unwrap();
    assert_eq!(told(&t), [Told::Leaves((0..16).map(|i| (i * K4, 3)).collect())]);
    s.unmap(span(16 * K4, 17 * K4), &mut t, &mut tlb).unwrap();
    assert_eq!(told(&t), [Told::Vm]);
    s.unmap(span(0, M2), &mut t, &mut tlb).unwrap();
    assert_eq!(told(&t), [Told::Vm]);
    s.unmap(span(0, M2), &mut t, &mut tlb).unwrap();
    assert_eq!(told(&t), [], "nothing was mapped, so nothing is flushed");
    assert_eq!(t.0.borrow().pages_in_use(), s.geometry().root_pages());
}

#[test]
fn rights_change_in_place_and_only_what_changes_is_flushed() {
    let (mut s, mut t, mut tlb) = new(40);
    s.map(span(0, 2 * M2), Pa::new(M2), Attrs::RAM, &mut t, &mut tlb).unwrap();
    told(&t);
    s.protect(span(0, M2), Rights::READ_EXECUTE, &mut t, &mut tlb).unwrap();
    assert_eq!(told(&t), [Told::Leaves([(0, 2)].into())]);
    s.protect(span(0, M2), Rights::READ_EXECUTE, &mut t, &mut tlb).unwrap();
    assert_eq!(told(&t), []);
    let attrs = Attrs { memory: Memory::Normal, rights: Rights::READ_EXECUTE };
    assert_eq!(s.walk(Ipa::new(7), &t), Walk::Mapped { pa: Pa::new(M2 + 7), attrs, level: 2 });
    s.map(span(G1, M2), Pa::new(0), Attrs::DEVICE, &mut t, &mut tlb).unwrap();
    s.protect(span(G1, M2), Rights::ALL, &mut t, &mut tlb).unwrap();
    let Walk::Mapped { attrs, .. } = s.walk(Ipa::new(G1), &t) else { panic!("unmapped") };
    assert_eq!(attrs, Attrs::DEVICE, "a device never becomes executable");
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let (mut s, mut t, mut tlb) = new(40);
    s.map(span(M2, M2), Pa::new(0), Attrs::RAM, &mut t, &mut tlb).unwrap();
    let before = t.0.borrow().snapshot();
    let mut map = |start, size, pa, attrs| s.map(span(start, size), Pa::new(pa), attrs, &mut t, &mut tlb);
    assert_eq!(map(1, K4, 0, Attrs::RAM), Err(MapError::Unaligned));
    assert_eq!(map(0, K4 + 1, 0, Attrs::RAM), Err(MapError::Unaligned));
    assert_eq!(map(0, K4, 12, Attrs::RAM), Err(MapError::Unaligned));
    assert_eq!(map((1 << 40) - K4, 2 * K4, 0, Attrs::RAM), Err(MapError::OutsideIpa));
    assert_eq!(map(0, K4, 1 << 48, Attrs::RAM), Err(MapError::OutsidePa));
    assert_eq!(map(0, K4, (1 << 48) - K4, Attrs::RAM), Ok(()));
    assert_eq!(map(0, 3 * M2, 0, Attrs::RAM), Err(MapError::Overlap { at: Ipa::new(0) }));
    assert_eq!(map(M2 + K4, K4, 0, Attrs::RAM), Err(MapError::Overlap { at: Ipa::new(M2 + K4) }));
    assert_eq!(map(K4, 2 * M2, 0, Attrs::RAM), Err(MapError::Overlap { at: Ipa::new(M2) }));
    let executable = Attrs { memory: Memory::Device, rights: Rights::ALL };
    assert_eq!(map(3 * M2, K4, 0, executable), Err(MapError::ExecutableDevice));
    assert_eq!(map(u64::MAX - K4 + 1, 0, 0, Attrs::RAM), Err(MapError::OutsideIpa));
    assert_eq!(map(5 * M2, 0, 0, Attrs::RAM), Ok(()));
    s.unmap(span(0, K4), &mut t, &mut tlb).unwrap();
    assert_eq!(t.0.borrow().snapshot(), before);
}

#[test]
fn vttbr_names_the_root_and_the_vmid() {
    let (s, _, _) = new(40);
    let (vmids, mut allocator) = Vmids::new(16, 1).unwrap();
    let vmid = allocator.load(&vmids, 0, &crate::VmidSlot::new(), || ()).unwrap();
    assert_eq!(s.vttbr(vmid), 1 << 48 | s.root().as_u64());
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, u64, Attrs),
    Remap(u64, u64, u64, Attrs),
    Unmap(u64, u64),
    Protect(u64, u64, Rights),
}

/// An address in the first 4 GiB, mostly near a boundary of a block.
fn place() -> impl Strategy<Value = u64> {
    let near = prop_oneof![3 => Just(0_u64), 1 => 1..3_u64, 1 => 509..512_u64];
    (0..4_u64, near.clone(), near).prop_map(|(g, m, k)| g * G1 + m * M2 + k * K4)
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (1..20_u64).prop_map(|n| n * K4),
        3 => (1..4_u64, 0..3_u64).prop_map(|(m, k)| m * M2 + k * K4),
        2 => (0..2_u64, 0..3_u64, 0..2_u64).prop_map(|(g, m, k)| g * G1 + m * M2 + k * K4),
    ]
}

fn attrs() -> impl Strategy<Value = Attrs> {
    let ro = Attrs { memory: Memory::Normal, rights: Rights::READ };
    prop_oneof![3 => Just(Attrs::RAM), 1 => Just(Attrs::DEVICE), 1 => Just(ro)]
}

fn op() -> impl Strategy<Value = Op> {
    // Memory aligned like the address to 1 GiB, to 2 MiB, or (small spans only) to 4 KiB.
    let target = |(start, size, skew, attrs): (u64, u64, u8, Attrs)| match skew {
        0 => (start, size, start + 8 * G1, attrs),
        1 => (start, size, start + 8 * G1 + M2, attrs),
        _ => (start, size.min(2 * M2), start + 8 * G1 + 3 * K4, attrs),
    };
    let map = || (place(), size(), 0..3_u8, attrs()).prop_map(target);
    let rights = prop_oneof![Just(Rights::ALL), Just(Rights::READ), Just(Rights::READ_EXECUTE)];
    prop_oneof![
        4 => map().prop_map(|(s, n, pa, a)| Op::Map(s, n, pa, a)),
        2 => map().prop_map(|(s, n, pa, a)| Op::Remap(s, n, pa, a)),
        3 => (place(), size()).prop_map(|(s, n)| Op::Unmap(s, n)),
        3 => (place(), size(), rights).prop_map(|(s, n, r)| Op::Protect(s, n, r)),
    ]
}

fn apply(op: &Op, s: &mut Stage2, t: &mut Handle, tlb: &mut Handle) -> Result<(), MapError> {
    match *op {
        Op::Map(start, n, pa, attrs) => s.map(span(start, n), Pa::new(pa), attrs, t, tlb),
        Op::Remap(start, n, pa, attrs) => s.remap(span(start, n), Pa::new(pa), attrs, t, tlb),
        Op::Unmap(start, n) => s.unmap(span(start, n), t, tlb),
        Op::Protect(start, n, rights) => s.protect(span(start, n), rights, t, tlb),
    }
}

fn expect(op: &Op, model: &mut Model) -> Result<(), ()> {
    match *op {
        Op::Map(start, n, _, _) if !model.is_free(start, start + n) => return Err(()),
        Op::Map(start, n, pa, attrs) | Op::Remap(start, n, pa, attrs) => {
            model.insert(start, Run { end: start + n, pa, attrs });
        }
        Op::Unmap(start, n) => model.remove(start, start + n),
        Op::Protect(start, n, rights) => model.change(start, start + n, |a| {
            a.rights = Rights { execute: rights.execute && a.memory == Memory::Normal, ..rights };
        }),
    }
    Ok(())
}

/// One operation with at most `left` tables to be had, and everything that must hold afterwards.
fn step(op: &Op, left: Option<usize>, s: &mut Stage2, t: &mut Handle, model: &mut Model) {
    let mut tlb = t.clone();
    let before = {
        let mut m = t.0.borrow_mut();
        (m.left, m.allocs, m.frees) = (left, 0, 0);
        m.snapshot()
    };
    let mut after = model.clone();
    let expected = expect(op, &mut after);
    let result = apply(op, s, t, &mut tlb);
    let machine = t.0.borrow();
    match result {
        Ok(()) => {
            assert!(expected.is_ok());
            *model = after;
            if matches!(op, Op::Map(..) | Op::Protect(..)) {
                assert_eq!(machine.frees, 0, "more tables were taken than needed");
            }
        }
        Err(MapError::OutOfTables) => {
            assert!(left.is_some() && expected.is_ok());
            assert_eq!(machine.snapshot(), before, "a failed operation left something behind");
        }
        Err(MapError::Overlap { at }) => {
            assert!(expected.is_err());
            assert!(model.at(at.as_u64()).is_some(), "nothing is mapped at {at:?}");
            assert_eq!(machine.snapshot(), before);
        }
        Err(other) => panic!("{other:?}"),
    }
    assert_eq!(runs_of(&machine.check()), model.normal());
    drop(machine);
    for at in model.edges().flat_map(|e| [e.wrapping_sub(1), e, e + K4]).filter(|a| *a < 1 << s.geometry().ipa_bits()) {
        let walked = match s.walk(Ipa::new(at), t) {
            Walk::Mapped { pa, attrs, .. } => Some((pa.as_u64(), attrs)),
            Walk::Unmapped { .. } => None,
            Walk::OutOfRange => panic!("{at:#x} is in range"),
        };
        assert_eq!(walked, model.at(at), "at {at:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 128 }))]

    #[test]
    fn edits_agree_with_the_model_and_no_tlb_is_left_stale(
        bits in prop::sample::select(std::vec![34_u32, 36, 39, 40, 44]),
        ops in prop::collection::vec((op(), prop::option::weighted(0.3, 0..5_usize)), 1..if cfg!(miri) { 3 } else { 14 }),
    ) {
        let (mut s, mut t, mut tlb) = new(bits);
        let mut model = Model::default();
        for (op, left) in &ops {
            step(op, *left, &mut s, &mut t, &mut model);
        }
        t.0.borrow_mut().left = Some(0);
        s.destroy(&mut t, &mut tlb);
        prop_assert_eq!(t.0.borrow().pages_in_use(), 0);
    }
}
