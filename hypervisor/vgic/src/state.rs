//! The state of one VM's interrupt controller, and the bookkeeping that every other module uses.

use alloc::boxed::Box;
use alloc::vec::Vec;
use sync::nospec;

use crate::bits::{IntidSet, VcpuSet};
use crate::irq::{ACTIVE, EDGE, ENABLED, Irq, NONE};
use crate::links::Links;
use crate::{FIRST_PPI, FIRST_SPI, MAX_VCPUS, TIMER_PPI, V2_MAX_VCPUS, VcpuId};

/// The most list registers a PE can have.
pub(crate) const MAX_LRS: usize = 16;

/// What a VM's controller looks like; fixed for its life.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: usize,
    /// Number of SPIs: a multiple of 32, at most 960.
    pub spis: usize,
    /// List registers that may be used, 1 to 16; a pCPU that has fewer uses its own number.
    pub list_registers: usize,
    /// Priority bits of the virtual CPU interface, 5 to 8 (ICH_VTR_EL2.PRIbits + 1): lower bits of a priority are RAZ/WI.
    pub priority_bits: u32,
    /// The affinity of each vCPU, `Aff3.Aff2.Aff1.Aff0` from the top byte; all different.
    pub affinities: Vec<u32>,
    /// What it looks like to the guest.
    pub face: Face,
}

/// The architecture that a guest sees; its hardware has to be of the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Face {
    /// GICv3: distributor, redistributors, system registers.
    #[default]
    V3,
    /// GICv2: distributor with banked registers for SGIs and PPIs, a CPU interface in memory (the hardware's own, but for its
    /// second page), [`crate::V2_MAX_VCPUS`] vCPUs at most.
    V2,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// No vCPU, or more than [`MAX_VCPUS`], or than [`crate::V2_MAX_VCPUS`] on a GICv2.
    Vcpus,
    /// Not a multiple of 32, or more than 960.
    Spis,
    /// Not 1 to 16.
    ListRegisters,
    /// Not 5 to 8.
    PriorityBits,
    /// Not one affinity a vCPU, or two alike.
    Affinities,
}

/// Where the truth about a vCPU's interrupts is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Residency {
    /// On no pCPU: in memory.
    NotLoaded,
    /// On a pCPU that is in EL2 and will call `flush`: in memory.
    Folded,
    /// On a pCPU, may be in the guest: in its list registers.
    Running,
}

/// One vCPU's part.
#[derive(Clone, Debug)]
pub(crate) struct Vcpu {
    pub(crate) residency: Residency,
    /// List registers there are on the pCPU it is loaded on.
    pub(crate) lr_count: u8,
    /// List registers that hold an INTID (the guest may have emptied some meanwhile).
    pub(crate) used: u16,
    /// Those of `used` that hold the truth.
    pub(crate) live: u16,
    /// More wants a list register than there are.
    pub(crate) overflow: bool,
    /// Active interrupts were outside the list registers at the last flush.
    pub(crate) spilled: bool,
    /// The physical timer interrupt is to be deactivated at the next flush.
    pub(crate) release: bool,
    /// GICR_WAKER.ProcessorSleep.
    pub(crate) asleep: bool,
    /// What ICH_HCR_EL2 holds, EOIcount aside.
    pub(crate) hcr: u64,
    pub(crate) vmcr: u64,
    pub(crate) ap0r: [u32; 4],
    pub(crate) ap1r: [u32; 4],
    /// What the list registers held when last written or read.
    pub(crate) lr: [u64; MAX_LRS],
    /// INTIDs that the next flush has to look at: superset of those that are to have a list register or change in one.
    pub(crate) want: IntidSet,
    pub(crate) affinity: u32,
    pub(crate) private: [Irq; FIRST_SPI as usize],
}

impl Vcpu {
    fn new(id: u8, affinity: u32, face: Face) -> Self {
        let mut private = [Irq::new(id); FIRST_SPI as usize];
        for sgi in private.iter_mut().take(FIRST_PPI as usize) {
            // Those of a GICv2 cannot be switched off.
            sgi.flags |= if face == Face::V2 { EDGE | ENABLED } else { EDGE };
        }
        Self {
            residency: Residency::NotLoaded,
            lr_count: 1,
            used: 0,
            live: 0,
            overflow: false,
            spilled: false,
            release: false,
            asleep: true,
            hcr: 0,
            vmcr: 0,
            ap0r: [0; 4],
            ap1r: [0; 4],
            lr: [0; MAX_LRS],
            want: IntidSet::EMPTY,
            affinity,
            private,
        }
    }
}

/// The virtual interrupt controller of one VM.
#[derive(Clone, Debug)]
pub struct Vgic {
    pub(crate) vcpus: Box<[Vcpu]>,
    pub(crate) spis: Box<[Irq]>,
    /// IROUTER's affinity of each SPI, packed like [`Config::affinities`]; of a GICv2, ITARGETSR's byte.
    pub(crate) routes: Box<[u32]>,
    /// vCPUs whose `want` may not be empty.
    pub(crate) dirty: VcpuSet,
    pub(crate) notify: VcpuSet,
    /// GICD_CTLR.EnableGrp1, or EnableGrp0 of a GICv2: the one group there is.
    pub(crate) forwarding: bool,
    pub(crate) face: Face,
    pub(crate) list_registers: u8,
    pub(crate) priority_bits: u32,
    /// The physical number of the virtual timer's interrupt.
    timer: u8,
    /// SPIs of devices that were passed through.
    pub(crate) links: Option<Box<Links>>,
}

impl Vgic {
    /// A controller as after power-on. The only function that allocates, [`Vgic::save`] aside.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let most = if config.face == Face::V2 { V2_MAX_VCPUS } else { MAX_VCPUS };
        if config.vcpus == 0 || config.vcpus > most {
            return Err(ConfigError::Vcpus);
        }
        if !config.spis.is_multiple_of(32) || config.spis > 960 {
            return Err(ConfigError::Spis);
        }
        if config.list_registers == 0 || config.list_registers > MAX_LRS {
            return Err(ConfigError::ListRegisters);
        }
        if !(5..=8).contains(&config.priority_bits) {
            return Err(ConfigError::PriorityBits);
        }
        let alike = |n: usize, a: &u32| config.affinities.iter().skip(n.wrapping_add(1)).any(|b| a == b);
        if config.affinities.len() != config.vcpus || config.affinities.iter().enumerate().any(|(n, a)| alike(n, a)) {
            return Err(ConfigError::Affinities);
        }
        let vcpus = config.affinities.iter().enumerate().map(|(n, a)| Vcpu::new(n as u8, *a, config.face)).collect();
        let mut vgic = Self {
            vcpus,
            spis: alloc::vec![Irq::new(NONE); config.spis].into_boxed_slice(),
            routes: alloc::vec![0; config.spis].into_boxed_slice(),
            dirty: VcpuSet::EMPTY,
            notify: VcpuSet::EMPTY,
            forwarding: false,
            face: config.face,
            list_registers: config.list_registers as u8,
            priority_bits: config.priority_bits,
            timer: TIMER_PPI as u8,
            links: None,
        };
        vgic.reset();
        Ok(vgic)
    }

    /// The VM's reset: as after [`Vgic::new`], wires low. Every vCPU has been put before, and the devices are reset after,
    /// so that each drives its wire again.
    pub fn reset(&mut self) {
        for (n, vcpu) in self.vcpus.iter_mut().enumerate() {
            *vcpu = Vcpu::new(n as u8, vcpu.affinity, self.face);
        }
        let first = self.routed_to(0).map_or(NONE, |v| v as u8);
        self.spis.fill(Irq::new(first));
        self.routes.fill(0);
        self.dirty = VcpuSet::EMPTY;
        self.notify = VcpuSet::EMPTY;
        self.forwarding = false;
        self.end_links();
        self.relink();
    }

    /// The machine's virtual timer has the PPI `intid` (16 to 31). No vCPU is loaded.
    pub fn link_timer(&mut self, intid: u32) {
        self.timer = intid as u8;
        self.relink();
    }

    pub(crate) fn relink(&mut self) {
        for vcpu in &mut self.vcpus {
            if let Some(irq) = vcpu.private.get_mut(TIMER_PPI as usize) {
                irq.pintid = self.timer;
            }
        }
    }

    /// A vCPU's CPU interface as after a warm reset of its PE (PSCI CPU_ON): nothing enabled, no running priority. Its
    /// redistributor keeps its state. The vCPU is not loaded.
    pub fn reset_cpu_interface(&mut self, vcpu: VcpuId) {
        if let Some(v) = self.vcpus.get_mut(vcpu as usize) {
            (v.vmcr, v.ap0r, v.ap1r) = (0, [0; 4], [0; 4]);
        }
    }

    /// Whom something changed for since the last call: wake a blocked one (if [`Vgic::has_deliverable`]), kick a running
    /// one, flush the accessing one itself.
    #[inline]
    pub fn take_notify(&mut self) -> VcpuSet {
        core::mem::take(&mut self.notify)
    }

    /// Whether [`Vgic::flush`] would do more before the next entry than take note of it.
    #[inline]
    pub fn needs_flush(&self, vcpu: VcpuId) -> bool {
        self.dirty.contains(vcpu)
    }

    /// Whether `intid` is an SGI whose senders are told apart.
    #[inline]
    pub(crate) fn senders(&self, intid: u32) -> bool {
        self.face == Face::V2 && intid < FIRST_PPI
    }

    /// The vCPU that an SPI with this entry in `routes` goes to.
    pub(crate) fn routed_to(&self, route: u32) -> Option<VcpuId> {
        match self.face {
            Face::V3 => self.find_affinity(route),
            // A single CPU is every SPI's target; among several any of the list may take it (1-N model).
            Face::V2 if self.vcpus.len() == 1 => Some(0),
            Face::V2 => Some(route.trailing_zeros()).filter(|v| (*v as usize) < self.vcpus.len()),
        }
    }

    /// The number of INTIDs, private ones included.
    pub(crate) fn intids(&self) -> u32 {
        FIRST_SPI.wrapping_add(self.spis.len() as u32)
    }

    /// The interrupt `intid` as vCPU `view` sees it. Guests choose both: whoever looks an interrupt up comes by here.
    #[inline]
    pub(crate) fn irq(&self, view: VcpuId, intid: u32) -> Option<Irq> {
        match intid.checked_sub(FIRST_SPI) {
            Some(spi) => nospec::get_quick(&self.spis, spi as usize).copied(),
            None => nospec::get_quick(&nospec::get_quick(&self.vcpus, view as usize)?.private, intid as usize).copied(),
        }
    }

    #[inline]
    pub(crate) fn set_irq(&mut self, view: VcpuId, intid: u32, irq: Irq) {
        let slot = match intid.checked_sub(FIRST_SPI) {
            Some(spi) => nospec::get_quick_mut(&mut self.spis, spi as usize),
            None => nospec::get_quick_mut(&mut self.vcpus, view as usize)
                .and_then(|v| nospec::get_quick_mut(&mut v.private, intid as usize)),
        };
        if let Some(slot) = slot {
            *slot = irq;
        }
    }

    /// Has the home of `irq` look at it, if there is anything to see, and says so unless the home itself is acting.
    #[inline]
    pub(crate) fn attend(&mut self, acting: u8, intid: u32, irq: Irq) {
        if !irq.wants(self.forwarding) {
            return;
        }
        let home = irq.home();
        if let Some(vcpu) = self.vcpus.get_mut(usize::from(home)) {
            vcpu.want.insert(intid);
            self.dirty.insert_existing(home.into());
            if home != acting {
                self.notify.insert_existing(home.into());
            }
        }
    }

    /// The vCPU with this affinity. The layout of `virt` (16 a cluster) is found at once.
    #[inline]
    pub(crate) fn find_affinity(&self, affinity: u32) -> Option<VcpuId> {
        let guess = ((affinity >> 4) & 0xff0) | (affinity & 0xf);
        if nospec::get(&self.vcpus, guess as usize).is_some_and(|v| v.affinity == affinity) {
            return Some(guess);
        }
        self.vcpus.iter().position(|v| v.affinity == affinity).map(|n| n as u32)
    }

    /// Whether vCPU `vcpu` may hold interrupts' truth in hardware.
    #[inline]
    pub(crate) fn is_running(&self, vcpu: u8) -> bool {
        self.vcpus.get(usize::from(vcpu)).is_some_and(|v| v.residency == Residency::Running)
    }

    /// Whether a pending, enabled interrupt would be signalled to the vCPU: group 1 enabled, better than its priority mask
    /// and preempting its running priority. This is what ends a WFI, whatever PSTATE.I is.
    ///
    /// Exact while the vCPU is put or folded ([`Vgic::wfi_wakes`] folds first); for a running one it may say `true` for what
    /// the guest has taken meanwhile. The linked timer counts only once it has fired.
    pub fn has_deliverable(&self, vcpu: VcpuId) -> bool {
        let Some(v) = self.vcpus.get(vcpu as usize) else { return false };
        let waiting = v.want.iter().filter_map(|intid| self.irq(vcpu, intid)).any(|irq| {
            let deliver = self.forwarding && irq.has(ENABLED) && !irq.has(ACTIVE) && irq.pending();
            deliver && u32::from(irq.target) == vcpu && self.signals(v, irq.priority)
        });
        waiting || crate::list_registers::pending_in(v).any(|priority| self.signals(v, priority))
    }

    /// Whether the CPU interface signals a pending group 1 interrupt of this priority (Arm IHI 0069, "Preemption").
    fn signals(&self, v: &Vcpu, priority: u8) -> bool {
        // The one group that guests have: 1, or 0 on a GICv2.
        let enable = if self.face == Face::V2 { 1 << 0 } else { 1 << 1 };
        let mask = (v.vmcr >> 24) as u8;
        if v.vmcr & enable == 0 || priority >= mask {
            return false;
        }
        let mut active = v.ap0r.iter().zip(v.ap1r.iter()).enumerate();
        let running = active.find_map(|(n, (a, b))| {
            let bit = (a | b).trailing_zeros();
            (bit < 32).then(|| (n as u32).wrapping_mul(32).wrapping_add(bit))
        });
        let group_mask = if self.face == Face::V2 { group0_mask } else { group1_mask };
        running.is_none_or(|n| {
            let group = u32::from(priority) & group_mask(v.vmcr);
            group < n.wrapping_shl(8u32.wrapping_sub(self.priority_bits.min(7)))
        })
    }
}

/// The bits of a priority that decide on preemption of group 1 (Arm IHI 0069, "Priority grouping"): VBPR1, or VBPR0 one
/// further where the guest made it common (VCBPR).
fn group1_mask(vmcr: u64) -> u32 {
    if vmcr & (1 << 4) != 0 { group0_mask(vmcr) } else { 0xffu32.wrapping_shl((vmcr >> 18) as u32 & 7) }
}

/// The same of group 0: VBPR0, which GICH_VMCR has at the same place (Arm IHI 0048, "Priority grouping").
fn group0_mask(vmcr: u64) -> u32 {
    0xffu32.wrapping_shl(((vmcr >> 21) as u32 & 7).wrapping_add(1))
}
