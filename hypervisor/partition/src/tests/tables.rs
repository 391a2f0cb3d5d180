//! Partition tables, and the names of partitions.

use crate::select::{Part, SelectError, find};
use crate::table::{Bytes, MOST, Partition, Scheme, Table, TableError};
use host::disk::DiskError;
use proptest::prelude::*;
extern crate std;

use std::borrow::ToOwned;
use std::vec;
use std::vec::Vec;

/// A disk of as many bytes, of which the first and the last ones are these.
struct Fake {
    bytes: Vec<u8>,
    fails_at: Option<u64>,
    reads: usize,
}

impl Bytes for Fake {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        assert_eq!((at % 512, into.len() % 512), (0, 0), "whole blocks");
        self.reads += 1;
        let end = at + into.len() as u64;
        if self.fails_at.is_some_and(|fails| (at..end).contains(&fails)) {
            return Err(DiskError::Io);
        }
        into.copy_from_slice(self.bytes.get(at as usize..end as usize).expect("on the disk"));
        Ok(())
    }
}

fn read(bytes: &[u8], block: u32) -> Result<Table, TableError> {
    Table::read(&mut Fake { bytes: bytes.to_vec(), fails_at: None, reads: 0 }, bytes.len() as u64, block)
}

const SECTORS: u64 = 2048;

/// An entry: type, number of the identifier, first and last sector, label.
fn entry(kind: u8, id: u8, first: u64, last: u64, label: &str) -> Vec<u8> {
    let mut bytes = vec![kind; 16];
    bytes.extend((0..16).map(|n| id.wrapping_mul(16).wrapping_add(n)));
    bytes.extend(first.to_le_bytes());
    bytes.extend(last.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(label.encode_utf16().flat_map(u16::to_le_bytes));
    bytes.resize(128, 0);
    bytes
}

fn header(block: usize, own: u64, at: u64, entries: &[u8], count: u32, blocks: u64) -> Vec<u8> {
    let mut bytes = b"EFI PART".to_vec();
    for word in [0x1_0000u32, 92, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for number in [own, blocks - 1 - own + 1, 40, blocks - 41] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([7; 16]);
    bytes.extend(at.to_le_bytes());
    for word in [count, entries.len() as u32 / count, crc32fast::hash(entries)] {
        bytes.extend(word.to_le_bytes());
    }
    sum(&mut bytes);
    bytes.resize(block, 0);
    bytes
}

fn sum(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}

fn mbr(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[440..444].copy_from_slice(&0x1b2c_3d4e_u32.to_le_bytes());
    for (n, (kind, first, count)) in entries.iter().enumerate() {
        let entry = &mut bytes[446 + 16 * n..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
    }
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// A disk with these entries in both places, in blocks of that size.
fn gpt(entries: &[Vec<u8>], block: usize, blocks: u64) -> Vec<u8> {
    let mut disk = vec![0; block * blocks as usize];
    let count = entries.len().max(4) as u32;
    let mut all = entries.concat();
    all.resize(128 * count as usize, 0);
    let put = |disk: &mut Vec<u8>, at: u64, bytes: &[u8]| {
        disk[at as usize * block..][..bytes.len()].copy_from_slice(bytes);
    };
    let last = blocks - 1;
    put(&mut disk, 0, &mbr(&[(0xee, 1, last as u32)]));
    put(&mut disk, 1, &header(block, 1, 2, &all, count, blocks));
    put(&mut disk, 2, &all);
    put(&mut disk, last, &header(block, last, last - 32, &all, count, blocks));
    put(&mut disk, last - 32, &all);
    disk
}

fn two() -> Vec<Vec<u8>> {
    vec![
        entry(1, 1, 40, 99, "web"),
        entry(0, 9, 0, 0, ""),
        entry(1, 2, 100, 2007, "a label of thirty-six characters, ok"),
    ]
}

#[test]
fn a_gpt_is_read_whatever_its_blocks_are() {
    for block in [512, 4096] {
        let table = read(&gpt(&two(), block, SECTORS), block as u32).unwrap();
        assert_eq!((table.scheme, table.left_out), (Scheme::Gpt, 0));
        let [web, other] = table.partitions.as_slice() else { panic!("{table:?}") };
        let block = block as u64;
        let id = "13121110-1514-1716-1819-1a1b1c1d1e1f".to_owned();
        assert_eq!(*web, Partition { at: 40 * block, size: 60 * block, label: "web".into(), id });
        assert_eq!((other.size, other.label.len()), (1908 * block, 36));
    }
}

#[test]
fn a_gpt_whose_first_copy_is_damaged_has_another() {
    let good = gpt(&two(), 512, SECTORS);
    let read_of = |spoil: &[usize]| {
        let mut disk = good.clone();
        spoil.iter().for_each(|at| disk[*at] ^= 1);
        read(&disk, 512).map(|table| (table.scheme, table.partitions.len()))
    };
    let (first, entries, last, last_entries) = (512 + 40, 1024 + 5, 2047 * 512 + 20, 2015 * 512 + 200);
    assert_eq!(read_of(&[]), Ok((Scheme::Gpt, 2)));
    assert_eq!(read_of(&[first]), Ok((Scheme::Backup, 2)));
    assert_eq!(read_of(&[entries]), Ok((Scheme::Backup, 2)));
    assert_eq!(read_of(&[entries, last]), Err(TableError::Damaged));
    assert_eq!(read_of(&[first, last_entries]), Err(TableError::Damaged));
    assert_eq!(read_of(&[last]), Ok((Scheme::Gpt, 2)));
}

#[test]
fn a_header_that_is_whole_may_still_be_nonsense() {
    for (at, value) in [
        (12, 91u32),       // Shorter than a header.
        (12, 513),         // Longer than a block.
        (24, 2),           // Another block's.
        (40, 1999 + 2000), // What is usable begins behind its end.
        (48, 2048),        // It ends behind the disk.
        (72, 0),           // The entries are the first block.
        (72, 2048),        // They are behind the disk.
        (80, u32::MAX),    // There are too many.
        (84, 127),         // They are too small,
        (84, 192),         // no power of two,
        (84, 8192),        // or too large.
    ] {
        let mut disk = gpt(&two(), 512, SECTORS);
        disk[512 + at..][..4].copy_from_slice(&value.to_le_bytes());
        sum(&mut disk[512..1024]);
        assert_eq!(read(&disk, 512).map(|table| table.scheme), Ok(Scheme::Backup), "{at} {value}");
    }
}

#[test]
fn partitions_that_are_not_on_the_disk_are_left_out() {
    let entries = [
        entry(1, 1, 39, 50, "before"),
        entry(1, 2, 50, 49, "no end"),
        entry(1, 3, 50, 2008, "behind"),
        entry(1, 4, 50, u64::MAX, "far behind"),
        entry(1, 5, 50, 50, "good"),
    ];
    let table = read(&gpt(&entries, 512, SECTORS), 512).unwrap();
    assert_eq!((table.partitions.len(), table.left_out), (1, 4));
    assert_eq!((table.partitions[0].at, table.partitions[0].size), (50 * 512, 512));
}

#[test]
fn an_mbr_and_its_chain_are_read() {
    let mut disk = vec![0; 512 * SECTORS as usize];
    disk[..512].copy_from_slice(&mbr(&[(0x83, 8, 100), (0x05, 1000, 500), (0x0c, 2000, 49), (0, 0, 0)]));
    disk[1000 * 512..][..512].copy_from_slice(&mbr(&[(0x83, 8, 92), (0x05, 100, 200)]));
    disk[1100 * 512..][..512].copy_from_slice(&mbr(&[(0x83, 1, 10)]));
    let table = read(&disk, 512).unwrap();
    let places: Vec<_> = table.partitions.iter().map(|p| (p.at / 512, p.size / 512, p.id.as_str())).collect();
    let expected = [(8, 100, "1b2c3d4e-01"), (1008, 92, "1b2c3d4e-05"), (1101, 10, "1b2c3d4e-06")];
    assert_eq!((table.scheme, places.as_slice(), table.left_out), (Scheme::Mbr, &expected[..], 1));
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let mut disk = vec![0; 512 * SECTORS as usize];
    disk[..512].copy_from_slice(&mbr(&[(0x0f, 1000, 500)]));
    disk[1000 * 512..][..512].copy_from_slice(&mbr(&[(0x83, 1, 1), (0x05, 0, 10)]));
    let mut fake = Fake { bytes: disk, fails_at: None, reads: 0 };
    let table = Table::read(&mut fake, SECTORS * 512, 512).unwrap();
    assert!(fake.reads < 100 && table.partitions.len() < 100, "{} reads", fake.reads);
}

#[test]
fn a_disk_without_a_table_has_none() {
    let mut fat = mbr(&[]);
    fat[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    fat[446..510].fill(b'x');
    for first in [vec![0; 512], vec![0xff; 512], fat, mbr(&[])] {
        let mut disk = vec![0; 512 * SECTORS as usize];
        disk[..512].copy_from_slice(&first);
        let table = read(&disk, 512).unwrap();
        assert_eq!((table.scheme, table.partitions.len()), (Scheme::None, 0));
    }
    assert_eq!(read(&[], 512).map(|table| table.scheme), Ok(Scheme::None));
    assert_eq!(read(&[0; 8192], 8192), Err(TableError::Block));
    assert_eq!(read(&[0; 8192], 0), Err(TableError::Block));
}

#[test]
fn a_disk_that_cannot_be_read_says_so() {
    let bytes = gpt(&two(), 512, SECTORS);
    for fails_at in [0, 512, 1024] {
        let mut fake = Fake { bytes: bytes.clone(), fails_at: Some(fails_at), reads: 0 };
        assert_eq!(Table::read(&mut fake, SECTORS * 512, 512), Err(TableError::Disk));
    }
}

#[test]
fn a_name_means_one_part() {
    let (one, other) = (read(&gpt(&two(), 512, SECTORS), 512).unwrap(), {
        let mut disk = vec![0; 512 * SECTORS as usize];
        disk[..512].copy_from_slice(&mbr(&[(0x83, 8, 100)]));
        read(&disk, 512).unwrap()
    });
    let disks = [(one.size, Some(&one)), (other.size, Some(&other)), (99, None)];
    let part = |disk, at: u64, size: u64| Ok(Part { disk, at: at * 512, size: size * 512 });
    assert_eq!(find("PARTLABEL=web", &disks), part(0, 40, 60));
    assert_eq!(find("PARTUUID=13121110-1514-1716-1819-1A1B1C1D1E1F", &disks), part(0, 40, 60));
    assert_eq!(find("PARTUUID=1b2c3d4e-01", &disks), part(1, 8, 100));
    assert_eq!(find("DISK=1", &disks), part(1, 0, SECTORS));
    for absent in ["PARTLABEL=", "PARTLABEL=WEB", "PARTUUID=1b2c3d4e-02", "DISK=3", "DISK=x", "web", ""] {
        assert_eq!(find(absent, &disks), Err(SelectError::Absent { name: absent.to_owned() }));
    }
    let twice = [disks[0], disks[0]];
    assert!(matches!(find("PARTLABEL=web", &twice), Err(SelectError::Several { one: 0, other: 1, .. })));
}

/// Bytes of a GPT or an MBR with some of them changed, their checksums made right again or not.
fn spoiled() -> impl Strategy<Value = Vec<u8>> {
    let places = prop_oneof![440..512usize, 512..604usize, 1024..1536usize, 1000 * 512..1000 * 512 + 512usize];
    let changes = prop::collection::vec((places, any::<u8>()), 0..12);
    (any::<bool>(), changes, any::<bool>()).prop_map(|(is_gpt, changes, right)| {
        let mut disk = if is_gpt { gpt(&two(), 512, SECTORS) } else { vec![0; 512 * SECTORS as usize] };
        if !is_gpt {
            disk[..512].copy_from_slice(&mbr(&[(0x83, 8, 100), (0x05, 1000, 500)]));
            disk[1000 * 512..][..512].copy_from_slice(&mbr(&[(0x83, 8, 92), (0x05, 100, 200)]));
        }
        changes.iter().for_each(|(at, byte)| disk[*at] = *byte);
        if right {
            let crc = crc32fast::hash(&disk[1024..1024 + 512]);
            disk[512 + 88..][..4].copy_from_slice(&crc.to_le_bytes());
            sum(&mut disk[512..1024]);
        }
        disk
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_a_table_says_its_partitions_are_on_the_disk(disk in spoiled()) {
        let mut fake = Fake { bytes: disk, fails_at: None, reads: 0 };
        let size = fake.bytes.len() as u64;
        if let Ok(table) = Table::read(&mut fake, size, 512) {
            prop_assert!(table.partitions.len() <= MOST);
            for partition in &table.partitions {
                prop_assert!(partition.size != 0 && partition.at.checked_add(partition.size).unwrap() <= size);
                prop_assert!(!partition.label.chars().any(char::is_control));
            }
        }
        prop_assert!(fake.reads < 300, "{} reads", fake.reads);
    }
}
