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
