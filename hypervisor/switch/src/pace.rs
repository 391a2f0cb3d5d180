//! How fast frames may come in from outside the machine, or go out when its card interrupts: copying them is nobody's time.

/// Frames in a period.
pub const BURST: u64 = 64;
/// The period, in ns.
pub const PERIOD: u64 = 1_000_000;

/// The frames that have come, as the time for which they would keep busy whoever takes [`BURST`] in a [`PERIOD`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    until: u64,
}

impl Pace {
    /// Whether a frame may come at `now`, in ns: those before it were no more than a period's.
    pub fn allows(&self, now: u64) -> bool {
        self.until < now.saturating_add(PERIOD)
    }

    /// So many have come at `now`; a frame for several counts as several.
    pub fn count(&mut self, now: u64, frames: u64) {
        let busy = frames.saturating_mul(PERIOD.wrapping_div(BURST));
        self.until = self.until.max(now).saturating_add(busy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames that are let in from `from` to `to`, by somebody who tries every `step` ns.
    fn come(pace: &mut Pace, from: u64, to: u64, step: usize, frames: u64) -> u64 {
        let mut came = 0;
        for now in (from..to).step_by(step) {
            if pace.allows(now) {
                pace.count(now, frames);
                came += frames;
            }
        }
        came
    }

    #[test]
    fn a_flood_comes_at_its_pace() {
        let mut pace = Pace::default();
        // A burst at once, and then as many as time allows, however often somebody tries.
        assert_eq!(come(&mut pace, 5, 6, 1, 1), 1);
        let mut pace = Pace::default();
        while pace.allows(7) {
            pace.count(7, 1);
        }
        assert_eq!(pace, Pace { until: 7 + PERIOD });
        for step in [1_000, 3_000, 15_000] {
            let mut pace = Pace::default();
            let came = come(&mut pace, 0, 100 * PERIOD, step, 1);
            assert!((100 * BURST..=101 * BURST).contains(&came), "{came} with a try each {step} ns");
        }
        // What is for 63 ports counts as often.
        let came = come(&mut Pace::default(), 0, 100 * PERIOD, 1_000, 63);
        assert!((100 * BURST..=102 * BURST).contains(&came), "{came}");
    }

    #[test]
    fn who_sends_little_never_waits_and_saves_no_more_than_a_burst() {
        let mut pace = Pace::default();
        let each = PERIOD / BURST + 1;
        assert_eq!(come(&mut pace, 0, 1000 * each, each as usize, 1), 1000);
        let now = u64::MAX / 2;
        let mut at_once = 0;
        while pace.allows(now) {
            pace.count(now, 1);
            at_once += 1;
        }
        assert_eq!(at_once, BURST);
        pace.count(u64::MAX, u64::MAX);
        assert!(!pace.allows(u64::MAX));
    }
}
