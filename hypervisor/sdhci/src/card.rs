//! A controller and its card, from a reset to a card that can be read and written.

use crate::Registers;
use crate::spec::*;
use thiserror::Error;

/// Frequencies of the clock to the card, in Hz: while it is identified, and then.
const SLOW: u32 = 400_000;
const FAST: u32 = 25_000_000;
/// The base clock in Hz where the controller does not tell: the fastest that any of them has, so that the card's is not too fast.
const BASE: u32 = 250_000_000;
/// How long a register, a command, and a card that powers up may take, in ns.
const SOON: u64 = 100_000_000;
const COMMAND_TIME: u64 = 1_000_000_000;
const POWER_UP: u64 = 2_000_000_000;
/// Between power, clock and the first command, in ns.
const SETTLE: u64 = 2_000_000;

/// Why there is no card to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SdError {
    /// The controller does not do what it is told.
    #[error("the controller does not answer")]
    Controller,
    /// Nothing answers.
    #[error("there is no card")]
    NoCard,
    /// The card does not power up.
    #[error("the card does not power up")]
    NoPower,
    /// A command failed.
    #[error("the card fails at command {index}, status {status:#x}")]
    Command {
        /// Which.
        index: u32,
        /// The controller's status.
        status: u32,
    },
    /// It says a size that no card has.
    #[error("the card says no size")]
    Size,
}

/// A card in its transfer state, and its controller.
pub struct Card<R> {
    pub(crate) registers: R,
    /// Its size, in blocks of 512 bytes.
    pub(crate) sectors: u64,
    /// Blocks are addressed by their number; else by their first byte.
    pub(crate) by_block: bool,
    /// It says that it must not be written.
    pub(crate) read_only: bool,
}

/// The controller while all is polled.
struct Polled<'a, R> {
    registers: R,
    now: &'a dyn Fn() -> u64,
}

impl<R: Registers> Card<R> {
    /// Resets the controller and has the card ready. Polled; `now`: ns.
    ///
    /// # Errors
    /// Why there is no card, after a few seconds at most.
    pub fn start(registers: R, now: &dyn Fn() -> u64) -> Result<Self, SdError> {
        let mut polled = Polled { registers, now };
        polled.reset()?;
        polled.command(GO_IDLE, NONE, 0)?;
        let newer = polled.command(SEND_IF_COND, R7, IF_COND).is_ok_and(|answer| answer[0] & 0xfff == IF_COND);
        let by_block = polled.power_up(newer)?;
        polled.command(ALL_SEND_CID, R2, 0)?;
        let address = polled.command(SEND_RELATIVE, R6, 0)?[0] & 0xffff_0000;
        let csd = Csd(polled.command(SEND_CSD, R2, address)?);
        let sectors = csd.sectors().filter(|sectors| *sectors != 0).ok_or(SdError::Size)?;
        polled.command(SELECT, R1B, address)?;
        polled.command(APP, R1, address)?;
        polled.command(SET_BUS_WIDTH, R1, 0b10)?;
        let control = polled.registers.read(CONTROL);
        polled.registers.write(CONTROL, control | FOUR_WIRES);
        polled.command(SET_BLOCKLEN, R1, 512)?;
        polled.clock(FAST)?;
        polled.registers.write(STATUS, u32::MAX);
        Ok(Self { registers: polled.registers, sectors, by_block, read_only: csd.is_protected() })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.sectors.saturating_mul(512)
    }
}

impl<R: Registers> Polled<'_, R> {
    /// Waits until `done`, `most` ns at most.
    fn wait(&self, most: u64, done: impl Fn(&R) -> bool) -> bool {
        let start = (self.now)();
        while !done(&self.registers) {
            if (self.now)().saturating_sub(start) > most {
                return false;
            }
            sync::relax();
        }
        true
    }

    fn pause(&self, ns: u64) {
        self.wait(ns, |_| false);
    }

    fn reset(&mut self) -> Result<(), SdError> {
        self.registers.write(SIGNAL_ENABLE, 0);
        self.registers.write(CLOCK, RESET_ALL);
        if !self.wait(SOON, |registers| registers.read(CLOCK) & RESET_ALL == 0) {
            return Err(SdError::Controller);
        }
        self.registers.write(CONTROL, POWER);
        self.pause(SETTLE);
        self.clock(SLOW)?;
        self.pause(SETTLE);
        self.registers.write(STATUS, u32::MAX);
        self.registers.write(STATUS_ENABLE, SHOWN);
        Ok(())
    }

    /// Has the card's clock be `hz`, or the next below that the controller can.
    fn clock(&mut self, hz: u32) -> Result<(), SdError> {
        // The version of the specification, from 0; of 3.00 on the divisor is any even number, before a power of two.
        let version = self.registers.read(VERSION) >> 16 & 0xff;
        let mhz = self.registers.read(CAPABILITIES) >> 8 & if version >= 2 { 0xff } else { 0x3f };
        let base = if mhz == 0 { BASE } else { mhz.saturating_mul(1_000_000) };
        let half = base.div_ceil(hz.saturating_mul(2));
        let half = if version >= 2 { half.min(0x3ff) } else { half.next_power_of_two().min(0x80) };
        let divisor = (half & 0xff) << 8 | (half >> 8 & 3) << 6;
        self.registers.write(CLOCK, TIMEOUT);
        self.registers.write(CLOCK, TIMEOUT | divisor | INTERNAL);
        if !self.wait(SOON, |registers| registers.read(CLOCK) & STABLE != 0) {
            return Err(SdError::Controller);
        }
        self.registers.write(CLOCK, TIMEOUT | divisor | INTERNAL | TO_CARD);
        Ok(())
    }

    /// Whether the card has blocks by number.
    fn power_up(&mut self, newer: bool) -> Result<bool, SdError> {
        let start = (self.now)();
        let asked = VOLTAGES | if newer { HIGH_CAPACITY } else { 0 };
        loop {
            self.command(APP, R1, 0).map_err(|error| match error {
                SdError::Command { status, .. } if status & COMMAND_TIMEOUT != 0 => SdError::NoCard,
                other => other,
            })?;
            let [answer, ..] = self.command(SEND_OP_COND, R3, asked)?;
            if answer & POWERED_UP != 0 {
                return Ok(newer && answer & HIGH_CAPACITY != 0);
            }
            if (self.now)().saturating_sub(start) > POWER_UP {
                return Err(SdError::NoPower);
            }
            self.pause(SETTLE);
        }
    }

    /// A command without data, and its response.
    fn command(&mut self, index: u32, response: u32, argument: u32) -> Result<[u32; 4], SdError> {
        let registers = &self.registers;
        if !self.wait(SOON, |registers| registers.read(PRESENT) & INHIBIT == 0) {
            return Err(SdError::Controller);
        }
        registers.write(STATUS, u32::MAX);
        registers.write(ARGUMENT, argument);
        registers.write(COMMAND, index << INDEX_SHIFT | response);
        // A busy card is waited for.
        let wanted = if response == R1B { TRANSFER_COMPLETE } else { COMMAND_COMPLETE };
        let answered = self.wait(COMMAND_TIME, |registers| registers.read(STATUS) & (wanted | ERRORS) != 0);
        let status = registers.read(STATUS);
        registers.write(STATUS, status);
        if !answered || status & ERRORS != 0 {
            let clock = registers.read(CLOCK);
            registers.write(CLOCK, clock | RESET_LINES);
            self.wait(SOON, |registers| registers.read(CLOCK) & RESET_LINES == 0);
            return Err(SdError::Command { index, status });
        }
        Ok([0, 4, 8, 12].map(|word| registers.read(RESPONSE | word)))
    }
}

/// What a card says of itself: 128 bits, without the lowest 8, which the controller checks.
struct Csd([u32; 4]);

impl Csd {
    /// Bits `high` to `low` as the specification numbers them: at most 32, `low` at least 8.
    fn bits(&self, high: u32, low: u32) -> u32 {
        let all = self.0.iter().rev().fold(0u128, |all, word| all << 32 | u128::from(*word));
        let mask = (1u64 << (high.wrapping_sub(low).wrapping_add(1) & 63)).wrapping_sub(1);
        (all >> (low.wrapping_sub(8) & 127)) as u32 & mask as u32
    }

    fn sectors(&self) -> Option<u64> {
        match self.bits(127, 126) {
            0 => {
                let blocks =
                    u64::from(self.bits(73, 62)).checked_add(1)?.checked_shl(self.bits(49, 47).checked_add(2)?)?;
                let length = self.bits(83, 80);
                (9..=11).contains(&length).then(|| blocks << (length.wrapping_sub(9) & 3))
            }
            1 => u64::from(self.bits(69, 48)).checked_add(1)?.checked_mul(1024),
            _ => None,
        }
    }

    /// For a time, or for good.
    fn is_protected(&self) -> bool {
        self.bits(13, 12) != 0
    }
}
