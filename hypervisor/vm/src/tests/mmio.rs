//! Loads and stores where no memory is: to a device and the interrupt it raises, to the interrupt controller, to nothing.

use addr::AccessSize::{B1, B2, B4, B8};
use bus::AccessError;
use config::map;
use devices::pl011::spec;
use trap::{GuestFrame, RawExit, Vector, pstate};

use super::machine::*;
use crate::machine::BuildError;
use crate::{Next, Requests};

const LR_PENDING: u64 = 1 << 62;
const LR_ACTIVE: u64 = 1 << 63;
const LR_GROUP1: u64 = 1 << 60;
const LR_EOI: u64 = 1 << 41;
const UART_INTID: u64 = map::PL011_INTID as u64;
/// The UART's list register at priority 0x40, but for its state.
const UART_LR: u64 = UART_INTID | LR_GROUP1 | LR_EOI | 0x40 << 48;

#[test]
fn a_store_to_the_uart_comes_out_and_its_interrupt_reaches_a_list_register() {
    let mut m = TestMachine::new(1);
    m.enable_uart_interrupt();
    m.store32(0, UART + spec::IMSC, spec::INT_TX.into());
    assert!(m.cpus[0].hw.lists.lr.iter().all(|lr| *lr == 0), "no character has gone yet");
    m.store32(0, UART + spec::DR, b'M'.into());
    assert_eq!(m.output.bytes(), b"M");
    assert_eq!(m.waker.take(), [Asked::Wake(0)]);
    assert!(m.vm.port(0).unwrap().requests().has(Requests::FLUSH), "its own interrupt is seen before the next entry");
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.lr[0], UART_LR | LR_PENDING);

    // The guest's handler: acknowledge, quieten the device, end.
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), map::PL011_INTID);
    m.store32(0, UART + spec::ICR, spec::INT_TX.into());
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.lr[0], UART_LR | LR_ACTIVE);
    m.cpus[0].hw.lists.end(map::PL011_INTID);
    m.maintain(0);
    assert_eq!(m.cpus[0].hw.lists.lr[0] >> 62, 0);
    assert_eq!(m.load32(0, UART + spec::MIS), 0);
}

#[test]
fn a_level_interrupt_that_nobody_quietens_comes_again() {
    let mut m = TestMachine::new(1);
    m.enable_uart_interrupt();
    m.store32(0, UART + spec::IMSC, spec::INT_RX.into());
    m.uart.lock().receive(b"x");
    for _ in 0..3 {
        m.enter(0);
        assert_eq!(m.cpus[0].hw.lists.acknowledge(), map::PL011_INTID);
        m.cpus[0].hw.lists.end(map::PL011_INTID);
        m.maintain(0);
    }
    assert_eq!(m.load(0, UART + spec::DR, B1), b'x'.into());
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), vgic::fakes::SPURIOUS, "read: the wire is low");
}

#[test]
fn a_routed_interrupt_wakes_the_vcpu_that_it_is_for() {
    let mut m = TestMachine::new(2);
    m.enable_uart_interrupt();
    m.store(0, GICD + 0x6000 + 8 * UART_INTID, B8, 1);
    m.store32(0, UART + spec::IMSC, spec::INT_RX.into());
    m.waker.take();
    m.uart.lock().receive(b"x");
    assert_eq!(m.waker.take(), [Asked::Wake(1)]);
    assert!(m.vm.port(0).unwrap().requests().is_empty());
    m.enter(0);
    m.enter(1);
    assert_eq!(m.cpus[0].hw.lists.lr[0], 0);
    assert_eq!(m.cpus[1].hw.lists.lr[0], UART_LR | LR_PENDING);
}

#[test]
fn loads_extend_end_to_end() {
    let mut m = TestMachine::new(1);
    let before = 0x1111_2222_3333_4444;
    // What the receiver holds, the access, what register 5 has after.
    let byte = |signed: bool, x: bool| {
        let load = Abort::load(UART).rt(5).size(B1);
        let load = if signed { load.signed() } else { load };
        if x { load.x() } else { load }
    };
    for (value, access, want) in [
        (0x80, byte(false, false), 0x80),
        (0x80, byte(true, false), 0xffff_ff80),
        (0x80, byte(true, true), 0xffff_ffff_ffff_ff80),
        (0x7f, byte(true, false), 0x7f),
        (0x7f, byte(true, true), 0x7f),
        (0xff, Abort::load(UART).rt(5).size(B2).signed().x(), 0xff),
        (0xff, Abort::load(UART).rt(5).size(B4).signed().x(), 0xff),
    ] {
        assert_eq!(m.uart.lock().receive(&[value]), 1);
        m.cpus[0].vcpu.frame.set_reg(5, before);
        m.complete(0, access.raw());
        assert_eq!(m.cpus[0].x(5), want, "{value:#x} by {:#x}", access.esr);
    }
    // GICD_IROUTER has all 64 bits, GICD_TYPER bit 31 clear and bit 24 set: half words of both signs.
    m.store(0, GICD + 0x6000 + 8 * UART_INTID, B8, 0xff_80ff_ffff);
    m.complete(0, Abort::load(GICD + 0x6000 + 8 * UART_INTID).size(B4).signed().x().raw());
    assert_eq!(m.cpus[0].x(1), 0xffff_ffff_80ff_ffff, "ldrsw");
    m.complete(0, Abort::load(GICD + 0x6000 + 8 * UART_INTID).size(B8).x().raw());
    assert_eq!(m.cpus[0].x(1), 0xff_80ff_ffff, "ldr x");
}

#[test]
fn the_zero_register_stores_zero_and_takes_nothing() {
    let mut m = TestMachine::new(1);
    m.store32(0, UART + spec::IMSC, 0x7ff);
    m.complete(0, Abort::store(UART + spec::IMSC).rt(31).raw());
    assert_eq!(m.load32(0, UART + spec::IMSC), 0);
    let before = m.cpus[0].vcpu.frame.x;
    m.complete(0, Abort::load(UART + spec::FR).rt(31).raw());
    assert_eq!(m.cpus[0].vcpu.frame.x, before);
}

/// Gives vCPU 0 an exit that it pays for with an exception: ESR, FAR, vector.
fn refused(m: &mut TestMachine, raw: RawExit) -> (u64, u64, u64) {
    let before: GuestFrame = m.cpus[0].vcpu.frame.clone();
    let count = m.cpus[0].vcpu.counts.refused;
    assert_eq!(m.exit(0, raw), Next::Resume);
    assert_eq!(m.cpus[0].vcpu.counts.refused, count + 1);
    let taken = m.taken(0, &before);
    m.cpus[0].vcpu.frame = before;
    taken
}

const NOWHERE: u64 = 0x0b00_0ff0;

#[test]
fn an_access_to_nothing_is_an_external_abort() {
    let mut m = TestMachine::new(1);
    let at = VA | 0xff0;
    assert_eq!(refused(&mut m, Abort::load(NOWHERE).raw()), (0x9600_0010, at, 0x200));
    assert_eq!(refused(&mut m, Abort::store(NOWHERE).size(B1).raw()), (0x9600_0050, at, 0x200));
    assert_eq!(m.vm.bus().refusals().no_device(), 2);
    // A program's, in either state.
    for (state, vector) in [(0, 0x400), (pstate::AARCH32 | pstate::T, 0x600)] {
        m.cpus[0].vcpu.frame.pstate = state;
        assert_eq!(refused(&mut m, Abort::load(NOWHERE).raw()), (0x9200_0010, at, vector));
    }
}

#[test]
fn what_the_syndrome_does_not_describe_is_an_external_abort() {
    let mut m = TestMachine::new(1);
    let at = VA | 0xff0;
    // ldp, a vector load, and an ordinary store with write-back: no valid syndrome, even where a device is.
    assert_eq!(refused(&mut m, Abort::load(UART | 0xff0).clear(24).raw()), (0x9600_0010, at, 0x200));
    assert_eq!(refused(&mut m, Abort::store(UART | 0xff0).clear(24).raw()), (0x9600_0050, at, 0x200));
    assert!(m.output.bytes().is_empty());
    // The guest's own table walk went there; its registers say that it walks none, so the level is all that stage 2 knows.
    for level in 0..4 {
        let walk = Abort::load(NOWHERE).bit(7).status(0b100 | level);
        assert_eq!(refused(&mut m, walk.raw()), (0x9600_0014 | level, at, 0x200));
    }
    // A real external abort of the guest's own memory, without an address.
    let external = Abort::load(NOWHERE).status(0x10).bit(10);
    let old = 0x5555;
    trap::El1State::write(&mut m.cpus[0].hw.el1, trap::El1Reg::Far, old);
    assert_eq!(refused(&mut m, external.raw()), (0x9600_0410, old, 0x200));
    // A fetch from nothing, and from a device.
    for ipa in [NOWHERE, UART] {
        let mut fetch = Abort::load(ipa).clear(24).clear(22).clear(23).clear(16).raw();
        fetch.esr ^= 0x4 << 26;
        assert_eq!(refused(&mut m, fetch), (0x8600_0010, VA | (ipa & 0xfff), 0x200));
    }
}

#[test]
fn cache_maintenance_of_a_device_is_skipped() {
    let mut m = TestMachine::new(1);
    let before = m.cpus[0].vcpu.frame.clone();
    m.complete(0, Abort::store(NOWHERE).bit(8).clear(24).raw());
    m.cpus[0].vcpu.frame.pc -= 4;
    assert_eq!(m.cpus[0].vcpu.frame, before);
}

#[test]
fn unaligned_and_crossing_accesses_are_external_aborts() {
    let mut m = TestMachine::new(1);
    for (ipa, size) in [
        (UART + 2, B4),
        (UART + 1, B2),
        (GICD + 0x102, B4),
        (sgi_frame(0) + 0x101, B2),
        // Over the end of a window.
        (UART + 0xffe, B4),
        (GICD + 0xfffc, B8),
        (GICR + map::GICR_STRIDE - 4, B8),
        // Into one.
        (UART - 2, B4),
        (GICD - 4, B8),
    ] {
        let (esr, far, vector) = refused(&mut m, Abort::load(ipa).size(size).raw());
        assert_eq!((esr, far, vector), (0x9600_0010, VA | (ipa & 0xfff), 0x200), "{ipa:#x}");
        let (esr, ..) = refused(&mut m, Abort::store(ipa).size(size).raw());
        assert_eq!(esr, 0x9600_0050, "{ipa:#x}");
    }
    let refusals = m.vm.bus().refusals();
    assert_eq!(refusals.refused(AccessError::Unaligned) + refusals.no_device(), 18, "each is counted");
}

#[test]
fn registers_that_are_not_there_read_zero_and_ignore_writes() {
    let mut m = TestMachine::new(1);
    for ipa in [UART + 0x100, UART + 0x90, GICD + 0x300c, sgi_frame(0) + 0x700] {
        m.store32(0, ipa, u32::MAX);
        assert_eq!(m.load32(0, ipa), 0, "{ipa:#x}");
    }
    // A size that the register does not take.
    m.store(0, UART + spec::IMSC, B8, u64::MAX);
    assert_eq!((m.load32(0, UART + spec::IMSC), m.load(0, UART + spec::IMSC, B8)), (0, 0));
    assert_eq!(m.load(0, GICD + 4, B1), 0);
    assert!(m.vm.bus().refusals().refused(AccessError::BadSize) >= 3);
}

#[test]
fn own_interrupt_state_is_folded_without_anybody_else() {
    let mut m = TestMachine::new(1);
    m.enable_uart_interrupt();
    m.store32(0, UART + spec::IMSC, spec::INT_RX.into());
    m.uart.lock().receive(b"x");
    m.enter(0);
    assert_eq!(m.load32(0, GICD + 0x204), 2, "pending, in the list register");
    assert!(m.cpus[0].vcpu.flush_due, "the list registers are folded: a flush is due before the next entry");
    m.enter(0);
    m.cpus[0].hw.lists.acknowledge();
    assert_eq!(m.load32(0, GICD + 0x304), 2, "active");
    m.enter(0);
    m.store32(0, GICD + 0x384, 2);
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.lr[0], UART_LR | LR_PENDING, "deactivated, and the wire is still high");
}

#[test]
fn a_gicv2_is_reached_by_memory_alone() {
    let mut m = TestMachine::gicv2(3);
    let gicc_dir = map::GICC_BASE.as_u64() + vgic::V2_CPU_TRAPPED;
    m.store32(0, GICD, 1);
    m.waker.take();
    // From two senders to vCPU 0, which ends each by GICC_DIR.
    for by in [1, 2] {
        m.store32(by, GICD + 0xf00, 1 << 16 | 5);
        assert_eq!(m.waker.take(), [Asked::Wake(0)]);
    }
    m.cpus[0].hw.lists.guest_setup(0xff, true);
    for by in [1, 2] {
        m.enter(0);
        let iar = m.cpus[0].hw.lists.acknowledge();
        assert_eq!(iar, 5 | by << 10);
        m.cpus[0].hw.lists.end(iar);
        assert!(m.cpus[0].hw.lists.dir(iar), "GICC_DIR exits");
        m.store32(0, gicc_dir, iar);
    }
    m.enter(0);
    assert_eq!(m.cpus[0].hw.lists.acknowledge(), vgic::fakes::SPURIOUS);
    assert_eq!(m.load32(1, GICD + 0x800), 0x0202_0202, "banked");
    assert_eq!(m.load32(0, gicc_dir), 0);
    assert_eq!(m.vm.cpu().id_register(4, 0) >> 24 & 0xf, 0);
}

#[test]
fn another_vcpus_state_is_refused_until_it_is_folded() {
    let mut m = TestMachine::new(3);
    m.enable_private(1);
    m.msr(0, trap::sysreg::ICC_SGI1R_EL1, 5 << 24 | 1 << 1);
    m.enter(1);
    let at = sgi_frame(1) + 0x200;
    let before = (m.cpus[0].vcpu.frame.clone(), m.vm.vgic().lock().save());
    let Next::Fold(whom) = m.exit(0, Abort::load(at).raw()) else { panic!("vCPU 1 runs") };
    assert_eq!(whom, vgic::VcpuSet::one(1));
    assert_eq!((m.cpus[0].vcpu.frame.clone(), m.vm.vgic().lock().save()), before, "no side effect");
    assert_eq!(m.load32(0, at), 1 << 5, "after the fold");
    // What was acknowledged meanwhile is seen as such.
    m.enter(1);
    assert_eq!(m.cpus[1].hw.lists.acknowledge(), 5);
    assert_eq!((m.load32(0, at), m.load32(0, at + 0x100)), (0, 1 << 5));
}

#[test]
fn an_interrupt_exit_and_an_serror_are_what_they_are() {
    let mut m = TestMachine::new(1);
    let before = m.cpus[0].vcpu.frame.clone();
    for vector in [Vector::Irq, Vector::Fiq] {
        assert_eq!(m.exit(0, RawExit { vector, esr: u64::MAX, far: 0, hpfar: 0 }), Next::Resume);
    }
    let serror = RawExit { vector: Vector::SError, esr: 0x2f << 26 | 0x11, far: 0, hpfar: 0 };
    assert_eq!(m.exit(0, serror), Next::Stop(crate::StopReason::SystemError { iss: 0x11 }));
    assert_eq!(m.cpus[0].vcpu.frame, before);
}

#[test]
fn no_device_lies_over_ram_or_the_interrupt_controller() {
    let uart = TestMachine::new(1).uart;
    let mut vm = TestMachine::new(2).vm;
    let vm = std::sync::Arc::get_mut(&mut vm).unwrap();
    let ram = map::RAM_BASE;
    assert_eq!(vm.attach(span(ram.as_u64() - 1, 2), uart.clone()), Err(BuildError::Taken(ram)));
    assert_eq!(vm.attach(span(GICD + 0xffff, 1), uart.clone()), Err(BuildError::Taken(map::GICD_BASE)));
    assert_eq!(vm.attach(span(GICR + 0x3_ffff, 1), uart.clone()), Err(BuildError::Taken(map::GICR_BASE)));
    let taken = span(UART, map::PL011_SIZE);
    assert_eq!(vm.attach(taken, uart.clone()), Err(BuildError::Window(bus::BusError::Overlap(taken))));
    assert_eq!(vm.attach(span(GICR + 0x4_0000, 1), uart), Ok(()));
}

/// A device whose stores take three steps each, while its memory is there.
struct Slow(u32);

impl bus::MmioDevice for Slow {
    fn read(&mut self, _: bus::Offset, _: addr::AccessSize) -> Result<u64, AccessError> {
        Ok(self.0.into())
    }
    fn write(&mut self, _: bus::Offset, _: addr::AccessSize, _: u64) -> Result<(), AccessError> {
        self.0 += 1;
        if self.0.is_multiple_of(3) { Ok(()) } else { Err(AccessError::Again) }
    }
    fn reset(&mut self) {}
    fn quiesce(&mut self) {
        self.0 = 99;
    }
}

#[test]
fn a_store_of_several_steps_is_made_again_and_others_have_a_turn_in_between() {
    const SLOW: u64 = 0x0a00_0000;
    let mut m = TestMachine::new(1);
    let slow = alloc::sync::Arc::new(sync::SpinLock::new(sync::Rank::Device, Slow(0)));
    alloc::sync::Arc::get_mut(&mut m.vm).unwrap().attach(span(SLOW, 0x200), slow).unwrap();
    let before = m.cpus[0].vcpu.frame.clone();
    for step in 0..3 {
        m.cpus[0].vcpu.flush_due = false;
        assert_eq!(m.exit(0, Abort::store(SLOW).raw()), Next::Resume);
        let frame = &m.cpus[0].vcpu.frame;
        assert_eq!(frame.pc, before.pc + if step == 2 { 4 } else { 0 }, "step {step}");
        assert_eq!(m.cpus[0].vcpu.flush_due, step != 2, "step {step}: the gate");
    }
    assert_eq!(m.load32(0, SLOW), 3);
    m.vm.quiesce();
    assert_eq!(m.load32(0, SLOW), 99, "every device is told");
}
