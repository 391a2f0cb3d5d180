//! Stolen time: how a guest learns for how long a vCPU of its own had something to do and no CPU to do it on.
//!
//! Each vCPU has a record of [`RECORD_SIZE`] bytes in memory that the guest can only read; PV_TIME_ST says where the caller's is.
//!
//! | bytes | what |
//! |---|---|
//! | 0 to 3 | revision: 0 |
//! | 4 to 7 | attributes: 0 |
//! | 8 to 15 ([`STOLEN_AT`]) | stolen time in ns, little endian, read and written by one access of 64 bits |
//! | 16 to 63 | zero |
//!
//! So a record of zeroes is a whole one that says "nothing yet". Who writes the time is the kernel's business.
//!
//! Not modelled: the 32-bit convention, which the interface does not have; LPT, the live physical time of later issues.
//!
//! Arm DEN 0057 (Paravirtualized Time for Arm-based Systems) issue A, "Stolen time".

use addr::{Address, Ipa, PAGE_SIZE, Span};

use crate::{Call, Env, Regs, ids, status_regs};

/// Bytes of one vCPU's record, and its alignment.
pub const RECORD_SIZE: u64 = 64;
/// Where in a record the stolen time is.
pub const STOLEN_AT: u64 = 8;

/// Where the time of vCPU `vcpu` is in memory that begins with vCPU 0's record, in bytes from there.
#[inline]
pub const fn stolen_at(vcpu: u32) -> u64 {
    (vcpu as u64).wrapping_mul(RECORD_SIZE).wrapping_add(STOLEN_AT)
}

/// The whole pages that the records of `vcpus` vCPUs take from `first` on; `None` where that wraps.
pub fn window(first: Ipa, vcpus: u32) -> Option<Span<Ipa>> {
    let size = u64::from(vcpus).checked_mul(RECORD_SIZE)?;
    Span::new(first, size.checked_next_multiple_of(PAGE_SIZE)?)
}

/// PV_TIME_FEATURES, and SMCCC_ARCH_FEATURES on it.
pub(crate) fn feature(function: u32, env: &Env) -> i64 {
    match function {
        ids::PV_TIME_FEATURES | ids::PV_TIME_ST if env.stolen_time.is_some() => ids::SUCCESS,
        _ => ids::NOT_SUPPORTED,
    }
}

/// Serves a call of vCPU `caller` for which [`Call::is_pv_time`]: where its record is. Any other is NOT_SUPPORTED.
pub fn handle(caller: u32, call: &Call, env: &Env) -> Regs {
    match (call.function, env.stolen_time) {
        (ids::PV_TIME_ST, Some(first)) => match first.checked_add(u64::from(caller).wrapping_mul(RECORD_SIZE)) {
            Some(at) => [at.as_u64(), 0, 0, 0],
            None => status_regs(ids::NOT_SUPPORTED),
        },
        _ => status_regs(ids::NOT_SUPPORTED),
    }
}
