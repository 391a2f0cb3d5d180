//! What interrupt handlers saw: counts and order of the interrupts that each CPU took.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use guest_rt::{cpu, gic, timer, vectors};

/// Interrupts whose counts are kept.
pub const LINES: usize = 128;
/// How many are remembered in order.
pub const LOG: usize = 256;

static COUNTS: [[AtomicU32; LINES]; cpu::MAX] = [const { [const { AtomicU32::new(0) }; LINES] }; cpu::MAX];
static ORDER: [[AtomicU32; LOG]; cpu::MAX] = [const { [const { AtomicU32::new(0) }; LOG] }; cpu::MAX];
static LENGTH: [AtomicUsize; cpu::MAX] = [const { AtomicUsize::new(0) }; cpu::MAX];
static SPURIOUS: [AtomicU32; cpu::MAX] = [const { AtomicU32::new(0) }; cpu::MAX];
/// Whether [`simple`] ends what it acknowledged.
static ENDS: AtomicBool = AtomicBool::new(true);

/// Notes that this CPU acknowledged `intid`.
pub fn note(intid: u32) {
    let cpu = cpu::index();
    if intid >= 1020 {
        SPURIOUS[cpu].fetch_add(1, Ordering::Relaxed);
        return;
    }
    let at = LENGTH[cpu].fetch_add(1, Ordering::Relaxed);
    if let Some(slot) = ORDER[cpu].get(at) {
        slot.store(intid, Ordering::Relaxed);
    }
    if let Some(count) = COUNTS[cpu].get(intid as usize) {
        count.fetch_add(1, Ordering::Release);
    }
    cpu::notify();
}

/// Forgets everything, on all CPUs.
pub fn reset() {
    for cpu in 0..cpu::MAX {
        COUNTS[cpu].iter().for_each(|count| count.store(0, Ordering::Relaxed));
        LENGTH[cpu].store(0, Ordering::Relaxed);
        SPURIOUS[cpu].store(0, Ordering::Relaxed);
    }
    ENDS.store(true, Ordering::Relaxed);
    guest_rt::sysreg::dsb();
}

/// How often a CPU took an interrupt.
pub fn count(cpu: usize, intid: u32) -> u32 {
    COUNTS[cpu][intid as usize].load(Ordering::Acquire)
}

/// How many interrupts a CPU took.
pub fn total(cpu: usize) -> usize {
    LENGTH[cpu].load(Ordering::Acquire)
}

/// The n-th interrupt that a CPU took; 1023 if there were fewer.
pub fn nth(cpu: usize, n: usize) -> u32 {
    if n < total(cpu).min(LOG) { ORDER[cpu][n].load(Ordering::Relaxed) } else { gic::SPURIOUS }
}

/// How often a CPU was interrupted and found nothing to acknowledge.
pub fn spurious(cpu: usize) -> u32 {
    SPURIOUS[cpu].load(Ordering::Relaxed)
}

/// Acknowledge, note, end.
fn simple() {
    let intid = gic::acknowledge();
    note(intid);
    if intid < 1020 && ENDS.load(Ordering::Relaxed) {
        gic::end(intid);
    }
}

/// Forgets everything and installs the plain handler.
pub fn start() {
    reset();
    vectors::set_irq(Some(simple));
}

/// Whether the plain handler ends what it takes.
pub fn set_ends(ends: bool) {
    ENDS.store(ends, Ordering::Relaxed);
}

/// Waits until a CPU has taken an interrupt `times` times; whether it has.
pub fn wait(cpu: usize, intid: u32, times: u32) -> bool {
    timer::wait_for(cpu::PATIENCE, || count(cpu, intid) >= times)
}

/// Gives what must not come a fair chance to come.
pub fn settle() {
    timer::delay(2_000);
}
