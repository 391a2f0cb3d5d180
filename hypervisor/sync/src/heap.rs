//! The allocator's shell: talc behind a lock, over a reserve in the image and what it is given later.
//!
//! It starts with a fixed reserve that is part of the image. It never grows by itself: a heap that grows inside an allocation
//! would take frames in the middle of anything. Whoever is about to need much asks for [`Heap::available`] and has it given
//! whole blocks of RAM first ([`Heap::grow`], behind `el2::ram::grow_heap`), in a step of its own. What it has been given it
//! keeps. Nothing on the exit path allocates.

use crate::Yield;
use core::alloc::{GlobalAlloc, Layout};
use spin::mutex::SpinMutex;
use talc::{TalcLock, source::Claim};

/// Bytes of the reserve.
pub const RESERVE: usize = 640 << 10;

#[cfg(target_os = "none")]
#[repr(C, align(4096))]
struct Reserve([u8; RESERVE]);

/// Not zeroed by the entry code: whoever allocates does that where it is wanted.
#[cfg(target_os = "none")]
#[unsafe(link_section = ".noinit")]
static mut MEMORY: Reserve = Reserve([0; RESERVE]);

/// The heap.
pub struct Heap(TalcLock<SpinMutex<(), Yield>, Claim>);

#[cfg(target_os = "none")]
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
    /// Bytes that are free now, all gaps together: one allocation of that size need not succeed. (0 before the first
    /// allocation, which is when the reserve is taken.)
    pub fn available(&self) -> usize {
        self.0.lock().counters().available_bytes
    }
    /// Bytes that it has altogether, its own records included.
    pub fn claimed(&self) -> usize {
        self.0.lock().counters().claimed_bytes
    }
    /// Gives the heap `size` bytes at `base` for good. `false`: they are too few to be of use (less than 100), and nothing has
    /// happened.
    ///
    /// # Safety
    /// The bytes are mapped for reading and writing, they are nobody else's, and they stay so as long as the heap is used.
    pub unsafe fn grow(&self, base: *mut u8, size: usize) -> bool {
        // SAFETY: the caller's promise is what talc asks for; `Claim` forbids no claims beside its own.
        unsafe { self.0.lock().claim(base, size) }.is_some()
    }
}

#[cfg(target_os = "none")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    /// A heap of 64 KiB, and some more memory of `more` bytes.
    fn heap(more: usize) -> (Heap, &'static mut [u8]) {
        let reserve = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
        // SAFETY: leaked, and named here alone.
        let claim = unsafe { Claim::new(reserve.as_mut_ptr(), reserve.len()) };
        (Heap(TalcLock::new(claim)), Box::leak(vec![0u8; more].into_boxed_slice()))
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    /// Takes pieces of `size` until there are no more.
    fn drain(heap: &Heap, size: usize) -> Vec<*mut u8> {
        // SAFETY: `size` is not 0 here.
        core::iter::from_fn(|| Some(unsafe { heap.alloc(layout(size)) }).filter(|at| !at.is_null())).collect()
    }

    #[test]
    fn it_grows_by_what_it_is_given_and_by_nothing_else() {
        let (heap, more) = heap(1 << 20);
        assert_eq!((heap.available(), heap.claimed()), (0, 0));
        let first = drain(&heap, 1000);
        assert!((50..=65).contains(&first.len()), "{}", first.len());
        let left = heap.available();
        assert!(left < 1024, "{left}");
        let span = more.as_mut_ptr_range();
        // SAFETY: leaked, and handed over here.
        assert!(unsafe { heap.grow(more.as_mut_ptr(), more.len()) });
        let free = heap.available();
        assert!((left + (1 << 20) - 64..=left + (1 << 20)).contains(&free), "{free}");
        // All of it can be had, in one piece or in many, and it is what was given.
        // SAFETY: a size that is not 0.
        let whole = unsafe { heap.alloc(layout((1 << 20) - 64)) };
        assert!(span.contains(&whole));
        // SAFETY: taken above.
        unsafe { heap.dealloc(whole, layout((1 << 20) - 64)) };
        assert_eq!(heap.available(), free);
        let second = drain(&heap, 1000);
        assert!(second.len() > 1000);
        assert!(second.iter().all(|at| span.contains(at)));
        assert_eq!(heap.used(), 1000 * (first.len() + second.len()));
        for at in first.into_iter().chain(second) {
            // SAFETY: taken above, once.
            unsafe { heap.dealloc(at, layout(1000)) };
        }
        assert_eq!(heap.used(), 0);
    }

    #[test]
    fn too_little_is_refused() {
        let (heap, more) = heap(16);
        drop(drain(&heap, 1000));
        let free = heap.available();
        // SAFETY: leaked, and handed over here.
        assert!(!unsafe { heap.grow(more.as_mut_ptr(), more.len()) });
        assert_eq!(heap.available(), free);
    }

    #[test]
    fn it_can_be_given_memory_while_others_allocate() {
        let (heap, more) = heap(1 << 20);
        let heap: &'static Heap = Box::leak(Box::new(heap));
        // SAFETY: sizes that are not 0; given back at once. (The reserve is taken here.)
        unsafe { heap.dealloc(heap.alloc(layout(8)), layout(8)) };
        let rounds = if cfg!(miri) { 50 } else { 5000 };
        let threads: Vec<_> = (1..=3usize)
            .map(|n| {
                std::thread::spawn(move || {
                    for round in 0..rounds {
                        let size = (round % 100 + 1) * n;
                        // SAFETY: a size that is not 0; the block is used for its size and given back once.
                        unsafe {
                            let at = heap.alloc(layout(size));
                            assert!(!at.is_null());
                            at.write_bytes(n as u8, size);
                            assert!((0..size).all(|i| at.add(i).read() == n as u8));
                            heap.dealloc(at, layout(size));
                        }
                    }
                })
            })
            .collect();
        let pieces: Vec<(usize, usize)> =
            more.chunks_mut(64 << 10).map(|p| (p.as_mut_ptr().expose_provenance(), p.len())).collect();
        for (at, size) in pieces {
            // SAFETY: leaked, and each piece is handed over once.
            assert!(unsafe { heap.grow(core::ptr::with_exposed_provenance_mut(at), size) });
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(heap.used(), 0);
        assert!(heap.available() > (1 << 20));
    }
}
