//! The allocator's shell: talc over a fixed reserve in the image, behind a lock.
//!
//! A fixed reserve, because a heap that grows inside an allocation would take frames in the middle of anything. It is part of
//! the image, so all Rust objects of Merus lie in the image. Nothing on the exit path allocates.

use crate::Yield;
use core::alloc::{GlobalAlloc, Layout};
use spin::mutex::SpinMutex;
use talc::{TalcLock, source::Claim};

/// Bytes of the reserve.
pub const RESERVE: usize = 1 << 20;

#[repr(C, align(4096))]
struct Reserve([u8; RESERVE]);

/// Not zeroed by the entry code: whoever allocates does that where it is wanted.
#[unsafe(link_section = ".noinit")]
static mut MEMORY: Reserve = Reserve([0; RESERVE]);

/// The heap.
pub struct Heap(TalcLock<SpinMutex<(), Yield>, Claim>);

impl Heap {
    /// The one heap: to be named `#[global_allocator]` by the kernel binary.
    pub const fn new() -> Self {
        // SAFETY: MEMORY is named here alone, and there is one `Heap` (a second would be a second global allocator, which
        // does not link).
        Self(TalcLock::new(unsafe { Claim::array(&raw mut MEMORY.0) }))
    }
}

impl Heap {
    /// Bytes that are allocated now.
    pub fn used(&self) -> usize {
        self.0.lock().counters().allocated_bytes
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: forwards to talc, which keeps GlobalAlloc's contract; out of line, so that its lock is not inlined at each call.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.alloc(layout) }
    }
    #[inline(never)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(ptr, layout) }
    }
    #[inline(never)]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.0.realloc(ptr, layout, new_size) }
    }
}
