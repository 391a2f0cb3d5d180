//! Coprocessor traps of an AArch32 EL0 (Arm ARM, ESR_EL2, "ISS encoding for an exception from an MCR or MRC access"
//! and its neighbours).
//!
//! Where the manual numbers registers of an AArch32 instruction it gives their AArch64 view, so `rt` indexes
//! [`GuestFrame`](crate::GuestFrame) directly; 31 stands for the flags (`MRC APSR_nzcv`).

use crate::frame::{Condition, Il};

/// Which coprocessor space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coprocessor {
    /// FP and SIMD identification registers (VMRS).
    Cp10,
    /// Debug and trace.
    Cp14,
    /// System control, timers, performance monitors.
    Cp15,
}

/// What the instruction was to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpOp {
    /// MCR or MRC: one 32-bit register.
    Transfer32 {
        /// `opc1`.
        opc1: u8,
        /// `CRn` (for VMRS the FP register's number).
        crn: u8,
        /// `CRm`.
        crm: u8,
        /// `opc2`.
        opc2: u8,
        /// General register.
        rt: u8,
    },
    /// MCRR or MRRC: one 64-bit register.
    Transfer64 {
        /// `opc1`.
        opc1: u8,
        /// `CRm`.
        crm: u8,
        /// General register of the low half.
        rt: u8,
        /// General register of the high half.
        rt2: u8,
    },
    /// LDC or STC (only DBGDTRRXint and DBGDTRTXint exist).
    Memory,
}

/// A trapped coprocessor access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpTrap {
    /// Which coprocessor.
    pub cp: Coprocessor,
    /// What it was to do.
    pub op: CpOp,
    /// From the coprocessor to the general register (MRC, MRRC, VMRS; STC for memory).
    pub read: bool,
    /// Under which condition; check it before anything else.
    pub condition: Condition,
    /// The instruction's length.
    pub il: Il,
}

/// `CV` and `COND` of an AArch32 syndrome.
#[inline]
pub(crate) fn condition(iss: u32) -> Condition {
    if iss >> 24 & 1 != 0 { Condition::Code((iss >> 20 & 0xf) as u8) } else { Condition::FromIt }
}

pub(crate) fn transfer32(cp: Coprocessor, iss: u32, il: Il) -> CpTrap {
    let op = CpOp::Transfer32 {
        opc2: (iss >> 17 & 7) as u8,
        opc1: (iss >> 14 & 7) as u8,
        crn: (iss >> 10 & 0xf) as u8,
        rt: (iss >> 5 & 31) as u8,
        crm: (iss >> 1 & 0xf) as u8,
    };
    CpTrap { cp, op, read: iss & 1 != 0, condition: condition(iss), il }
}

pub(crate) fn transfer64(cp: Coprocessor, iss: u32, il: Il) -> CpTrap {
    let op = CpOp::Transfer64 {
        opc1: (iss >> 16 & 0xf) as u8,
        rt2: (iss >> 10 & 31) as u8,
        rt: (iss >> 5 & 31) as u8,
        crm: (iss >> 1 & 0xf) as u8,
    };
    CpTrap { cp, op, read: iss & 1 != 0, condition: condition(iss), il }
}

pub(crate) fn memory(iss: u32, il: Il) -> CpTrap {
    CpTrap { cp: Coprocessor::Cp14, op: CpOp::Memory, read: iss & 1 == 0, condition: condition(iss), il }
}
