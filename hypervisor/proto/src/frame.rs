//! Frames: encoding, and a decoder that takes bytes as they come and finds its way back after anything.

use crate::{MAX_FRAME, MAX_MESSAGE, VERSION};
use alloc::vec::Vec;
use core::fmt;
use serde::{Serialize, de::DeserializeOwned};

const MAGIC: [u8; 2] = *b"MC";
const HEADER: usize = 10;
/// What a frame has beside its message, in bytes.
pub(crate) const ENVELOPE: usize = HEADER + 4;

/// A whole frame: its message is still encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The version of the message.
    pub version: u16,
    /// The call's number, chosen by the client; the reply has the same.
    pub id: u32,
    /// The message, postcard-encoded.
    pub message: Vec<u8>,
}

impl Envelope {
    /// Decodes the message. Bytes left over are an error as well: they would be a sign of another version.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        if self.version != VERSION {
            return Err(FrameError::Version { theirs: self.version });
        }
        match postcard::take_from_bytes(&self.message) {
            Ok((message, [])) => Ok(message),
            _ => Err(FrameError::Message),
        }
    }
}

/// Why bytes are no frame, or no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// More than [`MAX_FRAME`] bytes without a zero byte. The rest up to the next one is skipped.
    TooLong,
    /// Not COBS, or not the envelope of this protocol.
    Shape,
    /// The length in the envelope is not the frame's.
    Length,
    /// The checksum differs.
    Crc,
    /// A message of another version.
    Version {
        /// The one in the envelope.
        theirs: u16,
    },
    /// The bytes are no message.
    Message,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "more than {MAX_FRAME} bytes without an end of frame"),
            Self::Shape => f.write_str("bytes that are no frame"),
            Self::Length => f.write_str("a frame whose length is not what it says"),
            Self::Crc => f.write_str("a frame whose checksum is wrong"),
            Self::Version { theirs } => write!(f, "protocol version {theirs}; this side speaks version {VERSION}"),
            Self::Message => f.write_str("a frame whose message cannot be decoded"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Why a message cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EncodeError {
    /// It has more than [`MAX_MESSAGE`] bytes.
    TooLong,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message of more than {MAX_MESSAGE} bytes")
    }
}

impl core::error::Error for EncodeError {}

/// Appends the frame of `message` to `out`.
pub fn encode(id: u32, message: &impl Serialize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    encode_as(VERSION, id, message, out)
}

/// As [`encode`], with any version in the envelope.
pub(crate) fn encode_as(version: u16, id: u32, message: &impl Serialize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    // Serialising to memory fails only for types without a known length, of which the messages have none.
    let message = postcard::to_allocvec(message).map_err(|_| EncodeError::TooLong)?;
    if message.len() > MAX_MESSAGE {
        return Err(EncodeError::TooLong);
    }
    let mut plain = Vec::with_capacity(message.len().saturating_add(ENVELOPE));
    plain.extend_from_slice(&MAGIC);
    plain.extend_from_slice(&version.to_le_bytes());
    plain.extend_from_slice(&id.to_le_bytes());
    plain.extend_from_slice(&(message.len() as u16).to_le_bytes());
    plain.extend_from_slice(&message);
    plain.extend_from_slice(&crc32fast::hash(&plain).to_le_bytes());
    out.push(0);
    out.extend_from_slice(&cobs::encode_vec(&plain));
    out.push(0);
    Ok(())
}

/// Finds frames in a stream of bytes. Holds at most [`MAX_FRAME`] bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    skipping: bool,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next byte. `Some`: a frame has ended here, or what looked like one.
    pub fn push(&mut self, byte: u8) -> Option<Result<Envelope, FrameError>> {
        if byte == 0 {
            let skipped = core::mem::take(&mut self.skipping);
            let frame = core::mem::take(&mut self.buffer);
            let found = (!skipped && !frame.is_empty()).then(|| open(&frame));
            // The room is kept for the next one.
            self.buffer = frame;
            self.buffer.clear();
            return found;
        }
        if self.skipping {
            return None;
        }
        if self.buffer.len() >= MAX_FRAME {
            self.skipping = true;
            self.buffer.clear();
            return Some(Err(FrameError::TooLong));
        }
        self.buffer.push(byte);
        None
    }

    /// Forgets a frame that has begun: the peer is another one now.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.skipping = false;
    }

    /// Whether a frame has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.skipping || !self.buffer.is_empty()
    }
}

fn open(frame: &[u8]) -> Result<Envelope, FrameError> {
    let plain = cobs::decode_vec(frame).map_err(|_| FrameError::Shape)?;
    let (checked, crc) = plain.split_last_chunk::<4>().ok_or(FrameError::Shape)?;
    let (header, message) = checked.split_first_chunk::<HEADER>().ok_or(FrameError::Shape)?;
    let [m, c, v0, v1, i0, i1, i2, i3, l0, l1] = *header;
    if [m, c] != MAGIC {
        return Err(FrameError::Shape);
    }
    if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Crc);
    }
    if usize::from(u16::from_le_bytes([l0, l1])) != message.len() {
        return Err(FrameError::Length);
    }
    Ok(Envelope {
        version: u16::from_le_bytes([v0, v1]),
        id: u32::from_le_bytes([i0, i1, i2, i3]),
        message: message.to_vec(),
    })
}
