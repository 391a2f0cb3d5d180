//! The runtime of EL1 test payloads: an arm64 `Image` that starts at EL1, as Merus or QEMU's `virt` machine starts a kernel.
//!
//! It brings up the first CPU with an identity map and caches on, gives handlers for exceptions, interrupts, other CPUs and
//! timers, runs the tests that `/chosen/bootargs` names (`test=<name>` or `test=all`), prints one line for each
//! (`test <name>: ok` or `test <name>: FAILED: ...`) and powers off by PSCI. It knows the platform by heart (QEMU's `virt`
//! map, PSCI by HVC); from the device tree it takes the boot arguments, the CPUs and the memory.
//!
//! | module | what it is for |
//! |---|---|
//! | [`entry`] | header, first instructions of each CPU, first tables |
//! | [`vectors`] | exceptions: faults that a test expects, interrupts, hooks |
//! | [`cpu`] | this CPU, other CPUs, waiting for each other |
//! | [`console`] | the PL011 and `println!` |
//! | [`psci`] | calls to firmware |
//! | [`gic`], [`gicv2`], [`timer`] | interrupt controller and timers |
//! | [`mmio`], [`mod@sysreg`] | device and system register access |
//! | [`mmu`] | translation tables that a test builds for itself |
//! | [`virtio`] | drivers' side of virtio over MMIO |
//! | [`fdt`] | what the device tree says |
//! | [`test`] | the tests' registry and their checks |
#![no_std]

pub mod console;
pub mod cpu;
pub mod entry;
pub mod fdt;
pub mod gic;
pub mod gicv2;
pub mod mmio;
pub mod mmu;
pub mod psci;
pub mod sysreg;
pub mod test;
pub mod timer;
pub mod vectors;
pub mod virtio;

use core::panic::PanicInfo;

/// Names the payload's main function: it runs on the first CPU, MMU on, interrupts masked.
#[macro_export]
macro_rules! guest_main {
    ($main:path) => {
        /// What the runtime calls once it is up.
        #[unsafe(no_mangle)]
        extern "C" fn guest_main() {
            $main();
        }
    };
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::take_over();
    println!("test {}: FAILED: panic on CPU {}: {info}", test::current(), cpu::index());
    psci::system_off()
}
