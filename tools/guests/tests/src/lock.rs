//! What a spin lock costs where vCPUs outnumber pCPUs: work with a ticket lock, first on as many CPUs as the VM has a share of, then
//! on all of them.
//!
//! `alone=` CPUs work from `from=` for `for=` milliseconds of the physical counter (which all VMs share), then all of them for as
//! long. One turn is `work=` steps of its own and `hold=` with the lock held. What the second part did less is printed in thousandths.
//!
//! Who waits for the lock does as Linux does: SEVL, then WFE and a load-acquire exclusive by turns, so that the store that
//! frees the lock ends the WFE. QEMU never traps a WFE (it takes it for a YIELD). So there, with `wait=call`, the call MERUS_YIELD
//! stands in for the WFE of the second part, in which it would trap: what Merus does about it is the same. `patience=` looks come
//! before each call: where the CPU has FEAT_TWED a WFE traps only after a delay, in which a lock that is held by one who runs is freed.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guest_rt::timer::{Timer, ticks};
use guest_rt::{check, cpu, fdt, println, psci};

/// Next ticket; the one that is served. A cache line each, as one must not disturb the other.
#[repr(align(128))]
struct Word(AtomicU32);

static NEXT: Word = Word(AtomicU32::new(0));
static SERVED: Word = Word(AtomicU32::new(0));
static GUARDED: AtomicU64 = AtomicU64::new(0);
static DONE: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];
static END: AtomicU64 = AtomicU64::new(0);
static WAIT: AtomicU32 = AtomicU32::new(0);
static WORK: AtomicU64 = AtomicU64::new(0);
static HOLD: AtomicU64 = AtomicU64::new(0);
static PATIENCE: AtomicU64 = AtomicU64::new(0);

const WFE: u32 = 0;
const CALL: u32 = 1;
/// MERUS_YIELD.
pub const YIELD: u32 = 0x8600_0001;

fn argument(name: &str, default: u64) -> u64 {
    fdt::argument(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[inline(always)]
fn steps(count: u64) {
    // SAFETY: counts down in a register.
    unsafe {
        core::arch::asm!("2: subs {0}, {0}, #1", "b.ne 2b", inout(reg) count.max(1) => _, options(nomem, nostack))
    };
}

fn wait_by_wfe(ticket: u32) {
    // SAFETY: loads the lock's word and changes nothing.
    unsafe {
        core::arch::asm!(
            "sevl", "2: wfe", "ldaxr {0:w}, [{1}]", "cmp {0:w}, {2:w}", "b.ne 2b",
            out(reg) _, in(reg) SERVED.0.as_ptr(), in(reg) ticket, options(nostack)
        );
    }
}

fn wait_by_call(ticket: u32) {
    let patience = PATIENCE.load(Ordering::Relaxed);
    let mut waited = 0;
    while SERVED.0.load(Ordering::Acquire) != ticket {
        if waited < patience {
            waited += 1;
            cpu::relax();
        } else {
            waited = 0;
            psci::call(YIELD, [0; 3]);
        }
    }
}

fn turns(cpu: usize) {
    let (end, wait) = (END.load(Ordering::Relaxed), WAIT.load(Ordering::Relaxed));
    let (work, hold) = (WORK.load(Ordering::Relaxed), HOLD.load(Ordering::Relaxed));
    let mut done = 0;
    while Timer::Physical.now() < end {
        steps(work);
        let ticket = NEXT.0.fetch_add(1, Ordering::Relaxed);
        if SERVED.0.load(Ordering::Acquire) != ticket {
            if wait == CALL { wait_by_call(ticket) } else { wait_by_wfe(ticket) }
        }
        // Two instructions that only the lock makes one.
        let guarded = GUARDED.load(Ordering::Relaxed);
        steps(hold);
        GUARDED.store(guarded + 1, Ordering::Relaxed);
        SERVED.0.store(ticket.wrapping_add(1), Ordering::Release);
        done += 1;
    }
    DONE[cpu].store(done, Ordering::Relaxed);
}

/// What the first `cpus` do together until `end`.
fn part(cpus: usize, end: u64) -> u64 {
    END.store(end, Ordering::Relaxed);
    GUARDED.store(0, Ordering::Relaxed);
    (1..cpus).for_each(|cpu| cpu::start(cpu, turns));
    turns(0);
    (1..cpus).for_each(cpu::join);
    let done = (0..cpus).map(|cpu| DONE[cpu].load(Ordering::Relaxed));
    let (sum, least, most) = done.fold((0, u64::MAX, 0), |(s, l, m), n| (s + n, l.min(n), m.max(n)));
    check!(GUARDED.load(Ordering::Relaxed) == sum, "{} turns were guarded, of {sum}", GUARDED.load(Ordering::Relaxed));
    println!("lock {}: {sum} turns of {cpus} CPUs, {least} to {most} each", fdt::argument("tag").unwrap_or("-"));
    sum
}

/// Runs the test.
pub fn lock() {
    WORK.store(argument("work", 10_000), Ordering::Relaxed);
    HOLD.store(argument("hold", 1_000), Ordering::Relaxed);
    PATIENCE.store(argument("patience", 0), Ordering::Relaxed);
    let (from, length) = (ticks(1000 * argument("from", 200)), ticks(1000 * argument("for", 200)));
    let gap = ticks(20_000);
    let alone = argument("alone", 2) as usize;
    crate::share::sleep_until(from);
    check!(Timer::Physical.now() < from + length / 4, "it is {} ticks late", Timer::Physical.now() - from);
    let few = part(alone, from + length);
    WAIT.store(if fdt::argument("wait") == Some("call") { CALL } else { WFE }, Ordering::Relaxed);
    crate::share::sleep_until(from + length + gap);
    let all = part(cpu::count(), from + 2 * length + gap);
    let lost = (few * 1000).saturating_sub(all * 1000) / few.max(1);
    println!("lock {}: lost {lost}", fdt::argument("tag").unwrap_or("-"));
}
