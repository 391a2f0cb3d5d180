//! The board's PL011 UART: polled output, polled or interrupt-driven input (Arm DDI 0183, "Programmers Model").

use crate::mmio::{NoAnswer, Registers};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;

const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const LCR_H_FEN: u32 = 1 << 4;
const LCR_H_WLEN_8: u32 = 3 << 5;
const CR_ENABLE_TX_RX: u32 = 1 | 1 << 8 | 1 << 9;
const INT_RX: u32 = 1 << 4;
const INT_TX: u32 = 1 << 5;
const INT_RX_TIMEOUT: u32 = 1 << 6;

/// The UART. Its line settings (baud rate) are the firmware's and stay as they are.
#[derive(Clone, Copy, Debug)]
pub struct Pl011 {
    registers: Registers,
}

impl Pl011 {
    /// Takes the UART over, as [`Pl011::new`], if it is there at all.
    ///
    /// # Errors
    /// [`NoAnswer`] where the flag register cannot be read.
    pub fn probe(registers: Registers) -> Result<Self, NoAnswer> {
        registers.probe32(FR)?;
        Ok(Self::new(registers))
    }
    /// Takes the UART over: FIFOs and both directions on, every interrupt off.
    pub fn new(registers: Registers) -> Self {
        registers.write32(IMSC, 0);
        registers.write32(LCR_H, LCR_H_FEN | LCR_H_WLEN_8);
        registers.write32(CR, CR_ENABLE_TX_RX);
        registers.write32(ICR, 0x7ff);
        Self { registers }
    }
    /// Gives `byte` to the transmit FIFO, unless it is full.
    #[inline]
    pub fn try_put(&self, byte: u8) -> bool {
        if self.registers.read32(FR) & FR_TXFF != 0 {
            return false;
        }
        self.registers.write32(DR, u32::from(byte));
        true
    }
    /// The next received byte, if there is one. Bytes with a line error come as they were received.
    pub fn get(&self) -> Option<u8> {
        if self.registers.read32(FR) & FR_RXFE != 0 {
            return None;
        }
        Some((self.registers.read32(DR) & 0xff) as u8)
    }
    /// Asks for an interrupt at input, and at room for output where `transmit` is set.
    pub fn interrupts(&self, receive: bool, transmit: bool) {
        let mut mask = 0;
        if receive {
            mask |= INT_RX | INT_RX_TIMEOUT;
        }
        if transmit {
            mask |= INT_TX;
        }
        self.registers.write32(IMSC, mask);
    }
    /// Clears what can be cleared of the interrupts.
    pub fn acknowledge(&self) {
        self.registers.write32(ICR, INT_RX | INT_TX | INT_RX_TIMEOUT);
    }
}
