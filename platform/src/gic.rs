//! What the drivers of a GICv2 and of a GICv3 have in common: errors, and a CPU's private interrupts.

use crate::mmio::{NoAnswer, Registers};
use core::fmt;

/// The priority of every physical interrupt (lower is more urgent; anything above the idle priority does).
pub(crate) const PRIORITY: u32 = 0xa0a0_a0a0;
/// How often a register is polled for a write to take effect before the device counts as broken.
pub(crate) const PATIENCE: u32 = 1_000_000;

/// Why the interrupt controller cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GicError {
    /// Nothing is where the board's tree says.
    NoAnswer(NoAnswer),
    /// A register write did not take effect.
    Stuck,
    /// No redistributor has this CPU's affinity.
    NoRedistributor {
        /// Aff3.Aff2.Aff1.Aff0 as GICR_TYPER shows it.
        affinity: u32,
    },
}

impl fmt::Display for GicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(error) => error.fmt(f),
            Self::Stuck => f.write_str("a register write does not take effect"),
            Self::NoRedistributor { affinity } => write!(f, "no redistributor has the affinity {affinity:#x}"),
        }
    }
}

impl core::error::Error for GicError {}

impl From<NoAnswer> for GicError {
    fn from(error: NoAnswer) -> Self {
        Self::NoAnswer(error)
    }
}

// The registers of SGIs and PPIs, at the same offsets in a GICv2's distributor, where each CPU sees its own, and in a GICv3's
// redistributor (Arm IHI 0048, "Distributor register map"; Arm IHI 0069, "The GIC Redistributor register map").
const IGROUPR0: u64 = 0x080;
const ISENABLER0: u64 = 0x100;
const ICENABLER0: u64 = 0x180;
const ICPENDR0: u64 = 0x280;
const ISACTIVER0: u64 = 0x300;
const ICACTIVER0: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;

/// One CPU's SGIs and PPIs; to be used on that CPU.
#[derive(Clone, Copy, Debug)]
pub struct PrivateInterrupts {
    registers: Registers,
}

impl PrivateInterrupts {
    /// Those whose registers are there.
    pub(crate) fn new(registers: Registers) -> Self {
        Self { registers }
    }
    /// Switches all off.
    pub(crate) fn all_off(&self) {
        self.registers.write32(ICENABLER0, u32::MAX);
    }
    /// None is pending or active, and each has the priority of all and is in group 1 if its bit in `groups` is set.
    pub(crate) fn take_over(&self, groups: u32) {
        self.registers.write32(IGROUPR0, groups);
        self.registers.write32(ICPENDR0, u32::MAX);
        self.registers.write32(ICACTIVER0, u32::MAX);
        for word in 0..8 {
            self.registers.write32(IPRIORITYR + word * 4, PRIORITY);
        }
    }
    /// Switches those on whose bit is set.
    pub(crate) fn set_enabled(&self, which: u32) {
        self.registers.write32(ISENABLER0, which);
    }
    /// Makes one active or inactive by hand.
    #[inline]
    pub fn set_active(&self, intid: u32, active: bool) {
        let register = if active { ISACTIVER0 } else { ICACTIVER0 };
        self.registers.write32(register, 1 << (intid & 31));
    }
}
