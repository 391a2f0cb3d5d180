//! Chains of descriptors: valid ones, and such as are nearly valid.

use super::BACK;
use super::arena::*;
use core::sync::atomic::Ordering::SeqCst;
use guest_rt::mmio::{read8, read16, write8, write16, write32, write64};
use guest_rt::run;
use guest_rt::virtio::{self, BLK, CONFIG, INDIRECT, NET, NEXT, WRITE};

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
pub fn offer(random: &mut Random, target: Target) {
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
                _ => random.below(72 << 11),
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
    // The cards of the VM beside it, as bytes that are stored low first.
    const OTHERS: [u64; 2] = [0x0100_0000_5452, 0x0200_0000_5452];
    let to = random.of(&[OTHERS[0], OTHERS[1], 0xffff_ffff_ffff, random.0]);
    // From itself, or as if from the one whose frames the other one waits for.
    let foreign = random.once_in(16);
    for n in 0..6 {
        write8(at + 12 + n, (to >> (8 * n)) as u8);
        let own = read8(target.base + CONFIG + n);
        write8(at + 18 + n, if foreign { (OTHERS[0] >> (8 * n)) as u8 } else { own });
    }
    write16(at + 24, random.of(&[0xb588, 0x0008, 0x0608, 0xdd86]));
}

/// What the device has given back since this was looked at last.
pub fn count_back(target: Target) {
    let seen = &SEEN[target.nth()];
    let now = read16(target.piece() + USED + 2);
    let before = seen.swap(now.into(), SeqCst) as u16;
    let more = now.wrapping_sub(before);
    // A ring that jumped is none that came back.
    if more <= 256 {
        BACK.fetch_add(more.into(), SeqCst);
    }
}
