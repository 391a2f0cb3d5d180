//! CPU_ON and CPU_OFF between vCPUs, also with callers that race, and what becomes of the VM.

use std::sync::Barrier;
use std::vec::Vec;

use guest_smccc::ids;
use guest_smccc::psci::StartState;

use super::machine::*;
use crate::{Life, Next, StopReason, Vcpu};

#[test]
fn cpu_on_leaves_a_start_for_whoever_loads_the_vcpu() {
    let mut m = TestMachine::new(3);
    let entry = ENTRY.as_u64() + 0x100;
    assert_eq!(m.cpu_on(0, 2, entry, 77), ids::SUCCESS);
    assert_eq!(m.waker.take(), [Asked::Start(2)]);
    assert_eq!(m.cpu_on(1, 2, entry, 78), ids::ON_PENDING);
    let affinity = [ids::AFFINITY_INFO_64.into(), 2, 0, 0];
    assert_eq!(m.call(0, affinity), ids::AFFINITY_ON_PENDING);
    assert!(m.waker.take().is_empty());

    // The runner that loads it.
    let start = m.vm.port(2).unwrap().take_start().unwrap();
    let mut vcpu = Vcpu::new(2);
    vcpu.frame.set_reg(5, 5);
    vcpu.counts.mmio = 9;
    vcpu.start(&start);
    m.vm.started(2);
    assert_eq!((vcpu.frame.pc, vcpu.frame.reg(0), vcpu.frame.reg(5)), (entry, 77, 0));
    assert_eq!((vcpu.frame.pstate, vcpu.counts.mmio, vcpu.index), (StartState::SPSR, 9, 2));
    assert_eq!(m.vm.port(2).unwrap().take_start(), None);
    assert_eq!(m.call(0, affinity), ids::AFFINITY_ON);
    assert_eq!(m.cpu_on(0, 2, entry, 0), ids::ALREADY_ON);
}

#[test]
fn cpu_on_in_every_wrong_way() {
    let mut m = TestMachine::new(2);
    let good = ENTRY.as_u64();
    let ram_end = m.vm.ram().end().as_u64();
    for (target, entry, status) in [
        (0, good, ids::ALREADY_ON),
        (2, good, ids::INVALID_PARAMETERS),
        (1 << 8, good, ids::INVALID_PARAMETERS),
        (1 | 1 << 24, good, ids::INVALID_PARAMETERS),
        (u64::MAX, good, ids::INVALID_PARAMETERS),
        (1, 0, ids::INVALID_ADDRESS),
        (1, ram_end, ids::INVALID_ADDRESS),
        (1, UART, ids::INVALID_ADDRESS),
        (1, good + 1, ids::INVALID_ADDRESS),
        (1, !3, ids::INVALID_ADDRESS),
    ] {
        assert_eq!(m.cpu_on(0, target, entry, 0), status, "{target:#x} at {entry:#x}");
    }
    assert!(m.waker.take().is_empty());
    assert_eq!(m.vm.port(1).unwrap().take_start(), None);
    assert_eq!(m.cpu_on(0, 1, ram_end - 4, 0), ids::SUCCESS);
}

#[test]
fn the_last_one_out_ends_the_vm() {
    let mut m = TestMachine::new(2);
    let off = [ids::CPU_OFF.into(), 0, 0, 0];
    assert_eq!(m.cpu_on(0, 1, ENTRY.as_u64(), 0), ids::SUCCESS);
    assert_eq!(m.hvc(0, off).0, Next::Off, "one is still on its way");
    assert_eq!(m.call(1, [ids::AFFINITY_INFO_64.into(), 0, 0, 0]), ids::AFFINITY_OFF);
    assert_eq!(m.cpu_on(1, 0, ENTRY.as_u64(), 3), ids::SUCCESS, "vCPU 0 is like any other");
    assert_eq!(m.hvc(1, off).0, Next::Off);
    m.vm.started(0);
    assert_eq!(m.hvc(0, off).0, Next::Stop(StopReason::AllOff));
}

#[test]
fn of_racing_cpu_ons_exactly_one_succeeds() {
    for round in 0..if cfg!(miri) { 4 } else { 20 } {
        let m = TestMachine::new(5);
        let barrier = Barrier::new(4);
        let results: Vec<i64> = std::thread::scope(|scope| {
            let calls: Vec<_> = m.cpus[..4]
                .iter()
                .map(|cpu| {
                    let (mut cpu, vm, barrier) = (cpu.clone(), m.vm.clone(), &barrier);
                    scope.spawn(move || {
                        let by = u64::from(cpu.vcpu.index);
                        cpu.vcpu.frame.x[..4].copy_from_slice(&[ids::CPU_ON_64.into(), 4, ENTRY.as_u64() + 4 * by, by]);
                        barrier.wait();
                        assert_eq!(cpu.exit(&vm, hvc_exit(0)), Next::Resume);
                        cpu.x(0) as i64
                    })
                })
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..4).filter(|n| results[*n] == ids::SUCCESS).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        assert!(results.iter().all(|r| matches!(*r, ids::SUCCESS | ids::ON_PENDING)), "{results:?}");
        assert_eq!(m.waker.take(), [Asked::Start(4)]);
        let start = m.vm.port(4).unwrap().take_start().unwrap();
        assert_eq!(start.context, winners[0] as u64, "it starts as the winner said");
    }
}

#[test]
fn of_racing_ends_the_first_counts() {
    let m = TestMachine::new(1);
    assert_eq!(m.vm.life(), Life::Running);
    assert!(m.vm.leave_life(Life::Resetting));
    assert!(!m.vm.leave_life(Life::Ending));
    assert_eq!(m.vm.life(), Life::Resetting);
    m.vm.reset();
    assert!(m.vm.leave_life(Life::Ending));
    assert!(!m.vm.leave_life(Life::Resetting));
    assert_eq!(m.vm.life(), Life::Ending);
}
