//! The calls, one after the other and from several CPUs at once.

use super::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::vec;
use std::vec::Vec;

struct Fake(RefCell<Vec<(u64, Start, bool)>>);

impl Fake {
    fn new() -> Self {
        let fake = Self(RefCell::new(vec![(OFF, Start { entry: 0, context: 0 }, false); SLOTS]));
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
    fn wants(&self, slot: Slot) -> bool {
        self.0.borrow()[slot.index()].2
    }
    fn set_wants(&self, slot: Slot, wants: bool) {
        self.0.borrow_mut()[slot.index()].2 = wants;
    }
    fn wait(&self) {}
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

/// CPUs of which one makes an access at a time: which one, a random number says before each.
struct Turns {
    fake: Mutex<(Fake, Vec<usize>, u64)>,
    next: Condvar,
}

/// One of them.
struct OneOf<'a>(&'a Turns, usize);

impl OneOf<'_> {
    fn access<R>(&self, act: impl FnOnce(&Fake) -> R) -> R {
        let mut turns = self.0.fake.lock().unwrap();
        while turns.1[turns.2 as usize % turns.1.len()] != self.1 {
            turns = self.0.next.wait(turns).unwrap();
        }
        let result = act(&turns.0);
        self.pass(&mut turns.2);
        result
    }
    fn pass(&self, random: &mut u64) {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *random ^= *random >> 29;
        self.0.next.notify_all();
    }
}

/// It is done: the others alone have turns.
impl Drop for OneOf<'_> {
    fn drop(&mut self) {
        let mut turns = self.0.fake.lock().unwrap();
        turns.1.retain(|other| *other != self.1);
        self.pass(&mut turns.2);
    }
}

impl Records for OneOf<'_> {
    fn state(&self, slot: Slot) -> u64 {
        self.access(|fake| fake.state(slot))
    }
    fn set_state(&self, slot: Slot, state: u64) {
        self.access(|fake| fake.set_state(slot, state));
    }
    fn start(&self, slot: Slot) -> Start {
        self.access(|fake| fake.start(slot))
    }
    fn set_start(&self, slot: Slot, start: Start) {
        self.access(|fake| fake.set_start(slot, start));
    }
    fn wants(&self, slot: Slot) -> bool {
        self.access(|fake| fake.wants(slot))
    }
    fn set_wants(&self, slot: Slot, wants: bool) {
        self.access(|fake| fake.set_wants(slot, wants));
    }
    fn wait(&self) {}
}

#[test]
fn one_at_a_time_is_alone() {
    let callers = [0, 1, 2, 0x103, 0x30f].map(|mpidr| Slot::of(mpidr).unwrap());
    for seed in 0..8 {
        let all = callers.iter().map(|caller| caller.index()).collect();
        let turns = Turns { fake: Mutex::new((Fake::new(), all, seed)), next: Condvar::new() };
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for caller in callers {
                let (one, inside) = (OneOf(&turns, caller.index()), &inside);
                scope.spawn(move || {
                    for _ in 0..4 {
                        // As long as what the others do to come in.
                        let met = alone(&one, caller, || {
                            let met = inside.fetch_add(1, SeqCst);
                            (0..SLOTS).for_each(|_| _ = one.state(caller));
                            inside.fetch_sub(1, SeqCst) + met
                        });
                        assert_eq!(met, 1, "seed {seed}");
                    }
                });
            }
        });
        let (fake, ..) = turns.fake.into_inner().unwrap();
        assert!(fake.0.borrow().iter().all(|record| !record.2), "seed {seed}");
    }
}

#[test]
fn any_cpu_starts_another() {
    let fake = Fake::new();
    let (second, third) = (Slot::of(1).unwrap(), Slot::of(2).unwrap());
    first(&fake, CPU_ON_64, [1, ENTRY, 0]);
    released(&fake, second);
    assert_eq!(value(&fake, second, CPU_ON_64, [2, ENTRY, 7]), 0);
    assert_eq!(first(&fake, CPU_ON_64, [2, ENTRY, 8]), ON_PENDING);
    assert_eq!(released(&fake, third), Some(Start { entry: ENTRY, context: 7 }));
    assert_eq!(value(&fake, third, CPU_ON_64, [2, ENTRY, 8]), ALREADY_ON);
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
            assert!(self.0.wants(Slot::FIRST), "it is not alone");
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
        fn wants(&self, slot: Slot) -> bool {
            self.0.wants(slot)
        }
        fn set_wants(&self, slot: Slot, wants: bool) {
            self.0.set_wants(slot, wants);
        }
        fn wait(&self) {}
    }
    let fake = Fake::new();
    let between = Between(&fake, RefCell::default());
    assert_eq!(call(&between, Slot::FIRST, &CODE, CPU_ON_64, [1, ENTRY, 5]), Answer::Value(0));
    assert_eq!(*between.1.borrow(), [None, Some(Start { entry: ENTRY, context: 5 })]);
}
