//! Where a hostile driver has what, its random numbers, and the addresses that come to its mind.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use guest_rt::fdt;
use guest_rt::mmio::{self, read32, write32};
use guest_rt::virtio::{self, INPUT, NET, Transport};

/// Devices that are looked at.
pub const MOST: usize = 8;
/// Bytes of a queue's piece of the arena: table, rings, tables that descriptors lead to, heads of requests.
pub const PIECE: u64 = 0x8000;
pub const AVAIL: u64 = 0x1000;
pub const USED: u64 = 0x2000;
pub const TABLES: u64 = 0x3000;
pub const HEADS: u64 = 0x6000;
/// Queues of a device at most.
pub const QUEUES: u64 = 2;
/// Buffers are behind all pieces.
pub const BUFFERS: u64 = PIECE * QUEUES * MOST as u64;

/// The devices' registers and types, 0 where there is none.
pub static BASES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
pub static KINDS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
pub static DEVICES: AtomicUsize = AtomicUsize::new(0);
/// Entries that a queue was given last, by queue, and what its index of used buffers was.
pub static SIZES: [AtomicU64; MOST * QUEUES as usize] = [const { AtomicU64::new(8) }; MOST * QUEUES as usize];
pub static SEEN: [AtomicU64; MOST * QUEUES as usize] = [const { AtomicU64::new(0) }; MOST * QUEUES as usize];

/// The first byte of what devices may write.
pub fn arena() -> u64 {
    mmio::RAM + fdt::memory_size() / 4 * 3
}

pub fn end() -> u64 {
    mmio::RAM + fdt::memory_size()
}

/// An address, or half of one, that leads into the payload's own RAM leads into the arena instead.
pub fn tame(value: u64) -> u64 {
    let low = value & 0xffff_ffff;
    let own = (mmio::RAM..arena()).contains(&low);
    if own { value & !0xffff_ffff | (arena() + low % (end() - arena())) } else { value }
}

/// Random numbers, a sequence for each time that a CPU comes on.
pub struct Random(pub u64);
impl Random {
    /// The next 64 bits (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators": SplitMix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
    /// Once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A device and one of its queues.
#[derive(Clone, Copy)]
pub struct Target {
    pub base: u64,
    pub kind: u32,
    pub number: u64,
    pub queue: u64,
}

impl Target {
    pub fn any(random: &mut Random) -> Self {
        let number = random.below(DEVICES.load(SeqCst) as u64);
        let kind = KINDS[number as usize].load(SeqCst) as u32;
        let queue = if matches!(kind, NET | INPUT) { random.below(2) } else { 0 };
        Self { base: BASES[number as usize].load(SeqCst), kind, number, queue }
    }
    /// Its number among all queues.
    pub fn nth(self) -> usize {
        (self.number * QUEUES + self.queue) as usize
    }
    pub fn piece(self) -> u64 {
        arena() + PIECE * self.nth() as u64
    }
    pub fn set(self, register: u64, value: u32) {
        write32(self.base + register, tame(value.into()) as u32);
    }
    pub fn get(self, register: u64) -> u32 {
        read32(self.base + register)
    }
    pub fn transport(self) -> Transport {
        Transport { base: self.base, ..Transport::default() }
    }
}

/// An address: where something is, or an edge of what there is.
pub fn place(random: &mut Random, target: Target) -> u64 {
    let (first, last, piece) = (mmio::RAM, end(), target.piece());
    let near = random.below(64).wrapping_sub(32);
    match random.below(16) {
        0 => target.base + random.below(virtio::WINDOW),
        1 => piece + random.below(PIECE),
        2 => arena() + random.below(BUFFERS),
        3 => last.wrapping_add(near),
        4 => last - 4096 + random.below(4096),
        5 => first.wrapping_sub(1 + random.below(4096)),
        6 => near,
        7 => mmio::GICD + random.below(0x1_0000),
        8 => mmio::UART + random.below(0x1000),
        9 => random.next(),
        10 => (1 << random.below(64)) ^ buffer(random),
        11 => (last - 1) | random.next() << 32,
        _ => buffer(random),
    }
}

/// Where a buffer may well be.
pub fn buffer(random: &mut Random) -> u64 {
    let first = arena() + BUFFERS;
    first + random.below((end() - first) / 64) * 64
}
