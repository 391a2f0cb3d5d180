//! Software generated interrupts: who a write of ICC_SGI1R_EL1 is for.
//!
//! # References
//! Arm IHI 0069, "ICC_SGI1R_EL1, Interrupt Controller Software Generated Interrupt Group 1 Register".

use crate::bits::ones;
use crate::irq::LATCH;
use crate::{VcpuId, Vgic};

impl Vgic {
    /// The guest's write of ICC_SGI1R_EL1 on vCPU `by`. Affinities that nobody has are ignored.
    #[inline]
    pub fn sgi1r(&mut self, by: VcpuId, value: u64) {
        let intid = (value >> 24) as u32 & 0xf;
        // IRM: to all but the sender.
        if value & (1 << 40) != 0 {
            for to in 0..self.vcpus.len() as u32 {
                if to != by {
                    self.raise_private(to, intid, LATCH);
                }
            }
            return;
        }
        let cluster = (((value >> 48) as u32 & 0xff) << 24)
            | (((value >> 32) as u32 & 0xff) << 16)
            | (((value >> 16) as u32 & 0xff) << 8)
            | (((value >> 44) as u32 & 0xf) << 4);
        for n in ones(value & 0xffff) {
            if let Some(to) = self.find_affinity(cluster | n) {
                self.raise_private(to, intid, LATCH);
            }
        }
    }
}
