//! Self-hosted debug of a guest: its breakpoint and watchpoint registers in hardware.
//!
//! The registers trap (MDCR_EL2.TDA), so the values live with the vCPU; hardware holds them only while that vCPU is loaded
//! and has something switched on. So nothing of one vCPU can be read by another, and a vCPU that does not debug costs nothing.

use crate::regs::{msr, op};

/// The most breakpoints (and watchpoints) that the architecture allows.
pub const MAX: usize = 16;

macro_rules! pairs {
    ($which:expr, $control:expr, $value:expr, $cop:literal, $vop:literal) => {
        match $which {
            0 => pair!("0", $control, $value, $cop, $vop),
            1 => pair!("1", $control, $value, $cop, $vop),
            2 => pair!("2", $control, $value, $cop, $vop),
            3 => pair!("3", $control, $value, $cop, $vop),
            4 => pair!("4", $control, $value, $cop, $vop),
            5 => pair!("5", $control, $value, $cop, $vop),
            6 => pair!("6", $control, $value, $cop, $vop),
            7 => pair!("7", $control, $value, $cop, $vop),
            8 => pair!("8", $control, $value, $cop, $vop),
            9 => pair!("9", $control, $value, $cop, $vop),
            10 => pair!("10", $control, $value, $cop, $vop),
            11 => pair!("11", $control, $value, $cop, $vop),
            12 => pair!("12", $control, $value, $cop, $vop),
            13 => pair!("13", $control, $value, $cop, $vop),
            14 => pair!("14", $control, $value, $cop, $vop),
            _ => pair!("15", $control, $value, $cop, $vop),
        }
    };
}
macro_rules! pair {
    ($n:literal, $control:expr, $value:expr, $cop:literal, $vop:literal) => {{
        core::arch::asm!(concat!("msr S2_0_C0_C", $n, "_", $vop, ", {}"), in(reg) $value, options(nostack, preserves_flags));
        core::arch::asm!(concat!("msr S2_0_C0_C", $n, "_", $cop, ", {}"), in(reg) $control, options(nostack, preserves_flags));
    }};
}

fn set_breakpoint(n: usize, control: u64, value: u64) {
    // SAFETY: DBGBVR<n>/DBGBCR<n>_EL1; the callers stay below the CPU's count. They act on EL0 and EL1 only, because the vCPU's
    // control values are masked by its owner to these levels (HMC and SSC clear for EL2), and EL2 masks debug exceptions.
    unsafe { pairs!(n, control, value, "5", "4") }
}

fn set_watchpoint(n: usize, control: u64, value: u64) {
    // SAFETY: as for `set_breakpoint`, DBGWVR<n>/DBGWCR<n>_EL1.
    unsafe { pairs!(n, control, value, "7", "6") }
}

/// All breakpoints and watchpoints off.
pub fn clear(breakpoints: u8, watchpoints: u8) {
    for n in 0..usize::from(breakpoints) {
        set_breakpoint(n, 0, 0);
    }
    for n in 0..usize::from(watchpoints) {
        set_watchpoint(n, 0, 0);
    }
}

/// A vCPU's debug registers, (control, value) pairs and MDSCR_EL1.
#[derive(Clone, Copy, Debug)]
pub struct DebugValues<'a> {
    /// DBGBCR and DBGBVR, at most [`MAX`]; none where neither a breakpoint nor a watchpoint is on.
    pub breakpoints: &'a [(u64, u64)],
    /// DBGWCR and DBGWVR, at most [`MAX`].
    pub watchpoints: &'a [(u64, u64)],
    /// MDSCR_EL1.
    pub mdscr: u64,
}

/// Puts a vCPU's debug registers into hardware that has so many of each, and whose breakpoints and watchpoints are off or this vCPU's.
pub fn load(values: &DebugValues<'_>, breakpoints: u8, watchpoints: u8) {
    for (n, (control, value)) in values.breakpoints.iter().enumerate().take(usize::from(breakpoints).min(MAX)) {
        set_breakpoint(n, *control, *value);
    }
    for (n, (control, value)) in values.watchpoints.iter().enumerate().take(usize::from(watchpoints).min(MAX)) {
        set_watchpoint(n, *control, *value);
    }
    // SAFETY: the loaded guest's own MDSCR_EL1; EL2 runs with PSTATE.D set and MDCR_EL2.TDE clear, so it takes no debug exception.
    unsafe {
        msr!("MDSCR_EL1", values.mdscr);
        op!("isb");
    }
}

/// Takes MDSCR_EL1 out again.
pub fn unload() {
    // SAFETY: no debug event may come any more from what the leaving vCPU set.
    unsafe { msr!("MDSCR_EL1", 0) };
}
