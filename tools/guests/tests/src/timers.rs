//! Both timers of EL1 at their edges, and the counter.

use crate::taken;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guest_rt::timer::{ENABLE, IMASK, ISTATUS, Timer, now, ticks, wait_for};
use guest_rt::{check, check_eq, cpu, gic, psci, run, vectors};

/// The timer that the handler serves: 0 virtual, 1 physical.
static WHICH: AtomicU32 = AtomicU32::new(0);
/// How often the handler arms the timer again.
static AGAIN: AtomicU32 = AtomicU32::new(0);
/// Ticks that an interrupt came before its deadline, the most seen.
static EARLY: AtomicU64 = AtomicU64::new(0);
static PERIOD: AtomicU64 = AtomicU64::new(0);

fn served() -> Timer {
    if WHICH.load(Ordering::Relaxed) == 0 { Timer::Virtual } else { Timer::Physical }
}

fn handler() {
    let intid = gic::acknowledge();
    taken::note(intid);
    if intid >= 1020 {
        return;
    }
    let timer = served();
    if timer.ctl() & ISTATUS == 0 {
        // The line went low after the interrupt was signalled.
        timer.set_ctl(0);
        gic::end(intid);
        return;
    }
    let early = timer.cval().saturating_sub(timer.now());
    EARLY.fetch_max(early, Ordering::Relaxed);
    if AGAIN.load(Ordering::Relaxed) > 0 {
        AGAIN.fetch_sub(1, Ordering::Relaxed);
        timer.set_cval(timer.cval() + PERIOD.load(Ordering::Relaxed));
    } else {
        timer.set_ctl(0);
    }
    gic::end(intid);
}

/// Runs the test.
pub fn timers() {
    gic::init();
    counters();
    for timer in [Timer::Virtual, Timer::Physical] {
        taken::reset();
        vectors::set_irq(Some(handler));
        WHICH.store(u32::from(timer == Timer::Physical), Ordering::Relaxed);
        EARLY.store(0, Ordering::Relaxed);
        gic::enable(0, timer.intid());
        registers(timer);
        deadline(timer);
        past(timer);
        masked(timer);
        disabled(timer);
        again(timer);
        asleep(timer);
        far_away(timer);
        check_eq!(EARLY.load(Ordering::Relaxed), 0, "{timer:?}: ticks before the deadline");
        timer.set_ctl(0);
        gic::disable(0, timer.intid());
    }
    on_all_cpus();
}

fn counters() {
    let frequency = guest_rt::timer::frequency();
    check!(frequency >= 1_000_000, "CNTFRQ_EL0 is {frequency}");
    let (mut last, mut last_physical) = (Timer::Virtual.now(), Timer::Physical.now());
    for _ in 0..1000 {
        let (this, physical) = (Timer::Virtual.now(), Timer::Physical.now());
        check!(
            this >= last && physical >= last_physical,
            "a counter went back: {last} {this}, {last_physical} {physical}"
        );
        (last, last_physical) = (this, physical);
    }
}

/// CVAL, TVAL and CTL are three views of one state.
fn registers(timer: Timer) {
    cpu::mask_irq();
    timer.set_ctl(IMASK);
    timer.set_cval(0x1234_5678_9abc_def0);
    check_eq!(timer.cval(), 0x1234_5678_9abc_def0, "{timer:?}: CVAL");
    let before = timer.now();
    timer.set_tval(1_000_000);
    let after = timer.now();
    let cval = timer.cval();
    check!(
        (before + 1_000_000..=after + 1_000_000).contains(&cval),
        "{timer:?}: TVAL 1000000 at {before} made CVAL {cval}"
    );
    let left = timer.tval() as u32 as i32;
    check!((0..=1_000_000).contains(&left) || timer.now() > cval, "{timer:?}: TVAL reads {left}");
    // TVAL is signed: a deadline in the past.
    let before = timer.now();
    timer.set_tval(0xffff_ffff_ffff_ff9c);
    let after = timer.now();
    let cval = timer.cval();
    check!((before - 100..=after - 100).contains(&cval), "{timer:?}: TVAL -100 at {before} made CVAL {cval}");
    check!((timer.tval() as u32 as i32) < 0, "{timer:?}: TVAL of a past deadline reads {:#x}", timer.tval());
    // ISTATUS says whether the deadline has passed, masked or not, while the timer is enabled.
    timer.set_ctl(ENABLE | IMASK);
    check_eq!(timer.ctl(), ENABLE | IMASK | ISTATUS, "{timer:?}: CTL of a past deadline");
    timer.set_cval(u64::MAX);
    check_eq!(timer.ctl(), ENABLE | IMASK, "{timer:?}: CTL of a deadline never");
    timer.set_ctl(0);
    check_eq!(timer.ctl() & 3, 0, "{timer:?}: CTL when off");
}

fn fired(timer: Timer, times: u32, what: &str) {
    let intid = timer.intid();
    check!(taken::wait(0, intid, times), "{timer:?}: {what}: {} interrupts of {times}", taken::count(0, intid));
    taken::settle();
    check_eq!(taken::count(0, intid), times, "{timer:?}: {what}: interrupts");
    check_eq!(taken::spurious(0), 0, "{timer:?}: {what}: spurious interrupts");
    taken::reset();
}

fn deadline(timer: Timer) {
    cpu::unmask_irq();
    for us in [0, 1, 50, 1_000, 20_000] {
        timer.set_cval(timer.now() + ticks(us));
        timer.set_ctl(ENABLE);
        fired(timer, 1, "deadline");
        timer.set_tval(ticks(us));
        timer.set_ctl(ENABLE);
        fired(timer, 1, "TVAL");
    }
}

fn past(timer: Timer) {
    for cval in [0, 1, timer.now() - 1] {
        timer.set_cval(cval);
        timer.set_ctl(ENABLE);
        fired(timer, 1, "past deadline");
    }
    timer.set_tval(0xffff_ffff);
    timer.set_ctl(ENABLE);
    fired(timer, 1, "TVAL -1");
    // As far back as 32 bits and the counter's start allow: an unsigned deadline before 0 would be far in the future.
    timer.set_tval(0u64.wrapping_sub(timer.now().min(1 << 31) - 1));
    timer.set_ctl(ENABLE);
    fired(timer, 1, "the most negative TVAL");
}

/// IMASK keeps the line low; letting it go raises it.
fn masked(timer: Timer) {
    timer.set_cval(0);
    timer.set_ctl(ENABLE | IMASK);
    taken::settle();
    check_eq!(taken::total(0), 0, "{timer:?}: interrupts with IMASK");
    check!(!gic::is_pending(0, timer.intid()), "{timer:?}: the line is high with IMASK");
    timer.set_ctl(ENABLE);
    fired(timer, 1, "IMASK cleared");
    // Disabled at the GIC instead: the level shows as pending, and comes when enabled.
    gic::disable(0, timer.intid());
    timer.set_cval(0);
    timer.set_ctl(ENABLE);
    taken::settle();
    check_eq!(taken::total(0), 0, "{timer:?}: interrupts of a disabled PPI");
    check!(gic::is_pending(0, timer.intid()), "{timer:?}: a high line does not show as pending");
    gic::enable(0, timer.intid());
    fired(timer, 1, "PPI enabled");
}

/// A line that went low before the interrupt was taken brings none.
///
/// Under Merus the virtual timer's interrupt is in a list register by then, which says pending whatever the line does, and
/// the write that takes the line low is no exit. Merus takes it back when it looks: at the next exit that is not of the
/// shortest kind, and for everybody who asks for the state. So a guest that asks sees what a machine would show, exactly; one
/// that unmasks at once, without an exit since its write, may take the interrupt, once.
fn disabled(timer: Timer) {
    let late = psci::on_merus() && timer == Timer::Virtual;
    for step in 0..6 {
        let asks = step >= 3;
        cpu::mask_irq();
        timer.set_cval(0);
        timer.set_ctl(ENABLE);
        let shown = wait_for(1000, || gic::highest_pending() == timer.intid());
        check!(shown, "{timer:?}: HPPIR1 is {} while the line is high", gic::highest_pending());
        match step % 3 {
            0 => timer.set_ctl(0),
            1 => timer.set_ctl(ENABLE | IMASK),
            _ => timer.set_cval(u64::MAX),
        }
        if asks || !late {
            check!(!gic::is_pending(0, timer.intid()), "{timer:?}: pending after step {step} took the line low");
            let gone = wait_for(1000, || gic::highest_pending() == gic::SPURIOUS);
            check!(gone, "{timer:?}: HPPIR1 is {} after step {step} took the line low", gic::highest_pending());
        }
        cpu::unmask_irq();
        taken::settle();
        check!(
            taken::total(0) <= usize::from(late && !asks),
            "{timer:?}: {} interrupts after step {step} took the line low",
            taken::total(0)
        );
        timer.set_ctl(0);
        taken::reset();
    }
    // The same behind a PPI that is disabled: nothing of it is left when that is enabled.
    gic::disable(0, timer.intid());
    timer.set_cval(0);
    timer.set_ctl(ENABLE);
    let shown = wait_for(1000, || gic::is_pending(0, timer.intid()));
    check!(shown, "{timer:?}: a high line does not show as pending");
    timer.set_ctl(0);
    check!(!gic::is_pending(0, timer.intid()), "{timer:?}: a low line shows as pending");
    gic::enable(0, timer.intid());
    taken::settle();
    check_eq!(taken::total(0), 0, "{timer:?}: interrupts of a line that was high while the PPI was disabled");
    taken::reset();
}

fn again(timer: Timer) {
    const TIMES: u32 = 50;
    AGAIN.store(TIMES, Ordering::Relaxed);
    PERIOD.store(ticks(500), Ordering::Relaxed);
    timer.set_cval(timer.now() + ticks(500));
    timer.set_ctl(ENABLE);
    fired(timer, TIMES + 1, "armed again in the handler");
}

/// WFI ends at the deadline, with interrupts masked (nothing taken) and unmasked (taken).
fn asleep(timer: Timer) {
    for us in [0, 100, 5_000] {
        cpu::mask_irq();
        let end = timer.now() + ticks(us);
        timer.set_cval(end);
        timer.set_ctl(ENABLE);
        // WFI may end early for no reason: only an end at all is promised.
        while timer.now() < end {
            run!("wfi");
        }
        check_eq!(taken::total(0), 0, "{timer:?}: interrupts while masked");
        check!(wait_for(1000, || guest_rt::mrs!("ISR_EL1") & 0x80 != 0), "{timer:?}: ISR_EL1 shows nothing after WFI");
        cpu::unmask_irq();
        fired(timer, 1, "masked WFI");
        timer.set_cval(timer.now() + ticks(us));
        timer.set_ctl(ENABLE);
        while taken::count(0, timer.intid()) == 0 {
            cpu::mask_irq();
            // Asked again masked: an interrupt between the question and the WFI would else be slept over.
            if taken::count(0, timer.intid()) == 0 {
                run!("wfi");
            }
            cpu::unmask_irq();
        }
        fired(timer, 1, "unmasked WFI");
    }
}

/// Deadlines that do not come.
fn far_away(timer: Timer) {
    for cval in [u64::MAX, 1 << 63, timer.now() + ticks(3_600_000_000)] {
        timer.set_cval(cval);
        timer.set_ctl(ENABLE);
        taken::settle();
        check_eq!(taken::total(0), 0, "{timer:?}: interrupts for the deadline {cval:#x}");
        check_eq!(timer.ctl() & ISTATUS, 0, "{timer:?}: ISTATUS for the deadline {cval:#x}");
    }
    timer.set_ctl(0);
}

static READY: cpu::Barrier = cpu::Barrier::new();
static LATEST: AtomicU64 = AtomicU64::new(0);

fn on_all_cpus() {
    taken::reset();
    WHICH.store(0, Ordering::Relaxed);
    AGAIN.store(0, Ordering::Relaxed);
    LATEST.store(0, Ordering::Relaxed);
    cpu::on_all(|cpu| {
        if cpu != 0 {
            gic::init_cpu();
        }
        READY.wait(cpu::count());
        // One virtual time for all: what another CPU read before is never in the future.
        for _ in 0..2000 {
            let seen = LATEST.load(Ordering::SeqCst);
            let mine = now();
            check!(mine >= seen, "CNTVCT is {mine} after another CPU read {seen}");
            LATEST.fetch_max(mine, Ordering::SeqCst);
        }
        gic::enable(cpu, Timer::Virtual.intid());
        cpu::unmask_irq();
        READY.wait(cpu::count());
        for round in 1..=20 {
            Timer::Virtual.set_tval(ticks(300 + 100 * cpu as u64));
            Timer::Virtual.set_ctl(ENABLE);
            check!(taken::wait(cpu, 27, round), "timer interrupt {round} did not come");
        }
        check_eq!(taken::count(cpu, 27), 20, "timer interrupts on CPU {cpu}");
        cpu::mask_irq();
        gic::disable(cpu, Timer::Virtual.intid());
    });
}
