//! Drivers of the board's virtio devices ("Virtual I/O Device (VIRTIO) Version 1.2"): disks ([`blk`]), network cards ([`net`]), and how a device is reached, by
//! registers in memory or as a function of PCI ([`pci`]). Rings and registers are those of the crate `virtio-drivers`.
//!
//! # Memory
//! Devices read and write [`Pages`] only: the rings, and buffers that everything is copied through. They are Merus' own from its heap, at
//! their physical addresses, for as long as the device may know of them, so nothing that a guest does or that becomes of one matters to
//! them. Devices are taken to be coherent with the caches, as those that a hypervisor below makes are.
//!
//! # Nothing is believed
//! A device that answers what it was not asked, or does not answer, is [`Fault::Broken`] from there on; what it had is not used again before
//! it is reset.

pub mod blk;
#[cfg(target_os = "none")]
mod board;
pub mod net;
pub mod pci;
#[cfg(target_os = "none")]
pub use board::{BoardBlk, BoardNet, BoardTransport, Identity, kind, mmio};

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use virtio_drivers::queue::VirtQueue;
pub use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PAGE_SIZE};

/// Entries of every queue, so that there is one kind of them.
const QUEUE_ENTRIES: usize = 128;
type Queue<H> = VirtQueue<H, QUEUE_ENTRIES>;

/// How often a status register is read before its device counts as dead.
const PATIENCE: u32 = 1_000_000;
/// Bits of device features that are every device's ("Reserved Feature Bits").
const VERSION_1: u64 = 1 << 32;

/// Why a device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It does not reset, or does not answer in time.
    Silent,
    /// It insists on features that Merus does not have (an IOMMU in front of it, for one).
    Features,
    /// It answers what it was not asked.
    Broken,
    /// Its queues are too small, or its configuration is.
    Small,
    /// It has blocks that Merus cannot handle.
    Blocks,
    /// There is no memory for it.
    Memory,
    /// It has no place among the addresses that reach its bus.
    NoPlace,
    /// It lacks registers that the standard asks for.
    Registers,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "it does not answer",
            Self::Features => "it insists on features that Merus does not have",
            Self::Broken => "it answers what it was not asked",
            Self::Small => "its queues or its configuration are too small",
            Self::Blocks => "it has blocks of a size that Merus does not handle",
            Self::Memory => "there is no memory for its buffers",
            Self::NoPlace => "there is no place for its registers on its bus",
            Self::Registers => "it lacks registers",
        })
    }
}

impl core::error::Error for Fault {}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::DmaError => Self::Memory,
            Error::InvalidParam | Error::ConfigSpaceTooSmall | Error::ConfigSpaceMissing => Self::Small,
            _ => Self::Broken,
        }
    }
}

/// Memory that a device reads and writes, zeroed at first.
struct Pages<H: Hal> {
    at: NonNull<u8>,
    physical: u64,
    pages: usize,
    hal: PhantomData<H>,
}

// SAFETY: memory is nobody's thread's; who has the value has the memory.
unsafe impl<H: Hal> Send for Pages<H> {}

impl<H: Hal> Pages<H> {
    fn new(bytes: usize) -> Result<Self, Fault> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        match H::dma_alloc(pages, BufferDirection::Both) {
            (0, _) => Err(Fault::Memory),
            (physical, at) => Ok(Self { at, physical, pages, hal: PhantomData }),
        }
    }

    /// `size` bytes from `from` on.
    fn part(&self, from: usize, size: usize) -> NonNull<u8> {
        assert!(from.checked_add(size).is_some_and(|end| end <= self.pages * PAGE_SIZE), "beyond a device's memory");
        // SAFETY: within the memory.
        unsafe { self.at.add(from) }
    }

    /// Those bytes, for whoever tells the device about them.
    ///
    /// # Safety
    /// They are not accessed otherwise while the slice is, and the slice is not while the device may.
    unsafe fn slice(&self, from: usize, size: usize) -> &'static mut [u8] {
        // SAFETY: within the memory, which lives as long as the device knows of it; the rest is the caller's.
        unsafe { core::slice::from_raw_parts_mut(self.part(from, size).as_ptr(), size) }
    }

    fn write(&mut self, from: usize, bytes: &[u8]) {
        // SAFETY: as many bytes of memory that no reference points to.
        unsafe { self.part(from, bytes.len()).copy_from(NonNull::from(bytes).cast(), bytes.len()) };
    }

    fn byte(&self, from: usize) -> u8 {
        // SAFETY: a byte of the memory; the device wrote it past the compiler.
        unsafe { self.part(from, 1).read_volatile() }
    }
}

impl<H: Hal> Drop for Pages<H> {
    fn drop(&mut self) {
        // SAFETY: as it was allocated; the drivers drop it when the device is reset.
        unsafe { H::dma_dealloc(self.physical, self.at, self.pages) };
    }
}

/// Begins a device's initialisation ("Device Initialization") up to its queues: it is reset, and has those of the features `wanted` that
/// are its own, which are returned.
fn begin<T: Transport>(transport: &mut T, wanted: u64) -> Result<u64, Fault> {
    reset(transport)?;
    let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(known);
    let features = transport.read_device_features() & (wanted | VERSION_1);
    transport.write_driver_features(features);
    transport.set_guest_page_size(PAGE_SIZE as u32);
    if features & VERSION_1 != 0 {
        transport.set_status(known | DeviceStatus::FEATURES_OK);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            transport.set_status(DeviceStatus::FAILED);
            return Err(Fault::Features);
        }
    }
    Ok(features)
}

/// Ends it: the device is in use.
fn finish<T: Transport>(transport: &mut T) {
    let status = transport.get_status();
    transport.set_status(status | DeviceStatus::DRIVER_OK);
}

/// Resets a device: it knows of no memory any more.
fn reset<T: Transport>(transport: &mut T) -> Result<(), Fault> {
    transport.set_status(DeviceStatus::empty());
    (0..PATIENCE).find(|_| transport.get_status().is_empty()).map(|_| ()).ok_or(Fault::Silent)
}
