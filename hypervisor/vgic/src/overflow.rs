//! What happens when more interrupts want a list register than there are.
//!
//! Among pending ones the best priorities are in; active ones are evicted last, but always leave one register to a pending
//! one, so that a guest whose handlers never EOI still gets what comes. What is outside is tracked: NPIE brings an exit when
//! the guest has acknowledged all that is in; an active one outside is ended by EOIcount (EOImode = 0, in the order of
//! running priorities, as the guest has to) or by the trapped ICC_DIR_EL1 (EOImode = 1).
//!
//! # References
//! Arm IHI 0069, "ICH_HCR_EL2" (EOIcount, LRENPIE, NPIE, TDIR).

use crate::bits::ones;
use crate::irq::{ACTIVE, Irq, RESIDENT, SOFT};
use crate::links::Links;
use crate::list_registers::{ListRegs, hcr};
use crate::place::{store, store_hcr};
use crate::state::MAX_LRS;
use crate::{VcpuId, Vgic};

/// ICH_VMCR_EL2.VEOIM.
const VMCR_EOI_MODE: u64 = 1 << 9;

/// The smallest keys offered, ascending.
struct Best {
    keys: [u32; MAX_LRS],
    /// How many were offered; those beyond the array are only counted.
    offered: usize,
}

impl Best {
    const fn new() -> Self {
        Self { keys: [u32::MAX; MAX_LRS], offered: 0 }
    }

    fn offer(&mut self, key: u32) {
        self.offered = self.offered.saturating_add(1);
        let mut key = key;
        for slot in &mut self.keys {
            if key < *slot {
                core::mem::swap(&mut key, slot);
            }
        }
    }

    fn intids(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        self.keys.iter().take(count.min(self.offered)).map(|key| key & 0xffff)
    }
}

/// Orders active interrupts as the guest will end them: acknowledged ones by priority, then those made active by a write.
fn active_key(irq: Irq, intid: u32) -> u32 {
    (u32::from(irq.has(SOFT)) << 24) | (u32::from(irq.lr_priority) << 16) | intid
}

impl Vgic {
    /// The flush where not everything fits, or did not at the last one: chooses anew among all.
    pub(crate) fn refill(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        // Folds what the guest ran with; else (a flush that found out half-way) what this flush has written already.
        self.sync(vcpu, hw);
        self.fold_live(vcpu, hw);
        let (mut active, mut pending) = (Best::new(), Best::new());
        self.candidates(vcpu, &mut active, &mut pending);
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        let room = usize::from(v.lr_count);
        let for_active = active.offered.min(room.saturating_sub(usize::from(pending.offered != 0)));
        let for_pending = pending.offered.min(room.saturating_sub(for_active));
        let pending_out = pending.offered > for_pending;
        v.spilled = active.offered > for_active;
        v.overflow = pending_out || v.spilled;
        let mut value = hcr::EN;
        if pending_out {
            value |= hcr::NPIE;
        }
        if v.spilled {
            value |= hcr::LRENPIE | hcr::TDIR;
        }
        store_hcr(v, value, hw);

        let mut keep = 0u16;
        for intid in active.intids(for_active).chain(pending.intids(for_pending)) {
            if let Some(irq) = self.irq(vcpu, intid).filter(|irq| irq.has(RESIDENT)) {
                keep |= 1u16.wrapping_shl(irq.lr.into());
            }
        }
        let evicted = self.vcpus.get(vcpu as usize).map_or(0, |v| v.used & !keep);
        for k in ones(evicted.into()) {
            self.evict(vcpu, k);
        }
        for intid in active.intids(for_active).chain(pending.intids(for_pending)) {
            self.show(vcpu, intid, !pending_out, hw);
        }
        if let Some(v) = self.vcpus.get_mut(vcpu as usize) {
            for k in ones(u64::from(evicted & !v.used)) {
                store(v, k, 0, hw);
            }
        }
        self.dirty.remove(vcpu);
    }

    /// Offers all that is this vCPU's, and drops from `want` what has nothing to show. All residents are in `want` here.
    fn candidates(&mut self, vcpu: VcpuId, active: &mut Best, pending: &mut Best) {
        let Some(mut all) = self.vcpus.get(vcpu as usize).map(|v| v.want.clone()) else { return };
        while let Some(intid) = all.pop() {
            let Some(irq) = self.irq(vcpu, intid) else { continue };
            let shows = u32::from(irq.home()) == vcpu
                && irq.lr_value(intid, vcpu as u8, self.forwarding, true, self.senders(intid)) != 0;
            if !shows {
                if let Some(v) = self.vcpus.get_mut(vcpu as usize) {
                    v.want.remove(intid);
                }
            } else if irq.has(ACTIVE) {
                active.offer(active_key(irq, intid));
            } else {
                pending.offer((u32::from(irq.priority) << 16) | intid);
            }
        }
    }

    /// Puts a chosen one into its own list register or a free one.
    fn show(&mut self, vcpu: VcpuId, intid: u32, both: bool, hw: &mut impl ListRegs) {
        let (forwarding, senders) = (self.forwarding, self.senders(intid));
        let Some(mut irq) = self.irq(vcpu, intid) else { return };
        let Some(v) = self.vcpus.get_mut(vcpu as usize) else { return };
        let k = if irq.has(RESIDENT) { u32::from(irq.lr) } else { (!v.used).trailing_zeros() };
        let value = irq.lr_value(intid, vcpu as u8, forwarding, both, senders);
        let value = Links::linked(self.links.as_deref(), intid, value);
        irq.enter(vcpu as u8, k as u8, value, senders);
        let bit = 1u16.wrapping_shl(k);
        v.used |= bit;
        v.live |= bit;
        v.want.remove(intid);
        store(v, k, value, hw);
        self.set_irq(vcpu, intid, irq);
    }

    /// The guest ended EOIcount interrupts that were in no list register: the active ones outside, the best priority first.
    pub(crate) fn count_eois(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) {
        let count = hw.eoi_count();
        if count == 0 {
            return;
        }
        hw.clear_eoi_count();
        // With EOImode 1 an EOI ends nothing, and the DIR of a spilled interrupt traps: whatever was counted (QEMU counts such
        // EOIs) is no deactivation.
        if hw.vmcr() & VMCR_EOI_MODE != 0 {
            return;
        }
        for _ in 0..count {
            let Some(v) = self.vcpus.get(vcpu as usize) else { return };
            let outside = v.want.iter().filter_map(|intid| {
                let irq = self.irq(vcpu, intid)?;
                let spilled = irq.has(ACTIVE) && !irq.has(RESIDENT) && u32::from(irq.owner) == vcpu;
                spilled.then(|| active_key(irq, intid))
            });
            let Some(key) = outside.min() else { return };
            let intid = key & 0xffff;
            let Some(mut irq) = self.irq(vcpu, intid) else { return };
            if irq.deactivate() {
                Links::end(self.links.as_deref(), intid, hw);
            }
            self.set_irq(vcpu, intid, irq);
            self.attend(vcpu as u8, intid, irq);
        }
    }
}
