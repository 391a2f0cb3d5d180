//! What every command shares: where things are, running children, and showing progress.

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The one target that Merus and its test payloads are built for.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Lines of a failed child's output that its error repeats.
const TAIL: usize = 30;

/// Where things are.
pub struct Ctx {
    /// The workspace's directory.
    pub root: PathBuf,
    /// Where cargo puts what it builds (`target`, or the user's own choice).
    pub target_dir: PathBuf,
    /// Everything fetched: always `target/cache` in the checkout, so that it is fetched once however cargo is configured.
    pub cache: PathBuf,
    /// What a user takes away: always `target/merus` in the checkout.
    pub merus_dir: PathBuf,
    /// The cargo that started this program.
    cargo: PathBuf,
}

impl Ctx {
    /// Finds the workspace and makes the output directories.
    ///
    /// # Errors
    /// When cargo cannot describe the workspace or `target` cannot be written.
    pub fn new() -> Result<Self> {
        let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let mut command = Command::new(&cargo);
        command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
        // Set by `cargo run`: where the crate is, so that the command works from any directory. The child itself stays in
        // the user's, against which cargo reads a relative target directory.
        if let Some(manifest_dir) = std::env::var_os("CARGO_MANIFEST_DIR") {
            command.arg("--manifest-path").arg(Path::new(&manifest_dir).join("Cargo.toml"));
        }
        let metadata: serde_json::Value =
            serde_json::from_str(&capture(&mut command)?).context("cargo metadata printed no JSON")?;
        let path = |key: &str| -> Result<PathBuf> {
            Ok(PathBuf::from(metadata[key].as_str().with_context(|| format!("cargo metadata lacks {key}"))?))
        };
        let root = path("workspace_root")?;
        let ctx = Self {
            target_dir: path("target_directory")?,
            cache: root.join("target/cache"),
            merus_dir: root.join("target/merus"),
            cargo,
            root,
        };
        for dir in [&ctx.cache, &ctx.merus_dir] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(ctx)
    }

    /// A cargo command in the workspace's directory, free of the user's flags for other projects.
    ///
    /// `RUSTFLAGS` and its relatives would replace the flags of `.cargo/config.toml`, and with them the image's shape.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.root);
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        command.env_remove("CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_RUSTFLAGS");
        command.env("CARGO_TARGET_DIR", &self.target_dir);
        command
    }

    /// Where the output of children goes: `target/merus/log/<name>.log`.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.merus_dir.join("log").join(format!("{name}.log"))
    }

    /// Runs a child under a running step, its output going to [`log_path`](Self::log_path)`(log)`.
    ///
    /// # Errors
    /// When it cannot be started, or ends with another status than 0; then the error repeats the output's end.
    pub fn run(&self, step: &Step, log: &str, command: &mut Command) -> Result<()> {
        let path = self.log_path(log);
        fs::create_dir_all(path.parent().unwrap_or(&self.merus_dir))?;
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let tail = Arc::new(Mutex::new(Tail { file, lines: Vec::new() }));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| cannot_start(command))?;
        let out = child.stdout.take().map(|pipe| follow(pipe, Arc::clone(&tail), step.bar.clone()));
        let err = child.stderr.take().map(|pipe| follow(pipe, Arc::clone(&tail), step.bar.clone()));
        let status = child.wait()?;
        for reader in [out, err].into_iter().flatten() {
            let _ = reader.join();
        }
        if status.success() {
            return Ok(());
        }
        let lines = tail.lock().map(|tail| tail.lines.join("\n  ")).unwrap_or_default();
        bail!(
            "`{}` failed ({status}); {} has all of its output, which ended:\n  {lines}",
            shown(command),
            path.display()
        )
    }
}

/// The output of a child as it comes: to a file, and the last lines kept.
struct Tail {
    file: File,
    lines: Vec<String>,
}

/// Copies a child's pipe line by line into the log and shows the newest line beside the spinner.
fn follow(
    pipe: impl std::io::Read + Send + 'static,
    tail: Arc<Mutex<Tail>>,
    bar: Option<ProgressBar>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(bar) = &bar {
                bar.set_message(line.trim_start().chars().take(60).collect::<String>());
            }
            let Ok(mut tail) = tail.lock() else { return };
            let _ = writeln!(tail.file, "{line}");
            if tail.lines.len() == TAIL {
                tail.lines.remove(0);
            }
            tail.lines.push(line);
        }
    })
}

/// Runs a child and returns its standard output.
///
/// # Errors
/// When it cannot be started, fails (the error holds its standard error), or prints no UTF-8.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!("`{}` failed ({}):\n  {}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no UTF-8", shown(command)))
}

/// A command as an error message shows it: program and arguments.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

fn cannot_start(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let remedy = match program.as_ref() {
        "apt-get" | "apt-cache" | "apt-config" | "dpkg-deb" | "dpkg" => {
            " (set-up fetches Debian packages with apt: on another distribution put qemu-system-aarch64 9 or newer on PATH \
             and run this in a Debian container once)"
        }
        "rustup" | "rustc" | "cargo" => " (install rustup and its stable toolchain)",
        _ => "",
    };
    format!("cannot start `{program}`{remedy}")
}

thread_local! {
    /// Whether this thread's steps leave the terminal to another thread's.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// From here on this thread's steps show nothing on a terminal, where another thread has its own, and only their end elsewhere.
pub fn quiet() {
    QUIET.set(true);
}

/// Runs `early` on a quiet thread of its own, beside `main`; both are over when this returns.
pub fn beside<T>(early: impl FnOnce() + Send, main: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        scope.spawn(|| {
            quiet();
            early();
        });
        main()
    })
}

/// A long step that shows it is alive: a spinner on a terminal, a line at its start and end elsewhere.
pub struct Step {
    bar: Option<ProgressBar>,
    /// Of a [`quiet`] thread.
    quiet: bool,
    name: String,
    start: Instant,
}

impl Step {
    /// Starts a step; `name` says what is being done ("fetching QEMU").
    pub fn start(name: impl Into<String>) -> Self {
        let (name, quiet) = (name.into(), QUIET.get());
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() && !quiet {
            eprintln!("xtask: {name} ...");
        }
        Self { bar, quiet, name, start: Instant::now() }
    }

    /// Shows what the step does now (a terminal only).
    pub fn say(&self, message: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.into());
        }
    }

    /// Prints a line that stays, above the spinner where there is one.
    pub fn println(&self, line: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{}", line.as_ref())),
            None if self.hidden() => {}
            None => eprintln!("{}", line.as_ref()),
        }
    }

    /// Ends the step well; `result` says what it gave.
    pub fn done(self, result: impl AsRef<str>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f32();
        if !self.hidden() {
            eprintln!("xtask: {}: {} ({seconds:.1} s)", self.name, result.as_ref());
        }
    }

    /// Whether a line of it would come into another thread's spinner.
    fn hidden(&self) -> bool {
        self.quiet && std::io::stderr().is_terminal()
    }
}

impl Drop for Step {
    /// A step that is dropped without [`done`](Step::done) failed: the spinner goes, the error is printed by `main`.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar
            && !bar.is_finished()
        {
            bar.finish_and_clear();
        }
    }
}

/// Makes a directory's content in one go: `fill` writes a temporary sibling that is renamed to `dir` when complete, so
/// that an interrupted set-up never leaves a half-filled directory under the real name.
///
/// # Errors
/// Those of `fill`, and of the file system.
pub fn replace_dir(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = dir.file_name().context("a directory without a name")?.to_string_lossy();
    let temporary = dir.with_file_name(format!(".{name}.{}", std::process::id()));
    remove(&temporary)?;
    fs::create_dir_all(&temporary).with_context(|| format!("cannot make {}", temporary.display()))?;
    if let Err(error) = fill(&temporary) {
        let _ = remove(&temporary);
        return Err(error);
    }
    remove(dir)?;
    fs::rename(&temporary, dir).with_context(|| format!("cannot rename {}", temporary.display()))
}

/// Removes a directory tree if it is there.
fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file only where its content differs, so that what is made from it is not made again.
///
/// # Errors
/// Those of the file system.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}
