//! A virtio network card ("Network Device") with one pair of queues, at a [`Port`] of whatever network.
//!
//! | queue | a step |
//! |---|---|
//! | [`TRANSMITQ`] | reads each frame's header once, checks it, and has the port copy the frame to where its receivers find it; what the port loses is sent, to the driver |
//! | [`RECEIVEQ`] | writes what waits at the port into the driver's buffers; frames for which there are none wait on |
//!
//! A step copies [`BYTES`] bytes, the frame with which it reaches that included, and then ends with [`Stop::Later`]. The port rings when
//! frames come, and whoever hears that pokes [`RECEIVEQ`], in the time of this guest.
//!
//! | configuration | answer |
//! |---|---|
//! | `mac` | the address that [`Config`] has |
//! | `status` | whether the link is up ([`Mmio::set_link`]) |
//! | `max_virtqueue_pairs` | 1 |
//! | `mtu` | the MTU that [`Config`] has |
//!
//! | link or driver | frames to be sent | frames that come |
//! |---|---|---|
//! | no driver, or one that broke a ring; memory about to be taken away | | not taken at the port |
//! | link down | gone, and counted | not taken at the port |
//! | up | go | come |
//!
//! # Not modelled
//! Segmentation (`gso_type` is refused; [`header::parse`] is its place), the control queue (so neither filters nor announcements), more
//! than one pair of queues, hashes. With `VIRTIO_NET_F_MRG_RXBUF` left out a frame that a buffer is too small for is gone, and counted.

pub mod header;
#[cfg(test)]
mod hostile;
pub mod spec;
#[cfg(test)]
pub(crate) mod tests;

use bus::IrqLine;
use host::port::{HEADER as ETHERNET, HEADROOM, Incoming, Mac, Outgoing, Port, Sent};

use super::mmio::Mmio;
use super::{Broken, Chain, Device, Limits, Ring, Stop};
use crate::state::RestoreError;
use spec::*;
pub use spec::{RECEIVEQ, TRANSMITQ};

/// Bytes of frames that a step copies, about; the longest frame is longer.
pub const BYTES: usize = 32 << 10;
/// Descriptors of one frame that comes at most; enough for the longest one in buffers of 1,526 bytes.
const PARTS: u32 = 64;
/// A chain has no more descriptors than a driver has pieces of a packet, with its header and a table.
const LIMITS: Limits = Limits { size: 256, chain: 64 };

const _: () = assert!(HEADROOM == HEADER, "the header goes where a port leaves room");

/// What the card is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Its address.
    pub mac: Mac,
    /// Bytes of a frame at most, without its Ethernet header.
    pub mtu: u16,
}

/// What has happened since the card was made, beside [`host::port::Stats`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Chains that were taken from the driver to be sent.
    pub transmitted: u64,
    /// Of those, gone for what their header says, or because no whole frame is behind it.
    pub bad: u64,
    /// Gone because the link was down.
    pub down: u64,
    /// Frames that came and for which the driver's buffers were too small.
    pub small: u64,
    /// How often a frame found no buffer.
    pub starved: u64,
}

/// All that is saved of the card.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The link is up.
    link: bool,
}

/// The card.
pub struct Net<P: Port> {
    port: P,
    config: Config,
    state: State,
    /// What the driver agreed to, while it uses the card.
    running: Option<u64>,
    stats: Stats,
}

/// What became of a frame that came.
enum Put {
    /// The driver gets so many bytes.
    Bytes(usize),
    /// There are not enough buffers now.
    Starved,
    /// It never fits.
    Small,
}

impl<P: Port> Net<P> {
    /// A card at `port`, with its link up. What the port allows is its own business; `config` is what the driver is told.
    pub fn new(port: P, config: Config) -> Self {
        Self { port, config, state: State { link: true }, running: None, stats: Stats::default() }
    }

    /// What has happened.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The port, for whoever looks after it.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Whether its link is up.
    pub fn link(&self) -> bool {
        self.state.link
    }

    /// Opens or closes the port as link and driver are.
    fn connect(&mut self) {
        match self.running.filter(|_| self.state.link) {
            Some(features) => self.port.start(features & F_GUEST_CSUM != 0),
            None => self.port.stop(),
        }
    }

    /// Sends what the driver has to send, until the step has done its share.
    fn transmit(&mut self, ring: &mut Ring<'_>) -> Result<(), Stop> {
        let mut left = BYTES;
        while let Some(chain) = ring.peek()? {
            if left == 0 {
                return Err(Stop::Later);
            }
            let sent = self.send(ring, &chain, left)?;
            left = left.saturating_sub(sent.copied);
            if sent.more {
                // The rest of its receivers is the next step's.
                return Err(Stop::Later);
            }
            ring.stage(chain, 0)?;
            self.stats.transmitted = self.stats.transmitted.saturating_add(1);
        }
        Ok(())
    }

    /// Sends one frame.
    fn send(&mut self, ring: &Ring<'_>, chain: &Chain, most: usize) -> Result<Sent, Stop> {
        const NOTHING: Sent = Sent { copied: 0, more: false };
        let mut bytes = ring.bytes(chain, false);
        let size = usize::try_from(chain.readable()).unwrap_or(usize::MAX).saturating_sub(HEADER);
        let mut first = [0; HEADER + ETHERNET];
        if size < ETHERNET {
            self.stats.bad = self.stats.bad.saturating_add(1);
            return Ok(NOTHING);
        }
        bytes.read(0, &mut first)?;
        let (Some((head, header)), true) = (first.split_first_chunk::<HEADER>(), self.state.link) else {
            self.stats.down = self.stats.down.saturating_add(1);
            return Ok(NOTHING);
        };
        let (Some(checksum), Some(header)) = (header::parse(head, size), header.first_chunk::<ETHERNET>()) else {
            self.stats.bad = self.stats.bad.saturating_add(1);
            return Ok(NOTHING);
        };
        let frame = Outgoing { header, size, checksum };
        self.port.send(&frame, most, |rest| bytes.read((HEADER + ETHERNET) as u64, rest))
    }

    /// Gives the driver what has come, until the step has done its share.
    fn receive(&mut self, ring: &mut Ring<'_>) -> Result<(), Stop> {
        let merge = self.running.is_some_and(|features| features & F_MRG_RXBUF != 0);
        let (mut left, mut done) = (BYTES, 0usize);
        let result = loop {
            if left == 0 {
                break Err(Stop::Later);
            }
            let first = done == 0;
            match self.port.receive(done, |frame| put(ring, frame, merge, first)) {
                None => break Ok(()),
                Some(Ok(Put::Bytes(count))) => left = left.saturating_sub(count),
                Some(Ok(Put::Small)) => self.stats.small = self.stats.small.saturating_add(1),
                Some(Ok(Put::Starved)) => {
                    self.stats.starved = self.stats.starved.saturating_add(1);
                    break Ok(());
                }
                Some(Err(stop)) => break Err(stop),
            }
            done = done.saturating_add(1);
            // Frames that fit nowhere are work, too.
            left = left.saturating_sub(ETHERNET);
        };
        // They are the driver's before they are gone from the port.
        ring.publish()?;
        self.port.discard(done);
        result
    }
}

/// Puts a frame into the driver's next buffers: one, or with `merge` several. `first`: none was put before in this step.
fn put(ring: &mut Ring<'_>, frame: Incoming<'_>, merge: bool, first: bool) -> Result<Put, Stop> {
    let Incoming { bytes, checksum } = frame;
    let Some(chain) = ring.peek()? else { return Ok(Put::Starved) };
    if let Some(head) = bytes.first_chunk_mut::<HEADER>() {
        header::put(head, checksum, 1);
    }
    if chain.writable() >= bytes.len() as u64 {
        ring.write(&chain, 0, bytes)?;
        ring.stage(chain, bytes.len() as u32)?;
        return Ok(Put::Bytes(bytes.len()));
    }
    if chain.writable() < HEADER as u64 {
        return Err(Broken::Small.into());
    }
    if !merge {
        return Ok(Put::Small);
    }
    let mark = ring.staged();
    let put = spread(ring, chain, bytes, first);
    if !matches!(put, Ok(Put::Bytes(_))) {
        ring.unstage(mark);
    }
    put
}

/// Puts a frame into several buffers, the first of which is `chain`. They are staged, all of them or, when this gives no bytes, some.
fn spread(ring: &mut Ring<'_>, chain: Chain, bytes: &[u8], first: bool) -> Result<Put, Stop> {
    if first {
        // Of a whole step's share any frame that fits is put; what does not fit into that never will.
        ring.extend(PARTS);
    }
    let spot = ring.spot(&chain, NUM_BUFFERS)?;
    let (mut next, mut rest, mut count) = (Some(chain), bytes, 0u16);
    while !rest.is_empty() {
        let chain = match next.take() {
            Some(chain) => chain,
            None => match ring.peek() {
                Ok(Some(chain)) => chain,
                Ok(None) => return Ok(Put::Starved),
                Err(Stop::Later) if first => return Ok(Put::Small),
                Err(stop) => return Err(stop),
            },
        };
        let size = usize::try_from(chain.writable()).unwrap_or(usize::MAX).min(rest.len());
        let Some((part, behind)) = rest.split_at_checked(size).filter(|_| size != 0) else {
            return Err(Broken::Small.into());
        };
        ring.write(&chain, 0, part)?;
        ring.stage(chain, size as u32)?;
        (rest, count) = (behind, count.saturating_add(1));
    }
    ring.fill(&spot, count)?;
    Ok(Put::Bytes(bytes.len()))
}

impl<P: Port> Device for Net<P> {
    type State = State;

    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        F_CSUM | F_GUEST_CSUM | F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS
    }

    fn queues(&self) -> &[Limits] {
        &[LIMITS, LIMITS]
    }

    fn started(&mut self, features: u64) {
        self.running = Some(features);
        self.connect();
    }

    fn config_read(&self, at: usize, into: &mut [u8]) {
        let Mac([m0, m1, m2, m3, m4, m5]) = self.config.mac;
        let [s0, s1] = if self.state.link { LINK_UP } else { 0 }.to_le_bytes();
        let [t0, t1] = self.config.mtu.to_le_bytes();
        let all: [u8; CONFIG_SIZE] = [m0, m1, m2, m3, m4, m5, s0, s1, 1, 0, t0, t1];
        for (byte, at) in into.iter_mut().zip(at..) {
            *byte = sync::nospec::get(&all, at).copied().unwrap_or(0);
        }
    }

    fn serve(&mut self, number: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
        if number == RECEIVEQ {
            return self.receive(ring);
        }
        let result = self.transmit(ring);
        // What was sent is the driver's again, whatever came then.
        ring.publish()?;
        result
    }

    fn halted(&mut self) {
        self.running = None;
        self.port.stop();
    }

    fn reset(&mut self) {
        // The link is the outside's.
        self.halted();
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn check(_: &State) -> Result<(), RestoreError> {
        Ok(())
    }

    /// Frames that waited are lost, and one with several receivers that was half sent goes to all of them again.
    fn restore(&mut self, state: State) {
        self.halted();
        self.state = state;
    }
}

impl<P: Port, I: IrqLine> Mmio<Net<P>, I> {
    /// The link comes or goes; a driver hears of it.
    pub fn set_link(&mut self, up: bool) {
        if self.device().link() != up {
            let net = self.device_mut();
            net.state.link = up;
            net.connect();
            self.config_changed();
        }
    }
}
