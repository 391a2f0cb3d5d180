//! Known numbers of known exits, for the counters and events that Merus prints when a VM ends, or is asked to.

use guest_rt::mmio::{self, GICD, UART};
use guest_rt::timer::{ENABLE, Timer, now, ticks};
use guest_rt::{cpu, fdt, gic, mrs, println, psci, run};

const TIMER: u32 = 27;
/// More than a pCPU keeps events.
const CALLS: u64 = 3000;

/// With `wait=1`, spins until `q` is typed. Then 5 timer interrupts, 3,000 calls, 20 reads of an ID register, one of a device;
/// and off, with nothing printed in between.
pub fn trace() {
    gic::init();
    gic::enable(0, TIMER);
    if fdt::argument("wait").is_some() {
        println!("trace: waits");
        while mmio::read32(UART + 0x18) & 1 << 4 != 0 || mmio::read32(UART) & 0xff != u32::from(b'q') {
            cpu::relax();
        }
    }
    for _ in 0..5 {
        Timer::Virtual.set_cval(now() + ticks(100));
        Timer::Virtual.set_ctl(ENABLE);
        while gic::acknowledge() != TIMER {
            run!("wfi");
        }
        Timer::Virtual.set_ctl(0);
        gic::end(TIMER);
    }
    for _ in 0..CALLS {
        psci::call(psci::VERSION, [0; 3]);
    }
    for _ in 0..20 {
        let _ = mrs!("ID_AA64PFR0_EL1");
    }
    mmio::read32(GICD + gic::TYPER);
    psci::system_off();
}
