//! Blocks of 2 MiB that nobody has, in two zones: what a device of a small address reaches, and all the rest.
//!
//! The buses of a Raspberry Pi 4 reach the first GiB only. Blocks of it are kept for who needs them: all others get blocks from above
//! while there are any that serve.

use alloc::vec::Vec;
use buddy_system_allocator::FrameAllocator;

/// Orders of the buddy allocator: blocks of 48-bit addresses have numbers of 27 bits.
const ORDERS: usize = 28;
/// The first block above the first GiB.
const ABOVE: usize = 512;

/// Where blocks shall come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// From anywhere, and from the first GiB last.
    #[default]
    Any,
    /// From the first GiB, as far as there are any.
    Small,
}

/// One zone.
struct Zone {
    buddy: FrameAllocator<ORDERS>,
    free: usize,
}

/// Free blocks, by number: address / 2 MiB.
pub(crate) struct Pool {
    low: Zone,
    high: Zone,
}

impl Zone {
    fn new() -> Self {
        Self { buddy: FrameAllocator::new(), free: 0 }
    }

    /// `count` blocks in one piece: it comes as a power of two, of which the end goes back.
    fn take_whole(&mut self, count: usize) -> Option<usize> {
        let rounded = count.checked_next_power_of_two().filter(|_| count <= self.free)?;
        let first = self.buddy.alloc(rounded)?;
        self.free = self.free.saturating_sub(rounded);
        self.put(first.saturating_add(count), rounded.saturating_sub(count));
        Some(first)
    }

    /// Up to `count` blocks in as few pieces as there can be, largest first, behind those of `runs`.
    fn take_pieces(&mut self, count: usize, runs: &mut Vec<(usize, usize)>) -> usize {
        let mut left = count;
        let mut size = power_of_two_below(count);
        while left != 0 && size != 0 {
            size = size.min(power_of_two_below(left));
            let Some(first) = self.buddy.alloc(size) else {
                size >>= 1;
                continue;
            };
            left = left.saturating_sub(size);
            self.free = self.free.saturating_sub(size);
            match runs.last_mut() {
                Some((start, blocks)) if start.saturating_add(*blocks) == first => {
                    *blocks = blocks.saturating_add(size)
                }
                _ => runs.push((first, size)),
            }
        }
        count.saturating_sub(left)
    }

    /// Gives blocks back, in the aligned powers of two that the buddy allocator thinks in.
    fn put(&mut self, mut first: usize, mut count: usize) {
        self.free = self.free.saturating_add(count);
        while count != 0 {
            let alignment = if first == 0 { count } else { 1_usize.wrapping_shl(first.trailing_zeros()) };
            let size = power_of_two_below(count).min(alignment);
            self.buddy.dealloc(first, size);
            first = first.saturating_add(size);
            count = count.saturating_sub(size);
        }
    }
}

impl Pool {
    pub fn new() -> Self {
        Self { low: Zone::new(), high: Zone::new() }
    }

    /// How many there are.
    pub fn free(&self) -> usize {
        self.low.free.saturating_add(self.high.free)
    }

    /// How many of those lie in the first GiB.
    pub fn free_low(&self) -> usize {
        self.low.free
    }

    fn zone(&mut self, block: usize) -> &mut Zone {
        if block < ABOVE { &mut self.low } else { &mut self.high }
    }

    /// The parts of a run in each zone that has one.
    fn parts(first: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
        let below = ABOVE.saturating_sub(first).min(count);
        let parts = [(first, below), (first.saturating_add(below), count.saturating_sub(below))];
        parts.into_iter().filter(|(_, count)| *count != 0)
    }

    /// Adds blocks that were never there.
    pub fn add(&mut self, first: usize, count: usize) {
        for (first, count) in Self::parts(first, count) {
            let zone = self.zone(first);
            zone.buddy.add_frame(first, first.saturating_add(count));
            zone.free = zone.free.saturating_add(count);
        }
    }

    /// `count` blocks as runs (first block, blocks): in one piece or as few pieces as there can be of the zone that is wanted, then
    /// of the other one, then of both.
    pub fn take(&mut self, count: usize, reach: Reach) -> Option<Vec<(usize, usize)>> {
        let mut runs = Vec::new();
        if count == 0 || count > self.free() {
            return (count == 0).then_some(runs);
        }
        let zones = match reach {
            Reach::Any => [&mut self.high, &mut self.low],
            Reach::Small => [&mut self.low, &mut self.high],
        };
        let [first, second] = zones;
        for zone in [&mut *first, &mut *second] {
            if let Some(first) = zone.take_whole(count) {
                runs.push((first, count));
                return Some(runs);
            }
            if count <= zone.free {
                zone.take_pieces(count, &mut runs);
                return Some(runs);
            }
        }
        let got = first.take_pieces(count, &mut runs);
        second.take_pieces(count.saturating_sub(got), &mut runs);
        Some(runs)
    }

    /// One block.
    pub fn take_one(&mut self) -> Option<usize> {
        self.high.take_whole(1).or_else(|| self.low.take_whole(1))
    }

    /// This block, if it is there.
    pub fn take_at(&mut self, block: usize) -> bool {
        let zone = self.zone(block);
        let taken = zone.buddy.alloc_at(block, 1).is_some();
        zone.free = zone.free.saturating_sub(usize::from(taken));
        taken
    }

    /// Gives blocks back that were taken.
    pub fn put(&mut self, first: usize, count: usize) {
        Self::parts(first, count).for_each(|(first, count)| self.zone(first).put(first, count));
    }
}

/// The largest power of two that is not above `n` (1 for 0).
fn power_of_two_below(n: usize) -> usize {
    1_usize.wrapping_shl(n.max(1).ilog2())
}
