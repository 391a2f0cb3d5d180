//! Errata of cores, by MIDR_EL1, and what Merus does about each.
//!
//! | workaround | cores | notice |
//! |---|---|---|
//! | [`Errata::SPECULATIVE_AT`] | Cortex-A53 1530924, Cortex-A57 1319537, Cortex-A72 1319367 (all revisions), Cortex-A55 1530923 (r0p0 to r2p0), Cortex-A76 1165522 (r0p0 to r2p0) | a speculative AT or table walk while VTTBR_EL2 and EL1's registers belong to two guests may leave a wrong translation in the TLB: EL1 walks are switched off around the change |
//!
//! Not here, because it asks nothing of EL2: Neoverse N1 1542419 (instruction fetches out of order while another CPU modifies code,
//! where CTR_EL0.DIC is set). A guest knows the core by MIDR_EL1 and does about it what it would do on the bare machine; Merus
//! itself modifies no code once a second CPU runs, and a frame that it hands over is entered through an exception return.

use core::fmt;
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
    /// Nothing can be done: the core is in no list, has no instruction for it and the firmware offers nothing. It may be affected.
    Unlisted,
    /// So many taken branches overwrite it.
    Loop(u8),
    /// CLRBHB.
    Clear,
    /// The firmware's first workaround.
    Firmware1,
    /// The firmware's third workaround, which includes the first.
    Firmware3,
}

impl fmt::Display for BranchHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop(count) => write!(f, "Loop{count}"),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

/// Cores that need a loop of some length or are not affected, by MIDR_EL1 without variant and revision.
const HISTORY: &[(u64, BranchHistory)] = &[
    (0x410f_d040, BranchHistory::Nothing),   // Cortex-A35
    (0x410f_d030, BranchHistory::Nothing),   // Cortex-A53
    (0x410f_d050, BranchHistory::Nothing),   // Cortex-A55
    (0x410f_d460, BranchHistory::Nothing),   // Cortex-A510
    (0x410f_d070, BranchHistory::Loop(8)),   // Cortex-A57
    (0x410f_d080, BranchHistory::Loop(8)),   // Cortex-A72
    (0x410f_d0b0, BranchHistory::Loop(24)),  // Cortex-A76
    (0x410f_d0e0, BranchHistory::Loop(24)),  // Cortex-A76AE
    (0x410f_d0d0, BranchHistory::Loop(24)),  // Cortex-A77
    (0x410f_d0c0, BranchHistory::Loop(24)),  // Neoverse N1
    (0x410f_d410, BranchHistory::Loop(32)),  // Cortex-A78
    (0x410f_d420, BranchHistory::Loop(32)),  // Cortex-A78AE
    (0x410f_d4b0, BranchHistory::Loop(32)),  // Cortex-A78C
    (0x410f_d440, BranchHistory::Loop(32)),  // Cortex-X1
    (0x410f_d4c0, BranchHistory::Loop(32)),  // Cortex-X1C
    (0x410f_d480, BranchHistory::Loop(32)),  // Cortex-X2
    (0x410f_d470, BranchHistory::Loop(32)),  // Cortex-A710
    (0x410f_d400, BranchHistory::Loop(32)),  // Neoverse V1
    (0x410f_d490, BranchHistory::Loop(32)),  // Neoverse N2
    (0x410f_d4d0, BranchHistory::Loop(38)),  // Cortex-A715
    (0x410f_d810, BranchHistory::Loop(38)),  // Cortex-A720
    (0x410f_d4e0, BranchHistory::Loop(132)), // Cortex-X3
    (0x410f_d4f0, BranchHistory::Loop(132)), // Neoverse V2
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
    HISTORY.iter().find(|(m, _)| *m == model).map_or(BranchHistory::Unlisted, |(_, what)| *what)
}

/// MIDR_EL1 without variant and revision, and the highest affected variant/revision (0xVR), all below included.
const TABLE: &[(u64, u64, Errata)] = &[
    (0x410f_d030, 0xff, Errata::SPECULATIVE_AT), // Cortex-A53: all
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    /// MIDR_EL1 of an Arm core with this part number, variant and revision.
    fn arm(part: u64, variant: u64, revision: u64) -> u64 {
        0x410f_0000 | variant << 20 | part << 4 | revision
    }

    #[test]
    fn errata_are_found_by_model_and_revision() {
        let cases = [
            ("Cortex-A53 r0p4", arm(0xd03, 0, 4), true),
            ("Cortex-A57 r1p0", arm(0xd07, 1, 0), true),
            ("Cortex-A72 r0p3", arm(0xd08, 0, 3), true),
            ("Cortex-A72 r1p0", arm(0xd08, 1, 0), true),
            ("Cortex-A55 r2p0", arm(0xd05, 2, 0), true),
            ("Cortex-A55 r2p1", arm(0xd05, 2, 1), false),
            ("Cortex-A76 r2p0", arm(0xd0b, 2, 0), true),
            ("Cortex-A76 r3p0", arm(0xd0b, 3, 0), false),
            ("Neoverse N1 r3p1", arm(0xd0c, 3, 1), false),
            ("another implementer's d08", 0x510f_d083, false),
            ("QEMU's max", 0x000f_0510, false),
        ];
        for (name, midr, expected) in cases {
            assert_eq!(of(midr).has(Errata::SPECULATIVE_AT), expected, "{name}");
            assert_eq!(of(midr).names(), if expected { "speculative-at" } else { "none" }, "{name}");
        }
        assert_eq!(Errata::NONE | Errata::SPECULATIVE_AT, Errata::SPECULATIVE_AT);
    }

    #[test]
    fn branch_history_is_chosen_by_core_features_and_firmware() {
        use BranchHistory::*;
        let (csv2, csv2_2, csv2_3) = (1 << 56, 2 << 56, 3 << 56);
        let (ecbhb, clrbhb) = (1 << 60, 1 << 28);
        let (a53, a57, a72, n1) = (arm(0xd03, 0, 4), arm(0xd07, 1, 0), arm(0xd08, 0, 3), arm(0xd0c, 4, 1));
        let (v1, v2, max) = (arm(0xd40, 1, 2), arm(0xd4f, 0, 1), 0x000f_0510);
        // MIDR, ID_AA64PFR0, ID_AA64MMFR1, ID_AA64ISAR2, firmware has 1, has 3.
        let cases = [
            ("in order", a53, 0, 0, 0, false, false, Nothing),
            ("a loop by model", a57, 0, 0, 0, false, false, Loop(8)),
            ("any revision", a72, 0, 0, 0, false, false, Loop(8)),
            ("24", n1, csv2, 0, 0, false, false, Loop(24)),
            ("32", v1, csv2_2, 0, 0, false, false, Loop(32)),
            ("132", v2, csv2_2, 0, 0, false, false, Loop(132)),
            ("the core keeps contexts apart", n1, csv2_3, 0, 0, true, true, Nothing),
            ("the core forgets history at exceptions", n1, csv2, ecbhb, 0, true, true, Nothing),
            ("the firmware's third before a loop", a72, 0, 0, 0, true, true, Firmware3),
            ("its third before the instruction", v2, csv2_2, 0, clrbhb, false, true, Firmware3),
            ("its first where targets are not kept apart", a72, 0, 0, 0, true, false, Firmware1),
            ("its first is not for those that keep targets apart", n1, csv2, 0, 0, true, false, Loop(24)),
            ("the instruction before a loop", v1, csv2_2, 0, clrbhb, false, false, Clear),
            ("the instruction on an unlisted core", max, csv2, 0, clrbhb, false, false, Clear),
            ("38", arm(0xd4d, 1, 0), csv2_2, 0, 0, false, false, Loop(38)),
            ("nothing known", max, csv2, 0, 0, false, false, Unlisted),
        ];
        for (name, midr, pfr0, mmfr1, isar2, one, three, expected) in cases {
            assert_eq!(history(midr, pfr0, mmfr1, isar2, one, three), expected, "{name}");
        }
        assert_eq!((Loop(8).to_string(), Unlisted.to_string()), ("Loop8".into(), "Unlisted".into()));
    }
}
