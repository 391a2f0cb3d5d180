//! HVC and SMC: the calling convention, PSCI's answers, TRNG, workarounds.

use guest_smccc::{Env, Workaround, ids};
use trap::{Il, pstate};

use super::machine::*;
use crate::{Next, StopReason};

const UNKNOWN: [u64; 4] = [u64::MAX, 0, 0, 0];

#[test]
fn hvc_has_advanced_and_a_trapped_smc_has_not() {
    let mut m = TestMachine::new(1);
    let version = u64::from(ids::PSCI_VERSION);
    assert_eq!(m.hvc(0, [version, 1, 2, 3]), (Next::Resume, [ids::PSCI_1_1, 0, 0, 0]));
    m.cpus[0].vcpu.frame.set_reg(0, version);
    m.complete(0, smc_exit(0));
    assert_eq!(m.cpus[0].x(0), ids::PSCI_1_1);
}

#[test]
fn a_call_answers_in_x0_to_x3_and_leaves_the_rest() {
    let mut m = TestMachine::new(1);
    for n in 0..31 {
        m.cpus[0].vcpu.frame.set_reg(n, 0x100 + u64::from(n));
    }
    for function in [ids::SMCCC_VERSION, ids::VENDOR_UID, ids::TRNG_GET_UUID, 0x8400_7777, 0xdead_beef, 0] {
        let frame = &mut m.cpus[0].vcpu.frame;
        frame.set_reg(0, 0xffff_ffff_0000_0000 | u64::from(function));
        let before = frame.clone();
        assert_eq!(m.exit(0, hvc_exit(0)), Next::Resume);
        let after = &m.cpus[0].vcpu.frame;
        assert_eq!((after.x[4..].to_vec(), after.pc, after.pstate), (before.x[4..].to_vec(), before.pc, before.pstate));
    }
    assert_eq!(m.cpus[0].vcpu.frame.x[..4], UNKNOWN, "the last one is nobody's");
}

#[test]
fn a_call_gives_way_as_a_wfe_does() {
    let mut m = TestMachine::new(2);
    assert_eq!(m.hvc(1, [ids::VENDOR_YIELD.into(), 1, 2, 3]), (Next::Yield, [0; 4]));
}

#[test]
fn each_vcpu_is_told_where_its_stolen_time_is() {
    let first = config::map::PV_TIME_BASE;
    let mut m = TestMachine::with(3, |parts| parts.env.stolen_time = Some(first));
    for n in 0..3 {
        let (next, regs) = m.hvc(n, [ids::PV_TIME_ST.into(), 0, 0, 0]);
        assert_eq!((next, regs), (Next::Resume, [first.as_u64() + 64 * u64::from(n), 0, 0, 0]));
    }
    let mut without = TestMachine::new(1);
    assert_eq!(without.hvc(0, [ids::PV_TIME_ST.into(), 0, 0, 0]), (Next::Resume, UNKNOWN));
}

#[test]
fn another_immediate_is_nobodys() {
    let mut m = TestMachine::new(1);
    for raw in [hvc_exit(1), hvc_exit(0xffff), smc_exit(7)] {
        m.cpus[0].vcpu.frame.set_reg(0, ids::SYSTEM_OFF.into());
        assert_eq!(m.exit(0, raw), Next::Resume);
        assert_eq!(m.cpus[0].vcpu.frame.x[..4], UNKNOWN);
    }
}

#[test]
fn an_smc_whose_condition_fails_is_skipped() {
    let mut m = TestMachine::new(1);
    let frame = &mut m.cpus[0].vcpu.frame;
    frame.pstate = pstate::AARCH32;
    frame.set_reg(0, ids::SYSTEM_OFF.into());
    let before = frame.clone();
    // EC 0x13, CCKNOWNPASS 1, CV 1, COND EQ, and Z is clear.
    assert_eq!(m.exit(0, class_exit(0x13, 1 << 24 | 1 << 19)), Next::Resume);
    let mut want = before;
    want.skip(Il::Bytes4);
    assert_eq!(m.cpus[0].vcpu.frame, want);
    m.cpus[0].vcpu.frame.pstate |= 1 << 30;
    assert_eq!(m.exit(0, class_exit(0x13, 1 << 24 | 1 << 19)), Next::Stop(StopReason::PowerOff));
}

#[test]
fn the_system_calls_stop_the_vm() {
    for (args, why) in [
        ([ids::SYSTEM_OFF, 0], StopReason::PowerOff),
        ([ids::SYSTEM_RESET, 0], StopReason::Reset),
        ([ids::SYSTEM_RESET2, 0], StopReason::Reset),
        ([ids::SYSTEM_RESET2_64, 0], StopReason::Reset),
    ] {
        let mut m = TestMachine::new(2);
        let (next, _) = m.hvc(1, [args[0].into(), args[1].into(), 0, 0]);
        assert_eq!(next, Next::Stop(why));
    }
    let mut m = TestMachine::new(1);
    assert_eq!(m.call(0, [ids::SYSTEM_RESET2.into(), 1, 0, 0]), ids::INVALID_PARAMETERS);
}

#[test]
fn standby_sleeps_like_wfi_and_power_down_starts_again() {
    let mut m = TestMachine::new(1);
    let suspend = u64::from(ids::CPU_SUSPEND_64);
    assert_eq!(m.hvc(0, [suspend, 0, 0, 0]), (Next::Block, [0; 4]));
    let (next, _) = m.hvc(0, [suspend, 1 << 16, ENTRY.as_u64() + 8, 99]);
    assert_eq!(next, Next::Block);
    let start = m.vm.port(0).unwrap().take_start().unwrap();
    assert_eq!((start.entry.as_u64(), start.context), (ENTRY.as_u64() + 8, 99));
    // A wrong entry point or state puts nobody to sleep.
    for (state, entry, status) in [
        (1 << 16, 0, ids::INVALID_ADDRESS),
        (1 << 16, ENTRY.as_u64() + 2, ids::INVALID_ADDRESS),
        (1 << 30, ENTRY.as_u64(), ids::INVALID_PARAMETERS),
    ] {
        assert_eq!(m.call(0, [suspend, state, entry, 0]), status);
    }
    assert_eq!(m.vm.port(0).unwrap().take_start(), None);
}

#[test]
fn suspending_with_an_interrupt_pending_returns_at_once() {
    for state in [0, 1 << 16] {
        let mut m = TestMachine::new(2);
        m.enable_private(1);
        m.msr(0, trap::sysreg::ICC_SGI1R_EL1, 3 << 24 | 1 << 1);
        // Shown to the guest, which has not taken it: nobody will tell the vCPU of it again.
        m.enter(1);
        let suspend = [ids::CPU_SUSPEND_64.into(), state, ENTRY.as_u64(), 0];
        assert_eq!(m.hvc(1, suspend), (Next::Resume, [0; 4]));
        assert!(m.cpus[1].vcpu.flush_due);
        assert_eq!(m.vm.port(1).unwrap().take_start(), None, "nothing is left that would start it again later");
    }
}

#[test]
fn random_numbers_come_where_there_is_entropy() {
    let mut m = TestMachine::new(1);
    let rnd = u64::from(ids::TRNG_RND_64);
    let (_, first) = m.hvc(0, [rnd, 192, 0, 0]);
    let (_, second) = m.hvc(0, [rnd, 192, 0, 0]);
    assert_eq!((first[0], second[0]), (0, 0));
    assert!(first[1..].iter().zip(&second[1..]).all(|(a, b)| a != b && *a != 0), "{first:x?} {second:x?}");
    let (_, few) = m.hvc(0, [rnd, 3, 0, 0]);
    assert!(few[1] == 0 && few[2] == 0 && few[3] < 8);
    assert_eq!(m.call(0, [rnd, 193, 0, 0]), ids::INVALID_PARAMETERS);
    assert_eq!(m.call(0, [ids::TRNG_VERSION.into(), 0, 0, 0]), 0x1_0000);

    let mut m = TestMachine::with(1, |parts| (parts.env, parts.entropy) = (Env::default(), None));
    for function in [ids::TRNG_VERSION, ids::TRNG_RND_64, ids::TRNG_RND, ids::TRNG_GET_UUID] {
        assert_eq!(m.hvc(0, [function.into(), 64, 0, 0]), (Next::Resume, UNKNOWN));
    }
    // A source that is said to be there and is not: dry, not absent.
    let mut m = TestMachine::with(1, |parts| parts.entropy = None);
    assert_eq!(m.call(0, [rnd, 64, 0, 0]), ids::NO_ENTROPY);
    assert!(!m.vm.draw(&mut [0; 8]));
}

#[test]
fn a_workaround_goes_to_the_firmware_with_its_argument() {
    let mut m = TestMachine::with(1, |parts| {
        parts.env.workaround_1 = Workaround::FirmwareHas;
        parts.env.workaround_3 = Workaround::NotNeeded;
    });
    assert_eq!(m.hvc(0, [ids::ARCH_WORKAROUND_1.into(), 42, 7, 7]), (Next::Resume, [0; 4]));
    assert_eq!(m.cpus[0].hw.firmware, [(ids::ARCH_WORKAROUND_1, 42)]);
    assert_eq!(m.call(0, [ids::ARCH_WORKAROUND_3.into(), 0, 0, 0]), 0);
    assert_eq!(m.call(0, [ids::ARCH_WORKAROUND_2.into(), 0, 0, 0]), -1);
    assert_eq!(m.cpus[0].hw.firmware.len(), 1);
    let features = u64::from(ids::ARCH_FEATURES);
    for (function, want) in [(ids::ARCH_WORKAROUND_1, 0), (ids::ARCH_WORKAROUND_2, -1), (ids::ARCH_WORKAROUND_3, 1)] {
        assert_eq!(m.call(0, [features, function.into(), 0, 0]), want);
    }
}
