//! The machine's own network: a network card of the board's, plugged into a switch.
//!
//! | frames | are copied | in whose time |
//! |---|---|---|
//! | out of the machine | into the card's memory, one for each that a VM's card has sent there ([`Uplink::send_on`]) | that VM's |
//! | out, when the card had no room for them or two VMs sent at once | when the card interrupts ([`switch::outlet`]) | nobody's: [`BATCH`] at a time, and no faster than [`Pace`] allows |
//! | into the machine | to the ports that they are for, when the card interrupts | nobody's: as many, at the same pace once more |
//!
//! What comes in faster waits in the card's memory, and is lost by the card when that is full: a network that floods the machine takes a
//! bounded part of one pCPU, and no VM's share of it counts for that. What VMs send faster waits at the switch, and is lost there when its
//! queue is full, which its sender's counts say.
//!
//! # The interrupt
//! A batch that leaves frames behind makes the interrupt pending once more, so that others and guests have their turn in between. When a
//! period's frames are used up the card is told not to interrupt, and the interrupt is made pending when the period is over ([`look`]).

use crate::console::say;
use crate::gic;
use crate::machine::Machine;
use crate::manage;
use crate::onboard::{Attended, Card, Line, Onboard};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::spec::SwitchSpec;
use core::convert::Infallible;
use core::sync::atomic::{AtomicU64, Ordering};
use host::port::{Bell, HEADER, Mac, Outgoing, Port};
use platform::virtio::BoardNet;
use platform::virtio::net::LONGEST;
use proto::DeviceCounts;
use spin::Once;
use switch::outlet::{self, BATCH, Left, Outlet, Rung};
use switch::pace::{PERIOD, Pace};
use switch::{PortConfig, SwitchPort};
use sync::{Rank, SpinLock};

/// Bytes that wait for the card.
const QUEUE: usize = 128 << 10;

/// A network card of the board's at a switch.
pub struct Uplink {
    state: SpinLock<State>,
    /// VMs have put frames there.
    rung: Arc<Rung>,
    /// When it is to be looked at, in ns.
    due: AtomicU64,
    /// Its interrupt.
    intid: u32,
}

struct State {
    card: Driver,
    out: Outlet<SwitchPort>,
    /// Of what comes in.
    pace: Pace,
    /// It has failed, which was said.
    failed: bool,
}

struct Driver(BoardNet);

impl outlet::Card for Driver {
    fn has_room(&mut self) -> bool {
        self.0.has_room()
    }
    fn await_room(&mut self, on: bool) {
        self.0.await_room(on);
    }
    fn send(&mut self, frame: &[u8]) -> bool {
        self.0.send(frame)
    }
    fn tell(&mut self) {
        self.0.tell();
    }
}

/// A frame waits at an uplink's port: whoever sent it looks, when it is there for all.
struct Waits(Arc<Rung>);

impl Bell for Waits {
    fn ring(&self) {
        self.0.ring(el2::number());
    }
}

static UPLINKS: Once<Vec<Arc<Uplink>>> = Once::new();

/// Finds the cards for those of `switches` that are to have an uplink, in order, and plugs them in: their interrupts.
#[inline(never)]
pub fn start(machine: &'static Machine, board: &mut Onboard, switches: &[SwitchSpec]) -> Vec<Line> {
    let wanting: Vec<_> = switches.iter().filter(|switch| switch.uplink).collect();
    if wanting.is_empty() {
        return Vec::new();
    }
    let mut cards = board.cards(wanting.len()).into_iter();
    let (mut lines, mut uplinks) = (Vec::new(), Vec::new());
    for SwitchSpec { name, .. } in wanting {
        let Some(card) = cards.next() else {
            say!(
                "switch \"{name}\": there is no network card of the machine's for its uplink, its VMs reach each other only; on QEMU, \
                 -netdev user,id=n -device virtio-net-device,netdev=n makes one"
            );
            continue;
        };
        match plug(machine, name, card) {
            Some(uplink) => {
                lines.push(Line { intid: uplink.intid, whose: uplink.clone() });
                uplinks.push(uplink);
            }
            None => say!("switch \"{name}\": it has no port left for its uplink"),
        }
    }
    UPLINKS.call_once(|| uplinks);
    lines
}

/// Plugs a card into the switch of this name.
fn plug(machine: &Machine, name: &str, card: Card) -> Option<Arc<Uplink>> {
    let Card { name: what, card, intid } = card;
    // It has no address of its own: what is not for a VM goes out, and whoever is outside is learned.
    let anybody = PortConfig::guest(Mac([0; 6]));
    let config = PortConfig { mac: None, guard: false, uplink: true, queue: QUEUE, ..anybody };
    machine.heap_room(config.memory()).ok()?;
    let rung = Arc::new(Rung::default());
    let mut port = machine.switches.attach(name, &config, Box::new(Waits(rung.clone())))?;
    port.start(false);
    let state = State { card: Driver(card), out: Outlet::new(port), pace: Pace::default(), failed: false };
    let state = SpinLock::new(Rank::Link, state);
    let uplink = Arc::new(Uplink { state, rung, due: AtomicU64::new(u64::MAX), intid });
    machine.switches.set_uplink(name, uplink.clone());
    say!("switch \"{name}\": the machine's network by {what}");
    Some(uplink)
}

impl Uplink {
    /// A VM has sent a frame, of which the card may be a receiver: it has one from there, if so.
    #[inline]
    pub fn send_on(&self) {
        if self.rung.any() {
            self.send_own();
        }
    }

    #[inline(never)]
    fn send_own(&self) {
        let mut state = self.state.lock();
        let State { card, out, .. } = &mut *state;
        let others = out.send_own(card, &self.rung, el2::number());
        drop(state);
        if others {
            gic::shared().pend(self.intid);
        }
    }

    /// What it has done.
    pub fn counts(&self) -> DeviceCounts {
        let state = self.state.lock();
        let (port, refused) = (state.out.port().stats(), state.out.refused());
        drop(state);
        let gone = [port.missed, refused];
        DeviceCounts {
            reads: port.sent,
            read_bytes: port.sent_bytes,
            writes: port.received.saturating_sub(refused),
            written_bytes: port.received_bytes,
            errors: gone.iter().chain(&port.lost).fold(0, |sum, count| sum.saturating_add(*count)),
            lost: port.lost,
            depth: port.waiting,
            ..DeviceCounts::default()
        }
    }

    fn look_at(&self, at: u64) {
        self.due.fetch_min(at, Ordering::SeqCst);
        manage::remind(at);
    }
}

impl Attended for Uplink {
    fn attend(&self) {
        let now = crate::time::now_ns();
        let mut state = self.state.lock();
        // First: what comes from here on makes it interrupt again.
        state.card.0.acknowledge();
        let State { card, out, .. } = &mut *state;
        let waits = out.send_waiting(card, now);
        let left = state.incoming(now);
        state.card.0.listen(left != Left::Spent);
        drop(state);
        if [left, waits].contains(&Left::Frames) {
            gic::shared().pend(self.intid);
        } else if [left, waits].contains(&Left::Spent) {
            self.look_at(now.saturating_add(PERIOD));
        }
    }
}

impl State {
    /// Takes frames from the card, up to [`BATCH`], to whom they are for.
    fn incoming(&mut self, now: u64) -> Left {
        let mut left = BATCH;
        while left != 0 {
            if !self.pace.allows(now) {
                return if self.card.0.received().is_some() { Left::Spent } else { Left::Nothing };
            }
            let Self { card: Driver(card), out, .. } = self;
            let Some(frame) = card.received() else {
                self.look_whether_it_fails();
                return Left::Nothing;
            };
            let mut copied = frame.len();
            let mut more = false;
            if let Some((header, rest)) = frame.split_first_chunk::<HEADER>() {
                let frame = Outgoing { header, size: frame.len(), checksum: None };
                let sent = out.port_mut().send::<Infallible>(&frame, LONGEST, |into| {
                    into.copy_from_slice(rest.get(..into.len()).unwrap_or_default());
                    Ok(())
                });
                let Ok(sent) = sent;
                (copied, more) = (sent.copied, sent.more);
            }
            if !more {
                card.done();
            }
            // One for several counts as several.
            let frames = copied.div_ceil(LONGEST).max(1);
            self.pace.count(now, frames as u64);
            left = left.saturating_sub(frames);
        }
        Left::Frames
    }

    #[cold]
    fn look_whether_it_fails(&mut self) {
        if self.card.0.is_broken() && !core::mem::replace(&mut self.failed, true) {
            say!("the machine's network card has failed: nothing comes from it any more");
        }
    }
}

/// Has those looked at whose time has come.
pub fn look() {
    let now = crate::time::now_ns();
    for uplink in UPLINKS.get().into_iter().flatten() {
        if uplink.due.load(Ordering::SeqCst) <= now {
            uplink.due.store(u64::MAX, Ordering::SeqCst);
            gic::shared().pend(uplink.intid);
        }
    }
}

/// When that is, in ns.
pub fn deadline() -> u64 {
    UPLINKS.get().into_iter().flatten().map(|uplink| uplink.due.load(Ordering::SeqCst)).min().unwrap_or(u64::MAX)
}
