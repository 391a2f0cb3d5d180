//! The list registers and the rest of the hypervisor's side of the GICv3 CPU interface (Arm IHI 0069, "ICH_*" registers).

use crate::regs::{mrs, msr};
use vgic::{ListRegs, TIMER_PPI};

/// This pCPU's ICH_* registers. Holds the numbers that never change, so that they are read once.
#[derive(Debug)]
pub struct HardwareLists {
    count: usize,
    ap_count: usize,
    hcr: u64,
    timer: u32,
}

impl HardwareLists {
    /// Of a pCPU that has none: never to be used.
    pub const fn absent() -> Self {
        Self { count: 0, ap_count: 0, hcr: 0, timer: TIMER_PPI }
    }
    /// This pCPU's.
    pub fn here() -> Self {
        let vtr = mrs!("S3_4_C12_C11_1");
        let ap_count = match vtr >> 26 & 7 {
            0..=4 => 1,
            5 => 2,
            _ => 4,
        };
        Self { count: (vtr & 0x1f) as usize + 1, ap_count, hcr: 0, timer: TIMER_PPI }
    }
    /// From now on the virtual timer's interrupt is this PPI.
    pub fn link_timer(&mut self, intid: u32) {
        self.timer = intid;
    }
    /// How many list registers there are.
    pub fn counted(&self) -> usize {
        self.count
    }
    /// ICH_VTR_EL2.PRIbits + 1: how many bits of priority the virtual interface has.
    pub fn priority_bits() -> u32 {
        (mrs!("S3_4_C12_C11_1") >> 29 & 7) as u32 + 1
    }
    /// ICH_MISR_EL2: why the maintenance interrupt is asserted.
    pub fn misr() -> u64 {
        mrs!("S3_4_C12_C11_2")
    }
}

/// Empties every list register of this pCPU.
pub(crate) fn clear_all() {
    let mut lists = HardwareLists::here();
    for n in 0..lists.count {
        lists.write(n, 0);
    }
    for n in 0..lists.ap_count {
        lists.set_ap0r(n, 0);
        lists.set_ap1r(n, 0);
    }
}

impl ListRegs for HardwareLists {
    #[inline(always)]
    fn senders(&self) -> bool {
        false
    }
    #[inline]
    fn count(&self) -> usize {
        self.count
    }
    #[inline]
    fn read(&self, n: usize) -> u64 {
        match n {
            0 => mrs!("S3_4_C12_C12_0"),
            1 => mrs!("S3_4_C12_C12_1"),
            2 => mrs!("S3_4_C12_C12_2"),
            3 => mrs!("S3_4_C12_C12_3"),
            4 => mrs!("S3_4_C12_C12_4"),
            5 => mrs!("S3_4_C12_C12_5"),
            6 => mrs!("S3_4_C12_C12_6"),
            7 => mrs!("S3_4_C12_C12_7"),
            8 => mrs!("S3_4_C12_C13_0"),
            9 => mrs!("S3_4_C12_C13_1"),
            10 => mrs!("S3_4_C12_C13_2"),
            11 => mrs!("S3_4_C12_C13_3"),
            12 => mrs!("S3_4_C12_C13_4"),
            13 => mrs!("S3_4_C12_C13_5"),
            14 => mrs!("S3_4_C12_C13_6"),
            _ => mrs!("S3_4_C12_C13_7"),
        }
    }
    #[inline]
    fn write(&mut self, n: usize, value: u64) {
        // SAFETY: a list register of the loaded vCPU; callers stay below `count`.
        unsafe {
            match n {
                0 => msr!("S3_4_C12_C12_0", value),
                1 => msr!("S3_4_C12_C12_1", value),
                2 => msr!("S3_4_C12_C12_2", value),
                3 => msr!("S3_4_C12_C12_3", value),
                4 => msr!("S3_4_C12_C12_4", value),
                5 => msr!("S3_4_C12_C12_5", value),
                6 => msr!("S3_4_C12_C12_6", value),
                7 => msr!("S3_4_C12_C12_7", value),
                8 => msr!("S3_4_C12_C13_0", value),
                9 => msr!("S3_4_C12_C13_1", value),
                10 => msr!("S3_4_C12_C13_2", value),
                11 => msr!("S3_4_C12_C13_3", value),
                12 => msr!("S3_4_C12_C13_4", value),
                13 => msr!("S3_4_C12_C13_5", value),
                14 => msr!("S3_4_C12_C13_6", value),
                _ => msr!("S3_4_C12_C13_7", value),
            }
        }
    }
    #[inline]
    fn empty(&self) -> u16 {
        mrs!("S3_4_C12_C11_5") as u16
    }
    fn eisr(&self) -> u16 {
        mrs!("S3_4_C12_C11_3") as u16
    }
    #[inline]
    fn eoi_count(&self) -> u32 {
        (mrs!("S3_4_C12_C11_0") >> 27 & 0x1f) as u32
    }
    fn clear_eoi_count(&mut self) {
        // SAFETY: the virtual interface of the loaded vCPU; `hcr` is what was written last, with EOIcount 0.
        unsafe { msr!("S3_4_C12_C11_0", self.hcr) };
    }
    #[inline]
    fn set_hcr(&mut self, value: u64) {
        self.hcr = value;
        // SAFETY: the virtual interface of the loaded vCPU.
        unsafe { msr!("S3_4_C12_C11_0", value) };
    }
    fn vmcr(&self) -> u64 {
        mrs!("S3_4_C12_C11_7")
    }
    fn set_vmcr(&mut self, value: u64) {
        // SAFETY: the virtual interface of the loaded vCPU.
        unsafe { msr!("S3_4_C12_C11_7", value) };
    }
    fn ap0r(&self, n: usize) -> u32 {
        (match n {
            0 => mrs!("S3_4_C12_C8_0"),
            1 => mrs!("S3_4_C12_C8_1"),
            2 => mrs!("S3_4_C12_C8_2"),
            _ => mrs!("S3_4_C12_C8_3"),
        }) as u32
    }
    fn set_ap0r(&mut self, n: usize, value: u32) {
        let value = u64::from(value);
        // SAFETY: the virtual interface of the loaded vCPU; callers stay below `ap_count`.
        unsafe {
            match n {
                0 => msr!("S3_4_C12_C8_0", value),
                1 => msr!("S3_4_C12_C8_1", value),
                2 => msr!("S3_4_C12_C8_2", value),
                _ => msr!("S3_4_C12_C8_3", value),
            }
        }
    }
    fn ap1r(&self, n: usize) -> u32 {
        (match n {
            0 => mrs!("S3_4_C12_C9_0"),
            1 => mrs!("S3_4_C12_C9_1"),
            2 => mrs!("S3_4_C12_C9_2"),
            _ => mrs!("S3_4_C12_C9_3"),
        }) as u32
    }
    fn set_ap1r(&mut self, n: usize, value: u32) {
        let value = u64::from(value);
        // SAFETY: as for `set_ap0r`.
        unsafe {
            match n {
                0 => msr!("S3_4_C12_C9_0", value),
                1 => msr!("S3_4_C12_C9_1", value),
                2 => msr!("S3_4_C12_C9_2", value),
                _ => msr!("S3_4_C12_C9_3", value),
            }
        }
    }
    fn ap_count(&self) -> usize {
        self.ap_count
    }
    #[inline]
    fn deactivate(&mut self, pintid: u32) {
        crate::gic::deactivate(if pintid == TIMER_PPI { self.timer } else { pintid });
    }
}
