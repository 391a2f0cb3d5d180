//! What is known of one vCPU: its name, its state, its class, its weight and what it has used.
use core::num::NonZeroU16;

use crate::{
    class::{Affinity, Class},
    tree::{Node, VTime},
};

/// A vCPU's number in the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntityId(pub u32);

/// Where a vCPU is in its life; the table of transitions is in the crate's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// Powered off: waits for `start`.
    Off,
    /// Wants the pCPU.
    Ready,
    /// Wants the pCPU but has used up what its VM, its group or its real-time budget allows in this period.
    Throttled,
    /// Has the pCPU.
    Running,
    /// Waits for `wake`.
    Blocked,
    /// Its VM is paused: waits for `unhold`.
    Held,
    /// Ended; runs again only after `reset`.
    Stopped,
}

/// A share, in cgroup v2's range 1 to 10,000 with 100 as the default. A VM's is divided among its runnable vCPUs, a
/// group's among its runnable VMs by their weights.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// The default, 100.
    pub const DEFAULT: Self = Self(NonZeroU16::MIN.saturating_add(99));

    /// `None` outside 1 to 10,000.
    pub fn new(weight: u32) -> Option<Self> {
        if weight > 10_000 {
            return None;
        }
        NonZeroU16::new(weight as u16).map(Self)
    }

    /// As a number.
    pub const fn get(self) -> u64 {
        self.0.get() as u64
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// An effective weight is a fixed-point number with this many binary places: weight 1 of 10,001 in a group of weight 100,
/// divided by 64 vCPUs, is still 2,600 units.
pub(crate) const WEIGHT_SHIFT: u32 = 24;
/// A weighted ns (1 ns at weight 1) has 2^(VTIME_SHIFT - WEIGHT_SHIFT) units of virtual time.
const VTIME_SHIFT: u32 = 44;
/// Binary places of an inverse beyond `VTIME_SHIFT`.
const INVERSE_SHIFT: u32 = 63 - VTIME_SHIFT;

/// An effective weight or a sum of them, with its inverse, so that only a change divides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pace {
    pub weight: u64,
    /// 2^63 / weight.
    pub inverse: u64,
}

impl Pace {
    /// Of `weight`, at least 1.
    pub fn of(weight: u64) -> Self {
        let weight = weight.max(1);
        Self { weight, inverse: (1_u64 << 63).checked_div(weight).unwrap_or(1 << 63) }
    }

    /// How much virtual time `ns` of service are.
    #[inline]
    pub fn virtual_time(self, ns: u64) -> VTime {
        u128::from(ns).wrapping_mul(u128::from(self.inverse)) >> INVERSE_SHIFT
    }

    /// How many ns of service `virtual_time` is, rounded down.
    #[inline]
    pub fn service(self, virtual_time: VTime) -> u64 {
        if virtual_time >> 80 != 0 {
            return u64::MAX;
        }
        // The weight is below 2^48: 10,000 x 2^24, and 1,000 of them.
        let ns = virtual_time.wrapping_mul(u128::from(self.weight)) >> VTIME_SHIFT;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// Where virtual times begin: high enough that one that arrives with credit has somewhere to start.
pub(crate) const ORIGIN: VTime = 1 << 110;

/// What a vCPU has used; times in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Time as Running.
    pub ran_ns: u64,
    /// Time as Ready.
    pub waited_ns: u64,
    /// Time as Throttled.
    pub throttled_ns: u64,
    /// Time as Blocked.
    pub blocked_ns: u64,
    /// How often it got the pCPU after another vCPU had had it (or for the first time there).
    pub switches: u64,
    /// How often it went to another pCPU.
    pub moves: u64,
    /// From the last wake-up to the pick that followed it.
    pub wake_last_ns: u64,
    /// The longest of those.
    pub wake_max_ns: u64,
}

impl Stats {
    /// What a guest calls steal time, in ns: it had something to do, and others had the pCPU or its own share was used up. Time
    /// as Held (its VM is paused) is none of it.
    #[inline]
    pub fn stolen_ns(&self) -> u64 {
        self.waited_ns.saturating_add(self.throttled_ns)
    }
}

/// The record of one vCPU in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Entity {
    pub id: EntityId,
    /// Its VM and group in the table of shares.
    pub vm: u16,
    pub group: Option<u16>,
    pub state: RunState,
    pub class: Class,
    pub allowed: Affinity,
    /// A wake-up came while it was Running.
    pub wake_pending: bool,
    /// A CPU_ON came while its CPU_OFF was still on its way.
    pub start_pending: bool,
    /// The next `put` ends it.
    pub stop_pending: bool,
    /// To be Held when it is put.
    pub hold_pending: bool,
    /// It was given to this queue by another's end of slice, and has not run since: it stays until it has.
    pub pushed: bool,
    /// When it was woken, if it has not run since.
    pub woken: Option<u64>,
    /// When it came into its state.
    pub since: u64,
    /// Its virtual start; the deadline is in `node`.
    pub start: VTime,
    pub node: Node,
    /// Its effective weight, and from which words of the table it was computed.
    pub pace: Pace,
    pub seen: (u64, u64),
    /// ns that it may still run out of its VM's and group's pools.
    pub grant: u64,
    /// Real time: ns left in this period (negative: overrun), and when the next begins.
    pub budget: i64,
    pub replenish: u64,
    pub stats: Stats,
}

impl Entity {
    pub fn new(id: EntityId, vm: u16, group: Option<u16>) -> Self {
        let start = ORIGIN;
        Self {
            id,
            vm,
            group,
            state: RunState::Off,
            class: Class::Fair,
            allowed: Affinity::ALL,
            wake_pending: false,
            start_pending: false,
            stop_pending: false,
            hold_pending: false,
            pushed: false,
            woken: None,
            since: 0,
            start,
            node: Node::new(start),
            pace: Pace::of(Weight::DEFAULT.get() << WEIGHT_SHIFT),
            seen: (0, 0),
            grant: 0,
            budget: 0,
            replenish: 0,
            stats: Stats::default(),
        }
    }

    pub fn is_fair(&self) -> bool {
        self.class == Class::Fair
    }

    /// Enters `state` at `now`; the time in the former one is counted.
    #[inline]
    pub fn become_at(&mut self, state: RunState, now: u64) {
        let passed = now.saturating_sub(self.since);
        let stats = &mut self.stats;
        let sum = match self.state {
            RunState::Ready => Some(&mut stats.waited_ns),
            RunState::Throttled => Some(&mut stats.throttled_ns),
            RunState::Blocked => Some(&mut stats.blocked_ns),
            // Counted as it is charged.
            RunState::Running | RunState::Off | RunState::Held | RunState::Stopped => None,
        };
        if let Some(sum) = sum {
            *sum = sum.saturating_add(passed);
        }
        self.state = state;
        self.since = now;
    }

    /// The virtual time of `ns` at its weight.
    #[inline]
    pub fn span(&self, ns: u64) -> VTime {
        self.pace.virtual_time(ns)
    }
}
