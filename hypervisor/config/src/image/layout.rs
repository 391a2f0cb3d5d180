//! Where a guest's kernel, initrd and device tree go.

use crate::image::ImageHeader;
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

/// What was put where in a guest's RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestLayout {
    /// All of the guest's RAM.
    pub ram: Span<Ipa>,
    /// The kernel with what it needs beyond its file; its first byte is the first byte of the file.
    pub kernel: Span<Ipa>,
    /// Where the boot vCPU starts: the kernel's first byte.
    pub entry: Ipa,
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
        let too_large = LayoutError::MemoryTooLarge { memory: memory >> 20, limit: map::RAM_MAX >> 20 };
        if memory > map::RAM_MAX {
            return Err(too_large);
        }
        let ram = Span::new(map::RAM_BASE, memory).ok_or(too_large)?;
        // Offsets from the start of RAM. Saturated sums end beyond all RAM, so they are refused like any other.
        let parts = Parts::new(memory, header, kernel_size, initrd_size.unwrap_or(0));
        let needed = parts.end.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE >> 20);
        let too_small = LayoutError::MemoryTooSmall { memory: memory >> 20, needed };
        if parts.end > memory {
            return Err(too_small);
        }
        if parts.initrd.saturating_add(initrd_size.unwrap_or(0)) > WINDOW {
            return Err(LayoutError::Window);
        }
        let place = |offset: u64, size: u64| {
            let span = map::RAM_BASE.checked_add(offset).and_then(|start| Span::new(start, size));
            span.filter(|span| ram.encloses(span)).ok_or(too_small.clone())
        };
        let kernel = place(header.text_offset, header.image_size.max(kernel_size))?;
        let initrd = initrd_size.map(|size| place(parts.initrd, size)).transpose()?;
        Ok(Self { ram, kernel, entry: kernel.start(), initrd, fdt: place(parts.fdt, FDT_MAX)? })
    }
}

/// Offsets from the start of RAM.
struct Parts {
    initrd: u64,
    fdt: u64,
    end: u64,
}

impl Parts {
    fn new(memory: u64, header: &ImageHeader, file: u64, initrd: u64) -> Self {
        let up = |bytes: u64| bytes.checked_next_multiple_of(BLOCK_SIZE).unwrap_or(u64::MAX);
        let with_initrd_at = |at: u64| {
            let fdt = up(at.saturating_add(initrd));
            Self { initrd: at, fdt, end: fdt.saturating_add(FDT_MAX) }
        };
        let tight = up(header.text_offset.saturating_add(header.image_size.max(file)));
        let wide = with_initrd_at(tight.max(up((memory / 2).min(INITRD_AT))));
        if wide.end <= memory { wide } else { with_initrd_at(tight) }
    }
}
