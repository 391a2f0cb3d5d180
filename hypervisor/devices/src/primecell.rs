//! What Arm's PrimeCells have in common: 32-bit registers on an APB, and the eight identification registers at the end of
//! the 4 KiB window.

use bus::{AccessError, AccessSize, Offset};

/// Where the identification registers begin: `PeriphID0..3`, then `PCellID0..3`, one byte in each 32-bit register.
pub const ID_BASE: Offset = 0xfe0;

/// Checks an access and returns the register's offset.
///
/// The APB carries no size, so that a byte or halfword access at a register's own offset acts on the register: a load gets
/// the low bits, a store writes the value zero extended. Bytes beside it (offset + 1..3) are no registers of their own.
#[inline]
pub fn register(at: Offset, size: AccessSize) -> Result<Offset, AccessError> {
    if at & 3 == 0 && size != AccessSize::B8 { Ok(at) } else { refuse(at, size) }
}

#[cold]
fn refuse(at: Offset, size: AccessSize) -> Result<Offset, AccessError> {
    Err(if at & size.bytes().wrapping_sub(1) != 0 {
        AccessError::Unaligned
    } else if size == AccessSize::B8 {
        AccessError::BadSize
    } else {
        AccessError::NoRegister
    })
}

/// The identification register at `at` out of the eight in `ids`.
pub fn id_register(ids: &[u8; 8], at: Offset) -> Result<u32, AccessError> {
    let index = at.checked_sub(ID_BASE).and_then(|o| usize::try_from(o >> 2).ok());
    index.and_then(|i| sync::nospec::get(ids, i)).map(|id| u32::from(*id)).ok_or(AccessError::NoRegister)
}
