//! The interrupt controller behind its lock, and devices' wires into it.

use crate::machine::{VmId, Waker};
use crate::port::{Port, Requests};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::IrqLine;
use sync::{Guard, Rank, SpinLock};
use vgic::{VcpuId, VcpuSet, Vgic};

/// A VM's vGIC with the way to its vCPUs: whoever changes something through it tells those concerned.
pub struct VgicPort {
    vm: VmId,
    vgic: SpinLock<Vgic>,
    /// One a vCPU.
    pub(crate) ports: Vec<Port>,
    waker: Arc<dyn Waker>,
}

impl VgicPort {
    /// For VM `vm` with a port for each of `vcpus` vCPUs.
    pub fn new(vm: VmId, vgic: Vgic, vcpus: usize, waker: Arc<dyn Waker>) -> Self {
        let ports = (0..vcpus).map(|_| Port::new()).collect();
        Self { vm, vgic: SpinLock::new(Rank::Vgic, vgic), ports, waker }
    }
    /// The controller, for the pCPU that runs one of the vCPUs. Whoever changes something calls [`VgicPort::tell`] afterwards
    /// with what `take_notify` gave, after the lock is free.
    #[inline]
    pub fn lock(&self) -> Guard<'_, Vgic> {
        self.vgic.lock()
    }
    /// Changes the controller and tells the vCPUs concerned.
    #[inline]
    pub fn change<T>(&self, change: impl FnOnce(&mut Vgic) -> T) -> T {
        let mut vgic = self.vgic.lock();
        let result = change(&mut vgic);
        let whom = vgic.take_notify();
        drop(vgic);
        if !whom.is_empty() {
            self.tell(whom);
        }
        result
    }
    /// Has these vCPUs look at their interrupts: a blocked one wakes, a running one is kicked.
    pub fn tell(&self, whom: VcpuSet) {
        for vcpu in whom.iter() {
            if let Some(port) = self.ports.get(vcpu as usize) {
                port.ask(Requests::FLUSH);
                self.waker.wake(self.vm, vcpu);
            }
        }
    }
    /// Asks `what` of one vCPU and wakes or kicks it.
    pub fn ask(&self, vcpu: VcpuId, what: Requests) {
        if let Some(port) = self.ports.get(vcpu as usize) {
            port.ask(what);
            self.waker.wake(self.vm, vcpu);
        }
    }
    /// Holds the vCPUs of `more` (but not `but`) besides those of `held`: each folds its list registers and stays folded until
    /// [`VgicPort::release`] of what this returns, everybody who is held now.
    ///
    /// Those of `held` hear nothing: who lets go of them to hold all again gives them time to slip back into their guests, and
    /// may have to wait for one or the other for ever.
    #[must_use]
    pub fn hold(&self, held: VcpuSet, more: VcpuSet, but: VcpuId) -> VcpuSet {
        for vcpu in more.iter().filter(|v| *v != but && !held.contains(*v)) {
            if let Some(port) = self.ports.get(vcpu as usize) {
                port.hold();
                self.waker.wake(self.vm, vcpu);
            }
        }
        held.union(more)
    }
    /// Lets go of those whom [`VgicPort::hold`] returned, with the same `but`.
    pub fn release(&self, held: VcpuSet, but: VcpuId) {
        for vcpu in held.iter().filter(|v| *v != but) {
            if let Some(port) = self.ports.get(vcpu as usize) {
                port.release();
            }
        }
    }
}

/// A device's wire to a shared peripheral interrupt.
pub struct SpiLine {
    vgic: Arc<VgicPort>,
    intid: u32,
    level: core::sync::atomic::AtomicBool,
}

impl SpiLine {
    /// The wire to `intid` (32 and up).
    pub fn new(vgic: Arc<VgicPort>, intid: u32) -> Self {
        Self { vgic, intid, level: core::sync::atomic::AtomicBool::new(false) }
    }
}

impl IrqLine for SpiLine {
    #[inline]
    fn set_level(&self, high: bool) {
        use core::sync::atomic::Ordering::Relaxed;
        // The device's lock is held, so nobody else drives this wire; a load and a store are enough.
        if self.level.load(Relaxed) != high {
            self.level.store(high, Relaxed);
            self.vgic.change(|vgic| vgic.set_spi_level(self.intid, high));
        }
    }
}
