//! A frame cannot make its reader take more memory than it has bytes: no length in it is believed before the bytes are there.

use proptest::prelude::*;
use proto::{Call, Envelope, VERSION};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Watch;

// SAFETY: every call goes to the system's allocator as it is; the cell beside it allocates nothing.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|l| l.set(l.get().max(layout.size())));
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; `at` came from `System.alloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

fn largest(message: &[u8]) -> usize {
    let frame = Envelope { version: VERSION, id: 0, message: message.to_vec() };
    LARGEST.with(|l| l.set(0));
    let call = frame.decode::<Call>();
    let largest = LARGEST.with(Cell::get);
    drop(call);
    largest
}

#[test]
fn every_call_with_lengths_of_four_gibibytes() {
    for variant in 0..40_u8 {
        for zeros in 0..48 {
            let mut message = vec![variant];
            message.resize(1 + zeros, 0);
            message.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
            assert!(
                largest(&message) <= message.len(),
                "variant {variant}, {zeros} zeros: {} bytes",
                largest(&message)
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(largest(&message) <= message.len());
    }
}
