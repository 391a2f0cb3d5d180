//! Stage-2 descriptors: what 64 bits of a table say.
//!
//! # References
//! Arm ARM (DDI 0487 issue L.b): "VMSAv8-64 translation table format descriptors"; "Stage 2 memory region type and
//! cacheability attributes when FEAT_S2FWB is not implemented", and the same "is implemented"; "Stage 2 data accesses" and
//! "instruction accesses" permissions.

use addr::Pa;

const VALID: u64 = 1;
/// Bit 1 of a valid descriptor: a table at levels 0 to 2, a page at level 3; a block where it is clear.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEM_ATTR_SHIFT: u32 = 2;
const MEM_ATTR_MASK: u64 = 0xf << MEM_ATTR_SHIFT;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const SH_INNER: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
/// XN, or XN\[1\] with FEAT_XNX; with XN\[0\] = 0 both read "at neither EL0 nor EL1".
const EXECUTE_NEVER: u64 = 1 << 54;
const RIGHTS: u64 = READ | WRITE | EXECUTE_NEVER;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// MemAttr: Normal, outer and inner write-back, combined with the guest's own attributes (without FWB).
const NORMAL_COMBINED: u64 = 0b1111 << MEM_ATTR_SHIFT;
/// MemAttr: Normal write-back whatever the guest's stage 1 says (with FWB).
const NORMAL_FORCED: u64 = 0b0110 << MEM_ATTR_SHIFT;
/// MemAttr: Device-nGnRE, with FWB and without.
const DEVICE: u64 = 0b0001 << MEM_ATTR_SHIFT;

/// The last level: its leaves are 4 KiB pages.
pub(crate) const LAST_LEVEL: u8 = 3;
/// Entries of one table.
pub(crate) const ENTRIES: usize = 512;

/// log2 of what one entry at `level` (0 to 3) maps, in bytes: 39, 30, 21, 12.
pub(crate) const fn entry_shift(level: u8) -> u32 {
    match level {
        0 => 39,
        1 => 30,
        2 => 21,
        _ => 12,
    }
}

/// What one entry at `level` maps, in bytes.
pub(crate) const fn entry_size(level: u8) -> u64 {
    1_u64.wrapping_shl(entry_shift(level))
}

/// How the guest's memory behind a mapping behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// RAM: Normal, write-back cacheable, inner shareable. Without FWB the guest's own stage 1 can weaken it.
    Normal,
    /// A device passed through: Device-nGnRE. Never executable.
    Device,
}

/// What the guest may do with the memory behind a mapping. A guest's access that is not allowed exits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches, at EL0 and EL1 alike.
    pub execute: bool,
}

impl Rights {
    /// Loads, stores and instruction fetches.
    pub const ALL: Self = Self { read: true, write: true, execute: true };
    /// Loads and stores.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
    /// Loads alone.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// Loads and instruction fetches: a flash bank, or memory that is tracked for writes.
    pub const READ_EXECUTE: Self = Self { read: true, write: false, execute: true };
}

/// Everything a mapping says beside the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attrs {
    /// RAM or a device.
    pub memory: Memory,
    /// What the guest may do.
    pub rights: Rights,
}

impl Attrs {
    /// A guest's RAM: everything is allowed.
    pub const RAM: Self = Self { memory: Memory::Normal, rights: Rights::ALL };
    /// A device passed through: loads and stores.
    pub const DEVICE: Self = Self { memory: Memory::Device, rights: Rights::READ_WRITE };
}

/// What one entry of a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Invalid,
    Table(Pa),
    /// A block or page. The address is its first.
    Leaf(Pa),
}

/// What descriptor `raw` at `level` is. What the architecture reserves (a block at level 0 or 3) is as invalid to the
/// hardware as an entry with bit 0 clear.
pub(crate) const fn decode(raw: u64, level: u8) -> Entry {
    if raw & VALID == 0 {
        return Entry::Invalid;
    }
    let table_or_page = raw & TABLE_OR_PAGE != 0;
    match level {
        0..LAST_LEVEL if table_or_page => Entry::Table(Pa::new(raw & ADDRESS)),
        1 | 2 => Entry::Leaf(Pa::new(raw & ADDRESS)),
        LAST_LEVEL if table_or_page => Entry::Leaf(Pa::new(raw & ADDRESS)),
        _ => Entry::Invalid,
    }
}

/// The descriptor that refers to the table at `at`.
pub(crate) const fn table(at: Pa) -> u64 {
    (at.as_u64() & ADDRESS) | TABLE_OR_PAGE | VALID
}

/// The block or page descriptor at `level` (1 to 3) for the memory at `at`.
pub(crate) const fn leaf(level: u8, at: Pa, attrs: Attrs, fwb: bool) -> u64 {
    let memory = match attrs.memory {
        Memory::Normal if fwb => NORMAL_FORCED,
        Memory::Normal => NORMAL_COMBINED,
        Memory::Device => DEVICE,
    };
    let kind = if level == LAST_LEVEL { TABLE_OR_PAGE } else { 0 };
    let fixed = (at.as_u64() & ADDRESS) | memory | SH_INNER | ACCESS_FLAG | kind | VALID;
    fixed | rights_bits(attrs.rights, attrs.memory)
}

/// The leaf `raw` with other rights (a device stays not executable).
pub(crate) const fn with_rights(raw: u64, rights: Rights) -> u64 {
    (raw & !RIGHTS) | rights_bits(rights, attrs(raw).memory)
}

/// The same memory, type and rights in a leaf one level further down, `offset` bytes into the leaf `raw` at `level`.
pub(crate) const fn child(raw: u64, level: u8, offset: u64) -> u64 {
    let kind = if level.wrapping_add(1) == LAST_LEVEL { TABLE_OR_PAGE } else { 0 };
    (raw & !TABLE_OR_PAGE | kind).wrapping_add(offset)
}

/// What the leaf `raw` allows and is.
pub(crate) const fn attrs(raw: u64) -> Attrs {
    let memory = if raw & MEM_ATTR_MASK == DEVICE { Memory::Device } else { Memory::Normal };
    let rights = Rights { read: raw & READ != 0, write: raw & WRITE != 0, execute: raw & EXECUTE_NEVER == 0 };
    Attrs { memory, rights }
}

const fn rights_bits(rights: Rights, memory: Memory) -> u64 {
    let mut bits = 0;
    if rights.read {
        bits |= READ;
    }
    if rights.write {
        bits |= WRITE;
    }
    if !rights.execute || matches!(memory, Memory::Device) {
        bits |= EXECUTE_NEVER;
    }
    bits
}
