//! `cargo xtask test`: lint, host tests and the QEMU table.

use crate::ctx::Ctx;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// The whole product of CPUs, vCPUs and pCPUs instead of the covering dozen
    #[arg(long)]
    pub all: bool,
    /// Run only rows whose name contains this text
    pub filter: Option<String>,
}

/// Runs the command.
pub fn main(_ctx: &Ctx, _args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
