//! The places of vCPUs in the machine, and their numbers.

use crate::guest::{Guest, Runner};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use sched::EntityId;
use spin::Once;
use sync::{Rank, SpinLock};
use vm::ExitCounts;

/// vCPUs of all VMs together.
pub const MAX_ENTITIES: u32 = 2048;
/// Those that every runqueue has room for from the beginning.
pub const ROOM: u32 = 64;
/// Places that are made together.
const CHUNK: usize = 64;
const CHUNKS: usize = MAX_ENTITIES as usize / CHUNK;

/// The place of one vCPU in the machine.
pub struct Slot {
    /// Its runner, unless a pCPU has taken it to run it.
    pub runner: SpinLock<Option<Box<Runner>>>,
    /// The pCPU whose runqueue it is in.
    pub home: AtomicUsize,
    /// Its exits until it last left a pCPU.
    pub counts: SpinLock<ExitCounts>,
    /// Ticks that its pCPU has slept in its place, while the scheduler took it for running.
    pub slept: AtomicU64,
    /// It is switched on (counted in [`Machine::wanting`]).
    pub on: AtomicBool,
    /// Whose it is, and its index there.
    pub owner: SpinLock<Option<(Arc<Guest>, u32)>>,
    /// The same for whoever holds locks: its VM's number above its own (16 bits).
    pub whose: AtomicU32,
}

impl Slot {
    fn new() -> Self {
        Self {
            runner: SpinLock::new(Rank::Vcpu, None),
            home: AtomicUsize::new(0),
            on: AtomicBool::new(false),
            owner: SpinLock::new(Rank::Vcpu, None),
            whose: AtomicU32::new(0),
            counts: SpinLock::new(Rank::Vcpu, ExitCounts::default()),
            slept: AtomicU64::new(0),
        }
    }
}

/// All places. Memory is taken for those that were ever needed.
pub struct Slots([Once<&'static [Slot; CHUNK]>; CHUNKS]);

impl Slots {
    /// None needed yet.
    pub const fn new() -> Self {
        Self([const { Once::new() }; CHUNKS])
    }
    /// Makes those of `count` numbers from `first` on.
    pub fn make(&self, first: u32, count: u32) {
        let (first, count) = (first as usize, count as usize);
        let needed = first / CHUNK..(first + count).div_ceil(CHUNK);
        for chunk in self.0.get(needed).unwrap_or_default() {
            chunk.call_once(|| {
                let slots: Box<[Slot]> = (0..CHUNK).map(|_| Slot::new()).collect();
                // For good: places are used again.
                Box::leak(slots).first_chunk().unwrap_or_else(|| unreachable!("as many as were made"))
            });
        }
    }
    /// The place of a vCPU.
    #[inline]
    pub fn get(&self, id: EntityId) -> Option<&Slot> {
        let number = id.0 as usize;
        self.0.get(number / CHUNK)?.get()?.get(number % CHUNK)
    }
    /// All that were ever needed, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let made = self.0.iter().enumerate().filter_map(move |(at, slots)| Some((at * CHUNK, slots.get()?)));
        made.flat_map(|(first, slots)| slots.iter().enumerate().map(move |(at, slot)| (first + at, slot)))
    }
}

/// Numbers of vCPUs: each VM has a run of them.
pub struct Entities(Vec<bool>);

impl Entities {
    /// All are free.
    pub fn new() -> Self {
        Self(vec![false; MAX_ENTITIES as usize])
    }
    /// Takes `count` numbers that follow each other; the first of them.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        let count = count as usize;
        let first =
            (0..self.0.len().checked_sub(count)? + 1).find(|at| self.0[*at..at + count].iter().all(|taken| !taken))?;
        self.0[first..first + count].fill(true);
        Some(first as u32)
    }
    /// Gives them back.
    pub fn give(&mut self, first: u32, count: u32) {
        if let Some(run) = self.0.get_mut(first as usize..(first + count) as usize) {
            run.fill(false);
        }
    }
}
