//! The PrimeCell UART PL011, a guest's console (Arm DDI 0183, issue G).
//!
//! # The line
//! The line is infinitely fast and afterwards silent; there is no time in the model.
//!
//! * **Transmit.** A character written goes to the [`ByteSink`] at once. Where the sink is full it waits in the transmit
//!   FIFO, and [`Pl011::sink_drained`] sends it on. So a guest that looks at `FR.TXFF`, or that writes at a transmit
//!   interrupt no more than the free half of the FIFO, loses nothing, and nobody waits at EL2. A character written into a
//!   full FIFO is lost as on the board, and counted.
//! * **Receive.** [`Pl011::receive`] takes what the FIFO has room for; the rest stays with the caller. Input is held back,
//!   not lost, while `CR.RXE` is off and in loopback.
//!
//! | interrupt | raised | cleared (also by `ICR`) |
//! |---|---|---|
//! | TX | a character leaves and the FIFO is at or below its `IFLS` level (empty, with the FIFOs off) | the FIFO is above the level |
//! | RX | characters arrive and the FIFO is at or above its level, see [`RxTrigger`] | the FIFO is below the level |
//! | RT | characters arrive: the silence of 32 bit times follows at once | the FIFO is empty |
//! | BE, OE | a break, a lost character | by `ICR` only |
//! | RI, CTS, DCD, DSR | a change of `CR` moves the line in loopback | by `ICR` only |
//!
//! # Where it follows QEMU's `virt` and not the manual
//! Guests were written on it. Characters go out although `CR.UARTEN` or `CR.TXE` is off (early consoles set neither), and
//! come in without `UARTEN`; RX is raised for any character, unless [`RxTrigger::Programmed`] is asked for; the modem lines
//! are low outside loopback. Against both, switching `LCR_H.FEN` flushes the receive FIFO only: an infinitely fast line would
//! have sent the other one's characters before.
//!
//! # Not modelled
//! DMA (`DMACR` holds its value), IrDA, parity and framing errors, hardware flow control, a break to the outside, the test
//! registers (offsets 0x080 to 0x08c), the five interrupt wires besides `UARTINTR`.
//!
//! # Threats
//! | a guest | meets |
//! |---|---|
//! | writes without end | back-pressure; the sink's owner decides how fast it drains |
//! | toggles interrupts without end | wire calls for changes of the level only |
//! | accesses with any size, offset and value | a total function; nothing grows |
//! | restores a forged state | [`RestoreError`], before anything changes |

mod fifo;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;

use bus::{AccessError, AccessSize, IrqLine, MmioDevice, Offset};

use crate::primecell::{id_register, register};
use crate::state::RestoreError;
use spec::*;

pub use state::{STATE_VERSION, State};

/// Where the transmitted bytes go: the VM's ring of the console.
pub trait ByteSink: Send {
    /// Takes `byte`; `false` where there is no room, and the byte stays with the caller.
    fn put(&mut self, byte: u8) -> bool;
}

/// When the receive interrupt is raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RxTrigger {
    /// For any character, as QEMU's PL011 does: guests exist that enable RX without RT and would wait for ever.
    #[default]
    AnyCharacter,
    /// From the level that `IFLS` selects, as the manual has it.
    Programmed,
}

/// What happened, for the owner's statistics; no part of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Bytes that the sink took.
    pub sent: u64,
    /// Bytes that were received from outside.
    pub received: u64,
    /// Bytes that the guest wrote into a full transmit FIFO: lost.
    pub lost: u64,
    /// Writes that the sink had no room for and that went to the transmit FIFO.
    pub held: u64,
}

/// The device. Its owner calls [`Pl011::receive`] and [`Pl011::sink_drained`], the bus the rest.
pub struct Pl011<I: IrqLine, O: ByteSink> {
    rx_trigger: RxTrigger,
    irq: I,
    out: O,
    /// The level the wire has, so that the wire is called for changes only.
    driven: bool,
    state: State,
    stats: Stats,
}

impl<I: IrqLine, O: ByteSink> Pl011<I, O> {
    /// A UART after power-on that sends to `out` and drives `irq` (`UARTINTR`).
    pub fn new(irq: I, out: O) -> Self {
        Self::with_rx_trigger(irq, out, RxTrigger::default())
    }

    /// As [`Pl011::new`], with the choice of when RX is raised.
    pub fn with_rx_trigger(irq: I, out: O, rx_trigger: RxTrigger) -> Self {
        irq.set_level(false);
        Self { rx_trigger, irq, out, driven: false, state: State::reset(), stats: Stats::default() }
    }

    /// Takes as many of `bytes` as there is room for and returns how many; the caller offers the rest again, for example
    /// after the guest's next access.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = self.rx_room();
        let mut taken: usize = 0;
        for byte in bytes.iter().take(room) {
            self.arrive(u16::from(*byte));
            taken = taken.wrapping_add(1);
        }
        self.stats.received = self.stats.received.wrapping_add(taken as u64);
        self.sync_irq();
        taken
    }

    /// A break condition on the line from outside. `false` where it cannot be taken now.
    pub fn receive_break(&mut self) -> bool {
        let room = self.rx_room() != 0;
        if room {
            self.arrive(DR_BE);
        }
        self.sync_irq();
        room
    }

    /// How many bytes [`Pl011::receive`] takes now.
    #[inline]
    pub fn rx_room(&self) -> usize {
        let state = &self.state;
        if state.cr & (CR_RXE | CR_LBE) != CR_RXE {
            return 0;
        }
        state.depth().saturating_sub(state.rx.len())
    }

    /// The sink has room again: sends what waits in the transmit FIFO.
    pub fn sink_drained(&mut self) {
        if self.pump() {
            self.update_tx_irq();
        }
        self.sync_irq();
    }

    /// Whether characters wait for room in the sink, that is, whether [`Pl011::sink_drained`] is worth a call.
    #[inline]
    pub fn tx_waiting(&self) -> bool {
        !self.state.tx.is_empty()
    }

    /// What was counted since the device was made.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The state as the guest sees it, with the characters in both FIFOs.
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Takes over a saved state and drives the wire accordingly. On an error nothing has changed.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        state.check()?;
        self.state = state;
        self.drive();
        Ok(())
    }

    /// Sends from the transmit FIFO while the sink takes; whether anything left.
    fn pump(&mut self) -> bool {
        let mut left = false;
        while let Some(entry) = self.state.tx.first() {
            if !self.out.put(entry as u8) {
                break;
            }
            self.state.tx.pop();
            self.stats.sent = self.stats.sent.wrapping_add(1);
            left = true;
        }
        left
    }

    /// A store to `DR`.
    #[inline]
    fn transmit(&mut self, value: u64) {
        let byte = value as u8;
        if self.state.tx.is_empty() && self.state.cr & CR_LBE == 0 && self.out.put(byte) {
            self.stats.sent = self.stats.sent.wrapping_add(1);
            // The FIFO is empty, hence at or below any level.
            self.state.ris |= INT_TX;
        } else {
            self.transmit_slow(byte);
        }
    }

    #[cold]
    fn transmit_slow(&mut self, byte: u8) {
        if self.state.cr & CR_LBE != 0 {
            self.arrive(u16::from(byte));
            self.state.ris |= INT_TX;
            return;
        }
        self.pump();
        if self.state.tx.is_empty() && self.out.put(byte) {
            self.stats.sent = self.stats.sent.wrapping_add(1);
        } else if self.state.tx.len() < self.state.depth() && self.state.tx.push(u16::from(byte)) {
            self.stats.held = self.stats.held.wrapping_add(1);
        } else {
            self.stats.lost = self.stats.lost.wrapping_add(1);
        }
        self.update_tx_irq();
    }

    /// TX after characters went into or out of the transmit FIFO.
    fn update_tx_irq(&mut self) {
        let state = &mut self.state;
        let level = if state.lcr & LCR_FEN != 0 { fifo_level(state.ifls) } else { 0 };
        if state.tx.len() <= level {
            state.ris |= INT_TX;
        } else {
            state.ris &= !INT_TX;
        }
    }

    fn rx_level(&self) -> usize {
        match self.rx_trigger {
            RxTrigger::Programmed if self.state.lcr & LCR_FEN != 0 => fifo_level(self.state.ifls >> 3),
            _ => 1,
        }
    }

    /// One character, with its error bits, comes off the line.
    fn arrive(&mut self, entry: u16) {
        let level = self.rx_level();
        let state = &mut self.state;
        if state.rx.len() < state.depth() && state.rx.push(entry) {
            state.overrun = false;
            state.ris |= INT_RT | ((entry & DR_BE) >> 1);
            if state.rx.len() >= level {
                state.ris |= INT_RX;
            }
        } else {
            state.overrun = true;
            state.rsr |= RSR_OE;
            state.ris |= INT_OE;
        }
    }

    /// A load from `DR`. An empty FIFO gives 0.
    fn read_data(&mut self) -> u16 {
        let level = self.rx_level();
        let state = &mut self.state;
        let Some(entry) = state.rx.pop() else { return 0 };
        state.rsr = (state.rsr & RSR_OE) | ((entry & (DR_FE | DR_PE | DR_BE)) >> 8);
        if state.rx.len() < level {
            state.ris &= !INT_RX;
        }
        if state.rx.is_empty() {
            state.ris &= !INT_RT;
        }
        let overrun = if state.overrun { DR_OE } else { 0 };
        self.sync_irq();
        entry | overrun
    }

    #[inline]
    fn flags(&self) -> u16 {
        let state = &self.state;
        let depth = state.depth();
        let mut flags = if state.cr & CR_LBE != 0 { modem_lines(state.cr) } else { 0 };
        flags |= if state.tx.is_empty() { FR_TXFE } else { FR_BUSY };
        if state.tx.len() >= depth {
            flags |= FR_TXFF;
        }
        if state.rx.is_empty() {
            flags |= FR_RXFE;
        }
        if state.rx.len() >= depth {
            flags |= FR_RXFF;
        }
        flags
    }

    fn write_lcr(&mut self, value: u16) {
        let changed = self.state.lcr ^ value;
        self.state.lcr = value & LCR_MASK;
        if changed & LCR_FEN != 0 {
            self.state.rx.clear();
            self.state.overrun = false;
            self.state.ris &= !(INT_RX | INT_RT);
        }
        if changed & value & LCR_BRK != 0 && self.state.cr & CR_LBE != 0 {
            self.arrive(DR_BE);
        }
    }

    fn write_cr(&mut self, value: u16) {
        let lines = |cr: u16| if cr & CR_LBE != 0 { modem_lines(cr) } else { 0 };
        let moved = lines(self.state.cr) ^ lines(value);
        self.state.cr = value & CR_MASK;
        for (line, interrupt) in [(FR_RI, INT_RI), (FR_CTS, INT_CTS), (FR_DCD, INT_DCD), (FR_DSR, INT_DSR)] {
            if moved & line != 0 {
                self.state.ris |= interrupt;
            }
        }
    }

    fn write_register(&mut self, at: Offset, value: u16) -> Result<(), AccessError> {
        let state = &mut self.state;
        match at {
            RSR_ECR => state.rsr = 0,
            ILPR => state.ilpr = value & ILPR_MASK,
            IBRD => state.ibrd = value & IBRD_MASK,
            FBRD => state.fbrd = value & FBRD_MASK,
            LCR_H => self.write_lcr(value),
            CR => self.write_cr(value),
            IFLS => state.ifls = value & IFLS_MASK,
            IMSC => state.imsc = value & INT_MASK,
            ICR => state.ris &= !value,
            DMACR => state.dmacr = value & DMACR_MASK,
            // Read only: a store does nothing.
            FR | RIS | MIS => {}
            _ => return id_register(&IDS, at).map(|_| ()),
        }
        Ok(())
    }

    fn read_register(&mut self, at: Offset) -> Result<u16, AccessError> {
        let state = &self.state;
        Ok(match at {
            DR => self.read_data(),
            RSR_ECR => state.rsr,
            ILPR => state.ilpr,
            IBRD => state.ibrd,
            FBRD => state.fbrd,
            LCR_H => state.lcr,
            CR => state.cr,
            IFLS => state.ifls,
            IMSC => state.imsc,
            RIS => state.ris,
            MIS => state.ris & state.imsc,
            // Write only.
            ICR => 0,
            DMACR => state.dmacr,
            _ => return id_register(&IDS, at).map(|id| id as u16),
        })
    }

    /// Brings the wire up to date: `UARTINTR` is high while an unmasked interrupt stands.
    #[inline]
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

impl<I: IrqLine, O: ByteSink> MmioDevice for Pl011<I, O> {
    #[inline]
    fn read(&mut self, at: Offset, size: AccessSize) -> Result<u64, AccessError> {
        let at = register(at, size)?;
        let value = if at == FR { self.flags() } else { self.read_register(at)? };
        Ok(u64::from(value) & size.mask())
    }

    #[inline]
    fn write(&mut self, at: Offset, size: AccessSize, value: u64) -> Result<(), AccessError> {
        let at = register(at, size)?;
        if at == DR {
            self.transmit(value);
        } else {
            self.write_register(at, (value & size.mask()) as u16)?;
        }
        self.sync_irq();
        Ok(())
    }

    /// Back to power-on, except that characters which the guest wrote and which wait for the sink still go out: an
    /// infinitely fast line would have sent them.
    fn reset(&mut self) {
        let tx = core::mem::take(&mut self.state.tx);
        self.state = State { tx, ..State::reset() };
        self.drive();
    }
}

/// The modem inputs in loopback, as flags: they follow the outputs in `CR`.
fn modem_lines(cr: u16) -> u16 {
    let line = |output: u16, flag: u16| if cr & output != 0 { flag } else { 0 };
    line(CR_RTS, FR_CTS) | line(CR_DTR, FR_DSR) | line(CR_OUT1, FR_DCD) | line(CR_OUT2, FR_RI)
}

/// The level that a three-bit field of `IFLS` selects: 1/8, 1/4, 1/2, 3/4 or 7/8 of the FIFO. The reserved values mean 7/8.
fn fifo_level(field: u16) -> usize {
    match field & 7 {
        0 => 4,
        1 => 8,
        2 => 16,
        3 => 24,
        _ => 28,
    }
}
