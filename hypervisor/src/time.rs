//! Counter ticks and nanoseconds.

use core::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds a tick, and ticks a nanosecond, as 32.32 fixed point.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(1 << 32);
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(1 << 32);

/// Reads the counter's frequency; once, at the start.
pub fn init() {
    let hz = el2::timer::frequency().max(1);
    NS_PER_TICK.store((u128::from(1_000_000_000_u64) << 32).wrapping_div(u128::from(hz)) as u64, Ordering::Relaxed);
    TICKS_PER_NS.store((u128::from(hz) << 32).div_ceil(1_000_000_000) as u64, Ordering::Relaxed);
}

/// Ticks as nanoseconds.
#[inline]
pub fn ns(ticks: u64) -> u64 {
    ((u128::from(ticks) * u128::from(NS_PER_TICK.load(Ordering::Relaxed))) >> 32) as u64
}

/// Nanoseconds as ticks, rounded up.
#[inline]
pub fn ticks(ns: u64) -> u64 {
    ((u128::from(ns) * u128::from(TICKS_PER_NS.load(Ordering::Relaxed))) >> 32) as u64
}

/// The counter, in nanoseconds.
#[inline]
pub fn now_ns() -> u64 {
    ns(el2::timer::now())
}
