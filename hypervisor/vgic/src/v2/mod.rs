//! The GICv2 face: a distributor with banked registers, vCPUs as bits of a byte, and the one register of the CPU interface that
//! the hardware's virtual one does not serve.

mod dist;
pub mod gich;

use addr::AccessSize;
use bus::AccessError;

use crate::face::{aligned, word_only};
use crate::{ListRegs, Refusal, VcpuId, Vgic};

/// Where the trapped part of the CPU interface begins, in bytes from GICC's start: the page of GICC_DIR. What comes before is the
/// hardware's virtual CPU interface itself.
pub const CPU_TRAPPED: u64 = 0x1000;

/// Deactivate Interrupt Register.
const DIR: u64 = 0x1000;
const INTID: u64 = 0x3ff;

impl Vgic {
    /// The guest loads from GICC (`at` in bytes from the frame's start, [`CPU_TRAPPED`] or above): there is nothing to read.
    pub fn v2_cpu_read(&self, at: u64, size: AccessSize) -> Result<u64, Refusal> {
        aligned(at, size)?;
        word_only(size)?;
        Ok(0)
    }

    /// The guest stores to GICC, on the loaded vCPU `by`; `at` as for [`Vgic::v2_cpu_read`].
    pub fn v2_cpu_write(
        &mut self,
        by: VcpuId,
        at: u64,
        size: AccessSize,
        value: u64,
        hw: &mut impl ListRegs,
    ) -> Result<(), Refusal> {
        aligned(at, size)?;
        if size != AccessSize::B4 {
            return Err(AccessError::BadSize.into());
        }
        // Who sent an SGI does not matter here: it is active once.
        if at == DIR { self.dir(by, (value & INTID) as u32, hw) } else { Ok(()) }
    }
}
