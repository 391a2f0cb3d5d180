//! The guest registers: every EL0/EL1 register, and whether it is switched with the vCPU, trapped, or hidden.
//!
//! | registers | how |
//! |---|---|
//! | those in `guest_registers!` below | switched: they stay in hardware until another vCPU is loaded |
//! | V0-V31, FPSR, FPCR | switched ([`crate::fp`]) |
//! | CNTV_CTL, CNTV_CVAL | switched ([`crate::timer`]) |
//! | pointer authentication keys, SCXTNUM_EL0/1 | switched where the CPU has them |
//! | VDISR_EL2, VSESR_EL2 | switched where the CPU has RAS: with HCR_EL2.AMO set the guest's DISR_EL1 is VDISR_EL2 |
//! | HCR_EL2.VSE (a virtual SError that the guest has not taken) | switched |
//! | MPIDR_EL1, MIDR_EL1 | the guest reads VMPIDR_EL2 (set at load) and VPIDR_EL2 |
//! | CSSELR_EL1, CCSIDR_EL1, CTR_EL0, CLIDR_EL1 | trapped (TID2): the model answers |
//! | ID registers, AIDR, REVIDR | trapped (TID1, TID3): the model answers |
//! | ACTLR_EL1, IMPLEMENTATION DEFINED | trapped (TACR, TIDCP): reads as zero, undefined |
//! | debug registers, OS lock, MDSCR_EL1 | trapped (TDA, TDOSA, TDRA); in hardware while in use ([`crate::debug`]) |
//! | CNTP_* | trapped (EL1PCEN clear): emulated |
//! | PMU, SPE, trace, AMU, MPAM, RAS error records, LORegions, SVE, SME, MTE | hidden in the model, trapped |
//! | ICC_* | the GIC redirects them to the virtual interface; ICC_SGI*R trap |
//! | DACR32_EL2, IFSR32_EL2, FPEXC32_EL2, banked SPSRs | belong to AArch32 at EL1, which no guest has; AArch32 at EL0 cannot reach them |
//! | DCZID_EL0, CNTFRQ_EL0, CNTPCT_EL0 | cannot be hidden without FGT: the guest sees the machine's |

use crate::door::{guest_mrs, guest_msr};
use crate::errata::Errata;
use crate::features::Features;
use crate::fp::FpState;
use crate::regs::{mrs, msr, op};
use crate::start::HCR_VSE;
use crate::timer::VirtualTimer;
use trap::{El1Reg, El1State};

macro_rules! guest_registers {
    ({ $($field:ident $name:literal,)* } as they are named { $($own:ident $own_name:literal,)* }) => {
        /// The switched EL1 registers of a vCPU that is not loaded.
        #[derive(Clone, Debug, Default)]
        #[allow(missing_docs)] // Fields are named after the registers.
        pub struct El1Registers { $(pub $field: u64,)* $(pub $own: u64,)* }

        impl El1Registers {
            fn save(&mut self) {
                $(self.$field = guest_mrs!($name);)*
                $(self.$own = mrs!($own_name);)*
            }
            fn load(&self) {
                // SAFETY: these are exactly the registers of the vCPU that is being loaded; none of them acts on EL2, whatever E2H is.
                unsafe { $(guest_msr!($name, self.$field);)* $(msr!($own_name, self.$own);)* }
            }
        }
    };
}

// The first part through the door of E2H ([`crate::door`]); the others have one name at EL2.
guest_registers! {
    {
        sctlr "SCTLR_EL1",
        tcr "TCR_EL1",
        cpacr "CPACR_EL1",
        ttbr0 "TTBR0_EL1",
        ttbr1 "TTBR1_EL1",
        mair "MAIR_EL1",
        amair "AMAIR_EL1",
        esr "ESR_EL1",
        far "FAR_EL1",
        afsr0 "AFSR0_EL1",
        afsr1 "AFSR1_EL1",
        vbar "VBAR_EL1",
        contextidr "CONTEXTIDR_EL1",
        elr "ELR_EL1",
        spsr "SPSR_EL1",
        cntkctl "CNTKCTL_EL1",
    } as they are named {
        tpidr "TPIDR_EL1",
        tpidr_el0 "TPIDR_EL0",
        tpidrro_el0 "TPIDRRO_EL0",
        sp_el0 "SP_EL0",
        sp_el1 "SP_EL1",
        par "PAR_EL1",
    }
}

/// SCTLR_EL1 when a vCPU starts: its RES1 bits for a CPU without the features that took them, MMU and caches off.
const SCTLR_RESET: u64 = 0x30d0_0800;

/// What a vCPU has in the pCPU's registers besides its general ones.
#[derive(Clone, Debug, Default)]
pub struct GuestState {
    /// The EL1 registers.
    pub el1: El1Registers,
    /// FP and Advanced SIMD.
    pub fp: FpState,
    /// The virtual timer.
    pub timer: VirtualTimer,
    /// VMPIDR_EL2: what the guest reads as MPIDR_EL1.
    pub vmpidr: u64,
    keys: [u64; 10],
    scxtnum: [u64; 2],
    serror: [u64; 2],
    /// HCR_EL2.VSE.
    vse: bool,
}

/// Where a VM's stage 2 is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// VTTBR_EL2: root table and VMID.
    pub vttbr: u64,
    /// VTCR_EL2.
    pub vtcr: u64,
    /// CNTVOFF_EL2: physical minus virtual counter, in ticks.
    pub counter_offset: u64,
}

impl GuestState {
    /// The state in which PSCI starts a vCPU (DEN0022, "Initial state of the core"; Arm ARM, "Reset to AArch64 state"), with
    /// `mpidr` as its name.
    pub fn reset(mpidr: u64) -> Self {
        Self {
            el1: El1Registers { sctlr: SCTLR_RESET, ..El1Registers::default() },
            vmpidr: 1 << 31 | mpidr,
            ..Self::default()
        }
    }
    /// Takes the pCPU's registers for this vCPU. `put` of the one before has been called.
    ///
    /// # Safety
    /// `space` is this vCPU's VM's, its tables are whole, and its VMID is this VM's in the current generation; `hcr` is the start
    /// state's HCR_EL2, with stage 2 on.
    pub unsafe fn load(&self, space: &Space, hcr: u64, f: &Features, errata: Errata) {
        // SAFETY: the caller vouches for the tables; the registers are those of the vCPU that comes. With the erratum, EL1's table
        // walks are off until both stages belong to one guest.
        unsafe {
            let speculative = errata.has(Errata::SPECULATIVE_AT);
            if speculative {
                // Off already, by `park`; here with the coming guest's other fields.
                stop_walks(self.el1.tcr, self.el1.sctlr);
            }
            msr!("VTCR_EL2", space.vtcr);
            msr!("VTTBR_EL2", space.vttbr);
            msr!("VMPIDR_EL2", self.vmpidr);
            // Stage 2 is on before EL1's walks are: none is ever made with one stage alone.
            msr!("HCR_EL2", hcr | if self.vse { HCR_VSE } else { 0 });
            if speculative {
                let mut el1 = self.el1.clone();
                (el1.tcr, el1.sctlr) = (self.el1.tcr | WALKS_OFF, self.el1.sctlr | 1);
                el1.load();
                // Both stages are the coming guest's, and on, before a walk can begin: M first, which changes nothing while
                // walks are off, then the walks.
                op!("isb");
                guest_msr!("SCTLR_EL1", self.el1.sctlr);
                op!("isb");
                guest_msr!("TCR_EL1", self.el1.tcr);
            } else {
                self.el1.load();
            }
            if f.pauth {
                self.load_keys();
            }
            if f.csv2_2 {
                msr!("S3_3_C13_C0_7", self.scxtnum[0]);
                guest_msr!("S3_0_C13_C0_7", self.scxtnum[1]);
            }
            if f.ras {
                msr!("S3_4_C12_C1_1", self.serror[0]);
                msr!("S3_4_C5_C2_3", self.serror[1]);
            }
        }
        self.fp.load();
        self.timer.load(space.counter_offset);
    }
    /// Saves the pCPU's registers, because another vCPU comes, and stops the timer.
    pub fn put(&mut self, f: &Features) {
        self.timer.put();
        self.el1.save();
        if f.pauth {
            self.save_keys();
        }
        if f.csv2_2 {
            self.scxtnum = [mrs!("S3_3_C13_C0_7"), guest_mrs!("S3_0_C13_C0_7")];
        }
        if f.ras {
            self.serror = [mrs!("S3_4_C12_C1_1"), mrs!("S3_4_C5_C2_3")];
        }
        self.fp.save();
    }
    /// Whether it has been given an SError that it has not taken.
    pub(crate) fn serror_pending(&self) -> bool {
        self.vse
    }
    /// Notes that, for the next load.
    pub(crate) fn set_serror_pending(&mut self, pending: bool) {
        self.vse = pending;
    }
    fn save_keys(&mut self) {
        self.keys = [
            mrs!("S3_0_C2_C1_0"),
            mrs!("S3_0_C2_C1_1"),
            mrs!("S3_0_C2_C1_2"),
            mrs!("S3_0_C2_C1_3"),
            mrs!("S3_0_C2_C2_0"),
            mrs!("S3_0_C2_C2_1"),
            mrs!("S3_0_C2_C2_2"),
            mrs!("S3_0_C2_C2_3"),
            mrs!("S3_0_C2_C3_0"),
            mrs!("S3_0_C2_C3_1"),
        ];
    }
    /// # Safety
    /// The CPU has FEAT_PAuth.
    unsafe fn load_keys(&self) {
        let k = &self.keys;
        // SAFETY: the keys of the vCPU that is being loaded; EL2 signs no pointers.
        unsafe {
            msr!("S3_0_C2_C1_0", k[0]);
            msr!("S3_0_C2_C1_1", k[1]);
            msr!("S3_0_C2_C1_2", k[2]);
            msr!("S3_0_C2_C1_3", k[3]);
            msr!("S3_0_C2_C2_0", k[4]);
            msr!("S3_0_C2_C2_1", k[5]);
            msr!("S3_0_C2_C2_2", k[6]);
            msr!("S3_0_C2_C2_3", k[7]);
            msr!("S3_0_C2_C3_0", k[8]);
            msr!("S3_0_C2_C3_1", k[9]);
        }
    }
}

/// The EL1 registers of the vCPU that is loaded on this pCPU, where an exception is being given to it.
#[derive(Debug)]
pub struct LoadedEl1(());

impl LoadedEl1 {
    /// The loaded vCPU's registers. Every write goes to the guest that runs here, and to nobody else.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Default for LoadedEl1 {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! el1_registers {
    ($($variant:ident $name:literal,)*) => {
        impl El1State for LoadedEl1 {
            fn read(&self, register: El1Reg) -> u64 {
                match register { $(El1Reg::$variant => guest_mrs!($name),)* }
            }
            fn write(&mut self, register: El1Reg, value: u64) {
                // SAFETY: EL1 registers of the loaded guest; none acts on EL2.
                unsafe { match register { $(El1Reg::$variant => guest_msr!($name, value),)* } }
            }
        }
    };
}

el1_registers! {
    Sctlr "SCTLR_EL1",
    Vbar "VBAR_EL1",
    Elr "ELR_EL1",
    Spsr "SPSR_EL1",
    Esr "ESR_EL1",
    Far "FAR_EL1",
}

/// What controls the loaded guest's stage 1.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // Fields are named after the registers.
pub struct Stage1Controls {
    pub sctlr: u64,
    pub tcr: u64,
    pub ttbr0: u64,
    pub ttbr1: u64,
}

impl LoadedEl1 {
    /// What controls the loaded guest's stage 1.
    pub fn stage1(&self) -> Stage1Controls {
        Stage1Controls {
            sctlr: guest_mrs!("SCTLR_EL1"),
            tcr: guest_mrs!("TCR_EL1"),
            ttbr0: guest_mrs!("TTBR0_EL1"),
            ttbr1: guest_mrs!("TTBR1_EL1"),
        }
    }
    /// PAR_EL1 after `va` has been translated by stage 1 of the loaded guest alone, as an access of EL0 or EL1 and a write or
    /// not; the guest finds its own PAR_EL1 unchanged (Arm ARM, "Address translation instructions").
    ///
    /// Stage 2 is the same guest's and on, as always while one is loaded: this is not where the erratum of speculative
    /// translation ([`Errata::SPECULATIVE_AT`]) strikes, and no EL1 walk has to be switched off. A walk that leaves the guest's
    /// RAM ends in PAR_EL1.F, without an exception.
    pub fn translate(&mut self, va: u64, el0: bool, write: bool) -> u64 {
        let own = mrs!("PAR_EL1");
        // SAFETY: with TGE clear the instructions use the loaded guest's EL1&0 translation and change PAR_EL1 only, which is put
        // back behind the barrier that makes it readable.
        unsafe {
            match (el0, write) {
                (false, false) => core::arch::asm!("at s1e1r, {}", in(reg) va, options(nostack, preserves_flags)),
                (false, true) => core::arch::asm!("at s1e1w, {}", in(reg) va, options(nostack, preserves_flags)),
                (true, false) => core::arch::asm!("at s1e0r, {}", in(reg) va, options(nostack, preserves_flags)),
                (true, true) => core::arch::asm!("at s1e0w, {}", in(reg) va, options(nostack, preserves_flags)),
            }
            op!("isb");
            let found = mrs!("PAR_EL1");
            msr!("PAR_EL1", own);
            found
        }
    }
}

/// Sets HCR_EL2 for the loaded vCPU.
///
/// # Safety
/// `value` is [`crate::start::hcr`]'s with nothing changed but TWI, TWE, TVM and VSE.
pub unsafe fn set_hcr(value: u64) {
    // SAFETY: the caller's promise; takes effect at the latest at the `eret`.
    unsafe { msr!("HCR_EL2", value) };
}

/// Whether the loaded vCPU has not taken the SError that it was given.
pub(crate) fn serror_pending() -> bool {
    mrs!("HCR_EL2") & HCR_VSE != 0
}

/// The syndrome of the next virtual SError.
///
/// # Safety
/// The register is the loaded vCPU's.
pub(crate) unsafe fn set_serror(syndrome: u32, f: &Features) {
    if f.ras {
        // SAFETY: the caller's promise; the CPU has FEAT_RAS.
        unsafe { msr!("S3_4_C5_C2_3", u64::from(syndrome) & 0x01ff_ffff) };
    }
}

/// TCR_EL1.EPD0 and EPD1: no walk of either half.
const WALKS_OFF: u64 = 1 << 7 | 1 << 23;

/// Switches EL1's table walks off, whatever else is in TCR_EL1 and SCTLR_EL1: first the walks, then M, because without M stage 1 is off,
/// addresses go to stage 2 as they are and EPD means nothing. Each is in effect before the next, and before anything that follows.
///
/// # Safety
/// No guest is entered before both registers have been given their values again.
#[inline]
pub(crate) unsafe fn stop_walks(tcr: u64, sctlr: u64) {
    // SAFETY: the caller's promise; EL2's own translation uses neither register.
    unsafe {
        guest_msr!("TCR_EL1", tcr | WALKS_OFF);
        op!("isb");
        guest_msr!("SCTLR_EL1", sctlr | 1);
        op!("isb");
    }
}

/// Nobody is loaded: stage 2 is off, and VTTBR_EL2 names the host's VMID, so nothing that is cached from here on carries one that
/// may change hands. With the erratum EL1's walks are switched off first, while both stages are still the leaving guest's, and they
/// stay so until the next load: whatever an AT that was fetched speculatively does in between, it finds no table to walk.
///
/// # Safety
/// No guest is entered before [`GuestState::load`]; the leaving vCPU's EL1 registers have been saved.
pub(crate) unsafe fn park(hcr: u64, errata: Errata) {
    // SAFETY: the caller's promise: these registers are nobody's any more.
    unsafe {
        if errata.has(Errata::SPECULATIVE_AT) {
            stop_walks(guest_mrs!("TCR_EL1"), guest_mrs!("SCTLR_EL1"));
        }
        msr!("HCR_EL2", hcr & !1);
        op!("isb");
        msr!("VTTBR_EL2", 0);
        op!("isb");
    }
}

/// FAR_EL2 and HPFAR_EL2 of the last abort.
#[inline(always)]
pub fn fault_registers() -> (u64, u64) {
    (mrs!("FAR_EL2"), mrs!("HPFAR_EL2"))
}

/// Writes a stage-1 control register of the loaded guest whose writes trap (HCR_EL2.TVM), named by its `S3_0_C<crn>_C<crm>_<op2>`
/// parts. Returns whether MMU and data cache were both on before and are both on now; `None` for any other register.
pub fn write_stage1(crn: u8, crm: u8, op2: u8, value: u64) -> Option<(bool, bool)> {
    const ON: u64 = 1 | 1 << 2;
    let before = guest_mrs!("SCTLR_EL1");
    // SAFETY: the registers that HCR_EL2.TVM names, of the loaded guest, with the value that it wrote.
    unsafe {
        match (crn, crm, op2) {
            (1, 0, 0) => guest_msr!("SCTLR_EL1", value),
            (2, 0, 0) => guest_msr!("TTBR0_EL1", value),
            (2, 0, 1) => guest_msr!("TTBR1_EL1", value),
            (2, 0, 2) => guest_msr!("TCR_EL1", value),
            (5, 2, 0) => guest_msr!("ESR_EL1", value),
            (6, 0, 0) => guest_msr!("FAR_EL1", value),
            (5, 1, 0) => guest_msr!("AFSR0_EL1", value),
            (5, 1, 1) => guest_msr!("AFSR1_EL1", value),
            (10, 2, 0) => guest_msr!("MAIR_EL1", value),
            (10, 3, 0) => guest_msr!("AMAIR_EL1", value),
            (13, 0, 1) => guest_msr!("CONTEXTIDR_EL1", value),
            _ => return None,
        }
    }
    Some((before & ON == ON, guest_mrs!("SCTLR_EL1") & ON == ON))
}
