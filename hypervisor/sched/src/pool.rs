//! The time that a VM or a group may still use in this period (`cpu.max`), taken in pieces before it is used.
//!
//! One word holds the number of the period and what is left of its quota, so that refilling, taking and giving back are
//! each one compare-and-swap and any number of pCPUs can do them at once: what they hold together was in the pool before.
//! The number has 32 bits; a pool that nobody touched for 2^32 periods (49 days of 1 ms) is found full, or at worst, in the
//! 65,536 periods before that, as it was left.
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{SLICE, class::Max};

/// What is left is counted in units of 2^UNIT ns: +-274 s fit in 32 bits. What does not make a unit stays with the vCPU.
const UNIT: u32 = 7;
/// No piece is smaller than this unless the pool has less, in ns.
const PIECE_MIN: u64 = 200_000;
/// A reader whose clock was read some time ago is this many periods behind at most.
const BEHIND: u32 = 1 << 16;

/// A bandwidth pool.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Quota in ns, 0: no maximum; and period in ns. Written together only by [`Self::set`].
    quota: AtomicU64,
    period: AtomicU64,
    /// Period number << 32 | what is left (signed).
    word: AtomicU64,
}

fn pack(number: u32, left: i32) -> u64 {
    u64::from(number) << 32 | u64::from(left.cast_unsigned())
}

fn units(ns: u64) -> i32 {
    i32::try_from(ns >> UNIT).unwrap_or(i32::MAX)
}

impl Pool {
    /// Sets or lifts the maximum; the current period starts afresh. One caller at a time.
    pub fn set(&self, max: Option<Max>, now: u64) {
        let (quota, period) = max.map_or((0, 0), |m| (ns(m.quota_us()), ns(m.period_us())));
        self.quota.store(0, Relaxed);
        self.period.store(period, Relaxed);
        self.word.store(pack(number(now, period), units(quota)), Relaxed);
        self.quota.store(quota, Relaxed);
    }

    /// Whether there is a maximum.
    pub fn limits(&self) -> bool {
        self.quota.load(Relaxed) != 0
    }

    /// Takes a piece of at most `want` ns; or the time at which the next period begins.
    pub fn take(&self, want: u64, now: u64) -> Result<u64, u64> {
        let (quota, period) = (self.quota.load(Relaxed), self.period.load(Relaxed));
        if quota == 0 {
            return Ok(want);
        }
        let mut taken = 0;
        let _ = self.word.try_update(Relaxed, Relaxed, |word| {
            let (number, left) = refilled(word, number(now, period), quota);
            // A quarter of what is left, so that what is taken and not used at a period's end is little.
            let piece = ((i64::from(left).max(0) as u64) << UNIT) / 4;
            taken = units(piece.clamp(PIECE_MIN, SLICE).min(want)).clamp(0, left.max(0));
            Some(pack(number, left.saturating_sub(taken)))
        });
        match taken {
            0 if want >> UNIT != 0 => Err(next_period(now, period)),
            0 => Ok(0),
            _ => Ok((i64::from(taken) as u64) << UNIT),
        }
    }

    /// Gives back what was not used; returns the part that is less than a unit.
    pub fn give(&self, rest: u64) -> u64 {
        self.change(units(rest));
        rest & ((1 << UNIT) - 1)
    }

    /// Takes what was used without having been granted: the pool owes it, if it must.
    pub fn overrun(&self, used: u64) {
        self.change(units(used).saturating_add(1).saturating_neg());
    }

    fn change(&self, by: i32) {
        if self.limits() && by != 0 {
            let _ = self.word.try_update(Relaxed, Relaxed, |word| {
                let left = (word as u32).cast_signed();
                Some(pack((word >> 32) as u32, left.saturating_add(by)))
            });
        }
    }
}

fn ns(us: u32) -> u64 {
    u64::from(us).saturating_mul(1_000)
}

fn number(now: u64, period: u64) -> u32 {
    now.checked_div(period).unwrap_or(0) as u32
}

fn next_period(now: u64, period: u64) -> u64 {
    now.checked_div(period).unwrap_or(0).saturating_add(1).saturating_mul(period.max(1))
}

/// The word's content in period `number`. Debt is paid from the new quotas; what was left of the last one is kept up to a
/// sixteenth, because a piece given back just after the others were throttled would be lost otherwise.
fn refilled(word: u64, number: u32, quota: u64) -> (u32, i32) {
    let (stored, left) = ((word >> 32) as u32, (word as u32).cast_signed());
    let passed = number.wrapping_sub(stored);
    if passed == 0 || passed.wrapping_neg() <= BEHIND {
        return (stored, left);
    }
    let quota = units(quota);
    let most = i64::from(quota).saturating_add(i64::from(quota / 16));
    let sum = i64::from(quota).saturating_mul(i64::from(passed)).saturating_add(i64::from(left));
    (number, i32::try_from(sum.min(most)).unwrap_or(i32::MAX))
}
