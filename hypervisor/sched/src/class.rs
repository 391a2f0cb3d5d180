//! What a vCPU may ask for beyond a weight: a class, the pCPUs it may run on, a maximum.

/// The pCPUs on which a vCPU may run: a set of numbers below 128.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity(pub(crate) u128);

impl Affinity {
    /// Every pCPU.
    pub const ALL: Self = Self(u128::MAX);
    /// None; no queue accepts it.
    pub const NONE: Self = Self(0);

    /// Only `pcpu`; [`Self::NONE`] from 128 on.
    pub fn only(pcpu: usize) -> Self {
        Self(u32::try_from(pcpu).ok().and_then(|p| 1_u128.checked_shl(p)).unwrap_or(0))
    }

    /// With `pcpu` as well.
    #[must_use]
    pub fn with(self, pcpu: usize) -> Self {
        Self(self.0 | Self::only(pcpu).0)
    }

    /// Whether `pcpu` is among them.
    #[inline]
    pub fn has(self, pcpu: usize) -> bool {
        self.0 & Self::only(pcpu).0 != 0
    }
}

impl Default for Affinity {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<usize> for Affinity {
    fn from_iter<T: IntoIterator<Item = usize>>(pcpus: T) -> Self {
        pcpus.into_iter().fold(Self::NONE, Self::with)
    }
}

/// A real-time vCPU's parameters: a deferrable server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rt {
    /// Larger goes first; among equals, who became Ready first.
    pub priority: u8,
    /// How long it may run in each period, in us.
    pub budget_us: u32,
    /// In us.
    pub period_us: u32,
}

impl Rt {
    /// In ns.
    pub(crate) fn budget(self) -> u64 {
        u64::from(self.budget_us).saturating_mul(1_000)
    }

    /// In ns.
    pub(crate) fn period(self) -> u64 {
        u64::from(self.period_us).saturating_mul(1_000)
    }
}

/// How a vCPU competes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Class {
    /// By its VM's weight.
    #[default]
    Fair,
    /// Before all fair ones, by fixed priority, within its budget. Admit it with [`crate::admit_rt`] first.
    Rt(Rt),
    /// Owns its pCPU: nobody else is in its queue.
    Partition,
}

/// A maximum of processor time, over all pCPUs: cgroup v2's `cpu.max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Max {
    quota_us: u32,
    period_us: u32,
}

impl Max {
    /// `quota_us` of pCPU time in each `period_us`. `None` where the period is not 1 ms to 1 s, or the quota not 1 ms to
    /// 128 periods.
    pub fn new(quota_us: u32, period_us: u32) -> Option<Self> {
        let whole = (1_000..=1_000_000).contains(&period_us);
        let most = u64::from(period_us).saturating_mul(128);
        (whole && quota_us >= 1_000 && u64::from(quota_us) <= most).then_some(Self { quota_us, period_us })
    }

    /// In us.
    pub fn quota_us(self) -> u32 {
        self.quota_us
    }

    /// In us.
    pub fn period_us(self) -> u32 {
        self.period_us
    }
}
