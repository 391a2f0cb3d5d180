//! As many CPUs, and as much memory, as a guest can have: each CPU where the tree says, each redistributor where the CPU looks for it,
//! RAM from its first to its last byte.

use crate::taken;
use core::sync::atomic::{AtomicU64, Ordering};
use guest_rt::mmio::{self, GICR, GICR_STRIDE, RAM};
use guest_rt::test::check_external;
use guest_rt::vectors::{class, expect};
use guest_rt::{check, check_eq, cpu, entry, fdt, gic, gicv2, mrs, println, timer};

/// CPUs that share one Aff1 (of a GICv3).
const CLUSTER: usize = 16;
/// GICR_TYPER.Last.
const LAST: u64 = 1 << 4;

/// What CPU 0 sends to each other.
const SGI: u32 = 3;

static READY: cpu::Barrier = cpu::Barrier::new();
static SEEN: AtomicU64 = AtomicU64::new(0);

/// All CPUs together.
pub fn many() {
    SEEN.store(0, Ordering::SeqCst);
    gic::init();
    taken::start();
    cpu::on_all(here);
    let all = cpu::count();
    check_eq!(SEEN.load(Ordering::SeqCst), u64::MAX >> (64 - all), "CPUs that came");
    if !gicv2::is_here() {
        let behind = GICR + all as u64 * GICR_STRIDE;
        let (_, fault) = expect(|| mmio::read32(behind));
        check_external(format_args!("a redistributor behind the last"), fault, class::DATA_ABORT, behind);
    }
    println!("many: {all} CPUs, the last has MPIDR {:#x}", cpu::mpidr(all - 1));
}

fn here(cpu: usize) {
    let mpidr = mrs!("MPIDR_EL1") & cpu::AFFINITY;
    let expected = (((cpu / CLUSTER) << 8) | (cpu % CLUSTER)) as u64;
    check_eq!(mpidr, expected, "MPIDR_EL1 of CPU {cpu}");
    check_eq!(cpu::mpidr(cpu), expected, "MPIDR_EL1 of CPU {cpu} in the tree");
    if !gicv2::is_here() {
        let typer = mmio::read64(GICR + cpu as u64 * GICR_STRIDE + 8);
        // The affinity without its gap, the number, and whether it is the last.
        let last = if cpu + 1 == cpu::count() { LAST } else { 0 };
        check_eq!(typer >> 32, expected, "affinity of redistributor {cpu}");
        check_eq!(typer >> 8 & 0xffff, cpu as u64, "number of redistributor {cpu}");
        check_eq!(typer & LAST, last, "whether redistributor {cpu} is the last");
    }
    if cpu != 0 {
        gic::init_cpu();
    }
    READY.wait(cpu::count());
    if cpu == 0 {
        (1..cpu::count()).for_each(|other| gic::send_sgi(other, SGI));
    } else if !asleep_until_sgi(cpu) {
        check!(false, "the SGI did not reach CPU {cpu}");
    }
    SEEN.fetch_or(1 << cpu, Ordering::SeqCst);
    READY.wait(cpu::count());
    gic::exit_cpu();
}

/// Sleeps until the SGI has come: the others have the pCPUs meanwhile. Whether it came in time.
fn asleep_until_sgi(cpu: usize) -> bool {
    timer::wait_for(cpu::PATIENCE, || {
        // A WFI ends for a pending interrupt that is masked, too: none is missed between the look and the sleep.
        if taken::count(cpu, SGI) == 0 {
            guest_rt::run!("wfi");
        }
        cpu::unmask_irq();
        cpu::mask_irq();
        taken::count(cpu, SGI) == 1
    })
}

/// The last word of 2 MiB of RAM, but where the payload or its tree lies: of each 2 MiB in the first GiB, of one in 64 beyond it and of
/// the last. All are written, then all are read again.
pub fn high() {
    const BLOCK: u64 = 2 << 20;
    let blocks = fdt::memory_size() / BLOCK;
    let (image, tree) = (entry::image(), fdt::address());
    let is_free = |at: u64| at / BLOCK != tree / BLOCK && (at + BLOCK <= image.0 || at >= image.1);
    let is_asked = |n: u64| n < 512 || n.is_multiple_of(64) || n == blocks - 1;
    let places = || (0..blocks).filter(|n| is_asked(*n)).map(|n| RAM + n * BLOCK).filter(|at| is_free(*at));
    let size = fdt::memory_size();
    let word = |at: u64| at + BLOCK - 8;
    for at in places() {
        check_eq!(mmio::read64(word(at)), 0, "RAM at {:#x} at first", word(at));
        mmio::write64(word(at), !at);
    }
    for at in places() {
        check_eq!(mmio::read64(word(at)), !at, "RAM at {:#x}", word(at));
    }
    let above = places().filter(|at| *at >= 1 << 32).count();
    check!(size < 4 << 30 || above > 0, "nothing above 4 GiB");
    let (_, fault) = expect(|| mmio::read32(RAM + size));
    check_external(format_args!("a load behind the last byte of RAM"), fault, class::DATA_ABORT, RAM + size);
    println!("high: {} MiB, {} places, {above} of them above 4 GiB", size >> 20, places().count());
}
