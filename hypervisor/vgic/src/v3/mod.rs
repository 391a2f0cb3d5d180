//! The GICv3 face: register offsets, affinities and widths over the core.

mod dist;
mod redist;
mod sgi;

use addr::AccessSize;
use bus::AccessError;

use crate::bits::ones;

/// Size of the GICD frame in bytes.
pub const DIST_SIZE: u64 = 0x1_0000;
/// Distance from one vCPU's redistributor to the next, in bytes: RD_base and SGI_base (no VLPI frames: GICR_TYPER.VLPIS is
/// 0).
pub const REDIST_STRIDE: u64 = 0x2_0000;

/// GICD_IIDR and GICR_IIDR: product `M`, revision 0, Arm's JEP106 code (the architecture's owner, as other models have it).
const IIDR: u32 = 0x4d00_043b;
/// PIDR2 of every frame: ArchRev 3, GICv3.
const PIDR2: u32 = 0x3b;
const PIDR2_AT: u64 = 0xffe8;

/// Whether an access is naturally aligned; everything else about its size is the register's business.
fn aligned(at: u64, size: AccessSize) -> Result<(), AccessError> {
    if at & size.bytes().wrapping_sub(1) == 0 { Ok(()) } else { Err(AccessError::Unaligned) }
}

/// A register that takes 32-bit accesses only.
fn word_only(size: AccessSize) -> Result<(), AccessError> {
    if size == AccessSize::B4 { Ok(()) } else { Err(AccessError::BadSize) }
}

/// A register with one byte an INTID: byte and 32-bit accesses.
fn byte_or_word(size: AccessSize) -> Result<(), AccessError> {
    if matches!(size, AccessSize::B1 | AccessSize::B4) { Ok(()) } else { Err(AccessError::BadSize) }
}

/// Which half or the whole of a 64-bit register an access is to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Low,
    High,
}

/// The part of a 64-bit register: 64-bit accesses, and 32-bit ones to either half.
fn part(at: u64, size: AccessSize) -> Result<Part, AccessError> {
    match (size, at & 4) {
        (AccessSize::B8, _) => Ok(Part::Whole),
        (AccessSize::B4, 0) => Ok(Part::Low),
        (AccessSize::B4, _) => Ok(Part::High),
        _ => Err(AccessError::BadSize),
    }
}

impl Part {
    fn of(self, whole: u64) -> u64 {
        match self {
            Self::Whole => whole,
            Self::Low => whole & 0xffff_ffff,
            Self::High => whole >> 32,
        }
    }

    /// `whole` with this part replaced.
    fn merge(self, whole: u64, value: u64) -> u64 {
        match self {
            Self::Whole => value,
            Self::Low => (whole & !0xffff_ffff) | (value & 0xffff_ffff),
            Self::High => (whole & 0xffff_ffff) | (value << 32),
        }
    }
}

/// The two-bit fields of ICFGR (bit 1: edge) from one bit an INTID, for the 16 INTIDs in the low half of `edge`.
fn config_fields(edge: u32) -> u32 {
    ones(u64::from(edge & 0xffff)).fold(0, |fields, n| fields | 2u32.wrapping_shl(n.wrapping_mul(2)))
}

/// One bit an INTID from ICFGR's fields.
fn edges(fields: u32) -> u32 {
    ones(u64::from(fields & 0xaaaa_aaaa)).fold(0, |edge, n| edge | 1u32.wrapping_shl(n >> 1))
}

/// What the one-bit-an-INTID registers have in common, in the distributor and in SGI_base: offset of the group from 0x80,
/// in steps of 0x80.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bank {
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
    fn at(at: u64) -> Option<(Self, u32)> {
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
    fn read_bank(&self, view: crate::VcpuId, bank: Bank, first: u32) -> Result<u64, crate::Refusal> {
        use crate::irq::{ACTIVE, ENABLED, Irq};
        Ok(u64::from(match bank {
            Bank::Group => self.bits(view, first, |_| true),
            Bank::SetEnable | Bank::ClearEnable => self.bits(view, first, |irq| irq.has(ENABLED)),
            Bank::SetPending | Bank::ClearPending => self.folded_bits(view, first, Irq::pending)?,
            Bank::SetActive | Bank::ClearActive => self.folded_bits(view, first, |irq| irq.has(ACTIVE))?,
        }))
    }

    fn write_bank(&mut self, view: crate::VcpuId, bank: Bank, first: u32, mask: u32) -> Result<(), crate::Refusal> {
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

    fn read_priorities(&self, view: crate::VcpuId, first: u32, size: AccessSize) -> u64 {
        (0..size.bytes() as u32)
            .rev()
            .fold(0, |word, n| (word << 8) | u64::from(self.priority(view, first.wrapping_add(n))))
    }

    fn write_priorities(&mut self, view: crate::VcpuId, first: u32, size: AccessSize, value: u64) {
        for (n, byte) in (0..size.bytes() as u32).zip(value.to_le_bytes()) {
            self.set_priority(view, first.wrapping_add(n), byte);
        }
    }
}
