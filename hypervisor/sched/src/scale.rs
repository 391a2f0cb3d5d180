//! Ticks of a counter as nanoseconds, and back.
//!
//! Both by a multiplication with a factor in fixed point whose fraction is as long as 64 bits allow: a factor that is off by one part
//! in 10^9 would have every deadline come a millisecond late after twelve days, because both are counted from the machine's start.

/// Bits of the fraction of [`Scale::ns_per_tick`]: a counter of 1 MHz has 1,000 ns a tick.
const NS_FRACTION: u32 = 54;
/// Bits of the fraction of [`Scale::ticks_per_ns`]: CNTFRQ_EL0 has 32 bits, so there are under 4.3 ticks in a ns.
const TICKS_FRACTION: u32 = 61;
/// The slowest counter, in Hz; one that says it is slower (or says nothing) is taken for it. (Arm ARM, "The system counter": typically
/// 1 MHz to 50 MHz, and 1 GHz from Armv8.6.)
pub const SLOWEST: u64 = 1_000_000;

/// How fast a counter goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// For [`ns`].
    pub ns_per_tick: u64,
    /// For [`ticks`].
    pub ticks_per_ns: u64,
}

impl Scale {
    /// For a counter of `hz` ticks a second: its low 32 bits, as CNTFRQ_EL0 has no more.
    pub const fn new(hz: u64) -> Self {
        const SECOND: u128 = 1_000_000_000;
        let hz = hz & 0xffff_ffff;
        let hz = if hz < SLOWEST { SLOWEST } else { hz } as u128;
        Self { ns_per_tick: part(SECOND << NS_FRACTION, hz), ticks_per_ns: part(hz << TICKS_FRACTION, SECOND) }
    }
}

/// A quotient of which the constants above say that it fits.
const fn part(of: u128, by: u128) -> u64 {
    match of.checked_div(by) {
        Some(part) => part as u64,
        None => 0,
    }
}

/// Ticks as ns, rounded down, by [`Scale::ns_per_tick`].
#[inline(always)]
pub const fn ns(ticks: u64, ns_per_tick: u64) -> u64 {
    ((ticks as u128).wrapping_mul(ns_per_tick as u128) >> NS_FRACTION) as u64
}

/// Ns as ticks, rounded down, by [`Scale::ticks_per_ns`]: a timer set so may come by less than a tick too early.
#[inline(always)]
pub const fn ticks(ns: u64, ticks_per_ns: u64) -> u64 {
    ((ns as u128).wrapping_mul(ticks_per_ns as u128) >> TICKS_FRACTION) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Counters of boards (the Raspberry Pi 4's, as it is and as QEMU has it, among them), and the ends of what there can be.
    const COUNTERS: [u64; 11] = [
        SLOWEST,
        8_333_333,
        19_200_000,
        24_000_000,
        25_000_000,
        50_000_000,
        54_000_000,
        62_500_000,
        100_000_000,
        1_000_000_000,
        u32::MAX as u64,
    ];
    /// Ten years, in ns.
    const LONG: u64 = 10 * 365 * 86_400 * 1_000_000_000;

    /// By how many ns the last bit of the factor's fraction can put that many ticks off: none for years, but for the fastest.
    fn off(ticks: u64) -> u64 {
        (ticks >> NS_FRACTION) + 1
    }

    #[test]
    fn a_year_on_a_raspberry_pi_is_a_year() {
        let Scale { ns_per_tick, ticks_per_ns } = Scale::new(54_000_000);
        let (year, seconds) = (31_536_000_000_000_000_u64, 31_536_000_u64);
        assert!(ns(seconds * 54_000_000, ns_per_tick).abs_diff(year) <= 1);
        assert!(ticks(year, ticks_per_ns).abs_diff(seconds * 54_000_000) <= 1);
    }

    #[test]
    fn a_counter_that_says_nothing_can_be_used() {
        assert_eq!(Scale::new(0), Scale::new(SLOWEST));
        assert_eq!(Scale::new(1), Scale::new(SLOWEST));
        assert_eq!(Scale::new(0xdead_0000_0000 | 54_000_000), Scale::new(54_000_000));
        assert_eq!(ns(3, Scale::new(0).ns_per_tick), 3000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 2000 }))]

        #[test]
        fn neither_way_is_off_by_more_than_its_last_bit(which in 0..COUNTERS.len(), at in 0..LONG) {
            let hz = COUNTERS[which];
            let Scale { ns_per_tick, ticks_per_ns } = Scale::new(hz);
            let exact_ticks = (u128::from(at) * u128::from(hz) / 1_000_000_000) as u64;
            let exact_ns = (u128::from(exact_ticks) * 1_000_000_000 / u128::from(hz)) as u64;
            let (ticks_of, ns_of) = (ticks(at, ticks_per_ns), ns(exact_ticks, ns_per_tick));
            prop_assert!(exact_ticks - ticks_of <= 1, "{ticks_of} {exact_ticks}");
            prop_assert!(exact_ns - ns_of <= 1 + off(exact_ticks), "{ns_of} {exact_ns}");
        }

        #[test]
        fn a_deadline_that_is_set_comes_within_two_ticks(which in 0..COUNTERS.len(), now in 0..LONG, delay in 0..1_000_000_000u64) {
            let hz = COUNTERS[which];
            let Scale { ns_per_tick, ticks_per_ns } = Scale::new(hz);
            let at = (u128::from(now) * u128::from(hz) / 1_000_000_000) as u64;
            let deadline = ticks(ns(at, ns_per_tick) + delay, ticks_per_ns);
            let exact = at + (u128::from(delay) * u128::from(hz) / 1_000_000_000) as u64;
            prop_assert!(deadline.abs_diff(exact) <= 2 + (1 + off(at)) * hz / 1_000_000_000, "{deadline} {exact}");
        }

        #[test]
        fn time_does_not_go_back(which in 0..COUNTERS.len(), at in 0..LONG / 1000) {
            let Scale { ns_per_tick, ticks_per_ns } = Scale::new(COUNTERS[which]);
            prop_assert!(ns(at, ns_per_tick) <= ns(at + 1, ns_per_tick));
            prop_assert!(ticks(at, ticks_per_ns) <= ticks(at + 1, ticks_per_ns));
        }
    }
}
