//! UEFI's memory map: what of it is RAM, and whose that RAM is once boot services are over.
//!
//! (UEFI Specification, "Memory Allocation Services": EFI_MEMORY_DESCRIPTOR, and "Memory Type Usage after ExitBootServices".)

use addr::{PAGE_SIZE, Pa, Span};

/// Bytes of a descriptor that are read here; firmware may have longer ones.
const DESCRIPTOR: usize = 40;
/// The memory can be cached, write-back.
const WRITE_BACK: u64 = 1 << 3;
/// For a purpose of its own, not for general use.
const SPECIFIC: u64 = 1 << 18;
/// The firmware needs it for runtime services, which Merus never calls; they stay whole for whoever comes after it.
const RUNTIME: u64 = 1 << 63;

/// Whose a piece of RAM is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Merus'.
    Free,
    /// The firmware's for good: runtime services, ACPI.
    Kept,
}

/// A memory map, as GetMemoryMap wrote it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> MemoryMap<'a> {
    /// The map in `bytes`, with a descriptor each `stride` bytes; `None` where that is shorter than a descriptor.
    pub fn new(bytes: &'a [u8], stride: usize) -> Option<Self> {
        (stride >= DESCRIPTOR).then_some(Self { bytes, stride })
    }

    /// Gives the RAM of one use to `take`, span by span; spans that touch and follow each other are one.
    ///
    /// # Errors
    /// The first of `take`'s.
    pub fn each<E>(&self, which: Use, take: &mut dyn FnMut(Span<Pa>) -> Result<(), E>) -> Result<(), E> {
        let mut last: Option<Span<Pa>> = None;
        for span in self.spans().filter(|(found, _)| *found == which).map(|(_, span)| span) {
            last = match last {
                Some(before) if before.end() == span.start() => Span::from_bounds(before.start(), span.end()),
                before => {
                    before.map_or(Ok(()), &mut *take)?;
                    Some(span)
                }
            };
        }
        last.map_or(Ok(()), take)
    }

    fn spans(&self) -> impl Iterator<Item = (Use, Span<Pa>)> + '_ {
        self.bytes.chunks_exact(self.stride).filter_map(|descriptor| {
            let number = |at: usize| descriptor.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let kind = descriptor.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
            let (start, pages, attributes) = (number(8)?, number(24)?, number(32)?);
            let span = Span::new(Pa::new(start), pages.checked_mul(PAGE_SIZE)?)?;
            let found = use_of(kind, attributes)?;
            (!span.is_empty()).then_some((found, span))
        })
    }
}

/// Whose memory of this type is; `None`: nobody's that Merus could use, or no RAM at all.
fn use_of(kind: u32, attributes: u64) -> Option<Use> {
    const LOADER: [u32; 2] = [1, 2];
    const BOOT_SERVICES: [u32; 2] = [3, 4];
    const RUNTIME_SERVICES: [u32; 2] = [5, 6];
    const CONVENTIONAL: u32 = 7;
    const ACPI: [u32; 2] = [9, 10];
    let free = kind == CONVENTIONAL || LOADER.contains(&kind) || BOOT_SERVICES.contains(&kind);
    let kept = RUNTIME_SERVICES.contains(&kind) || ACPI.contains(&kind);
    if kept || (free && attributes & RUNTIME != 0) {
        return Some(Use::Kept);
    }
    (free && attributes & WRITE_BACK != 0 && attributes & SPECIFIC == 0).then_some(Use::Free)
}
