//! The PrimeCell general purpose input and output PL061 (Arm DDI 0190): eight lines, of which one is the guest's power key.
//!
//! The owner says what is on a line from outside ([`Pl061::press`], [`Pl061::release`]); a line that nobody presses is low.
//!
//! | `IS` | `IBE` | `IEV` | the line's bit of `RIS` |
//! |---|---|---|---|
//! | 1 | any | 0, 1 | set while the line is low, high |
//! | 0 | 1 | any | set by each edge, until `IC` |
//! | 0 | 0 | 0, 1 | set by a falling, rising edge, until `IC` |
//!
//! `MIS` is `RIS` and `IE`; the interrupt is high while any bit of `MIS` is set. An edge is noticed when it comes, by the registers of
//! that moment, also while it is masked; what the guest drives on an output is no edge.
//!
//! # Not modelled
//! Hardware control: `AFSEL` is kept and does nothing. Outputs go nowhere. The integration test registers (offsets 0x600 on).

pub mod spec;
#[cfg(test)]
mod tests;

use bus::{AccessError, AccessSize, IrqLine, MmioDevice, Offset};

use crate::primecell::{id_register, register};
use crate::state::RestoreError;
use spec::*;

/// The format of [`State`].
pub const STATE_VERSION: u16 = 1;

/// All that the guest can change or see. Opaque: it comes from [`Pl061::save`] and goes to [`Pl061::restore`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    version: u16,
    /// What is on the lines from outside, also on those that are outputs.
    pins: u8,
    /// What was last written to `DATA`.
    out: u8,
    dir: u8,
    is: u8,
    ibe: u8,
    iev: u8,
    ie: u8,
    afsel: u8,
    /// Edges that have come, of lines that look for edges.
    edges: u8,
}

impl State {
    fn reset() -> Self {
        Self { version: STATE_VERSION, pins: 0, out: 0, dir: 0, is: 0, ibe: 0, iev: 0, ie: 0, afsel: 0, edges: 0 }
    }

    /// The lines' levels: of an output what was written, of an input what is there.
    fn levels(&self) -> u8 {
        self.out & self.dir | self.pins & !self.dir
    }

    fn ris(&self) -> u8 {
        self.is & !(self.levels() ^ self.iev) | !self.is & self.edges
    }

    fn mis(&self) -> u8 {
        self.ris() & self.ie
    }
}

/// The device.
pub struct Pl061<I: IrqLine> {
    irq: I,
    /// The level the wire has, so that the wire is called for changes only.
    driven: bool,
    state: State,
}

impl<I: IrqLine> Pl061<I> {
    /// A device after power-on, with all lines low.
    pub fn new(irq: I) -> Self {
        irq.set_level(false);
        Self { irq, driven: false, state: State::reset() }
    }

    /// The outside drives `line` high. (A key is held for a moment, so that a guest that looks at the line sees it: QEMU's `virt`
    /// takes 100 ms.) A line that the device does not have is ignored.
    pub fn press(&mut self, line: u32) {
        self.drive_pins(self.state.pins | bit(line));
    }

    /// The outside lets go of `line`, which goes low.
    pub fn release(&mut self, line: u32) {
        self.drive_pins(self.state.pins & !bit(line));
    }

    /// The state as the guest sees it.
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Takes over a saved state and drives the wire accordingly. On an error nothing has changed.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.version != STATE_VERSION {
            return Err(RestoreError::Version(state.version));
        }
        if state.edges & state.is != 0 {
            return Err(RestoreError::OutOfRange("GPIORIS"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn drive_pins(&mut self, pins: u8) {
        let State { dir, is, ibe, iev, .. } = self.state;
        let changed = (self.state.pins ^ pins) & !dir & !is;
        // The edges that count: both, or the one towards `IEV`.
        self.state.edges |= changed & (ibe | !(pins ^ iev));
        self.state.pins = pins;
        self.sync_irq();
    }

    /// Brings the wire up to date: `GPIOINTR` is high while an interrupt stands and is not masked.
    fn sync_irq(&mut self) {
        if (self.state.mis() != 0) != self.driven {
            self.drive();
        }
    }

    fn drive(&mut self) {
        self.driven = self.state.mis() != 0;
        self.irq.set_level(self.driven);
    }
}

/// The bit of a line; 0 for one that does not exist.
fn bit(line: u32) -> u8 {
    1u8.checked_shl(line).unwrap_or(0)
}

/// Which lines an access to `GPIODATA` is about.
fn mask(at: Offset) -> u8 {
    (at >> 2 & 0xff) as u8
}

impl<I: IrqLine> MmioDevice for Pl061<I> {
    fn read(&mut self, at: Offset, size: AccessSize) -> Result<u64, AccessError> {
        let at = register(at, size)?;
        let state = &self.state;
        let value = match at {
            DATA..=DATA_END => state.levels() & mask(at),
            DIR => state.dir,
            IS => state.is,
            IBE => state.ibe,
            IEV => state.iev,
            IE => state.ie,
            RIS => state.ris(),
            MIS => state.mis(),
            // Write only.
            IC => 0,
            AFSEL => state.afsel,
            _ => return id_register(&IDS, at).map(u64::from),
        };
        Ok(u64::from(value))
    }

    fn write(&mut self, at: Offset, size: AccessSize, value: u64) -> Result<(), AccessError> {
        let at = register(at, size)?;
        let value = value as u8;
        let state = &mut self.state;
        match at {
            DATA..=DATA_END => state.out = state.out & !mask(at) | value & mask(at),
            DIR => state.dir = value,
            IS => {
                state.is = value;
                // A line that looks for levels remembers no edge.
                state.edges &= !value;
            }
            IBE => state.ibe = value,
            IEV => state.iev = value,
            IE => state.ie = value,
            IC => state.edges &= !value,
            AFSEL => state.afsel = value,
            // Read only: a store does nothing.
            RIS | MIS => {}
            _ => return id_register(&IDS, at).map(|_| ()),
        }
        self.sync_irq();
        Ok(())
    }

    fn reset(&mut self) {
        // A key that is held is let go.
        self.state = State::reset();
        self.drive();
    }
}
