//! The one door for registers whose name or layout depends on HCR_EL2.E2H.
//!
//! Today Merus runs with E2H = 0 on every CPU, with or without FEAT_VHE; the other mode comes in here and nowhere else.
//! With E2H = 1 the plain `_EL1` names below would reach EL2's own registers, the guest's would be the `_EL12` forms, and
//! CPTR_EL2 and CNTHCTL_EL2 have other layouts (Arm ARM, "Effect of the HCR_EL2.E2H bit on register access").
//! TGE is 0 in both modes.

/// HCR_EL2.E2H as Merus runs.
pub const E2H: bool = false;

/// CPTR_EL2 (E2H = 0) for a guest that may use FP and Advanced SIMD and nothing else: RES1 bits (which trap SVE and SME),
/// trace registers trapped (TTA), activity monitors trapped (TAM). TFP would trap EL2 as well, so it is not set under guests.
pub const CPTR_GUEST: u64 = 0x33ff | 1 << 20 | 1 << 30;

/// CPTR_EL2 while EL2 runs: [`CPTR_GUEST`]. In the build `debug-fp` TFP is set as well: the way into a guest and out of it
/// ([`crate::vectors`]) and the switch of the guest's registers ([`crate::fp`]) change between the two.
pub const CPTR_OWN: u64 = if cfg!(feature = "debug-fp") { CPTR_GUEST | 1 << 10 } else { CPTR_GUEST };

/// CNTHCTL_EL2 (E2H = 0): the guest reads CNTPCT_EL0 itself (EL1PCTEN), its physical timer is trapped (EL1PCEN clear).
pub const CNTHCTL_GUEST: u64 = 1;

/// Reads an EL1 register of the loaded guest.
macro_rules! guest_mrs {
    ($name:literal) => {
        $crate::regs::mrs!($name)
    };
}

/// Writes an EL1 register of the loaded guest, inside an `unsafe` block that says whose state it becomes.
macro_rules! guest_msr {
    ($name:literal, $value:expr) => {
        $crate::regs::msr!($name, $value)
    };
}

pub(crate) use {guest_mrs, guest_msr};
