//! A GICv3 driver that shows every register: tests set, clear and look at single bits.
//!
//! SGIs and PPIs are banked: their functions take the CPU whose redistributor is meant. Everything is group 1 (non-secure).
//! Reference: Arm IHI 0069 (GICv3/v4), "Programmers' model".

use crate::mmio::{GICD, GICR, GICR_STRIDE, read32, read64, write8, write32, write64};
use crate::sysreg::isb;
use crate::{cpu, mrs, msr, timer};

// Distributor; the registers of one interrupt each are at the same offsets in a redistributor's SGI_base.
/// GICD_CTLR.
pub const CTLR: u64 = 0;
/// GICD_TYPER.
pub const TYPER: u64 = 4;
const IGROUPR: u64 = 0x80;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xc00;
const IROUTER: u64 = 0x6000;
// Redistributor, RD_base.
const GICR_TYPER: u64 = 8;
const GICR_WAKER: u64 = 0x14;
const WAKER_SLEEP: u32 = 2;
const WAKER_ASLEEP: u32 = 4;
const SGI_BASE: u64 = 0x1_0000;
/// GICD_CTLR: register write pending.
const RWP: u32 = 1 << 31;
/// GICD_CTLR: affinity routing and group 1.
const CTLR_ON: u32 = 1 << 4 | 1 << 1;

/// No interrupt is pending (what ICC_IAR1_EL1 says then).
pub const SPURIOUS: u32 = 1023;
/// The priority that [`init_cpu`] gives every interrupt.
pub const PRIORITY: u8 = 0xa0;

/// RD_base of a CPU's redistributor.
pub fn redistributor(cpu: usize) -> u64 {
    let mpidr = cpu::mpidr(cpu);
    let affinity = mpidr & 0xff_ffff | mpidr >> 8 & 0xff00_0000;
    let mut at = GICR;
    loop {
        let typer = read64(at + GICR_TYPER);
        if typer >> 32 == affinity {
            return at;
        }
        assert!(typer & 1 << 4 == 0, "no redistributor of affinity {affinity:#x}");
        at += GICR_STRIDE;
    }
}

/// How many interrupts the distributor has, SGIs and PPIs included.
pub fn lines() -> u32 {
    32 * ((read32(GICD + TYPER) & 31) + 1)
}

/// Turns the distributor on: all SPIs disabled, group 1, at [`PRIORITY`], idle, routed to the first CPU.
pub fn init() {
    write32(GICD + CTLR, 0);
    settle(GICD + CTLR);
    write32(GICD + CTLR, 1 << 4);
    settle(GICD + CTLR);
    for word in 1..u64::from(lines() / 32) {
        reset_word(GICD, word);
    }
    for spi in 32..lines().min(1020) {
        write64(GICD + IROUTER + 8 * u64::from(spi), cpu::mpidr(0));
    }
    write32(GICD + CTLR, CTLR_ON);
    settle(GICD + CTLR);
    init_cpu();
}

/// Turns this CPU's side on: all SGIs enabled, PPIs disabled, all at [`PRIORITY`] and idle; every priority comes through.
pub fn init_cpu() {
    let base = redistributor(cpu::index());
    let waker = read32(base + GICR_WAKER);
    write32(base + GICR_WAKER, waker & !WAKER_SLEEP);
    let awake = timer::wait_for(cpu::PATIENCE, || read32(base + GICR_WAKER) & WAKER_ASLEEP == 0);
    assert!(awake, "the redistributor of CPU {} does not wake", cpu::index());
    reset_word(base + SGI_BASE, 0);
    write32(base + SGI_BASE + ISENABLER, 0xffff);
    msr!("ICC_SRE_EL1", mrs!("ICC_SRE_EL1") | 1);
    isb();
    set_eoi_mode(false);
    set_pmr(0xff);
    msr!("ICC_BPR1_EL1", 0);
    msr!("ICC_IGRPEN1_EL1", 1);
    isb();
}

/// Takes this CPU's interface out: nothing is signalled to it any more.
pub fn exit_cpu() {
    msr!("ICC_IGRPEN1_EL1", 0);
    isb();
}

fn settle(ctlr: u64) {
    let settled = timer::wait_for(cpu::PATIENCE, || read32(ctlr) & RWP == 0);
    assert!(settled, "GICD_CTLR.RWP stays set");
}

/// Group 1, disabled, neither pending nor active, the usual priority, for the 32 interrupts of a word.
fn reset_word(base: u64, word: u64) {
    write32(base + ICENABLER + 4 * word, !0);
    write32(base + ICPENDR + 4 * word, !0);
    write32(base + ICACTIVER + 4 * word, !0);
    write32(base + IGROUPR + 4 * word, !0);
    for n in 0..8 {
        write32(base + IPRIORITYR + 32 * word + 4 * n, u32::from_ne_bytes([PRIORITY; 4]));
    }
}

/// Where the registers of an interrupt are: `cpu` counts for SGIs and PPIs.
fn frame(cpu: usize, intid: u32) -> u64 {
    if intid < 32 { redistributor(cpu) + SGI_BASE } else { GICD }
}

fn set_bit(cpu: usize, register: u64, intid: u32) {
    write32(frame(cpu, intid) + register + 4 * u64::from(intid / 32), 1 << (intid % 32));
}

fn bit(cpu: usize, register: u64, intid: u32) -> bool {
    read32(frame(cpu, intid) + register + 4 * u64::from(intid / 32)) & 1 << (intid % 32) != 0
}

/// Enables an interrupt.
pub fn enable(cpu: usize, intid: u32) {
    set_bit(cpu, ISENABLER, intid);
}

/// Disables an interrupt; it is out of the CPU interfaces when this returns.
pub fn disable(cpu: usize, intid: u32) {
    set_bit(cpu, ICENABLER, intid);
    if intid < 32 {
        let base = redistributor(cpu);
        let settled = timer::wait_for(cpu::PATIENCE, || read32(base) & 1 << 3 == 0);
        assert!(settled, "GICR_CTLR.RWP stays set");
    } else {
        settle(GICD + CTLR);
    }
}

/// Whether an interrupt is enabled.
pub fn is_enabled(cpu: usize, intid: u32) -> bool {
    bit(cpu, ISENABLER, intid)
}

/// Makes an interrupt pending by ISPENDR.
pub fn set_pending(cpu: usize, intid: u32) {
    set_bit(cpu, ISPENDR, intid);
}

/// Takes its pending state back by ICPENDR.
pub fn clear_pending(cpu: usize, intid: u32) {
    set_bit(cpu, ICPENDR, intid);
}

/// Its bit in ISPENDR; ICPENDR must say the same.
pub fn is_pending(cpu: usize, intid: u32) -> bool {
    bit(cpu, ISPENDR, intid)
}

/// Its bit in ICPENDR.
pub fn is_pending_by_clear(cpu: usize, intid: u32) -> bool {
    bit(cpu, ICPENDR, intid)
}

/// Makes an interrupt active by ISACTIVER.
pub fn set_active(cpu: usize, intid: u32) {
    set_bit(cpu, ISACTIVER, intid);
}

/// Takes its active state back by ICACTIVER.
pub fn clear_active(cpu: usize, intid: u32) {
    set_bit(cpu, ICACTIVER, intid);
}

/// Its bit in ISACTIVER.
pub fn is_active(cpu: usize, intid: u32) -> bool {
    bit(cpu, ISACTIVER, intid)
}

/// Sets a priority; 0 is the highest.
pub fn set_priority(cpu: usize, intid: u32, priority: u8) {
    write8(frame(cpu, intid) + IPRIORITYR + u64::from(intid), priority);
}

/// Reads a priority, by the word that holds it.
pub fn priority(cpu: usize, intid: u32) -> u8 {
    let at = frame(cpu, intid) + IPRIORITYR + u64::from(intid & !3);
    read32(at).to_le_bytes()[intid as usize % 4]
}

/// Makes an SPI edge triggered or level sensitive.
pub fn set_edge(spi: u32, edge: bool) {
    let at = GICD + ICFGR + 4 * u64::from(spi / 16);
    let bit = 2 << (2 * (spi % 16));
    let old = read32(at);
    write32(at, if edge { old | bit } else { old & !bit });
}

/// Routes an SPI to one CPU.
pub fn route(spi: u32, cpu: usize) {
    write64(GICD + IROUTER + 8 * u64::from(spi), cpu::mpidr(cpu));
}

/// Sends an SGI to one CPU.
pub fn send_sgi(cpu: usize, intid: u32) {
    let mpidr = cpu::mpidr(cpu);
    let aff1 = mpidr >> 8 & 0xff;
    let aff2 = mpidr >> 16 & 0xff;
    let aff3 = mpidr >> 32 & 0xff;
    let rs = mpidr >> 4 & 15;
    write_sgi1r(1 << (mpidr & 15) | aff1 << 16 | aff2 << 32 | rs << 44 | aff3 << 48 | u64::from(intid) << 24);
}

/// Sends an SGI to the CPUs whose affinity 0 has its bit in `list`, in the cluster of the first CPU.
pub fn send_sgi_list(list: u16, intid: u32) {
    write_sgi1r(u64::from(list) | u64::from(intid) << 24);
}

/// Sends an SGI to all CPUs but this one.
pub fn send_sgi_others(intid: u32) {
    write_sgi1r(1 << 40 | u64::from(intid) << 24);
}

/// Writes ICC_SGI1R_EL1; what was stored before is visible to who takes the SGI.
pub fn write_sgi1r(value: u64) {
    crate::run!("dsb ish");
    msr!("ICC_SGI1R_EL1", value);
    isb();
}

/// Acknowledges the best pending interrupt: its INTID, or [`SPURIOUS`].
pub fn acknowledge() -> u32 {
    let intid = mrs!("ICC_IAR1_EL1") as u32;
    crate::sysreg::dsb();
    intid
}

/// Drops the priority of an interrupt, and deactivates it unless EOImode is 1.
pub fn end(intid: u32) {
    msr!("ICC_EOIR1_EL1", u64::from(intid));
    isb();
}

/// Deactivates an interrupt where EOImode is 1.
pub fn deactivate(intid: u32) {
    msr!("ICC_DIR_EL1", u64::from(intid));
    isb();
}

/// The best pending interrupt, without taking it.
pub fn highest_pending() -> u32 {
    mrs!("ICC_HPPIR1_EL1") as u32
}

/// The running priority; 0xff when idle.
pub fn running_priority() -> u8 {
    mrs!("ICC_RPR_EL1") as u8
}

/// Lets only priorities better (lower) than this through.
pub fn set_pmr(priority: u8) {
    msr!("ICC_PMR_EL1", u64::from(priority));
    isb();
}

/// EOImode: whether [`end`] leaves deactivating to [`deactivate`].
pub fn set_eoi_mode(split: bool) {
    msr!("ICC_CTLR_EL1", if split { 2 } else { 0 });
    isb();
}
