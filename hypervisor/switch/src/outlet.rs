//! The way out of the machine: frames that wait at a switch's uplink go to a network card, each in the time of whoever put it there.
//!
//! | a frame | goes to the card | in whose time |
//! |---|---|---|
//! | of which the bell spoke | within the step that sent it ([`Outlet::send_own`]), which gives the card one frame, the oldest | its sender's |
//! | that came when the bell had spoken of another, or found the card without room | when the card interrupts ([`Outlet::send_waiting`]) | nobody's: [`BATCH`] at a time, and no faster than [`Pace`] allows |
//!
//! So a step never gives the card more frames than it has sent itself, whatever others left there. The bell speaks of each frame but
//! those that come between another one's and its sender's look at the queue: two at once are rare, and the later one is the interrupt's.
//!
//! [`Rung`] keeps apart whose frames the bell spoke of by the pCPU that rang it: a step sends, rings and looks on one.

use crate::pace::Pace;
use core::sync::atomic::{AtomicU64, Ordering};
use host::port::{HEADROOM, Port};

/// Frames that the interrupt's path moves in one go.
pub const BATCH: usize = 8;

/// A network card, as far as frames go out by it.
pub trait Card {
    /// Whether it takes a frame now.
    fn has_room(&mut self) -> bool;
    /// Whether it is to interrupt when it has room.
    fn await_room(&mut self, on: bool);
    /// Takes a frame, for which it has room. `false`: it never takes such a one.
    fn send(&mut self, frame: &[u8]) -> bool;
    /// Looks for what it was given.
    fn tell(&mut self);
}

/// The pCPUs on which the bell spoke of a frame that its sender has not seen to yet.
#[derive(Debug, Default)]
pub struct Rung(AtomicU64);

impl Rung {
    /// The bell speaks, on pCPU `pcpu`. (Of 64 and more two share a bit: one of them may see to the other's.)
    pub fn ring(&self, pcpu: usize) {
        self.0.fetch_or(Self::bit(pcpu), Ordering::SeqCst);
    }

    /// Whether it spoke at all.
    #[inline]
    pub fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    fn bit(pcpu: usize) -> u64 {
        1u64.wrapping_shl(pcpu as u32)
    }

    fn take(&self, pcpu: usize) -> bool {
        self.0.fetch_and(!Self::bit(pcpu), Ordering::SeqCst) & Self::bit(pcpu) != 0
    }
}

/// What is left when a step of moving frames has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Nothing, or nothing before the card interrupts.
    Nothing,
    /// Frames that may go after others had their turn.
    Frames,
    /// Frames, of which none may go before the next period.
    Spent,
}

/// A switch's uplink, as the way out.
pub struct Outlet<P> {
    port: P,
    /// In the interrupt's path.
    pace: Pace,
    /// The card has no room, and interrupts for it.
    full: bool,
    /// The interrupt comes, for what nobody sees to.
    called: bool,
    refused: u64,
}

impl<P: Port> Outlet<P> {
    /// The way out from `port`, whose bell calls [`Rung::ring`].
    pub fn new(port: P) -> Self {
        Self { port, pace: Pace::default(), full: false, called: false, refused: 0 }
    }

    /// Its port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// Its port, for frames that come in.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Frames that the card refused, which its port counts as gone out.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Somebody on `pcpu` has sent a frame, within his own step: if the bell spoke of it, a frame goes. `true`: the interrupt is to be
    /// made pending, for others that nobody sees to.
    pub fn send_own(&mut self, card: &mut impl Card, rung: &Rung, pcpu: usize) -> bool {
        // Under the lock that whoever looks below has as well.
        if !rung.take(pcpu) || !self.has_room(card) {
            return false;
        }
        self.listen();
        let sent = self.send(card);
        card.tell();
        // Those of which the bell spoke are seen to by their senders.
        sent && self.waits() && !rung.any() && !core::mem::replace(&mut self.called, true)
    }

    /// The card has interrupted, at `now` in ns.
    pub fn send_waiting(&mut self, card: &mut impl Card, now: u64) -> Left {
        self.listen();
        let left = self.batch(card, now);
        card.tell();
        // Then it comes by itself.
        self.called = left != Left::Nothing;
        left
    }

    fn batch(&mut self, card: &mut impl Card, now: u64) -> Left {
        for _ in 0..BATCH {
            if !self.waits() || !self.has_room(card) {
                return Left::Nothing;
            }
            if !self.pace.allows(now) {
                return Left::Spent;
            }
            self.send(card);
            self.pace.count(now, 1);
        }
        if self.waits() { Left::Frames } else { Left::Nothing }
    }

    /// Whether a frame waits.
    fn waits(&mut self) -> bool {
        self.port.receive(0, |_| ()).is_some()
    }

    /// The bell speaks of the next frame, whatever waits (`host::port`, "The bell").
    fn listen(&mut self) {
        // No queue is as long.
        let _ = self.port.receive(usize::MAX, |_| ());
    }

    /// Whether the card has room; if not, it interrupts when it has.
    fn has_room(&mut self, card: &mut impl Card) -> bool {
        let mut room = card.has_room();
        if !room && !self.full {
            self.full = true;
            card.await_room(true);
            // What it has sent before it knew that is not told.
            room = card.has_room();
        }
        if room && core::mem::take(&mut self.full) {
            card.await_room(false);
        }
        room
    }

    /// Gives the card the oldest frame, if there is one.
    fn send(&mut self, card: &mut impl Card) -> bool {
        let taken = self.port.receive(0, |frame| card.send(frame.bytes.get(HEADROOM..).unwrap_or_default()));
        if taken == Some(false) {
            self.refused = self.refused.saturating_add(1);
        }
        self.port.discard(taken.is_some().into());
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::pace::BURST;
    use crate::{Clock, PortConfig, Switch, SwitchPort};
    use core::convert::Infallible;
    use host::port::{Bell, HEADER, Mac, Outgoing};
    use std::boxed::Box;
    use std::sync::Arc;
    use std::vec::Vec;

    struct Still;

    impl Clock for Still {
        fn seconds(&self) -> u32 {
            0
        }
    }

    const OUTSIDE: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn own(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 1, n])
    }

    /// Whose frames it was given.
    #[derive(Default)]
    struct Fake {
        room: usize,
        /// Room that comes to be seen while it learns that it is to interrupt.
        late: usize,
        awaited: bool,
        sent: Vec<u8>,
        untold: usize,
    }

    impl Card for Fake {
        fn has_room(&mut self) -> bool {
            self.room != 0
        }
        fn await_room(&mut self, on: bool) {
            self.awaited = on;
            self.room += core::mem::take(&mut self.late);
        }
        fn send(&mut self, frame: &[u8]) -> bool {
            if frame.len() > 1000 {
                return false;
            }
            self.room -= 1;
            self.untold += 1;
            self.sent.push(frame[11]);
            true
        }
        fn tell(&mut self) {
            self.untold = 0;
        }
    }

    /// Rings on the pCPU that its test says.
    struct On(Arc<Rung>, Arc<AtomicU64>);

    impl Bell for On {
        fn ring(&self) {
            self.0.ring(self.1.load(Ordering::SeqCst) as usize);
        }
    }

    struct Silent;

    impl Bell for Silent {
        fn ring(&self) {}
    }

    struct Net {
        outlet: Outlet<SwitchPort>,
        card: Fake,
        rung: Arc<Rung>,
        pcpu: Arc<AtomicU64>,
        guests: Vec<SwitchPort>,
    }

    impl Net {
        fn new(guests: u8) -> Self {
            let (rung, pcpu) = (Arc::new(Rung::default()), Arc::new(AtomicU64::new(0)));
            let switch = Switch::new(Box::new(Still), 0x1234_5678_9abc_def1);
            let config = PortConfig { mac: None, guard: false, uplink: true, ..PortConfig::guest(Mac([0; 6])) };
            let mut port = switch.attach(&config, Box::new(On(rung.clone(), pcpu.clone()))).unwrap();
            port.start(false);
            let guest = |n| {
                let mut port = switch
                    .attach(&PortConfig { floods: 1 << 20, ..PortConfig::guest(own(n)) }, Box::new(Silent))
                    .unwrap();
                port.start(false);
                port
            };
            Self {
                outlet: Outlet::new(port),
                card: Fake::default(),
                rung,
                pcpu,
                guests: (0..guests).map(guest).collect(),
            }
        }

        /// A guest sends a frame, and does not look at the uplink yet.
        fn put(&mut self, guest: u8, pcpu: usize, to: Mac, size: usize) {
            self.pcpu.store(pcpu as u64, Ordering::SeqCst);
            let mut header = [0; HEADER];
            header[..6].copy_from_slice(&to.0);
            header[6..12].copy_from_slice(&own(guest).0);
            let frame = Outgoing { header: &header, size, checksum: None };
            let sent = self.guests[usize::from(guest)].send(&frame, usize::MAX, |_| Ok::<_, Infallible>(()));
            assert!(!sent.unwrap().more);
        }

        /// The other half of its step: whether the interrupt is called.
        fn look(&mut self, pcpu: usize) -> bool {
            self.rung.any() && self.outlet.send_own(&mut self.card, &self.rung, pcpu)
        }

        /// A guest's whole step of one frame out: what the card was given in it.
        fn step(&mut self, guest: u8) -> usize {
            let before = self.card.sent.len();
            self.put(guest, 0, OUTSIDE, 60);
            assert!(!self.look(0));
            self.card.sent.len() - before
        }

        fn waiting(&self) -> u64 {
            self.outlet.port().stats().waiting
        }
    }

    #[test]
    fn who_sends_a_frame_gives_the_card_one() {
        let mut net = Net::new(2);
        net.card.room = 100;
        for _ in 0..10 {
            assert_eq!((net.step(0), net.step(1)), (1, 1));
        }
        assert_eq!((net.waiting(), net.card.untold), (0, 0));
        assert!(net.card.sent.chunks(2).all(|pair| *pair == [0, 1]));
    }

    #[test]
    fn nobody_moves_what_others_left() {
        let mut net = Net::new(3);
        // The card has no room, and one guest sends and sends.
        (0..100).for_each(|_| assert_eq!(net.step(0), 0));
        assert!(net.card.awaited);
        assert_eq!(net.waiting(), 100);
        net.card.room = 1000;
        // One who sends to a neighbour moves none; before the card has interrupted nor does one who sends out, as nobody was told of it.
        net.put(1, 0, own(2), 60);
        assert!(!net.look(0));
        assert_eq!((net.step(1), net.card.sent.len()), (0, 0));
        // The interrupt moves a batch, and from then on each step moves as many as it sends.
        assert_eq!(net.outlet.send_waiting(&mut net.card, 0), Left::Frames);
        assert_eq!((net.card.sent.len(), net.card.awaited, net.card.untold), (BATCH, false, 0));
        for _ in 0..20 {
            assert_eq!(net.step(1), 1);
            net.put(1, 0, own(2), 60);
            assert!(!net.look(0));
        }
        assert_eq!((net.card.sent.len(), net.waiting()), (BATCH + 20, 101 - BATCH as u64));
        // All go by and by, in the order in which they came.
        while net.outlet.send_waiting(&mut net.card, u64::from(u32::MAX)) == Left::Frames {}
        let mut order = [0; 121];
        order[100..].fill(1);
        assert_eq!(net.card.sent[..64 + BATCH + 20], order[..64 + BATCH + 20]);
    }

    #[test]
    fn the_interrupt_s_path_keeps_its_pace() {
        let mut net = Net::new(1);
        (0..200).for_each(|_| assert_eq!(net.step(0), 0));
        net.card.room = 1000;
        let (mut now, mut batches) = (0, 0);
        for period in 1..=3 {
            let left = loop {
                match net.outlet.send_waiting(&mut net.card, now) {
                    Left::Frames => batches += 1,
                    left => break left,
                }
                assert!(batches < 100);
            };
            assert_eq!((left, net.card.sent.len() as u64), (Left::Spent, period * BURST));
            now += crate::pace::PERIOD;
        }
        assert_eq!(net.outlet.send_waiting(&mut net.card, now), Left::Nothing);
        assert_eq!((net.card.sent.len(), net.waiting()), (200, 0));
        // With nothing to send it never says that its period is over.
        assert_eq!(net.outlet.send_waiting(&mut net.card, now), Left::Nothing);
    }

    #[test]
    fn two_at_once_see_to_their_own_and_what_the_bell_missed_is_called_for() {
        let mut net = Net::new(3);
        net.card.room = 100;
        // The bell spoke of the first of them only: its sender moves its own, and calls the interrupt once.
        net.put(0, 0, OUTSIDE, 60);
        net.put(1, 1, OUTSIDE, 60);
        net.put(2, 2, OUTSIDE, 60);
        assert!(!net.look(1) && !net.look(2) && net.card.sent.is_empty());
        assert!(net.look(0));
        assert_eq!(net.card.sent, [0]);
        assert_eq!(net.step(0), 1);
        assert_eq!(net.outlet.send_waiting(&mut net.card, 0), Left::Nothing);
        assert_eq!((net.card.sent.as_slice(), net.waiting()), ([0, 1, 2, 0].as_slice(), 0));
        // It spoke of both, as the first had looked: each moves one.
        net.outlet.listen();
        net.put(0, 0, OUTSIDE, 60);
        net.outlet.listen();
        net.put(1, 1, OUTSIDE, 60);
        assert!(!net.look(0));
        assert_eq!(net.waiting(), 1);
        assert!(!net.look(1));
        assert_eq!((net.card.sent.len(), net.waiting()), (6, 0));
    }

    #[test]
    fn room_that_comes_meanwhile_is_seen_and_long_frames_are_lost() {
        let mut net = Net::new(1);
        net.card.late = 5;
        assert_eq!(net.step(0), 1);
        assert!(!net.card.awaited);
        net.put(0, 0, OUTSIDE, 1200);
        assert!(!net.look(0));
        assert_eq!((net.outlet.refused(), net.waiting(), net.card.sent.len()), (1, 0, 1));
    }
}
