//! Moves interrupts between memory and the list registers (LRs) of the pCPU that runs a vCPU.
//!
//! [`Vgic::flush`] shows the guest what changed, before an entry *for which something changed*; [`Vgic::sync`] reads back
//! what the guest did, only when someone must know. An exit that changes no interrupt touches no LR, and a flush that has a
//! free LR for each newcomer reads none but those the news is about. What does not fit is `overflow`'s business.
//!
//! # Model
//! | LR state | meaning here                    | on [`Vgic::sync`]                                               |
//! |----------|---------------------------------|-----------------------------------------------------------------|
//! | invalid  | the guest is done with it       | freed; line still high, or an edge meanwhile => pend again      |
//! | pending  | the guest has not acknowledged  | taken back, so that a better priority may enter or it is withdrawn |
//! | active   | the guest is in its handler     | keeps its LR (the guest will EOI it)                            |
//! | both     | an edge came meanwhile          | keeps its LR                                                    |
//!
//! Level-sensitive ones carry the EOI-maintenance bit, so that the line is sampled again on deactivation.
//!
//! # Invariants (checked after each step of the random test)
//! 1. An INTID is in at most one LR of one vCPU.
//! 2. A vCPU that is not loaded has none.
//! 3. If not all fits, the best pending one is in an LR, and ICH_HCR_EL2 asks for an exit when nothing there is pending
//!    (NPIE) and when the guest deactivates what is outside (LRENPIE, TDIR).
//!
//! # References
//! Arm IHI 0069, "`ICH_LR<n>_EL2`", "ICH_HCR_EL2", "ICH_ELRSR_EL2", "ICH_EISR_EL2", "Maintenance interrupts".

use crate::bits::ones;
use crate::irq::{ACTIVE, LR_PENDING, LR_PRIORITY_SHIFT, LR_STATE};
use crate::links::Links;
use crate::place::{Placed, place_all, place_new, store};
use crate::state::{Residency, Vcpu};
use crate::{FIRST_PPI, Refusal, TIMER_PPI, VcpuId, VcpuSet, Vgic};

/// Bits of ICH_HCR_EL2 that this crate sets.
pub mod hcr {
    /// The virtual CPU interface is on.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt while EOIcount is not zero.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// Trap the guest's writes of ICC_DIR_EL1 (where ICH_VTR_EL2.TDS is 0, `TC`, bit 10, has to stand in for it). A GICv2 has
    /// no such bit: there GICC_DIR, which has a page of its own, always traps.
    pub const TDIR: u64 = 1 << 14;
}

/// The virtual CPU interface of the pCPU that runs this code: ICH_* registers, and one physical register. List registers
/// are in the format of `ICH_LR<n>_EL2`. On a pCPU that has run no vCPU yet they have been written with 0.
pub trait ListRegs {
    /// Whether SGIs from several senders are several interrupts: the interface is a GICv2's. A constant where the
    /// implementation has one kind of hardware, so that the other kind costs nothing there.
    fn senders(&self) -> bool;
    /// How many list registers there are (ICH_VTR_EL2.ListRegs + 1).
    fn count(&self) -> usize;
    /// `ICH_LR<n>_EL2`.
    fn read(&self, n: usize) -> u64;
    /// Writes `ICH_LR<n>_EL2`.
    fn write(&mut self, n: usize, value: u64);
    /// ICH_ELRSR_EL2: registers that can be overwritten.
    fn empty(&self) -> u16;
    /// ICH_EISR_EL2: registers with an EOI maintenance interrupt.
    fn eisr(&self) -> u16;
    /// ICH_HCR_EL2.EOIcount.
    fn eoi_count(&self) -> u32;
    /// Writes ICH_HCR_EL2.EOIcount with 0 and leaves the rest.
    fn clear_eoi_count(&mut self);
    /// Writes ICH_HCR_EL2; EOIcount is 0 in `value`.
    fn set_hcr(&mut self, value: u64);
    /// ICH_VMCR_EL2.
    fn vmcr(&self) -> u64;
    /// Writes ICH_VMCR_EL2.
    fn set_vmcr(&mut self, value: u64);
    /// `ICH_AP0R<n>_EL2`; `n` below [`ListRegs::ap_count`].
    fn ap0r(&self, n: usize) -> u32;
    /// Writes `ICH_AP0R<n>_EL2`.
    fn set_ap0r(&mut self, n: usize, value: u32);
    /// `ICH_AP1R<n>_EL2`.
    fn ap1r(&self, n: usize) -> u32;
    /// Writes `ICH_AP1R<n>_EL2`.
    fn set_ap1r(&mut self, n: usize, value: u32);
    /// How many active-priorities registers of each group there are: 1, 2 or 4 for 5, 6 or 7 preemption bits
    /// (ICH_VTR_EL2.PREbits + 1).
    fn ap_count(&self) -> usize;
    /// Deactivates the physical interrupt of this pCPU that this crate calls `pintid`: [`TIMER_PPI`], whatever its number is (ICC_DIR_EL1 at EL2; EOImode is 1 there).
    fn deactivate(&mut self, pintid: u32);
}

/// The priorities of interrupts that live list registers showed as pending when last written or read.
pub(crate) fn pending_in(v: &Vcpu) -> impl Iterator<Item = u8> + '_ {
    ones(u64::from(v.live))
        .filter_map(|k| v.lr.get(k as usize))
        .filter(|value| **value & LR_STATE == LR_PENDING)
        .map(|value| (value >> LR_PRIORITY_SHIFT) as u8)
}

impl Vgic {
    /// The vCPU comes to this pCPU: its CPU interface is restored, its list registers are still empty ([`Vgic::flush`]
    /// fills them). The caller sets the physical timer interrupt active if [`Vgic::timer_active`].
    pub fn load(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        let count = hw.count().min(usize::from(self.list_registers)).max(1);
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        hw.set_vmcr(v.vmcr);
        for n in 0..hw.ap_count().min(4) {
            hw.set_ap0r(n, v.ap0r.get(n).copied().unwrap_or(0));
            hw.set_ap1r(n, v.ap1r.get(n).copied().unwrap_or(0));
        }
        v.lr_count = count as u8;
        v.hcr = hcr::EN;
        hw.set_hcr(hcr::EN);
        v.residency = Residency::Folded;
        // What did not fit where it ran before waits without a flush being due for it.
        if !v.want.is_empty() {
            self.dirty.insert(vcpu);
        }
    }

    /// The vCPU leaves this pCPU: everything is folded and remembered, the list registers are empty, the interface is off.
    /// The caller clears the physical timer interrupt's active state.
    pub fn put(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        self.sync(vcpu, hw);
        let used = self.vcpus.get(vcpu as usize).map_or(0, |v| v.used);
        for k in ones(used.into()) {
            self.evict(vcpu, k);
            if let Some(v) = self.vcpus.get_mut(vcpu as usize) {
                store(v, k, 0, hw);
            }
        }
        self.save_interface(vcpu, hw);
        hw.set_hcr(0);
        if let Some(v) = self.vcpus.get_mut(vcpu as usize) {
            (v.hcr, v.overflow, v.spilled) = (0, false, false);
            v.residency = Residency::NotLoaded;
            // No flush comes for it here any more, and the vCPU's timer may stay in the pCPU.
            if core::mem::take(&mut v.release) {
                hw.deactivate(TIMER_PPI);
            }
        }
    }

    fn save_interface(&mut self, vcpu: VcpuId, hw: &impl ListRegs) {
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        v.vmcr = hw.vmcr();
        for (n, (a0, a1)) in v.ap0r.iter_mut().zip(v.ap1r.iter_mut()).enumerate().take(hw.ap_count()) {
            (*a0, *a1) = (hw.ap0r(n), hw.ap1r(n));
        }
    }

    /// Reads back what the guest did since the last flush: the loaded vCPU is folded, until its next flush. Costs nothing
    /// where it is folded already.
    pub fn sync(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        if v.residency != Residency::Running {
            return;
        }
        v.residency = Residency::Folded;
        if v.spilled {
            self.count_eois(vcpu, hw);
        }
        self.fold_live(vcpu, hw);
    }

    /// How many interrupts were put into the vCPU's list registers as pending. One that was taken back and put in again counts twice.
    pub fn injected(&self, vcpu: VcpuId) -> u64 {
        self.vcpus.get(vcpu as usize).map_or(0, |v| v.want.shown)
    }

    /// A maintenance interrupt while the vCPU is loaded. The flush before the next entry does the rest.
    pub fn maintenance(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        let Some(v) = self.vcpus.get(vcpu as usize) else { return };
        if v.overflow || v.spilled {
            self.sync(vcpu, hw);
            self.dirty.insert(vcpu);
        } else {
            self.retire(vcpu, hw);
        }
    }

    /// Whether the vCPU's WFI is over at once. Folds, and looks at the live CPU interface.
    pub fn wfi_wakes(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) -> bool {
        self.sync(vcpu, hw);
        self.save_interface(vcpu, hw);
        self.has_deliverable(vcpu)
    }

    /// Before an entry: shows the guest what changed. Only a vCPU with [`Vgic::needs_flush`] costs more than the call; but
    /// after [`Vgic::load`] and [`Vgic::sync`] a call is due, because the vCPU runs from here on.
    #[inline]
    pub fn flush(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        if self.dirty.contains_existing(vcpu) {
            self.notify.remove_existing(vcpu);
            self.dirty.remove_existing(vcpu);
            if !(self.forwarding && place_new(v, vcpu as u8, hw)) {
                return self.fill(vcpu, hw);
            }
        }
        v.residency = Residency::Running;
    }

    /// The guest's write of ICC_DIR_EL1, trapped because [`hcr::TDIR`] is set.
    pub fn dir(&mut self, vcpu: VcpuId, intid: u32, hw: &mut impl ListRegs) -> Result<(), Refusal> {
        // Without EOImode = 1 the write is UNPREDICTABLE; it does nothing here.
        if hw.vmcr() & (1 << 9) == 0 {
            return Ok(());
        }
        self.sync(vcpu, hw);
        let Some(mut irq) = self.irq(vcpu, intid) else { return Ok(()) };
        if self.is_running(irq.owner) {
            return Err(Refusal::Fold(VcpuSet::one(irq.owner.into())));
        }
        if irq.has(ACTIVE) {
            if irq.deactivate() {
                Links::end(self.links.as_deref(), intid, hw);
            }
            self.set_irq(vcpu, intid, irq);
            self.attend(vcpu as u8, intid, irq);
        }
        self.dirty.insert(vcpu);
        Ok(())
    }

    /// The flush, where [`place_new`] is not enough.
    #[cold]
    #[inline(never)]
    fn fill(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        self.place_or_refill(vcpu, hw);
        self.dirty.remove(vcpu);
        if let Some(v) = self.vcpus.get_mut(vcpu as usize) {
            v.residency = Residency::Running;
        }
    }

    /// As long as everything fits, each INTID in `want` is dealt with by itself.
    fn place_or_refill(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        let mut retired = false;
        loop {
            let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
            if core::mem::take(&mut v.release) {
                hw.deactivate(TIMER_PPI);
            }
            if v.overflow {
                return self.refill(vcpu, hw);
            }
            match place_all(v, &mut self.spis, self.links.as_deref(), vcpu as u8, self.forwarding, hw) {
                Placed::All => return,
                Placed::Withdrawn(intid) => {
                    if let Some(irq) = self.irq(vcpu, intid) {
                        self.attend(vcpu as u8, intid, irq);
                    }
                }
                Placed::Full if retired => return self.refill(vcpu, hw),
                Placed::Full => {
                    retired = true;
                    self.retire(vcpu, hw);
                }
            }
        }
    }

    /// Frees the list registers that the guest is done with, without reading one.
    pub(crate) fn retire(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        let Some(v) = self.vcpus.get(vcpu as usize) else { return };
        let eisr = hw.eisr();
        let gone = (hw.empty() | eisr) & v.live;
        for k in ones(gone.into()) {
            self.fold(vcpu, k, 0, hw);
            // An EOI maintenance interrupt stays asserted until its register is written.
            if eisr & 1u16.wrapping_shl(k) != 0 {
                hw.write(k as usize, 0);
            }
        }
    }

    /// Takes the truth back from every live list register.
    pub(crate) fn fold_live(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        self.retire(vcpu, hw);
        let live = self.vcpus.get(vcpu as usize).map_or(0, |v| v.live);
        for k in ones(live.into()) {
            let value = hw.read(k as usize);
            self.fold(vcpu, k, value, hw);
        }
    }

    /// Takes the truth back from live list register `k`, which reads `value`; frees it if it is invalid, else leaves it to
    /// the next flush.
    pub(crate) fn fold(&mut self, vcpu: VcpuId, k: u32, value: u64, hw: &mut impl ListRegs) {
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        let Some(slot) = v.lr.get_mut(k as usize) else { return };
        let intid = *slot as u32;
        // `retire` knows that the state is invalid, but not the rest: whether it was linked is in the copy.
        let value = if value == 0 { *slot & !LR_STATE } else { value };
        let bit = 1u16.wrapping_shl(k);
        v.live &= !bit;
        *slot = value;
        let gone = value & LR_STATE == 0;
        if gone {
            *slot = 0;
            v.used &= !bit;
        }
        let Some(mut irq) = self.irq(vcpu, intid) else { return };
        if irq.leave(value, hw.senders() && intid < FIRST_PPI) {
            Links::end(self.links.as_deref(), intid, hw);
        }
        if gone {
            irq.evict();
        }
        self.set_irq(vcpu, intid, irq);
        self.attend(vcpu as u8, intid, irq);
    }

    /// Takes list register `k`, whose truth is in memory, from its INTID. The caller then writes the register.
    pub(crate) fn evict(&mut self, vcpu: VcpuId, k: u32) {
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        let Some(intid) = v.lr.get(k as usize).map(|value| *value as u32) else { return };
        v.used &= !1u16.wrapping_shl(k);
        if let Some(mut irq) = self.irq(vcpu, intid) {
            irq.evict();
            self.set_irq(vcpu, intid, irq);
            self.attend(vcpu as u8, intid, irq);
        }
    }
}
