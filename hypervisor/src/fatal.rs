//! The end: orderly, or with last words.
//!
//! A fatal error prints its registers, a backtrace and one line `merus: fatal: ...`, and powers the machine off. The other
//! pCPUs are not asked anything: they stop with the machine.

use crate::console::{self, last_words};
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use platform::bcm2835_pm::Power;
use platform::firmware::{Conduit, Firmware};
use spin::Once;
use trap::GuestFrame;

/// How the firmware is reached, once known: 0 not yet or not at all, 1 SMC, 2 HVC.
static CONDUIT: AtomicU64 = AtomicU64::new(0);
/// How the machine is ended where there is no firmware.
static POWER: Once<Power> = Once::new();
/// The pCPU that is dying, plus one; 0 while none is.
static DYING: AtomicUsize = AtomicUsize::new(0);

/// Makes the firmware known to the last words.
pub fn set_firmware(conduit: Conduit) {
    CONDUIT.store(if conduit == Conduit::Smc { 1 } else { 2 }, Ordering::Relaxed);
}

/// Makes a way to end the machine without firmware known to the last words.
pub fn set_power(power: Power) {
    POWER.call_once(|| power);
}

/// Powers the machine off, or stays here where nobody can.
pub fn power_off(firmware: Option<Firmware>) -> ! {
    if let Some(firmware) = firmware {
        firmware.system_off();
    }
    if let Some(power) = POWER.get() {
        power.off();
    }
    loop {
        el2::gic::wait_for_interrupt();
    }
}

fn firmware() -> Option<Firmware> {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => Some(Firmware::new(Conduit::Smc)),
        2 => Some(Firmware::new(Conduit::Hvc)),
        _ => None,
    }
}

/// Whether this is the first fatal error of the machine. A second one of the same pCPU answers `false`; another pCPU stays here,
/// so that the first one's words come out.
fn first_to_die() -> bool {
    let own = el2::number() + 1;
    match DYING.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(first) if first == own => false,
        Err(_) => loop {
            el2::gic::wait_for_interrupt();
        },
    }
}

/// Merus cannot go on: says why, and ends.
pub fn fatal(why: fmt::Arguments<'_>) -> ! {
    if !first_to_die() {
        // Dying already, here, in the middle of the last words.
        power_off(firmware());
    }
    last_words(format_args!("fatal: {why}"));
    power_off(firmware());
}

/// Prints the return addresses from `fp` up, as offsets into the image (`cargo xtask symbolize` names them).
fn backtrace(first: Option<u64>, fp: u64) {
    let image = boot::image();
    let base = image.start().as_u64();
    if let Some(pc) = first {
        last_words(format_args!("backtrace: pc {:#x}", pc.wrapping_sub(base)));
    }
    el2::backtrace::walk(fp, image, 32, |at| last_words(format_args!("backtrace: {:#x}", at.wrapping_sub(base))));
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if DYING.load(Ordering::Acquire) == 0 {
        backtrace(None, el2::backtrace::frame_pointer());
    }
    match info.location() {
        Some(at) => fatal(format_args!("panic at {}:{}: {}", at.file(), at.line(), info.message())),
        None => fatal(format_args!("panic: {}", info.message())),
    }
}

/// A fault of EL2 itself, from the vectors, on the emergency stack. `which` is the vector (3: an SError; 0x10 and up: on SP_EL0).
#[unsafe(no_mangle)]
extern "C" fn merus_el2_fault(which: u64, frame: &GuestFrame, sp: u64) -> ! {
    let (far, _) = el2::world::fault_registers();
    let esr = el2::features::esr();
    for (n, four) in frame.x.chunks(4).enumerate() {
        let mut line = arrayvec::ArrayString::<128>::new();
        for (k, x) in four.iter().enumerate() {
            let _ = fmt::Write::write_fmt(&mut line, format_args!("x{:<2} {x:016x}  ", n * 4 + k));
        }
        last_words(format_args!("{}", line.trim_end()));
    }
    let offset = frame.pc.wrapping_sub(boot::image().start().as_u64());
    last_words(format_args!("pc {:016x} (image + {offset:#x})  pstate {:x}  sp {sp:016x}", frame.pc, frame.pstate));
    last_words(format_args!("esr {esr:016x} ({})  far {far:016x}  pcpu {}", describe(esr), el2::number()));
    backtrace(Some(frame.pc), frame.x[29]);
    let kind = match which & 3 {
        0 => "synchronous exception",
        1 => "interrupt",
        2 => "fast interrupt",
        _ => "system error",
    };
    fatal(format_args!("{kind} in EL2: {} at image + {offset:#x}, address {far:#x}", describe(esr)))
}

/// The exception class in words (Arm ARM, "ESR_EL2", EC).
fn describe(esr: u64) -> &'static str {
    match esr >> 26 & 0x3f {
        0x00 => "unknown reason",
        0x07 => "FP or SIMD instruction",
        0x0e => "illegal execution state",
        0x18 => "system register access",
        0x21 => "instruction abort",
        0x22 => "misaligned program counter",
        0x25 => match esr & 0x3f {
            0x04..=0x07 => "data abort: nothing is mapped there",
            0x0c..=0x0f => "data abort: permission",
            0x10 => "data abort: external",
            0x21 => "data abort: alignment",
            _ => "data abort",
        },
        0x26 => "misaligned stack pointer",
        0x2f => "system error",
        0x3c => "breakpoint instruction",
        _ => "unexpected exception class",
    }
}

/// The orderly end of the machine.
pub fn halt(firmware: Option<Firmware>) -> ! {
    console::line(format_args!("halt"));
    console::finish();
    power_off(firmware)
}
