use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// A disk's first sectors with an MBR of these entries: kind, first sector, number of sectors.
fn with_mbr(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut head = vec![0; HEAD];
    for (n, (kind, start, count)) in entries.iter().enumerate() {
        let entry = &mut head[446 + 16 * n..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
    }
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    head
}

/// As a partitioning program makes it, for a disk of `sectors`.
fn with_gpt(sectors: u64) -> Vec<u8> {
    let mut head = with_mbr(&[(0xee, 1, u32::try_from(sectors - 1).unwrap_or(u32::MAX))]);
    let header = &mut head[512..];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..12].copy_from_slice(&0x1_0000u32.to_le_bytes());
    header[12..16].copy_from_slice(&92u32.to_le_bytes());
    for (at, value) in [(24, 1), (32, sectors - 1), (40, 34), (48, sectors - 34), (72, 2)] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let sum = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    head
}

#[test]
fn an_mbr_tells_where_its_last_partition_ends() {
    assert_eq!(told_size(&with_mbr(&[(0x0c, 2048, 1000), (0x83, 4096, 8192)])), Some((12288 * 512, Table::Mbr)));
    assert_eq!(told_size(&with_mbr(&[(0x83, 4096, 8192), (0x0c, 2048, 1000)])), Some((12288 * 512, Table::Mbr)));
    // Beyond 2 TiB.
    let far = told_size(&with_mbr(&[(0x83, u32::MAX, u32::MAX)]));
    assert_eq!(far, Some((2 * u64::from(u32::MAX) * 512, Table::Mbr)));
    // The first sector is enough.
    assert_eq!(told_size(&with_mbr(&[(0x83, 1, 7)])[..512]), Some((4096, Table::Mbr)));
}

#[test]
fn a_gpt_tells_where_its_copy_is() {
    assert_eq!(told_size(&with_gpt(131_072)), Some((131_072 * 512, Table::Gpt)));
    assert_eq!(told_size(&with_gpt(1 << 33)), Some((1 << 42, Table::Gpt)));
    // Without a sound header, what stands before it tells, where it can.
    for damage in [512, 600, 530] {
        let mut head = with_gpt(131_072);
        head[damage] ^= 1;
        assert_eq!(told_size(&head), Some((131_072 * 512, Table::Gpt)));
        let mut head = with_gpt(1 << 33);
        head[damage] ^= 1;
        assert_eq!(told_size(&head), None);
    }
    assert_eq!(told_size(&with_gpt(131_072)[..700]), Some((131_072 * 512, Table::Gpt)));
}

#[test]
fn what_is_no_table_tells_nothing() {
    assert_eq!(told_size(&[]), None);
    assert_eq!(told_size(&vec![0; HEAD]), None);
    assert_eq!(told_size(&with_mbr(&[])), None);
    assert_eq!(told_size(&with_mbr(&[(0x83, 1, 7)])[..511]), None);
    let mut unsigned = with_mbr(&[(0x83, 1, 7)]);
    unsigned[510] = 0;
    assert_eq!(told_size(&unsigned), None);
    // File systems with a boot sector of their own, and programs.
    for (at, name) in [(3, &b"NTFS    "[..]), (3, b"EXFAT   "), (54, b"FAT16   "), (82, b"FAT32   ")] {
        let mut head = with_mbr(&[(0x83, 1, 7)]);
        head[at..at + name.len()].copy_from_slice(name);
        assert_eq!(told_size(&head), None);
    }
    let mut program = with_mbr(&[(0x83, 1, 7)]);
    program[446 + 32] = 0x13;
    assert_eq!(told_size(&program), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

    #[test]
    fn any_head_is_read(
        bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 100 } else { 1200 }),
        gpt: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = if gpt { with_gpt(1 << 20) } else { bytes };
        for (index, value) in changes.into_iter().filter(|_| gpt) {
            let at = index.index(HEAD);
            bytes[at] = value;
        }
        // A header of any length with a right sum.
        if gpt {
            let length = u32::from_le_bytes(bytes[524..528].try_into().unwrap()) as usize;
            if let Some(header) = bytes[512..].get(..length).filter(|header| header.len() > 20) {
                let sum = crc32fast::hash(&[&header[..16], &[0; 4], &header[20..]].concat());
                bytes[528..532].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let _ = told_size(&bytes);
    }
}
