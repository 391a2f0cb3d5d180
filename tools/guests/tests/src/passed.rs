//! Devices of the board that were passed through to the VM: their registers are the hardware's, their interrupts come.
//!
//! | test | device | what makes its interrupt |
//! |---|---|---|
//! | `passed-rtc` | a PL031 beside the guest's own | an alarm at the second that it is |
//! | `passed-serial` | a BCM2835's AUX serial port | a transmitter that is empty |
//! | `passed-timer` | a BCM2835's system timer | none is asked for: QEMU's `raspi4b` does not wire it to the GIC |

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use guest_rt::fdt::{self, Device};
use guest_rt::mmio::{read32, write32};
use guest_rt::timer::{delay, wait_for};
use guest_rt::{check, check_eq, cpu, gic, mmu, println, vectors};

/// The guest's own clock.
const OWN_RTC: u64 = 0x0901_0000;
// PL031, "Summary of RTC registers".
const DR: u64 = 0x00;
const MR: u64 = 0x04;
const LR: u64 = 0x08;
const IMSC: u64 = 0x10;
const RIS: u64 = 0x14;
const ICR: u64 = 0x1c;

static AT: AtomicU64 = AtomicU64::new(0);
static INTID: AtomicU32 = AtomicU32::new(0);
/// Interrupts that a handler has begun with, whose device it may not have quieted yet.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// Those that each CPU is through with.
static TAKEN: [AtomicU32; cpu::MAX] = [const { AtomicU32::new(0) }; cpu::MAX];
/// Whether the handler quiets the device, ends the interrupt, and deactivates it by a second step.
static QUIETS: AtomicBool = AtomicBool::new(true);
static ENDS: AtomicBool = AtomicBool::new(true);
static SPLIT: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);
/// What quiets the device.
static QUIET: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn at(register: u64) -> u64 {
    AT.load(Ordering::Relaxed) + register
}

fn handler() {
    let intid = gic::acknowledge();
    if intid >= 1020 {
        return;
    }
    if intid == INTID.load(Ordering::Relaxed) {
        BEGUN.fetch_add(1, Ordering::SeqCst);
        if QUIETS.load(Ordering::Relaxed) {
            let [register, value] = [0, 1].map(|n: usize| QUIET[n].load(Ordering::Relaxed));
            write32(register, value as u32);
            // The line is low before the interrupt ends.
            read32(register);
        }
        TAKEN[cpu::index()].fetch_add(1, Ordering::Release);
    }
    if ENDS.load(Ordering::Relaxed) {
        gic::end(intid);
        if SPLIT.load(Ordering::Relaxed) {
            gic::deactivate(intid);
        }
    }
}

fn taken() -> u32 {
    TAKEN.iter().map(|count| count.load(Ordering::Acquire)).sum()
}

fn came(times: u32, what: &str) {
    wait_for(cpu::PATIENCE, || taken() >= times);
    check_eq!(taken(), times, "{what}");
}

/// Takes the device: `quiet` is the register that quiets it, and with what.
fn begin(device: Device, base: u64, quiet: (u64, u32)) {
    AT.store(base, Ordering::Relaxed);
    INTID.store(device.intid, Ordering::Relaxed);
    QUIET[0].store(base + quiet.0, Ordering::Relaxed);
    QUIET[1].store(quiet.1.into(), Ordering::Relaxed);
    TAKEN.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    gic::init();
    vectors::set_irq(Some(handler));
    gic::set_edge(device.intid, device.edge);
    gic::route(device.intid, 0);
    cpu::unmask_irq();
}

/// Where device registers above the first GiB can be reached.
fn reach(at: u64) -> u64 {
    if at >> 30 == 0 { at } else { mmu::alias(at >> 30, mmu::Attribute::Device) + at % (1 << 30) }
}

fn own(kind: &str, but: u64) -> Option<Device> {
    let device = fdt::device(kind, but);
    check!(device.is_some(), "the tree has no {kind} that was passed through");
    device
}

/// Has the clock raise its line: the alarm is for now. (The second may be over in between.)
fn alarm() {
    while read32(at(RIS)) & 1 == 0 && taken() == 0 {
        write32(at(MR), read32(at(DR)));
    }
}

/// The same where it has been raised before: once, and not again when another CPU has quieted it before it is looked at.
fn alarm_again() {
    let before = BEGUN.load(Ordering::SeqCst);
    let raised = wait_for(cpu::PATIENCE, || {
        write32(at(MR), read32(at(DR)));
        let is_high = read32(at(RIS)) & 1 != 0;
        fence(Ordering::SeqCst);
        is_high || BEGUN.load(Ordering::SeqCst) != before
    });
    check!(raised, "the clock has no alarm");
}

/// The clock's interrupt in every way that a guest can have it.
pub fn rtc() {
    let Some(device) = own("arm,pl031", OWN_RTC) else { return };
    let intid = device.intid;
    begin(device, device.at, (ICR, 1));
    write32(at(IMSC), 0);
    write32(at(ICR), 1);
    check!(read32(at(DR)) > 1_000_000_000, "it is the machine's clock: {}", read32(at(DR)));
    write32(at(IMSC), 1);
    // Switched off, it waits.
    alarm();
    delay(2000);
    check_eq!((taken(), read32(at(RIS)) & 1), (0, 1), "while it is off");
    gic::enable(0, intid);
    came(1, "when it is switched on");
    for n in 1..40 {
        alarm_again();
        came(n + 1, "again");
    }
    // Two steps to its end.
    gic::set_eoi_mode(true);
    SPLIT.store(true, Ordering::Relaxed);
    for n in 40..50 {
        alarm_again();
        came(n + 1, "in two steps");
    }
    SPLIT.store(false, Ordering::Relaxed);
    gic::set_eoi_mode(false);
    // By the guest's own hand, without the device.
    gic::set_pending(0, intid);
    came(51, "by ISPENDR");
    gic::disable(0, intid);
    alarm_again();
    delay(2000);
    check_eq!(taken(), 51, "switched off again");
    write32(at(ICR), 1);
    gic::enable(0, intid);
    delay(2000);
    check_eq!(taken(), 51, "the line went low meanwhile");
    unended(intid);
    elsewhere(intid);
    write32(at(IMSC), 0);
}

/// What is not ended does not come again, and does when it is.
fn unended(intid: u32) {
    let before = taken();
    ENDS.store(false, Ordering::Relaxed);
    alarm_again();
    came(before + 1, "not ended");
    check!(gic::is_active(0, intid), "it is active");
    alarm_again();
    delay(2000);
    check_eq!(taken(), before + 1, "while it is active");
    ENDS.store(true, Ordering::Relaxed);
    gic::end(intid);
    came(before + 2, "after its end");
    // The same by ICACTIVER. (Its priority stays, until it is forgotten.)
    ENDS.store(false, Ordering::Relaxed);
    alarm_again();
    came(before + 3, "not ended again");
    ENDS.store(true, Ordering::Relaxed);
    gic::clear_active(0, intid);
    gic::forget_priorities();
    alarm_again();
    came(before + 4, "after ICACTIVER");
}

/// Every CPU gets it in turn.
fn elsewhere(intid: u32) {
    DONE.store(false, Ordering::SeqCst);
    let all = cpu::count();
    for cpu in 1..all {
        cpu::start(cpu, |_| {
            gic::init_cpu();
            cpu::unmask_irq();
            wait_for(cpu::PATIENCE, || DONE.load(Ordering::SeqCst));
            cpu::mask_irq();
        });
    }
    delay(5000);
    for n in 0..4 * all {
        let (to, before) = (n % all, taken());
        gic::route(intid, to);
        let there = TAKEN[to].load(Ordering::Acquire);
        alarm_again();
        came(before + 1, "on another CPU");
        check_eq!(TAKEN[to].load(Ordering::Acquire), there + 1, "on CPU {to}");
    }
    DONE.store(true, Ordering::SeqCst);
    (1..all).for_each(cpu::join);
}

/// The serial port beside the SPI masters of a BCM2835: says something, and is interrupted when that has gone.
pub fn serial() {
    const IO: u64 = 0x00;
    const IER: u64 = 0x04;
    const LCR: u64 = 0x0c;
    const LSR: u64 = 0x14;
    const CNTL: u64 = 0x20;
    let Some(device) = own("brcm,bcm2835-aux-uart", 0) else { return };
    begin(device, reach(device.at), (IER, 0));
    write32(at(IER), 0);
    write32(at(CNTL), 3);
    write32(at(LCR), 3);
    for byte in "passed: the other port speaks\r\n".bytes() {
        let room = wait_for(cpu::PATIENCE, || read32(at(LSR)) & 1 << 5 != 0);
        check!(room, "the transmitter stays full");
        write32(at(IO), byte.into());
    }
    gic::enable(0, device.intid);
    for n in 0..20 {
        // The transmitter is empty: bit 1 asks for that. The handler takes it back.
        write32(at(IER), 2);
        came(n + 1, "empty");
    }
    mmu::unalias();
}

/// The free running timer of a BCM2835.
pub fn timer() {
    const CS: u64 = 0x00;
    const CLO: u64 = 0x04;
    const C0: u64 = 0x0c;
    let Some(device) = own("brcm,bcm2835-system-timer", 0) else { return };
    begin(device, reach(device.at), (CS, 1));
    let before = read32(at(CLO));
    delay(1000);
    let us = read32(at(CLO)).wrapping_sub(before);
    check!((900..100_000).contains(&us), "1000 us are {us} of its ticks");
    write32(at(CS), 0xf);
    for _ in 0..20 {
        write32(at(C0), read32(at(CLO)).wrapping_add(200));
        let compared = wait_for(cpu::PATIENCE, || read32(at(CS)) & 1 != 0);
        check!(compared, "it does not compare");
        write32(at(CS), 1);
    }
    mmu::unalias();
}

/// For ever: alarms and random stores, an interrupt that is ended one time of two.
pub fn hammer(cpu: usize) {
    if cpu == 0 {
        let Some(device) = own("arm,pl031", OWN_RTC) else { return };
        begin(device, device.at, (ICR, 1));
        gic::enable(0, device.intid);
        println!("hostile: has {:#x}", device.at);
        DONE.store(true, Ordering::SeqCst);
    }
    wait_for(cpu::PATIENCE, || DONE.load(Ordering::SeqCst));
    cpu::unmask_irq();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ (cpu as u64) << 32;
    loop {
        random = crate::fuzz::next(random);
        let value = (random >> 20) as u32;
        let intid = INTID.load(Ordering::Relaxed);
        match random >> 60 {
            0..8 => {
                write32(at(IMSC), 1);
                write32(at(MR), read32(at(DR)));
            }
            // (All but what sets the time: whoever has the clock next wants to know it.)
            8..10 if (random >> 10) & 0xffc != LR => write32(at((random >> 10) & 0xffc), value),
            8..10 => {}
            10 => ENDS.store(value & 1 != 0, Ordering::Relaxed),
            11 => QUIETS.store(value & 1 != 0, Ordering::Relaxed),
            12 => gic::clear_active(0, intid),
            13 => gic::set_pending(0, intid),
            14 => gic::route(intid, value as usize % cpu::count()),
            _ if value & 1 != 0 => gic::disable(0, intid),
            _ => gic::enable(0, intid),
        }
    }
}
