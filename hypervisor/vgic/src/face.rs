//! What the register files of all faces have in common: widths, banks of one bit an INTID, priorities, configuration.

use addr::AccessSize;
use bus::AccessError;

use crate::bits::ones;

/// GICD_IIDR (and GICR_IIDR): product `M`, revision 0, Arm's JEP106 code (the architecture's owner, as other models have it).
pub(crate) const IIDR: u32 = 0x4d00_043b;

/// Whether an access is naturally aligned; everything else about its size is the register's business.
pub(crate) fn aligned(at: u64, size: AccessSize) -> Result<(), AccessError> {
    if at & size.bytes().wrapping_sub(1) == 0 { Ok(()) } else { Err(AccessError::Unaligned) }
}

/// A register that takes 32-bit accesses only.
pub(crate) fn word_only(size: AccessSize) -> Result<(), AccessError> {
    if size == AccessSize::B4 { Ok(()) } else { Err(AccessError::BadSize) }
}

/// A register with one byte an INTID: byte and 32-bit accesses.
pub(crate) fn byte_or_word(size: AccessSize) -> Result<(), AccessError> {
    if matches!(size, AccessSize::B1 | AccessSize::B4) { Ok(()) } else { Err(AccessError::BadSize) }
}

/// The two-bit fields of ICFGR (bit 1: edge) from one bit an INTID, for the 16 INTIDs in the low half of `edge`.
pub(crate) fn config_fields(edge: u32) -> u32 {
    ones(u64::from(edge & 0xffff)).fold(0, |fields, n| fields | 2u32.wrapping_shl(n.wrapping_mul(2)))
}

/// One bit an INTID from ICFGR's fields.
pub(crate) fn edges(fields: u32) -> u32 {
    ones(u64::from(fields & 0xaaaa_aaaa)).fold(0, |edge, n| edge | 1u32.wrapping_shl(n >> 1))
}

/// What the one-bit-an-INTID registers have in common, in a distributor and in SGI_base: offset of the group from 0x80,
/// in steps of 0x80.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bank {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

impl Bank {
    /// The register group at `at`, and its first INTID.
    pub(crate) fn at(at: u64) -> Option<(Self, u32)> {
        let group = match at >> 7 {
            1 => Self::Group,
            2 => Self::SetEnable,
            3 => Self::ClearEnable,
            4 => Self::SetPending,
            5 => Self::ClearPending,
            6 => Self::SetActive,
            7 => Self::ClearActive,
            _ => return None,
        };
        Some((group, ((at & 0x7c) as u32) << 3))
    }
}

impl crate::Vgic {
    pub(crate) fn read_bank(&self, view: crate::VcpuId, bank: Bank, first: u32) -> Result<u64, crate::Refusal> {
        use crate::irq::{ACTIVE, ENABLED, Irq};
        Ok(u64::from(match bank {
            Bank::Group => self.bits(view, first, |_| true),
            Bank::SetEnable | Bank::ClearEnable => self.bits(view, first, |irq| irq.has(ENABLED)),
            Bank::SetPending | Bank::ClearPending => self.folded_bits(view, first, Irq::pending)?,
            Bank::SetActive | Bank::ClearActive => self.folded_bits(view, first, |irq| irq.has(ACTIVE))?,
        }))
    }

    pub(crate) fn write_bank(
        &mut self,
        view: crate::VcpuId,
        bank: Bank,
        first: u32,
        mask: u32,
    ) -> Result<(), crate::Refusal> {
        match bank {
            Bank::Group => {}
            Bank::SetEnable => self.enable(view, first, mask),
            Bank::ClearEnable => self.disable(view, first, mask)?,
            Bank::SetPending => self.pend(view, first, mask),
            Bank::ClearPending => self.unpend(view, first, mask)?,
            Bank::SetActive => self.activate(view, first, mask)?,
            Bank::ClearActive => Self::deactivate(self, view, first, mask)?,
        }
        Ok(())
    }

    pub(crate) fn read_priorities(&self, view: crate::VcpuId, first: u32, size: AccessSize) -> u64 {
        (0..size.bytes() as u32)
            .rev()
            .fold(0, |word, n| (word << 8) | u64::from(self.priority(view, first.wrapping_add(n))))
    }

    pub(crate) fn write_priorities(&mut self, view: crate::VcpuId, first: u32, size: AccessSize, value: u64) {
        for (n, byte) in (0..size.bytes() as u32).zip(value.to_le_bytes()) {
            self.set_priority(view, first.wrapping_add(n), byte);
        }
    }
}
