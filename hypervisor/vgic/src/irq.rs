//! What is remembered of one interrupt (8 bytes), and what that looks like in a list register.
//!
//! # Where the truth is
//! An interrupt in a *live* list register (written for a guest run that nobody has read back) has its pending and active
//! bits there; the flags here then only say what was put in ([`LR_LATCH`], [`HW`], [`ACTIVE`]), and what arrived since
//! ([`LATCH`], [`LEVEL`], [`FIRED`]). [`Irq::leave`] moves the truth back here, [`Irq::enter`] moves it into the register.
//!
//! # References
//! Arm IHI 0069 (GICv3/v4), "`ICH_LR<n>_EL2`, Interrupt Controller List Registers", "Maintenance interrupts".

/// No vCPU.
pub(crate) const NONE: u8 = 0xff;

/// Forwarding is enabled (GICD_ISENABLER, GICR_ISENABLER0).
pub(crate) const ENABLED: u16 = 1 << 0;
/// Pending by an edge, an SGI or a write of ISPENDR; consumed when the guest acknowledges.
pub(crate) const LATCH: u16 = 1 << 1;
/// The wire is high.
pub(crate) const LEVEL: u16 = 1 << 2;
/// Edge triggered (ICFGR).
pub(crate) const EDGE: u16 = 1 << 3;
/// Active; while in a live list register: was active when it was put there.
pub(crate) const ACTIVE: u16 = 1 << 4;
/// Made active by ISACTIVER, not by an acknowledge: a guest's EOI means it last.
pub(crate) const SOFT: u16 = 1 << 5;
/// In a list register of `owner`, number `lr`.
pub(crate) const RESIDENT: u16 = 1 << 6;
/// The pending bit in the list register stands for a [`LATCH`] that was moved there.
pub(crate) const LR_LATCH: u16 = 1 << 7;
/// The physical interrupt fired, is active for this vCPU, and the guest has not been told.
pub(crate) const FIRED: u16 = 1 << 8;
/// The physical interrupt is active for this vCPU, and a list register or [`ACTIVE`] stands for it.
pub(crate) const HW: u16 = 1 << 9;
/// IROUTER.Interrupt_Routing_Mode: any vCPU may take it.
pub(crate) const ANY: u16 = 1 << 10;
/// The vCPU that sent the SGI which is in the list register or active, where the face keeps senders apart (GICv2).
pub(crate) const SENDER: u16 = 7 << SENDER_SHIFT;
pub(crate) const SENDER_SHIFT: u32 = 11;

pub(crate) const LR_PENDING: u64 = 1 << 62;
pub(crate) const LR_ACTIVE: u64 = 1 << 63;
pub(crate) const LR_STATE: u64 = LR_PENDING | LR_ACTIVE;
pub(crate) const LR_HW: u64 = 1 << 61;
pub(crate) const LR_GROUP1: u64 = 1 << 60;
pub(crate) const LR_PRIORITY_SHIFT: u32 = 48;
pub(crate) const LR_PINTID_SHIFT: u32 = 32;
/// The sender of a GICv2 SGI, in bits that are otherwise zero where `LR_HW` is clear.
pub(crate) const LR_SENDER_SHIFT: u32 = 32;
pub(crate) const LR_SENDER: u64 = 7 << LR_SENDER_SHIFT;
/// "End of interrupt maintenance", only where `LR_HW` is clear.
pub(crate) const LR_EOI: u64 = 1 << 41;

/// One SGI or PPI of one vCPU, or one SPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Irq {
    pub(crate) flags: u16,
    pub(crate) priority: u8,
    /// The priority that the guest acknowledged it at, and will drop; what the list register holds.
    pub(crate) lr_priority: u8,
    /// Who gets it next.
    pub(crate) target: u8,
    /// Who has it in a list register or has it active; [`NONE`] where neither.
    pub(crate) owner: u8,
    pub(crate) lr: u8,
    /// Of the timer: the physical interrupt that it is linked to (an SPI's is in `links`). Of a GICv2's SGI: who has sent it, one bit a vCPU; pending
    /// ([`LATCH`]) as long as there is one.
    pub(crate) pintid: u8,
}

impl Irq {
    /// After reset: disabled, level sensitive, priority 0.
    pub(crate) const fn new(target: u8) -> Self {
        Self { flags: 0, priority: 0, lr_priority: 0, target, owner: NONE, lr: 0, pintid: 0 }
    }

    #[inline]
    pub(crate) const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub(crate) fn put(&mut self, flag: u16, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// Pending as the distributor sees it. True only where the truth is here.
    #[inline]
    pub(crate) const fn pending(self) -> bool {
        self.flags & (LATCH | FIRED) != 0 || self.flags & (LEVEL | EDGE) == LEVEL
    }

    /// Whose list registers it belongs in, if in any.
    #[inline]
    pub(crate) const fn home(self) -> u8 {
        if self.owner == NONE { self.target } else { self.owner }
    }

    /// Whether its home has anything to do for it.
    #[inline]
    pub(crate) const fn wants(self, forwarding: bool) -> bool {
        self.flags & (ACTIVE | RESIDENT) != 0 || (forwarding && self.has(ENABLED) && self.pending())
    }

    /// The list register that shows this interrupt to vCPU `to`, 0 where there is nothing to show.
    ///
    /// What is pending behind an active interrupt may share its register only where it is an edge for the same vCPU with the
    /// same priority, and `both` allows it; else the EOI-maintenance bit asks for another look at deactivation. A register linked to the
    /// physical interrupt cannot carry that bit, so the link is given up there and EL2 deactivates ([`Irq::leave`]).
    ///
    /// `senders`: an SGI of a GICv2, each of whose senders is pending for itself: one of them is shown, and the
    /// EOI-maintenance bit asks for the others' turn.
    #[inline]
    pub(crate) fn lr_value(self, intid: u32, to: u8, forwarding: bool, both: bool, senders: bool) -> u64 {
        if senders {
            return self.sent_lr_value(intid, to, forwarding, both);
        }
        let deliver = forwarding && self.has(ENABLED) && self.target == to && self.pending();
        let mut value = u64::from(intid) | LR_GROUP1;
        if self.has(ACTIVE) {
            value |= LR_ACTIVE | (u64::from(self.lr_priority) << LR_PRIORITY_SHIFT);
            if self.has(HW) && !self.pending() {
                return value | LR_HW | (u64::from(self.pintid) << LR_PINTID_SHIFT);
            }
            if both && deliver && self.flags & (EDGE | HW) == EDGE && self.priority == self.lr_priority {
                return value | LR_PENDING;
            }
            if self.pending() || !self.has(EDGE) {
                value |= LR_EOI;
            }
            return value;
        }
        if !deliver {
            return 0;
        }
        self.new_lr_value(intid, self.flags)
    }

    /// [`Irq::lr_value`] of a GICv2's SGI.
    fn sent_lr_value(self, intid: u32, to: u8, forwarding: bool, both: bool) -> u64 {
        let deliver = forwarding && self.has(ENABLED) && self.target == to && self.pending();
        let value = u64::from(intid) | LR_GROUP1;
        let with = |sender: u32, state: u64, priority: u8| {
            let more = u32::from(self.pintid) & !1u32.wrapping_shl(sender) != 0;
            let eoi = if more { LR_EOI } else { 0 };
            value | state | eoi | u64::from(sender) << LR_SENDER_SHIFT | u64::from(priority) << LR_PRIORITY_SHIFT
        };
        if self.has(ACTIVE) {
            let sender = self.sender();
            let again = u32::from(self.pintid) & 1u32.wrapping_shl(sender) != 0;
            if both && deliver && again && self.priority == self.lr_priority {
                return with(sender, LR_STATE, self.lr_priority);
            }
            let eoi = if self.pending() { LR_EOI } else { 0 };
            return with(sender, LR_ACTIVE, self.lr_priority) | eoi;
        }
        if deliver { with(self.pintid.trailing_zeros() & 7, LR_PENDING, self.priority) } else { 0 }
    }

    /// Who sent what is in the list register or active.
    #[inline]
    const fn sender(self) -> u32 {
        ((self.flags & SENDER) >> SENDER_SHIFT) as u32
    }

    /// The truth goes into list register `lr` of `owner`, which is written with `value`; `senders` as for [`Irq::lr_value`].
    #[inline]
    pub(crate) fn enter(&mut self, owner: u8, lr: u8, value: u64, senders: bool) {
        self.owner = owner;
        self.lr = lr;
        self.flags |= RESIDENT;
        self.lr_priority = (value >> LR_PRIORITY_SHIFT) as u8;
        if senders {
            let sender = ((value & LR_SENDER) >> LR_SENDER_SHIFT) as u32;
            self.flags = (self.flags & !SENDER) | ((sender as u16) << SENDER_SHIFT);
            if value & LR_PENDING != 0 {
                self.pintid &= !1u8.wrapping_shl(sender);
                self.flags |= LR_LATCH;
                self.put(LATCH, self.pintid != 0);
            }
            return;
        }
        if value & LR_PENDING != 0 {
            if self.has(LATCH) {
                self.flags = (self.flags & !LATCH) | LR_LATCH;
            }
            if self.has(FIRED) {
                self.flags = (self.flags & !FIRED) | HW;
            }
        }
    }

    /// [`Irq::lr_value`] of one that is to be delivered, is not active, and has `flags`.
    #[inline]
    pub(crate) const fn new_lr_value(self, intid: u32, flags: u16) -> u64 {
        let value = intid as u64 | LR_GROUP1 | LR_PENDING | ((self.priority as u64) << LR_PRIORITY_SHIFT);
        if flags & FIRED != 0 {
            value | LR_HW | ((self.pintid as u64) << LR_PINTID_SHIFT)
        } else if flags & EDGE == 0 {
            value | LR_EOI
        } else {
            value
        }
    }

    /// [`Irq::enter`] of such a one; what was in the register before is over.
    #[inline]
    pub(crate) fn enter_new(&mut self, owner: u8, lr: u8) {
        const { assert!(LR_LATCH == LATCH << 6 && HW == FIRED << 1) };
        let moved = ((self.flags & LATCH) << 6) | ((self.flags & FIRED) << 1);
        self.flags = (self.flags & (ENABLED | LEVEL | EDGE | ANY)) | moved | RESIDENT;
        self.lr_priority = self.priority;
        self.owner = owner;
        self.lr = lr;
    }

    /// The truth comes back from the list register, which reads `value` now. True where the guest deactivated what
    /// stands for the physical interrupt without hardware doing the same to that. `senders` as for [`Irq::lr_value`].
    #[inline]
    #[must_use]
    pub(crate) fn leave(&mut self, value: u64, senders: bool) -> bool {
        if value & LR_PENDING != 0 {
            if self.has(LR_LATCH) {
                self.flags |= LATCH;
                if senders {
                    self.pintid |= 1u8.wrapping_shl(self.sender());
                }
            }
            if value & (LR_HW | LR_ACTIVE) == LR_HW && self.has(HW) {
                self.flags = (self.flags & !HW) | FIRED;
            }
        }
        self.flags &= !LR_LATCH;
        if value & LR_ACTIVE != 0 {
            if !self.has(ACTIVE) {
                self.flags |= ACTIVE;
            }
            return false;
        }
        let release = self.has(HW) && value & LR_HW == 0;
        self.flags &= !(ACTIVE | SOFT | HW);
        release
    }

    /// Out of its list register; the truth has to be here already.
    #[inline]
    pub(crate) fn evict(&mut self) {
        self.flags &= !RESIDENT;
        if !self.has(ACTIVE) {
            self.owner = NONE;
        }
    }

    /// No longer active, with the truth here. True where the physical interrupt has to be deactivated with it.
    #[must_use]
    pub(crate) fn deactivate(&mut self) -> bool {
        let release = self.has(HW);
        self.flags &= !(ACTIVE | SOFT | HW);
        if !self.has(RESIDENT) {
            self.owner = NONE;
        }
        release
    }
}
