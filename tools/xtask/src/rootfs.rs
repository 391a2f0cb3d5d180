//! The root file system of Debian guests: an ext4 image that `merus image build` makes, which all guests that name it share.

use crate::ctx::{self, Ctx};
use crate::{initramfs, setup};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The image's length, most of it free: a guest has room to write, and what nobody writes to costs no memory but the bundle's.
const SIZE: &str = "32M";

/// Makes it, where it is not there: `target/merus/root/root.img`. `cli` is the program `merus`.
///
/// # Errors
/// The packages cannot be had, or `merus image build` refuses.
pub fn make(ctx: &Ctx, cli: &Path) -> Result<PathBuf> {
    let packages = setup::ensure_root(ctx)?;
    let dir = ctx.merus_dir.join("root");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (tar, image) = (dir.join("root.tar"), dir.join("root.img"));
    ctx::write_if_changed(&tar, &initramfs::root(&packages)?)?;
    // It shows its progress itself, on the terminal.
    let mut command = Command::new(cli);
    command.args(["image", "build", "--label", "root", "--size", SIZE, "--from"]).arg(&tar).arg("-o").arg(&image);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {}", cli.display()))?;
    anyhow::ensure!(status.success(), "`{}` failed", ctx::shown(&command));
    Ok(image)
}
