//! The output's side of the multiplexer: leads, lines, turns and deadlines.

use super::*;
use crate::prompt::tame;

/// How a stretch of output ended.
enum Emitted {
    UartFull,
    LineEnd,
    Dry,
}

/// The time of a drain, and whether waiting is over.
#[derive(Clone, Copy)]
struct Clock {
    now: u64,
    force: bool,
}

impl Mux {
    /// Sends what may go out at `now_ns`, as far as the UART takes it.
    pub fn drain(&mut self, now_ns: u64, out: &mut impl Uart) -> DrainResult {
        self.drain_until(Clock { now: now_ns, force: false }, out)
    }

    /// Sends everything without regard to time, for the end and for a fatal error: parts of lines as well, each on a line of
    /// its own. To be repeated while the UART is full.
    pub fn finish(&mut self, out: &mut impl Uart) -> DrainResult {
        let mut result = self.drain_until(Clock { now: self.grown, force: true }, out);
        if !result.uart_full && self.owner != NONE {
            self.break_line();
            result.uart_full = !self.emit_lead(out);
        }
        result
    }

    fn drain_until(&mut self, clock: Clock, out: &mut impl Uart) -> DrainResult {
        if self.touched {
            self.touched = false;
            self.grown = clock.now;
        }
        let mut result = DrainResult::default();
        loop {
            if !self.emit_lead(out) {
                result.uart_full = true;
                break;
            }
            if self.owner == NONE {
                let (ready, deadline) = self.next_ready(clock);
                let Some(next) = ready else {
                    result.next_deadline = deadline;
                    break;
                };
                self.open_line(next, clock.now);
                continue;
            }
            match self.emit_line(clock, out) {
                Emitted::UartFull => {
                    result.uart_full = true;
                    break;
                }
                Emitted::LineEnd => {}
                Emitted::Dry if self.queued == 0 => break,
                Emitted::Dry => match self.wait_for_line_end(clock) {
                    Some(deadline) => {
                        result.next_deadline = Some(deadline);
                        break;
                    }
                    None => self.break_line(),
                },
            }
        }
        result.relieved = self.sources.iter().any(|s| s.relieved);
        result
    }

    /// Prints what is left of the lead; `false` where the UART is full.
    fn emit_lead(&mut self, out: &mut impl Uart) -> bool {
        let owner = self.sources.get(self.owner);
        let text: &[u8] = match (self.lead, owner) {
            (Lead::Break, _) => b"\r\n",
            (Lead::Prefix, Some(s)) => &s.prefix,
            (Lead::Continuation, Some(s)) => &s.continuation,
            (Lead::None, _) | (_, None) => return true,
        };
        while let Some(byte) = text.get(self.lead_at) {
            if !out.try_put(*byte) {
                return false;
            }
            self.lead_at = self.lead_at.wrapping_add(1);
        }
        self.lead = Lead::None;
        self.update_direct();
        true
    }

    /// Prints the owner's bytes up to the end of its line.
    fn emit_line(&mut self, clock: Clock, out: &mut impl Uart) -> Emitted {
        let owner = self.owner;
        loop {
            let Some(entry) = self.sources.get_mut(owner) else { return Emitted::Dry };
            let Some(byte) = entry.ring.first() else { return Emitted::Dry };
            let (alone, after) = (self.queued == entry.ring.len(), entry.ring.second());
            if self.length >= LINE_BYTES && !alone && owner != MERUS && self.next_ready(clock).0.is_some() {
                self.break_line();
                return Emitted::LineEnd;
            }
            let tamed = self.prompt.open && owner >= VMS;
            let shown = if tamed { tame(byte, after) } else { Some(byte) };
            if shown.is_some_and(|shown| !out.try_put(shown)) {
                return Emitted::UartFull;
            }
            self.take(owner);
            self.grown = clock.now;
            self.grow(owner, byte);
            if tamed {
                // Not past the ring.
                self.direct = NONE;
            }
            if self.owner == NONE {
                return Emitted::LineEnd;
            }
        }
    }

    fn open_line(&mut self, index: usize, now: u64) {
        let Some(entry) = self.sources.get_mut(index) else { return };
        self.lead = if core::mem::take(&mut entry.broken) {
            Lead::Continuation
        } else if index == self.focus || index == MERUS {
            Lead::None
        } else {
            Lead::Prefix
        };
        entry.since = None;
        self.lead_at = 0;
        self.length = 0;
        self.waiting = None;
        self.grown = now;
        self.owner = index;
        self.direct = if self.is_tamed(index) { NONE } else { index };
        if index >= VMS {
            self.turn = index.wrapping_add(1);
        }
    }

    /// Ends the open line in the middle; its owner goes on later.
    pub(crate) fn break_line(&mut self) {
        if let Some(entry) = self.sources.get_mut(self.owner) {
            entry.broken = true;
        }
        self.owner = NONE;
        self.lead = Lead::Break;
        self.lead_at = 0;
        self.length = 0;
        self.waiting = None;
        // Nobody's, until the line end is out.
        self.direct = NONE;
    }

    /// The open line's owner is dry. `None`: break the line now. Otherwise the time to look again; there is one, since
    /// another source has bytes.
    fn wait_for_line_end(&mut self, clock: Clock) -> Option<u64> {
        let (ready, deadline) = self.next_ready(clock);
        if ready.is_none() {
            return Some(deadline.unwrap_or(clock.now.saturating_add(IDLE_NS)));
        }
        let since = *self.waiting.get_or_insert(clock.now);
        let at = self.grown.saturating_add(IDLE_NS).min(since.saturating_add(WAIT_NS));
        (clock.now < at && !clock.force).then_some(at)
    }

    /// The source, other than the owner of the open line, whose line comes next; or when one will be ready.
    fn next_ready(&mut self, clock: Clock) -> (Option<usize>, Option<u64>) {
        if self.owner != MERUS && self.sources.get(MERUS).is_some_and(|s| !s.ring.is_empty()) {
            return (Some(MERUS), None);
        }
        let (count, turn, owner, focus) = (self.sources.len(), self.turn, self.owner, self.focus);
        let mut deadline: Option<u64> = None;
        let (before, after) = self.sources.split_at_mut(turn.min(count));
        let in_turn = (turn..).zip(after).chain((0..).zip(before));
        for (index, entry) in in_turn {
            if index == owner || index == MERUS || entry.ring.is_empty() {
                continue;
            }
            let since = *entry.since.get_or_insert(clock.now);
            let at = since.saturating_add(IDLE_NS);
            let whole = entry.lines != 0 || entry.ring.is_full() || index == focus || index == SHELL;
            if whole || clock.force || clock.now >= at {
                return (Some(index), None);
            }
            deadline = Some(deadline.map_or(at, |d| d.min(at)));
        }
        (None, deadline)
    }
}
