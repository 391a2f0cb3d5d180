//! The console: many guests and Merus itself on one UART, line by line.
//!
//! | line of | is printed as |
//! |---|---|
//! | the VM with the focus | raw, each byte as soon as it comes |
//! | another VM | `[name] ` and the line, once it is complete or 100 ms old |
//! | Merus | `merus: ` and the line, before the VMs' lines that wait |
//! | the management shell, which has the focus while it is open | raw, after `merus> ` |
//!
//! No line mixes sources. A line that is being printed and comes to no end gives way when another source has something to
//! print and nothing has been added for 100 ms (or the other has waited for 1 s, or the line has 1024 bytes): the console
//! ends it with `\r\n`, and what its source writes next begins with `[name]+ `. Otherwise every byte passes as it is, control
//! characters included; the guest's `\n` ends its line.
//!
//! Nothing is lost: [`Mux::push`] refuses a byte that does not fit, the VM's UART shows "transmit FIFO full", and
//! [`Mux::next_relieved`] names the sources to wake when there is room. Nothing waits: a [`Uart`] that takes no byte now is
//! tried again in the next [`Mux::drain`].
//!
//! Input goes to the VM with the focus; `Ctrl-]` and a key changes it ([`Mux::input`]), or opens the prompt ([`prompt`]).
//!
//! Time is an argument, in nanoseconds of any clock that does not go back. The owner of the console calls `drain` after a push
//! that asks for it and after a line of Merus, at the deadline that the last `drain` named, and when the UART has room again.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

mod backlog;
mod input;
mod merus;
mod mux;
mod prompt;
mod ring;
#[cfg(test)]
mod tests;

pub use backlog::LOG_BYTES;
pub use input::{ESCAPE, InputAction};
pub use mux::{
    BACKLOG_BYTES, DrainResult, IDLE_NS, LINE_BYTES, MERUS_BYTES, Mux, Pushed, SOURCE_BYTES, SourceId, WAIT_NS,
};
pub use prompt::{PROMPT, PROMPT_BYTES};
pub use ring::Ring;

/// The physical UART's transmitter.
pub trait Uart {
    /// Sends `byte`, or answers `false` at once where the UART has no room for it now.
    fn try_put(&mut self, byte: u8) -> bool;
}
