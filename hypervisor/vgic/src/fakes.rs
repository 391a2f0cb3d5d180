//! For host tests: a model of the hardware's virtual CPU interface, one group only, with 5 priority bits: what a guest's ICC_*
//! accesses do to the list registers (Arm IHI 0069, "Virtual interrupt handling and prioritization", and the pseudocode of
//! ICV_IAR1_EL1, ICV_EOIR1_EL1 and ICV_DIR_EL1); or its accesses to a GICv2's GICV (Arm IHI 0048, "Virtual CPU interface register
//! descriptions"), whose list registers have 32 bits.
//!
//! It panics where the architecture calls a write UNPREDICTABLE.

use std::vec::Vec;

use crate::gich;
use crate::list_registers::{ListRegs, hcr};

/// What ICC_IAR1_EL1 reads where there is nothing to acknowledge.
pub const SPURIOUS: u32 = 1023;

/// The virtual CPU interface of one pCPU.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// `ICH_LR<n>_EL2`.
    pub lr: Vec<u64>,
    /// ICH_HCR_EL2.
    pub hcr: u64,
    /// ICH_VMCR_EL2.
    pub vmcr: u64,
    /// ICH_AP1R0_EL2.
    pub ap1r: u32,
    /// The active bit of the physical timer interrupt.
    pub timer_active: bool,
    /// Physical SPIs that the guest's deactivations have ended, since the test last looked.
    pub ended: Vec<u32>,
    /// Reads of list registers since the test last looked.
    pub reads: core::cell::Cell<usize>,
    /// Writes of list registers.
    pub writes: usize,
    /// Writes of ICH_HCR_EL2.
    pub hcr_writes: usize,
    /// It is a GICv2's: `ap1r` is GICH_APR, and `hcr` and `vmcr` are GICH_HCR and GICH_VMCR.
    pub gicv2: bool,
}

fn state(lr: u64) -> u64 {
    lr >> 62
}
fn priority(lr: u64) -> u8 {
    (lr >> 48) as u8
}
fn linked(lr: u64) -> bool {
    lr & (1 << 61) != 0
}
fn eoi(lr: u64) -> bool {
    lr & (1 << 41) != 0
}

impl Cpu {
    /// With `count` list registers, all empty, and the guest's interface as after reset.
    pub fn new(count: usize) -> Self {
        let lr = std::vec![0; count];
        let reads = core::cell::Cell::new(0);
        let ended = Vec::new();
        Self { lr, hcr: 0, vmcr: 0, ap1r: 0, timer_active: false, ended, reads, writes: 0, hcr_writes: 0, gicv2: false }
    }

    /// The same of a GICv2.
    pub fn v2(count: usize) -> Self {
        Self { gicv2: true, ..Self::new(count) }
    }

    fn group_enable(&self) -> u64 {
        if self.gicv2 { 1 } else { 2 }
    }

    /// What a guest does first: priority mask, group enable, EOImode, the smallest binary point of 5 priority bits.
    pub fn guest_setup(&mut self, mask: u8, eoi_mode: bool) {
        let point = if self.gicv2 { 2 << 21 } else { 3 << 18 };
        self.vmcr = (u64::from(mask) << 24) | point | (u64::from(eoi_mode) << 9) | self.group_enable();
    }

    /// ICC_RPR_EL1, 0x100 where nothing is active.
    pub fn running(&self) -> u16 {
        if self.ap1r == 0 { 0x100 } else { (self.ap1r.trailing_zeros() * 8) as u16 }
    }

    /// The best interrupt that is pending in a list register, signalled or not.
    pub fn best(&self) -> Option<usize> {
        (0..self.lr.len()).filter(|k| state(self.lr[*k]) == 1).min_by_key(|k| priority(self.lr[*k]))
    }

    /// The guest reads ICC_IAR1_EL1, or GICC_IAR: who sent an SGI is in bits 12:10 then.
    pub fn acknowledge(&mut self) -> u32 {
        let Some(k) = self.best() else { return SPURIOUS };
        let p = priority(self.lr[k]);
        let signalled =
            self.vmcr & self.group_enable() != 0 && p < (self.vmcr >> 24) as u8 && u16::from(p & 0xf8) < self.running();
        if self.hcr & hcr::EN == 0 || !signalled {
            return SPURIOUS;
        }
        self.lr[k] ^= 3 << 62;
        self.ap1r |= 1 << (p >> 3);
        let sender = if self.gicv2 && !linked(self.lr[k]) { (self.lr[k] >> 32) as u32 & 7 } else { 0 };
        self.lr[k] as u32 | sender << 10
    }

    /// The guest writes ICC_EOIR1_EL1.
    pub fn end(&mut self, intid: u32) {
        self.ap1r &= self.ap1r.wrapping_sub(1);
        if self.vmcr & (1 << 9) == 0 {
            self.deactivate_virtual(intid);
        }
    }

    /// The guest writes ICC_DIR_EL1 with EOImode = 1; true where it is trapped instead, as GICC_DIR is always.
    pub fn dir(&mut self, intid: u32) -> bool {
        if self.gicv2 || self.hcr & hcr::TDIR != 0 {
            return true;
        }
        self.deactivate_virtual(intid);
        false
    }

    fn deactivate_virtual(&mut self, intid: u32) {
        let intid = if self.gicv2 { intid & 0x3ff } else { intid };
        match self.lr.iter_mut().find(|lr| **lr as u32 == intid && state(**lr) & 2 != 0) {
            Some(lr) => {
                *lr &= !(1 << 63);
                match (*lr >> 32) as u32 & 0x3ff {
                    pintid if linked(*lr) && pintid >= 32 => self.ended.push(pintid),
                    _ if linked(*lr) => self.timer_active = false,
                    _ => {}
                }
            }
            None => {
                let count = (self.hcr >> 27) + 1;
                self.hcr = (self.hcr & 0x07ff_ffff) | ((count & 31) << 27);
            }
        }
    }

    /// ICH_MISR_EL2, as far as this crate enables its causes.
    pub fn maintenance(&self) -> bool {
        let no_pending = !self.lr.iter().any(|lr| state(*lr) == 1);
        let not_present = self.hcr & hcr::LRENPIE != 0 && self.hcr >> 27 != 0;
        self.hcr & hcr::EN != 0 && (self.eisr() != 0 || not_present || (self.hcr & hcr::NPIE != 0 && no_pending))
    }

    fn mask(&self, test: impl Fn(u64) -> bool) -> u16 {
        (0..self.lr.len()).filter(|k| test(self.lr[*k])).fold(0, |mask, k| mask | (1 << k))
    }
}

impl ListRegs for Cpu {
    fn senders(&self) -> bool {
        self.gicv2
    }
    fn count(&self) -> usize {
        self.lr.len()
    }
    fn read(&self, n: usize) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.lr[n]
    }
    fn write(&mut self, n: usize, value: u64) {
        assert!(!(linked(value) && state(value) == 3), "pending and active cannot be linked: {value:#x}");
        self.writes += 1;
        // A GICv2 keeps what has a place in its format.
        self.lr[n] = if self.gicv2 { gich::to_lr(gich::from_lr(value)) } else { value };
        assert_eq!(self.lr[n], value);
    }
    fn empty(&self) -> u16 {
        self.mask(|lr| state(lr) == 0 && (linked(lr) || !eoi(lr)))
    }
    fn eisr(&self) -> u16 {
        self.mask(|lr| state(lr) == 0 && !linked(lr) && eoi(lr))
    }
    fn eoi_count(&self) -> u32 {
        (self.hcr >> 27) as u32
    }
    fn clear_eoi_count(&mut self) {
        self.hcr &= 0x07ff_ffff;
    }
    fn set_hcr(&mut self, value: u64) {
        assert_eq!(value >> 27, 0);
        self.hcr_writes += 1;
        self.hcr = if self.gicv2 { value & gich::HCR } else { value };
    }
    fn vmcr(&self) -> u64 {
        self.vmcr
    }
    fn set_vmcr(&mut self, value: u64) {
        self.vmcr = value;
    }
    fn ap0r(&self, _: usize) -> u32 {
        if self.gicv2 { self.ap1r } else { 0 }
    }
    fn set_ap0r(&mut self, _: usize, value: u32) {
        if self.gicv2 {
            self.ap1r = value;
        } else {
            assert_eq!(value, 0);
        }
    }
    fn ap1r(&self, n: usize) -> u32 {
        assert_eq!(n, 0, "5 priority bits have one register");
        if self.gicv2 { 0 } else { self.ap1r }
    }
    fn set_ap1r(&mut self, n: usize, value: u32) {
        assert_eq!(n, 0);
        if self.gicv2 {
            assert_eq!(value, 0);
        } else {
            self.ap1r = value;
        }
    }
    fn ap_count(&self) -> usize {
        1
    }
    fn deactivate(&mut self, pintid: u32) {
        assert_eq!(pintid, crate::TIMER_PPI);
        assert!(self.timer_active, "deactivates what is not active");
        self.timer_active = false;
    }
}
