//! Every register that can be written keeps what this CPU of this VM wrote, whoever else writes it elsewhere.
//!
//! Run with a `tag=` of its own in each of several VMs: what one writes by all MSR encodings, no other reads.

use core::sync::atomic::{AtomicU64, Ordering};
use guest_rt::sysreg::{Encoding, execute, isb};
use guest_rt::vectors::expect;
use guest_rt::{check, cpu, fdt, msr, psci, timer};

use crate::fuzz::ours;

const ALL: usize = 1 << 15;
const ROUNDS: usize = 6;
/// What a read that was refused gives.
const ABSENT: u64 = 0x0dd_0dd0_dead_0dd0;

static VALUES: [[AtomicU64; ALL]; cpu::FEW] = [const { [const { AtomicU64::new(0) }; ALL] }; cpu::FEW];
static READY: cpu::Barrier = cpu::Barrier::new();

/// Registers that change by themselves, or by being read: counters and what depends on them, random numbers, interrupts,
/// the last exception's, flags, the debug channel.
fn restless(encoding: Encoding) -> bool {
    let Encoding { op0, op1, crn, crm, op2 } = encoding;
    match (op0, op1, crn) {
        (3, 3, 2 | 9 | 14) => true,
        (3, 0, 4) => crm == 0 || crm == 6,
        (3, 3, 4) => crm == 2 || crm == 5,
        (3, 0, 5) => crm == 2,
        (3, 0, 6) => crm == 0,
        (3, 0, 9) => true,
        (3, 0, 12) => crm == 1 || crm == 8 || crm == 11 || (crm == 12 && op2 < 3),
        (2, 0, 0) => op2 == 2 && crm != 2,
        (2, 3, 0) => true,
        _ => false,
    }
}

/// Runs the test.
pub fn cross() {
    cpu::on_all(work);
}

fn read(encoding: Encoding) -> u64 {
    let (value, fault) = expect(|| execute(encoding.read_instruction(), 0, 0));
    if fault.is_some() { ABSENT } else { value }
}

fn work(cpu: usize) {
    guest_rt::run!("msr daifset, #0xf");
    let tag = fdt::argument("tag").and_then(|tag| tag.parse::<u32>().ok()).unwrap_or(1);
    let pattern = 0x1357_9bdf_0246_8ace_u64.rotate_left(8 * tag + 4 * cpu as u32);
    for n in 0..ALL {
        let encoding = Encoding::from_index(n as u32);
        if !ours(encoding) && !restless(encoding) {
            let _ = expect(|| execute(encoding.write_instruction(), pattern ^ n as u64, 0));
        }
    }
    for (n, value) in VALUES[cpu].iter().enumerate() {
        value.store(read(Encoding::from_index(n as u32)), Ordering::Relaxed);
    }
    for round in 0..ROUNDS {
        match round % 3 {
            0 => READY.wait(cpu::count()),
            1 => timer::delay(20_000),
            _ => {
                timer::wait_for(20, || false);
                psci::call(psci::VERSION, [0; 3]);
            }
        }
        for (n, value) in VALUES[cpu].iter().enumerate() {
            let encoding = Encoding::from_index(n as u32);
            if restless(encoding) {
                continue;
            }
            let (got, want) = (read(encoding), value.load(Ordering::Relaxed));
            check!(got == want, "{encoding} in round {round}: got {got:#x}, want {want:#x}");
        }
    }
    msr!("MDSCR_EL1", 0);
    isb();
}
