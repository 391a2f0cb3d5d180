//! Disk images: a master boot record with one FAT partition, which is what boards' firmwares and UEFI read.
//!
//! The same files give the same bytes: the file system has no dates and a fixed serial number. What is not written stays a hole in the
//! image's file.
//!
//! Microsoft, "FAT: General Overview of On-Disk Format" (which type a volume has goes by its number of clusters); UEFI Specification,
//! "Legacy Master Boot Record (MBR)".

pub mod gpt;

use anyhow::{Context as _, Result, ensure};
use fatfs::{Dir, FileSystem, FormatVolumeOptions, FsOptions};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;
/// Where the partition starts, in bytes: the usual place, aligned for any medium.
const START: u64 = 1 << 20;
/// The smallest disk, in bytes: FAT32 needs 65,525 clusters, which are a sector at least.
const SMALLEST: u64 = 64 << 20;
/// The largest disk, in bytes.
const LARGEST: u64 = 4 << 30;

/// What the partition is for: its type in the master boot record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// A FAT32 that boards' firmwares look for.
    Boot,
    /// The EFI system partition.
    EfiSystem,
}

impl Use {
    const fn code(self) -> u8 {
        match self {
            Self::Boot => 0x0c,
            Self::EfiSystem => 0xef,
        }
    }
}

/// What a file on the disk holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What the host's file holds.
    Host(PathBuf),
}

/// A disk to be written.
#[derive(Clone, Debug)]
pub struct Disk {
    purpose: Use,
    files: Vec<(String, Content)>,
}

impl Disk {
    /// An empty one.
    pub fn new(purpose: Use) -> Self {
        Self { purpose, files: Vec::new() }
    }

    /// Adds a file; `path` has `/` between its parts, and the directories above it are made.
    #[must_use]
    pub fn with(mut self, path: &str, content: Content) -> Self {
        self.files.push((path.to_owned(), content));
        self
    }

    /// Adds a file of the host.
    #[must_use]
    pub fn with_file(self, path: &str, host: &Path) -> Self {
        self.with(path, Content::Host(host.to_owned()))
    }

    /// Writes the disk to `out`. Its size is a power of two, as QEMU wants an SD card's to be.
    ///
    /// # Errors
    /// A file cannot be read or has a name that FAT cannot have, two have the same name, or they are too large together.
    pub fn write(&self, out: &Path) -> Result<()> {
        let size = self.size()?;
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let mut temporary = out.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let made = self.fill(&temporary, size);
        if made.is_err() {
            // What is wrong has been said; this is only tidying.
            let _ = fs::remove_file(&temporary);
        }
        made?;
        fs::rename(&temporary, out).with_context(|| format!("cannot write {}", out.display()))
    }

    /// Writes it to `path`, so many bytes.
    fn fill(&self, path: &Path, size: u64) -> Result<()> {
        let cannot = || format!("cannot write {}", path.display());
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.as_mut().map_err(|error| anyhow::anyhow!("{error}")).with_context(cannot)?;
        file.set_len(size)?;
        file.write_all(&record(self.purpose, size)).with_context(cannot)?;
        let mut part = Part { file, size: size - START, at: 0 };
        let options = FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(cluster(size));
        fatfs::format_volume(&mut part, options.volume_id(0x4d45_5255).volume_label(*b"MERUS      "))
            .with_context(cannot)?;
        let volume = FileSystem::new(&mut part, FsOptions::new()).with_context(cannot)?;
        for (path, content) in &self.files {
            add(&volume.root_dir(), path, content).with_context(|| format!("{path} on the disk"))?;
        }
        volume.unmount().with_context(cannot)
    }

    /// Room for all files and as much again of what FAT itself needs.
    fn size(&self) -> Result<u64> {
        let mut bytes = 0;
        for (_, content) in &self.files {
            bytes += match content {
                Content::Bytes(bytes) => bytes.len() as u64,
                Content::Host(path) => {
                    fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len()
                }
            };
        }
        let size = (START + bytes + bytes / 8 + (8 << 20)).next_power_of_two().max(SMALLEST);
        ensure!(size <= LARGEST, "{} MiB of files are too many for a disk: {} MiB at most", bytes >> 20, LARGEST >> 20);
        Ok(size)
    }
}

/// Bytes of a cluster: few enough that FAT32 has its number of them.
fn cluster(size: u64) -> u32 {
    if size <= 256 << 20 { 512 } else { 4096 }
}

/// The master boot record: no code, one partition to the disk's end.
fn record(purpose: Use, size: u64) -> [u8; SECTOR as usize] {
    let mut record = [0; SECTOR as usize];
    let sectors = |bytes: u64| ((bytes / SECTOR) as u32).to_le_bytes();
    // By cylinder, head and sector it is beyond what can be told so.
    let beyond = [0xfe, 0xff, 0xff];
    let entry = &mut record[446..462];
    entry[0] = 0x80;
    entry[1..4].copy_from_slice(&beyond);
    entry[4] = purpose.code();
    entry[5..8].copy_from_slice(&beyond);
    entry[8..12].copy_from_slice(&sectors(START));
    entry[12..16].copy_from_slice(&sectors(size - START));
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

fn add<IO: fatfs::ReadWriteSeek>(root: &Dir<'_, IO>, path: &str, content: &Content) -> Result<()> {
    let mut dir = root.clone();
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_some() {
            dir = dir.create_dir(part)?;
            continue;
        }
        ensure!(!dir.iter().flatten().any(|entry| entry.file_name().eq_ignore_ascii_case(part)), "it is there already");
        let mut file = dir.create_file(part)?;
        match content {
            Content::Bytes(bytes) => file.write_all(bytes)?,
            Content::Host(host) => {
                let mut from = File::open(host).with_context(|| format!("cannot read {}", host.display()))?;
                io::copy(&mut from, &mut file)?;
            }
        }
        file.flush()?;
        return Ok(());
    }
    anyhow::bail!("a file needs a name")
}

/// The partition's bytes of the disk's file.
struct Part<'a> {
    file: &'a mut File,
    size: u64,
    at: u64,
}

impl Part<'_> {
    /// Goes to where the next byte is, and says how many of `wanted` there are room for.
    fn room(&mut self, wanted: usize) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(START + self.at))?;
        Ok(usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX).min(wanted))
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buffer.len())?;
        let done = self.file.read(&mut buffer[..room])?;
        self.at += done as u64;
        Ok(done)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = self.room(buffer.len())?;
        let done = self.file.write(&buffer[..room])?;
        self.at += done as u64;
        Ok(done)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
pub(crate) mod tests;
