//! Numbers of the network device: VIRTIO 1.2, "Network Device".

/// Its type.
pub const ID: u32 = 1;
/// The queue of frames that come.
pub const RECEIVEQ: usize = 0;
/// The queue of frames to be sent.
pub const TRANSMITQ: usize = 1;

/// "Feature bits": the device takes frames whose checksum is not done.
pub const F_CSUM: u64 = 1 << 0;
/// The driver takes them.
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// The device says how long frames may be.
pub const F_MTU: u64 = 1 << 3;
/// The device has an address.
pub const F_MAC: u64 = 1 << 5;
/// The driver takes a frame in several buffers.
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// The device says whether its link is up.
pub const F_STATUS: u64 = 1 << 16;

/// "Device configuration layout", in bytes: the address.
pub const MAC: usize = 0;
/// `status`, 16 bits.
pub const STATUS: usize = 6;
/// Of it: the link is up.
pub const LINK_UP: u16 = 1;
/// `max_virtqueue_pairs`, 16 bits.
pub const PAIRS: usize = 8;
/// `mtu`, 16 bits.
pub const MTU: usize = 10;
/// Bytes of the configuration.
pub const CONFIG_SIZE: usize = 12;

/// "Device Operation": bytes of the header before each frame.
pub const HEADER: usize = 12;
/// `flags`: the checksum is to be done.
pub const NEEDS_CSUM: u8 = 1;
/// `gso_type`: a frame as it is to be sent.
pub const GSO_NONE: u8 = 0;
/// Where `num_buffers` is in the header.
pub const NUM_BUFFERS: u64 = 10;
