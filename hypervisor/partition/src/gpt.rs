//! A GPT, by its header at the disk's start or the copy at its end.

use crate::table::{Disk, Table, TableError};
use alloc::string::String;
use alloc::vec;
use bytemuck::try_from_bytes;
use core::ops::RangeInclusive;
use gpt_disk_types::{GptHeader, GptPartitionEntry};

/// Bytes of a header, the least it may say; more is of a later revision, and its checksum covers that.
const HEADER: usize = size_of::<GptHeader>();
/// Bytes of an entry: powers of two.
const ENTRY: RangeInclusive<u32> = 128..=4096;
/// Bytes of all entries at most.
const ENTRIES: u64 = 256 << 10;
/// Bytes of them that are read at once: whole blocks and whole entries of any size.
const PIECE: usize = 4096;
/// Where its own checksum is in a header.
const CRC_AT: core::ops::Range<usize> = 16..20;

/// What a header says, once it is checked.
struct Header {
    entries_at: u64,
    entries: u32,
    entry: u32,
    crc: u32,
    usable: RangeInclusive<u64>,
}

/// Reads the GPT whose header is at block `at` into `table`. `false`: it is none, or not whole, and `table` is as it was.
pub(crate) fn read(disk: &mut Disk<'_>, at: u64, table: &mut Table) -> Result<bool, TableError> {
    if at >= disk.blocks {
        return Ok(false);
    }
    let block = disk.block(at)?;
    let Some(header) = parse(&block, at, disk.block, disk.blocks) else { return Ok(false) };
    let mut found = Table { scheme: table.scheme, size: table.size, partitions: vec![], left_out: 0 };
    let whole = entries(disk, &header, &mut found)?;
    if whole {
        *table = found;
    }
    Ok(whole)
}

/// The header in a block that is block `at` of a disk of `blocks`.
fn parse(bytes: &[u8], at: u64, block: u32, blocks: u64) -> Option<Header> {
    let header: &GptHeader = try_from_bytes(bytes.get(..HEADER)?).ok()?;
    let size = usize::try_from(header.header_size.to_u32()).ok()?;
    let mut covered = bytes.get(..size).filter(|covered| covered.len() >= HEADER)?.to_vec();
    covered.get_mut(CRC_AT)?.fill(0);
    let said = header.header_crc32.0.to_u32();
    if !header.is_signature_valid() || crc32fast::hash(&covered) != said || header.my_lba.to_u64() != at {
        return None;
    }
    let (entries, entry) = (header.number_of_partition_entries.to_u32(), header.size_of_partition_entry.to_u32());
    let usable = header.first_usable_lba.to_u64()..=header.last_usable_lba.to_u64();
    let entries_at = header.partition_entry_lba.to_u64();
    let bytes = u64::from(entries).checked_mul(entry.into()).filter(|bytes| *bytes <= ENTRIES)?;
    let end = entries_at.checked_add(bytes.div_ceil(block.into()))?;
    let good = ENTRY.contains(&entry)
        && entry.is_power_of_two()
        && entries_at != 0
        && end <= blocks
        && usable.start() <= usable.end()
        && *usable.end() < blocks;
    good.then(|| Header { entries_at, entries, entry, crc: header.partition_entry_array_crc32.0.to_u32(), usable })
}

/// All entries; whether their checksum is right.
fn entries(disk: &mut Disk<'_>, header: &Header, table: &mut Table) -> Result<bool, TableError> {
    let block = disk.block;
    let (Some(mut at), Some(mut left)) =
        (header.entries_at.checked_mul(block.into()), u64::from(header.entries).checked_mul(header.entry.into()))
    else {
        return Ok(false);
    };
    let mut crc = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE];
    while left != 0 {
        let count = left.min(PIECE as u64) as usize;
        let whole = count.next_multiple_of(block as usize);
        let Some(into) = piece.get_mut(..whole) else { return Ok(false) };
        disk.bytes.read(at, into)?;
        let bytes = into.get(..count).unwrap_or_default();
        crc.update(bytes);
        for bytes in bytes.chunks(header.entry as usize) {
            let entry = bytes.get(..size_of::<GptPartitionEntry>());
            let entry = entry.and_then(|bytes| try_from_bytes::<GptPartitionEntry>(bytes).ok());
            if let Some(entry) = entry.filter(|entry| entry.is_used()) {
                add(entry, header, block, table);
            }
        }
        at = at.saturating_add(count as u64);
        left = left.saturating_sub(count as u64);
    }
    Ok(crc.finalize() == header.crc)
}

fn add(entry: &GptPartitionEntry, header: &Header, block: u32, table: &mut Table) {
    let (first, last) = (entry.starting_lba.to_u64(), entry.ending_lba.to_u64());
    if !header.usable.contains(&first) || !header.usable.contains(&last) {
        table.left_out = table.left_out.saturating_add(1);
        return;
    }
    table.add(block, first, last, || {
        let id = { entry.unique_partition_guid }.to_ascii_hex_lower();
        (label(entry), id.iter().map(|byte| char::from(*byte)).collect())
    });
}

/// The label: what of it is text.
fn label(entry: &GptPartitionEntry) -> String {
    let name = entry.name;
    name.chars().filter(|char| !char.is_control()).collect()
}
