//! What a guest can ask of and do to interrupts through registers, apart from where those registers are: the operations of
//! every face, with the rule of who has to be folded first.
//!
//! A bank is 32 INTIDs from `first`; `view` is the vCPU whose private interrupts are meant (it does not matter for SPIs).
//! Bits of INTIDs that do not exist are RAZ/WI.

use crate::bits::ones;
use crate::irq::{ACTIVE, ANY, EDGE, ENABLED, FIRED, HW, Irq, LATCH, NONE, SOFT};
use crate::links::Links;
use crate::{FIRST_SPI, Refusal, VcpuId, VcpuSet, Vgic};

impl Vgic {
    /// The interrupts of a bank whose bit is set in `mask`.
    fn each(&self, view: VcpuId, first: u32, mask: u32) -> impl Iterator<Item = (u32, Irq)> + '_ {
        ones(mask.into()).filter_map(move |n| {
            let intid = first.wrapping_add(n);
            self.irq(view, intid).map(|irq| (n, irq))
        })
    }

    /// Refused where the truth about one of them is in the list registers of a running vCPU; or in its timer, which may have
    /// taken its line low since it fired.
    pub(crate) fn folded(&self, view: VcpuId, first: u32, mask: u32) -> Result<(), Refusal> {
        let mut set = VcpuSet::EMPTY;
        for (_, irq) in self.each(view, first, mask) {
            if irq.owner != NONE && self.is_running(irq.owner) {
                set.insert(irq.owner.into());
            } else if irq.has(FIRED) && self.is_running(irq.target) {
                set.insert(irq.target.into());
            }
        }
        if set.is_empty() { Ok(()) } else { Err(Refusal::Fold(set)) }
    }

    /// One bit an interrupt, set where `test` says so.
    pub(crate) fn bits(&self, view: VcpuId, first: u32, test: impl Fn(Irq) -> bool) -> u32 {
        self.each(view, first, u32::MAX).fold(0, |bits, (n, irq)| bits | (u32::from(test(irq)) << n))
    }

    /// [`Vgic::bits`] of what the guest changes without an exit.
    pub(crate) fn folded_bits(&self, view: VcpuId, first: u32, test: impl Fn(Irq) -> bool) -> Result<u32, Refusal> {
        self.folded(view, first, u32::MAX)?;
        Ok(self.bits(view, first, test))
    }

    /// Changes each interrupt in `mask`, then has its home look at it.
    fn change(&mut self, view: VcpuId, first: u32, mask: u32, change: impl Fn(&mut Irq)) {
        for n in ones(mask.into()) {
            let intid = first.wrapping_add(n);
            if let Some(mut irq) = self.irq(view, intid) {
                let before = irq;
                change(&mut irq);
                if before != irq {
                    self.set_irq(view, intid, irq);
                    self.attend(NONE, intid, irq);
                }
            }
        }
    }

    /// ISENABLER.
    pub(crate) fn enable(&mut self, view: VcpuId, first: u32, mask: u32) {
        self.change(view, first, mask, |irq| irq.flags |= ENABLED);
        Links::switched(self.links.as_deref(), first, mask, true);
    }

    /// ICENABLER. What is pending is withdrawn before the write completes, so a resident one is folded first.
    pub(crate) fn disable(&mut self, view: VcpuId, first: u32, mask: u32) -> Result<(), Refusal> {
        let enabled = mask & self.bits(view, first, |irq| irq.has(ENABLED));
        self.folded(view, first, enabled)?;
        self.change(view, first, enabled, |irq| irq.flags &= !ENABLED);
        Links::switched(self.links.as_deref(), first, enabled, false);
        Ok(())
    }

    /// ISPENDR.
    pub(crate) fn pend(&mut self, view: VcpuId, first: u32, mask: u32) {
        self.change(view, first, mask, |irq| irq.flags |= LATCH);
    }

    /// ICPENDR. A wire that is high keeps a level-sensitive interrupt pending.
    pub(crate) fn unpend(&mut self, view: VcpuId, first: u32, mask: u32) -> Result<(), Refusal> {
        self.folded(view, first, mask)?;
        self.change(view, first, mask, |irq| irq.flags &= !LATCH);
        Ok(())
    }

    /// CPENDSGIR of a GICv2: the SGI is not pending for these senders any more. It has been folded.
    pub(crate) fn unsend(&mut self, view: VcpuId, intid: u32, senders: u8) {
        self.change(view, intid, 1, |irq| {
            irq.pintid &= !senders;
            irq.put(LATCH, irq.pintid != 0);
        });
    }

    /// ISACTIVER.
    pub(crate) fn activate(&mut self, view: VcpuId, first: u32, mask: u32) -> Result<(), Refusal> {
        self.folded(view, first, mask)?;
        self.change(view, first, mask, |irq| {
            if !irq.has(ACTIVE) {
                irq.owner = irq.home();
                irq.lr_priority = irq.priority;
                irq.flags |= ACTIVE | SOFT;
            }
        });
        Ok(())
    }

    /// ICACTIVER.
    pub(crate) fn deactivate(&mut self, view: VcpuId, first: u32, mask: u32) -> Result<(), Refusal> {
        self.folded(view, first, mask)?;
        let linked = self
            .each(view, first, mask)
            .filter(|(_, irq)| irq.has(HW))
            .fold(0, |bits, (n, _)| bits | 1u32.wrapping_shl(n));
        self.change(view, first, mask, |irq| {
            let _ = irq.deactivate();
        });
        if first >= FIRST_SPI {
            ones(linked.into()).for_each(|n| Links::end_spi(self.links.as_deref(), first.wrapping_add(n)));
        } else if linked != 0 {
            // Of private ones the timer alone is.
            self.release_timer(view);
        }
        Ok(())
    }

    /// The priority of one interrupt.
    pub(crate) fn priority(&self, view: VcpuId, intid: u32) -> u8 {
        self.irq(view, intid).map_or(0, |irq| irq.priority)
    }

    /// Sets the priority of one interrupt. One that is pending in a list register gets it at its owner's next flush; an
    /// active one keeps the priority that it was acknowledged at.
    pub(crate) fn set_priority(&mut self, view: VcpuId, intid: u32, priority: u8) {
        let unimplemented = 8u32.saturating_sub(self.priority_bits);
        let priority = priority & 0xffu8.wrapping_shl(unimplemented);
        self.change(view, intid, 1, |irq| irq.priority = priority);
    }

    /// Makes SPIs edge triggered (bit set) or level sensitive. An edge that the latch holds stays pending.
    pub(crate) fn configure(&mut self, first: u32, mask: u32, edge: u32) -> Result<(), Refusal> {
        let before = self.bits(0, first, |irq| irq.has(EDGE));
        let changed = mask & (before ^ edge);
        self.folded(0, first, changed)?;
        self.change(0, first, changed, |irq| irq.flags ^= EDGE);
        Ok(())
    }

    /// Routes an SPI. What is active stays with the vCPU that acknowledged it.
    pub(crate) fn retarget(&mut self, intid: u32, target: u8) -> Result<(), Refusal> {
        let Some(irq) = self.irq(0, intid) else { return Ok(()) };
        if irq.target == target {
            return Ok(());
        }
        self.folded(0, intid, 1)?;
        self.change(0, intid, 1, |irq| irq.target = target);
        Ok(())
    }

    /// Routes all SPIs that any vCPU may take.
    pub(crate) fn retarget_any(&mut self, target: u8) -> Result<(), Refusal> {
        let mut set = VcpuSet::EMPTY;
        let moves = |irq: &Irq| irq.has(ANY) && irq.target != target;
        for irq in self.spis.iter().filter(|irq| moves(irq)) {
            if self.is_running(irq.owner) {
                set.insert(irq.owner.into());
            }
        }
        if !set.is_empty() {
            return Err(Refusal::Fold(set));
        }
        for intid in FIRST_SPI..self.intids() {
            if self.irq(0, intid).is_some_and(|irq| moves(&irq)) {
                self.retarget(intid, target)?;
            }
        }
        Ok(())
    }

    /// The distributor's switch. Off withdraws what is pending everywhere.
    pub(crate) fn set_forwarding(&mut self, on: bool) -> Result<(), Refusal> {
        if self.forwarding == on {
            return Ok(());
        }
        if !on {
            let mut set = VcpuSet::EMPTY;
            for n in 0..self.vcpus.len() as u32 {
                if self.is_running(n as u8) && self.vcpus.get(n as usize).is_some_and(|v| v.used != 0) {
                    set.insert(n);
                }
            }
            if !set.is_empty() {
                return Err(Refusal::Fold(set));
            }
        }
        self.forwarding = on;
        self.attend_all();
        Ok(())
    }

    /// Has every home look at everything that it has to do with.
    pub(crate) fn attend_all(&mut self) {
        for intid in 0..self.intids() {
            let views = if intid < FIRST_SPI { self.vcpus.len() as u32 } else { 1 };
            for view in 0..views {
                if let Some(irq) = self.irq(view, intid) {
                    self.attend(NONE, intid, irq);
                }
            }
        }
    }
}
