//! One byte stream's side of the protocol: bytes to calls, replies to bytes.

use crate::calls::Control;
use crate::host::Host;
use alloc::string::ToString;
use alloc::vec::Vec;
use proto::{Call, Decoder, FrameError, Refusal, Reply, VERSION, encode};

/// A byte stream that calls come from. Holds one frame, and the replies that have not been sent.
///
/// A peer that sends without reading is answered until [`Channel::wants_input`] is false; the owner then reads no more of its bytes
/// until the replies are on their way, so that a stream holds a bounded piece of memory.
#[derive(Default)]
pub struct Channel {
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
}

impl Channel {
    /// A stream on which nothing has been said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is room for what a next byte may lead to.
    pub fn wants_input(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes a byte; at the end of a frame, does what it asks.
    pub fn receive(&mut self, control: &mut Control, host: &mut dyn Host, byte: u8) {
        match self.decoder.push(byte) {
            None => {}
            Some(Ok(frame)) => {
                let reply = match frame.decode::<Call>() {
                    Ok(call) if call.is_within_limits() => control.call(host, call),
                    Ok(_) => Err(Refusal::Malformed("more bytes than one call may carry".into())),
                    Err(FrameError::Version { .. }) => Err(Refusal::Version { ours: VERSION }),
                    Err(error) => Err(Refusal::Malformed(error.to_string())),
                };
                self.send(frame.id, &reply);
            }
            Some(Err(error)) => {
                control.bad_frames = control.bad_frames.saturating_add(1);
                self.send(0, &Err(Refusal::Malformed(error.to_string())));
            }
        }
    }

    /// The next byte to send, if any; [`Self::sent`] takes it away.
    pub fn next(&self) -> Option<u8> {
        self.out.get(self.sent).copied()
    }

    /// The byte of [`Self::next`] is on its way.
    pub fn sent(&mut self) {
        self.sent = self.sent.saturating_add(1);
        if self.sent >= self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    fn send(&mut self, id: u32, reply: &Reply) {
        // Pages are cut to size, so this is for answers with overlong names only.
        if encode(id, reply, &mut self.out).is_err() {
            let short: Reply =
                Err(Refusal::Limit { what: "bytes in an answer".into(), most: proto::MAX_MESSAGE as u64 });
            let _ = encode(id, &short, &mut self.out);
        }
    }
}
