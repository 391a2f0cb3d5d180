//! What differs where the device tree has a GICv2: [`crate::gic`] asks here.
//!
//! Each CPU sees its own SGIs and PPIs in the distributor, so functions about another CPU's fail.
//! Reference: Arm IHI 0048 (GICv2), "Programmers' Model". There is one group, and no Security Extensions.

use crate::mmio::{GICC, GICD, read32, write8, write32};
use crate::{cpu, fdt};
use core::sync::atomic::{AtomicU8, Ordering};

const ITARGETSR: u64 = 0x800;
const SGIR: u64 = 0xf00;
const CPENDSGIR: u64 = 0xf10;
const SPENDSGIR: u64 = 0xf20;

const CTLR: u64 = 0x00;
const PMR: u64 = 0x04;
const BPR: u64 = 0x08;
const IAR: u64 = 0x0c;
const EOIR: u64 = 0x10;
const RPR: u64 = 0x14;
const HPPIR: u64 = 0x18;
const APR: u64 = 0xd0;
const DIR: u64 = 0x1000;
const ENABLE: u32 = 1;
const EOI_MODE: u32 = 1 << 9;
const INTID: u32 = 0x3ff;

/// Who sent the SGI that each CPU acknowledged last, by its number: part of what is to be given back.
static SENDERS: [[AtomicU8; 16]; 8] = [const { [const { AtomicU8::new(0) }; 16] }; 8];

/// Whether there is a GICv2.
pub fn is_here() -> bool {
    fdt::gicv2()
}

fn senders() -> &'static [AtomicU8; 16] {
    &SENDERS[cpu::index() % 8]
}

/// With who sent it.
fn whole(intid: u32) -> u32 {
    let sender = senders().get(intid as usize).map_or(0, |sender| sender.load(Ordering::Relaxed));
    intid | u32::from(sender) << 10
}

/// Who sent the SGI `intid` that this CPU has acknowledged.
pub fn sender(intid: u32) -> usize {
    (whole(intid) >> 10) as usize
}

/// The frame of `cpu`'s own interrupts: only its own CPU sees them.
pub(crate) fn own_frame(cpu: usize) -> u64 {
    assert!(cpu == cpu::index(), "CPU {} wants to see the private interrupts of CPU {cpu}", cpu::index());
    GICD
}

pub(crate) fn open() {
    set_pmr(0xff);
    write32(GICC + BPR, 0);
    write32(GICC + CTLR, ENABLE);
}

pub(crate) fn switch(on: bool) {
    let old = read32(GICC + CTLR);
    write32(GICC + CTLR, if on { old | ENABLE } else { old & !ENABLE });
}

pub(crate) fn set_sgi_pending(intid: u32, pending: bool) {
    let (register, bits) = if pending { (SPENDSGIR, 1 << cpu::index()) } else { (CPENDSGIR, 0xff) };
    write8(GICD + register + u64::from(intid), bits);
}

pub(crate) fn route(spi: u32, cpu: usize) {
    write8(GICD + ITARGETSR + u64::from(spi), 1 << cpu);
}

/// Writes GICD_SGIR.
pub(crate) fn send(value: u32) {
    crate::run!("dsb ish");
    write32(GICD + SGIR, value);
}

pub(crate) fn acknowledge() -> u32 {
    let value = read32(GICC + IAR);
    let intid = value & INTID;
    if let Some(sender) = senders().get(intid as usize) {
        sender.store((value >> 10) as u8 & 7, Ordering::Relaxed);
    }
    intid
}

pub(crate) fn end(intid: u32) {
    write32(GICC + EOIR, whole(intid));
}

pub(crate) fn deactivate(intid: u32) {
    write32(GICC + DIR, whole(intid));
}

pub(crate) fn highest_pending() -> u32 {
    read32(GICC + HPPIR) & INTID
}

pub(crate) fn running_priority() -> u8 {
    read32(GICC + RPR) as u8
}

pub(crate) fn set_pmr(priority: u8) {
    write32(GICC + PMR, priority.into());
}

pub(crate) fn set_eoi_mode(split: bool) {
    let old = read32(GICC + CTLR) & !EOI_MODE;
    write32(GICC + CTLR, if split { old | EOI_MODE } else { old });
}

/// GICC_BPR: one less than ICC_BPR1_EL1 for the same groups of priorities.
pub(crate) fn set_binary_point(point: u32) -> u32 {
    write32(GICC + BPR, point.saturating_sub(1));
    read32(GICC + BPR) + 1
}

pub(crate) fn forget_priorities() {
    write32(GICC + APR, 0);
}
