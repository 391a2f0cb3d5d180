//! `cargo xtask lint`: what must hold of the sources and of the image.
//!
//! | check | what it holds |
//! |---|---|
//! | `lint-fmt` | rustfmt has nothing to change |
//! | `lint-clippy-host` | no warning in what runs on the host, tests included |
//! | `lint-clippy-target` | no warning in what runs on AArch64, every payload included |
//! | `lint-arrows` | rooms know only whom `tools/ci/arrows.toml` lets them know |
//! | `lint-pure` | each pure room is `no_std`, forbids unsafe code and denies what could panic |
//! | `lint-unsafe` | each unsafe block, implementation and extern block says why it is sound |
//! | `lint-supply` | licences, sources, bans and duplicates by `deny.toml` |
//! | `lint-paths` | no tracked file names a directory of somebody's machine |
//! | `lint-fp` | no FP/SIMD instruction in merus.elf |
//! | `lint-e2h` | each access to a register that HCR_EL2.E2H redirects is recorded in merus.elf |

mod supply;
mod unsafety;

use crate::arrows::{self, Rules};
use crate::build;
use crate::ctx::{self, Ctx, Step};
use crate::e2h_scan;
use crate::fp_scan;
use crate::setup::{self, TargetKind};
use crate::test::Tally;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use supply::Policy;

/// Arguments of `cargo xtask lint`.
#[derive(clap::Args)]
pub struct Args {
    /// Run only checks whose name contains one of these texts
    pub filter: Vec<String>,
}

/// Arguments of `cargo xtask deny`.
#[derive(clap::Args)]
pub struct DenyArgs {}

/// What a check needs.
pub struct Env<'a> {
    /// Where things are.
    pub ctx: &'a Ctx,
    /// How to build for the target; a line why not where that failed.
    pub target: &'a Result<TargetKind, String>,
}

/// A check: its name, and what runs it under a step.
type Check = (&'static str, fn(&Env<'_>, &Step) -> Result<()>);

/// Those that are about the sources.
const SOURCES: [Check; 8] = [
    ("lint-fmt", fmt),
    ("lint-clippy-host", clippy_host),
    ("lint-clippy-target", clippy_target),
    ("lint-arrows", check_arrows),
    ("lint-pure", pure_rooms),
    ("lint-unsafe", check_unsafe),
    ("lint-supply", check_supply),
    ("lint-paths", paths),
];

/// Those that are about the image, and need it built.
const IMAGE: [Check; 2] = [("lint-fp", fp), ("lint-e2h", e2h)];

/// Packages that the host's tests build as well, and that have code for AArch64 alone.
const ON_BOTH: [&str; 3] = ["boot", "platform", "el2"];

/// Runs the command.
///
/// # Errors
/// When the target cannot be set up; failed checks end the program.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let mut tally = Tally::new(args.filter);
    let target = setup::ensure_target(ctx).map_err(|error| format!("{error:#}"));
    let env = Env { ctx, target: &target };
    sources(&env, &mut tally);
    image(&env, &mut tally);
    tally.close()
}

/// Runs the checks of the sources that the tally selects.
pub fn sources(env: &Env<'_>, tally: &mut Tally) {
    run(&SOURCES, env, tally);
}

/// Runs the checks of the image that the tally selects.
pub fn image(env: &Env<'_>, tally: &mut Tally) {
    run(&IMAGE, env, tally);
}

fn run(checks: &[Check], env: &Env<'_>, tally: &mut Tally) {
    for (name, check) in checks {
        tally.check(name, |step| check(env, step));
    }
}

fn fmt(env: &Env<'_>, step: &Step) -> Result<()> {
    env.ctx.run(step, "lint-fmt", env.ctx.cargo().args(["fmt", "--all", "--", "--check"]))
}

fn clippy_host(env: &Env<'_>, step: &Step) -> Result<()> {
    let mut command = env.ctx.cargo();
    command.args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]);
    env.ctx.run(step, "lint-clippy-host", &mut command)
}

fn clippy_target(env: &Env<'_>, step: &Step) -> Result<()> {
    let kind = env.target_kind()?;
    let metadata = env.metadata()?;
    let packages = ON_BOTH.into_iter().chain(target_only(&metadata)?).collect::<Vec<_>>();
    // What only a feature compiles is linted with it.
    for (packages, features) in [(&packages[..], &[][..]), (&["hypervisor", "el2"], &["--features", "debug-fp"])] {
        let mut command = env.ctx.cargo();
        command.args(["clippy", "--quiet"]);
        kind.apply(&mut command);
        command.args(packages.iter().flat_map(|package| ["-p", package])).args(features).args(["--", "-D", "warnings"]);
        env.ctx.run(step, "lint-clippy-target", &mut command)?;
    }
    Ok(())
}

/// The workspace's packages that a plain cargo command leaves out: what runs on AArch64 only, every payload among them.
fn target_only(metadata: &Value) -> Result<Vec<&str>> {
    let list = |key: &str| metadata[key].as_array().with_context(|| format!("cargo metadata has no {key}"));
    let host = list("workspace_default_members")?;
    let packages = list("packages")?.iter().filter(|package| !host.contains(&package["id"]));
    packages.map(|package| package["name"].as_str().context("a package without a name")).collect()
}

impl Env<'_> {
    fn target_kind(&self) -> Result<&TargetKind> {
        self.target.as_ref().map_err(|why| anyhow::anyhow!("{why}"))
    }

    fn rules_and_members(&self) -> Result<(Rules, arrows::Members)> {
        let rules = Rules::parse(&read(&self.ctx.root.join("tools/ci/arrows.toml"))?)?;
        Ok((rules, arrows::members(&self.metadata()?)?))
    }

    /// What cargo says of the workspace.
    fn metadata(&self) -> Result<Value> {
        let metadata = ctx::capture(self.ctx.cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&metadata).context("cargo metadata printed no JSON")
    }
}

fn check_arrows(env: &Env<'_>, _step: &Step) -> Result<()> {
    let (rules, members) = env.rules_and_members()?;
    none_of(arrows::violations(&rules, &members))
}

/// What the head of each pure room's `lib.rs` must have.
const PURE_HEAD: [&str; 7] = [
    "#![no_std]",
    "#![forbid(unsafe_code)]",
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::panic",
    "clippy::indexing_slicing",
    "clippy::arithmetic_side_effects",
];

fn pure_rooms(env: &Env<'_>, _step: &Step) -> Result<()> {
    let (rules, members) = env.rules_and_members()?;
    let mut lines = Vec::new();
    for (name, member) in &members {
        let manifest = read(&member.manifest)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            lines.push(format!("{name}: its Cargo.toml does not take the workspace's lints"));
        }
        if rules.pure_rooms().any(|pure| pure == name) {
            let lib = read(&member.manifest.with_file_name("src").join("lib.rs"))?;
            lines.extend(
                PURE_HEAD.iter().filter(|text| !lib.contains(**text)).map(|text| format!("{name}: lacks {text}")),
            );
        }
    }
    none_of(lines)
}

fn check_supply(env: &Env<'_>, step: &Step) -> Result<()> {
    let policy = Policy::parse(&read(&env.ctx.root.join("deny.toml"))?)?;
    step.say("cargo metadata");
    let mut command = env.ctx.cargo();
    command.args(["metadata", "--format-version", "1", "--locked"]);
    command.args(policy.targets().iter().flat_map(|target| ["--filter-platform", target]));
    let metadata = ctx::capture(&mut command)?;
    none_of(policy.violations(&serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?)?)
}

/// Directories that are somebody's own: what stands below them is on no other machine.
const OWN_DIRS: [&str; 4] = ["root", "work", "home", "Users"];

fn paths(env: &Env<'_>, _step: &Step) -> Result<()> {
    let mut lines = Vec::new();
    for (file, text) in tracked(env.ctx, &[])? {
        for (number, line) in text.lines().enumerate() {
            lines.extend(own_dir(line).map(|dir| format!("{file}:{}: names {dir}", number + 1)));
        }
    }
    none_of(lines)
}

fn check_unsafe(env: &Env<'_>, _step: &Step) -> Result<()> {
    let mut lines = Vec::new();
    for (file, text) in tracked(env.ctx, &["*.rs"])? {
        let found = unsafety::undocumented(&text);
        lines
            .extend(found.iter().map(|(line, what)| format!("{file}:{line}: this unsafe {what} has no `// SAFETY: `")));
    }
    none_of(lines)
}

/// The tracked files that match one of `patterns` (all, where there are none), with their text. One that is deleted but not yet
/// committed is listed by Git too, and one that is no text is not looked at.
fn tracked(ctx: &Ctx, patterns: &[&str]) -> Result<Vec<(String, String)>> {
    let mut command = Command::new("git");
    let files = ctx::capture(command.args(["ls-files", "-z", "--"]).args(patterns).current_dir(&ctx.root))?;
    let read = |file: &str| Some((file.to_owned(), fs::read_to_string(ctx.root.join(file)).ok()?));
    Ok(files.split('\0').filter(|file| !file.is_empty()).filter_map(read).collect())
}

/// The absolute path of somebody's own directory in a line; `usr/root/` and `{}/root/` are none.
fn own_dir(line: &str) -> Option<String> {
    OWN_DIRS.iter().map(|dir| format!("/{dir}/")).find(|dir| {
        line.match_indices(dir.as_str()).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '}' | '.' | '_' | '-' | '*' | '/' | '~'))
        })
    })
}

fn fp(env: &Env<'_>, step: &Step) -> Result<()> {
    let built = build::build(env.ctx, env.target_kind()?)?;
    let image = fs::read(&built.elf).with_context(|| format!("cannot read {}", built.elf.display()))?;
    let report = fp_scan::scan(&image).with_context(|| built.elf.display().to_string())?;
    step.println(format!(
        "xtask: {} instructions in merus.elf, {} of them switch a guest's FP registers",
        report.instructions, report.exempt
    ));
    none_of(report.findings.iter().map(ToString::to_string).collect())
}

fn e2h(env: &Env<'_>, step: &Step) -> Result<()> {
    let built = build::build(env.ctx, env.target_kind()?)?;
    let image = fs::read(&built.elf).with_context(|| format!("cannot read {}", built.elf.display()))?;
    let report = e2h_scan::scan(&image).with_context(|| built.elf.display().to_string())?;
    step.println(format!("xtask: {} accesses to registers that E2H redirects are recorded", report.recorded));
    none_of(report.findings)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// An error that lists the lines, unless there are none.
fn none_of(lines: Vec<String>) -> Result<()> {
    const SHOWN: usize = 40;
    if lines.is_empty() {
        return Ok(());
    }
    let more = lines.len().saturating_sub(SHOWN);
    let mut text = lines.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n  ");
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    bail!("{text}")
}

/// `cargo xtask deny`: runs cargo-deny, after building it into the cache where it is not installed.
///
/// # Errors
/// When it cannot be built, or finds something.
pub fn deny(ctx: &Ctx, _args: DenyArgs) -> Result<()> {
    let own = ctx.cache.join("cargo-deny");
    let installed = Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success());
    let program = if installed { "cargo-deny".into() } else { own.join("bin/cargo-deny") };
    if !installed && !program.is_file() {
        let step = Step::start("building cargo-deny (some minutes, once)");
        let mut command = ctx.cargo();
        command.args(["install", "cargo-deny", "--locked", "--root"]).arg(&own);
        // Not in the checkout: this directory's toolchain and flags are for Merus.
        ctx.run(&step, "cargo-deny", command.current_dir(&ctx.cache))?;
        step.done("built");
    }
    let mut command = Command::new(program);
    command.args(["check", "licenses", "bans", "sources"]).current_dir(&ctx.root);
    if !command.status().context("cannot start cargo-deny")?.success() {
        bail!("cargo-deny found something");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_directories_are_seen_and_relative_paths_are_not() {
        let found = |line: &str| own_dir(&line.replace('@', "/"));
        assert_eq!(found("see @root@x").as_deref(), Some(["", "root", ""].join("/").as_str()));
        assert!(found("\"@work@main\"").is_some());
        assert!(found("@home@me").is_some());
        for line in ["a@root@x", "{}@root@x", "..@work@x", "sys_root@lib", "@rooted@x", "@work", "x@y.home@z"] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn what_a_plain_command_leaves_out_runs_on_the_target() {
        let metadata = serde_json::json!({
            "packages": [{ "name": "addr", "id": "a" }, { "name": "guest-new", "id": "b" }],
            "workspace_default_members": ["a"],
        });
        assert_eq!(target_only(&metadata).unwrap(), ["guest-new"]);
        assert!(target_only(&serde_json::json!({ "packages": [] })).is_err());
    }

    #[test]
    fn a_list_of_breaches_is_an_error() {
        assert!(none_of(Vec::new()).is_ok());
        assert_eq!(none_of(vec!["a".to_owned(), "b".to_owned()]).unwrap_err().to_string(), "a\n  b");
        assert!(none_of(vec![String::new(); 50]).unwrap_err().to_string().ends_with("and 10 more"));
    }
}
