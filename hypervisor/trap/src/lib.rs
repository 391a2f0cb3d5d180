//! What a guest's exit means, how a trapped instruction is completed, and how an exception is given to the guest.
//!
//! The unsafe world ends at [`RawExit`] and [`GuestFrame`]: four numbers from EL2's syndrome registers and the general
//! registers that the vectors saved. Everything here is a function of those, so every rule is tested on the host.
//!
//! | module | what |
//! |---|---|
//! | [`frame`](GuestFrame) | the saved registers; stepping over an instruction; AArch32 conditions |
//! | [`decode`](decode()) | syndrome to [`Exit`]: total, every value gives an exit |
//! | [`abort`](Fault) | stage 2 aborts: [`Mmio`] with a valid syndrome, [`Fault`] for everything else |
//! | [`aarch32`](CpTrap) | coprocessor traps of a 32-bit EL0, which Cortex-A53 and A72 always offer |
//! | [`sysreg`] | names of system registers as the syndrome encodes them |
//! | [`inject`](inject()) | exceptions taken by the guest at EL1 |
//!
//! # Not modelled
//! Nested virtualization (FEAT_NV: ERET and VNCR syndromes), AArch32 at EL1, 64-byte and 128-bit accesses (FEAT_LS64,
//! FEAT_D128), memory copy instructions (FEAT_MOPS): such an exit is [`Exit::Unknown`] and the guest gets an undefined
//! instruction exception; the CPU model hides all of them.
//!
//! # References
//! Arm Architecture Reference Manual for A-profile (DDI 0487, issue L.b): "ESR_EL2, Exception Syndrome Register (EL2)",
//! "HPFAR_EL2, Hypervisor IPA Fault Address Register", and the pseudocode `AArch64.TakeException`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(test)]
extern crate std;

mod aarch32;
mod abort;
mod decode;
mod frame;
mod inject;
pub mod sysreg;

pub use aarch32::{Coprocessor, CpOp, CpTrap};
pub use abort::{Access, Fault, FaultIpa, FaultStatus, Mmio};
pub use decode::{
    DebugEvent, DebugKind, Exit, RawExit, SErrorAction, SErrorSyndrome, SysReg, Vector, Wfx, WfxKind, decode,
    device_access, ec, register_access,
};
pub use frame::{Condition, GuestFrame, Il, Stepped, pstate};
pub use inject::{El1Reg, El1State, Injection, PstateFeatures, inject};
pub use sysreg::SysRegId;

#[cfg(test)]
mod tests;
