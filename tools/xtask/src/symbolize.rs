//! `cargo xtask symbolize`: names and lines beside a console log's addresses.

use crate::ctx::Ctx;

/// Arguments of `cargo xtask symbolize`.
#[derive(clap::Args)]
pub struct Args {
    /// The console log; standard input when absent
    pub log: Option<std::path::PathBuf>,
}

/// Runs the command.
pub fn main(_ctx: &Ctx, _args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
