//! Return addresses from the chain of frame records (the image is built with frame pointers).

use addr::{Pa, Span};

/// Calls `each` with every return address from the frame record at `fp` upwards, at most `most`. Only records inside `image` (all
/// stacks lie there) are read, and each must lie above the one before, so a broken chain ends instead of faulting.
pub fn walk(mut fp: u64, image: Span<Pa>, most: usize, mut each: impl FnMut(u64)) {
    for _ in 0..most {
        if !fp.is_multiple_of(16) || !image.contains_range(Pa::new(fp), 16) {
            return;
        }
        // SAFETY: 16 aligned bytes inside the image, which is mapped readable from end to end but for the guard pages under the
        // stacks; a record in a guard page cannot have been written.
        let (next, lr) = unsafe { ((fp as *const u64).read_volatile(), (fp as *const u64).add(1).read_volatile()) };
        if lr == 0 {
            return;
        }
        each(lr);
        if next <= fp {
            return;
        }
        fp = next;
    }
}

/// The frame pointer here.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let fp: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack, preserves_flags)) };
    fp
}
