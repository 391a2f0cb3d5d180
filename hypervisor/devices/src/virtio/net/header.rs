//! The header before each frame. What another guest wrote there reaches nobody: of a frame to be sent only where its checksum is to be done
//! is taken, if that lies within the frame, and the header before a frame that comes is made here.

use host::port::Checksum;
use sync::words;

use super::spec::*;

/// What a driver says of a frame of `size` bytes that it sends; `None` where that cannot be. Flags that are unknown, or the device's to
/// set, mean nothing; so do the header's other fields without the features that they belong to.
pub fn parse(header: &[u8; HEADER], size: usize) -> Option<Option<Checksum>> {
    let load = |bytes: Option<&[u8; 8]>| bytes.map_or(0, words::load).to_le_bytes();
    let [flags, gso, ..] = load(header.first_chunk());
    let [.., s0, s1, o0, o1, _, _] = load(header.last_chunk());
    if gso != GSO_NONE {
        // Nobody was offered to have his frames cut.
        return None;
    }
    if flags & NEEDS_CSUM == 0 {
        return Some(None);
    }
    let checksum = Checksum { start: u16::from_le_bytes([s0, s1]), offset: u16::from_le_bytes([o0, o1]) };
    checksum.fits(size).then_some(Some(checksum))
}

/// As [`put`] writes it.
#[cfg(test)]
pub fn make(checksum: Option<Checksum>, buffers: u16) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    put(&mut header, checksum, buffers);
    header
}

/// Writes what the driver is told of a frame that comes in `buffers` buffers.
#[inline]
pub fn put(header: &mut [u8; HEADER], checksum: Option<Checksum>, buffers: u16) {
    let (flags, Checksum { start, offset }) = match checksum {
        Some(checksum) => (NEEDS_CSUM, checksum),
        None => (0, Checksum { start: 0, offset: 0 }),
    };
    let [start, offset, buffers] = [start, offset, buffers].map(u64::from);
    // Two words, which overlap: `csum_start` is at byte 6.
    if let Some(first) = header.first_chunk_mut() {
        words::store(first, u64::from(flags) | u64::from(GSO_NONE) << 8 | start << 48);
    }
    if let Some(last) = header.last_chunk_mut() {
        words::store(last, start << 16 | offset << 32 | buffers << 48);
    }
}
