//! The distributor's registers (GICD_*).
//!
//! | register | here |
//! |---|---|
//! | GICD_CTLR | EnableGrp1; ARE and DS read as one, RWP as zero |
//! | GICD_TYPER, IIDR, PIDR2 | read only |
//! | GICD_SETSPI_NSR, CLRSPI_NSR | write only (TYPER.MBIS is 1) |
//! | IGROUPR | all ones |
//! | ISENABLER ... ICACTIVER, IPRIORITYR, ICFGR | for SPIs; those of SGIs and PPIs are RAZ/WI (affinity routing) |
//! | IROUTER | with 1-of-N |
//! | STATUSR, IGRPMODR, ITARGETSR, NSACR, SGIR, (S)PENDSGIR, reserved | RAZ/WI |
//!
//! # References
//! Arm IHI 0069, "The GIC Distributor register map".

use addr::AccessSize;
use bus::AccessError;
use sync::nospec;

use super::{Bank, DIST_SIZE, IIDR, PIDR2, PIDR2_AT, aligned, byte_or_word, config_fields, edges, part, word_only};
use crate::irq::{ANY, EDGE, NONE};
use crate::{FIRST_SPI, Refusal, VcpuId, Vgic};

const CTLR: u64 = 0x0;
const TYPER: u64 = 0x4;
const IIDR_AT: u64 = 0x8;
const SETSPI_NSR: u64 = 0x40;
const CLRSPI_NSR: u64 = 0x48;

const CTLR_ENABLE_GRP1: u64 = 1 << 1;
const CTLR_ARE: u64 = 1 << 4;
const CTLR_DS: u64 = 1 << 6;

const ROUTER_ANY: u64 = 1 << 31;
const ROUTER_AFFINITY: u64 = 0xff_00ff_ffff;

impl Vgic {
    /// The guest loads from GICD (`at` in bytes from the frame's start), on vCPU `by`.
    pub fn dist_read(&mut self, _by: VcpuId, at: u64, size: AccessSize) -> Result<u64, Refusal> {
        aligned(at, size)?;
        match at {
            0x400..0xc00 => {
                byte_or_word(size)?;
                let first = at.wrapping_sub(0x400) as u32;
                let spi = at < 0x800 && first >= FIRST_SPI;
                Ok(if spi { self.read_priorities(0, first, size) } else { 0 })
            }
            0x6000..0x8000 => {
                let part = part(at, size)?;
                Ok(part.of(self.router((at.wrapping_sub(0x6000) >> 3) as u32)))
            }
            _ if at >= DIST_SIZE => Err(AccessError::NoRegister.into()),
            _ if size == AccessSize::B4 => self.dist_read_word(at),
            SETSPI_NSR | CLRSPI_NSR if size == AccessSize::B2 => Ok(0),
            _ => Err(AccessError::BadSize.into()),
        }
    }

    fn dist_read_word(&self, at: u64) -> Result<u64, Refusal> {
        Ok(match at {
            CTLR => CTLR_ARE | CTLR_DS | if self.forwarding { CTLR_ENABLE_GRP1 } else { 0 },
            TYPER => self.typer(),
            IIDR_AT => IIDR.into(),
            PIDR2_AT => PIDR2.into(),
            0xc00..0xd00 => {
                let first = (at.wrapping_sub(0xc00) as u32) << 2;
                if first < FIRST_SPI {
                    return Ok(0);
                }
                config_fields(self.bits(0, first, |irq| irq.has(EDGE))).into()
            }
            _ => match Bank::at(at) {
                Some((bank, first)) if first >= FIRST_SPI => self.read_bank(0, bank, first)?,
                _ => 0,
            },
        })
    }

    /// The guest stores to GICD, on vCPU `by`.
    pub fn dist_write(&mut self, _by: VcpuId, at: u64, size: AccessSize, value: u64) -> Result<(), Refusal> {
        aligned(at, size)?;
        match at {
            SETSPI_NSR if matches!(size, AccessSize::B2 | AccessSize::B4) => self.message(value, |vgic, intid| {
                vgic.pend(0, intid, 1);
                Ok(())
            }),
            CLRSPI_NSR if matches!(size, AccessSize::B2 | AccessSize::B4) => {
                self.message(value, |vgic, intid| vgic.unpend(0, intid, 1))
            }
            0x400..0xc00 => {
                byte_or_word(size)?;
                let first = at.wrapping_sub(0x400) as u32;
                if at < 0x800 && first >= FIRST_SPI {
                    self.write_priorities(0, first, size, value);
                }
                Ok(())
            }
            0x6000..0x8000 => {
                let part = part(at, size)?;
                let intid = (at.wrapping_sub(0x6000) >> 3) as u32;
                let whole = part.merge(self.router(intid), value);
                self.set_router(intid, whole)
            }
            _ if at >= DIST_SIZE => Err(AccessError::NoRegister.into()),
            _ => {
                word_only(size)?;
                self.dist_write_word(at, value as u32)
            }
        }
    }

    fn dist_write_word(&mut self, at: u64, value: u32) -> Result<(), Refusal> {
        match at {
            CTLR => self.set_forwarding(u64::from(value) & CTLR_ENABLE_GRP1 != 0),
            0xc00..0xd00 => {
                let first = (at.wrapping_sub(0xc00) as u32) << 2;
                if first < FIRST_SPI { Ok(()) } else { self.configure(first, 0xffff, edges(value)) }
            }
            _ => match Bank::at(at) {
                Some((bank, first)) if first >= FIRST_SPI => self.write_bank(0, bank, first, value),
                _ => Ok(()),
            },
        }
    }

    /// GICD_TYPER: ITLinesNumber, MBIS, 10 bits of INTID, A3V.
    fn typer(&self) -> u64 {
        let lines = u64::from(self.intids() >> 5).wrapping_sub(1);
        lines | (1 << 16) | (9 << 19) | (1 << 24)
    }

    /// GICD_SETSPI_NSR and GICD_CLRSPI_NSR: the INTID of an SPI in `value`; any other is ignored.
    fn message(&mut self, value: u64, act: impl FnOnce(&mut Self, u32) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let intid = (value & 0x1fff) as u32;
        if intid >= FIRST_SPI && intid < self.intids() { act(self, intid) } else { Ok(()) }
    }

    /// `GICD_IROUTER<n>`; 0 for what is no SPI.
    fn router(&self, intid: u32) -> u64 {
        let Some(route) = intid.checked_sub(FIRST_SPI).and_then(|n| nospec::get(&self.routes, n as usize)) else {
            return 0;
        };
        let any = self.irq(0, intid).is_some_and(|irq| irq.has(ANY));
        let route = u64::from(*route);
        ((route & 0xff00_0000) << 8) | (route & 0xff_ffff) | if any { ROUTER_ANY } else { 0 }
    }

    fn set_router(&mut self, intid: u32, value: u64) -> Result<(), Refusal> {
        let Some(n) = intid.checked_sub(FIRST_SPI) else { return Ok(()) };
        let value = value & (ROUTER_AFFINITY | ROUTER_ANY);
        let any = value & ROUTER_ANY != 0;
        let affinity = ((value >> 8) & 0xff00_0000) as u32 | (value & 0xff_ffff) as u32;
        let target = if any { Some(self.any_vcpu()) } else { self.find_affinity(affinity) };
        self.retarget(intid, target.map_or(NONE, |v| v as u8))?;
        if let Some(route) = nospec::get_mut(&mut self.routes, n as usize) {
            *route = affinity;
        }
        if let Some(mut irq) = self.irq(0, intid) {
            irq.put(ANY, any);
            self.set_irq(0, intid, irq);
        }
        Ok(())
    }

    /// Who takes 1-of-N interrupts: the lowest vCPU that is awake, else the first.
    pub(super) fn any_vcpu(&self) -> VcpuId {
        self.vcpus.iter().position(|v| !v.asleep).unwrap_or(0) as VcpuId
    }
}
