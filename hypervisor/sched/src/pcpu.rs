//! What each queue tells the others about itself, and where a woken vCPU should go.
//!
//! All of it is advice, read without the queue's lock. A reading that mixes two states can cost one needless move; it cannot
//! make a queue unfair, because a vCPU that moves is fitted into its new queue under that queue's lock.
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::{
    class::{Affinity, Class},
    entity::Pace,
    tree::VTime,
};

/// What runs on a pCPU, as the others see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Running {
    /// Nothing.
    Idle,
    /// A fair vCPU.
    Fair,
    /// A real-time vCPU of this priority.
    Rt(u8),
    /// A partition's owner.
    Owner,
}

/// A pCPU as the others see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// What runs there.
    pub running: Running,
    /// A partition: nobody else is placed there, whether its owner runs or not.
    pub owned: bool,
    /// How many fair vCPUs run or are Ready there.
    pub load: u32,
}

/// One virtual time, as two words that are read one after the other.
#[derive(Debug, Default)]
struct Instant {
    high: AtomicU64,
    low: AtomicU64,
    /// The real time it belongs to, in ns.
    at: AtomicU64,
}

impl Instant {
    fn store(&self, vtime: VTime, at: u64) {
        self.at.store(at, Relaxed);
        self.high.store((vtime >> 64) as u64, Relaxed);
        self.low.store(vtime as u64, Relaxed);
    }

    fn load(&self) -> (VTime, u64) {
        let vtime = VTime::from(self.high.load(Relaxed)) << 64 | VTime::from(self.low.load(Relaxed));
        (vtime, self.at.load(Relaxed))
    }
}

#[derive(Debug, Default)]
struct Published {
    now: Instant,
    /// How fast it goes on, as a `Pace::inverse`; 0 while no fair one runs.
    pace: AtomicU64,
    /// Fair vCPUs in bits 0 to 15, then what runs.
    state: AtomicU32,
    /// The VM of the one that runs.
    vm: AtomicU32,
    /// Where others have lifted it to while its vCPU is alone.
    floor: Instant,
    /// The `Pace::inverse` of the vCPU that it would give away, 0 for none.
    offers: AtomicU64,
}

const LOAD: u32 = 0xffff;
const IDLE: u32 = 0;
const FAIR: u32 = 1 << 16;
const RT: u32 = 2 << 16;
const OWNER: u32 = 3 << 16;
const KIND: u32 = 3 << 16;
const OWNED: u32 = 1 << 18;
const PRIORITY: u32 = 24;

/// All pCPUs, and the time at which the machine became contended last.
#[derive(Debug)]
pub(crate) struct Pcpus {
    all: Box<[Published]>,
    /// How many queues have two fair vCPUs or more.
    contended: AtomicU32,
    /// The virtual time of the first that had, when it had.
    sync: Instant,
    /// When the last one had no more.
    ended: AtomicU64,
    /// The virtual time of one that has, of late.
    reference: Instant,
    grain: AtomicU64,
}

/// How far a vCPU that had a pCPU to itself may be behind or ahead of the contended queues when it gets company, in ns.
pub(crate) const ALONE: u64 = 2 * crate::SLICE;

/// `value`, but within `by` of `of`.
pub(crate) fn within(value: VTime, of: VTime, by: VTime) -> VTime {
    value.clamp(of.saturating_sub(by), of.saturating_add(by))
}

impl Pcpus {
    pub fn new(count: usize) -> Self {
        Self {
            all: (0..count).map(|_| Published::default()).collect(),
            contended: AtomicU32::new(0),
            sync: Instant::default(),
            ended: AtomicU64::new(0),
            reference: Instant::default(),
            grain: AtomicU64::new(0),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// A queue tells how it stands.
    #[inline]
    pub fn publish(&self, pcpu: usize, vtime: VTime, at: u64, inverse: u64, vm: u16, view: View) {
        let Some(own) = self.all.get(pcpu) else { return };
        own.now.store(vtime, at);
        own.pace.store(inverse, Relaxed);
        own.vm.store(vm.into(), Relaxed);
        let running = match view.running {
            Running::Idle => IDLE,
            Running::Fair => FAIR,
            Running::Rt(priority) => RT | u32::from(priority) << PRIORITY,
            Running::Owner => OWNER,
        };
        let owned = if view.owned { OWNED } else { 0 };
        own.state.store(view.load.min(LOAD) | running | owned, Relaxed);
    }

    pub fn view(&self, pcpu: usize) -> Option<View> {
        let state = self.all.get(pcpu)?.state.load(Relaxed);
        let running = match state & KIND {
            FAIR => Running::Fair,
            RT => Running::Rt((state >> PRIORITY) as u8),
            OWNER => Running::Owner,
            _ => Running::Idle,
        };
        Some(View { running, owned: state & OWNED != 0, load: state & LOAD })
    }

    /// A queue has two fair vCPUs from now on, or no more. The first one makes its time the machine's.
    pub fn contend(&self, contended: bool, vtime: VTime, now: u64) {
        if !contended {
            if self.contended.fetch_sub(1, Relaxed) == 1 {
                self.ended.store(now, Relaxed);
            }
        } else if self.contended.fetch_add(1, Relaxed) == 0 {
            // A vCPU that only moves from one queue to another does not end what went before.
            if now.saturating_sub(self.ended.load(Relaxed)) > ALONE || self.sync.load().1 == 0 {
                self.sync.store(vtime, now);
            }
            self.reference.store(vtime, now);
        }
    }

    /// A contended queue's time, for those that have none.
    pub fn refer(&self, vtime: VTime, now: u64) {
        self.reference.store(vtime, now);
    }

    /// The lightest mean vCPU of a contended queue, as a `Pace::inverse`.
    pub fn set_grain(&self, grain: u64) {
        self.grain.store(grain, Relaxed);
    }

    pub fn grain(&self) -> u64 {
        self.grain.load(Relaxed)
    }

    /// Where the contended queues are, if there are any.
    pub fn reference(&self) -> Option<VTime> {
        (self.contended.load(Relaxed) != 0).then(|| self.reference.load().0)
    }

    /// When and where the machine became contended last, if it is.
    pub fn sync(&self) -> Option<(VTime, u64)> {
        (self.contended.load(Relaxed) != 0).then(|| self.sync.load())
    }

    /// A contended queue at `own` found `pcpu`, whose vCPU is alone, at `time`: what that is behind by more than four slices
    /// is not owed to it. It cannot use more than a pCPU.
    pub fn lift(&self, pcpu: usize, time: VTime, own: VTime, grain: u64, now: u64) {
        let Some(other) = self.all.get(pcpu) else { return };
        let lag = Pace { weight: 0, inverse: other.pace.load(Relaxed).max(grain) }.virtual_time(crate::fair::LAG);
        if time.saturating_add(lag) < own {
            other.floor.store(own.saturating_sub(lag), now);
        }
    }

    /// Where `pcpu` was lifted to, if that was after `from`.
    pub fn floor(&self, pcpu: usize, from: u64) -> Option<(VTime, u64)> {
        let floor = &self.all.get(pcpu)?.floor;
        (floor.at.load(Relaxed) > from).then(|| floor.load())
    }

    /// `pcpu` would give a vCPU of this `Pace::inverse` away if another queue were far enough ahead.
    pub fn offer(&self, pcpu: usize, inverse: u64) {
        if let Some(own) = self.all.get(pcpu) {
            own.offers.store(inverse, Relaxed);
        }
    }

    /// What `pcpu` would give away.
    pub fn offered(&self, pcpu: usize) -> u64 {
        self.all.get(pcpu).map_or(0, |own| own.offers.load(Relaxed))
    }

    /// How many fair vCPUs `pcpu` has, and how fast its virtual time goes on.
    pub fn load_of(&self, pcpu: usize) -> Option<(u32, u64)> {
        let own = self.all.get(pcpu)?;
        Some((own.state.load(Relaxed) & LOAD, own.pace.load(Relaxed)))
    }

    /// The virtual time of `pcpu` at `now`, if a fair vCPU runs there. One that is alone follows no change of its weight by
    /// itself, having no tick: `inverse_of` its VM says what it is now.
    pub fn time_of(&self, pcpu: usize, now: u64, inverse_of: impl Fn(u16) -> u64) -> Option<VTime> {
        let own = self.all.get(pcpu)?;
        let view = self.view(pcpu).filter(|v| v.running == Running::Fair && !v.owned)?;
        let (mut vtime, mut at) = own.now.load();
        let inverse = if view.load == 1 { inverse_of(own.vm.load(Relaxed) as u16) } else { own.pace.load(Relaxed) };
        let pace = Pace { weight: 0, inverse };
        if view.load == 1
            && let Some((sync, since)) = self.sync().filter(|(_, since)| *since > at)
        {
            // Alone since before anyone else had to share: what it used up to then counts for nothing.
            vtime = vtime.saturating_add(pace.virtual_time(since.saturating_sub(at)));
            vtime = within(vtime, sync, pace.virtual_time(ALONE));
            at = since;
        }
        let time = vtime.saturating_add(pace.virtual_time(now.saturating_sub(at)));
        let lifted = self.floor(pcpu, at).filter(|_| view.load == 1);
        Some(lifted.map_or(time, |(floor, since)| {
            time.max(floor.saturating_add(pace.virtual_time(now.saturating_sub(since))))
        }))
    }
}

/// Which of the allowed pCPUs will run a woken vCPU soonest: its `home` if it goes first there at once (`preempts`, as the
/// queue's `wake` said, or the home is idle); else an idle one, the next after its home; else one where its class goes
/// before what runs; else the one with the fewest fair vCPUs, its home if that is no worse. `None`: none is allowed.
///
/// `view(p)` is [`Shares::view`](crate::Shares::view), `None` for a pCPU that is not there. The cost is linear in `pcpus`.
pub fn place(
    view: impl Fn(usize) -> Option<View>,
    pcpus: usize,
    home: usize,
    allowed: Affinity,
    class: Class,
    preempts: bool,
) -> Option<usize> {
    let rank = |v: View| match (v.running, class) {
        (Running::Idle, _) => 0,
        (Running::Fair, Class::Rt(_)) => 1,
        (Running::Rt(p), Class::Rt(rt)) if p < rt.priority => 1,
        (Running::Fair, _) => 2,
        (Running::Rt(_) | Running::Owner, _) => 3,
    };
    let order = (0..pcpus).map(|n| home.wrapping_add(n).checked_rem(pcpus).unwrap_or(0));
    let open = order.filter_map(|p| view(p).filter(|v| allowed.has(p) && !v.owned).map(|v| (p, v)));
    // The first of equals, and the home comes first of all.
    open.map(|(p, v)| (if p == home && preempts { (0, 0) } else { (rank(v), if rank(v) < 2 { 0 } else { v.load }) }, p))
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, p)| p)
}
