//! `cargo xtask run`: Merus with a Debian guest in QEMU, on the user's terminal or as a scripted check.

use crate::ctx::Ctx;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_ctx: &Ctx, _args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
