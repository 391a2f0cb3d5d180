//! `cargo xtask test`: set-up, lint, host tests and the QEMU table, closed by one line `N passed, M failed, K skipped`.
//!
//! Everything counted has a name (`lint-fmt`, each libtest test, each row of the table), prints one line when it is done,
//! and is selected by a part of its name. What could not run because something before it failed is skipped; that something
//! is counted as failed.

pub mod flood;
mod rows;

use crate::bench::{self, runs::Board};
use crate::build;
use crate::ctx::{self, Ctx, Step};
use crate::fuzz;
use crate::lint;
use crate::run;
use crate::setup::{self, TargetKind};
use anyhow::{Result, anyhow};
use std::io::{self, Write};
use std::process::Command;
use std::time::{Duration, Instant};

/// What is measured, by name.
const BENCHES: [(&str, Board); 2] = [("bench", Board::GicV3), ("bench-gicv2", Board::GicV2)];

/// The demo of the README that has more than one guest's boot in it.
const DEMO: &str = "demo-net";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// The whole product of CPUs, vCPUs and pCPUs instead of the covering dozen
    #[arg(long)]
    pub all: bool,
    /// Run the QEMU table alone, with HCR_EL2.E2H = 1 (merus.vhe=on); a row that is about a CPU without FEAT_VHE is skipped
    #[arg(long)]
    pub vhe: bool,
    /// Run only what has one of these texts in its name (`lint`, `host`, `linux-max`); a whole name needs no --all
    pub filter: Vec<String>,
}

/// Runs the command; the process ends here, so that the closing line is the last.
///
/// # Errors
/// None; what fails is counted.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let mut tally = Tally::new(args.filter);
    let target = setup::ensure_target(ctx).map_err(|error| format!("{error:#}"));
    if let Err(why) = &target {
        tally.failed("set-up of the target", Duration::ZERO, why);
    }
    if !args.vhe {
        let env = lint::Env { ctx, target: &target };
        // What leaves a CPU idle is done beside what does not: the linker's one thread, and waiting for a server. What fails there is
        // done again, and failed, by who needs it.
        let kind = target.as_ref().ok().filter(|_| tally.filter.is_empty());
        ctx::beside(|| ahead(kind, |kind| build::image_ahead(ctx, kind)), || lint::sources(&env, &mut tally));
        lint::image(&env, &mut tally);
        ctx::beside(|| ahead(kind, |kind| rows::ahead(ctx, kind, args.all)), || host_tests(ctx, &mut tally));
        // Alone: its searches are for so many seconds each.
        tally.check("fuzz", |step| fuzz::check(ctx, step));
    }
    let mut benches: Vec<_> = BENCHES.into_iter().filter(|(name, _)| !args.vhe && tally.selects(name)).collect();
    if let Err(error) = rows::run(ctx, target.as_ref().ok(), args.all, args.vhe, &mut benches, &mut tally) {
        tally.failed("set-up of the QEMU table", Duration::ZERO, &format!("{error:#}"));
    }
    match &target {
        _ if args.vhe => {}
        Ok(kind) => {
            tally.check(DEMO, |step| run::check_net(ctx, step));
            // Those that no row ran beside.
            benches.iter().for_each(|(name, board)| tally.check(name, |step| bench::check(ctx, kind, step, *board)))
        }
        Err(_) => tally.skipped(benches.len() + usize::from(tally.selects(DEMO))),
    }
    tally.close()
}

fn ahead(kind: Option<&TargetKind>, work: impl FnOnce(&TargetKind) -> Result<()>) {
    // Its error is met again.
    let _ = kind.map(work);
}

/// `cargo test` over what runs on the host.
fn host_tests(ctx: &Ctx, tally: &mut Tally) {
    const NAME: &str = "host-tests";
    if tally.selects(NAME) {
        libtest(ctx, tally, NAME, ctx.cargo().args(["test", "--no-fail-fast"]));
    }
}

/// Runs a `cargo test`, each libtest test counted; one line under `name` says how many.
pub fn libtest(ctx: &Ctx, tally: &mut Tally, name: &str, command: &mut Command) {
    let start = Instant::now();
    let step = Step::start(name);
    let done = ctx.run(&step, name, command);
    drop(step);
    let log = std::fs::read_to_string(ctx.log_path(name)).unwrap_or_default();
    let counts = Counts::of(&log);
    tally.passed += counts.passed;
    tally.skipped += counts.ignored;
    tally.failures.extend(counts.failed.iter().cloned());
    match done {
        Ok(()) => {
            tally.say(name, &format!("ok, {} passed, {} ignored", counts.passed, counts.ignored), start.elapsed())
        }
        // What failed has been counted test by test.
        Err(error) if !counts.failed.is_empty() => {
            tally.say(name, &format!("FAILED: {} of {}", counts.failed.len(), counts.all()), start.elapsed());
            println!("{}", failures_of(&log));
            if counts.died != 0 {
                // Nothing but the end of its output says of what.
                println!("    {}", format!("{error:#}").replace('\n', "\n    "));
            }
        }
        Err(error) => tally.failed(name, start.elapsed(), &format!("{error:#}")),
    }
}

/// What libtest reported, over all its programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    ignored: usize,
    /// Each that failed, and a line for each program that died.
    failed: Vec<String>,
    died: usize,
}

impl Counts {
    /// Reads the output of `cargo test`. The lines of standard output and standard error may have changed places, so each is
    /// read by itself. A program that died before its own totals counts as one failure.
    fn of(log: &str) -> Self {
        let mut counts = Self::default();
        let (mut failed_totals, mut failed_programs) = (0, Vec::new());
        for line in log.lines().map(str::trim) {
            if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                counts.failed.push(test.to_owned());
            } else if let Some(totals) = line.strip_prefix("test result: ") {
                counts.passed += number_before(totals, " passed");
                counts.ignored += number_before(totals, " ignored");
                failed_totals += usize::from(totals.starts_with("FAILED"));
            } else if let Some((_, program)) = line.split_once("test failed, to rerun pass ") {
                failed_programs.push(program);
            }
        }
        counts.died = failed_programs.len().saturating_sub(failed_totals);
        let one = format!("a test program died (one of {})", failed_programs.join(", "));
        counts.failed.extend(std::iter::repeat_n(one, counts.died));
        counts
    }

    fn all(&self) -> usize {
        self.passed + self.ignored + self.failed.len()
    }
}

/// The number that stands before `word`; 0 where there is none.
fn number_before(text: &str, word: &str) -> usize {
    let before = text.split_once(word).map(|(before, _)| before).unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What failed tests printed.
fn failures_of(log: &str) -> String {
    let mut text = String::new();
    let mut within = false;
    for line in log.lines() {
        within = match line {
            "failures:" => true,
            _ if line.starts_with("test result:") => false,
            _ => within,
        };
        if within && !line.is_empty() {
            text.push_str("    ");
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// What has been counted so far.
pub struct Tally {
    filter: Vec<String>,
    passed: usize,
    skipped: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Nothing counted yet; an empty filter selects everything.
    pub fn new(filter: Vec<String>) -> Self {
        Self { filter, passed: 0, skipped: 0, failures: Vec::new() }
    }

    /// Whether the user asked for this name.
    pub fn selects(&self, name: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|text| name.contains(text.as_str()))
    }

    /// Whether the user asked for exactly this name.
    pub fn names(&self, name: &str) -> bool {
        self.filter.iter().any(|text| text == name)
    }

    /// Runs a check under a step of its name, if it is selected.
    pub fn check(&mut self, name: &str, check: impl FnOnce(&Step) -> Result<()>) {
        if !self.selects(name) {
            return;
        }
        let start = Instant::now();
        let step = Step::start(name);
        let done = check(&step);
        drop(step);
        match done {
            Ok(()) => self.passed(name, start.elapsed()),
            Err(error) => self.failed(name, start.elapsed(), &format!("{error:#}")),
        }
    }

    /// Counts a success.
    pub fn passed(&mut self, name: &str, took: Duration) {
        self.passed += 1;
        self.say(name, "ok", took);
    }

    /// Counts a failure and says why.
    pub fn failed(&mut self, name: &str, took: Duration, why: &str) {
        self.failures.push(name.to_owned());
        self.say(name, "FAILED", took);
        println!("    {}", why.replace('\n', "\n    "));
    }

    /// Counts what could not run.
    pub fn skipped(&mut self, names: usize) {
        self.skipped += names;
    }

    fn say(&self, name: &str, how: &str, took: Duration) {
        println!("test {name} ... {how} ({:.1} s)", took.as_secs_f32());
        let _ = io::stdout().flush();
    }

    /// The closing line.
    fn summary(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failures.len(), self.skipped)
    }

    /// Names what failed, prints the closing line, and ends the program with status 1 if anything failed.
    ///
    /// # Errors
    /// Nothing was selected: a filter that fits nothing is a typing error.
    pub fn close(self) -> Result<()> {
        if !self.filter.is_empty() && self.passed + self.skipped + self.failures.len() == 0 {
            return Err(anyhow!("nothing is called `{}`", self.filter.join("` or `")));
        }
        if !self.failures.is_empty() {
            println!("failed: {}", self.failures.join(", "));
        }
        println!("{}", self.summary());
        let _ = io::stdout().flush();
        if self.failures.is_empty() { Ok(()) } else { std::process::exit(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
   Compiling addr v0.1.0
     Running unittests src/lib.rs (target/debug/deps/addr-1)

running 3 tests
test tests::one ... ok
test tests::two ... FAILED
test tests::three ... ignored

failures:

---- tests::two stdout ----
assertion failed: x

failures:
    tests::two

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running unittests src/lib.rs (target/debug/deps/bus-2)

running 12 tests
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests addr

running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
";

    #[test]
    fn libtest_output_is_counted() {
        let counts = Counts::of(LOG);
        assert_eq!((counts.passed, counts.ignored, counts.all()), (14, 1, 16));
        assert_eq!(counts.failed, ["tests::two"]);
        assert_eq!(Counts::of("error: could not compile"), Counts::default());
    }

    #[test]
    fn a_test_program_that_dies_is_a_failure() {
        // The first one's totals come late, as from another pipe.
        let log = "error: test failed, to rerun pass `-p a --lib`\nerror: doctest failed, to rerun pass `-p a --doc`\n\
                   error: test failed, to rerun pass `-p b --lib`\ntest x ... FAILED\ntest src/a.rs - f (line 1) ... FAILED\n\
                   test result: FAILED. 0 passed; 1 failed; 0 ignored\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        let counts = Counts::of(log);
        assert_eq!((counts.failed.len(), counts.died), (3, 1));
        assert!(counts.failed[2].contains("died") && counts.failed[2].contains("`-p b --lib`"));
    }

    /// As when Miri finds a leak, after all tests have passed, or stops in the middle of one.
    #[test]
    fn a_program_that_fails_behind_its_tests_is_a_failure() {
        let leak = "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\nerror: memory leaked\n\
                    error: test failed, to rerun pass `-p a --lib`\n";
        let counts = Counts::of(leak);
        assert_eq!((counts.passed, counts.failed.len(), counts.died), (1, 1, 1));
        let stop =
            "test a ... ok\ntest b ... error: Undefined Behavior: x\nerror: test failed, to rerun pass `-p a --lib`\n";
        assert_eq!(Counts::of(stop).died, 1);
    }

    #[test]
    fn what_failed_tests_printed_is_shown() {
        let text = failures_of(LOG);
        assert!(text.contains("assertion failed: x") && !text.contains("three"), "{text}");
    }

    #[test]
    fn the_filter_selects_by_parts_of_names() {
        let all = Tally::new(Vec::new());
        assert!(all.selects("lint-fmt") && !all.names("lint-fmt"));
        let some = Tally::new(vec!["lint".to_owned(), "linux-max-4v-1p".to_owned()]);
        assert!(some.selects("lint-fmt") && !some.selects("host-tests"));
        assert!(some.names("linux-max-4v-1p") && !some.names("lint-fmt"));
    }

    #[test]
    fn the_closing_line_counts_everything() {
        let mut tally = Tally::new(Vec::new());
        tally.passed("a", Duration::ZERO);
        tally.failed("b", Duration::ZERO, "why");
        tally.skipped(3);
        assert_eq!(tally.summary(), "1 passed, 1 failed, 3 skipped");
    }
}
