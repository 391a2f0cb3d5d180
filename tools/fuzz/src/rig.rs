//! A device and its guest: each call of the device is a step, after which its work and its wire are looked at; and a driver's parts.

use crate::ram::{BASE, Ram, SIZE};
use bus::{AccessError, AccessSize, IrqLine, MmioDevice};
use devices::virtio::Device;
use devices::virtio::mmio::Mmio;
use devices::virtio::spec::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A wire that knows its level.
#[derive(Clone, Default)]
pub struct Wire(Arc<AtomicBool>);

impl IrqLine for Wire {
    fn set_level(&self, high: bool) {
        self.0.store(high, Relaxed);
    }
}

/// What a step may do at most.
#[derive(Clone, Copy)]
pub struct Bound {
    /// Accesses to guest memory beyond those that a step's descriptors take.
    pub accesses: usize,
    /// Bytes that are copied.
    pub bytes: usize,
    /// Descriptors that are begun with.
    pub descriptors: usize,
}

/// Queues that a driver sets up.
pub const QUEUES: usize = 2;
/// Bytes between them.
const EACH: u64 = 0x2000;
/// Where buffers are.
pub const DATA: u64 = BASE + QUEUES as u64 * EACH;
/// Bytes for them.
const ROOM: u64 = BASE + SIZE - DATA;

/// The parts of queue `number`: table, available ring, used ring.
pub fn parts(number: u16) -> [u64; 3] {
    let at = BASE + EACH * u64::from(number);
    [at, at + 0x1000, at + 0x1400]
}

/// A piece of a request.
pub enum Part {
    /// For the device to read: what the guest wrote.
    Read(Vec<u8>),
    /// For the device to write.
    Write(u32),
    /// For the device to read, wherever it is.
    Huge(u32),
}

/// Buffers that are offered together.
pub struct Request {
    /// To which queue.
    pub queue: u16,
    /// Its pieces.
    pub parts: Vec<Part>,
}

/// How a request is offered.
#[derive(Clone, Copy, Default)]
pub struct How {
    /// Its descriptors are in a table of their own.
    pub indirect: bool,
    /// Its buffers are where the last one's were.
    pub same: bool,
    /// The device is notified.
    pub notify: bool,
}

/// A device and its guest.
pub struct Rig<D: Device> {
    /// The device; [`Rig::step`] is the way to it.
    pub mmio: Mmio<D, Wire>,
    /// The guest's memory.
    pub ram: Arc<Ram>,
    wire: Wire,
    bound: Bound,
    /// The driver's idea of its queues: entries, the next descriptor, used elements that it has seen.
    sizes: [u16; QUEUES],
    next: [u16; QUEUES],
    seen: [u16; QUEUES],
    /// Where the next buffer is, and where the last request's were.
    fill: u64,
    last: u64,
}

impl<D: Device> Rig<D> {
    /// After power-on.
    pub fn new(device: D, bound: Bound) -> Self {
        let (ram, wire) = (Ram::new(), Wire::default());
        let chain = device.queues().iter().map(|limits| usize::from(limits.chain)).max().unwrap_or(0);
        // The chain that reaches a step's end is its last. Of each a step reads the ring's entry, descriptors and parts, and answers.
        let descriptors = bound.descriptors + chain;
        let bound = Bound { descriptors, accesses: bound.accesses + 12 * descriptors, ..bound };
        let mmio = Mmio::new(device, wire.clone(), ram.clone());
        Self { mmio, ram, wire, bound, sizes: [0; QUEUES], next: [0; QUEUES], seen: [0; QUEUES], fill: 0, last: 0 }
    }

    /// Something is done to the device that is one step of it at most.
    pub fn step<T>(&mut self, act: impl FnOnce(&mut Mmio<D, Wire>) -> T) -> T {
        self.ram.begin();
        let done = act(&mut self.mmio);
        let step = self.ram.step();
        let Bound { accesses, bytes, descriptors } = self.bound;
        // Each descriptor's buffer is looked for, and the used ring once.
        let few = step.accesses <= accesses && step.bytes <= bytes && step.looks <= descriptors + 1;
        assert!(few, "a step is too much work: {step:?}");
        let pending = self.mmio.read(INTERRUPT_STATUS, AccessSize::B4);
        assert_eq!(Ok(u64::from(self.wire.0.load(Relaxed))), pending.map(|bits| u64::from(bits != 0)), "the wire");
        done
    }

    /// The same for what is no work: without a driver, the guest's memory is left alone.
    pub fn act<T>(&mut self, act: impl FnOnce(&mut Mmio<D, Wire>) -> T) -> T {
        let idle = !self.mmio.is_running();
        let done = self.step(act);
        assert!(!idle || self.ram.step().accesses == 0, "a device that nobody uses is at the guest's memory");
        done
    }

    /// A store to a register.
    pub fn put(&mut self, at: u64, value: u32) -> Result<(), AccessError> {
        let work = |mmio: &mut Mmio<D, Wire>| mmio.write(at, AccessSize::B4, value.into());
        if at == STATUS { self.step(work) } else { self.act(work) }
    }

    /// A load from a register.
    pub fn get(&mut self, at: u64) -> u32 {
        self.act(|mmio| mmio.read(at, AccessSize::B4)).unwrap_or(0) as u32
    }

    /// All features that are offered.
    pub fn offered(&mut self) -> u64 {
        let mut half = |n: u32| {
            let _ = self.put(DEVICE_FEATURES_SEL, n);
            u64::from(self.get(DEVICE_FEATURES)) << (32 * n)
        };
        half(0) | half(1)
    }

    /// A driver comes up: a reset, these features, queues of `size` entries each.
    pub fn up(&mut self, features: u64, size: u16) {
        let _ = self.put(STATUS, 0);
        let _ = self.put(STATUS, ACKNOWLEDGE | DRIVER);
        for half in 0..2 {
            let _ = self.put(DRIVER_FEATURES_SEL, half);
            let _ = self.put(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        let _ = self.put(STATUS, FEATURES_OK);
        for number in 0..QUEUES as u16 {
            let [desc, avail, used] = parts(number);
            self.ram.put(desc, &[0; 0x1000]);
            self.ram.put(avail, &[0; 0x400]);
            self.ram.put(used, &[0; 0x808]);
            let _ = self.put(QUEUE_SEL, number.into());
            let size = u32::from(size).min(self.get(QUEUE_NUM_MAX).max(1));
            let _ = self.put(QUEUE_NUM, size);
            for (at, place) in [(QUEUE_DESC, desc), (QUEUE_DRIVER, avail), (QUEUE_DEVICE, used)] {
                let _ = self.put(at, place as u32);
                let _ = self.put(at + 4, (place >> 32) as u32);
            }
            if self.get(QUEUE_NUM_MAX) != 0 {
                let _ = self.put(QUEUE_READY, 1);
            }
            self.sizes[usize::from(number)] = size as u16;
        }
        (self.next, self.seen) = ([0; QUEUES], [0; QUEUES]);
        let _ = self.put(STATUS, DRIVER_OK);
    }

    /// Entries of a queue, as far as the driver knows.
    fn size(&self, queue: u16) -> u16 {
        let size = self.sizes[usize::from(queue)];
        if size == 0 { 8 } else { size }
    }

    /// A place for `size` bytes of buffers.
    fn place(&mut self, size: u64) -> u64 {
        if self.fill + size > ROOM {
            self.fill = 0;
        }
        let at = DATA + self.fill;
        // Not all alike aligned.
        self.fill += size.min(ROOM) + size % 3;
        at
    }

    /// Offers buffers; where each of them is.
    pub fn offer(&mut self, request: &Request, how: How) -> Vec<u64> {
        let Request { queue, parts: pieces } = request;
        if how.same {
            self.fill = self.last;
        }
        self.last = self.fill;
        let [desc, ..] = parts(*queue);
        let (size, count) = (self.size(*queue), pieces.len() as u16);
        let head = self.next[usize::from(*queue)] % size;
        let table = if how.indirect { self.place(16 * u64::from(count)) } else { desc };
        let mut places = Vec::new();
        for (n, piece) in (0..).zip(pieces) {
            let (length, bytes, write) = match piece {
                Part::Read(bytes) => (bytes.len() as u32, bytes.as_slice(), 0),
                Part::Write(length) => (*length, &[][..], DESC_WRITE),
                Part::Huge(length) => (*length, &[][..], 0),
            };
            let at = self.place(length.into());
            places.push(at);
            self.ram.put(at, bytes);
            let more = if n + 1 < count { DESC_NEXT } else { 0 };
            let (index, next) = if how.indirect { (n, n + 1) } else { ((head + n) % size, (head + n + 1) % size) };
            self.descriptor(table, index, (at, length, write | more, next));
        }
        if how.indirect {
            self.descriptor(desc, head, (table, 16 * u32::from(count), DESC_INDIRECT, 0));
        }
        self.next[usize::from(*queue)] = (head + if how.indirect { 1 } else { count }) % size;
        self.make_available(*queue, head, 1);
        if how.notify {
            let _ = self.put(QUEUE_NOTIFY, (*queue).into());
        }
        places
    }

    /// Writes a descriptor: where, how long, flags, the next one.
    pub fn descriptor(&self, table: u64, index: u16, (at, size, flags, next): (u64, u32, u16, u16)) {
        let value = u128::from(at) | u128::from(size) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        self.ram.put(table + 16 * u64::from(index), &value.to_le_bytes());
    }

    /// Puts a head into the available ring, and its index so far ahead.
    pub fn make_available(&self, queue: u16, head: u16, ahead: u16) {
        let [_, avail, _] = parts(queue);
        let index = self.ram.get_u16(avail + AVAIL_IDX);
        let entry = u64::from(index % self.size(queue));
        self.ram.put(avail + AVAIL_RING + 2 * entry, &head.to_le_bytes());
        self.ram.put(avail + AVAIL_IDX, &index.wrapping_add(ahead).to_le_bytes());
    }

    /// Buffers that came back since it was asked last: how many bytes are written in each.
    pub fn collect(&mut self, queue: u16) -> Vec<u32> {
        let [_, _, used] = parts(queue);
        let (index, size) = (self.ram.get_u16(used + USED_IDX), self.size(queue));
        let mut back = Vec::new();
        while self.seen[usize::from(queue)] != index && back.len() < 256 {
            let entry = u64::from(self.seen[usize::from(queue)] % size);
            let written = self.ram.get(used + USED_RING + 8 * entry + 4, 4);
            back.push(written.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)));
            self.seen[usize::from(queue)] = self.seen[usize::from(queue)].wrapping_add(1);
        }
        back
    }

    /// Has the device do all that is due; it is not due for ever.
    pub fn finish(&mut self) {
        for _ in 0..2000 {
            if !self.mmio.is_due() {
                return;
            }
            self.act(|mmio| mmio.run_due());
        }
        panic!("the device never comes to an end");
    }
}
