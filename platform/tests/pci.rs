//! Places for the registers of functions on a PCI bus, by a configuration space that is made up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use addr::{Pa, Span};
use platform::virtio::pci::{Bus, Function};
use platform::virtio::{DeviceType, Fault};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

const COMMAND: u8 = 0x04;
const MEMORY: u32 = 1 << 1;
const MASTER: u32 = 1 << 2;
const NO_INTX: u32 = 1 << 10;

/// What a function has: its words, and of each base address register the bits that can be changed.
#[derive(Default)]
struct Config {
    words: BTreeMap<u8, u32>,
    masks: BTreeMap<u8, u32>,
    writes: usize,
}

#[derive(Clone, Default)]
struct Space(Rc<RefCell<BTreeMap<(u8, u8), Config>>>);

impl Space {
    /// A function; `bars`: low bits, size in bytes (0: none), and the address that it was given.
    fn add(&self, device: u8, function: u8, id: u32, pin: u32, bars: &[(u32, u64, u64)]) {
        let mut config = Config::default();
        config.words.extend([(0, id), (COMMAND, 0), (0x0c, 0), (0x3c, pin << 8)]);
        let mut at = 0x10;
        for &(bits, size, address) in bars {
            let mask = if size == 0 { 0 } else { !(size - 1) };
            let flags = if bits & 1 != 0 { 3 } else { 15 };
            config.words.insert(at, address as u32 & !flags | bits);
            config.masks.insert(at, mask as u32 & !flags);
            at += 4;
            if bits & 7 == 4 {
                config.words.insert(at, (address >> 32) as u32);
                config.masks.insert(at, (mask >> 32) as u32);
                at += 4;
            }
        }
        self.0.borrow_mut().insert((device, function), config);
    }
    fn word(&self, device: u8, function: u8, at: u8) -> u32 {
        self.0.borrow()[&(device, function)].words.get(&at).copied().unwrap_or(0)
    }
    fn set(&self, device: u8, at: u8, value: u32) {
        self.0.borrow_mut().get_mut(&(device, 0)).unwrap().words.insert(at, value);
    }
    fn writes(&self, device: u8) -> usize {
        self.0.borrow()[&(device, 0)].writes
    }
}

impl ConfigurationAccess for Space {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        assert_eq!(function.bus, 0);
        let all = self.0.borrow();
        let Some(config) = all.get(&(function.device, function.function)) else { return u32::MAX };
        config.words.get(&offset).copied().unwrap_or(0)
    }
    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        let mut all = self.0.borrow_mut();
        let config = all.get_mut(&(function.device, function.function)).expect("a function");
        config.writes += 1;
        let old = config.words.get(&offset).copied().unwrap_or(0);
        let new = match config.masks.get(&offset) {
            Some(mask) => old & !mask & 15 | data & mask,
            None if (0x10..0x28).contains(&offset) => 0,
            None => data,
        };
        config.words.insert(offset, new);
    }
    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

const NET: u32 = 0x1041_1af4;
const BLOCK: u32 = 0x1001_1af4;
/// A transitional device of QEMU's: I/O, registers of MSI-X, and those of virtio.
const QEMU: [(u32, u64, u64); 4] = [(1, 0x80, 0), (0, 0x1000, 0), (0, 0, 0), (0, 0, 0)];

fn qemu(at: u64) -> Vec<(u32, u64, u64)> {
    let mut bars = QEMU.to_vec();
    bars.push((12, 0x4000, at));
    bars
}

fn window() -> Span<Pa> {
    Span::new(Pa::new(0x1000_0000), 0x1000_0000).unwrap()
}

fn spans(spans: &[Span<Pa>]) -> Vec<(u64, u64)> {
    spans.iter().map(|span| (span.start().as_u64(), span.size())).collect()
}

fn found(bus: &Bus<Space>) -> Vec<(u8, u8, DeviceType, u8)> {
    bus.virtio().iter().map(|f: &Function| (f.device(), f.function(), f.kind, f.pin)).collect()
}

#[test]
fn registers_without_a_place_get_one() {
    let space = Space::default();
    space.add(0, 0, 0x0008_1b36, 0, &[]);
    space.add(1, 0, NET, 1, &qemu(0));
    space.add(2, 0, BLOCK, 2, &qemu(0));
    space.set(1, COMMAND, NO_INTX);
    let mut bus = Bus::new(space.clone(), 0);
    assert_eq!(found(&bus), [(1, 0, DeviceType::Network, 1), (2, 0, DeviceType::Block, 2)]);
    let mut room = bus.room(window());
    let functions = bus.virtio();
    let first = bus.place(&functions[0], &mut room).unwrap();
    assert_eq!(spans(&first), [(0x1000_0000, 0x1000), (0x1000_4000, 0x4000)]);
    assert_eq!(space.writes(2), 0, "nobody asked for it");
    let second = bus.place(&functions[1], &mut room).unwrap();
    assert_eq!(spans(&second), [(0x1000_8000, 0x1000), (0x1000_c000, 0x4000)]);
    for (device, low) in [(1, 0x1000_4000), (2, 0x1000_c000)] {
        assert_eq!((space.word(device, 0, 0x20) & !15, space.word(device, 0, 0x24)), (low, 0));
        assert_eq!(space.word(device, 0, COMMAND) & (MEMORY | MASTER | NO_INTX), MEMORY | MASTER);
    }
    // Looked at once more, each has its place, and what follows comes behind all of them.
    let mut room = bus.room(window());
    assert_eq!(bus.place(&functions[0], &mut room).unwrap(), first);
    space.add(3, 0, NET, 1, &[(4, 0x4000, 0)]);
    let third = bus.virtio()[2];
    let at = bus.place(&third, &mut room).unwrap()[0].start().as_u64();
    assert!(at >= 0x1001_0000, "{at:#x}");
}

#[test]
fn what_the_firmware_placed_stays_and_others_keep_clear() {
    let space = Space::default();
    space.add(1, 0, NET, 1, &qemu(0x1f00_0000));
    space.add(1, 3, 0x1234_8086, 1, &[(0, 0x10_0000, 0x1800_0000), (1, 0x20, 0xfff0_0000)]);
    space.add(2, 0, BLOCK, 1, &[(0, 0x1000, 0)]);
    let mut bus = Bus::new(space.clone(), 0);
    let mut room = bus.room(window());
    let functions = bus.virtio();
    // One of its two is at home already; the other one has no room behind all that is known to be taken.
    assert_eq!(bus.place(&functions[0], &mut room), Err(Fault::NoPlace));
    assert_eq!(space.word(1, 0, COMMAND) & (MEMORY | MASTER), 0, "it is off");
    assert_eq!(bus.place(&functions[1], &mut room), Err(Fault::NoPlace));
    space.add(1, 0, NET, 1, &[(4, 0x4000, 0x1400_0000)]);
    let mut room = bus.room(window());
    assert_eq!(spans(&bus.place(&bus.virtio()[0], &mut room).unwrap()), [(0x1400_0000, 0x4000)]);
    let block = bus.place(&functions[1], &mut room).unwrap();
    assert_eq!(spans(&block), [(0x1900_0000, 0x1000)], "16 MiB behind the last one that is known");
    // A bridge has its window, which says where it ends.
    space.add(4, 0, 0x000c_1b36, 0, &[]);
    space.set(4, 0x0c, 1 << 16);
    space.set(4, 0x20, 0x1ff0_1a00);
    space.add(5, 0, BLOCK, 1, &[(0, 0x1000, 0)]);
    let mut room = bus.room(window());
    assert_eq!(bus.place(&bus.virtio()[2], &mut room), Err(Fault::NoPlace));
}

#[test]
fn a_window_above_4_gib_is_for_wide_registers_only() {
    let high = Span::new(Pa::new(0x80_0000_0000), 1 << 30).unwrap();
    let space = Space::default();
    space.add(1, 0, NET, 1, &[(4, 0x4000, 0)]);
    space.add(2, 0, NET, 1, &[(0, 0x4000, 0)]);
    let mut bus = Bus::new(space.clone(), 0);
    let mut room = bus.room(high);
    let functions = bus.virtio();
    assert_eq!(spans(&bus.place(&functions[0], &mut room).unwrap()), [(0x80_0000_0000, 0x4000)]);
    assert_eq!((space.word(1, 0, 0x10) & !15, space.word(1, 0, 0x14)), (0, 0x80));
    assert_eq!(bus.place(&functions[1], &mut room), Err(Fault::NoPlace));
}
