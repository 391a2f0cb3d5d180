//! Disks: an image in RAM with its copies on write, and one that answers later, in any order, or not well.

use crate::input::Input;
use crate::play::Target;
use crate::rig::{Bound, How, Part, Request, Rig};
use addr::Pa;
use devices::virtio::blk::Blk;
use devices::virtio::blk::spec::*;
use devices::virtio::ring::STEP;
use host::disk::{self, Data, Disk, DiskError, DiskShape, Progress, SECTOR, SERIAL, Tag};
use std::sync::{Arc, Mutex};
use store::{Cow, Frames, PAGE};

/// Sectors of the disk; the image has fewer, and no whole page at its end.
const SECTORS: u64 = 128;
const IMAGE: usize = 80 * 512 + 100;

/// Frames of RAM, some of which are lent.
#[derive(Default)]
struct Pool {
    frames: Vec<(Vec<u8>, bool)>,
    wanted: bool,
}

/// The disk's way to them: into none but those that it has.
#[derive(Clone, Default)]
pub struct Lent(Arc<Mutex<Pool>>);

impl Lent {
    fn with<T>(&self, at: Pa, act: impl FnOnce(&mut [u8], usize) -> T) -> T {
        let mut pool = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (number, from) = (at.as_u64() / PAGE, (at.as_u64() % PAGE) as usize);
        let (bytes, lent) = &mut pool.frames[number as usize - 2];
        assert!(*lent, "a frame that the disk does not have");
        act(bytes, from)
    }
    fn lend(&self) -> Pa {
        let mut pool = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let free = pool.frames.iter().position(|(_, lent)| !lent).unwrap_or_else(|| {
            pool.frames.push((vec![0xee; PAGE as usize], false));
            pool.frames.len() - 1
        });
        pool.frames[free].1 = true;
        Pa::new((free as u64 + 2) * PAGE)
    }
    fn back(&self, at: Pa) {
        self.with(at, |_, from| assert_eq!(from, 0));
        let mut pool = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pool.frames[(at.as_u64() / PAGE) as usize - 2].1 = false;
    }
    fn count(&self) -> usize {
        let pool = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pool.frames.iter().filter(|(_, lent)| *lent).count()
    }
}

impl Frames for Lent {
    fn read(&self, at: Pa, into: &mut [u8]) {
        self.with(at, |bytes, from| into.copy_from_slice(&bytes[from..from + into.len()]));
    }
    fn write(&mut self, at: Pa, bytes: &[u8]) {
        self.with(at, |frame, from| frame[from..from + bytes.len()].copy_from_slice(bytes));
    }
    fn wanted(&mut self) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).wanted = true;
    }
}

/// A request on its way.
struct Open {
    tag: Tag,
    request: disk::Request,
    result: Option<Result<(), DiskError>>,
}

/// A disk that answers when it is told to.
pub struct Late {
    bytes: Vec<u8>,
    shape: DiskShape,
    open: Vec<Open>,
    full: bool,
}

impl Late {
    fn range(request: &disk::Request) -> std::ops::Range<usize> {
        let (at, size) = request.range();
        at as usize..(at + size) as usize
    }
    /// One that is on its way ends.
    fn end(&mut self, which: usize, result: Result<(), DiskError>) {
        let mut running: Vec<_> = self.open.iter_mut().filter(|open| open.result.is_none()).collect();
        let count = running.len();
        if count != 0 {
            running[which % count].result = Some(result);
        }
    }
}

impl Disk for Late {
    fn shape(&self) -> DiskShape {
        self.shape
    }
    fn submit(&mut self, tag: Tag, request: disk::Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        let size = request.range().1;
        assert!(self.shape.allows(&request).is_ok(), "a request that the disk does not allow: {request:?}");
        assert!(tag.0 < self.shape.depth && self.open.iter().all(|open| open.tag != tag), "a tag that is taken");
        match request {
            disk::Request::Read { .. } | disk::Request::Write { .. } => {
                assert!(size <= self.shape.largest.into() && size != 0, "{request:?}");
            }
            _ => {}
        }
        if self.full || self.open.len() >= self.shape.depth.into() {
            return Err(DiskError::Later);
        }
        if let disk::Request::Write { .. } = request {
            data.load(0, &mut self.bytes[Self::range(&request)])?;
        }
        self.open.push(Open { tag, request, result: None });
        Ok(Progress::Started)
    }
    fn ended(&mut self) -> Option<Tag> {
        Some(self.open.iter().find(|open| open.result.is_some())?.tag)
    }
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let at = self.open.iter().position(|open| open.tag == tag && open.result.is_some()).expect("nothing ended");
        if let (Some(data), disk::Request::Read { .. }, Some(Ok(()))) =
            (data, self.open[at].request, self.open[at].result)
        {
            data.store(0, &self.bytes[Self::range(&self.open[at].request)])?;
        }
        self.open.remove(at).result.unwrap_or(Ok(()))
    }
}

/// One of the two. (No device of its own for each: an input's first byte says which.)
pub enum Either {
    Cow(Box<Cow<Vec<u8>, Lent>>),
    Late(Late),
}

impl Disk for Either {
    fn shape(&self) -> DiskShape {
        match self {
            Self::Cow(disk) => disk.shape(),
            Self::Late(disk) => disk.shape(),
        }
    }
    fn submit(&mut self, tag: Tag, request: disk::Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        match self {
            Self::Cow(disk) => disk.submit(tag, request, data),
            Self::Late(disk) => disk.submit(tag, request, data),
        }
    }
    fn ended(&mut self) -> Option<Tag> {
        match self {
            Self::Cow(disk) => disk.ended(),
            Self::Late(disk) => disk.ended(),
        }
    }
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        match self {
            Self::Cow(disk) => disk.finish(tag, data),
            Self::Late(disk) => disk.finish(tag, data),
        }
    }
}

/// The disk's frames, and whether it can be written to.
pub struct Disks {
    lent: Lent,
    read_only: bool,
}

impl Disks {
    /// Frames for the disk: as many as it wants, or this many.
    fn give(&self, rig: &mut Rig<Blk<Either>>, count: usize, anyway: bool) {
        let Either::Cow(disk) = rig.mmio.device_mut().disk_mut() else { return };
        for _ in 0..if anyway { count } else { disk.wants().min(count) } {
            let frame = self.lent.lend();
            if let Err(frame) = disk.give(frame) {
                self.lent.back(frame);
            }
        }
    }

    /// Has all end that is on its way.
    fn settle(&self, rig: &mut Rig<Blk<Either>>) {
        for turn in 0..400 {
            self.give(rig, usize::MAX, false);
            let mut open = false;
            if let Either::Late(disk) = rig.mmio.device_mut().disk_mut() {
                disk.full = false;
                open = !disk.open.is_empty();
                disk.end(0, Ok(()));
            }
            rig.act(|mmio| mmio.poke(0));
            rig.finish();
            if turn > 2 && !open && rig.mmio.device().stats().depth == 0 {
                return;
            }
        }
        panic!("requests never end");
    }
}

fn head(kind: u32, sector: u64) -> Part {
    let value = u128::from(kind) | u128::from(sector) << 64;
    Part::Read(value.to_le_bytes().to_vec())
}

impl Target for Disks {
    type Device = Blk<Either>;
    /// A step copies 32 KiB, beside what heads and descriptors take.
    const BOUND: Bound = Bound { accesses: 1000, bytes: 0x8000 + 0x2000, descriptors: STEP as usize };

    fn new(shape: u8) -> (Blk<Either>, Self) {
        let lent = Lent::default();
        let read_only = shape & 6 == 6;
        let image: Vec<u8> = (0..IMAGE).map(|n| (n / 512 + n) as u8).collect();
        let disk = if shape & 1 == 0 {
            let disk = Cow::new(image, lent.clone(), SECTORS, read_only, [b'x'; SERIAL]);
            Either::Cow(Box::new(disk.expect("a small disk")))
        } else {
            let (block, largest) =
                (512 << (shape >> 3 & 3), [4096, 16 << 10, 32 << 10, 64 << 10][usize::from(shape >> 5 & 3)]);
            let (depth, cached) = (if shape & 0x80 == 0 { 3 } else { 32 }, shape & 2 != 0);
            let mut bytes = image;
            bytes.resize((SECTORS * SECTOR) as usize, 0);
            let shape = DiskShape {
                sectors: SECTORS,
                read_only,
                block,
                piece: 4096,
                discard: shape & 4 != 0,
                cached,
                largest,
                depth,
                serial: [b'y'; SERIAL],
            };
            Either::Late(Late { bytes, shape, open: Vec::new(), full: false })
        };
        (Blk::new(disk), Self { lent, read_only })
    }

    fn request(&self, input: &mut Input<'_>) -> Request {
        let (kind, pieces, size) = (input.u8(), 1 + usize::from(input.u8() % 5), u64::from(input.u8()));
        let sector = if input.u8() < 0xe8 { u64::from(input.u8()) % (SECTORS + 2) } else { input.u64() };
        let odd = if input.u8() < 0xe0 { 0 } else { u32::from(input.u8()) };
        let size = [SECTOR, SECTOR, 4096, 4096, 1][usize::from(kind >> 4) % 5] * (1 + size % 20);
        let mut parts = Vec::new();
        // Of a piece each, the last one has the rest.
        let mut split = |part: fn(usize) -> Part, size: usize| {
            let each = (size / pieces).max(1);
            (1..pieces).for_each(|_| parts.push(part(each)));
            parts.push(part((size + odd as usize).saturating_sub(each * (pieces - 1)).max(1)));
        };
        let range = |flags: u32| {
            let value = u128::from(sector) | u128::from((size / 512) as u32) << 64 | u128::from(flags) << 96;
            value.to_le_bytes().to_vec()
        };
        let first = match kind % 16 {
            0..=5 => {
                split(|size| Part::Write(size as u32), size as usize);
                head(T_IN, sector)
            }
            6..=10 => {
                split(|size| Part::Read(vec![size as u8; size]), size as usize);
                head(T_OUT, sector)
            }
            11 => head(T_FLUSH, 0),
            12 => {
                parts.push(Part::Write(1 + size as u32 % 30));
                head(T_GET_ID, sector)
            }
            13 => {
                parts.push(Part::Read(range(odd & 3)));
                head(T_DISCARD, 0)
            }
            14 => {
                parts.push(Part::Read(range(odd & 3)));
                head(T_WRITE_ZEROES, 0)
            }
            _ => head(odd, sector),
        };
        parts.insert(0, first);
        parts.push(Part::Write(1));
        Request { queue: 0, parts }
    }

    fn outside(&mut self, rig: &mut Rig<Self::Device>, input: &mut Input<'_>) {
        let (what, more) = (input.u8() % 8, input.u8());
        match (what, rig.mmio.device_mut().disk_mut()) {
            (0, _) => rig.act(|mmio| mmio.run_waiting()),
            (1, _) => rig.act(|mmio| mmio.poke(0)),
            (2, _) => drop(rig.step(|mmio| mmio.device_mut().settle())),
            (3, Either::Cow(disk)) => disk.refuse(),
            (4, Either::Cow(disk)) => {
                if let Some(frame) = disk.take_back() {
                    self.lent.back(frame);
                }
            }
            (3, Either::Late(disk)) => disk.full = more & 1 != 0,
            (_, Either::Late(disk)) => {
                let result = if more & 0x80 == 0 { Ok(()) } else { Err(DiskError::Io) };
                for _ in 0..if more & 0x20 == 0 { 1 } else { disk.open.len() } {
                    disk.end(usize::from(more & 0x1f), result);
                }
                if more & 0x40 == 0 {
                    rig.act(|mmio| mmio.poke(0));
                }
            }
            (_, Either::Cow(_)) => {
                self.give(rig, usize::from(more % 17), false);
                rig.act(|mmio| mmio.poke(0));
            }
        }
    }

    fn alive(&mut self, rig: &mut Rig<Self::Device>) {
        // What was on its way before the reset ends first.
        self.settle(rig);
        let how = How { notify: true, ..How::default() };
        let data: Vec<u8> = (0..4096).map(|n| (n * 7) as u8).collect();
        if !self.read_only {
            // Even if there was none to be had before.
            self.give(rig, 4, true);
            let request = vec![head(T_OUT, 8), Part::Read(data.clone()), Part::Write(1)];
            let places = rig.offer(&Request { queue: 0, parts: request }, how);
            self.settle(rig);
            assert_eq!((rig.collect(0), rig.ram.get(places[2], 1)), (vec![1], vec![S_OK]));
        }
        let request = vec![head(T_IN, 8), Part::Write(4096), Part::Write(1)];
        let places = rig.offer(&Request { queue: 0, parts: request }, how);
        self.settle(rig);
        assert_eq!((rig.collect(0), rig.ram.get(places[2], 1)), (vec![4097], vec![S_OK]));
        assert!(self.read_only || rig.ram.get(places[1], 4096) == data, "what was written is not what is read");
        assert_eq!(rig.mmio.device().stats().depth, 0);
    }

    fn end(self, mut rig: Rig<Self::Device>) {
        let Either::Cow(disk) = rig.mmio.device_mut().disk_mut() else { return };
        let usage = disk.usage();
        assert_eq!(self.lent.count() as u64, usage.pages + usage.tables + usage.reserve, "frames that nobody has");
        while !disk.release(16, |frame| self.lent.back(frame)) {}
        assert_eq!(self.lent.count(), 0, "frames that never come back");
    }
}
