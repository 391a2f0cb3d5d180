//! The bundle: one file that holds what Merus is to run, given to it as the initrd.
//!
//! | part | where | what |
//! |---|---|---|
//! | header | the first 4096 bytes | [`HeaderField`], little-endian; the rest is 0 |
//! | tree | at the header's offset, a multiple of 4 KiB | a flattened device tree: `/images` in FIT layout, `/merus` |
//! | payloads | at multiples of 4 KiB | the files |
//!
//! A FIT ("Flattened Image Tree Format", section "Node '/images'") has its tree at offset 0. A bundle must not:
//! U-Boot's `booti` takes such a ramdisk for a FIT of its own and refuses it. Two more differences: `data-position`
//! counts from the start of the bundle, and it and `data-size` have 64 bits.
//!
//! Header and tree are checked by their CRC-32 when the bundle is opened. A payload's is not, because that takes long:
//! the caller sums it up in steps and asks [`PayloadRef::check`].
//!
//! # Not modelled
//! `/configurations` (the `/merus` node takes its place), compression, signatures, payloads outside the bundle.

mod fields;
mod read;
mod write;
pub use read::Bundle;
pub use write::{WriteError, lay_out};

use crate::spec::PayloadRef;
use alloc::string::{String, ToString};
use thiserror::Error;

/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"MERUSBDL";
/// The version of the format that is written and read here.
pub const VERSION: u32 = 2;
/// Size of the header in bytes, and the alignment of what follows it.
pub const ALIGN: u64 = 4096;
/// The most bytes of the tree.
pub const MAX_TREE: u64 = 1 << 20;
/// The most payloads.
pub const MAX_PAYLOADS: usize = 256;

/// Offsets of the header's fields in bytes.
pub enum HeaderField {}

impl HeaderField {
    /// [`MAGIC`], 8 bytes.
    pub const MAGIC: usize = 0;
    /// [`VERSION`], 4 bytes.
    pub const VERSION: usize = 8;
    /// The tree's CRC-32, 4 bytes.
    pub const TREE_CRC32: usize = 12;
    /// Length of the whole bundle, 8 bytes.
    pub const TOTAL: usize = 16;
    /// Offset of the tree, 8 bytes.
    pub const TREE_OFFSET: usize = 24;
    /// Length of the tree, 8 bytes.
    pub const TREE_SIZE: usize = 32;
    /// CRC-32 of all bytes before this field, 4 bytes.
    pub const CRC32: usize = 40;
}

/// Names of nodes and properties in the tree; those of a VM's settings are [`crate::spec::key`].
mod names {
    pub const IMAGES: &str = "images";
    pub const MERUS: &str = "merus";
    pub const VM: &str = "vm";
    pub const GROUP: &str = "group";
    pub const SWITCH: &str = "switch";
    pub const DISK: &str = "disk";
    pub const NET: &str = "net";
    pub const DESCRIPTION: &str = "description";
    pub const TYPE: &str = "type";
    pub const ARCH: &str = "arch";
    pub const OS: &str = "os";
    pub const COMPRESSION: &str = "compression";
    pub const DATA_POSITION: &str = "data-position";
    pub const DATA_SIZE: &str = "data-size";
    pub const HASH: &str = "hash";
    pub const ALGO: &str = "algo";
    pub const VALUE: &str = "value";
    pub const CRC32: &str = "crc32";
    pub const SHA256: &str = "sha256";
    pub const KERNEL: &str = "kernel";
    pub const RAMDISK: &str = "ramdisk";
    pub const FILESYSTEM: &str = "filesystem";
}

/// Why a file is no bundle that can be used. Each text says what to do, too.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BundleError {
    /// The magic is not there.
    #[error("this is no bundle (it does not begin with MERUSBDL); make one with `merus pack`")]
    NotABundle,
    /// Shorter than its header.
    #[error("the bundle is truncated: {have} bytes, and the header alone takes {ALIGN}; copy it again")]
    NoHeader {
        /// Bytes that are there.
        have: u64,
    },
    /// Another version of the format.
    #[error(
        "the bundle has format version {version}, this Merus reads {VERSION}; pack it with the `merus` that came with it"
    )]
    Version {
        /// The bundle's version.
        version: u32,
    },
    /// The header's sum is wrong.
    #[error("the bundle's header is corrupted (crc32 {found:#010x}, expected {expected:#010x}); copy or pack it again")]
    HeaderCrc {
        /// Of the bytes that are there.
        found: u32,
        /// As written in the header.
        expected: u32,
    },
    /// Shorter than it says.
    #[error("the bundle is truncated: {have} of {total} bytes are there; copy it again")]
    Truncated {
        /// Bytes that are there.
        have: u64,
        /// Bytes that the header tells.
        total: u64,
    },
    /// The tree does not lie in the bundle.
    #[error("the bundle's tree lies outside the bundle ({size} bytes at {offset:#x}); pack it again")]
    TreePlace {
        /// Where it would begin.
        offset: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// The tree's sum is wrong.
    #[error("the bundle's tree is corrupted (crc32 {found:#010x}, expected {expected:#010x}); copy or pack it again")]
    TreeCrc {
        /// Of the bytes that are there.
        found: u32,
        /// As written in the header.
        expected: u32,
    },
    /// The tree's sum is right and yet it is no device tree.
    #[error("the bundle's tree is no device tree ({reason}); pack it again")]
    Tree {
        /// What the parser says.
        reason: String,
    },
    /// A node or property is absent or has another form than expected.
    #[error("the bundle's tree has no usable {what} in {node}; pack it again")]
    Node {
        /// The node.
        node: String,
        /// The missing part.
        what: &'static str,
    },
    /// More payloads than [`MAX_PAYLOADS`].
    #[error("the bundle has more than {MAX_PAYLOADS} payloads; leave some out")]
    TooManyPayloads,
    /// A payload does not lie in the bundle, or not on a 4 KiB boundary.
    #[error("payload \"{name}\" has a wrong place ({size} bytes at {offset:#x}); pack the bundle again")]
    PayloadPlace {
        /// The payload.
        name: String,
        /// Where it would begin.
        offset: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// A payload shares bytes with another part.
    #[error("payload \"{name}\" overlaps {other}; pack the bundle again")]
    PayloadOverlap {
        /// The payload.
        name: String,
        /// The other part.
        other: String,
    },
    /// A payload's sum is wrong.
    #[error(
        "payload \"{name}\" is corrupted (crc32 {found:#010x}, expected {expected:#010x}); copy or pack the bundle again"
    )]
    PayloadCrc {
        /// The payload.
        name: String,
        /// Of the bytes that are there.
        found: u32,
        /// As written in the tree.
        expected: u32,
    },
}

impl PayloadRef {
    /// Whether `found` is the CRC-32 that this payload's bytes must have.
    pub fn check(&self, found: u32) -> Result<(), BundleError> {
        if found == self.crc32 {
            return Ok(());
        }
        Err(BundleError::PayloadCrc { name: self.name.to_string(), found, expected: self.crc32 })
    }
}

#[cfg(test)]
mod tests;
