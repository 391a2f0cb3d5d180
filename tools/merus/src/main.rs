//! `merus`: checks a manifest and packs it, with the files that it names, into the bundle that Merus runs; `merus image`, which makes disks for it; and
//! `merus ctl`, the client of a running Merus' control channel.
//!
//! Every check that needs no machine is made here, by the same code that Merus runs when it opens the bundle; each
//! fault is reported with file, line, VM and key, and all faults at once. Exit status: 0 if all is well, 1 if something
//! is refused, 2 if the command line is wrong; `merus ctl` has more of them.
#![forbid(unsafe_code)]

mod ctl;
mod images;
mod inspect;
mod manifest;
mod pack;
mod report;
mod value;

use anyhow::Result;
use clap::{Parser, Subcommand};
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

/// Packs what Merus shall run, and manages what it runs.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a manifest and write the bundle
    Pack {
        /// The manifest
        #[arg(default_value = "merus.toml")]
        manifest: PathBuf,
        /// Where to write the bundle
        #[arg(short, long, default_value = "bundle.merus")]
        output: PathBuf,
        /// Write the bundle even if Merus will refuse it (for tests of that refusal)
        #[arg(long, hide = true)]
        no_check: bool,
    },
    /// Check a manifest and write nothing
    Check {
        /// The manifest
        #[arg(default_value = "merus.toml")]
        manifest: PathBuf,
    },
    /// List what a bundle holds, and check it
    Inspect {
        /// The bundle
        #[arg(default_value = "bundle.merus")]
        bundle: PathBuf,
    },
    /// Make the images of disks
    #[command(subcommand)]
    Image(images::Image),
    /// Manage a running Merus: its VMs, payloads, groups and consoles
    Ctl(Box<ctl::Ctl>),
}

fn main() -> ExitCode {
    let command = match Cli::parse().command {
        Command::Ctl(command) => return ctl::run(&command),
        command => command,
    };
    match run(command) {
        Ok(report) if report.is_empty() => ExitCode::SUCCESS,
        Ok(report) => {
            eprint!("{report}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("merus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command. The report holds what it refused; an error is a failure of the machine it runs on.
fn run(command: Command) -> Result<Report> {
    match command {
        Command::Pack { manifest, output, no_check } => {
            let (plan, report) = manifest::read(&manifest);
            // What is no manifest at all cannot be packed, checks or not.
            let may_write = report.is_empty() || (no_check && report.is_semantic());
            match plan {
                Some(plan) if may_write => {
                    println!("{}", pack::write(&plan, &output)?);
                    Ok(Report::default())
                }
                _ => Ok(report),
            }
        }
        Command::Check { manifest } => {
            let (plan, report) = manifest::read(&manifest);
            if let Some(plan) = plan.filter(|_| report.is_empty()) {
                println!("{}: no fault found ({})", manifest.display(), pack::count(plan.vms.len(), "VM"));
            }
            Ok(report)
        }
        Command::Inspect { bundle } => inspect::print(&bundle),
        Command::Image(command) => {
            images::run(&command)?;
            Ok(Report::default())
        }
        // Not a command with a report.
        Command::Ctl(_) => Ok(Report::default()),
    }
}
