//! PSCI: one call at a time, and random sequences against a model.
use addr::Ipa;
use proptest::prelude::*;
use std::vec::Vec;

use super::in_ram;
use crate::{
    Call, ids,
    psci::{MAX_VCPUS, NewError, Outcome, Power, Psci, StartState},
};

const ENTRY: u64 = 0x4008_0000;
/// As on `virt`: 16 vCPUs to an Aff1 group; RES1 and U bits as MPIDR_EL1 has them.
const MPIDRS: [u64; 4] = [0x8000_0000, 0x8000_0001, 0x8000_0100, 0x80_8000_0000];

fn four() -> Psci {
    Psci::new(&MPIDRS).unwrap()
}

fn psci_call(psci: &mut Psci, caller: usize, function: u32, a: u64, b: u64, c: u64) -> Outcome {
    psci.handle(caller, &Call::new(function.into(), [a, b, c, 0, 0, 0]), in_ram)
}

fn status(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Return([x0, 0, 0, 0]) | Outcome::Start { result: [x0, 0, 0, 0], .. } => x0.cast_signed(),
        other => panic!("{other:?} has no status"),
    }
}

fn on(psci: &mut Psci, target: u64) -> i64 {
    status(psci_call(psci, 0, ids::CPU_ON_64, target, ENTRY, 7))
}

fn info(psci: &mut Psci, target: u64, level: u64) -> i64 {
    status(psci_call(psci, 0, ids::AFFINITY_INFO_64, target, level, 0))
}

#[test]
fn cpu_on_starts_once() {
    let mut psci = four();
    let state = StartState { entry: Ipa::new(ENTRY), context: 7 };
    let started = psci_call(&mut psci, 0, ids::CPU_ON_64, 1, ENTRY, 7);
    assert_eq!(started, Outcome::Start { vcpu: 1, state, result: [0; 4] });
    assert_eq!(on(&mut psci, 1), ids::ON_PENDING);
    psci.started(1);
    assert_eq!(on(&mut psci, 1), ids::ALREADY_ON);
    assert_eq!(on(&mut psci, 0), ids::ALREADY_ON);
    assert_eq!(psci_call(&mut psci, 1, ids::CPU_OFF, 0, 0, 0), Outcome::CpuOff { last: false });
    assert_eq!(on(&mut psci, 1), ids::SUCCESS);
    // A vCPU that calls has started, whether anyone noted it or not.
    psci_call(&mut psci, 1, ids::AFFINITY_INFO, 0, 0, 0);
    assert_eq!(psci.power(1), Some(Power::On));
}

#[test]
fn cpu_on_checks_its_arguments() {
    let mut psci = four();
    // No such vCPU, or bits that are no affinity (among them the RES1 bit of MPIDR_EL1).
    for target in [2, 0x101, 0x8000_0001, 0x100_0000_0001, u64::MAX, 0x0100_0001] {
        assert_eq!(on(&mut psci, target), ids::INVALID_PARAMETERS, "{target:#x}");
    }
    for entry in [0, 0x3fff_fffc, 0x5000_0000, ENTRY + 2, ENTRY + 1, u64::MAX - 3] {
        let refused = psci_call(&mut psci, 0, ids::CPU_ON_64, 1, entry, 0);
        assert_eq!(status(refused), ids::INVALID_ADDRESS, "{entry:#x}");
    }
    assert_eq!(psci.power(1), Some(Power::Off));
    // Aff3 is there for the 64-bit call only.
    assert_eq!(on(&mut psci, 0x80_0000_0000), ids::SUCCESS);
    psci.reset(1);
    let cut = psci_call(&mut psci, 1, ids::CPU_ON, 0x80_0000_0000, ENTRY | 0xffff_0000_0000, u64::MAX);
    let state = StartState { entry: Ipa::new(ENTRY), context: 0xffff_ffff };
    assert_eq!(cut, Outcome::Start { vcpu: 0, state, result: [0; 4] });
}

#[test]
fn the_last_to_go_off_is_told_apart() {
    let mut psci = four();
    assert_eq!(on(&mut psci, 1), 0);
    // One that is on its way counts as on.
    assert_eq!(psci_call(&mut psci, 0, ids::CPU_OFF, 0, 0, 0), Outcome::CpuOff { last: false });
    assert_eq!(psci_call(&mut psci, 1, ids::CPU_OFF, 0, 0, 0), Outcome::CpuOff { last: true });
    psci.reset(2);
    let powers: Vec<_> = (0..5).map(|i| psci.power(i)).collect();
    let off = Some(Power::Off);
    assert_eq!(powers, [off, off, Some(Power::On), off, None]);
}

#[test]
fn affinity_info_speaks_of_vcpus_and_groups() {
    let mut psci = four();
    assert_eq!([0, 1, 0x100, 0x80_0000_0000].map(|t| info(&mut psci, t, 0)), [0, 1, 1, 1]);
    assert_eq!(info(&mut psci, 2, 0), ids::INVALID_PARAMETERS);
    assert_eq!(on(&mut psci, 1), 0);
    assert_eq!(info(&mut psci, 1, 0), 2);
    // Groups: 0.0.0.x has one on, 0.0.1.x none, 0.0.2.x does not exist; lower fields are ignored.
    assert_eq!([0x0u64, 0xff, 0x100, 0x1ff].map(|t| info(&mut psci, t, 1)), [0, 0, 1, 1]);
    assert_eq!(info(&mut psci, 0x200, 1), ids::INVALID_PARAMETERS);
    assert_eq!([0x0u64, 0x80_0000_0000].map(|t| info(&mut psci, t, 3)), [0, 1]);
    assert_eq!(on(&mut psci, 0x100), 0);
    assert_eq!(info(&mut psci, 0x100, 1), 2);
    assert_eq!([4, u64::MAX].map(|l| info(&mut psci, 0, l)), [ids::INVALID_PARAMETERS; 2]);
    assert_eq!(info(&mut psci, 1 << 31, 3), ids::INVALID_PARAMETERS);
}

#[test]
fn cpu_suspend_stands_by_or_powers_down() {
    let mut psci = four();
    let mut suspend = |state, entry| psci_call(&mut psci, 0, ids::CPU_SUSPEND_64, state, entry, 9);
    // Standby returns to the caller, whatever the entry; power_state is 32 bits wide.
    assert_eq!(suspend(0, 1), Outcome::Standby([0; 4]));
    assert_eq!(suspend(0xffff_ffff_0000_0000, 1), Outcome::Standby([0; 4]));
    let state = StartState { entry: Ipa::new(ENTRY), context: 9 };
    assert_eq!(suspend(0x0101_1234, ENTRY), Outcome::PowerDown(state));
    assert_eq!(status(suspend(0x1_0000, ENTRY + 2)), ids::INVALID_ADDRESS);
    assert_eq!(status(suspend(0x1_0000, 0)), ids::INVALID_ADDRESS);
    for bit in (17..24).chain(26..32) {
        assert_eq!(status(suspend(1 << bit, ENTRY)), ids::INVALID_PARAMETERS, "bit {bit}");
    }
    assert_eq!(psci.power(0), Some(Power::On), "suspended is on");
}

#[test]
fn the_system_calls_end_or_reset_it() {
    let mut psci = four();
    let mut system = |function, arg| psci_call(&mut psci, 0, function, arg, 0, 0);
    assert_eq!(system(ids::SYSTEM_OFF, 0), Outcome::SystemOff);
    assert_eq!(system(ids::SYSTEM_RESET, 0), Outcome::SystemReset { warm: false });
    for function in [ids::SYSTEM_RESET2, ids::SYSTEM_RESET2_64] {
        assert_eq!(system(function, 0xffff_ffff_0000_0000), Outcome::SystemReset { warm: true });
        assert_eq!(status(system(function, 0x8000_0000)), ids::INVALID_PARAMETERS);
        assert_eq!(status(system(function, 1)), ids::INVALID_PARAMETERS);
    }
}

#[test]
fn a_set_of_vcpus_has_limits() {
    let many: Vec<u64> = (0..=64).collect();
    assert_eq!(Psci::new(&[]).unwrap_err(), NewError::None);
    assert_eq!(Psci::new(&many).unwrap_err(), NewError::TooMany);
    assert_eq!(Psci::new(&[1, 2, 0x8000_0001]).unwrap_err(), NewError::Duplicate);
    let mut full = Psci::new(&many[..MAX_VCPUS]).unwrap();
    assert_eq!(on(&mut full, 63), ids::SUCCESS);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Two vCPUs start the same target, one after the other in the order the lock gives.
    Race(usize, usize, u64),
    Off(usize),
    Started(usize),
    Reset(usize),
}

proptest! {
    /// Random sequences with racing CPU_ONs: the model is one state a vCPU.
    #[test]
    fn exactly_one_of_racing_calls_succeeds(ops in prop::collection::vec(prop_oneof![
        5 => (0usize..4, 0usize..4, 0u64..5).prop_map(|(a, b, t)| Op::Race(a, b, t)),
        2 => (0usize..4).prop_map(Op::Off),
        3 => (0usize..4).prop_map(Op::Started),
        1 => (0usize..4).prop_map(Op::Reset),
    ], 1..if cfg!(miri) { 25 } else { 80 })) {
        let mut psci = Psci::new(&[0, 1, 2, 3]).unwrap();
        let mut model = [Power::On, Power::Off, Power::Off, Power::Off];
        for op in ops {
            match op {
                Op::Race(a, b, target) => {
                    // Only what is on can call.
                    let callers: Vec<_> = [a, b].into_iter().filter(|c| model[*c] == Power::On).collect();
                    let mut successes = 0;
                    let was = model.get(target as usize).copied();
                    for caller in &callers {
                        let outcome = psci_call(&mut psci, *caller, ids::CPU_ON, target, ENTRY, 0);
                        let expected = match model.get_mut(target as usize) {
                            None => ids::INVALID_PARAMETERS,
                            Some(Power::On) => ids::ALREADY_ON,
                            Some(Power::OnPending) => ids::ON_PENDING,
                            Some(power) => { *power = Power::OnPending; ids::SUCCESS }
                        };
                        prop_assert_eq!(matches!(outcome, Outcome::Start { .. }), expected == ids::SUCCESS);
                        prop_assert_eq!(status(outcome), expected);
                        successes += usize::from(expected == ids::SUCCESS);
                    }
                    let due = was == Some(Power::Off) && !callers.is_empty();
                    prop_assert_eq!(successes, usize::from(due));
                }
                Op::Off(caller) => if model[caller] == Power::On {
                    model[caller] = Power::Off;
                    let last = model.iter().all(|p| *p == Power::Off);
                    prop_assert_eq!(psci_call(&mut psci, caller, ids::CPU_OFF, 0, 0, 0), Outcome::CpuOff { last });
                },
                Op::Started(vcpu) => {
                    psci.started(vcpu);
                    if model[vcpu] == Power::OnPending {
                        model[vcpu] = Power::On;
                    }
                }
                Op::Reset(boot) => {
                    psci.reset(boot);
                    model.fill(Power::Off);
                    model[boot] = Power::On;
                }
            }
            for (vcpu, power) in model.iter().enumerate() {
                prop_assert_eq!(psci.power(vcpu), Some(*power));
            }
        }
    }
}
