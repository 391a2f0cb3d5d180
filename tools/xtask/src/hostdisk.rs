//! A disk of the machine's for tests: a GPT with two partitions, the first one an ext4 that `merus image build` made. The same each time.

use crate::disk::gpt;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it is called in a row.
pub const NAME: &str = "host-disk";
/// A power of two, as QEMU's SD card asks for.
const SIZE: usize = 64 << 20;
/// Where the first partition begins.
const FIRST: usize = 1 << 20;
/// Labels and sizes.
const PARTITIONS: [(&str, usize); 2] = [("web", 30 << 20), ("data", 30 << 20)];

/// Makes it in `dir` by the program `merus`.
///
/// # Errors
/// Those of the file system and of the program.
pub fn make(merus: &Path, dir: &Path) -> Result<PathBuf> {
    let (path, tar, ext4) = (dir.join(NAME), dir.join("host-disk.tar"), dir.join("host-disk.ext4"));
    fs::write(&tar, greeting()?).with_context(|| format!("cannot write {}", tar.display()))?;
    let mut command = Command::new(merus);
    let size = format!("{}M", PARTITIONS[0].1 >> 20);
    command.args(["image", "build", "--size", &size, "--from"]).arg(&tar).arg("-o").arg(&ext4);
    let output = command.output().with_context(|| format!("cannot run {}", merus.display()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let (mut disk, ext4) = (gpt::disk(SIZE, &PARTITIONS)?, fs::read(&ext4)?);
    ensure!(ext4.len() == PARTITIONS[0].1, "an ext4 of {} bytes", ext4.len());
    disk[FIRST..][..ext4.len()].copy_from_slice(&ext4);
    crate::ctx::write_if_changed(&path, &disk)?;
    Ok(path)
}

/// A tar with one file.
fn greeting() -> Result<Vec<u8>> {
    const TEXT: &[u8] = b"from a partition\n";
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(TEXT.len() as u64);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "greeting", TEXT)?;
    Ok(builder.into_inner()?)
}
