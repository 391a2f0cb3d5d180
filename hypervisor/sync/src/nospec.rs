//! Indexing by a number that a guest chose, so that a CPU on a wrong path reads nothing behind the end.
//!
//! A bounds check is a branch, and a CPU that guesses it wrong reads with the guest's number as an index before it finds out;
//! what it read can be seen in the caches if a second access depends on it (Arm, "Cache Speculation Side-channels", variant 1).
//! Here the index is made 0 by a conditional select, which is no guess: CMP and CSEL, in assembly because a compiler that sees
//! them behind the check proves the select useless and drops it.
//!
//! | function | besides | where |
//! |---|---|---|
//! | [`get`], [`get_mut`] | CSDB: also a CPU that predicts the *results* of instructions does not use a predicted select | everywhere but on the counted exits |
//! | [`below`] | the same, for a number that is no index | addresses of guest RAM |
//! | [`get_quick`], [`get_quick_mut`] | nothing | the counted exits. No core that Merus knows predicts the result of a select; CSDB is a NOP there, but one that waits |
//!
//! A number that cannot be too large needs none of this: five bits of a syndrome as an index of 32 registers, say.
//!
//! On the host it is plain indexing.

/// `index` where it is below `len` (not 0), else 0; without a branch.
#[inline(always)]
fn select(index: usize, len: usize) -> usize {
    #[cfg(target_arch = "aarch64")]
    {
        let selected: usize;
        // SAFETY: compares and selects; touches nothing but the flags.
        unsafe {
            core::arch::asm!("cmp {i}, {n}", "csel {o}, {i}, xzr, lo", i = in(reg) index, n = in(reg) len, o = lateout(reg) selected,
                options(pure, nomem, nostack));
        }
        selected
    }
    #[cfg(not(target_arch = "aarch64"))]
    if index < len { index } else { 0 }
}

/// Has a CPU that predicts data wait for the real ones.
#[inline(always)]
fn csdb() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint (Arm ARM, "CSDB"); it changes no register and no memory.
    unsafe {
        core::arch::asm!("hint #20", options(nostack, preserves_flags));
    }
}

/// `value`, of which was checked that it is below `bound`, for an offset that a guest chose: also on a wrong path it is below.
#[inline(always)]
pub fn below(value: u64, bound: u64) -> u64 {
    let value = select(value as usize, bound as usize);
    csdb();
    value as u64
}

/// `slice.get(index)` for an index that a guest chose.
#[inline(always)]
pub fn get<T>(slice: &[T], index: usize) -> Option<&T> {
    if index >= slice.len() {
        return None;
    }
    let index = select(index, slice.len());
    csdb();
    // SAFETY: the slice is not empty, and `select` gives a number below its length.
    Some(unsafe { slice.get_unchecked(index) })
}

/// `slice.get_mut(index)` for an index that a guest chose.
#[inline(always)]
pub fn get_mut<T>(slice: &mut [T], index: usize) -> Option<&mut T> {
    if index >= slice.len() {
        return None;
    }
    let index = select(index, slice.len());
    csdb();
    // SAFETY: the slice is not empty, and `select` gives a number below its length.
    Some(unsafe { slice.get_unchecked_mut(index) })
}

/// [`get`] without its CSDB.
#[inline(always)]
pub fn get_quick<T>(slice: &[T], index: usize) -> Option<&T> {
    if index >= slice.len() {
        return None;
    }
    let index = select(index, slice.len());
    // SAFETY: the slice is not empty, and `select` gives a number below its length.
    Some(unsafe { slice.get_unchecked(index) })
}

/// [`get_mut`] without its CSDB.
#[inline(always)]
pub fn get_quick_mut<T>(slice: &mut [T], index: usize) -> Option<&mut T> {
    if index >= slice.len() {
        return None;
    }
    let index = select(index, slice.len());
    // SAFETY: the slice is not empty, and `select` gives a number below its length.
    Some(unsafe { slice.get_unchecked_mut(index) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_slices() {
        let indices = [0, 1, 2, 3, 4, 5, 31, 32, usize::MAX / 2, usize::MAX / 2 + 1, usize::MAX - 1, usize::MAX];
        for len in 0..5 {
            let mut array: std::vec::Vec<usize> = (10..10 + len).collect();
            let expected = array.clone();
            for index in indices {
                assert_eq!(get(&array, index), expected.get(index), "{index} of {len}");
                assert_eq!(get_quick(&array, index), expected.get(index), "{index} of {len}");
                assert_eq!(get_mut(&mut array, index).copied(), expected.get(index).copied(), "{index} of {len}");
                assert_eq!(get_quick_mut(&mut array, index).copied(), expected.get(index).copied(), "{index} of {len}");
            }
        }
    }

    #[test]
    fn what_is_selected_is_below_the_length() {
        for (index, len, expected) in [
            (0, 1, 0),
            (1, 1, 0),
            (6, 7, 6),
            (7, 7, 0),
            (8, 7, 0),
            (usize::MAX, 7, 0),
            (usize::MAX - 1, usize::MAX, usize::MAX - 1),
        ] {
            assert_eq!(select(index, len), expected, "{index} of {len}");
            assert_eq!(below(index as u64, len as u64), expected as u64, "{index} of {len}");
        }
    }

    #[test]
    fn a_change_reaches_the_element() {
        let mut array = [1, 2, 3];
        *get_mut(&mut array, 1).unwrap() = 20;
        *get_quick_mut(&mut array, 2).unwrap() = 30;
        assert_eq!(array, [1, 20, 30]);
    }
}
