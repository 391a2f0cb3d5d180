//! Shared interrupts of the machine that a guest has (of a device that was passed through): linked to SPIs of the guest, so that
//! the guest's end of one ends the other.
//!
//! # Model
//! | what happens | what is done to the physical interrupt |
//! |---|---|
//! | the guest switches its SPI on or off | the same, at once, unless the links are held |
//! | it fires ([`Vgic::spi_fired`]) | it was taken by EL2 and is active from then on: it cannot fire again |
//! | the guest deactivates the virtual one in a linked list register | hardware does the same to it |
//! | the guest does so elsewhere: spilled, by ICACTIVER, behind something else that is pending | [`PhysicalLines::deactivate`] |
//! | the VM pauses or begins to stop ([`Vgic::hold_links`]) | off; who is active stays so |
//! | the VM is reset or ends ([`Vgic::reset`], [`Vgic::end_links`]) | off, not pending, not active |
//!
//! What a guest can do with it is therefore bounded by its own ends of interrupts: one that is never ended is never taken again.
//!
//! # Not modelled
//! The level of a physical line while its interrupt is off (ISPENDR reads as not pending), and a line that goes low after it was
//! taken: the guest may then take one interrupt without a cause, as an architecture with asynchronous lines allows.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use crate::bits::ones;
use crate::irq::{ENABLED, FIRED, LR_HW, LR_PINTID_SHIFT, NONE};
use crate::list_registers::ListRegs;
use crate::{FIRST_SPI, TIMER_PPI, Vgic};

/// The machine's shared interrupts, by their physical INTIDs. Called with the VM's vGIC lock held.
pub trait PhysicalLines: fmt::Debug + Send + Sync {
    /// Has it forwarded to a pCPU, or not: off, none is taken from the return on, but for one that a pCPU has taken already.
    fn set_enabled(&self, pintid: u32, on: bool);
    /// Ends it: active no more.
    fn deactivate(&self, pintid: u32);
    /// Off, not pending, not active.
    fn forget(&self, pintid: u32);
}

/// Which SPIs are linked.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    lines: Arc<dyn PhysicalLines>,
    /// The physical INTID of each SPI; 0 for none.
    pintids: Box<[u16]>,
    /// All are off, whatever the guest says.
    held: bool,
}

impl Links {
    /// The physical interrupt of an SPI.
    fn of(&self, intid: u32) -> Option<u32> {
        let pintid = self.pintids.get(intid.checked_sub(FIRST_SPI)? as usize)?;
        (*pintid != 0).then_some(u32::from(*pintid))
    }

    /// The SPIs that are linked: both numbers.
    fn all(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let linked = self.pintids.iter().zip(FIRST_SPI..).filter(|(pintid, _)| **pintid != 0);
        linked.map(|(pintid, intid)| (intid, u32::from(*pintid)))
    }

    /// `value` for a list register of `intid`, with the link that it asks for.
    #[inline]
    pub(crate) fn linked(links: Option<&Self>, intid: u32, value: u64) -> u64 {
        if value & LR_HW == 0 || intid < FIRST_SPI {
            return value;
        }
        let pintid = links.and_then(|links| links.of(intid)).unwrap_or(0);
        value | u64::from(pintid) << LR_PINTID_SHIFT
    }

    /// The virtual interrupt `intid` was deactivated without hardware doing the same to the physical one.
    #[inline]
    pub(crate) fn end(links: Option<&Self>, intid: u32, hw: &mut impl ListRegs) {
        if intid < FIRST_SPI {
            hw.deactivate(TIMER_PPI);
        } else {
            Self::end_spi(links, intid);
        }
    }

    /// The same of an SPI, which any pCPU can deactivate.
    pub(crate) fn end_spi(links: Option<&Self>, intid: u32) {
        if let Some((links, pintid)) = links.and_then(|links| Some((links, links.of(intid)?))) {
            links.lines.deactivate(pintid);
        }
    }

    /// The guest has switched those of a bank on or off whose bit is set in `mask`.
    pub(crate) fn switched(links: Option<&Self>, first: u32, mask: u32, on: bool) {
        let Some(links) = links.filter(|links| !links.held) else { return };
        for pintid in ones(mask.into()).filter_map(|n| links.of(first.wrapping_add(n))) {
            links.lines.set_enabled(pintid, on);
        }
    }
}

impl Vgic {
    /// Links SPIs to physical interrupts: (INTID, physical INTID), each once. No vCPU has run yet. What is no SPI is left out.
    pub fn link_spis(&mut self, lines: Arc<dyn PhysicalLines>, pairs: &[(u32, u32)]) {
        let mut pintids = alloc::vec![0; self.spis.len()].into_boxed_slice();
        for (intid, pintid) in pairs {
            let slot = intid.checked_sub(FIRST_SPI).and_then(|spi| pintids.get_mut(spi as usize));
            if let (Some(slot), Ok(pintid)) = (slot, u16::try_from(*pintid)) {
                *slot = pintid;
            }
        }
        self.links = Some(Box::new(Links { lines, pintids, held: false }));
    }

    /// The physical interrupt that SPI `intid` is linked to was taken by some pCPU and its priority dropped, not deactivated: it
    /// stays active until the guest deactivates the virtual one.
    pub fn spi_fired(&mut self, intid: u32) {
        let linked = self.links.as_ref().is_some_and(|links| links.of(intid).is_some());
        let Some(mut irq) = self.irq(0, intid).filter(|_| linked) else { return };
        irq.flags |= FIRED;
        self.set_irq(0, intid, irq);
        self.attend(NONE, intid, irq);
    }

    /// The vCPU that gets SPI `intid` next.
    pub fn spi_target(&self, intid: u32) -> Option<u32> {
        self.irq(0, intid).map(|irq| irq.target).filter(|target| *target != NONE).map(u32::from)
    }

    /// While held, no linked interrupt fires, whatever the guest does; afterwards those do that the guest has on.
    pub fn hold_links(&mut self, held: bool) {
        let Some(mut links) = self.links.take() else { return };
        links.held = held;
        for (intid, pintid) in links.all() {
            let on = !held && self.irq(0, intid).is_some_and(|irq| irq.has(ENABLED));
            links.lines.set_enabled(pintid, on);
        }
        self.links = Some(links);
    }

    /// The linked interrupts are off, not pending and not active: the VM does not have them any more, or starts anew.
    pub fn end_links(&mut self) {
        if let Some(links) = &mut self.links {
            links.held = false;
            links.all().for_each(|(_, pintid)| links.lines.forget(pintid));
        }
    }
}
