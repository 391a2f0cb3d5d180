//! A vCPU's self-hosted debug registers. All accesses trap; hardware holds the values while something is switched on.
//!
//! (Arm ARM, "AArch64 Self-hosted Debug".) Breakpoint and watchpoint controls are cut to what acts at EL1 and EL0: a guest
//! has no EL2 or EL3 whose execution it could watch, and linked or context-matching kinds pass as they are, because they
//! compare with the guest's own CONTEXTIDR_EL1.
//!
//! Not modelled: the debug communications channel (reads as empty, writes are dropped), external debug.

use trap::SysRegId;
use trap::sysreg;

/// As many breakpoints (and watchpoints) as the architecture allows.
pub const MAX: usize = 16;

/// DBGBCR: E, PMC, BAS, SSC, LBN, BT less its top bit: those types compare VMIDs or EL2's context.
const BCR_MASK: u64 = 0x007f_c1e7;
/// DBGWCR: E, PAC, LSC, BAS, LBN, SSC, WT, MASK.
const WCR_MASK: u64 = 0x1f1f_dfff;
/// HMC: with it set, EL2 counts as well.
const HMC: u64 = 1 << 13;
/// MDSCR_EL1: SS, TDCC, KDE, MDE; the OS-lock-only fields are kept while the lock is closed.
const MDSCR_MASK: u64 = 1 | 1 << 12 | 1 << 13 | 1 << 15;

/// The registers of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugState {
    /// (DBGBCR, DBGBVR).
    pub breakpoints: [(u64, u64); MAX],
    /// (DBGWCR, DBGWVR).
    pub watchpoints: [(u64, u64); MAX],
    /// MDSCR_EL1.
    pub mdscr: u64,
    /// A breakpoint or watchpoint is switched on.
    armed: bool,
    os_lock: bool,
    os_double_lock: u64,
    mdccint: u64,
    claim: u64,
}

impl Default for DebugState {
    /// As after a cold reset: everything off, the OS lock closed.
    fn default() -> Self {
        Self {
            breakpoints: [(0, 0); MAX],
            watchpoints: [(0, 0); MAX],
            mdscr: 0,
            armed: false,
            os_lock: true,
            os_double_lock: 0,
            mdccint: 0,
            claim: 0,
        }
    }
}

/// What an access did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugAccess {
    /// A read's value.
    Value(u64),
    /// A write, with no effect on hardware.
    Written,
    /// A write after which hardware has to follow ([`DebugState::hardware`]).
    Changed,
    /// There is no such register.
    Undefined,
}

impl DebugState {
    /// Whether hardware has to hold the registers: something can cause a debug exception, or EL0 is kept from the communications channel
    /// (Linux does that and nothing else).
    pub fn in_use(&self) -> bool {
        !self.os_lock && (self.mdscr & MDSCR_MASK != 0 || self.armed)
    }
    /// Whether it has to hold the breakpoints and watchpoints then: one is switched on. (One that is not does nothing.)
    pub fn is_armed(&self) -> bool {
        self.armed
    }
    /// A trapped access: `write` is the value of an MSR. `breakpoints` and `watchpoints` are how many the CPU model shows.
    pub fn access(&mut self, id: SysRegId, write: Option<u64>, breakpoints: usize, watchpoints: usize) -> DebugAccess {
        if let Some((slot, is_value, mask)) = self.slot(id, breakpoints, watchpoints) {
            let field = if is_value { &mut slot.1 } else { &mut slot.0 };
            return match write {
                None => DebugAccess::Value(*field),
                Some(value) => {
                    *field = value & mask;
                    self.armed = self.breakpoints.iter().chain(&self.watchpoints).any(|(control, _)| control & 1 != 0);
                    DebugAccess::Changed
                }
            };
        }
        match (id, write) {
            (sysreg::MDSCR_EL1, None) => DebugAccess::Value(self.mdscr),
            (sysreg::MDSCR_EL1, Some(value)) => {
                self.mdscr = value & MDSCR_MASK;
                DebugAccess::Changed
            }
            (sysreg::OSLAR_EL1, Some(value)) => {
                self.os_lock = value & 1 != 0;
                DebugAccess::Changed
            }
            // OSLM = 0b10: the lock is implemented.
            (sysreg::OSLSR_EL1, None) => DebugAccess::Value(1 << 3 | if self.os_lock { 1 << 1 } else { 0 }),
            (sysreg::OSDLR_EL1, None) => DebugAccess::Value(self.os_double_lock),
            (sysreg::OSDLR_EL1, Some(value)) => {
                self.os_double_lock = value & 1;
                DebugAccess::Written
            }
            (sysreg::MDCCINT_EL1, None) => DebugAccess::Value(self.mdccint),
            (sysreg::MDCCINT_EL1, Some(value)) => {
                self.mdccint = value & (3 << 29);
                DebugAccess::Written
            }
            (sysreg::DBGCLAIMSET_EL1, None) => DebugAccess::Value(0xff),
            (sysreg::DBGCLAIMSET_EL1, Some(value)) => {
                self.claim |= value & 0xff;
                DebugAccess::Written
            }
            (sysreg::DBGCLAIMCLR_EL1, None) => DebugAccess::Value(self.claim),
            (sysreg::DBGCLAIMCLR_EL1, Some(value)) => {
                self.claim &= !value;
                DebugAccess::Written
            }
            // Non-secure invasive and non-invasive debug: not implemented externally.
            (sysreg::DBGAUTHSTATUS_EL1 | sysreg::MDRAR_EL1 | sysreg::MDCCSR_EL0, None) => DebugAccess::Value(0),
            (
                sysreg::DBGPRCR_EL1
                | sysreg::DBGDTR_EL0
                | sysreg::DBGDTRRX_EL0
                | sysreg::OSDTRRX_EL1
                | sysreg::OSDTRTX_EL1
                | sysreg::OSECCR_EL1,
                None,
            ) => DebugAccess::Value(0),
            (
                sysreg::DBGPRCR_EL1
                | sysreg::DBGDTR_EL0
                | sysreg::DBGDTRRX_EL0
                | sysreg::OSDTRRX_EL1
                | sysreg::OSDTRTX_EL1
                | sysreg::OSECCR_EL1,
                Some(_),
            ) => DebugAccess::Written,
            _ => DebugAccess::Undefined,
        }
    }
    /// The pair behind DBGBVR/DBGBCR/DBGWVR/DBGWCR, whether the value register is meant, and the writable bits.
    fn slot(&mut self, id: SysRegId, breakpoints: usize, watchpoints: usize) -> Option<(&mut (u64, u64), bool, u64)> {
        let n = usize::from(id.crm());
        if (id.op0(), id.op1(), id.crn()) != (2, 0, 0) {
            return None;
        }
        let (pairs, count, is_value, mask) = match id.op2() {
            4 => (&mut self.breakpoints, breakpoints, true, !3),
            5 => (&mut self.breakpoints, breakpoints, false, BCR_MASK & !HMC),
            6 => (&mut self.watchpoints, watchpoints, true, !3),
            7 => (&mut self.watchpoints, watchpoints, false, WCR_MASK & !HMC),
            _ => return None,
        };
        if n >= count {
            return None;
        }
        pairs.get_mut(n).map(|pair| (pair, is_value, mask))
    }
}
