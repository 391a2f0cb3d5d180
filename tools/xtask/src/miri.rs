//! `cargo xtask miri`: the unit tests of the pure rooms (and of `sync`, their locks) under Miri.
//!
//! The rooms have no unsafe code of their own; Miri sees what they are built on (spin locks, boxed slices, the crates) and
//! the tests' threads: undefined behaviour, data races, leaks, pointers made of numbers. It is some hundred times slower
//! than the machine, so tests that try many cases try few under it (`cfg!(miri)`, `PROPTEST_CASES`), a few are left out, and
//! the command is no part of `test`. One room after the other is run, whatever became of those before.

use crate::arrows::Rules;
use crate::ctx::{self, Ctx, Step};
use crate::test::{Tally, libtest};
use anyhow::{Context as _, Result, bail};
use std::process::Command;

/// Arguments of `cargo xtask miri`.
#[derive(clap::Args)]
pub struct Args {
    /// Run only these rooms (`vgic`)
    pub rooms: Vec<String>,
}

/// Miri comes with nightly toolchains only.
const TOOLCHAIN: &str = "nightly";
/// Miri itself, and the standard library's sources, of which it builds its own.
const COMPONENTS: [&str; 2] = ["miri", "rust-src"];
/// Random cases of a test that does not say how many.
const CASES: &str = "1";
/// A pointer made of a number would be nobody's; proptest reads the clock and looks for the seeds of former failures in files.
const FLAGS: &str = "-Zmiri-strict-provenance -Zmiri-disable-isolation";
/// Looked at beside the pure rooms: their locks.
const LOCKS: &str = "sync";

/// Runs the command; the process ends here if a room fails.
///
/// # Errors
/// When a room is asked for that is none, or there is no Miri to run, with the remedy.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let table = ctx.root.join("tools/ci/arrows.toml");
    let table = std::fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let rules = Rules::parse(&table)?;
    let rooms = choose(rules.pure_rooms().chain([LOCKS]).collect(), &args.rooms)?;
    let step = Step::start("setting up Miri");
    set_up(ctx, &step)?;
    step.done("ready");
    let mut tally = Tally::new(Vec::new());
    for room in rooms {
        libtest(ctx, &mut tally, &format!("miri-{room}"), miri(ctx).args(["test", "--lib", "-p", room]));
    }
    tally.close()
}

/// Those of the rooms that were asked for by name, all where none was.
fn choose<'a>(all: Vec<&'a str>, wanted: &[String]) -> Result<Vec<&'a str>> {
    if let Some(unknown) = wanted.iter().find(|room| !all.contains(&room.as_str())) {
        bail!("no room that runs under Miri is called `{unknown}`; there are {}", all.join(", "));
    }
    Ok(all.into_iter().filter(|room| wanted.is_empty() || wanted.iter().any(|name| name == room)).collect())
}

/// `cargo miri` of the nightly toolchain, with a target directory of its own: two toolchains in one build everything anew
/// at each change between them.
fn miri(ctx: &Ctx) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", TOOLCHAIN, "cargo", "miri"]).current_dir(&ctx.root);
    // What this program's own cargo was told.
    for name in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(name);
    }
    command.env("CARGO_TARGET_DIR", ctx.target_dir.join("miri"));
    command.env("MIRIFLAGS", FLAGS).env("PROPTEST_CASES", CASES);
    command
}

/// Makes sure of the toolchain, its components, and Miri's standard library.
fn set_up(ctx: &Ctx, step: &Step) -> Result<()> {
    let toolchains = ctx::capture(Command::new("rustup").args(["toolchain", "list"]))?;
    if !has_toolchain(&toolchains) {
        bail!(
            "Miri needs a nightly toolchain; install one with `rustup toolchain install {TOOLCHAIN} --profile minimal \
             --component {}`",
            COMPONENTS.join(" --component ")
        );
    }
    let mut list = Command::new("rustup");
    list.args(["component", "list", "--installed", "--toolchain", TOOLCHAIN]);
    let missing = missing(&ctx::capture(&mut list)?);
    if !missing.is_empty() {
        let mut add = Command::new("rustup");
        add.args(["component", "add", "--toolchain", TOOLCHAIN]).args(&missing);
        ctx.run(step, "miri-component", &mut add).with_context(|| {
            format!(
                "the nightly toolchain here has no {}: a nightly of another day may (`rustup update {TOOLCHAIN}`)",
                missing.join(" and no ")
            )
        })?;
    }
    ctx.run(step, "miri-setup", miri(ctx).arg("setup"))
        .context("Miri cannot build its standard library from the toolchain's rust-src")
}

/// Whether `rustup toolchain list` has a toolchain that `nightly` stands for.
fn has_toolchain(list: &str) -> bool {
    // A dated one is `nightly-2026-01-31-<host>`; `nightly` is not that.
    let named = |line: &str| line.strip_prefix(TOOLCHAIN)?.strip_prefix('-')?.chars().next();
    list.lines().any(|line| named(line.trim()).is_some_and(|first| !first.is_ascii_digit()))
}

/// The components that `rustup component list --installed` lacks.
fn missing(installed: &str) -> Vec<&'static str> {
    let has = |name: &str| {
        installed
            .lines()
            .filter_map(|line| line.trim().strip_prefix(name))
            .any(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    COMPONENTS.into_iter().filter(|name| !has(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_asked_for_by_their_whole_name() {
        let (all, names) =
            (vec!["trap", "vgic", "vm"], |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(choose(all.clone(), &[]).unwrap(), all);
        assert_eq!(choose(all.clone(), &names(&["vm", "trap"])).unwrap(), ["trap", "vm"]);
        let refused = choose(all, &names(&["vm", "v"])).unwrap_err().to_string();
        assert_eq!(refused, "no room that runs under Miri is called `v`; there are trap, vgic, vm");
    }

    #[test]
    fn a_dated_nightly_is_not_the_nightly() {
        assert!(has_toolchain("stable-x86_64-unknown-linux-gnu (active, default)\nnightly-x86_64-unknown-linux-gnu\n"));
        assert!(!has_toolchain("stable-x86_64-unknown-linux-gnu\nnightly-2026-01-31-x86_64-unknown-linux-gnu\n"));
        assert!(!has_toolchain(""));
    }

    #[test]
    fn components_are_known_with_and_without_their_host() {
        let list = "cargo-x86_64-unknown-linux-gnu\nmiri-x86_64-unknown-linux-gnu\nrust-src\nrust-std-x86_64-unknown-linux-gnu\n";
        assert!(missing(list).is_empty());
        assert_eq!(missing("rust-std-x86_64-unknown-linux-gnu\n"), ["miri", "rust-src"]);
    }
}
