//! Self-hosted debug: BRK, breakpoints, watchpoints, single step and the OS lock, across exits and on each CPU.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guest_rt::sysreg::{Encoding, execute, isb};
use guest_rt::vectors::{self, Frame, class};
use guest_rt::{check, check_eq, cpu, mmio, mrs, msr, psci, run, timer};

/// MDSCR_EL1.SS, KDE, MDE.
const SS: u64 = 1;
const KDE: u64 = 1 << 13;
const MDE: u64 = 1 << 15;
/// SPSR_EL1.SS and D.
const SPSR_SS: u64 = 1 << 21;
const SPSR_D: u64 = 1 << 9;
/// DBGBCR: enabled, EL1, all four bytes. DBGWCR: enabled, EL1, loads and stores, eight bytes.
const BCR: u64 = 1 | 1 << 1 | 0xf << 5;
const WCR: u64 = 1 | 1 << 1 | 3 << 3 | 0xff << 5;
const MOST_STEPS: usize = 16;

#[repr(align(128))]
struct Seen {
    brk: AtomicU32,
    breakpoint: AtomicU32,
    watchpoint: AtomicU32,
    steps: AtomicU32,
    /// How many steps are still wanted.
    left: AtomicU32,
    elr: AtomicU64,
    far: AtomicU64,
    path: [AtomicU64; MOST_STEPS],
}

static SEEN: [Seen; cpu::MAX] = [const {
    Seen {
        brk: AtomicU32::new(0),
        breakpoint: AtomicU32::new(0),
        watchpoint: AtomicU32::new(0),
        steps: AtomicU32::new(0),
        left: AtomicU32::new(0),
        elr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        path: [const { AtomicU64::new(0) }; MOST_STEPS],
    }
}; cpu::MAX];

static READY: cpu::Barrier = cpu::Barrier::new();

global_asm!(
    r#"
    // Sixteen places for breakpoints, one for each register there may be.
debug_places:
    .rept   16
    nop
    .endr
    ret
    // x0 = PSCI_VERSION, x5 = an emulated register. One step each: plain, trapped, completed by EL2, a call.
debug_path:
    brk     #7
    nop
    mrs     x2, ID_AA64PFR0_EL1
    ldr     w2, [x5]
    hvc     #0
    str     wzr, [x5]
    wfe
    nop
    ret
    "#
);

// SAFETY: both are above and change no register but those that a call may change. `debug_places` takes nothing; the other one, which has
// registers of its own to start with, is called from assembly only.
unsafe extern "C" {
    fn debug_places();
    fn debug_path();
}

fn hook(frame: &mut Frame) -> bool {
    let seen = &SEEN[cpu::index()];
    seen.elr.store(frame.elr, Ordering::Relaxed);
    let count = match frame.class() {
        class::BRK => {
            if seen.left.load(Ordering::Relaxed) > 0 {
                // The start of a path: one instruction after the other from the next on.
                frame.spsr = (frame.spsr | SPSR_SS) & !SPSR_D;
                msr!("MDSCR_EL1", mrs!("MDSCR_EL1") | SS | KDE);
            }
            frame.elr += 4;
            &seen.brk
        }
        class::BREAKPOINT => {
            frame.elr += 4;
            &seen.breakpoint
        }
        class::WATCHPOINT => {
            seen.far.store(frame.far, Ordering::Relaxed);
            frame.elr += 4;
            &seen.watchpoint
        }
        class::STEP => {
            let at = seen.steps.load(Ordering::Relaxed) as usize;
            if let Some(slot) = seen.path.get(at) {
                slot.store(frame.elr, Ordering::Relaxed);
            }
            if seen.left.fetch_sub(1, Ordering::Relaxed) > 1 {
                frame.spsr |= SPSR_SS;
            } else {
                msr!("MDSCR_EL1", mrs!("MDSCR_EL1") & !SS);
            }
            &seen.steps
        }
        _ => return false,
    };
    count.fetch_add(1, Ordering::Relaxed);
    true
}

fn read(seen: &AtomicU32) -> u32 {
    seen.load(Ordering::Relaxed)
}

/// Runs the test.
pub fn debug() {
    vectors::set_hook(Some(hook));
    cpu::on_all(work);
}

fn work(cpu: usize) {
    let seen = &SEEN[cpu];
    for count in [&seen.brk, &seen.breakpoint, &seen.watchpoint, &seen.steps, &seen.left] {
        count.store(0, Ordering::Relaxed);
    }
    os_lock();
    READY.wait(cpu::count());
    for _ in 0..10 {
        run!("brk #1");
    }
    check_eq!(read(&seen.brk), 10, "BRK exceptions");
    msr!("MDSCR_EL1", KDE | MDE);
    run!("msr daifclr, #8\nisb");
    breakpoints(cpu, seen);
    watchpoints(cpu, seen);
    READY.wait(cpu::count());
    steps(seen);
    run!("msr daifset, #8");
    msr!("MDSCR_EL1", 0);
    isb();
}

/// OSLAR_EL1 sets what OSLSR_EL1 shows. (That a locked CPU takes no breakpoint, QEMU does not model.)
fn os_lock() {
    for lock in [1, 0] {
        msr!("OSLAR_EL1", lock);
        isb();
        psci::call(psci::VERSION, [0; 3]);
        check_eq!(mrs!("OSLSR_EL1") >> 1 & 1, lock, "OSLSR_EL1.OSLK");
    }
}

fn places() {
    // SAFETY: sixteen times nothing.
    unsafe { debug_places() };
}

/// Something that lets another CPU run here, and its debug registers in.
fn exits(round: usize) {
    match round % 3 {
        0 => {
            psci::call(psci::VERSION, [0; 3]);
        }
        1 => READY.wait(cpu::count()),
        _ => {
            timer::wait_for(2, || false);
        }
    }
}

fn set(value: bool, register: u8, crm: u64, to: u64) {
    // DBGBVR<n> and DBGWVR<n> have op2 = 4 and 6, the control registers one more; n is CRm.
    let op2 = register + u8::from(!value);
    execute(Encoding::new(2, 0, 0, crm as u8, op2).write_instruction(), to, 0);
    isb();
}

fn breakpoints(cpu: usize, seen: &Seen) {
    let all = (mrs!("ID_AA64DFR0_EL1") >> 12 & 15) + 1;
    let base = debug_places as *const () as u64;
    for n in 0..all {
        // Each CPU at another place.
        let at = base + 4 * ((n + cpu as u64) % 16);
        set(true, 4, n, at);
        set(false, 4, n, BCR);
        let before = read(&seen.breakpoint);
        exits(n as usize);
        places();
        check_eq!(read(&seen.breakpoint), before + 1, "hits of breakpoint {n}");
        check_eq!(seen.elr.load(Ordering::Relaxed), at, "where breakpoint {n} hit");
        set(false, 4, n, 0);
        places();
        check_eq!(read(&seen.breakpoint), before + 1, "hits of breakpoint {n} when off");
    }
}

#[repr(align(64))]
struct Watched([AtomicU64; 8]);
static WATCHED: [Watched; cpu::MAX] = [const { Watched([const { AtomicU64::new(0) }; 8]) }; cpu::MAX];

fn watchpoints(cpu: usize, seen: &Seen) {
    let all = (mrs!("ID_AA64DFR0_EL1") >> 20 & 15) + 1;
    for n in 0..all {
        let at = &raw const WATCHED[cpu].0[n as usize % 8] as u64;
        set(true, 6, n, at);
        set(false, 6, n, WCR);
        let before = read(&seen.watchpoint);
        exits(n as usize + 1);
        mmio::write64(at, n);
        mmio::read32(at + 4);
        mmio::read64(at ^ 8);
        check_eq!(read(&seen.watchpoint), before + 2, "hits of watchpoint {n}");
        let far = seen.far.load(Ordering::Relaxed);
        check!(far & !7 == at, "watchpoint {n} at {at:#x} hit at {far:#x}");
        set(false, 6, n, 0);
        mmio::write64(at, 1);
        check_eq!(read(&seen.watchpoint), before + 2, "hits of watchpoint {n} when off");
    }
}

/// Each instruction is one step, whether EL2 completed it or the CPU.
fn steps(seen: &Seen) {
    const COUNT: u32 = 7;
    seen.steps.store(0, Ordering::Relaxed);
    seen.left.store(COUNT, Ordering::Relaxed);
    // SAFETY: the path calls PSCI_VERSION, reads GICD_TYPER and writes it, which is ignored; nothing else changes.
    unsafe {
        core::arch::asm!(
            "bl {path}", path = sym debug_path,
            inout("x0") u64::from(psci::VERSION) => _, inout("x5") mmio::GICD + guest_rt::gic::TYPER => _,
            clobber_abi("C")
        );
    }
    let start = debug_path as *const () as u64 + 4;
    check_eq!(read(&seen.steps), COUNT, "steps");
    for n in 0..COUNT {
        let got = seen.path[n as usize].load(Ordering::Relaxed);
        check_eq!(got.wrapping_sub(start), 4 * (u64::from(n) + 1), "offset of the path after step {n}");
    }
}
