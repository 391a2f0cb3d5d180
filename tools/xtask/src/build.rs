//! `cargo xtask build`: the hypervisor's ELF and flat image, the host program `merus`, and the EL1 test payloads.

use crate::ctx::Ctx;
use crate::setup::{self, TargetKind};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Args {}

/// What a build leaves under `target/merus/`.
pub struct Built {
    /// The flat image that boards boot.
    pub img: PathBuf,
    /// The same with symbols.
    pub elf: PathBuf,
    /// The host program `merus`.
    pub cli: PathBuf,
}

/// Runs the command.
pub fn main(ctx: &Ctx, _args: Args) -> Result<()> {
    let kind = setup::ensure_target(ctx)?;
    build(ctx, &kind)?;
    Ok(())
}

/// Builds the hypervisor and the host program.
pub fn build(_ctx: &Ctx, _kind: &TargetKind) -> Result<Built> {
    anyhow::bail!("not built yet")
}

/// Builds an EL1 payload and flattens it to `target/merus/guests/<bin>.img`.
pub fn guest_payload(_ctx: &Ctx, _kind: &TargetKind, _package: &str, _bin: &str) -> Result<PathBuf> {
    anyhow::bail!("not built yet")
}
