//! Stolen time (Arm DEN 0057): how it is found, that it is read only, and that it grows while vCPUs wait for a pCPU.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guest_rt::test::check_external;
use guest_rt::timer::{frequency, now, ticks};
use guest_rt::vectors::{class, expect};
use guest_rt::{check, check_eq, cpu, fdt, mmio, mmu, println, psci, test};

const ARCH_FEATURES: u32 = 0x8000_0001;
const FEATURES: u32 = 0xc500_0020;
const STOLEN_TIME: u32 = 0xc500_0021;
/// Bytes of a record, and where in it the time is.
const RECORD: u64 = 64;
const TIME: u64 = 8;
const PAGE: u64 = 4096;

static RECORDS: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];
static STOLEN: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];
static BACKWARDS: AtomicU32 = AtomicU32::new(0);

/// Where this CPU's record is.
fn record() -> u64 {
    psci::call4(STOLEN_TIME, [0; 3])[0]
}

fn stolen() -> u64 {
    mmio::read64(record() + TIME)
}

/// Runs the test.
pub fn pv_time() {
    if !psci::on_merus() {
        return;
    }
    check_eq!(psci::call(ARCH_FEATURES, [FEATURES.into(), 0, 0]), 0, "SMCCC_ARCH_FEATURES of PV_TIME_FEATURES");
    for function in [FEATURES, STOLEN_TIME] {
        check_eq!(psci::call(FEATURES, [function.into(), 0, 0]), 0, "PV_TIME_FEATURES of {function:#x}");
    }
    check_eq!(psci::call(FEATURES, [ARCH_FEATURES.into(), 0, 0]), -1, "PV_TIME_FEATURES of another call");
    cpu::on_all(|cpu| RECORDS[cpu].store(record(), Ordering::Relaxed));
    for (cpu, record) in RECORDS.iter().enumerate().take(cpu::count()) {
        let at = record.load(Ordering::Relaxed);
        check_eq!(at, RECORDS[0].load(Ordering::Relaxed) + RECORD * cpu as u64, "the record of CPU {cpu}");
        check_eq!(mmio::read64(at), 0, "revision and attributes of CPU {cpu}");
        (16..RECORD).step_by(8).for_each(|n| _ = check_eq!(mmio::read64(at + n), 0, "byte {n} of CPU {cpu}'s record"));
    }
    let first = RECORDS[0].load(Ordering::Relaxed);
    for at in (first + RECORD * cpu::count() as u64..first + PAGE).step_by(8) {
        check_eq!(mmio::read64(at), 0, "{at:#x}, behind the records");
    }
    read_only(first);
    grows();
}

/// The page is there to be read, and for nothing else.
fn read_only(at: u64) {
    for (what, fault, far) in [
        ("strb", expect(|| mmio::write8(at, 1)).1, at),
        ("strh", expect(|| mmio::write16(at + 2, 1)).1, at + 2),
        ("str w", expect(|| mmio::write32(at + 4, 1)).1, at + 4),
        ("str x", expect(|| mmio::write64(at + TIME, 1)).1, at + TIME),
        ("str x", expect(|| mmio::write64(at + PAGE - 8, 1)).1, at + PAGE - 8),
    ] {
        check_external(format_args!("{what} to stolen time"), fault, class::DATA_ABORT, far);
    }
    // SAFETY: nothing can be written there; the registers are the compiler's to lose.
    let (_, fault) = expect(|| unsafe { core::arch::asm!("stp xzr, xzr, [{0}]", in(reg) at, options(nostack)) });
    check_external(format_args!("stp to stolen time"), fault, class::DATA_ABORT, at);
    check_eq!(mmio::read64(at), 0, "revision and attributes after writes");
    check_eq!(mmio::read64(at + PAGE - 8), 0, "the page's end after a write");
    let alias = mmu::alias(0, mmu::Attribute::NonCacheable);
    let (_, fault) = expect(|| mmu::call(alias + at));
    check_external(format_args!("fetch from stolen time"), fault, class::INSTRUCTION_ABORT, alias + at);
    mmu::unalias();
}

/// Keeps all CPUs busy for a while: with more of them than pCPUs (`pcpus=`), what is missing was stolen.
fn grows() {
    const MS: u64 = 120;
    let pcpus: u64 = fdt::argument("pcpus").and_then(|n| n.parse().ok()).unwrap_or(0);
    let start = now();
    cpu::on_all(|cpu| {
        let (end, before) = (now() + ticks(MS * 1000), stolen());
        let mut last = before;
        while now() < end {
            let time = mmio::read64(RECORDS[cpu].load(Ordering::Relaxed) + TIME);
            BACKWARDS.fetch_add(u32::from(time < last), Ordering::Relaxed);
            last = time;
        }
        STOLEN[cpu].store(last - before, Ordering::Relaxed);
    });
    let took = (now() - start) * 1_000_000 / frequency() * 1000;
    check_eq!(BACKWARDS.load(Ordering::Relaxed), 0, "how often stolen time went back");
    let all: u64 = STOLEN.iter().take(cpu::count()).map(|time| time.load(Ordering::Relaxed)).sum();
    println!("pv-time: {} us stolen from {} CPUs in {} us", all / 1000, cpu::count(), took / 1000);
    let most = took * cpu::count() as u64;
    check!(all <= most, "{all} ns of {most} were stolen");
    if pcpus != 0 {
        // They do not begin and end at the same moment.
        let missing = MS * 1_000_000 * (cpu::count() as u64 - pcpus);
        check!(all >= missing / 2, "{all} ns were stolen, of {missing} that were missing");
    }
}

/// A reset does not take the time back: the second life begins with what the first had, and ends the test.
pub fn reset() {
    const ENOUGH: u64 = 20_000_000;
    let had = stolen();
    if had >= ENOUGH {
        println!("pv-time: {} us when it started again", had / 1000);
        return;
    }
    println!("pv-time: {} us at first", had / 1000);
    check!(had < ENOUGH / 2, "{had} ns were stolen before anything was done");
    (1..cpu::count()).for_each(|cpu| {
        cpu::start(cpu, |_| {
            loop {
                core::hint::spin_loop();
            }
        })
    });
    let end = now() + ticks(10_000_000);
    while stolen() < ENOUGH && now() < end {
        core::hint::spin_loop();
    }
    if stolen() < ENOUGH {
        test::fail(format_args!("{} ns were stolen in 10 s", stolen()));
        return;
    }
    psci::system_reset();
}
