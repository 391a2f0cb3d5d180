//! The MMIO bus of one VM, and everything a device model may know of the world.
//!
//! A device sees an offset and a size ([`MmioDevice`]), a wire ([`IrqLine`]) and guest memory ([`GuestMemory`]); it never
//! sees an address, an interrupt number, a clock or a lock. What happens after a refused access is decided here, once:
//! [`Bus`] documents the policy.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

mod outcome;
#[cfg(test)]
mod tests;
mod windows;

pub use addr::AccessSize;
use addr::Ipa;
pub use outcome::{Completion, NO_DEVICE, Refusals, read_outcome, write_outcome};
pub use windows::{Bus, BusError};

/// Where in its own window a device is accessed, in bytes from the window's start.
pub type Offset = u64;

/// A device model behind a window of the guest's address space.
///
/// Every method is total: no `(at, size, value)` panics or loops without bound. The last thing a method that changes
/// state does is to bring its interrupt line up to date.
pub trait MmioDevice: Send {
    /// A load of `size` at `at`. The value is in the low bits.
    fn read(&mut self, at: Offset, size: AccessSize) -> Result<u64, AccessError>;
    /// A store of the low `size` bits of `value` at `at`.
    fn write(&mut self, at: Offset, size: AccessSize, value: u64) -> Result<(), AccessError>;
    /// Back to the state after power-on (a VM's reset).
    fn reset(&mut self);
    /// The guest's memory is about to be taken away or made anew: until the next reset the device reaches none of it, whoever
    /// asks. Its wire stays as it is.
    fn quiesce(&mut self) {}
}

/// Why a device refuses an access. The bus, not the device, decides what the guest sees of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError {
    /// There is no register at this offset.
    NoRegister,
    /// The register cannot be accessed with this size.
    BadSize,
    /// The offset is no multiple of the size.
    Unaligned,
    /// No refusal: what the store asks for is more than one step. It is made again from the same instruction, which does the
    /// next step, after whoever waits for the pCPU (the guest's own interrupts among them) has had a turn. For stores only.
    Again,
}

/// A device's interrupt wire. Level sensitive: `true` as long as the device asks for service.
pub trait IrqLine: Send {
    /// Drives the wire. Setting the level it already has costs next to nothing and changes nothing.
    fn set_level(&self, high: bool);
}

/// The guest page behind an access is not there now (swapped out, not yet copied, taken by the balloon). The device leaves no
/// side effect behind and its step is run again once the page is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absent {
    /// The first address that could not be reached.
    pub at: Ipa,
}

/// The only way to guest RAM: copies and atomics, never a reference (rule: the guest writes at the same time).
///
/// Addresses outside the guest's RAM are [`Absent`] as well, for good; who has to tell the two apart asks
/// [`GuestMemory::is_ram`].
pub trait GuestMemory: Send + Sync {
    /// Whether all of `size` bytes at `at` are addresses of the guest's RAM, there at the moment or not.
    fn is_ram(&self, at: Ipa, size: u64) -> bool;
    /// Copies guest memory at `at` into `to`, each byte read once.
    fn read(&self, at: Ipa, to: &mut [u8]) -> Result<(), Absent>;
    /// The 16 bytes at `at` as two words, the first byte lowest: what descriptors have.
    fn read_pair(&self, at: Ipa) -> Result<[u64; 2], Absent> {
        let mut bytes = [0; 16];
        self.read(at, &mut bytes)?;
        let value = u128::from_le_bytes(bytes);
        Ok([value as u64, (value >> 64) as u64])
    }
    /// Copies `from` into guest memory at `at`.
    fn write(&self, at: Ipa, from: &[u8]) -> Result<(), Absent>;
    /// One atomic load (acquire) of a naturally aligned 16-bit value, as the virtio rings need it.
    fn load_u16(&self, at: Ipa) -> Result<u16, Absent>;
    /// One atomic store (release) of a naturally aligned 16-bit value.
    fn store_u16(&self, at: Ipa, value: u16) -> Result<(), Absent>;
    /// Checks that all of `size` bytes at `at` can be reached, before the first side effect of a step.
    fn pin(&self, at: Ipa, size: u64) -> Result<(), Absent>;
}
