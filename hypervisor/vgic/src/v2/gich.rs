//! The hypervisor's side of the hardware's GICv2 (GICH_*): its list registers, in the form that this crate works with.
//!
//! The core speaks ICH_LR; a GICH_LR holds the same in 32 bits, but for the group: guests of a GICv2 have group 0 only, which
//! the core does not know. GICH_HCR and GICH_VMCR have the fields of their ICH namesakes at the same places.
//!
//! # References
//! Arm IHI 0048, "List Registers, `GICH_LR<n>`", "Hypervisor Control Register, GICH_HCR", "Virtual Machine Control Register,
//! GICH_VMCR", "Active Priorities Register, GICH_APR".

use crate::irq::LR_GROUP1;

const ID: u64 = 0x3ff;
/// PhysicalID; EOI and CPUID where HW is clear.
const PHYSICAL_SHIFT: u32 = 10;
const PRIORITY_SHIFT: u32 = 23;
const PRIORITY: u64 = 0x1f;
/// State, in two bits; above it the group, which stays 0, and HW.
const STATE_SHIFT: u32 = 28;

/// What GICH_HCR takes of ICH_HCR_EL2's bits: En, LRENPIE, NPIE. (The other one that this crate sets, TDIR, has no place.)
pub const HCR: u64 = 0b1101;

/// `GICH_LR<n>` for a list register of this crate's.
#[inline]
pub const fn from_lr(lr: u64) -> u32 {
    let (state, hw) = (lr >> 62, lr >> 61 & 1);
    let value = lr & ID
        | (lr >> 32 & ID) << PHYSICAL_SHIFT
        | (lr >> 51 & PRIORITY) << PRIORITY_SHIFT
        | state << STATE_SHIFT
        | hw << 31;
    value as u32
}

/// The other way round; an empty register is 0.
#[inline]
pub const fn to_lr(value: u32) -> u64 {
    let value = value as u64;
    if value == 0 {
        return 0;
    }
    let (state, hw) = (value >> STATE_SHIFT & 3, value >> 31);
    value & ID
        | (value >> PHYSICAL_SHIFT & ID) << 32
        | (value >> PRIORITY_SHIFT & PRIORITY) << 51
        | LR_GROUP1
        | hw << 61
        | state << 62
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_manual_has_them() {
        let lr = |state: u64, hw: u64, low: u64, priority: u64, intid: u64| {
            state << 62 | hw << 61 | LR_GROUP1 | priority << 48 | low << 32 | intid
        };
        for (core, gich) in [
            (lr(1, 0, 0, 0xa0, 40), 0x1a00_0028),
            (lr(2, 0, 1 << 9, 0x08, 33), 0x2088_0021),
            (lr(1, 1, 27, 0xf8, 27), 0x9f80_6c1b),
            (lr(3, 0, 5, 0, 7), 0x3000_1407),
            (0, 0),
        ] {
            assert_eq!(from_lr(core), gich, "{core:#x}");
            assert_eq!(to_lr(gich), core, "{gich:#x}");
        }
    }
}
