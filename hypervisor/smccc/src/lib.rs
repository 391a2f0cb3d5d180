//! What a guest's HVC or SMC means: SMC calling convention, PSCI, TRNG and Merus' own calls, as pure state machines.
//!
//! # How a call is served
//! 1. [`fast`] answers whatever needs no state of the VM (versions, features, workarounds) without any lock. It is a small
//!    match, because a version query is how the cost of a hypercall is measured.
//! 2. [`Fast::Stateful`]: build a [`Call`]. [`Call::is_trng`] goes to [`trng::handle`] with the VM's [`entropy::Entropy`],
//!    [`Call::is_pv_time`] to [`pv_time::handle`], [`Call::is_yield`] to the scheduler; everything else goes to [`psci::Psci::handle`] under the VM's lock. All are total: any register content gets an answer.
//! 3. The [`psci::Outcome`] says what happens to the caller and to other vCPUs; this crate runs nothing itself.
//!
//! # Registers
//! Calls take x0-x6 (only w0-w6 for a call with the 32-bit convention) and answer in x0-x3; x4-x17 are preserved by not
//! being touched (SMCCC 1.2, "Parameters and results"). Result registers that a call does not define are zero. A negative
//! status is sign extended to all of x0 also for 32-bit calls, whose upper half the convention leaves open: a guest that
//! looks at w0 and one that looks at x0 both see the status. Data (versions, UUID words) is zero extended.
//!
//! # Every call of the table
//! | identifier | call | answered by |
//! |---|---|---|
//! | 0x8000_0000 | SMCCC_VERSION: 1.2 | [`fast`] |
//! | 0x8000_0001 | SMCCC_ARCH_FEATURES | [`fast`] |
//! | 0x8000_0002, 0xC000_0002 | SMCCC_ARCH_SOC_ID | not supported: a virtual machine has no SoC |
//! | 0x8000_8000, 0x8000_7FFF, 0x8000_3FFF | SMCCC_ARCH_WORKAROUND_1, _2, _3 | [`fast`] by [`Env`] |
//! | 0x8400_0000 | PSCI_VERSION: 1.1 | [`fast`] |
//! | 0x8400_0001, 0xC400_0001 | CPU_SUSPEND | [`psci`] |
//! | 0x8400_0002 | CPU_OFF | [`psci`] |
//! | 0x8400_0003, 0xC400_0003 | CPU_ON | [`psci`] |
//! | 0x8400_0004, 0xC400_0004 | AFFINITY_INFO | [`psci`] |
//! | 0x8400_0006 | MIGRATE_INFO_TYPE: 2, nothing to migrate | [`fast`] |
//! | 0x8400_0008, 0x8400_0009 | SYSTEM_OFF, SYSTEM_RESET | [`psci`] |
//! | 0x8400_000A | PSCI_FEATURES | [`fast`] |
//! | 0x8400_0012, 0xC400_0012 | SYSTEM_RESET2: architectural warm reset only | [`psci`] |
//! | 0x8400_0050 to 0x8400_0053, 0xC400_0053 | TRNG_VERSION (1.0), _FEATURES, _GET_UUID, _RND | [`trng`], where [`Env::trng`] |
//! | 0xC500_0020 | PV_TIME_FEATURES, where [`Env::stolen_time`] | [`fast`] |
//! | 0xC500_0021 | PV_TIME_ST: where the caller's record of stolen time is | [`pv_time`] |
//! | 0x8600_0000 | MERUS_FEATURES: x0 = bit mask of the vendor calls 0x8600_0000 to 0x8600_001F that exist | [`fast`] |
//! | 0x8600_0001 | MERUS_YIELD: the caller waits for another vCPU; what a WFE does where it traps; x0 = 0 | the caller of this crate, by [`Call::is_yield`] |
//! | 0x8600_FF01 | UID of the vendor range: [`ids::MERUS_UID`] | [`fast`] |
//! | 0x8600_FF03 | revision of the vendor range: x0 = major, x1 = minor | [`fast`] |
//! | all others | | NOT_SUPPORTED (-1) |
//!
//! # Not modelled
//! Callers in AArch32: EL1 of a guest is AArch64 always and EL0 cannot call, so there is no caller that may not use the
//! 64-bit convention. The immediate of the instruction, which SMCCC wants zero, is the caller's business.
//!
//! # References
//! Arm DEN 0028 (SMCCC) 1.2; Arm DEN 0022 (PSCI) issue D; Arm DEN 0098 (TRNG firmware interface) 1.0;
//! Arm DEN 0057 (Paravirtualized Time for Arm-based Systems) issue A.
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

pub mod entropy;
pub mod ids;
pub mod psci;
pub mod pv_time;
#[cfg(test)]
mod tests;
pub mod trng;

use addr::Ipa;

/// The result registers x0 to x3.
pub type Regs = [u64; 4];

/// What the firmware of the machine does about one of the Arm architecture workarounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Workaround {
    /// Neither firmware nor the CPU's identification says: the guest is told NOT_SUPPORTED and decides for itself.
    #[default]
    Unknown,
    /// No CPU of the machine needs it: discovery answers 1, and the call does nothing.
    NotNeeded,
    /// Firmware implements it: discovery answers 0, and the call is forwarded.
    FirmwareHas,
}

/// What a VM's calls may rely on; constant for the life of the VM.
///
/// A workaround is `FirmwareHas` only if every pCPU that may run the VM says so, because a vCPU moves. For
/// ARCH_WORKAROUND_2 there is one more condition: what it sets belongs to the *physical* CPU, so it may be forwarded only
/// where the kernel switches that setting with the vCPU. Else it is `NotNeeded` or `Unknown`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Env {
    /// SMCCC_ARCH_WORKAROUND_1 (branch target injection).
    pub workaround_1: Workaround,
    /// SMCCC_ARCH_WORKAROUND_2 (speculative store bypass).
    pub workaround_2: Workaround,
    /// SMCCC_ARCH_WORKAROUND_3 (branch history injection).
    pub workaround_3: Workaround,
    /// Whether the VM has a source of entropy at all; without one the whole TRNG service is not supported.
    pub trng: bool,
    /// Where the record of stolen time of vCPU 0 is, the others' behind it; `None` where the VM has none.
    pub stolen_time: Option<Ipa>,
}

impl Env {
    /// The entry for the workaround `function`; `None` if `function` is no workaround.
    fn workaround(&self, function: u32) -> Option<Workaround> {
        match function {
            ids::ARCH_WORKAROUND_1 => Some(self.workaround_1),
            ids::ARCH_WORKAROUND_2 => Some(self.workaround_2),
            ids::ARCH_WORKAROUND_3 => Some(self.workaround_3),
            _ => None,
        }
    }
}

/// What [`fast`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fast {
    /// Put these into x0 to x3 and resume.
    Return(Regs),
    /// Make the firmware call with this identifier (an Arm architecture workaround) on this pCPU with the guest's x1,
    /// then resume with x0 = 0 to x3 = 0.
    Forward(u32),
    /// The call needs state: build a [`Call`].
    Stateful,
}

/// Answers a call that needs neither the VM's lock nor a register beyond x1.
#[inline]
pub fn fast(x0: u64, x1: u64, env: &Env) -> Fast {
    // The function identifier is w0; bits 63:32 of x0 mean nothing.
    match low(x0) {
        ids::PSCI_VERSION => value(ids::PSCI_1_1),
        ids::SMCCC_VERSION => value(ids::SMCCC_1_2),
        function => fast_others(function, low(x1), env),
    }
}

/// The rest of [`fast`], out of line so that its commonest calls stay short at the caller.
fn fast_others(function: u32, arg: u32, env: &Env) -> Fast {
    match function {
        ids::ARCH_FEATURES => status(arch_feature(arg, env)),
        ids::ARCH_WORKAROUND_1 | ids::ARCH_WORKAROUND_2 | ids::ARCH_WORKAROUND_3 => match env.workaround(function) {
            Some(Workaround::FirmwareHas) => Fast::Forward(function),
            Some(Workaround::NotNeeded) => status(ids::SUCCESS),
            Some(Workaround::Unknown) | None => status(ids::NOT_SUPPORTED),
        },
        ids::PSCI_FEATURES => status(psci::feature(arg)),
        ids::PV_TIME_FEATURES => status(pv_time::feature(arg, env)),
        ids::MIGRATE_INFO_TYPE => value(ids::MIGRATE_NOT_NEEDED),
        ids::VENDOR_FEATURES => value(ids::VENDOR_FEATURE_BITS),
        ids::VENDOR_UID => Fast::Return(words(ids::MERUS_UID)),
        ids::VENDOR_REVISION => Fast::Return([ids::VENDOR_MAJOR, ids::VENDOR_MINOR, 0, 0]),
        _ => Fast::Stateful,
    }
}

/// SMCCC_ARCH_FEATURES, which speaks of the Arm architecture calls only (SMCCC 1.2, "SMCCC_ARCH_FEATURES"), and by which
/// stolen time is found (DEN 0057, "PV_TIME_FEATURES").
fn arch_feature(function: u32, env: &Env) -> i64 {
    match function {
        ids::SMCCC_VERSION | ids::ARCH_FEATURES => ids::SUCCESS,
        ids::PV_TIME_FEATURES => pv_time::feature(function, env),
        _ => match env.workaround(function) {
            Some(Workaround::FirmwareHas) => ids::SUCCESS,
            Some(Workaround::NotNeeded) => ids::WORKAROUND_UNAFFECTED,
            Some(Workaround::Unknown) | None => ids::NOT_SUPPORTED,
        },
    }
}

/// One call that needs state, its arguments already cut to the width of its convention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// The function identifier.
    pub function: u32,
    /// x1 to x6, each cut to 32 bits if the identifier names the 32-bit convention.
    pub args: [u64; 6],
}

impl Call {
    /// From the guest's x0 and x1 to x6.
    #[inline]
    pub fn new(x0: u64, args: [u64; 6]) -> Self {
        let function = low(x0);
        let mask = if function & ids::SMC64 == 0 { u64::from(u32::MAX) } else { u64::MAX };
        Self { function, args: args.map(|a| a & mask) }
    }
    /// Whether the call uses the 64-bit convention (bit 30 of the identifier).
    pub fn is_64(&self) -> bool {
        self.function & ids::SMC64 != 0
    }
    /// Whether [`trng::handle`] serves it.
    #[inline]
    pub fn is_trng(&self) -> bool {
        matches!(self.function & !ids::SMC64, ids::TRNG_VERSION..=ids::TRNG_LAST)
    }
    /// Whether it is MERUS_YIELD, which succeeds: the caller gives way to others, its VM's first.
    #[inline]
    pub fn is_yield(&self) -> bool {
        self.function == ids::VENDOR_YIELD
    }
    /// Whether [`pv_time::handle`] serves it.
    #[inline]
    pub fn is_pv_time(&self) -> bool {
        self.function == ids::PV_TIME_ST
    }
}

/// The low 32 bits.
#[inline]
fn low(x: u64) -> u32 {
    (x & u64::from(u32::MAX)) as u32
}

/// A status in x0, sign extended; see the module's text on registers.
#[inline]
fn status_regs(status: i64) -> Regs {
    [status.cast_unsigned(), 0, 0, 0]
}

#[inline]
fn status(status: i64) -> Fast {
    Fast::Return(status_regs(status))
}

#[inline]
fn value(value: u64) -> Fast {
    Fast::Return([value, 0, 0, 0])
}

/// A UUID in w0 to w3: byte 0 in bits 7:0 of w0 (SMCCC 1.2, "UID query").
fn words(uuid: u128) -> Regs {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = uuid.to_be_bytes();
    [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]].map(|w| u64::from(u32::from_le_bytes(w)))
}
