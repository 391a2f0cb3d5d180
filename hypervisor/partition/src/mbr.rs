//! An MBR: four partitions, and a chain of extended ones with one each.

use crate::gpt::word;
use crate::table::{Disk, Table, TableError};
use alloc::format;
use alloc::string::String;

// Where what is in a record.
const DISK_ID: usize = 440;
const ENTRIES: usize = 446;
const SIGNATURE_AT: usize = 510;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Types: the whole disk, which has a GPT; what is a chain of further ones.
const OF_GPT: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Links of the chain that are followed.
const LINKS: usize = 60;
/// The first number of a partition in the chain.
const LOGICAL: usize = 5;

/// A record.
pub(crate) struct Record {
    disk_id: u32,
    entries: [Entry; 4],
}

/// An entry of it. Places are in blocks.
#[derive(Clone, Copy)]
struct Entry {
    boot: u8,
    kind: u8,
    first: u32,
    count: u32,
}

impl Entry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.count != 0
    }
}

fn entry(block: &[u8], number: usize) -> Option<Entry> {
    let bytes: &[u8; 16] = block.get(ENTRIES..)?.chunks(16).nth(number)?.first_chunk()?;
    let [boot, _, _, _, kind, ..] = *bytes;
    Some(Entry { boot, kind, first: word(bytes, 8)?, count: word(bytes, 12)? })
}

/// The record in a disk's first bytes, if it is one. (A file system's first sector has the same signature.)
pub(crate) fn parse(block: &[u8]) -> Option<Record> {
    let entries = [entry(block, 0)?, entry(block, 1)?, entry(block, 2)?, entry(block, 3)?];
    let plausible = entries.iter().all(|entry| entry.boot & 0x7f == 0);
    let some = entries.iter().any(Entry::is_used);
    let signed = block.get(SIGNATURE_AT..)?.starts_with(&SIGNATURE);
    let disk_id = word(block, DISK_ID)?;
    (signed && plausible && some).then_some(Record { disk_id, entries })
}

/// Whether the disk has a GPT, and this record is for those who know none.
pub(crate) fn is_protective(record: &Record) -> bool {
    record.entries.iter().any(|entry| entry.kind == OF_GPT)
}

/// The partitions of a record that is no GPT's, and of the chain that begins in it.
pub(crate) fn read(disk: &mut Disk<'_>, record: &Record, table: &mut Table) -> Result<(), TableError> {
    let disk_id = record.disk_id;
    let mut chain = None;
    for (entry, number) in record.entries.iter().zip(1..) {
        if EXTENDED.contains(&entry.kind) {
            chain = chain.or(Some(u64::from(entry.first)));
        } else if entry.is_used() {
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
        let [own, next, ..] = link.entries;
        if own.is_used() {
            add(disk, table, (disk_id, number), at, &own);
        }
        if !EXTENDED.contains(&next.kind) {
            break;
        }
        at = start.saturating_add(next.first.into());
    }
    Ok(())
}

/// Adds a partition that its record places behind block `base`.
fn add(disk: &Disk<'_>, table: &mut Table, (id, number): (u32, usize), base: u64, entry: &Entry) {
    let first = base.saturating_add(entry.first.into());
    let last = first.saturating_add(u64::from(entry.count).saturating_sub(1));
    table.add(disk.block, first, last, || (String::new(), format!("{id:08x}-{number:02x}")));
}
