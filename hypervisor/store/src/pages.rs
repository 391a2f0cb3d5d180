//! A disk's own pages: which frame holds which, and the frames that hold none.
//!
//! Two levels: a root in the heap that is made with the disk, four bytes for 4 MiB, and tables in frames for those parts that were
//! ever written to. The free frames are a list through their own first bytes. So nothing here grows but by frames.

use addr::Pa;
use alloc::boxed::Box;
use alloc::vec;
use sync::nospec;

/// Bytes of a page and of a frame.
pub const PAGE: u64 = 4096;
/// Frames that a disk wants in its reserve.
pub const RESERVE: usize = 64;
/// With fewer it asks for more.
const LOW: usize = 32;
/// With more it says that it has some to spare: not for each page, so that one which is given up and written by turns costs nobody anything.
const MUCH: usize = 96;
/// Entries of a table.
const ENTRIES: u64 = PAGE / 4;
/// Bytes of the disk that a table is about.
pub const TABLE: u64 = PAGE * ENTRIES;

/// RAM by physical address, in frames of [`PAGE`] bytes that are the disk's alone.
pub trait Frames: Send {
    /// Copies bytes of one frame.
    fn read(&self, at: Pa, into: &mut [u8]);
    /// Writes bytes of one frame.
    fn write(&mut self, at: Pa, from: &[u8]);
    /// The reserve is low, a write has found it empty, or it has much more than it wants. Called inside an exit, with the disk's locks
    /// held: it may leave a note.
    fn wanted(&mut self);
}

/// What holds a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// The image, and zeroes behind its end.
    Image,
    /// Nothing: it is all zeroes.
    Zeroes,
    /// This frame.
    Frame(Pa),
}

/// There is no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Empty;

/// An entry of a table, or of the root: these, or the number of a frame.
const IMAGE: u32 = 0;
const ZEROES: u32 = 1;

fn frame(number: u32) -> Pa {
    Pa::new(u64::from(number).wrapping_mul(PAGE))
}

/// The number of a frame that can be one of ours: aligned, below 16 TiB, and neither of the first two.
fn number(at: Pa) -> Option<u32> {
    let at = at.as_u64();
    let number = u32::try_from(at / PAGE).ok()?;
    (at.is_multiple_of(PAGE) && number > ZEROES).then_some(number)
}

/// The pages of one disk.
pub struct Pages<F: Frames> {
    pub frames: F,
    root: Box<[u32]>,
    /// The first free frame, and how many there are.
    free: u32,
    count: usize,
    /// Frames that hold pages, and tables.
    pub held: u64,
    pub tables: u64,
    /// Where [`Pages::release`] is.
    released: u64,
}

impl<F: Frames> Pages<F> {
    /// For a disk of so many bytes of which every page is the image's. Allocates.
    pub fn new(frames: F, bytes: u64) -> Self {
        let tables = usize::try_from(bytes.div_ceil(TABLE)).unwrap_or(0);
        Self { frames, root: vec![IMAGE; tables].into(), free: 0, count: 0, held: 0, tables: 0, released: 0 }
    }

    /// Frames in the reserve.
    pub fn free(&self) -> usize {
        self.count
    }

    /// Whether the reserve is low.
    pub fn is_low(&self) -> bool {
        self.count < LOW
    }

    /// Whether the reserve has much more than is wanted.
    pub fn is_rich(&self) -> bool {
        self.count > MUCH
    }

    /// Puts a frame into the reserve; it comes back where it can be none of ours.
    pub fn give(&mut self, at: Pa) -> Result<(), Pa> {
        let number = number(at).ok_or(at)?;
        self.frames.write(at, &self.free.to_le_bytes());
        self.free = number;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Takes a frame from the reserve.
    pub fn take(&mut self) -> Result<Pa, Empty> {
        let at = frame(self.free);
        self.count = self.count.checked_sub(1).ok_or(Empty)?;
        self.free = self.word(at);
        Ok(at)
    }

    fn word(&self, at: Pa) -> u32 {
        let mut bytes = [0; 4];
        self.frames.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The entry of a page in its table, if there is one.
    fn entry(&self, page: u64) -> Option<Pa> {
        let index = usize::try_from(page / ENTRIES).ok()?;
        let table = nospec::get(&self.root, index).copied().filter(|table| *table != IMAGE)?;
        Some(Pa::new(frame(table).as_u64().wrapping_add((page % ENTRIES).wrapping_mul(4))))
    }

    /// What holds a page.
    pub fn get(&self, page: u64) -> Holder {
        match self.entry(page).map(|at| self.word(at)) {
            None | Some(IMAGE) => Holder::Image,
            Some(ZEROES) => Holder::Zeroes,
            Some(number) => Holder::Frame(frame(number)),
        }
    }

    /// The first page behind those that the image holds for certain, from `page` on: that one, unless it has no table.
    pub fn skip(&self, page: u64) -> u64 {
        match self.entry(page) {
            Some(_) => page,
            None => (page / ENTRIES).saturating_add(1).saturating_mul(ENTRIES),
        }
    }

    /// Frames that a page takes which the image holds: its own, and a table.
    pub fn needs(&self, page: u64) -> usize {
        if self.entry(page).is_some() { 1 } else { 2 }
    }

    /// Has a page held by something else; what held it goes to the reserve. Takes a frame where there is no table yet.
    pub fn set(&mut self, page: u64, holder: Holder) -> Result<(), Empty> {
        let (old, at) = match self.entry(page) {
            Some(at) => (self.word(at), at),
            None => (IMAGE, self.make_table(page)?),
        };
        let new = match holder {
            Holder::Image => IMAGE,
            Holder::Zeroes => ZEROES,
            // All are of the reserve, so they have numbers.
            Holder::Frame(frame) => number(frame).unwrap_or(ZEROES),
        };
        self.frames.write(at, &new.to_le_bytes());
        if new > ZEROES {
            self.held = self.held.saturating_add(1);
        }
        if old > ZEROES {
            self.held = self.held.saturating_sub(1);
            let _ = self.give(frame(old));
        }
        Ok(())
    }

    /// A table for a page that has none: its entry there.
    fn make_table(&mut self, page: u64) -> Result<Pa, Empty> {
        let index = usize::try_from(page / ENTRIES).map_err(|_| Empty)?;
        if index >= self.root.len() {
            return Err(Empty);
        }
        let at = self.take()?;
        for part in (0..PAGE).step_by(ZERO.len()) {
            self.frames.write(Pa::new(at.as_u64().wrapping_add(part)), &ZERO);
        }
        if let (Some(slot), Some(number)) = (nospec::get_mut(&mut self.root, index), number(at)) {
            *slot = number;
            self.tables = self.tables.saturating_add(1);
        }
        self.entry(page).ok_or(Empty)
    }

    /// Gives back frames, looking at `most` entries: first the pages', then their tables, then the reserve. `true`: there are none left.
    pub fn release(&mut self, most: usize, mut back: impl FnMut(Pa)) -> bool {
        let end = (self.root.len() as u64).saturating_mul(ENTRIES);
        for _ in 0..most {
            if self.released >= end {
                match self.take() {
                    Ok(at) => back(at),
                    Err(Empty) => {
                        self.released = 0;
                        return true;
                    }
                }
                continue;
            }
            let page = self.released;
            if let Holder::Frame(at) = self.get(page)
                && let Some(entry) = self.entry(page)
            {
                self.frames.write(entry, &IMAGE.to_le_bytes());
                self.held = self.held.saturating_sub(1);
                back(at);
            }
            self.released = self.skip(page.saturating_add(1)).min(end);
            if self.skip(page) == page && self.released.is_multiple_of(ENTRIES) {
                self.drop_table(page, &mut back);
            }
        }
        false
    }

    /// The table of a page holds nothing any more.
    fn drop_table(&mut self, page: u64, back: &mut impl FnMut(Pa)) {
        let slot = usize::try_from(page / ENTRIES).ok().and_then(|index| self.root.get_mut(index));
        if let Some(slot) = slot.filter(|slot| **slot != IMAGE) {
            let at = frame(core::mem::replace(slot, IMAGE));
            self.tables = self.tables.saturating_sub(1);
            back(at);
        }
    }
}

const ZERO: [u8; 512] = [0; 512];
