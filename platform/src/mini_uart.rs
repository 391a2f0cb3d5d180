//! The mini-UART of the BCM2835 and its successors up to the BCM2711 (Raspberry Pi 4): polled output, polled or interrupt-driven input.
//!
//! Broadcom, BCM2711 ARM Peripherals, "Auxiliaries: UART1, SPI1 & SPI2": the block AUX has this UART and two SPI masters, each switched
//! on by a bit of AUX_ENABLES, and one interrupt line for all three. Nobody in Merus drives the SPI masters, so taking the UART over
//! switches them off: a line that one of them held up would never come down.
//!
//! The registers are laid out as a 16550's, which Linux drives it as (`8250_bcm2835aux`); AUX_MU_IER's bits are that one's.

use crate::mmio::{NoAnswer, Registers};

/// In AUX: what is switched on, and which of it interrupts.
const AUX_ENABLES: u64 = 0x04;
const ENABLE_UART: u32 = 1;

const IO: u64 = 0x00;
const IER: u64 = 0x04;
const LCR: u64 = 0x0c;
const MCR: u64 = 0x10;
const LSR: u64 = 0x14;
const CNTL: u64 = 0x20;

/// Interrupt for received bytes. Without the one for the line's errors (an overrun) the silicon gives none for bytes either; reading
/// AUX_MU_LSR, which [`MiniUart::get`] does, ends that.
const IER_RECEIVE: u32 = 1 | 1 << 2;
/// Interrupt while there is room for output.
const IER_TRANSMIT: u32 = 1 << 1;
/// Eight data bits: both bits, though the manual once named one.
const LCR_8_BITS: u32 = 3;
const LSR_RECEIVED: u32 = 1;
const LSR_ROOM: u32 = 1 << 5;
const CNTL_BOTH: u32 = 3;

/// The UART. Its speed, which depends on the core's clock, is the firmware's (`enable_uart=1`) and stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct MiniUart {
    registers: Registers,
}

impl MiniUart {
    /// Takes the UART over, if it is there: both directions on, every interrupt off. `aux` is the block's own registers, where the
    /// board's tree has them; without them the UART has to be switched on already.
    ///
    /// # Errors
    /// [`NoAnswer`] where its registers cannot be read.
    pub fn probe(registers: Registers, aux: Option<Registers>) -> Result<Self, NoAnswer> {
        if let Some(aux) = aux {
            aux.probe32(AUX_ENABLES)?;
            aux.write32(AUX_ENABLES, ENABLE_UART);
        }
        registers.probe32(LSR)?;
        registers.write32(IER, 0);
        registers.write32(LCR, LCR_8_BITS);
        registers.write32(MCR, 0);
        registers.write32(CNTL, CNTL_BOTH);
        Ok(Self { registers })
    }
    /// Gives `byte` to the transmit FIFO, unless it is full.
    #[inline]
    pub fn try_put(&self, byte: u8) -> bool {
        if self.registers.read32(LSR) & LSR_ROOM == 0 {
            return false;
        }
        self.registers.write32(IO, u32::from(byte));
        true
    }
    /// The next received byte, if there is one.
    pub fn get(&self) -> Option<u8> {
        if self.registers.read32(LSR) & LSR_RECEIVED == 0 {
            return None;
        }
        Some((self.registers.read32(IO) & 0xff) as u8)
    }
    /// Asks for an interrupt at input, and at room for output where `transmit` is set. Both are levels: they end with what they are for.
    pub fn interrupts(&self, receive: bool, transmit: bool) {
        self.registers.write32(IER, enables(receive, transmit));
    }
}

/// AUX_MU_IER for what is asked for.
const fn enables(receive: bool, transmit: bool) -> u32 {
    (if receive { IER_RECEIVE } else { 0 }) | if transmit { IER_TRANSMIT } else { 0 }
}
