//! A network that floods a row's machine: Ethernet frames through a port of this machine at which QEMU listens (`-netdev stream`, where each
//! frame has its length before it). There are always more: QEMU takes them as fast as the machine's card has room, and none is lost on the way.

use crate::qemu::matches;
use anyhow::{Context as _, Result};
use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes of a frame: the longest that most networks have.
const SIZE: usize = 1514;
/// Frames that are written together.
const AT_ONCE: usize = 32;
/// How often it is looked whether it is over, where nobody takes them.
const LOOK: Duration = Duration::from_millis(100);

/// What is sent, and from when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flood {
    /// The pattern of the line with which it begins.
    pub after: String,
    /// The address that the frames are for.
    pub to: [u8; 6],
}

impl Flood {
    /// One after this line, to this address (`52:54:00:00:00:01`).
    ///
    /// # Errors
    /// It is no address.
    pub fn new(after: String, to: &str) -> Result<Self> {
        let bytes: Result<Vec<u8>, _> = to.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        let to = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Self { after, to: to.context("`flood` has a line and an address such as 52:54:00:00:00:01")? })
    }

    /// Frames to it, from a station outside, of a type that no guest's kernel has a use for (IEEE 802, "Local Experimental EtherType 1").
    fn frames(&self) -> Vec<u8> {
        let mut frame = [0x5a; SIZE];
        frame[..6].copy_from_slice(&self.to);
        frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0x77, 0x88, 0xb5]);
        let size = (SIZE as u32).to_be_bytes();
        [&size[..], &frame].concat().repeat(AT_ONCE)
    }
}

/// A flood that begins when its line comes, and ends when this is dropped.
pub struct Waiting<'a> {
    flood: &'a Flood,
    port: u16,
    over: Arc<AtomicBool>,
    sends: Option<JoinHandle<()>>,
}

impl<'a> Waiting<'a> {
    /// One to a TCP port of this machine.
    pub fn new(flood: &'a Flood, port: u16) -> Self {
        Self { flood, port, over: Arc::default(), sends: None }
    }

    /// A line came.
    ///
    /// # Errors
    /// Nobody listens at the port.
    pub fn line(&mut self, line: &str) -> Result<()> {
        if self.sends.is_some() || !matches(&self.flood.after, line) {
            return Ok(());
        }
        let stream =
            TcpStream::connect(("127.0.0.1", self.port)).context("nobody takes frames: is there a -netdev stream?")?;
        stream.set_write_timeout(Some(LOOK))?;
        let (frames, over) = (self.flood.frames(), self.over.clone());
        self.sends = Some(thread::spawn(move || send(stream, &frames, &over)));
        Ok(())
    }
}

/// Writes them again and again, until it is over or nobody is there any more.
fn send(mut stream: TcpStream, frames: &[u8], over: &AtomicBool) {
    let mut rest = frames;
    while !over.load(Ordering::Relaxed) {
        match stream.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Err(_) => return,
        }
        if rest.is_empty() {
            rest = frames;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It does nothing that could fail.
        let _ = self.sends.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::TcpListener;

    #[test]
    fn a_flood_begins_with_its_line_and_ends() {
        let flood = Flood::new("*: up".to_owned(), "52:54:00:00:00:01").unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut waiting = Waiting::new(&flood, listener.local_addr().unwrap().port());
        waiting.line("serve: down").unwrap();
        assert!(waiting.sends.is_none());
        waiting.line("serve: up").unwrap();
        let (mut taker, _) = listener.accept().unwrap();
        for _ in 0..3 * AT_ONCE {
            let mut frame = [0; 4 + SIZE];
            taker.read_exact(&mut frame).unwrap();
            assert_eq!(frame[..4], [0, 0, 5, 234]);
            assert_eq!(frame[4..19], [0x52, 0x54, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x77, 0x88, 0xb5, 0x5a]);
        }
        // Now nobody takes any: it ends all the same, and with it what comes.
        drop(waiting);
        assert!(taker.read_to_end(&mut Vec::new()).is_ok());
    }

    #[test]
    fn a_flood_needs_an_address() {
        for wrong in ["", "52:54:00:00:00", "52:54:00:00:00:01:02", "52:54:00:00:00:x1", "525:4:0:0:0:1"] {
            assert!(Flood::new(String::new(), wrong).is_err(), "{wrong}");
        }
    }
}
