//! A few pages at hand, for exit paths: they neither wait for the lock on [`Frames`] nor use the heap.

use crate::{AccountId, Dirty, Frames, MemoryError};
use addr::{PAGE_SIZE, Pa, Span};
use arrayvec::ArrayVec;

/// Up to `N` pages of one account, charged when they enter the cache. Refilled and drained outside of exit paths.
#[derive(Debug)]
pub struct FrameCache<const N: usize> {
    account: AccountId,
    pages: ArrayVec<Pa, N>,
}

impl<const N: usize> FrameCache<N> {
    /// An empty cache of pages for `account`.
    pub fn new(account: AccountId) -> Self {
        Self { account, pages: ArrayVec::new() }
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// A page, `None` if the cache is empty.
    pub fn take(&mut self) -> Option<Dirty> {
        Span::new(self.pages.pop()?, PAGE_SIZE).map(Dirty::new)
    }

    /// Puts back a page of the same account. A full cache gives it back.
    pub fn put(&mut self, page: Pa) -> Result<(), Pa> {
        self.pages.try_push(page).map_err(|e| e.element())
    }

    /// Fills the cache. On an error it keeps what it got.
    pub fn refill(&mut self, frames: &mut Frames) -> Result<(), MemoryError> {
        while !self.pages.is_full() {
            self.pages.push(frames.alloc_pages(self.account, 1)?.span().start());
        }
        Ok(())
    }

    /// Gives back all but `keep` pages. An error names a page that was put here and is not the account's; it is dropped.
    pub fn drain(&mut self, keep: usize, frames: &mut Frames) -> Result<(), MemoryError> {
        while self.pages.len() > keep {
            if let Some(page) = self.pages.pop() {
                frames.free_pages(self.account, page, 1)?;
            }
        }
        Ok(())
    }
}
