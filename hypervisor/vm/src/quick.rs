//! The fast lane: exits so frequent, and so simple, that they are ended here, from the syndrome alone, without the pCPU.
//!
//! | exit | ended here when |
//! |---|---|
//! | HVC | it is a call that needs no state ([`guest_smccc::fast`]) |
//! | MRS | it reads an ID register |
//! | MSR | it sends SGIs |
//! | a load from GICD | nothing has to be folded for it |
//!
//! Each of them ends exactly as [`crate::handle`] would end it (the tests compare the two); everything else is left as it was.

use crate::machine::Vm;
use crate::vcpu::Vcpu;
use crate::{calls, mmio, sysreg};
use trap::{device_access, ec, register_access};

/// Ends the exit of `vcpu` with syndrome `esr` if it is one of the fast lane; `false`: nothing has happened. `fault` reads FAR_EL2
/// and HPFAR_EL2, where they are needed.
#[inline(always)]
pub fn quick(vm: &Vm, vcpu: &mut Vcpu, esr: u64, fault: impl FnOnce() -> (u64, u64)) -> bool {
    match (esr >> ec::SHIFT & ec::MASK) as u8 {
        // The immediate of a call is zero.
        ec::HVC64 if esr & 0xffff == 0 => calls::quick(vm, vcpu),
        ec::SYSREG => sysreg::quick(vm, vcpu, register_access(esr)),
        ec::DATA_ABORT => {
            let (far, hpfar) = fault();
            device_access(esr, far, hpfar).is_some_and(|access| mmio::quick(vm, vcpu, &access))
        }
        _ => false,
    }
}
