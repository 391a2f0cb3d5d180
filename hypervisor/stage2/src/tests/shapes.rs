//! Facts: the geometry against the architecture's own conditions, descriptors and `VTCR_EL2` as literal numbers.

use crate::descriptor::{self, attrs, child, leaf, table, with_rights};
use crate::{Attrs, Geometry, GeometryError, HostLimits, Memory, Rights};
use addr::Pa;

fn host(pa_range_bits: u32) -> HostLimits {
    HostLimits { pa_range_bits, vmid_bits: 8, fwb: false, granule_4k: true }
}

/// `AArch64.S2InvalidSL` and `AArch64.S2InconsistentSL` of the Arm ARM, for the 4 KiB granule without LPA2 and TTST.
fn architecture_allows(vtcr: u64, pa_max: u32) -> bool {
    let (t0sz, sl0) = (vtcr & 0x3f, (vtcr >> 6) & 3);
    let invalid = sl0 == 3 || (sl0 == 2 && pa_max < 44);
    let levels_below = 3 - (2 - sl0.min(2));
    let min_bits = levels_below * 9 + 12 + 1;
    let max_bits = min_bits + 8 + 4;
    let bits = 64 - t0sz;
    !invalid && bits >= min_bits && bits <= max_bits && (16..=39).contains(&t0sz)
}

#[test]
fn every_size_on_every_machine_has_a_start_level_that_exists() {
    for pa_range in [32, 36, 40, 42, 44, 48, 52, 56] {
        for wanted in 25..=56 {
            let g = Geometry::new(wanted, host(pa_range)).unwrap();
            assert_eq!(g.ipa_bits(), wanted.min(pa_range).min(48));
            assert!(architecture_allows(g.vtcr(), pa_range), "{wanted} bits on {pa_range}: {:#x}", g.vtcr());
            assert_eq!(u64::from(g.start_level()), 2 - ((g.vtcr() >> 6) & 3));
            // The root holds one entry for each piece of the address space, in whole pages.
            let entries = g.ipa_size() >> descriptor::entry_shift(g.start_level());
            assert_eq!(g.root_pages() as u64, entries.div_ceil(512));
            assert!((1..=16).contains(&g.root_pages()) && g.root_pages().is_power_of_two());
            // One level less would need more than 16 tables.
            assert!(g.start_level() == 2 || g.ipa_size() >> (descriptor::entry_shift(g.start_level() + 1) + 9) > 16);
        }
    }
}

#[test]
fn vtcr_as_a_number() {
    let vtcr = |wanted, pa| Geometry::new(wanted, host(pa)).unwrap().vtcr();
    assert_eq!(vtcr(40, 40), 0x8002_3558); // level 1, two tables
    assert_eq!(vtcr(40, 44), 0x8004_3558);
    assert_eq!(vtcr(48, 48), 0x8005_3590); // level 0
    assert_eq!(vtcr(36, 36), 0x8001_355c);
    assert_eq!(vtcr(32, 52), 0x8005_3520); // level 2, four tables
    let wide = Geometry::new(40, HostLimits { vmid_bits: 16, ..host(40) }).unwrap();
    assert_eq!(wide.vtcr(), 0x800a_3558);
}

#[test]
fn what_does_not_exist_is_refused() {
    let no_granule = HostLimits { granule_4k: false, ..host(40) };
    assert_eq!(Geometry::new(40, no_granule), Err(GeometryError::NoGranule));
    assert_eq!(Geometry::new(40, HostLimits { vmid_bits: 12, ..host(40) }), Err(GeometryError::BadVmidBits(12)));
    assert_eq!(Geometry::new(40, host(38)), Err(GeometryError::BadPaRange(38)));
    assert_eq!(Geometry::new(24, host(40)), Err(GeometryError::TooSmall(24)));
}

#[test]
fn limits_come_from_the_id_registers_and_are_the_least_of_all() {
    // cortex-a53 has 40 bits and 8-bit VMIDs, neoverse-n1 48 and 16.
    let a53 = HostLimits::from_id_registers(0x1122, 0, 0);
    assert_eq!(a53, host(40));
    let n1 = HostLimits::from_id_registers(0x0000_0000_0010_1125, 0x0000_0000_1021_2122, 0x0000_0000_0000_1011);
    assert_eq!(n1, HostLimits { pa_range_bits: 48, vmid_bits: 16, fwb: false, granule_4k: true });
    let fwb = HostLimits::from_id_registers(6 | 3 << 40, 0x20, 1 << 40);
    assert_eq!(fwb, HostLimits { pa_range_bits: 52, vmid_bits: 16, fwb: true, granule_4k: true });
    assert_eq!(fwb.common(a53), a53);
    assert!(!HostLimits::from_id_registers(0xf000_0000, 0, 0).granule_4k);
    assert!(!HostLimits::from_id_registers(1 << 40, 0, 0).granule_4k);
    assert!(HostLimits::from_id_registers(0xf000_0000 | 2 << 40, 0, 0).granule_4k);
}

#[test]
fn descriptors_as_numbers() {
    let pa = Pa::new(0x1_4000_0000);
    assert_eq!(table(pa), 0x1_4000_0003);
    assert_eq!(leaf(3, pa, Attrs::RAM, false), 0x1_4000_07ff);
    assert_eq!(leaf(2, pa, Attrs::RAM, false), 0x1_4000_07fd);
    assert_eq!(leaf(1, pa, Attrs::RAM, true), 0x1_4000_07d9);
    assert_eq!(leaf(3, pa, Attrs::DEVICE, false), 0x0040_0001_4000_07c7);
    assert_eq!(leaf(3, pa, Attrs::DEVICE, true), 0x0040_0001_4000_07c7);
    let read = Attrs { memory: Memory::Normal, rights: Rights::READ };
    assert_eq!(leaf(3, pa, read, false), 0x0040_0001_4000_077f);
    // An address beyond the field never reaches the attributes.
    assert_eq!(leaf(3, Pa::new(u64::MAX), Attrs::RAM, false), 0x0000_ffff_ffff_f7ff);
}

#[test]
fn attributes_survive_the_descriptor() {
    for bits in 0..16_u32 {
        let rights = Rights { read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 };
        let memory = if bits & 8 != 0 { Memory::Device } else { Memory::Normal };
        for fwb in [false, true] {
            let wanted = Attrs { memory, rights };
            let seen =
                Attrs { memory, rights: Rights { execute: rights.execute && memory == Memory::Normal, ..rights } };
            assert_eq!(attrs(leaf(3, Pa::new(0x1000), wanted, fwb)), seen);
            let other = leaf(2, Pa::new(0x20_0000), Attrs { memory, rights: Rights::READ }, fwb);
            assert_eq!(with_rights(other, rights), leaf(2, Pa::new(0x20_0000), wanted, fwb));
        }
    }
}

#[test]
fn a_block_falls_apart_into_the_same_memory() {
    let block = leaf(1, Pa::new(0x4000_0000), Attrs::RAM, false);
    assert_eq!(child(block, 1, 0x20_0000), leaf(2, Pa::new(0x4020_0000), Attrs::RAM, false));
    let block = leaf(2, Pa::new(0x4020_0000), Attrs::DEVICE, true);
    assert_eq!(child(block, 2, 0x3000), leaf(3, Pa::new(0x4020_3000), Attrs::DEVICE, true));
}
