//! What the drivers of a GICv2 and of a GICv3 have in common: errors, a CPU's private interrupts, and the shared ones.

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

// The registers of interrupts, at the same offsets in both distributors; those of SGIs and PPIs in a GICv2's distributor, where each
// CPU sees its own, and in a GICv3's redistributor (Arm IHI 0048, "Distributor register map"; Arm IHI 0069, "The GIC Distributor
// register map", "The GIC Redistributor register map").
const CTLR: u64 = 0x000;
const TYPER: u64 = 0x004;
const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xc00;

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
        self.registers.write32(ICENABLER, u32::MAX);
    }
    /// None is pending or active, and each has the priority of all and is in group 1 if its bit in `groups` is set.
    pub(crate) fn take_over(&self, groups: u32) {
        self.registers.write32(IGROUPR, groups);
        self.registers.write32(ICPENDR, u32::MAX);
        self.registers.write32(ICACTIVER, u32::MAX);
        for word in 0..8 {
            self.registers.write32(IPRIORITYR + word * 4, PRIORITY);
        }
    }
    /// Switches those on whose bit is set.
    pub(crate) fn set_enabled(&self, which: u32) {
        self.registers.write32(ISENABLER, which);
    }
    /// Makes one active or inactive by hand.
    #[inline]
    pub fn set_active(&self, intid: u32, active: bool) {
        let register = if active { ISACTIVER } else { ICACTIVER };
        self.registers.write32(register, 1 << (intid & 31));
    }
}

/// The shared interrupts (SPIs), which are in the distributor.
///
/// Two CPUs may use it at once, but for two [`SharedInterrupts::configure`]s: sixteen triggers are in one register.
#[derive(Clone, Copy, Debug)]
pub struct SharedInterrupts {
    registers: Registers,
    intids: u32,
    /// The bits of GICD_CTLR that say that a write has not taken effect everywhere yet.
    busy: u32,
}

impl SharedInterrupts {
    /// Those of the distributor whose registers are there. `busy`: which bits of GICD_CTLR are set as long as a write has not taken
    /// effect; a GICv2 has none.
    pub(crate) fn new(registers: Registers, busy: u32) -> Result<Self, GicError> {
        let lines = registers.probe32(TYPER)? & 0x1f;
        Ok(Self { registers, intids: (32 * (lines + 1)).min(1020), busy })
    }
    /// How many interrupt IDs there are, private ones included.
    pub fn intids(&self) -> u32 {
        self.intids
    }
    /// None is on, pending or active, and each has the priority of all and is in group 1 if its bit in `groups` is set, the same for
    /// each 32.
    pub(crate) fn take_over(&self, groups: u32) {
        for word in 1..self.intids.div_ceil(32) {
            let at = u64::from(word) * 4;
            self.registers.write32(ICENABLER + at, u32::MAX);
            self.registers.write32(ICPENDR + at, u32::MAX);
            self.registers.write32(ICACTIVER + at, u32::MAX);
            self.registers.write32(IGROUPR + at, groups);
        }
        for word in 8..self.intids.div_ceil(4) {
            self.registers.write32(IPRIORITYR + u64::from(word) * 4, PRIORITY);
        }
    }
    /// Switches one on, level sensitive or edge triggered, after `route` has told the distributor which CPU it is for. What is no
    /// shared interrupt of this distributor stays off.
    pub(crate) fn enable(&self, intid: u32, edge: bool, route: impl FnOnce(&Registers)) {
        if self.has(intid) {
            self.configure(intid, edge);
            route(&self.registers);
            self.switch(intid, true);
        }
    }
    /// Whether it is a shared interrupt of this distributor.
    pub(crate) fn has(&self, intid: u32) -> bool {
        (32..self.intids).contains(&intid)
    }
    /// Makes one edge triggered or level sensitive; it is off. Not by two CPUs at once, whichever interrupts they mean.
    pub fn configure(&self, intid: u32, edge: bool) {
        if self.has(intid) {
            let config = ICFGR + u64::from(intid / 16) * 4;
            let bit = 2 << (intid % 16 * 2);
            let old = self.registers.read32(config);
            self.registers.write32(config, if edge { old | bit } else { old & !bit });
        }
    }
    /// Switches one on or off; off, it is forwarded to nobody from the return on.
    pub fn switch(&self, intid: u32, on: bool) {
        self.write_bit(if on { ISENABLER } else { ICENABLER }, intid);
        if !on {
            // (One that does not obey is not believed any more, but there is nothing else to be done.)
            let _ = self.wait();
        }
    }
    /// Makes one inactive, whichever CPU has taken it.
    pub fn deactivate(&self, intid: u32) {
        self.write_bit(ICACTIVER, intid);
    }
    /// Makes one pending, whatever its line says: it is taken once more.
    pub fn pend(&self, intid: u32) {
        self.write_bit(ISPENDR, intid);
    }
    /// Makes one neither on nor pending (but for a line that is high) nor active.
    pub fn forget(&self, intid: u32) {
        self.switch(intid, false);
        self.write_bit(ICPENDR, intid);
        self.deactivate(intid);
    }
    /// Until what was written has taken effect; where nothing says so, the read that comes behind the write has to do.
    pub(crate) fn wait(&self) -> Result<(), GicError> {
        (0..PATIENCE).find(|_| self.registers.read32(CTLR) & self.busy == 0).map(|_| ()).ok_or(GicError::Stuck)
    }
    fn write_bit(&self, register: u64, intid: u32) {
        if self.has(intid) {
            self.registers.write32(register + u64::from(intid / 32) * 4, 1 << (intid % 32));
        }
    }
}
