//! The benchmark payload: `bench=<row>,<row>,...` measures events in ticks of the virtual counter and prints one line a row.
//!
//! ```text
//! bench <row> mean=<ticks> min=<ticks> max=<ticks>
//! ```
//!
//! Under QEMU's `-icount shift=0` with `-cpu max` a tick is one executed instruction, whoever executed it: this payload, Merus
//! below it, another VM in between. The same payload runs on the bare machine, which gives the column to compare with.
//!
//! | row | what is measured |
//! |---|---|
//! | `start` | the physical counter at the payload's first instruction |
//! | `hypercall`, `mmio`, `idreg` | PSCI_VERSION by HVC; a load from GICD_TYPER; a read of ID_AA64PFR0_EL1 |
//! | `sgi` | from the write of ICC_SGI1R_EL1, or GICD_SGIR of a GICv2, to the handler's first instruction |
//! | `timer`, `wfi` | from the virtual timer's deadline to the handler, spinning and in WFI |
//! | `wfi-blocked` | as `wfi`, with a second CPU on that sleeps: more CPUs than Merus has |
//! | `wfi-away` | as `wfi-blocked`, but the second CPU runs for a moment while the first one sleeps |
//! | `ipi`, `ipi-blocked` | as `sgi` to another CPU in WFI; `-blocked` with a third one asleep |
//! | `loop` | a loop of 20 million instructions |
//! | `uart` | 200 lines of 50 characters and a newline, each sent when FR.TXFF allows |
//! | `switch` | half of the time that a spinning CPU is away while another VM's CPU wakes, looks and sleeps again |
//! | `sleepers` | nothing: CPU `of`'s worth of wake-ups, of which this VM has those from `first` on, `cpus` in number |
//! | `asleep` | nothing: sleeps for ever |
//! | `wake` | as `wfi-blocked`, for use beside `spinners` |
//! | `spinners` | nothing: `cpus` CPUs that never sleep |
//! | `load` | nothing: spins and sleeps by turns for ever |
//! | `disk-4k`, `disk-4k-32` | a random read of 4 KiB from a virtio disk, alone and as one of 32: what Merus executes; `-own`: what this driver does |
//! | `disk-mib` | a MiB in reads of 128 KiB, 8 at a time, likewise |
//! | `udp` | a datagram to another VM and back, all that happens; `udp-own`: what this driver does |
//! | `udp-echo` | sends each datagram back: what this driver does |
//! | `net-mib`, `net-sink` | a MiB in frames of 1,510 bytes to another VM, all that happens; `net-own`: what this driver does; the other VM, likewise |
//! | `trace` | nothing: a few events of each kind, for a trace of what is executed |
#![no_std]
#![no_main]

mod disk;
mod events;
mod report;
mod sleepers;
mod udp;
mod virtio;

use core::sync::atomic::{AtomicU64, Ordering};
use events::{LOOP, after};
use guest_rt::mmio::{self, GICD, UART};
use guest_rt::{cpu, fdt, gic, gicv2, println};
use report::Samples;

/// Events of a row, and those that go before it to warm everything up.
const EVENTS: u64 = 1000;
const WARM: u64 = 20;
/// From setting the timer to its deadline: long enough to be asleep by then.
const AHEAD: u64 = 20_000;
/// Between two rows, so that the console has sent what the last one printed.
const PAUSE: u64 = 20_000_000;
/// A gap between two looks at the counter in which somebody else has run; a round of the loop is some ten instructions.
const AWAY: u64 = 400;
/// How long the row `switch` waits before it begins, in ticks.
const SETTLED: u64 = 20_000_000;
const SGI: u32 = 3;
const TIMER: u32 = 27;

fn main() {
    events::init();
    gic::init();
    gic::enable(0, TIMER);
    for row in fdt::argument("bench").unwrap_or("").split(',').filter(|row| !row.is_empty()) {
        after(PAUSE);
        match row {
            "start" => println!("bench start mean={0} min={0} max={0}", cpu::entered()),
            "hypercall" => repeat(row, events::hypercall, 0),
            "mmio" => repeat(row, events::mmio, GICD + gic::TYPER),
            "idreg" => repeat(row, events::idreg, 0),
            "sgi" => each(row, || events::sgi(own_sgi())),
            "timer" => each(row, || events::timer(AHEAD)),
            "wfi" => each(row, || events::wfi(AHEAD)),
            "wake" => {
                // All spinners are on by then.
                after(fdt::number("settle").unwrap_or(SETTLED));
                each(row, || events::wfi(AHEAD));
            }
            "wfi-blocked" => {
                cpu::start(1, sleep);
                each(row, || events::wfi(AHEAD));
            }
            "wfi-away" => {
                cpu::start(1, later);
                each(row, || {
                    gic::write_sgi1r(sgi_to(1));
                    events::wfi(5 * AHEAD)
                });
            }
            "ipi" => ipi(row),
            "ipi-blocked" => {
                cpu::start(2, sleep);
                ipi(row);
            }
            "loop" => {
                let ticks = events::spin(LOOP);
                println!("bench loop mean={ticks} min={ticks} max={ticks}");
            }
            "uart" => uart(),
            "switch" => switch(),
            "sleepers" => sleepers::all(false),
            "spinners" => sleepers::all(true),
            "asleep" => {
                println!("bench: asleep");
                sleep(0);
            }
            "load" => load(),
            "trace" => trace(),
            _ if disk::row(row) || udp::row(row) => {}
            _ => println!("bench: FAILED: there is no row {row}"),
        }
    }
    println!("bench: done");
}

guest_rt::guest_main!(main);

/// A row whose event is an instruction: the mean of all in a row, and each by itself.
fn repeat(row: &str, event: events::Repeat, argument: u64) {
    event(argument, WARM);
    events::empty(argument, WARM);
    let empty = (events::empty(argument, EVENTS), events::empty(argument, 1));
    let all = event(argument, EVENTS).saturating_sub(empty.0);
    let mut samples = Samples::new();
    for _ in 0..EVENTS {
        samples.add(event(argument, 1).saturating_sub(empty.1));
    }
    samples.print(row, all);
}

/// A row whose event ends in a handler.
fn each(row: &str, mut event: impl FnMut() -> u64) {
    (0..WARM).for_each(|_| _ = event());
    let mut samples = Samples::new();
    (0..EVENTS).for_each(|_| samples.add(event()));
    samples.print(row, samples.sum());
}

/// ICC_SGI1R_EL1, or GICD_SGIR of a GICv2, for an SGI to this CPU.
fn own_sgi() -> u64 {
    sgi_to(cpu::index())
}

fn sgi_to(cpu: usize) -> u64 {
    if gicv2::is_here() {
        return 1 << (16 + cpu) | u64::from(SGI);
    }
    // All CPUs that a row uses are in the first cluster.
    1 << (cpu::mpidr(cpu) & 15) | u64::from(SGI) << 24
}

/// A CPU that is on and never wanted.
fn sleep(_: usize) {
    loop {
        guest_rt::run!("wfi");
    }
}

/// A CPU that an SGI tells to run once more, in the middle of the other one's sleep.
fn later(number: usize) {
    events::init();
    gic::init_cpu();
    gic::enable(number, TIMER);
    loop {
        events::receive(&READY);
        after(2 * AHEAD);
    }
}

/// How often the receiver was about to sleep, and when its handler ran, 0 before that.
static READY: AtomicU64 = AtomicU64::new(0);
static ANSWER: AtomicU64 = AtomicU64::new(0);

fn receiver(_: usize) {
    events::init();
    gic::init_cpu();
    loop {
        ANSWER.store(events::receive(&READY), Ordering::Release);
    }
}

fn ipi(row: &str) {
    cpu::start(1, receiver);
    let mut round = 0;
    each(row, || {
        round += 1;
        while READY.load(Ordering::Acquire) != round {
            guest_rt::run!("yield");
        }
        // By then it sleeps.
        after(AHEAD);
        ANSWER.store(0, Ordering::Release);
        events::send(sgi_to(1), &ANSWER)
    });
}

fn uart() {
    const LINE: &[u8] = b"A line of fifty characters for the PL011 to print.\n";
    const { assert!(LINE.len() == 51) };
    let start = guest_rt::timer::now();
    for _ in 0..200 {
        for byte in LINE {
            while mmio::read32(UART + 0x18) & 1 << 5 != 0 {
                core::hint::spin_loop();
            }
            mmio::write32(UART, u32::from(*byte));
        }
    }
    let ticks = guest_rt::timer::now().saturating_sub(start);
    println!("bench uart mean={ticks} min={ticks} max={ticks}");
}

/// What a CPU that never sleeps and takes no interrupt is away for, each time: twice a switch, and the other's few instructions.
fn switch() {
    // All sleepers are on by then.
    events::gap(0, fdt::number("settle").unwrap_or(SETTLED));
    let mut samples = Samples::new();
    (0..EVENTS).for_each(|_| samples.add(events::gap(AWAY, u64::MAX) / 2));
    samples.print("switch", samples.sum());
}

/// Spins 200,000 instructions, sleeps half as long, and so on.
fn load() {
    fn turns(_: usize) {
        loop {
            events::spin(100_000);
            after(100_000);
        }
    }
    fn other(number: usize) {
        events::init();
        gic::init_cpu();
        gic::enable(number, TIMER);
        turns(number);
    }
    (1..cpu::count()).for_each(|number| cpu::start(number, other));
    turns(0);
}

/// The events that a trace is taken of, each often enough to be in its stride.
fn trace() {
    const FEW: u64 = 8;
    for _ in 0..FEW {
        events::hypercall(0, 1);
        events::mmio(GICD + gic::TYPER, 1);
        events::idreg(0, 1);
        events::sgi(own_sgi());
        events::timer(AHEAD);
        events::wfi(AHEAD);
    }
}
