//! A learning Ethernet switch between VMs, and to the host's network: ports, who may talk to whom, and a bounded queue for each receiver.
//!
//! ```text
//! A's step (its device locked)        route(): the table's lock, freed
//!   SwitchPort::send                  Inbox::push: B's queue locked; the frame copied out of A's memory; B's bell; freed
//! B's step (its device locked)
//!   SwitchPort::receive               B's queue locked; the frame copied into B's memory; freed
//! ```
//!
//! A step has one lock of the switch's at a time, [`Rank::Backend`], and never another VM's device. Each copy is made in the time of the VM
//! whose memory it is about.
//!
//! # Who hears what
//! | to | goes to |
//! |---|---|
//! | an address that a port has for its own | that port |
//! | an address that was learned (only behind ports without a guard) | that port |
//! | another single address | ports without a guard: behind the others there is nobody else |
//! | a group, everybody | all ports with a driver |
//! | a group that bridges keep to themselves (IEEE 802.1Q, "Reserved addresses") | nobody |
//!
//! Of these an isolated port reaches only those that are not isolated, and the uplink.
//!
//! # Bounds
//! | of | is | beyond it |
//! |---|---|---|
//! | source addresses of a guarded port | its own | [`Loss::Spoofed`] |
//! | another port's own address as source | none | [`Loss::Spoofed`] |
//! | addresses that are learned | [`LEARNED`], half of them of one port, for [`AGE`] seconds | not learned: flooded |
//! | frames with several receivers | [`PortConfig::floods`] a second and port | [`Loss::Flood`] |
//! | bytes that wait for a receiver | [`PortConfig::queue`] | [`Loss::Full`] |
//! | of those, one sender's | 4 times what is free; what is free for frames with several receivers | [`Loss::Full`] |
//!
//! So one who floods a queue leaves a fifth of it free, which is there for whoever sends a little.
//!
//! # Not modelled
//! VLANs (tags pass as they are), spanning trees (a guarded port cannot be part of a loop), multicast snooping.
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

mod inbox;
pub mod outlet;
pub mod pace;
mod table;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use host::port::{Bell, HEADER, HEADROOM, Incoming, Loss, Mac, Outgoing, Port, Sent, Stats, TAG};
use inbox::{Inbox, Refused};
use sync::{Rank, SpinLock};
use table::Table;
pub use table::{AGE, LEARNED};

/// Ports of a switch at most.
pub const PORTS: usize = 64;
/// The largest queue of a port, in bytes.
pub const LARGEST_QUEUE: usize = 4 << 20;
/// The smallest MTU of a port, which every link of IPv4 has (RFC 791).
pub const SMALLEST_MTU: u16 = 68;

/// What a port may do, and what it costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// Its own address, which nobody else has.
    pub mac: Option<Mac>,
    /// It sends from its own address only.
    pub guard: bool,
    /// It reaches no other isolated port.
    pub isolated: bool,
    /// It leads out of the machine: isolated ports reach it, too.
    pub uplink: bool,
    /// Bytes of a frame at most, without its header and a tag: [`SMALLEST_MTU`] and more.
    pub mtu: u16,
    /// Bytes of its queue: 4 longest frames and more, up to [`LARGEST_QUEUE`].
    pub queue: usize,
    /// Frames with several receivers that it may send each second.
    pub floods: u32,
}

impl PortConfig {
    /// A guest's port: guarded, not isolated, with an MTU of 1,500 bytes, a queue of 256 KiB, and 1,000 frames for all a second.
    pub fn guest(mac: Mac) -> Self {
        Self { mac: Some(mac), guard: true, isolated: false, uplink: false, mtu: 1500, queue: 256 << 10, floods: 1000 }
    }

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        usize::from(self.mtu).saturating_add(HEADER).saturating_add(TAG)
    }

    /// Bytes that attaching it takes from the heap, but for the allocator's own: whom it is for pays for them.
    pub fn memory(&self) -> usize {
        Inbox::memory(self.queue)
    }

    fn check(&self) -> Result<(), AttachError> {
        let least = self.longest().saturating_add(HEADROOM).saturating_mul(4);
        if self.mac.is_some_and(|mac| !mac.is_single()) || self.guard && self.mac.is_none() {
            return Err(AttachError::Address);
        }
        if self.isolated && self.uplink {
            return Err(AttachError::IsolatedUplink);
        }
        if self.mtu < SMALLEST_MTU {
            return Err(AttachError::Mtu);
        }
        if self.queue < least || self.queue > LARGEST_QUEUE {
            return Err(AttachError::Queue { least });
        }
        Ok(())
    }
}

/// Why there is no port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// The switch has as many as it can have.
    NoPort,
    /// No address that one can have, or a guard without one.
    Address,
    /// Another port has this address.
    Taken,
    /// An uplink cannot be isolated.
    IsolatedUplink,
    /// The MTU is too small.
    Mtu,
    /// The queue is too small for its MTU, or larger than [`LARGEST_QUEUE`].
    Queue {
        /// The smallest that will do.
        least: usize,
    },
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => write!(f, "the switch has {PORTS} ports at most; use a second one"),
            Self::Address => f.write_str("a port needs the address of one station: even first byte, not all zeroes"),
            Self::Taken => f.write_str("another port of the switch has this address; give each its own"),
            Self::IsolatedUplink => f.write_str("an uplink cannot be isolated; isolate the others"),
            Self::Mtu => write!(f, "the MTU must be {SMALLEST_MTU} or more"),
            Self::Queue { least } => write!(f, "the port's queue must have {least} to {LARGEST_QUEUE} bytes"),
        }
    }
}

impl core::error::Error for AttachError {}

/// Seconds that pass, from any start.
pub trait Clock: Send + Sync {
    /// How many have passed.
    fn seconds(&self) -> u32;
}

/// A switch.
pub struct Switch {
    table: SpinLock<Table>,
    inboxes: Box<[SpinLock<Option<Inbox>>]>,
    clock: Box<dyn Clock>,
}

impl Switch {
    /// A switch without ports. `seed` is nobody's to guess: who knows it can choose addresses that keep others from being learned.
    /// Allocates.
    pub fn new(clock: Box<dyn Clock>, seed: u64) -> Arc<Self> {
        let inboxes = (0..PORTS).map(|_| SpinLock::new(Rank::Backend, None)).collect();
        Arc::new(Self { table: SpinLock::new(Rank::Backend, Table::new(seed)), inboxes, clock })
    }

    /// A new port, which nothing comes to before [`Port::start`]. Allocates [`PortConfig::memory`].
    ///
    /// # Errors
    /// What is wrong with `config`, or no port is free; nothing has changed.
    pub fn attach(self: &Arc<Self>, config: &PortConfig, bell: Box<dyn Bell>) -> Result<SwitchPort, AttachError> {
        config.check()?;
        let inbox = Inbox::new(config.queue, config.longest(), bell);
        let number = self.table.lock().attach(config)?;
        if let Some(place) = self.inboxes.get(number) {
            *place.lock() = Some(inbox);
        }
        let longest = config.longest();
        Ok(SwitchPort { switch: self.clone(), number, longest, left: None, heard: false, stats: Stats::default() })
    }

    /// How many ports it has.
    pub fn ports(&self) -> usize {
        self.table.lock().ports()
    }

    /// How many addresses it has learned, old ones included.
    pub fn learned(&self) -> usize {
        self.table.lock().learned()
    }
}

/// A port of a switch; dropped, it is free again.
pub struct SwitchPort {
    switch: Arc<Switch>,
    number: usize,
    longest: usize,
    /// Who has not got the frame with several receivers that is being sent.
    left: Option<u64>,
    /// Somebody got it.
    heard: bool,
    /// What it has sent; the rest is with its queue.
    stats: Stats,
}

impl SwitchPort {
    /// Its number on the switch.
    pub fn number(&self) -> usize {
        self.number
    }

    fn lose(&mut self, why: Loss) -> Sent {
        self.stats.lose(why);
        self.heard = false;
        Sent { copied: 0, more: false }
    }

    fn with_inbox<T>(&self, act: impl FnOnce(&mut Inbox) -> T) -> Option<T> {
        self.switch.inboxes.get(self.number)?.lock().as_mut().map(act)
    }
}

impl Port for SwitchPort {
    fn start(&mut self, checksums: bool) {
        self.with_inbox(|inbox| inbox.open(checksums));
        self.switch.table.lock().set_open(self.number, true);
    }

    fn stop(&mut self) {
        self.switch.table.lock().set_open(self.number, false);
        self.with_inbox(Inbox::close);
        (self.left, self.heard) = (None, false);
    }

    fn send<E>(
        &mut self,
        frame: &Outgoing<'_>,
        most: usize,
        mut rest: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Sent, E> {
        let begun = self.left.take();
        if frame.size < HEADER || frame.size > self.longest {
            return Ok(self.lose(Loss::Size));
        }
        let route = self.switch.table.lock().route(self.number, frame.header, begun.is_none(), &*self.switch.clock);
        let route = match route {
            Ok(route) => route,
            Err(why) => return Ok(self.lose(why)),
        };
        let mut sent = Sent { copied: 0, more: false };
        let mut left = route.ports & begun.unwrap_or(u64::MAX);
        while left != 0 {
            if sent.copied >= most && sent.copied != 0 {
                self.left = Some(left);
                return Ok(Sent { more: true, ..sent });
            }
            let to = left.trailing_zeros() as usize;
            let mut inbox = match self.switch.inboxes.get(to) {
                Some(inbox) => inbox.lock(),
                None => break,
            };
            let pushed = match inbox.as_mut() {
                Some(inbox) => inbox.push(self.number, frame, route.flood, &mut rest),
                None => Err(Refused::Lost(Loss::Closed)),
            };
            drop(inbox);
            match pushed {
                Ok(()) => {
                    sent.copied = sent.copied.saturating_add(frame.size);
                    self.heard = true;
                }
                Err(Refused::Lost(why)) => self.stats.lose(why),
                Err(Refused::Rest(error)) => {
                    self.left = route.flood.then_some(left);
                    return Err(error);
                }
            }
            left &= left.wrapping_sub(1);
        }
        if core::mem::take(&mut self.heard) {
            self.stats.sent = self.stats.sent.saturating_add(1);
            self.stats.sent_bytes = self.stats.sent_bytes.saturating_add(frame.size as u64);
        }
        Ok(sent)
    }

    fn receive<T>(&mut self, nth: usize, act: impl FnOnce(Incoming<'_>) -> T) -> Option<T> {
        self.with_inbox(|inbox| inbox.show(nth, act))?
    }

    fn discard(&mut self, count: usize) {
        self.with_inbox(|inbox| inbox.discard(count));
    }

    fn stats(&self) -> Stats {
        self.with_inbox(|inbox| inbox.stats(self.stats)).unwrap_or(self.stats)
    }
}

impl Drop for SwitchPort {
    fn drop(&mut self) {
        // First it has no frames any more, then its number is free.
        let inbox = self.switch.inboxes.get(self.number).and_then(|inbox| inbox.lock().take());
        self.switch.table.lock().detach(self.number);
        drop(inbox);
    }
}
