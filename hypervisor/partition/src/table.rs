//! What a disk's partition table says: a GPT, from its copy at the disk's end where the first is damaged, or an MBR.
//!
//! | first block | the disk has |
//! |---|---|
//! | no signature, or entries that no MBR has | no table: it can be had as a whole |
//! | an MBR with an entry for a GPT (type 0xee) | a GPT, or, where neither copy is whole, a damaged one |
//! | any other MBR | its partitions, those of its chain of extended ones included |
//!
//! Partitions that reach over the disk's end, or out of what a GPT says is for partitions, are left out and counted. That they may
//! overlap is for whoever gives them away to see to.
//!
//! UEFI Specification, "GUID Partition Table (GPT) Disk Layout"; "Legacy Master Boot Record (MBR)".

use crate::{gpt, mbr};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use host::disk::DiskError;
use thiserror::Error;

/// Partitions of a disk that are kept.
pub const MOST: usize = 128;
/// Bytes of the largest block that a disk may have.
pub const LARGEST_BLOCK: u32 = 4096;

/// A disk's bytes, read while nobody has a part of it.
pub trait Bytes {
    /// Reads `into.len()` bytes from byte `at` on: whole blocks.
    ///
    /// # Errors
    /// The disk failed.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError>;
}

/// Where a disk's partitions are from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// A GPT.
    Gpt,
    /// A GPT whose copy at the disk's end is whole, and the first one is not.
    Backup,
    /// An MBR.
    Mbr,
    /// There is no table.
    None,
}

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its first byte.
    pub at: u64,
    /// Its bytes: not 0, and it ends on the disk.
    pub size: u64,
    /// Its label; empty where it has none.
    pub label: String,
    /// Its identifier: a UUID in lower case, or, of an MBR's, the disk's number and its own, as Linux writes it (`1b2c3d4e-01`).
    pub id: String,
}

/// A disk's partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Where they are from.
    pub scheme: Scheme,
    /// The disk's bytes.
    pub size: u64,
    /// They.
    pub partitions: Vec<Partition>,
    /// How many more the table has, which cannot be had.
    pub left_out: usize,
}

/// Why a disk's table cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TableError {
    /// The disk cannot be read.
    #[error("it cannot be read")]
    Disk,
    /// It is to have a GPT, and neither copy is whole.
    #[error("its GPT is damaged, and so is the copy at its end")]
    Damaged,
    /// Its blocks are of a size that no disk has.
    #[error("it has blocks of an unknown size")]
    Block,
}

impl From<DiskError> for TableError {
    fn from(_: DiskError) -> Self {
        Self::Disk
    }
}

/// A disk, as this room reads it.
pub(crate) struct Disk<'a> {
    pub(crate) bytes: &'a mut dyn Bytes,
    /// Bytes of a block.
    pub(crate) block: u32,
    /// Its blocks.
    pub(crate) blocks: u64,
}

impl Disk<'_> {
    /// A whole block.
    pub(crate) fn block(&mut self, number: u64) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; self.block as usize];
        let at = number.checked_mul(self.block.into()).filter(|_| number < self.blocks);
        self.bytes.read(at.ok_or(DiskError::OutOfRange)?, &mut bytes)?;
        Ok(bytes)
    }
}

impl Table {
    /// Reads the table of a disk of `size` bytes in blocks of `block`. Allocates.
    ///
    /// # Errors
    /// Why there is none to be had.
    pub fn read(bytes: &mut dyn Bytes, size: u64, block: u32) -> Result<Self, TableError> {
        if !block.is_power_of_two() || !(512..=LARGEST_BLOCK).contains(&block) {
            return Err(TableError::Block);
        }
        let blocks = size.checked_div(block.into()).unwrap_or(0);
        let mut disk = Disk { bytes, block, blocks };
        let mut table = Self { scheme: Scheme::None, size, partitions: Vec::new(), left_out: 0 };
        if blocks == 0 {
            return Ok(table);
        }
        let first = disk.block(0)?;
        match mbr::parse(&first) {
            None => {}
            Some(record) if mbr::is_protective(&record) => {
                let last = blocks.saturating_sub(1);
                table.scheme = if gpt::read(&mut disk, 1, &mut table)? {
                    Scheme::Gpt
                } else if gpt::read(&mut disk, last, &mut table)? {
                    Scheme::Backup
                } else {
                    return Err(TableError::Damaged);
                };
            }
            Some(record) => {
                mbr::read(&mut disk, &record, &mut table)?;
                table.scheme = Scheme::Mbr;
            }
        }
        Ok(table)
    }

    /// Adds blocks `first` to `last`, if they are there.
    pub(crate) fn add(&mut self, block: u32, first: u64, last: u64, names: impl FnOnce() -> (String, String)) {
        let count = last.checked_sub(first).and_then(|count| count.checked_add(1));
        let bytes = |blocks: u64| blocks.checked_mul(block.into());
        let place = count.and_then(|count| Some((bytes(first)?, bytes(count)?)));
        let place = place.filter(|(at, size)| at.checked_add(*size).is_some_and(|end| end <= self.size));
        match place.filter(|_| self.partitions.len() < MOST) {
            Some((at, size)) => {
                let (label, id) = names();
                self.partitions.push(Partition { at, size, label, id });
            }
            None => self.left_out = self.left_out.saturating_add(1),
        }
    }
}
