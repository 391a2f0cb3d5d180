//! The system counter and the two timers that Merus uses: the guest's virtual one (CNTV, direct) and EL2's own (CNTHP).

use crate::door::{guest_mrs, guest_msr};
use crate::regs::{mrs, msr, op};

/// CNTPCT_EL0: the physical counter, in ticks.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a barrier, so that the counter is not read early.
    unsafe { op!("isb") };
    mrs!("CNTPCT_EL0")
}

/// CNTFRQ_EL0: ticks a second.
pub fn frequency() -> u64 {
    mrs!("CNTFRQ_EL0")
}

/// Has CNTHP interrupt this pCPU at `deadline` (ticks of [`now`]), or never.
pub fn set_deadline(deadline: Option<u64>) {
    // SAFETY: EL2's own timer.
    unsafe {
        match deadline {
            Some(at) => {
                msr!("CNTHP_CVAL_EL2", at);
                msr!("CNTHP_CTL_EL2", 1);
            }
            None => msr!("CNTHP_CTL_EL2", 2),
        }
    }
}

/// The virtual timer of the loaded vCPU: CNTV_CTL_EL0 and CNTV_CVAL_EL0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualTimer {
    /// CNTV_CTL_EL0.
    pub control: u64,
    /// CNTV_CVAL_EL0, in virtual ticks.
    pub compare: u64,
}

impl VirtualTimer {
    /// When it will fire, in ticks of the virtual counter; `None` where it is off or masked.
    pub fn deadline(&self) -> Option<u64> {
        (self.control & 3 == 1).then_some(self.compare)
    }
    /// Loads it, with `offset` = physical minus virtual count.
    pub fn load(&self, offset: u64) {
        // SAFETY: the timer of the vCPU that is being loaded; its interrupt comes to EL2.
        unsafe {
            msr!("CNTVOFF_EL2", offset);
            guest_msr!("CNTV_CVAL_EL0", self.compare);
            op!("isb");
            guest_msr!("CNTV_CTL_EL0", self.control & 3);
        }
    }
    /// Saves and stops it.
    pub fn put(&mut self) {
        *self = Self::read();
        // SAFETY: the leaving vCPU's timer must not fire for the next one.
        unsafe {
            guest_msr!("CNTV_CTL_EL0", 0);
            op!("isb");
        }
    }
    /// What the hardware holds.
    pub fn read() -> Self {
        Self { control: guest_mrs!("CNTV_CTL_EL0") & 3, compare: guest_mrs!("CNTV_CVAL_EL0") }
    }
    /// Whether the loaded vCPU's timer asks for its interrupt now.
    pub fn asserted() -> bool {
        guest_mrs!("CNTV_CTL_EL0") & 7 == 5
    }
}
