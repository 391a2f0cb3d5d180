//! The EL1 test payload: `test=<name>` runs one of the tests below, `test=all` those that need no shape of their own.
#![no_std]
#![no_main]

mod hello;

use guest_rt::guest_test;
use guest_rt::test::{self, Test};

static TESTS: &[Test] = &[guest_test!("hello", hello::hello), guest_test!("reset", hello::reset, alone)];

fn main() {
    test::main(TESTS);
}

guest_rt::guest_main!(main);
