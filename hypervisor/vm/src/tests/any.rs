//! Any exit from any state: handled, never a panic, and the guest is where one of few rules puts it. And after any such
//! history the VM's reset leaves a machine that nobody can tell from a new one.

use std::collections::BTreeSet;
use std::vec::Vec;

use addr::AccessSize;
use guest_smccc::ids;
use proptest::prelude::*;
use trap::{El1Reg, El1State, Exit, FaultStatus, GuestFrame, RawExit, SysRegId, Vector, decode, pstate, sysreg};

use super::machine::*;
use crate::{Life, Next, Requests, Stage1, StopReason};

const VCPUS: u32 = 3;

/// Steps of a history, at most.
const LONGEST: usize = if cfg!(miri) { 6 } else { 120 };

/// Modes that a guest can be in: EL0, EL1 with either stack pointer, AArch32 EL0.
const MODES: [u64; 4] = [0, pstate::EL1T, pstate::EL1H, pstate::AARCH32];

#[derive(Clone, Debug)]
struct Step {
    vcpu: u32,
    raw: RawExit,
    x: [u64; 31],
    pstate: u64,
    stage1: Stage1,
    /// What a translation says.
    par: u64,
    /// Interrupts are served and taken before it.
    enter: bool,
}

/// Mostly the classes that do something, with addresses around what is there.
fn raw() -> impl Strategy<Value = RawExit> {
    let esr = prop_oneof![
        4 => any::<u32>().prop_map(|iss| 0x24 << 26 | 1 << 24 | u64::from(iss & 0x03ff_ffc0) | 0b111),
        2 => (0u64..64, any::<u32>()).prop_map(|(class, iss)| class << 26 | u64::from(iss & 0x03ff_ffff)),
        4 => (known_register(), any::<u32>()).prop_map(|(id, iss)| {
            0x18 << 26 | 1 << 25 | u64::from(id.as_u32()) | u64::from(iss & (31 << 5 | 1))
        }),
        2 => (0u64..2, 0u64..20).prop_map(|(smc, imm)| (0x16 + smc) << 26 | 1 << 25 | imm.saturating_sub(16)),
        1 => any::<u64>(),
    ];
    let page = prop_oneof![
        3 => Just(UART), 6 => (0u64..16).prop_map(|n| GICD + n * 0x1000), 6 => (0u64..0x61).prop_map(|n| GICR + n * 0x1000),
        1 => Just(UART + 0x1_0000), 1 => Just(0x4000_0000u64), 1 => any::<u64>(),
    ];
    let vector = prop_oneof![12 => Just(Vector::Sync), 1 => Just(Vector::Irq), 1 => Just(Vector::Fiq), 1 => Just(Vector::SError)];
    (esr, page, any::<u64>(), vector).prop_map(|(esr, page, far, vector)| RawExit {
        vector,
        esr,
        far,
        hpfar: page >> 8,
    })
}

fn known_register() -> impl Strategy<Value = SysRegId> {
    const SOME: [SysRegId; 14] = [
        sysreg::ICC_SGI1R_EL1,
        sysreg::ICC_SGI1R_EL1,
        sysreg::ICC_DIR_EL1,
        sysreg::CNTP_CTL_EL0,
        sysreg::CNTP_CVAL_EL0,
        sysreg::CNTP_TVAL_EL0,
        sysreg::CSSELR_EL1,
        sysreg::CCSIDR_EL1,
        sysreg::MDSCR_EL1,
        sysreg::OSLAR_EL1,
        sysreg::DC_CISW,
        sysreg::SCTLR_EL1,
        sysreg::TTBR0_EL1,
        sysreg::MDCCINT_EL1,
    ];
    prop_oneof![
        3 => proptest::sample::select(&SOME[..]),
        1 => (0u8..4, 0u8..8, 0u8..16, 0u8..16, 0u8..8).prop_map(|(a, b, c, d, e)| SysRegId::new(a, b, c, d, e)),
    ]
}

/// Register values: function numbers, small ones, any.
fn value() -> impl Strategy<Value = u64> {
    const CALLS: [u32; 12] = [
        ids::PSCI_VERSION,
        ids::CPU_SUSPEND_64,
        ids::CPU_OFF,
        ids::CPU_ON_64,
        ids::AFFINITY_INFO_64,
        ids::SYSTEM_OFF,
        ids::SYSTEM_RESET,
        ids::SYSTEM_RESET2,
        ids::TRNG_RND_64,
        ids::VENDOR_UID,
        ids::ARCH_FEATURES,
        ids::ARCH_WORKAROUND_1,
    ];
    prop_oneof![
        proptest::sample::select(&CALLS[..]).prop_map(u64::from),
        0u64..4,
        (0u64..64).prop_map(|n| 1 << n),
        Just(ENTRY.as_u64()),
        any::<u64>(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let x = proptest::collection::vec(value(), 8).prop_map(|x| core::array::from_fn(|n| x[n % 8]));
    let registers = (any::<[u64; 3]>(), 0..FakeRam::SPAN.end, any::<u64>());
    (0..VCPUS, raw(), x, any::<u64>(), 0..4usize, any::<bool>(), registers).prop_map(
        |(vcpu, raw, x, state, mode, enter, ([sctlr, tcr, ttbr0], ttbr1, par))| Step {
            vcpu,
            raw,
            x,
            pstate: state & 0xffff_ffe0 | MODES[mode],
            stage1: Stage1 { sctlr, tcr, ttbr0, ttbr1 },
            par,
            enter,
        },
    )
}

/// What a guest may do in between: take interrupts and end them.
fn serve(m: &mut TestMachine, n: u32) {
    m.enter(n);
    let intid = m.cpus[n as usize].hw.lists.acknowledge();
    if intid != vgic::fakes::SPURIOUS {
        m.cpus[n as usize].hw.lists.end(intid);
    }
    m.maintain(n);
}

fn check(m: &mut TestMachine, step: &Step) {
    let n = step.vcpu;
    if step.enter {
        serve(m, n);
    }
    let cpu = &mut m.cpus[n as usize];
    cpu.vcpu.frame = GuestFrame { x: step.x, pc: 0x4008_1000, pstate: step.pstate };
    cpu.hw.el1.write(El1Reg::Vbar, VBAR);
    (cpu.hw.stage1, cpu.hw.par) = (step.stage1, step.par);
    cpu.hw.translated.clear();
    cpu.hw.el1.write(El1Reg::Esr, 0);
    let before = cpu.vcpu.clone();
    let exit = decode(&step.raw);
    let next = m.exit(n, step.raw);
    let after = &m.cpus[n as usize].vcpu;
    let pc = before.frame.pc;
    let aarch32 = before.frame.is_aarch32();

    if after.counts.refused != before.counts.refused {
        assert_eq!(next, Next::Resume, "{exit:?}");
        m.taken(n, &before.frame);
        let offset = after.frame.pc - VBAR;
        assert!([0, 0x200, 0x400, 0x600].contains(&offset), "{offset:#x}");
        return;
    }
    let moved = after.frame.pc.wrapping_sub(pc);
    match exit {
        Exit::Irq | Exit::Fiq => assert_eq!((next, &after.frame), (Next::Resume, &before.frame)),
        Exit::SError(error) => assert_eq!(next, Next::Stop(StopReason::SystemError { iss: error.iss })),
        Exit::Hvc { .. } => assert_eq!(moved, 0),
        // The guest's tables have changed: it tries again.
        Exit::Stage2Fault(fault) if !m.cpus[n as usize].hw.translated.is_empty() => {
            assert!(matches!(fault.status, FaultStatus::Permission { .. }) && step.par & 1 != 0);
            assert_eq!((next, &after.frame), (Next::Resume, &before.frame));
        }
        _ if matches!(next, Next::Fold(_)) => assert_eq!(after.frame, before.frame, "a fold repeats all of it"),
        _ => assert!(
            moved == 4 || (aarch32 && moved == 2) || (moved == 2 && step.raw.esr >> 25 & 1 == 0),
            "{exit:?} {moved}"
        ),
    }
    let allowed = match next {
        Next::Resume => true,
        Next::Fold(whom) => {
            assert!(!whom.is_empty() && !whom.contains(n) && whom.iter().all(|v| v < VCPUS));
            matches!(exit, Exit::Mmio(_) | Exit::SysReg(_))
        }
        Next::Yield => matches!(exit, Exit::Wfx(_)),
        Next::Block => matches!(exit, Exit::Wfx(_) | Exit::Hvc { .. } | Exit::Smc { .. }),
        Next::CleanMemory => matches!(exit, Exit::SysReg(_)),
        Next::Off => matches!(exit, Exit::Hvc { .. } | Exit::Smc { .. }),
        Next::Stop(_) => matches!(exit, Exit::Hvc { .. } | Exit::Smc { .. } | Exit::SError(_)),
    };
    assert!(allowed, "{exit:?} led to {next:?}");
    assert_eq!(after.frame.pstate & pstate::MODE, before.frame.pstate & pstate::MODE);
    if let Next::Fold(whom) = next {
        // As the kernel does it: they fold, and then it is served.
        for v in whom.iter() {
            let Loaded { vcpu, hw } = &mut m.cpus[v as usize];
            m.vm.vgic().change(|vgic| vgic.sync(v, &mut hw.lists));
            vcpu.flush_due = true;
        }
        assert!(!matches!(m.exit(n, step.raw), Next::Fold(_)), "folded, and refused again");
    }
}

/// All that a guest can see of its machine, vCPU by vCPU, but for random numbers.
fn seen(m: &mut TestMachine) -> Vec<u64> {
    let mut seen = Vec::new();
    // Under Miri, the first of each kind.
    let most = if cfg!(miri) { 0x40 } else { usize::MAX };
    let words = |base: u64, range: core::ops::Range<u64>| range.take(most).step_by(4).map(move |at| base + at);
    let registers = words(GICD, 0..0x1000).chain(words(GICD, 0x6000..0x6900));
    let frames = |v| words(sgi_frame(v) - 0x1_0000, 0..0x100).chain(words(sgi_frame(v), 0..0xd00));
    let redistributors = (0..VCPUS).flat_map(frames);
    let uart = words(UART, 0..0x50);
    for ipa in registers.chain(redistributors).chain(uart) {
        seen.push(m.load32(0, ipa).into());
    }
    for v in 0..u64::from(VCPUS) {
        seen.push(m.call(0, [ids::AFFINITY_INFO_64.into(), v, 0, 0]) as u64);
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 30 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_exit_from_any_state_is_handled(steps in proptest::collection::vec(step(), 1..LONGEST)) {
        let mut m = TestMachine::new(VCPUS);
        for step in &steps {
            check(&mut m, step);
        }
    }

    #[test]
    fn a_reset_leaves_nothing(steps in proptest::collection::vec(step(), 1..LONGEST), lines: u8) {
        let mut m = TestMachine::new(VCPUS);
        m.enable_uart_interrupt();
        (0..VCPUS).for_each(|n| m.enable_private(n));
        for step in &steps {
            check(&mut m, step);
            m.uart.lock().receive(b"in");
        }
        m.store(0, UART + devices::pl011::spec::IMSC, AccessSize::B4, lines.into());
        for (n, cpu) in m.cpus.iter_mut().enumerate() {
            m.vm.vgic().change(|vgic| vgic.put(n as u32, &mut cpu.hw.lists));
            m.vm.port(n as u32).unwrap().ask(Requests::LIFE);
            prop_assert!(cpu.hw.lists.lr.iter().all(|lr| lr >> 62 == 0) && cpu.hw.lists.hcr == 0);
        }
        prop_assert!(m.vm.leave_life(Life::Resetting));
        m.vm.reset();

        let mut new = TestMachine::new(VCPUS);
        new.vm.reset();
        prop_assert_eq!(m.vm.life(), Life::Running);
        prop_assert_eq!(m.uart.lock().save(), new.uart.lock().save());
        for n in 0..VCPUS {
            let port = m.vm.port(n).unwrap();
            prop_assert!(port.requests().is_empty() && port.take_start().is_none());
        }
        prop_assert_eq!(m.vm.vgic().lock().save(), new.vm.vgic().lock().save());
        m.cpus = new.cpus.clone();
        for m in [&mut m, &mut new] {
            (0..VCPUS).for_each(|n| m.start(n));
        }
        let (after, fresh) = (seen(&mut m), seen(&mut new));
        prop_assert!(after.iter().collect::<BTreeSet<_>>().len() > 5, "something is to be seen");
        prop_assert_eq!(after, fresh);
    }
}

/// Exits as the fast lane is made for.
fn frequent() -> impl Strategy<Value = RawExit> {
    let any_load = (0u64..0x4000, any::<u32>()).prop_map(|(word, iss)| {
        let mut raw = Abort::load(GICD + 4 * word).raw();
        raw.esr |= u64::from(iss) & (1 << 21 | 31 << 16 | 1 << 15 | 1 << 14);
        raw
    });
    prop_oneof![
        any_load,
        (1u8..8, 0u8..8, 0u8..32).prop_map(|(crm, op2, rt)| sysreg_exit(SysRegId::new(3, 0, 0, crm, op2), rt, true)),
        (0u8..32).prop_map(|rt| sysreg_exit(sysreg::ICC_SGI1R_EL1, rt, false)),
        Just(hvc_exit(0)),
    ]
}

/// Two machines with one history, one of them with the fast lane.
fn alike(steps: &[Step]) -> Result<usize, TestCaseError> {
    let (mut plain, mut fast) = (TestMachine::new(VCPUS), TestMachine::new(VCPUS));
    let mut ended = 0;
    for step in steps {
        let n = step.vcpu;
        for m in [&mut plain, &mut fast] {
            if step.enter {
                serve(m, n);
            }
            let cpu = &mut m.cpus[n as usize];
            cpu.vcpu.frame = GuestFrame { x: step.x, pc: 0x4008_1000, pstate: step.pstate };
            (cpu.hw.stage1, cpu.hw.par) = (step.stage1, step.par);
            m.waker.take();
        }
        let next = plain.exit(n, step.raw);
        let vm = fast.vm.clone();
        let vcpu = &mut fast.cpus[n as usize].vcpu;
        let quick =
            step.raw.vector == Vector::Sync && crate::quick(&vm, vcpu, step.raw.esr, || (step.raw.far, step.raw.hpfar));
        ended += usize::from(quick);
        prop_assert_eq!(next, if quick { Next::Resume } else { fast.exit(n, step.raw) }, "{:?}", decode(&step.raw));
        let (a, b) = (&plain.cpus[n as usize], &fast.cpus[n as usize]);
        prop_assert_eq!(&a.vcpu.frame, &b.vcpu.frame, "{:?}", decode(&step.raw));
        prop_assert_eq!(std::format!("{:?}", a.vcpu), std::format!("{:?}", b.vcpu), "{:?}", decode(&step.raw));
        prop_assert_eq!(std::format!("{:?}", a.hw), std::format!("{:?}", b.hw));
        prop_assert_eq!(plain.waker.take(), fast.waker.take());
        prop_assert_eq!(plain.vm.vgic().lock().save(), fast.vm.vgic().lock().save());
    }
    Ok(ended)
}

#[test]
fn the_fast_lane_ends_an_exit_as_any_other() {
    use proptest::test_runner::TestRunner;
    let config = ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 30 },
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let ended = core::cell::Cell::new(0);
    let step = (step(), proptest::option::of(frequent()));
    let step = step.prop_map(|(step, raw)| Step { raw: raw.unwrap_or(step.raw), ..step });
    let steps = proptest::collection::vec(step, 1..if cfg!(miri) { 8 } else { 80 });
    TestRunner::new(config)
        .run(&steps, |steps| {
            ended.set(ended.get() + alike(&steps)?);
            Ok(())
        })
        .unwrap();
    assert!(cfg!(miri) || ended.get() > 200, "only {} exits took it", ended.get());
}
