//! Numbers of the block device: VIRTIO 1.2, "Block Device".

/// Its type.
pub const ID: u32 = 2;
/// The queue of requests ("Virtqueues").
pub const REQUESTQ: usize = 0;

/// Features ("Feature bits"): `seg_max` is there.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The disk cannot be written to.
pub const F_RO: u64 = 1 << 5;
/// `blk_size` is there.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// The driver flushes; without it what was written stays.
pub const F_FLUSH: u64 = 1 << 9;
/// `topology` is there.
pub const F_TOPOLOGY: u64 = 1 << 10;
/// Discard, and what belongs to it of the configuration.
pub const F_DISCARD: u64 = 1 << 13;
/// Write zeroes, likewise.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// "Device configuration layout", in bytes: `capacity`, in sectors of 512 bytes.
pub const CAPACITY: usize = 0;
/// `seg_max`: parts of a request's data.
pub const SEG_MAX: usize = 12;
/// `blk_size`, in bytes.
pub const BLK_SIZE: usize = 20;
/// `topology.physical_block_exp`: logical blocks in a physical one, as a power of two.
pub const PHYSICAL_BLOCK_EXP: usize = 24;
/// `topology.min_io_size`, in logical blocks.
pub const MIN_IO_SIZE: usize = 26;
/// `topology.opt_io_size`, likewise.
pub const OPT_IO_SIZE: usize = 28;
/// `max_discard_sectors`.
pub const MAX_DISCARD_SECTORS: usize = 36;
/// `max_discard_seg`.
pub const MAX_DISCARD_SEG: usize = 40;
/// `discard_sector_alignment`.
pub const DISCARD_SECTOR_ALIGNMENT: usize = 44;
/// `max_write_zeroes_sectors`.
pub const MAX_WRITE_ZEROES_SECTORS: usize = 48;
/// `max_write_zeroes_seg`.
pub const MAX_WRITE_ZEROES_SEG: usize = 52;
/// `write_zeroes_may_unmap`.
pub const WRITE_ZEROES_MAY_UNMAP: usize = 56;
/// Bytes up to there.
pub const CONFIG_SIZE: usize = 60;

/// "Device Operation": bytes of a request's head: type (32 bits), reserved (32), sector (64).
pub const HEAD: u64 = 16;
/// Bytes of a range to discard or to zero: sector (64 bits), sectors (32), flags (32).
pub const RANGE: u64 = 16;
/// Bytes of the answer at the end.
pub const STATUS_SIZE: u64 = 1;
/// Types of requests: read.
pub const T_IN: u32 = 0;
/// Write.
pub const T_OUT: u32 = 1;
/// Flush.
pub const T_FLUSH: u32 = 4;
/// The disk's serial number.
pub const T_GET_ID: u32 = 8;
/// Discard a range.
pub const T_DISCARD: u32 = 11;
/// Write zeroes to a range.
pub const T_WRITE_ZEROES: u32 = 13;
/// Of a range's flags: its sectors may be unmapped.
pub const RANGE_UNMAP: u32 = 1;

/// Answers: done.
pub const S_OK: u8 = 0;
/// The disk failed, or the request is none that it can serve.
pub const S_IOERR: u8 = 1;
/// No request that the device knows.
pub const S_UNSUPP: u8 = 2;
