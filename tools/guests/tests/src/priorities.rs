//! More pending than list registers, priorities, preemption and the priority mask.

use crate::taken;
use core::sync::atomic::{AtomicU32, Ordering};
use guest_rt::{check, check_eq, cpu, gic, timer, vectors};

/// Runs the test.
pub fn priorities() {
    gic::init();
    many(|n| n);
    many(|n| 20 - n);
    many(|n| n * 8 % 21);
    mask();
    preemption();
    binary_point();
}

/// SGIs 0 to 15 and SPIs 45 to 49: 21 interrupts.
fn source(n: u32) -> u32 {
    if n < 16 { n } else { 45 + n - 16 }
}

/// 21 interrupts at distinct priorities are pending at once: taken by priority, none lost, none twice.
fn many(rank: impl Fn(u32) -> u32) {
    taken::start();
    for n in 0..21 {
        let intid = source(n);
        gic::set_priority(0, intid, (0x10 + 8 * rank(n)) as u8);
        if intid >= 32 {
            gic::set_edge(intid, true);
            gic::route(intid, 0);
        }
        gic::enable(0, intid);
    }
    // The worst first, so that each next one has to push out what was there.
    for place in (0..21).rev() {
        let n = (0..21).find(|n| rank(*n) == place).unwrap_or(0);
        gic::set_pending(0, source(n));
    }
    for n in 0..21 {
        check!(gic::is_pending(0, source(n)), "INTID {} is not pending", source(n));
    }
    cpu::unmask_irq();
    check!(timer::wait_for(cpu::PATIENCE, || taken::total(0) >= 21), "only {} of 21 came", taken::total(0));
    taken::settle();
    cpu::mask_irq();
    check_eq!(taken::total(0), 21, "how many came");
    for place in 0..21 {
        let n = (0..21).find(|n| rank(*n) == place).unwrap_or(0);
        check_eq!(taken::nth(0, place as usize), source(n), "what came at place {place}");
    }
    for n in 0..21 {
        let intid = source(n);
        check!(!gic::is_pending(0, intid) && !gic::is_active(0, intid), "INTID {intid} is still pending or active");
        gic::set_priority(0, intid, gic::PRIORITY);
    }
}

/// All 16 SGIs are active at once (priority drops without deactivation) and pending again.
pub fn active_many() {
    gic::init();
    taken::start();
    gic::set_eoi_mode(true);
    for intid in 0..16 {
        gic::send_sgi(0, intid);
    }
    let mut seen = 0u32;
    for _ in 0..16 {
        let intid = gic::acknowledge();
        check!(intid < 16, "IAR1 is {intid} with SGIs pending, seen {seen:#x}");
        if intid >= 16 {
            break;
        }
        seen |= 1 << intid;
        gic::end(intid);
    }
    check_eq!(seen, 0xffff, "SGIs acknowledged");
    for intid in 0..16 {
        check!(gic::is_active(0, intid), "SGI {intid} is not active");
        gic::send_sgi(0, intid);
    }
    check_eq!(gic::acknowledge(), gic::SPURIOUS, "IAR1 while all are active");
    for intid in (0..16).rev() {
        gic::deactivate(intid);
        check_eq!(gic::acknowledge(), intid, "IAR1 after DIR of {intid}");
        gic::end(intid);
        gic::deactivate(intid);
        check!(!gic::is_active(0, intid), "SGI {intid} is active after DIR");
    }
    check_eq!(gic::acknowledge(), gic::SPURIOUS, "IAR1 when all is done");
    gic::set_eoi_mode(false);
}

/// ICC_PMR_EL1 keeps worse priorities out, and lets them in later.
fn mask() {
    taken::start();
    for (intid, priority) in [(1, 0x80), (2, 0x90), (3, 0xf0)] {
        gic::set_priority(0, intid, priority);
    }
    gic::set_pmr(0x90);
    cpu::unmask_irq();
    for intid in 1..4 {
        gic::send_sgi(0, intid);
    }
    check!(taken::wait(0, 1, 1), "SGI 1 (0x80) did not pass a mask of 0x90");
    taken::settle();
    check_eq!(taken::total(0), 1, "interrupts better than 0x90");
    gic::set_pmr(0x98);
    check!(taken::wait(0, 2, 1), "SGI 2 (0x90) did not pass a mask of 0x98");
    taken::settle();
    check_eq!(taken::total(0), 2, "interrupts better than 0x98");
    gic::set_pmr(0xff);
    check!(taken::wait(0, 3, 1), "SGI 3 (0xf0) did not pass a mask of 0xff");
    cpu::mask_irq();
    // Group and CPU interface off: pending, not signalled.
    gic::switch_group(false);
    gic::send_sgi(0, 1);
    check_eq!(gic::acknowledge(), gic::SPURIOUS, "IAR1 with group 1 off");
    gic::switch_group(true);
    check!(timer::wait_for(1000, || gic::highest_pending() == 1), "SGI 1 was lost while group 1 was off");
    check_eq!(gic::acknowledge(), 1, "IAR1 with group 1 on");
    gic::end(1);
    for intid in 1..4 {
        gic::set_priority(0, intid, gic::PRIORITY);
    }
}

static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);

/// Takes its interrupt, sends the next SGI, and lets it in.
fn nesting() {
    let intid = gic::acknowledge();
    taken::note(intid);
    let depth = DEPTH.fetch_add(1, Ordering::Relaxed) + 1;
    DEEPEST.fetch_max(depth, Ordering::Relaxed);
    if intid > 0 && intid < 16 {
        gic::send_sgi(0, intid - 1);
    }
    cpu::unmask_irq();
    timer::delay(200);
    cpu::mask_irq();
    DEPTH.fetch_sub(1, Ordering::Relaxed);
    gic::end(intid);
}

/// Each of 16 SGIs preempts the one before it, or waits for it.
fn preemption() {
    for (better, deepest) in [(true, 16), (false, 1)] {
        taken::reset();
        vectors::set_irq(Some(nesting));
        DEEPEST.store(0, Ordering::Relaxed);
        for intid in 0..16 {
            gic::set_priority(0, intid, if better { 8 * intid as u8 } else { 0xf0 - 8 * intid as u8 });
        }
        cpu::unmask_irq();
        gic::send_sgi(0, 15);
        check!(taken::wait(0, 0, 1), "SGI 0 did not come; {} did", taken::total(0));
        let idle = timer::wait_for(cpu::PATIENCE, || DEPTH.load(Ordering::Relaxed) == 0);
        check!(idle, "handlers have not ended");
        cpu::mask_irq();
        check_eq!(DEEPEST.load(Ordering::Relaxed), deepest, "handlers within each other, each better: {better}");
        check_eq!(taken::total(0), 16, "interrupts, each better: {better}");
        check_eq!(gic::running_priority(), 0xff, "running priority when idle");
    }
    (0..16).for_each(|intid| gic::set_priority(0, intid, gic::PRIORITY));
}

/// A binary point that puts two priorities into one group: no preemption, but the better one is first.
fn binary_point() {
    taken::start();
    taken::set_ends(false);
    gic::set_priority(0, 1, 0x48);
    gic::set_priority(0, 2, 0x40);
    // Group priority bits 7:5 only: 0x40 and 0x48 are equal.
    check_eq!(gic::set_binary_point(5), 5, "BPR1");
    cpu::unmask_irq();
    gic::send_sgi(0, 1);
    check!(taken::wait(0, 1, 1), "SGI 1 did not come");
    gic::send_sgi(0, 2);
    taken::settle();
    check_eq!(taken::count(0, 2), 0, "SGI 2 preempted one of its own group priority");
    taken::set_ends(true);
    gic::end(1);
    check!(taken::wait(0, 2, 1), "SGI 2 did not come after the end");
    cpu::mask_irq();
    gic::set_binary_point(0);
    gic::set_priority(0, 1, gic::PRIORITY);
    gic::set_priority(0, 2, gic::PRIORITY);
}
