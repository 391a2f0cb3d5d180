//! Addresses that cannot be mixed up: a guest's intermediate physical address is no machine address, and no sum on
//! either wraps.
//!
//! | type | whose | translated by |
//! |---|---|---|
//! | [`Va`] | a guest's (or EL2's) virtual address | stage 1 |
//! | [`Ipa`] | a guest's idea of physical memory | stage 2 |
//! | [`Pa`] | the machine's physical memory | nothing |
//!
//! All are in bytes. Sums are checked: an operation that would wrap is an `Option`, never a small number.
//! [`AccessSize`] lives here too, because both the trap decoder and the bus speak of it and neither may know the other.
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

use core::fmt;

/// What the three address types have in common, so that [`Span`] and the page tables can be written once.
pub trait Address: Copy + Ord + fmt::Debug {
    /// The address as a number.
    fn as_u64(self) -> u64;
    /// The address with this number.
    fn from_u64(value: u64) -> Self;
    /// `self + bytes`, or `None` where that wraps.
    fn checked_add(self, bytes: u64) -> Option<Self> {
        self.as_u64().checked_add(bytes).map(Self::from_u64)
    }
    /// `self - base` in bytes, or `None` where `base` is above `self`.
    fn offset_from(self, base: Self) -> Option<u64> {
        self.as_u64().checked_sub(base.as_u64())
    }
    /// Whether the address is a multiple of `align` (a power of two; anything else answers `false`).
    fn is_aligned(self, align: u64) -> bool {
        align.is_power_of_two() && self.as_u64() & align.wrapping_sub(1) == 0
    }
    /// The largest multiple of `align` (a power of two) not above the address.
    fn align_down(self, align: u64) -> Self {
        Self::from_u64(self.as_u64() & !align.wrapping_sub(1))
    }
    /// The smallest multiple of `align` (a power of two) not below the address, or `None` where that wraps.
    fn align_up(self, align: u64) -> Option<Self> {
        let mask = align.wrapping_sub(1);
        self.as_u64().checked_add(mask).map(|v| Self::from_u64(v & !mask))
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);
        impl $name {
            /// The address with this number.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }
            /// The address as a number.
            pub const fn as_u64(self) -> u64 {
                self.0
            }
        }
        impl Address for $name {
            fn as_u64(self) -> u64 {
                self.0
            }
            fn from_u64(value: u64) -> Self {
                Self(value)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// An intermediate physical address: what a guest calls physical.
    Ipa
);
address!(
    /// A physical address of the machine.
    Pa
);
address!(
    /// A virtual address.
    Va
);

/// `size` bytes from `start`; never wraps, because [`Span::new`] refuses a span that would.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span<A: Address> {
    start: A,
    size: u64,
}

impl<A: Address> Span<A> {
    /// `size` bytes from `start`, or `None` where the end would wrap.
    pub fn new(start: A, size: u64) -> Option<Self> {
        start.as_u64().checked_add(size).map(|_| Self { start, size })
    }
    /// No byte, at `start`.
    pub const fn empty(start: A) -> Self {
        Self { start, size: 0 }
    }
    /// From `start` up to, not including, `end`; `None` where `end` is below `start`.
    pub fn from_bounds(start: A, end: A) -> Option<Self> {
        end.offset_from(start).map(|size| Self { start, size })
    }
    /// The first address.
    pub fn start(&self) -> A {
        self.start
    }
    /// The length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// The first address after the span.
    pub fn end(&self) -> A {
        A::from_u64(self.start.as_u64().wrapping_add(self.size))
    }
    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }
    /// Whether `at` lies in it.
    pub fn contains(&self, at: A) -> bool {
        at.offset_from(self.start).is_some_and(|o| o < self.size)
    }
    /// Whether the `size` bytes at `at` all lie in it (an empty access lies in it where `at` does, or is its end).
    pub fn contains_range(&self, at: A, size: u64) -> bool {
        at.offset_from(self.start).and_then(|o| o.checked_add(size)).is_some_and(|end| end <= self.size)
    }
    /// Whether the whole of `other` lies in it.
    pub fn encloses(&self, other: &Self) -> bool {
        self.contains_range(other.start, other.size)
    }
    /// Whether one byte at least is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end() && other.start < self.end()
    }
    /// The smallest span of whole `align`-byte pages that holds this one; `None` where it would wrap.
    pub fn align_outwards(&self, align: u64) -> Option<Self> {
        Self::from_bounds(self.start.align_down(align), self.end().align_up(align)?)
    }
    /// The largest span of whole `align`-byte pages inside this one (it may be empty).
    pub fn align_inwards(&self, align: u64) -> Self {
        let start = self.start.align_up(align).unwrap_or(self.end());
        let end = self.end().align_down(align);
        Self::from_bounds(start, end).unwrap_or(Self { start: self.start, size: 0 })
    }
    /// What is left of this span below and above `hole`.
    pub fn minus(&self, hole: &Self) -> [Option<Self>; 2] {
        if !self.overlaps(hole) {
            return [Some(*self), None];
        }
        let below = Self::from_bounds(self.start, hole.start).filter(|s| !s.is_empty());
        let above = Self::from_bounds(hole.end(), self.end()).filter(|s| !s.is_empty());
        [below, above]
    }
}

impl<A: Address> fmt::Debug for Span<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.as_u64(), self.end().as_u64())
    }
}

impl<A: Address> fmt::Display for Span<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The width of one access to a device or register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum AccessSize {
    /// One byte.
    B1,
    /// Two bytes.
    B2,
    /// Four bytes.
    B4,
    /// Eight bytes.
    B8,
}

impl AccessSize {
    /// The width in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B1 => 1,
            Self::B2 => 2,
            Self::B4 => 4,
            Self::B8 => 8,
        }
    }
    /// The width in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::B1 => 8,
            Self::B2 => 16,
            Self::B4 => 32,
            Self::B8 => 64,
        }
    }
    /// All ones in the low [`Self::bits`] bits.
    pub const fn mask(self) -> u64 {
        match self {
            Self::B1 => 0xff,
            Self::B2 => 0xffff,
            Self::B4 => 0xffff_ffff,
            Self::B8 => u64::MAX,
        }
    }
    /// From the two-bit `SAS` field of a data abort's syndrome (Arm ARM, ESR_EL2, "ISS encoding for an exception from a
    /// Data Abort"); only the low two bits of `sas` count.
    pub const fn from_sas(sas: u8) -> Self {
        match sas & 3 {
            0 => Self::B1,
            1 => Self::B2,
            2 => Self::B4,
            _ => Self::B8,
        }
    }
}

/// 4 KiB: the translation granule that Merus uses for itself and at stage 2.
pub const PAGE_SIZE: u64 = 4096;
/// 2 MiB: a level 2 block of the 4 KiB granule.
pub const BLOCK_SIZE: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, size: u64) -> Span<Ipa> {
        Span::new(Ipa::new(start), size).unwrap()
    }

    #[test]
    fn a_span_never_wraps() {
        assert!(Span::new(Pa::new(u64::MAX), 1).is_none());
        assert!(Span::new(Pa::new(u64::MAX), 0).is_some());
        assert_eq!(Ipa::new(u64::MAX).checked_add(1), None);
        assert_eq!(Ipa::new(u64::MAX - 3).align_up(8), None);
    }

    #[test]
    fn contains_counts_its_first_byte_and_not_its_end() {
        let s = span(0x1000, 0x1000);
        assert!(s.contains(Ipa::new(0x1000)) && s.contains(Ipa::new(0x1fff)));
        assert!(!s.contains(Ipa::new(0x2000)) && !s.contains(Ipa::new(0xfff)));
        assert!(s.contains_range(Ipa::new(0x1ffc), 4) && !s.contains_range(Ipa::new(0x1ffd), 4));
        assert!(!s.contains_range(Ipa::new(0x1800), u64::MAX));
    }

    #[test]
    fn overlap_needs_a_common_byte() {
        assert!(span(0, 10).overlaps(&span(9, 1)));
        assert!(!span(0, 10).overlaps(&span(10, 1)));
        assert!(!span(5, 0).overlaps(&span(0, 10)));
    }

    #[test]
    fn subtraction_leaves_both_sides() {
        assert_eq!(span(0, 10).minus(&span(3, 2)), [Some(span(0, 3)), Some(span(5, 5))]);
        assert_eq!(span(0, 10).minus(&span(0, 10)), [None, None]);
        assert_eq!(span(0, 10).minus(&span(20, 1)), [Some(span(0, 10)), None]);
    }

    #[test]
    fn aligning_inwards_may_leave_nothing() {
        assert!(span(1, 4096).align_inwards(4096).is_empty());
        assert_eq!(span(1, 8192).align_inwards(4096), span(4096, 4096));
        assert_eq!(span(1, 8192).align_outwards(4096), Some(span(0, 12288)));
    }

    #[test]
    fn access_sizes_follow_the_sas_field() {
        for (sas, bytes) in [(0, 1), (1, 2), (2, 4), (3, 8)] {
            let size = AccessSize::from_sas(sas);
            assert_eq!((size.bytes(), size.bits()), (bytes, bytes as u32 * 8));
            assert_eq!(size.mask().count_ones(), size.bits());
        }
    }
}
