//! Writes the list registers of a flush for which everything fits: each INTID that has news by itself, without a look at the
//! registers of the others. What does not fit is `overflow`'s business.

use crate::irq::{ACTIVE, ENABLED, HW, Irq, LR_HW, LR_PENDING, LR_STATE, RESIDENT};
use crate::links::Links;
use crate::list_registers::ListRegs;
use crate::state::Vcpu;
use crate::{FIRST_PPI, FIRST_SPI};

/// The common flush: nothing but private interrupts that are newly pending, each with a free list register or one that the
/// guest is done with. False where there is more to it; what is not placed then is still in `want`.
#[inline]
pub(crate) fn place_new(v: &mut Vcpu, me: u8, hw: &mut impl ListRegs) -> bool {
    let Some(mut low) = v.want.low().filter(|_| !v.overflow && !v.release) else { return false };
    let mut shown = v.want.shown;
    while low != 0 {
        let intid = low.trailing_zeros();
        // Whose senders have to be told apart goes the long way.
        if hw.senders() && intid < FIRST_PPI {
            break;
        }
        let Some(irq) = v.private.get_mut(intid as usize) else { break };
        let flags = irq.flags;
        if flags & ENABLED == 0 || !irq.pending() {
            break;
        }
        let k = if flags & RESIDENT == 0 {
            let k = (!v.used).trailing_zeros();
            if flags & ACTIVE != 0 || k >= u32::from(v.lr_count) {
                break;
            }
            let bit = 1u16.wrapping_shl(k);
            v.used |= bit;
            v.live |= bit;
            k
        } else {
            // Where it is pending or active there, or the physical interrupt is left to EL2, the long way reads it again.
            let k = u32::from(irq.lr);
            if v.live & 1u16.wrapping_shl(k) == 0 {
                break;
            }
            let held = hw.read(k as usize);
            if held & LR_STATE != 0 || (flags & HW != 0 && held & LR_HW == 0) {
                break;
            }
            k
        };
        irq.enter_new(me, k as u8);
        let value = irq.new_lr_value(intid, flags);
        // The mask changes nothing: there are 16 at most.
        if let Some(held) = v.lr.get_mut((k & 15) as usize) {
            *held = value;
        }
        hw.write(k as usize, value);
        shown = shown.wrapping_add(1);
        low &= low.wrapping_sub(1);
    }
    v.want.shown = shown;
    v.want.set_low(low);
    low == 0
}

/// What [`place_all`] stopped at.
pub(crate) enum Placed {
    /// Nothing: every INTID in `want` is where it belongs.
    All,
    /// This INTID was taken out of its list register, and may belong to another vCPU now.
    Withdrawn(u32),
    /// One needs a list register and none is known to be free; it is still in `want`.
    Full,
}

/// Brings the list registers of the INTIDs in `want` up to date, one by one. Reads a register only where it is live.
pub(crate) fn place_all(
    v: &mut Vcpu,
    spis: &mut [Irq],
    links: Option<&Links>,
    me: u8,
    forwarding: bool,
    hw: &mut impl ListRegs,
) -> Placed {
    while let Some(intid) = v.want.pop() {
        let slot = match intid.checked_sub(FIRST_SPI) {
            None => v.private.get_mut(intid as usize),
            Some(n) => spis.get_mut(n as usize),
        };
        let Some(irq) = slot.filter(|irq| irq.home() == me) else { continue };
        let senders = hw.senders() && intid < FIRST_PPI;
        let resident = irq.has(RESIDENT);
        let k = if resident { u32::from(irq.lr) } else { (!v.used).trailing_zeros() };
        let bit = 1u16.wrapping_shl(k);
        if resident && v.live & bit != 0 {
            let value = hw.read(k as usize);
            v.live &= !bit;
            if let Some(held) = v.lr.get_mut(k as usize) {
                *held = value;
            }
            if irq.leave(value, senders) {
                Links::end(links, intid, hw);
            }
        }
        let value = Links::linked(links, intid, irq.lr_value(intid, me, forwarding, true, senders));
        if value == 0 {
            if resident {
                irq.evict();
                v.used &= !bit;
                store(v, k, 0, hw);
                return Placed::Withdrawn(intid);
            }
        } else if k < u32::from(v.lr_count) {
            irq.enter(me, k as u8, value, senders);
            v.used |= bit;
            v.live |= bit;
            store(v, k, value, hw);
        } else {
            v.want.insert(intid);
            return Placed::Full;
        }
    }
    Placed::All
}

/// Writes list register `k` unless it holds the value already.
#[inline]
pub(crate) fn store(v: &mut Vcpu, k: u32, value: u64, hw: &mut impl ListRegs) {
    if let Some(slot) = v.lr.get_mut(k as usize)
        && *slot != value
    {
        v.want.shown = v.want.shown.wrapping_add(u64::from(value & LR_PENDING & !*slot != 0));
        *slot = value;
        hw.write(k as usize, value);
    }
}

/// Sets ICH_HCR_EL2 unless it holds the value already. EOIcount is lost with it: it has been counted before.
#[inline]
pub(crate) fn store_hcr(v: &mut Vcpu, value: u64, hw: &mut impl ListRegs) {
    if v.hcr != value {
        v.hcr = value;
        hw.set_hcr(value);
    }
}
