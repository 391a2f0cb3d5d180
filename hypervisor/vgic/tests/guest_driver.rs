//! The `arm-gic` crate as the guest's driver: its loads and stores go to the controller's registers, its system registers
//! are fakes that this file hands on to the model of the virtual CPU interface. Somebody else's reading of the GIC
//! specification against ours.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use addr::AccessSize;
use arm_gic::gicv3::registers::{Gicd, GicdCtlr, GicrSgi};
use arm_gic::gicv3::{
    GicCpuInterface, GicDistributorContext, GicRedistributorContext, GicRedistributorIterator, GicV3, Group,
    HIGHEST_NS_PRIORITY, SecureIntGroup, SgiTarget, SgiTargetGroup,
};
use arm_gic::{IntId, InterruptGroup, Trigger};
use arm_sysregs::el1::fake::SYSREGS;
use arm_sysregs::el1::registers::{IccIar1El1, IccIgrpen1El1};
use proptest::prelude::*;
use safe_mmio::{UniqueMmioPointer, field, field_shared};
use vgic::fakes::{Cpu, SPURIOUS};
use vgic::{Config, DIST_SIZE, REDIST_STRIDE, Refusal, Vgic};

const VCPUS: usize = 4;
const SPIS: usize = 96;
const LIST_REGISTERS: usize = 4;
const FRAMES: usize = (DIST_SIZE + VCPUS as u64 * REDIST_STRIDE) as usize;

/// vCPU 3 is in a cluster of its own.
const AFFINITIES: [u32; VCPUS] = [0, 1, 2, 0x0102_0300];

/// As long as the window of all frames, so that the driver's pointers point to something; nobody reads or writes it.
#[repr(C, align(65536))]
struct Window([u8; FRAMES]);

struct Machine {
    vgic: Vgic,
    /// By vCPU, all loaded and running.
    cpus: Vec<Cpu>,
    window: Box<Window>,
    /// Who executes the driver's code.
    by: u32,
    folds: usize,
}

thread_local!(static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) });

/// The fake system registers belong to all threads.
static SYSTEM_REGISTERS: Mutex<()> = Mutex::new(());

impl Machine {
    /// An access of the driver; the kernel's part where list registers have to be folded.
    fn access<T>(&mut self, act: impl Fn(&mut Vgic, u32) -> Result<T, Refusal>) -> T {
        let set = match act(&mut self.vgic, self.by) {
            Ok(value) => return value,
            Err(Refusal::Fold(set)) => set,
            Err(Refusal::Access(error)) => panic!("the driver's access is refused: {error:?}"),
        };
        self.folds += 1;
        for v in set.iter() {
            self.vgic.sync(v, &mut self.cpus[v as usize]);
        }
        let value = act(&mut self.vgic, self.by).expect("folded");
        for v in set.iter() {
            self.vgic.flush(v, &mut self.cpus[v as usize]);
        }
        value
    }

    fn offset(&self, at: *const u8) -> u64 {
        let offset = at.addr().checked_sub((&raw const *self.window).addr()).expect("below the window");
        assert!(offset < FRAMES, "above the window");
        offset as u64
    }

    fn read(&mut self, at: *const u8, size: AccessSize) -> u64 {
        let offset = self.offset(at);
        match offset.checked_sub(DIST_SIZE) {
            None => self.access(|vgic, by| vgic.dist_read(by, offset, size)),
            Some(offset) => self.access(|vgic, by| vgic.redist_read(by, offset, size)),
        }
    }

    fn write(&mut self, at: *mut u8, size: AccessSize, value: u64) {
        let offset = self.offset(at);
        match offset.checked_sub(DIST_SIZE) {
            None => self.access(|vgic, by| vgic.dist_write(by, offset, size, value)),
            Some(offset) => self.access(|vgic, by| vgic.redist_write(by, offset, size, value)),
        }
        self.kick();
    }

    /// Everybody sees what is new for them.
    fn kick(&mut self) {
        for v in self.vgic.take_notify().iter() {
            self.vgic.flush(v, &mut self.cpus[v as usize]);
        }
    }
}

fn with<T>(act: impl FnOnce(&mut Machine) -> T) -> T {
    MACHINE.with_borrow_mut(|machine| act(machine.as_mut().expect("a guest")))
}

struct Routed;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $size:expr) => {
        unsafe fn $read(at: *const $type) -> $type {
            with(|machine| machine.read(at.cast(), $size)) as $type
        }
        unsafe fn $write(at: *mut $type, value: $type) {
            with(|machine| machine.write(at.cast(), $size, value.into()));
        }
    };
}

// Each function makes one access of its width to the controller, and touches no memory behind the pointer.
impl safe_mmio::MmioOps for Routed {
    access!(read_u8, write_u8, u8, AccessSize::B1);
    access!(read_u16, write_u16, u16, AccessSize::B2);
    access!(read_u32, write_u32, u32, AccessSize::B4);
    access!(read_u64, write_u64, u64, AccessSize::B8);
}

safe_mmio::set_mmio_ops!(Routed);

/// A guest with the driver.
struct Guest {
    gic: GicV3<'static>,
    redistributors: NonNull<GicrSgi>,
    _alone: MutexGuard<'static, ()>,
}

impl Guest {
    /// The driver is made and has done nothing; all vCPUs run, with their CPU interfaces off.
    fn new() -> Self {
        let alone = SYSTEM_REGISTERS.lock().unwrap_or_else(PoisonError::into_inner);
        SYSREGS.lock().unwrap_or_else(PoisonError::into_inner).reset();
        let config = Config {
            vcpus: VCPUS,
            spis: SPIS,
            list_registers: LIST_REGISTERS,
            priority_bits: 5,
            affinities: AFFINITIES.to_vec(),
            face: vgic::Face::V3,
        };
        let mut vgic = Vgic::new(&config).expect("a good configuration");
        let mut cpus = vec![Cpu::new(LIST_REGISTERS); VCPUS];
        for (n, cpu) in cpus.iter_mut().enumerate() {
            vgic.load(n as u32, cpu);
            vgic.flush(n as u32, cpu);
        }
        let mut window = Box::new(Window([0; FRAMES]));
        let start = NonNull::new((&raw mut *window).cast::<u8>()).expect("not null");
        MACHINE.set(Some(Machine { vgic, cpus, window, by: 0, folds: 0 }));
        // SAFETY: the window is long enough for both, lives as long as the machine, and is accessed by the driver only, and
        // that through `Routed`.
        let (dist, redistributors) =
            unsafe { (UniqueMmioPointer::new(start.cast::<Gicd>()), start.add(DIST_SIZE as usize).cast::<GicrSgi>()) };
        // SAFETY: as above; the distance of the frames is that of GICR_TYPER.
        let gic = unsafe { GicV3::new(dist, redistributors, VCPUS) }.expect("a GICv3");
        Self { gic, redistributors, _alone: alone }
    }

    /// As a guest's kernel does it: the boot CPU sets all up, the others their own interface.
    fn booted() -> Self {
        let mut guest = Self::new();
        guest.gic.setup(0);
        guest.open_interface(0);
        for cpu in 1..VCPUS {
            with(|m| m.by = cpu as u32);
            guest.gic.init_cpu(cpu);
            GicCpuInterface::enable_group1(true);
            guest.open_interface(cpu);
        }
        with(|m| m.by = 0);
        guest
    }

    /// The CPU interface of `cpu` as the driver's writes of ICC_* left it, and its priority mask open.
    fn open_interface(&self, cpu: usize) {
        GicCpuInterface::set_priority_mask(0xff);
        let registers = SYSREGS.lock().unwrap();
        assert!(registers.icc_igrpen1_el1.contains(IccIgrpen1El1::ENABLE));
        let (mask, eoi_mode) = (registers.icc_pmr_el1.bits() as u8, registers.icc_ctlr_el1.bits() & 2 != 0);
        with(|m| m.cpus[cpu].guest_setup(mask, eoi_mode));
    }

    fn send_sgi(&self, by: u32, intid: IntId, target: SgiTarget, group: SgiTargetGroup) {
        SYSREGS.lock().unwrap().reset();
        GicCpuInterface::send_sgi(intid, target, group).expect("an SGI");
        let value = SYSREGS.lock().unwrap().icc_sgi1r_el1.bits();
        // Writes of the other two registers are ignored: group 0 does not exist here.
        if group == SgiTargetGroup::CurrentGroup1 {
            with(|m| {
                m.vgic.sgi1r(by, value);
                m.kick();
            });
        }
    }

    fn acknowledge(&self, cpu: usize) -> Option<IntId> {
        let intid = with(|m| m.cpus[cpu].acknowledge());
        SYSREGS.lock().unwrap().icc_iar1_el1 = IccIar1El1::from_bits_retain(intid.into());
        let seen = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1);
        assert_eq!(seen.map(IntId::raw_value), (intid != SPURIOUS).then_some(intid));
        seen
    }

    fn end(&self, cpu: usize, intid: IntId) {
        GicCpuInterface::end_interrupt(intid, InterruptGroup::Group1);
        let written = SYSREGS.lock().unwrap().icc_eoir1_el1.bits();
        with(|m| {
            m.cpus[cpu].end(written as u32);
            if m.cpus[cpu].maintenance() {
                m.vgic.maintenance(cpu as u32, &mut m.cpus[cpu]);
                m.vgic.flush(cpu as u32, &mut m.cpus[cpu]);
            }
        });
    }

    /// Takes and ends everything, best priority first.
    fn serve(&self, cpu: usize) -> Vec<IntId> {
        std::iter::from_fn(|| self.acknowledge(cpu).inspect(|intid| self.end(cpu, *intid))).collect()
    }

    /// The distributor's registers themselves.
    fn gicd(&mut self) -> UniqueMmioPointer<'_, Gicd> {
        // SAFETY: as in `new`; the driver does not run while this borrow lasts.
        with(|m| unsafe { UniqueMmioPointer::new(NonNull::from(&mut *m.window).cast()) })
    }

    /// GICD_ISPENDR<word>.
    fn pend(&mut self, word: usize, bits: u32) {
        let mut gicd = self.gicd();
        field!(gicd, ispendr).get(word).unwrap().write(bits);
    }

    /// The registers of one redistributor.
    fn gicr(&mut self, cpu: usize) -> UniqueMmioPointer<'_, GicrSgi> {
        // SAFETY: as in `new`; the driver does not run while this borrow lasts.
        unsafe { UniqueMmioPointer::new(self.redistributors.add(cpu)) }
    }

    fn wire(&self, spi: IntId, high: bool) {
        with(|m| {
            m.vgic.set_spi_level(spi.raw_value(), high);
            m.kick();
        });
    }
}

#[test]
fn the_driver_finds_the_controller_that_was_made() {
    let mut guest = Guest::new();
    assert_eq!((guest.gic.typer().num_spis(), guest.gic.typer().num_espis()), (SPIS as u32, 0));
    assert_eq!(guest.gic.distributor().pidr2().arch_rev(), 3);
    for (cpu, affinity) in AFFINITIES.into_iter().enumerate() {
        let typer = guest.gic.gicr_typer(cpu).expect("it exists");
        let affinity = u64::from(affinity);
        assert_eq!(typer.core_mpidr(), (affinity & 0xff00_0000) << 8 | affinity & 0xff_ffff);
        assert_eq!((typer.max_eppi_count(), typer.virtual_lpis_supported()), (0, false));
        assert_eq!(typer.last_redistributor(), cpu + 1 == VCPUS);
    }
    // SAFETY: as in `Guest::new`; the driver does not run meanwhile.
    let frames = unsafe { GicRedistributorIterator::new(guest.redistributors) }.expect("a GICv3");
    assert_eq!(frames.count(), VCPUS, "the last one says so");
}

#[test]
fn set_up_leaves_what_the_driver_wrote() {
    let mut guest = Guest::booted();
    let mut gicd = guest.gicd();
    let control = field_shared!(gicd, ctlr).read();
    assert!(
        control.contains(GicdCtlr::EnableGrp1NS | GicdCtlr::ARE_S | GicdCtlr::DS) && !control.contains(GicdCtlr::RWP)
    );
    for n in 1..=SPIS / 32 {
        assert_eq!(field!(gicd, igroupr).get(n).unwrap().read(), u32::MAX);
        assert_eq!(field!(gicd, isenabler).get(n).unwrap().read(), 0);
        assert_eq!(field!(gicd, icfgr).get(2 * n).unwrap().read(), 0);
        assert_eq!(field!(gicd, ipriorityr).get(8 * n).unwrap().read(), 0x8080_8080);
    }
    assert_eq!(field!(gicd, ipriorityr).get(8 * (SPIS / 32 + 1)).unwrap().read(), 0, "there is no such interrupt");
    for cpu in 0..VCPUS {
        let mut gicr = guest.gicr(cpu);
        let mut sgi = field!(gicr, sgi);
        assert_eq!(field!(sgi, igroupr).get(0).unwrap().read(), u32::MAX);
        assert_eq!(field!(sgi, isenabler).get(0).unwrap().read(), 0);
        assert_eq!(field!(sgi, ipriorityr).get(0).unwrap().read(), 0x8080_8080);
        assert_eq!(field!(sgi, icfgr).get(0).unwrap().read(), 0xaaaa_aaaa, "SGIs are edges, whatever is written");
    }
}

#[test]
fn the_wake_handshake_ends() {
    let mut guest = Guest::new();
    assert_eq!(guest.gic.redistributor_mark_core_asleep(2), Err(arm_gic::gicv3::GicError::AlreadyAsleep));
    assert_eq!(guest.gic.redistributor_mark_core_awake(2), Ok(()));
    assert_eq!(guest.gic.redistributor_mark_core_awake(2), Err(arm_gic::gicv3::GicError::AlreadyAwake));
    assert_eq!(guest.gic.redistributor_mark_core_asleep(2), Ok(()));
}

#[test]
fn sgis_reach_whom_the_driver_names() {
    let mut guest = Guest::booted();
    for cpu in 0..VCPUS {
        for n in 0..16 {
            guest.gic.enable_interrupt(IntId::sgi(n), Some(cpu), true).unwrap();
        }
    }
    let list = |aff3, aff2, aff1, target_list| SgiTarget::List {
        affinity3: aff3,
        affinity2: aff2,
        affinity1: aff1,
        target_list,
    };
    let group1 = SgiTargetGroup::CurrentGroup1;
    guest.send_sgi(0, IntId::sgi(3), list(0, 0, 0, 0b110), group1);
    guest.send_sgi(1, IntId::sgi(4), SgiTarget::All, group1);
    guest.send_sgi(2, IntId::sgi(5), list(1, 2, 3, 0b1), group1);
    guest.send_sgi(2, IntId::sgi(6), list(1, 2, 3, 0b10), group1);
    guest.send_sgi(3, IntId::sgi(7), list(0, 0, 0, 0b1000), group1);
    guest.send_sgi(0, IntId::sgi(8), SgiTarget::All, SgiTargetGroup::Group0);
    guest.send_sgi(0, IntId::sgi(9), list(0, 0, 0, 0xffff), SgiTargetGroup::OtherGroup1);
    let sgis = |numbers: &[u32]| numbers.iter().map(|n| IntId::sgi(*n)).collect::<Vec<_>>();
    assert_eq!(guest.serve(0), sgis(&[4]));
    assert_eq!(guest.serve(1), sgis(&[3]), "All is all but the sender");
    assert_eq!(guest.serve(2), sgis(&[3, 4]));
    assert_eq!(guest.serve(3), sgis(&[4, 5]));
}

#[test]
fn a_level_interrupt_goes_through_its_whole_life() {
    let mut guest = Guest::booted();
    let (spi, other) = (IntId::spi(7), IntId::spi(8));
    for (intid, priority) in [(spi, 0x90), (other, 0x40)] {
        guest.gic.enable_interrupt(intid, None, true).unwrap();
        guest.gic.set_interrupt_priority(intid, None, priority).unwrap();
        guest.gic.distributor().set_routing(intid, Some(1)).unwrap();
    }
    guest.wire(spi, true);
    assert_eq!((guest.acknowledge(0), guest.acknowledge(1)), (None, Some(spi)));
    // A better one preempts; the driver reads both as active, from another vCPU.
    guest.wire(other, true);
    assert_eq!(guest.acknowledge(1), Some(other));
    let folds = with(|m| m.folds);
    let mut gicd = guest.gicd();
    assert_eq!(field!(gicd, isactiver).get(1).unwrap().read(), 0b11 << 7);
    assert_eq!(field!(gicd, ispendr).get(1).unwrap().read(), 0b11 << 7, "the wires are high");
    assert!(with(|m| m.folds) > folds, "the truth was in list registers");
    guest.wire(other, false);
    guest.end(1, other);
    assert_eq!(guest.acknowledge(1), None);
    guest.end(1, spi);
    assert_eq!(guest.acknowledge(1), Some(spi), "still high");
    guest.wire(spi, false);
    guest.end(1, spi);
    assert_eq!(guest.serve(1), []);
    let mut gicd = guest.gicd();
    assert_eq!((field!(gicd, isactiver).get(1).unwrap().read(), field!(gicd, ispendr).get(1).unwrap().read()), (0, 0));
}

#[test]
fn masks_priorities_and_switches_hold_back() {
    let mut guest = Guest::booted();
    let edges: Vec<IntId> = (0..6).map(IntId::spi).collect();
    for (n, intid) in edges.iter().enumerate() {
        guest.gic.set_trigger(*intid, None, Trigger::Edge).unwrap();
        guest.gic.set_interrupt_priority(*intid, None, 0xf0 - 0x10 * n as u8).unwrap();
        guest.gic.enable_interrupt(*intid, None, true).unwrap();
    }
    // More than there are list registers, pended by hand; the best priorities come first.
    guest.pend(1, 0x3f);
    guest.gic.enable_interrupt(edges[5], None, false).unwrap();
    with(|m| m.cpus[0].guest_setup(0xd0, false));
    assert_eq!(guest.serve(0), [edges[4], edges[3]], "0xd0 itself is masked");
    guest.gic.gicd_clear_control(GicdCtlr::EnableGrp1NS);
    with(|m| m.cpus[0].guest_setup(0xff, false));
    assert_eq!(guest.serve(0), []);
    guest.gic.gicd_set_control(GicdCtlr::EnableGrp1NS);
    assert_eq!(guest.serve(0), [edges[2], edges[1], edges[0]]);
    guest.gic.enable_all_interrupts(true);
    assert_eq!(guest.serve(0), [edges[5]]);
    // An interrupt that goes to anybody goes to somebody who is awake.
    guest.gic.redistributor_mark_core_asleep(0).unwrap();
    guest.gic.distributor().set_routing(edges[0], None).unwrap();
    let mut gicd = guest.gicd();
    field!(gicd, setspi_nsr).write(edges[0].raw_value());
    assert_eq!((guest.serve(0), guest.serve(1)), (vec![], vec![edges[0]]));
}

const CONTEXT_SPIS: usize = GicDistributorContext::spi_count(SPIS);

#[test]
fn the_drivers_save_and_restore_carry_everything_over() {
    let mut guest = Guest::booted();
    for n in 0..SPIS as u32 {
        let spi = IntId::spi(n);
        guest.gic.set_interrupt_priority(spi, None, (n * 8) as u8).unwrap();
        guest.gic.set_trigger(spi, None, if n % 3 == 0 { Trigger::Edge } else { Trigger::Level }).unwrap();
        guest.gic.enable_interrupt(spi, None, n % 5 != 0).unwrap();
        guest.gic.distributor().set_routing(spi, Some(u64::from(n) % 3)).unwrap();
    }
    guest.gic.enable_interrupt(IntId::ppi(4), Some(1), true).unwrap();
    guest.gic.enable_interrupt(IntId::sgi(2), Some(0), true).unwrap();
    guest.gic.set_interrupt_priority(IntId::ppi(4), Some(1), 0x48).unwrap();
    for word in 1..=SPIS / 32 {
        guest.pend(word, 0x8421_1248);
    }
    guest.send_sgi(1, IntId::sgi(2), SgiTarget::All, SgiTargetGroup::CurrentGroup1);
    // One is active at each of three vCPUs.
    let active: Vec<_> = (0..3).map(|cpu| guest.acknowledge(cpu).expect("something is pending")).collect();

    let save = |guest: &mut Guest| {
        let mut dist = GicDistributorContext::<CONTEXT_SPIS, 0>::new();
        guest.gic.distributor().save(&mut dist).unwrap();
        let redist = (0..VCPUS).map(|cpu| {
            let mut context = GicRedistributorContext::<1>::new();
            guest.gic.redistributor(cpu).unwrap().save(&mut context).unwrap();
            context
        });
        (dist, redist.collect::<Vec<_>>())
    };
    let saved = save(&mut guest);
    assert!(with(|m| m.folds) > 0);
    drop(guest);

    let mut guest = Guest::new();
    assert_ne!(save(&mut guest), saved);
    guest.gic.distributor().restore(&saved.0).unwrap();
    for cpu in 0..VCPUS {
        guest.gic.redistributor(cpu).unwrap().restore(&saved.1[cpu]).unwrap();
    }
    assert_eq!(save(&mut guest), saved);
    for (cpu, intid) in active.into_iter().enumerate() {
        let mut gicd = guest.gicd();
        let word = field!(gicd, isactiver).get(intid.raw_value() as usize / 32).unwrap().read();
        let mut gicr = guest.gicr(cpu);
        let mut sgi = field!(gicr, sgi);
        let private = field!(sgi, isactiver).get(0).unwrap().read();
        let seen = if intid.is_private() { private } else { word };
        assert_ne!(seen & 1 << (intid.raw_value() % 32), 0, "{intid:?} is active on {cpu}");
    }
}

/// One call of the driver.
#[derive(Clone, Copy, Debug)]
enum Call {
    Enable(bool),
    Priority(u8),
    Trigger(bool),
    Pend(bool),
    Activate(bool),
    Group(bool),
    Serve,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        any::<bool>().prop_map(Call::Enable),
        any::<u8>().prop_map(Call::Priority),
        any::<bool>().prop_map(Call::Trigger),
        any::<bool>().prop_map(Call::Pend),
        any::<bool>().prop_map(Call::Activate),
        any::<bool>().prop_map(Call::Group),
        Just(Call::Serve),
    ]
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Irq {
    enabled: bool,
    priority: u8,
    edge: bool,
    pending: bool,
    active: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any calls on any interrupt, with vCPU 0 (and the owner of a private one) running: the registers read back what a
    /// simple table of interrupts has.
    #[test]
    fn what_the_driver_reads_is_what_it_wrote(
        calls in proptest::collection::vec((call(), 0..32 + SPIS as u32, 0..VCPUS), 1..120),
    ) {
        let mut guest = Guest::booted();
        let mut table: BTreeMap<(usize, u32), Irq> = BTreeMap::new();
        for (call, n, cpu) in calls {
            // The virtual timer's interrupt is linked to hardware that is not here.
            let n = if n == vgic::TIMER_PPI { 30 } else { n };
            let intid = if n < 16 { IntId::sgi(n) } else if n < 32 { IntId::ppi(n - 16) } else { IntId::spi(n - 32) };
            let view = if intid.is_private() { cpu } else { 0 };
            let fresh = Irq { priority: HIGHEST_NS_PRIORITY, edge: n < 16, ..Irq::default() };
            let irq = table.entry((view, n)).or_insert(fresh);
            let at = Some(view);
            match call {
                Call::Enable(on) => {
                    guest.gic.enable_interrupt(intid, at, on).unwrap();
                    irq.enabled = on;
                }
                Call::Priority(priority) => {
                    guest.gic.set_interrupt_priority(intid, at, priority).unwrap();
                    irq.priority = priority & 0xf8;
                }
                Call::Trigger(edge) => {
                    let trigger = if edge { Trigger::Edge } else { Trigger::Level };
                    guest.gic.set_trigger(intid, at, trigger).unwrap();
                    irq.edge = if intid.is_private() { irq.edge } else { edge };
                }
                // Everything is in group 1, whatever a guest would like.
                Call::Group(secure) => {
                    let group = if secure { Group::Secure(SecureIntGroup::Group0) } else { Group::Group1NS };
                    guest.gic.set_group(intid, at, group).unwrap();
                }
                Call::Pend(on) => {
                    set_bits(&mut guest, view, n, on, true);
                    irq.pending = on;
                }
                Call::Activate(on) => {
                    set_bits(&mut guest, view, n, on, false);
                    irq.active = on;
                }
                Call::Serve => {
                    for taken in guest.serve(cpu) {
                        let view = if taken.is_private() { cpu } else { 0 };
                        let irq = table.get_mut(&(view, taken.raw_value())).expect("somebody made it pending");
                        prop_assert!(irq.enabled && irq.pending && !irq.active, "{taken:?} {irq:?}");
                        irq.pending = false;
                    }
                }
            }
        }
        for ((view, n), irq) in table {
            prop_assert_eq!(read(&mut guest, view, n), irq, "{} of {}", n, view);
        }
    }
}

/// Sets or clears the pending or active bit by hand.
fn set_bits(guest: &mut Guest, view: usize, n: u32, on: bool, pending: bool) {
    let (word, bit) = (n as usize / 32, 1 << (n % 32));
    if n < 32 {
        let mut gicr = guest.gicr(view);
        let mut sgi = field!(gicr, sgi);
        match (pending, on) {
            (true, true) => field!(sgi, ispendr).get(0).unwrap().write(bit),
            (true, false) => field!(sgi, icpendr).get(0).unwrap().write(bit),
            (false, true) => field!(sgi, isactiver).get(0).unwrap().write(bit),
            (false, false) => field!(sgi, icactiver).get(0).unwrap().write(bit),
        }
    } else {
        let mut gicd = guest.gicd();
        match (pending, on) {
            (true, true) => field!(gicd, ispendr).get(word).unwrap().write(bit),
            (true, false) => field!(gicd, icpendr).get(word).unwrap().write(bit),
            (false, true) => field!(gicd, isactiver).get(word).unwrap().write(bit),
            (false, false) => field!(gicd, icactiver).get(word).unwrap().write(bit),
        }
    }
}

fn read(guest: &mut Guest, view: usize, n: u32) -> Irq {
    let (word, bit, byte) = (n as usize / 32, n % 32, 8 * (n % 4));
    let words = if n < 32 {
        let mut gicr = guest.gicr(view);
        let mut sgi = field!(gicr, sgi);
        [
            field!(sgi, isenabler).get(0).unwrap().read() >> bit,
            field!(sgi, ipriorityr).get(n as usize / 4).unwrap().read() >> byte,
            field!(sgi, icfgr).get(n as usize / 16).unwrap().read() >> (2 * (n % 16) + 1),
            field!(sgi, ispendr).get(0).unwrap().read() >> bit,
            field!(sgi, isactiver).get(0).unwrap().read() >> bit,
        ]
    } else {
        let mut gicd = guest.gicd();
        [
            field!(gicd, isenabler).get(word).unwrap().read() >> bit,
            field!(gicd, ipriorityr).get(n as usize / 4).unwrap().read() >> byte,
            field!(gicd, icfgr).get(n as usize / 16).unwrap().read() >> (2 * (n % 16) + 1),
            field!(gicd, ispendr).get(word).unwrap().read() >> bit,
            field!(gicd, isactiver).get(word).unwrap().read() >> bit,
        ]
    };
    let [enabled, priority, edge, pending, active] = words;
    let bit = |word: u32| word & 1 != 0;
    Irq { enabled: bit(enabled), priority: priority as u8, edge: bit(edge), pending: bit(pending), active: bit(active) }
}
