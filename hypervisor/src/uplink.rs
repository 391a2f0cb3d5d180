//! The machine's own network: a network card of the board's, plugged into a switch.
//!
//! | frames | are copied | in whose time |
//! |---|---|---|
//! | out of the machine | into the card's memory, when a VM's card has sent one ([`Uplink::send_on`]) | that VM's |
//! | out, while the card had no room | when it interrupts for that | nobody's, as below |
//! | into the machine | to the ports that they are for, when the card interrupts | nobody's: [`BATCH`] at a time, and no faster than [`Pace`] allows |
//!
//! What comes in faster waits in the card's memory, and is lost by the card when that is full: a network that floods the machine takes a
//! bounded part of one pCPU, and no VM's share of it counts for that.
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
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use host::port::{Bell, HEADER, HEADROOM, Mac, Outgoing, Port};
use platform::virtio::BoardNet;
use platform::virtio::net::LONGEST;
use spin::Once;
use switch::pace::{PERIOD, Pace};
use switch::{PortConfig, SwitchPort};
use sync::{Rank, SpinLock};

/// Frames that are taken from the card in one go.
const BATCH: usize = 8;
/// Frames that are given to the card in one go, at most.
const OUT: usize = 64;
/// Bytes that wait for the card.
const QUEUE: usize = 128 << 10;

/// A network card of the board's at a switch.
pub struct Uplink {
    state: SpinLock<State>,
    /// Frames may wait at its port.
    waiting: Arc<AtomicBool>,
    /// When it is to be looked at, in ns.
    due: AtomicU64,
    /// Its interrupt.
    intid: u32,
}

struct State {
    card: BoardNet,
    port: SwitchPort,
    pace: Pace,
    /// The card has no room, and interrupts for it.
    full: bool,
    /// It has failed, which was said.
    failed: bool,
}

/// What is left when a step of taking frames in has ended.
#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    Frames,
    /// And none may come now.
    Spent,
}

/// Frames wait at an uplink's port: whoever sent them has them sent on.
struct Waits(Arc<AtomicBool>);

impl Bell for Waits {
    fn ring(&self) {
        self.0.store(true, Ordering::SeqCst);
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
    let waiting = Arc::new(AtomicBool::new(false));
    let mut port = machine.switches.attach(name, &config, Box::new(Waits(waiting.clone())))?;
    port.start(false);
    let state = State { card, port, pace: Pace::default(), full: false, failed: false };
    let state = SpinLock::new(Rank::Link, state);
    let uplink = Arc::new(Uplink { state, waiting, due: AtomicU64::new(u64::MAX), intid });
    machine.switches.set_uplink(name, uplink.clone());
    say!("switch \"{name}\": the machine's network by {what}");
    Some(uplink)
}

impl Uplink {
    /// A VM has sent frames, of which some may be for the card.
    #[inline]
    pub fn send_on(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            self.send_all();
        }
    }

    #[inline(never)]
    fn send_all(&self) {
        let more = self.state.lock().outgoing(&self.waiting);
        if more {
            self.look_at(crate::time::now_ns().saturating_add(PERIOD));
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
        state.card.acknowledge();
        let more = state.outgoing(&self.waiting);
        let left = state.incoming(now);
        state.card.listen(left != Left::Spent);
        drop(state);
        if left == Left::Frames {
            gic::shared().pend(self.intid);
        } else if more || left == Left::Spent {
            self.look_at(now.saturating_add(PERIOD));
        }
    }
}

impl State {
    /// Gives the card the frames that wait, as far as it has room. `true`: there are more, and room.
    fn outgoing(&mut self, waiting: &AtomicBool) -> bool {
        waiting.store(false, Ordering::SeqCst);
        let mut more = true;
        for _ in 0..OUT {
            if !self.card.has_room() {
                self.full = true;
                self.card.await_room(true);
                // What it has sent before it knew that is not told.
                if !self.card.has_room() {
                    more = false;
                    waiting.store(true, Ordering::SeqCst);
                    break;
                }
            }
            let Self { card, port, .. } = self;
            let sent = port.receive(0, |frame| card.send(frame.bytes.get(HEADROOM..).unwrap_or_default()));
            if sent.is_none() {
                more = false;
                break;
            }
            port.discard(1);
        }
        if more {
            waiting.store(true, Ordering::SeqCst);
        } else if self.full && self.card.has_room() {
            self.full = false;
            self.card.await_room(false);
        }
        self.card.tell();
        more
    }

    /// Takes frames from the card, up to [`BATCH`], to whom they are for.
    fn incoming(&mut self, now: u64) -> Left {
        let mut left = BATCH;
        while left != 0 {
            if !self.pace.allows(now) {
                return if self.card.received().is_some() { Left::Spent } else { Left::Nothing };
            }
            let Self { card, port, .. } = self;
            let Some(frame) = card.received() else {
                self.look_whether_it_fails();
                return Left::Nothing;
            };
            let mut copied = frame.len();
            let mut more = false;
            if let Some((header, rest)) = frame.split_first_chunk::<HEADER>() {
                let frame = Outgoing { header, size: frame.len(), checksum: None };
                let sent = port.send::<Infallible>(&frame, LONGEST, |into| {
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
        if self.card.is_broken() && !core::mem::replace(&mut self.failed, true) {
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
