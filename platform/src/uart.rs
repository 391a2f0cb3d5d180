//! The board's serial ports, whichever of the kinds they are.

use crate::mini_uart::MiniUart;
use crate::mmio::{NoAnswer, Registers};
use crate::pl011::Pl011;

/// A serial port.
#[derive(Clone, Copy, Debug)]
pub enum Uart {
    /// Arm PrimeCell PL011.
    Pl011(Pl011),
    /// The mini-UART of the BCM2835 and its successors.
    Mini(MiniUart),
}

impl Uart {
    /// Takes a PL011 over, as [`Pl011::probe`].
    ///
    /// # Errors
    /// [`NoAnswer`] where there is none.
    pub fn pl011(registers: Registers) -> Result<Self, NoAnswer> {
        Pl011::probe(registers).map(Self::Pl011)
    }
    /// Takes a mini-UART over, as [`MiniUart::probe`].
    ///
    /// # Errors
    /// [`NoAnswer`] where there is none.
    pub fn mini(registers: Registers, aux: Option<Registers>) -> Result<Self, NoAnswer> {
        MiniUart::probe(registers, aux).map(Self::Mini)
    }
    /// Gives `byte` to the transmit FIFO, unless it is full.
    #[inline]
    pub fn try_put(&self, byte: u8) -> bool {
        match self {
            Self::Pl011(uart) => uart.try_put(byte),
            Self::Mini(uart) => uart.try_put(byte),
        }
    }
    /// The next received byte, if there is one.
    pub fn get(&self) -> Option<u8> {
        match self {
            Self::Pl011(uart) => uart.get(),
            Self::Mini(uart) => uart.get(),
        }
    }
    /// Asks for an interrupt at input, and at room for output where `transmit` is set.
    pub fn interrupts(&self, receive: bool, transmit: bool) {
        match self {
            Self::Pl011(uart) => uart.interrupts(receive, transmit),
            Self::Mini(uart) => uart.interrupts(receive, transmit),
        }
    }
    /// Clears what can be cleared of the interrupts.
    pub fn acknowledge(&self) {
        match self {
            Self::Pl011(uart) => uart.acknowledge(),
            Self::Mini(_) => {}
        }
    }
}
