//! Counter ticks and nanoseconds.

use core::sync::atomic::{AtomicU64, Ordering};
use sched::scale::{self, SLOWEST, Scale};

/// [`Scale`]'s two factors.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(Scale::new(SLOWEST).ns_per_tick);
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(Scale::new(SLOWEST).ticks_per_ns);

/// Reads the counter's frequency; once, at the start.
pub fn init() {
    let scale = Scale::new(el2::timer::frequency());
    NS_PER_TICK.store(scale.ns_per_tick, Ordering::Relaxed);
    TICKS_PER_NS.store(scale.ticks_per_ns, Ordering::Relaxed);
}

/// Ticks as nanoseconds, rounded down.
#[inline]
pub fn ns(ticks: u64) -> u64 {
    scale::ns(ticks, NS_PER_TICK.load(Ordering::Relaxed))
}

/// Nanoseconds as ticks, rounded down.
#[inline]
pub fn ticks(ns: u64) -> u64 {
    scale::ticks(ns, TICKS_PER_NS.load(Ordering::Relaxed))
}

/// The counter, in nanoseconds.
#[inline]
pub fn now_ns() -> u64 {
    ns(el2::timer::now())
}
