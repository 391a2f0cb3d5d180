//! What a PL011 remembers, and what a saved state is checked for.

use super::fifo::Fifo;
use super::spec::*;
use crate::state::RestoreError;

/// The format of [`State`].
pub const STATE_VERSION: u16 = 1;

/// All that the guest can change or see. Opaque: it comes from [`Pl011::save`](super::Pl011::save) and goes to [`Pl011::restore`](super::Pl011::restore).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub(super) version: u16,
    pub(super) rx: Fifo,
    pub(super) tx: Fifo,
    /// `RSR`: the errors of the character last read, and the overrun bit until it is cleared.
    pub(super) rsr: u16,
    /// A character was lost since one was last taken into the receive FIFO (`DR.OE`).
    pub(super) overrun: bool,
    pub(super) ilpr: u16,
    pub(super) ibrd: u16,
    pub(super) fbrd: u16,
    pub(super) lcr: u16,
    pub(super) cr: u16,
    pub(super) ifls: u16,
    pub(super) imsc: u16,
    pub(super) ris: u16,
    pub(super) dmacr: u16,
}

impl State {
    pub(super) fn reset() -> Self {
        Self {
            version: STATE_VERSION,
            rx: Fifo::default(),
            tx: Fifo::default(),
            rsr: 0,
            overrun: false,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr: 0,
            cr: CR_RESET,
            ifls: IFLS_RESET,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        }
    }

    /// How many characters the FIFOs hold now.
    #[inline]
    pub(super) fn depth(&self) -> usize {
        if self.lcr & LCR_FEN != 0 { FIFO_DEPTH } else { 1 }
    }

    /// Whether the state is one that the device can be in.
    pub(super) fn check(&self) -> Result<(), RestoreError> {
        if self.version != STATE_VERSION {
            return Err(RestoreError::Version(self.version));
        }
        let fields = [
            ("UARTRSR", self.rsr, 0xf),
            ("UARTILPR", self.ilpr, ILPR_MASK),
            ("UARTFBRD", self.fbrd, FBRD_MASK),
            ("UARTLCR_H", self.lcr, LCR_MASK),
            ("UARTCR", self.cr, CR_MASK),
            ("UARTIFLS", self.ifls, IFLS_MASK),
            ("UARTIMSC", self.imsc, INT_MASK),
            ("UARTRIS", self.ris, INT_MASK),
            ("UARTDMACR", self.dmacr, DMACR_MASK),
        ];
        match fields.iter().find(|(_, value, mask)| value & !mask != 0) {
            Some((name, ..)) => Err(RestoreError::OutOfRange(name)),
            // The transmit FIFO may hold more than one character with FEN off: those written before it was switched off.
            None if self.rx.len() > self.depth() => Err(RestoreError::OutOfRange("receive FIFO")),
            None => Ok(()),
        }
    }
}
