//! The PrimeCell real time clock PL031 (Arm DDI 0224): the guest's wall clock, with one alarm.
//!
//! The counter is the host's wall clock plus an offset that the guest sets by a store to `LR`. A load has no room for a time
//! argument, so that the model is given a [`WallClock`] when it is made: the one device that reads a clock.
//!
//! | event | effect |
//! |---|---|
//! | a store to `LR` | the counter is that value at once (the board takes it over at the next tick of 1 Hz), and the alarm is set anew |
//! | a store to `MR` | the alarm is set anew; equal to the counter, it goes off at once |
//! | the counter reaches `MR` | `RIS` is set; again only when it comes round after 2^32 s |
//! | a jump of the host's clock over the alarm | `RIS` is set |
//!
//! The interrupt does not come by itself: the owner asks [`Pl031::next_alarm`] after each of the guest's stores, and calls
//! [`Pl031::poll`] at that time.
//!
//! # Where it follows QEMU's `virt` and not the manual
//! The clock always runs and `CR` reads 1: a guest finds the time of day without starting it. After a reset the counter is the
//! host's wall clock again, not 0.
//!
//! # Not modelled
//! The integration test registers (offsets 0x080 to 0x08c), ST's variants with a calendar.

pub mod spec;
#[cfg(test)]
mod tests;

use bus::{AccessError, AccessSize, IrqLine, MmioDevice, Offset};

use crate::primecell::{id_register, register};
use crate::state::RestoreError;
use spec::*;

/// The host's wall clock.
pub trait WallClock: Send {
    /// Seconds since 1970-01-01 00:00 UTC (or since start, on a board without a clock).
    fn seconds(&self) -> u64;
}

/// The format of [`State`].
pub const STATE_VERSION: u16 = 1;

/// All that the guest can change or see. Opaque: it comes from [`Pl031::save`] and goes to [`Pl031::restore`]; there the
/// counter follows the host's wall clock, whatever time has passed in between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    version: u16,
    /// Counter minus wall clock, modulo 2^32 seconds.
    offset: u32,
    /// When the counter next equals `MR`, in seconds of the wall clock.
    alarm: u64,
    mr: u32,
    lr: u32,
    imsc: u32,
    ris: u32,
}

impl State {
    /// After power-on, with the alarm still to be set.
    fn reset() -> Self {
        Self { version: STATE_VERSION, offset: 0, alarm: u64::MAX, mr: 0, lr: 0, imsc: 0, ris: 0 }
    }
}

/// The device.
pub struct Pl031<I: IrqLine, C: WallClock> {
    irq: I,
    clock: C,
    /// The level the wire has, so that the wire is called for changes only.
    driven: bool,
    state: State,
}

impl<I: IrqLine, C: WallClock> Pl031<I, C> {
    /// A clock after power-on: it shows the wall clock, and its alarm is masked.
    pub fn new(irq: I, clock: C) -> Self {
        irq.set_level(false);
        let mut rtc = Self { irq, clock, driven: false, state: State::reset() };
        rtc.arm_after(rtc.clock.seconds());
        rtc
    }

    /// When to call [`Pl031::poll`], in seconds of the wall clock; `None` while no interrupt can come.
    pub fn next_alarm(&self) -> Option<u64> {
        (self.state.imsc & !self.state.ris & BIT != 0).then_some(self.state.alarm)
    }

    /// Looks at the clock, and raises the interrupt where the alarm has gone off.
    pub fn poll(&mut self) {
        self.observe(self.clock.seconds());
        self.sync_irq();
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
        for (name, value) in [("RTCIMSC", state.imsc), ("RTCRIS", state.ris)] {
            if value & !BIT != 0 {
                return Err(RestoreError::OutOfRange(name));
            }
        }
        self.state = state;
        self.observe(self.clock.seconds());
        self.drive();
        Ok(())
    }

    /// The counter at `now`.
    fn counter(&self, now: u64) -> u32 {
        (now as u32).wrapping_add(self.state.offset)
    }

    /// Sets the alarm to the next time that the counter equals `MR`, `now` included.
    fn arm(&mut self, now: u64) {
        let distance = self.state.mr.wrapping_sub(self.counter(now));
        self.state.alarm = now.saturating_add(u64::from(distance));
    }

    /// Sets the alarm to the next time after `now` that the counter equals `MR`: the second that has gone off, or in which
    /// the device was reset, must not go off again.
    fn arm_after(&mut self, now: u64) {
        self.arm(now.saturating_add(1));
    }

    /// Lets the alarm go off where its time has come.
    fn observe(&mut self, now: u64) {
        if now >= self.state.alarm {
            self.state.ris |= BIT;
            self.arm_after(now);
        }
    }

    /// Brings the wire up to date: `RTCINTR` is high while the interrupt stands and is not masked.
    fn sync_irq(&mut self) {
        if (self.state.ris & self.state.imsc != 0) != self.driven {
            self.drive();
        }
    }

    fn drive(&mut self) {
        self.driven = self.state.ris & self.state.imsc != 0;
        self.irq.set_level(self.driven);
    }
}

impl<I: IrqLine, C: WallClock> MmioDevice for Pl031<I, C> {
    fn read(&mut self, at: Offset, size: AccessSize) -> Result<u64, AccessError> {
        let at = register(at, size)?;
        let now = self.clock.seconds();
        self.observe(now);
        self.sync_irq();
        let value = match at {
            DR => self.counter(now),
            MR => self.state.mr,
            LR => self.state.lr,
            CR => BIT,
            IMSC => self.state.imsc,
            RIS => self.state.ris,
            MIS => self.state.ris & self.state.imsc,
            // Write only.
            ICR => 0,
            _ => id_register(&IDS, at)?,
        };
        Ok(u64::from(value) & size.mask())
    }

    fn write(&mut self, at: Offset, size: AccessSize, value: u64) -> Result<(), AccessError> {
        let at = register(at, size)?;
        let value = (value & size.mask()) as u32;
        let now = self.clock.seconds();
        self.observe(now);
        match at {
            MR => {
                self.state.mr = value;
                self.arm(now);
                self.observe(now);
            }
            LR => {
                self.state.lr = value;
                self.state.offset = value.wrapping_sub(now as u32);
                self.arm(now);
                self.observe(now);
            }
            IMSC => self.state.imsc = value & BIT,
            ICR => self.state.ris &= !value,
            // Read only, and the clock cannot be stopped: a store does nothing.
            DR | CR | RIS | MIS => {}
            _ => id_register(&IDS, at).map(|_| ())?,
        }
        self.sync_irq();
        Ok(())
    }

    fn reset(&mut self) {
        self.state = State::reset();
        self.arm_after(self.clock.seconds());
        self.drive();
    }
}
