//! Bundles: what Merus is to run, packed by the host program `merus`.

use crate::build::Built;
use crate::ctx::Ctx;
use crate::setup::Guest;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The default bundle: one Debian VM with 2 vCPUs and 256 MiB, `extra` appended to its command line (`merus.script=demo`).
pub fn demo(_ctx: &Ctx, _built: &Built, _guest: &Guest, _extra: &str) -> Result<PathBuf> {
    anyhow::bail!("not built yet")
}

/// Packs `<manifest_dir>/merus.toml` to `<manifest_dir>/bundle.merus` and returns that path.
pub fn pack(_ctx: &Ctx, _built: &Built, _manifest_dir: &Path) -> Result<PathBuf> {
    anyhow::bail!("not built yet")
}
