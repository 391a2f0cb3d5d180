//! A virtio input device ("Input Device") with one key, the power key: for guests that have no driver for the one at the PL061.
//!
//! [`Mmio::press`] and [`Mmio::release`] are the outside's. A press counts only if a driver is there to take it: a driver that comes
//! later finds a key that nobody touches.
//!
//! | configuration | answer |
//! |---|---|
//! | `ID_NAME`, `ID_SERIAL` | [`NAME`], [`SERIAL`] |
//! | `ID_DEVIDS` | bus "virtual", vendor and product 0, version 1 |
//! | `EV_BITS` of `EV_KEY` | `KEY_POWER` |
//! | everything else | nothing (size 0) |
//!
//! # Not modelled
//! What the driver sends (lights, repeat rates) is taken and does nothing.

pub mod spec;
#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use bus::IrqLine;

use super::mmio::Mmio;
use super::{Device, Limits, Ring, Stop};
use crate::state::RestoreError;
use spec::*;

/// What the device is called.
pub const NAME: &[u8] = b"Merus power key";
/// Its serial number.
pub const SERIAL: &[u8] = b"power";

/// As many events as a driver takes at a time, and more than a key ever has.
const LIMITS: Limits = Limits { size: 32, chain: 32 };
/// Events that wait for buffers: those of two presses and releases.
const WAITING: usize = 8;

/// An event: type, code, value.
type Event = (u16, u16, u32);
const SYN: Event = (EV_SYN, SYN_REPORT, 0);

/// All that is saved of the key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    select: u8,
    subsel: u8,
    /// A press was said, and its release was not yet.
    down: bool,
    waiting: ArrayVec<Event, WAITING>,
}

/// The device.
#[derive(Default)]
pub struct PowerKey {
    state: State,
}

impl PowerKey {
    /// A key that nobody touches.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, down: bool) {
        // There is room: a press is taken only with room for its release.
        let _ = self.state.waiting.try_push((EV_KEY, KEY_POWER, down.into()));
        let _ = self.state.waiting.try_push(SYN);
        self.state.down = down;
    }

    /// The answer to what the driver has selected.
    fn answer(&self, act: impl FnOnce(&[u8])) {
        let mut bits = [0u8; KEY_POWER as usize / 8 + 1];
        let ids = [BUS_VIRTUAL, 0, 0, 1].map(u16::to_le_bytes);
        act(match (self.state.select, self.state.subsel) {
            (ID_NAME, 0) => NAME,
            (ID_SERIAL, 0) => SERIAL,
            (ID_DEVIDS, 0) => ids.as_flattened(),
            (EV_BITS, kind) if u16::from(kind) == EV_KEY => {
                if let Some(last) = bits.last_mut() {
                    *last = 1 << (KEY_POWER % 8);
                }
                &bits
            }
            _ => &[],
        });
    }
}

impl Device for PowerKey {
    type State = State;

    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &[Limits] {
        &[LIMITS, LIMITS]
    }

    fn config_read(&self, at: usize, into: &mut [u8]) {
        self.answer(|data| {
            for (byte, at) in into.iter_mut().zip(at..) {
                *byte = match at {
                    SELECT => self.state.select,
                    SUBSEL => self.state.subsel,
                    SIZE => data.len() as u8,
                    _ => at.checked_sub(DATA).and_then(|at| sync::nospec::get(data, at)).copied().unwrap_or(0),
                };
            }
        });
    }

    fn config_write(&mut self, at: usize, from: &[u8]) {
        for (byte, at) in from.iter().zip(at..) {
            match at {
                SELECT => self.state.select = *byte,
                SUBSEL => self.state.subsel = *byte,
                // Read only.
                _ => {}
            }
        }
    }

    fn serve(&mut self, number: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
        if number == STATUSQ {
            while let Some(chain) = ring.peek()? {
                ring.complete(chain, 0)?;
            }
            return Ok(());
        }
        while let Some((kind, code, value)) = self.state.waiting.first().copied() {
            let Some(chain) = ring.peek()? else { break };
            let event = u64::from(kind) | u64::from(code) << 16 | u64::from(value) << 32;
            ring.write(&chain, 0, &event.to_le_bytes())?;
            ring.complete(chain, EVENT as u32)?;
            self.state.waiting.remove(0);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn check(state: &State) -> Result<(), RestoreError> {
        let known = |event: &Event| matches!(event, (EV_KEY, KEY_POWER, 0 | 1)) || *event == SYN;
        // A press that was said has room for its release.
        let room = state.waiting.remaining_capacity() >= if state.down { 2 } else { 0 };
        if state.waiting.iter().all(known) && room { Ok(()) } else { Err(RestoreError::OutOfRange("events")) }
    }

    fn restore(&mut self, state: State) {
        self.state = state;
    }
}

impl<I: IrqLine> Mmio<PowerKey, I> {
    /// Somebody presses the key, or presses it still. `false`: no driver has taken that, and it has not happened.
    pub fn press(&mut self) -> bool {
        let state = &self.device().state;
        let (down, before) = (state.down, state.waiting.len());
        if down || state.waiting.remaining_capacity() < 4 || !self.is_running() {
            return down && self.is_running();
        }
        self.device_mut().push(true);
        self.poke(EVENTQ);
        let state = &mut self.device_mut().state;
        // Whatever else waited is said first. Is all of this there still, the press can be taken back.
        if state.waiting.len() == before.saturating_add(2) {
            state.waiting.truncate(before);
            state.down = false;
        }
        state.down
    }

    /// Somebody lets go of the key. The driver hears of it, now or when it has room.
    pub fn release(&mut self) {
        if self.device().state.down {
            self.device_mut().push(false);
            self.poke(EVENTQ);
        }
    }
}
