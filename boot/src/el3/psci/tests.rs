//! The calls, one after the other and from several CPUs at once.

use super::*;
use std::cell::RefCell;
use std::vec;
use std::vec::Vec;

struct Fake(RefCell<Vec<(u64, Start)>>);

impl Fake {
    fn new() -> Self {
        let fake = Self(RefCell::new(vec![(OFF, Start { entry: 0, context: 0 }); SLOTS]));
        begin(&fake);
        fake
    }
}

impl Records for Fake {
    fn state(&self, slot: Slot) -> u64 {
        self.0.borrow()[slot.index()].0
    }
    fn set_state(&self, slot: Slot, state: u64) {
        self.0.borrow_mut()[slot.index()].0 = state;
    }
    fn start(&self, slot: Slot) -> Start {
        self.0.borrow()[slot.index()].1
    }
    fn set_start(&self, slot: Slot, start: Start) {
        self.0.borrow_mut()[slot.index()].1 = start;
    }
}

const CODE: Range<u64> = 0x4020_0000..0x4030_0000;
const ENTRY: u64 = 0x4020_1000;

fn value(fake: &Fake, caller: Slot, function: u32, args: [u64; 3]) -> u64 {
    match call(fake, caller, &CODE, function, args) {
        Answer::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

fn first(fake: &Fake, function: u32, args: [u64; 3]) -> u64 {
    value(fake, Slot::FIRST, function, args)
}

#[test]
fn a_cpu_is_started_stopped_and_started_again() {
    let fake = Fake::new();
    let third = Slot::of(0x8000_0103).unwrap();
    assert_eq!(first(&fake, AFFINITY_INFO_64, [0x103, 0, 0]), 1);
    for context in [7, u64::MAX] {
        assert_eq!(released(&fake, third), None);
        assert_eq!(first(&fake, CPU_ON_64, [0x103, ENTRY, context]), 0);
        assert_eq!(first(&fake, AFFINITY_INFO_64, [0x103, 0, 0]), 2);
        assert_eq!(first(&fake, CPU_ON_64, [0x103, ENTRY, 8]), ON_PENDING);
        assert_eq!(released(&fake, third), Some(Start { entry: ENTRY, context }));
        assert_eq!(released(&fake, third), None);
        assert_eq!(first(&fake, AFFINITY_INFO_64, [0x103, 0, 0]), 0);
        assert_eq!(first(&fake, CPU_ON_64, [0x103, ENTRY, 8]), ALREADY_ON);
        assert_eq!(call(&fake, third, &CODE, CPU_OFF, [0; 3]), Answer::Off);
    }
    assert_eq!(first(&fake, AFFINITY_INFO_64, [0x103, 0, 0]), 1);
}

#[test]
fn the_first_cpu_is_on_and_stays() {
    let fake = Fake::new();
    assert_eq!(first(&fake, CPU_ON_64, [0, ENTRY, 0]), ALREADY_ON);
    assert_eq!(first(&fake, CPU_OFF, [0; 3]), DENIED);
    assert_eq!(first(&fake, AFFINITY_INFO, [0, 0, 0]), 0);
}

#[test]
fn nobody_else_starts_cpus() {
    let fake = Fake::new();
    let second = Slot::of(1).unwrap();
    first(&fake, CPU_ON_64, [1, ENTRY, 0]);
    released(&fake, second);
    assert_eq!(value(&fake, second, CPU_ON_64, [2, ENTRY, 0]), INTERNAL_FAILURE);
    assert_eq!(released(&fake, Slot::of(2).unwrap()), None);
}

#[test]
fn arguments_that_make_no_sense_change_nothing() {
    let fake = Fake::new();
    for target in [0x10, 0x400, 0x1_0000, 1 << 32, 1 << 24, 1 << 31 | 1, 1 << 63, u64::MAX] {
        assert_eq!(first(&fake, CPU_ON_64, [target, ENTRY, 0]), INVALID_PARAMETERS, "{target:#x}");
        assert_eq!(first(&fake, AFFINITY_INFO_64, [target, 0, 0]), INVALID_PARAMETERS, "{target:#x}");
    }
    for entry in [0, ENTRY + 2, CODE.start - 4, CODE.end, u64::MAX] {
        assert_eq!(first(&fake, CPU_ON_64, [1, entry, 0]), INVALID_ADDRESS, "{entry:#x}");
    }
    assert_eq!(first(&fake, AFFINITY_INFO_64, [1, 1, 0]), INVALID_PARAMETERS);
    assert!((1..SLOTS).all(|slot| fake.0.borrow()[slot].0 == OFF));
}

#[test]
fn a_32_bit_call_has_32_bit_arguments() {
    let fake = Fake::new();
    assert_eq!(first(&fake, CPU_ON, [1 << 40 | 1, 1 << 32 | ENTRY, u64::MAX]), 0);
    assert_eq!(released(&fake, Slot::of(1).unwrap()), Some(Start { entry: ENTRY, context: 0xffff_ffff }));
}

#[test]
fn what_is_there_says_so() {
    let fake = Fake::new();
    assert_eq!(first(&fake, VERSION, [0; 3]), 0x1_0001);
    for function in [VERSION, CPU_OFF, CPU_ON, CPU_ON_64, AFFINITY_INFO_64, SYSTEM_OFF, SYSTEM_RESET, FEATURES] {
        assert_eq!(first(&fake, FEATURES, [function.into(), 0, 0]), 0, "{function:#x}");
        assert_ne!(call(&Fake::new(), Slot::of(1).unwrap(), &CODE, function, [0; 3]), Answer::Other);
    }
    // CPU_SUSPEND, SMCCC_VERSION and a vendor's.
    for function in [0x8400_0001, 0xc400_0001, 0x8000_0000, 0x8700_0000] {
        assert_eq!(first(&fake, FEATURES, [function, 0, 0]), NOT_SUPPORTED);
        assert_eq!(call(&fake, Slot::FIRST, &CODE, function as u32, [0; 3]), Answer::Other);
    }
    assert_eq!(call(&fake, Slot::FIRST, &CODE, SYSTEM_OFF, [0; 3]), Answer::PowerOff);
    assert_eq!(call(&fake, Slot::FIRST, &CODE, SYSTEM_RESET, [0; 3]), Answer::Reset);
}

#[test]
fn every_place_is_one_cpus() {
    let mut seen = [false; SLOTS];
    for mpidr in (0..0x1_0000_u64).chain([1 << 32, 1 << 16]) {
        if let Some(slot) = Slot::of(mpidr) {
            assert!(!std::mem::replace(&mut seen[slot.index()], true), "{mpidr:#x}");
        }
    }
    assert!(seen.iter().all(|seen| *seen));
}

/// What a CPU sees that looks at its record between any two stores of the first one.
#[test]
fn a_cpu_that_is_asked_for_never_sees_half_of_it() {
    struct Between<'a>(&'a Fake, RefCell<Vec<Option<Start>>>);
    impl Between<'_> {
        fn look(&self) {
            let slot = Slot::of(1).unwrap();
            let ready = self.0.state(slot) == ASKED;
            self.1.borrow_mut().push(ready.then(|| self.0.start(slot)));
        }
    }
    impl Records for Between<'_> {
        fn state(&self, slot: Slot) -> u64 {
            self.0.state(slot)
        }
        fn set_state(&self, slot: Slot, state: u64) {
            self.0.set_state(slot, state);
            self.look();
        }
        fn start(&self, slot: Slot) -> Start {
            self.0.start(slot)
        }
        fn set_start(&self, slot: Slot, start: Start) {
            self.0.set_start(slot, start);
            self.look();
        }
    }
    let fake = Fake::new();
    let between = Between(&fake, RefCell::default());
    assert_eq!(call(&between, Slot::FIRST, &CODE, CPU_ON_64, [1, ENTRY, 5]), Answer::Value(0));
    assert_eq!(*between.1.borrow(), [None, Some(Start { entry: ENTRY, context: 5 })]);
}
