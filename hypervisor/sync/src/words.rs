//! Words of bytes that are aligned to nothing: the fields of a packet's headers.
//!
//! Merus is compiled for a CPU without unaligned accesses, because its first instructions run with the MMU off; so a compiler takes a word
//! that may lie anywhere apart into bytes. Behind the MMU all of Merus' memory is Normal, and a load or a store may be unaligned there (Arm
//! ARM, "Alignment of data accesses"; SCTLR_EL2.A is 0). Nothing that runs before uses these.

/// The eight bytes as a word, the first one lowest.
#[inline(always)]
pub fn load(from: &[u8; 8]) -> u64 {
    #[cfg(target_arch = "aarch64")]
    {
        let word;
        // SAFETY: reads the eight bytes that `from` lends; the MMU is on, so they need no alignment (see above).
        unsafe {
            core::arch::asm!("ldr {w}, [{a}]", w = out(reg) word, a = in(reg) from.as_ptr(),
                options(pure, readonly, nostack, preserves_flags));
        }
        word
    }
    #[cfg(not(target_arch = "aarch64"))]
    u64::from_le_bytes(*from)
}

/// Stores a word as eight bytes, the lowest one first.
#[inline(always)]
pub fn store(to: &mut [u8; 8], word: u64) {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: writes the eight bytes that `to` lends; the MMU is on, so they need no alignment (see above).
    unsafe {
        core::arch::asm!("str {w}, [{a}]", w = in(reg) word, a = in(reg) to.as_mut_ptr(), options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        *to = word.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_its_bytes_wherever_they_are() {
        let bytes: [u8; 16] = core::array::from_fn(|n| n as u8 * 17);
        for at in 0..8 {
            let part = bytes[at..].first_chunk().unwrap();
            assert_eq!(load(part), u64::from_le_bytes(*part));
            let mut to = [0xee; 16];
            store(to[at..].first_chunk_mut().unwrap(), load(part));
            assert_eq!(
                (&to[..at], &to[at..at + 8], &to[at + 8..]),
                (&[0xee; 16][..at], &part[..], &[0xee; 16][at + 8..])
            );
        }
    }
}
