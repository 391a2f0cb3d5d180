//! Numbers of the entropy device: VIRTIO 1.2, "Entropy Device".

/// Its type.
pub const ID: u32 = 4;
/// The queue of buffers to fill.
pub const REQUESTQ: usize = 0;
