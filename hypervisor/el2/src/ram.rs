//! RAM that is not Merus' own: zeroing, copying, checking and cleaning it, by physical address.
//!
//! All Rust objects of Merus (statics, heap, stacks) lie in the image or in blocks that were given to the heap ([`grow_heap`]).
//! What is declared here is RAM outside of both, so no access to it can break what Rust assumes of its objects. Guests write to it
//! at the same time: contents are copied, never borrowed.
//!
//! # Caches (a guest starts with its caches off)
//! What Merus writes here is in the caches; a guest whose caches are off reads memory. [`clean`] is the last step of every
//! hand-over unless the CPU has FEAT_S2FWB and stage 2 forces write-back. [`invalidate_instructions`] follows where frames are
//! reused for code.

mod extent;

use crate::declared::Declared;
use addr::{Address, BLOCK_SIZE, Pa, Span};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};
use memory::{Dirty, FreeRam};
use sync::heap::Heap;
use sync::{Rank, SpinLock};

pub use extent::Extent;

/// Spans at most: what the board has, and a piece more for each hole that [`grow_heap`] makes.
const MOST: usize = 64;

static DECLARED: Declared<MOST> = Declared::new();

/// Who changes the table.
static CHANGING: SpinLock<()> = SpinLock::new(Rank::Heap, ());

/// Declares `ram` as RAM that guests and their tables may be given. Refused (`false`) where it overlaps `image`, or where too
/// many spans have been declared.
pub fn declare(ram: &FreeRam, image: Span<Pa>) -> bool {
    let _changing = CHANGING.lock();
    !ram.span().overlaps(&image) && DECLARED.declare(ram.span())
}

/// Whether all of `size` bytes at `at` are declared RAM.
#[inline]
pub fn is_declared(at: Pa, size: u64) -> bool {
    DECLARED.has(at, size)
}

/// Whether a byte of `span` is declared RAM.
pub fn overlaps(span: Span<Pa>) -> bool {
    DECLARED.overlaps(span)
}

/// Gives the heap an extent of whole blocks for good. Merus' own account has it, and EL2's map has it as data. From here on it is no
/// declared RAM, so nothing else in this module reaches it and no guest can be given it, whatever becomes of its record in the
/// frames. Refused, and given back: no whole blocks, not declared, or too many holes.
pub fn grow_heap(heap: &Heap, memory: Dirty) -> Result<(), Dirty> {
    let span = memory.span();
    let whole = span.start().is_aligned(BLOCK_SIZE) && span.size().is_multiple_of(BLOCK_SIZE);
    {
        let _changing = CHANGING.lock();
        if !whole || !DECLARED.withdraw(span) {
            return Err(memory);
        }
    }
    // SAFETY: `memory` says that the frames have lent this to its holder and to nobody else, and it ends here. It was declared, so it
    // lies outside the image and every Rust object; it is not any more, so no access of this module follows, nor a guest's
    // (`GuestSpace::map_ram`), nor a second time as heap. EL2's map is the identity; where the block is missing in it, the first
    // access faults and ends Merus.
    let grown = unsafe {
        heap.grow(core::ptr::with_exposed_provenance_mut(span.start().as_u64() as usize), span.size() as usize)
    };
    // (A block is never too small; a refusal would lose it and nothing else.)
    debug_assert!(grown);
    Ok(())
}

#[inline]
fn check(at: Pa, size: u64) {
    assert!(is_declared(at, size), "{at:?} + {size:#x} is not declared RAM");
}

/// Zeroes `span` (whole pages): by the CPU's memory set instructions where it has them (`mops`), else `zva` bytes at a time where
/// DC ZVA is allowed, else in pairs of registers.
pub fn zero(span: Span<Pa>, zva: u32, mops: bool) {
    check(span.start(), span.size());
    if mops {
        // SAFETY: declared RAM, outside every Rust object; FEAT_MOPS needs no enable at EL2 with E2H = 0. The three
        // instructions are SETP, SETM and SETE of [x0], x1 bytes, from XZR (Arm ARM, "Memory Copy and Memory Set instructions").
        unsafe {
            asm!(
                ".inst 0x19df0420", ".inst 0x19df4420", ".inst 0x19df8420",
                inout("x0") span.start().as_u64() => _, inout("x1") span.size() => _, options(nostack)
            );
        }
        return;
    }
    let (mut at, end) = (span.start().as_u64(), span.end().as_u64());
    if zva >= 16 {
        let step = u64::from(zva);
        while at < end && !at.is_multiple_of(step * 8) {
            // SAFETY: declared RAM, outside every Rust object; the span is whole pages, and so are its DC ZVA blocks.
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) };
            at += step;
        }
        while at + step * 8 <= end {
            // SAFETY: as above, eight blocks at a time.
            unsafe {
                asm!(
                    "dc zva, {a}", "add {b}, {a}, {s}", "dc zva, {b}", "add {b}, {b}, {s}", "dc zva, {b}", "add {b}, {b}, {s}",
                    "dc zva, {b}", "add {b}, {b}, {s}", "dc zva, {b}", "add {b}, {b}, {s}", "dc zva, {b}", "add {b}, {b}, {s}",
                    "dc zva, {b}", "add {b}, {b}, {s}", "dc zva, {b}",
                    a = in(reg) at, b = out(reg) _, s = in(reg) step, options(nostack, preserves_flags)
                );
            }
            at += step * 8;
        }
    }
    while at < end {
        // SAFETY: as above, 16 bytes at a time.
        unsafe { asm!("stp xzr, xzr, [{}]", in(reg) at, options(nostack, preserves_flags)) };
        at += 16;
    }
}

/// Cleans `span` to the point of coherency, `line` bytes a step.
pub fn clean(span: Span<Pa>, line: u32) {
    let step = u64::from(line.max(16));
    let (mut at, end) = (span.start().as_u64() & !(step - 1), span.end().as_u64());
    while at < end {
        // SAFETY: cleaning writes back what is already the memory's content.
        unsafe { asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += step;
    }
    barrier();
}

/// Cleans and invalidates `span`: what a guest's set/way operation is turned into.
pub fn clean_invalidate(span: Span<Pa>, line: u32) {
    let step = u64::from(line.max(16));
    let (mut at, end) = (span.start().as_u64() & !(step - 1), span.end().as_u64());
    while at < end {
        // SAFETY: as for `clean`; an invalidated line comes back from memory.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += step;
    }
    barrier();
}

fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Drops every pCPU's instruction caches: reused frames may hold new code.
pub fn invalidate_instructions() {
    // SAFETY: invalidation only.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Whether [`copy`] has the CPU's instructions for it.
static MOPS: AtomicBool = AtomicBool::new(false);

/// Every pCPU has FEAT_MOPS: what is long is copied by its instructions from now on.
pub fn copy_by_mops() {
    MOPS.store(true, Ordering::Relaxed);
}

/// Copies `size` bytes, each read once and written once: by the CPU's memory copy instructions where it has them, else 64 at a time while
/// they last, and what is left by one access of each size.
///
/// # Safety
/// All bytes at `from` may be read and all at `to` written; they do not overlap. Others may write to either meanwhile: what
/// is copied then is some mixture of before and after, and nothing is assumed of it.
#[inline]
unsafe fn copy(from: u64, to: u64, size: usize) {
    if size >= 64 && MOPS.load(Ordering::Relaxed) {
        // SAFETY: the caller's. FEAT_MOPS needs no enable at EL2; interrupts are masked, so the three instructions (CPYFP, CPYFM and
        // CPYFE of [x0]!, [x1]!, x2!; Arm ARM, "Memory Copy and Memory Set instructions") are executed by one CPU.
        unsafe {
            asm!(
                ".inst 0x19010440", ".inst 0x19410440", ".inst 0x19810440",
                inout("x0") to => _, inout("x1") from => _, inout("x2") size => _, options(nostack)
            );
        }
        return;
    }
    // SAFETY: the caller's. Alignment does not matter: it is Normal memory, and SCTLR_EL2.A is 0. What is left after the rounds of 64 is
    // in the lowest six bits of the count.
    unsafe {
        asm!(
            "subs {n}, {n}, #64",
            "b.lo 3f",
            "2:",
            "ldp {a}, {b}, [{s}], #16", "ldp {c}, {d}, [{s}], #16",
            "ldp {e}, {f}, [{s}], #16", "ldp {g}, {h}, [{s}], #16",
            "stp {a}, {b}, [{t}], #16", "stp {c}, {d}, [{t}], #16",
            "stp {e}, {f}, [{t}], #16", "stp {g}, {h}, [{t}], #16",
            "subs {n}, {n}, #64",
            "b.hs 2b",
            "3: tbz {n}, #5, 4f",
            "ldp {a}, {b}, [{s}], #16", "ldp {c}, {d}, [{s}], #16",
            "stp {a}, {b}, [{t}], #16", "stp {c}, {d}, [{t}], #16",
            "4: tbz {n}, #4, 5f",
            "ldp {a}, {b}, [{s}], #16", "stp {a}, {b}, [{t}], #16",
            "5: tst {n}, #15",
            "b.eq 9f",
            "tbz {n}, #3, 6f",
            "ldr {a}, [{s}], #8", "str {a}, [{t}], #8",
            "6: tbz {n}, #2, 7f",
            "ldr {a:w}, [{s}], #4", "str {a:w}, [{t}], #4",
            "7: tbz {n}, #1, 8f",
            "ldrh {a:w}, [{s}], #2", "strh {a:w}, [{t}], #2",
            "8: tbz {n}, #0, 9f",
            "ldrb {a:w}, [{s}]", "strb {a:w}, [{t}]",
            "9:",
            s = inout(reg) from => _, t = inout(reg) to => _, n = inout(reg) size => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
            options(nostack)
        );
    }
}

/// Copies guest memory into `to`.
pub fn read(at: Pa, to: &mut [u8]) {
    check(at, to.len() as u64);
    // SAFETY: declared RAM, outside every Rust object, `to` among them; whatever a byte is, it is a `u8`.
    unsafe { copy(at.as_u64(), to.as_mut_ptr().expose_provenance() as u64, to.len()) };
}

/// Copies `from` into guest memory.
pub fn write(at: Pa, from: &[u8]) {
    check(at, from.len() as u64);
    // SAFETY: declared RAM, outside every Rust object, `from` among them.
    unsafe { copy(from.as_ptr().expose_provenance() as u64, at.as_u64(), from.len()) };
}

/// A 64-bit entry of a table page.
#[inline]
pub fn load_entry(at: Pa) -> u64 {
    check(at, 8);
    // SAFETY: declared RAM, aligned by the caller's table; single-copy atomic.
    unsafe { (at.as_u64() as *const u64).read_volatile() }
}

/// Stores an aligned 64-bit word, an entry of a table page or what a guest reads, after every store before it.
#[inline]
pub fn store_entry(at: Pa, value: u64) {
    check(at, 8);
    // SAFETY: declared RAM, aligned; STLR makes it single-copy atomic with release order.
    unsafe { asm!("stlr {v}, [{a}]", v = in(reg) value, a = in(reg) at.as_u64(), options(nostack, preserves_flags)) };
}

/// Copies `from` (anywhere that is mapped: the bundle) to guest RAM at `to` and returns the CRC-32 (the one of zlib, bit
/// reversed, without its final inversion) of `crc` continued over it; with the CPU's CRC instructions where it has them.
pub fn copy_crc(from: &[u8], to: Pa, mut crc: u32, hardware: bool) -> u32 {
    check(to, from.len() as u64);
    if !hardware {
        write(to, from);
        return from.iter().fold(crc, |crc, byte| crc_byte(crc, *byte));
    }
    let mut at = to.as_u64();
    let (rounds, tail) = from.as_chunks::<64>();
    if !rounds.is_empty() {
        // SAFETY: reads the 64-byte chunks of `rounds` in order, writes as many bytes of declared RAM (checked for the whole
        // length above).
        unsafe {
            asm!(
                ".arch_extension crc",
                "2:",
                "ldp {a}, {b}, [{s}], #16", "ldp {c}, {d}, [{s}], #16",
                "ldp {e}, {f}, [{s}], #16", "ldp {g}, {h}, [{s}], #16",
                "crc32x {r:w}, {r:w}, {a}", "crc32x {r:w}, {r:w}, {b}",
                "crc32x {r:w}, {r:w}, {c}", "crc32x {r:w}, {r:w}, {d}",
                "crc32x {r:w}, {r:w}, {e}", "crc32x {r:w}, {r:w}, {f}",
                "crc32x {r:w}, {r:w}, {g}", "crc32x {r:w}, {r:w}, {h}",
                "stp {a}, {b}, [{t}], #16", "stp {c}, {d}, [{t}], #16",
                "stp {e}, {f}, [{t}], #16", "stp {g}, {h}, [{t}], #16",
                "subs {n}, {n}, #1",
                "b.ne 2b",
                s = inout(reg) rounds.as_ptr() => _, t = inout(reg) at, n = inout(reg) rounds.len() => _, r = inout(reg) crc,
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
                options(nostack)
            );
        }
    }
    for (n, byte) in tail.iter().enumerate() {
        // SAFETY: the rest of the same span.
        unsafe {
            ((at + n as u64) as *mut u8).write_volatile(*byte);
            asm!(".arch_extension crc", "crc32b {r:w}, {r:w}, {b:w}", r = inout(reg) crc, b = in(reg) u32::from(*byte),
                options(nomem, nostack, preserves_flags));
        }
    }
    crc
}

/// The CRC-32 of `crc` continued over `bytes`, as [`copy_crc`] has it, and nothing copied.
pub fn crc(bytes: &[u8], crc: u32, hardware: bool) -> u32 {
    if !hardware {
        return bytes.iter().fold(crc, |crc, byte| crc_byte(crc, *byte));
    }
    let (words, tail) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(crc, |mut crc, word| {
        // SAFETY: arithmetic on registers; `hardware` says that the CPU has it.
        unsafe {
            asm!(".arch_extension crc", "crc32x {r:w}, {r:w}, {w}", r = inout(reg) crc, w = in(reg) u64::from_le_bytes(*word),
                options(pure, nomem, nostack, preserves_flags));
        }
        crc
    });
    tail.iter().fold(crc, |crc, byte| crc_byte(crc, *byte))
}

/// One byte of CRC-32 without the CPU's instructions.
fn crc_byte(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 != 0 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
}
