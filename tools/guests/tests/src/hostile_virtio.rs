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

mod arena;
mod chains;

use arena::*;
use chains::{count_back, offer};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use guest_rt::mmio::{read8, read16, read32, read64, write8, write16, write32, write64};
use guest_rt::test::fail;
use guest_rt::timer::{ENABLE, Timer, ticks};
use guest_rt::vectors::expect;
use guest_rt::virtio::{self, NOTIFY, STATUS};
use guest_rt::{cpu, fdt, gic, println, psci, run};

/// The last bytes before the arena, which nobody may change.
const GUARD: u64 = 0x1_0000;
const GUARDED: u64 = 0x0123_4567_89ab_cdef;

/// Actions so far, chains that came back, resets of devices, how often a CPU went off.
static ACTIONS: AtomicU64 = AtomicU64::new(0);
static BACK: AtomicU64 = AtomicU64::new(0);
static RESETS: AtomicU64 = AtomicU64::new(0);
static OFFS: AtomicU64 = AtomicU64::new(0);
/// 0, or one more than the number of the CPU that has gone off, or is about to.
static GONE: AtomicUsize = AtomicUsize::new(0);
/// Somebody ends it all.
static ENDS: AtomicUsize = AtomicUsize::new(0);

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
