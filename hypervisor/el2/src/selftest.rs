//! Ways to die on purpose, so that the last words can be tested.

/// Reads where nothing is mapped.
pub fn fault() {
    // SAFETY: the load faults (nothing is mapped in the first page: RAM there is never given out), which is the point; the fault
    // handler does not return.
    unsafe { core::arch::asm!("ldr {0}, [{0}]", in(reg) 0x10_u64, options(nostack)) };
}

/// Uses up the stack, down to the guard page.
#[inline(never)]
pub fn overflow(depth: u64) -> u64 {
    if depth == u64::MAX {
        return 0;
    }
    let room = core::hint::black_box([depth; 64]);
    let below = overflow(depth + 1);
    core::hint::black_box(room[(below & 63) as usize]) + below
}

/// Executes an FP instruction, which the build `debug-fp` does not survive.
#[cfg(feature = "debug-fp")]
pub fn fp() {
    // SAFETY: writes V0, which belongs to no guest yet (`fmov d0, xzr`); traps before it does.
    unsafe { core::arch::asm!(".inst 0x9e6703e0", options(nomem, nostack)) };
}
