//! Reads the partition table of a disk's image, to find out whether the image is as long as the table says.
//!
//! MBR: UEFI Specification 2.10, section "LBA 0 Format"; GPT: section "GPT Header". Sectors have 512 bytes, as guests see them.
//!
//! # Not modelled
//! Partitions within an extended one (they lie in it), tables for larger sectors, the copy of a GPT at the disk's end.

use crate::spec::{DeviceFault, PayloadRef, SECTOR, SpecError, VmSpec, key};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

/// A kind of partition table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Table {
    /// That of PCs.
    Mbr,
    /// That of UEFI.
    Gpt,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
        })
    }
}

/// A disk's first sectors: the one of an MBR, and a GPT's header.
pub const HEAD: usize = 2 * SECTOR as usize;

/// The bytes at `at`, little-endian.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// How many bytes the partition table of a disk that begins with `head` ([`HEAD`] bytes, or all that there are) speaks of. `None`: there is no
/// table, or none that tells.
pub fn told_size(head: &[u8]) -> Option<(u64, Table)> {
    let (sectors, table) = match gpt(head) {
        Some(sectors) => (sectors, Table::Gpt),
        None => mbr(head)?,
    };
    Some((sectors.saturating_mul(SECTOR), table))
}

impl VmSpec {
    /// All images of the VM's disks that are shorter than their partition tables say, each with its disk's number. `head` gives a disk's first
    /// [`HEAD`] bytes, or all that there are.
    pub fn image_faults<'b>(&self, head: impl Fn(usize, &PayloadRef) -> &'b [u8]) -> Vec<(usize, SpecError)> {
        let mut found = Vec::new();
        for (disk, spec) in self.disks.iter().enumerate() {
            let Some(image) = spec.image() else { continue };
            if let Some((needs, table)) = told_size(head(disk, image)).filter(|(needs, _)| *needs > image.size) {
                let fault = DeviceFault::ImageCut { name: image.name.to_string(), size: image.size, needs, table };
                found.push((disk, self.error_of_disk(disk, key::IMAGE, fault.into())));
            }
        }
        found
    }
}

/// The sectors that a GPT with a sound header speaks of.
fn gpt(head: &[u8]) -> Option<u64> {
    const CRC32: usize = 16;
    let header = head.get(SECTOR as usize..)?.get(..SECTOR as usize)?;
    let length = usize::try_from(word(header, 12)?).ok()?;
    let (before, rest) = (header.get(..CRC32)?, header.get(CRC32.checked_add(4)?..length)?);
    // The sum is taken with itself as zero.
    let mut sum = crc32fast::Hasher::new();
    [before, &[0; 4], rest].into_iter().for_each(|part| sum.update(part));
    if !header.starts_with(b"EFI PART") || word(header, CRC32)? != sum.finalize() || long(header, 24)? != 1 {
        return None;
    }
    let (alternate, last_usable) = (long(header, 32)?, long(header, 48)?);
    Some(alternate.max(last_usable).saturating_add(1))
}

/// The sectors that an MBR's partitions reach to.
fn mbr(head: &[u8]) -> Option<(u64, Table)> {
    const ENTRIES: usize = 446;
    const ENTRY: usize = 16;
    const PROTECTIVE: u8 = 0xee;
    let sector = head.get(..SECTOR as usize)?;
    // File systems that begin with a boot sector of their own bear the same signature.
    let names = [(3, &b"NTFS"[..]), (3, b"EXFAT"), (54, b"FAT"), (82, b"FAT32")];
    let file_system = names.iter().any(|(at, name)| sector.get(*at..).is_some_and(|rest| rest.starts_with(name)));
    let entries = sector.get(ENTRIES..)?.get(..4usize.checked_mul(ENTRY)?)?;
    if sector.get(510..) != Some(&[0x55, 0xaa]) || file_system {
        return None;
    }
    let (entries, _) = entries.as_chunks::<ENTRY>();
    // What has another first byte is no table, but a program.
    if entries.iter().any(|[flag, ..]| flag & 0x7f != 0) {
        return None;
    }
    let mut told = None;
    for entry in entries {
        let [_, _, _, _, kind, ..] = *entry;
        let (start, count) = (word(entry, 8)?, word(entry, 12)?);
        // A protective one may say that it goes on for as long as it can.
        if kind == 0 || count == 0 || (kind == PROTECTIVE && count == u32::MAX) {
            continue;
        }
        let table = if kind == PROTECTIVE { Table::Gpt } else { Table::Mbr };
        told = told.max(Some((u64::from(start).saturating_add(count.into()), table)));
    }
    told
}

#[cfg(test)]
mod tests;
