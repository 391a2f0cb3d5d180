//! WFI and WFE: who sleeps, who does not, and what has to be done before the guest goes on.

use trap::pstate;

use super::machine::*;
use crate::Next;

/// Sends SGI 3 of vCPU `by` to vCPU `to` by hand.
fn pend_sgi(m: &mut TestMachine, to: u32) {
    m.msr(0, trap::sysreg::ICC_SGI1R_EL1, 3 << 24 | 1 << to);
}

fn wait(m: &mut TestMachine, n: u32, kind: u64) -> Next {
    let pc = m.cpus[n as usize].vcpu.frame.pc;
    let next = m.exit(n, wait_exit(kind));
    assert_eq!(m.cpus[n as usize].vcpu.frame.pc, pc + 4, "the wait is over whenever it runs again");
    next
}

#[test]
fn wfi_sleeps_only_with_nothing_pending() {
    let mut m = TestMachine::new(2);
    m.enable_private(1);
    assert_eq!(wait(&mut m, 1, 0), Next::Block);
    pend_sgi(&mut m, 1);
    assert_eq!(wait(&mut m, 1, 0), Next::Resume, "pending in memory");
    m.enter(1);
    assert_eq!(wait(&mut m, 1, 0), Next::Resume, "pending in a list register");
    m.enter(1);
    assert_eq!(m.cpus[1].hw.lists.acknowledge(), 3);
    assert_eq!(wait(&mut m, 1, 0), Next::Block, "active and nothing else");
}

#[test]
fn a_masked_interrupt_does_not_end_a_wfi_but_pstate_has_no_say() {
    let mut m = TestMachine::new(2);
    m.enable_private(1);
    m.store(0, sgi_frame(1) + 0x403, addr::AccessSize::B1, 0x80);
    pend_sgi(&mut m, 1);
    m.enter(1);
    m.cpus[1].vcpu.frame.pstate |= pstate::I;
    assert_eq!(wait(&mut m, 1, 0), Next::Resume, "PSTATE.I does not keep a PE asleep");
    m.cpus[1].hw.lists.guest_setup(0x80, false);
    assert_eq!(wait(&mut m, 1, 0), Next::Block, "ICC_PMR_EL1 does");
    m.cpus[1].hw.lists.vmcr &= !2;
    assert_eq!(wait(&mut m, 1, 0), Next::Block, "so does ICC_IGRPEN1_EL1");
    m.cpus[1].hw.lists.guest_setup(0x88, false);
    assert_eq!(wait(&mut m, 1, 0), Next::Resume);
}

#[test]
fn a_wfi_leaves_the_list_registers_folded_and_says_so() {
    let mut m = TestMachine::new(2);
    m.enable_private(1);
    pend_sgi(&mut m, 1);
    m.enter(1);
    // Masked, so that it sleeps with something in a list register.
    m.cpus[1].hw.lists.guest_setup(0, false);
    assert_eq!(wait(&mut m, 1, 0), Next::Block);
    // The kernel looks once more before it lets the vCPU sleep, and may go on at once: then only `flush_due` tells it that
    // the list registers must be made live again first. Without, an interrupt acknowledged next would be shown again.
    assert!(m.cpus[1].vcpu.flush_due);
}

#[test]
fn wfe_lets_others_run() {
    let mut m = TestMachine::new(1);
    for kind in 1..4 {
        assert_eq!(wait(&mut m, 0, kind), Next::Yield);
    }
}

#[test]
fn where_the_trap_is_not_delayed_a_waiter_looks_again_first() {
    let mut m = TestMachine::with(1, |parts| parts.patient = true);
    for _ in 0..2 {
        for _ in 0..4 {
            assert_eq!(wait(&mut m, 0, 1), Next::Resume);
        }
        assert_eq!(wait(&mut m, 0, 1), Next::Yield);
    }
    // A WFI is another matter.
    assert_eq!(wait(&mut m, 0, 0), Next::Block);
}

#[test]
fn a_conditional_wait_that_fails_is_no_wait() {
    let mut m = TestMachine::new(1);
    // A32, Z clear: WFIEQ.
    m.cpus[0].vcpu.frame.pstate = pstate::AARCH32;
    let pc = m.cpus[0].vcpu.frame.pc;
    assert_eq!(m.exit(0, class_exit(1, 1 << 24)), Next::Resume);
    m.cpus[0].vcpu.frame.pstate |= 1 << 30;
    assert_eq!(m.exit(0, class_exit(1, 1 << 24)), Next::Block);
    assert_eq!(m.cpus[0].vcpu.frame.pc, pc + 8);
}
