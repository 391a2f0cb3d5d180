//! The pCPU's GICv3 CPU interface: acknowledge, priority drop, deactivate, kick (Arm IHI 0069, "AArch64 System register
//! descriptions"; EOImode 1: the end of an interrupt is two steps).

use crate::regs::{mrs, msr, op};

/// An acknowledged interrupt that is none.
pub const SPURIOUS: u32 = 1020;

/// Opens this pCPU's interface for group 1 interrupts of every priority.
pub(crate) fn start() {
    forget_active();
    // SAFETY: the physical CPU interface, Merus' own; PSTATE.I stays set, so nothing is taken in EL2.
    unsafe {
        msr!("S3_0_C4_C6_0", 0xff); // ICC_PMR_EL1
        msr!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1
        msr!("S3_0_C12_C12_4", 1 << 1); // ICC_CTLR_EL1.EOImode
        msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
        op!("isb");
    }
}

/// No priority is active: one that the firmware acknowledged and never dropped would keep every other interrupt away.
///
/// Group 0's registers trap to EL3 where the firmware keeps that group (SCR_EL3.FIQ), and then they are its own affair. Where
/// it does, a non-secure write of ICC_PMR_EL1 is shifted right by one and a read left, so the lowest bit that the interface has
/// does not come back (Arm IHI 0069, "Non-secure access to register fields for Secure interrupt priorities").
fn forget_active() {
    let bits = (mrs!("S3_0_C12_C12_4") >> 8 & 7) + 1; // ICC_CTLR_EL1.PRIbits
    // SAFETY: as for `start`; the registers above the first exist from 6 and from 7 bits of priority on.
    unsafe {
        let lowest = 0x80 >> (bits - 1).min(7);
        msr!("S3_0_C4_C6_0", lowest);
        op!("isb");
        let group0 = mrs!("S3_0_C4_C6_0") == lowest;
        if group0 {
            msr!("S3_0_C12_C12_6", 0); // ICC_IGRPEN0_EL1
            msr!("S3_0_C12_C8_4", 0); // ICC_AP0R0_EL1 and the next ones
        }
        msr!("S3_0_C12_C9_0", 0); // ICC_AP1R0_EL1 and the next ones
        if bits >= 6 {
            if group0 {
                msr!("S3_0_C12_C8_5", 0);
            }
            msr!("S3_0_C12_C9_1", 0);
        }
        if bits >= 7 {
            if group0 {
                msr!("S3_0_C12_C8_6", 0);
                msr!("S3_0_C12_C8_7", 0);
            }
            msr!("S3_0_C12_C9_2", 0);
            msr!("S3_0_C12_C9_3", 0);
        }
        op!("isb");
    }
}

/// ICC_IAR1_EL1: the most urgent pending interrupt, active from now on; [`SPURIOUS`] or above where there is none.
#[inline(always)]
pub fn acknowledge() -> u32 {
    let intid = mrs!("S3_0_C12_C12_0") as u32 & 0xff_ffff;
    // SAFETY: a barrier, so that the acknowledge is seen by the distributor before what the caller does about it.
    unsafe { op!("dsb sy") };
    intid
}

/// ICC_EOIR1_EL1: drops the running priority; the interrupt stays active.
#[inline(always)]
pub fn drop_priority(intid: u32) {
    // SAFETY: the physical CPU interface; `intid` was acknowledged by this pCPU.
    unsafe { msr!("S3_0_C12_C12_1", u64::from(intid)) };
}

/// ICC_DIR_EL1: deactivates an interrupt.
#[inline(always)]
pub fn deactivate(intid: u32) {
    // SAFETY: as for `drop_priority`.
    unsafe { msr!("S3_0_C12_C11_1", u64::from(intid)) };
}

/// ICC_SGI1R_EL1: sends a software-generated interrupt; the stores before it are seen by who takes it.
#[inline(always)]
pub fn send_sgi(value: u64) {
    // SAFETY: the barrier orders memory; the register raises one of Merus' own SGIs on one of Merus' own pCPUs.
    unsafe {
        op!("dsb ishst");
        msr!("S3_0_C12_C11_5", value);
        op!("isb");
    }
}

/// What was read from an interrupt controller in memory is seen before what the caller does about it.
#[inline(always)]
pub fn settle() {
    // SAFETY: a barrier.
    unsafe { op!("dsb sy") };
}

/// The stores before this are seen by whoever takes an interrupt that is sent after it by an interrupt controller in memory.
#[inline(always)]
pub fn publish() {
    // SAFETY: a barrier.
    unsafe { op!("dsb ishst") };
}

/// Sleeps until an interrupt is pending for this pCPU (it need not be taken: PSTATE.I is set).
#[inline(always)]
pub fn wait_for_interrupt() {
    // SAFETY: WFI with interrupts masked; wakes by any pending physical interrupt.
    unsafe {
        op!("dsb sy");
        op!("wfi");
    }
}
