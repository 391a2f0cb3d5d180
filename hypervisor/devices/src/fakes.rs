//! Recording stand-ins for what a device is given: a wire, a line, a clock. Each test has its own.

extern crate std;

use bus::IrqLine;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use crate::pl011::ByteSink;
use crate::pl031::WallClock;

/// A wire that remembers its level and how often it changed.
#[derive(Clone, Default)]
pub struct FakeIrq(Arc<Mutex<(bool, u32)>>);

impl FakeIrq {
    pub fn is_high(&self) -> bool {
        self.0.lock().unwrap().0
    }
    pub fn changes(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

impl IrqLine for FakeIrq {
    fn set_level(&self, high: bool) {
        let mut wire = self.0.lock().unwrap();
        if wire.0 != high {
            *wire = (high, wire.1 + 1);
        }
    }
}

/// A line with room for `room` bytes until [`FakeSink::drain`] makes more.
#[derive(Clone)]
pub struct FakeSink(Arc<Mutex<(Vec<u8>, usize)>>);

impl FakeSink {
    pub fn with_room(room: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), room))))
    }
    /// All bytes that came out so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }
    /// Makes room for `more` bytes.
    pub fn drain(&self, more: usize) {
        self.0.lock().unwrap().1 += more;
    }
}

impl ByteSink for FakeSink {
    fn put(&mut self, byte: u8) -> bool {
        let mut line = self.0.lock().unwrap();
        if line.1 == 0 {
            return false;
        }
        line.1 -= 1;
        line.0.push(byte);
        true
    }
}

/// A clock that the test sets.
#[derive(Clone, Default)]
pub struct FakeClock(Arc<Mutex<u64>>);

impl FakeClock {
    pub fn at(seconds: u64) -> Self {
        Self(Arc::new(Mutex::new(seconds)))
    }
    pub fn set(&self, seconds: u64) {
        *self.0.lock().unwrap() = seconds;
    }
}

impl WallClock for FakeClock {
    fn seconds(&self) -> u64 {
        *self.0.lock().unwrap()
    }
}
