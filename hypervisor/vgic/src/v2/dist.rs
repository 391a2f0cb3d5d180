//! The distributor's registers (GICD_*) of a GICv2. Those of SGIs and PPIs are banked: each vCPU sees its own.
//!
//! | register | here |
//! |---|---|
//! | GICD_CTLR | Enable |
//! | GICD_TYPER, IIDR, ICPIDR2 | read only |
//! | IGROUPR | RAZ/WI: one group |
//! | ISENABLER ... ICACTIVER | SGIs are always enabled; their pending bits are read only |
//! | IPRIORITYR, ICFGR | SGIs edge triggered, PPIs level sensitive, SPIs as the guest says |
//! | ITARGETSR | of SGIs and PPIs read only: the reader; RAZ/WI where there is one vCPU |
//! | SGIR, CPENDSGIR, SPENDSGIR | by sender |
//! | NSACR, PPISR, SPISR, reserved | RAZ/WI |
//!
//! # References
//! Arm IHI 0048, "Distributor register map"; Arm DDI 0471 (GIC-400 TRM), "Distributor register summary".

use addr::AccessSize;
use bus::AccessError;

use crate::bits::ones;
use crate::face::{Bank, IIDR, aligned, byte_or_word, config_fields, edges, word_only};
use crate::irq::EDGE;
use crate::v3::DIST_SIZE;
use crate::{FIRST_PPI, FIRST_SPI, Refusal, VcpuId, Vgic};

const CTLR: u64 = 0x0;
const TYPER: u64 = 0x4;
const IIDR_AT: u64 = 0x8;
const SGIR: u64 = 0xf00;
/// Peripheral ID2: ArchRev 2, and the fixed JEP106 bits.
const ICPIDR2_AT: u64 = 0xfe8;
const ICPIDR2: u32 = 0x2b;

const CTLR_ENABLE: u32 = 1;
/// The SGIs of the first word.
const SGIS: u32 = 0xffff;

/// Which register with one byte an INTID, and the INTID of its first byte.
#[derive(Clone, Copy)]
enum Bytes {
    Priority,
    Targets,
    ClearSent,
    Sent,
}

impl Bytes {
    fn at(at: u64) -> Option<(Self, u32)> {
        let (kind, start) = match at {
            0x400..0x800 => (Self::Priority, 0x400),
            0x800..0xc00 => (Self::Targets, 0x800),
            0xf10..0xf20 => (Self::ClearSent, 0xf10),
            0xf20..0xf30 => (Self::Sent, 0xf20),
            _ => return None,
        };
        Some((kind, at.wrapping_sub(start) as u32))
    }
}

impl Vgic {
    /// The guest loads from GICD (`at` in bytes from the frame's start), on vCPU `by`.
    pub fn v2_dist_read(&mut self, by: VcpuId, at: u64, size: AccessSize) -> Result<u64, Refusal> {
        aligned(at, size)?;
        if at >= DIST_SIZE {
            return Err(AccessError::NoRegister.into());
        }
        if let Some((kind, first)) = Bytes::at(at) {
            byte_or_word(size)?;
            return self.read_bytes(by, kind, first, size.bytes() as u32);
        }
        word_only(size)?;
        Ok(match at {
            CTLR => u64::from(self.forwarding),
            TYPER => {
                let lines = u64::from(self.intids() >> 5).wrapping_sub(1);
                lines | (self.vcpus.len() as u64).wrapping_sub(1) << 5
            }
            IIDR_AT => IIDR.into(),
            ICPIDR2_AT => ICPIDR2.into(),
            0xc00..0xd00 => {
                let first = (at.wrapping_sub(0xc00) as u32) << 2;
                config_fields(self.bits(by, first & !31, |irq| irq.has(EDGE)) >> (first & 31)).into()
            }
            _ => match Bank::at(at) {
                Some((Bank::Group, _)) | None => 0,
                Some((bank, first)) => self.read_bank(by, bank, first)?,
            },
        })
    }

    /// The guest stores to GICD, on vCPU `by`.
    pub fn v2_dist_write(&mut self, by: VcpuId, at: u64, size: AccessSize, value: u64) -> Result<(), Refusal> {
        aligned(at, size)?;
        if at >= DIST_SIZE {
            return Err(AccessError::NoRegister.into());
        }
        if let Some((kind, first)) = Bytes::at(at) {
            byte_or_word(size)?;
            let bytes = value.to_le_bytes();
            let bytes = bytes.get(..size.bytes() as usize).unwrap_or_default();
            return self.write_bytes(by, kind, first, bytes);
        }
        word_only(size)?;
        let value = value as u32;
        match at {
            CTLR => self.set_forwarding(value & CTLR_ENABLE != 0),
            SGIR => {
                self.sgir(by, value);
                Ok(())
            }
            0xc00..0xd00 => {
                let first = (at.wrapping_sub(0xc00) as u32) << 2;
                if first < FIRST_SPI { Ok(()) } else { self.configure(first, 0xffff, edges(value)) }
            }
            _ => match Bank::at(at) {
                Some((Bank::Group, _)) | None => Ok(()),
                Some((bank, first)) => {
                    // Nothing of what an SGI is or is not enabled or pending for stands in these registers.
                    let fixed = first == 0 && !matches!(bank, Bank::SetActive | Bank::ClearActive);
                    self.write_bank(by, bank, first, if fixed { value & !SGIS } else { value })
                }
            },
        }
    }

    fn read_bytes(&mut self, by: VcpuId, kind: Bytes, first: u32, count: u32) -> Result<u64, Refusal> {
        if matches!(kind, Bytes::Sent | Bytes::ClearSent) {
            self.folded(by, first, 0xf)?;
        }
        Ok((0..count).rev().fold(0, |word, n| {
            let intid = first.wrapping_add(n);
            let byte = match kind {
                Bytes::Priority => self.priority(by, intid),
                Bytes::Targets => self.targets(by, intid),
                Bytes::Sent | Bytes::ClearSent => self.irq(by, intid).map_or(0, |irq| irq.pintid),
            };
            word << 8 | u64::from(byte)
        }))
    }

    fn write_bytes(&mut self, by: VcpuId, kind: Bytes, first: u32, bytes: &[u8]) -> Result<(), Refusal> {
        let all = self.all_vcpus();
        match kind {
            Bytes::Targets if first < FIRST_SPI => return Ok(()),
            Bytes::Targets => return self.retarget_lists(first, bytes),
            Bytes::ClearSent => self.folded(by, first, 0xf)?,
            Bytes::Priority | Bytes::Sent => {}
        }
        for (intid, byte) in (first..).zip(bytes) {
            match kind {
                Bytes::Priority => self.set_priority(by, intid, *byte),
                Bytes::Sent if byte & all != 0 => self.send(by, intid, byte & all),
                Bytes::ClearSent => self.unsend(by, intid, *byte),
                Bytes::Sent | Bytes::Targets => {}
            }
        }
        Ok(())
    }

    /// One bit for each vCPU.
    fn all_vcpus(&self) -> u8 {
        0xffu8.wrapping_shr(8u32.saturating_sub(self.vcpus.len() as u32).min(7))
    }

    /// The byte of ITARGETSR.
    fn targets(&self, by: VcpuId, intid: u32) -> u8 {
        if self.vcpus.len() == 1 {
            return 0;
        }
        match intid.checked_sub(FIRST_SPI) {
            None => 1u8.wrapping_shl(by),
            Some(spi) => sync::nospec::get(&self.routes, spi as usize).map_or(0, |route| *route as u8),
        }
    }

    /// ITARGETSR of SPIs: all of them, or a refusal and nothing.
    fn retarget_lists(&mut self, first: u32, lists: &[u8]) -> Result<(), Refusal> {
        if self.vcpus.len() == 1 {
            return Ok(());
        }
        let all = self.all_vcpus();
        let target =
            |vgic: &Self, list: u8| vgic.routed_to(u32::from(list & all)).map_or(crate::irq::NONE, |v| v as u8);
        let mut moved = 0u32;
        for (n, list) in (0..).zip(lists) {
            let to = target(self, *list);
            if self.irq(0, first.wrapping_add(n)).is_some_and(|irq| irq.target != to) {
                moved |= 1u32.wrapping_shl(n);
            }
        }
        self.folded(0, first, moved)?;
        for (intid, list) in (first..).zip(lists) {
            self.retarget(intid, target(self, *list))?;
            let spi = intid.wrapping_sub(FIRST_SPI) as usize;
            if let Some(route) = sync::nospec::get_mut(&mut self.routes, spi) {
                *route = u32::from(list & all);
            }
        }
        Ok(())
    }

    /// GICD_SGIR: an SGI from vCPU `by`.
    fn sgir(&mut self, by: VcpuId, value: u32) {
        let all = u32::from(self.all_vcpus());
        let own = 1u32.wrapping_shl(by);
        let list = match value >> 24 & 3 {
            0 => value >> 16 & all,
            1 => all & !own,
            2 => own,
            _ => 0,
        };
        for to in ones(list.into()) {
            self.send(to, value & 0xf, own as u8);
        }
    }

    /// SGI `intid` is pending at vCPU `to` for these senders as well.
    fn send(&mut self, to: VcpuId, intid: u32, senders: u8) {
        if intid >= FIRST_PPI {
            return;
        }
        if let Some(mut irq) = self.irq(to, intid) {
            irq.pintid |= senders;
            self.set_irq(to, intid, irq);
            self.raise_private(to, intid, crate::irq::LATCH);
        }
    }
}
