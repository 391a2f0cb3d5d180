//! The PL011, polled, a line at a time.

use crate::cpu;
use crate::mmio::{self, UART};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

// Arm DDI 0183 (PL011), "Summary of registers".
const DR: u64 = UART;
const FR: u64 = UART + 0x18;
const LCRH: u64 = UART + 0x2c;
const CR: u64 = UART + 0x30;
const IMSC: u64 = UART + 0x38;
const FR_TXFF: u32 = 1 << 5;

static LOCK: AtomicBool = AtomicBool::new(false);
/// Set once something went so wrong that the lock's owner may never let go.
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Turns the transmitter on: 8 bits, FIFOs, no interrupts.
pub(crate) fn init() {
    mmio::write32(IMSC, 0);
    mmio::write32(LCRH, 0x70);
    mmio::write32(CR, 0x301);
}

/// From now on the lock is ignored: for the last words of the first CPU that dies. Others that do wait for the end.
pub fn take_over() {
    if TAKEN_OVER.swap(true, Ordering::Relaxed) {
        loop {
            crate::run!("wfi");
        }
    }
}

struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while mmio::read32(FR) & FR_TXFF != 0 {
                core::hint::spin_loop();
            }
            mmio::write32(DR, u32::from(byte));
        }
        Ok(())
    }
}

/// Prints; [`println!`](crate::println) is the usual way here. Nothing that interrupts the printing CPU may print.
pub fn print(args: fmt::Arguments<'_>) {
    while LOCK.swap(true, Ordering::Acquire) && !TAKEN_OVER.load(Ordering::Relaxed) {
        cpu::relax();
    }
    // `Out` never fails.
    let _ = Out.write_fmt(args);
    LOCK.store(false, Ordering::Release);
    cpu::notify();
}

/// Prints a line on the PL011.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {
        $crate::console::print(core::format_args!("{}\n", core::format_args!($($arg)*)))
    };
}
