//! All CPUs at once: interrupts to and fro, and shared memory.

use crate::taken;
use core::sync::atomic::{AtomicU64, Ordering};
use guest_rt::{check, check_eq, cpu, gic, timer};

const ROUNDS: u32 = 1000;
const ADDITIONS: u64 = 20_000;

static READY: cpu::Barrier = cpu::Barrier::new();
static SUM: AtomicU64 = AtomicU64::new(0);
static PLAIN: AtomicU64 = AtomicU64::new(0);
static TICKET: AtomicU64 = AtomicU64::new(0);
static SERVING: AtomicU64 = AtomicU64::new(0);

/// Runs the test.
pub fn smp() {
    gic::init();
    taken::start();
    SUM.store(0, Ordering::Relaxed);
    PLAIN.store(0, Ordering::Relaxed);
    cpu::on_all(work);
    let all = cpu::count() as u64;
    check_eq!(SUM.load(Ordering::Relaxed), all * ADDITIONS, "additions by all CPUs");
    check_eq!(PLAIN.load(Ordering::Relaxed), all * 200, "additions under a ticket lock");
}

fn work(cpu: usize) {
    if cpu != 0 {
        gic::init_cpu();
    }
    cpu::unmask_irq();
    READY.wait(cpu::count());
    ring(cpu);
    READY.wait(cpu::count());
    for _ in 0..ADDITIONS {
        SUM.fetch_add(1, Ordering::Relaxed);
    }
    for _ in 0..200 {
        locked_addition();
    }
    READY.wait(cpu::count());
    cpu::mask_irq();
    gic::exit_cpu();
}

/// An SGI goes round all CPUs, [`ROUNDS`] times in all.
fn ring(cpu: usize) {
    let all = cpu::count();
    let next = (cpu + 1) % all;
    let turns = ROUNDS / all as u32;
    for turn in 1..=turns {
        if cpu == 0 {
            gic::send_sgi(next, 1);
        }
        if !taken::wait(cpu, 1, turn) {
            check!(false, "turn {turn} of {turns} did not reach CPU {cpu}: {} interrupts", taken::count(cpu, 1));
            return;
        }
        if cpu != 0 {
            gic::send_sgi(next, 1);
        }
    }
    check_eq!(taken::count(cpu, 1), turns, "interrupts on CPU {cpu}");
}

fn locked_addition() {
    let mine = TICKET.fetch_add(1, Ordering::Relaxed);
    let served = timer::wait_for(cpu::PATIENCE, || SERVING.load(Ordering::Acquire) == mine);
    check!(served, "ticket {mine} was never served");
    PLAIN.store(PLAIN.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    SERVING.store(mine + 1, Ordering::Release);
    cpu::notify();
}
