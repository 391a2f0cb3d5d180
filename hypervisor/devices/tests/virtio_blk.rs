//! The crate `virtio-drivers` in front of disks: an image in RAM that two guests share, and a disk that answers late, in any order and
//! with errors.

mod guest;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use addr::Pa;
use devices::virtio::blk::{Blk, Stats};
use guest::{GuestHal, Machine};
use host::disk::{Data, Disk, DiskError, DiskShape, Progress, Request, Tag};
use store::{Cow, Frames, PAGE, RESERVE};
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, RespStatus, VirtIOBlk};
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceType, Transport};

type Driver = VirtIOBlk<GuestHal, MmioTransport<'static>>;

/// RAM for pages; new frames hold what nobody shall see.
#[derive(Clone, Default)]
struct Ram(Arc<Mutex<HashMap<u64, Vec<u8>>>>);

impl Frames for Ram {
    fn read(&self, at: Pa, into: &mut [u8]) {
        let (frame, from) = (at.as_u64() & !(PAGE - 1), (at.as_u64() % PAGE) as usize);
        into.copy_from_slice(&self.0.lock().unwrap()[&frame][from..from + into.len()]);
    }
    fn write(&mut self, at: Pa, bytes: &[u8]) {
        let (frame, from) = (at.as_u64() & !(PAGE - 1), (at.as_u64() % PAGE) as usize);
        let mut frames = self.0.lock().unwrap();
        frames.entry(frame).or_insert_with(|| vec![0xdb; PAGE as usize])[from..from + bytes.len()]
            .copy_from_slice(bytes);
    }
    fn wanted(&mut self) {}
}

type Shared = Cow<Arc<[u8]>, Ram>;

/// What is at byte `at` of an image.
fn pattern(at: usize) -> u8 {
    (at / 512 * 31 + at % 509) as u8
}

const SECTORS: usize = 4096;

fn image() -> Arc<[u8]> {
    (0..SECTORS * 512).map(pattern).collect()
}

/// A guest with its driver up.
struct Guest<D: Disk + 'static> {
    machine: Machine<Blk<D>>,
    driver: Driver,
}

impl<D: Disk + 'static> Guest<D> {
    fn new(disk: D) -> Self {
        let machine = Machine::new(Blk::new(disk));
        let transport = machine.transport();
        assert_eq!(transport.device_type(), DeviceType::Block);
        let driver = machine.run(|| Driver::new(transport)).expect("a driver");
        Self { machine, driver }
    }
    fn read(&mut self, sector: usize, sectors: usize) -> Result<Vec<u8>, Error> {
        let mut buffer = vec![0xaa; sectors * 512];
        self.machine.run(|| self.driver.read_blocks(sector, &mut buffer))?;
        Ok(buffer)
    }
    fn write(&mut self, sector: usize, bytes: &[u8]) -> Result<(), Error> {
        self.machine.run(|| self.driver.write_blocks(sector, bytes))
    }
    fn disk<T>(&self, act: impl FnOnce(&mut D) -> T) -> T {
        act(self.machine.device.borrow_mut().device_mut().disk_mut())
    }
    fn poke(&self) {
        let mut device = self.machine.device.borrow_mut();
        device.poke(0);
        while device.run_due() {}
    }
    fn stats(&self) -> Stats {
        self.machine.device.borrow().device().stats()
    }
}

/// A request that the driver does not wait for.
struct Op {
    token: u16,
    write: bool,
    sector: usize,
    buffer: Vec<u8>,
    request: Box<BlkReq>,
    response: Box<BlkResp>,
}

impl<D: Disk + 'static> Guest<D> {
    fn start(&mut self, write: bool, sector: usize, mut buffer: Vec<u8>) -> Result<Op, Error> {
        let (mut request, mut response) = (Box::<BlkReq>::default(), Box::<BlkResp>::default());
        // SAFETY: all three stay where they are until `end`, and nobody touches them.
        let token = self.machine.run(|| unsafe {
            match write {
                true => self.driver.write_blocks_nb(sector, &mut request, &buffer, &mut response),
                false => self.driver.read_blocks_nb(sector, &mut request, &mut buffer, &mut response),
            }
        })?;
        Ok(Op { token, write, sector, buffer, request, response })
    }

    /// The next request that has ended, out of those that were started.
    fn end(&mut self, ops: &mut Vec<Op>) -> Option<(Op, RespStatus)> {
        let token = self.driver.peek_used()?;
        let mut op = ops.remove(ops.iter().position(|op| op.token == token).expect("one of ours"));
        let Op { write, buffer, request, response, .. } = &mut op;
        // SAFETY: they are those of `start`.
        let result = self.machine.run(|| unsafe {
            match write {
                true => self.driver.complete_write_blocks(token, request, buffer, response),
                false => self.driver.complete_read_blocks(token, request, buffer, response),
            }
        });
        let status = op.response.status();
        assert_eq!(result.is_ok(), status == RespStatus::OK, "{result:?}");
        Some((op, status))
    }
}

fn shared(base: &Arc<[u8]>, read_only: bool) -> Guest<Shared> {
    Guest::new(
        Cow::new(base.clone(), Ram::default(), SECTORS as u64, read_only, *b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
            .unwrap(),
    )
}

/// Frames for the disk, from a place of its own.
fn give(guest: &Guest<Shared>, from: u64, count: usize) {
    guest.disk(|disk| (0..count as u64).for_each(|n| disk.give(Pa::new((from + n) * PAGE)).expect("a frame")));
}

#[test]
fn the_driver_finds_its_disk() {
    let mut guest = shared(&image(), false);
    assert_eq!((guest.driver.capacity(), guest.driver.readonly()), (SECTORS as u64, false));
    let mut id = [0xff; 20];
    assert_eq!(guest.machine.run(|| guest.driver.device_id(&mut id)), Ok(4));
    assert_eq!(&id[..5], b"root\0");
    assert_eq!(guest.read(7, 9).unwrap(), (7 * 512..16 * 512).map(pattern).collect::<Vec<u8>>());
    // More than a step, over the end, behind it.
    assert_eq!(guest.read(0, 1000).unwrap(), (0..1000 * 512).map(pattern).collect::<Vec<u8>>());
    for (sector, sectors) in [(SECTORS - 1, 2), (SECTORS, 1), (usize::MAX, 1), (usize::MAX / 512, 4)] {
        assert_eq!(guest.read(sector, sectors), Err(Error::IoError));
    }
    give(&guest, 100, RESERVE);
    let bytes: Vec<u8> = (0..100 * 512).map(|n| (n * 3) as u8).collect();
    guest.write(5, &bytes).unwrap();
    guest.machine.run(|| guest.driver.flush()).unwrap();
    assert_eq!(guest.read(5, 100).unwrap(), bytes);
    assert_eq!(guest.read(0, 5).unwrap(), (0..5 * 512).map(pattern).collect::<Vec<u8>>());
    assert_eq!(guest.read(105, 8).unwrap(), (105 * 512..113 * 512).map(pattern).collect::<Vec<u8>>());
    let stats = guest.stats();
    assert_eq!((stats.reads, stats.writes, stats.flushes, stats.errors), (5, 1, 1, 4));
    assert_eq!((stats.read_bytes, stats.written_bytes), ((9 + 1000 + 100 + 5 + 8) * 512, 100 * 512));
    assert_eq!(guest.machine.device.borrow().stats(), Default::default());
}

#[test]
fn two_guests_share_an_image_and_nothing_else() {
    let base = image();
    let mut guests = [shared(&base, false), shared(&base, false), shared(&base, true)];
    assert!(guests[2].driver.readonly());
    for (n, guest) in guests.iter_mut().enumerate().take(2) {
        give(guest, 1000, 40);
        guest.write(8 * n + 3, &[n as u8 + 1; 4096]).unwrap();
    }
    assert_eq!(guests[2].write(0, &[9; 512]), Err(Error::IoError));
    for (n, guest) in guests.iter_mut().enumerate() {
        let mut expected: Vec<u8> = (0..40 * 512).map(pattern).collect();
        if n < 2 {
            expected[(8 * n + 3) * 512..][..4096].fill(n as u8 + 1);
        }
        assert_eq!(guest.read(0, 40).unwrap(), expected);
    }
    assert!(base.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
}

#[test]
fn a_write_waits_for_frames() {
    let mut guest = shared(&image(), false);
    let mut ops = vec![guest.start(true, 3, vec![7; 8192]).unwrap()];
    // What comes behind it waits as well.
    ops.push(guest.start(false, 100, vec![0; 512]).unwrap());
    assert!(guest.end(&mut ops).is_none() && !guest.machine.wire.is_high());
    assert_eq!(guest.disk(|disk| disk.wants()), RESERVE);
    give(&guest, 50, RESERVE);
    guest.poke();
    assert!(guest.machine.wire.is_high());
    assert!(!guest.driver.ack_interrupt().is_empty() && !guest.machine.wire.is_high());
    let (op, status) = guest.end(&mut ops).expect("it is done");
    assert_eq!((op.sector, status), (3, RespStatus::OK));
    let (op, status) = guest.end(&mut ops).expect("it is done");
    assert_eq!((op.sector, status, op.buffer), (100, RespStatus::OK, (51200..51712).map(pattern).collect()));
    assert_eq!(guest.read(3, 16).unwrap(), [7; 8192]);
    // All the rest of the reserve, and more than there is.
    let mut ops = vec![guest.start(true, 64, vec![8; 80 * 4096]).unwrap()];
    assert!(guest.end(&mut ops).is_none());
    guest.disk(|disk| disk.refuse());
    guest.poke();
    let (op, status) = guest.end(&mut ops).expect("it is done");
    assert_eq!((op.sector, status), (64, RespStatus::IO_ERR));
    assert_eq!(guest.read(64, 8).unwrap(), [8; 4096]);
    give(&guest, 500, 80);
    guest.write(64, &[9; 80 * 4096]).unwrap();
    assert_eq!(guest.read(64, 80 * 8).unwrap(), [9; 80 * 4096]);
}

/// A disk that works on up to 8 requests of up to 2 KiB and ends them when it is told to.
struct Slow {
    bytes: Vec<u8>,
    started: Vec<(Tag, Request, Vec<u8>)>,
    ended: Vec<(Tag, Request, Result<(), DiskError>)>,
}

impl Slow {
    fn end(&mut self, n: usize, result: Result<(), DiskError>) {
        let (tag, request, data) = self.started.remove(n);
        if let (Request::Write { at, .. }, Ok(())) = (request, result) {
            self.bytes[at as usize..][..data.len()].copy_from_slice(&data);
        }
        self.ended.push((tag, request, result));
    }
}

impl Disk for Slow {
    fn shape(&self) -> DiskShape {
        let serial = [b's'; 20];
        DiskShape {
            sectors: SECTORS as u64,
            read_only: false,
            block: 512,
            piece: 512,
            discard: false,
            cached: true,
            largest: 2048,
            depth: 8,
            serial,
        }
    }
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        assert!(self.started.len() + self.ended.len() < 8);
        let mut bytes = Vec::new();
        if let Request::Write { size, .. } = request {
            bytes.resize(size as usize, 0);
            data.load(0, &mut bytes)?;
        }
        self.started.push((tag, request, bytes));
        Ok(Progress::Started)
    }
    fn ended(&mut self) -> Option<Tag> {
        self.ended.last().map(|ended| ended.0)
    }
    fn finish(&mut self, tag: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let (ended, request, result) = *self.ended.last().expect("one that ended");
        assert_eq!(ended, tag);
        if let (Request::Read { at, size }, Ok(()), Some(data)) = (request, result, data) {
            data.store(0, &self.bytes[at as usize..][..size as usize])?;
        }
        self.ended.pop();
        result
    }
}

#[test]
fn a_slow_disk_ends_requests_in_any_order_and_with_errors() {
    let mut guest = Guest::new(Slow { bytes: image().to_vec(), started: Vec::new(), ended: Vec::new() });
    let mut model = image().to_vec();
    let mut seed = 1u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let (mut ops, mut failed, mut out_of_order, mut started): (Vec<Op>, _, _, usize) = (Vec::new(), 0, 0, 0);
    while started < 500 || !ops.is_empty() {
        // Ranges apart from each other, so that the order does not matter; 16 descriptors are five requests or more.
        let (write, sector, sectors) = (random(2) == 0, random(SECTORS - 16), 1 + random(16));
        let apart = |op: &Op| op.sector + op.buffer.len() / 512 <= sector || sector + sectors <= op.sector;
        if started < 500 && random(3) != 0 && ops.iter().all(apart) {
            let fill = if write { started as u8 } else { 0xaa };
            match guest.start(write, sector, vec![fill; sectors * 512]) {
                Ok(op) => {
                    ops.push(op);
                    started += 1;
                }
                Err(error) => assert_eq!(error, Error::QueueFull),
            }
        }
        let open = guest.disk(|disk| disk.started.len());
        for _ in 0..random(open + 1) {
            let result = if random(40) == 0 { Err(DiskError::Io) } else { Ok(()) };
            guest.disk(|disk| disk.end(random(disk.started.len()), result));
        }
        if random(2) == 0 {
            guest.poke();
        }
        while let Some((op, status)) = {
            let first = ops.first().map(|op| op.token);
            let ended = guest.end(&mut ops);
            out_of_order += usize::from(ended.as_ref().is_some_and(|(op, _)| Some(op.token) != first));
            ended
        } {
            let place = op.sector * 512..op.sector * 512 + op.buffer.len();
            if status != RespStatus::OK {
                assert_eq!(status, RespStatus::IO_ERR);
                failed += 1;
                // Some of it may have been written.
                model[place.clone()].copy_from_slice(&guest.disk(|disk| disk.bytes[place].to_vec()));
            } else if op.write {
                model[place].copy_from_slice(&op.buffer);
            } else {
                assert_eq!(op.buffer, model[place]);
            }
        }
    }
    assert!(failed > 5 && out_of_order > 50, "{failed} failed, {out_of_order} came out of order");
    assert!(guest.disk(|disk| disk.bytes == model));
    let stats = guest.stats();
    assert_eq!((stats.reads + stats.writes, stats.errors, stats.depth), (started as u64 - failed, failed, 0));
    assert!(stats.deepest > 3);
    assert_eq!(guest.machine.device.borrow().stats(), Default::default());
}

#[test]
fn a_driver_that_goes_and_comes_leaves_nothing_behind() {
    let mut guest = Guest::new(Slow { bytes: image().to_vec(), started: Vec::new(), ended: Vec::new() });
    let ops = [guest.start(true, 0, vec![1; 512]).unwrap(), guest.start(false, 8, vec![0; 512]).unwrap()];
    let transport = guest.machine.transport();
    // It ends without a word, and its memory is somebody else's.
    let driver = guest.machine.run(|| Driver::new(transport)).expect("a driver");
    std::mem::forget(std::mem::replace(&mut guest.driver, driver));
    drop(ops);
    let mut ops = vec![guest.start(true, 0, vec![2; 512]).unwrap()];
    assert_eq!(guest.disk(|disk| disk.started.len()), 2, "those of before end first");
    guest.disk(|disk| (0..2).for_each(|_| disk.end(0, Ok(()))));
    guest.poke();
    assert!(guest.end(&mut ops).is_none());
    // The write, and a flush if the driver does not flush.
    while guest.disk(|disk| !disk.started.is_empty()) {
        guest.disk(|disk| disk.end(0, Ok(())));
        guest.poke();
    }
    assert_eq!(guest.end(&mut ops).expect("it is done").1, RespStatus::OK);
    assert_eq!(guest.disk(|disk| disk.bytes[..512].to_vec()), [2; 512]);
}
