//! Reads from a disk: what each costs Merus, and what this driver spends itself.

use crate::report::Samples;
use crate::virtio::{BUFFERS, Device};
use guest_rt::mmio::{read32, write32, write64};
use guest_rt::virtio::BLK;
use guest_rt::{println, timer};

const SECTOR: u64 = 512;
/// Sectors of the disk that are read: a word of each byte's place, divided by four, is what is there.
const SECTORS: u64 = (4 << 20) / SECTOR;
/// Bytes of a random read, and of each of those that make a MiB.
const SMALL: u64 = 4096;
const LARGE: u64 = 128 << 10;

/// Reads that go together: so many at a time, each of so many bytes, at random places or one after the other.
struct Reads {
    depth: u16,
    size: u64,
    random: bool,
    /// How often, after one round that warms up.
    rounds: u64,
    /// Rounds that count as one.
    per: u64,
    /// The disk is the machine's, and does them in a time of its own.
    host: bool,
}

/// A row; `false` where it is none of these.
pub fn row(row: &str) -> bool {
    let (host, what) = match row.split_once('-') {
        Some((kind @ ("disk" | "host"), what)) => (kind == "host", what),
        _ => return false,
    };
    let reads = match what {
        "4k" => Reads { depth: 1, size: SMALL, random: true, rounds: 500, per: 1, host },
        "4k-32" => Reads { depth: 32, size: SMALL, random: true, rounds: 50, per: 32, host },
        "mib" => Reads { depth: 8, size: LARGE, random: false, rounds: 10, per: 1, host },
        _ => return false,
    };
    match Device::new(BLK, 0, 1) {
        Some(mut device) => measure(row, &reads, &mut device),
        None => println!("bench: FAILED: there is no disk"),
    }
    true
}

fn head(number: u16) -> u64 {
    BUFFERS + 64 * u64::from(number)
}

fn buffer(number: u16, reads: &Reads) -> u64 {
    BUFFERS + (1 << 20) + reads.size * u64::from(number)
}

fn measure(row: &str, reads: &Reads, device: &mut Device) {
    for number in 0..reads.depth {
        write64(head(number), 0);
        let data = (buffer(number, reads), reads.size as u32, true);
        device.prepare(0, number, &[(head(number), 16, false), data, (head(number) + 16, 1, true)]);
    }
    let (mut merus, mut own) = (Samples::new(), Samples::new());
    let mut place = 0;
    for round in 0..=reads.rounds {
        let start = timer::now();
        device.merus();
        device.idle();
        let old = device.offered(0);
        for number in 0..reads.depth {
            place = next(place, reads);
            write64(head(number) + 8, place);
            device.offer(0, number);
        }
        device.notify(0, old);
        let mut back = device.back(0);
        // Whatever came back in one step has interrupted once.
        while device.interrupt() || back != reads.depth {
            if back != reads.depth {
                if reads.host { device.stay() } else { device.sleep() }
            }
            back += device.back(0);
        }
        let all = timer::now().saturating_sub(start).saturating_sub(device.idle());
        let here = device.merus();
        if round != 0 {
            merus.add(here / reads.per);
            own.add(all.saturating_sub(here) / reads.per);
        }
        let last = reads.depth - 1;
        let (first, status) = (read32(buffer(last, reads)), read32(head(last) + 16) & 0xff);
        if status != 0 || u64::from(first) != place * SECTOR / 4 {
            println!("bench: FAILED: {row}: status {status}, {first:#x} at sector {place}");
            return;
        }
        // So that it is seen if nothing is read the next time.
        write32(buffer(last, reads), u32::MAX);
        write32(head(last) + 16, 0xff);
    }
    merus.print(row, merus.sum());
    println!(
        "bench {row}-own mean={} min={} max={}",
        own.sum() / reads.rounds,
        own.sum() / reads.rounds,
        own.sum() / reads.rounds
    );
}

/// The sector after the one that was read last.
fn next(place: u64, reads: &Reads) -> u64 {
    let step = reads.size / SECTOR;
    let turn = place / step;
    // A sequence that comes by all places (Knuth, "The Art of Computer Programming", volume 2: linear congruences).
    let turn = if reads.random { turn.wrapping_mul(5).wrapping_add(331) } else { turn + 1 };
    turn % (SECTORS / step) * step
}
