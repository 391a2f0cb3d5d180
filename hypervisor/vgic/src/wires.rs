//! Interrupt sources: device wires, the linked timer, and edges.

use sync::nospec;

use crate::irq::{ACTIVE, EDGE, ENABLED, FIRED, HW, LATCH, LEVEL, LR_PENDING, LR_STATE, NONE, RESIDENT};
use crate::list_registers::ListRegs;
use crate::state::Residency;
use crate::{FIRST_SPI, TIMER_PPI, VcpuId, Vgic};

impl Vgic {
    /// Drives the wire of an SPI (INTID from 32). An INTID that does not exist has no wire.
    pub fn set_spi_level(&mut self, intid: u32, high: bool) {
        if intid >= FIRST_SPI {
            self.set_level(0, intid, high);
        }
    }

    /// Drives the wire of a PPI (INTID 16 to 31) of one vCPU; not that of [`TIMER_PPI`], which is linked to hardware.
    pub fn set_ppi_level(&mut self, vcpu: VcpuId, intid: u32, high: bool) {
        if (16..FIRST_SPI).contains(&intid) && intid != TIMER_PPI {
            self.set_level(vcpu, intid, high);
        }
    }

    /// An edge on an SPI (a message, a doorbell): pending until taken or cleared, however the guest configured it.
    pub fn pulse_spi(&mut self, intid: u32) {
        if intid >= FIRST_SPI {
            self.pend(0, intid, 1);
        }
    }

    fn set_level(&mut self, view: VcpuId, intid: u32, high: bool) {
        let Some(mut irq) = self.irq(view, intid) else { return };
        if irq.has(LEVEL) == high {
            return;
        }
        irq.put(LEVEL, high);
        // A level-sensitive interrupt that is in a list register or active is looked at again when it is deactivated, so
        // its wire going high needs nobody now. Going low, it may sit in a register, pending without a cause.
        let attend = if irq.has(EDGE) {
            high
        } else if high {
            !irq.has(RESIDENT) && !irq.has(ACTIVE)
        } else {
            irq.has(RESIDENT)
        };
        if irq.has(EDGE) && high {
            irq.flags |= LATCH;
        }
        self.set_irq(view, intid, irq);
        if attend {
            self.attend(NONE, intid, irq);
        }
    }

    /// The physical timer interrupt was taken on the pCPU of this vCPU (or its deadline passed while it was not loaded) and
    /// its priority dropped, not deactivated: it stays active until the guest deactivates the virtual one.
    #[inline]
    pub fn hw_timer_fired(&mut self, vcpu: VcpuId) {
        self.raise_private(vcpu, TIMER_PPI, FIRED);
    }

    /// Makes an SGI or PPI pending by `cause` ([`LATCH`] or [`FIRED`]). The home of such a one is its vCPU, always.
    #[inline]
    pub(crate) fn raise_private(&mut self, vcpu: VcpuId, intid: u32, cause: u16) {
        // The vCPU of an SGI is the sender's choice; the INTID is one of its four bits, or Merus' own.
        let Some(v) = nospec::get_quick_mut(&mut self.vcpus, vcpu as usize) else { return };
        let Some(irq) = v.private.get_mut(intid as usize) else { return };
        let flags = irq.flags | cause;
        irq.flags = flags;
        if flags & (ACTIVE | RESIDENT) != 0 || (flags & ENABLED != 0 && self.forwarding) {
            v.want.insert_low(intid);
            self.dirty.insert_existing(vcpu);
            self.notify.insert_existing(vcpu);
        }
    }

    /// The timer's line is low (the guest moved CVAL, say) and the guest has not taken the interrupt: takes back what
    /// [`Vgic::hw_timer_fired`] made pending, out of the list register too. Nothing where the guest has it active, or is done
    /// with it. Returns whether there was anything to take back; where the vCPU is loaded a flush is due then, which
    /// deactivates the physical interrupt as well.
    pub fn hw_timer_low(&mut self, vcpu: VcpuId, hw: &mut impl ListRegs) -> bool {
        let Some(irq) = self.irq(vcpu, TIMER_PPI) else { return false };
        if irq.has(RESIDENT) {
            let k = u32::from(irq.lr);
            let live = self.vcpus.get(vcpu as usize).is_some_and(|v| v.live & 1u16.wrapping_shl(k) != 0);
            if live {
                let value = hw.read(k as usize);
                // Pending by software alone, it stays: a fold that is not followed by a flush would let the guest take it twice.
                if value & LR_STATE != LR_PENDING || !(irq.has(HW) || irq.has(FIRED)) {
                    return false;
                }
                self.fold(vcpu, k, value, hw);
            }
        }
        self.hw_timer_retracted(vcpu)
    }

    /// [`Vgic::hw_timer_low`] where no list register can hold the interrupt: the vCPU is put, or folded.
    pub fn hw_timer_retracted(&mut self, vcpu: VcpuId) -> bool {
        let Some(mut irq) = self.irq(vcpu, TIMER_PPI) else { return false };
        let live = self.vcpus.get(vcpu as usize).is_some_and(|v| v.live & 1u16.wrapping_shl(irq.lr.into()) != 0);
        if !irq.has(FIRED) || (irq.has(RESIDENT) && live) {
            return false;
        }
        irq.flags &= !FIRED;
        self.set_irq(vcpu, TIMER_PPI, irq);
        self.attend(NONE, TIMER_PPI, irq);
        self.release_timer(vcpu);
        true
    }

    /// Whether the physical timer interrupt has to be active while this vCPU is loaded: to be written at load, and cleared
    /// at put. Without it a vCPU that has not yet deactivated would be interrupted again at once.
    pub fn timer_active(&self, vcpu: VcpuId) -> bool {
        self.irq(vcpu, TIMER_PPI).is_some_and(|irq| irq.has(FIRED) || irq.has(HW))
    }

    /// The virtual timer interrupt was deactivated by software: the physical one follows at the next flush. A vCPU that is
    /// not loaded has no physical one.
    pub(crate) fn release_timer(&mut self, vcpu: VcpuId) {
        if let Some(v) = self.vcpus.get_mut(vcpu as usize)
            && v.residency != Residency::NotLoaded
        {
            v.release = true;
            self.dirty.insert(vcpu);
        }
    }
}
