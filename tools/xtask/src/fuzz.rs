//! `cargo xtask fuzz`: builds the fuzzer of the virtio devices (`tools/fuzz`) with the compiler's coverage counters, and runs its targets,
//! as many at a time as the host has CPUs.
//!
//! The counters come from an LLVM pass that the stable compiler has; what they belong to is built apart, so nothing else is built anew. What
//! the fuzzer keeps is below `target/fuzz`: inputs that reached something, to begin with the next time, and those that fail.

use crate::ctx::{self, Ctx, Step};
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Run only these targets (`blk`)
    pub targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Where the random numbers begin; without it the search goes on from what is kept in target/fuzz
    #[arg(long)]
    pub seed: Option<u64>,
    /// Run one target with this input, which failed before
    #[arg(long, requires = "targets", conflicts_with = "seconds")]
    pub replay: Option<PathBuf>,
}

/// Seconds of a target in `cargo xtask test`.
const IN_TEST: u64 = 15;

/// A counter for each edge, which is how inputs that reach something new are told from others.
const COVERAGE: [&str; 3] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
];

/// Runs the command.
///
/// # Errors
/// When it cannot be built, there is no such target, or one of them fails.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let fuzzer = Fuzzer::build(ctx, &Step::start("building the fuzzer"))?;
    for name in &args.targets {
        if !fuzzer.targets.contains(name) {
            bail!("no target is called `{name}`; there are {}", fuzzer.targets.join(", "));
        }
    }
    if let Some(path) = &args.replay {
        let [target] = args.targets.as_slice() else { bail!("--replay is for one target") };
        let status = Command::new(&fuzzer.program).arg(target).arg("--replay").arg(path).status()?;
        if !status.success() {
            bail!("the input fails still");
        }
        return Ok(());
    }
    let targets = if args.targets.is_empty() { &fuzzer.targets } else { &args.targets };
    let results = fuzzer.run(targets, &Search { seconds: args.seconds, seed: args.seed });
    results.iter().for_each(|(_, result)| match result {
        Ok(line) => println!("{line}"),
        Err(error) => println!("{error:#}"),
    });
    let failed: Vec<&str> = results.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect();
    if !failed.is_empty() {
        bail!("a failure in {}", failed.join(", "));
    }
    Ok(())
}

/// What `cargo xtask test` runs: each target for a while, always from the same start.
///
/// # Errors
/// When the fuzzer cannot be built, or finds something.
pub fn check(ctx: &Ctx, step: &Step) -> Result<()> {
    step.say("building the fuzzer");
    let fuzzer = Fuzzer::build(ctx, step)?;
    step.say("each target for a while");
    for (_, result) in fuzzer.run(&fuzzer.targets, &Search { seconds: IN_TEST, seed: Some(1) }) {
        step.println(result?);
    }
    Ok(())
}

/// How long, and where it begins. Without a seed it begins with what is kept.
struct Search {
    seconds: u64,
    seed: Option<u64>,
}

/// The fuzzer, built.
struct Fuzzer {
    program: PathBuf,
    /// Where it keeps inputs.
    kept: PathBuf,
    targets: Vec<String>,
}

impl Fuzzer {
    fn build(ctx: &Ctx, step: &Step) -> Result<Self> {
        // The counters are the program's own alone, not its build scripts' and macros': so it is for a target that has a name.
        let version = ctx::capture(Command::new("rustc").arg("-vV").current_dir(&ctx.root))?;
        let host =
            version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
        let dir = ctx.root.join("target/fuzz");
        let mut command = ctx.cargo();
        command.args(["build", "--quiet", "--profile", "fuzz", "--package", "fuzz", "--target", host]);
        command.env("CARGO_TARGET_DIR", &dir).env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
        ctx.run(step, "fuzz-build", &mut command)?;
        let program = dir.join(host).join("fuzz/fuzz");
        let targets = ctx::capture(&mut Command::new(&program))?;
        Ok(Self { targets: targets.lines().map(str::to_owned).collect(), program, kept: dir })
    }

    /// Runs targets side by side; what became of each, in their order.
    fn run<'a>(&self, targets: &'a [String], search: &Search) -> Vec<(&'a str, Result<String>)> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let jobs = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some((n, name)) =
                        Some(next.fetch_add(1, Relaxed)).and_then(|n| Some((n, targets.get(n)?)))
                    {
                        let result = self.one(name, search);
                        results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((
                            n,
                            name.as_str(),
                            result,
                        ));
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        results.sort_by_key(|(n, ..)| *n);
        results.into_iter().map(|(_, name, result)| (name, result)).collect()
    }

    /// Runs a target; its closing line, or, as an error, all that it says.
    fn one(&self, name: &str, search: &Search) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg(name).args(["--seconds", &search.seconds.to_string()]);
        command.arg("--failures").arg(self.kept.join("failures"));
        match search.seed {
            Some(seed) => command.args(["--seed", &seed.to_string()]),
            None => command
                .args(["--seed", &std::process::id().to_string()])
                .arg("--corpus")
                .arg(self.kept.join("corpus").join(name)),
        };
        let output = command.stderr(std::process::Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if !output.status.success() {
            bail!("{text}\nfuzz {name}: {}", output.status);
        }
        if text.contains("blindly") {
            bail!("{text}\nthe fuzzer was built without its counters");
        }
        Ok(text)
    }
}
