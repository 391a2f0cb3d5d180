//! Exceptions that the guest takes at EL1, because EL2 says so: what the hardware does on an exception entry, done on
//! the saved state (Arm ARM pseudocode `AArch64.TakeException`, `AArch64.ReportException`, `AArch64.FaultSyndrome`).
//!
//! EL1 is always AArch64; EL0 may have been AArch32.
//!
//! # Not modelled
//! FEAT_EBEP, FEAT_SEBEP, FEAT_GCS, FEAT_UINJ and FEAT_DoubleFault2 (PSTATE bits above 31, SCTLR2_EL1.EASE): the CPU
//! model hides them. Masks: whether an SError or a step may be taken now (PSTATE.A, PSTATE.D, MDSCR_EL1.KDE) is the
//! caller's question, best left to the hardware (HCR_EL2.VSE, PSTATE.SS).

use addr::Va;

use crate::frame::{GuestFrame, pstate};

/// The guest registers that an exception entry reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum El1Reg {
    /// SCTLR_EL1 (read).
    Sctlr,
    /// VBAR_EL1 (read).
    Vbar,
    /// ELR_EL1 (written).
    Elr,
    /// SPSR_EL1 (written).
    Spsr,
    /// ESR_EL1 (written).
    Esr,
    /// FAR_EL1 (written).
    Far,
}

/// The guest's EL1 registers, wherever they live at the moment: in the hardware or in a saved context.
pub trait El1State {
    /// The register's value.
    fn read(&self, reg: El1Reg) -> u64;
    /// Sets the register.
    fn write(&mut self, reg: El1Reg, value: u64);
}

/// Which optional PSTATE bits the guest's CPU has; a bit of an absent feature stays zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PstateFeatures {
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_UAO.
    pub uao: bool,
    /// FEAT_DIT.
    pub dit: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
    /// FEAT_MTE2: PSTATE.TCO.
    pub tco: bool,
    /// FEAT_NMI: PSTATE.ALLINT.
    pub nmi: bool,
}

/// What the guest is to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injection {
    /// The instruction at the program counter is undefined.
    Undefined,
    /// A synchronous external abort of the instruction at the program counter.
    ExternalAbort {
        /// On the fetch; otherwise on its data access.
        instruction: bool,
        /// The data access was a write.
        write: bool,
        /// It was cache maintenance or an address translation (`CM`); those count as writes.
        maintenance: bool,
        /// The faulting virtual address, `None` where it is not known (`FnV`).
        va: Option<Va>,
        /// The abort came on the guest's table walk, at this level (0 to 3).
        on_walk: Option<u8>,
    },
    /// An SError, now.
    SError {
        /// Its syndrome, 25 bits.
        iss: u32,
    },
    /// The step exception after an instruction that was completed in EL2.
    SoftwareStep,
}

const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;
const SCTLR_SPINTMASK: u64 = 1 << 62;

const ESR_IL: u64 = 1 << 25;
const ISS_FNV: u64 = 1 << 10;
const ISS_CM: u64 = 1 << 8;
const ISS_WNR: u64 = 1 << 6;
const FSC_EXTERNAL: u64 = 0b01_0000;
const FSC_EXTERNAL_ON_WALK: u64 = 0b01_0100;
/// `ISV`: bit 24 is valid. `EX` (bit 6): a load-exclusive was stepped; never set here.
const STEP_ISV: u64 = 1 << 24;
const FSC_DEBUG: u64 = 0b10_0010;

/// The frame's guest takes `what` at EL1: the frame is left at the vector, with the old state in ELR, SPSR and ESR.
pub fn inject(frame: &mut GuestFrame, el1: &mut impl El1State, features: &PstateFeatures, what: Injection) {
    let lower = frame.is_el0();
    let (esr, far) = syndrome(what, lower);
    let kind = match what {
        Injection::SError { .. } => 0x180,
        Injection::Undefined | Injection::ExternalAbort { .. } | Injection::SoftwareStep => 0,
    };
    let sctlr = el1.read(El1Reg::Sctlr);
    let vbar = el1.read(El1Reg::Vbar) & !0x7ff;
    el1.write(El1Reg::Esr, esr);
    if let Some(far) = far {
        el1.write(El1Reg::Far, far);
    }
    el1.write(El1Reg::Spsr, frame.pstate);
    el1.write(El1Reg::Elr, frame.pc);
    frame.pc = vbar | origin_offset(frame.pstate) | kind;
    frame.pstate = entry_pstate(frame.pstate, sctlr, features);
}

/// Which quarter of the vector table: by where the exception comes from.
fn origin_offset(old: u64) -> u64 {
    if old & pstate::AARCH32 != 0 {
        0x600
    } else if old & 0xf == 0 {
        0x400
    } else if old & 1 != 0 {
        0x200
    } else {
        0
    }
}

/// ESR_EL1, and FAR_EL1 where the exception writes it.
fn syndrome(what: Injection, lower: bool) -> (u64, Option<u64>) {
    // Each class has one code for a lower exception level and the next one for the same level.
    let class = |code: u64| (if lower { code } else { code | 1 }) << 26 | ESR_IL;
    match what {
        Injection::Undefined => (ESR_IL, None),
        Injection::ExternalAbort { instruction, write, maintenance, va, on_walk } => {
            let status = match on_walk {
                None => FSC_EXTERNAL,
                Some(level) => FSC_EXTERNAL_ON_WALK | u64::from(level & 3),
            };
            let direction = match (instruction, maintenance, write) {
                (true, ..) | (false, false, false) => 0,
                (false, false, true) => ISS_WNR,
                (false, true, _) => ISS_CM | ISS_WNR,
            };
            let far_not_valid = if va.is_none() && on_walk.is_none() { ISS_FNV } else { 0 };
            let code = if instruction { 0x20 } else { 0x24 };
            (class(code) | far_not_valid | direction | status, va.map(Va::as_u64))
        }
        Injection::SError { iss } => (0x2f << 26 | ESR_IL | u64::from(iss & 0x01ff_ffff), None),
        Injection::SoftwareStep => (class(0x32) | STEP_ISV | FSC_DEBUG, None),
    }
}

/// PSTATE on entry to EL1. Everything not named is cleared: BTYPE, IL, SS, UAO, and from AArch32 T, E, IT, GE, Q.
fn entry_pstate(old: u64, sctlr: u64, features: &PstateFeatures) -> u64 {
    let when = |condition: bool, bit: u64| if condition { bit } else { 0 };
    let mut new = old & pstate::NZCV | pstate::EL1H | pstate::DAIF;
    new |= when(features.pan, old & pstate::PAN | when(sctlr & SCTLR_SPAN == 0, pstate::PAN));
    new |= when(features.dit, old & pstate::DIT);
    new |= when(features.ssbs && sctlr & SCTLR_DSSBS != 0, pstate::SSBS);
    new |= when(features.tco, pstate::TCO);
    new | when(features.nmi && sctlr & SCTLR_SPINTMASK == 0, pstate::ALLINT)
}
