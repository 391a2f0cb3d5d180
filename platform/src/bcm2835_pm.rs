//! The power management block of the BCM2835 and its successors up to the BCM2711 (Raspberry Pi 4): its watchdog ends the machine where
//! no firmware can be called.
//!
//! Broadcom publishes no description of the block; registers and sequence are those of Linux' driver `bcm2835_wdt`, whose boot
//! loader takes the reset status [`HALT`] for "do not start again".

use crate::mmio::Registers;

const RSTC: u64 = 0x1c;
const RSTS: u64 = 0x20;
const WDOG: u64 = 0x24;
/// In the top byte of each write that counts.
const PASSWORD: u32 = 0x5a00_0000;
/// The partition to boot from next, spread over every other bit: the one that stands for halting.
const HALT: u32 = 0x555;
const CONFIGURE_CLEAR: u32 = 0xffff_ffcf;
const FULL_RESET: u32 = 0x20;
/// Ticks of some 15 us until the reset.
const SOON: u32 = 10;

/// The block.
#[derive(Clone, Copy, Debug)]
pub struct Power {
    registers: Registers,
}

impl Power {
    /// The one whose registers are there.
    pub const fn new(registers: Registers) -> Self {
        Self { registers }
    }
    /// Ends the machine, some microseconds after this returns.
    pub fn off(&self) {
        let status = self.registers.read32(RSTS);
        self.registers.write32(RSTS, PASSWORD | status | HALT);
        self.registers.write32(WDOG, PASSWORD | SOON);
        let control = self.registers.read32(RSTC);
        self.registers.write32(RSTC, PASSWORD | control & CONFIGURE_CLEAR | FULL_RESET);
    }
}
