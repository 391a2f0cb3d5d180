//! An MBR: four partitions, and a chain of extended ones with one each.

use crate::table::{Disk, Table, TableError};
use alloc::format;
use alloc::string::String;
use bytemuck::try_from_bytes;
use gpt_disk_types::{MasterBootRecord, MbrPartitionRecord};

const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Types: the whole disk, which has a GPT; what is a chain of further ones.
const OF_GPT: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Links of the chain that are followed.
const LINKS: usize = 60;
/// The first number of a partition in the chain.
const LOGICAL: usize = 5;

/// The record in a disk's first bytes, if it is one. (A file system's first sector has the same signature.)
pub(crate) fn parse(block: &[u8]) -> Option<MasterBootRecord> {
    let record: &MasterBootRecord = try_from_bytes(block.get(..size_of::<MasterBootRecord>())?).ok()?;
    let entries = record.partitions;
    let plausible = entries.iter().all(|entry| entry.boot_indicator & 0x7f == 0);
    let some = entries.iter().any(is_used);
    (record.signature == SIGNATURE && plausible && some).then_some(*record)
}

fn is_used(entry: &MbrPartitionRecord) -> bool {
    entry.os_indicator != 0 && entry.size_in_lba.to_u32() != 0
}

/// Whether the disk has a GPT, and this record is for those who know none.
pub(crate) fn is_protective(record: &MasterBootRecord) -> bool {
    record.partitions.iter().any(|entry| entry.os_indicator == OF_GPT)
}

/// The partitions of a record that is no GPT's, and of the chain that begins in it.
pub(crate) fn read(disk: &mut Disk<'_>, record: &MasterBootRecord, table: &mut Table) -> Result<(), TableError> {
    let disk_id = u32::from_le_bytes(record.unique_mbr_disk_signature);
    let mut chain = None;
    for (entry, number) in record.partitions.iter().zip(1..) {
        if EXTENDED.contains(&entry.os_indicator) {
            chain = chain.or(Some(u64::from(entry.starting_lba.to_u32())));
        } else if is_used(entry) {
            add(disk, table, (disk_id, number), 0, entry);
        }
    }
    let Some(start) = chain else { return Ok(()) };
    let mut at = start;
    for number in (LOGICAL..).take(LINKS) {
        // A chain that leads off the disk ends there.
        if at == 0 || at >= disk.blocks {
            break;
        }
        let block = disk.block(at)?;
        let Some(link) = parse(&block) else { break };
        let [own, next, ..] = link.partitions;
        if is_used(&own) {
            add(disk, table, (disk_id, number), at, &own);
        }
        if !EXTENDED.contains(&next.os_indicator) {
            break;
        }
        at = start.saturating_add(next.starting_lba.to_u32().into());
    }
    Ok(())
}

/// Adds a partition that its record places behind block `base`.
fn add(disk: &Disk<'_>, table: &mut Table, (id, number): (u32, usize), base: u64, entry: &MbrPartitionRecord) {
    let first = base.saturating_add(entry.starting_lba.to_u32().into());
    let last = first.saturating_add(u64::from(entry.size_in_lba.to_u32()).saturating_sub(1));
    table.add(disk.block, first, last, || (String::new(), format!("{id:08x}-{number:02x}")));
}
