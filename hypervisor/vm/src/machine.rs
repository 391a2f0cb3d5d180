//! The parts of a VM that all its vCPUs share.

use crate::mmio::Frame;
use crate::port::Port;
use crate::wires::VgicPort;
use addr::{Ipa, Span};
use alloc::string::String;
use alloc::sync::Arc;
use bus::{Bus, BusError, GuestMemory, MmioDevice};
use config::cpu_model::{CpuModel, Feature};
use core::sync::atomic::{AtomicU8, Ordering};
use guest_smccc::Env;
use guest_smccc::entropy::Drbg;
use guest_smccc::psci::{Power, Psci};
use guest_smccc::pv_time;
use sync::SpinLock;
use trap::{PstateFeatures, SysRegId, sysreg};
use vgic::VcpuId;

/// A VM's number, unique among those that exist.
pub type VmId = u16;

/// A device behind its lock, shared by the bus and whoever feeds it.
pub type DeviceHandle = Arc<SpinLock<dyn MmioDevice>>;

/// How other vCPUs are reached.
pub trait Waker: Send + Sync {
    /// Makes vCPU `vcpu` of `vm` look at its port: wakes it where it is blocked, kicks its pCPU where it runs elsewhere.
    fn wake(&self, vm: VmId, vcpu: VcpuId);
    /// Makes it ready, after PSCI CPU_ON; what it starts with is in its port.
    fn start(&self, vm: VmId, vcpu: VcpuId);
}

/// What a VM is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Life {
    /// Its vCPUs may run.
    Running = 0,
    /// All vCPUs stop; then memory, devices and vCPU 0 start afresh.
    Resetting = 1,
    /// All vCPUs stop; then it is gone.
    Ending = 2,
    /// All vCPUs are on their way off the pCPUs.
    Pausing = 3,
    /// They are off, and its time stands.
    Paused = 4,
}

/// What a VM is made of.
pub struct Parts {
    /// Its number.
    pub id: VmId,
    /// Its name: the console's prefix.
    pub name: String,
    /// Its RAM, as the guest sees it.
    pub ram: Span<Ipa>,
    /// What is in that RAM.
    pub memory: Arc<dyn GuestMemory>,
    /// The interrupt controller and the vCPUs' ports.
    pub vgic: Arc<VgicPort>,
    /// Where the interrupt controller's frames are, which need to know who accesses them and so are no devices of the bus.
    pub controller: Controller,
    /// Power states.
    pub psci: Psci,
    /// What its ID registers say.
    pub cpu: CpuModel,
    /// Breakpoints that the model shows.
    pub breakpoints: usize,
    /// Watchpoints that the model shows.
    pub watchpoints: usize,
    /// What the firmware calls may rely on.
    pub env: Env,
    /// The VM's own generator, where the machine has entropy.
    pub entropy: Option<Drbg>,
    /// How other vCPUs are reached.
    pub waker: Arc<dyn Waker>,
    /// Whether stage 2 forces write-back (FEAT_S2FWB): then cache maintenance by set and way needs nothing.
    pub fwb: bool,
    /// Whether a vCPU that waits by WFE looks a few times before its pCPU is given away: where the CPU does not delay the trap (FEAT_TWED).
    pub patient: bool,
}

/// The interrupt controller as the guest finds it; of the same architecture as its [`vgic::Face`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Controller {
    /// GICv3.
    V3 {
        /// The distributor.
        gicd: Span<Ipa>,
        /// All redistributors.
        gicr: Span<Ipa>,
    },
    /// GICv2. System registers of an interrupt controller are undefined for the guest.
    V2 {
        /// The distributor.
        gicd: Span<Ipa>,
        /// The CPU interface. Its first page is the hardware's, mapped by stage 2; the others exit.
        gicc: Span<Ipa>,
    },
}

/// A virtual machine.
pub struct Vm {
    pub(crate) parts: Fixed,
    bus: Bus<DeviceHandle>,
    pub(crate) psci: SpinLock<Psci>,
    pub(crate) entropy: SpinLock<Option<Drbg>>,
    life: AtomicU8,
    pub(crate) memory: Arc<dyn GuestMemory>,
}

pub(crate) struct Fixed {
    pub id: VmId,
    pub name: String,
    pub ram: Span<Ipa>,
    pub vgic: Arc<VgicPort>,
    /// The interrupt controller's frames.
    pub frames: [(Frame, Span<Ipa>); 2],
    /// The frame whose loads the fast lane knows; empty where there is none.
    pub quick_gicd: Span<Ipa>,
    /// The register whose writes send SGIs; one that does not exist where there is none.
    pub sgi_register: SysRegId,
    pub cpu: CpuModel,
    pub pstate: PstateFeatures,
    pub breakpoints: usize,
    pub watchpoints: usize,
    pub env: Env,
    pub waker: Arc<dyn Waker>,
    pub fwb: bool,
    pub patient: bool,
}

/// Why a VM cannot be put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// A device's window overlaps another, RAM or the interrupt controller.
    Window(BusError),
    /// A device's window overlaps RAM, the interrupt controller or the records of stolen time.
    Taken(Ipa),
}

impl Vm {
    /// A VM of these parts, without devices.
    pub fn new(parts: Parts) -> Self {
        let cpu = parts.cpu;
        let (frames, quick_gicd, sgi_register) = match parts.controller {
            Controller::V3 { gicd, gicr } => {
                ([(Frame::Distributor, gicd), (Frame::Redistributor, gicr)], gicd, sysreg::ICC_SGI1R_EL1)
            }
            Controller::V2 { gicd, gicc } => (
                [(Frame::DistributorV2, gicd), (Frame::CpuV2, gicc)],
                Span::empty(gicd.start()),
                SysRegId::new(0, 0, 0, 0, 0),
            ),
        };
        let pstate = PstateFeatures {
            pan: cpu.has(Feature::Pan),
            uao: cpu.has(Feature::Uao),
            dit: cpu.has(Feature::Dit),
            ssbs: cpu.has(Feature::Ssbs),
            tco: false,
            nmi: false,
        };
        Self {
            parts: Fixed {
                id: parts.id,
                name: parts.name,
                ram: parts.ram,
                vgic: parts.vgic,
                frames,
                quick_gicd,
                sgi_register,
                cpu,
                pstate,
                breakpoints: parts.breakpoints,
                watchpoints: parts.watchpoints,
                env: parts.env,
                waker: parts.waker,
                fwb: parts.fwb,
                patient: parts.patient,
            },
            bus: Bus::new(),
            psci: SpinLock::new(sync::Rank::Vm, parts.psci),
            entropy: SpinLock::new(sync::Rank::Vm, parts.entropy),
            life: AtomicU8::new(Life::Running as u8),
            memory: parts.memory,
        }
    }
    /// Puts a device on the bus.
    pub fn attach(&mut self, window: Span<Ipa>, device: DeviceHandle) -> Result<(), BuildError> {
        let vcpus = u32::try_from(self.vcpus()).unwrap_or(u32::MAX);
        let stolen = self.parts.env.stolen_time.and_then(|first| pv_time::window(first, vcpus));
        let [(_, first), (_, second)] = self.parts.frames;
        let mut fixed = [self.parts.ram, first, second].into_iter().chain(stolen);
        if let Some(taken) = fixed.find(|f| f.overlaps(&window)) {
            return Err(BuildError::Taken(taken.start()));
        }
        self.bus.insert(window, device).map_err(BuildError::Window)
    }
    /// Its number.
    pub fn id(&self) -> VmId {
        self.parts.id
    }
    /// Its name.
    pub fn name(&self) -> &str {
        &self.parts.name
    }
    /// Its RAM.
    pub fn ram(&self) -> Span<Ipa> {
        self.parts.ram
    }
    /// How many vCPUs it has.
    pub fn vcpus(&self) -> usize {
        self.parts.vgic.ports.len()
    }
    /// The port of vCPU `vcpu`.
    #[inline]
    pub fn port(&self, vcpu: VcpuId) -> Option<&Port> {
        self.parts.vgic.ports.get(vcpu as usize)
    }
    /// The interrupt controller.
    #[inline]
    pub fn vgic(&self) -> &Arc<VgicPort> {
        &self.parts.vgic
    }
    /// Whether its interrupt controller is a GICv3.
    pub(crate) fn has_gicv3(&self) -> bool {
        !self.parts.quick_gicd.is_empty()
    }
    /// The devices.
    pub fn bus(&self) -> &Bus<DeviceHandle> {
        &self.bus
    }
    /// The ID registers.
    pub fn cpu(&self) -> &CpuModel {
        &self.parts.cpu
    }
    /// A vCPU has executed its first instruction after CPU_ON, as far as PSCI is concerned.
    pub fn started(&self, vcpu: VcpuId) {
        self.psci.lock().started(vcpu as usize);
    }
    /// A vCPU that is on, or about to be, other than `but`.
    pub fn another_on(&self, but: VcpuId) -> Option<VcpuId> {
        (0..self.parts.vgic.ports.len() as VcpuId).find(|vcpu| *vcpu != but && self.is_on(*vcpu))
    }
    /// Whether vCPU `vcpu` is on, or about to be.
    pub fn is_on(&self, vcpu: VcpuId) -> bool {
        self.psci.lock().power(vcpu as usize).is_some_and(|power| power != Power::Off)
    }
    /// What it is about.
    #[inline]
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Running,
            1 => Life::Resetting,
            3 => Life::Pausing,
            4 => Life::Paused,
            _ => Life::Ending,
        }
    }
    /// Begins a reset or the end. `false`: another vCPU was first, and its wish counts.
    pub fn leave_life(&self, to: Life) -> bool {
        self.change_life(Life::Running, to)
    }
    /// From one state to another. `false`: it was in a third.
    pub fn change_life(&self, from: Life, to: Life) -> bool {
        self.life.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
    /// The VM's memory is about to be taken away, or to be made anew: no device reaches it any more, until [`Vm::reset`]. Whoever had
    /// begun has finished when this returns.
    pub fn quiesce(&self) {
        for (_, device) in self.bus.iter() {
            device.lock().quiesce();
        }
    }
    /// Puts everything but memory back to the state after power-on. No vCPU is loaded anywhere.
    pub fn reset(&self) {
        self.psci.lock().reset(0);
        // The controller first, so that each device drives its wire into a fresh one.
        self.parts.vgic.change(|vgic| vgic.reset());
        for (_, device) in self.bus.iter() {
            device.lock().reset();
        }
        for port in &self.parts.vgic.ports {
            port.reset();
        }
        self.life.store(Life::Running as u8, Ordering::Release);
    }
    /// Random bytes for the guest's tree, where the machine has entropy.
    pub fn draw(&self, bytes: &mut [u8]) -> bool {
        match self.entropy.lock().as_mut() {
            Some(drbg) => {
                drbg.draw(bytes);
                true
            }
            None => false,
        }
    }
}
