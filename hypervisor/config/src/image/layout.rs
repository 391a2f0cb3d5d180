//! Where a guest's kernel, initrd and device tree go.

use crate::image::{ImageHeader, PageSize};
use crate::map;
use addr::{Address, BLOCK_SIZE, Ipa, Span};
use thiserror::Error;

/// Room that is kept for the guest's device tree: the most that Linux accepts, 2 MiB.
pub const FDT_MAX: u64 = 2 << 20;
/// The window that kernel and initrd must share: 32 GiB from a 1 GiB boundary.
const WINDOW: u64 = 32 << 30;
/// How far into RAM the initrd goes where there is room, as `virt` does: a kernel that writes past what its header
/// claims then does not hit it.
const INITRD_AT: u64 = 128 << 20;

/// Where a kernel without a header goes, in guest addresses. Without a `load` it is an arm64 `Image`, whose header says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Raw {
    /// Where its first byte goes.
    pub load: Option<u64>,
    /// Where the boot vCPU starts; its first byte if left out.
    pub entry: Option<u64>,
    /// Bytes from its first one that belong to it, what is not in the file included; the file's if left out, or less.
    pub room: Option<u64>,
}

impl Raw {
    /// Where it goes if its file has `size` bytes; `None` where there is no `load`, or it wraps.
    pub fn span(&self, size: u64) -> Option<Span<Ipa>> {
        Span::new(Ipa::new(self.load?), self.room.unwrap_or(0).max(size))
    }

    /// Where the boot vCPU starts, if there is a `load`.
    pub fn start(&self) -> Option<u64> {
        self.load.map(|load| self.entry.unwrap_or(load))
    }
}

/// What was put where in a guest's RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestLayout {
    /// All of the guest's RAM.
    pub ram: Span<Ipa>,
    /// The kernel with what it needs beyond its file; its first byte is the first byte of the file.
    pub kernel: Span<Ipa>,
    /// Where the boot vCPU starts: the kernel's first byte, but for [`Raw`] ones.
    pub entry: Ipa,
    /// The granule that the kernel was built for, as far as it says so.
    pub page_size: PageSize,
    /// The initrd, exactly as long as its file.
    pub initrd: Option<Span<Ipa>>,
    /// The device tree's room, [`FDT_MAX`] bytes on a 2 MiB boundary.
    pub fdt: Span<Ipa>,
}

/// Why the parts do not fit into the guest's RAM.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum LayoutError {
    /// Less RAM than the parts take.
    #[error("{memory} MiB do not hold kernel, initrd and device tree; give at least {needed}M")]
    MemoryTooSmall {
        /// The guest's RAM in MiB.
        memory: u64,
        /// What is needed, in MiB.
        needed: u64,
    },
    /// The initrd would end outside the window that Linux demands.
    #[error("kernel and initrd do not fit into one 32 GiB window; give a smaller initrd")]
    Window,
    /// More RAM than the platform has addresses for.
    #[error("{memory} MiB are more than the platform's {limit} MiB; give less")]
    MemoryTooLarge {
        /// The guest's RAM in MiB.
        memory: u64,
        /// The most, in MiB.
        limit: u64,
    },
}

impl GuestLayout {
    /// Places a kernel with `header` whose file has `kernel_size` bytes, an initrd of `initrd_size` bytes if there is
    /// one, and the device tree in `memory` bytes of RAM.
    pub fn new(
        memory: u64,
        header: &ImageHeader,
        kernel_size: u64,
        initrd_size: Option<u64>,
    ) -> Result<Self, LayoutError> {
        let kernel =
            Kernel { start: header.text_offset, size: header.image_size.max(kernel_size), entry: header.text_offset };
        Self::of(memory, kernel, header.page_size, initrd_size)
    }

    /// The same with a kernel that goes where `raw` says. One that wraps or lies below RAM is refused as one beyond RAM is.
    pub fn raw(memory: u64, raw: &Raw, kernel_size: u64, initrd_size: Option<u64>) -> Result<Self, LayoutError> {
        let offset = |at: Option<u64>| at.and_then(|at| at.checked_sub(map::RAM_BASE.as_u64())).unwrap_or(u64::MAX);
        let size = raw.room.unwrap_or(0).max(kernel_size);
        let kernel = Kernel { start: offset(raw.load), size, entry: offset(raw.start()) };
        Self::of(memory, kernel, PageSize::Unspecified, initrd_size)
    }

    fn of(memory: u64, kernel: Kernel, page_size: PageSize, initrd_size: Option<u64>) -> Result<Self, LayoutError> {
        let too_large = LayoutError::MemoryTooLarge { memory: memory >> 20, limit: map::RAM_MAX >> 20 };
        if memory > map::RAM_MAX {
            return Err(too_large);
        }
        let ram = Span::new(map::RAM_BASE, memory).ok_or(too_large)?;
        // Offsets from the start of RAM. Saturated sums end beyond all RAM, so they are refused like any other.
        let initrd = initrd_size.unwrap_or(0);
        let choices = Parts::choices(memory, &kernel, initrd);
        let least = choices.iter().flatten().map(|parts| parts.end).min().unwrap_or(u64::MAX);
        let needed = least.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE >> 20);
        let too_small = LayoutError::MemoryTooSmall { memory: memory >> 20, needed };
        if least > memory {
            return Err(too_small);
        }
        let fits = |parts: &&Parts| parts.end <= memory && parts.initrd.saturating_add(initrd) <= WINDOW;
        let parts = choices.iter().flatten().find(fits).ok_or(LayoutError::Window)?;
        let place = |offset: u64, size: u64| {
            let span = map::RAM_BASE.checked_add(offset).and_then(|start| Span::new(start, size));
            span.filter(|span| ram.encloses(span)).ok_or(too_small.clone())
        };
        let entry = place(kernel.entry, 4)?.start();
        let initrd = initrd_size.map(|size| place(parts.initrd, size)).transpose()?;
        let (kernel, fdt) = (place(kernel.start, kernel.size)?, place(parts.fdt, FDT_MAX)?);
        Ok(Self { ram, kernel, entry, page_size, initrd, fdt })
    }
}

/// Offsets from the start of RAM, and a length.
struct Kernel {
    start: u64,
    size: u64,
    entry: u64,
}

/// Offsets from the start of RAM.
struct Parts {
    initrd: u64,
    fdt: u64,
    end: u64,
}

impl Parts {
    /// The places for initrd and device tree, the best first: far behind the kernel, right behind it, before it. Whether they fit
    /// into RAM is not looked at.
    fn choices(memory: u64, kernel: &Kernel, initrd: u64) -> [Option<Self>; 3] {
        let up = |bytes: u64| bytes.checked_next_multiple_of(BLOCK_SIZE).unwrap_or(u64::MAX);
        let with_initrd_at = |at: u64| {
            let fdt = up(at.saturating_add(initrd));
            Self { initrd: at, fdt, end: fdt.saturating_add(FDT_MAX) }
        };
        let kernel_end = kernel.start.saturating_add(kernel.size);
        let tight = up(kernel_end);
        let wide = with_initrd_at(tight.max(up((memory / 2).min(INITRD_AT))));
        let before = Some(with_initrd_at(0)).filter(|before| before.end <= kernel.start);
        [Some(wide), Some(with_initrd_at(tight)), before.map(|before| Self { end: kernel_end, ..before })]
    }
}
