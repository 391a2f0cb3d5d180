//! The least that must work, and the machine's reset.

use guest_rt::{cpu, fdt, mrs, println, psci};

/// Prints what the payload sees.
pub fn hello() {
    println!(
        "hello: {} CPUs, {} MiB, CurrentEL {}, MIDR {:#x}, Merus {}, arguments '{}'",
        cpu::count(),
        fdt::memory_size() >> 20,
        mrs!("CurrentEL") >> 2,
        mrs!("MIDR_EL1"),
        psci::on_merus(),
        fdt::bootargs(),
    );
}

/// Resets for ever; the row that runs it counts the lines.
pub fn reset() {
    println!("reset: up");
    psci::system_reset();
}
