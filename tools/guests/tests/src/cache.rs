//! Caches: set/way maintenance, caches off and on, code that is written and run, private maps by ASID, granules.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest_rt::mmio::{self, GICD, NO_MEMORY};
use guest_rt::mmu::{self, Granule, PrivateMap};
use guest_rt::sysreg::{execute, isb};
use guest_rt::test::check_external;
use guest_rt::vectors::{class, expect};
use guest_rt::{check, check_eq, cpu, entry, mrs, msr, println, psci, timer};

#[repr(align(4096))]
struct Data([AtomicU64; 1024]);
static DATA: Data = Data([const { AtomicU64::new(0) }; 1024]);
static READY: cpu::Barrier = cpu::Barrier::new();

/// Set/way maintenance, and caches off and on again.
pub fn cache() {
    by_set_and_way();
    off_and_on();
    cpu::on_all(|cpu| {
        READY.wait(cpu::count());
        if cpu == 0 {
            by_set_and_way();
            off_and_on();
        } else {
            // Meanwhile the others use what they share.
            for n in 0..1000 {
                DATA.0[512 + cpu].fetch_add(n & 1, Ordering::SeqCst);
            }
            check_eq!(DATA.0[512 + cpu].swap(0, Ordering::SeqCst), 500, "additions beside cache maintenance");
        }
        READY.wait(cpu::count());
    });
}

fn fill(seed: u64) {
    for (n, word) in DATA.0[..512].iter().enumerate() {
        word.store(seed + n as u64, Ordering::Relaxed);
    }
}

fn intact(seed: u64, what: &str) {
    for (n, word) in DATA.0[..512].iter().enumerate() {
        if !check_eq!(word.load(Ordering::Relaxed), seed + n as u64, "word {n} after {what}") {
            return;
        }
    }
}

/// Cleans and invalidates every set and way of every level, as firmware does before it turns caches off.
fn by_set_and_way() {
    fill(0x1111_0000);
    let clidr = mrs!("CLIDR_EL1");
    // ID_AA64MMFR2_EL1.CCIDX: the wide format of CCSIDR_EL1.
    let wide = mrs!("S3_0_C0_C7_2") >> 20 & 15 != 0;
    for level in 0..7u64 {
        if clidr >> (3 * level) & 7 < 2 {
            continue;
        }
        msr!("CSSELR_EL1", level << 1);
        isb();
        let ccsidr = mrs!("CCSIDR_EL1");
        let line = (ccsidr & 7) + 4;
        let (ways, sets) = if wide {
            (ccsidr >> 3 & 0x1f_ffff, ccsidr >> 32 & 0xff_ffff)
        } else {
            (ccsidr >> 3 & 0x3ff, ccsidr >> 13 & 0x7fff)
        };
        let shift = (ways as u32).leading_zeros() % 32;
        // A sample of a large cache: each operation may be an exit.
        let step = (sets / 64).max(1) as usize;
        for set in (0..=sets).step_by(step) {
            for way in 0..=ways {
                let operand = way << shift | set << line | level << 1;
                // SAFETY: cleaning and invalidating changes no value.
                unsafe { core::arch::asm!("dc cisw, {0}", in(reg) operand, options(nostack)) };
            }
        }
    }
    msr!("CSSELR_EL1", 0);
    guest_rt::run!("dsb sy\nisb");
    intact(0x1111_0000, "clean and invalidate by set and way");
}

global_asm!(
    r#"
    // x0 = data (cleaned), x1 = words, x2 = addend, x3 = SCTLR_EL1 bits to clear. Adds to each word with the caches off;
    // touches no other memory meanwhile.
cache_off_add:
    mrs     x4, SCTLR_EL1
    bic     x5, x4, x3
    dsb     sy
    msr     SCTLR_EL1, x5
    isb
1:  ldr     x6, [x0]
    add     x6, x6, x2
    str     x6, [x0], #8
    subs    x1, x1, #1
    b.ne    1b
    dsb     sy
    msr     SCTLR_EL1, x4
    isb
    ret
    "#
);

// SAFETY: it is above, takes its arguments in x0 to x3, and changes no register but those that a call may change.
unsafe extern "C" {
    fn cache_off_add(data: *const AtomicU64, words: u64, addend: u64, clear: u64);
}

fn clean() {
    let at = DATA.0.as_ptr() as u64;
    for line in (at..at + 4096).step_by(16) {
        // SAFETY: cleaning and invalidating changes no value.
        unsafe { core::arch::asm!("dc civac, {0}", in(reg) line, options(nostack)) };
    }
    guest_rt::run!("dsb sy");
}

fn off_and_on() {
    // SCTLR_EL1.C; C and I; M, C and I.
    for clear in [1 << 2, 1 << 2 | 1 << 12, 1 | 1 << 2 | 1 << 12] {
        fill(0x2222_0000);
        clean();
        // SAFETY: it adds to the 512 words, all atomics that no other CPU touches.
        unsafe { cache_off_add(DATA.0.as_ptr(), 512, 0x1_0000, clear) };
        check_eq!(mrs!("SCTLR_EL1"), entry::SCTLR_ON, "SCTLR_EL1 when on again");
        intact(0x2223_0000, "additions with the caches off");
    }
}

/// Code that one CPU writes and all run.
pub fn self_modifying() {
    // This CPU's own: `movz x0, #n`.
    for n in 0..500u32 {
        check_eq!(execute(0xd280_0000 | n << 5, 0, 0), u64::from(n), "new code in the same place");
    }
    // One CPU's, run by all.
    cpu::on_all(|cpu| {
        for round in 0..50u64 {
            if cpu == (round as usize) % cpu::count() {
                DATA.0[1020].store(0xd65f_03c0_d280_0000 | round << 5, Ordering::SeqCst);
                guest_rt::sysreg::sync_code(&raw const DATA.0[1020] as u64, 8);
            }
            READY.wait(cpu::count());
            isb();
            let got: u64;
            // SAFETY: the code sets x0 and returns.
            unsafe {
                core::arch::asm!("blr {0}", in(reg) &raw const DATA.0[1020], lateout("x0") got, clobber_abi("C"));
            }
            check_eq!(got, round, "what the code of round {round} returns");
            READY.wait(cpu::count());
        }
    });
}

/// All CPUs use one ASID for maps of their own, and invalidate only locally.
pub fn asid() {
    cpu::on_all(|cpu| {
        let map = PrivateMap::enter(cpu);
        READY.wait(cpu::count());
        for round in 0..200u64 {
            let page = round & 1;
            // The page was written through the map last time.
            map.point_to(page);
            let want = (cpu as u64 + 1) << 32 | page << 16;
            let got = mmio::read64(map.address());
            check!(round < 2 || got & !0xffff == want, "round {round}: {got:#x} is not this CPU's page {page}");
            mmio::write64(map.address(), want | round & 0xff);
            match round % 4 {
                0 => READY.wait(cpu::count()),
                1 => {
                    psci::call(psci::VERSION, [0; 3]);
                }
                2 => {
                    timer::wait_for(1, || false);
                }
                _ => cpu::relax(),
            }
            check_eq!(
                mmio::read64(map.address()),
                want | round & 0xff,
                "round {round}: what was written through the map"
            );
        }
        READY.wait(cpu::count());
        map.leave();
    });
}

/// The identity map, and a page map, with each granule that the CPU has.
pub fn granules() {
    for granule in [Granule::Kib4, Granule::Kib16, Granule::Kib64] {
        if !granule.is_there() {
            println!("granules: no {granule:?}");
            continue;
        }
        let at = mmu::enter_granule(granule);
        check_eq!(mrs!("TCR_EL1") >> 14 & 3, granule.tg0(), "TCR_EL1.TG0 with {granule:?}");
        // A page of its own: what is written there is in the data below, and the other way round.
        for n in 0..512 {
            mmio::write64(at + 8 * n, 0x3333_0000 + n);
        }
        mmu::check_granule_page(|n, value| {
            check_eq!(value, 0x3333_0000 + n, "word {n} written through a page of {granule:?}");
        });
        check!(mmio::read32(GICD + guest_rt::gic::TYPER) != 0, "GICD_TYPER is 0 with {granule:?}");
        check!(psci::call(psci::VERSION, [0; 3]) > 0, "PSCI_VERSION with {granule:?}");
        let (_, fault) = expect(|| mmio::read32(NO_MEMORY + 4));
        check_external(format_args!("load from nothing with {granule:?}"), fault, class::DATA_ABORT, NO_MEMORY + 4);
        let (_, fault) = expect(|| mmu::call(NO_MEMORY));
        check_external(format_args!("fetch from nothing with {granule:?}"), fault, class::INSTRUCTION_ABORT, NO_MEMORY);
        // The address beside the page is not mapped: a translation fault at level 3.
        let (_, fault) = expect(|| mmio::read32(at + granule.bytes()));
        check!(
            fault.is_some_and(|fault| fault.class() == class::DATA_ABORT && fault.status() == 7),
            "load beside the page of {granule:?}: {fault:?}"
        );
        mmu::leave_granule();
    }
}
