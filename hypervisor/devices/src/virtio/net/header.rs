//! The header before each frame. What another guest wrote there reaches nobody: of a frame to be sent only where its checksum is to be done
//! is taken, if that lies within the frame, and the header before a frame that comes is made here.

use host::port::Checksum;

use super::spec::*;

/// What a driver says of a frame of `size` bytes that it sends; `None` where that cannot be. Flags that are unknown, or the device's to
/// set, mean nothing; so do the header's other fields without the features that they belong to.
pub fn parse(header: &[u8; HEADER], size: usize) -> Option<Option<Checksum>> {
    let [flags, gso, _, _, _, _, s0, s1, o0, o1, _, _] = *header;
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

/// What the driver is told of a frame that comes in `buffers` buffers.
pub fn make(checksum: Option<Checksum>, buffers: u16) -> [u8; HEADER] {
    let (flags, Checksum { start, offset }) = match checksum {
        Some(checksum) => (NEEDS_CSUM, checksum),
        None => (0, Checksum { start: 0, offset: 0 }),
    };
    let ([s0, s1], [o0, o1], [b0, b1]) = (start.to_le_bytes(), offset.to_le_bytes(), buffers.to_le_bytes());
    [flags, GSO_NONE, 0, 0, 0, 0, s0, s1, o0, o1, b0, b1]
}
