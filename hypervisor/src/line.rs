//! The control channel's UART: rings between its interrupt and whoever speaks the protocol.
//!
//! Its interrupt moves bytes and nothing else. A pCPU leaves its guest only when a frame has come to its end, or when the ring is
//! half full; the protocol is spoken between guests ([`crate::manage`]). Nothing polls the UART.

use console::Ring;
use platform::pl011::Pl011;
use spin::Once;
use sync::{Rank, SpinLock};

/// Bytes received and not looked at: more than a frame, so that the sender rarely waits.
const RECEIVED: usize = 8192;
/// Bytes to be sent: more than the longest reply.
pub const TO_SEND: usize = 8192;

/// The UART and what is between it and the protocol.
struct Line {
    uart: Pl011,
    received: Ring,
    to_send: Ring,
}

static LINE: Once<SpinLock<Line>> = Once::new();

impl Line {
    /// Gives the UART what it takes, and asks it to interrupt for what is left.
    fn push(&mut self) {
        while let Some(byte) = self.to_send.first() {
            if !self.uart.try_put(byte) {
                break;
            }
            let _ = self.to_send.pop();
        }
        self.uart.interrupts(!self.received.is_full(), !self.to_send.is_empty());
    }
}

/// Takes the UART into use.
pub fn attach(uart: Pl011) {
    uart.interrupts(true, false);
    let line = Line { uart, received: Ring::new(RECEIVED), to_send: Ring::new(TO_SEND) };
    LINE.call_once(|| SpinLock::new(Rank::Console, line));
}

/// The UART's interrupt. `true`: there is something for the protocol.
pub fn interrupt() -> bool {
    let Some(line) = LINE.get() else { return false };
    let mut line = line.lock();
    line.uart.acknowledge();
    let mut due = false;
    while !line.received.is_full()
        && let Some(byte) = line.uart.get()
    {
        // A zero byte ends a frame.
        due |= byte == 0;
        let _ = line.received.push(byte);
    }
    line.push();
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

/// How many bytes there is room to send.
pub fn room() -> usize {
    LINE.get().map_or(0, |line| {
        let line = line.lock();
        line.to_send.capacity() - line.to_send.len()
    })
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
