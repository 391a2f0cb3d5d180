//! What other rooms take from the heap, and what they leave on it. Here, because a test of it needs an allocator of its own.
//! (Not under Miri, where looking at each byte that is freed takes for ever.)
#![cfg(not(miri))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// A byte string that nothing else of this process holds.
const SECRET: [u8; 16] = *b"\x9e\x37\x79\xb9\x7f\x4a\x7c\x15\xf3\x9c\xc0\x60\x5c\xed\xc8\x35";

thread_local! {
    /// Allocations of this thread.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// Blocks that this thread gave back with (a good part of) the secret in them.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// The system's heap, watched by thread. `realloc` is the trait's own, so what grows is given back like all else.
struct Watched;

// SAFETY: forwards to the system's allocator. All blocks are zeroed when they are taken, so all their bytes may be read.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
        // SAFETY: the caller's layout.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: a block of this allocator, which the caller gives up: nobody writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(at, layout.size()) };
        if bytes.windows(8).any(|part| SECRET.windows(8).any(|secret| part == secret)) {
            let _ = LEFT.try_with(|left| left.set(left.get() + 1));
        }
        // SAFETY: the caller's block.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Watched = Watched;

/// What `what` has taken, and how many blocks it has given back with the secret.
fn watch<R>(what: impl FnOnce() -> R) -> (R, usize, usize) {
    let (taken, left) = (TAKEN.get(), LEFT.get());
    let result = what();
    (result, TAKEN.get() - taken, LEFT.get() - left)
}

fn secret(bytes: &mut [u8]) -> bool {
    for (byte, secret) in bytes.iter_mut().zip(SECRET.iter().cycle()) {
        *byte = *secret;
    }
    true
}

#[test]
fn the_watch_sees_what_is_left_and_taken() {
    let ((), taken, left) = watch(|| drop(SECRET.to_vec()));
    assert_eq!((taken, left), (1, 1));
    let grow = |bytes: &mut Vec<u8>| bytes.extend([0; 64]);
    assert_eq!(watch(|| grow(&mut SECRET.to_vec())).2, 2, "a vector that grows leaves its former block as it is");
}

#[test]
fn no_copy_of_a_seed_is_left() {
    use config::seed::Seed;
    let ((), taken, left) = watch(|| {
        let mut seed = Seed::new(&SECRET);
        (0..20).for_each(|_| seed.append(&SECRET));
        assert_eq!(seed.as_bytes().len(), 21 * SECRET.len());
    });
    assert!(taken > 2);
    assert_eq!(left, 0);
}

#[test]
fn no_copy_of_the_boards_seed_is_left() {
    let mut tree = include_bytes!("../../config/src/board/data/virt-gicv3.dtb").to_vec();
    let at = config::board::parse(&tree).unwrap().rng_seed_at.unwrap();
    secret(&mut tree[at]);
    let (seed, _, left) = watch(|| config::board::parse(&tree).unwrap().rng_seed.unwrap());
    assert_eq!(&seed.as_bytes()[..SECRET.len()], SECRET);
    assert_eq!((left, watch(|| drop(seed)).2), (0, 0));
}

#[test]
fn no_copy_of_a_guests_seeds_is_left() {
    let spec = config::VmSpec {
        name: "web".into(),
        kernel: payload(),
        raw: config::image::Raw::default(),
        initrd: None,
        cmdline: String::new(),
        memory: 256 << 20,
        vcpus: 4,
        cpu: config::spec::CpuSpec::default(),
        group: None,
        memory_max: None,
        power_key: config::spec::PowerKey::default(),
        gic: None,
        passthrough: config::spec::PassthroughSpec::default(),
        rng: true,
        disks: Vec::new(),
        nets: Vec::new(),
    };
    let mut image = vec![0; 8192];
    image[56..60].copy_from_slice(b"ARM\x64");
    image[16..24].copy_from_slice(&(32u64 << 20).to_le_bytes());
    image[24..32].copy_from_slice(&8u64.to_le_bytes());
    let layout = spec.layout(&image).unwrap();
    let (tree, _, left) = watch(|| {
        config::guest_tree::generate(
            &spec,
            &layout,
            config::spec::GuestGic::V3,
            &config::passthrough::Passthrough::default(),
            &mut secret,
        )
        .unwrap()
    });
    assert!(tree.as_bytes().windows(64).any(|part| part[..16] == SECRET && part[48..] == SECRET));
    assert_eq!((left, watch(|| drop(tree)).2), (0, 0));
    // Nor where one seed was drawn and the other was not to be had.
    let mut first = true;
    let mut once = |bytes: &mut [u8]| std::mem::take(&mut first) && secret(bytes);
    let (_tree, _, left) = watch(|| {
        config::guest_tree::generate(
            &spec,
            &layout,
            config::spec::GuestGic::V3,
            &config::passthrough::Passthrough::default(),
            &mut once,
        )
        .unwrap()
    });
    assert_eq!(left, 0);
}

fn payload() -> config::spec::PayloadRef {
    config::spec::PayloadRef {
        image: "0".into(),
        name: "kernel".into(),
        kind: config::spec::PayloadKind::Kernel,
        offset: 0,
        size: 8192,
        crc32: 0,
        sha256: None,
    }
}

#[test]
fn keys_at_the_console_allocate_nothing() {
    struct Nowhere;
    impl console::Uart for Nowhere {
        fn try_put(&mut self, _: u8) -> bool {
            true
        }
    }
    let mut mux = console::Mux::new();
    for name in ["a", "b", "a-name-of-thirty-two-characters-"] {
        mux.add_source(name);
    }
    let ((), taken, _) = watch(|| {
        for key in *b"np123456789np0?nx" {
            let _ = mux.input(console::ESCAPE);
            let _ = mux.input(key);
            let _ = mux.drain(0, &mut Nowhere);
        }
    });
    assert_eq!(taken, 0);
}
