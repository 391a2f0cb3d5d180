//! A virtio network card of the board's ("Network Device"): whole frames in and out, each through a buffer of the card's own memory.
//!
//! | queue | buffers | interrupts |
//! |---|---|---|
//! | receive | all are the device's, but the one that is looked at | while they are wanted ([`HostNet::listen`]) |
//! | transmit | the device's from [`HostNet::send`] until it has used them, which is looked for when one is needed | while room is waited for |
//!
//! The card is not told which addresses are wanted, so it has all frames come that reach it ("Packet Receive Filtering" is for those that
//! ask for it).
//!
//! # Not modelled
//! Checksums and segments left to the card, several queues, merged buffers, the link's state.

use super::{Fault, Pages, QUEUE_ENTRIES, Queue, begin, finish, reset};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use virtio_drivers::Hal;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Buffers of either queue.
const RECEIVED: usize = 64;
const SENT: usize = 32;
/// Bytes of a buffer, and buffers in one piece of memory.
const BUFFER: usize = 2048;
const TOGETHER: usize = 16;

const VERSION_1: u64 = super::VERSION_1;
const MAC: u64 = 1 << 5;
const ANY_LAYOUT: u64 = 1 << 27;

/// Bytes of `struct virtio_net_hdr`, and without its last field, which only newer devices have.
const HEAD: usize = 12;
const OLD_HEAD: usize = 10;
/// Bytes of the longest frame: 1,500 behind header and tag.
pub const LONGEST: usize = 1518;

/// Buffers, told apart by the queue's entry that each has.
struct Buffers<H: Hal> {
    memory: Vec<Pages<H>>,
    /// Which buffer an entry of the queue is for.
    of_entry: [u8; QUEUE_ENTRIES],
}

const NONE: u8 = u8::MAX;

impl<H: Hal> Buffers<H> {
    fn new(count: usize) -> Result<Self, Fault> {
        let memory = (0..count.div_ceil(TOGETHER)).map(|_| Pages::new(TOGETHER * BUFFER)).collect::<Result<_, _>>()?;
        Ok(Self { memory, of_entry: [NONE; QUEUE_ENTRIES] })
    }

    /// The first `size` bytes of buffer `number`.
    ///
    /// # Safety
    /// As for [`Pages::slice`].
    unsafe fn slice(&self, number: u8, size: usize) -> Option<&'static mut [u8]> {
        let number = usize::from(number);
        let memory = self.memory.get(number / TOGETHER)?;
        // SAFETY: the caller's.
        (size <= BUFFER).then(|| unsafe { memory.slice(number % TOGETHER * BUFFER, size) })
    }

    fn set(&mut self, entry: u16, number: u8) {
        if let Some(of) = self.of_entry.get_mut(usize::from(entry)) {
            *of = number;
        }
    }

    /// The buffer that the device has by this entry, and has no more.
    fn take(&mut self, entry: u16) -> Option<u8> {
        let of = self.of_entry.get_mut(usize::from(entry))?;
        Some(core::mem::replace(of, NONE)).filter(|number| *number != NONE)
    }
}

/// The card.
pub struct HostNet<T: Transport, H: Hal> {
    // The order of the fields is that in which they are dropped: the device is reset before its memory goes.
    transport: T,
    receive: Box<Queue<H>>,
    transmit: Box<Queue<H>>,
    incoming: Buffers<H>,
    outgoing: Buffers<H>,
    /// Buffers that nobody sends.
    free: Vec<u8>,
    /// The frame that is looked at: its buffer, and its bytes with the head.
    current: Option<(u8, usize)>,
    head: usize,
    mac: Option<[u8; 6]>,
    /// The device has something new to send.
    told: bool,
    broken: bool,
}

impl<T: Transport, H: Hal> HostNet<T, H> {
    /// The card behind `transport`, which is reset and in use from here on; it interrupts for what it receives. Allocates
    /// [`HostNet::memory`].
    ///
    /// # Errors
    /// Why it cannot be used; it is reset then.
    pub fn new(mut transport: T) -> Result<Self, Fault> {
        let (incoming, outgoing) = (Buffers::new(RECEIVED)?, Buffers::new(SENT)?);
        let has = begin(&mut transport, MAC | ANY_LAYOUT)?;
        let mac = if has & MAC != 0 {
            let byte = |at: usize| transport.read_config_space::<u8>(at);
            Some([byte(0)?, byte(1)?, byte(2)?, byte(3)?, byte(4)?, byte(5)?])
        } else {
            None
        };
        let receive = Box::new(VirtQueue::new(&mut transport, RECEIVE, false, false)?);
        let mut transmit = Box::new(VirtQueue::new(&mut transport, TRANSMIT, false, false)?);
        transmit.set_dev_notify(false);
        let head = if has & VERSION_1 != 0 { HEAD } else { OLD_HEAD };
        let free = (0..SENT as u8).collect();
        let mut card = Self {
            transport,
            receive,
            transmit,
            incoming,
            outgoing,
            free,
            current: None,
            head,
            mac,
            told: false,
            broken: false,
        };
        finish(&mut card.transport);
        (0..RECEIVED as u8).for_each(|number| card.provide(number));
        card.flush(RECEIVE);
        match card.broken {
            false => Ok(card),
            true => {
                // It may still write to its memory, which then stays its own.
                if reset(&mut card.transport).is_err() {
                    core::mem::forget(card);
                }
                Err(Fault::Broken)
            }
        }
    }

    /// Bytes of the heap that one takes.
    pub const fn memory() -> usize {
        (RECEIVED + SENT) * BUFFER + (32 << 10)
    }

    /// Its own address, which is nobody's among those who use it.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// It answered what it was not asked: nothing comes and nothing goes any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes note of its interrupt: the next one is for what comes from here on.
    pub fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
    }

    /// Whether it interrupts for what it receives.
    pub fn listen(&mut self, on: bool) {
        self.receive.set_dev_notify(on);
        // What is looked for next is looked for when the device knows.
        fence(Ordering::SeqCst);
    }

    /// Whether it interrupts for room to send.
    pub fn await_room(&mut self, on: bool) {
        self.transmit.set_dev_notify(on);
        fence(Ordering::SeqCst);
    }

    /// Hands the device a buffer to receive into.
    fn provide(&mut self, number: u8) {
        // SAFETY: the buffer is not the device's, and nobody else has a slice of it; it is looked at again when the device has used it.
        let added = unsafe { self.incoming.slice(number, BUFFER).map(|buffer| self.receive.add(&[], &mut [buffer])) };
        match added {
            Some(Ok(entry)) => self.incoming.set(entry, number),
            // There are entries for all.
            _ => self.broken = true,
        }
    }

    fn flush(&mut self, queue: u16) {
        let wants = if queue == RECEIVE { self.receive.should_notify() } else { self.transmit.should_notify() };
        // What the device is told of is in memory before it is.
        fence(Ordering::SeqCst);
        if wants {
            self.transport.notify(queue);
        }
    }

    /// The frame that came first, the same until [`HostNet::done`].
    pub fn received(&mut self) -> Option<&[u8]> {
        // Frames that are none are passed over; there are no more than buffers.
        for _ in 0..RECEIVED {
            if self.current.is_none() {
                self.current = self.take();
            }
            let (number, size) = self.current?;
            if size > self.head && size - self.head <= LONGEST {
                // SAFETY: the device has used it, and `done` ends the borrow.
                return unsafe { self.incoming.slice(number, size) }?.get(self.head..);
            }
            self.done();
        }
        None
    }

    fn take(&mut self) -> Option<(u8, usize)> {
        let entry = self.receive.peek_used().filter(|_| !self.broken)?;
        let number = self.incoming.take(entry);
        let size = number.and_then(|number| {
            // SAFETY: the buffer that `provide` added; the device has used it.
            unsafe { self.receive.pop_used(entry, &[], &mut [self.incoming.slice(number, BUFFER)?]) }.ok()
        });
        match (number, size) {
            (Some(number), Some(size)) => Some((number, size as usize)),
            _ => {
                self.broken = true;
                None
            }
        }
    }

    /// The frame is done with: its buffer is the device's again.
    pub fn done(&mut self) {
        if let Some((number, _)) = self.current.take() {
            self.provide(number);
            self.flush(RECEIVE);
        }
    }

    /// Whether there is room to send a frame.
    pub fn has_room(&mut self) -> bool {
        if self.free.is_empty() {
            self.reclaim();
        }
        !self.free.is_empty() && !self.broken
    }

    /// Takes back what the device has sent.
    fn reclaim(&mut self) {
        for _ in 0..SENT {
            let Some(entry) = self.transmit.peek_used() else { return };
            let number = self.outgoing.take(entry);
            let popped = number.and_then(|number| {
                // SAFETY: the buffer that `send` added, as long as then or longer; the device has used it.
                unsafe { self.transmit.pop_used(entry, &[self.outgoing.slice(number, BUFFER)?], &mut []) }.ok()
            });
            match (number, popped) {
                (Some(number), Some(_)) => self.free.push(number),
                _ => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Sends a frame, as soon as the device is told ([`HostNet::tell`]). `false`: there is no room, or it is longer than [`LONGEST`].
    pub fn send(&mut self, frame: &[u8]) -> bool {
        if frame.len() > LONGEST || !self.has_room() {
            return false;
        }
        let Some(number) = self.free.pop() else { return false };
        let size = self.head + frame.len();
        // SAFETY: a free buffer is not the device's, and nobody else has a slice of it; it is looked at again when the device has used it.
        let added = unsafe {
            self.outgoing.slice(number, size).map(|buffer| {
                let (head, body) = buffer.split_at_mut(self.head);
                head.fill(0);
                body.copy_from_slice(frame);
                self.transmit.add(&[buffer], &mut [])
            })
        };
        match added {
            Some(Ok(entry)) => {
                self.outgoing.set(entry, number);
                self.told = true;
            }
            _ => self.broken = true,
        }
        true
    }

    /// Tells the device of the frames to be sent, if there are new ones.
    pub fn tell(&mut self) {
        if core::mem::take(&mut self.told) {
            self.flush(TRANSMIT);
        }
    }
}
