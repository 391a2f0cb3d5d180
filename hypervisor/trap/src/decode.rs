//! Syndrome to [`Exit`]. Total: every value of every register decodes to something.

use crate::aarch32::{self, Coprocessor, CpTrap};
use crate::abort::{self, Fault, Mmio};
use crate::frame::{Condition, Il};
use crate::sysreg::SysRegId;

/// Which of EL2's four vectors for a lower exception level was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vector {
    /// Synchronous exception.
    Sync,
    /// Physical IRQ.
    Irq,
    /// Physical FIQ.
    Fiq,
    /// SError.
    SError,
}

/// What the hardware says about an exit. The registers that a vector does not define may hold anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawExit {
    /// Which vector.
    pub vector: Vector,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
}

/// A trapped MSR, MRS or system instruction of AArch64. Completed by `set_reg` for a read, and `skip(Il::Bytes4)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SysReg {
    /// Which register.
    pub id: SysRegId,
    /// General register; 31 is the zero register.
    pub rt: u8,
    /// MRS; otherwise MSR or a system instruction.
    pub read: bool,
}

/// Which wait instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WfxKind {
    /// Wait for interrupt.
    Wfi,
    /// Wait for event.
    Wfe,
    /// Wait for interrupt with timeout (FEAT_WFxT).
    Wfit,
    /// Wait for event with timeout (FEAT_WFxT).
    Wfet,
}

/// A trapped wait instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wfx {
    /// Which.
    pub kind: WfxKind,
    /// The register with the timeout (a CNTVCT value), for WFIT and WFET where the syndrome holds it.
    pub deadline: Option<u8>,
    /// Under which condition (AArch32).
    pub condition: Condition,
    /// The instruction's length.
    pub il: Il,
}

/// An SError's syndrome (Arm ARM, ESR_EL2, "ISS encoding for an SError exception").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SErrorSyndrome {
    /// All 25 bits, as VSESR_EL2 takes them.
    pub iss: u32,
}

/// What becomes of an SError of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SErrorAction {
    /// It is not confined to the guest: Merus ends.
    Fatal,
    /// It may be confined to the guest, but nobody knows what it has spoilt there: the VM ends.
    Stop,
    /// The guest gets it as an SError with this syndrome (for VSESR_EL2), and judges what it was worth.
    Give(u32),
    /// Hardware has mended it.
    Ignore,
}

impl SErrorSyndrome {
    const CATEGORIZED: u32 = 0b01_0001;
    const IDS: u32 = 1 << 24;
    const AET_SHIFT: u32 = 10;
    /// What a guest is shown: AET, EA and DFSC. (IESB says how *EL2* came to take it.)
    const GIVEN: u32 = 7 << Self::AET_SHIFT | 1 << 9 | 0x3f;

    /// What becomes of the error, by the asynchronous error type (AET). `can_give`: the CPUs have FEAT_RAS, so that the guest can be
    /// shown the type.
    ///
    /// | syndrome | type | what |
    /// |---|---|---|
    /// | AET 0 | uncontainable | fatal |
    /// | AET 1 | unrecoverable: the guest's state is spoilt | the VM ends |
    /// | AET 2, 3 | restartable, recoverable: the guest can go on, or repair what it knows | given to it |
    /// | AET 6 | corrected | ignored |
    /// | AET 4, 5, 7 | reserved | the VM ends |
    /// | not categorized, or implementation defined | unknown | the VM ends |
    pub fn action(self, can_give: bool) -> SErrorAction {
        if self.iss & Self::IDS != 0 || self.iss & 0x3f != Self::CATEGORIZED {
            return SErrorAction::Stop;
        }
        match self.iss >> Self::AET_SHIFT & 7 {
            0 => SErrorAction::Fatal,
            2 | 3 if can_give => SErrorAction::Give(self.iss & Self::GIVEN),
            6 => SErrorAction::Ignore,
            _ => SErrorAction::Stop,
        }
    }
}

/// Which debug exception. They reach EL2 only while MDCR_EL2.TDE is set, for someone who debugs the guest from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugKind {
    /// Hardware breakpoint.
    Breakpoint,
    /// Software step.
    Step,
    /// Watchpoint.
    Watchpoint,
    /// BKPT (A32, T32).
    Bkpt,
    /// Vector catch (AArch32).
    VectorCatch,
    /// BRK (A64).
    Brk,
}

/// A debug exception routed to EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugEvent {
    /// Which.
    pub kind: DebugKind,
    /// Its syndrome, 25 bits.
    pub iss: u32,
}

/// Why a guest exited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A load or store where nothing is mapped, with a valid syndrome.
    Mmio(Mmio),
    /// Any other abort.
    Stage2Fault(Fault),
    /// MSR, MRS or a system instruction (A64).
    SysReg(SysReg),
    /// HVC, from A64 or AArch32; the program counter is past it.
    Hvc {
        /// The instruction's immediate.
        imm: u16,
    },
    /// SMC that HCR_EL2.TSC trapped; the program counter is on it.
    Smc {
        /// The instruction's immediate (zero from AArch32, whose syndrome has none).
        imm: u16,
        /// Under which condition (AArch32).
        condition: Condition,
        /// The instruction's length.
        il: Il,
    },
    /// WFI, WFE and their forms with a timeout.
    Wfx(Wfx),
    /// A physical IRQ came while the guest ran.
    Irq,
    /// A physical FIQ came while the guest ran.
    Fiq,
    /// An SError came while the guest ran.
    SError(SErrorSyndrome),
    /// FP or Advanced SIMD was used while CPTR_EL2 traps it (A64 or AArch32).
    FpTrap,
    /// SVE was used while CPTR_EL2 traps it.
    SveTrap,
    /// SME was used while CPTR_EL2 traps it.
    SmeTrap,
    /// A pointer authentication instruction or key was used while HCR_EL2.{API, APK} trap it.
    PauthTrap,
    /// A coprocessor access of an AArch32 EL0.
    Aarch32Cp(CpTrap),
    /// A debug exception routed to EL2.
    Debug(DebugEvent),
    /// The guest's PSTATE.IL was set and the exception was routed to EL2.
    IllegalState,
    /// An exception class that cannot come with Merus' settings, or that is reserved: the guest gets an undefined
    /// instruction exception, counted and logged at a limited rate.
    Unknown {
        /// Exception class, six bits.
        ec: u8,
        /// Syndrome, 25 bits.
        iss: u32,
    },
}

/// Exception classes (Arm ARM, ESR_EL2, field "EC").
/// Exception classes (Arm ARM, "ESR_EL2", EC).
#[allow(missing_docs)] // Named after what they are the class of.
pub mod ec {
    /// Where the class is in the syndrome.
    pub const SHIFT: u32 = 26;
    /// How wide it is.
    pub const MASK: u64 = 0x3f;
    pub const WFX: u8 = 0x01;
    pub const CP15_32: u8 = 0x03;
    pub const CP15_64: u8 = 0x04;
    pub const CP14_32: u8 = 0x05;
    pub const CP14_MEM: u8 = 0x06;
    pub const FP: u8 = 0x07;
    pub const CP10: u8 = 0x08;
    pub const PAUTH: u8 = 0x09;
    pub const CP14_64: u8 = 0x0c;
    pub const ILLEGAL_STATE: u8 = 0x0e;
    pub const HVC32: u8 = 0x12;
    pub const SMC32: u8 = 0x13;
    pub const HVC64: u8 = 0x16;
    pub const SMC64: u8 = 0x17;
    pub const SYSREG: u8 = 0x18;
    pub const SVE: u8 = 0x19;
    pub const SME: u8 = 0x1d;
    pub const INSTRUCTION_ABORT: u8 = 0x20;
    pub const DATA_ABORT: u8 = 0x24;
    pub const SERROR: u8 = 0x2f;
    pub const BREAKPOINT: u8 = 0x30;
    pub const STEP: u8 = 0x32;
    pub const WATCHPOINT: u8 = 0x34;
    pub const BKPT: u8 = 0x38;
    pub const VECTOR_CATCH: u8 = 0x3a;
    pub const BRK: u8 = 0x3c;
}

/// Says what an exit is. Total and without side effects.
///
/// Only `esr[31:0]` is looked at: the second syndrome word (`ISS2`) describes features that the CPU model hides.
#[inline(always)]
pub fn decode(raw: &RawExit) -> Exit {
    let iss = (raw.esr & 0x01ff_ffff) as u32;
    match raw.vector {
        Vector::Irq => Exit::Irq,
        Vector::Fiq => Exit::Fiq,
        Vector::SError => Exit::SError(SErrorSyndrome { iss }),
        Vector::Sync => synchronous(raw, iss),
    }
}

// Always inlined: in the one dispatcher that calls it the exit then never goes through memory.
#[inline(always)]
fn synchronous(raw: &RawExit, iss: u32) -> Exit {
    let il = if raw.esr >> 25 & 1 != 0 { Il::Bytes4 } else { Il::Bytes2 };
    match (raw.esr >> 26 & 0x3f) as u8 {
        ec::DATA_ABORT => match device_access(raw.esr, raw.far, raw.hpfar) {
            Some(mmio) => Exit::Mmio(mmio),
            None => Exit::Stage2Fault(abort::fault(false, iss, il, raw.far, raw.hpfar)),
        },
        ec::SYSREG => Exit::SysReg(register_access(raw.esr)),
        ec::WFX => Exit::Wfx(wfx(iss, il)),
        ec::HVC64 | ec::HVC32 => Exit::Hvc { imm: iss as u16 },
        ec::SMC64 => Exit::Smc { imm: iss as u16, condition: Condition::FromIt, il },
        ec::INSTRUCTION_ABORT => Exit::Stage2Fault(abort::fault(true, iss, il, raw.far, raw.hpfar)),
        ec::FP => Exit::FpTrap,
        other => uncommon(other, iss, il),
    }
}

/// The data abort with syndrome `esr` as a device access, if it is one: what [`decode`] gives for [`ec::DATA_ABORT`].
#[inline(always)]
pub fn device_access(esr: u64, far: u64, hpfar: u64) -> Option<Mmio> {
    let il = if esr >> 25 & 1 != 0 { Il::Bytes4 } else { Il::Bytes2 };
    abort::mmio((esr & 0x01ff_ffff) as u32, il, far, hpfar)
}

/// The trapped MSR, MRS or system instruction with syndrome `esr`: what [`decode`] gives for [`ec::SYSREG`].
#[inline(always)]
pub fn register_access(esr: u64) -> SysReg {
    let iss = (esr & 0x01ff_ffff) as u32;
    SysReg { id: SysRegId::from_iss(iss), rt: (iss >> 5 & 31) as u8, read: iss & 1 != 0 }
}

/// The classes that do not come in a guest's normal life; out of line to keep [`decode`] small where it is inlined.
#[inline(never)]
fn uncommon(class: u8, iss: u32, il: Il) -> Exit {
    let debug = |kind| Exit::Debug(DebugEvent { kind, iss });
    match class {
        ec::SMC32 => Exit::Smc { imm: 0, condition: smc32_condition(iss), il },
        ec::SVE => Exit::SveTrap,
        ec::SME => Exit::SmeTrap,
        ec::PAUTH => Exit::PauthTrap,
        ec::CP15_32 => Exit::Aarch32Cp(aarch32::transfer32(Coprocessor::Cp15, iss, il)),
        ec::CP15_64 => Exit::Aarch32Cp(aarch32::transfer64(Coprocessor::Cp15, iss, il)),
        ec::CP14_32 => Exit::Aarch32Cp(aarch32::transfer32(Coprocessor::Cp14, iss, il)),
        ec::CP14_64 => Exit::Aarch32Cp(aarch32::transfer64(Coprocessor::Cp14, iss, il)),
        ec::CP14_MEM => Exit::Aarch32Cp(aarch32::memory(iss, il)),
        ec::CP10 => Exit::Aarch32Cp(aarch32::transfer32(Coprocessor::Cp10, iss, il)),
        ec::SERROR => Exit::SError(SErrorSyndrome { iss }),
        ec::BREAKPOINT => debug(DebugKind::Breakpoint),
        ec::STEP => debug(DebugKind::Step),
        ec::WATCHPOINT => debug(DebugKind::Watchpoint),
        ec::BKPT => debug(DebugKind::Bkpt),
        ec::VECTOR_CATCH => debug(DebugKind::VectorCatch),
        ec::BRK => debug(DebugKind::Brk),
        ec::ILLEGAL_STATE => Exit::IllegalState,
        ec => Exit::Unknown { ec, iss },
    }
}

#[inline]
fn wfx(iss: u32, il: Il) -> Wfx {
    let kind = match iss & 3 {
        0 => WfxKind::Wfi,
        1 => WfxKind::Wfe,
        2 => WfxKind::Wfit,
        _ => WfxKind::Wfet,
    };
    let timed = iss & 2 != 0 && iss >> 2 & 1 != 0;
    let deadline = timed.then_some((iss >> 5 & 31) as u8);
    Wfx { kind, deadline, condition: aarch32::condition(iss), il }
}

/// SMC from AArch32 says by `CCKNOWNPASS` (bit 19, zero when it passed) whether the condition has been checked.
fn smc32_condition(iss: u32) -> Condition {
    if iss >> 19 & 1 == 0 { Condition::Code(0b1110) } else { aarch32::condition(iss) }
}
