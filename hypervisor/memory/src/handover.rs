//! Handing memory to a guest: what is zeroed, filled, cleaned and invalidated, in which order.
//!
//! A guest starts with its caches off. What Merus writes may stay in the data caches, past which such a guest reads and
//! fetches; what a former owner executed may stay in the instruction caches. So, in this order, by type:
//!
//! 1. [`HandOver`]: all of the RAM is zeroed, each piece cleaned behind the write. A whole extent is [`Prepared`], which is
//!    what may be mapped.
//! 2. [`Filling`]: payloads are copied, each piece cleaned behind the write. Nothing else is written any more.
//! 3. [`HandedOver`]: the instruction caches are invalidated, after the last write and its clean. This is what a VM starts by.
//!
//! A reset takes the same steps over the RAM that the VM has.
//!
//! # What is left out, and when
//! - The clean to the point of coherency, where stage 2 forces write-back (FEAT_S2FWB): all of the guest's accesses, with its
//!   caches off as well, look into the data caches then; and instruction fetches see them too, because the point of
//!   unification needs no clean either on such CPUs (CTR_EL0.IDC).
//! - The invalidation of the instruction caches, where the CPUs need none for new code (CTR_EL0.DIC).
//!
//! Arm ARM (DDI 0487), "Caches and memory hierarchy" ("Terms used in describing the maintenance instructions", "Cache
//! maintenance instruction ordering") and "Stage 2 memory region type and cacheability attributes when FEAT_S2FWB is
//! implemented".
//!
//! # What the caller owes
//! - No vCPU of the VM runs until it is started by [`HandedOver`], and no device writes to its RAM.
//! - [`RamOps`] does as it says, barriers included, and for all CPUs of the machine.
//!
//! # Not modelled
//! Devices that write past the caches (a pass-through device's former DMA), memory tags, and memory that is handed over
//! while its VM runs (a balloon's pages, memory added later).

use crate::{Dirty, GuestRam};
use addr::{Address, Ipa, PAGE_SIZE, Pa, Span};
use alloc::vec::Vec;

/// What Merus does to a guest's RAM. Each call is complete when it returns: seen by all CPUs, in the order of the calls.
pub trait RamOps {
    /// Zeroes `span`: whole pages.
    fn zero(&mut self, span: Span<Pa>);
    /// Copies `from` to `to`.
    fn copy(&mut self, from: &[u8], to: Pa);
    /// Copies `from` to `to`; `crc` continued over it (CRC-32, bit reversed, without inversion).
    fn copy_crc(&mut self, from: &[u8], to: Pa, crc: u32) -> u32;
    /// Cleans the data caches' lines of `span` to the point of coherency.
    fn clean(&mut self, span: Span<Pa>);
    /// Drops what the instruction caches of all CPUs hold.
    fn invalidate_instructions(&mut self);
}

/// What the machine's CPUs, all of them, need no maintenance for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Coherency {
    /// Stage 2 forces write-back (FEAT_S2FWB, HCR_EL2.FWB): a guest sees the data caches always.
    pub fwb: bool,
    /// CTR_EL0.DIC: new instructions need no invalidation.
    pub dic: bool,
}

/// RAM whose content is arbitrary: what the firmware, a former owner or, before a reset, the VM itself left in it.
#[must_use = "the VM cannot start without it"]
#[derive(Debug)]
pub struct HandOver {
    ram: GuestRam,
    coherency: Coherency,
    /// Its extents are not mapped yet.
    fresh: bool,
    /// The extent that is being zeroed.
    extent: usize,
    /// How much of it is.
    zeroed: u64,
}

/// An extent that is all zeroes to the guest as well: it may be mapped.
#[must_use = "the VM needs it mapped"]
#[derive(PartialEq, Eq, Debug)]
pub struct Prepared {
    at: Span<Ipa>,
    memory: Span<Pa>,
}

/// RAM that is all zeroes, and that is filled now.
///
/// It comes from RAM that is zeroed, only:
/// ```compile_fail,E0599
/// fn early(memory: memory::HandOver, ops: &mut impl memory::RamOps) {
///     let _ = memory.finish(ops);
/// }
/// ```
#[must_use = "the VM cannot start without it"]
#[derive(Debug)]
pub struct Filling {
    ram: GuestRam,
    coherency: Coherency,
}

/// RAM that holds zeroes and its payloads, and nothing else for any CPU, whatever its caches are. A VM starts by it.
///
/// Nothing is written any more:
/// ```compile_fail,E0382
/// fn late(memory: memory::Filling, ops: &mut impl memory::RamOps) {
///     let at = addr::Ipa::new(0);
///     let _handed = memory.finish(ops);
///     memory.write(at, &[1], ops);
/// }
/// ```
/// And there is no other way to one:
/// ```compile_fail,E0451
/// fn forged(ram: memory::GuestRam) -> memory::HandedOver {
///     memory::HandedOver { ram }
/// }
/// ```
#[must_use = "the VM cannot start without it"]
#[derive(PartialEq, Eq, Debug)]
pub struct HandedOver {
    ram: GuestRam,
}

impl Prepared {
    /// Where the guest is to see it.
    pub fn at(&self) -> Span<Ipa> {
        self.at
    }

    /// The memory.
    pub fn memory(&self) -> Span<Pa> {
        self.memory
    }
}

impl HandOver {
    /// RAM for a VM's first start, made of `extents`. `None` if they are not what `ram` is made of.
    pub fn first(ram: &GuestRam, extents: Vec<Dirty>, coherency: Coherency) -> Option<Self> {
        let same = ram.extents().iter().map(|(_, memory)| *memory).eq(extents.iter().map(Dirty::span));
        same.then(|| Self { fresh: true, ..Self::again(ram, coherency) })
    }

    /// The RAM of a VM that starts again: it stays mapped.
    pub fn again(ram: &GuestRam, coherency: Coherency) -> Self {
        Self { ram: ram.clone(), coherency, fresh: false, extent: 0, zeroed: 0 }
    }

    /// Zeroes up to `at_most` more bytes, in whole pages and at least one. `Some`: an extent is done that is to be mapped.
    #[inline]
    pub fn zero(&mut self, at_most: u64, ops: &mut impl RamOps) -> Option<Prepared> {
        let (at, memory) = *self.ram.extents().get(self.extent)?;
        let step = (at_most & PAGE_SIZE.wrapping_neg()).max(PAGE_SIZE);
        let step = step.min(memory.size().saturating_sub(self.zeroed));
        let span = Span::new(memory.start().checked_add(self.zeroed)?, step)?;
        ops.zero(span);
        written(span, self.coherency, ops);
        self.zeroed = self.zeroed.saturating_add(step);
        if self.zeroed < memory.size() {
            return None;
        }
        self.extent = self.extent.saturating_add(1);
        self.zeroed = 0;
        let at = Span::new(at, memory.size())?;
        self.fresh.then_some(Prepared { at, memory })
    }

    /// Whether all of it is zeroed.
    #[inline]
    pub fn is_zeroed(&self) -> bool {
        self.extent >= self.ram.extents().len()
    }

    /// Goes on, once all of it is zeroed.
    pub fn into_zeroed(self) -> Result<Filling, Self> {
        if !self.is_zeroed() {
            return Err(self);
        }
        Ok(Filling { ram: self.ram, coherency: self.coherency })
    }
}

impl Filling {
    /// Copies the first bytes of `from` to `at`: `at_most` of them, and fewer where an extent ends. How many, and `crc`
    /// continued over them. `None` outside RAM; nothing was written then.
    pub fn copy_crc(
        &mut self,
        at: Ipa,
        from: &[u8],
        at_most: usize,
        crc: u32,
        ops: &mut impl RamOps,
    ) -> Option<(usize, u32)> {
        let (span, part) = self.piece(at, from, at_most)?;
        let crc = ops.copy_crc(part, span.start(), crc);
        written(span, self.coherency, ops);
        Some((part.len(), crc))
    }

    /// Copies all of `from` to `at`: something small. `None` if it is not all in RAM; nothing was written then.
    pub fn write(&mut self, at: Ipa, from: &[u8], ops: &mut impl RamOps) -> Option<()> {
        if !self.ram.span().contains_range(at, from.len() as u64) {
            return None;
        }
        let (mut at, mut from) = (at, from);
        while !from.is_empty() {
            let (span, part) = self.piece(at, from, usize::MAX)?;
            ops.copy(part, span.start());
            written(span, self.coherency, ops);
            at = at.checked_add(span.size())?;
            from = from.get(part.len()..)?;
        }
        Some(())
    }

    /// The last step: behind the last write.
    pub fn finish(self, ops: &mut impl RamOps) -> HandedOver {
        if !self.coherency.dic {
            ops.invalidate_instructions();
        }
        HandedOver { ram: self.ram }
    }

    /// The first bytes of `from` that lie in one extent at `at`, and where.
    fn piece<'a>(&self, at: Ipa, from: &'a [u8], at_most: usize) -> Option<(Span<Pa>, &'a [u8])> {
        let (memory, got) = self.ram.translate(at, from.len().min(at_most) as u64)?;
        Some((Span::new(memory, got)?, from.get(..got as usize)?))
    }
}

impl HandedOver {
    /// Whether it is this RAM.
    pub fn is(&self, ram: &GuestRam) -> bool {
        self.ram == *ram
    }
}

/// Behind each write.
#[inline]
fn written(span: Span<Pa>, coherency: Coherency, ops: &mut impl RamOps) {
    if !coherency.fwb {
        ops.clean(span);
    }
}

#[cfg(test)]
mod tests;
