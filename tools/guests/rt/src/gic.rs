//! A driver of the GICv3, or of the GICv2 ([`gicv2`]) where the device tree has one, that shows every register: tests set, clear
//! and look at single bits.
//!
//! SGIs and PPIs are banked: their functions take the CPU whose redistributor is meant. Everything is in the one group there is (1,
//! non-secure).
//! Reference: Arm IHI 0069 (GICv3/v4), "Programmers' model".

use crate::mmio::{GICD, GICR, GICR_STRIDE, read32, read64, write8, write32, write64};
use crate::sysreg::isb;
use crate::{cpu, gicv2, mrs, msr, timer};

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
    if gicv2::is_here() {
        write32(GICD + CTLR, 0);
        for word in 1..u64::from(lines() / 32) {
            reset_word(GICD, word);
        }
        for spi in 32..lines().min(1020) {
            gicv2::route(spi, 0);
        }
        write32(GICD + CTLR, 1);
        return init_cpu();
    }
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
    if gicv2::is_here() {
        reset_word(GICD, 0);
        for sgi in 0..16 {
            gicv2::set_sgi_pending(sgi, false);
        }
        return gicv2::open();
    }
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
    if gicv2::is_here() {
        return gicv2::switch(false);
    }
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
    // A GICv2 that has groups though it has no Security Extensions signals group 0 as IRQs.
    write32(base + IGROUPR + 4 * word, if gicv2::is_here() { 0 } else { !0 });
    for n in 0..8 {
        write32(base + IPRIORITYR + 32 * word + 4 * n, u32::from_ne_bytes([PRIORITY; 4]));
    }
}

/// Where the registers of an interrupt are: `cpu` counts for SGIs and PPIs.
fn frame(cpu: usize, intid: u32) -> u64 {
    match intid {
        32.. => GICD,
        _ if gicv2::is_here() => gicv2::own_frame(cpu),
        _ => redistributor(cpu) + SGI_BASE,
    }
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
    if gicv2::is_here() {
        return;
    }
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
    if intid < 16 && gicv2::is_here() {
        return gicv2::set_sgi_pending(intid, true);
    }
    set_bit(cpu, ISPENDR, intid);
}

/// Takes its pending state back by ICPENDR.
pub fn clear_pending(cpu: usize, intid: u32) {
    if intid < 16 && gicv2::is_here() {
        return gicv2::set_sgi_pending(intid, false);
    }
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
    if gicv2::is_here() {
        return gicv2::route(spi, cpu);
    }
    write64(GICD + IROUTER + 8 * u64::from(spi), cpu::mpidr(cpu));
}

/// Sends an SGI to one CPU.
pub fn send_sgi(cpu: usize, intid: u32) {
    if gicv2::is_here() {
        return gicv2::send(1 << (16 + cpu) | intid);
    }
    let mpidr = cpu::mpidr(cpu);
    let aff1 = mpidr >> 8 & 0xff;
    let aff2 = mpidr >> 16 & 0xff;
    let aff3 = mpidr >> 32 & 0xff;
    let rs = mpidr >> 4 & 15;
    write_sgi1r(1 << (mpidr & 15) | aff1 << 16 | aff2 << 32 | rs << 44 | aff3 << 48 | u64::from(intid) << 24);
}

/// Sends an SGI to the CPUs whose affinity 0 has its bit in `list`, in the cluster of the first CPU (of a GICv2: the first eight).
pub fn send_sgi_list(list: u16, intid: u32) {
    if gicv2::is_here() {
        return gicv2::send(u32::from(list & 0xff) << 16 | intid);
    }
    write_sgi1r(u64::from(list) | u64::from(intid) << 24);
}

/// Sends an SGI to all CPUs but this one.
pub fn send_sgi_others(intid: u32) {
    if gicv2::is_here() {
        return gicv2::send(1 << 24 | intid);
    }
    write_sgi1r(1 << 40 | u64::from(intid) << 24);
}

/// Writes ICC_SGI1R_EL1, or GICD_SGIR; what was stored before is visible to who takes the SGI.
pub fn write_sgi1r(value: u64) {
    if gicv2::is_here() {
        return gicv2::send(value as u32);
    }
    crate::run!("dsb ish");
    msr!("ICC_SGI1R_EL1", value);
    isb();
}

/// Acknowledges the best pending interrupt: its INTID, or [`SPURIOUS`].
pub fn acknowledge() -> u32 {
    let intid = if gicv2::is_here() { gicv2::acknowledge() } else { mrs!("ICC_IAR1_EL1") as u32 };
    crate::sysreg::dsb();
    intid
}

/// Drops the priority of an interrupt, and deactivates it unless EOImode is 1.
pub fn end(intid: u32) {
    if gicv2::is_here() {
        return gicv2::end(intid);
    }
    msr!("ICC_EOIR1_EL1", u64::from(intid));
    isb();
}

/// Deactivates an interrupt where EOImode is 1.
pub fn deactivate(intid: u32) {
    if gicv2::is_here() {
        return gicv2::deactivate(intid);
    }
    msr!("ICC_DIR_EL1", u64::from(intid));
    isb();
}

/// The best pending interrupt, without taking it.
pub fn highest_pending() -> u32 {
    if gicv2::is_here() { gicv2::highest_pending() } else { mrs!("ICC_HPPIR1_EL1") as u32 }
}

/// The running priority; 0xff when idle.
pub fn running_priority() -> u8 {
    if gicv2::is_here() { gicv2::running_priority() } else { mrs!("ICC_RPR_EL1") as u8 }
}

/// Lets only priorities better (lower) than this through.
pub fn set_pmr(priority: u8) {
    if gicv2::is_here() {
        return gicv2::set_pmr(priority);
    }
    msr!("ICC_PMR_EL1", u64::from(priority));
    isb();
}

/// EOImode: whether [`end`] leaves deactivating to [`deactivate`].
pub fn set_eoi_mode(split: bool) {
    if gicv2::is_here() {
        return gicv2::set_eoi_mode(split);
    }
    msr!("ICC_CTLR_EL1", if split { 2 } else { 0 });
    isb();
}

/// Switches the group of all interrupts on or off at this CPU's interface.
pub fn switch_group(on: bool) {
    if gicv2::is_here() {
        return gicv2::switch(on);
    }
    msr!("ICC_IGRPEN1_EL1", u64::from(on));
    isb();
}

/// Sets how many of a priority's low bits do not decide about preemption (ICC_BPR1_EL1); what the register says then.
pub fn set_binary_point(point: u32) -> u32 {
    if gicv2::is_here() {
        return gicv2::set_binary_point(point);
    }
    msr!("ICC_BPR1_EL1", u64::from(point));
    isb();
    mrs!("ICC_BPR1_EL1") as u32
}

/// Forgets the priorities that handlers left active.
pub fn forget_priorities() {
    if gicv2::is_here() {
        return gicv2::forget_priorities();
    }
    msr!("ICC_AP1R0_EL1", 0);
    isb();
}
