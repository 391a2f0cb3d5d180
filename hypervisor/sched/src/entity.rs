//! What is known of one vCPU: its name, its state, its weight and what it has used.
use core::num::NonZeroU64;

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
    /// Has the pCPU.
    Running,
    /// Waits for `wake`.
    Blocked,
    /// Ended; runs again only after `reset`.
    Stopped,
}

/// A share, in cgroup v2's range 1 to 10,000 with 100 as the default.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Weight(NonZeroU64);

impl Weight {
    /// The default, 100.
    pub const DEFAULT: Self = Self(NonZeroU64::MIN.saturating_add(99));

    /// `None` outside 1 to 10,000.
    pub fn new(weight: u32) -> Option<Self> {
        if weight > 10_000 {
            return None;
        }
        NonZeroU64::new(u64::from(weight)).map(Self)
    }

    /// As a number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// How much virtual time `ns` of service are.
    pub(crate) fn virtual_time(self, ns: u64) -> u64 {
        scaled(ns) / self.0
    }

    /// How many ns of service `virtual_time` is, rounded down.
    pub(crate) fn service(self, virtual_time: u64) -> u64 {
        virtual_time.saturating_mul(self.get()) >> SHIFT
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Virtual time has 2^20 units a weighted ns, so that dividing by any weight, or by the sum of many, loses nothing that
/// counts. Totals are 128 bits wide and never wrap.
const SHIFT: u32 = 20;

/// `ns` in virtual units before the division by a weight. A stretch of more than 2.4 hours without any call counts as that.
pub(crate) fn scaled(ns: u64) -> u64 {
    ns.min(u64::MAX >> SHIFT) << SHIFT
}

/// What a vCPU has used; all in ns but the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Time as Running.
    pub ran_ns: u64,
    /// Time as Ready.
    pub waited_ns: u64,
    /// How often it got the pCPU after another vCPU had had it (or for the first time there).
    pub switches: u64,
}

/// The record of one vCPU in a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entity {
    pub state: RunState,
    pub weight: Weight,
    /// A wake-up came while it was Running.
    pub wake_pending: bool,
    /// A CPU_ON came while its CPU_OFF was still on its way.
    pub start_pending: bool,
    /// The next `put` ends it.
    pub stop_pending: bool,
    /// Must stay in this queue.
    pub pinned: bool,
    /// When it became Ready.
    pub since: u64,
    pub stats: Stats,
}

impl Entity {
    pub fn new(weight: Weight) -> Self {
        Self {
            state: RunState::Off,
            weight,
            wake_pending: false,
            start_pending: false,
            stop_pending: false,
            pinned: false,
            since: 0,
            stats: Stats::default(),
        }
    }
}
