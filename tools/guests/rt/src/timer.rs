//! The virtual and the physical EL1 timer, and time itself.

use crate::sysreg::isb;
use crate::{cpu, mrs, msr};

/// CNT*_CTL_EL0.ENABLE.
pub const ENABLE: u64 = 1;
/// CNT*_CTL_EL0.IMASK.
pub const IMASK: u64 = 2;
/// CNT*_CTL_EL0.ISTATUS.
pub const ISTATUS: u64 = 4;

/// One of the two timers of EL1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// CNTV, PPI 27.
    Virtual,
    /// CNTP, PPI 30.
    Physical,
}

impl Timer {
    /// Its interrupt.
    pub fn intid(self) -> u32 {
        match self {
            Self::Virtual => 27,
            Self::Physical => 30,
        }
    }

    /// Its counter.
    pub fn now(self) -> u64 {
        isb();
        match self {
            Self::Virtual => mrs!("CNTVCT_EL0"),
            Self::Physical => mrs!("CNTPCT_EL0"),
        }
    }

    /// Reads CTL.
    pub fn ctl(self) -> u64 {
        isb();
        match self {
            Self::Virtual => mrs!("CNTV_CTL_EL0"),
            Self::Physical => mrs!("CNTP_CTL_EL0"),
        }
    }

    /// Writes CTL.
    pub fn set_ctl(self, value: u64) {
        match self {
            Self::Virtual => msr!("CNTV_CTL_EL0", value),
            Self::Physical => msr!("CNTP_CTL_EL0", value),
        }
        isb();
    }

    /// Reads CVAL.
    pub fn cval(self) -> u64 {
        match self {
            Self::Virtual => mrs!("CNTV_CVAL_EL0"),
            Self::Physical => mrs!("CNTP_CVAL_EL0"),
        }
    }

    /// Writes CVAL.
    pub fn set_cval(self, value: u64) {
        match self {
            Self::Virtual => msr!("CNTV_CVAL_EL0", value),
            Self::Physical => msr!("CNTP_CVAL_EL0", value),
        }
        isb();
    }

    /// Reads TVAL.
    pub fn tval(self) -> u64 {
        isb();
        match self {
            Self::Virtual => mrs!("CNTV_TVAL_EL0"),
            Self::Physical => mrs!("CNTP_TVAL_EL0"),
        }
    }

    /// Writes TVAL.
    pub fn set_tval(self, value: u64) {
        match self {
            Self::Virtual => msr!("CNTV_TVAL_EL0", value),
            Self::Physical => msr!("CNTP_TVAL_EL0", value),
        }
        isb();
    }
}

/// Ticks of the counter in a second.
pub fn frequency() -> u64 {
    mrs!("CNTFRQ_EL0")
}

/// Ticks of the counter in `us` microseconds.
pub fn ticks(us: u64) -> u64 {
    frequency() * us / 1_000_000
}

/// The virtual counter.
pub fn now() -> u64 {
    Timer::Virtual.now()
}

/// Waits until `us` microseconds have passed; interrupts come through if they are not masked.
pub fn delay(us: u64) {
    let end = now() + ticks(us);
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Waits for `done`, at most `ms` milliseconds; whether it came. What makes it true calls [`cpu::notify`] or is an
/// interrupt of this CPU.
pub fn wait_for(ms: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + ticks(ms * 1000);
    loop {
        if done() {
            return true;
        }
        if now() >= end {
            return done();
        }
        cpu::relax();
    }
}
