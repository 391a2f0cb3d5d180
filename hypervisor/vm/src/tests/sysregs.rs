//! Trapped system registers, one group after the other, and at last every encoding there is.

use std::vec::Vec;

use addr::{Ipa, Pa, Span};
use guest_smccc::psci::StartState;
use memory::GuestRam;
use trap::{El1Reg, El1State, GuestFrame, SysRegId, pstate, sysreg};

use super::machine::*;
use crate::{Next, Requests, Vcpu};

const PTIMER: u32 = crate::timer::INTID;

/// The access is undefined, and nothing else happens.
fn undefined(m: &mut TestMachine, raw: trap::RawExit) {
    let before: GuestFrame = m.cpus[0].vcpu.frame.clone();
    assert_eq!(m.exit(0, raw), Next::Resume);
    let vector = if before.is_aarch32() {
        0x600
    } else if before.is_el0() {
        0x400
    } else {
        0x200
    };
    let (esr, _, at) = m.taken(0, &before);
    assert_eq!((esr, at), (1 << 25, vector), "{raw:x?}");
    m.cpus[0].vcpu.frame = before;
}

#[test]
fn id_registers_are_the_models() {
    let mut m = TestMachine::new(1);
    for (crm, op2) in (1..8).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        let id = SysRegId::new(3, 0, 0, crm, op2);
        let want = m.vm.cpu().id_register(crm, op2);
        assert_eq!(m.mrs(0, id), want, "{id}");
        undefined(&mut m, sysreg_exit(id, 1, false));
    }
    assert_ne!(m.vm.cpu().id_register(4, 0), 0);
    for (id, want) in [
        (sysreg::MIDR_EL1, 0x410f_d083),
        (sysreg::REVIDR_EL1, 0x55),
        (sysreg::AIDR_EL1, 0x66),
        (sysreg::CTR_EL0, 0x8444_c004),
        (sysreg::CLIDR_EL1, 0x0a20_0023),
        (sysreg::CCSIDR2_EL1, 0),
        (sysreg::ACTLR_EL1, 0),
    ] {
        assert_eq!(m.mrs(0, id), want, "{id}");
    }
    m.msr(0, sysreg::ACTLR_EL1, u64::MAX);
    assert_eq!(m.mrs(0, sysreg::ACTLR_EL1), 0);
    for (select, want) in [(0, 0x701f_e00a), (1, 0x201f_e012), (2, 0x707f_e07a), (3, 0)] {
        m.msr(0, sysreg::CSSELR_EL1, 0xffff_ff00 | select);
        assert_eq!((m.mrs(0, sysreg::CSSELR_EL1), m.mrs(0, sysreg::CCSIDR_EL1)), (select, want));
    }
}

#[test]
fn the_zero_register_is_an_operand_like_any() {
    let mut m = TestMachine::new(1);
    let before = m.cpus[0].vcpu.frame.x;
    m.complete(0, sysreg_exit(sysreg::MIDR_EL1, 31, true));
    assert_eq!(m.cpus[0].vcpu.frame.x, before);
    m.msr(0, sysreg::CSSELR_EL1, 2);
    m.complete(0, sysreg_exit(sysreg::CSSELR_EL1, 31, false));
    assert_eq!(m.mrs(0, sysreg::CSSELR_EL1), 0);
}

#[test]
fn what_merus_does_not_know_is_undefined() {
    let mut m = TestMachine::new(1);
    for id in [
        sysreg::ZCR_EL1,
        sysreg::PMCR_EL0,
        sysreg::ERRIDR_EL1,
        sysreg::TRFCR_EL1,
        sysreg::LORC_EL1,
        sysreg::MPAM0_EL1,
        sysreg::GCR_EL1,
        sysreg::RNDR,
        SysRegId::new(3, 0, 15, 2, 0),
        SysRegId::new(3, 4, 1, 1, 0),
        SysRegId::new(1, 0, 8, 7, 0),
        SysRegId::new(0, 7, 15, 15, 7),
    ] {
        for read in [false, true] {
            undefined(&mut m, sysreg_exit(id, 1, read));
        }
    }
    assert_eq!(m.cpus[0].vcpu.counts.refused, 24);
    // Registers with one direction only.
    undefined(&mut m, sysreg_exit(sysreg::ICC_SGI1R_EL1, 1, true));
    undefined(&mut m, sysreg_exit(sysreg::ICC_DIR_EL1, 1, true));
    undefined(&mut m, sysreg_exit(sysreg::OSLAR_EL1, 1, true));
    undefined(&mut m, sysreg_exit(sysreg::OSLSR_EL1, 1, false));
    undefined(&mut m, sysreg_exit(sysreg::DC_ISW, 1, true));
    undefined(&mut m, sysreg_exit(sysreg::CTR_EL0, 1, false));
    m.cpus[0].vcpu.frame.pstate = 0;
    undefined(&mut m, sysreg_exit(sysreg::PMCR_EL0, 1, true));
}

#[test]
fn classes_that_cannot_come_are_undefined() {
    let mut m = TestMachine::new(1);
    for class in
        [0x00, 0x02, 0x07, 0x09, 0x0a, 0x0d, 0x0e, 0x19, 0x1a, 0x1b, 0x1d, 0x1f, 0x27, 0x2c, 0x31, 0x33, 0x3c, 0x3f]
    {
        undefined(&mut m, class_exit(class, 0x01ff_ffff));
    }
}

#[test]
fn a_gicv2_has_no_system_registers() {
    let mut m = TestMachine::gicv2(2);
    for id in [sysreg::ICC_SGI1R_EL1, sysreg::ICC_SGI0R_EL1, sysreg::ICC_ASGI1R_EL1, sysreg::ICC_DIR_EL1] {
        undefined(&mut m, sysreg_exit(id, 1, false));
    }
    assert!(m.waker.take().is_empty(), "and nothing is sent");
}

#[test]
fn sgis_go_where_the_register_says() {
    let mut m = TestMachine::new(3);
    (0..3).for_each(|n| m.enable_private(n));
    m.waker.take();
    m.msr(0, sysreg::ICC_SGI1R_EL1, 2 << 24 | 0b110);
    assert_eq!(m.waker.take(), [Asked::Wake(1), Asked::Wake(2)]);
    m.msr(1, sysreg::ICC_SGI1R_EL1, 3 << 24 | 1 << 40);
    assert_eq!(m.waker.take(), [Asked::Wake(0), Asked::Wake(2)]);
    m.msr(2, sysreg::ICC_SGI1R_EL1, 4 << 24 | 0b100);
    assert!(m.waker.take().iter().all(|asked| *asked == Asked::Wake(2)), "nobody but itself");
    assert!(m.cpus[2].vcpu.flush_due || m.vm.port(2).unwrap().requests().has(Requests::FLUSH));
    m.msr(2, sysreg::ICC_SGI1R_EL1, 5 << 24 | 1 << 16 | 0b111);
    m.msr(2, sysreg::ICC_SGI0R_EL1, 5 << 24 | 0b111);
    m.msr(2, sysreg::ICC_ASGI1R_EL1, 5 << 24 | 0b111);
    assert!(m.waker.take().is_empty(), "nobody there, and group 0 does not exist");
    for (n, want) in [(0, vec(&[3])), (1, vec(&[2])), (2, vec(&[2, 3, 4]))] {
        m.enter(n);
        let mut taken = Vec::new();
        while let Some(intid) = Some(m.cpus[n as usize].hw.lists.acknowledge()).filter(|i| *i < 16) {
            taken.push(intid);
            m.cpus[n as usize].hw.lists.end(intid);
        }
        assert_eq!(taken, want, "vCPU {n}");
    }
}

fn vec(intids: &[u32]) -> Vec<u32> {
    intids.to_vec()
}

#[test]
fn a_trapped_deactivation_ends_what_is_active() {
    let mut m = TestMachine::new(2);
    m.enable_private(1);
    m.msr(0, sysreg::ICC_SGI1R_EL1, 9 << 24 | 1 << 1);
    m.cpus[1].hw.lists.guest_setup(0xff, true);
    m.enter(1);
    assert_eq!(m.cpus[1].hw.lists.acknowledge(), 9);
    m.cpus[1].hw.lists.end(9);
    assert_eq!(m.load32(0, sgi_frame(1) + 0x300), 1 << 9, "only dropped");
    m.msr(1, sysreg::ICC_DIR_EL1, 9);
    assert!(m.cpus[1].vcpu.flush_due);
    assert_eq!(m.load32(0, sgi_frame(1) + 0x300), 0);
    m.msr(1, sysreg::ICC_DIR_EL1, 1022);
    m.msr(1, sysreg::ICC_DIR_EL1, u64::MAX);
}

#[test]
fn the_physical_timer_is_emulated() {
    let mut m = TestMachine::new(1);
    m.enable_private(0);
    m.cpus[0].hw.now = 10_000;
    m.msr(0, sysreg::CNTP_CTL_EL0, 1);
    assert_eq!(m.mrs(0, sysreg::CNTP_CTL_EL0), 0b101, "a compare value of 0 is long past");
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), PTIMER);
    assert_eq!(m.cpus[0].hw.deadline, None);

    // In its handler it sets the next one: the wire goes low.
    m.msr(0, sysreg::CNTP_TVAL_EL0, 500);
    assert_eq!(m.cpus[0].hw.deadline, Some(10_500));
    assert_eq!((m.mrs(0, sysreg::CNTP_CVAL_EL0), m.mrs(0, sysreg::CNTP_CTL_EL0)), (10_500, 1));
    m.enter(0);
    m.cpus[0].hw.lists.end(PTIMER);
    m.maintain(0);
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), vgic::fakes::SPURIOUS);

    // The deadline passes: the kernel asks the vCPU to look.
    m.cpus[0].hw.now = 10_501;
    assert_eq!(m.mrs(0, sysreg::CNTP_TVAL_EL0), 0xffff_ffff);
    m.vm.vgic().ask(0, Requests::TIMER);
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), PTIMER);
    m.msr(0, sysreg::CNTP_CTL_EL0, 0b11);
    assert_eq!(m.mrs(0, sysreg::CNTP_CTL_EL0), 0b111);
    m.enter(0);
    m.cpus[0].hw.lists.end(PTIMER);
    m.maintain(0);
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), vgic::fakes::SPURIOUS, "masked");

    // At the edges of the counter.
    for (value, want) in
        [(0x8000_0000u64, 10_501u64.wrapping_sub(1 << 31)), (u64::MAX, 10_500), (0x7fff_ffff, 10_501 + 0x7fff_ffff)]
    {
        m.msr(0, sysreg::CNTP_TVAL_EL0, value);
        assert_eq!(m.mrs(0, sysreg::CNTP_CVAL_EL0), want, "{value:#x}");
    }
    m.msr(0, sysreg::CNTP_CTL_EL0, 1);
    m.msr(0, sysreg::CNTP_CVAL_EL0, u64::MAX);
    assert_eq!((m.mrs(0, sysreg::CNTP_CTL_EL0), m.cpus[0].hw.deadline), (1, Some(u64::MAX)));
}

/// MRC or MCR p15 of the physical timer: `opc2` 0 is TVAL, 1 is CTL.
fn cp15(opc2: u64, rt: u64, read: bool) -> trap::RawExit {
    class_exit(0x03, 1 << 24 | 0xe << 20 | opc2 << 17 | 14 << 10 | rt << 5 | 2 << 1 | u64::from(read))
}

/// MRRC or MCRR p15, 2, rt, rt2, c14: CVAL.
fn cp15_cval(rt: u64, rt2: u64, read: bool) -> trap::RawExit {
    class_exit(0x04, 1 << 24 | 0xe << 20 | 2 << 16 | rt2 << 10 | rt << 5 | 14 << 1 | u64::from(read))
}

#[test]
fn a_32_bit_program_reaches_the_same_timer() {
    let mut m = TestMachine::new(1);
    m.enable_private(0);
    m.cpus[0].hw.now = 1 << 33;
    m.cpus[0].vcpu.frame.pstate = pstate::AARCH32;
    m.cpus[0].vcpu.frame.pc = 0x8000;
    // Upper halves of its registers are of no account.
    m.cpus[0].vcpu.frame.set_reg(2, 0xdead_beef_0000_0010);
    m.cpus[0].vcpu.frame.set_reg(3, 0xdead_beef_0000_0003);
    m.complete(0, cp15_cval(2, 3, false));
    assert_eq!(m.cpus[0].vcpu.ptimer.compare(), 0x3_0000_0010);
    m.complete(0, cp15_cval(4, 5, true));
    assert_eq!((m.cpus[0].x(4), m.cpus[0].x(5)), (0x10, 3));
    m.cpus[0].vcpu.frame.set_reg(2, 0xffff_ffff_0000_0001);
    m.complete(0, cp15(1, 2, false));
    assert_eq!(m.cpus[0].hw.deadline, Some(0x3_0000_0010));
    m.complete(0, cp15(0, 6, true));
    assert_eq!(m.cpus[0].x(6), 0x10, "the low half of the distance");
    m.cpus[0].vcpu.frame.set_reg(2, 0xffff_ffff);
    m.complete(0, cp15(0, 2, false));
    m.complete(0, cp15(1, 6, true));
    assert_eq!(m.cpus[0].x(6), 0b101);
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), PTIMER);

    // T32, in an IT block whose condition does not hold: skipped, and nothing read.
    m.cpus[0].vcpu.frame.pstate = pstate::AARCH32 | pstate::T;
    let before = m.cpus[0].vcpu.frame.clone();
    let mut raw = cp15(1, 7, true);
    raw.esr = raw.esr & !(0xf << 20) & !(1 << 25);
    assert_eq!(m.exit(0, raw), Next::Resume);
    assert_eq!((m.cpus[0].vcpu.frame.pc, m.cpus[0].x(7)), (before.pc + 2, before.reg(7)));

    // Every other coprocessor access is undefined.
    m.cpus[0].vcpu.frame.pstate = pstate::AARCH32;
    let iss = |raw: trap::RawExit| raw.esr & 0x01ff_ffff;
    undefined(&mut m, cp15(2, 1, true));
    undefined(&mut m, class_exit(0x05, iss(cp15(1, 1, true))));
    undefined(&mut m, class_exit(0x08, iss(cp15(1, 1, true))));
    undefined(&mut m, class_exit(0x0c, iss(cp15_cval(1, 2, true))));
    undefined(&mut m, class_exit(0x06, 1 << 24 | 0xe << 20));
    undefined(&mut m, cp15_cval(1, 2, true).with_opc1(3));
}

trait WithOpc1 {
    fn with_opc1(self, opc1: u64) -> Self;
}
impl WithOpc1 for trap::RawExit {
    fn with_opc1(mut self, opc1: u64) -> Self {
        self.esr = self.esr & !(0xf << 16) | opc1 << 16;
        self
    }
}

fn debug_id(crm: u8, op2: u8) -> SysRegId {
    SysRegId::new(2, 0, 0, crm, op2)
}

#[test]
fn breakpoints_and_watchpoints_are_as_many_as_the_model_says() {
    let mut m = TestMachine::new(1);
    for n in 0..16 {
        // op2: BVR, BCR, WVR, WCR; how many there are; the bits that stay of all ones.
        for (op2, count, mask) in [(4, 6, !3), (5, 6, 0x007f_c1e7), (6, 4, !3), (7, 4, 0x1f1f_dfff)] {
            let id = debug_id(n, op2);
            if n < count {
                m.msr(0, id, u64::MAX);
                assert_eq!(m.mrs(0, id), mask & if op2 & 1 == 0 { u64::MAX } else { !(1 << 13) }, "{id}");
            } else {
                undefined(&mut m, sysreg_exit(id, 1, true));
                undefined(&mut m, sysreg_exit(id, 1, false));
            }
        }
    }
    assert_eq!(m.cpus[0].hw.debug, [false; 20], "the OS lock is closed: nothing reaches hardware");
    m.msr(0, sysreg::OSLAR_EL1, 0);
    assert_eq!(m.cpus[0].hw.debug.last(), Some(&true));
}

#[test]
fn the_os_lock_decides_whether_debug_is_in_use() {
    let mut m = TestMachine::new(1);
    assert_eq!(m.mrs(0, sysreg::OSLSR_EL1), 0b1010, "closed after reset");
    m.msr(0, sysreg::MDSCR_EL1, u64::MAX);
    assert_eq!(m.mrs(0, sysreg::MDSCR_EL1), 1 | 1 << 12 | 1 << 13 | 1 << 15);
    m.msr(0, sysreg::OSLAR_EL1, 0);
    assert_eq!((m.mrs(0, sysreg::OSLSR_EL1), m.cpus[0].hw.debug.clone()), (0b1000, vec_bool(&[false, true])));
    m.msr(0, sysreg::MDSCR_EL1, 0);
    m.msr(0, debug_id(0, 5), 1);
    m.msr(0, debug_id(0, 5), 0);
    m.msr(0, sysreg::OSLAR_EL1, 1);
    assert_eq!(m.cpus[0].hw.debug[2..], [false, true, false, false]);
    assert_eq!(m.mrs(0, sysreg::OSLSR_EL1), 0b1010);
}

#[test]
fn breakpoints_are_in_hardware_only_while_one_is_on() {
    let mut m = TestMachine::new(1);
    m.msr(0, sysreg::OSLAR_EL1, 0);
    // What Linux sets at its start: EL0 has no communications channel.
    m.msr(0, sysreg::MDSCR_EL1, 1 << 12);
    let state = |m: &TestMachine| (m.cpus[0].vcpu.debug.in_use(), m.cpus[0].vcpu.debug.is_armed());
    assert_eq!(state(&m), (true, false));
    for (control, other) in [(5, 7), (7, 5)] {
        m.msr(0, debug_id(1, control), 1);
        m.msr(0, debug_id(1, control ^ 1), 0x1000);
        m.msr(0, debug_id(0, other), 1);
        assert_eq!(state(&m), (true, true));
        m.msr(0, debug_id(0, other), 0);
        assert_eq!(state(&m), (true, true), "the first one is on still");
        m.msr(0, debug_id(1, control), 0x1e0);
        assert_eq!(state(&m), (true, false));
    }
    m.msr(0, sysreg::MDSCR_EL1, 0);
    assert_eq!(state(&m), (false, false));
}

fn vec_bool(values: &[bool]) -> Vec<bool> {
    values.to_vec()
}

#[test]
fn the_other_debug_registers() {
    let mut m = TestMachine::new(1);
    assert_eq!(m.mrs(0, sysreg::DBGCLAIMSET_EL1), 0xff);
    m.msr(0, sysreg::DBGCLAIMSET_EL1, 0xf0f);
    m.msr(0, sysreg::DBGCLAIMCLR_EL1, 0x3);
    assert_eq!(m.mrs(0, sysreg::DBGCLAIMCLR_EL1), 0xc);
    m.msr(0, sysreg::OSDLR_EL1, u64::MAX);
    assert_eq!(m.mrs(0, sysreg::OSDLR_EL1), 1);
    m.msr(0, sysreg::MDCCINT_EL1, u64::MAX);
    assert_eq!(m.mrs(0, sysreg::MDCCINT_EL1), 3 << 29);
    for id in [sysreg::DBGAUTHSTATUS_EL1, sysreg::MDRAR_EL1, sysreg::MDCCSR_EL0] {
        assert_eq!(m.mrs(0, id), 0);
        undefined(&mut m, sysreg_exit(id, 1, false));
    }
    for id in [
        sysreg::DBGPRCR_EL1,
        sysreg::DBGDTR_EL0,
        sysreg::DBGDTRRX_EL0,
        sysreg::OSDTRRX_EL1,
        sysreg::OSDTRTX_EL1,
        sysreg::OSECCR_EL1,
    ] {
        m.msr(0, id, u64::MAX);
        assert_eq!(m.mrs(0, id), 0, "{id}");
    }
    assert!(m.cpus[0].hw.debug.is_empty(), "none of these is in hardware");
    m.cpus[0].vcpu.frame.pstate = 0;
    for id in [sysreg::MDSCR_EL1, sysreg::OSLSR_EL1, debug_id(0, 4)] {
        undefined(&mut m, sysreg_exit(id, 1, true));
    }
}

#[test]
fn set_and_way_cleans_memory_and_watches_until_the_caches_are_on() {
    let mut m = TestMachine::new(1);
    let sctlr = |m: &mut TestMachine, value| {
        m.cpus[0].vcpu.frame.set_reg(1, value);
        m.exit(0, sysreg_exit(sysreg::SCTLR_EL1, 1, false))
    };
    for id in [sysreg::DC_ISW, sysreg::DC_CSW, sysreg::DC_CISW] {
        let pc = m.cpus[0].vcpu.frame.pc;
        m.cpus[0].vcpu.watch_stage1 = false;
        assert_eq!(m.exit(0, sysreg_exit(id, 1, false)), Next::CleanMemory);
        assert_eq!(m.cpus[0].vcpu.frame.pc, pc + 4);
        assert!(m.cpus[0].hw.watching && m.cpus[0].vcpu.watch_stage1);
        // The rest of the guest's loop over sets and ways.
        m.complete(0, sysreg_exit(id, 1, false));
    }
    // Nothing that concerns the caches.
    m.msr(0, sysreg::TTBR0_EL1, 0x1000);
    assert_eq!(sctlr(&mut m, 1), Next::Resume);
    assert!(m.cpus[0].hw.watching);
    // What does not trap by TVM is undefined here as anywhere.
    undefined(&mut m, sysreg_exit(sysreg::VBAR_EL1, 1, false));
    assert_eq!(sctlr(&mut m, CACHES_ON), Next::CleanMemory, "on: nothing stale may be met");
    assert!(!m.cpus[0].hw.watching && !m.cpus[0].vcpu.watch_stage1);
    // Once more, with the caches on from the start: off is watched.
    assert_eq!(m.exit(0, sysreg_exit(sysreg::DC_CISW, 1, false)), Next::CleanMemory);
    assert_eq!(sctlr(&mut m, 0), Next::CleanMemory);
    assert!(m.cpus[0].hw.watching, "off: it may maintain caches by set and way now");
    assert_eq!(m.cpus[0].el1(El1Reg::Sctlr), 0);

    let mut m = TestMachine::with(1, |parts| parts.fwb = true);
    m.complete(0, sysreg_exit(sysreg::DC_CISW, 1, false));
    assert!(!m.cpus[0].hw.watching, "stage 2 forces write-back");
}

#[test]
fn all_of_the_memory_is_cleaned_in_pieces_before_the_guest_goes_on() {
    let mut m = TestMachine::new(1);
    let extents = [(0x4000_0000, 4 << 20), (0x9000_0000, 2 << 20), (0x5000_0000, 6 << 20)];
    let memory = extents.map(|(at, size)| Span::new(Pa::new(at), size).unwrap());
    let ram = GuestRam::new(Ipa::new(0x4000_0000), memory).unwrap();
    let vcpu = |m: &mut TestMachine| -> Vcpu { m.cpus[0].vcpu.clone() };
    assert_eq!(m.cpus[0].vcpu.next_to_clean(&ram, 4096), None, "nobody has asked");
    let uneven = if cfg!(miri) { (1 << 20) + 64 } else { 4096 + 64 };
    for step in [128 << 10, 3 << 20, uneven, u64::MAX] {
        m.cpus[0].vcpu.watch_stage1 = false;
        m.cpus[0].vcpu.flush_due = false;
        assert_eq!(m.exit(0, sysreg_exit(sysreg::DC_CISW, 1, false)), Next::CleanMemory);
        assert!(m.cpus[0].vcpu.flush_due, "the gate is to see it");
        let mut found: Vec<Span<Pa>> = Vec::new();
        while let Some(piece) = m.cpus[0].vcpu.next_to_clean(&ram, step) {
            assert!(piece.size() <= step && !piece.is_empty());
            match found.last_mut() {
                Some(last) if last.end() == piece.start() => {
                    *last = Span::from_bounds(last.start(), piece.end()).unwrap()
                }
                _ => found.push(piece),
            }
            // It may leave its pCPU between any two pieces: the position is its own.
            m.cpus[0].vcpu = vcpu(&mut m);
        }
        assert_eq!(found, memory, "each byte once, in order");
        assert_eq!(m.cpus[0].vcpu.next_to_clean(&ram, step), None, "once");
    }
    // The VM is reset in the middle of it: the new start owes nothing.
    m.cpus[0].vcpu.watch_stage1 = false;
    assert_eq!(m.exit(0, sysreg_exit(sysreg::DC_CISW, 1, false)), Next::CleanMemory);
    assert!(m.cpus[0].vcpu.next_to_clean(&ram, 4096).is_some());
    m.cpus[0].vcpu.start(&StartState { entry: ENTRY, context: 0 });
    assert_eq!(m.cpus[0].vcpu.next_to_clean(&ram, 4096), None);
}

#[test]
fn starting_leaves_nothing_of_the_registers_that_always_trap() {
    let mut m = TestMachine::new(1);
    m.msr(0, sysreg::CSSELR_EL1, 2);
    m.msr(0, sysreg::OSLAR_EL1, 0);
    m.msr(0, debug_id(0, 5), 1);
    m.msr(0, sysreg::CNTP_CVAL_EL0, 5);
    m.exit(0, sysreg_exit(sysreg::DC_CISW, 1, false));
    let fresh = TestMachine::new(1).cpus[0].vcpu.clone();
    let vcpu = &mut m.cpus[0].vcpu;
    vcpu.start(&StartState { entry: ENTRY, context: 0x1234 });
    vcpu.counts = fresh.counts;
    assert_eq!(std::format!("{vcpu:?}"), std::format!("{fresh:?}"));
}

/// All 2^16 encodings, read and written, from EL1 and EL0: each is completed, is undefined, or has one of the effects above.
#[test]
fn every_encoding_is_completed_or_undefined() {
    let mut m = TestMachine::new(1);
    let mut defined = 0;
    for n in (0..1u32 << 18).step_by(if cfg!(miri) { 4_001 } else { 1 }) {
        let [op0, op1, crn, crm, op2] = [n & 3, n >> 2 & 7, n >> 5 & 15, n >> 9 & 15, n >> 13 & 7].map(|v| v as u8);
        let (read, el0) = (n >> 16 & 1 != 0, n >> 17 != 0);
        let id = SysRegId::new(op0, op1, crn, crm, op2);
        let frame = &mut m.cpus[0].vcpu.frame;
        (frame.pc, frame.pstate) = (ENTRY.as_u64(), if el0 { 0 } else { pstate::EL1H });
        frame.x = core::array::from_fn(|n| 0xabcd_0000 + n as u64);
        let before = frame.clone();
        m.cpus[0].hw.el1.write(El1Reg::Esr, 0);
        let next = m.exit(0, sysreg_exit(id, 7, read));
        let after = &m.cpus[0].vcpu.frame;
        let undefined = m.cpus[0].el1(El1Reg::Esr) != 0;
        match next {
            Next::Resume if undefined => assert_eq!(after.pc, VBAR + if el0 { 0x400 } else { 0x200 }),
            Next::Resume => assert_eq!(after.pc, before.pc + 4),
            Next::CleanMemory => assert!(!read && after.pc == before.pc + 4),
            other => panic!("{id} led to {other:?}"),
        }
        for r in (0..31).filter(|r| *r != 7 || undefined || !read) {
            assert_eq!(after.reg(r), before.reg(r), "{id} changed x{r}");
        }
        defined += usize::from(!undefined && !el0);
    }
    // 56 ID registers, 9 more that identify or select (two of them both ways), 3 of the timer both ways, 4 of the interrupt
    // controller, 3 of set and way, 20 of breakpoints and watchpoints both ways, 27 ways to the other debug registers.
    assert!(cfg!(miri) || defined == 56 + 9 + 2 + 6 + 4 + 3 + 40 + 27);
}
