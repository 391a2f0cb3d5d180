//! Errata of cores, by MIDR_EL1, and what Merus does about each.
//!
//! | workaround | cores | notice |
//! |---|---|---|
//! | [`Errata::SPECULATIVE_AT`] | Cortex-A57 1319537, Cortex-A72 1319367, Cortex-A55 1530923 (all up to r2p0), Cortex-A76 1165522 (r0p0 to r2p0) | a speculative AT or table walk while VTTBR_EL2 and EL1's registers belong to two guests may leave a wrong translation in the TLB: EL1 walks are switched off around the change |

use core::ops::BitOr;

/// A set of workarounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Errata(u32);

impl Errata {
    /// None.
    pub const NONE: Self = Self(0);
    /// Switch EL1's table walks off while VTTBR_EL2 changes.
    pub const SPECULATIVE_AT: Self = Self(1);

    /// Whether all of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// The workarounds' names, for the start-up line.
    pub fn names(self) -> &'static str {
        if self.has(Self::SPECULATIVE_AT) { "speculative-at" } else { "none" }
    }
}

impl BitOr for Errata {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What has to be done on the way from a guest, so that its branch history does not steer EL2 (Arm, "Spectre-BHB: Speculative
/// Target Reuse Attacks"; SMCCC, "SMCCC_ARCH_WORKAROUND_1" and "_3").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BranchHistory {
    /// The core is not affected, or keeps contexts apart by itself (CSV2_3, ECBHB).
    Nothing,
    /// Eight taken branches overwrite it.
    Loop8,
    /// 24.
    Loop24,
    /// 32.
    Loop32,
    /// CLRBHB.
    Clear,
    /// The firmware's first workaround.
    Firmware1,
    /// The firmware's third workaround, which includes the first.
    Firmware3,
}

/// Cores that need a loop, by MIDR_EL1 without variant and revision.
const HISTORY: &[(u64, BranchHistory)] = &[
    (0x410f_d070, BranchHistory::Loop8),  // Cortex-A57
    (0x410f_d080, BranchHistory::Loop8),  // Cortex-A72
    (0x410f_d0b0, BranchHistory::Loop24), // Cortex-A76
    (0x410f_d0d0, BranchHistory::Loop24), // Cortex-A77
    (0x410f_d0c0, BranchHistory::Loop24), // Neoverse N1
    (0x410f_d410, BranchHistory::Loop32), // Cortex-A78
    (0x410f_d4b0, BranchHistory::Loop32), // Cortex-A78C
    (0x410f_d440, BranchHistory::Loop32), // Cortex-X1
    (0x410f_d480, BranchHistory::Loop32), // Cortex-X2
    (0x410f_d470, BranchHistory::Loop32), // Cortex-A710
    (0x410f_d400, BranchHistory::Loop32), // Neoverse V1
    (0x410f_d490, BranchHistory::Loop32), // Neoverse N2
];

/// What a core with this MIDR_EL1, ID_AA64PFR0_EL1, ID_AA64MMFR1_EL1 and ID_AA64ISAR2_EL1 needs, where the firmware has
/// `workaround_1` and `workaround_3` to offer *and* says that this core needs them.
pub fn history(midr: u64, pfr0: u64, mmfr1: u64, isar2: u64, workaround_1: bool, workaround_3: bool) -> BranchHistory {
    let (csv2, ecbhb, clrbhb) = (pfr0 >> 56 & 0xf, mmfr1 >> 60 & 0xf, isar2 >> 28 & 0xf);
    if csv2 >= 3 || ecbhb != 0 {
        return BranchHistory::Nothing;
    }
    if workaround_3 {
        return BranchHistory::Firmware3;
    }
    if csv2 == 0 && workaround_1 {
        return BranchHistory::Firmware1;
    }
    if clrbhb != 0 {
        return BranchHistory::Clear;
    }
    let model = midr & 0xff0f_fff0;
    HISTORY.iter().find(|(m, _)| *m == model).map_or(BranchHistory::Nothing, |(_, what)| *what)
}

/// MIDR_EL1 without variant and revision, and the highest affected variant/revision (0xVR), all below included.
const TABLE: &[(u64, u64, Errata)] = &[
    (0x410f_d070, 0xff, Errata::SPECULATIVE_AT), // Cortex-A57: all
    (0x410f_d080, 0xff, Errata::SPECULATIVE_AT), // Cortex-A72: all
    (0x410f_d050, 0x20, Errata::SPECULATIVE_AT), // Cortex-A55: up to r2p0
    (0x410f_d0b0, 0x20, Errata::SPECULATIVE_AT), // Cortex-A76: up to r2p0
];

/// The workarounds that a CPU with this MIDR_EL1 needs.
pub fn of(midr: u64) -> Errata {
    let model = midr & 0xff0f_fff0;
    let revision = (midr >> 20 & 0xf) << 4 | midr & 0xf;
    TABLE
        .iter()
        .filter(|(m, last, _)| *m == model && revision <= *last)
        .fold(Errata::NONE, |all, (_, _, errata)| all | *errata)
}
