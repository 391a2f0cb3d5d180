//! Which device answers at an address: the sorted windows of one VM.

use addr::{AccessSize, Ipa, Span};
use alloc::vec::Vec;
use core::fmt;
use sync::nospec;

use crate::{AccessError, Completion, NO_DEVICE, Offset, Refusals, read_outcome, write_outcome};

/// Why a window cannot be put on the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusError {
    /// The window has no byte.
    Empty,
    /// The window shares a byte with this one, which is on the bus already.
    Overlap(Span<Ipa>),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a device's window must have at least one byte"),
            Self::Overlap(other) => write!(f, "a device's window overlaps the one at {other}; move one of them"),
        }
    }
}

impl core::error::Error for BusError {}

/// One window. Beside the span there are its first and last byte as plain numbers, so that the lookup compares and never adds.
struct Window<D> {
    start: u64,
    last: u64,
    span: Span<Ipa>,
    device: D,
}

impl<D> Window<D> {
    /// The device and the offset, where the whole access lies in the window. `first` is not above the window's last byte.
    #[inline]
    fn answer(&self, first: u64, size: AccessSize) -> Option<(&D, Offset)> {
        let offset = first.checked_sub(self.start)?;
        let fits = self.last.wrapping_sub(first) >= size.bytes().wrapping_sub(1);
        fits.then_some((&self.device, offset))
    }
}

/// The device windows of one VM, and what becomes of an access that no register takes.
///
/// `D` is whatever the owner of the bus stores for a device: a handle with a lock, or in a test the device itself. The
/// windows are put in while the VM is built; afterwards the bus is only read and needs no lock.
///
/// # What the guest sees of a refused access
///
/// | access | guest sees | reason |
/// |---|---|---|
/// | in no window, or across a window's end | synchronous external abort | QEMU's `virt` answers a decode error, and its CPU takes it as a synchronous external abort; a board's interconnect does the same (DECERR) |
/// | [`AccessError::NoRegister`] | a load reads 0, a store is ignored (RAZ/WI) | Arm's manuals make reserved offsets of the PrimeCells and of the GIC RAZ/WI or UNPREDICTABLE, and drivers probe them |
/// | [`AccessError::BadSize`] | RAZ/WI | the GIC architecture allows it (IHI 0069, "GIC memory-mapped register access"), an APB slave does not see the size, and an abort would stop a guest for what a board forgives |
/// | [`AccessError::Unaligned`] | synchronous external abort | only a guest that has mapped the device as Normal memory gets so far (Device memory takes an alignment fault at stage 1, before stage 2 is looked at); `virt` answers it with a decode error |
/// | [`AccessError::Again`] | the same instruction once more | a step of EL2 is bounded, what a guest asks of a device is not |
///
/// Each of them is counted in [`Refusals`]; the bus logs nothing.
pub struct Bus<D> {
    windows: Vec<Window<D>>,
    refusals: Refusals,
}

impl<D> Default for Bus<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D> Bus<D> {
    /// A bus without a device.
    pub const fn new() -> Self {
        Self { windows: Vec::new(), refusals: Refusals::new() }
    }

    /// Puts `device` behind `window`. Allocates; on an error nothing has changed.
    pub fn insert(&mut self, window: Span<Ipa>, device: D) -> Result<(), BusError> {
        if window.is_empty() {
            return Err(BusError::Empty);
        }
        let start = window.start().as_u64();
        let last = start.wrapping_add(window.size().wrapping_sub(1));
        // The windows before this one end before ours begins: the only overlap there can be is with it.
        let at = self.position(start);
        if let Some(next) = self.windows.get(at)
            && next.start <= last
        {
            return Err(BusError::Overlap(next.span));
        }
        self.windows.insert(at, Window { start, last, span: window, device });
        Ok(())
    }

    /// The device that answers an access of `size` at `ipa`, and where in its window the access begins; `None` where no
    /// window holds the whole access.
    #[inline]
    pub fn find(&self, ipa: Ipa, size: AccessSize) -> Option<(&D, Offset)> {
        // Behind the last window the position is the number of windows: no guess may follow a pointer from there.
        nospec::get_quick(&self.windows, self.position(ipa.as_u64()))?.answer(ipa.as_u64(), size)
    }

    /// As [`Bus::find`], but looks first where `hint` says and leaves there where it looked last. Each vCPU keeps a hint of
    /// its own (any value will do to begin with): guests access one device many times in a row, and the search among the
    /// some 36 windows of `virt` costs four times as much as this one comparison.
    #[inline]
    pub fn find_near(&self, hint: &mut usize, ipa: Ipa, size: AccessSize) -> Option<(&D, Offset)> {
        let first = ipa.as_u64();
        match self.windows.get(*hint) {
            Some(window) if window.start <= first && first <= window.last => window.answer(first, size),
            _ => {
                *hint = self.position(first);
                nospec::get_quick(&self.windows, *hint)?.answer(first, size)
            }
        }
    }

    /// The first window that does not end before `first`.
    fn position(&self, first: u64) -> usize {
        self.windows.partition_point(|w| w.last < first)
    }

    /// All windows, by ascending address.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Span<Ipa>, &D)> {
        self.windows.iter().map(|w| (w.span, &w.device))
    }

    /// All devices that can be changed, by ascending address (a reset, a restore).
    pub fn devices_mut(&mut self) -> impl ExactSizeIterator<Item = &mut D> {
        self.windows.iter_mut().map(|w| &mut w.device)
    }

    /// How many windows there are.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether there is no device.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// What the guest sees of a load, by the table of [`Bus`]; a refusal is counted.
    #[inline]
    pub fn complete_read(&self, result: Result<u64, AccessError>) -> Completion {
        if let Err(error) = result {
            self.refusals.count(error);
        }
        read_outcome(result)
    }

    /// What the guest sees of a store, by the table of [`Bus`]; a refusal is counted.
    #[inline]
    pub fn complete_write(&self, result: Result<(), AccessError>) -> Completion {
        if let Err(error) = result {
            self.refusals.count(error);
        }
        write_outcome(result)
    }

    /// What the guest sees of an access for which [`Bus::find`] found nothing; it is counted.
    pub fn complete_nowhere(&self) -> Completion {
        self.refusals.count_no_device();
        NO_DEVICE
    }

    /// The counts of refused accesses.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }
}

impl<D> fmt::Debug for Bus<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.windows.iter().map(|w| w.span)).finish()
    }
}
