//! `cargo xtask`: everything a developer types. This file only parses the command line; each command lives in its own module.
//!
//! The program is host-only and may panic on its own bugs, but every failure a user can meet (no network, a missing tool, a
//! failed build) is an error whose text names the remedy.

mod arrows;
mod bench;
mod build;
mod bundle;
mod cpio;
mod ctx;
mod disk;
mod e2h_scan;
mod fp_scan;
mod fuzz;
mod hostdisk;
mod image;
mod initramfs;
mod lint;
mod miri;
mod qemu;
mod raspi4b;
mod rootfs;
mod run;
mod sdcard;
mod setup;
mod shapes;
mod symbolize;
mod table;
mod test;
mod uboot;
mod uefi;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, run and test Merus.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the hypervisor image, its ELF file and the host program `merus` into target/merus/
    Build(build::Args),
    /// Set up, build, and boot a Debian guest under Merus in QEMU
    Run(run::Args),
    /// Write what a board boots Merus from: a card's files, or its image
    Sdcard(sdcard::Args),
    /// Lint, host tests and the QEMU table
    Test(test::Args),
    /// Formatting, clippy on host and target, the arrows between rooms, no FP/SIMD in the image
    Lint(lint::Args),
    /// Run cargo-deny over licences, bans and sources (builds it into the cache the first time)
    Deny(lint::DenyArgs),
    /// Fetch and build what the other commands need, without running anything
    Setup(setup::Args),
    /// Put function names and lines beside the addresses of a console log
    Symbolize(symbolize::Args),
    /// Count instructions per operation (in QEMU)
    Bench(bench::Args),
    /// Run the pure rooms' tests under Miri
    Miri(miri::Args),
    /// Fuzz the virtio devices: hostile guests, found by coverage
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = ctx::Ctx::new().and_then(|ctx| match cli.command {
        Command::Build(args) => build::main(&ctx, args),
        Command::Run(args) => run::main(&ctx, args),
        Command::Sdcard(args) => sdcard::main(&ctx, &args),
        Command::Test(args) => test::main(&ctx, args),
        Command::Lint(args) => lint::main(&ctx, args),
        Command::Deny(args) => lint::deny(&ctx, args),
        Command::Setup(args) => setup::main(&ctx, args),
        Command::Symbolize(args) => symbolize::main(&ctx, args),
        Command::Bench(args) => bench::main(&ctx, args),
        Command::Miri(args) => miri::main(&ctx, args),
        Command::Fuzz(args) => fuzz::main(&ctx, args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
