//! The EL1 test payload: `test=<name>` runs one of the tests below, `test=all` those that need no shape of their own.
#![no_std]
#![no_main]

mod aborts;
mod hello;
mod loads;
mod registers;

use guest_rt::guest_test;
use guest_rt::test::{self, Test};

static TESTS: &[Test] = &[
    guest_test!("hello", hello::hello),
    guest_test!("registers", registers::registers),
    guest_test!("aborts", aborts::aborts),
    guest_test!("loads", loads::loads),
    guest_test!("reset", hello::reset, alone),
];

fn main() {
    test::main(TESTS);
}

guest_rt::guest_main!(main);
