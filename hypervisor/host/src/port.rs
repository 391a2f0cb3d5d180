//! Network ports: a place in a network, from which Ethernet frames are sent and to which they come.
//!
//! # Nobody waits
//! Frames between two holders of ports are copied twice, once by each: [`Port::send`] copies into memory of the receiving port's,
//! [`Port::receive`] shows what is there to whoever holds that port, who copies it on in a time of its own. So nobody works at another's
//! expense, and neither ever has hold of both at once. Where there is no room the frame is lost, and counted at its sender.
//!
//! # The bell
//! [`Bell::ring`] says that frames have come. It is rung once, and not again before the port's holder has found the port empty
//! ([`Port::receive`] gave `None`): whoever stops earlier comes back by itself.
//!
//! # Checksums that are not done
//! A guest may leave the sum over a frame's payload to whoever sends the frame on ([`Checksum`]). Between guests of one machine there is
//! nothing that it could detect, so a port that takes such frames ([`Port::start`]) gets them as they are; for others the sender's step
//! makes them whole ([`Checksum::finish`]).
//!
//! # Not modelled
//! Frames to be cut into segments: nobody is offered to send one.

/// Bytes of an Ethernet header: destination, source, type (IEEE 802.3, "MAC frame format"). Check sequences are left out everywhere.
pub const HEADER: usize = 14;
/// Bytes of a tag between source and type (IEEE 802.1Q), for which a frame may be longer than its port's MTU and the header.
pub const TAG: usize = 4;
/// Bytes before a frame that waits, free for whoever passes it on.
pub const HEADROOM: usize = 12;

/// An Ethernet address, first byte first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it names a group of receivers.
    pub fn is_group(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }
    /// Whether somebody can have it: no group, not all zeroes.
    pub fn is_single(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

/// A sum (RFC 1071) over the bytes from `start` to the frame's end, to be stored at `start + offset`, where the sum over what the
/// protocol adds to them (the pseudo header) is already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum {
    /// The first byte, from the frame's start.
    pub start: u16,
    /// From there to the field.
    pub offset: u16,
}

impl Checksum {
    /// Whether it is behind the header and within a frame of `size` bytes.
    pub fn fits(self, size: usize) -> bool {
        let end = usize::from(self.start).saturating_add(self.offset.into()).saturating_add(2);
        usize::from(self.start) >= HEADER && end <= size
    }

    /// Stores the sum. Nothing happens to a frame that it does not fit.
    pub fn finish(self, frame: &mut [u8]) {
        if !self.fits(frame.len()) {
            return;
        }
        let sum = sum(frame.get(usize::from(self.start)..).unwrap_or_default());
        let at = usize::from(self.start).saturating_add(self.offset.into());
        if let Some(field) = frame.get_mut(at..at.saturating_add(2)) {
            // 0 would mean that there is none, to UDP; the other zero is as good to the others.
            field.copy_from_slice(&(if sum == u16::MAX { sum } else { !sum }).to_be_bytes());
        }
    }
}

/// The ones' complement sum of 16-bit words, the first byte of each the higher.
fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    // No overflow: far fewer than 2^32 words.
    let mut sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u32::from_be_bytes(*word).into()));
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum = sum.wrapping_add(u32::from_be_bytes(last).into());
    for _ in 0..4 {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    sum as u16
}

/// A frame to be sent. Its other bytes come from whoever sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing<'a> {
    /// Its first bytes, as they were read once.
    pub header: &'a [u8; HEADER],
    /// All its bytes, [`HEADER`] and more.
    pub size: usize,
    /// The sum that is left to its receiver.
    pub checksum: Option<Checksum>,
}

/// What became of a frame to be sent, for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Bytes that were copied, for all its receivers.
    pub copied: usize,
    /// It has more receivers than were served: the same frame is to be sent again.
    pub more: bool,
}

/// A frame that waits.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// [`HEADROOM`], and the frame behind it.
    pub bytes: &'a mut [u8],
    /// The sum that is left to its receiver: only where that was agreed to by [`Port::start`], and it fits the frame.
    pub checksum: Option<Checksum>,
}

/// Why frames were lost, counted where they were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Another's source address, or none that anybody can have.
    Spoofed,
    /// Longer than sender or receiver may have it, or no whole header.
    Size,
    /// To a group that ends at the next bridge, or to the sender itself.
    Local,
    /// Both ports are isolated.
    Isolated,
    /// Nobody there has that address.
    Unknown,
    /// The receiver has no driver that takes it.
    Closed,
    /// The receiver has no room for it.
    Full,
    /// More frames for all than a port may send.
    Flood,
}

/// How many [`Loss`]es there are.
pub const LOSSES: usize = 8;

/// What a port has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Frames sent, each counted once, and lost ones not.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames that came and were taken.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames of this sender's that were lost, by [`Loss`]; of one with several receivers each loss counts.
    pub lost: [u64; LOSSES],
    /// Frames to this port for which there was no room.
    pub missed: u64,
    /// Frames that wait.
    pub waiting: u64,
}

impl Stats {
    /// How many were lost for this reason.
    pub fn lost(&self, why: Loss) -> u64 {
        self.lost.get(why as usize).copied().unwrap_or(0)
    }
    /// Counts one.
    pub fn lose(&mut self, why: Loss) {
        if let Some(count) = self.lost.get_mut(why as usize) {
            *count = count.saturating_add(1);
        }
    }
}

/// How a port's holder is told that frames have come. Called with a lock of the network's held, from whoever sends: it notes that and
/// wakes somebody, and touches no device.
pub trait Bell: Send {
    /// Frames have come.
    fn ring(&self);
}

/// A place in a network. No method allocates.
pub trait Port: Send {
    /// From now on frames come; with `checksums` also those with a sum to be done.
    fn start(&mut self, checksums: bool);
    /// From now on none come, and those that waited are gone. A frame half sent is forgotten.
    fn stop(&mut self);
    /// Sends a frame: `rest` fills in what is behind its header, once for each receiver. Copying ends with the receiver that makes it
    /// `most` bytes or more. An error is `rest`'s, and the frame is to be sent again; which receivers have it stays remembered until
    /// then. A frame that nobody gets, or not everybody, is lost there, which is no error.
    fn send<E>(
        &mut self,
        frame: &Outgoing<'_>,
        most: usize,
        rest: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Sent, E>;
    /// Shows the `nth` frame that waits, from 0, to `act`; `None` where there are not as many.
    fn receive<T>(&mut self, nth: usize, act: impl FnOnce(Incoming<'_>) -> T) -> Option<T>;
    /// The first `count` frames that wait are done with.
    fn discard(&mut self, count: usize);
    /// What has happened.
    fn stats(&self) -> Stats;
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// The sum as RFC 1071 writes it down.
    fn slowly(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn a_finished_checksum_is_right() {
        for size in (HEADER..80).chain([1499, 1514, 65_549]) {
            for (start, offset) in [(14, 0), (15, 6), (34, 16), (34, 6), (33, 17)] {
                let sum = Checksum { start, offset };
                let mut frame: Vec<u8> = (0..size).map(|n| (n * 167 + size) as u8).collect();
                let (before, field) = (frame.clone(), usize::from(start + offset));
                sum.finish(&mut frame);
                if field + 2 > size {
                    assert!(!sum.fits(size));
                    assert_eq!(frame, before);
                    continue;
                }
                // What was in the field is part of the sum.
                let expected = !slowly(&before[usize::from(start)..]);
                assert_eq!(frame[field..field + 2], if expected == 0 { 0xffff } else { expected }.to_be_bytes());
                frame[field..field + 2].copy_from_slice(&before[field..field + 2]);
                assert_eq!(frame, before, "nothing else changes");
            }
        }
    }

    #[test]
    fn a_sum_of_nothing_is_not_left_out() {
        let mut frame = vec![0; 40];
        frame[14..16].fill(0xff);
        Checksum { start: 14, offset: 20 }.finish(&mut frame);
        assert_eq!(frame[34..36], [0xff, 0xff]);
    }

    #[test]
    fn a_checksum_lies_within_its_frame() {
        for (start, offset, size, fits) in [
            (13, 0, 100, false),
            (14, 0, 16, true),
            (14, 0, 15, false),
            (14, 84, 100, true),
            (14, 85, 100, false),
            (100, 0, 100, false),
            (u16::MAX, u16::MAX, usize::MAX, true),
            (u16::MAX, u16::MAX, 65_535, false),
        ] {
            assert_eq!(Checksum { start, offset }.fits(size), fits, "{start} + {offset} in {size}");
        }
    }

    #[test]
    fn addresses_of_stations_and_groups() {
        for (mac, group, single) in [
            ([0; 6], false, false),
            ([0xff; 6], true, false),
            ([1, 0, 0x5e, 0, 0, 1], true, false),
            ([2, 0, 0, 0, 0, 0], false, true),
            ([0, 0, 0, 0, 0, 1], false, true),
        ] {
            assert_eq!((Mac(mac).is_group(), Mac(mac).is_single()), (group, single));
        }
    }

    #[test]
    fn each_loss_has_its_count() {
        let all = [
            Loss::Spoofed,
            Loss::Size,
            Loss::Local,
            Loss::Isolated,
            Loss::Unknown,
            Loss::Closed,
            Loss::Full,
            Loss::Flood,
        ];
        assert_eq!(all.len(), LOSSES);
        let mut stats = Stats::default();
        all.into_iter().for_each(|why| stats.lose(why));
        assert_eq!(stats.lost, [1; LOSSES]);
        assert!(all.into_iter().all(|why| stats.lost(why) == 1));
    }
}
