//! An image in RAM, copied page by page as it is written to.

use addr::Pa;
use alloc::boxed::Box;
use host::disk::{Data, Disk, DiskError, DiskShape, Gone, Progress, Request, SECTOR, SERIAL, Tag};
use sync::nospec;

use crate::pages::{Empty, Frames, Holder, PAGE, Pages, RESERVE};

/// Bytes of the largest disk: its root takes 64 KiB.
pub const LARGEST: u64 = 64 << 30;
/// Bytes of the largest read or write, so that it is bounded work.
const MOST: u32 = 128 << 10;
/// Pages that a discard or a write of zeroes looks at before it is done in part.
const STEP: u32 = 64;

/// What a disk begins as: bytes that nobody changes.
pub trait Image: Send {
    /// How many.
    fn size(&self) -> u64;
    /// All of them, where they lie in one piece that can be looked at.
    fn whole(&self) -> Option<&[u8]>;
    /// Fills `into` with those from `at` on, all of which are there.
    fn read(&self, at: u64, into: &mut [u8]);
}

impl<B: AsRef<[u8]> + Send> Image for B {
    fn size(&self) -> u64 {
        self.as_ref().len() as u64
    }
    fn whole(&self) -> Option<&[u8]> {
        Some(self.as_ref())
    }
    fn read(&self, at: u64, into: &mut [u8]) {
        let from = usize::try_from(at).ok().and_then(|at| self.as_ref().get(at..)?.get(..into.len()));
        if let Some(from) = from {
            into.copy_from_slice(from);
        }
    }
}

/// Frames that a disk has, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Pages that were written.
    pub pages: u64,
    /// Tables that say where they are.
    pub tables: u64,
    /// Frames that hold nothing yet.
    pub reserve: u64,
}

/// A disk over an image `B` that is never changed, with its own pages in `F`.
pub struct Cow<B, F: Frames> {
    image: B,
    pages: Pages<F>,
    shape: DiskShape,
    /// No frames are to be had.
    refused: bool,
    /// A write has found the reserve empty, or low.
    asked: bool,
    /// For a page on its way. One copy more than needed, but what is shared with nobody is not borrowed from anybody either.
    page: Box<[u8; PAGE as usize]>,
}

/// A piece of a request within one page.
#[derive(Clone, Copy)]
struct Piece {
    page: u64,
    /// Where it begins in the page, and how long it is.
    from: usize,
    size: usize,
}

impl Piece {
    fn is_whole(&self) -> bool {
        self.size == PAGE as usize
    }
}

/// Where and how much lies within one page of `size` bytes at `at`.
fn piece(at: u64, size: u64) -> Piece {
    let from = at % PAGE;
    let size = size.min(PAGE.saturating_sub(from));
    Piece { page: at / PAGE, from: from as usize, size: size as usize }
}

impl<B: Image, F: Frames> Cow<B, F> {
    /// A disk of `sectors` that reads as `image`, and as zeroes behind its end. `None`: it is larger than [`LARGEST`]. Allocates 4 KiB,
    /// and 4 bytes for each 4 MiB where it can be written to.
    pub fn new(image: B, frames: F, sectors: u64, read_only: bool, serial: [u8; SERIAL]) -> Option<Self> {
        let bytes = sectors.checked_mul(SECTOR).filter(|bytes| *bytes <= LARGEST)?;
        let shape = DiskShape {
            sectors,
            read_only,
            block: SECTOR as u32,
            piece: PAGE as u32,
            discard: !read_only,
            cached: false,
            largest: MOST,
            depth: 0,
            serial,
        };
        let pages = Pages::new(frames, if read_only { 0 } else { bytes });
        Some(Self { image, pages, shape, refused: false, asked: false, page: Box::new([0; PAGE as usize]) })
    }

    /// How many frames the reserve shall be given now; 0 before the first write.
    pub fn wants(&self) -> usize {
        if self.asked { RESERVE.saturating_sub(self.pages.free()) } else { 0 }
    }

    /// A frame for the reserve: [`PAGE`] bytes of RAM that nobody else has. It comes back where it is not aligned, among the first two
    /// of memory, or beyond 16 TiB.
    pub fn give(&mut self, frame: Pa) -> Result<(), Pa> {
        self.pages.give(frame)?;
        self.refused = false;
        self.asked &= self.pages.free() < RESERVE;
        Ok(())
    }

    /// There are no frames to be had: what needs one answers `NoSpace` from now on, and asks anyway.
    pub fn refuse(&mut self) {
        self.refused = true;
    }

    /// A frame that the reserve has beyond what it wants.
    pub fn take_back(&mut self) -> Option<Pa> {
        if self.pages.free() > RESERVE { self.pages.take().ok() } else { None }
    }

    /// The disk becomes its image again: gives back all its frames, after looking at `most` pages or frames. `true`: that was all. Nobody
    /// may use the disk meanwhile.
    pub fn release(&mut self, most: usize, back: impl FnMut(Pa)) -> bool {
        (self.asked, self.refused) = (false, false);
        self.pages.release(most, back)
    }

    /// Frames that it has.
    pub fn usage(&self) -> Usage {
        Usage { pages: self.pages.held, tables: self.pages.tables, reserve: self.pages.free() as u64 }
    }

    /// What its frames are reached by.
    pub fn frames(&self) -> &F {
        &self.pages.frames
    }

    /// There are not enough frames.
    fn short(&mut self) -> DiskError {
        self.ask();
        if self.refused { DiskError::NoSpace } else { DiskError::Later }
    }

    fn ask(&mut self) {
        self.asked = true;
        self.pages.frames.wanted();
    }

    /// Hands `size` bytes of the image from `at` on to `data`, at byte `to` of the request.
    fn read_image(&mut self, at: u64, size: u64, to: u64, data: &mut dyn Data) -> Result<(), Gone> {
        let length = self.image.size();
        let there = if at < length { size.min(length.saturating_sub(at)) } else { 0 };
        if there != 0 {
            let at = nospec::below(at, length);
            match self.image.whole() {
                Some(image) => {
                    let from = at as usize;
                    data.store(to, image.get(from..from.saturating_add(there as usize)).unwrap_or_default())?;
                }
                None => self.read_pieces(at, there, to, data)?,
            }
        }
        // What is behind its end.
        let mut done = there;
        if done < size {
            self.page.fill(0);
        }
        while done < size {
            let part = self.page.get(..size.saturating_sub(done).min(PAGE) as usize).unwrap_or_default();
            data.store(to.saturating_add(done), part)?;
            done = done.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// The same of bytes that the image has, by way of a page.
    fn read_pieces(&mut self, at: u64, size: u64, to: u64, data: &mut dyn Data) -> Result<(), Gone> {
        let mut done = 0;
        while done < size {
            let part = self.page.get_mut(..size.saturating_sub(done).min(PAGE) as usize).unwrap_or_default();
            self.image.read(at.saturating_add(done), part);
            data.store(to.saturating_add(done), part)?;
            done = done.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    fn read(&mut self, at: u64, size: u64, data: &mut dyn Data) -> Result<(), DiskError> {
        let mut done = 0;
        while done < size {
            let (from, left) = (at.saturating_add(done), size.saturating_sub(done));
            let next = piece(from, left);
            let count = match self.pages.get(next.page) {
                Holder::Image => {
                    let count = self.image_run(from, left);
                    self.read_image(from, count, done, data)?;
                    count
                }
                holder => {
                    let page = self.page.get_mut(..next.size).unwrap_or_default();
                    match holder {
                        Holder::Frame(frame) => self.pages.frames.read(offset(frame, next.from), page),
                        _ => page.fill(0),
                    }
                    data.store(done, page)?;
                    next.size as u64
                }
            };
            done = done.saturating_add(count);
        }
        Ok(())
    }

    /// How many of `size` bytes at `at`, the first of which the image holds, it holds for certain.
    fn image_run(&self, at: u64, size: u64) -> u64 {
        let end = at.saturating_add(size);
        let next = |page: u64| self.pages.skip(page).max(page.saturating_add(1));
        let mut page = next(at / PAGE);
        while page.saturating_mul(PAGE) < end && self.pages.get(page) == Holder::Image {
            page = next(page);
        }
        page.saturating_mul(PAGE).min(end).saturating_sub(at)
    }

    /// Fills the page on its way with what the image has there.
    fn copy_image(&mut self, page: u64) {
        let at = page.saturating_mul(PAGE);
        let there = self.image.size().saturating_sub(at).min(PAGE);
        let (head, tail) = self.page.split_at_mut(there as usize);
        if there != 0 {
            self.image.read(at, head);
        }
        tail.fill(0);
    }

    /// Writes what `fill` puts into a piece of a page, into the page's own frame: one that it has, or gets now.
    fn write_piece(&mut self, piece: Piece, fill: impl FnOnce(&mut [u8]) -> Result<(), Gone>) -> Result<(), DiskError> {
        let holder = self.pages.get(piece.page);
        if let Holder::Frame(frame) = holder {
            let part = self.page.get_mut(..piece.size).unwrap_or_default();
            fill(part)?;
            self.pages.frames.write(offset(frame, piece.from), part);
            return Ok(());
        }
        if self.pages.free() < self.pages.needs(piece.page) {
            return Err(self.short());
        }
        match holder {
            _ if piece.is_whole() => {}
            Holder::Zeroes => self.page.fill(0),
            _ => self.copy_image(piece.page),
        }
        let end = piece.from.saturating_add(piece.size);
        fill(self.page.get_mut(piece.from..end).unwrap_or_default())?;
        // Nothing has changed so far, and nothing fails from here.
        let Ok(frame) = self.pages.take() else { return Err(self.short()) };
        self.pages.frames.write(frame, &*self.page);
        if let Err(Empty) = self.pages.set(piece.page, Holder::Frame(frame)) {
            let _ = self.pages.give(frame);
            return Err(self.short());
        }
        Ok(())
    }

    /// Calls `each` for the pieces of a range, up to `most`; an error behind the first ends it there. How many bytes are done.
    fn pieces(
        &mut self,
        at: u64,
        size: u64,
        most: u32,
        mut each: impl FnMut(&mut Self, Piece, u64) -> Result<(), DiskError>,
    ) -> Result<u64, DiskError> {
        let (mut done, mut count) = (0, 0);
        while done < size && count != most {
            let next = piece(at.saturating_add(done), size.saturating_sub(done));
            match each(self, next, done) {
                Ok(()) => done = done.saturating_add(next.size as u64),
                Err(DiskError::Later | DiskError::NoSpace) if done != 0 => break,
                Err(error) => return Err(error),
            }
            count = count.saturating_add(1);
        }
        if self.pages.is_low() && !self.asked {
            self.ask();
        }
        Ok(done)
    }

    /// What is whole of a page, and was written, is given up.
    fn discard(&mut self, at: u64, size: u64) -> u64 {
        let end = at.saturating_add(size);
        let (mut page, last) = (at.div_ceil(PAGE), end / PAGE);
        for _ in 0..STEP {
            if page >= last {
                return size;
            }
            if let Holder::Frame(_) = self.pages.get(page) {
                // It has a table, so it takes no frame.
                let _ = self.pages.set(page, Holder::Zeroes);
            }
            page = self.pages.skip(page.saturating_add(1));
        }
        page.min(last).saturating_mul(PAGE).saturating_sub(at)
    }

    /// A piece reads as zeroes from now on.
    fn zero_piece(&mut self, piece: Piece, unmap: bool) -> Result<(), DiskError> {
        let behind = piece.page.saturating_mul(PAGE) >= self.image.size();
        match self.pages.get(piece.page) {
            Holder::Zeroes => return Ok(()),
            Holder::Image if behind => return Ok(()),
            Holder::Frame(_) if !(unmap && piece.is_whole()) => {}
            _ if piece.is_whole() => {
                let done = self.pages.set(piece.page, Holder::Zeroes);
                return done.map_err(|Empty| self.short());
            }
            _ => {}
        }
        self.write_piece(piece, |part| {
            part.fill(0);
            Ok(())
        })
    }
}

/// A byte of a frame.
fn offset(frame: Pa, from: usize) -> Pa {
    Pa::new(frame.as_u64().wrapping_add(from as u64))
}

impl<B: Image, F: Frames> Disk for Cow<B, F> {
    fn shape(&self) -> DiskShape {
        self.shape
    }

    fn submit(&mut self, _tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        self.shape.allows(&request)?;
        let done = match request {
            Request::Read { at, size } => self.read(at, size, data).map(|()| size),
            Request::Write { at, size } => self
                .pieces(at, size, u32::MAX, |disk, piece, done| disk.write_piece(piece, |part| data.load(done, part))),
            // RAM is as safe as it gets.
            Request::Flush => Ok(0),
            Request::Discard { at, size } => Ok(self.discard(at, size)),
            Request::Zero { at, size } => self.pieces(at, size, STEP, |disk, piece, _| disk.zero_piece(piece, false)),
            Request::Unmap { at, size } => self.pieces(at, size, STEP, |disk, piece, _| disk.zero_piece(piece, true)),
        };
        // Nothing else gives frames up.
        if matches!(request, Request::Discard { .. } | Request::Unmap { .. }) && self.pages.is_rich() {
            self.asked = false;
            self.pages.frames.wanted();
        }
        done.map(Progress::Done)
    }
}
