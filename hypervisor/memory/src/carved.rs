//! A 2 MiB block that is handed out page by page, or of which only some pages are ours.

use crate::AccountId;
use addr::{BLOCK_SIZE, PAGE_SIZE};
use alloc::boxed::Box;

/// Pages in a block.
pub(crate) const PAGES: usize = (BLOCK_SIZE / PAGE_SIZE) as usize;

const FREE: u16 = 0xffff;
/// Not ours: reserved, or no RAM.
const ABSENT: u16 = 0xfffe;
const _: () = assert!(AccountId::END <= ABSENT);

/// Who has each page of one block.
#[derive(Debug)]
pub(crate) struct Carved {
    owner: Box<[u16; PAGES]>,
    free: usize,
    /// No page below this one is free.
    first_free: usize,
    /// Whether the buddy allocator counts the block as handed out.
    pub from_buddy: bool,
}

impl Carved {
    /// A block of which all pages are free.
    pub fn whole() -> Self {
        Self { owner: Box::new([FREE; PAGES]), free: PAGES, first_free: 0, from_buddy: true }
    }

    /// A block of which no page is ours yet.
    pub fn none() -> Self {
        Self { owner: Box::new([ABSENT; PAGES]), free: 0, first_free: PAGES, from_buddy: false }
    }

    pub fn free_pages(&self) -> usize {
        self.free
    }

    /// Whether every page is free, so that it can be a block again.
    pub fn is_whole(&self) -> bool {
        self.free == PAGES
    }

    /// Whether no page is ours.
    pub fn is_absent(&self) -> bool {
        self.owner.iter().all(|o| *o == ABSENT)
    }

    /// Whether one of the pages is lent; the first such page.
    pub fn lent_in(&self, from: usize, count: usize) -> Option<usize> {
        let pages = self.owner.iter().enumerate().skip(from).take(count);
        pages.filter(|(_, o)| **o < AccountId::END).map(|(i, _)| i).next()
    }

    /// Pages that were absent are ours now.
    pub fn add(&mut self, from: usize, count: usize) {
        self.replace(from, count, ABSENT, FREE);
    }

    /// Free pages are not ours any more. How many.
    pub fn reserve(&mut self, from: usize, count: usize) -> usize {
        self.replace(from, count, FREE, ABSENT)
    }

    /// `count` (a power of two) free pages at a multiple of `count`, now `account`'s.
    pub fn take(&mut self, count: usize, account: AccountId) -> Option<usize> {
        let mut at = self.first_free.checked_next_multiple_of(count.max(1))?;
        loop {
            let end = at.checked_add(count)?;
            if self.owner.get(at..end)?.iter().all(|o| *o == FREE) {
                break;
            }
            at = end;
        }
        self.replace(at, count, FREE, account.as_u16());
        if count == 1 {
            self.first_free = at.saturating_add(1);
        }
        Some(at)
    }

    /// Takes pages back from `account`; the first page that it does not have otherwise.
    pub fn put(&mut self, from: usize, count: usize, account: AccountId) -> Result<(), usize> {
        let mut pages = self.owner.iter().enumerate().skip(from).take(count);
        match pages.find(|(_, o)| **o != account.as_u16()) {
            Some((i, _)) => Err(i),
            None => {
                self.replace(from, count, account.as_u16(), FREE);
                Ok(())
            }
        }
    }

    fn replace(&mut self, from: usize, count: usize, old: u16, new: u16) -> usize {
        let mut changed = 0_usize;
        for owner in self.owner.iter_mut().skip(from).take(count).filter(|o| **o == old) {
            *owner = new;
            changed = changed.saturating_add(1);
        }
        if old == FREE {
            self.free = self.free.saturating_sub(changed);
        } else if new == FREE {
            self.free = self.free.saturating_add(changed);
            self.first_free = self.first_free.min(from);
        }
        changed
    }
}
