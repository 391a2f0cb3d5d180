//! This CPU and the others: starting them, stopping them, waiting for each other.

use crate::sysreg::isb;
use crate::{console, entry, fdt, mrs, msr, psci, run, test, timer, vectors};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The most CPUs that a payload uses.
pub const MAX: usize = 64;
/// The most CPUs that tests run on whose every CPU needs much memory.
pub const FEW: usize = 8;
/// Bytes of a CPU's stack.
pub const STACK_SIZE: usize = 32 * 1024;
/// Affinity fields of MPIDR_EL1.
pub const AFFINITY: u64 = 0xff_00ff_ffff;
/// How long a CPU may take to start or stop before a test calls it lost, in ms.
pub const PATIENCE: u64 = 20_000;

/// What a CPU that PSCI starts is given; read with its MMU off.
#[repr(C, align(128))]
pub struct Start {
    /// Top of its stack.
    pub stack: AtomicU64,
    /// Its number.
    index: AtomicUsize,
    /// The function to run, an `fn(usize)`; 0 while it has none.
    work: AtomicUsize,
}

#[repr(C, align(4096))]
struct Stacks([[AtomicU64; STACK_SIZE / 8]; MAX]);

/// Not zeroed, and not made ready for the caches at the start: with the MMU off nothing is written there.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".noinit")]
static RT_STACKS: Stacks = Stacks([const { [const { AtomicU64::new(0) }; STACK_SIZE / 8] }; MAX]);

static STARTS: [Start; MAX] =
    [const { Start { stack: AtomicU64::new(0), index: AtomicUsize::new(0), work: AtomicUsize::new(0) } }; MAX];
static MPIDRS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static COUNT: AtomicUsize = AtomicUsize::new(1);
static ENTERED: AtomicU64 = AtomicU64::new(0);

/// CNTKCTL_EL1: EL0 may read the counter; the event stream ends a WFE that nobody else ends, every 2^12 ticks.
const CNTKCTL: u64 = 3 | 1 << 2 | 11 << 4;

// SAFETY: `guest_main!` defines it, with this type, as a function that is safe to call.
unsafe extern "C" {
    /// Defined by [`guest_main!`](crate::guest_main).
    safe fn guest_main();
}

/// The first CPU's first Rust.
#[unsafe(no_mangle)]
extern "C" fn rt_main(tree: u64, entered: u64) -> ! {
    init_this(0);
    ENTERED.store(entered, Ordering::Relaxed);
    console::init();
    let mut count = 0;
    fdt::init(tree, |mpidr| {
        if count < MAX {
            MPIDRS[count].store(mpidr, Ordering::Relaxed);
            count += 1;
        }
    });
    COUNT.store(count.max(1), Ordering::Relaxed);
    guest_main();
    psci::system_off()
}

/// Another CPU's first Rust.
#[unsafe(no_mangle)]
extern "C" fn rt_secondary_main(start: &'static Start) -> ! {
    let index = start.index.load(Ordering::Relaxed);
    init_this(index);
    let work = start.work.load(Ordering::Acquire);
    if work != 0 {
        // SAFETY: `start` stored an `fn(usize)`.
        let work: fn(usize) = unsafe { core::mem::transmute(work) };
        work(index);
    }
    start.work.store(0, Ordering::Release);
    notify();
    off()
}

fn init_this(index: usize) {
    msr!("TPIDR_EL1", index as u64);
    msr!("CNTKCTL_EL1", CNTKCTL);
    // No FP/SIMD trap; the few tests that use it expect it to work.
    msr!("CPACR_EL1", 3 << 20);
    msr!("CNTV_CTL_EL0", 0);
    msr!("CNTP_CTL_EL0", 0);
    isb();
    vectors::init(index);
}

/// This CPU's number: its place among the device tree's.
#[inline]
pub fn index() -> usize {
    // A hostile test may have written anything there.
    mrs!("TPIDR_EL1") as usize % MAX
}

/// The physical counter at the payload's very first instruction.
pub fn entered() -> u64 {
    ENTERED.load(Ordering::Relaxed)
}

/// How many CPUs there are, [`MAX`] at most.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// The affinity of a CPU as the device tree gives it.
pub fn mpidr(cpu: usize) -> u64 {
    MPIDRS[cpu].load(Ordering::Relaxed)
}

/// Turns this CPU off.
pub fn off() -> ! {
    run!("msr daifset, #0xf");
    psci::call(psci::CPU_OFF, [0; 3]);
    panic!("CPU_OFF returned");
}

/// Prepares the start of a CPU and returns the context identifier for CPU_ON.
pub fn prepare(cpu: usize, work: fn(usize)) -> u64 {
    let start = &STARTS[cpu];
    let stack = &RT_STACKS.0[cpu];
    start.stack.store(stack.as_ptr() as u64 + STACK_SIZE as u64, Ordering::Relaxed);
    start.index.store(cpu, Ordering::Relaxed);
    start.work.store(work as usize, Ordering::Release);
    let at = start as *const Start as u64;
    // Its MMU and caches are off when it reads this.
    for line in (at..at + size_of::<Start>() as u64).step_by(16) {
        // SAFETY: cleaning and invalidating a line of coherent memory changes no value.
        unsafe { core::arch::asm!("dc civac, {0}", in(reg) line, options(nostack)) };
    }
    run!("dsb sy");
    at
}

/// Starts a CPU that is off; `work` gets its number, and when it returns the CPU turns itself off.
///
/// # Panics
/// When PSCI refuses.
pub fn start(cpu: usize, work: fn(usize)) {
    let context = prepare(cpu, work);
    let status = psci::cpu_on(mpidr(cpu), entry::secondary(), context);
    assert!(status == psci::SUCCESS, "CPU_ON of CPU {cpu} ({:#x}): {status}", mpidr(cpu));
}

/// Waits until a CPU that was started has finished its work and is off.
///
/// # Panics
/// When it takes longer than [`PATIENCE`].
pub fn join(cpu: usize) {
    let done = timer::wait_for(PATIENCE, || STARTS[cpu].work.load(Ordering::Acquire) == 0);
    assert!(done, "CPU {cpu} has not finished its work");
    let off = timer::wait_for(PATIENCE, || psci::affinity_info(mpidr(cpu)) == 1);
    assert!(off, "CPU {cpu} is not off: AFFINITY_INFO is {}", psci::affinity_info(mpidr(cpu)));
}

/// Runs `work` on all CPUs, this one included, and returns when all are done.
pub fn on_all(work: fn(usize)) {
    (1..count()).for_each(|cpu| start(cpu, work));
    work(0);
    (1..count()).for_each(join);
}

/// Waits a little for another CPU. What it waits for must [`notify`]; the event stream covers what cannot.
#[inline]
pub fn relax() {
    run!("wfe");
}

/// Wakes CPUs that [`relax`], after a store that they wait for.
#[inline]
pub fn notify() {
    run!("dsb ish\nsev");
}

/// Lets all CPUs that use it wait for each other, as often as they like.
pub struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
}

impl Barrier {
    /// A barrier nobody has reached.
    pub const fn new() -> Self {
        Self { arrived: AtomicUsize::new(0), round: AtomicUsize::new(0) }
    }

    /// Waits until `all` CPUs are here.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`].
    pub fn wait(&self, all: usize) {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == all {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
            notify();
            return;
        }
        let met = timer::wait_for(PATIENCE, || self.round.load(Ordering::Acquire) != round);
        assert!(met, "{} of {all} CPUs came to a barrier of {}", self.arrived.load(Ordering::Relaxed), test::current());
    }
}

impl Default for Barrier {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets interrupts come (PSTATE.I clear).
pub fn unmask_irq() {
    run!("msr daifclr, #2");
    isb();
}

/// Keeps interrupts away (PSTATE.I set).
pub fn mask_irq() {
    run!("msr daifset, #2");
}
