//! What a VM leaves in its memory, and whether another one finds it there.

use core::hint::black_box;
use guest_rt::mmio::RAM;
use guest_rt::{check_eq, entry, fdt, mmio, println, psci};

/// The word, in no instruction and no constant of the payload.
fn secret() -> u64 {
    black_box(0x5ec2_e75e_c2e7_0001_u64).rotate_left(black_box(13)) ^ 0x0123_4567_89ab_cdef
}

/// Calls `word` with the address of each word of RAM that is not the payload's own image.
fn all_words(mut word: impl FnMut(u64)) {
    let (begin, end) = entry::image();
    for at in (RAM..RAM + fdt::memory_size()).step_by(8) {
        if !(begin..end).contains(&at) {
            word(at);
        }
    }
}

/// Fills all RAM with the word and powers off.
pub fn leaves() {
    let secret = secret();
    let mut words = 0_u64;
    all_words(|at| {
        mmio::write64(at, secret);
        words += 1;
    });
    println!("leaves: {words} words written");
    psci::system_off();
}

/// Searches all RAM for the word.
pub fn looks() {
    let secret = secret();
    let (mut words, mut found, mut others, mut first) = (0_u64, 0_u64, 0_u64, 0_u64);
    all_words(|at| {
        let word = mmio::read64(at);
        words += 1;
        if word == secret {
            found += 1;
            first = at;
        }
        others += u64::from(word != 0);
    });
    println!("looks: {words} words read, {others} of them are not 0");
    check_eq!(found, 0, "words of another VM, the last at {first:#x}");
}
