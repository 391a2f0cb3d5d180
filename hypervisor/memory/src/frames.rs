//! All memory of one node: blocks, the pages carved out of some, and who has them.

use crate::account::Accounts;
use crate::carved::{Carved, PAGES};
use crate::pool::{Pool, Reach};
use crate::{Account, AccountId, Dirty, FreeRam, MemoryError};
use addr::{Address, BLOCK_SIZE, PAGE_SIZE, Pa, Span};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const ADDRESS_BITS: u32 = 48;

/// Which part of the machine's memory a [`Frames`] is (the tree's `numa-node-id`); 0 where there is one only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Node(pub u8);

/// An extent that an account has.
#[derive(Clone, Copy, Debug)]
struct Lent {
    blocks: usize,
    account: AccountId,
}

/// All memory of one node.
pub struct Frames {
    node: Node,
    /// Everything that was ever added.
    ram: Vec<Span<Pa>>,
    total: u64,
    /// Free blocks.
    pool: Pool,
    /// Lent extents by their first block.
    lent: BTreeMap<usize, Lent>,
    /// Carved blocks by number.
    carved: BTreeMap<usize, Carved>,
    /// Free pages of all carved blocks.
    free_pages: usize,
    accounts: Accounts,
}

impl Frames {
    /// A node without memory.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            ram: Vec::new(),
            total: 0,
            pool: Pool::new(),
            lent: BTreeMap::new(),
            carved: BTreeMap::new(),
            free_pages: 0,
            accounts: Accounts::new(),
        }
    }

    /// Which node this is.
    pub fn node(&self) -> Node {
        self.node
    }

    /// Adds RAM that is nobody's: the whole pages of it. Refuses what was added before.
    pub fn add(&mut self, ram: &FreeRam) -> Result<(), MemoryError> {
        let span = ram.span().align_inwards(PAGE_SIZE);
        if span.end().as_u64() > 1 << ADDRESS_BITS || self.ram.iter().any(|s| s.overlaps(&span)) {
            return Err(MemoryError::BadRam);
        }
        if span.is_empty() {
            return Ok(());
        }
        self.ram.push(span);
        self.total = self.total.saturating_add(span.size());
        let blocks = span.align_inwards(BLOCK_SIZE);
        // (All of the span is edge where it holds no whole block.)
        for edge in span.minus(&blocks).into_iter().flatten() {
            for (block, from, count) in parts(edge) {
                self.add_pages(block, from, count);
            }
        }
        self.pool.add(block_of(blocks.start()), block_of(Pa::new(blocks.size())));
        Ok(())
    }

    /// Takes every page that `span` touches out of the pool for good (Merus' image, the bundle, what the board's tree
    /// reserves). Parts that are no RAM are ignored; refuses when some of it is lent.
    pub fn reserve(&mut self, span: Span<Pa>) -> Result<(), MemoryError> {
        let span = span.align_outwards(PAGE_SIZE).ok_or(MemoryError::BadRam)?;
        let ours: Vec<Span<Pa>> = self.ram.iter().filter_map(|ram| common(ram, &span)).collect();
        for (block, from, count) in ours.iter().flat_map(|s| parts(*s)) {
            let page = match self.carved.get(&block) {
                Some(carved) => carved.lent_in(from, count),
                None => self.lent_at(block).map(|_| from),
            };
            if let Some(page) = page {
                return Err(MemoryError::InUse { at: page_at(block, page) });
            }
        }
        for (block, from, count) in ours.iter().flat_map(|s| parts(*s)) {
            self.reserve_pages(block, from, count);
        }
        Ok(())
    }

    /// Bytes of RAM that were added and not reserved.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Bytes that nobody has. Not all of them can be had as blocks.
    pub fn free_bytes(&self) -> u64 {
        blocks_to_bytes(self.pool.free()).saturating_add(pages_to_bytes(self.free_pages))
    }

    /// Whether nobody has anything of the block of 2 MiB that `at` is in.
    pub fn is_free_block(&self, at: Pa) -> bool {
        let block = block_of(at);
        let ours = extent(block, 1)
            .is_some_and(|block| self.ram.iter().any(|ram| ram.contains_range(block.start(), block.size())));
        ours && !self.carved.contains_key(&block) && self.lent_at(block).is_none()
    }

    /// Blocks of 2 MiB that nobody has.
    pub fn free_blocks(&self) -> usize {
        self.pool.free()
    }

    /// Those of them that lie in the first GiB.
    pub fn free_low_blocks(&self) -> usize {
        self.pool.free_low()
    }

    /// Opens an account that may have up to `limit` bytes.
    pub fn open_account(&mut self, limit: u64) -> Result<AccountId, MemoryError> {
        self.accounts.open(limit, None)
    }

    /// As [`Self::open_account`], within a group's account: what is charged to it is charged to both.
    pub fn open_account_in(&mut self, group: AccountId, limit: u64) -> Result<AccountId, MemoryError> {
        self.accounts.open(limit, Some(group))
    }

    /// Charges an account for memory that is not made of frames (Merus' own records of a VM).
    pub fn charge(&mut self, account: AccountId, bytes: u64) -> Result<(), MemoryError> {
        self.accounts.may_take(account, bytes)?;
        self.accounts.charge(account, bytes);
        Ok(())
    }

    /// Takes back what [`Self::charge`] charged.
    pub fn uncharge(&mut self, account: AccountId, bytes: u64) {
        self.accounts.uncharge(account, bytes);
    }

    /// Closes an account that has nothing any more. Its id will name another one.
    pub fn close_account(&mut self, id: AccountId) -> Result<(), MemoryError> {
        self.accounts.close(id)
    }

    /// Changes what an account may have.
    pub fn set_limit(&mut self, id: AccountId, limit: u64) -> Result<(), MemoryError> {
        self.accounts.set_limit(id, limit)
    }

    /// What an account has and may have.
    pub fn account(&self, id: AccountId) -> Option<Account> {
        self.accounts.get(id).copied()
    }

    /// `count` blocks of 2 MiB: one extent if there is one, else as few as the pool's state allows, largest first. An
    /// extent of 2^n blocks is aligned to its own size. Those of the first GiB come last.
    pub fn alloc_blocks(&mut self, account: AccountId, count: usize) -> Result<Vec<Dirty>, MemoryError> {
        self.alloc_blocks_from(account, count, Reach::Any)
    }

    /// As [`Self::alloc_blocks`], from where they are wanted.
    pub fn alloc_blocks_from(
        &mut self,
        account: AccountId,
        count: usize,
        reach: Reach,
    ) -> Result<Vec<Dirty>, MemoryError> {
        self.accounts.may_take(account, blocks_to_bytes(count))?;
        let runs = self.pool.take(count, reach).ok_or(MemoryError::OutOfMemory)?;
        self.accounts.charge(account, blocks_to_bytes(count));
        for &(first, blocks) in &runs {
            self.lent.insert(first, Lent { blocks, account });
        }
        Ok(runs.iter().filter_map(|&(first, blocks)| extent(first, blocks)).map(Dirty::new).collect())
    }

    /// Takes back whole blocks that `account` has within one extent: all of it or a part.
    pub fn free_extent(&mut self, account: AccountId, span: Span<Pa>) -> Result<(), MemoryError> {
        if !span.start().is_aligned(BLOCK_SIZE) || !span.size().is_multiple_of(BLOCK_SIZE) || span.is_empty() {
            return Err(MemoryError::BadSize);
        }
        let (first, blocks) = (block_of(span.start()), block_of(Pa::new(span.size())));
        let found = self.lent_at(first).filter(|(_, lent)| lent.account == account);
        let (start, lent) = found.ok_or(MemoryError::NotLent { at: span.start() })?;
        let before = first.saturating_sub(start);
        let Some(after) = lent.blocks.checked_sub(before).and_then(|rest| rest.checked_sub(blocks)) else {
            return Err(MemoryError::NotLent { at: page_at(start.saturating_add(lent.blocks), 0) });
        };
        self.lent.remove(&start);
        for (first, blocks) in [(start, before), (first.saturating_add(blocks), after)] {
            if blocks != 0 {
                self.lent.insert(first, Lent { blocks, account });
            }
        }
        self.pool.put(first, blocks);
        self.accounts.uncharge(account, span.size());
        Ok(())
    }

    /// `count` pages (a power of two, up to 512) in a row, aligned to their whole size.
    pub fn alloc_pages(&mut self, account: AccountId, count: usize) -> Result<Dirty, MemoryError> {
        if !count.is_power_of_two() || count > PAGES {
            return Err(MemoryError::BadSize);
        }
        self.accounts.may_take(account, pages_to_bytes(count))?;
        let at = self.take_pages(account, count).ok_or(MemoryError::OutOfMemory)?;
        self.accounts.charge(account, pages_to_bytes(count));
        Span::new(at, pages_to_bytes(count)).map(Dirty::new).ok_or(MemoryError::OutOfMemory)
    }

    /// Takes back `count` pages from `at` that `account` has, all or some of what was handed out together.
    pub fn free_pages(&mut self, account: AccountId, at: Pa, count: usize) -> Result<(), MemoryError> {
        let from = page_of(at);
        let end = from.checked_add(count).filter(|end| *end <= PAGES);
        if !at.is_aligned(PAGE_SIZE) || count == 0 || end.is_none() {
            return Err(MemoryError::BadSize);
        }
        let block = block_of(at);
        let carved = self.carved.get_mut(&block).ok_or(MemoryError::NotLent { at })?;
        carved.put(from, count, account).map_err(|page| MemoryError::NotLent { at: page_at(block, page) })?;
        self.free_pages = self.free_pages.saturating_add(count);
        self.accounts.uncharge(account, pages_to_bytes(count));
        self.make_whole(block);
        Ok(())
    }

    /// The lent extent that `block` is in.
    fn lent_at(&self, block: usize) -> Option<(usize, Lent)> {
        let (start, lent) = self.lent.range(..=block).next_back()?;
        (block.checked_sub(*start)? < lent.blocks).then_some((*start, *lent))
    }

    fn take_pages(&mut self, account: AccountId, count: usize) -> Option<Pa> {
        let from_carved = self.carved.iter_mut().filter(|(_, c)| c.free_pages() >= count);
        let mut found = from_carved.filter_map(|(block, c)| c.take(count, account).map(|page| (*block, page))).next();
        if found.is_none() {
            let block = self.pool.take_one()?;
            self.free_pages = self.free_pages.saturating_add(PAGES);
            let carved = self.carved.entry(block).or_insert_with(Carved::whole);
            found = carved.take(count, account).map(|page| (block, page));
        }
        let (block, page) = found?;
        self.free_pages = self.free_pages.saturating_sub(count);
        Some(page_at(block, page))
    }

    /// A carved block whose pages are all free is a block again.
    fn make_whole(&mut self, block: usize) {
        let Some(carved) = self.carved.get(&block).filter(|c| c.is_whole()) else { return };
        if carved.from_buddy {
            self.pool.put(block, 1);
        } else {
            self.pool.add(block, 1);
        }
        self.carved.remove(&block);
        self.free_pages = self.free_pages.saturating_sub(PAGES);
    }

    fn add_pages(&mut self, block: usize, from: usize, count: usize) {
        self.carved.entry(block).or_insert_with(Carved::none).add(from, count);
        self.free_pages = self.free_pages.saturating_add(count);
        self.make_whole(block);
    }

    fn reserve_pages(&mut self, block: usize, from: usize, count: usize) {
        if !self.carved.contains_key(&block) {
            if !self.pool.take_at(block) {
                return; // reserved as a whole before
            }
            self.free_pages = self.free_pages.saturating_add(PAGES);
            self.carved.insert(block, Carved::whole());
        }
        let Some(carved) = self.carved.get_mut(&block) else { return };
        let reserved = carved.reserve(from, count);
        self.free_pages = self.free_pages.saturating_sub(reserved);
        self.total = self.total.saturating_sub(pages_to_bytes(reserved));
        if carved.is_absent() {
            self.carved.remove(&block);
        }
    }
}

fn block_of(at: Pa) -> usize {
    (at.as_u64() / BLOCK_SIZE) as usize
}

fn page_of(at: Pa) -> usize {
    (at.as_u64() % BLOCK_SIZE / PAGE_SIZE) as usize
}

fn page_at(block: usize, page: usize) -> Pa {
    Pa::new(blocks_to_bytes(block).saturating_add(pages_to_bytes(page)))
}

fn blocks_to_bytes(blocks: usize) -> u64 {
    (blocks as u64).saturating_mul(BLOCK_SIZE)
}

fn pages_to_bytes(pages: usize) -> u64 {
    (pages as u64).saturating_mul(PAGE_SIZE)
}

fn extent(first: usize, blocks: usize) -> Option<Span<Pa>> {
    Span::new(page_at(first, 0), blocks_to_bytes(blocks))
}

fn common(a: &Span<Pa>, b: &Span<Pa>) -> Option<Span<Pa>> {
    Span::from_bounds(a.start().max(b.start()), a.end().min(b.end())).filter(|s| !s.is_empty())
}

/// `span` (whole pages) by blocks: the block, its first page and how many pages in `span`.
fn parts(span: Span<Pa>) -> impl Iterator<Item = (usize, usize, usize)> {
    (block_of(span.start())..)
        .map(move |block| (block, extent(block, 1).and_then(|b| common(&b, &span))))
        .map_while(|(block, part)| part.map(|p| (block, page_of(p.start()), (p.size() / PAGE_SIZE) as usize)))
}
