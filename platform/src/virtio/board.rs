//! The target's side: where memory for devices comes from, and registers in memory.

use super::Fault;
use super::blk::HostBlk;
use super::net::HostNet;
use crate::mmio::Registers;
use core::alloc::Layout;
use core::ptr::NonNull;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, SomeTransport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Merus' heap, whose addresses are the machine's.
pub struct Identity;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok().filter(|layout| layout.size() != 0)
}

// SAFETY: pages come from the heap, zeroed, aligned, and are nobody else's until they are given back.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let at = layout(pages).map_or(core::ptr::null_mut(), |layout| unsafe { alloc::alloc::alloc_zeroed(layout) });
        match NonNull::new(at) {
            Some(at) => (at.as_ptr().expose_provenance() as PhysAddr, at),
            None => (0, NonNull::dangling()),
        }
    }
    unsafe fn dma_dealloc(_: PhysAddr, at: NonNull<u8>, pages: usize) -> i32 {
        if let Some(layout) = layout(pages) {
            // SAFETY: the caller's: as it was allocated.
            unsafe { alloc::alloc::dealloc(at.as_ptr(), layout) };
        }
        0
    }
    unsafe fn mmio_phys_to_virt(at: PhysAddr, _: usize) -> NonNull<u8> {
        // Whoever makes a device of PCI has mapped its registers where they lie (`pci::Function::place`).
        NonNull::new(core::ptr::with_exposed_provenance_mut(at as usize)).unwrap_or(NonNull::dangling())
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// How a device of the board's is reached.
pub type BoardTransport = SomeTransport<'static>;
/// A disk of the board's.
pub type BoardBlk = HostBlk<BoardTransport, Identity>;
/// A network card of the board's.
pub type BoardNet = HostNet<BoardTransport, Identity>;

/// "MMIO Device Register Layout".
const MAGIC_VALUE: u64 = 0x000;
const DEVICE_ID: u64 = 0x008;
const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// What is behind registers of the kind that the device trees call `virtio,mmio`; `None` where nothing is, or nothing that is known. The
/// device is left as it is.
pub fn kind(registers: Registers) -> Option<DeviceType> {
    if registers.read32(MAGIC_VALUE) != MAGIC {
        return None;
    }
    DeviceType::try_from(registers.read32(DEVICE_ID)).ok()
}

/// The device behind `size` bytes of such registers, of either version of the interface. (Dropped, it is reset.)
///
/// # Errors
/// They are none of that kind.
pub fn mmio(registers: Registers, size: u64) -> Result<BoardTransport, Fault> {
    let header: *mut VirtIOHeader = core::ptr::with_exposed_provenance_mut(registers.base().as_u64() as usize);
    let header = NonNull::new(header).filter(|header| header.is_aligned()).ok_or(Fault::Registers)?;
    // SAFETY: `Registers` says that they are mapped as a device for good; the caller has `size` from the same place. The drivers here set
    // up no DMA but to `Pages`.
    unsafe { MmioTransport::new(header, size as usize) }.map(SomeTransport::from).map_err(|_| Fault::Registers)
}
