//! PCI as far as virtio devices need it ("Virtio Over PCI Bus"; PCI Local Bus Specification 3.0, "Configuration Space"): the functions of
//! a root bus, and places for the registers of those that Merus uses.
//!
//! | a function's registers | their place |
//! |---|---|
//! | the firmware has given them one that reaches the bus | stays |
//! | else | the next free one of the bridge's window ([`Room`]) |
//!
//! Nothing of another function is changed: where its registers are is read, and as their size is not (to ask for it is to change them),
//! [`FAR`] bytes from there on are left to it.
//!
//! # Not modelled
//! Functions behind bridges, I/O space, MSI (interrupts are the four wires), hot plug.

use super::Fault;
use crate::mmio::Registers;
use addr::{PAGE_SIZE, Pa, Span};
use alloc::vec::Vec;
use virtio_drivers::Hal;
use virtio_drivers::transport::pci::bus::{BarInfo, Command, ConfigurationAccess, DeviceFunction, HeaderType, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceType, SomeTransport};

/// Bytes that registers of another function's have at most, as far as is known.
const FAR: u64 = 16 << 20;
const BAR_0: u8 = 0x10;
const BARS: u8 = 6;
const BRIDGE_MEMORY: u8 = 0x20;
const INTERRUPT: u8 = 0x3c;

/// The configuration space of a root bus, as memory ("Enhanced Configuration Access Mechanism").
#[derive(Clone, Copy, Debug)]
pub struct Ecam {
    registers: Registers,
    bus: u8,
}

impl Ecam {
    /// That of bus `bus`: its first byte is that of `registers`, and it has 1 MiB.
    pub const fn new(registers: Registers, bus: u8) -> Self {
        Self { registers, bus }
    }
    fn at(&self, function: DeviceFunction, offset: u8) -> Option<u64> {
        let within = u64::from(function.device & 31) << 15 | u64::from(function.function & 7) << 12;
        (function.bus == self.bus).then_some(within | u64::from(offset & !3))
    }
}

impl ConfigurationAccess for Ecam {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        self.at(function, offset).map_or(u32::MAX, |at| self.registers.read32(at))
    }
    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        if let Some(at) = self.at(function, offset) {
            self.registers.write32(at, data);
        }
    }
    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// A virtio device on the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    at: DeviceFunction,
    /// What it is.
    pub kind: DeviceType,
    /// Its interrupt wire: 1 to 4, or 0 for none.
    pub pin: u8,
}

impl Function {
    /// Its number on the bus.
    pub fn device(&self) -> u8 {
        self.at.device
    }
    /// And its own in the device.
    pub fn function(&self) -> u8 {
        self.at.function
    }
}

/// Addresses of memory on the bus that are the CPUs' own as well, and of which those from `next` on are nobody's.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    window: Span<Pa>,
    next: u64,
}

impl Room {
    fn take(&mut self, size: u64, wide: bool) -> Option<u64> {
        let at = self.next.checked_next_multiple_of(size.max(PAGE_SIZE))?;
        let end = at.checked_add(size)?;
        let reached = end <= self.window.end().as_u64() && (wide || end <= 1 << 32) && at != 0;
        reached.then(|| {
            self.next = end;
            at
        })
    }
}

/// A root bus.
pub struct Bus<C: ConfigurationAccess> {
    root: PciRoot<C>,
    access: C,
    bus: u8,
}

impl<C: ConfigurationAccess + Clone> Bus<C> {
    /// Bus number `bus` of this configuration space.
    pub fn new(access: C, bus: u8) -> Self {
        Self { root: PciRoot::new(access.clone()), access, bus }
    }

    /// Its virtio devices.
    pub fn virtio(&self) -> Vec<Function> {
        let all = self.root.enumerate_bus(self.bus);
        let known = all.filter_map(|(at, info)| Some((at, virtio_device_type(&info)?)));
        known.map(|(at, kind)| Function { at, kind, pin: (self.access.read_word(at, INTERRUPT) >> 8) as u8 }).collect()
    }

    /// What of `window`, in which the bus's addresses are the CPUs', no function is known to have.
    pub fn room(&self, window: Span<Pa>) -> Room {
        let mut next = window.start().as_u64();
        for (at, info) in self.root.enumerate_bus(self.bus) {
            let mut taken = |from: u64, size: u64| {
                if window.contains(Pa::new(from)) && from != 0 {
                    next = next.max(from.saturating_add(size));
                }
            };
            match info.header_type {
                HeaderType::Standard => {
                    let words: Vec<u32> = (0..BARS).map(|n| self.access.read_word(at, BAR_0 + 4 * n)).collect();
                    addresses(&words).for_each(|from| taken(from, FAR));
                }
                // What is behind a bridge ("Memory Base", "Memory Limit").
                HeaderType::PciPciBridge => {
                    let limits = u64::from(self.access.read_word(at, BRIDGE_MEMORY));
                    let (base, limit) = ((limits & 0xfff0) << 16, (limits & 0xfff0_0000) | 0xf_ffff);
                    if limit > base {
                        taken(base, limit - base + 1);
                    }
                }
                _ => {}
            }
        }
        Room { window, next }
    }

    /// Sees to it that a function's registers have a place, and that it may reach memory: what of them is to be mapped.
    ///
    /// # Errors
    /// There is none for them; the function is off then.
    pub fn place(&mut self, function: &Function, room: &mut Room) -> Result<Vec<Span<Pa>>, Fault> {
        let at = function.at;
        let (_, command) = self.root.get_status_command(at);
        self.root.set_command(at, command & !(Command::MEMORY_SPACE | Command::BUS_MASTER));
        let bars = self.root.bars(at).map_err(|_| Fault::Registers)?;
        let mut spans = Vec::new();
        for (number, bar) in bars.iter().enumerate() {
            let Some(BarInfo::Memory { address, size, .. }) = *bar else { continue };
            let wide = bar.as_ref().is_some_and(BarInfo::takes_two_entries);
            let kept = Span::new(Pa::new(address), size).filter(|span| address != 0 && room.window.encloses(span));
            let span = match kept {
                Some(span) => span,
                None => {
                    let given = room.take(size, wide).ok_or(Fault::NoPlace)?;
                    match wide {
                        true => self.root.set_bar_64(at, number as u8, given),
                        false => self.root.set_bar_32(at, number as u8, given as u32),
                    }
                    Span::new(Pa::new(given), size).ok_or(Fault::NoPlace)?
                }
            };
            spans.push(span);
        }
        let on = (command | Command::MEMORY_SPACE | Command::BUS_MASTER) & !Command::INTERRUPT_DISABLE;
        self.root.set_command(at, on);
        Ok(spans)
    }

    /// The device of a function whose registers have been mapped where they are.
    ///
    /// # Errors
    /// It has not all of them.
    pub fn transport<H: Hal>(&mut self, function: &Function) -> Result<SomeTransport<'static>, Fault> {
        let transport = PciTransport::new::<H, C>(&mut self.root, function.at);
        transport.map(SomeTransport::from).map_err(|_| Fault::Registers)
    }
}

/// The addresses of memory in the words of base address registers.
fn addresses(words: &[u32]) -> impl Iterator<Item = u64> {
    let mut words = words.iter();
    core::iter::from_fn(move || {
        let low = *words.next()?;
        // Bit 0: I/O space, of no interest; bits 1 and 2: 2 for an address of 64 bits.
        Some(match low & 7 {
            4 => u64::from(low & !15) | u64::from(words.next().copied().unwrap_or(0)) << 32,
            _ if low & 1 != 0 => 0,
            _ => u64::from(low & !15),
        })
    })
}
