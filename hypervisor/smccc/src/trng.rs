//! The TRNG firmware interface: how a guest draws entropy before it has a driver for anything.
//!
//! Where [`Env::trng`] is false every call of the interface is NOT_SUPPORTED, so a guest does not find it; where the source
//! exists and is dry for the moment a draw answers NO_ENTROPY, and the guest may ask again.
//!
//! Arm DEN 0098 (TRNG firmware interface) 1.0, "TRNG_RND".
use zeroize::Zeroize;

use crate::{Call, Env, Regs, entropy::Entropy, ids, status_regs, words};

/// The most that one draw returns: three registers of 64 bits.
const MAX_BYTES: usize = 24;

/// Serves a call for which [`Call::is_trng`]; any other is NOT_SUPPORTED.
pub fn handle(call: &Call, env: &Env, source: &mut impl Entropy) -> Regs {
    if !env.trng {
        return status_regs(ids::NOT_SUPPORTED);
    }
    let [arg, ..] = call.args;
    match call.function {
        ids::TRNG_VERSION => [ids::TRNG_1_0, 0, 0, 0],
        ids::TRNG_FEATURES => status_regs(feature(crate::low(arg))),
        ids::TRNG_GET_UUID => words(ids::TRNG_UUID),
        ids::TRNG_RND => draw(arg, 32, source),
        ids::TRNG_RND_64 => draw(arg, 64, source),
        _ => status_regs(ids::NOT_SUPPORTED),
    }
}

fn feature(function: u32) -> i64 {
    match function {
        ids::TRNG_VERSION | ids::TRNG_FEATURES | ids::TRNG_GET_UUID | ids::TRNG_RND | ids::TRNG_RND_64 => ids::SUCCESS,
        _ => ids::NOT_SUPPORTED,
    }
}

/// `bits` of entropy: the lowest `width` bits in register 3, the next in 2, then 1; what was not asked for is zero.
fn draw(bits: u64, width: u64, source: &mut impl Entropy) -> Regs {
    if bits == 0 || bits > width.saturating_mul(3) {
        return status_regs(ids::INVALID_PARAMETERS);
    }
    let mut bytes = [0u8; MAX_BYTES];
    let wanted = usize::try_from(bits.div_ceil(8)).unwrap_or(MAX_BYTES);
    let filled = bytes.get_mut(..wanted).is_some_and(|part| source.fill(part));
    let result = if filled { spread(&bytes, bits, width) } else { status_regs(ids::NO_ENTROPY) };
    bytes.zeroize();
    result
}

fn spread(bytes: &[u8; MAX_BYTES], bits: u64, width: u64) -> Regs {
    let mut regs = [0; 4];
    let mut left = bits;
    let step = usize::try_from(width / 8).unwrap_or(8);
    for (reg, chunk) in regs.iter_mut().skip(1).rev().zip(bytes.chunks(step)) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        let take = left.min(width);
        // `take` is 0 to 64: the low `take` bits are kept.
        let mask = if take == 64 { u64::MAX } else { (1u64 << take).wrapping_sub(1) };
        *reg = u64::from_le_bytes(word) & mask;
        left = left.saturating_sub(take);
    }
    regs
}
