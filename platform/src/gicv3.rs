//! The board's GICv3: distributor and redistributors (Arm IHI 0069, "Programmers' Model").
//!
//! The CPU interface is system registers and lives in `el2`. All interrupts are non-secure group 1. Merus uses EOImode 1:
//! an acknowledged interrupt is priority-dropped at once and deactivated separately, or by the guest through a
//! hardware-linked list register.

use crate::gic::{GicError, PATIENCE, PrivateInterrupts, SharedInterrupts};
use crate::mmio::{NoAnswer, Registers};

const GICD_CTLR: u64 = 0x0000;
const GICD_IROUTER: u64 = 0x6000;
const CTLR_ENABLE_G1NS: u32 = 1 << 1;
const CTLR_ARE_NS: u32 = 1 << 4;
const CTLR_RWP: u32 = 1 << 31;

const GICR_CTLR: u64 = 0x0000;
const GICR_TYPER: u64 = 0x0008;
const GICR_WAKER: u64 = 0x0014;
const SGI_BASE: u64 = 0x1_0000;
const TYPER_VLPIS: u64 = 1 << 1;
const TYPER_LAST: u64 = 1 << 4;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
const GICR_CTLR_RWP: u32 = 1 << 3;

/// The distributor.
#[derive(Clone, Copy, Debug)]
pub struct Distributor {
    registers: Registers,
    shared: SharedInterrupts,
}

impl Distributor {
    /// Takes the distributor over: every shared interrupt off, not pending, not active, in group 1.
    pub fn new(registers: Registers) -> Result<Self, GicError> {
        let shared = SharedInterrupts::new(registers, CTLR_RWP)?;
        registers.write32(GICD_CTLR, 0);
        shared.wait()?;
        shared.take_over(u32::MAX);
        shared.wait()?;
        registers.write32(GICD_CTLR, CTLR_ARE_NS | CTLR_ENABLE_G1NS);
        shared.wait()?;
        Ok(Self { registers, shared })
    }
    /// The shared interrupts.
    pub fn shared(&self) -> &SharedInterrupts {
        &self.shared
    }
    /// Switches a shared interrupt on, level sensitive or edge triggered, routed to the CPU of `affinity` (MPIDR layout).
    pub fn enable_spi(&self, intid: u32, edge: bool, affinity: u64) {
        self.shared.enable(intid, edge, |registers| {
            registers.write64(GICD_IROUTER + u64::from(intid) * 8, affinity & 0xff_00ff_ffff);
        });
    }
    /// Has a shared interrupt go to the CPU of `affinity` (MPIDR layout) from now on.
    pub fn route_spi(&self, intid: u32, affinity: u64) {
        if self.shared.has(intid) {
            self.registers.write64(GICD_IROUTER + u64::from(intid) * 8, affinity & 0xff_00ff_ffff);
        }
    }
}

/// One CPU's redistributor.
#[derive(Clone, Copy, Debug)]
pub struct Redistributor {
    registers: Registers,
}

impl Redistributor {
    /// Finds the redistributor of the CPU with `mpidr` in `region`, which is `size` bytes of consecutive redistributors.
    ///
    /// # Errors
    /// [`NoAnswer`] where the region ends early, or is none.
    pub fn find(region: Registers, size: u64, mpidr: u64) -> Result<Option<Self>, NoAnswer> {
        let affinity = affinity_of(mpidr);
        let mut offset = 0;
        while offset < size {
            // SAFETY: the offset lies in the region, all of which `region`'s maker promised to be redistributors.
            let registers = unsafe { region.at(offset) };
            let typer = registers.probe64(GICR_TYPER)?;
            if (typer >> 32) as u32 == affinity {
                return Ok(Some(Self { registers }));
            }
            if typer & TYPER_LAST != 0 {
                break;
            }
            // A redistributor that knows virtual LPIs (GICv4) has two frames more.
            offset += if typer & TYPER_VLPIS != 0 { 0x4_0000 } else { 0x2_0000 };
        }
        Ok(None)
    }
    /// Wakes it, and takes its private interrupts over: group 1, not pending, not active; on are all SGIs and `ppis`.
    pub fn start(&self, ppis: u32) -> Result<PrivateInterrupts, GicError> {
        let waker = self.registers.read32(GICR_WAKER);
        self.registers.write32(GICR_WAKER, waker & !WAKER_PROCESSOR_SLEEP);
        (0..PATIENCE)
            .find(|_| self.registers.read32(GICR_WAKER) & WAKER_CHILDREN_ASLEEP == 0)
            .ok_or(GicError::Stuck)?;
        // SAFETY: each redistributor has its two frames one after the other; this is the second.
        let own = PrivateInterrupts::new(unsafe { self.registers.at(SGI_BASE) });
        own.all_off();
        self.wait()?;
        own.take_over(u32::MAX);
        own.set_enabled(ppis | 0xffff);
        self.wait()?;
        Ok(own)
    }
    fn wait(&self) -> Result<(), GicError> {
        (0..PATIENCE).find(|_| self.registers.read32(GICR_CTLR) & GICR_CTLR_RWP == 0).map(|_| ()).ok_or(GicError::Stuck)
    }
}

/// The affinity of an MPIDR in the layout of GICR_TYPER: Aff3.Aff2.Aff1.Aff0 in 32 bits.
pub const fn affinity_of(mpidr: u64) -> u32 {
    ((mpidr & 0xff_ffff) | (mpidr >> 32 & 0xff) << 24) as u32
}

/// The value of ICC_SGI1R_EL1 that sends SGI `id` to the CPU with `mpidr`.
pub const fn sgi1r(id: u8, mpidr: u64) -> u64 {
    let (aff0, aff1, aff2, aff3) = (mpidr & 0xff, mpidr >> 8 & 0xff, mpidr >> 16 & 0xff, mpidr >> 32 & 0xff);
    1 << (aff0 & 15) | aff1 << 16 | (id as u64 & 15) << 24 | aff2 << 32 | (aff0 >> 4) << 44 | aff3 << 48
}
