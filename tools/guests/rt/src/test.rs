//! The registry of tests, and how a test says what it found.
//!
//! A check that fails prints `test <name>: FAILED: ...` with its values and lets the test go on; `test <name>: ok` comes
//! only where none did. A test that waits in vain panics, which prints such a line too and powers off.

use crate::{cpu, fdt, gicv2, println, psci, vectors};
use core::fmt::{Arguments, Debug};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// A named test.
pub struct Test {
    /// What `test=` names.
    pub name: &'static str,
    /// What it does, on the first CPU.
    pub run: fn(),
    /// Whether `test=all` leaves it out: it needs a shape of its own, or does not end.
    pub alone: bool,
    /// Whether it is about a GICv3, and skipped where there is a GICv2.
    pub gicv3: bool,
}

/// An entry of the table of tests: `guest_test!("name", function)`, or with `alone` or `gicv3` as a third word.
#[macro_export]
macro_rules! guest_test {
    ($name:literal, $run:path) => {
        $crate::test::Test { name: $name, run: $run, alone: false, gicv3: false }
    };
    ($name:literal, $run:path, gicv3) => {
        $crate::test::Test { name: $name, run: $run, alone: false, gicv3: true }
    };
    ($name:literal, $run:path, alone) => {
        $crate::test::Test { name: $name, run: $run, alone: true, gicv3: false }
    };
}

/// How many failures of one test are printed.
const MOST_PRINTED: u32 = 20;

static FAILURES: AtomicU32 = AtomicU32::new(0);
static NAME: AtomicUsize = AtomicUsize::new(0);
static NAME_LEN: AtomicUsize = AtomicUsize::new(0);

/// The name of the test that runs.
pub fn current() -> &'static str {
    let (at, len) = (NAME.load(Ordering::Relaxed), NAME_LEN.load(Ordering::Relaxed));
    if at == 0 {
        return "(none)";
    }
    // SAFETY: `run_one` stored a static text's parts.
    unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(at as *const u8, len)) }
}

/// The most tests that a payload has.
const MOST_TESTS: usize = 64;

/// Runs what the boot arguments name: `test=` one test, or `all` that may run one after the other, `seed=` in another order
/// (0, the default: that of the table). After all of them one line says so: `tests done: <how many>`.
pub fn main(tests: &[Test]) {
    let wanted = fdt::argument("test").unwrap_or("all");
    let seed = fdt::argument("seed").and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let mut ran = 0;
    for n in order(tests.len(), seed) {
        let Some(test) = tests.get(n) else { continue };
        if test.name == wanted || wanted == "all" && !test.alone {
            ran += 1;
            if test.gicv3 && gicv2::is_here() {
                println!("test {}: skipped: it needs a GICv3", test.name);
            } else {
                run_one(test);
            }
        }
    }
    if ran == 0 {
        println!("test {wanted}: FAILED: there is no such test");
    } else if wanted == "all" {
        println!("tests done: {ran}");
    }
}

/// The numbers below `count` in an order that `seed` chooses.
fn order(count: usize, seed: u64) -> impl Iterator<Item = usize> {
    assert!(count <= MOST_TESTS, "{count} tests are more than {MOST_TESTS}");
    let mut order: [usize; MOST_TESTS] = core::array::from_fn(|n| n);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if state != 0 {
        for n in (1..count).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            order.swap(n, (state >> 32) as usize % (n + 1));
        }
    }
    order.into_iter().take(count)
}

fn run_one(test: &Test) {
    NAME.store(test.name.as_ptr() as usize, Ordering::Relaxed);
    NAME_LEN.store(test.name.len(), Ordering::Relaxed);
    FAILURES.store(0, Ordering::Relaxed);
    // Several VMs that are to meet run their tests more than once.
    let times = fdt::argument("times").and_then(|times| times.parse().ok()).unwrap_or(1);
    for _ in 0..times {
        (test.run)();
        cpu::mask_irq();
        vectors::set_irq(None);
        vectors::set_hook(None);
    }
    match FAILURES.load(Ordering::Relaxed) {
        0 => println!("test {}: ok", test.name),
        count => println!("test {}: FAILED: {count} checks", test.name),
    }
}

/// Says how far a test has come, where the boot arguments have `verbose=1`.
pub fn step(what: &str) {
    if fdt::argument("verbose") == Some("1") {
        println!("test {}: {what}", current());
    }
}

/// Reports a failure of the test that runs.
pub fn fail(what: Arguments<'_>) {
    if FAILURES.fetch_add(1, Ordering::Relaxed) < MOST_PRINTED {
        println!("test {}: FAILED: CPU {}: {what}", current(), cpu::index());
    }
}

/// Reports a failure unless `got` is `want`; whether it was.
pub fn check_eq<T: PartialEq + Debug>(what: Arguments<'_>, got: T, want: T) -> bool {
    let same = got == want;
    if !same {
        fail(format_args!("{what}: got {got:#x?}, want {want:#x?}"));
    }
    same
}

/// Fails the test, going on, unless the condition holds: `check!(condition, "what {}", value)`.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($arg:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            $crate::test::fail(core::format_args!($($arg)+));
        }
    };
}

/// Fails the test, going on, unless two numbers are the same: `check_eq!(got, want, "what {}", value)`.
#[macro_export]
macro_rules! check_eq {
    ($got:expr, $want:expr, $($arg:tt)+) => {
        $crate::test::check_eq(core::format_args!($($arg)+), $got, $want)
    };
}

/// Fails the test unless a fault of that class came; prints what came instead.
pub fn check_class(what: Arguments<'_>, fault: Option<vectors::Fault>, class: u8) {
    match fault {
        Some(fault) if fault.class() == class => {}
        Some(fault) => fail(format_args!("{what}: want class {class:#x}, got {fault:?}")),
        None => fail(format_args!("{what}: want class {class:#x}, got no exception")),
    }
}

/// Fails the test if a fault came.
pub fn check_no_fault(what: Arguments<'_>, fault: Option<vectors::Fault>) {
    if let Some(fault) = fault {
        fail(format_args!("{what}: {fault:?}"));
    }
}

/// Fails the test unless an abort of that class came, external, at that address.
pub fn check_external(what: Arguments<'_>, fault: Option<vectors::Fault>, class: u8, far: u64) {
    match fault {
        Some(fault) if fault.class() == class && fault.status() == vectors::EXTERNAL && fault.far == far => {}
        Some(fault) => {
            fail(format_args!("{what}: want an external abort of class {class:#x} at {far:#x}, got {fault:?}"))
        }
        None => fail(format_args!("{what}: want an external abort at {far:#x}, got no exception")),
    }
}

/// Ends a run whose other CPUs cannot be trusted any more.
pub fn abandon(what: Arguments<'_>) -> ! {
    fail(what);
    psci::system_off()
}
