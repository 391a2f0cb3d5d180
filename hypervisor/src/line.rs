//! The control channel's UART: rings between its interrupt and whoever speaks the protocol.
//!
//! Its interrupt moves bytes and nothing else. A pCPU leaves its guest only when a frame has come to its end, or when the ring is
//! half full; the protocol is spoken between guests ([`crate::manage`]). Nothing polls the UART.

use console::Ring;
use platform::uart::Uart;
use spin::Once;
use sync::{Rank, SpinLock};

/// Bytes received and not looked at: more than a frame, so that the sender rarely waits.
const RECEIVED: usize = 8192;
/// Bytes to be sent: more than the longest reply.
const TO_SEND: usize = 8192;

/// The UART and what is between it and the protocol.
struct Line {
    uart: Uart,
    received: Ring,
    to_send: Ring,
    /// Management waits for room to answer.
    starved: bool,
    meter: Meter,
}

/// How much goes over the line.
#[derive(Default)]
struct Meter {
    /// Since when bytes are counted, in ns, and how many there were.
    since: u64,
    bytes: u64,
    /// The most in a second.
    most: u32,
}

impl Meter {
    fn count(&mut self, bytes: u64) {
        let now = crate::time::now_ns();
        let passed = now.saturating_sub(self.since);
        if passed >= SECOND {
            // A pause makes it less, and it is the most that counts.
            let rate = self.bytes.saturating_mul(SECOND) / passed;
            self.most = self.most.max(u32::try_from(rate).unwrap_or(u32::MAX));
            (self.since, self.bytes) = (now, 0);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// A second, in ns.
const SECOND: u64 = 1_000_000_000;

static LINE: Once<SpinLock<Line>> = Once::new();

impl Line {
    /// Gives the UART what it takes, and asks it to interrupt for what is left.
    fn push(&mut self) {
        let waited = self.to_send.len();
        while let Some(byte) = self.to_send.first() {
            if !self.uart.try_put(byte) {
                break;
            }
            let _ = self.to_send.pop();
        }
        self.meter.count(waited.saturating_sub(self.to_send.len()) as u64);
        self.uart.interrupts(!self.received.is_full(), !self.to_send.is_empty());
    }
}

/// Takes the UART into use.
pub fn attach(uart: Uart) {
    uart.interrupts(true, false);
    let (received, to_send) = (Ring::new(RECEIVED), Ring::new(TO_SEND));
    let line = Line { uart, received, to_send, starved: false, meter: Meter::default() };
    LINE.call_once(|| SpinLock::new(Rank::Console, line));
}

/// The UART's interrupt. `true`: there is something for the protocol.
pub fn interrupt() -> bool {
    let Some(line) = LINE.get() else { return false };
    let mut line = line.lock();
    line.uart.acknowledge();
    let (mut due, before) = (false, line.received.len());
    while !line.received.is_full()
        && let Some(byte) = line.uart.get()
    {
        // A zero byte ends a frame.
        due |= byte == 0;
        let _ = line.received.push(byte);
    }
    let came = line.received.len().saturating_sub(before) as u64;
    line.meter.count(came);
    line.push();
    if line.to_send.len() <= TO_SEND / 2 {
        due |= core::mem::take(&mut line.starved);
    }
    due || line.received.len() >= RECEIVED / 2
}

/// The next byte received.
pub fn next() -> Option<u8> {
    let mut line = LINE.get()?.lock();
    let full = line.received.is_full();
    let byte = line.received.pop();
    if full {
        // The receiver was told to stop.
        line.push();
    }
    byte
}

/// Whether there is room for an answer. If not, [`interrupt`] tells when there is.
pub fn has_room() -> bool {
    LINE.get().is_some_and(|line| {
        let mut line = line.lock();
        let room = line.to_send.len() <= TO_SEND / 2;
        line.starved |= !room;
        room
    })
}

/// Bytes in the busiest second.
pub fn rate() -> u32 {
    LINE.get().map_or(0, |line| line.lock().meter.most)
}

/// Sends bytes for which there is room.
pub fn send(bytes: impl IntoIterator<Item = u8>) {
    if let Some(line) = LINE.get() {
        let mut line = line.lock();
        for byte in bytes {
            let _ = line.to_send.push(byte);
        }
        line.push();
    }
}
