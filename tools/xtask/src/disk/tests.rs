//! What is on a disk, read back by another way than it was written, and what is refused.

use super::*;

/// A directory that goes with the test.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A file of a disk.
pub(crate) fn read(disk: &Path, path: &str) -> Vec<u8> {
    let mut file = File::open(disk).unwrap();
    let size = file.metadata().unwrap().len() - START;
    let mut part = Part { file: &mut file, size, at: 0 };
    // The volume is opened read-only by the file's mode: a write would be an error.
    let volume = FileSystem::new(&mut part, FsOptions::new()).unwrap();
    let mut bytes = Vec::new();
    volume.root_dir().open_file(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn files_are_where_they_were_put() {
    let dir = scratch();
    let (host, out) = (dir.path().join("host"), dir.path().join("disk.img"));
    let long: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    fs::write(&host, &long).unwrap();
    let disk = Disk::new(Use::Boot)
        .with("boot.scr", Content::Bytes(b"script".to_vec()))
        .with("EFI/BOOT/BOOTAA64.EFI", Content::Bytes(b"MZ".to_vec()))
        .with("EFI/debian/a name that is long.cfg", Content::Bytes(Vec::new()))
        .with_file("merus.img", &host);
    disk.write(&out).unwrap();
    assert_eq!(read(&out, "boot.scr"), b"script");
    assert_eq!(read(&out, "EFI/BOOT/BOOTAA64.EFI"), b"MZ");
    assert_eq!(read(&out, "EFI/debian/a name that is long.cfg"), b"");
    assert_eq!(read(&out, "merus.img"), long);
    assert!(fs::metadata(&out).unwrap().len().is_power_of_two());
    // And again, to the byte.
    let again = dir.path().join("again.img");
    disk.write(&again).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn the_partition_is_fat32_where_the_record_says() {
    let dir = scratch();
    for (purpose, code) in [(Use::Boot, 0x0c), (Use::EfiSystem, 0xef)] {
        let out = dir.path().join("disk.img");
        Disk::new(purpose).write(&out).unwrap();
        let bytes = fs::read(&out).unwrap();
        let word = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
        assert_eq!((bytes[510], bytes[511], bytes[450]), (0x55, 0xaa, code));
        let (start, sectors) = (word(454), word(458));
        assert_eq!((start + sectors) * SECTOR, bytes.len() as u64);
        let boot = start as usize * SECTOR as usize;
        assert_eq!(&bytes[boot + 82..boot + 87], b"FAT32");
        assert_eq!(word(boot + 32), sectors, "the volume fills the partition");
    }
}

#[test]
fn a_disk_of_any_size_is_fat32() {
    let mut size = SMALLEST;
    while size <= LARGEST {
        assert!((size - START) / u64::from(cluster(size)) > 65_525 + 2_100, "{size:#x}");
        size *= 2;
    }
}

#[test]
fn what_cannot_be_on_a_disk_is_refused_by_name() {
    let dir = scratch();
    let out = dir.path().join("disk.img");
    let error = |disk: Disk| format!("{:#}", disk.write(&out).unwrap_err());
    let empty = || Content::Bytes(Vec::new());
    assert!(error(Disk::new(Use::Boot).with("a", empty()).with("A", empty())).contains("A on the disk"));
    assert!(error(Disk::new(Use::Boot).with("a:b", empty())).contains("a:b"));
    assert!(error(Disk::new(Use::Boot).with("/", empty())).contains("needs a name"));
    assert!(error(Disk::new(Use::Boot).with_file("a", Path::new("/nonexistent/x"))).contains("/nonexistent/x"));
    let huge = dir.path().join("huge");
    File::create(&huge).unwrap().set_len(LARGEST).unwrap();
    assert!(error(Disk::new(Use::Boot).with_file("a", &huge)).contains("too many"));
    // Nothing is left, under whatever name.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
