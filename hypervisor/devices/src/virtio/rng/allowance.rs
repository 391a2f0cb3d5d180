//! How much a guest may take and how fast: an allowance that fills up with time. The time is an argument.

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// So many bytes at once, and so many more with each second that passes.
///
/// What is kept is one number: when the allowance will be full again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Nanoseconds that a byte costs.
    cost: u64,
    /// Nanoseconds that a full allowance is worth.
    worth: u64,
    /// When it is full.
    full_at: u64,
}

impl Allowance {
    /// A full one: `burst` bytes at once, `per_second` (1 to 1,000,000,000) more a second. Neither is less than 1.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let cost = SECOND.checked_div(per_second.into()).unwrap_or(SECOND).max(1);
        Self { cost, worth: cost.saturating_mul(burst.max(1).into()), full_at: 0 }
    }

    /// Takes `wanted` bytes, or all that there ever are at once where that is fewer: how many were taken. 0: not all of them are
    /// there at `now` (nanoseconds); they are at [`Allowance::when`].
    pub fn take(&mut self, now: u64, wanted: usize) -> usize {
        if self.when(wanted) > now {
            return 0;
        }
        let cost = self.price(wanted);
        self.full_at = self.full_at.max(now).saturating_add(cost);
        usize::try_from(cost.checked_div(self.cost).unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// From when on (nanoseconds) `wanted` bytes can be taken.
    pub fn when(&self, wanted: usize) -> u64 {
        self.full_at.saturating_add(self.price(wanted)).saturating_sub(self.worth)
    }

    fn price(&self, wanted: usize) -> u64 {
        self.cost.saturating_mul(wanted as u64).min(self.worth)
    }
}
