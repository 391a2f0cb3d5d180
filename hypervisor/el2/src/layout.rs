//! What the registers of EL2 hold that have one layout where HCR_EL2.E2H is 0 and another where it is 1.
//!
//! A guest gets the same from both: FP and Advanced SIMD and nothing else of the extensions behind CPTR_EL2, the physical counter
//! but not the physical timer.

/// The values of one mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// HCR_EL2.E2H itself.
    pub hcr: u64,
    /// CPTR_EL2 under a guest. TFP (E2H = 0) would trap EL2 as well, as would FPEN (E2H = 1), so that neither traps FP.
    pub cptr_guest: u64,
    /// CPTR_EL2 where FP traps: while EL2 runs in the build `debug-fp`.
    pub cptr_fp_traps: u64,
    /// CPTR_EL2 with nothing trapped: for the registers of SVE and SME.
    pub cptr_all: u64,
    /// CNTHCTL_EL2: EL1 and EL0 read CNTPCT_EL0 themselves, their physical timer is trapped.
    pub cnthctl: u64,
}

/// TAM: activity monitors are trapped, in both layouts.
const TAM: u64 = 1 << 30;

/// E2H = 0. CPTR_EL2: the RES1 bits, of which bit 8 (TZ) and bit 12 (TSM) trap SVE and SME; TTA (bit 20) traps the trace registers.
/// CNTHCTL_EL2: EL1PCTEN is bit 0, EL1PCEN bit 1.
pub(crate) const E2H_0: Layout = Layout {
    hcr: 0,
    cptr_guest: 0x33ff | 1 << 20 | TAM,
    cptr_fp_traps: 0x33ff | 1 << 10 | 1 << 20 | TAM,
    cptr_all: 0x22ff,
    cnthctl: 1,
};

/// E2H = 1. CPTR_EL2 has CPACR_EL1's layout: ZEN (17:16), FPEN (21:20) and SMEN (25:24) are 0 where they trap everyone and 3 where
/// nobody; TTA is bit 28. CNTHCTL_EL2: EL1PCTEN is bit 10, EL1PTEN bit 11; what is below is for EL0 under TGE = 1 and for EL2's event stream.
pub(crate) const E2H_1: Layout = Layout {
    hcr: 1 << 34,
    cptr_guest: 3 << 20 | 1 << 28 | TAM,
    cptr_fp_traps: 1 << 28 | TAM,
    cptr_all: 3 << 16 | 3 << 20 | 3 << 24,
    cnthctl: 1 << 10,
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of CPTR_EL2 in both layouts: whether FP, SVE, SME, the trace registers, the activity monitors, CPACR_EL1 trap
    /// from EL1 and EL0 (and from EL2, for the first three).
    fn traps(layout: &Layout, cptr: u64) -> [bool; 6] {
        let bit = |at: u32| cptr >> at & 1 == 1;
        // 0b00 and 0b10 trap all levels, 0b11 none; 0b01, which traps EL0 alone and with TGE = 1 only, is not meant to be used.
        let enabled = |at: u32| {
            let field = cptr >> at & 3;
            assert_ne!(field, 1);
            field == 3
        };
        match layout.hcr {
            0 => {
                // RES1: bits 0 to 7, 9 and 13.
                assert_eq!(cptr & 0x22ff, 0x22ff);
                [bit(10), bit(8), bit(12), bit(20), bit(30), bit(31)]
            }
            _ => {
                // RES0, and E0POE (bit 29).
                assert_eq!(cptr & !(3 << 16 | 3 << 20 | 3 << 24 | 1 << 28 | 1 << 30 | 1 << 31), 0);
                [!enabled(20), !enabled(16), !enabled(24), bit(28), bit(30), bit(31)]
            }
        }
    }

    #[test]
    fn both_layouts_trap_the_same() {
        for layout in [E2H_0, E2H_1] {
            assert_eq!(traps(&layout, layout.cptr_guest), [false, true, true, true, true, false]);
            assert_eq!(traps(&layout, layout.cptr_fp_traps), [true, true, true, true, true, false]);
            assert_eq!(traps(&layout, layout.cptr_all), [false; 6]);
        }
    }

    #[test]
    fn guests_have_the_counter_and_not_the_timer() {
        for (layout, counter, timer) in [(E2H_0, 0, 1), (E2H_1, 10, 11)] {
            assert_eq!(layout.cnthctl >> counter & 1, 1);
            assert_eq!(layout.cnthctl >> timer & 1, 0);
            // No event stream of EL2's, no newer control (ECV, the virtual timer's traps).
            assert_eq!(layout.cnthctl & !(1 << counter), 0);
        }
    }

    #[test]
    fn the_values_as_numbers() {
        assert_eq!((E2H_0.cptr_guest, E2H_0.cnthctl), (0x4010_33ff, 1));
        assert_eq!((E2H_1.cptr_guest, E2H_1.cnthctl), (0x5030_0000, 0x400));
        assert_eq!((E2H_0.hcr, E2H_1.hcr), (0, 0x4_0000_0000));
    }
}
