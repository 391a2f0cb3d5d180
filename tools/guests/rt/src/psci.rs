//! Calls to what stands in for firmware: PSCI by HVC, and a look whether that is Merus.

use core::arch::asm;

/// PSCI_VERSION.
pub const VERSION: u32 = 0x8400_0000;
/// CPU_SUSPEND, 32-bit convention.
pub const CPU_SUSPEND_32: u32 = 0x8400_0001;
/// CPU_SUSPEND, 64-bit convention.
pub const CPU_SUSPEND: u32 = 0xc400_0001;
/// CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// CPU_ON, 32-bit convention.
pub const CPU_ON_32: u32 = 0x8400_0003;
/// CPU_ON, 64-bit convention.
pub const CPU_ON: u32 = 0xc400_0003;
/// AFFINITY_INFO, 32-bit convention.
pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
/// AFFINITY_INFO, 64-bit convention.
pub const AFFINITY_INFO: u32 = 0xc400_0004;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI_FEATURES.
pub const FEATURES: u32 = 0x8400_000a;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// UID query of the vendor's hypervisor calls.
pub const VENDOR_UID: u32 = 0x8600_ff01;

/// Success.
pub const SUCCESS: i64 = 0;
/// The function does not exist.
pub const NOT_SUPPORTED: i64 = -1;
/// An argument is wrong.
pub const INVALID_PARAMETERS: i64 = -2;
/// The CPU is on.
pub const ALREADY_ON: i64 = -4;
/// The CPU was started and has not come up yet.
pub const ON_PENDING: i64 = -5;
/// The entry address is none.
pub const INVALID_ADDRESS: i64 = -9;

/// Bytes 0 to 3 of Merus' UID in the word that w0 returns.
const MERUS_UID_W0: u32 = 0x8b4a_e8e9;

/// A call by HVC; x0 to x3 as returned.
pub fn call4(function: u32, args: [u64; 3]) -> [u64; 4] {
    let mut x = [u64::from(function), args[0], args[1], args[2]];
    // SAFETY: by SMCCC a call changes no register beyond x0-x17 and no memory of Rust's.
    unsafe {
        asm!("hvc #0", inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3], clobber_abi("C"));
    }
    x
}

/// A call by HVC; x0 as returned, sign extended from 32 bits, which is where PSCI's status is for either convention.
pub fn call(function: u32, args: [u64; 3]) -> i64 {
    i64::from(call4(function, args)[0] as u32 as i32)
}

/// Starts a CPU.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> i64 {
    call(CPU_ON, [mpidr, entry, context])
}

/// AFFINITY_INFO of a CPU: 0 on, 1 off, 2 starting, or an error.
pub fn affinity_info(mpidr: u64) -> i64 {
    call(AFFINITY_INFO, [mpidr, 0, 0])
}

/// Powers the machine off.
pub fn system_off() -> ! {
    call(SYSTEM_OFF, [0; 3]);
    loop {
        crate::run!("wfi");
    }
}

/// Resets the machine.
pub fn system_reset() -> ! {
    call(SYSTEM_RESET, [0; 3]);
    loop {
        crate::run!("wfi");
    }
}

/// Whether Merus answers: what it alone promises is tested only then.
pub fn on_merus() -> bool {
    call4(VENDOR_UID, [0; 3])[0] as u32 == MERUS_UID_W0
}
