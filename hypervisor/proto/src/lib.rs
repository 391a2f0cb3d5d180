//! The control channel's wire format, shared by Merus and the programs that talk to it: frames over any byte stream, and the
//! messages in them.
//!
//! # A frame
//! ```text
//! 00  COBS( "MC" | version u16 | id u32 | length u16 | message (postcard) | crc32 of all before )  00
//! ```
//! All numbers are little-endian; the CRC is IEEE 802.3's. A zero byte begins and ends each frame and is nowhere inside it
//! (Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999): whatever noise there was, the next zero byte brings both
//! sides back into step, and the leading one keeps the noise before a frame out of it. Empty frames are skipped.
//!
//! The envelope (all but the message) is the same in every version, so that either side can say "I speak version n" to any
//! other. A message of another version is not decoded.
//!
//! # A conversation
//! The client sends a [`Call`] and waits for the [`Reply`] with its `id`; nothing is sent unasked. What grows (a console, events,
//! the log, trace records) is read from a position by polling, and each answer names the next position and how much was lost
//! before the first. A call that was not understood is answered with `id` 0 where the id could not be read. Calls that only read,
//! and [`Call::Put`], [`Call::Chunk`] and [`Call::Forget`], may be repeated without harm when no reply came.
//!
//! # Limits
//! [`MAX_MESSAGE`] bytes a message, [`MAX_CHUNK`] bytes of an upload a call. Lists are cut into pages: an answer's `next` is what to
//! ask for next.
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
#[cfg(test)]
extern crate std;

mod frame;
mod message;
mod rows;
#[cfg(test)]
mod tests;

pub use frame::{Decoder, EncodeError, Envelope, FrameError, encode};
pub use message::{Answer, Call, NewVm, Page, Payload, Refusal, Reply, SpecFault, Target};
pub use rows::{
    Bytes, ConsolePart, DeviceCounts, DeviceRow, EventKind, EventRow, ExitRow, GroupRow, Hash, LOSSES, LogRow,
    MachineRow, ObjectRow, PcpuRow, StopKind, SwitchRow, TraceRow, VcpuRow, VcpuState, VmRow, VmState,
};

/// The version of the messages that this code speaks: another one when the bytes of any message change
/// (`the_messages_of_this_version_have_these_bytes`).
pub const VERSION: u16 = 5;
/// The most bytes of one encoded message.
pub const MAX_MESSAGE: usize = 4000;
/// The most bytes of an upload, of a console's output or of its input in one message.
pub const MAX_CHUNK: usize = 2048;
/// The most bytes between two zero bytes: the envelope, the message, and what COBS adds.
pub const MAX_FRAME: usize = MAX_MESSAGE + frame::ENVELOPE + (MAX_MESSAGE + frame::ENVELOPE) / 254 + 1;
