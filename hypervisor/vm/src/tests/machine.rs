//! The machine: a VM with its devices, one fake pCPU for each vCPU, and exits to give it.

use std::collections::HashMap;
use std::string::ToString;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use addr::{AccessSize, Ipa, Span, Va};
use bus::{Absent, GuestMemory};
use config::cpu_model::{CpuModel, HostIds};
use config::map;
use devices::pl011::{ByteSink, Pl011};
use devices::pl031::{Pl031, WallClock};
use guest_smccc::entropy::Drbg;
use guest_smccc::psci::{Psci, StartState};
use guest_smccc::{Env, ids};
use sync::{Rank, SpinLock};
use trap::{El1Reg, El1State, RawExit, SysRegId, Vector, decode, pstate, sysreg};
use vgic::fakes::Cpu;
use vgic::{Config, VcpuId, Vgic};

use crate::{DeviceHandle, Hw, Next, Parts, Probe, Requests, SpiLine, Stage1, Vcpu, VgicPort, Vm, VmId, Waker, handle};

/// List registers of each pCPU.
pub const LIST_REGISTERS: usize = 4;
pub const VBAR: u64 = 0xffff_8000_0001_0000;
/// Where the guest's code and devices are in its virtual memory; the low 12 bits are those of the IPA.
pub const VA: u64 = 0xffff_0000_0000_0000;
pub const ENTRY: Ipa = Ipa::new(0x4008_0000);
pub const UART: u64 = map::PL011_BASE.as_u64();
pub const GICD: u64 = map::GICD_BASE.as_u64();
pub const GICR: u64 = map::GICR_BASE.as_u64();

/// The guest's EL1 registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeEl1(pub [u64; 6]);

impl FakeEl1 {
    fn slot(reg: El1Reg) -> usize {
        match reg {
            El1Reg::Sctlr => 0,
            El1Reg::Vbar => 1,
            El1Reg::Elr => 2,
            El1Reg::Spsr => 3,
            El1Reg::Esr => 4,
            El1Reg::Far => 5,
        }
    }
}

impl El1State for FakeEl1 {
    fn read(&self, reg: El1Reg) -> u64 {
        self.0[Self::slot(reg)]
    }
    fn write(&mut self, reg: El1Reg, value: u64) {
        self.0[Self::slot(reg)] = value;
    }
}

/// A pCPU that records what it is told.
#[derive(Clone, Debug)]
pub struct FakeHw {
    pub lists: Cpu,
    pub el1: FakeEl1,
    /// The physical counter.
    pub now: u64,
    pub deadline: Option<u64>,
    /// How often the debug registers were to be brought in line, and whether they were in use then.
    pub debug: Vec<bool>,
    /// Writes of stage-1 controls trap.
    pub watching: bool,
    pub firmware: Vec<(u32, u64)>,
    pub stage1: Stage1,
    /// What translations leave in PAR_EL1, and those that were asked for.
    pub par: u64,
    pub translated: Vec<(Va, Probe)>,
}

impl FakeHw {
    fn new() -> Self {
        let mut el1 = FakeEl1([0; 6]);
        el1.write(El1Reg::Vbar, VBAR);
        let lists = Cpu::new(LIST_REGISTERS);
        Self {
            lists,
            el1,
            now: 1_000,
            deadline: None,
            debug: Vec::new(),
            watching: false,
            firmware: Vec::new(),
            stage1: Stage1::default(),
            par: 0,
            translated: Vec::new(),
        }
    }
}

/// SCTLR_EL1.M and C.
pub const CACHES_ON: u64 = 1 | 1 << 2;

impl Hw for FakeHw {
    type Lists = Cpu;
    type El1 = FakeEl1;
    fn lists(&mut self) -> &mut Cpu {
        &mut self.lists
    }
    fn el1(&mut self) -> &mut FakeEl1 {
        &mut self.el1
    }
    fn count(&self) -> u64 {
        self.now
    }
    fn set_physical_timer(&mut self, deadline: Option<u64>) {
        self.deadline = deadline;
    }
    fn apply_debug(&mut self, vcpu: &Vcpu) {
        self.debug.push(vcpu.debug.in_use());
    }
    /// Only SCTLR_EL1 is kept; the others that HCR_EL2.TVM traps exist.
    fn write_stage1(&mut self, id: SysRegId, value: u64) -> Option<(bool, bool)> {
        const OTHERS: [SysRegId; 8] = [
            sysreg::TTBR0_EL1,
            sysreg::TTBR1_EL1,
            sysreg::TCR_EL1,
            sysreg::ESR_EL1,
            sysreg::FAR_EL1,
            sysreg::MAIR_EL1,
            sysreg::AMAIR_EL1,
            sysreg::CONTEXTIDR_EL1,
        ];
        let before = self.el1.read(El1Reg::Sctlr) & CACHES_ON == CACHES_ON;
        if id == sysreg::SCTLR_EL1 {
            self.el1.write(El1Reg::Sctlr, value);
        } else if !OTHERS.contains(&id) {
            return None;
        }
        Some((before, self.el1.read(El1Reg::Sctlr) & CACHES_ON == CACHES_ON))
    }
    fn watch_stage1(&mut self, on: bool) {
        self.watching = on;
    }
    fn stage1(&self) -> Stage1 {
        self.stage1
    }
    fn translate(&mut self, va: Va, what: Probe) -> u64 {
        self.translated.push((va, what));
        self.par
    }
    fn firmware(&mut self, function: u32, x1: u64) {
        self.firmware.push((function, x1));
    }
}

/// The guest's RAM: what was put there, zeroes in between, nothing outside; and an access that fails.
#[derive(Default)]
pub struct FakeRam(Mutex<RamState>);

#[derive(Default)]
struct RamState {
    words: HashMap<u64, [u8; 8]>,
    /// Addresses of all accesses so far.
    accesses: Vec<u64>,
    /// This access, counted from 0, finds nothing.
    fails: Option<usize>,
}

impl FakeRam {
    /// Where RAM is.
    pub const SPAN: core::ops::Range<u64> = 0x4000_0000..0x4400_0000;
    pub fn put(&self, at: u64, word: [u8; 8]) {
        assert!(Self::SPAN.contains(&at) && at.is_multiple_of(8));
        self.0.lock().unwrap().words.insert(at, word);
    }
    pub fn fail(&self, access: Option<usize>) {
        self.0.lock().unwrap().fails = access;
    }
    /// The accesses since it was asked last.
    pub fn accesses(&self) -> Vec<u64> {
        core::mem::take(&mut self.0.lock().unwrap().accesses)
    }
}

impl GuestMemory for FakeRam {
    fn is_ram(&self, at: Ipa, _: u64) -> bool {
        panic!("nobody asks about {at:?}");
    }
    fn read(&self, at: Ipa, to: &mut [u8]) -> Result<(), Absent> {
        let mut ram = self.0.lock().unwrap();
        let number = ram.accesses.len();
        ram.accesses.push(at.as_u64());
        assert!(to.len() == 8 && at.as_u64().is_multiple_of(8), "descriptors are read whole");
        if ram.fails == Some(number) || !Self::SPAN.contains(&at.as_u64()) {
            return Err(Absent { at });
        }
        to.copy_from_slice(&ram.words.get(&at.as_u64()).copied().unwrap_or_default());
        Ok(())
    }
    fn write(&self, at: Ipa, _: &[u8]) -> Result<(), Absent> {
        panic!("nobody writes to {at:?}");
    }
    fn load_u16(&self, at: Ipa) -> Result<u16, Absent> {
        panic!("nobody reads 16 bits of {at:?}");
    }
    fn store_u16(&self, at: Ipa, _: u16) -> Result<(), Absent> {
        panic!("nobody writes to {at:?}");
    }
    fn pin(&self, at: Ipa, _: u64) -> Result<(), Absent> {
        panic!("nobody pins {at:?}");
    }
}

/// What the kernel was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Wake(VcpuId),
    Start(VcpuId),
}

/// Records; and takes a lock of the runqueues' rank, as the kernel does.
pub struct FakeWaker {
    vm: VmId,
    queue: SpinLock<()>,
    log: Mutex<Vec<Asked>>,
}

impl FakeWaker {
    pub fn take(&self) -> Vec<Asked> {
        core::mem::take(&mut self.log.lock().unwrap())
    }
    fn note(&self, vm: VmId, what: Asked) {
        let _queue = self.queue.lock();
        assert_eq!(vm, self.vm);
        self.log.lock().unwrap().push(what);
    }
}

impl Waker for FakeWaker {
    fn wake(&self, vm: VmId, vcpu: VcpuId) {
        self.note(vm, Asked::Wake(vcpu));
    }
    fn start(&self, vm: VmId, vcpu: VcpuId) {
        self.note(vm, Asked::Start(vcpu));
    }
}

/// Where the UART's bytes go.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl ByteSink for Output {
    fn put(&mut self, byte: u8) -> bool {
        self.0.lock().unwrap().push(byte);
        true
    }
}

struct Midnight;

impl WallClock for Midnight {
    fn seconds(&self) -> u64 {
        0x1234_5678
    }
}

/// A vCPU and the pCPU that it is loaded on.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub vcpu: Vcpu,
    pub hw: FakeHw,
}

impl Loaded {
    pub fn exit(&mut self, vm: &Vm, raw: RawExit) -> Next {
        handle(vm, &mut self.vcpu, &mut self.hw, decode(&raw))
    }
    pub fn x(&self, n: u8) -> u64 {
        self.vcpu.frame.reg(n)
    }
    pub fn el1(&self, reg: El1Reg) -> u64 {
        self.hw.el1.read(reg)
    }
}

pub struct TestMachine {
    pub vm: Arc<Vm>,
    pub waker: Arc<FakeWaker>,
    pub uart: Arc<SpinLock<Pl011<SpiLine, Output>>>,
    pub output: Output,
    pub ram: Arc<FakeRam>,
    /// By vCPU.
    pub cpus: Vec<Loaded>,
}

/// The identification registers of a Cortex-A72, as far as they matter here.
fn host() -> HostIds {
    let mut ids = HostIds { midr: 0x410f_d083, ctr: 0x8444_c004, clidr: 0x0a20_0023, ..HostIds::default() };
    ids.set(4, 0, 0x0100_2222);
    ids.set(5, 0, 0x1030_5106);
    ids.set(6, 0, 0x0001_1120);
    ids.set(7, 0, 0x0000_1124);
    (ids.ccsidr[0], ids.ccsidr[1], ids.ccsidr[2]) = (0x701f_e00a, 0x201f_e012, 0x707f_e07a);
    (ids.revidr, ids.aidr) = (0x55, 0x66);
    ids
}

pub fn span(start: u64, size: u64) -> Span<Ipa> {
    Span::new(Ipa::new(start), size).unwrap()
}

impl TestMachine {
    pub fn new(vcpus: u32) -> Self {
        Self::with(vcpus, |_| {})
    }

    /// On a board with a GICv2.
    pub fn gicv2(vcpus: u32) -> Self {
        let controller = crate::Controller::V2 {
            gicd: span(GICD, map::GICD_SIZE),
            gicc: span(map::GICC_BASE.as_u64(), map::GICC_SIZE),
        };
        Self::faced(vcpus, vgic::Face::V2, |parts| {
            parts.controller = controller;
            parts.cpu = CpuModel::new(&host(), 40, false);
        })
    }

    /// With other parts.
    pub fn with(vcpus: u32, change: impl FnOnce(&mut Parts)) -> Self {
        Self::faced(vcpus, vgic::Face::V3, change)
    }

    fn faced(vcpus: u32, face: vgic::Face, change: impl FnOnce(&mut Parts)) -> Self {
        const ID: VmId = 7;
        let mpidrs: Vec<u64> = (0..vcpus).map(map::vcpu_mpidr).collect();
        let vgic = Vgic::new(&Config {
            vcpus: vcpus as usize,
            spis: 256,
            list_registers: LIST_REGISTERS,
            priority_bits: 5,
            affinities: mpidrs.iter().map(|m| *m as u32).collect(),
            face,
        });
        let waker = Arc::new(FakeWaker { vm: ID, queue: SpinLock::new(Rank::Sched, ()), log: Mutex::default() });
        let port = Arc::new(VgicPort::new(ID, vgic.unwrap(), vcpus as usize, waker.clone()));
        let ram = Arc::new(FakeRam::default());
        let mut parts = Parts {
            id: ID,
            name: "test".to_string(),
            ram: span(map::RAM_BASE.as_u64(), 64 << 20),
            memory: ram.clone(),
            vgic: port.clone(),
            controller: crate::Controller::V3 {
                gicd: span(GICD, map::GICD_SIZE),
                gicr: span(GICR, map::GICR_STRIDE * u64::from(vcpus)),
            },
            psci: Psci::new(&mpidrs).unwrap(),
            cpu: CpuModel::new(&host(), 40, true),
            breakpoints: 6,
            watchpoints: 4,
            env: Env { trng: true, ..Env::default() },
            entropy: Drbg::from_seed(b"the seed of this test"),
            waker: waker.clone(),
            fwb: false,
            patient: false,
        };
        change(&mut parts);
        let mut vm = Vm::new(parts);
        let output = Output::default();
        let uart = Pl011::new(SpiLine::new(port.clone(), map::PL011_INTID), output.clone());
        let uart = Arc::new(SpinLock::new(Rank::Device, uart));
        let rtc: DeviceHandle =
            Arc::new(SpinLock::new(Rank::Device, Pl031::new(SpiLine::new(port, map::PL031_INTID), Midnight)));
        vm.attach(span(UART, map::PL011_SIZE), uart.clone()).unwrap();
        vm.attach(span(map::PL031_BASE.as_u64(), map::PL031_SIZE), rtc).unwrap();
        let hw = || {
            let mut hw = FakeHw::new();
            hw.lists.gicv2 = face == vgic::Face::V2;
            hw
        };
        let cpus = (0..vcpus).map(|n| Loaded { vcpu: Vcpu::new(n), hw: hw() }).collect();
        let mut machine = Self { vm: Arc::new(vm), waker, uart, output, ram, cpus };
        (0..vcpus).for_each(|n| machine.start(n));
        machine
    }

    /// Starts vCPU `n` on its pCPU, with its CPU interface open for all priorities.
    pub fn start(&mut self, n: VcpuId) {
        let Loaded { vcpu, hw } = &mut self.cpus[n as usize];
        vcpu.start(&StartState { entry: ENTRY, context: 0x1234 });
        self.vm.vgic().lock().load(n, &mut hw.lists);
        hw.lists.guest_setup(0xff, false);
        self.enter(n);
    }

    /// What the kernel does before it enters the guest.
    pub fn enter(&mut self, n: VcpuId) {
        let Loaded { vcpu, hw } = &mut self.cpus[n as usize];
        let asked = self.vm.port(n).unwrap().take();
        if asked.has(Requests::TIMER) {
            vcpu.timer_due(&self.vm, hw);
        }
        vcpu.flush_due = false;
        self.vm.vgic().change(|vgic| vgic.flush(n, &mut hw.lists));
    }

    /// A maintenance interrupt, if there is one.
    pub fn maintain(&mut self, n: VcpuId) {
        let lists = &mut self.cpus[n as usize].hw.lists;
        if lists.maintenance() {
            self.vm.vgic().change(|vgic| vgic.maintenance(n, lists));
            self.enter(n);
        }
    }

    pub fn exit(&mut self, n: VcpuId, raw: RawExit) -> Next {
        let vm = self.vm.clone();
        self.cpus[n as usize].exit(&vm, raw)
    }

    /// An exit whose instruction is completed, after folds; checks that the program counter moves over it.
    pub fn complete(&mut self, n: VcpuId, raw: RawExit) {
        let pc = self.cpus[n as usize].vcpu.frame.pc;
        let mut next = self.exit(n, raw);
        while let Next::Fold(whom) = next {
            assert!(!whom.contains(n) && !whom.is_empty());
            for v in whom.iter() {
                let Loaded { vcpu, hw } = &mut self.cpus[v as usize];
                self.vm.vgic().change(|vgic| vgic.sync(v, &mut hw.lists));
                vcpu.flush_due = true;
            }
            assert_eq!(self.cpus[n as usize].vcpu.frame.pc, pc, "not done yet");
            next = self.exit(n, raw);
        }
        assert_eq!(next, Next::Resume);
        assert_eq!(self.cpus[n as usize].vcpu.frame.pc, pc + 4, "completed: {raw:x?}");
    }

    /// A store of w1 or x1.
    pub fn store(&mut self, n: VcpuId, ipa: u64, size: AccessSize, value: u64) {
        self.cpus[n as usize].vcpu.frame.set_reg(1, value);
        self.complete(n, Abort::store(ipa).size(size).raw());
    }

    /// A 32-bit store.
    pub fn store32(&mut self, n: VcpuId, ipa: u64, value: u32) {
        self.store(n, ipa, AccessSize::B4, value.into());
    }

    /// A load to w1 or x1.
    pub fn load(&mut self, n: VcpuId, ipa: u64, size: AccessSize) -> u64 {
        let load = Abort::load(ipa).size(size);
        self.complete(n, if size == AccessSize::B8 { load.x() } else { load }.raw());
        self.cpus[n as usize].x(1)
    }

    pub fn load32(&mut self, n: VcpuId, ipa: u64) -> u32 {
        self.load(n, ipa, AccessSize::B4) as u32
    }

    /// MSR from x1.
    pub fn msr(&mut self, n: VcpuId, id: SysRegId, value: u64) {
        self.cpus[n as usize].vcpu.frame.set_reg(1, value);
        self.complete(n, sysreg_exit(id, 1, false));
    }

    /// MRS to x1.
    pub fn mrs(&mut self, n: VcpuId, id: SysRegId) -> u64 {
        self.complete(n, sysreg_exit(id, 1, true));
        self.cpus[n as usize].x(1)
    }

    /// HVC #0 with these in x0 to x3; what the runner does next, and x0 to x3 after.
    pub fn hvc(&mut self, n: VcpuId, args: [u64; 4]) -> (Next, [u64; 4]) {
        let frame = &mut self.cpus[n as usize].vcpu.frame;
        frame.x[..4].copy_from_slice(&args);
        let pc = frame.pc;
        let next = self.exit(n, hvc_exit(0));
        let frame = &self.cpus[n as usize].vcpu.frame;
        assert_eq!(frame.pc, pc, "HVC has advanced it already");
        (next, [frame.x[0], frame.x[1], frame.x[2], frame.x[3]])
    }

    /// A call that answers at once: x0.
    pub fn call(&mut self, n: VcpuId, args: [u64; 4]) -> i64 {
        let (next, regs) = self.hvc(n, args);
        assert_eq!(next, Next::Resume);
        regs[0] as i64
    }

    pub fn cpu_on(&mut self, by: VcpuId, target: u64, entry: u64, context: u64) -> i64 {
        self.call(by, [ids::CPU_ON_64.into(), target, entry, context])
    }

    /// The distributor forwards, and the UART's interrupt is enabled at priority 0x40.
    pub fn enable_uart_interrupt(&mut self) {
        self.store32(0, GICD, 2);
        self.store32(0, GICD + 0x104, 1 << map::PL011_SPI);
        self.store(0, GICD + 0x400 + u64::from(map::PL011_INTID), AccessSize::B1, 0x40);
    }

    /// The distributor forwards, and vCPU `n` has all its SGIs and PPIs enabled.
    pub fn enable_private(&mut self, n: VcpuId) {
        self.store32(n, GICD, 2);
        self.store32(n, sgi_frame(n) + 0x100, u32::MAX);
    }

    /// The last exception that vCPU `n` took: ESR_EL1, FAR_EL1 and the vector's offset; checks what every one does.
    pub fn taken(&self, n: VcpuId, before: &trap::GuestFrame) -> (u64, u64, u64) {
        let cpu = &self.cpus[n as usize];
        assert_eq!(cpu.el1(El1Reg::Elr), before.pc);
        assert_eq!(cpu.el1(El1Reg::Spsr), before.pstate);
        assert_eq!(cpu.vcpu.frame.x, before.x);
        assert_eq!(cpu.vcpu.frame.pstate & (pstate::MODE | pstate::DAIF), pstate::EL1H | pstate::DAIF);
        (cpu.el1(El1Reg::Esr), cpu.el1(El1Reg::Far), cpu.vcpu.frame.pc - VBAR)
    }
}

/// GICR_SGI_base of a vCPU.
pub fn sgi_frame(n: VcpuId) -> u64 {
    GICR + map::GICR_STRIDE * u64::from(n) + 0x1_0000
}

/// A data abort on its way.
#[derive(Clone, Copy)]
pub struct Abort {
    pub esr: u64,
    ipa: u64,
}

impl Abort {
    /// `ldr w1`: translation fault at level 3 with a valid syndrome.
    pub fn load(ipa: u64) -> Self {
        Self { esr: 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 1 << 16 | 0b111, ipa }
    }
    /// `str w1`.
    pub fn store(ipa: u64) -> Self {
        Self::load(ipa).bit(6)
    }
    pub fn bit(mut self, bit: u32) -> Self {
        self.esr |= 1 << bit;
        self
    }
    pub fn clear(mut self, bit: u32) -> Self {
        self.esr &= !(1 << bit);
        self
    }
    pub fn size(mut self, size: AccessSize) -> Self {
        self.esr = self.esr & !(3 << 22) | u64::from(size.bytes().trailing_zeros()) << 22;
        self
    }
    /// Sign extending.
    pub fn signed(self) -> Self {
        self.bit(21)
    }
    /// Of a 64-bit register.
    pub fn x(self) -> Self {
        self.bit(15)
    }
    pub fn rt(mut self, rt: u64) -> Self {
        self.esr = self.esr & !(31 << 16) | rt << 16;
        self
    }
    pub fn status(mut self, fsc: u64) -> Self {
        self.esr = self.esr & !0x3f | fsc;
        self
    }
    pub fn raw(self) -> RawExit {
        let (far, hpfar) = (VA | (self.ipa & 0xfff), self.ipa >> 12 << 4);
        RawExit { vector: Vector::Sync, esr: self.esr, far, hpfar }
    }
}

fn sync(esr: u64) -> RawExit {
    RawExit { vector: Vector::Sync, esr, far: 0, hpfar: 0 }
}

pub fn sysreg_exit(id: SysRegId, rt: u8, read: bool) -> RawExit {
    sync(0x18 << 26 | 1 << 25 | u64::from(id.as_u32()) | u64::from(rt) << 5 | u64::from(read))
}

pub fn hvc_exit(imm: u16) -> RawExit {
    sync(0x16 << 26 | 1 << 25 | u64::from(imm))
}

pub fn smc_exit(imm: u16) -> RawExit {
    sync(0x17 << 26 | 1 << 25 | u64::from(imm))
}

/// `WFI`, or with 1 `WFE`.
pub fn wait_exit(kind: u64) -> RawExit {
    sync(0x01 << 26 | 1 << 25 | 1 << 24 | 0xe << 20 | kind)
}

/// An exception class with a syndrome.
pub fn class_exit(class: u64, iss: u64) -> RawExit {
    sync(class << 26 | 1 << 25 | iss)
}
