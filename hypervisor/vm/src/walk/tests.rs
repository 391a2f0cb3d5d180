//! The walk against a second reading of the manual: its figures of address bits and initial levels, as tables.

use super::*;
use crate::tests::machine::FakeRam;
use config::cpu_model::HostIds;
use proptest::prelude::*;
use std::vec::Vec;

const ALL: Limits = Limits { large_va: true, small_tables: true, large_pa: true };
const NONE: Limits = Limits { large_va: false, small_tables: false, large_pa: false };
const M: u64 = 1;
const EE: u64 = 1 << 25;
/// Nothing is there.
const HOLE: u64 = 0x7_0000_0000;

/// A granule: TG0, TG1, bytes of a table; by level the address bits it translates (highest, lowest), by size of the address
/// the initial level ("Translation using the 4KB granule" and its sisters).
struct Granule {
    tg: [u64; 2],
    bytes: u64,
    bits: [Option<(u32, u32)>; 4],
    initial: fn(u64) -> usize,
}

const GRANULES: [Granule; 3] = [
    Granule {
        tg: [0, 2],
        bytes: 0x1000,
        bits: [Some((47, 39)), Some((38, 30)), Some((29, 21)), Some((20, 12))],
        initial: |size| match size {
            16..=24 => 0,
            25..=33 => 1,
            34..=42 => 2,
            43..=48 => 3,
            _ => panic!("{size}"),
        },
    },
    Granule {
        tg: [2, 1],
        bytes: 0x4000,
        bits: [Some((47, 47)), Some((46, 36)), Some((35, 25)), Some((24, 14))],
        initial: |size| match size {
            16 => 0,
            17..=27 => 1,
            28..=38 => 2,
            39..=48 => 3,
            _ => panic!("{size}"),
        },
    },
    Granule {
        tg: [1, 3],
        bytes: 0x1_0000,
        bits: [None, Some((51, 42)), Some((41, 29)), Some((28, 16))],
        initial: |size| match size {
            12..=21 => 1,
            22..=34 => 2,
            35..=47 => 3,
            _ => panic!("{size}"),
        },
    },
];

impl Granule {
    /// Sizes of an address that it can have.
    fn sizes(&self) -> core::ops::RangeInclusive<u64> {
        if self.bytes == 0x1_0000 { 12..=47 } else { 16..=48 }
    }
    /// The offset of `va`'s descriptor in the table of `level`, and that table's bytes.
    fn offset(&self, level: usize, size: u64, va: u64) -> (u64, u64) {
        let (mut high, low) = self.bits[level].unwrap();
        if level == (self.initial)(size) {
            high = high.min(63 - size as u32);
        }
        let entries = 1_u64 << (high - low + 1);
        ((va >> low) % entries * 8, entries * 8)
    }
}

/// A map with a walk of some levels in it, that ends in a page.
#[derive(Clone, Debug)]
struct Case {
    granule: usize,
    size: u64,
    va: u64,
    /// Where the walk ends, in levels from the initial one on.
    depth: usize,
    big_endian: bool,
    /// Where tables are, and what descriptors hold besides addresses.
    noise: [u64; 5],
    /// Bits 51 to 48 of where the walk ends, with 64 KiB pages.
    high: u64,
    large_pa: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let sized = (0..3_usize).prop_flat_map(|granule| (Just(granule), GRANULES[granule].sizes()));
    (sized, any::<u64>(), 0..4_usize, any::<bool>(), any::<[u64; 5]>(), 0..16_u64, any::<bool>()).prop_map(
        |((granule, size), va, depth, big_endian, noise, high, large_pa)| Case {
            granule,
            size,
            va,
            depth,
            big_endian,
            noise,
            high,
            large_pa,
        },
    )
}

struct Map {
    regs: Stage1,
    limits: Limits,
    va: Va,
    ram: FakeRam,
    initial: u8,
    /// Where the descriptors are, from the initial level on; the last is in nothing.
    way: Vec<u64>,
}

impl Map {
    fn page(&self) -> Ipa {
        Ipa::new(self.way.last().unwrap() & !0xfff)
    }
    fn walk(&self, page: Ipa) -> Walked {
        walk(&self.ram, &self.regs, self.limits, self.va, page)
    }
    fn last(&self) -> u8 {
        self.initial + self.way.len() as u8 - 1
    }
    fn put(&self, at: u64, descriptor: u64) {
        let bytes = if self.regs.sctlr & EE != 0 { descriptor.to_be_bytes() } else { descriptor.to_le_bytes() };
        self.ram.put(at, bytes);
    }
}

impl Case {
    fn build(&self) -> Map {
        let granule = &GRANULES[self.granule];
        let upper = self.va >> 55 & 1 == 1;
        let initial = (granule.initial)(self.size);
        let last = (initial + self.depth).min(3);
        let large_pa = self.large_pa && granule.bytes == 0x1_0000;
        let high = if large_pa { self.high << 48 } else { 0 };
        let ram = FakeRam::default();
        // Tables of different levels are 16 MiB apart, the last one is in nothing.
        let table = |level: usize, bytes: u64| {
            let noise = self.noise[level] % 0x80_0000 / bytes * bytes;
            if level == last { (HOLE + noise) | high } else { FakeRam::SPAN.start + ((level as u64) << 24) + noise }
        };
        // With 52 bits a root has at least 64 bytes.
        let root = table(initial, granule.offset(initial, self.size, 0).1.max(if large_pa { 64 } else { 8 }));
        let mut ttbr = root & 0x0000_ffff_ffff_ffff | self.noise[4] & 0xffff_0000_0000_0001;
        if large_pa {
            ttbr |= root >> 48 << 2;
        }
        let half = self.size | granule.tg[usize::from(upper)] << 14;
        let ips = if large_pa { 6_u64 << 32 } else { 0 };
        // The other half is off.
        let tcr = if upper { half << 16 | 1 << 7 } else { half | 1 << 23 } | ips;
        let (ttbr0, ttbr1) = if upper { (!0, ttbr) } else { (ttbr, !0) };
        let sctlr = M | if self.big_endian { EE } else { 0 };
        let mut map = Map {
            regs: Stage1 { sctlr, tcr, ttbr0, ttbr1 },
            limits: Limits { large_pa, ..ALL },
            va: Va::new(self.va),
            ram,
            initial: initial as u8,
            way: Vec::new(),
        };
        let mut base = root;
        for level in initial..=last {
            let at = base + granule.offset(level, self.size, self.va).0;
            map.way.push(at);
            if level == last {
                break;
            }
            base = table(level + 1, granule.bytes);
            // Attributes of tables and ignored bits, as they come.
            let mut descriptor = base & 0x0000_ffff_ffff_ffff | self.noise[4] & 0xffff_0000_0000_0ffc | 3;
            if large_pa {
                descriptor |= base >> 48 << 12;
            }
            map.put(at, descriptor);
        }
        map
    }
}

#[test]
fn all_initial_levels_are_those_of_the_manual() {
    for (number, granule) in GRANULES.iter().enumerate() {
        for size in granule.sizes() {
            for upper in [false, true] {
                let (tg, half) = (granule.tg[usize::from(upper)] << 14 | size, if upper { 16 } else { 0 });
                let regs = Stage1 { sctlr: M, tcr: tg << half, ttbr0: HOLE, ttbr1: HOLE };
                let va = if upper { u64::MAX << (64 - size) } else { 0 };
                let found = walk(&FakeRam::default(), &regs, ALL, Va::new(va), Ipa::new(HOLE));
                assert_eq!(found, Walked::To((granule.initial)(size) as u8), "granule {number}, size {size}");
            }
        }
    }
}

#[test]
fn sizes_that_the_model_does_not_have_are_the_nearest_it_has() {
    // granule, size, limits, taken as
    for (number, size, limits, taken) in [
        (0, 0, ALL, 16),
        (0, 15, NONE, 16),
        (0, 40, NONE, 39),
        (0, 63, ALL, 48),
        (1, 12, ALL, 16),
        (1, 48, NONE, 39),
        (2, 12, NONE, 16),
        (2, 3, ALL, 12),
        (2, 63, ALL, 47),
        (2, 47, NONE, 39),
    ] {
        let regs = Stage1 { sctlr: M, tcr: size | GRANULES[number].tg[0] << 14, ttbr0: HOLE, ttbr1: 0 };
        let half = Half::of(&regs, limits, 0).unwrap();
        let want = (u64::from(half.input_bits), usize::from(half.level));
        assert_eq!(want, (64 - taken, (GRANULES[number].initial)(taken)), "granule {number}, size {size}");
    }
}

#[test]
fn without_tables_there_is_no_walk() {
    let on = Stage1 { sctlr: M, tcr: 16 | 16 << 16 | 2 << 30, ttbr0: HOLE, ttbr1: HOLE };
    let walk = |regs: Stage1, va| walk(&FakeRam::default(), &regs, ALL, Va::new(va), Ipa::new(HOLE));
    let upper = u64::MAX << 48;
    assert_eq!((walk(on, 0), walk(on, upper)), (Walked::To(0), Walked::To(0)));
    for (off, lower, higher) in [
        (Stage1 { sctlr: !M, ..on }, Walked::Not, Walked::Not),
        (Stage1 { tcr: on.tcr | 1 << 7, ..on }, Walked::Not, Walked::To(0)),
        (Stage1 { tcr: on.tcr | 1 << 23, ..on }, Walked::To(0), Walked::Not),
        // Granules that do not exist.
        (Stage1 { tcr: on.tcr | 3 << 14, ..on }, Walked::Not, Walked::To(0)),
        (Stage1 { tcr: on.tcr & !(3 << 30), ..on }, Walked::To(0), Walked::Not),
    ] {
        assert_eq!((walk(off, 0), walk(off, upper)), (lower, higher), "{off:x?}");
    }
    // A tag does not change the half: that is bit 55's.
    assert_eq!(walk(Stage1 { tcr: on.tcr | 1 << 23, ..on }, 0xff7f << 48), Walked::To(0));
}

#[test]
fn a_root_in_its_own_page_is_met_first() {
    // The root's entry points back to the root: all levels are in the page, the walker stops at the first.
    let regs = Stage1 { sctlr: M, tcr: 16, ttbr0: HOLE | 0xab << 48 | 1, ttbr1: 0 };
    assert_eq!(walk(&FakeRam::default(), &regs, NONE, Va::new(0x1234_5678), Ipa::new(HOLE)), Walked::To(0));
    // In RAM, with the page of the fault elsewhere, it is no endless way.
    let (ram, root) = (FakeRam::default(), FakeRam::SPAN.start);
    ram.put(root, (root | 3).to_le_bytes());
    let regs = Stage1 { ttbr0: root, ..regs };
    assert_eq!(walk(&ram, &regs, NONE, Va::new(0), Ipa::new(HOLE)), Walked::Away(3));
    assert_eq!(ram.accesses(), [root; 3]);
}

#[test]
fn the_limits_are_the_models() {
    let mut host = HostIds::default();
    assert_eq!(Limits::of(&CpuModel::new(&host, 48, true)), NONE);
    host.set(7, 2, 1 << 16);
    assert_eq!(Limits::of(&CpuModel::new(&host, 48, true)), Limits { large_va: true, ..NONE });
    host.set(7, 2, 1 << 28);
    // The model shows no more than 48 bits of physical address.
    host.set(7, 0, 6);
    assert_eq!(Limits::of(&CpuModel::new(&host, 52, true)), Limits { small_tables: true, ..NONE });
}

#[test]
fn par_is_an_address_or_a_failure() {
    let va = Va::new(0xffff_0000_0000_1abc);
    assert_eq!(translated(0xff00_0000_4005_2b80, va), Some(Ipa::new(0x4005_2abc)));
    assert_eq!(translated(0xff0f_ffff_ffff_fb80, va), Some(Ipa::new(0x000f_ffff_ffff_fabc)));
    // Each failure has F and a status where the address would be.
    assert_eq!(translated(0x80f, va), None);
    assert_eq!(translated(u64::MAX, va), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 1_000 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_ends_at_the_level_whose_descriptor_cannot_be_fetched(case in case()) {
        let map = case.build();
        let (last, before) = (map.last(), &map.way[..map.way.len() - 1]);
        prop_assert_eq!(map.walk(map.page()), Walked::To(last));
        // Each descriptor on the way is read once, the one in the page not at all.
        prop_assert_eq!(map.ram.accesses(), before);
        prop_assert!(before.len() <= 3);
    }

    #[test]
    fn tables_that_have_changed_give_the_level_at_which_they_end(case in case(), leaf in 0..3_u64, n in 0..3_usize) {
        let map = case.build();
        // The fault was in a page that no descriptor is in any more.
        let elsewhere = Ipa::new(0x6_0000_0000);
        prop_assert_eq!(map.walk(elsewhere), Walked::Away(map.last()));
        let mut all = map.way.clone();
        if map.last() == 3 {
            all.pop();
        }
        prop_assert_eq!(map.ram.accesses(), all);
        if map.way.len() > 1 {
            // An access that fails, and an entry that names no table (invalid, a block, invalid in another way).
            let n = n % (map.way.len() - 1);
            let ends = Walked::Away(map.initial + n as u8);
            map.ram.fail(Some(n));
            prop_assert_eq!(map.walk(map.page()), ends);
            prop_assert_eq!(map.ram.accesses(), &map.way[..=n]);
            map.ram.fail(None);
            map.put(map.way[n], FakeRam::SPAN.start | leaf);
            prop_assert_eq!(map.walk(map.page()), ends);
            prop_assert_eq!(map.ram.accesses(), &map.way[..=n]);
        }
    }

    #[test]
    fn any_registers_and_any_tables_give_a_level(
        sctlr: u64, tcr: u64, ttbrs: [u64; 2], va: u64, page: u64, table: [u64; 8], features in 0..8_u32,
    ) {
        let ram = FakeRam::default();
        let near = |value: u64| FakeRam::SPAN.start | value & 0x38;
        table.iter().enumerate().for_each(|(n, value)| ram.put(near(8 * n as u64), (near(*value) | 3).to_le_bytes()));
        let [large_va, small_tables, large_pa] = [1, 2, 4].map(|bit| features & bit != 0);
        let limits = Limits { large_va, small_tables, large_pa };
        for [ttbr0, ttbr1] in [ttbrs, ttbrs.map(near)] {
            let regs = Stage1 { sctlr: sctlr | M, tcr, ttbr0, ttbr1 };
            match walk(&ram, &regs, limits, Va::new(va), Ipa::new(page)) {
                Walked::To(level) | Walked::Away(level) => prop_assert!(level <= 3),
                Walked::Not => {}
            }
            prop_assert!(ram.accesses().len() <= 4);
        }
    }
}
