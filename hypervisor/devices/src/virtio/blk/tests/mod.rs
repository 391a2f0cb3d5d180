//! Disks that answer at once, later, in any order and with errors; a driver that keeps the rules, and one that keeps none.

extern crate std;

mod later;
mod requests;

use super::spec::*;
use super::*;
use crate::virtio::spec::*;
use crate::virtio::tests::{ALL, BASE, Board, Driver, board};
use alloc::vec::Vec;
use host::disk::{Data, DiskError, Progress, SERIAL, Tag};

/// Where the drivers' requests are, [`STRIDE`] bytes each: the head, a range, and the status.
const HEADS: u64 = BASE + 0x1000;
const STRIDE: u64 = 64;
/// Where their data is.
pub const DATA: u64 = BASE + 0x3000;
/// Where descriptors in tables are.
const TABLES: u64 = BASE + 0x2000;
/// What a status byte is before it is written.
pub const NONE: u8 = 0xee;

/// Which features a good driver takes.
pub const FEATURES: u64 = ALL | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_DISCARD | F_WRITE_ZEROES;

/// A disk in a vector. With a depth it starts requests, and ends them when it is told to.
pub struct Fake {
    pub shape: DiskShape,
    pub bytes: Vec<u8>,
    /// Everything that was submitted, and answered by [`Progress`].
    pub log: Vec<Request>,
    /// So many requests are answered `Later` first.
    pub full: usize,
    /// After so many that are done all are answered `Later`.
    pub room: usize,
    /// Any request is answered so.
    pub error: Option<DiskError>,
    /// Bytes at most that are done at once.
    pub most: u64,
    /// What it has started.
    pub started: Vec<Started>,
}

/// A request that was started: what is written, and how it ended.
pub type Started = (Tag, Request, Vec<u8>, Option<Result<(), DiskError>>);

/// What is at byte `at` of a new disk.
pub fn pattern(at: usize) -> u8 {
    (at / 512 * 31 + at) as u8
}

impl Fake {
    pub fn new(sectors: u64, depth: u16) -> Self {
        let shape = DiskShape {
            sectors,
            read_only: false,
            block: 512,
            piece: 4096,
            discard: true,
            cached: depth != 0,
            largest: if depth == 0 { u32::MAX } else { 16 << 10 },
            depth,
            serial: *b"a serial number, 20.",
        };
        let bytes = (0..sectors as usize * 512).map(pattern).collect();
        Self {
            shape,
            bytes,
            log: Vec::new(),
            full: 0,
            room: usize::MAX,
            error: None,
            most: u64::MAX,
            started: Vec::new(),
        }
    }

    fn part(&mut self, request: &Request) -> &mut [u8] {
        let (at, size) = request.range();
        &mut self.bytes[at as usize..][..size as usize]
    }

    /// The started request in this place of the order in which they came ends.
    pub fn end(&mut self, n: usize, result: Result<(), DiskError>) {
        let open: Vec<usize> = (0..self.started.len()).filter(|n| self.started[*n].3.is_none()).collect();
        let Some(n) = open.get(n % open.len().max(1)).copied() else { return };
        let (_, request, data, ended) = &mut self.started[n];
        *ended = Some(result);
        let (request, data) = (*request, data.clone());
        if result.is_ok() {
            match request {
                Request::Write { .. } => self.part(&request).copy_from_slice(&data),
                Request::Zero { .. } | Request::Unmap { .. } => self.part(&request).fill(0),
                _ => {}
            }
        }
    }

    pub fn open(&self) -> usize {
        self.started.iter().filter(|started| started.3.is_none()).count()
    }
}

impl Disk for Fake {
    fn shape(&self) -> DiskShape {
        self.shape
    }
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        self.shape.allows(&request).expect("only what the disk takes");
        let (at, size) = request.range();
        if matches!(request, Request::Read { .. } | Request::Write { .. }) {
            assert!(size <= self.shape.largest.into() && size <= BYTES && size != 0);
        }
        if self.full != 0 {
            self.full -= 1;
            return Err(DiskError::Later);
        }
        if self.room == 0 {
            return Err(DiskError::Later);
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.shape.depth != 0 {
            assert!(tag.0 < self.shape.depth && self.started.iter().all(|started| started.0 != tag), "{tag:?}");
            let mut bytes = Vec::new();
            if let Request::Write { .. } = request {
                bytes.resize(size as usize, 0);
                data.load(0, &mut bytes)?;
            }
            self.log.push(request);
            self.started.push((tag, request, bytes, None));
            return Ok(Progress::Started);
        }
        let size = size.min(self.most);
        let part = &mut self.bytes[at as usize..][..size as usize];
        match request {
            Request::Read { .. } => {
                for (n, page) in part.chunks(4096).enumerate() {
                    data.store(n as u64 * 4096, page)?;
                }
            }
            Request::Write { .. } => {
                for (n, page) in part.chunks_mut(4096).enumerate() {
                    data.load(n as u64 * 4096, page)?;
                }
            }
            Request::Zero { .. } | Request::Unmap { .. } => part.fill(0),
            Request::Flush | Request::Discard { .. } => {}
        }
        self.log.push(request);
        self.room = self.room.saturating_sub(1);
        Ok(Progress::Done(size))
    }
    fn ended(&mut self) -> Option<Tag> {
        self.started.iter().find(|started| started.3.is_some()).map(|started| started.0)
    }
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let n =
            self.started.iter().position(|started| started.0 == tag && started.3.is_some()).expect("one that ended");
        let (request, result) = (self.started[n].1, self.started[n].3.unwrap());
        if let (Request::Read { .. }, Ok(()), Some(data)) = (request, result, data) {
            let part = self.part(&request).to_vec();
            data.store(0, &part)?;
        }
        self.started.remove(n);
        result
    }
}

/// What a driver asks for: the type, the sector, and where and how long its data is.
#[derive(Clone, Copy)]
pub struct Ask {
    pub kind: u32,
    pub sector: u64,
    pub data: u64,
    pub size: u32,
}

pub fn read(sector: u64, data: u64, size: u32) -> Ask {
    Ask { kind: T_IN, sector, data, size }
}

pub fn write(sector: u64, data: u64, size: u32) -> Ask {
    Ask { kind: T_OUT, sector, data, size }
}

pub const FLUSH: Ask = Ask { kind: T_FLUSH, sector: 0, data: DATA, size: 0 };

/// A board with a disk, and the driver's queue.
pub struct Rig {
    pub b: Board<Blk<Fake>>,
    pub d: Driver,
}

impl Rig {
    pub fn new(disk: Fake, features: u64) -> Self {
        let mut b = board(Blk::new(disk));
        let d = Self::bring_up(&mut b, features);
        Self { b, d }
    }

    fn bring_up(b: &mut Board<Blk<Fake>>, features: u64) -> Driver {
        let offered = b.device.device().features() | ALL;
        b.negotiate(features & offered);
        let d = Driver::new(b, 0, 32);
        b.driver_ok();
        d
    }

    /// The driver starts anew.
    pub fn again(&mut self, features: u64) {
        self.d = Self::bring_up(&mut self.b, features);
    }

    /// The same with another device in its place.
    pub fn disk(&mut self) -> &mut Fake {
        self.b.device.device_mut().disk_mut()
    }

    /// Lays out request `n` (below 32) in a table of its own and makes it available.
    pub fn offer(&mut self, n: u16, ask: Ask) {
        let (head, table) = (HEADS + STRIDE * u64::from(n), TABLES + 128 * u64::from(n));
        let mut bytes = u64::from(ask.kind).to_le_bytes().to_vec();
        bytes.extend(ask.sector.to_le_bytes());
        self.d.ram.put(head, &bytes);
        self.d.ram.put(head + 40, &[NONE]);
        let write = if matches!(ask.kind, T_IN | T_GET_ID) { DESC_WRITE } else { 0 };
        let mut parts = vec![(head, 16, 0)];
        // In three parts, of which two are odd.
        let mut left = (ask.data, ask.size);
        for size in [u32::min(ask.size, 5), ask.size.saturating_sub(5).min(1000), ask.size.saturating_sub(1005)] {
            if size != 0 {
                parts.push((left.0, size, write));
                left = (left.0 + u64::from(size), left.1 - size);
            }
        }
        parts.push((head + 40, 1, DESC_WRITE));
        let count = parts.len();
        self.d.descriptor(self.d.desc, n, (table, 16 * count as u32, DESC_INDIRECT, 0));
        for (i, (at, size, flags)) in parts.into_iter().enumerate() {
            let next = if i + 1 < count { DESC_NEXT } else { 0 };
            self.d.descriptor(table, i as u16, (at, size, flags | next, i as u16 + 1));
        }
        self.d.offer(n);
    }

    /// A range for a discard or a write-zeroes at [`DATA`].
    pub fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> Ask {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        self.d.ram.put(DATA, &bytes);
        Ask { kind, sector: 0, data: DATA, size: 16 }
    }

    pub fn status(&self, n: u16) -> u8 {
        self.d.ram.get(HEADS + STRIDE * u64::from(n) + 40, 1)[0]
    }

    /// The driver notifies until its store is done; how often that was.
    pub fn notify(&mut self) -> usize {
        self.b.repeat(QUEUE_NOTIFY, 0)
    }

    /// The outside has something to say.
    pub fn poke(&mut self) {
        self.b.device.poke(0);
        while self.b.device.run_due() {}
    }

    /// One request by itself: its status and the used length.
    pub fn one(&mut self, ask: Ask) -> (u8, u32) {
        self.offer(0, ask);
        self.notify();
        let found = self.d.collect();
        assert_eq!(found.len(), 1);
        (self.status(0), found[0].1)
    }

    pub fn stats(&self) -> Stats {
        self.b.device.device().stats()
    }
}

/// Whether the serial number has as many bytes as the fake's.
const _: () = assert!(SERIAL == 20);
