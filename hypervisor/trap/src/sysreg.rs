//! System registers by the number that the syndrome has for them, and the names of those that Merus speaks of.

use core::fmt;

/// A system register or system instruction: `op0`, `op1`, `CRn`, `CRm`, `op2`, packed as the syndrome of a trapped MSR
/// or MRS holds them (Arm ARM, ESR_EL2, "ISS encoding for an exception from MSR, MRS, or System instruction execution").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SysRegId(u32);

impl SysRegId {
    /// Where the syndrome holds a register's number; the rest is the general register and the direction.
    const MASK: u32 = 0x003f_fc1e;

    /// A register by its five numbers; each counts only as far as its field is wide.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            (op0 as u32 & 3) << 20
                | (op2 as u32 & 7) << 17
                | (op1 as u32 & 7) << 14
                | (crn as u32 & 0xf) << 10
                | (crm as u32 & 0xf) << 1,
        )
    }

    /// From a syndrome.
    #[inline]
    pub const fn from_iss(iss: u32) -> Self {
        Self(iss & Self::MASK)
    }

    /// The packed number, as in the syndrome.
    #[inline]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// `op0`: 1 for system instructions, 2 for debug and trace, 3 for everything else.
    #[inline]
    pub const fn op0(self) -> u8 {
        (self.0 >> 20 & 3) as u8
    }
    /// `op1`.
    #[inline]
    pub const fn op1(self) -> u8 {
        (self.0 >> 14 & 7) as u8
    }
    /// `CRn`.
    #[inline]
    pub const fn crn(self) -> u8 {
        (self.0 >> 10 & 0xf) as u8
    }
    /// `CRm`.
    #[inline]
    pub const fn crm(self) -> u8 {
        (self.0 >> 1 & 0xf) as u8
    }
    /// `op2`.
    #[inline]
    pub const fn op2(self) -> u8 {
        (self.0 >> 17 & 7) as u8
    }

    /// `(CRm, op2)` where the register is one of the space that HCR_EL2.TID3 traps: `S3_0_C0_C1_0` to `S3_0_C0_C7_7`,
    /// allocated or not. These are the CPU model's.
    #[inline]
    pub const fn feature_id(self) -> Option<(u8, u8)> {
        let outer = Self::new(3, 7, 15, 0, 0).0;
        if self.0 & outer == Self::new(3, 0, 0, 0, 0).0 && matches!(self.crm(), 1..=7) {
            Some((self.crm(), self.op2()))
        } else {
            None
        }
    }

    /// Whether the number lies in a space left to implementations (`CRn` 11 and 15 of `op0` 1 and 3).
    pub const fn is_implementation_defined(self) -> bool {
        matches!(self.op0(), 1 | 3) && matches!(self.crn(), 11 | 15)
    }

    /// The manual's name, where this table has it. A linear search, for messages only.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(id, _)| *id == self).map(|(_, name)| *name)
    }
}

impl fmt::Display for SysRegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S{}_{}_C{}_C{}_{}", self.op0(), self.op1(), self.crn(), self.crm(), self.op2())?;
        match self.name() {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SysRegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        $(
            #[doc = concat!("`S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, "`")]
            pub const $name: SysRegId = SysRegId::new($op0, $op1, $crn, $crm, $op2);
        )*
        const NAMES: &[(SysRegId, &str)] = &[$(($name, stringify!($name))),*];
    };
}

registers! {
    // Identification.
    MIDR_EL1 = 3 0 0 0 0;
    MPIDR_EL1 = 3 0 0 0 5;
    REVIDR_EL1 = 3 0 0 0 6;
    ID_PFR0_EL1 = 3 0 0 1 0;
    ID_PFR1_EL1 = 3 0 0 1 1;
    ID_DFR0_EL1 = 3 0 0 1 2;
    ID_AFR0_EL1 = 3 0 0 1 3;
    ID_MMFR0_EL1 = 3 0 0 1 4;
    ID_MMFR1_EL1 = 3 0 0 1 5;
    ID_MMFR2_EL1 = 3 0 0 1 6;
    ID_MMFR3_EL1 = 3 0 0 1 7;
    ID_ISAR0_EL1 = 3 0 0 2 0;
    ID_ISAR1_EL1 = 3 0 0 2 1;
    ID_ISAR2_EL1 = 3 0 0 2 2;
    ID_ISAR3_EL1 = 3 0 0 2 3;
    ID_ISAR4_EL1 = 3 0 0 2 4;
    ID_ISAR5_EL1 = 3 0 0 2 5;
    ID_MMFR4_EL1 = 3 0 0 2 6;
    ID_ISAR6_EL1 = 3 0 0 2 7;
    MVFR0_EL1 = 3 0 0 3 0;
    MVFR1_EL1 = 3 0 0 3 1;
    MVFR2_EL1 = 3 0 0 3 2;
    ID_PFR2_EL1 = 3 0 0 3 4;
    ID_DFR1_EL1 = 3 0 0 3 5;
    ID_MMFR5_EL1 = 3 0 0 3 6;
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    ID_AA64PFR1_EL1 = 3 0 0 4 1;
    ID_AA64PFR2_EL1 = 3 0 0 4 2;
    ID_AA64ZFR0_EL1 = 3 0 0 4 4;
    ID_AA64SMFR0_EL1 = 3 0 0 4 5;
    ID_AA64FPFR0_EL1 = 3 0 0 4 7;
    ID_AA64DFR0_EL1 = 3 0 0 5 0;
    ID_AA64DFR1_EL1 = 3 0 0 5 1;
    ID_AA64DFR2_EL1 = 3 0 0 5 2;
    ID_AA64AFR0_EL1 = 3 0 0 5 4;
    ID_AA64AFR1_EL1 = 3 0 0 5 5;
    ID_AA64ISAR0_EL1 = 3 0 0 6 0;
    ID_AA64ISAR1_EL1 = 3 0 0 6 1;
    ID_AA64ISAR2_EL1 = 3 0 0 6 2;
    ID_AA64ISAR3_EL1 = 3 0 0 6 3;
    ID_AA64MMFR0_EL1 = 3 0 0 7 0;
    ID_AA64MMFR1_EL1 = 3 0 0 7 1;
    ID_AA64MMFR2_EL1 = 3 0 0 7 2;
    ID_AA64MMFR3_EL1 = 3 0 0 7 3;
    ID_AA64MMFR4_EL1 = 3 0 0 7 4;
    CCSIDR_EL1 = 3 1 0 0 0;
    CLIDR_EL1 = 3 1 0 0 1;
    CCSIDR2_EL1 = 3 1 0 0 2;
    GMID_EL1 = 3 1 0 0 4;
    SMIDR_EL1 = 3 1 0 0 6;
    AIDR_EL1 = 3 1 0 0 7;
    CSSELR_EL1 = 3 2 0 0 0;
    CTR_EL0 = 3 3 0 0 1;
    DCZID_EL0 = 3 3 0 0 7;
    // Memory and control.
    SCTLR_EL1 = 3 0 1 0 0;
    ACTLR_EL1 = 3 0 1 0 1;
    CPACR_EL1 = 3 0 1 0 2;
    SCTLR2_EL1 = 3 0 1 0 3;
    RGSR_EL1 = 3 0 1 0 5;
    GCR_EL1 = 3 0 1 0 6;
    ZCR_EL1 = 3 0 1 2 0;
    TRFCR_EL1 = 3 0 1 2 1;
    SMPRI_EL1 = 3 0 1 2 4;
    SMCR_EL1 = 3 0 1 2 6;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    TCR2_EL1 = 3 0 2 0 3;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    ESR_EL1 = 3 0 5 2 0;
    ERRIDR_EL1 = 3 0 5 3 0;
    ERRSELR_EL1 = 3 0 5 3 1;
    TFSR_EL1 = 3 0 5 6 0;
    TFSRE0_EL1 = 3 0 5 6 1;
    FAR_EL1 = 3 0 6 0 0;
    PAR_EL1 = 3 0 7 4 0;
    MAIR_EL1 = 3 0 10 2 0;
    PIRE0_EL1 = 3 0 10 2 2;
    PIR_EL1 = 3 0 10 2 3;
    POR_EL1 = 3 0 10 2 4;
    AMAIR_EL1 = 3 0 10 3 0;
    LORSA_EL1 = 3 0 10 4 0;
    LOREA_EL1 = 3 0 10 4 1;
    LORN_EL1 = 3 0 10 4 2;
    LORC_EL1 = 3 0 10 4 3;
    MPAMIDR_EL1 = 3 0 10 4 4;
    LORID_EL1 = 3 0 10 4 7;
    MPAM1_EL1 = 3 0 10 5 0;
    MPAM0_EL1 = 3 0 10 5 1;
    VBAR_EL1 = 3 0 12 0 0;
    ISR_EL1 = 3 0 12 1 0;
    DISR_EL1 = 3 0 12 1 1;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    TPIDR_EL1 = 3 0 13 0 4;
    ACCDATA_EL1 = 3 0 13 0 5;
    SCXTNUM_EL1 = 3 0 13 0 7;
    RNDR = 3 3 2 4 0;
    RNDRRS = 3 3 2 4 1;
    TPIDR2_EL0 = 3 3 13 0 5;
    SCXTNUM_EL0 = 3 3 13 0 7;
    // GIC CPU interface.
    ICC_PMR_EL1 = 3 0 4 6 0;
    ICC_IAR0_EL1 = 3 0 12 8 0;
    ICC_EOIR0_EL1 = 3 0 12 8 1;
    ICC_HPPIR0_EL1 = 3 0 12 8 2;
    ICC_BPR0_EL1 = 3 0 12 8 3;
    ICC_AP0R0_EL1 = 3 0 12 8 4;
    ICC_AP0R1_EL1 = 3 0 12 8 5;
    ICC_AP0R2_EL1 = 3 0 12 8 6;
    ICC_AP0R3_EL1 = 3 0 12 8 7;
    ICC_AP1R0_EL1 = 3 0 12 9 0;
    ICC_AP1R1_EL1 = 3 0 12 9 1;
    ICC_AP1R2_EL1 = 3 0 12 9 2;
    ICC_AP1R3_EL1 = 3 0 12 9 3;
    ICC_NMIAR1_EL1 = 3 0 12 9 5;
    ICC_DIR_EL1 = 3 0 12 11 1;
    ICC_RPR_EL1 = 3 0 12 11 3;
    ICC_SGI1R_EL1 = 3 0 12 11 5;
    ICC_ASGI1R_EL1 = 3 0 12 11 6;
    ICC_SGI0R_EL1 = 3 0 12 11 7;
    ICC_IAR1_EL1 = 3 0 12 12 0;
    ICC_EOIR1_EL1 = 3 0 12 12 1;
    ICC_HPPIR1_EL1 = 3 0 12 12 2;
    ICC_BPR1_EL1 = 3 0 12 12 3;
    ICC_CTLR_EL1 = 3 0 12 12 4;
    ICC_SRE_EL1 = 3 0 12 12 5;
    ICC_IGRPEN0_EL1 = 3 0 12 12 6;
    ICC_IGRPEN1_EL1 = 3 0 12 12 7;
    // Generic timer.
    CNTKCTL_EL1 = 3 0 14 1 0;
    CNTFRQ_EL0 = 3 3 14 0 0;
    CNTPCT_EL0 = 3 3 14 0 1;
    CNTVCT_EL0 = 3 3 14 0 2;
    CNTPCTSS_EL0 = 3 3 14 0 5;
    CNTVCTSS_EL0 = 3 3 14 0 6;
    CNTP_TVAL_EL0 = 3 3 14 2 0;
    CNTP_CTL_EL0 = 3 3 14 2 1;
    CNTP_CVAL_EL0 = 3 3 14 2 2;
    CNTV_TVAL_EL0 = 3 3 14 3 0;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
    // Performance monitors.
    PMINTENSET_EL1 = 3 0 9 14 1;
    PMINTENCLR_EL1 = 3 0 9 14 2;
    PMMIR_EL1 = 3 0 9 14 6;
    PMCR_EL0 = 3 3 9 12 0;
    PMCNTENSET_EL0 = 3 3 9 12 1;
    PMCNTENCLR_EL0 = 3 3 9 12 2;
    PMOVSCLR_EL0 = 3 3 9 12 3;
    PMSWINC_EL0 = 3 3 9 12 4;
    PMSELR_EL0 = 3 3 9 12 5;
    PMCEID0_EL0 = 3 3 9 12 6;
    PMCEID1_EL0 = 3 3 9 12 7;
    PMCCNTR_EL0 = 3 3 9 13 0;
    PMXEVTYPER_EL0 = 3 3 9 13 1;
    PMXEVCNTR_EL0 = 3 3 9 13 2;
    PMUSERENR_EL0 = 3 3 9 14 0;
    PMOVSSET_EL0 = 3 3 9 14 3;
    PMCCFILTR_EL0 = 3 3 14 15 7;
    // Debug.
    OSDTRRX_EL1 = 2 0 0 0 2;
    MDCCINT_EL1 = 2 0 0 2 0;
    MDSCR_EL1 = 2 0 0 2 2;
    OSDTRTX_EL1 = 2 0 0 3 2;
    OSECCR_EL1 = 2 0 0 6 2;
    MDRAR_EL1 = 2 0 1 0 0;
    OSLAR_EL1 = 2 0 1 0 4;
    OSLSR_EL1 = 2 0 1 1 4;
    OSDLR_EL1 = 2 0 1 3 4;
    DBGPRCR_EL1 = 2 0 1 4 4;
    DBGCLAIMSET_EL1 = 2 0 7 8 6;
    DBGCLAIMCLR_EL1 = 2 0 7 9 6;
    DBGAUTHSTATUS_EL1 = 2 0 7 14 6;
    MDCCSR_EL0 = 2 3 0 1 0;
    DBGDTR_EL0 = 2 3 0 4 0;
    DBGDTRRX_EL0 = 2 3 0 5 0;
    // Cache maintenance by set and way (HCR_EL2.TSW).
    DC_ISW = 1 0 7 6 2;
    DC_CSW = 1 0 7 10 2;
    DC_CISW = 1 0 7 14 2;
}
