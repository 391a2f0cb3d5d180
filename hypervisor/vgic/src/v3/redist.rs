//! The redistributors' registers (GICR_*): per vCPU a frame RD_base, then a frame SGI_base with its SGIs and PPIs.
//!
//! | register | here |
//! |---|---|
//! | GICR_CTLR, STATUSR, SYNCR, PROPBASER, PENDBASER | RAZ/WI: no LPIs |
//! | GICR_TYPER | affinity, number, Last |
//! | GICR_WAKER | ChildrenAsleep follows ProcessorSleep at once |
//! | IGROUPR0 | all ones |
//! | ISENABLER0 ... ICACTIVER0, IPRIORITYR0-7 | |
//! | ICFGR0, ICFGR1 | read only: SGIs edge triggered, PPIs level sensitive |
//! | IGRPMODR0, NSACR, reserved | RAZ/WI |
//!
//! # References
//! Arm IHI 0069, "The GIC Redistributor register map".

use addr::AccessSize;
use bus::AccessError;
use sync::nospec;

use super::{Bank, IIDR, PIDR2, PIDR2_AT, REDIST_STRIDE, aligned, byte_or_word, config_fields, part, word_only};
use crate::irq::EDGE;
use crate::{Refusal, VcpuId, Vgic};

const IIDR_AT: u64 = 0x4;
const TYPER: u64 = 0x8;
const TYPER_HIGH: u64 = 0xc;
const WAKER: u64 = 0x14;
/// GICR_PROPBASER; GICR_PENDBASER follows it.
const PROPBASER: u64 = 0x70;
const PENDBASER_END: u64 = 0x80;
const SGI_BASE: u64 = 0x1_0000;

const TYPER_LAST: u64 = 1 << 4;
const WAKER_PROCESSOR_SLEEP: u64 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u64 = 1 << 2;

impl Vgic {
    /// The guest loads from the redistributors' region (`at` in bytes from its start), on vCPU `by`.
    pub fn redist_read(&mut self, _by: VcpuId, at: u64, size: AccessSize) -> Result<u64, Refusal> {
        aligned(at, size)?;
        let (of, at) = self.frame(at)?;
        match at {
            TYPER | TYPER_HIGH => Ok(part(at, size)?.of(self.redist_typer(of))),
            PROPBASER..PENDBASER_END => part(at, size).map(|_| 0).map_err(Refusal::from),
            0x1_0400..0x1_0420 => {
                byte_or_word(size)?;
                Ok(self.read_priorities(of, at.wrapping_sub(0x1_0400) as u32, size))
            }
            _ => {
                word_only(size)?;
                self.redist_read_word(of, at)
            }
        }
    }

    fn redist_read_word(&self, of: VcpuId, at: u64) -> Result<u64, Refusal> {
        let asleep = nospec::get(&self.vcpus, of as usize).is_some_and(|v| v.asleep);
        Ok(match at {
            IIDR_AT => IIDR.into(),
            WAKER if asleep => WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP,
            0x1_0c00 => config_fields(self.bits(of, 0, |irq| irq.has(EDGE))).into(),
            0x1_0c04 => config_fields(self.bits(of, 0, |irq| irq.has(EDGE)) >> 16).into(),
            _ if at & 0xffff == PIDR2_AT => PIDR2.into(),
            _ => match private_bank(at) {
                Some(bank) => self.read_bank(of, bank, 0)?,
                None => 0,
            },
        })
    }

    /// The guest stores to the redistributors' region, on vCPU `by`.
    pub fn redist_write(&mut self, _by: VcpuId, at: u64, size: AccessSize, value: u64) -> Result<(), Refusal> {
        aligned(at, size)?;
        let (of, at) = self.frame(at)?;
        match at {
            TYPER | TYPER_HIGH | PROPBASER..PENDBASER_END => {
                part(at, size)?;
                Ok(())
            }
            0x1_0400..0x1_0420 => {
                byte_or_word(size)?;
                self.write_priorities(of, at.wrapping_sub(0x1_0400) as u32, size, value);
                Ok(())
            }
            _ => {
                word_only(size)?;
                match private_bank(at) {
                    Some(bank) => self.write_bank(of, bank, 0, value as u32),
                    None if at == WAKER => self.set_asleep(of, value & WAKER_PROCESSOR_SLEEP != 0),
                    None => Ok(()),
                }
            }
        }
    }

    /// Whose redistributor an offset in the region is in, and the offset in it.
    fn frame(&self, at: u64) -> Result<(VcpuId, u64), AccessError> {
        let of = at / REDIST_STRIDE;
        if of < self.vcpus.len() as u64 { Ok((of as VcpuId, at % REDIST_STRIDE)) } else { Err(AccessError::NoRegister) }
    }

    fn redist_typer(&self, of: VcpuId) -> u64 {
        let affinity = nospec::get(&self.vcpus, of as usize).map_or(0, |v| v.affinity);
        let last = of.wrapping_add(1) as usize == self.vcpus.len();
        (u64::from(affinity) << 32) | (u64::from(of) << 8) | if last { TYPER_LAST } else { 0 }
    }

    /// GICR_WAKER.ProcessorSleep. 1-of-N interrupts go to who is awake, so they may move; nothing changes if that needs a
    /// fold first.
    fn set_asleep(&mut self, of: VcpuId, asleep: bool) -> Result<(), Refusal> {
        let set = |vgic: &mut Self, asleep| match nospec::get_mut(&mut vgic.vcpus, of as usize) {
            Some(v) => core::mem::replace(&mut v.asleep, asleep),
            None => asleep,
        };
        let before = set(self, asleep);
        if before != asleep
            && let Err(refusal) = self.retarget_any(self.any_vcpu() as u8)
        {
            set(self, before);
            return Err(refusal);
        }
        Ok(())
    }
}

/// The one-bit-an-INTID register at an offset of a redistributor; SGI_base has only the first of each group.
fn private_bank(at: u64) -> Option<Bank> {
    match Bank::at(at.checked_sub(SGI_BASE)?) {
        Some((bank, 0)) => Some(bank),
        _ => None,
    }
}
