//! WFI, WFE and SEV: nobody who is woken sleeps on.

use crate::taken;
use core::sync::atomic::{AtomicU32, Ordering};
use guest_rt::timer::{ENABLE, Timer, now, ticks};
use guest_rt::{check, check_eq, cpu, gic, msr, run};

const ROUNDS: u32 = 300;
static READY: cpu::Barrier = cpu::Barrier::new();
static TURN: AtomicU32 = AtomicU32::new(0);

/// Runs the test.
pub fn wfx() {
    gic::init();
    taken::start();
    local_events();
    cpu::on_all(|cpu| {
        if cpu != 0 {
            gic::init_cpu();
        }
        READY.wait(cpu::count());
        events(cpu);
        READY.wait(cpu::count());
        TURN.store(0, Ordering::Relaxed);
        READY.wait(cpu::count());
        interrupts(cpu);
        READY.wait(cpu::count());
        gic::exit_cpu();
    });
}

/// An event that is there ends a WFE at once; a stream of them ends each.
fn local_events() {
    for _ in 0..1000 {
        run!("sevl\nwfe");
    }
    let start = now();
    for _ in 0..20 {
        run!("wfe");
    }
    check!(now() - start < ticks(5_000_000), "20 WFEs under the event stream took {} ticks", now() - start);
}

/// Each CPU waits by WFE alone for its turn; SEV wakes it. Without the event stream nothing else does.
fn events(cpu: usize) {
    let all = cpu::count() as u32;
    let control = guest_rt::mrs!("CNTKCTL_EL1");
    msr!("CNTKCTL_EL1", control & !(1 << 2));
    guest_rt::sysreg::isb();
    for round in 0..ROUNDS {
        let mine = round * all + cpu as u32;
        while TURN.load(Ordering::Acquire) != mine {
            run!("wfe");
        }
        TURN.store(mine + 1, Ordering::Release);
        run!("dsb ish\nsev");
    }
    while TURN.load(Ordering::Acquire) != ROUNDS * all {
        run!("wfe");
    }
    msr!("CNTKCTL_EL1", control);
    guest_rt::sysreg::isb();
}

/// Each CPU waits by WFI for an SGI that the one before it sends at any moment around its WFI, masked and unmasked in turn.
fn interrupts(cpu: usize) {
    let all = cpu::count();
    let next = (cpu + 1) % all;
    if all == 1 {
        return timed();
    }
    let before = taken::count(cpu, 2);
    for round in 1..=ROUNDS {
        if cpu == 0 {
            gic::send_sgi(next, 2);
        }
        if round % 2 == 0 {
            // Masked: WFI ends with the interrupt pending, which is taken by hand.
            cpu::mask_irq();
            let mut intid = gic::acknowledge();
            while intid == gic::SPURIOUS {
                run!("wfi");
                intid = gic::acknowledge();
            }
            taken::note(intid);
            gic::end(intid);
        } else {
            loop {
                cpu::mask_irq();
                if taken::count(cpu, 2) - before >= round {
                    break;
                }
                run!("wfi");
                cpu::unmask_irq();
            }
        }
        check_eq!(taken::count(cpu, 2) - before, round, "SGIs of round {round}");
        if cpu != 0 {
            gic::send_sgi(next, 2);
        }
    }
}

/// One CPU alone: WFI against a deadline that passes at any moment around it.
fn timed() {
    gic::enable(0, Timer::Virtual.intid());
    for round in 0..u64::from(ROUNDS) {
        let end = now() + round * 7;
        Timer::Virtual.set_cval(end);
        Timer::Virtual.set_ctl(ENABLE);
        while now() < end {
            run!("wfi");
        }
        Timer::Virtual.set_ctl(0);
    }
    gic::disable(0, Timer::Virtual.intid());
}
