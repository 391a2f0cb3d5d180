//! Named cases, and random operations against a map of who has every page.

use crate::{Account, AccountId, Dirty, FrameCache, Frames, FreeRam, GuestRam, MemoryError, Node, Reach, Scrub};
use addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa, Span};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOST: AccountId = AccountId::HOST;

fn span(start: u64, size: u64) -> Span<Pa> {
    Span::new(Pa::new(start), size).unwrap()
}

fn frames(ram: &[(u64, u64)]) -> Frames {
    let mut frames = Frames::new(Node::default());
    for (start, size) in ram {
        frames.add(&FreeRam::of_test(span(*start, *size))).unwrap();
    }
    frames
}

fn spans(dirty: &[Dirty]) -> Vec<(u64, u64)> {
    dirty.iter().map(|d| (d.span().start().as_u64(), d.span().size())).collect()
}

#[test]
fn a_group_limits_its_members_together_and_is_uncharged_with_them() {
    let mut f = frames(&[(2 * MIB, 16 * MIB)]);
    let group = f.open_account(6 * MIB).unwrap();
    let (a, b) = (f.open_account_in(group, 4 * MIB).unwrap(), f.open_account_in(group, u64::MAX).unwrap());
    assert_eq!(f.open_account_in(a, 1), Err(MemoryError::NoAccount), "one level");
    assert_eq!(f.open_account_in(HOST, 1), Err(MemoryError::NoAccount));
    let first = f.alloc_blocks(a, 2).unwrap();
    assert_eq!(f.alloc_blocks(a, 1), Err(MemoryError::OverLimit { left: 0, of: a }));
    assert_eq!(f.alloc_blocks(b, 2), Err(MemoryError::OverLimit { left: 2 * MIB, of: group }));
    assert_eq!(f.charge(b, 2 * MIB + 1), Err(MemoryError::OverLimit { left: 2 * MIB, of: group }));
    assert_eq!(f.charge(b, MIB), Ok(()));
    assert_eq!(f.account(group).map(|g| (g.used, g.peak)), Some((5 * MIB, 5 * MIB)));
    assert_eq!(f.close_account(group), Err(MemoryError::AccountInUse));
    for extent in first {
        f.free_extent(a, extent.span()).unwrap();
    }
    f.uncharge(b, MIB);
    assert_eq!(f.account(group).map(|g| g.used), Some(0));
    assert_eq!(f.close_account(group), Err(MemoryError::AccountInUse), "it has members");
    assert_eq!((f.close_account(a), f.close_account(b), f.close_account(group)), (Ok(()), Ok(()), Ok(())));
}

#[test]
fn a_guest_gets_one_extent_aligned_to_its_size() {
    let mut f = frames(&[(0x4000_0000, 2 * GIB)]);
    f.reserve(span(0x4008_0000, 3 * MIB)).unwrap();
    let got = f.alloc_blocks(HOST, 512).unwrap();
    assert_eq!(spans(&got), [(0x8000_0000, GIB)]);
    // 96 MiB comes from a run of 128, whose end goes back.
    let free = f.free_blocks();
    let got = f.alloc_blocks(HOST, 48).unwrap();
    assert_eq!((got.len(), got[0].span().size()), (1, 96 * MIB));
    assert_eq!(f.free_blocks(), free - 48);
    assert_eq!(f.total_bytes() - f.free_bytes(), GIB + 96 * MIB);
}

#[test]
fn a_guest_that_fits_nowhere_in_one_piece_gets_few_extents() {
    // 6 + 2 MiB apart from each other, all of it asked for.
    let mut f = frames(&[(0, 6 * MIB), (16 * MIB, 2 * MIB)]);
    let got = f.alloc_blocks(HOST, 4).unwrap();
    assert_eq!(spans(&got), [(0, 6 * MIB), (16 * MIB, 2 * MIB)]);
    assert_eq!((f.free_bytes(), f.free_blocks()), (0, 0));
    assert_eq!(f.alloc_blocks(HOST, 1), Err(MemoryError::OutOfMemory));
    assert_eq!(f.alloc_pages(HOST, 1), Err(MemoryError::OutOfMemory));
    assert_eq!(f.alloc_blocks(HOST, 0), Ok(vec![]));
    assert_eq!(f.account(HOST).unwrap().used, 8 * MIB);
}

#[test]
fn what_is_freed_twice_or_by_another_is_refused() {
    let mut f = frames(&[(0, 64 * MIB)]);
    let (a, b) = (f.open_account(u64::MAX).unwrap(), f.open_account(u64::MAX).unwrap());
    let got = f.alloc_blocks(a, 4).unwrap()[0].span();
    let at = got.start();
    assert_eq!(f.free_extent(b, got), Err(MemoryError::NotLent { at }));
    let longer = Span::new(at, got.size() + BLOCK_SIZE).unwrap();
    assert_eq!(f.free_extent(a, longer), Err(MemoryError::NotLent { at: got.end() }));
    assert_eq!(f.free_extent(a, Span::new(at, MIB).unwrap()), Err(MemoryError::BadSize));
    assert_eq!(f.free_pages(a, at, 1), Err(MemoryError::NotLent { at }));
    // The middle first: an extent is given back in parts.
    let second = Pa::new(at.as_u64() + BLOCK_SIZE);
    let middle = Span::new(second, BLOCK_SIZE).unwrap();
    assert_eq!(f.free_extent(a, middle), Ok(()));
    assert_eq!(f.free_extent(a, middle), Err(MemoryError::NotLent { at: second }));
    assert_eq!(f.free_extent(a, got), Err(MemoryError::NotLent { at: second }));
    assert_eq!(f.close_account(a), Err(MemoryError::AccountInUse));
    assert_eq!(f.free_extent(a, Span::new(at, BLOCK_SIZE).unwrap()), Ok(()));
    assert_eq!(f.free_extent(a, Span::new(middle.end(), 2 * BLOCK_SIZE).unwrap()), Ok(()));
    assert_eq!((f.close_account(a), f.free_bytes()), (Ok(()), 64 * MIB));

    let page = f.alloc_pages(b, 1).unwrap().span().start();
    assert_eq!(f.free_pages(HOST, page, 1), Err(MemoryError::NotLent { at: page }));
    assert_eq!(f.free_pages(b, page, 2), Err(MemoryError::NotLent { at: Pa::new(page.as_u64() + PAGE_SIZE) }));
    assert_eq!(f.free_pages(b, page, 0), Err(MemoryError::BadSize));
    assert_eq!(f.free_pages(b, Pa::new(page.as_u64() + 1), 1), Err(MemoryError::BadSize));
    assert_eq!(f.free_pages(b, page, 1), Ok(()));
    assert_eq!(f.free_pages(b, page, 1), Err(MemoryError::NotLent { at: page }));
    assert_eq!(f.free_pages(b, Pa::new(1 << 45), 1), Err(MemoryError::NotLent { at: Pa::new(1 << 45) }));
}

#[test]
fn an_account_is_held_to_its_limit_and_remembers_its_peak() {
    let mut f = frames(&[(0, 64 * MIB)]);
    let id = f.open_account(4 * MIB + PAGE_SIZE).unwrap();
    let got = f.alloc_blocks(id, 2).unwrap();
    assert_eq!(f.alloc_blocks(id, 1), Err(MemoryError::OverLimit { left: PAGE_SIZE, of: id }));
    let page = f.alloc_pages(id, 1).unwrap();
    assert_eq!(f.alloc_pages(id, 1), Err(MemoryError::OverLimit { left: 0, of: id }));
    f.free_extent(id, got[0].span()).unwrap();
    f.set_limit(id, 0).unwrap();
    let account = f.account(id).unwrap();
    assert_eq!((account.limit, account.used, account.peak), (0, PAGE_SIZE, 4 * MIB + PAGE_SIZE));
    f.free_pages(id, page.span().start(), 1).unwrap();
    f.close_account(id).unwrap();
    assert_eq!((f.alloc_pages(id, 1), f.account(id)), (Err(MemoryError::NoAccount), None));
    assert_eq!(f.close_account(HOST), Err(MemoryError::AccountInUse));
    assert_eq!(f.open_account(7), Ok(id), "ids are used again");
    // A failure for want of memory leaves no charge.
    f.set_limit(id, u64::MAX).unwrap();
    assert_eq!(f.alloc_blocks(id, 33), Err(MemoryError::OutOfMemory));
    assert_eq!(f.alloc_blocks(id, usize::MAX), Err(MemoryError::OutOfMemory));
    assert_eq!(f.account(id).unwrap(), Account { limit: u64::MAX, used: 0, peak: 0, group: None });
}

#[test]
fn pages_are_aligned_to_their_whole_size_and_give_the_block_back() {
    let mut f = frames(&[(0, 4 * MIB)]);
    let one = f.alloc_pages(HOST, 1).unwrap().span();
    for count in [2, 16, 256] {
        let got = f.alloc_pages(HOST, count).unwrap().span();
        assert_eq!(got.size(), count as u64 * PAGE_SIZE);
        assert_eq!(got.start().as_u64() % got.size(), 0);
        assert!(!got.overlaps(&one));
        f.free_pages(HOST, got.start(), count).unwrap();
    }
    assert_eq!(f.alloc_pages(HOST, 3), Err(MemoryError::BadSize));
    assert_eq!(f.alloc_pages(HOST, 0), Err(MemoryError::BadSize));
    assert_eq!(f.alloc_pages(HOST, 1024), Err(MemoryError::BadSize));
    let whole = f.alloc_pages(HOST, 512).unwrap().span();
    assert_eq!((whole.start().as_u64() % BLOCK_SIZE, f.free_blocks()), (0, 0));
    f.free_pages(HOST, one.start(), 1).unwrap();
    f.free_pages(HOST, whole.start(), 512).unwrap();
    assert_eq!(f.free_blocks(), 2);
    assert_eq!(spans(&f.alloc_blocks(HOST, 2).unwrap()), [(0, 4 * MIB)], "the blocks were joined again");
}

#[test]
fn odd_edges_of_ram_and_of_reservations_serve_as_pages() {
    let mut f = frames(&[(0x1800, 0x2_0000)]);
    assert_eq!((f.total_bytes(), f.free_bytes(), f.free_blocks()), (0x1_f000, 0x1_f000, 0));
    let got = f.alloc_pages(HOST, 16).unwrap().span();
    assert_eq!(got.start(), Pa::new(0x1_0000));
    let at = |at| Pa::new(at);
    assert_eq!(f.reserve(span(0x1_8000, 1)), Err(MemoryError::InUse { at: at(0x1_8000) }));
    f.free_pages(HOST, got.start(), 16).unwrap();
    f.reserve(span(0x1_8000, 1)).unwrap();
    f.reserve(span(0x1_8000, 1)).unwrap();
    assert_eq!((f.total_bytes(), f.free_bytes()), (0x1_e000, 0x1_e000));
    assert_eq!(f.alloc_pages(HOST, 16), Err(MemoryError::OutOfMemory));
    // The other parts of the block are added: it has a hole, so it never becomes a block.
    f.add(&FreeRam::of_test(span(0x2_1000, BLOCK_SIZE - 0x2_1000))).unwrap();
    assert_eq!(f.add(&FreeRam::of_test(span(0x2_0000, 0x2000))), Err(MemoryError::BadRam));
    assert_eq!(f.add(&FreeRam::of_test(span(1 << 48, PAGE_SIZE))), Err(MemoryError::BadRam));
    assert_eq!(f.free_blocks(), 0);

    // Two halves make a block, which is then one like any other.
    let mut f = frames(&[(4 * MIB, MIB), (5 * MIB, MIB), (6 * MIB, 100)]);
    assert_eq!((f.free_blocks(), f.total_bytes()), (1, 2 * MIB));
    let page = f.alloc_pages(HOST, 1).unwrap().span().start();
    f.free_pages(HOST, page, 1).unwrap();
    assert_eq!(spans(&f.alloc_blocks(HOST, 1).unwrap()), [(4 * MIB, 2 * MIB)]);
    assert_eq!(f.reserve(span(5 * MIB, 1)), Err(MemoryError::InUse { at: at(5 * MIB) }));
}

#[test]
fn a_reservation_that_is_refused_reserves_nothing() {
    let mut f = frames(&[(0, 8 * MIB)]);
    let page = f.alloc_pages(HOST, 1).unwrap().span();
    let before = (f.free_bytes(), f.total_bytes());
    assert_eq!(f.reserve(span(0, 1 << 40)), Err(MemoryError::InUse { at: page.start() }));
    assert_eq!((f.free_bytes(), f.total_bytes()), before);
    f.free_pages(HOST, page.start(), 1).unwrap();
    f.reserve(span(0, 1 << 40)).unwrap();
    assert_eq!((f.free_bytes(), f.total_bytes(), f.free_blocks()), (0, 0, 0));
}

/// Remembers what was zeroed.
#[derive(Default)]
struct Zeroed(Vec<(u64, u64)>);

impl Scrub for Zeroed {
    fn zero(&mut self, span: Span<Pa>) {
        self.0.push((span.start().as_u64(), span.size()));
    }
}

#[test]
fn memory_is_used_only_when_all_of_it_is_zeroed() {
    let mut f = frames(&[(2 * MIB, 2 * MIB)]);
    let mut dirty = f.alloc_blocks(HOST, 1).unwrap().remove(0);
    let mut zeroed = Zeroed::default();
    assert!(!dirty.scrub(1536 * 1024, &mut zeroed));
    let mut dirty = dirty.into_clean().unwrap_err();
    assert!(dirty.scrub(u64::MAX, &mut zeroed));
    assert!(dirty.scrub(u64::MAX, &mut zeroed));
    assert_eq!(zeroed.0, [(2 * MIB, 1536 * 1024), (2 * MIB + 1536 * 1024, 512 * 1024)]);
    assert_eq!(dirty.into_clean(), Ok(span(2 * MIB, 2 * MIB)));
}

#[test]
fn a_cache_is_charged_for_what_it_holds() {
    let mut f = frames(&[(0, 2 * MIB)]);
    let id = f.open_account(6 * PAGE_SIZE).unwrap();
    let mut cache = FrameCache::<4>::new(id);
    assert_eq!((cache.is_empty(), cache.take()), (true, None));
    cache.refill(&mut f).unwrap();
    assert_eq!((cache.len(), f.account(id).unwrap().used), (4, 4 * PAGE_SIZE));
    let taken: Vec<_> = (0..3).map(|_| cache.take().unwrap().span().start()).collect();
    assert_eq!(cache.refill(&mut f), Err(MemoryError::OverLimit { left: 0, of: id }));
    assert_eq!(cache.len(), 3);
    assert_eq!((cache.put(taken[0]), cache.put(taken[1])), (Ok(()), Err(taken[1])));
    cache.drain(1, &mut f).unwrap();
    assert_eq!(cache.len(), 1);
    f.free_pages(id, taken[1], 1).unwrap();
    cache.put(Pa::new(0x10_0000)).unwrap();
    assert_eq!(cache.drain(0, &mut f), Err(MemoryError::NotLent { at: Pa::new(0x10_0000) }));
    cache.drain(0, &mut f).unwrap();
    f.free_pages(id, taken[2], 1).unwrap();
    assert_eq!((f.close_account(id), f.free_bytes()), (Ok(()), 2 * MIB));
}

#[test]
fn guest_ram_is_found_extent_by_extent() {
    let base = Ipa::new(0x4000_0000);
    let memory = [span(0x8000_0000, 4 * MIB), span(0, 0), span(0x1000_0000, 2 * MIB)];
    let ram = GuestRam::new(base, memory).unwrap();
    assert_eq!((ram.span().start(), ram.span().size()), (base, 6 * MIB));
    assert_eq!(ram.extents()[1], (Ipa::new(0x4040_0000), span(0x1000_0000, 2 * MIB)));
    let at = |at, len| ram.translate(Ipa::new(at), len).map(|(pa, n)| (pa.as_u64(), n));
    assert_eq!(at(0x4000_0000, 8), Some((0x8000_0000, 8)));
    assert_eq!(at(0x403f_fffc, 8), Some((0x803f_fffc, 4)));
    assert_eq!(at(0x4040_0000, u64::MAX), Some((0x1000_0000, 2 * MIB)));
    assert_eq!(at(0x405f_ffff, 8), Some((0x101f_ffff, 1)));
    assert_eq!((at(0x4060_0000, 1), at(0x3fff_ffff, 1), at(u64::MAX, 1), at(0, 0)), (None, None, None, None));
    assert!(GuestRam::new(base, []).is_none());
    assert!(GuestRam::new(Ipa::new(u64::MAX - MIB), [span(0, 2 * MIB)]).is_none());
}

#[derive(Clone, Debug)]
enum Op {
    Blocks(usize, usize),
    Pages(usize, u32),
    /// Gives back the n-th thing: all, or (where it has several blocks or pages) the part after the first.
    Free(usize, bool),
    /// Tries to give back something that the account does not have.
    Bad(usize, u64, usize),
    Reserve(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_usize, 1..7_usize).prop_map(|(a, n)| Op::Blocks(a, n)),
        6 => (0..3_usize, 0..10_u32).prop_map(|(a, order)| Op::Pages(a, order)),
        9 => (0..64_usize, any::<bool>()).prop_map(|(i, part)| Op::Free(i, part)),
        2 => (0..3_usize, 0..BLOCKS, 1..4_usize).prop_map(|(a, b, n)| Op::Bad(a, b, n)),
        1 => (0..BLOCKS * 512, 1..700_u64).prop_map(|(p, n)| Op::Reserve(p * PAGE_SIZE, n * PAGE_SIZE)),
    ]
}

/// RAM of the random tests: two banks with odd edges, in 24 MiB. In the second four blocks are in a row.
const BANKS: [(u64, u64); 2] = [(0x1_3000, 5 * MIB), (7 * MIB + 0x7000, 16 * MIB + 0x1000)];
/// Blocks up to the banks' end.
const BLOCKS: u64 = 12;
const PAGES: usize = BLOCKS as usize * 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Absent,
    Free,
    Of(usize),
}

struct World {
    frames: Frames,
    accounts: [AccountId; 3],
    pages: Vec<Page>,
    /// What is lent: account, span, whether as blocks.
    lent: Vec<(usize, Span<Pa>, bool)>,
}

impl World {
    fn new() -> Self {
        let mut frames = frames(&BANKS);
        let accounts = [HOST, frames.open_account(u64::MAX).unwrap(), frames.open_account(5 * MIB).unwrap()];
        let mut pages = vec![Page::Absent; PAGES];
        for (start, size) in BANKS {
            Self::numbers(span(start, size)).for_each(|p| pages[p] = Page::Free);
        }
        Self { frames, accounts, pages, lent: Vec::new() }
    }

    fn numbers(span: Span<Pa>) -> impl Iterator<Item = usize> {
        (span.start().as_u64() / PAGE_SIZE) as usize..(span.end().as_u64() / PAGE_SIZE) as usize
    }

    fn all(&self, span: Span<Pa>, page: Page) -> bool {
        Self::numbers(span).all(|p| self.pages.get(p) == Some(&page))
    }

    fn lend(&mut self, account: usize, span: Span<Pa>, blocks: bool) {
        assert!(self.all(span, Page::Free), "{span:?} was not free");
        Self::numbers(span).for_each(|p| self.pages[p] = Page::Of(account));
        self.lent.push((account, span, blocks));
    }

    fn give(&mut self, account: usize, span: Span<Pa>, blocks: bool) -> Result<(), MemoryError> {
        let id = self.accounts[account];
        if blocks {
            self.frames.free_extent(id, span)
        } else {
            self.frames.free_pages(id, span.start(), (span.size() / PAGE_SIZE) as usize)
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Blocks(account, count) => {
                let free = self.frames.free_blocks();
                match self.frames.alloc_blocks(self.accounts[account], count) {
                    Ok(got) => {
                        assert_eq!(got.iter().map(|d| d.span().size()).sum::<u64>(), count as u64 * BLOCK_SIZE);
                        got.iter().for_each(|d| self.lend(account, d.span(), true));
                    }
                    Err(MemoryError::OutOfMemory) => assert!(free < count),
                    Err(e) => assert!(account == 2 && matches!(e, MemoryError::OverLimit { .. })),
                }
            }
            Op::Pages(account, order) => match self.frames.alloc_pages(self.accounts[account], 1 << order) {
                Ok(got) => {
                    assert_eq!(got.span().start().as_u64() % got.span().size(), 0);
                    self.lend(account, got.span(), false);
                }
                Err(MemoryError::OutOfMemory) => {
                    let size = PAGE_SIZE << order;
                    let anywhere = (0..BLOCKS * BLOCK_SIZE / size).any(|i| self.all(span(i * size, size), Page::Free));
                    assert!(!anywhere, "there is a free run of {size:#x}");
                }
                Err(e) => assert!(account == 2 && matches!(e, MemoryError::OverLimit { .. })),
            },
            Op::Free(i, part) if !self.lent.is_empty() => {
                let i = i % self.lent.len();
                let (account, whole, blocks) = self.lent.swap_remove(i);
                let unit = if blocks { BLOCK_SIZE } else { PAGE_SIZE };
                let kept = if part && whole.size() > unit { unit } else { 0 };
                let back = span(whole.start().as_u64() + kept, whole.size() - kept);
                self.give(account, back, blocks).unwrap();
                Self::numbers(back).for_each(|p| self.pages[p] = Page::Free);
                if kept != 0 {
                    self.lent.push((account, span(whole.start().as_u64(), kept), blocks));
                }
            }
            Op::Free(..) => {}
            Op::Bad(account, block, count) => {
                for (size, blocks) in [(BLOCK_SIZE, true), (PAGE_SIZE, false)] {
                    let bad = span(block * BLOCK_SIZE, count as u64 * size);
                    let has = self.lent.iter().any(|(a, s, b)| *a == account && *b == blocks && s.encloses(&bad));
                    // Several lent runs of pages side by side may be given back in one go.
                    if !has && (blocks || !self.all(bad, Page::Of(account))) {
                        let refused = self.give(account, bad, blocks);
                        assert!(matches!(refused, Err(MemoryError::NotLent { .. })), "{refused:?}");
                    }
                }
            }
            Op::Reserve(start, size) => {
                let wanted = span(start, size);
                let lent = Self::numbers(wanted).any(|p| matches!(self.pages.get(p), Some(Page::Of(_))));
                assert_eq!(self.frames.reserve(wanted).is_err(), lent);
                if !lent {
                    Self::numbers(wanted).filter(|p| *p < PAGES).for_each(|p| self.pages[p] = Page::Absent);
                }
            }
        }
        // Looks at every page: for Miri, once at the end.
        if !cfg!(miri) {
            self.check();
        }
    }

    /// What is counted as free is not lost: all of it can be taken page by page, and put back.
    fn everything_free_can_be_had(&mut self) {
        let pages: Vec<_> = (0..self.frames.free_bytes() / PAGE_SIZE)
            .map(|_| self.frames.alloc_pages(HOST, 1).unwrap().span())
            .collect();
        assert!(pages.iter().all(|page| self.all(*page, Page::Free)));
        assert_eq!(self.frames.alloc_pages(HOST, 1), Err(MemoryError::OutOfMemory));
        pages.iter().for_each(|page| self.frames.free_pages(HOST, page.start(), 1).unwrap());
        self.check();
    }

    fn check(&self) {
        let (mut free, mut used) = (0, [0_u64; 3]);
        for page in &self.pages {
            match page {
                Page::Absent => {}
                Page::Free => free += PAGE_SIZE,
                Page::Of(account) => used[*account] += PAGE_SIZE,
            }
        }
        for (account, used) in used.iter().enumerate() {
            let state = self.frames.account(self.accounts[account]).unwrap();
            assert_eq!(state.used, *used);
            assert!(state.peak >= *used && *used <= state.limit);
        }
        assert_eq!(self.frames.free_bytes(), free);
        assert_eq!(self.frames.total_bytes(), self.frames.free_bytes() + used.iter().sum::<u64>());
        // A block is free as such exactly when all of its pages are.
        let whole = (0..BLOCKS).filter(|b| self.all(span(b * BLOCK_SIZE, BLOCK_SIZE), Page::Free)).count();
        assert_eq!(self.frames.free_blocks(), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]

    #[test]
    fn no_frame_has_two_owners_and_none_is_lost(ops in prop::collection::vec(op(), 1..if cfg!(miri) { 10 } else { 60 })) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        if cfg!(miri) {
            world.check();
        } else {
            world.everything_free_can_be_had();
        }
        while !world.lent.is_empty() {
            world.step(&Op::Free(0, false));
        }
        let f = &mut world.frames;
        prop_assert_eq!(f.free_bytes(), f.total_bytes());
        let all = f.free_blocks();
        prop_assert_eq!(f.alloc_blocks(HOST, all).unwrap().iter().map(|d| d.span().size()).sum::<u64>(), all as u64 * BLOCK_SIZE);
    }
}

#[test]
fn a_block_is_free_once_nobody_has_any_of_it() {
    let mut f = Frames::new(Node(0));
    f.add(&FreeRam::of_test(Span::new(Pa::new(8 * BLOCK_SIZE), 4 * BLOCK_SIZE).unwrap())).unwrap();
    let (a, b) = (f.open_account(u64::MAX).unwrap(), f.open_account(u64::MAX).unwrap());
    let free = |f: &Frames| (8..12).filter(|n| f.is_free_block(Pa::new(n * BLOCK_SIZE + 0x3000))).count();
    assert_eq!(free(&f), 4);
    assert!(!f.is_free_block(Pa::new(7 * BLOCK_SIZE)) && !f.is_free_block(Pa::new(12 * BLOCK_SIZE)), "no RAM");
    let extent = f.alloc_blocks(a, 2).unwrap()[0].span();
    assert_eq!(free(&f), 2);
    // Two owners' pages in one block: it is free with the last of them.
    let (page, other) = (f.alloc_pages(a, 1).unwrap().span(), f.alloc_pages(b, 4).unwrap().span());
    assert_eq!(page.start().as_u64() / BLOCK_SIZE, other.start().as_u64() / BLOCK_SIZE);
    assert_eq!(free(&f), 1);
    f.free_pages(a, page.start(), 1).unwrap();
    assert!(!f.is_free_block(page.start()));
    f.free_pages(b, other.start(), 4).unwrap();
    assert!(f.is_free_block(page.start()));
    f.free_extent(a, extent).unwrap();
    assert_eq!(free(&f), 4);
}

#[test]
fn the_first_gib_is_kept_for_who_needs_it() {
    // 32 MiB below and 16 MiB above, of which 4 MiB are gone.
    let mut f = frames(&[(GIB - 32 * MIB, 48 * MIB)]);
    f.reserve(span(GIB + 8 * MIB, 4 * MIB)).unwrap();
    assert_eq!((f.free_blocks(), f.free_low_blocks()), (22, 16));
    let low = |extent: &(u64, u64)| extent.0 < GIB;
    // In pieces from above rather than in one piece from below.
    let got = f.alloc_blocks(HOST, 6).unwrap();
    assert_eq!(spans(&got), [(GIB, 8 * MIB), (GIB + 12 * MIB, 4 * MIB)]);
    for extent in &got {
        f.free_extent(HOST, extent.span()).unwrap();
    }
    let small = f.alloc_blocks_from(HOST, 4, Reach::Small).unwrap();
    assert!(spans(&small).iter().all(low));
    // More than there is above, and all of it lies below; more than there is anywhere but in both.
    assert!(spans(&f.alloc_blocks(HOST, 8).unwrap()).iter().all(low));
    let all = f.alloc_blocks(HOST, 10).unwrap();
    assert_eq!((f.free_bytes(), all.iter().map(|extent| extent.span().size()).sum::<u64>()), (0, 20 * MIB));
    // Back, also in a piece that lies in both.
    for extent in all.iter().chain(&small) {
        f.free_extent(HOST, extent.span()).unwrap();
    }
    assert_eq!((f.free_blocks(), f.free_low_blocks()), (14, 8));
    assert!(f.alloc_pages(HOST, 1).unwrap().span().start().as_u64() >= GIB);
}
