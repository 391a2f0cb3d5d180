//! The guest's physical timer, CNTP: every access traps, a deadline on the pCPU's own timer stands for it.
//!
//! (Arm ARM, "The Generic Timer in AArch64 state", "CNTP_CTL_EL0".) The guest's CNTPCT_EL0 is the machine's, so compare values
//! are machine ticks.

/// CNTP_CTL_EL0.ENABLE.
const ENABLE: u64 = 1;
/// CNTP_CTL_EL0.IMASK.
const IMASK: u64 = 1 << 1;
/// CNTP_CTL_EL0.ISTATUS.
const ISTATUS: u64 = 1 << 2;

/// The timer's INTID: PPI 14, as on `virt`.
pub const INTID: u32 = 30;

/// CNTP of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalTimer {
    control: u64,
    compare: u64,
}

impl PhysicalTimer {
    /// CNTP_CTL_EL0 at `now` ticks.
    pub fn control(&self, now: u64) -> u64 {
        let met = self.control & ENABLE != 0 && now >= self.compare;
        self.control | if met { ISTATUS } else { 0 }
    }
    /// Writes CNTP_CTL_EL0.
    pub fn set_control(&mut self, value: u64) {
        self.control = value & (ENABLE | IMASK);
    }
    /// CNTP_CVAL_EL0.
    pub fn compare(&self) -> u64 {
        self.compare
    }
    /// Writes CNTP_CVAL_EL0.
    pub fn set_compare(&mut self, value: u64) {
        self.compare = value;
    }
    /// CNTP_TVAL_EL0 at `now`: the low 32 bits of what is left.
    pub fn value(&self, now: u64) -> u64 {
        self.compare.wrapping_sub(now) & 0xffff_ffff
    }
    /// Writes CNTP_TVAL_EL0 at `now`: a signed 32-bit distance.
    pub fn set_value(&mut self, value: u64, now: u64) {
        let distance = i64::from(value as u32 as i32);
        self.compare = now.wrapping_add_signed(distance);
    }
    /// Whether the timer drives its interrupt at `now`.
    pub fn asserted(&self, now: u64) -> bool {
        self.control(now) & (ENABLE | IMASK | ISTATUS) == ENABLE | ISTATUS
    }
    /// When that will begin to be so, in ticks; `None` where it is so, or never will be.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        (self.control & (ENABLE | IMASK) == ENABLE && now < self.compare).then_some(self.compare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tval_is_a_signed_distance() {
        let mut t = PhysicalTimer::default();
        t.set_control(1);
        t.set_value(0xffff_ffff, 100);
        assert_eq!(t.compare(), 99);
        assert!(t.asserted(100) && t.deadline(100).is_none());
        t.set_value(5, 100);
        assert_eq!((t.compare(), t.value(101), t.value(106)), (105, 4, 0xffff_ffff));
        assert!(!t.asserted(104) && t.asserted(105));
        assert_eq!(t.deadline(104), Some(105));
    }

    #[test]
    fn istatus_shows_the_condition_masked_or_not() {
        let mut t = PhysicalTimer::default();
        t.set_compare(10);
        assert_eq!(t.control(20), 0);
        t.set_control(0b111);
        assert_eq!((t.control(9), t.control(10)), (0b011, 0b111));
        assert!(!t.asserted(10) && t.deadline(9).is_none());
        t.set_control(1);
        assert!(t.asserted(u64::MAX));
    }
}
