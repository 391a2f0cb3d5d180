//! How much of its pCPU a guest gets beside another one, and how late its timer ticks come.
//!
//! The speed that it would have alone is that of its fastest window: nothing interrupted that one. The same loop counted over
//! the whole time, windows that were interrupted and all, gives its share. Nothing but CNTVCT is asked for the time; a machine
//! whose clock is its instructions (`icount` in the table) makes both numbers independent of what else its host does.

use core::sync::atomic::{AtomicU64, Ordering};
use guest_rt::timer::{ENABLE, Timer, frequency, now, ticks};
use guest_rt::{check, cpu, fdt, gic, mmio, println, run, vectors};

/// Microseconds between two ticks.
const TICK: u64 = 2000;
/// Microseconds of a window. Shorter than the time that the most restless neighbour leaves in one piece.
const WINDOW: u64 = 50;
/// Iterations between two looks at the clock.
const PIECE: u64 = 200;
/// Microseconds that a tick may be late, unless `late=` says otherwise: the neighbour's slice and some.
const LATEST: u64 = 20_000;
/// Lines that it prints meanwhile.
const LINES: u64 = 8;

static TICKS: AtomicU64 = AtomicU64::new(0);
static LATE: AtomicU64 = AtomicU64::new(0);

fn tick() {
    let intid = gic::acknowledge();
    if intid >= 1020 {
        return;
    }
    let timer = Timer::Virtual;
    let (deadline, at) = (timer.cval(), timer.now());
    LATE.fetch_max(at.saturating_sub(deadline), Ordering::Relaxed);
    TICKS.fetch_add(1, Ordering::Relaxed);
    timer.set_cval(at + ticks(TICK));
    gic::end(intid);
}

/// `iterations` rounds of a loop of two instructions.
fn count(iterations: u64) {
    // SAFETY: a loop on a register of its own.
    unsafe {
        core::arch::asm!("2: subs {0}, {0}, #1", "b.ne 2b", inout(reg) iterations => _, options(nomem, nostack));
    }
}

fn number(key: &str, default: u64) -> u64 {
    fdt::argument(key).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Sleeps until the other one has come up: its memory is made while nobody wants the pCPU.
fn sleep(us: u64) {
    let end = now() + ticks(us);
    Timer::Virtual.set_cval(end);
    Timer::Virtual.set_ctl(ENABLE);
    while now() < end {
        run!("wfi");
    }
}

/// Returns when a byte was typed.
fn key() {
    println!("victim: waits for a key");
    // The PL011's UARTFR.RXFE.
    while mmio::read32(mmio::UART + 0x18) & 1 << 4 != 0 {
        guest_rt::timer::delay(1000);
    }
}

/// Runs the test: for `ms=` milliseconds (150), at least `share=` permille (450); with `key=1` it ends when a key was hit, by whoever has
/// ended its neighbour.
pub fn victim() {
    gic::init();
    TICKS.store(0, Ordering::Relaxed);
    LATE.store(0, Ordering::Relaxed);
    gic::enable(0, Timer::Virtual.intid());
    sleep(60_000);
    vectors::set_irq(Some(tick));
    Timer::Virtual.set_cval(now() + ticks(TICK));
    Timer::Virtual.set_ctl(ENABLE);
    cpu::unmask_irq();
    run!("isb");
    let (share, took) = measure(ticks(number("ms", 150) * 1000));
    cpu::mask_irq();
    Timer::Virtual.set_ctl(0);
    let (late, seen) = (LATE.load(Ordering::Relaxed), TICKS.load(Ordering::Relaxed));
    let us = |ticks: u64| ticks * 1_000_000 / frequency();
    println!("victim: share {share}");
    println!("victim: {seen} ticks in {} us, the latest {} us late", us(took), us(late));
    check!(share >= number("share", 450), "its share is {share} permille");
    let latest = number("late", LATEST);
    check!(us(late) <= latest, "a tick was {} us late", us(late));
    check!(seen >= us(took) / (TICK + latest), "{seen} ticks came in {} us", us(took));
    if number("key", 0) == 1 {
        key();
    }
}

/// Counts for so long; permille of what the fastest window would have counted, and the ticks of the counter that it took.
fn measure(length: u64) -> (u64, u64) {
    let begin = now();
    let (mut all, mut printed) = (0_u64, 0);
    let (mut best, mut best_took) = (0_u64, 1_u64);
    loop {
        let start = now();
        let mut done = 0;
        let took = loop {
            count(PIECE);
            done += PIECE;
            let took = now() - start;
            if took >= ticks(WINDOW) {
                break took;
            }
        };
        all += done;
        // The greater of two rates, without a division.
        if done * best_took > best * took {
            (best, best_took) = (done, took);
        }
        let passed = now() - begin;
        // Also those of a window that was long, as where a machine's CPUs share the host's.
        while printed < LINES && passed * (LINES + 1) >= length * (printed + 1) {
            printed += 1;
            println!("victim: line {printed} of {LINES}");
        }
        if passed >= length {
            return (all * 1000 * best_took / (best * passed), passed);
        }
    }
}
