//! Software generated interrupts: who a write of ICC_SGI1R_EL1 is for.
//!
//! # References
//! Arm IHI 0069, "ICC_SGI1R_EL1, Interrupt Controller Software Generated Interrupt Group 1 Register".

use sync::nospec;

use crate::bits::ones;
use crate::irq::LATCH;
use crate::{VcpuId, Vgic};

const TARGET_LIST: u64 = 0xffff;
const INTID: u64 = 0xf << 24;
/// Interrupt Routing Mode: to all but the sender.
const ALL_BUT_SELF: u64 = 1 << 40;

impl Vgic {
    /// The guest's write of ICC_SGI1R_EL1 on vCPU `by`. Affinities that nobody has are ignored.
    #[inline]
    pub fn sgi1r(&mut self, by: VcpuId, value: u64) {
        let intid = (value >> 24) as u32 & 0xf;
        // Most systems have one cluster, and most SGIs a list in it.
        if value & !(TARGET_LIST | INTID) == 0 {
            for n in ones(value & TARGET_LIST) {
                if nospec::get_quick(&self.vcpus, n as usize).is_some_and(|v| v.affinity == n) {
                    self.raise_private(n, intid, LATCH);
                } else {
                    self.sgi_to(n, intid);
                }
            }
        } else {
            self.sgi_far(by, value, intid);
        }
    }

    #[cold]
    #[inline(never)]
    fn sgi_far(&mut self, by: VcpuId, value: u64, intid: u32) {
        if value & ALL_BUT_SELF != 0 {
            for to in (0..self.vcpus.len() as u32).filter(|to| *to != by) {
                self.raise_private(to, intid, LATCH);
            }
            return;
        }
        let cluster = (((value >> 48) as u32 & 0xff) << 24)
            | (((value >> 32) as u32 & 0xff) << 16)
            | (((value >> 16) as u32 & 0xff) << 8)
            | (((value >> 44) as u32 & 0xf) << 4);
        for n in ones(value & TARGET_LIST) {
            self.sgi_to(cluster | n, intid);
        }
    }

    #[inline(never)]
    fn sgi_to(&mut self, affinity: u32, intid: u32) {
        if let Some(to) = self.find_affinity(affinity) {
            self.raise_private(to, intid, LATCH);
        }
    }
}
