//! A network that floods a row's machine: Ethernet frames, each in a datagram to the port of this machine that QEMU takes them from
//! (`-netdev dgram`), as fast as one thread can send.

use crate::qemu::matches;
use anyhow::{Context as _, Result, ensure};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Bytes of a frame: the longest that most networks have.
const SIZE: usize = 1514;
/// Frames between two looks whether it is over.
const AT_ONCE: usize = 64;

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

    /// To it, from a station outside, of a type that no guest's kernel has a use for (IEEE 802, "Local Experimental EtherType 1").
    fn frame(&self) -> [u8; SIZE] {
        let mut frame = [0x5a; SIZE];
        frame[..6].copy_from_slice(&self.to);
        frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0x77, 0x88, 0xb5]);
        frame
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
    /// One to a UDP port of this machine.
    pub fn new(flood: &'a Flood, port: u16) -> Self {
        Self { flood, port, over: Arc::default(), sends: None }
    }

    /// A line came.
    ///
    /// # Errors
    /// This machine gives no socket.
    pub fn line(&mut self, line: &str) -> Result<()> {
        if self.sends.is_some() || !matches(&self.flood.after, line) {
            return Ok(());
        }
        let socket = UdpSocket::bind(("127.0.0.1", 0)).context("this machine gives no UDP port")?;
        socket.connect(("127.0.0.1", self.port))?;
        let (frame, over) = (self.flood.frame(), self.over.clone());
        ensure!(socket.send(&frame).is_ok(), "nobody takes frames at port {}", self.port);
        self.sends = Some(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for _ in 0..AT_ONCE {
                    // What there is no room for is lost, as in any network.
                    let _ = socket.send(&frame);
                }
            }
        }));
        Ok(())
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
    use std::time::Duration;

    #[test]
    fn a_flood_begins_with_its_line_and_ends() {
        let flood = Flood::new("*: up".to_owned(), "52:54:00:00:00:01").unwrap();
        let receiver = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut waiting = Waiting::new(&flood, receiver.local_addr().unwrap().port());
        waiting.line("serve: down").unwrap();
        assert!(waiting.sends.is_none());
        waiting.line("serve: up").unwrap();
        let mut frame = [0; 2000];
        for _ in 0..3 {
            assert_eq!(receiver.recv(&mut frame).unwrap(), SIZE);
            assert_eq!(frame[..15], [0x52, 0x54, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x77, 0x88, 0xb5, 0x5a]);
        }
        drop(waiting);
        receiver.set_nonblocking(true).unwrap();
        while receiver.recv(&mut frame).is_ok() {}
        assert!(receiver.recv(&mut frame).is_err());
    }

    #[test]
    fn a_flood_needs_an_address() {
        for wrong in ["", "52:54:00:00:00", "52:54:00:00:00:01:02", "52:54:00:00:00:x1", "525:4:0:0:0:1"] {
            assert!(Flood::new(String::new(), wrong).is_err(), "{wrong}");
        }
    }
}
