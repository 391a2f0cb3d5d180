//! What the EL3 registers are to say, by the features that the CPU has: EL2 may use all that Merus knows, and nothing else is on.
//!
//! A feature that is not named here stays trapped to EL3, which hands such an exception to EL2 as an undefined instruction.
//! Arm ARM, "SCR_EL3, Secure Configuration Register", "CPTR_EL3", "MDCR_EL3", and the ID registers of the same names.

/// The ID registers that count.
#[derive(Clone, Copy, Default, Debug)]
pub struct Ids {
    /// MIDR_EL1.
    pub midr: u64,
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64ISAR0_EL1.
    pub isar0: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
    /// ID_AA64SMFR0_EL1.
    pub smfr0: u64,
}

const fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

impl Ids {
    const fn sve(&self) -> bool {
        field(self.pfr0, 32) != 0
    }
    const fn sme(&self) -> bool {
        field(self.pfr1, 24) != 0
    }
    const fn pointer_authentication(&self) -> bool {
        let fields = field(self.isar1, 4) | field(self.isar1, 8) | field(self.isar1, 24) | field(self.isar1, 28);
        fields | field(self.isar2, 8) | field(self.isar2, 12) != 0
    }
    /// Whether the GIC's CPU interface is system registers.
    pub const fn gic(&self) -> bool {
        field(self.pfr0, 24) != 0
    }
    /// Whether MPAM3_EL3 is there.
    pub const fn mpam(&self) -> bool {
        field(self.pfr0, 40) | field(self.pfr1, 16) != 0
    }
    /// SCR_EL3: Non-secure below, EL2 is AArch64 and may call by SMC and HVC; interrupts and system errors are EL2's.
    pub const fn scr(&self) -> u64 {
        const NS: u64 = 1;
        const RES1: u64 = 3 << 4;
        const HCE: u64 = 1 << 8;
        const RW: u64 = 1 << 10;
        let mut scr = NS | RES1 | HCE | RW;
        // Keys and instructions of pointer authentication.
        if self.pointer_authentication() {
            scr |= 1 << 16 | 1 << 17;
        }
        // EnSCXT: CSV2 2, or 1.2 by the fraction.
        if field(self.pfr0, 56) >= 2 || field(self.pfr1, 32) >= 2 {
            scr |= 1 << 25;
        }
        // ATA.
        if field(self.pfr1, 8) >= 2 {
            scr |= 1 << 26;
        }
        // FGTEn, and the second set of such traps.
        if field(self.mmfr0, 56) >= 1 {
            scr |= 1 << 27;
        }
        if field(self.mmfr0, 56) >= 2 {
            scr |= 1 << 59;
        }
        // ECVEn: the offset of the physical counter.
        if field(self.mmfr0, 60) >= 2 {
            scr |= 1 << 28;
        }
        // TME.
        if field(self.isar0, 24) >= 1 {
            scr |= 1 << 34;
        }
        // HXEn.
        if field(self.mmfr1, 40) >= 1 {
            scr |= 1 << 38;
        }
        // EnTP2.
        if self.sme() {
            scr |= 1 << 41;
        }
        scr
    }
    /// CPTR_EL3: nothing of FP, SIMD, SVE, SME, trace and activity monitors is trapped. (The last two bits are "enable" bits.)
    pub const fn cptr(&self) -> u64 {
        (self.sve() as u64) << 8 | (self.sme() as u64) << 12
    }
    /// MDCR_EL3: self-hosted debug and the buffers of profiling and tracing are the Non-secure side's; no Secure debug.
    pub const fn mdcr(&self) -> u64 {
        const SDD: u64 = 1 << 16;
        let spe = field(self.dfr0, 32);
        let mut mdcr = SDD;
        if spe >= 1 {
            mdcr |= 3 << 12;
        }
        if spe >= 3 {
            mdcr |= 1 << 36;
        }
        if field(self.dfr0, 44) >= 1 {
            mdcr |= 3 << 24;
        }
        if field(self.dfr0, 52) >= 1 {
            mdcr |= 3 << 32;
        }
        mdcr
    }
    /// Whether the CPU has CPUECTLR_EL1.SMPEN, without which it is not coherent with the others once its caches are on: Cortex-A53, A35,
    /// A57, A72 and A73 (their Technical Reference Manuals, "CPU Extended Control Register, EL1").
    pub const fn smpen(&self) -> bool {
        const ARM: u64 = 0x41;
        let (implementer, part) = (self.midr >> 24 & 0xff, self.midr >> 4 & 0xfff);
        implementer == ARM && matches!(part, 0xd03 | 0xd04 | 0xd07 | 0xd08 | 0xd09)
    }
    /// ZCR_EL3, where there is one: vectors as long as the CPU has them.
    pub const fn zcr(&self) -> Option<u64> {
        if self.sve() { Some(0xf) } else { None }
    }
    /// SMCR_EL3, where there is one: the same, and all instructions in streaming mode and the table register, where there are.
    pub const fn smcr(&self) -> Option<u64> {
        if !self.sme() {
            return None;
        }
        let all = (self.smfr0 >> 63) << 31;
        let table = (field(self.pfr1, 24) >= 2) as u64;
        Some(0xf | all | table << 30)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_of_the_first_version_gets_the_least() {
        let ids = Ids::default();
        assert_eq!(ids.scr(), 0x531);
        assert_eq!((ids.cptr(), ids.mdcr(), ids.zcr(), ids.smcr()), (0, 1 << 16, None, None));
        assert!(!ids.gic() && !ids.mpam());
    }

    /// Each feature alone sets its own bits and no other's.
    #[test]
    fn each_feature_has_its_bits() {
        let none = Ids::default().scr();
        let cases = [
            (Ids { isar1: 1 << 4, ..Ids::default() }, 3 << 16),
            (Ids { isar1: 1 << 28, ..Ids::default() }, 3 << 16),
            (Ids { isar2: 5 << 12, ..Ids::default() }, 3 << 16),
            (Ids { pfr0: 1 << 56, ..Ids::default() }, 0),
            (Ids { pfr0: 2 << 56, ..Ids::default() }, 1 << 25),
            (Ids { pfr1: 2 << 32, pfr0: 1 << 56, ..Ids::default() }, 1 << 25),
            (Ids { pfr1: 1 << 8, ..Ids::default() }, 0),
            (Ids { pfr1: 3 << 8, ..Ids::default() }, 1 << 26),
            (Ids { mmfr0: 1 << 56, ..Ids::default() }, 1 << 27),
            (Ids { mmfr0: 2 << 56, ..Ids::default() }, 1 << 27 | 1 << 59),
            (Ids { mmfr0: 1 << 60, ..Ids::default() }, 0),
            (Ids { mmfr0: 2 << 60, ..Ids::default() }, 1 << 28),
            (Ids { isar0: 1 << 24, ..Ids::default() }, 1 << 34),
            (Ids { mmfr1: 1 << 40, ..Ids::default() }, 1 << 38),
            (Ids { pfr1: 1 << 24, ..Ids::default() }, 1 << 41),
        ];
        for (ids, bits) in cases {
            assert_eq!(ids.scr(), none | bits, "{ids:x?}");
        }
        assert_eq!(Ids { pfr0: 1 << 32, ..Ids::default() }.cptr(), 1 << 8);
        assert_eq!(Ids { pfr1: 1 << 24, ..Ids::default() }.cptr(), 1 << 12);
        let mdcr = |dfr0| Ids { dfr0, ..Ids::default() }.mdcr() & !(1 << 16);
        assert_eq!(mdcr(1 << 32), 3 << 12);
        assert_eq!(mdcr(3 << 32), 3 << 12 | 1 << 36);
        assert_eq!((mdcr(1 << 44), mdcr(1 << 52)), (3 << 24, 3 << 32));
    }

    #[test]
    fn cores_that_have_to_be_told_are_made_coherent() {
        let smpen = |midr| Ids { midr, ..Ids::default() }.smpen();
        assert!([0x410f_d083, 0x410f_d034, 0x411f_d070].iter().all(|midr| smpen(*midr)));
        // Neoverse N1, QEMU's max, and another implementer's part of the same number.
        assert!(![0x414f_d0c1, 0x000f_0510, 0x510f_d083].iter().any(|midr| smpen(*midr)));
    }

    #[test]
    fn vectors_are_as_long_as_they_are() {
        assert_eq!(Ids { pfr0: 1 << 32, ..Ids::default() }.zcr(), Some(0xf));
        assert_eq!(Ids { pfr1: 1 << 24, ..Ids::default() }.smcr(), Some(0xf));
        let sme2 = Ids { pfr1: 2 << 24, smfr0: 1 << 63, ..Ids::default() };
        assert_eq!(sme2.smcr(), Some(0xf | 1 << 31 | 1 << 30));
    }
}
