//! The GICv3 face: register offsets, affinities and widths over the core.

mod dist;
mod redist;
mod sgi;

use addr::AccessSize;
use bus::AccessError;

pub(crate) use crate::face::{Bank, IIDR, aligned, byte_or_word, config_fields, edges, word_only};

/// Size of the GICD frame in bytes.
pub const DIST_SIZE: u64 = 0x1_0000;
/// Distance from one vCPU's redistributor to the next, in bytes: RD_base and SGI_base (no VLPI frames: GICR_TYPER.VLPIS is
/// 0).
pub const REDIST_STRIDE: u64 = 0x2_0000;

/// PIDR2 of every frame: ArchRev 3, GICv3.
const PIDR2: u32 = 0x3b;
const PIDR2_AT: u64 = 0xffe8;

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
