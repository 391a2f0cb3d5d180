//! A GPT, by its header at the disk's start or the copy at its end. (The crates that know its form bring a licence along that Merus does not take.)
//!
//! UEFI Specification, "GPT Header", "GPT Partition Entry Array".

use crate::table::{Disk, Table, TableError};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::ops::RangeInclusive;

const SIGNATURE: &[u8] = b"EFI PART";
/// Bytes of a header, the least it may say; more is of a later revision, and its checksum covers that.
const HEADER: usize = 92;
/// Bytes of an entry: powers of two.
const ENTRY: RangeInclusive<u32> = 128..=4096;
/// Bytes of all entries at most.
const ENTRIES: u64 = 256 << 10;
/// Bytes of them that are read at once: whole blocks and whole entries of any size.
const PIECE: usize = 4096;

// Where what is in a header.
const HEADER_SIZE: usize = 12;
const HEADER_CRC: usize = 16;
const OWN: usize = 24;
const FIRST_USABLE: usize = 40;
const LAST_USABLE: usize = 48;
const ENTRIES_AT: usize = 72;
const COUNT: usize = 80;
const ENTRY_SIZE: usize = 84;
const ENTRIES_CRC: usize = 88;

// And in an entry. It is used if it has a type.
const TYPE: core::ops::Range<usize> = 0..16;
const ID: usize = 16;
const FIRST: usize = 32;
const LAST: usize = 40;
const LABEL: core::ops::Range<usize> = 56..128;

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

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
fn parse(header: &[u8], at: u64, block: u32, blocks: u64) -> Option<Header> {
    let size = usize::try_from(word(header, HEADER_SIZE)?).ok()?;
    let mut covered = header.get(..size).filter(|covered| covered.len() >= HEADER)?.to_vec();
    covered.get_mut(HEADER_CRC..)?.first_chunk_mut::<4>()?.fill(0);
    let whole = crc32fast::hash(&covered) == word(header, HEADER_CRC)?;
    if !header.starts_with(SIGNATURE) || !whole || number(header, OWN)? != at {
        return None;
    }
    let (entries, entry) = (word(header, COUNT)?, word(header, ENTRY_SIZE)?);
    let usable = number(header, FIRST_USABLE)?..=number(header, LAST_USABLE)?;
    let entries_at = number(header, ENTRIES_AT)?;
    let bytes = u64::from(entries).checked_mul(entry.into()).filter(|bytes| *bytes <= ENTRIES)?;
    let end = entries_at.checked_add(bytes.div_ceil(block.into()))?;
    let good = ENTRY.contains(&entry)
        && entry.is_power_of_two()
        && entries_at != 0
        && end <= blocks
        && usable.start() <= usable.end()
        && *usable.end() < blocks;
    good.then_some(Header { entries_at, entries, entry, crc: word(header, ENTRIES_CRC)?, usable })
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
            if bytes.get(TYPE).is_some_and(|kind| kind != [0; 16]) {
                // An entry is no shorter than what is looked for in it.
                let _ = add(bytes, header, block, table);
            }
        }
        at = at.saturating_add(count as u64);
        left = left.saturating_sub(count as u64);
    }
    Ok(crc.finalize() == header.crc)
}

fn add(entry: &[u8], header: &Header, block: u32, table: &mut Table) -> Option<()> {
    let (first, last) = (number(entry, FIRST)?, number(entry, LAST)?);
    if !header.usable.contains(&first) || !header.usable.contains(&last) {
        table.left_out = table.left_out.saturating_add(1);
        return None;
    }
    table.add(block, first, last, || (label(entry).unwrap_or_default(), id(entry).unwrap_or_default()));
    Some(())
}

/// The label: what of it is text, up to its end.
fn label(entry: &[u8]) -> Option<String> {
    let (units, _) = entry.get(LABEL)?.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    let chars = char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER));
    Some(chars.filter(|char| !char.is_control()).collect())
}

/// The identifier: a number of 32 bits and two of 16 in the machine's order, and eight bytes.
fn id(entry: &[u8]) -> Option<String> {
    let bytes: &[u8; 16] = entry.get(ID..)?.first_chunk()?;
    let [a, b, c, d, e, f, g, h, i, j, rest @ ..] = *bytes;
    let (one, two, three) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    let mut text = format!("{one:08x}-{two:04x}-{three:04x}-{i:02x}{j:02x}-");
    rest.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
    Some(text)
}
