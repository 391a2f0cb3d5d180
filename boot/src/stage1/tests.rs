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
    unsafe { Stage1::new(page().unwrap()) }
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
        assert_eq!(map.touch(n * BLOCK_SIZE), Some((n * BLOCK_SIZE) | leaf(Kind::Data, 2)));
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
