//! Merus: the kernel binary. It wires the rooms together and decides nothing that a room could decide.
//!
//! | module | what |
//! |---|---|
//! | `main` | from [`BootInfo`] to pCPUs that run guests |
//! | [`machine`] | what all pCPUs share |
//! | [`construct`] | from a description to a VM; reset; the end |
//! | [`run`] | one pCPU's life |
//! | [`interrupts`] | physical interrupts |
//! | [`observe`], [`report`] | what is noted while tracing is on; what is said of it |
//! | [`host_disks`] | the machine's disks, in parts that VMs have |
//! | [`onboard`] | the board's own devices that Merus drives |
//! | [`uplink`] | the machine's network at a switch |
//! | [`stolen`] | the memory in which a VM reads for how long its vCPUs waited |
//! | [`hw`], [`guest`] | the pCPU as `vm` sees it; a VM as the kernel sees it |
//! | [`console`], [`time`], [`fatal`] | the UART, the counter, the end |
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod console;
mod construct;
#[allow(unsafe_code)] // Names the assembly calls; no unsafe block.
mod fatal;
mod gic;
mod guest;
mod host_disks;
mod hw;
mod interrupts;
mod io;
mod layout;
mod line;
mod lives;
mod machine;
mod manage;
mod monitor;
mod moves;
mod observe;
mod onboard;
mod passthrough;
mod placing;
mod power;
mod report;
mod rows;
mod run;
mod shell;
mod slots;
mod smp;
mod start;
mod stolen;
mod switches;
mod time;
mod uplink;
mod uploads;

#[allow(unsafe_code)] // The names that `boot` calls; no unsafe block.
mod entry {
    use boot::BootInfo;
    use boot::stage1::Stage1;

    #[unsafe(no_mangle)]
    fn merus_main(info: BootInfo, map: Stage1) -> ! {
        crate::start::first(info, map)
    }
    #[unsafe(no_mangle)]
    extern "C" fn merus_secondary_main(number: u64) -> ! {
        crate::smp::secondary(number as usize)
    }
    #[unsafe(no_mangle)]
    fn merus_entered_at_el1(info: BootInfo, map: Stage1) -> ! {
        crate::start::entered_at_el1(info, map)
    }
}

#[global_allocator]
pub(crate) static HEAP: sync::heap::Heap = sync::heap::Heap::new();
