//! Where a frame goes: the ports, their own addresses, and those that were learned.
//!
//! Addresses that ports have for their own are found by an open hash table of twice as many places as there can be ports; it is made anew
//! when a port goes. Learned ones are in sets of [`WAYS`], and each is in the set that its hash names or nowhere: a search looks at one
//! set, whatever somebody has the switch learn.

use alloc::boxed::Box;
use alloc::vec;
use host::port::{HEADER, Loss, Mac};
use sync::words;

use crate::{AttachError, Clock, PORTS, PortConfig};

/// Addresses that are learned at most.
pub const LEARNED: usize = 256;
/// Seconds for which an address is known that nobody uses.
pub const AGE: u32 = 300;

const WAYS: usize = 4;
const SETS: usize = LEARNED / WAYS;
/// Places for ports' own addresses.
const PLACES: usize = 2 * PORTS;
/// 2^64 over the golden ratio, which leaves no pattern of its own.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
/// No port.
const NOBODY: u8 = u8::MAX;
/// Groups that no bridge passes on: all but the last four bits.
const RESERVED: u64 = 0x0180_c200_0000;

/// An address that was learned.
#[derive(Clone, Copy)]
struct Learned {
    mac: u64,
    port: u8,
    seen: u32,
}

const FREE: Learned = Learned { mac: 0, port: NOBODY, seen: 0 };

/// What is remembered of a port.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Its own address; 0 for none.
    mac: u64,
    /// How many addresses were learned of it.
    learned: u16,
    /// Frames with several receivers: as many may be sent in a second, and as many were in this one.
    floods: u32,
    flooded: u32,
    second: u32,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// A bit for each port.
    pub ports: u64,
    /// It is for several, or for somebody unknown.
    pub flood: bool,
}

/// The ports and their addresses. A set of ports has a bit for each.
pub struct Table {
    slots: Box<[Slot]>,
    present: u64,
    open: u64,
    isolated: u64,
    guarded: u64,
    uplinks: u64,
    /// Ports by the hash of their own address.
    owners: Box<[u8]>,
    learned: Box<[Learned]>,
    /// Odd, and secret.
    multiplier: u64,
}

fn bit(port: usize) -> u64 {
    1u64.checked_shl(port as u32).unwrap_or(0)
}

fn number(mac: Mac) -> u64 {
    mac.0.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Destination and source as numbers, each of which is loaded with two bytes that are not its own.
#[inline]
fn addresses(header: &[u8; HEADER]) -> (u64, u64) {
    let load = |bytes: Option<&[u8; 8]>| bytes.map_or(0, words::load);
    let (to, source) = (load(header.first_chunk()), load(header.last_chunk()));
    (to.swap_bytes() >> 16, source.swap_bytes() >> 16)
}

/// Whether a number is the address of a group, everybody's included.
fn is_group(address: u64) -> bool {
    address & 1 << 40 != 0
}

impl Table {
    /// A table without ports. Allocates.
    pub fn new(seed: u64) -> Self {
        Self {
            slots: vec![Slot::default(); PORTS].into(),
            present: 0,
            open: 0,
            isolated: 0,
            guarded: 0,
            uplinks: 0,
            owners: vec![NOBODY; PLACES].into(),
            learned: vec![FREE; LEARNED].into(),
            multiplier: seed | 1,
        }
    }

    /// Enters a port: its number.
    pub fn attach(&mut self, config: &PortConfig) -> Result<usize, AttachError> {
        let mac = config.mac.map_or(0, number);
        if mac != 0 && self.owner(mac).is_some() {
            return Err(AttachError::Taken);
        }
        let port = self.present.trailing_ones() as usize;
        let slot = self.slots.get_mut(port).ok_or(AttachError::NoPort)?;
        *slot = Slot { mac, floods: config.floods, ..Slot::default() };
        let bit = bit(port);
        self.present |= bit;
        for (set, is) in [
            (&mut self.isolated, config.isolated),
            (&mut self.guarded, config.guard),
            (&mut self.uplinks, config.uplink),
        ] {
            *set = *set & !bit | if is { bit } else { 0 };
        }
        self.enter(port, mac);
        Ok(port)
    }

    /// A port's own address, for tests.
    #[cfg(test)]
    pub fn own(&self, port: usize) -> u64 {
        self.slots[port].mac
    }

    /// Takes a port out, and what was learned of it.
    pub fn detach(&mut self, port: usize) {
        let bit = bit(port);
        (self.present, self.open) = (self.present & !bit, self.open & !bit);
        self.learned.iter_mut().filter(|entry| usize::from(entry.port) == port).for_each(|entry| *entry = FREE);
        self.owners.fill(NOBODY);
        for port in 0..PORTS {
            let mac = self.slots.get(port).filter(|_| self.is(self.present, port)).map_or(0, |slot| slot.mac);
            self.enter(port, mac);
        }
    }

    /// Whether somebody listens at the port.
    pub fn set_open(&mut self, port: usize, open: bool) {
        self.open = self.open & !bit(port) | if open { bit(port) } else { 0 };
    }

    /// How many ports there are.
    pub fn ports(&self) -> usize {
        self.present.count_ones() as usize
    }

    /// How many addresses were learned.
    pub fn learned(&self) -> usize {
        self.learned.iter().filter(|entry| entry.mac != 0).count()
    }

    /// Where a frame that port `from` sends goes; `new`: it was not asked for before.
    pub fn route(&mut self, from: usize, header: &[u8; HEADER], new: bool, clock: &dyn Clock) -> Result<Route, Loss> {
        let (address, source) = addresses(header);
        if is_group(source) || source == 0 {
            return Err(Loss::Spoofed);
        }
        if self.is(self.guarded, from) {
            if self.slots.get(from).is_none_or(|slot| slot.mac != source) {
                return Err(Loss::Spoofed);
            }
        } else {
            match self.owner(source) {
                Some(owner) if owner != from => return Err(Loss::Spoofed),
                Some(_) => {}
                None => self.learn(source, from, clock.seconds()),
            }
        }
        let mut reached = self.present & !bit(from);
        if self.is(self.isolated, from) {
            reached &= self.uplinks | !self.isolated;
        }
        if !is_group(address) {
            match self.find(address, clock) {
                Some(port) if port == from => return Err(Loss::Local),
                Some(port) if !self.is(reached, port) => return Err(Loss::Isolated),
                Some(port) => return Ok(Route { ports: bit(port), flood: false }),
                // It can be behind these only.
                None => reached &= !self.guarded,
            }
        } else if address & !0xf == RESERVED {
            return Err(Loss::Local);
        }
        let ports = reached & self.open;
        if ports == 0 {
            return Err(Loss::Unknown);
        }
        if new && !self.may_flood(from, clock.seconds()) {
            return Err(Loss::Flood);
        }
        Ok(Route { ports, flood: true })
    }

    fn is(&self, set: u64, port: usize) -> bool {
        set & bit(port) != 0
    }

    /// Whether the port may send one more frame for several, in this second.
    fn may_flood(&mut self, port: usize, now: u32) -> bool {
        let Some(slot) = self.slots.get_mut(port) else { return false };
        if slot.second != now {
            (slot.second, slot.flooded) = (now, 0);
        }
        let may = slot.flooded < slot.floods;
        slot.flooded = slot.flooded.saturating_add(may.into());
        may
    }

    /// A number below `of`, a power of two from 2 on. The upper bits of a product depend on all of its factors'; of one product alone
    /// addresses in a row would lie in a row.
    fn hash(&self, mac: u64, of: usize) -> usize {
        let shift = u64::BITS.wrapping_sub(of.trailing_zeros());
        let product = mac.wrapping_mul(self.multiplier);
        (product ^ product >> 32).wrapping_mul(MIX).wrapping_shr(shift) as usize
    }

    /// Whose own address that is.
    fn owner(&self, mac: u64) -> Option<usize> {
        let mut place = self.hash(mac, PLACES);
        // (At least half of the places are free.)
        for _ in 0..PLACES {
            let port = *self.owners.get(place & (PLACES - 1))?;
            if port == NOBODY {
                return None;
            }
            if self.slots.get(usize::from(port)).is_some_and(|slot| slot.mac == mac) {
                return Some(port.into());
            }
            place = place.wrapping_add(1);
        }
        None
    }

    fn enter(&mut self, port: usize, mac: u64) {
        let mut place = self.hash(mac, PLACES);
        for _ in 0..if mac == 0 { 0 } else { PLACES } {
            match self.owners.get_mut(place & (PLACES - 1)) {
                Some(owner) if *owner == NOBODY => {
                    *owner = port as u8;
                    return;
                }
                _ => place = place.wrapping_add(1),
            }
        }
    }

    /// The port behind which an address is.
    fn find(&self, mac: u64, clock: &dyn Clock) -> Option<usize> {
        if let Some(owner) = self.owner(mac) {
            return Some(owner);
        }
        if self.present & !self.guarded == 0 {
            return None;
        }
        let entry = self.set(mac).iter().find(|entry| entry.mac == mac)?;
        (clock.seconds().wrapping_sub(entry.seen) <= AGE).then_some(entry.port.into())
    }

    fn first_of_set(&self, mac: u64) -> usize {
        self.hash(mac, SETS).wrapping_mul(WAYS)
    }

    fn set(&self, mac: u64) -> &[Learned] {
        let first = self.first_of_set(mac);
        self.learned.get(first..first.wrapping_add(WAYS)).unwrap_or_default()
    }

    /// Notes that an address is behind a port: in its own place, a free one, or one whose address is old. Otherwise, or where the port has
    /// its share, it is not learned.
    fn learn(&mut self, mac: u64, port: usize, now: u32) {
        let rank = |entry: &Learned| match entry.mac {
            known if known == mac => 0,
            0 => 1,
            _ if now.wrapping_sub(entry.seen) > AGE => 2,
            _ => 3,
        };
        let first = self.first_of_set(mac);
        let Some(set) = self.learned.get_mut(first..first.wrapping_add(WAYS)) else { return };
        let Some(entry) = set.iter_mut().min_by_key(|entry| rank(entry)).filter(|entry| rank(entry) < 3) else {
            return;
        };
        let before = (entry.mac != 0).then_some(usize::from(entry.port));
        if before != Some(port) {
            let Some(slot) = self.slots.get_mut(port).filter(|slot| usize::from(slot.learned) < LEARNED / 2) else {
                return;
            };
            slot.learned = slot.learned.saturating_add(1);
            if let Some(slot) = before.and_then(|before| self.slots.get_mut(before)) {
                slot.learned = slot.learned.saturating_sub(1);
            }
        }
        *entry = Learned { mac, port: port as u8, seen: now };
    }
}
