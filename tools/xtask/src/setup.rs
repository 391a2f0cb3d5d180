//! Set-up: the Rust target, QEMU and the Debian guest, fetched into `target/cache` without root.

use crate::ctx::Ctx;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Build core and alloc from the distribution's rust-src, then the hypervisor with them (slow)
    #[arg(long)]
    pub fallback_test: bool,
}

/// Where the target's `core` and `alloc` come from.
pub enum TargetKind {
    /// The toolchain has the target.
    Rustup,
    /// Built by us; passed to rustc by `--sysroot`.
    Sysroot(PathBuf),
}

/// A QEMU that can be started.
pub struct Qemu {
    /// The program `qemu-system-aarch64`.
    pub binary: PathBuf,
    /// Environment it needs.
    pub env: Vec<(String, String)>,
    /// Arguments it needs before all others.
    pub args: Vec<String>,
    /// Its version, for example 10.0.2.
    pub version: String,
}

impl Qemu {
    /// A command that starts it, environment and first arguments set.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.envs(self.env.iter().map(|(name, value)| (name, value))).args(&self.args);
        command
    }
}

/// The Debian guest's files.
pub struct Guest {
    /// The kernel, an arm64 `Image`.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's release, for example 6.1.0-56-cloud-arm64.
    pub kernel_version: String,
}

/// Runs the command.
pub fn main(ctx: &Ctx, _args: Args) -> Result<()> {
    ensure_target(ctx)?;
    ensure_qemu(ctx)?;
    ensure_guest(ctx)?;
    Ok(())
}

/// Makes sure that code for [`TARGET`](crate::ctx::TARGET) can be built.
pub fn ensure_target(_ctx: &Ctx) -> Result<TargetKind> {
    anyhow::bail!("not built yet")
}

/// Makes sure that a QEMU 9 or newer can be started.
pub fn ensure_qemu(_ctx: &Ctx) -> Result<Qemu> {
    anyhow::bail!("not built yet")
}

/// Makes sure that the guest's kernel and initramfs are there.
pub fn ensure_guest(_ctx: &Ctx) -> Result<Guest> {
    anyhow::bail!("not built yet")
}
