//! Whether real-time vCPUs of one pCPU keep their promises: exact response-time analysis.
//!
//! Each is a deferrable server: its budget waits for it during the period, so a vCPU that is interrupted late in its period
//! still runs at once. (A sporadic server would disturb the others less, but needs a list of replenishments of unbounded
//! length, or has the known faults of a bounded one.) The price is counted: a server can use its budget at the end of a
//! period and again at the start of the next, which to those below it is a jitter of period - budget (Strosnider, Lehoczky,
//! Sha, "The Deferrable Server Algorithm for Enhanced Aperiodic Responsiveness in Hard Real-Time Environments", 1995;
//! Bernat, Burns, "New Results on Fixed Priority Aperiodic Servers", 1999).
use crate::class::Rt;

/// How long Merus itself may keep a pCPU from switching, in ns: no stretch of EL2's work is longer.
pub const RT_BLOCKING: u64 = 20_000;
/// Real-time vCPUs get this much of a pCPU together at most, in percent: something remains for all others.
pub const RT_MAX_PERCENT: u64 = 95;
/// The shortest period, in us.
pub const RT_MIN_PERIOD: u32 = 500;

/// Why a real-time vCPU is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdmissionError {
    /// The period is below [`RT_MIN_PERIOD`] or above 10 s.
    Period,
    /// The budget is 0 or more than the period.
    Budget,
    /// All together would have more than [`RT_MAX_PERCENT`] of the pCPU.
    Utilization {
        /// What it would be, in parts of a million.
        ppm: u64,
    },
    /// The new one would not always get its budget within its period.
    Late {
        /// How long it could take, in ns, as far as it was computed.
        response: u64,
    },
    /// One that was admitted before would not any more.
    Breaks {
        /// Which, as an index of `existing`.
        index: usize,
        /// How long it could take, in ns.
        response: u64,
    },
}

/// Whether `new` may join `existing` on one pCPU: then each gets its budget within its period if it wants it from the
/// period's start, whatever the others do. Equal priorities count as higher ones. The cost is
/// O(n^2 x longest period / shortest period) at worst.
pub fn admit_rt(existing: &[Rt], new: Rt) -> Result<(), AdmissionError> {
    if !(RT_MIN_PERIOD..=10_000_000).contains(&new.period_us) {
        return Err(AdmissionError::Period);
    }
    if new.budget_us == 0 || new.budget_us > new.period_us {
        return Err(AdmissionError::Budget);
    }
    let all = || existing.iter().chain(core::iter::once(&new));
    let share = |rt: &Rt| u64::from(rt.budget_us).saturating_mul(1_000_000).div_ceil(u64::from(rt.period_us.max(1)));
    let ppm = all().map(share).fold(0, u64::saturating_add);
    if ppm > RT_MAX_PERCENT.saturating_mul(10_000) {
        return Err(AdmissionError::Utilization { ppm });
    }
    for (index, one) in all().enumerate() {
        let above = || all().enumerate().filter(|(i, o)| *i != index && o.priority >= one.priority).map(|(_, o)| *o);
        if let Err(response) = response(*one, above) {
            return Err(if index == existing.len() {
                AdmissionError::Late { response }
            } else {
                AdmissionError::Breaks { index, response }
            });
        }
    }
    Ok(())
}

/// The least fixed point of `R = blocking + budget + sum over above of ceil((R + jitter) / period) x budget`; `Err` with the
/// first value beyond the period.
fn response<I: Iterator<Item = Rt>>(one: Rt, above: impl Fn() -> I) -> Result<u64, u64> {
    let own = RT_BLOCKING.saturating_add(one.budget());
    let mut response = own;
    loop {
        if response > one.period() {
            return Err(response);
        }
        let more = above().map(|o| {
            let jitter = o.period().saturating_sub(o.budget());
            let times = response.saturating_add(jitter).div_ceil(o.period().max(1));
            times.saturating_mul(o.budget())
        });
        let next = more.fold(own, u64::saturating_add);
        // It grows with each round until it stands still or is too large.
        if next == response {
            return Ok(response);
        }
        response = next;
    }
}
