use super::*;
use std::alloc::{Layout, alloc_zeroed};
use std::collections::BTreeMap;
use std::vec::Vec;

/// A TLB that keeps whatever it saw until it is told to forget, the worst that the architecture allows.
#[derive(Debug, Default)]
struct Tlb {
    /// By 4 KiB page: what was cached.
    known: BTreeMap<u64, u64>,
    published: usize,
    forgotten: Vec<(Span<Pa>, u64)>,
}

impl Walkers for Tlb {
    fn published(&mut self) {
        self.published += 1;
    }
    fn forget(&mut self, span: Span<Pa>, size: u64) {
        self.forgotten.push((span, size));
        self.known.retain(|at, _| !span.contains(Pa::new(*at)));
    }
}

type Tables = Stage1<Tlb>;

/// A zeroed page that is never given back: tables are not, either.
fn page() -> Option<Pa> {
    let layout = Layout::from_size_align(4096, 4096).unwrap();
    // SAFETY: the layout is not empty.
    Some(Pa::new(unsafe { alloc_zeroed(layout) } as u64))
}

fn tables() -> Tables {
    // SAFETY: a fresh zeroed page.
    unsafe { Stage1::new(page().unwrap(), Regime::El2) }
}

fn blocks(first: u64, count: u64) -> Span<Pa> {
    Span::new(Pa::new(first * BLOCK_SIZE), count * BLOCK_SIZE).unwrap()
}

impl Tables {
    fn data(&mut self, span: Span<Pa>) -> Result<(), MapError> {
        self.map(span, Kind::Data, true, &mut page)
    }
    /// What a walk finds for `at`, which must be what the TLB knows, if it knows anything.
    fn touch(&mut self, at: u64) -> Option<u64> {
        let found = match self.entry(at, 2, &mut || None) {
            Ok(Found::Entry(entry)) => match load(entry) {
                value if value & VALID == 0 => None,
                value if value & TABLE_OR_PAGE == 0 => Some(value),
                _ => match self.entry(at, 3, &mut || None) {
                    Ok(Found::Entry(entry)) => Some(load(entry)).filter(|value| value & VALID != 0),
                    _ => None,
                },
            },
            _ => None,
        };
        if let Some(known) = self.walkers.known.get(&at) {
            assert_eq!(Some(*known), found, "the TLB still knows what {at:#x} was");
        }
        if let Some(value) = found {
            self.walkers.known.insert(at, value);
        }
        found
    }
}

#[test]
fn memory_that_comes_back_is_unmapped_and_its_neighbours_are_not() {
    let mut map = tables();
    map.data(blocks(512, 8)).unwrap();
    for n in 512..520 {
        assert_eq!(map.touch(n * BLOCK_SIZE), Some((n * BLOCK_SIZE) | leaf(Regime::El2, Kind::Data, 2)));
    }
    map.unmap_blocks(blocks(514, 3)).unwrap();
    assert_eq!(map.walkers.forgotten, [(blocks(514, 3), BLOCK_SIZE)]);
    for n in 512..520 {
        assert_eq!(map.touch(n * BLOCK_SIZE).is_some(), !(514..517).contains(&n), "{n}");
    }
    // Again is nothing new; nor is what never was mapped, with or without a table for it.
    for span in [blocks(514, 3), blocks(530, 2), blocks(1 << 15, 2)] {
        map.unmap_blocks(span).unwrap();
    }
    // The next owner.
    map.data(blocks(513, 3)).unwrap();
    assert_eq!(map.touch(516 * BLOCK_SIZE), None);
    for n in [512, 513, 514, 515, 517] {
        assert!(map.touch(n * BLOCK_SIZE).is_some(), "{n}");
    }
}

#[test]
fn a_change_is_published_and_a_table_before_what_points_to_it() {
    let mut map = tables();
    map.data(blocks(512, 1)).unwrap();
    assert_eq!(map.walkers.published, 3, "two tables and the entry");
    assert_eq!(map.walkers.forgotten, [], "what was invalid is in no TLB");
}

#[test]
fn random_owners_never_meet_a_stale_translation() {
    let mut map = tables();
    let mut mapped = [false; 24];
    let mut random = 0x1234_5678_u32;
    for _ in 0..if cfg!(miri) { 40 } else { 4000 } {
        let mut next = |below: u32| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            random % below
        };
        let (first, count) = (next(20) as usize, next(4) as usize + 1);
        let on = next(2) == 0;
        let span = blocks(first as u64 + 500, count as u64);
        match on {
            true => map.data(span).unwrap(),
            false => map.unmap_blocks(span).unwrap(),
        }
        mapped[first..first + count].fill(on);
        for (n, mapped) in mapped.iter().enumerate() {
            assert_eq!(map.touch((n as u64 + 500) * BLOCK_SIZE).is_some(), *mapped);
        }
    }
}

#[test]
fn only_blocks_of_data_are_unmapped() {
    let mut map = tables();
    map.map(blocks(512, 1), Kind::Device, true, &mut page).unwrap();
    map.map(blocks(513, 1), Kind::ReadOnly, true, &mut page).unwrap();
    map.map(blocks(514, 1), Kind::Data, false, &mut page).unwrap();
    map.data(blocks(515, 1)).unwrap();
    for n in 512..515 {
        let at = Pa::new(n * BLOCK_SIZE);
        assert_eq!(map.unmap_blocks(blocks(n, 2)), Err(MapError::Taken(at)));
        assert!(map.touch(n * BLOCK_SIZE).is_some());
    }
    assert!(map.touch(515 * BLOCK_SIZE).is_some(), "behind the error");
    let odd = Span::new(Pa::new(512 * BLOCK_SIZE + PAGE_SIZE), BLOCK_SIZE).unwrap();
    assert_eq!(map.unmap_blocks(odd), Err(MapError::BadSpan));
}

#[test]
fn a_guard_page_goes_by_itself() {
    let mut map = tables();
    map.map(blocks(512, 1), Kind::Data, false, &mut page).unwrap();
    let guard = Pa::new(512 * BLOCK_SIZE + 3 * PAGE_SIZE);
    assert!(map.touch(guard.as_u64()).is_some());
    map.unmap_page(guard).unwrap();
    assert_eq!(map.touch(guard.as_u64()), None);
    assert!(map.touch(guard.as_u64() + PAGE_SIZE).is_some());
    map.data(blocks(514, 1)).unwrap();
    assert_eq!(map.unmap_page(Pa::new(514 * BLOCK_SIZE)), Err(MapError::Taken(Pa::new(514 * BLOCK_SIZE))));
}

/// The rights in a descriptor of the EL2&0 regime: (EL2 may write, EL0 may read, EL2 may execute, EL0 may execute).
fn rights(leaf: u64) -> (bool, bool, bool, bool) {
    let bit = |at: u32| leaf >> at & 1 == 1;
    (!bit(7), bit(6), !bit(53), !bit(54))
}

#[test]
fn rights_are_the_same_in_both_regimes_and_el0_has_none() {
    for (kind, write, execute) in [
        (Kind::Text, false, true),
        (Kind::ReadOnly, false, false),
        (Kind::Data, true, false),
        (Kind::Device, true, false),
    ] {
        for level in [2, 3] {
            let (one, two) = (leaf(Regime::El2, kind, level), leaf(Regime::El20, kind, level));
            // One level: AP[2:1] = x1, XN; PXN is RES0.
            assert_eq!((one >> 7 & 1 == 0, one >> 6 & 1, one >> 54 & 1 == 0, one >> 53 & 1), (write, 1, execute, 0));
            assert_eq!(rights(two), (write, false, execute, false), "{kind:?}");
            // Everything else, and nG (bit 11) is 0: no entry belongs to an ASID.
            let differs = 1 << 6 | 1 << 53 | 1 << 54;
            assert_eq!((one & !differs, two >> 11 & 1), (two & !differs, 0));
        }
    }
    let (text, data) = (leaf(Regime::El20, Kind::Text, 3), leaf(Regime::El20, Kind::Data, 2));
    assert_eq!((text, data), (0x0040_0000_0000_0787, 0x0060_0000_0000_0705));
}

#[test]
fn tables_of_the_other_regime_are_taken_apart_as_well() {
    // SAFETY: a fresh zeroed page.
    let mut map: Tables = unsafe { Stage1::new(page().unwrap(), Regime::El20) };
    map.data(blocks(3, 2)).unwrap();
    assert_eq!(map.touch(3 * BLOCK_SIZE), Some((3 * BLOCK_SIZE) | leaf(Regime::El20, Kind::Data, 2)));
    assert_eq!(map.map(blocks(3, 1), Kind::ReadOnly, true, &mut page), Err(MapError::Taken(Pa::new(3 * BLOCK_SIZE))));
    map.unmap_blocks(blocks(3, 2)).unwrap();
    assert_eq!(map.touch(3 * BLOCK_SIZE), None);
}

#[test]
fn the_control_registers_as_numbers() {
    // TCR_EL2, E2H = 0: T0SZ 16, walks write-back and inner shareable, PS 40, 44 and at most 48 bits.
    assert_eq!((tcr(2), tcr(4), tcr(6)), (0x8082_3510, 0x8084_3510, 0x8085_3510));
    // TCR_EL1's layout: the same walks, IPS from bit 32, EPD1, and T1SZ and TG1 (0b10 is 4 KiB there) that exist.
    assert_eq!(
        (tcr_two_levels(2), tcr_two_levels(4), tcr_two_levels(6)),
        (0x2_8090_3510, 0x4_8090_3510, 0x5_8090_3510)
    );
}
