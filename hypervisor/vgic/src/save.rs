//! The controller's state in a form that outlives this build: saved from a paused VM, restored into a fresh one.

use alloc::vec::Vec;

use crate::irq::{ACTIVE, ANY, EDGE, ENABLED, FIRED, HW, Irq, LATCH, LEVEL, NONE, SENDER, SENDER_SHIFT, SOFT};
use crate::state::{Residency, Vcpu};
use crate::{Face, VcpuSet, Vgic};

/// The version that [`Vgic::save`] writes and [`Vgic::restore`] takes.
pub const STATE_VERSION: u32 = 1;

/// Everything that the guest could tell apart, and the wires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// What the guest sees.
    pub face: Face,
    /// Priority bits of the virtual CPU interface.
    pub priority_bits: u32,
    /// GICD_CTLR.EnableGrp1.
    pub forwarding: bool,
    /// By vCPU.
    pub vcpus: Vec<VcpuState>,
    /// By SPI, from INTID 32.
    pub spis: Vec<IrqState>,
}

/// One vCPU's CPU interface and private interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuState {
    /// `Aff3.Aff2.Aff1.Aff0`.
    pub affinity: u32,
    /// ICH_VMCR_EL2; GICH_VMCR of a GICv2, as its `GICH_APR` is the first of `ap0r`.
    pub vmcr: u64,
    /// `ICH_AP0R<n>_EL2`.
    pub ap0r: [u32; 4],
    /// `ICH_AP1R<n>_EL2`.
    pub ap1r: [u32; 4],
    /// GICR_WAKER.ProcessorSleep.
    pub asleep: bool,
    /// By INTID, 32 of them.
    pub private: Vec<IrqState>,
}

/// One interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IrqState {
    /// Forwarding is enabled.
    pub enabled: bool,
    /// Pending by an edge, a message, an SGI or ISPENDR.
    pub latch: bool,
    /// The wire is high.
    pub level: bool,
    /// Edge triggered.
    pub edge: bool,
    /// Active.
    pub active: bool,
    /// Active by ISACTIVER, never acknowledged.
    pub active_by_write: bool,
    /// The physical interrupt fired and is active; the virtual one is pending.
    pub fired: bool,
    /// The physical interrupt is active; so is the virtual one.
    pub linked: bool,
    /// IROUTER.IRM.
    pub any: bool,
    /// The configured priority.
    pub priority: u8,
    /// The priority it was acknowledged at, where active.
    pub active_priority: u8,
    /// The vCPU that has it active, where one does.
    pub active_on: Option<u8>,
    /// IROUTER's affinity, or ITARGETSR's byte (SPIs).
    pub route: u32,
    /// Who has sent it, one bit a vCPU (SGIs of a GICv2); pending where there is one.
    pub senders: u8,
    /// Who sent it as it was acknowledged (the same, active).
    pub sender: u8,
}

/// Why a state cannot be restored here. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreError {
    /// Of a version that this build does not know.
    Version(u32),
    /// Of a controller with other vCPUs, SPIs, affinities or priority bits.
    Shape,
    /// Contradicts itself: active on a vCPU that does not exist, a private interrupt active elsewhere.
    Inconsistent,
}

const FLAGS: u16 = ENABLED | LATCH | LEVEL | EDGE | ACTIVE | SOFT | FIRED | HW | ANY | SENDER;

fn save_irq(irq: Irq, route: u32, senders: bool) -> IrqState {
    let active = senders && irq.has(ACTIVE);
    IrqState {
        senders: if senders { irq.pintid } else { 0 },
        sender: if active { ((irq.flags & SENDER) >> SENDER_SHIFT) as u8 } else { 0 },
        enabled: irq.has(ENABLED),
        latch: irq.has(LATCH),
        level: irq.has(LEVEL),
        edge: irq.has(EDGE),
        active: irq.has(ACTIVE),
        active_by_write: irq.has(SOFT),
        fired: irq.has(FIRED),
        linked: irq.has(HW),
        any: irq.has(ANY),
        priority: irq.priority,
        active_priority: irq.lr_priority,
        active_on: (irq.owner != NONE).then_some(irq.owner),
        route,
    }
}

fn restore_irq(s: &IrqState, target: u8) -> Irq {
    let mut irq = Irq::new(target);
    for (flag, on) in [
        (ENABLED, s.enabled),
        (LATCH, s.latch),
        (LEVEL, s.level),
        (EDGE, s.edge),
        (ACTIVE, s.active),
        (SOFT, s.active_by_write),
        (FIRED, s.fired),
        (HW, s.linked),
        (ANY, s.any),
    ] {
        irq.put(flag, on);
    }
    irq.flags |= u16::from(s.sender).wrapping_shl(SENDER_SHIFT);
    irq.flags &= FLAGS;
    irq.pintid = s.senders;
    irq.priority = s.priority;
    irq.lr_priority = s.active_priority;
    irq.owner = s.active_on.unwrap_or(NONE);
    irq
}

impl Vgic {
    /// The state of a paused VM. Every vCPU has been put; one that is loaded is folded at least, and has its CPU interface
    /// as of its last put or [`Vgic::wfi_wakes`].
    pub fn save(&self) -> State {
        let vcpu = |v: &Vcpu| VcpuState {
            affinity: v.affinity,
            vmcr: v.vmcr,
            ap0r: v.ap0r,
            ap1r: v.ap1r,
            asleep: v.asleep,
            private: v.private.iter().zip(0..).map(|(irq, intid)| save_irq(*irq, 0, self.senders(intid))).collect(),
        };
        State {
            version: STATE_VERSION,
            face: self.face,
            priority_bits: self.priority_bits,
            forwarding: self.forwarding,
            vcpus: self.vcpus.iter().map(vcpu).collect(),
            spis: self.spis.iter().zip(self.routes.iter()).map(|(irq, route)| save_irq(*irq, *route, false)).collect(),
        }
    }

    /// Takes over a saved state. No vCPU is loaded. Every vCPU with something to see is in [`Vgic::take_notify`] after.
    pub fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        self.check(state)?;
        self.forwarding = state.forwarding;
        for (n, (v, s)) in self.vcpus.iter_mut().zip(&state.vcpus).enumerate() {
            (v.vmcr, v.ap0r, v.ap1r, v.asleep) = (s.vmcr, s.ap0r, s.ap1r, s.asleep);
            v.want.clear();
            for (irq, s) in v.private.iter_mut().zip(&s.private) {
                *irq = restore_irq(s, n as u8);
            }
        }
        let awake = self.vcpus.iter().position(|v| !v.asleep).unwrap_or(0) as u8;
        for (n, s) in state.spis.iter().enumerate() {
            let target = if s.any { awake } else { self.routed_to(s.route).map_or(NONE, |v| v as u8) };
            if let (Some(irq), Some(route)) = (self.spis.get_mut(n), self.routes.get_mut(n)) {
                *irq = restore_irq(s, target);
                *route = s.route;
            }
        }
        self.relink();
        (self.dirty, self.notify) = (VcpuSet::EMPTY, VcpuSet::EMPTY);
        self.attend_all();
        Ok(())
    }

    fn check(&self, state: &State) -> Result<(), RestoreError> {
        if state.version != STATE_VERSION {
            return Err(RestoreError::Version(state.version));
        }
        let shape = state.face == self.face
            && state.priority_bits == self.priority_bits
            && state.spis.len() == self.spis.len()
            && state.vcpus.len() == self.vcpus.len()
            && self.vcpus.iter().zip(&state.vcpus).all(|(v, s)| {
                v.affinity == s.affinity && s.private.len() == v.private.len() && v.residency == Residency::NotLoaded
            });
        if !shape {
            return Err(RestoreError::Shape);
        }
        let count = self.vcpus.len();
        let possible = |irq: &IrqState| {
            let on = irq.active_on.is_none_or(|v| usize::from(v) < count);
            on && (irq.active || !(irq.active_by_write || irq.linked)) && (irq.active || irq.active_on.is_none())
        };
        let sent = |irq: &IrqState, senders: bool| {
            let known = u32::from(irq.senders) < 1u32.wrapping_shl(count as u32) && usize::from(irq.sender) < count;
            if senders { known && irq.latch == (irq.senders != 0) } else { irq.senders == 0 && irq.sender == 0 }
        };
        let spis = state.spis.iter().all(|irq| possible(irq) && !irq.fired && !irq.linked && sent(irq, false));
        let private = state.vcpus.iter().enumerate().all(|(n, v)| {
            v.private.iter().enumerate().all(|(intid, irq)| {
                let timer = intid == crate::TIMER_PPI as usize;
                let here = irq.active_on == irq.active.then_some(n as u8);
                let sent = sent(irq, self.senders(intid as u32));
                possible(irq) && here && sent && irq.edge == (intid < 16) && (timer || !(irq.fired || irq.linked))
            })
        });
        if spis && private { Ok(()) } else { Err(RestoreError::Inconsistent) }
    }
}
