//! Disks with a GUID partition table.
//!
//! UEFI Specification, "GUID Partition Table (GPT) Disk Layout": a protective master boot record, the header and the entries, and a backup of both
//! at the disk's end. The same description gives the same bytes: all identifiers are numbers.

use anyhow::{Result, ensure};

const SECTOR: usize = 512;
/// Entries of a table, and bytes of each: what every tool makes.
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
/// Sectors of the entries.
const TABLE: usize = ENTRIES * ENTRY / SECTOR;
/// The first sector of the first partition: the usual place.
const FIRST: usize = 2048;
/// "Linux filesystem data", 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it is stored.
const LINUX: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// The bytes of a disk of `size` bytes with partitions of these labels and sizes in bytes, all of which are multiples of 1 MiB.
///
/// # Errors
/// They do not fit.
pub fn disk(size: usize, partitions: &[(&str, usize)]) -> Result<Vec<u8>> {
    let mut disk = vec![0; size];
    let sectors = size / SECTOR;
    let mut entries = vec![0; TABLE * SECTOR];
    let mut next = FIRST;
    for (number, (label, bytes)) in partitions.iter().enumerate() {
        let last = next + bytes / SECTOR - 1;
        ensure!(last < sectors - TABLE - 1 && label.len() <= 36, "the partition {label} does not fit");
        let entry = &mut entries[number * ENTRY..(number + 1) * ENTRY];
        entry[..16].copy_from_slice(&LINUX);
        entry[16..32].copy_from_slice(&identifier(number as u8 + 1));
        put(entry, 32, next as u64);
        put(entry, 40, last as u64);
        for (n, unit) in label.encode_utf16().enumerate() {
            entry[56 + 2 * n..58 + 2 * n].copy_from_slice(&unit.to_le_bytes());
        }
        next = last + 1;
    }
    let (first_table, second_table) = (2, sectors - 1 - TABLE);
    for (own, other, table) in [(1, sectors - 1, first_table), (sectors - 1, 1, second_table)] {
        disk[own * SECTOR..][..92].copy_from_slice(&header(sectors, own, other, table, &entries));
        disk[table * SECTOR..][..entries.len()].copy_from_slice(&entries);
    }
    // One partition of the type for GPT, from the second sector to the end.
    let record = &mut disk[446..512];
    record[2] = 2;
    record[4..8].copy_from_slice(&[0xee, 0xff, 0xff, 0xff]);
    record[8..12].copy_from_slice(&1u32.to_le_bytes());
    record[12..16].copy_from_slice(&(sectors as u32 - 1).to_le_bytes());
    record[64..].copy_from_slice(&[0x55, 0xaa]);
    Ok(disk)
}

fn header(sectors: usize, own: usize, other: usize, table: usize, entries: &[u8]) -> [u8; 92] {
    let mut header = [0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
    put(&mut header, 24, own as u64);
    put(&mut header, 32, other as u64);
    put(&mut header, 40, 2 + TABLE as u64);
    put(&mut header, 48, (sectors - TABLE - 2) as u64);
    header[56..72].copy_from_slice(&identifier(0));
    put(&mut header, 72, table as u64);
    header[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
    header[84..88].copy_from_slice(&(ENTRY as u32).to_le_bytes());
    header[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    let sum = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

/// 6D657275-7300-8000-8000-0000000000NN, as it is stored.
fn identifier(number: u8) -> [u8; 16] {
    [0x75, 0x72, 0x65, 0x6d, 0, 0x73, 0, 0x80, 0x80, 0, 0, 0, 0, 0, 0, number]
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_its_table_twice() {
        let disk = disk(4 << 20, &[("web", 1 << 20), ("data", 1 << 20)]).unwrap();
        assert_eq!((disk.len(), &disk[510..520]), (4 << 20, &b"\x55\xaaEFI PART"[..]));
        assert_eq!(&disk[8191 * 512..][..8], b"EFI PART");
        // All but who is where is the same in both, and in both the sum fits.
        let header = |sector: usize| {
            let mut header: [u8; 92] = disk[sector * 512..][..92].try_into().unwrap();
            let sum = u32::from_le_bytes(header[16..20].try_into().unwrap());
            header[16..20].fill(0);
            assert_eq!(crc32fast::hash(&header), sum);
            (header, u64::from_le_bytes(header[72..80].try_into().unwrap()) as usize * 512)
        };
        let ((first, table), (second, backup)) = (header(1), header(8191));
        assert_eq!((&first[40..72], &first[80..]), (&second[40..72], &second[80..]));
        assert_eq!(disk[table..][..16384], disk[backup..][..16384]);
        let place = |at: usize| u64::from_le_bytes(disk[table + at..][..8].try_into().unwrap());
        assert_eq!([place(32), place(40), place(128 + 32), place(128 + 40)], [2048, 4095, 4096, 6143]);
        assert_eq!(&disk[table + 56..][..8], b"w\0e\0b\0\0\0");
        assert!(super::disk(4 << 20, &[("web", 3 << 20)]).is_err());
    }
}
