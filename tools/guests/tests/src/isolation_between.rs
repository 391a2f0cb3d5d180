//! Interrupts and translations of one VM are not the other's, though both have the same numbers and addresses.
//!
//! Run in two VMs on one pCPU with `tag=` 1 and 2, as [`isolation`](crate::isolation).

use core::sync::atomic::{AtomicU32, Ordering};
use guest_rt::mmu::PrivateMap;
use guest_rt::timer::{ENABLE, Timer, ticks};
use guest_rt::{check, check_eq, cpu, fdt, gic, mmio, println, vectors};

use crate::isolation::{meet, sleep, spin, tag};

/// As many INTIDs are looked at.
const INTIDS: usize = 96;
const ROUNDS: u32 = 12;
/// The same where they sleep in turn, which takes less time.
const TURNS: u32 = 40;
/// The first SPI that is raised by hand, and how many of each VM's own there are. No device has one of them.
const SPI: u32 = 64;
const OWN: u32 = 8;

static SEEN: [AtomicU32; INTIDS] = [const { AtomicU32::new(0) }; INTIDS];

fn take() {
    let intid = gic::acknowledge();
    if intid >= 1020 {
        return;
    }
    if let Some(seen) = SEEN.get(intid as usize) {
        seen.fetch_add(1, Ordering::Relaxed);
    }
    for timer in [Timer::Virtual, Timer::Physical] {
        if timer.intid() == intid {
            timer.set_ctl(0);
        }
    }
    gic::end(intid);
}

/// Whether an INTID is one that this VM raises.
fn mine(intid: u32) -> bool {
    let odd = tag() == 1;
    match intid {
        0..16 => (intid < 8) == odd,
        27 => odd,
        30 => !odd,
        SPI.. => intid < SPI + 2 * OWN && (intid < SPI + OWN) == odd,
        _ => false,
    }
}

/// Both enable everything; one raises SGIs 0 to 7, SPIs 64 to 71 and its virtual timer's, the other one SGIs 8 to 15, SPIs 72 to 79
/// and its physical timer's.
pub fn interrupts() {
    meet();
    gic::init();
    for intid in 0..INTIDS as u32 {
        gic::enable(0, intid);
        if intid >= SPI {
            gic::set_edge(intid, true);
        }
    }
    vectors::set_irq(Some(take));
    let mut met = 0;
    for round in 1..=ROUNDS {
        // Raised while they are masked: they are pending, in the list registers and behind them, as the other one runs.
        for intid in (0..16).chain(SPI..SPI + 2 * OWN).filter(|intid| mine(*intid)) {
            if intid < 16 { gic::send_sgi(0, intid) } else { gic::set_pending(0, intid) }
        }
        let timer = if tag() == 1 { Timer::Virtual } else { Timer::Physical };
        timer.set_cval(timer.now() + ticks(20));
        timer.set_ctl(ENABLE);
        met += u32::from(spin());
        cpu::unmask_irq();
        let all = || (0..INTIDS).all(|n| !mine(n as u32) || SEEN[n].load(Ordering::Relaxed) >= round);
        check!(guest_rt::timer::wait_for(100, all), "an interrupt of round {round} does not come");
        cpu::mask_irq();
    }
    for (intid, seen) in SEEN.iter().enumerate() {
        let want = if mine(intid as u32) { ROUNDS } else { 0 };
        check_eq!(seen.load(Ordering::Relaxed), want, "interrupts {intid}");
    }
    println!("isolation: interrupts, {met} of {ROUNDS} rounds met the other one");
    check!(met * 2 >= ROUNDS, "the other one had no turn: {met} of {ROUNDS}");
}

/// What a VM writes at an address that both have.
fn word(at: u64) -> u64 {
    tag() << 56 | at
}

/// The same addresses, by the identity map (global entries) and by a map with the same ASID, with other contents and another
/// page behind them.
pub fn tlb() {
    const PAGES: u64 = 64;
    meet();
    let scratch = mmio::RAM + fdt::memory_size() / 2;
    let pages = || (0..PAGES).map(|n| scratch + n * 4096);
    pages().for_each(|at| mmio::write64(at, word(at)));
    let map = PrivateMap::enter(0);
    // Each has its pages the other way round.
    let page = |n: u64| (n + tag()) & 1;
    for n in 0..2 {
        map.point_to(page(n));
        mmio::write64(map.address(), word(page(n)));
    }
    let mut met = 0;
    for round in 0..TURNS {
        let page = page(round.into());
        map.point_to(page);
        check_eq!(mmio::read64(map.address()), word(page), "page {page} in round {round}");
        met += u32::from(sleep());
        // Without an invalidation since: what is cached has to be this VM's.
        check_eq!(mmio::read64(map.address()), word(page), "page {page} after another one ran in round {round}");
        let foreign = pages().filter(|at| mmio::read64(*at) != word(*at)).count();
        check_eq!(foreign, 0, "words of the identity map that are not this VM's in round {round}");
    }
    map.leave();
    println!("isolation: tlb, {met} of {TURNS} rounds met the other one");
    check!(met * 2 >= TURNS, "the other one had no turn: {met} of {TURNS}");
}
