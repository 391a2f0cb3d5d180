//! A guest's RAM that counts and fails, a driver that keeps the rules, and one that keeps none.

extern crate std;

pub mod hostile;
mod rings;
mod transport;

use addr::Ipa;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bus::{Absent, AccessError, AccessSize, GuestMemory, MmioDevice, Offset};
use std::sync::Mutex;

use super::mmio::Mmio;
use super::spec::*;
use super::{Device, Limits, Ring, Stop};
use crate::fakes::FakeIrq;
use crate::state::RestoreError;

/// Where RAM begins.
pub const BASE: u64 = 0x4000_0000;
/// How much there is.
pub const SIZE: u64 = 0x1_0000;

/// Guest RAM that counts accesses, notes what was written, and finds nothing at one access.
#[derive(Default)]
pub struct Ram(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    accesses: usize,
    fails: Option<usize>,
    written: Vec<(u64, usize)>,
}

impl Ram {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { bytes: vec![0; SIZE as usize], ..Inner::default() })))
    }
    /// The guest's own stores and loads.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        let from = (at - BASE) as usize;
        self.0.lock().unwrap().bytes[from..from + bytes.len()].copy_from_slice(bytes);
    }
    pub fn get(&self, at: u64, size: usize) -> Vec<u8> {
        let from = (at - BASE) as usize;
        self.0.lock().unwrap().bytes[from..from + size].to_vec()
    }
    pub fn get_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }
    pub fn get_u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at, 4).try_into().unwrap())
    }
    /// The access with this number from now on finds the page absent; those after it find it again.
    pub fn fail(&self, number: Option<usize>) {
        let mut inner = self.0.lock().unwrap();
        (inner.accesses, inner.fails) = (0, number);
    }
    /// Accesses since it was asked last, and where the device wrote.
    pub fn taken(&self) -> (usize, Vec<(u64, usize)>) {
        let mut inner = self.0.lock().unwrap();
        (core::mem::take(&mut inner.accesses), core::mem::take(&mut inner.written))
    }
    fn access(&self, at: Ipa, size: u64, write: bool) -> Result<std::sync::MutexGuard<'_, Inner>, Absent> {
        let mut inner = self.0.lock().unwrap();
        let number = inner.accesses;
        inner.accesses += 1;
        if !self.is_ram(at, size) || inner.fails == Some(number) {
            return Err(Absent { at });
        }
        if write {
            inner.written.push((at.as_u64(), size as usize));
        }
        Ok(inner)
    }
}

impl GuestMemory for Ram {
    fn is_ram(&self, at: Ipa, size: u64) -> bool {
        at.as_u64().checked_add(size).is_some_and(|end| at.as_u64() >= BASE && end <= BASE + SIZE)
    }
    fn read(&self, at: Ipa, to: &mut [u8]) -> Result<(), Absent> {
        let inner = self.access(at, to.len() as u64, false)?;
        to.copy_from_slice(&inner.bytes[(at.as_u64() - BASE) as usize..][..to.len()]);
        Ok(())
    }
    fn write(&self, at: Ipa, from: &[u8]) -> Result<(), Absent> {
        let mut inner = self.access(at, from.len() as u64, true)?;
        inner.bytes[(at.as_u64() - BASE) as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
    fn load_u16(&self, at: Ipa) -> Result<u16, Absent> {
        if at.as_u64() & 1 != 0 {
            return Err(Absent { at });
        }
        let mut bytes = [0; 2];
        self.read(at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }
    fn store_u16(&self, at: Ipa, value: u16) -> Result<(), Absent> {
        if at.as_u64() & 1 != 0 {
            return Err(Absent { at });
        }
        self.write(at, &value.to_le_bytes())
    }
    fn pin(&self, at: Ipa, size: u64) -> Result<(), Absent> {
        self.access(at, size, false).map(|_| ())
    }
}

/// Answers each chain with what it reads, each byte plus one, as far as there is room. Configuration: four bytes that can be written.
#[derive(Default)]
pub struct Echo {
    pub config: [u8; 4],
    pub started: u64,
}

pub const ECHO: Limits = Limits { size: 16, chain: 24 };

impl Device for Echo {
    type State = [u8; 4];
    fn id(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        1 << 5
    }
    fn queues(&self) -> &[Limits] {
        &[ECHO, ECHO]
    }
    fn started(&mut self, features: u64) {
        self.started = features;
    }
    fn config_read(&self, at: usize, into: &mut [u8]) {
        for (byte, at) in into.iter_mut().zip(at..) {
            *byte = self.config.get(at).copied().unwrap_or(0);
        }
    }
    fn config_write(&mut self, at: usize, from: &[u8]) {
        for (byte, at) in from.iter().zip(at..) {
            if let Some(slot) = self.config.get_mut(at) {
                *slot = *byte;
            }
        }
    }
    fn serve(&mut self, _: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
        while let Some(chain) = ring.peek()? {
            // 64 bytes at most: the step is bounded, whatever the lengths.
            let mut bytes = [0; 64];
            let count = chain.readable().min(64);
            let bytes = &mut bytes[..count as usize];
            ring.read(&chain, 0, bytes)?;
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            let room = count.min(chain.writable()) as usize;
            ring.write(&chain, 0, &bytes[..room])?;
            ring.complete(chain, room as u32)?;
        }
        Ok(())
    }
    fn reset(&mut self) {
        *self = Self::default();
    }
    fn save(&self) -> [u8; 4] {
        self.config
    }
    fn check(state: &[u8; 4]) -> Result<(), RestoreError> {
        if state[3] == 0xff { Err(RestoreError::OutOfRange("config")) } else { Ok(()) }
    }
    fn restore(&mut self, state: [u8; 4]) {
        self.config = state;
    }
}

/// A device and its machine.
pub struct Board<D: Device> {
    pub device: Mmio<D, FakeIrq>,
    pub irq: FakeIrq,
    pub ram: Arc<Ram>,
}

pub fn board<D: Device>(device: D) -> Board<D> {
    let (irq, ram) = (FakeIrq::default(), Ram::new());
    Board { device: Mmio::new(device, irq.clone(), ram.clone()), irq, ram }
}

impl<D: Device> Board<D> {
    pub fn get(&mut self, at: Offset) -> u32 {
        self.device.read(at, AccessSize::B4).unwrap() as u32
    }
    pub fn put(&mut self, at: Offset, value: u32) -> Result<(), AccessError> {
        self.device.write(at, AccessSize::B4, value.into())
    }
    /// Puts a 32-bit register, which is a whole step.
    pub fn set(&mut self, at: Offset, value: u32) {
        self.put(at, value).unwrap();
    }
    /// Up to `FEATURES_OK`.
    pub fn negotiate(&mut self, features: u64) {
        self.set(STATUS, 0);
        self.set(STATUS, ACKNOWLEDGE);
        self.set(STATUS, ACKNOWLEDGE | DRIVER);
        for half in 0..2 {
            self.set(DRIVER_FEATURES_SEL, half);
            self.set(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(self.get(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }
    /// A store as the guest makes it: again and again until it is done. How often.
    pub fn repeat(&mut self, at: Offset, value: u32) -> usize {
        let mut steps = 1;
        while self.put(at, value) == Err(AccessError::Again) {
            steps += 1;
        }
        steps
    }
    pub fn driver_ok(&mut self) -> usize {
        self.repeat(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    }
    /// Hands a queue over.
    pub fn queue(&mut self, number: u32, size: u32, [desc, driver, device]: [u64; 3]) {
        self.set(QUEUE_SEL, number);
        self.set(QUEUE_NUM, size);
        for (register, at) in [(QUEUE_DESC, desc), (QUEUE_DRIVER, driver), (QUEUE_DEVICE, device)] {
            self.set(register, at as u32);
            self.set(register + 4, (at >> 32) as u32);
        }
        self.set(QUEUE_READY, 1);
    }
    pub fn acknowledge(&mut self) -> u32 {
        let status = self.get(INTERRUPT_STATUS);
        self.set(INTERRUPT_ACK, status);
        status
    }
}

/// The driver's side of a queue.
pub struct Driver {
    pub ram: Arc<Ram>,
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub idx: u16,
    pub seen: u16,
}

impl Driver {
    /// Queue `number`, one page each.
    pub fn new<D: Device>(board: &mut Board<D>, number: u32, size: u16) -> Self {
        let desc = BASE + 0x1000 * u64::from(number);
        let (avail, used) = (desc + 0x400, desc + 0x800);
        let ram = board.ram.clone();
        ram.put(desc, &[0; 0x1000]);
        board.queue(number, size.into(), [desc, avail, used]);
        Self { ram, size, desc, avail, used, idx: 0, seen: 0 }
    }
    pub fn descriptor(&self, table: u64, index: u16, (at, size, flags, next): (u64, u32, u16, u16)) {
        let value = u128::from(at) | u128::from(size) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        self.ram.put(table + 16 * u64::from(index), &value.to_le_bytes());
    }
    /// Makes the chain at `head` available.
    pub fn offer(&mut self, head: u16) {
        let entry = u64::from(self.idx % self.size);
        self.ram.put(self.avail + AVAIL_RING + 2 * entry, &head.to_le_bytes());
        self.idx = self.idx.wrapping_add(1);
        self.ram.put(self.avail + AVAIL_IDX, &self.idx.to_le_bytes());
    }
    /// What was given back: heads and lengths.
    pub fn collect(&mut self) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        while self.ram.get_u16(self.used + USED_IDX) != self.seen {
            let at = self.used + USED_RING + 8 * u64::from(self.seen % self.size);
            found.push((self.ram.get_u32(at), self.ram.get_u32(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        found
    }
    pub fn set_used_event(&self, event: u16) {
        self.ram.put(self.avail + AVAIL_RING + 2 * u64::from(self.size), &event.to_le_bytes());
    }
    pub fn avail_event(&self) -> u16 {
        self.ram.get_u16(self.used + USED_RING + 8 * u64::from(self.size))
    }
}

pub const ALL: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

/// An echo device with both queues up, and a driver for each.
pub fn echo(features: u64, size: u16) -> (Board<Echo>, [Driver; 2]) {
    let mut board = board(Echo::default());
    board.negotiate(features);
    let drivers = [0, 1].map(|number| Driver::new(&mut board, number, size));
    board.driver_ok();
    (board, drivers)
}
