//! What a VM gets of the pCPUs, measured by itself.

use guest_rt::timer::{ENABLE, Timer, now, ticks};
use guest_rt::{check, fdt, gic, println, psci, run};

/// Loops of one measurement: some ten microseconds.
const BATCH: u64 = 10_000;

/// Microseconds that nothing but another vCPU's turn takes.
const TURN: u64 = 1500;

fn argument(name: &str, default: u64) -> u64 {
    fdt::argument(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Works without a pause for a while; how long that took, in ticks of the physical counter, which all VMs share.
fn batch() -> u64 {
    let start = Timer::Physical.now();
    for _ in 0..BATCH {
        run!("nop");
    }
    Timer::Physical.now() - start
}

/// Sleeps until the physical counter has that value: the others are not kept from starting.
pub fn sleep_until(end: u64) {
    gic::init();
    gic::enable(0, TIMER);
    while Timer::Physical.now() < end {
        Timer::Virtual.set_cval(now() + (end - Timer::Physical.now()));
        Timer::Virtual.set_ctl(ENABLE);
        while gic::acknowledge() != TIMER {
            run!("wfi");
        }
        Timer::Virtual.set_ctl(0);
        gic::end(TIMER);
    }
}

/// A timer of the guest's that fires each `tick=` microseconds while it works; none with 0. QEMU with `-icount` gives one CPU all the
/// turns until the next timer, a tenth of a second at most: a pCPU without a tick would have another one stand still for so long, and
/// what each vCPU had the other pCPU's time for would say more about QEMU than about Merus.
struct Tick(u64);

impl Tick {
    fn start() -> Self {
        let tick = Self(ticks(argument("tick", 0)));
        tick.arm();
        tick
    }

    fn arm(&self) {
        if self.0 != 0 {
            Timer::Virtual.set_cval(now() + self.0);
            Timer::Virtual.set_ctl(ENABLE);
        }
    }

    /// Takes it if it has fired. Interrupts are masked.
    fn poll(&self) {
        if self.0 != 0 && gic::acknowledge() == TIMER {
            self.arm();
            gic::end(TIMER);
        }
    }
}

/// Sleeps until `from=`, works from there to `to=` and on to `until=`, in milliseconds of the physical counter, and prints how much it did between the
/// first two: in thousandths of what it would have done undisturbed; and how long it had the pCPU meanwhile, in microseconds: batches
/// that took far longer than the quickest had somebody else's turn in them.
pub fn share() {
    let [from, to, until] = [("from", 500), ("to", 1000), ("until", 1000)].map(|(n, d)| ticks(1000 * argument(n, d)));
    sleep_until(from);
    check!(Timer::Physical.now() < from + ticks(5000), "it is {} ticks late", Timer::Physical.now() - from);
    // The quickest is the one that nothing came in between.
    let (mut least, mut done, mut had) = (u64::MAX, 0, 0);
    let tick = Tick::start();
    loop {
        tick.poll();
        let start = Timer::Physical.now();
        if start >= until {
            break;
        }
        let took = batch();
        least = least.min(took);
        let counts = u64::from(start >= from && start < to);
        done += counts;
        had += counts * if took < ticks(TURN) { took } else { least };
    }
    let tag = fdt::argument("tag").unwrap_or("?");
    println!("had {tag} {} us", had / ticks(1));
    println!("share {tag} {}", done * least * 1000 / (to - from));
    psci::system_off();
}

const TIMER: u32 = 27;

/// Is woken every `period=` microseconds, `times=` times, works for `work=` microseconds, and prints how late it was at most, and how
/// long after the period's start it was ready at most, in microseconds.
pub fn period() {
    gic::init();
    gic::enable(0, TIMER);
    let (period, work) = (ticks(argument("period", 10_000)), ticks(argument("work", 1000)));
    let (mut late, mut ready) = (0, 0);
    let mut next = now() + period;
    for _ in 0..argument("rounds", 50) {
        Timer::Virtual.set_cval(next);
        Timer::Virtual.set_ctl(ENABLE);
        while gic::acknowledge() != TIMER {
            run!("wfi");
        }
        late = late.max(now() - next);
        Timer::Virtual.set_ctl(0);
        gic::end(TIMER);
        let mut worked = 0;
        while worked < work {
            // Time without the pCPU is not work.
            worked += batch().min(ticks(200));
        }
        ready = ready.max(now() - next);
        next += period;
    }
    println!("period late {}, ready after {}", late / ticks(1), ready / ticks(1));
}
