//! One step on a split virtqueue, from the device's side. Everything in the guest's memory is hostile: each field that the guest wrote is
//! read once and checked before it is used.
//!
//! ```text
//! while let Some(chain) = ring.peek()? {      nothing is changed yet; all that the chain names is in RAM and there
//!     ring.read(&chain, 0, &mut request)?;
//!     ring.write(&chain, 0, &answer)?;
//!     ring.complete(chain, written)?;         the driver has it back
//! }
//! ```
//!
//! A device that gives several back at once, as what is one to the driver or to save stores, [`Ring::stage`]s them: the driver sees none of
//! them before [`Ring::publish`], and what was not published when the step ends, or is taken back by [`Ring::unstage`], is available as before.
//!
//! A device that answers later keeps the chain: [`Ring::take`] goes on in the available ring without completing it, and chains may be
//! completed in any order. Their [`Segment`]s are gone by then, unless the device has copied them: [`Ring::again`] finds them anew.
//!
//! | hostile | answer |
//! |---|---|
//! | addresses outside RAM, lengths that wrap | [`Broken::Place`], [`Broken::Outside`] |
//! | an index beyond the table, `idx` beyond the ring | [`Broken::Descriptor`], [`Broken::Runaway`] |
//! | loops, chains without end | [`Broken::TooLong`] after [`Limits::chain`](super::Limits) descriptors |
//! | chains as fast as they are served | [`Stop::Later`] after [`STEP`] descriptors |
//! | the same head twice, rings and buffers that overlap, changes at any moment | the guest's own loss: nothing is trusted twice |

use addr::{Address, Ipa};
use bus::GuestMemory;
use core::sync::atomic::{Ordering, fence};

use super::bytes::Bytes;
use super::descriptor::Descriptor;
use super::queue::{Chain, ELEMENTS, HEADS, Queue, Room, Segment, Taken};
use super::spec::*;
use super::{Broken, Stop};

/// Descriptors that are read in one step; the chain that reaches it is the step's last.
pub const STEP: u32 = 32;

/// A queue during one step.
pub struct Ring<'a> {
    queue: &'a mut Queue,
    /// The parts of the chain that was looked at last, and what is read and written together.
    room: &'a mut Room,
    memory: &'a dyn GuestMemory,
    features: u64,
    budget: u32,
    /// The driver's index when it was last loaded: what is before it was seen.
    seen: u16,
    /// The entry of the available ring that the first of the heads is that were read together, and how many those are.
    first: u16,
    known: u16,
    /// Chains that are given back with the next change of the used ring's index, and how many of their elements are in the ring already;
    /// the others are in `room`.
    staged: u16,
    written: u16,
    /// How many of them were taken from the available ring for that.
    undone: u16,
    /// The used ring was found to be there in this step.
    pinned: bool,
    /// The driver's index was looked at in this step.
    looked: bool,
}

/// Two bytes of guest memory that the device may write.
#[derive(Clone, Copy, Debug)]
pub struct Spot([Ipa; 2]);

impl<'a> Ring<'a> {
    pub(super) fn new(queue: &'a mut Queue, room: &'a mut Room, memory: &'a dyn GuestMemory, features: u64) -> Self {
        let seen = queue.state.next_avail;
        Self {
            queue,
            room,
            memory,
            features,
            budget: STEP,
            seen,
            first: 0,
            known: 0,
            staged: 0,
            written: 0,
            undone: 0,
            pinned: false,
            looked: false,
        }
    }

    /// The next chain that the driver has made available; `None`: there is none, and the driver will notify of the next. Nothing
    /// has changed on an error, so that the step can be run again.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Chain>, Stop> {
        if self.queue.state.next_avail.wrapping_sub(self.first) >= self.known && !self.look()? {
            return Ok(None);
        }
        if self.budget == 0 {
            return Err(Stop::Later);
        }
        let nth = usize::from(self.queue.state.next_avail.wrapping_sub(self.first));
        let head = self.room.heads.get(nth & (HEADS - 1)).copied().unwrap_or_default();
        let chain = self.walk(u16::from_le_bytes(head))?;
        self.pin_used()?;
        Ok(Some(chain))
    }

    /// Looks for chains that were made available, and reads the first ones' heads. `false`: there is none, and the driver will notify.
    #[inline(never)]
    fn look(&mut self) -> Result<bool, Stop> {
        // At the end of what was seen there is hardly ever more.
        let likely = !core::mem::replace(&mut self.looked, true) || self.seen != self.queue.state.next_avail;
        if !(likely && self.more()?) {
            self.ask_for_notification()?;
            // One may have come before the driver could see that it is to notify.
            if !self.more()? {
                return Ok(false);
            }
        }
        let next = self.queue.state.next_avail;
        let entry = self.entry(next);
        let to_end = u64::from(self.queue.state.size).saturating_sub(entry);
        let count = u64::from(self.seen.wrapping_sub(next)).min(to_end).min(HEADS as u64) as u16;
        let at = self.driver(AVAIL_RING.wrapping_add(entry.wrapping_mul(2)));
        // None is known until all are there.
        self.known = 0;
        let part = self.room.heads.get_mut(..usize::from(count)).unwrap_or_default();
        self.memory.read(at, part.as_flattened_mut())?;
        (self.first, self.known) = (next, count);
        Ok(true)
    }

    /// Looks once more at a chain that was taken in this step or an earlier one, by its [`Chain::head`]: at what the driver's memory
    /// says of it now. (A driver leaves its chains alone until it has them back; what another one changes is its own loss.)
    pub fn again(&mut self, head: u16) -> Result<Chain, Stop> {
        if self.budget == 0 {
            return Err(Stop::Later);
        }
        let chain = self.walk(head)?;
        self.pin_used()?;
        Ok(Chain { taken: Taken::Yes, ..chain })
    }

    /// Once a step. Then nothing is in the way of giving chains back.
    #[inline]
    fn pin_used(&mut self) -> Result<(), Stop> {
        if self.pinned { Ok(()) } else { self.pin_used_now() }
    }

    #[inline(never)]
    fn pin_used_now(&mut self) -> Result<(), Stop> {
        let [_, _, (used, size)] = self.queue.state.parts();
        self.memory.pin(used, size)?;
        self.pinned = true;
        Ok(())
    }

    /// Whether the driver has made more chains available.
    pub fn has_more(&mut self) -> Result<bool, Stop> {
        self.more()
    }

    /// Goes on to the next chain, while this one is worked on; it is completed in a later step. Nothing is staged then.
    pub fn take(&mut self, chain: &mut Chain) {
        if core::mem::replace(&mut chain.taken, Taken::Yes) == Taken::No {
            self.queue.state.next_avail = self.queue.state.next_avail.wrapping_add(1);
        }
    }

    /// The parts of the chain that was looked at last: those to read first.
    pub fn segments(&self, chain: &Chain) -> &[Segment] {
        self.room.segments.get(..chain.segments).unwrap_or_default()
    }

    /// The bytes of the chain that was looked at last: those to `write`, or those to read.
    pub fn bytes(&self, chain: &Chain, write: bool) -> Bytes<'_> {
        Bytes::new(self.segments(chain), self.memory, write)
    }

    /// Fills `into` from byte `at` of what the driver wrote into the chain that was looked at last.
    pub fn read(&self, chain: &Chain, at: u64, into: &mut [u8]) -> Result<(), Stop> {
        self.bytes(chain, false).read(at, into)
    }

    /// Writes `from` at byte `at` of what the device may write of the chain that was looked at last.
    pub fn write(&mut self, chain: &Chain, at: u64, from: &[u8]) -> Result<(), Stop> {
        self.bytes(chain, true).write(at, from)
    }

    /// Two bytes of what the device may write of the chain that was looked at last, from byte `at` on, to be filled in later in this step
    /// by [`Ring::fill`], whichever chain is looked at by then.
    pub fn spot(&self, chain: &Chain, at: u64) -> Result<Spot, Stop> {
        let mut bytes = self.bytes(chain, true);
        Ok(Spot([bytes.place(at)?, bytes.place(at.saturating_add(1))?]))
    }

    /// Fills in a value, its low byte first.
    pub fn fill(&self, spot: &Spot, value: u16) -> Result<(), Stop> {
        for (at, byte) in spot.0.into_iter().zip(value.to_le_bytes()) {
            self.memory.write(at, &[byte])?;
        }
        Ok(())
    }

    /// Has this step read `count` descriptors more, if fewer are left to it.
    pub fn extend(&mut self, count: u32) {
        self.budget = self.budget.max(count);
    }

    /// Writes the last byte of what the device may write of the chain that was looked at last.
    pub fn write_end(&mut self, chain: &Chain, last: u8) -> Result<(), Stop> {
        let at = chain.writable.checked_sub(1).ok_or(Broken::Small)?;
        // What the device may write comes last.
        match self.segments(chain).last() {
            Some(Segment { at, size, write: true }) => {
                let end = at.checked_add(u64::from(*size).saturating_sub(1)).ok_or(Broken::Outside(*at))?;
                Ok(self.memory.write(end, &[last])?)
            }
            _ => self.write(chain, at, &[last]),
        }
    }

    /// Gives the chain back to the driver, and all that are staged: the device has written its first `written` bytes.
    pub fn complete(&mut self, chain: Chain, written: u32) -> Result<(), Stop> {
        self.stage(chain, written)?;
        self.publish()
    }

    /// Goes on to the next chain; this one is given back by [`Ring::publish`], behind those that were staged before it: the device has
    /// written its first `written` bytes. (One that was taken before stays taken whatever happens; it is not mixed with others.)
    #[inline]
    pub fn stage(&mut self, mut chain: Chain, written: u32) -> Result<(), Stop> {
        if usize::from(self.staged.wrapping_sub(self.written)) == ELEMENTS {
            self.write_elements()?;
        }
        let nth = usize::from(self.staged.wrapping_sub(self.written));
        if let Some(element) = self.room.elements.get_mut(nth) {
            // Its fields are `id` and `len` ("The Virtqueue Used Ring").
            *element = (chain.head | u64::from(written) << 32).to_le_bytes();
        }
        self.staged = self.staged.wrapping_add(1);
        self.undone = self.undone.wrapping_add((chain.taken == Taken::No).into());
        self.take(&mut chain);
        Ok(())
    }

    /// Writes the elements of what is staged into the used ring, where the driver does not look yet.
    #[inline(never)]
    fn write_elements(&mut self) -> Result<(), Stop> {
        while self.written != self.staged {
            let entry = self.entry(self.queue.state.next_used.wrapping_add(self.written));
            let to_end = u64::from(self.queue.state.size).saturating_sub(entry);
            let count = u64::from(self.staged.wrapping_sub(self.written)).min(to_end) as usize;
            let all = self.room.elements.as_flattened();
            let part = all.get(..count.wrapping_mul(size_of::<[u8; 8]>())).unwrap_or_default();
            self.memory.write(self.device(USED_RING.wrapping_add(entry.wrapping_mul(8))), part)?;
            self.written = self.written.wrapping_add(count as u16);
            if self.written != self.staged {
                // The ring has ended: what is left goes to its start.
                self.room.elements.copy_within(count.min(ELEMENTS).., 0);
            }
        }
        Ok(())
    }

    /// Gives the chain back: with those that are staged, by the next [`Ring::publish`], or at once if the device wants that or has taken
    /// it in an earlier step. `true`: at once. (On an error it is not given back, and those before it that were staged are or are still.)
    pub fn hand_back(&mut self, chain: Chain, written: u32, at_once: bool) -> Result<bool, Stop> {
        if !at_once && chain.taken == Taken::No {
            self.stage(chain, written)?;
            return Ok(false);
        }
        // What is staged before it can be taken back, it cannot.
        self.publish()?;
        self.stage(chain, written)?;
        if let Err(stop) = self.publish() {
            self.unstage(0);
            return Err(stop);
        }
        Ok(true)
    }

    /// How many chains are staged.
    pub fn staged(&self) -> u16 {
        self.staged
    }

    /// Gives what is staged back to the driver.
    pub fn publish(&mut self) -> Result<(), Stop> {
        if self.staged != 0 {
            self.write_elements()?;
            // Releases the elements, and what was written into the buffers.
            let next = self.queue.state.next_used.wrapping_add(self.staged);
            self.memory.store_u16(self.device(USED_IDX), next)?;
            self.queue.state.next_used = next;
            (self.staged, self.written, self.undone) = (0, 0, 0);
        }
        Ok(())
    }

    /// Takes all but the first `keep` that are staged back: they are the next to be looked at, once more.
    pub fn unstage(&mut self, keep: u16) {
        let back = self.staged.saturating_sub(keep);
        self.staged = self.staged.wrapping_sub(back);
        self.written = self.written.min(self.staged);
        let back = back.min(self.undone);
        self.undone = self.undone.wrapping_sub(back);
        self.queue.state.next_avail = self.queue.state.next_avail.wrapping_sub(back);
    }

    /// The end of a step: whether the driver wants to be interrupted for what was given back since it was last asked. What is staged
    /// still is taken back.
    pub fn wants_interrupt(&mut self) -> bool {
        self.unstage(0);
        let (new, old) = (self.queue.state.next_used, self.queue.state.told);
        if new == old {
            return false;
        }
        self.queue.state.told = new;
        // The driver must see `idx` before it is looked whether it waits ("Used Buffer Notification Suppression").
        fence(Ordering::SeqCst);
        // What cannot be read does not suppress.
        if self.has(F_EVENT_IDX) {
            let at = AVAIL_RING.wrapping_add(u64::from(self.queue.state.size).wrapping_mul(2));
            let event = self.memory.load_u16(self.driver(at));
            return event.map_or(true, |event| passed(event, new, old));
        }
        let flags = self.memory.load_u16(self.driver(AVAIL_FLAGS));
        flags.map_or(true, |flags| flags & AVAIL_NO_INTERRUPT == 0)
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Where an index points in a ring.
    fn entry(&self, index: u16) -> u64 {
        // Sizes are powers of two.
        u64::from(index & self.queue.state.size.wrapping_sub(1))
    }

    /// In the available ring; that it does not wrap was checked when the queue was enabled.
    fn driver(&self, offset: u64) -> Ipa {
        Ipa::new(self.queue.state.driver.wrapping_add(offset))
    }

    /// In the used ring.
    fn device(&self, offset: u64) -> Ipa {
        Ipa::new(self.queue.state.device.wrapping_add(offset))
    }

    /// Whether the driver has made more available than was taken.
    fn more(&mut self) -> Result<bool, Stop> {
        if self.seen != self.queue.state.next_avail {
            return Ok(true);
        }
        // Acquires what the driver wrote before it.
        let idx = self.memory.load_u16(self.driver(AVAIL_IDX))?;
        match idx.wrapping_sub(self.queue.state.next_avail) {
            0 => Ok(false),
            count if count <= self.queue.state.size => {
                self.seen = idx;
                Ok(true)
            }
            _ => Err(Broken::Runaway.into()),
        }
    }

    /// Has the driver notify of the next buffer: always, or by `avail_event` where that was agreed on.
    fn ask_for_notification(&mut self) -> Result<(), Stop> {
        if self.has(F_EVENT_IDX) {
            let at = USED_RING.wrapping_add(u64::from(self.queue.state.size).wrapping_mul(8));
            self.memory.store_u16(self.device(at), self.queue.state.next_avail)?;
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// Follows a chain from its head and notes its parts.
    #[inline]
    fn walk(&mut self, head: u16) -> Result<Chain, Stop> {
        let Queue { state, limits, .. } = &*self.queue;
        if head >= state.size {
            return Err(Broken::Descriptor(head).into());
        }
        if limits.chain == 0 {
            return Err(Broken::TooLong.into());
        }
        self.budget = self.budget.saturating_sub(1);
        let first = Descriptor::read(self.memory, Ipa::new(state.desc), head)?;
        if first.flags & (DESC_NEXT | DESC_INDIRECT) != 0 {
            return self.walk_on(head, &first);
        }
        let mut chain = Chain::new(head);
        // One buffer, as a card has it for what comes.
        note(&mut self.room.segments, self.memory, &mut chain, &first)?;
        Ok(chain)
    }

    /// Goes on from a chain's first descriptor, which is not its only one.
    #[inline(never)]
    fn walk_on(&mut self, head: u16, first: &Descriptor) -> Result<Chain, Stop> {
        let (mut chain, mut d) = (Chain::new(head), *first);
        let Self { queue, room, memory, features, budget, .. } = self;
        let Room { segments, ahead, .. } = &mut **room;
        let longest = queue.limits.chain;
        let mut seen = 1u16;
        // First those of the ring's table, of which one that leads to another table is the last.
        while d.flags & DESC_INDIRECT == 0 {
            note(segments, *memory, &mut chain, &d)?;
            if d.flags & DESC_NEXT == 0 {
                return Ok(chain);
            }
            if d.next >= queue.state.size {
                return Err(Broken::Descriptor(d.next).into());
            }
            if seen == longest {
                return Err(Broken::TooLong.into());
            }
            seen = seen.wrapping_add(1);
            *budget = budget.saturating_sub(1);
            d = Descriptor::read(*memory, Ipa::new(queue.state.desc), d.next)?;
        }
        let whole = d.size != 0 && u64::from(d.size).is_multiple_of(DESCRIPTOR);
        if !whole || d.flags & DESC_NEXT != 0 || *features & F_INDIRECT_DESC == 0 {
            return Err(Broken::Indirect.into());
        }
        if !memory.is_ram(d.at, d.size.into()) {
            return Err(Broken::Outside(d.at).into());
        }
        let (table, entries) = (d.at, d.size >> DESCRIPTOR.trailing_zeros());
        let mut index = 0;
        ahead.forget();
        loop {
            if u32::from(index) >= entries {
                return Err(Broken::Descriptor(index).into());
            }
            if seen == longest {
                return Err(Broken::TooLong.into());
            }
            seen = seen.wrapping_add(1);
            *budget = budget.saturating_sub(1);
            // Of a table most descriptors are used, and most in their order.
            d = ahead.get(*memory, table, index, entries)?;
            if d.flags & DESC_INDIRECT != 0 {
                return Err(Broken::Indirect.into());
            }
            note(segments, *memory, &mut chain, &d)?;
            if d.flags & DESC_NEXT == 0 {
                return Ok(chain);
            }
            index = d.next;
        }
    }
}

/// Adds a descriptor's buffer to the chain, and to its parts in `room`.
#[inline(always)]
fn note(room: &mut [Segment], memory: &dyn GuestMemory, chain: &mut Chain, d: &Descriptor) -> Result<(), Stop> {
    let write = d.flags & DESC_WRITE != 0;
    if d.size == 0 {
        return Err(Broken::Empty.into());
    }
    if !write && chain.writable != 0 {
        return Err(Broken::Order.into());
    }
    if let Err(absent) = memory.pin(d.at, d.size.into()) {
        return Err(why_not(memory, d, absent));
    }
    let slot = room.get_mut(chain.segments).ok_or(Broken::TooLong)?;
    *slot = Segment { at: d.at, size: d.size, write };
    chain.segments = chain.segments.wrapping_add(1);
    // (A chain has no more than 65,535 of them.)
    if write {
        chain.writable = chain.writable.wrapping_add(d.size.into());
    } else {
        chain.readable = chain.readable.wrapping_add(d.size.into());
    }
    Ok(())
}

/// Why a buffer cannot be reached.
#[cold]
#[inline(never)]
fn why_not(memory: &dyn GuestMemory, d: &Descriptor, absent: bus::Absent) -> Stop {
    if memory.is_ram(d.at, d.size.into()) { absent.into() } else { Broken::Outside(d.at).into() }
}

/// Whether an index passed `event` on its way from `old` to `new` ("Used Buffer Notification Suppression").
fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
