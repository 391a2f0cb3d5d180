//! The guest's memory, which watches the device: how often and how much it accesses in a step, and that it writes only where a
//! descriptor that it has read in this step lets it, or where it has looked that the used ring is there.
//!
//! At one access a page can be absent, and at one the guest can store something, as one on another CPU would.

use addr::Ipa;
use bus::{Absent, GuestMemory};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where RAM begins.
pub const BASE: u64 = 0x4000_0000;
/// Bytes of it.
pub const SIZE: u64 = 0x1_8000;

/// A store of the guest's own in the middle of a step.
#[derive(Clone, Copy)]
pub struct Race {
    /// Before this access.
    pub access: usize,
    /// Where.
    pub at: u64,
    /// What.
    pub value: u64,
    /// Bytes of it.
    pub size: usize,
}

/// What a step did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Step {
    /// Accesses, those that failed included.
    pub accesses: usize,
    /// Bytes that were copied.
    pub bytes: usize,
    /// Buffers and rings that it looked whether they are there.
    pub looks: usize,
}

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    step: Step,
    fails: Option<usize>,
    race: Option<Race>,
    /// Buffers that descriptors read in this step name: where, how much, whether the device may write there.
    named: Vec<(u64, u32, bool)>,
    /// What was looked at in this step and may be written.
    open: Vec<(u64, u64)>,
}

/// The memory.
pub struct Ram(Mutex<Inner>);

impl Ram {
    /// All zeroes.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { bytes: vec![0; SIZE as usize], ..Inner::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The guest's own store; nothing happens outside RAM.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.lock().put(at, bytes);
    }

    /// The guest's own load; zeroes outside RAM.
    pub fn get(&self, at: u64, size: usize) -> Vec<u8> {
        let inner = self.lock();
        let bytes = inner.range(at, size as u64).map(|range| inner.bytes[range].to_vec());
        bytes.unwrap_or_else(|| vec![0; size])
    }

    /// Two bytes.
    pub fn get_u16(&self, at: u64) -> u16 {
        let bytes = self.get(at, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    /// In the steps from now on, the access with this number finds the page absent, once.
    pub fn fail(&self, access: Option<usize>) {
        self.lock().fails = access;
    }

    /// In the steps from now on, the guest stores something, once.
    pub fn race(&self, race: Option<Race>) {
        self.lock().race = race;
    }

    /// A step begins.
    pub fn begin(&self) {
        let mut inner = self.lock();
        inner.step = Step::default();
        inner.named.clear();
        inner.open.clear();
    }

    /// What it has done so far.
    pub fn step(&self) -> Step {
        self.lock().step
    }

    /// One access of the device's.
    fn access(&self, at: Ipa, size: u64, copied: usize) -> Result<MutexGuard<'_, Inner>, Absent> {
        let mut inner = self.lock();
        let number = inner.step.accesses;
        inner.step.accesses += 1;
        inner.step.bytes += copied;
        if let Some(race) = inner.race.filter(|race| race.access <= number) {
            inner.race = None;
            inner.put(race.at, &race.value.to_le_bytes()[..race.size.min(8)]);
        }
        if inner.fails.is_some_and(|fails| fails <= number) {
            inner.fails = None;
            return Err(Absent { at });
        }
        if inner.range(at.as_u64(), size).is_none() {
            return Err(Absent { at });
        }
        Ok(inner)
    }
}

impl Inner {
    fn range(&self, at: u64, size: u64) -> Option<std::ops::Range<usize>> {
        let end = at.checked_add(size)?;
        (at >= BASE && end <= BASE + SIZE).then(|| (at - BASE) as usize..(end - BASE) as usize)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        if let Some(range) = self.range(at, bytes.len() as u64) {
            self.bytes[range].copy_from_slice(bytes);
        }
    }

    /// Notes what may be descriptors.
    fn note(&mut self, read: &[u8]) {
        if read.len().is_multiple_of(16) && read.len() <= 64 {
            for descriptor in read.chunks(16) {
                let value = descriptor.iter().rev().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
                self.named.push((value as u64, (value >> 64) as u32, value >> 96 & 2 != 0));
            }
        }
    }

    /// The device has looked whether it can reach a buffer or a ring: what may be written of that.
    fn look(&mut self, at: u64, size: u64) {
        let named = |write| self.named.contains(&(at, size as u32, write));
        // As long as a used ring: it may be one, whatever a descriptor says of the same place.
        let ring = size.checked_sub(6).is_some_and(|size| (size / 8).is_power_of_two() && size.is_multiple_of(8));
        if ring || named(true) || !named(false) {
            self.open.push((at, size));
        }
    }

    fn check(&self, at: u64, size: u64) {
        let inside = |&(start, length): &(u64, u64)| at >= start && at + size <= start + length;
        assert!(
            self.open.iter().any(inside),
            "a write of {size} bytes at {at:#x}, where nothing is the device's to write"
        );
    }
}

impl GuestMemory for Ram {
    fn is_ram(&self, at: Ipa, size: u64) -> bool {
        self.lock().range(at.as_u64(), size).is_some()
    }
    fn read(&self, at: Ipa, to: &mut [u8]) -> Result<(), Absent> {
        let mut inner = self.access(at, to.len() as u64, to.len())?;
        let range = inner.range(at.as_u64(), to.len() as u64).unwrap_or_default();
        to.copy_from_slice(&inner.bytes[range]);
        inner.note(to);
        Ok(())
    }
    fn write(&self, at: Ipa, from: &[u8]) -> Result<(), Absent> {
        let mut inner = self.access(at, from.len() as u64, from.len())?;
        inner.check(at.as_u64(), from.len() as u64);
        inner.put(at.as_u64(), from);
        Ok(())
    }
    fn load_u16(&self, at: Ipa) -> Result<u16, Absent> {
        assert!(at.as_u64().is_multiple_of(2), "an atomic load at {at:?}");
        let inner = self.access(at, 2, 2)?;
        let range = inner.range(at.as_u64(), 2).unwrap_or_default();
        Ok(inner.bytes[range].iter().rev().fold(0, |value, byte| value << 8 | u16::from(*byte)))
    }
    fn store_u16(&self, at: Ipa, value: u16) -> Result<(), Absent> {
        assert!(at.as_u64().is_multiple_of(2), "an atomic store at {at:?}");
        // An index or an event field, of which no buffer is made.
        self.access(at, 2, 2)?.put(at.as_u64(), &value.to_le_bytes());
        Ok(())
    }
    fn pin(&self, at: Ipa, size: u64) -> Result<(), Absent> {
        let mut inner = self.access(at, size, 0)?;
        inner.step.looks += 1;
        inner.look(at.as_u64(), size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn writes(ram: &Ram, at: u64) -> bool {
        catch_unwind(AssertUnwindSafe(|| ram.write(Ipa::new(at), &[1]))).is_ok()
    }

    #[test]
    fn what_no_descriptor_lets_it_the_device_does_not_write() {
        let ram = Ram::new();
        let descriptor =
            |at: u64, size: u32, flags: u16| u128::from(at) | u128::from(size) << 64 | u128::from(flags) << 96;
        ram.put(BASE, &descriptor(BASE + 0x100, 10, 2).to_le_bytes());
        ram.put(BASE + 16, &descriptor(BASE + 0x200, 10, 0).to_le_bytes());
        ram.begin();
        assert!(!writes(&ram, BASE + 0x100));
        ram.read(Ipa::new(BASE), &mut [0; 32]).unwrap();
        for (at, good) in [(0x100, true), (0x200, false), (0x300, true)] {
            assert!(!writes(&ram, BASE + at));
            ram.pin(Ipa::new(BASE + at), 10).unwrap();
            assert_eq!(writes(&ram, BASE + at), good, "{at:#x}");
            assert_eq!(writes(&ram, BASE + at + 9), good, "{at:#x}");
            assert!(!writes(&ram, BASE + at + 10));
        }
        ram.begin();
        assert!(!writes(&ram, BASE + 0x100), "in another step it is not its own any more");
    }

    #[test]
    fn an_access_fails_once_and_a_guest_stores_once() {
        let ram = Ram::new();
        ram.fail(Some(1));
        ram.race(Some(Race { access: 2, at: BASE + 2, value: 0x0807, size: 2 }));
        ram.begin();
        let load = |at: u64| ram.load_u16(Ipa::new(BASE + at));
        assert_eq!((load(2), load(2).is_err(), load(2), load(2)), (Ok(0), true, Ok(0x807), Ok(0x807)));
        assert!(ram.load_u16(Ipa::new(BASE + SIZE)).is_err() && ram.read(Ipa::new(u64::MAX), &mut [0; 2]).is_err());
        assert_eq!(ram.step().accesses, 6);
    }
}
