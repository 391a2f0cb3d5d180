//! The row `tcp`: a stream between two Debian guests on one pCPU. Their instructions cannot be told from Merus' by anything that they say, so
//! QEMU logs a stretch of the stream, from its monitor on, and who executed what is counted there.

use super::image::Image;
use super::runs::{self, Env, Measured, Stat};
use super::trace::{self, Entry, Exit, Guard, Level};
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The row.
pub const ROW: &str = "tcp";
/// What the guest that fetches says first.
const BEGINS: &str = "stream: begins";
/// Instructions that are executed between the log's begin and the count's: the stream is under way by then.
const BEFORE: u64 = 3_000_000;
/// Instructions that are counted.
const COUNTED: u64 = 12_000_000;
const TIMEOUT: Duration = Duration::from_secs(300);

/// What a stretch of the log has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Guests' instructions.
    pub guests: u64,
    /// Merus' instructions, by place.
    pub merus: Exit,
}

/// Counts the instructions `before` to `before + counted` of a log.
///
/// # Errors
/// It ends before that, or its form is unknown.
pub fn count(log: impl Read, before: u64, counted: u64) -> Result<Counts> {
    let mut log = BufReader::with_capacity(1 << 20, log);
    let (mut counts, mut pending, mut ran) = (Counts::default(), None, 0);
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? != 0 {
        // Whether one has run is known when the next one is about to.
        let next = trace::entry(&line)?;
        line.clear();
        let Some(next) = next else { continue };
        let last = match next {
            Entry::Runs(pc, level) => pending.replace((pc, level)),
            Entry::Stopped => {
                pending = None;
                continue;
            }
        };
        let Some((pc, level)) = last else { continue };
        ran += 1;
        if ran > before {
            match level {
                Level::El1 => counts.guests += 1,
                Level::El2 => counts.merus.push(trace::in_image(pc)),
            }
        }
        if ran == before + counted {
            return Ok(counts);
        }
    }
    bail!("QEMU's log ends after {ran} instructions of {}", before + counted)
}

/// Measures it.
///
/// # Errors
/// A machine that did not do what it should; its log is named.
pub fn measure(env: &Env<'_>, measured: &mut Measured) -> Result<()> {
    let quoted = |path: &std::path::Path| toml::Value::String(path.display().to_string()).to_string();
    let vm = |name: &str, words: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = {}\ninitrd = {}\nmemory = \"128M\"\nvcpus = 1\n\
             cmdline = \"console=ttyAMA0 quiet {words}\"\n[[vm.net]]\nswitch = \"lan\"\n",
            quoted(&env.guest.kernel),
            quoted(&env.guest.initrd),
        )
    };
    let manifest = "[[switch]]\nname = \"lan\"\n".to_owned()
        + &vm("web", "merus.script=serve merus.size=4096 merus.address=10.0.0.1")
        + &vm("user", "merus.script=stream merus.rounds=1000 merus.address=10.0.0.2 merus.peer=10.0.0.1");
    let machine = runs::merus(env, 1, runs::pack_manifest(env, ROW, &manifest)?);
    let mut command = machine.command(&env.qemu, "mon:stdio");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", crate::ctx::shown(&command)))?;
    let (mut monitor, console, log) = match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
        _ => bail!("no pipe"),
    };
    let guard = Guard::new(child, TIMEOUT);
    let (begins, begun) = mpsc::channel();
    let kept = env.ctx.merus_dir.join("logs").join(format!("bench-{ROW}.log"));
    let mut keep = std::fs::File::create(&kept).with_context(|| format!("cannot write {}", kept.display()))?;
    let reader = thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        // Read to its end, so that the guests are not held up.
        while console.read_until(b'\n', &mut line).is_ok_and(|count| count != 0) {
            let _ = keep.write_all(&line);
            if String::from_utf8_lossy(&line).contains(BEGINS) {
                let _ = begins.send(());
            }
            line.clear();
        }
    });
    let counts = begun
        .recv_timeout(TIMEOUT)
        .context("no stream has begun")
        .and_then(|()| {
            // Ctrl-A c: what follows is for the monitor.
            Ok(monitor.write_all(b"\x01cone-insn-per-tb on\nlog exec,nochain\n")?)
        })
        .and_then(|()| count(log, BEFORE, COUNTED));
    let ended = guard.end();
    let _ = reader.join();
    let counts = counts.with_context(|| format!("the run `{ROW}` (all of it: {})", kept.display()))?;
    ended?;
    let merus = Image::load(&env.built.elf)?;
    let (ours, theirs) = (counts.merus.len() as u64, counts.guests);
    let stat = |count: u64| Stat { mean: count as f64, min: count, max: count, several: false };
    measured.alone.insert(ROW.to_owned(), stat(ours));
    measured.bare.insert(ROW.to_owned(), stat(theirs));
    measured.profile.push_str(&trace::summary(ROW, &counts.merus, &merus)?);
    Ok(())
}
