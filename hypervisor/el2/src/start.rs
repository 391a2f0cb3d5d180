//! The start state: every EL2 control register that resets to an UNKNOWN value or that firmware may have set, and what each
//! pCPU writes to it before its first guest (`docs/exit-path.md` shows when).
//!
//! A feature that this table does not name is one that Merus does not know; its EL2 controls are then unknown too, but the
//! CPU model hides the feature, and its registers fall under the traps below wherever the architecture offers one.

use crate::door::{guest_msr, layout};
use crate::errata::BranchHistory;
use crate::features::Features;
use crate::regs::{mrs, msr, op};

/// HCR_EL2 for guests, less what depends on the CPU's features ([`hcr`]): stage 2 on, set/way by clean and invalidate, physical
/// interrupts and SErrors to EL2, broadcast TLB and cache maintenance widened to inner shareable (FB, BSU), WFI trapped, ID
/// registers trapped (TID1, TID2, TID3), SMC trapped, IMPLEMENTATION DEFINED registers and ACTLR trapped, set/way trapped,
/// EL1 is AArch64.
const HCR_GUEST: u64 = 1 // VM
    | 1 << 1 // SWIO
    | 1 << 2 // PTW: a table walk into device memory faults
    | 1 << 3 // FMO
    | 1 << 4 // IMO
    | 1 << 5 // AMO
    | 1 << 9 // FB
    | 1 << 10 // BSU = inner shareable
    | HCR_TWI
    | 1 << 16 // TID1
    | 1 << 17 // TID2
    | 1 << 18 // TID3
    | 1 << 19 // TSC
    | 1 << 20 // TIDCP
    | 1 << 21 // TACR
    | 1 << 22 // TSW
    | 1 << 31; // RW

/// SCTLR_EL2.IESB: error synchronization at each exception entry and return.
const SCTLR_IESB: u64 = 1 << 21;
/// HCR_EL2.VSE: an SError is pending for the guest; hardware clears it when the guest takes or defers it.
pub const HCR_VSE: u64 = 1 << 8;
/// HCR_EL2.TWI: WFI exits.
pub const HCR_TWI: u64 = 1 << 13;
/// HCR_EL2.TWE: WFE exits.
pub const HCR_TWE: u64 = 1 << 14;
/// HCR_EL2.TWEDEn, with a delay of 2^(4 + 8) cycles (TWEDEL): a WFE that is to exit waits that long for its event first. A lock is
/// mostly held for less, and what a switch costs is of that order.
const HCR_TWED: u64 = 1 << 59 | 4 << 60;
/// HCR_EL2.TVM: writes of the stage-1 control registers exit.
pub const HCR_TVM: u64 = 1 << 26;

/// HCR_EL2 for guests on CPUs with these features, with E2H as it is.
pub fn hcr(f: &Features) -> u64 {
    let mut hcr = HCR_GUEST | layout().hcr;
    if f.twed {
        hcr |= HCR_TWED;
    }
    if f.lor {
        hcr |= 1 << 35; // TLOR
    }
    if f.ras {
        hcr |= 1 << 36; // TERR
    }
    if f.pauth {
        hcr |= 1 << 40 | 1 << 41; // APK, API: guests use pointer authentication without trapping
    }
    if f.fwb {
        hcr |= 1 << 46; // FWB
    }
    if f.mte {
        hcr |= 1 << 58; // TID5
    }
    if f.csv2_2 {
        hcr |= 1 << 53; // EnSCXT: SCXTNUM_ELx is the guest's, switched with it
    }
    hcr
}

/// MDCR_EL2: self-hosted debug, OS lock, PMU, SPE, trace filter and debug communication registers all trap; `HPMN` counters
/// are the guest's on paper, all of them, so that nothing of the PMU belongs to EL2.
fn mdcr(f: &Features) -> u64 {
    let mut mdcr = 1 << 9 | 1 << 10 | 1 << 11; // TDA, TDOSA, TDRA
    if f.pmu {
        mdcr |= 1 << 5 | 1 << 6 | (mrs!("PMCR_EL0") >> 11 & 0x1f); // TPMCR, TPM, HPMN = PMCR.N
    }
    if f.spe {
        mdcr |= 1 << 14; // TPMS
    }
    if f.trf {
        mdcr |= 1 << 19; // TTRF
    }
    if f.fgt {
        mdcr |= 1 << 27; // TDCC
    }
    mdcr
}

/// Writes the start state on this pCPU and sets the exception vectors. `pcpu` becomes TPIDR_EL2. `gicv3`: the board's interrupt
/// controller is used by system registers.
///
/// # Safety
/// Runs once on each pCPU, at EL2 with TGE = 0, before any guest; `pcpu` is the address of a [`crate::PcpuAnchor`] that lives
/// for ever.
pub unsafe fn pcpu(f: &Features, pcpu: u64, gicv3: bool) {
    // SAFETY: EL2's own control registers, before any guest: each value below is the documented meaning "off for guests", or
    // Merus' own setting; registers of a feature are written only where the ID registers say that it is there.
    unsafe {
        msr!("TPIDR_EL2", pcpu);
        msr!("VBAR_EL2", crate::vectors::address(BranchHistory::Nothing, false));
        if f.iesb {
            // The guest's errors are pending before EL2's first instruction, EL2's before the `eret` (crate::vectors, "SErrors").
            msr!("SCTLR_EL2", mrs!("SCTLR_EL2") | SCTLR_IESB);
        }
        op!("isb");
        // SVE and SME lengths first: with the traps of CPTR_EL2 on, these registers would trap EL2 as well.
        let layout = layout();
        msr!("CPTR_EL2", layout.cptr_all);
        op!("isb");
        if f.sve {
            msr!("S3_4_C1_C2_0", 0); // ZCR_EL2
        }
        if f.sme {
            msr!("S3_3_C4_C2_2", 0); // SVCR: streaming mode, in which much of Advanced SIMD is illegal, and ZA are off
            msr!("S3_4_C1_C2_6", 0); // SMCR_EL2
            msr!("S3_4_C1_C2_5", 0); // SMPRIMAP_EL2
        }
        msr!("CPTR_EL2", layout.cptr_own());
        msr!("HCR_EL2", hcr(f) & !1); // Stage 2 comes on with the first vCPU.
        msr!("HSTR_EL2", 0);
        msr!("HACR_EL2", 0);
        msr!("MDCR_EL2", mdcr(f));
        msr!("CNTHCTL_EL2", layout.cnthctl);
        msr!("CNTVOFF_EL2", 0);
        msr!("CNTHP_CTL_EL2", 0);
        guest_msr!("CNTV_CTL_EL0", 0);
        guest_msr!("CNTP_CTL_EL0", 0);
        if f.vhe {
            msr!("S3_4_C2_C0_1", 0); // TTBR1_EL2, which is not walked
            msr!("S3_4_C13_C0_1", 0); // CONTEXTIDR_EL2
            msr!("S3_4_C14_C3_1", 0); // CNTHV_CTL_EL2
        }
        msr!("VPIDR_EL2", mrs!("MIDR_EL1"));
        msr!("VMPIDR_EL2", mrs!("MPIDR_EL1"));
        msr!("VTTBR_EL2", 0);
        features(f);
        gic(f, gicv3);
        debug(f);
        op!("isb");
    }
}

/// # Safety
/// As for [`pcpu`], of which it is a part.
unsafe fn features(f: &Features) {
    // SAFETY: see `pcpu`.
    unsafe {
        if f.hcx {
            msr!("S3_4_C1_C2_2", 0); // HCRX_EL2: no newer EL1 feature is enabled
        }
        if f.fgt {
            // Zero: the negative ("n...") bits trap what is newer than Merus, the positive ones trap nothing.
            msr!("S3_4_C1_C1_4", 0); // HFGRTR_EL2
            msr!("S3_4_C1_C1_5", 0); // HFGWTR_EL2
            msr!("S3_4_C1_C1_6", 0); // HFGITR_EL2
            msr!("S3_4_C3_C1_4", 0); // HDFGRTR_EL2
            msr!("S3_4_C3_C1_5", 0); // HDFGWTR_EL2
            if f.amu {
                msr!("S3_4_C3_C1_6", 0); // HAFGRTR_EL2
            }
        }
        if f.fgt2 {
            msr!("S3_4_C3_C1_0", 0); // HDFGRTR2_EL2
            msr!("S3_4_C3_C1_1", 0); // HDFGWTR2_EL2
            msr!("S3_4_C3_C1_2", 0); // HFGRTR2_EL2
            msr!("S3_4_C3_C1_3", 0); // HFGWTR2_EL2
            msr!("S3_4_C3_C1_7", 0); // HFGITR2_EL2
        }
        if f.ecv_cntpoff {
            msr!("S3_4_C14_C0_6", 0); // CNTPOFF_EL2
        }
        if f.ras {
            msr!("S3_4_C12_C1_1", 0); // VDISR_EL2
            msr!("S3_4_C5_C2_3", 0); // VSESR_EL2
        }
        if f.mpam {
            msr!("S3_4_C10_C5_0", 1 << 48 | 1 << 49 | 1 << 58); // MPAM2_EL2: trap MPAM0, MPAM1, and the ID registers
        }
        if f.trf {
            msr!("S3_4_C1_C2_1", 0); // TRFCR_EL2
        }
        if f.spe {
            msr!("S3_4_C9_C9_0", 0); // PMSCR_EL2
        }
        if f.csv2_2 {
            msr!("S3_4_C13_C0_7", 0); // SCXTNUM_EL2
        }
    }
}

/// # Safety
/// As for [`pcpu`], of which it is a part.
unsafe fn gic(f: &Features, gicv3: bool) {
    if !gicv3 {
        if f.gic_sysregs {
            // SAFETY: see `pcpu`. The board's interrupt controller is in memory, and the CPU's own registers for another stay off.
            unsafe { msr!("S3_4_C12_C9_5", 0) }; // ICC_SRE_EL2
        }
        return;
    }
    // SAFETY: see `pcpu`; the board's device tree says GICv3, so the system registers are there.
    unsafe {
        msr!("S3_4_C12_C9_5", 0xf); // ICC_SRE_EL2: system registers, also for EL1
        op!("isb");
        msr!("S3_4_C12_C11_0", 0); // ICH_HCR_EL2
        msr!("S3_4_C12_C11_7", 0); // ICH_VMCR_EL2
    }
    crate::lists::clear_all();
    crate::gic::start();
}

/// # Safety
/// As for [`pcpu`], of which it is a part.
unsafe fn debug(f: &Features) {
    // SAFETY: see `pcpu`; breakpoints and watchpoints that firmware left are switched off, both locks opened (the OS double
    // lock ignores the write where there is none), and nothing of the debug channel or of the counters interrupts.
    unsafe {
        msr!("OSDLR_EL1", 0);
        msr!("OSLAR_EL1", 0);
        msr!("MDSCR_EL1", 0);
        msr!("MDCCINT_EL1", 0);
        if f.pmu {
            msr!("PMINTENCLR_EL1", u64::from(u32::MAX));
            msr!("PMCNTENCLR_EL0", u64::from(u32::MAX));
        }
    }
    crate::debug::clear(f.breakpoints, f.watchpoints);
}
