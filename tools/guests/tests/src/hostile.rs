//! A guest that misbehaves for ever, in the way that `how=` names, on all its CPUs; [`victim`](crate::victim) runs beside it.
//!
//! | `how=` | what it does |
//! |---|---|
//! | `spin` | nothing, without end |
//! | `sgi-storm` | SGIs to itself and all others |
//! | `console-flood` | output, with and without looking whether there is room |
//! | `mmio` | loads and stores of all sizes at random addresses of all devices, and where there is none |
//! | `sysreg` | reads and writes of random system registers |
//! | `garbage` | executes random words, its vectors are random words as well |
//! | `unmap-vectors` | takes a fault with its vectors at an address that its own tables do not map |
//! | `no-vectors` | takes a fault with its vectors at an address where the platform has nothing: each fetch leaves the guest |
//! | `wfi-storm` | WFI, WFE and YIELD with an interrupt pending, so that none of them waits |
//! | `yield-storm` | the call MERUS_YIELD, which gives the pCPU up each time |
//! | `timer-storm` | sleeps until the next of two timers' interrupts, a few microseconds each |
//! | `psci-storm` | calls of all kinds, other CPUs on and off |
//! | `hvc-garbage` | HVC and SMC with random immediates, function numbers and arguments |
//! | `reset-storm` | SYSTEM_RESET |
//! | `device` | hammers the registers of a clock that was passed through to it, and ends its interrupt now and then only |
//! | `set-way` | cache maintenance by set and way, its caches switched off and on |

use core::sync::atomic::{AtomicUsize, Ordering};
use guest_rt::mmio::{self, GICD, GICR, NO_DEVICE, NO_MEMORY, UART};
use guest_rt::sysreg::{Encoding, isb, sync_code};
use guest_rt::timer::{ENABLE, Timer, now, ticks};
use guest_rt::vectors::{self, expect};
use guest_rt::{cpu, fdt, gic, mrs, msr, println, psci, run};

use crate::fuzz::{next, ours};
use crate::lock::YIELD;

/// Words of garbage for each CPU.
const WORDS: usize = 16 << 10;

/// Runs the test; it does not end.
pub fn hostile() {
    let how = fdt::argument("how").unwrap_or("spin");
    let work: fn(usize) = match how {
        "spin" => spin,
        "sgi-storm" => sgi_storm,
        "console-flood" => console_flood,
        "mmio" => mmio_storm,
        "sysreg" => sysreg_storm,
        "garbage" => garbage,
        "unmap-vectors" => unmap_vectors,
        "no-vectors" => no_vectors,
        "wfi-storm" => wfi_storm,
        "yield-storm" => yield_storm,
        "timer-storm" => timer_storm,
        "psci-storm" => psci_storm,
        "hvc-garbage" => hvc_garbage,
        "reset-storm" => reset_storm,
        "set-way" => set_way,
        "device" => crate::passed::hammer,
        _ => {
            println!("test hostile: FAILED: there is no such way");
            return;
        }
    };
    println!("hostile: begins: {how}");
    gic::init();
    if how == "psci-storm" {
        // The other CPUs are what it plays with.
        work(0);
    }
    WORK.store(work as usize, Ordering::Release);
    cpu::on_all(begin);
    println!("test hostile: FAILED: {how} came to an end");
}

/// What all CPUs do.
static WORK: AtomicUsize = AtomicUsize::new(0);

fn begin(cpu: usize) {
    if cpu != 0 {
        gic::init_cpu();
    }
    // SAFETY: `hostile` stored one of its functions.
    let work: fn(usize) = unsafe { core::mem::transmute(WORK.load(Ordering::Acquire)) };
    work(cpu);
}

/// The start of a sequence of random numbers.
fn seed(cpu: usize) -> u64 {
    let seed = fdt::argument("seed").and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed) ^ (cpu as u64) << 32
}

fn spin(_: usize) {
    loop {
        run!("nop");
    }
}

fn take_one() {
    let intid = gic::acknowledge();
    if intid < 1020 {
        gic::end(intid);
    }
}

fn sgi_storm(cpu: usize) {
    vectors::set_irq(Some(take_one));
    cpu::unmask_irq();
    let mut random = seed(cpu);
    loop {
        random = next(random);
        let intid = random as u32 & 15;
        match random >> 60 {
            0..8 => gic::send_sgi(cpu, intid),
            8..12 => gic::send_sgi_others(intid),
            // Lists of CPUs that may be none, in clusters that are none.
            12..15 => gic::write_sgi1r(next(random)),
            _ => gic::set_pending(cpu, intid),
        }
    }
}

fn console_flood(_: usize) {
    // Also with the transmit interrupt unmasked in the device: its line goes up and down with the room that there is.
    mmio::write32(UART + 0x38, 1 << 5);
    for n in 0_u64.. {
        // 200 bytes of a line, 56 without an end.
        let byte = if n % 256 == 199 { b'\n' } else { b'a' + (n % 26) as u8 };
        // Every other 1,024 wait for room, the rest do not care.
        while n & 1024 == 0 && mmio::read32(UART + 0x18) & 1 << 5 != 0 {}
        mmio::write32(UART, u32::from(byte));
    }
}

fn mmio_storm(cpu: usize) {
    const PLACES: [u64; 8] = [GICD, GICD + 0x6000, GICR, GICR + 0x1_0000, UART, UART + 0x1_0000, NO_DEVICE, NO_MEMORY];
    let mut random = seed(cpu);
    loop {
        random = next(random);
        let place = PLACES[(random >> 61) as usize];
        let at = place + (random >> 20 & 0xfff);
        let value = next(random.rotate_left(17));
        let _ = expect(|| match random & 7 {
            0 => drop(mmio::read8(at)),
            1 => drop(mmio::read16(at & !1)),
            2 => drop(mmio::read32(at & !3)),
            3 => drop(mmio::read64(at & !7)),
            4 => mmio::write8(at, value as u8),
            5 => mmio::write16(at & !1, value as u16),
            6 => mmio::write32(at & !3, value as u32),
            _ => mmio::write64(at & !7, value),
        });
    }
}

/// How many instructions a storm chooses from. They are written once: QEMU translates what was written over again each time.
const PREPARED: usize = WORDS / 2;

/// Writes so many instructions, each with a `ret` behind it; the address of the first.
fn prepare(cpu: usize, mut instruction: impl FnMut() -> u32) -> u64 {
    const RET: u32 = 0xd65f_03c0;
    let at = scratch(cpu);
    for n in 0..PREPARED as u64 {
        mmio::write32(at + 8 * n, instruction());
        mmio::write32(at + 8 * n + 4, RET);
    }
    sync_code(at, 8 * PREPARED as u64);
    at
}

/// Executes one of them.
fn execute_prepared(at: u64, random: u64, x0: u64, x1: u64) {
    let at = at + 8 * (random >> 48) % (8 * PREPARED as u64);
    // SAFETY: an instruction that changes x0 to x17 and system state, and a `ret`; a fault is stepped over.
    unsafe {
        core::arch::asm!("blr {at}", at = in(reg) at, inout("x0") x0 => _, inout("x1") x1 => _, clobber_abi("C"));
    }
}

fn sysreg_storm(cpu: usize) {
    run!("msr daifset, #0xf");
    let mut random = seed(cpu);
    let at = prepare(cpu, || {
        loop {
            random = next(random);
            let encoding = Encoding::from_index((random >> 16) as u32 & 0x7fff);
            // Half of them where the registers of EL1 and EL0 are.
            let encoding =
                if random & 1 == 0 { Encoding { op0: 3, op1: 3 * (encoding.op1 & 1), ..encoding } } else { encoding };
            match random & 2 {
                0 => return encoding.read_instruction(),
                _ if ours(encoding) => {}
                _ => return encoding.write_instruction(),
            }
        }
    });
    loop {
        random = next(random);
        let _ = expect(|| execute_prepared(at, random, next(random.rotate_left(23)), 0));
    }
}

/// RAM of this CPU's own, behind everything that the payload uses.
fn scratch(cpu: usize) -> u64 {
    mmio::RAM + fdt::memory_size() / 2 + (cpu * WORDS * 4) as u64
}

fn garbage(cpu: usize) {
    let at = scratch(cpu);
    let mut random = seed(cpu);
    for word in 0..WORDS {
        random = next(random);
        mmio::write32(at + 4 * word as u64, (random >> 24) as u32);
    }
    sync_code(at, 4 * WORDS as u64);
    run!("msr daifset, #0xf");
    msr!("VBAR_EL1", at);
    isb();
    jump(at + 2 * WORDS as u64);
}

/// Goes there and does not come back.
fn jump(at: u64) -> ! {
    // SAFETY: nothing of what ran before goes on.
    unsafe { core::arch::asm!("br {0}", in(reg) at, options(noreturn)) }
}

fn unmap_vectors(_: usize) {
    // The tables map `entry::MAPPED_GIB` from 0; this is the last address of their half.
    fault_with_vectors_at((1 << 39) - 0x1000);
}

fn no_vectors(_: usize) {
    fault_with_vectors_at(NO_MEMORY);
}

fn fault_with_vectors_at(at: u64) {
    msr!("VBAR_EL1", at);
    isb();
    run!("udf #0");
}

fn wfi_storm(cpu: usize) {
    run!("msr daifset, #0xf");
    gic::enable(cpu, Timer::Virtual.intid());
    Timer::Virtual.set_cval(0);
    Timer::Virtual.set_ctl(ENABLE);
    loop {
        // QEMU completes a WFI that would not wait without asking for traps, and takes its time for each of these: more of them,
        // and its instruction clock would hardly go on.
        (0..1000).for_each(|_| run!("nop"));
        run!("wfi\nsev\nwfe\nyield\nwfi\nsevl\nwfe");
    }
}

fn yield_storm(_: usize) {
    run!("msr daifset, #0xf");
    loop {
        psci::call(YIELD, [0; 3]);
    }
}

fn arm_again() {
    let intid = gic::acknowledge();
    if intid >= 1020 {
        return;
    }
    for timer in [Timer::Virtual, Timer::Physical] {
        if timer.intid() == intid {
            timer.set_cval(timer.now() + ticks(3));
        }
    }
    gic::end(intid);
}

fn timer_storm(cpu: usize) {
    vectors::set_irq(Some(arm_again));
    for timer in [Timer::Virtual, Timer::Physical] {
        gic::enable(cpu, timer.intid());
        timer.set_cval(now());
        timer.set_ctl(ENABLE);
    }
    cpu::unmask_irq();
    loop {
        run!("wfi");
    }
}

/// What a CPU does that another one started: it goes away.
fn gone(_: usize) {}

fn psci_storm(cpu: usize) {
    const FUNCTIONS: [u32; 8] = [
        psci::VERSION,
        psci::AFFINITY_INFO,
        psci::MIGRATE_INFO_TYPE,
        psci::FEATURES,
        psci::SMCCC_VERSION,
        psci::VENDOR_UID,
        psci::CPU_ON,
        psci::CPU_ON_32,
    ];
    run!("msr daifset, #0xf");
    // A pending interrupt: CPU_SUSPEND comes back at once.
    gic::enable(cpu, Timer::Virtual.intid());
    Timer::Virtual.set_cval(0);
    Timer::Virtual.set_ctl(ENABLE);
    let mut random = seed(cpu);
    loop {
        random = next(random);
        let other = 1 + random as usize % (cpu::count() - 1).max(1);
        match random >> 61 {
            0 => {
                psci::call(psci::CPU_SUSPEND, [0, 0, 0]);
            }
            1 if other < cpu::count() && psci::affinity_info(cpu::mpidr(other)) == 1 => {
                let context = cpu::prepare(other, gone);
                psci::cpu_on(cpu::mpidr(other), guest_rt::entry::secondary(), context);
            }
            // Any function at all that does not end or reset the VM.
            2 => {
                let function = random as u32 & 0xff00_ffff;
                if !ends(function) {
                    psci::call(function, [next(random), random, 0]);
                }
            }
            // Entries and CPUs that are none.
            _ => {
                let function = FUNCTIONS[random as usize & 7];
                psci::call(function, [next(random), NO_MEMORY | random & 3, 0]);
            }
        }
    }
}

/// Whether a call of that number ends or resets the VM, or turns this CPU off: the one thing that the storms leave out.
fn ends(function: u32) -> bool {
    matches!(function & 0xbfff_ffff, psci::CPU_OFF | psci::SYSTEM_OFF | psci::SYSTEM_RESET | 0x8400_000e | 0x8400_0012)
}

fn hvc_garbage(cpu: usize) {
    // HVC #0 and SMC #0 with an immediate of 16 bits in bits 20:5.
    const HVC: u32 = 0xd400_0002;
    const SMC: u32 = 0xd400_0003;
    run!("msr daifset, #0xf");
    // A pending interrupt: whatever waits comes back at once.
    gic::enable(cpu, Timer::Virtual.intid());
    Timer::Virtual.set_cval(0);
    Timer::Virtual.set_ctl(ENABLE);
    let mut random = seed(cpu);
    let at = prepare(cpu, || {
        random = next(random);
        let immediate = if random & 1 << 40 == 0 { 0 } else { (random >> 44) as u32 & 0xffff };
        (if random & 1 << 41 == 0 { HVC } else { SMC }) | immediate << 5
    });
    loop {
        random = next(random);
        // Any number, or one of a service that there is: the owners of SMCCC, fast and slow, 32 and 64 bits.
        let function = match random >> 62 {
            0 => random as u32,
            1 => 0x8400_0000 | random as u32 & 0x4000_007f,
            2 => 0x8600_0000 | random as u32 & 0x4000_ff3f,
            _ => random as u32 & 0xff00_003f,
        };
        if !ends(function) {
            // The upper half is none of a 32-bit function's business.
            let x0 = u64::from(function) | (random >> 8) << 60;
            let _ = expect(|| execute_prepared(at, random.rotate_left(13), x0, next(random)));
        }
    }
}

fn reset_storm(_: usize) {
    psci::system_reset();
}

fn set_way(_: usize) {
    loop {
        let sctlr = mrs!("SCTLR_EL1");
        run!("dc cisw, xzr\ndsb sy");
        // The data cache off and on again.
        msr!("SCTLR_EL1", sctlr & !4);
        run!("isb\ndc cisw, xzr\ndsb sy");
        msr!("SCTLR_EL1", sctlr);
        isb();
    }
}
