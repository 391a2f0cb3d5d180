//! Two small sets: vCPUs of one VM, and INTIDs that one vCPU has to look at.

use crate::VcpuId;

/// A set of vCPUs of one VM (at most [`crate::MAX_VCPUS`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct VcpuSet(u64);

impl VcpuSet {
    /// The set with nobody in it.
    pub const EMPTY: Self = Self(0);
    /// The set with exactly the vCPUs whose bit is set.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// One bit a vCPU, bit 0 for vCPU 0.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// The set with one vCPU (none where the number is 64 or more).
    #[inline]
    pub const fn one(vcpu: VcpuId) -> Self {
        if vcpu < 64 { Self(1u64.wrapping_shl(vcpu)) } else { Self(0) }
    }
    /// Adds a vCPU; a number of 64 or more is nobody.
    #[inline]
    pub fn insert(&mut self, vcpu: VcpuId) {
        self.0 |= Self::one(vcpu).0;
    }
    /// [`VcpuSet::insert`] of one that is known to exist.
    #[inline]
    pub(crate) fn insert_existing(&mut self, vcpu: VcpuId) {
        self.0 |= 1u64.wrapping_shl(vcpu);
    }
    /// [`VcpuSet::remove`] of one that is known to exist.
    #[inline]
    pub(crate) fn remove_existing(&mut self, vcpu: VcpuId) {
        self.0 &= !1u64.wrapping_shl(vcpu);
    }
    /// [`VcpuSet::contains`] of one that is known to exist.
    #[inline]
    pub(crate) const fn contains_existing(self, vcpu: VcpuId) -> bool {
        self.0 & 1u64.wrapping_shl(vcpu) != 0
    }
    /// Takes a vCPU out.
    #[inline]
    pub fn remove(&mut self, vcpu: VcpuId) {
        self.0 &= !Self::one(vcpu).0;
    }
    /// Whether the vCPU is in it.
    #[inline]
    pub const fn contains(self, vcpu: VcpuId) -> bool {
        self.0 & Self::one(vcpu).0 != 0
    }
    /// Whether nobody is in it.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Everybody who is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// The vCPUs in it, ascending.
    pub fn iter(self) -> impl Iterator<Item = VcpuId> {
        ones(self.0)
    }
}

/// The numbers of the bits set in `bits`, ascending.
#[inline]
pub(crate) fn ones(bits: u64) -> impl Iterator<Item = u32> {
    let mut left = bits;
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let n = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        Some(n)
    })
}

const WORDS: usize = 16;

/// A set of INTIDs below 1024. Its first member is found without a scan, because a summary has one bit a word.
#[derive(Clone, Debug)]
#[repr(C)]
pub(crate) struct IntidSet {
    /// How many were shown to the guest. Beside the first word, so that one instruction loads or stores both: the common flush
    /// counts at the price of an addition.
    pub(crate) shown: u64,
    words: [u64; WORDS],
    summary: u16,
}

impl IntidSet {
    pub(crate) const EMPTY: Self = Self { shown: 0, words: [0; WORDS], summary: 0 };

    /// Takes all out.
    pub(crate) fn clear(&mut self) {
        *self = Self { shown: self.shown, ..Self::EMPTY };
    }

    #[inline]
    pub(crate) fn insert(&mut self, intid: u32) {
        let n = intid >> 6;
        if let Some(word) = self.words.get_mut(n as usize) {
            *word |= 1u64.wrapping_shl(intid);
            self.summary |= 1u16.wrapping_shl(n);
        }
    }

    /// The members as one word, where all are below 64.
    #[inline]
    pub(crate) fn low(&self) -> Option<u64> {
        let [low, ..] = &self.words;
        (self.summary <= 1).then_some(*low)
    }

    /// Puts `low` in the place of all members below 64; there are no others.
    #[inline]
    pub(crate) fn set_low(&mut self, low: u64) {
        let [slot, ..] = &mut self.words;
        *slot = low;
        self.summary = u16::from(low != 0);
    }

    /// [`IntidSet::insert`] of an INTID below 64.
    #[inline]
    pub(crate) fn insert_low(&mut self, intid: u32) {
        let [low, ..] = &mut self.words;
        *low |= 1u64.wrapping_shl(intid);
        self.summary |= 1;
    }

    #[inline]
    pub(crate) fn remove(&mut self, intid: u32) {
        let n = intid >> 6;
        if let Some(word) = self.words.get_mut(n as usize) {
            *word &= !1u64.wrapping_shl(intid);
            if *word == 0 {
                self.summary &= !1u16.wrapping_shl(n);
            }
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.summary == 0
    }

    /// Takes the smallest member out.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let n = self.summary.trailing_zeros();
        let word = self.words.get_mut(n as usize)?;
        let bit = word.trailing_zeros();
        *word &= word.wrapping_sub(1);
        if *word == 0 {
            self.summary &= self.summary.wrapping_sub(1);
        }
        Some((n << 6) | bit)
    }

    /// The members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        ones(u64::from(self.summary)).flat_map(|n| {
            let word = self.words.get(n as usize).copied().unwrap_or(0);
            ones(word).map(move |bit| (n << 6) | bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_vcpu_beyond_63_is_nobody() {
        let mut set = VcpuSet::EMPTY;
        set.insert(64);
        assert!(set.is_empty() && !set.contains(64));
        set.insert(63);
        set.insert(0);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63]);
        set.remove(63);
        assert_eq!(set.bits(), 1);
    }

    #[test]
    fn intids_come_out_in_ascending_order() {
        let mut set = IntidSet::EMPTY;
        for n in [1023, 0, 64, 63, 500, 5000] {
            set.insert(n);
        }
        set.remove(500);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 1023]);
        let popped: Vec<_> = core::iter::from_fn(|| set.pop()).collect();
        assert_eq!(popped, [0, 63, 64, 1023]);
        assert_eq!(set.pop(), None);
    }
}
