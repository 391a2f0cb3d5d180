//! Handlers that never end what they take, or end it long after: what the priorities keep away stays away, what is better
//! comes, and nobody else notices.
//!
//! `eoi=never` leaves everything active to the end, `eoi=late` (the default) ends it after several ticks, in rounds, and
//! `eoi=always` only takes ticks: run beside the others in VMs of their own, because the virtual timer's interrupt is
//! the one physical interrupt that all VMs of a pCPU share.

use crate::taken;
use core::sync::atomic::{AtomicU32, Ordering};
use guest_rt::timer::{ENABLE, Timer, now, ticks};
use guest_rt::{check, check_eq, cpu, fdt, gic, psci, timer, vectors};

const TICK: u32 = 27;
/// An SGI and an SPI at the timer's priority, and two SGIs at better ones.
const SAME: u32 = 3;
const SPI: u32 = 45;
const BETTER: u32 = 4;
const BEST: u32 = 5;
const PRIORITY_BETTER: u8 = 0x40;
const PRIORITY_BEST: u8 = 0x20;

/// What the handler of a CPU does after it has acknowledged.
const KEEP: u32 = 0;
/// Ends; the timer is off then.
const END: u32 = 1;
/// EOImode = 1: drops the priority, and deactivates all but the timer's.
const DROP: u32 = 2;
/// EOImode = 1: drops and deactivates; the timer is off then.
const BOTH: u32 = 3;

static MODE: [AtomicU32; cpu::MAX] = [const { AtomicU32::new(KEEP) }; cpu::MAX];
static READY: cpu::Barrier = cpu::Barrier::new();

fn set_mode(cpu: usize, mode: u32) {
    MODE[cpu].store(mode, Ordering::SeqCst);
}

fn handler() {
    let mode = MODE[cpu::index()].load(Ordering::SeqCst);
    let intid = gic::acknowledge();
    taken::note(intid);
    if intid >= 1020 || mode == KEEP {
        return;
    }
    if intid == TICK && mode != DROP {
        Timer::Virtual.set_ctl(0);
    }
    gic::end(intid);
    if mode == BOTH || (mode == DROP && intid != TICK) {
        gic::deactivate(intid);
    }
}

/// Runs the test.
pub fn no_eoi() {
    gic::init();
    taken::reset();
    vectors::set_irq(Some(handler));
    gic::set_edge(SPI, true);
    gic::route(SPI, 0);
    gic::enable(0, SPI);
    cpu::on_all(work);
}

fn work(cpu: usize) {
    // A run before this one has left its priorities active.
    Timer::Virtual.set_ctl(0);
    gic::forget_priorities();
    if cpu != 0 {
        gic::init_cpu();
    }
    READY.wait(cpu::count());
    gic::set_priority(cpu, BETTER, PRIORITY_BETTER);
    gic::set_priority(cpu, BEST, PRIORITY_BEST);
    gic::enable(cpu, TICK);
    cpu::unmask_irq();
    match fdt::argument("eoi") {
        Some("never") => {
            let before = Before::now(cpu);
            kept(cpu, &before);
            held_back(cpu, &before);
        }
        Some("always") => (0..10).for_each(|_| ordinary(cpu)),
        _ => {
            for _ in 0..3 {
                let before = Before::now(cpu);
                kept(cpu, &before);
                ended(cpu, &before);
                ordinary(cpu);
                split(cpu);
                ordinary(cpu);
            }
        }
    }
    cpu::mask_irq();
}

/// How often each had come.
struct Before {
    tick: u32,
    same: u32,
    spi: u32,
    better: u32,
    best: u32,
}

impl Before {
    fn now(cpu: usize) -> Self {
        let count = |intid| taken::count(cpu, intid);
        Self { tick: count(TICK), same: count(SAME), spi: count(SPI), better: count(BETTER), best: count(BEST) }
    }
}

fn arm(us: u64) {
    Timer::Virtual.set_cval(now() + ticks(us));
    Timer::Virtual.set_ctl(ENABLE);
}

/// Deadlines that pass, and exits in which another VM runs.
fn time_passes(rounds: u64) {
    for n in 0..rounds {
        arm(100);
        timer::wait_for(1, || false);
        psci::call(psci::VERSION, [0; 3]);
        timer::delay(300 + 100 * (n % 3));
    }
}

/// Takes a tick, then better ones, and ends none: no other of the tick's priority comes, whoever asks and for how long.
fn kept(cpu: usize, before: &Before) {
    set_mode(cpu, KEEP);
    arm(200);
    check!(taken::wait(cpu, TICK, before.tick + 1), "the first tick does not come");
    check_eq!(gic::running_priority(), gic::PRIORITY, "running priority in a tick that is not ended");
    check!(gic::is_active(cpu, TICK), "a tick that is not ended is not active");
    time_passes(3);
    gic::send_sgi(cpu, SAME);
    if cpu == 0 {
        gic::set_pending(cpu, SPI);
    }
    gic::send_sgi(cpu, BETTER);
    check!(taken::wait(cpu, BETTER, before.better + 1), "a better one does not come");
    check_eq!(gic::running_priority(), PRIORITY_BETTER, "running priority in a better one");
    time_passes(3);
    gic::send_sgi(cpu, BEST);
    check!(taken::wait(cpu, BEST, before.best + 1), "the best one does not come");
    check_eq!(gic::running_priority(), PRIORITY_BEST, "running priority in the best one");
    // Pending and active at once.
    gic::send_sgi(cpu, BETTER);
    time_passes(3);
    check_eq!(taken::count(cpu, TICK), before.tick + 1, "ticks while one is not ended");
    check_eq!(taken::count(cpu, SAME), before.same, "SGIs of the same priority");
    check_eq!(taken::count(cpu, SPI), before.spi, "SPIs of the same priority");
    check_eq!(taken::count(cpu, BETTER), before.better + 1, "better ones behind one that is not ended");
    for intid in [TICK, BETTER, BEST] {
        check!(gic::is_active(cpu, intid), "INTID {intid} is not active before its end");
    }
    check!(gic::is_pending(cpu, SAME), "an SGI that is held back is not pending");
    check!(gic::highest_pending() != gic::SPURIOUS, "nothing is pending");
}

/// Never an end: what is better still comes and goes, for a while. All of it is left to whoever takes the machine down.
fn held_back(cpu: usize, before: &Before) {
    gic::end(BEST);
    // The second one was waiting behind the first.
    gic::end(BETTER);
    check!(taken::wait(cpu, BETTER, before.better + 2), "the better one that waited does not come");
    gic::end(BETTER);
    for n in 1..=60 {
        gic::send_sgi(cpu, BETTER);
        check!(taken::wait(cpu, BETTER, before.better + 2 + n), "better one {n} does not come");
        gic::end(BETTER);
        time_passes(2);
    }
    check_eq!(gic::running_priority(), gic::PRIORITY, "running priority in a tick that never ends");
    check_eq!(taken::count(cpu, TICK), before.tick + 1, "ticks while one never ends");
    check_eq!(taken::count(cpu, SAME), before.same, "SGIs of the same priority");
    check_eq!(taken::count(cpu, SPI), before.spi, "SPIs of the same priority");
    check!(gic::is_active(cpu, TICK), "a tick that never ends is not active");
}

/// The ends, late and in order: what they held back comes, once.
fn ended(cpu: usize, before: &Before) {
    gic::end(BEST);
    check_eq!(taken::count(cpu, BETTER), before.better + 1, "a better one before the end of the first");
    set_mode(cpu, END);
    gic::end(BETTER);
    check!(taken::wait(cpu, BETTER, before.better + 2), "the better one that waited does not come");
    check_eq!(gic::running_priority(), gic::PRIORITY, "running priority in the tick again");
    taken::settle();
    check_eq!(taken::count(cpu, SAME), before.same, "SGIs before the tick's end");
    // Its line is high: the last deadline has passed.
    gic::end(TICK);
    check!(taken::wait(cpu, TICK, before.tick + 2), "the tick whose line is high does not come again");
    check!(taken::wait(cpu, SAME, before.same + 1), "the SGI that waited does not come");
    if cpu == 0 {
        check!(taken::wait(cpu, SPI, before.spi + 1), "the SPI that waited does not come");
    }
    taken::settle();
    check_eq!(gic::running_priority(), 0xff, "running priority when all is ended");
    for (intid, want) in [
        (TICK, before.tick + 2),
        (SAME, before.same + 1),
        (SPI, before.spi + u32::from(cpu == 0)),
        (BETTER, before.better + 2),
        (BEST, before.best + 1),
    ] {
        check_eq!(taken::count(cpu, intid), want, "INTID {intid} when all is ended");
        check!(cpu != 0 && intid >= 32 || !gic::is_active(cpu, intid), "INTID {intid} is active after its end");
    }
}

/// EOImode = 1: the dropped tick keeps only itself away, until it is deactivated.
fn split(cpu: usize) {
    gic::set_eoi_mode(true);
    set_mode(cpu, DROP);
    let before = Before::now(cpu);
    arm(200);
    check!(taken::wait(cpu, TICK, before.tick + 1), "the tick does not come with EOImode = 1");
    for n in 1..=5 {
        gic::send_sgi(cpu, SAME);
        check!(taken::wait(cpu, SAME, before.same + n), "SGI {n} beside a tick that is not deactivated");
        time_passes(1);
    }
    check_eq!(taken::count(cpu, TICK), before.tick + 1, "ticks while one is not deactivated");
    check_eq!(gic::running_priority(), 0xff, "running priority when dropped");
    set_mode(cpu, BOTH);
    gic::deactivate(TICK);
    check!(taken::wait(cpu, TICK, before.tick + 2), "the tick whose line is high does not come again");
    taken::settle();
    check_eq!(taken::count(cpu, TICK), before.tick + 2, "ticks in all with EOImode = 1");
    gic::set_eoi_mode(false);
}

/// Every tick comes, once.
fn ordinary(cpu: usize) {
    set_mode(cpu, END);
    let before = taken::count(cpu, TICK);
    for n in 1..=20 {
        arm(150 + 50 * cpu as u64);
        check!(taken::wait(cpu, TICK, before + n), "tick {n} does not come");
    }
    taken::settle();
    check_eq!(taken::count(cpu, TICK), before + 20, "ticks that were asked for one by one");
}
