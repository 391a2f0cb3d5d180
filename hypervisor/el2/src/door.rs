//! The one door for registers whose name or layout depends on HCR_EL2.E2H, which `boot` has chosen when the first CPU's MMU went on.
//!
//! With E2H = 0 the `_EL1` names below are the guest's registers. With E2H = 1 the same encodings reach EL2's own, and the guest's are
//! the `_EL12` and `_EL02` forms: the same encoding with op1 = 5. So that there is one text and no branch, [`guest_mrs`] and
//! [`guest_msr`] emit the plain form and record in the section `.merus.guest_regs` where it stands; `boot` gives every recorded
//! instruction its other form before it is executed for the first time (`boot::mode`, "redirected"). The redirected registers go
//! through these two macros, and no others do: `cargo xtask lint` (`lint-e2h`) holds it against the binary. CPTR_EL2 and CNTHCTL_EL2
//! have two layouts: [`layout`]. TGE is 0 in both modes.

use crate::layout::{E2H_0, E2H_1, Layout};
use crate::regs::mrs;

/// HCR_EL2.E2H as Merus runs.
pub fn e2h() -> bool {
    mrs!("HCR_EL2") & E2H_1.hcr != 0
}

/// The values of the registers with two layouts, as Merus runs.
pub(crate) fn layout() -> &'static Layout {
    if e2h() { &E2H_1 } else { &E2H_0 }
}

impl Layout {
    /// CPTR_EL2 while EL2 runs: as under a guest. In the build `debug-fp` FP traps: the way into a guest and out of it
    /// ([`crate::vectors`]) and the switch of the guest's registers ([`crate::fp`]) change between the two.
    pub(crate) fn cptr_own(&self) -> u64 {
        if cfg!(feature = "debug-fp") { self.cptr_fp_traps } else { self.cptr_guest }
    }
}

/// Reads a register of the loaded guest that is redirected where E2H is 1.
macro_rules! guest_mrs {
    ($name:literal) => {{
        let value: u64;
        #[allow(unused_unsafe)] // Where the macro stands inside an `unsafe` block.
        {
            // SAFETY: reads a system register; the caller of the macro made sure that the CPU has it. The record is not executed.
            unsafe {
                core::arch::asm!(concat!("22: mrs {}, ", $name), ".pushsection .merus.guest_regs, \"a\"", ".4byte 22b - .",
                    ".popsection", out(reg) value, options(nomem, nostack, preserves_flags));
            }
        }
        value
    }};
}

/// Writes a register of the loaded guest that is redirected where E2H is 1, inside an `unsafe` block that says whose state it becomes.
macro_rules! guest_msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("22: msr ", $name, ", {}"), ".pushsection .merus.guest_regs, \"a\"", ".4byte 22b - .",
            ".popsection", in(reg) value, options(nostack, preserves_flags));
    }};
}

pub(crate) use {guest_mrs, guest_msr};
