//! A byte stream to Merus: a UNIX socket, a TCP port or a serial device.

use crate::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The bit rate of a serial device where none is given.
pub const DEFAULT_BAUD: u32 = 115_200;

/// Where Merus' control channel is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `unix:PATH`: a socket that QEMU serves for a UART.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`: such a socket, or a terminal server.
    Tcp(String),
    /// `serial:DEVICE[,BAUD]`.
    Serial {
        /// The device.
        device: PathBuf,
        /// Bits a second; 8 data bits, no parity, 1 stop bit, no flow control.
        baud: u32,
    },
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "\"{text}\" is no address; write unix:PATH, tcp:HOST:PORT or serial:DEVICE[,BAUD (default {DEFAULT_BAUD})]"
            )
        };
        match text.split_once(':').filter(|(_, rest)| !rest.is_empty()).ok_or_else(form)? {
            ("unix", path) => Ok(Self::Unix(path.into())),
            ("tcp", host) if host.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok()) => {
                Ok(Self::Tcp(host.into()))
            }
            ("serial", device) => match device.rsplit_once(',') {
                None => Ok(Self::Serial { device: device.into(), baud: DEFAULT_BAUD }),
                Some((device, baud)) => {
                    let baud = baud.parse().ok().filter(|baud| *baud > 0 && !device.is_empty()).ok_or_else(form)?;
                    Ok(Self::Serial { device: device.into(), baud })
                }
            },
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp:{host}"),
            Self::Serial { device, baud } => write!(f, "serial:{},{baud}", device.display()),
        }
    }
}

/// An open stream. Neither reading nor writing blocks longer than its caller wants.
#[derive(Debug)]
pub struct Wire {
    fd: OwnedFd,
    name: String,
}

impl Wire {
    /// Opens the stream at `address`; a TCP peer gets `limit` to answer.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn open(address: &Address, limit: Duration) -> Result<Self, Error> {
        let connect = |error: io::Error| Error::Connect {
            address: address.to_string(),
            why: match error.kind() {
                io::ErrorKind::NotFound => "there is no such socket or device".into(),
                io::ErrorKind::ConnectionRefused => "nobody serves it".into(),
                _ => error.to_string(),
            },
            remedy: match address {
                Address::Unix(_) => "start Merus first (`cargo xtask run` makes the socket), or give --connect",
                Address::Tcp(_) => "start Merus or its terminal server first, or give another --connect",
                Address::Serial { .. } => "check the device's name, its cable and your right to open it",
            },
        };
        let fd = match address {
            Address::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
            Address::Tcp(host) => tcp(host, limit).map(OwnedFd::from),
            Address::Serial { device, baud } => serial(device, *baud),
        };
        Self::new(address.to_string(), fd.map_err(connect)?).map_err(connect)
    }

    /// A stream that is open already; `name` is what messages call it.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(name: String, fd: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = fd.into();
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self { fd, name })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// `TimedOut` at `deadline`, or what the operating system says.
    pub fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What has come, at least one byte; 0 at the stream's end.
    ///
    /// # Errors
    /// `TimedOut` at `deadline`, or what the operating system says.
    pub fn receive(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(Errno::INTR) => {}
                // What a closed pseudo-terminal says.
                Err(Errno::IO) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match poll(&mut [PollFd::new(&self.fd, what)], Some(&left)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn tcp(host: &str, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                // A call is one small write that its answer waits for.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn serial(device: &std::path::Path, baud: u32) -> io::Result<OwnedFd> {
    // Non-blocking from the start: opening a line without a carrier would wait for it.
    let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)?;
    let mut line = tcgetattr(&file)?;
    line.make_raw();
    line.set_speed(baud)?;
    tcsetattr(&file, OptionalActions::Flush, &line)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["unix:/a:b", "tcp:localhost:9000", "tcp:[::1]:9000", "serial:/dev/ttyUSB0,9600"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let serial = "serial:/dev/ttyUSB0".parse::<Address>().unwrap();
        assert_eq!(serial.to_string(), "serial:/dev/ttyUSB0,115200");
        for text in
            ["", "unix", "unix:", "tcp:host", "tcp::1", "tcp:h:70000", "serial:,9600", "serial:/dev/x,0", "vsock:3"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("write unix:PATH"), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_blocks_beyond_its_deadline() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut wire = Wire::new("pair".into(), ours).unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(wire.receive(&mut [0; 4], soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // More than any socket's buffer holds.
        assert_eq!(wire.send(&vec![0; 64 << 20], soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        assert!(wire.send(&[0], soon()).is_err());
    }
}
