//! The board's GICv2 (GIC-400): distributor, CPU interface, virtual interface control (Arm IHI 0048).
//!
//! Merus leaves the interrupts in the group that it finds or can give them, the only one there is for it: 0 where the GIC has no
//! Security Extensions, else 1, seen from the Non-secure side (whose enable bit is bit 0 as well). As on a GICv3, EOImode is 1: an
//! acknowledged interrupt is priority-dropped at once and deactivated separately, or by the guest through a hardware-linked list
//! register.
//!
//! What an acknowledge reads is more than an INTID: who sent an SGI is in it, and it has to be given back whole.

use crate::gic::{GicError, PATIENCE, PrivateInterrupts, SharedInterrupts};
use crate::mmio::Registers;

const GICD_CTLR: u64 = 0x000;
const GICD_ITARGETSR: u64 = 0x800;
const GICD_SGIR: u64 = 0xf00;
const ENABLE: u32 = 1;

const GICC_CTLR: u64 = 0x000;
const GICC_PMR: u64 = 0x004;
const GICC_BPR: u64 = 0x008;
const GICC_IAR: u64 = 0x00c;
const GICC_EOIR: u64 = 0x010;
const GICC_HPPIR: u64 = 0x018;
const GICC_APR: u64 = 0x0d0;
const GICC_DIR: u64 = 0x1000;
/// GICC_CTLR: EOImode, as the only view there is or the Non-secure one has it.
const EOI_MODE: u32 = 1 << 9;
/// GICC_CTLR: what is done with interrupts while the CPU interface is off (bypass); the firmware's affair.
const BYPASS: u32 = 0x1e0;

const GICH_HCR: u64 = 0x000;
const GICH_VTR: u64 = 0x004;
const GICH_VMCR: u64 = 0x008;
const GICH_MISR: u64 = 0x010;
const GICH_EISR: u64 = 0x020;
const GICH_ELRSR: u64 = 0x030;
const GICH_APR: u64 = 0x0f0;
const GICH_LR: u64 = 0x100;

/// The INTID in what an acknowledge read.
pub const INTID: u32 = 0x3ff;

/// The value that sends SGI `id` to the CPUs of `targets` ([`Distributor::send_sgi`]).
pub const fn sgir(id: u8, targets: u8) -> u32 {
    (targets as u32) << 16 | (id as u32 & 15)
}

/// The CPUs that a value of [`sgir`] is for.
pub const fn targets_of(sgir: u32) -> u8 {
    (sgir >> 16) as u8
}

/// The distributor.
#[derive(Clone, Copy, Debug)]
pub struct Distributor {
    registers: Registers,
    shared: SharedInterrupts,
}

impl Distributor {
    /// Takes the distributor over: every shared interrupt off, not pending, not active.
    pub fn new(registers: Registers) -> Result<Self, GicError> {
        let shared = SharedInterrupts::new(registers, 0)?;
        registers.write32(GICD_CTLR, 0);
        shared.take_over(0);
        registers.write32(GICD_CTLR, ENABLE);
        // A write that the firmware keeps to itself would leave the machine without interrupts.
        let on = (0..PATIENCE).any(|_| registers.read32(GICD_CTLR) & ENABLE != 0);
        if on { Ok(Self { registers, shared }) } else { Err(GicError::Stuck) }
    }
    /// The shared interrupts.
    pub fn shared(&self) -> &SharedInterrupts {
        &self.shared
    }
    /// This CPU's bit in target lists. With one CPU there are no such lists, and any value does.
    pub fn own_target(&self) -> u8 {
        match self.registers.read32(GICD_ITARGETSR) as u8 {
            0 => 1,
            target => target,
        }
    }
    /// Takes this CPU's private interrupts over: not pending, not active; on are all SGIs and `ppis`.
    pub fn start_private(&self, ppis: u32) -> PrivateInterrupts {
        let own = PrivateInterrupts::new(self.registers);
        own.all_off();
        own.take_over(0);
        own.set_enabled(ppis | 0xffff);
        own
    }
    /// Switches a shared interrupt on, level sensitive or edge triggered, for the CPU whose bit is `target`.
    pub fn enable_spi(&self, intid: u32, edge: bool, target: u8) {
        self.shared.enable(intid, edge, |registers| {
            let targets = GICD_ITARGETSR + u64::from(intid / 4) * 4;
            let shift = intid % 4 * 8;
            let old = registers.read32(targets);
            registers.write32(targets, (old & !(0xff << shift)) | u32::from(target) << shift);
        });
    }
    /// Has a shared interrupt go to the CPU whose bit is `target` from now on. (Target bytes can be written one by one.)
    pub fn route_spi(&self, intid: u32, target: u8) {
        if self.shared.has(intid) {
            self.registers.write8(GICD_ITARGETSR + u64::from(intid), target);
        }
    }
    /// Sends an SGI ([`sgir`]). What was stored before has to be visible to others by then: a barrier is the caller's affair.
    #[inline(always)]
    pub fn send_sgi(&self, value: u32) {
        self.registers.write32(GICD_SGIR, value);
    }
}

/// This CPU's interface, which every CPU has at the same address.
#[derive(Clone, Copy, Debug)]
pub struct CpuInterface {
    registers: Registers,
}

impl CpuInterface {
    /// The one whose registers are there.
    pub fn new(registers: Registers) -> Result<Self, GicError> {
        registers.probe32(GICC_CTLR)?;
        Ok(Self { registers })
    }
    /// Opens it for interrupts of every priority, with none active: one that the firmware acknowledged and never dropped would keep
    /// every other interrupt away.
    pub fn start(&self) {
        let bypass = self.registers.read32(GICC_CTLR) & BYPASS;
        self.registers.write32(GICC_CTLR, bypass);
        for n in 0..4 {
            self.registers.write32(GICC_APR + n * 4, 0);
        }
        self.registers.write32(GICC_PMR, 0xff);
        self.registers.write32(GICC_BPR, 0);
        self.registers.write32(GICC_CTLR, bypass | EOI_MODE | ENABLE);
    }
    /// The most urgent pending interrupt, active from now on; its INTID is 1020 or above where there is none.
    #[inline(always)]
    pub fn acknowledge(&self) -> u32 {
        self.registers.read32(GICC_IAR)
    }
    /// Drops the running priority of what [`CpuInterface::acknowledge`] read; it stays active.
    #[inline(always)]
    pub fn drop_priority(&self, acknowledged: u32) {
        self.registers.write32(GICC_EOIR, acknowledged);
    }
    /// What [`CpuInterface::acknowledge`] would read, without acknowledging it.
    pub fn highest_pending(&self) -> u32 {
        self.registers.read32(GICC_HPPIR)
    }
    /// Deactivates what [`CpuInterface::acknowledge`] read.
    #[inline(always)]
    pub fn deactivate(&self, acknowledged: u32) {
        self.registers.write32(GICC_DIR, acknowledged);
    }
}

/// The control of this CPU's virtual interface (GICH), which every CPU has at the same address. The registers are as in the manual;
/// what they mean for a guest is room `vgic`'s.
#[derive(Clone, Copy, Debug)]
pub struct VirtualControl {
    registers: Registers,
}

#[allow(missing_docs)] // Named after the registers.
impl VirtualControl {
    /// The one whose registers are there.
    pub fn new(registers: Registers) -> Result<Self, GicError> {
        registers.probe32(GICH_VTR)?;
        Ok(Self { registers })
    }
    /// Off, and nothing in its list registers.
    pub fn clear(&self) {
        self.set_hcr(0);
        self.set_vmcr(0);
        self.set_apr(0);
        for n in 0..self.list_registers() {
            self.set_lr(n, 0);
        }
    }
    /// How many list registers there are, at most 64.
    pub fn list_registers(&self) -> usize {
        (self.registers.read32(GICH_VTR) & 0x3f) as usize + 1
    }
    /// How many bits of priority it has.
    pub fn priority_bits(&self) -> u32 {
        (self.registers.read32(GICH_VTR) >> 29) + 1
    }
    #[inline]
    pub fn hcr(&self) -> u32 {
        self.registers.read32(GICH_HCR)
    }
    #[inline]
    pub fn set_hcr(&self, value: u32) {
        self.registers.write32(GICH_HCR, value);
    }
    #[inline]
    pub fn vmcr(&self) -> u32 {
        self.registers.read32(GICH_VMCR)
    }
    #[inline]
    pub fn set_vmcr(&self, value: u32) {
        self.registers.write32(GICH_VMCR, value);
    }
    #[inline]
    pub fn apr(&self) -> u32 {
        self.registers.read32(GICH_APR)
    }
    #[inline]
    pub fn set_apr(&self, value: u32) {
        self.registers.write32(GICH_APR, value);
    }
    pub fn misr(&self) -> u32 {
        self.registers.read32(GICH_MISR)
    }
    /// Of the first 32 list registers.
    #[inline]
    pub fn eisr(&self) -> u32 {
        self.registers.read32(GICH_EISR)
    }
    /// Of the first 32 list registers.
    #[inline]
    pub fn elrsr(&self) -> u32 {
        self.registers.read32(GICH_ELRSR)
    }
    #[inline]
    pub fn lr(&self, n: usize) -> u32 {
        self.registers.read32(GICH_LR + (n as u64 & 63) * 4)
    }
    #[inline]
    pub fn set_lr(&self, n: usize, value: u32) {
        self.registers.write32(GICH_LR + (n as u64 & 63) * 4, value);
    }
}

/// GICV: the virtual interface as a guest uses it; its registers are those of the CPU interface.
#[derive(Clone, Copy, Debug)]
pub struct VirtualInterface {
    registers: Registers,
}

impl VirtualInterface {
    /// The one whose registers are there.
    pub fn new(registers: Registers) -> Result<Self, GicError> {
        registers.probe32(GICC_CTLR)?;
        Ok(Self { registers })
    }
    /// Ends the virtual interrupt `intid`, and deactivates what it is linked to.
    pub fn end(&self, intid: u32) {
        self.registers.write32(GICC_EOIR, intid);
    }
}

/// Whether a physical interrupt whose line is high comes again as soon as the virtual one that is linked to it has been ended: what
/// the architecture says (Arm IHI 0048, "Interrupt handling and prioritization"), and QEMU up to version 10 does not do, where it
/// comes with the next change of anything else. `intid` is a private interrupt of this CPU, on, idle, with its line high; nothing
/// runs in the virtual interface, which is empty after.
pub fn links_work(cpu: &CpuInterface, control: &VirtualControl, guest: &VirtualInterface, intid: u32) -> bool {
    let Some(taken) = (0..PATIENCE).map(|_| cpu.acknowledge()).find(|taken| taken & INTID == intid) else {
        return false;
    };
    cpu.drop_priority(taken);
    // Group 0 on, all priorities; the interrupt is active at priority 0, which is the running one.
    control.set_vmcr(0xf800_0001);
    control.set_lr(0, 1 << 31 | 2 << 28 | intid << 10 | intid);
    control.set_apr(1);
    control.set_hcr(1);
    guest.end(intid);
    let again = (0..1000).any(|_| cpu.highest_pending() & INTID == intid);
    control.clear();
    cpu.deactivate(taken);
    again
}
