//! `cargo xtask lint`: what must hold of the sources and of the image.

use crate::ctx::Ctx;

/// Arguments of `cargo xtask lint`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_ctx: &Ctx, _args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
