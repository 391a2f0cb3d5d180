//! Merus' own virtio drivers in front of its own device models: a disk that ends requests when it is told to, and a network card at a switch.

#[allow(dead_code, reason = "shared with the tests of room devices")]
#[path = "../../hypervisor/devices/tests/guest/mod.rs"]
mod guest;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use devices::virtio::blk::Blk;
use devices::virtio::net::{Config, Net, RECEIVEQ};
use guest::{GuestHal, Machine};
use host::disk::{Data, Disk, DiskError, DiskShape, Drive, Gone, NoData, Progress, Request, Tag};
use host::port::{Bell, HEADROOM, Mac, Outgoing, Port};
use platform::virtio::Fault;
use platform::virtio::blk::{DEPTH, HostBlk, LARGEST};
use platform::virtio::net::{HostNet, LONGEST};
use switch::{Clock, PortConfig, Switch, SwitchPort};
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

thread_local! {
    /// Memory for devices: where it is here, where there, how much.
    static SHARED: RefCell<Vec<(usize, u64, usize)>> = const { RefCell::new(Vec::new()) };
}

/// Devices' memory is a machine's RAM, and nothing else is ever told to one.
struct InPlace;

// SAFETY: memory is the test machine's, given out once; `share` finds the address of what lies in it.
unsafe impl Hal for InPlace {
    fn dma_alloc(pages: usize, direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let (at, here) = GuestHal::dma_alloc(pages, direction);
        SHARED.with_borrow_mut(|all| all.push((here.as_ptr().addr(), at, pages * 4096)));
        (at, here)
    }
    unsafe fn dma_dealloc(_: PhysAddr, here: NonNull<u8>, _: usize) -> i32 {
        SHARED.with_borrow_mut(|all| all.retain(|(own, ..)| *own != here.as_ptr().addr()));
        0
    }
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("PCI only")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let (from, size) = (buffer.cast::<u8>().as_ptr().addr(), buffer.len());
        SHARED.with_borrow(|all| {
            let own = all.iter().find(|(own, _, length)| *own <= from && from + size <= own + length);
            let (own, at, _) = own.expect("a device is told of its own memory only");
            at + (from - own) as u64
        })
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

const SECTORS: u64 = 4096;

/// A disk that works on up to 32 requests, and ends them when it is told to.
struct Slow {
    bytes: Vec<u8>,
    started: Vec<(Tag, Request, Vec<u8>)>,
    ended: VecDeque<(Tag, Request, Result<(), DiskError>)>,
    largest_range: u64,
}

impl Slow {
    fn new() -> Self {
        let bytes = (0..SECTORS as usize * 512).map(|at| (at / 512 * 31 + at % 509) as u8).collect();
        Self { bytes, started: Vec::new(), ended: VecDeque::new(), largest_range: 0 }
    }
    fn end(&mut self, n: usize, result: Result<(), DiskError>) {
        let (tag, request, data) = self.started.remove(n);
        let (at, size) = request.range();
        let place = &mut self.bytes[at as usize..(at + size) as usize];
        match request {
            Request::Write { .. } if result.is_ok() => place.copy_from_slice(&data),
            Request::Zero { .. } | Request::Unmap { .. } if result.is_ok() => {
                self.largest_range = self.largest_range.max(size);
                place.fill(0);
            }
            _ => {}
        }
        self.ended.push_back((tag, request, result));
    }
}

impl Disk for Slow {
    fn shape(&self) -> DiskShape {
        DiskShape {
            sectors: SECTORS,
            read_only: false,
            block: 512,
            piece: 4096,
            discard: true,
            cached: true,
            largest: LARGEST,
            depth: DEPTH,
            serial: *b"slow\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }
    fn submit(&mut self, tag: Tag, request: Request, data: &mut dyn Data) -> Result<Progress, DiskError> {
        let mut bytes = Vec::new();
        if let Request::Write { size, .. } = request {
            bytes.resize(size as usize, 0);
            data.load(0, &mut bytes)?;
        }
        self.started.push((tag, request, bytes));
        Ok(Progress::Started)
    }
    fn ended(&mut self) -> Option<Tag> {
        self.ended.front().map(|ended| ended.0)
    }
    fn finish(&mut self, _: Tag, data: Option<&mut dyn Data>) -> Result<(), DiskError> {
        let (_, request, result) = *self.ended.front().expect("one that ended");
        if let (Request::Read { at, size }, Ok(()), Some(data)) = (request, result, data) {
            data.store(0, &self.bytes[at as usize..][..size as usize])?;
        }
        self.ended.pop_front();
        result
    }
}

struct Bytes(Vec<u8>);

impl Data for Bytes {
    fn load(&mut self, at: u64, into: &mut [u8]) -> Result<(), Gone> {
        into.copy_from_slice(&self.0[at as usize..][..into.len()]);
        Ok(())
    }
    fn store(&mut self, at: u64, from: &[u8]) -> Result<(), Gone> {
        self.0[at as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
}

/// A machine with the disk, and its driver up.
struct Board {
    machine: Machine<Blk<Slow>>,
    drive: HostBlk<MmioTransport<'static>, InPlace>,
}

impl Board {
    fn new() -> Self {
        let machine = Machine::new(Blk::new(Slow::new()));
        let transport = machine.transport();
        let mut waited = 0;
        let mut wait = || {
            waited += 1;
            waited < 100
        };
        let drive = machine.run(|| HostBlk::new(transport, &mut wait)).expect("a disk");
        Self { machine, drive }
    }
    fn disk<T>(&self, act: impl FnOnce(&mut Slow) -> T) -> T {
        act(self.machine.device.borrow_mut().device_mut().disk_mut())
    }
    fn submit(&mut self, tag: u16, request: Request, data: &mut Bytes) -> Result<Progress, DiskError> {
        self.machine.run(|| self.drive.submit(Tag(tag), request, data))
    }
    /// What the disk has ended is told to the driver.
    fn attend(&mut self) {
        {
            let mut device = self.machine.device.borrow_mut();
            device.poke(0);
            while device.run_due() {}
        }
        self.machine.run(|| self.drive.attend());
        assert!(!self.machine.wire.is_high(), "its interrupt was seen");
    }
    fn finish(&mut self, tag: u16, data: &mut Bytes) -> Result<(), DiskError> {
        self.machine.run(|| self.drive.finish(Tag(tag), Some(data)))
    }
}

#[test]
fn a_disk_is_found_as_it_is() {
    let board = Board::new();
    let shape = board.drive.shape();
    let expected = DiskShape { largest: LARGEST, depth: DEPTH, ..board.disk(|disk| disk.shape()) };
    assert_eq!(shape, expected);
    assert!(!board.drive.is_broken());
}

#[test]
fn requests_end_in_any_order_as_the_disk_ends_them() {
    let mut board = Board::new();
    let mut model = board.disk(|disk| disk.bytes.clone());
    let mut flying: Vec<(u16, Request, Bytes, u8)> = Vec::new();
    let mut seed = 7u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let (mut begun, mut ended, mut failed) = (0, 0, 0);
    while begun < 600 || !flying.is_empty() {
        let tag = random(DEPTH.into()) as u16;
        let (at, size) = (random(4000) as u64 * 512, (1 + random(64)) as u64 * 512);
        let apart = |other: &(u16, Request, Bytes, u8)| {
            let (start, length) = other.1.range();
            other.0 != tag && (start + length <= at || at + size <= start)
        };
        if begun < 600 && flying.iter().all(apart) && at + size <= SECTORS * 512 {
            let request = match random(8) {
                0 => Request::Flush,
                1 => Request::Zero { at, size },
                2 => Request::Unmap { at, size },
                3..6 => Request::Read { at, size },
                _ => Request::Write { at, size },
            };
            let mut data = Bytes(vec![begun as u8; size as usize]);
            assert_eq!(board.submit(tag, request, &mut data), Ok(Progress::Started), "{request:?}");
            assert_eq!(board.submit(tag, request, &mut data), Err(DiskError::Later), "the tag is taken");
            // What was to be written has been copied.
            if request.writes() {
                data.0.fill(0xee);
            }
            flying.push((tag, request, data, begun as u8));
            begun += 1;
        }
        let open = board.disk(|disk| disk.started.len());
        for _ in 0..random(open + 1) {
            let result = if random(30) == 0 { Err(DiskError::Io) } else { Ok(()) };
            board.disk(|disk| disk.end(random(disk.started.len()), result));
        }
        board.attend();
        for n in (0..flying.len()).rev() {
            if !board.drive.has_ended(Tag(flying[n].0)) {
                continue;
            }
            let (tag, request, mut data, byte) = flying.remove(n);
            let (at, size) = request.range();
            let place = at as usize..(at + size) as usize;
            let result = board.finish(tag, &mut data);
            ended += 1;
            match (request, result) {
                (Request::Read { .. }, Ok(())) => assert_eq!(data.0, model[place]),
                (_, Ok(())) => model[place.clone()].copy_from_slice(&board.disk(|disk| disk.bytes[place].to_vec())),
                (_, error) => {
                    assert_eq!(error, Err(DiskError::Io));
                    failed += 1;
                    model[place.clone()].copy_from_slice(&board.disk(|disk| disk.bytes[place].to_vec()));
                }
            }
            if let (Request::Write { .. }, Ok(())) = (request, result) {
                assert!(model[at as usize..(at + size) as usize].iter().all(|now| *now == byte));
            }
        }
    }
    assert_eq!((begun, ended), (600, 600));
    assert!(failed > 5, "{failed}");
    assert!(board.disk(|disk| disk.bytes == model));
}

#[test]
fn what_is_no_request_of_the_disk_s_is_refused() {
    let mut board = Board::new();
    let mut data = Bytes(vec![0; 1 << 20]);
    let end = SECTORS * 512;
    for request in [
        Request::Read { at: end, size: 512 },
        Request::Read { at: 1, size: 512 },
        Request::Write { at: 0, size: u64::from(LARGEST) + 512 },
    ] {
        assert_eq!(board.submit(0, request, &mut data), Err(DiskError::OutOfRange), "{request:?}");
    }
    let read = Request::Read { at: 0, size: 512 };
    assert_eq!(board.submit(DEPTH, read, &mut data), Err(DiskError::Io), "no such tag");
    let write = Request::Write { at: 0, size: 512 };
    assert_eq!(board.machine.run(|| board.drive.submit(Tag(0), write, &mut NoData)), Err(DiskError::Gone));
    assert_eq!(board.finish(0, &mut data), Err(DiskError::Io), "nothing has ended");
    assert_eq!(board.submit(0, write, &mut data), Ok(Progress::Started), "the tag is free still");
}

#[test]
fn what_takes_too_long_ends_and_touches_nobody_later() {
    let mut board = Board::new();
    let mut data = Bytes(vec![0x11; 1024]);
    let read = Request::Read { at: 0, size: 1024 };
    assert_eq!(board.submit(3, read, &mut data), Ok(Progress::Started));
    assert_eq!(board.submit(4, read, &mut data), Ok(Progress::Started));
    board.machine.run(|| board.drive.give_up(Tag(3)));
    assert!(board.drive.has_ended(Tag(3)) && !board.drive.has_ended(Tag(4)));
    assert_eq!(board.finish(3, &mut data), Err(DiskError::Io));
    assert_eq!(data.0, [0x11; 1024]);
    // Its buffer is the device's still.
    assert_eq!(board.submit(3, read, &mut data), Err(DiskError::Io));
    // Late, both end: the one is nobody's, and its tag is free.
    board.disk(|disk| (0..2).for_each(|_| disk.end(0, Ok(()))));
    board.attend();
    assert!(!board.drive.has_ended(Tag(3)) && board.drive.has_ended(Tag(4)));
    assert_eq!(board.finish(4, &mut data), Ok(()));
    assert_eq!(data.0, board.disk(|disk| disk.bytes[..1024].to_vec()));
    assert_eq!(board.submit(3, read, &mut data), Ok(Progress::Started));
}

#[test]
fn a_reset_ends_everything_and_begins_anew() {
    let mut board = Board::new();
    let mut data = Bytes(vec![0x22; 512]);
    for tag in 0..5 {
        let request = Request::Write { at: 512 * u64::from(tag), size: 512 };
        assert_eq!(board.submit(tag, request, &mut data), Ok(Progress::Started));
    }
    board.machine.run(|| board.drive.give_up(Tag(4)));
    assert_eq!(board.finish(4, &mut data), Err(DiskError::Io));
    assert_eq!(board.machine.run(|| board.drive.reset()), Ok(()));
    for tag in 0..4 {
        assert!(board.drive.has_ended(Tag(tag)));
        assert_eq!(board.finish(tag, &mut data), Err(DiskError::Io));
    }
    // The model lets what was on its way end before it begins anything new.
    board.disk(|disk| (0..5).for_each(|_| disk.end(0, Err(DiskError::Io))));
    for tag in 0..5 {
        assert_eq!(board.submit(tag, Request::Read { at: 8192, size: 512 }, &mut data), Ok(Progress::Started));
    }
    board.attend();
    board.disk(|disk| (0..5).for_each(|_| disk.end(0, Ok(()))));
    board.attend();
    for tag in 0..5 {
        assert!(board.drive.has_ended(Tag(tag)), "{tag}");
        assert_eq!(board.finish(tag, &mut data), Ok(()));
        assert_eq!(data.0, board.disk(|disk| disk.bytes[8192..8704].to_vec()));
    }
}

#[test]
fn a_disk_that_does_not_answer_is_none() {
    // Its first step would answer the question for its serial number.
    let machine = Machine::new(Net::new(port(&switch(), 9), Config { mac: Mac([2; 6]), mtu: 1500 }));
    let transport = machine.transport();
    let disk = machine.run(|| HostBlk::<_, InPlace>::new(transport, &mut || false));
    assert!(matches!(disk, Err(Fault::Silent | Fault::Blocks | Fault::Broken | Fault::Small)), "a network card");
}

#[derive(Clone, Default)]
struct Rung(Arc<AtomicBool>);

impl Bell for Rung {
    fn ring(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Clock for Rung {
    fn seconds(&self) -> u32 {
        0
    }
}

fn switch() -> Arc<Switch> {
    Switch::new(Box::new(Rung::default()), 5)
}

fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, n])
}

fn port(switch: &Arc<Switch>, n: u8) -> SwitchPort {
    switch.attach(&PortConfig::guest(mac(n)), Box::new(Rung::default())).expect("a port")
}

/// A frame from 1 to 2 or back.
fn frame(from: u8, size: usize, serial: u32) -> Vec<u8> {
    let mut frame = [&mac(3 - from).0[..], &mac(from).0, &[0x88, 0xb5]].concat();
    frame.extend(serial.to_le_bytes().into_iter().cycle().take(size - 14));
    frame
}

fn send(port: &mut SwitchPort, frame: &[u8]) {
    let (header, rest) = frame.split_first_chunk().unwrap();
    let outgoing = Outgoing { header, size: frame.len(), checksum: None };
    let sent = port.send(&outgoing, usize::MAX, |into| {
        into.copy_from_slice(rest);
        Ok::<(), ()>(())
    });
    assert!(sent.is_ok());
}

#[test]
fn frames_go_both_ways_and_wait_where_there_is_no_room() {
    let switch = switch();
    let machine = Machine::new(Net::new(port(&switch, 1), Config { mac: mac(1), mtu: 1500 }));
    let mut peer = port(&switch, 2);
    peer.start(false);
    let transport = machine.transport();
    let mut card = machine.run(|| HostNet::<_, InPlace>::new(transport)).expect("a card");
    assert_eq!(card.mac(), Some(mac(1).0));
    let poke = || {
        let mut device = machine.device.borrow_mut();
        device.poke(RECEIVEQ);
        while device.run_due() {}
    };
    for round in 0..200u32 {
        // More than there are buffers, now and then: the rest waits at the port.
        let count = if round % 20 == 0 { 90 } else { 1 + round % 7 };
        let size = |n: u32| 15 + ((round * 131 + n * 17) as usize) % (1514 - 15);
        let out = count.min(32);
        for n in 0..out {
            assert!(machine.run(|| card.send(&frame(1, size(n), round * 100 + n))));
        }
        assert!(machine.run(|| out < 32 || !card.has_room()), "not told yet");
        machine.run(|| card.tell());
        for n in 0..out {
            let bytes = peer.receive(0, |frame| frame.bytes[HEADROOM..].to_vec());
            assert_eq!(bytes, Some(frame(1, size(n), round * 100 + n)));
            peer.discard(1);
        }
        assert!(machine.run(|| card.has_room()));
        for n in 0..count {
            send(&mut peer, &frame(2, size(n), !(round * 100 + n)));
        }
        for n in 0..count {
            if n % 8 == 0 {
                poke();
            }
            machine.run(|| {
                let bytes = card.received().map(<[u8]>::to_vec);
                assert_eq!(bytes, Some(frame(2, size(n), !(round * 100 + n))), "{n} of {count}");
                assert_eq!(card.received().map(<[u8]>::to_vec), bytes, "the same until it is done");
                card.done();
            });
        }
        assert!(machine.run(|| card.received().is_none()));
        machine.run(|| card.acknowledge());
        assert!(!machine.wire.is_high());
    }
    assert!(machine.run(|| !card.send(&vec![0; LONGEST + 1]) && !card.is_broken()));
    // Nobody wants to be interrupted.
    machine.run(|| card.listen(false));
    send(&mut peer, &frame(2, 60, 1));
    poke();
    assert!(!machine.wire.is_high() && machine.run(|| card.received().is_some()));
}
