//! The number of the timer's interrupt: [`TIMER_PPI`](crate::TIMER_PPI) to guests and to this crate, the board's own in hardware.

use crate::TIMER_PPI;
use crate::irq::{LR_HW, LR_PINTID_SHIFT};

/// Translates between the two where hardware is written and read. What is changed is the physical number (pINTID) of a list
/// register with a hardware link; a guest sees the virtual one only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimerLink {
    /// The bits in which the two numbers differ.
    differ: u32,
}

impl TimerLink {
    /// For a machine whose virtual timer has the PPI `intid`.
    pub fn to(intid: u32) -> Self {
        Self { differ: intid ^ TIMER_PPI }
    }

    /// A list register as hardware has it, of one as this crate has it, and the other way round.
    #[inline(always)]
    pub fn list_register(self, value: u64) -> u64 {
        if value & LR_HW == 0 { value } else { value ^ u64::from(self.differ) << LR_PINTID_SHIFT }
    }

    /// The physical interrupt that this crate calls `intid`.
    #[inline(always)]
    pub fn physical(self, intid: u32) -> u32 {
        intid ^ self.differ
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::{LR_EOI, LR_GROUP1, LR_PENDING};

    #[test]
    fn only_the_physical_number_of_a_linked_register_changes() {
        let linked = LR_PENDING | LR_HW | LR_GROUP1 | u64::from(TIMER_PPI) << LR_PINTID_SHIFT | u64::from(TIMER_PPI);
        for intid in 16..32 {
            let link = TimerLink::to(intid);
            let hardware = link.list_register(linked);
            assert_eq!(hardware >> LR_PINTID_SHIFT & 0x3ff, u64::from(intid));
            assert_eq!(hardware as u32, TIMER_PPI, "the guest's number");
            assert_eq!((hardware ^ linked) & !(0x3ff << LR_PINTID_SHIFT), 0);
            assert_eq!(link.list_register(hardware), linked);
            assert_eq!(link.physical(TIMER_PPI), intid);
            // Without a link the field holds the maintenance bit.
            for value in [0, LR_PENDING | LR_EOI | 40, LR_PENDING | u64::from(TIMER_PPI)] {
                assert_eq!(link.list_register(value), value);
            }
        }
        assert_eq!(TimerLink::default(), TimerLink::to(TIMER_PPI));
    }
}
