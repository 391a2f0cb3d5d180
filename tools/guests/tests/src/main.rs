//! The EL1 test payload: `test=<name>` runs one of the tests below, `test=all` those that need no shape of their own, in the order of `seed=`.
#![no_std]
#![no_main]

mod aarch32;
mod aborts;
mod answer;
mod cache;
mod cross;
mod debug;
mod fp;
mod fuzz;
mod hello;
mod hostile;
mod hostile_virtio;
mod isolation;
mod isolation_between;
mod isolation_memory;
mod loads;
mod lock;
mod many;
mod no_eoi;
mod passed;
mod pauth;
mod power;
mod priorities;
mod psci_calls;
mod pv_time;
mod registers;
mod sgi;
mod share;
mod smp;
mod sys_ops;
mod taken;
mod timers;
mod trace;
mod victim;
mod victim_virtio;
mod wfx;

use guest_rt::guest_test;
use guest_rt::test::{self, Test};

static TESTS: &[Test] = &[
    guest_test!("hello", hello::hello),
    guest_test!("registers", registers::registers),
    guest_test!("aborts", aborts::aborts),
    guest_test!("walks", aborts::walks),
    guest_test!("sgi", sgi::sgi),
    guest_test!("priorities", priorities::priorities),
    guest_test!("timers", timers::timers),
    guest_test!("psci", psci_calls::psci),
    guest_test!("suspend", psci_calls::suspend),
    guest_test!("active-many", priorities::active_many),
    guest_test!("smp", smp::smp),
    guest_test!("loads", loads::loads, gicv3),
    guest_test!("fp", fp::fp),
    guest_test!("pauth", pauth::pauth),
    guest_test!("wfx", wfx::wfx),
    guest_test!("debug", debug::debug),
    guest_test!("cache", cache::cache),
    guest_test!("self-modifying", cache::self_modifying),
    guest_test!("asid", cache::asid),
    guest_test!("granules", cache::granules),
    guest_test!("aarch32", aarch32::aarch32),
    guest_test!("no-eoi", no_eoi::no_eoi),
    guest_test!("gpio", power::gpio),
    guest_test!("pv-time", pv_time::pv_time),
    guest_test!("pv-time-reset", pv_time::reset, alone),
    guest_test!("lock", lock::lock, alone),
    guest_test!("many", many::many, alone),
    guest_test!("high", many::high, alone),
    guest_test!("passed-rtc", passed::rtc, alone),
    guest_test!("passed-serial", passed::serial, alone),
    guest_test!("passed-timer", passed::timer, alone),
    guest_test!("power", power::power, alone),
    guest_test!("sys-ops", sys_ops::sys_ops, alone),
    guest_test!("fuzz-sysreg", fuzz::fuzz_sysreg, alone),
    guest_test!("cross", cross::cross, alone),
    guest_test!("reset", hello::reset, alone),
    guest_test!("answer", answer::answer, alone),
    guest_test!("share", share::share, alone),
    guest_test!("period", share::period, alone),
    guest_test!("trace", trace::trace, alone),
    guest_test!("hostile", hostile::hostile, alone),
    guest_test!("hostile-virtio", hostile_virtio::hostile_virtio, alone),
    guest_test!("isolation-state", isolation::state, alone),
    guest_test!("isolation-interrupts", isolation_between::interrupts, alone),
    guest_test!("isolation-tlb", isolation_between::tlb, alone),
    guest_test!("leaves", isolation_memory::leaves, alone),
    guest_test!("looks", isolation_memory::looks, alone),
    guest_test!("victim", victim::victim, alone),
    guest_test!("disk-space", victim_virtio::disk_space, alone),
    guest_test!("victim-virtio", victim_virtio::victim_virtio, alone),
];

fn main() {
    test::main(TESTS);
}

guest_rt::guest_main!(main);
