//! A guest that does whatever comes to its mind with its virtio devices, on both its CPUs at once: registers, rings that are nearly valid,
//! resets at any point, CPUs that go off and come on again. `victim-virtio` runs beside it and has a part of the same things.
//!
//! | argument | what it says |
//! |---|---|
//! | `seed=` | the start of its random numbers (1) |
//! | `actions=` | after so many it ends (20,000) |
//! | `end=` | how: `off` (the default) or `reset` by PSCI, with whatever is on its way |
//!
//! Whatever a device writes by its wish is in the last quarter of its RAM ([`tame`]), so that the payload lives on; the 64 KiB before that
//! must stay as they are.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use guest_rt::mmio::{self, read8, read16, read32, read64, write8, write16, write32, write64};
use guest_rt::test::fail;
use guest_rt::timer::{ENABLE, Timer, ticks};
use guest_rt::vectors::expect;
use guest_rt::virtio::{self, BLK, CONFIG, INDIRECT, INPUT, NET, NEXT, NOTIFY, STATUS, Transport, WRITE};
use guest_rt::{cpu, fdt, gic, println, psci, run};

/// Devices that are looked at.
const MOST: usize = 8;
/// Bytes of a queue's piece of the arena: table, rings, tables that descriptors lead to, heads of requests.
const PIECE: u64 = 0x8000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const TABLES: u64 = 0x3000;
const HEADS: u64 = 0x6000;
/// Queues of a device at most.
const QUEUES: u64 = 2;
/// Buffers are behind all pieces.
const BUFFERS: u64 = PIECE * QUEUES * MOST as u64;
/// The last bytes before the arena, which nobody may change.
const GUARD: u64 = 0x1_0000;
const GUARDED: u64 = 0x0123_4567_89ab_cdef;

/// The devices' registers and types, 0 where there is none.
static BASES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static KINDS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static DEVICES: AtomicUsize = AtomicUsize::new(0);
/// Actions so far, chains that came back, resets of devices, how often a CPU went off.
static ACTIONS: AtomicU64 = AtomicU64::new(0);
static BACK: AtomicU64 = AtomicU64::new(0);
static RESETS: AtomicU64 = AtomicU64::new(0);
static OFFS: AtomicU64 = AtomicU64::new(0);
/// Entries that a queue was given last, by queue, and what its index of used buffers was.
static SIZES: [AtomicU64; MOST * QUEUES as usize] = [const { AtomicU64::new(8) }; MOST * QUEUES as usize];
static SEEN: [AtomicU64; MOST * QUEUES as usize] = [const { AtomicU64::new(0) }; MOST * QUEUES as usize];
/// 0, or one more than the number of the CPU that has gone off, or is about to.
static GONE: AtomicUsize = AtomicUsize::new(0);
/// Somebody ends it all.
static ENDS: AtomicUsize = AtomicUsize::new(0);

/// The first byte of what devices may write.
fn arena() -> u64 {
    mmio::RAM + fdt::memory_size() / 4 * 3
}

fn end() -> u64 {
    mmio::RAM + fdt::memory_size()
}

/// An address, or half of one, that leads into the payload's own RAM leads into the arena instead.
fn tame(value: u64) -> u64 {
    let low = value & 0xffff_ffff;
    let own = (mmio::RAM..arena()).contains(&low);
    if own { value & !0xffff_ffff | (arena() + low % (end() - arena())) } else { value }
}

/// Runs the test. It ends by itself, as `end=` says.
pub fn hostile_virtio() {
    gic::init();
    let mut count = 0;
    virtio::each(|device| {
        if count < MOST {
            BASES[count].store(device.base, SeqCst);
            KINDS[count].store(device.read(virtio::DEVICE_ID).into(), SeqCst);
            gic::set_edge(device.intid, device.edge);
            gic::route(device.intid, count % cpu::count());
            gic::enable(0, device.intid);
            count += 1;
        }
    });
    DEVICES.store(count, SeqCst);
    assert!(count != 0 && cpu::count() == 2, "it is for two CPUs, and {count} devices");
    assert!(fdt::address() < arena() - GUARD, "the tree is where the arena is to be");
    (arena() - GUARD..arena()).step_by(8).for_each(|at| write64(at, at ^ GUARDED));
    println!("hostile-virtio: begins, {count} devices, seed {}", seed());
    cpu::start(1, storm);
    storm(0);
    // It comes on again, or another CPU ends all: nobody waits here for the test's end.
    cpu::off();
}

fn seed() -> u64 {
    fdt::number("seed").unwrap_or(1)
}

/// Random numbers, a sequence for each time that a CPU comes on.
struct Random(u64);

impl Random {
    /// The next 64 bits (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators": SplitMix64).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
    /// Once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A device and one of its queues.
#[derive(Clone, Copy)]
struct Target {
    base: u64,
    kind: u32,
    number: u64,
    queue: u64,
}

impl Target {
    fn any(random: &mut Random) -> Self {
        let number = random.below(DEVICES.load(SeqCst) as u64);
        let kind = KINDS[number as usize].load(SeqCst) as u32;
        let queue = if matches!(kind, NET | INPUT) { random.below(2) } else { 0 };
        Self { base: BASES[number as usize].load(SeqCst), kind, number, queue }
    }
    /// Its number among all queues.
    fn nth(self) -> usize {
        (self.number * QUEUES + self.queue) as usize
    }
    fn piece(self) -> u64 {
        arena() + PIECE * self.nth() as u64
    }
    fn set(self, register: u64, value: u32) {
        write32(self.base + register, tame(value.into()) as u32);
    }
    fn get(self, register: u64) -> u32 {
        read32(self.base + register)
    }
    fn transport(self) -> Transport {
        Transport { base: self.base, ..Transport::default() }
    }
}

fn storm(cpu: usize) {
    run!("msr daifset, #0xf");
    gic::init_cpu();
    gic::enable(cpu, Timer::Virtual.intid());
    // Whoever was away is back.
    let _ = GONE.compare_exchange(cpu + 1, 0, SeqCst, SeqCst);
    let life = OFFS.load(SeqCst);
    let mut random = Random(seed() << 32 ^ (cpu as u64) << 24 ^ life << 40);
    let most = fdt::number("actions").unwrap_or(20_000);
    while ACTIONS.fetch_add(1, SeqCst) < most {
        // Faults are the answer to what no register takes.
        let _ = expect(|| act(cpu, &mut random));
        if GONE.load(SeqCst) == cpu + 1 {
            return;
        }
    }
    ends(cpu);
}

/// Ends the VM, whatever is on its way; the other CPU goes on meanwhile.
fn ends(cpu: usize) {
    if ENDS.swap(1, SeqCst) != 0 {
        loop {
            let mut random = Random(cpu as u64);
            let _ = expect(|| (0..64).for_each(|_| work(&mut random)));
        }
    }
    let changed = (arena() - GUARD..arena()).step_by(8).find(|at| read64(*at) != *at ^ GUARDED);
    if let Some(at) = changed {
        fail(format_args!("{at:#x} before the arena was written"));
    }
    let counts = [&ACTIONS, &BACK, &RESETS, &OFFS].map(|count| count.load(SeqCst));
    let [_, back, resets, offs] = counts;
    println!("hostile-virtio: chains that came back {back} resets {resets} offs {offs}");
    if changed.is_none() {
        println!("test hostile-virtio: ok");
    }
    match fdt::argument("end") {
        Some("reset") => psci::system_reset(),
        _ => psci::system_off(),
    }
}

fn act(cpu: usize, random: &mut Random) {
    match random.below(400) {
        0 => away(cpu),
        1..=4 => sleep(random),
        5..=12 => interrupts(random),
        _ => work(random),
    }
    if GONE.load(SeqCst) == 2 - cpu {
        back_on(1 - cpu);
    }
}

fn work(random: &mut Random) {
    let target = Target::any(random);
    match random.below(100) {
        0..=3 => load(random, target),
        4..=8 => store(random, target),
        9 => target.set(STATUS, random.of(&[0, 0, 1, 3, 11, 15, 64, 128, 0xff, 0x100])),
        10..=11 => begin(random, target),
        12..=14 => queue_again(random, target),
        15 => scribble(random, target),
        16..=18 => indices(random, target),
        19..=22 => target.set(NOTIFY, random.of(&[0, 1, 2, 3, u32::MAX, 0x1_0000])),
        _ => {
            // One that has given up would do nothing any more.
            let status = target.get(STATUS);
            if status & 15 != 15 || status & virtio::NEEDS_RESET != 0 && !random.once_in(4) {
                begin(random, target);
            }
            (0..1 + random.below(8)).for_each(|_| offer(random, target));
            target.set(NOTIFY, target.queue as u32);
            count_back(target);
        }
    }
}

/// A load of any size from any place of the window, and a little beyond.
fn load(random: &mut Random, target: Target) {
    let at = target.base + random.below(virtio::WINDOW + 8);
    match random.below(8) {
        0 => drop(read8(at)),
        1 => drop(read16(at)),
        2 => drop(read64(at)),
        3 => drop(read32(at)),
        _ => drop(read32(at & !3)),
    }
}

/// A store of any size to any place of the window.
fn store(random: &mut Random, target: Target) {
    let at = target.base + random.below(virtio::WINDOW + 8);
    let value = match random.below(4) {
        0 => random.next(),
        1 => random.below(16),
        _ => place(random, target),
    };
    let value = tame(value);
    match random.below(16) {
        0 => write8(at, value as u8),
        1 => write16(at, value as u16),
        2 => write64(at, value),
        3 => write32(at, value as u32),
        // A reset is one of many.
        _ if at & !3 == target.base + STATUS && !random.once_in(8) => {}
        _ => write32(at & !3, value as u32),
    }
}

/// An initialisation, which is nearly always a valid one.
fn begin(random: &mut Random, target: Target) {
    RESETS.fetch_add(1, SeqCst);
    let device = target.transport();
    device.write(STATUS, 0);
    let mut features = 0;
    for half in 0..2 {
        device.write(virtio::DEVICE_FEATURES_SEL, half);
        features |= u64::from(device.read(virtio::DEVICE_FEATURES)) << (32 * half);
    }
    // Any that are offered, and now and then one that is not.
    features &= random.next() | random.next() | virtio::VERSION_1;
    if random.once_in(32) {
        features ^= 1 << random.below(64);
    }
    device.begin(features);
    for queue in 0..QUEUES {
        let target = Target { queue, ..target };
        if random.once_in(24) {
            random_queue(random, target);
        } else {
            valid_queue(random, target);
        }
    }
    device.go();
}

fn valid_queue(random: &mut Random, target: Target) {
    let at = target.piece();
    target.set(virtio::QUEUE_SEL, target.queue as u32);
    let most = target.get(virtio::QUEUE_NUM_MAX).clamp(8, 256);
    let size = (most >> random.below(5)).max(8);
    SIZES[target.nth()].store(size.into(), SeqCst);
    // Both rings begin anew.
    write32(at + AVAIL, 0);
    write32(at + USED, 0);
    SEEN[target.nth()].store(0, SeqCst);
    target.transport().set_queue(target.queue as u32, size, [at, at + AVAIL, at + USED]);
}

/// A queue whose rings are anywhere, also in each other.
fn random_queue(random: &mut Random, target: Target) {
    let at = target.piece();
    let mut rings = [at, at + AVAIL, at + USED];
    for ring in &mut rings {
        if random.once_in(2) {
            *ring = tame(place(random, target) & random.of(&[!0, !1, !3, !15]));
        }
    }
    let size = random.of(&[0, 1, 2, 3, 8, 16, 64, 256, 1024, 0x8000, 0xffff, 0x1_0000, u32::MAX]);
    target.set(virtio::QUEUE_SEL, target.queue as u32);
    target.set(virtio::QUEUE_NUM, size);
    for (register, ring) in [virtio::QUEUE_DESC, virtio::QUEUE_DRIVER, virtio::QUEUE_DEVICE].into_iter().zip(rings) {
        target.set(register, ring as u32);
        target.set(register + 4, (ring >> 32) as u32);
    }
    target.set(virtio::QUEUE_READY, 1);
}

/// A queue is taken from a device that works on it, and given another way.
fn queue_again(random: &mut Random, target: Target) {
    target.set(virtio::QUEUE_SEL, target.queue as u32);
    target.set(virtio::QUEUE_READY, 0);
    match random.below(3) {
        0 => random_queue(random, target),
        1 => valid_queue(random, target),
        _ => target.set(virtio::QUEUE_READY, 1),
    }
}

/// An address: where something is, or an edge of what there is.
fn place(random: &mut Random, target: Target) -> u64 {
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
fn buffer(random: &mut Random) -> u64 {
    let first = arena() + BUFFERS;
    first + random.below((end() - first) / 64) * 64
}

/// Random words where rings, tables and buffers are.
fn scribble(random: &mut Random, target: Target) {
    let at = if random.once_in(2) { target.piece() + random.below(PIECE) } else { buffer(random) };
    for n in 0..1 + random.below(16) {
        let value = if random.once_in(2) { place(random, target) } else { random.next() };
        write64((at & !7) + 8 * n, tame(value));
    }
}

/// Indices and flags of the rings' heads jump.
fn indices(random: &mut Random, target: Target) {
    let at = target.piece();
    let value = random.of(&[0, 1, 2, 0xffff, 0x8000, random.0 as u16]);
    match random.below(8) {
        0 => write16(at + AVAIL, value),
        1 => write16(at + AVAIL + 2, value),
        2 => write16(at + USED + 2, value),
        // Where the events are, by size.
        3 => write16(at + AVAIL + 4 + 2 * random.of(&[1, 16, 64, 256]), value),
        4 => write16(at + AVAIL + 4 + 2 * random.below(256), value),
        // None shall be told, or all.
        _ => write16(at + AVAIL, value & 1),
    }
}

/// A descriptor of a chain.
#[derive(Clone, Copy, Default)]
struct Link {
    at: u64,
    size: u32,
    flags: u16,
    next: u16,
}

impl Link {
    fn write(self, at: u64) {
        virtio::descriptor(at, tame(self.at), self.size, self.flags, self.next);
    }
    /// One of its fields is something else.
    fn perturb(&mut self, random: &mut Random, target: Target) {
        match random.below(7) {
            0..=1 => self.at = place(random, target),
            2 => self.size = random.of(&[0, 1, 2, 16, 511, 513, 0xffff, 1 << 20, i32::MAX as u32, u32::MAX]),
            3 => self.size ^= 1 << random.below(32),
            4 => self.flags ^= 1 << random.below(3),
            5 => self.next = random.of(&[0, 1, 255, 256, 0xffff, random.0 as u16]),
            _ => self.flags = random.0 as u16,
        }
    }
}

/// A chain as the device wants it, one in ten with something that is not: it is made available.
fn offer(random: &mut Random, target: Target) {
    let mut links = [Link::default(); 8];
    let count = chain(random, target, &mut links);
    let size = SIZES[target.nth()].load(SeqCst);
    let first = random.below((size / 8).min(16)) as u16 * 8;
    for (n, link) in (first..).zip(&mut links[..count]) {
        link.next = n + 1;
        link.flags |= if usize::from(n - first) + 1 < count { NEXT } else { 0 };
    }
    let indirect = random.once_in(3);
    if indirect {
        for (n, link) in (0..).zip(&mut links[..count]) {
            link.next = n + 1;
        }
    }
    if random.once_in(10) {
        let which = random.below(count as u64) as usize;
        links[which].perturb(random, target);
    }
    let piece = target.piece();
    let table = if indirect { piece + TABLES + 16 * u64::from(first) } else { piece + 16 * u64::from(first) };
    for (n, link) in (0..).zip(&links[..count]) {
        link.write(table + 16 * n);
    }
    if indirect {
        let mut lead = Link { at: table, size: 16 * count as u32, flags: INDIRECT, next: 0 };
        if random.once_in(20) {
            lead.perturb(random, target);
        }
        lead.write(piece + 16 * u64::from(first));
    }
    target.set(virtio::QUEUE_SEL, target.queue as u32);
    let index = read16(piece + AVAIL + 2);
    write16(piece + AVAIL + 4 + 2 * (u64::from(index) % size), first);
    write16(piece + AVAIL + 2, index.wrapping_add(1));
    run!("dmb ish");
}

/// The links of a valid chain for the queue; how many.
fn chain(random: &mut Random, target: Target, links: &mut [Link; 8]) -> usize {
    let data = 1 + random.below(4) as usize;
    let many = [64, 512, 512, 1024, 4096, 4096, 16384];
    match (target.kind, target.queue) {
        (BLK, _) => {
            let head = target.piece() + HEADS + 32 * random.below(64);
            let kind = random.of(&[0, 0, 0, 1, 1, 1, 1, 4, 8, 11, 13, 13, 2, random.0 as u32]);
            // Mostly on the disk, often where others have written, now and then beyond its end.
            let sector = match random.below(8) {
                0 => random.next(),
                1..=4 => random.below(64) * 8,
                _ => random.below(32 << 11),
            };
            write64(head, kind.into());
            write64(head + 8, sector);
            links[0] = Link { at: head, size: 16, ..Link::default() };
            let ranges = matches!(kind, 11 | 13);
            for link in &mut links[1..=data] {
                *link = Link { at: buffer(random), size: random.of(&many), ..Link::default() };
                link.flags = if matches!(kind, 0 | 8) { WRITE } else { 0 };
                if ranges {
                    link.size = 16;
                    write64(link.at, sector);
                    write64(link.at + 8, random.of(&[1, 8, 64, 1 << 32 | 8, random.0]));
                }
            }
            let data = if kind == 4 { 0 } else { data };
            links[data + 1] = Link { at: head + 16, size: 1, flags: WRITE, next: 0 };
            data + 2
        }
        (NET, 1) => {
            for link in &mut links[..data] {
                *link = Link { at: buffer(random), size: random.of(&[12, 26, 64, 1000, 1514]), ..Link::default() };
            }
            frame(random, target, links[0].at);
            data
        }
        _ => {
            for link in &mut links[..data] {
                *link = Link { at: buffer(random), size: random.of(&[8, 64, 1526, 4096]), flags: WRITE, next: 0 };
            }
            data
        }
    }
}

/// A frame with its virtio header: to somebody who is there, to all, or to nobody.
fn frame(random: &mut Random, target: Target, at: u64) {
    let random_header = random.once_in(4);
    write64(at, if random_header { random.next() } else { 0 });
    write32(at + 8, if random_header { random.0 as u32 } else { 0 });
    let to = random.of(&[0x0100_0000_5452, 0x0200_0000_5452, 0xffff_ffff_ffff, random.0]);
    for n in 0..6 {
        write8(at + 12 + n, (to >> (8 * n)) as u8);
        // From itself, or from the one whose frames the other VM waits for.
        let own = if random.once_in(16) { 0x0100_0000_5452_u64 >> (8 * n) } else { 0 };
        let mac = if own != 0 { own as u8 } else { read8(target.base + CONFIG + n) };
        write8(at + 18 + n, mac);
    }
    write16(at + 24, random.of(&[0xb588, 0x0008, 0x0608, 0xdd86]));
}

/// What the device has given back since this was looked at last.
fn count_back(target: Target) {
    let seen = &SEEN[target.nth()];
    let now = read16(target.piece() + USED + 2);
    let before = seen.swap(now.into(), SeqCst) as u16;
    let more = now.wrapping_sub(before);
    // A ring that jumped is none that came back.
    if more <= 256 {
        BACK.fetch_add(more.into(), SeqCst);
    }
}

/// Takes interrupts, and ends them with or without a look at the device.
fn interrupts(random: &mut Random) {
    for _ in 0..4 {
        let intid = gic::acknowledge();
        if intid >= 1020 {
            break;
        }
        let target = Target::any(random);
        if !random.once_in(3) {
            target.set(virtio::INTERRUPT_ACK, target.get(virtio::INTERRUPT_STATUS));
        }
        gic::end(intid);
    }
}

/// Sleeps for a while, or until an interrupt.
fn sleep(random: &mut Random) {
    Timer::Virtual.set_cval(Timer::Virtual.now() + ticks(10 + random.below(300)));
    Timer::Virtual.set_ctl(ENABLE);
    run!("wfi");
    Timer::Virtual.set_ctl(0);
}

/// This CPU goes off, if the other one does not: `storm` sees that and returns.
fn away(cpu: usize) {
    if ENDS.load(SeqCst) == 0 && GONE.compare_exchange(0, cpu + 1, SeqCst, SeqCst).is_ok() {
        OFFS.fetch_add(1, SeqCst);
    }
}

/// The other CPU is off, or nearly: it is started when it is.
fn back_on(other: usize) {
    if psci::affinity_info(cpu::mpidr(other)) == 1 {
        let context = cpu::prepare(other, storm);
        psci::cpu_on(cpu::mpidr(other), guest_rt::entry::secondary(), context);
    }
}
