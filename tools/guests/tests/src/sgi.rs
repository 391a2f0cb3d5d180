//! SGIs between all CPUs: to one, to lists, to all others; state by hand; EOImode 0 and 1; handlers that never end.

use crate::taken;
use core::sync::atomic::{AtomicBool, Ordering};
use guest_rt::{check, check_eq, cpu, gic, gicv2, mmio, timer};

/// Whether the other CPUs keep listening.
static LISTEN: AtomicBool = AtomicBool::new(false);
static READY: cpu::Barrier = cpu::Barrier::new();

fn listen(_: usize) {
    gic::init_cpu();
    cpu::unmask_irq();
    READY.wait(cpu::count());
    while LISTEN.load(Ordering::Acquire) {
        // An interrupt may come before the WFI: the next look is at most one event away.
        cpu::relax();
    }
    cpu::mask_irq();
    gic::exit_cpu();
}

/// Runs the test.
pub fn sgi() {
    gic::init();
    taken::start();
    LISTEN.store(true, Ordering::Release);
    (1..cpu::count()).for_each(|cpu| cpu::start(cpu, listen));
    cpu::unmask_irq();
    READY.wait(cpu::count());
    each_to_each();
    broadcast();
    lists();
    to_nobody();
    LISTEN.store(false, Ordering::Release);
    cpu::notify();
    (1..cpu::count()).for_each(cpu::join);
    masked();
    senders();
    by_hand();
    split_end();
    never_ended();
}

fn only(what: &str, intid: u32, wanted: impl Fn(usize) -> u32) {
    for cpu in 0..cpu::count() {
        let came = timer::wait_for(cpu::PATIENCE, || taken::count(cpu, intid) >= wanted(cpu));
        check!(came, "{what}: SGI {intid} has not come to CPU {cpu}");
    }
    taken::settle();
    for cpu in 0..cpu::count() {
        check_eq!(taken::count(cpu, intid), wanted(cpu), "{what}: how often SGI {intid} came to CPU {cpu}");
        check_eq!(taken::total(cpu), wanted(cpu) as usize, "{what}: interrupts on CPU {cpu}");
        check_eq!(taken::spurious(cpu), 0, "{what}: spurious interrupts on CPU {cpu}");
    }
    taken::reset();
}

fn each_to_each() {
    for target in 0..cpu::count() {
        for intid in [0, 1, 7, 15] {
            gic::send_sgi(target, intid);
            only("to one", intid, |cpu| u32::from(cpu == target));
        }
    }
}

fn broadcast() {
    gic::send_sgi_others(3);
    only("to all others", 3, |cpu| u32::from(cpu != 0));
}

fn lists() {
    for list in 0..1u16 << cpu::count().min(4) {
        gic::send_sgi_list(list, 5);
        only("to a list", 5, |cpu| u32::from(list >> cpu & 1));
    }
}

fn to_nobody() {
    if gicv2::is_here() {
        // CPUs that are not there, and a filter that does not exist.
        gic::write_sgi1r((0xff & !((1 << cpu::count()) - 1)) << 16 | 2);
        gic::write_sgi1r(3 << 24 | 0xff << 16 | 2);
        return only("to nobody", 2, |_| 0);
    }
    // CPUs that are not there, other clusters, other ranges.
    gic::send_sgi_list(0xff00, 2);
    gic::write_sgi1r(1 | 7 << 16 | 2 << 24);
    gic::write_sgi1r(1 | 9 << 32 | 2 << 24);
    gic::write_sgi1r(1 | 200 << 48 | 2 << 24);
    // ICC_CTLR_EL1.RSS: only then is there a range selector.
    if guest_rt::mrs!("ICC_CTLR_EL1") >> 18 & 1 == 1 {
        gic::write_sgi1r(1 | 3 << 44 | 2 << 24);
    }
    only("to nobody", 2, |_| 0);
}

/// To this CPU while it is masked: pending, shown, taken when unmasked, once.
fn masked() {
    taken::reset();
    cpu::mask_irq();
    for _ in 0..3 {
        gic::send_sgi(0, 9);
    }
    check!(timer::wait_for(1000, || gic::highest_pending() == 9), "HPPIR1 is {}, want 9", gic::highest_pending());
    check!(gic::is_pending(0, 9), "ISPENDR0 does not show SGI 9");
    check!(guest_rt::mrs!("ISR_EL1") & 0x80 != 0, "ISR_EL1 shows no interrupt");
    check_eq!(taken::total(0), 0, "interrupts while masked");
    cpu::unmask_irq();
    check!(taken::wait(0, 9, 1), "SGI 9 was not taken when unmasked");
    taken::settle();
    check_eq!(taken::count(0, 9), 1, "one edge is one interrupt, however often it was sent");
    cpu::mask_irq();
}

fn send_twice(_: usize) {
    gic::send_sgi(0, 14);
    gic::send_sgi(0, 14);
}

/// Of a GICv2: an SGI that several CPUs have sent is taken once from each, and says from whom.
fn senders() {
    if !gicv2::is_here() {
        return;
    }
    for round in 0..50 {
        (1..cpu::count()).for_each(|cpu| cpu::start(cpu, send_twice));
        (1..cpu::count()).for_each(cpu::join);
        let mut seen = 0u32;
        for _ in 1..cpu::count() {
            check!(
                timer::wait_for(1000, || gic::highest_pending() == 14),
                "round {round}: SGI 14 is gone, seen {seen:#x}"
            );
            check_eq!(gic::acknowledge(), 14, "IAR");
            let from = 1 << gicv2::sender(14);
            check!(seen & from == 0, "round {round}: SGI 14 from CPU {} twice", gicv2::sender(14));
            seen |= from;
            gic::end(14);
        }
        check_eq!(seen, (1 << cpu::count()) - 2, "who sent SGI 14");
        check_eq!(gic::acknowledge(), gic::SPURIOUS, "IAR after all senders");
    }
}

/// Pending and active bits by the redistributor's registers; disabled ones stay.
fn by_hand() {
    taken::reset();
    gic::set_pending(0, 4);
    check!(gic::is_pending(0, 4) && gic::is_pending_by_clear(0, 4), "pending by ISPENDR0 is not shown");
    gic::clear_pending(0, 4);
    check!(!gic::is_pending(0, 4), "ICPENDR0 did not clear");
    check_eq!(gic::highest_pending(), gic::SPURIOUS, "HPPIR1 after ICPENDR0");
    // Those of a GICv2 are always enabled.
    if !gicv2::is_here() {
        gic::disable(0, 6);
        gic::send_sgi(0, 6);
        check!(gic::is_pending(0, 6), "a disabled SGI does not become pending");
    }
    cpu::unmask_irq();
    taken::settle();
    check_eq!(taken::total(0), 0, "interrupts: SGI 4 was cleared, SGI 6 is disabled");
    if !gicv2::is_here() {
        gic::enable(0, 6);
        check!(taken::wait(0, 6, 1), "SGI 6 did not come when enabled");
    }
    // Active by hand: it may not be signalled until it is not.
    gic::set_active(0, 8);
    check!(gic::is_active(0, 8), "active by ISACTIVER0 is not shown");
    gic::send_sgi(0, 8);
    taken::settle();
    check_eq!(taken::count(0, 8), 0, "an active SGI was signalled");
    gic::clear_active(0, 8);
    check!(taken::wait(0, 8, 1), "SGI 8 did not come when no longer active");
    check!(!gic::is_active(0, 8), "SGI 8 is active after its end");
    cpu::mask_irq();
    // Enables read back on both sides; the group stays.
    gic::disable(0, 12);
    check_eq!(gic::is_enabled(0, 12), gicv2::is_here(), "whether SGI 12 is enabled after ICENABLER0");
    gic::enable(0, 12);
    check!(gic::is_enabled(0, 12), "SGI 12 is not enabled after ISENABLER0");
    // An SPI: edge by hand, and its route.
    for spi in [40, 63] {
        taken::reset();
        gic::set_edge(spi, true);
        gic::enable(0, spi);
        gic::set_pending(0, spi);
        check!(gic::is_pending(0, spi), "SPI {spi} is not pending after ISPENDR");
        cpu::unmask_irq();
        check!(taken::wait(0, spi, 1), "SPI {spi} did not come");
        check!(!gic::is_pending(0, spi) && !gic::is_active(0, spi), "SPI {spi} is pending or active after its end");
        cpu::mask_irq();
        gic::disable(0, spi);
    }
}

/// EOImode 1: the priority drops at once, the interrupt stays active until DIR.
fn split_end() {
    gic::set_eoi_mode(true);
    cpu::mask_irq();
    gic::send_sgi(0, 10);
    check!(timer::wait_for(1000, || gic::highest_pending() == 10), "SGI 10 is not pending");
    check_eq!(gic::acknowledge(), 10, "IAR1");
    check_eq!(gic::running_priority(), gic::PRIORITY, "running priority after acknowledging");
    check!(gic::is_active(0, 10), "SGI 10 is not active");
    gic::end(10);
    check_eq!(gic::running_priority(), 0xff, "running priority after the drop");
    check!(gic::is_active(0, 10), "SGI 10 is not active after the drop alone");
    // Another one comes while it is active; itself it does not.
    gic::send_sgi(0, 10);
    gic::send_sgi(0, 11);
    check_eq!(gic::acknowledge(), 11, "IAR1 while 10 is active");
    gic::end(11);
    gic::deactivate(11);
    check_eq!(gic::acknowledge(), gic::SPURIOUS, "IAR1: 10 is pending but active");
    gic::deactivate(10);
    check_eq!(gic::acknowledge(), 10, "IAR1 after DIR");
    gic::end(10);
    gic::deactivate(10);
    check!(!gic::is_active(0, 10), "SGI 10 is active after DIR");
    check_eq!(gic::acknowledge(), gic::SPURIOUS, "IAR1 when all is done");
    gic::set_eoi_mode(false);
}

/// Handlers that never end: the same priority stays out, a better one comes; the end lets all through.
fn never_ended() {
    taken::start();
    taken::set_ends(false);
    gic::set_priority(0, 2, 0x40);
    cpu::unmask_irq();
    gic::send_sgi(0, 1);
    check!(taken::wait(0, 1, 1), "SGI 1 did not come");
    gic::send_sgi(0, 3);
    gic::send_sgi(0, 1);
    taken::settle();
    check_eq!(taken::total(0), 1, "interrupts of the running priority");
    gic::send_sgi(0, 2);
    check!(taken::wait(0, 2, 1), "SGI 2 of a better priority did not come");
    taken::settle();
    check_eq!(taken::total(0), 2, "interrupts after the better one");
    // Exits while both are active.
    check!(mmio::read32(mmio::GICD + gic::TYPER) != 0, "GICD_TYPER is 0");
    check!(gic::is_active(0, 1) && gic::is_active(0, 2), "SGIs 1 and 2 are not active");
    taken::set_ends(true);
    gic::end(2);
    gic::end(1);
    check!(taken::wait(0, 3, 1) && taken::wait(0, 1, 2), "SGIs 3 and 1 did not come after the ends");
    taken::settle();
    check_eq!(taken::total(0), 4, "interrupts in all");
    cpu::mask_irq();
    gic::set_priority(0, 2, gic::PRIORITY);
}
