//! One VM's address space in hardware terms: its stage-2 tables in real memory, and its VMID.

use crate::errata::Errata;
use crate::ram;
use crate::tlb::{self, VmTlb};
use crate::world::Space;
use addr::{Ipa, PAGE_SIZE, Pa, Span};
use memory::{Prepared, Window};
use stage2::{Attrs, Geometry, MapError, OutOfTables, Rights, Stage2, Tables, VmidAllocator, VmidSlot, Vmids, Walk};
use sync::{Rank, SpinLock};

/// Where pages for tables come from, charged to the VM that asks.
pub trait FrameSource {
    /// `pages` (a power of two) pages of declared RAM, mapped in EL2, aligned to their whole size; their content is arbitrary.
    fn take(&mut self, pages: usize) -> Option<Pa>;
    /// Gives them back.
    fn give(&mut self, at: Pa, pages: usize);
}

struct RealTables<'a> {
    source: &'a mut dyn FrameSource,
    line: u32,
}

impl Tables for RealTables<'_> {
    fn read(&self, table: Pa, index: usize) -> u64 {
        ram::load_entry(Pa::new(table.as_u64().wrapping_add(index as u64 * 8)))
    }
    fn write(&mut self, table: Pa, index: usize, descriptor: u64) {
        ram::store_entry(Pa::new(table.as_u64().wrapping_add(index as u64 * 8)), descriptor);
    }
    fn alloc(&mut self, pages: usize) -> Result<Pa, OutOfTables> {
        let at = self.source.take(pages).ok_or(OutOfTables)?;
        let span = Span::new(at, pages as u64 * PAGE_SIZE).ok_or(OutOfTables)?;
        // Table walks are cacheable (VTCR_EL2.IRGN0, ORGN0), so no cleaning is needed; the line size is for guests' RAM.
        let _ = self.line;
        ram::zero(span, 0, false);
        Ok(at)
    }
    fn free(&mut self, at: Pa, pages: usize) {
        self.source.give(at, pages);
    }
}

/// A VM's stage 2 and VMID.
#[derive(Debug)]
pub struct GuestSpace {
    tables: SpinLock<Option<Stage2>>,
    root: Pa,
    vtcr: u64,
    slot: VmidSlot,
    errata: Errata,
}

impl GuestSpace {
    /// Empty tables of this shape.
    pub fn new(geometry: Geometry, source: &mut dyn FrameSource, errata: Errata) -> Result<Self, OutOfTables> {
        let stage2 = Stage2::new(geometry, &mut RealTables { source, line: 0 })?;
        let (root, vtcr) = (stage2.root(), geometry.vtcr());
        Ok(Self { tables: SpinLock::new(Rank::Stage2, Some(stage2)), root, vtcr, slot: VmidSlot::new(), errata })
    }
    /// Maps guest RAM: an extent that was zeroed and cleaned for a guest, and nothing else. One that is no declared RAM is refused
    /// as [`MapError::OutsidePa`].
    pub fn map_ram(&self, extent: Prepared, source: &mut dyn FrameSource) -> Result<(), MapError> {
        self.map(&extent, Attrs::RAM, source)
    }
    /// Maps memory that Merus writes and the guest can only load from; otherwise as [`Self::map_ram`].
    pub fn map_read_only(&self, extent: Prepared, source: &mut dyn FrameSource) -> Result<(), MapError> {
        self.map(&extent, Attrs { rights: Rights::READ, ..Attrs::RAM }, source)
    }
    fn map(&self, extent: &Prepared, attrs: Attrs, source: &mut dyn FrameSource) -> Result<(), MapError> {
        let (span, pa) = (extent.at(), extent.memory().start());
        if !ram::is_declared(pa, span.size()) {
            return Err(MapError::OutsidePa);
        }
        let mut tables = self.tables.lock();
        let Some(stage2) = tables.as_mut() else { return Err(MapError::OutOfTables) };
        let root = self.root;
        let mut tlb = VmTlb::new(&self.slot, move |vmid| u64::from(vmid.as_u16()) << 48 | root.as_u64(), self.errata);
        stage2.map(span, pa, attrs, &mut RealTables { source, line: 0 }, &mut tlb)
    }
    /// Maps the page of the hardware's virtual CPU interface (GICV) that the guest has at `at`. What it reaches there is the list
    /// registers of whoever is loaded, and nothing of Merus'. A page of RAM is refused as [`MapError::OutsidePa`].
    pub fn map_interrupt_interface(
        &self,
        at: Ipa,
        page: Span<Pa>,
        source: &mut dyn FrameSource,
    ) -> Result<(), MapError> {
        if page.size() != PAGE_SIZE {
            return Err(MapError::OutsidePa);
        }
        self.map_registers(at, page, source)
    }
    /// Maps a device's registers, which are this VM's, as Device-nGnRE at `at`.
    pub fn map_device(&self, at: Ipa, window: &Window, source: &mut dyn FrameSource) -> Result<(), MapError> {
        self.map_registers(at, window.span(), source)
    }
    fn map_registers(&self, at: Ipa, span: Span<Pa>, source: &mut dyn FrameSource) -> Result<(), MapError> {
        if ram::overlaps(span) {
            return Err(MapError::OutsidePa);
        }
        let at = Span::new(at, span.size()).ok_or(MapError::OutsidePa)?;
        let mut tables = self.tables.lock();
        let Some(stage2) = tables.as_mut() else { return Err(MapError::OutOfTables) };
        let root = self.root;
        let mut tlb = VmTlb::new(&self.slot, move |vmid| u64::from(vmid.as_u16()) << 48 | root.as_u64(), self.errata);
        stage2.map(at, span.start(), Attrs::DEVICE, &mut RealTables { source, line: 0 }, &mut tlb)
    }
    /// Whether `ipa` is mapped, and to what.
    pub fn walk(&self, ipa: Ipa) -> Walk {
        struct NoFrames;
        impl FrameSource for NoFrames {
            fn take(&mut self, _: usize) -> Option<Pa> {
                None
            }
            fn give(&mut self, _: Pa, _: usize) {}
        }
        match self.tables.lock().as_ref() {
            Some(stage2) => stage2.walk(ipa, &RealTables { source: &mut NoFrames, line: 0 }),
            None => Walk::OutOfRange,
        }
    }
    /// Frees the tables. No vCPU of the VM is loaded anywhere.
    pub fn destroy(&self, source: &mut dyn FrameSource) {
        if let Some(stage2) = self.tables.lock().take() {
            let root = self.root;
            let mut tlb =
                VmTlb::new(&self.slot, move |vmid| u64::from(vmid.as_u16()) << 48 | root.as_u64(), self.errata);
            stage2.destroy(&mut RealTables { source, line: 0 }, &mut tlb);
        }
    }
    /// What pCPU `pcpu` loads to run this VM: gets it a VMID of the current generation.
    pub fn activate(
        &self,
        pcpu: usize,
        vmids: &Vmids,
        allocator: &SpinLock<VmidAllocator>,
        offset: u64,
    ) -> Option<Space> {
        let vmid = match vmids.load(pcpu, &self.slot) {
            Some(vmid) => vmid,
            None => {
                let vmid = allocator.lock().load(vmids, pcpu, &self.slot, tlb::flush_everything).ok()?;
                tlb::settle();
                vmid
            }
        };
        Some(Space {
            vttbr: u64::from(vmid.as_u16()) << 48 | self.root.as_u64(),
            vtcr: self.vtcr,
            counter_offset: offset,
        })
    }
}

impl GuestSpace {
    /// Drops all that TLBs know of this VM: its vCPUs start afresh.
    pub fn flush(&self) {
        use stage2::{Flush, TlbWork};
        let root = self.root;
        VmTlb::new(&self.slot, move |vmid| u64::from(vmid.as_u16()) << 48 | root.as_u64(), self.errata)
            .flush(Flush::Vm);
    }
}
