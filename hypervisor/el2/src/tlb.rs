//! TLB maintenance for stage 2, exactly as much as the tables' change asks for, and the flushes of a shared pCPU.

use crate::door::{guest_mrs, guest_msr};
use crate::errata::Errata;
use crate::regs::{mrs, msr, op};
use crate::world::stop_walks;
use stage2::{Flush, TlbWork, Vmid, VmidSlot};

/// Executes a VM's TLB maintenance on the spot.
pub struct VmTlb<'a, F: Fn(Vmid) -> u64> {
    slot: &'a VmidSlot,
    vttbr: F,
    errata: Errata,
}

impl<'a, F: Fn(Vmid) -> u64> VmTlb<'a, F> {
    /// For the VM with this VMID slot, whose VTTBR_EL2 `vttbr` makes.
    pub fn new(slot: &'a VmidSlot, vttbr: F, errata: Errata) -> Self {
        Self { slot, vttbr, errata }
    }
    /// Runs `work` with VTTBR_EL2 naming this VM.
    fn under(&self, work: impl FnOnce()) {
        // A VM that never ran is in no TLB.
        let Some(vmid) = self.slot.vmid() else { return };
        let own = (self.vttbr)(vmid);
        let loaded = mrs!("VTTBR_EL2");
        if loaded == own {
            work();
            return;
        }
        // SAFETY: no guest runs on this pCPU while EL2 works; the former value is put back. With the erratum EL1's walks are off
        // meanwhile, so that no speculative one mixes the two guests.
        unsafe {
            let (tcr, sctlr) = (guest_mrs!("TCR_EL1"), guest_mrs!("SCTLR_EL1"));
            let speculative = self.errata.has(Errata::SPECULATIVE_AT);
            if speculative {
                stop_walks(tcr, sctlr);
            }
            msr!("VTTBR_EL2", own);
            op!("isb");
            work();
            msr!("VTTBR_EL2", loaded);
            op!("isb");
            if speculative {
                guest_msr!("SCTLR_EL1", sctlr);
                op!("isb");
                guest_msr!("TCR_EL1", tcr);
            }
        }
    }
}

impl<F: Fn(Vmid) -> u64> TlbWork for VmTlb<'_, F> {
    fn published(&mut self) {
        // SAFETY: a barrier.
        unsafe { op!("dsb ishst") };
    }
    fn flush(&mut self, work: Flush<'_>) {
        // SAFETY: a barrier: the tables' stores come first, before the VMID is read.
        unsafe { op!("dsb ishst") };
        self.under(|| {
            // SAFETY: invalidation only ever costs a table walk.
            unsafe {
                match work {
                    Flush::Leaves(leaves) => {
                        for leaf in leaves {
                            let page = leaf.ipa.as_u64() >> 12;
                            core::arch::asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack, preserves_flags));
                        }
                        op!("dsb ish");
                        op!("tlbi vmalle1is");
                    }
                    Flush::Vm => op!("tlbi vmalls12e1is"),
                }
                op!("dsb ish");
                op!("isb");
            }
        });
    }
}

/// Empties the guests' TLB entries of every pCPU, and the instruction caches: the start of a new VMID generation.
pub fn flush_everything() {
    // SAFETY: invalidation only.
    unsafe {
        op!("dsb ishst");
        op!("tlbi alle1is");
        op!("ic ialluis");
        op!("dsb ish");
        op!("isb");
    }
}

/// What a pCPU owes when it runs another vCPU of a VM than the last one of that VM: two vCPUs may use one ASID for different
/// tables and flush locally, so the first one's translations must not serve the second.
pub fn flush_local_vm() {
    // SAFETY: invalidation only, under the loaded VMID.
    unsafe {
        op!("tlbi vmalle1");
        op!("ic iallu");
        op!("dsb nsh");
        op!("isb");
    }
}

/// Waits for table changes of other pCPUs to be seen here before a VM is entered under a new VMID.
pub fn settle() {
    // SAFETY: a barrier.
    unsafe { op!("dsb ish") };
}
