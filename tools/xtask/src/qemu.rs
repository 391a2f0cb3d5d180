//! Starting QEMU and watching its console.
//!
//! One [`run`] boots one machine, reads its serial line as it comes, and decides by what was printed and by how QEMU
//! ended. What decides is the [`Watch`], which knows nothing of processes and is tested without QEMU.
//!
//! # What ends a run
//! | what happens | verdict |
//! |---|---|
//! | an unexpected `merus: fatal:` or a forbidden line | failed at once; QEMU is ended after a moment for its last lines |
//! | the counted line was seen often enough ([`End::After`]) | passed if all expected lines were seen; QEMU is ended |
//! | all commands on the control line are done ([`End::Control`]) | passed if all expected lines were seen; QEMU is ended |
//! | a command on the control line went wrong | failed |
//! | QEMU ended | passed if its status is the wanted one and all expected lines were seen, in order |
//! | the time is up, [`patience`] included | failed, with the line that was waited for |
//!
//! A QEMU that was started is always ended: when a run is over, when it is dropped, by the terminal's Ctrl-C (it is in
//! the same process group), and where `setpriv` is at hand also when this program is killed.

pub mod control;
mod lines;
mod machine;
mod numbers;
pub mod patience;

pub use machine::{COUNTED, Machine, counted, yielding};
pub use numbers::{Between, Shares};

use crate::setup::Qemu;
use anyhow::{Context as _, Result};
use lines::{Lines, chunks};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What begins the line of an error that Merus does not survive.
pub const FATAL: &str = "merus: fatal:";
/// Lines kept for the report of a failure.
const TAIL: usize = 40;
/// Bytes of the last output in which there is a look for what is waited for before typing.
const RECENT: usize = 1 << 10;
/// How often the conversation on the control line is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Time for the lines that follow a fatal one, and for QEMU to go once its work is done.
const GRACE: Duration = Duration::from_millis(500);

/// How a run is meant to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// QEMU ends with this status, no fatal line seen.
    Exit(i32),
    /// Merus prints a fatal line and powers off (status 0).
    Fatal,
    /// This line comes so many times; then the runner ends QEMU.
    After {
        /// A pattern as in [`matches`].
        line: String,
        /// How often it must come.
        count: u32,
    },
    /// All commands on the control line are done; then the runner ends QEMU.
    Control,
}

/// Text to type once something was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Output to wait for; a prompt need not end in a newline.
    pub after: String,
    /// What to type then.
    pub text: String,
}

/// What a run must print, and how it must end.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Patterns of lines that must come, in this order.
    pub lines: Vec<String>,
    /// Patterns of lines that must not come.
    pub forbidden: Vec<String>,
    /// A pattern of lines that must all be the same, the first one aside.
    pub constant: Option<String>,
    /// Numbers that must be within a range.
    pub between: Vec<Between>,
    /// Numbers that must be to each other as weights are.
    pub shares: Option<Shares>,
    /// Text to type, in this order.
    pub script: Vec<Send>,
    /// Commands on the control line, in this order.
    pub control: Vec<control::Step>,
    /// How it must end.
    pub end: End,
    /// The longest it may take, what it waited for a CPU of this machine aside.
    pub timeout: Duration,
}

/// Whether a line has the pattern somewhere in it; `*` stands for any text.
pub fn matches(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    for part in pattern.split('*') {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

/// What a [`Watch`] says of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing decided yet.
    Continue,
    /// All that was wanted has been seen; QEMU may be ended.
    Done,
    /// It went wrong, for this reason.
    Failed(String),
}

/// Decides a run line by line.
#[derive(Debug)]
pub struct Watch<'a> {
    expect: &'a Expect,
    next: usize,
    typed: usize,
    fatal: bool,
    counted: u32,
    last: String,
    /// What the constant lines say: none yet, the first one, from the second on.
    constant: Option<Option<String>>,
    /// Which numbers have come.
    measured: Vec<bool>,
    /// The numbers of the shares.
    had: Vec<Option<u64>>,
}

impl<'a> Watch<'a> {
    /// A watch that has seen nothing.
    pub fn new(expect: &'a Expect) -> Self {
        Self {
            expect,
            next: 0,
            typed: 0,
            fatal: false,
            counted: 0,
            last: String::new(),
            constant: None,
            measured: vec![false; expect.between.len()],
            had: expect.shares.as_ref().map_or_else(Vec::new, Shares::none),
        }
    }

    /// Takes a complete line.
    pub fn line(&mut self, line: &str) -> Verdict {
        if !line.trim().is_empty() {
            line.clone_into(&mut self.last);
        }
        // A line may end a run of expected ones that all match it only once each: order is by line.
        if self.expect.lines.get(self.next).is_some_and(|pattern| matches(pattern, line)) {
            self.next += 1;
        }
        if self.expect.constant.as_ref().is_some_and(|pattern| matches(pattern, line)) {
            match &self.constant {
                // The first one is from before anything was done twice.
                None => self.constant = Some(None),
                Some(None) => self.constant = Some(Some(line.trim().to_owned())),
                Some(Some(first)) if first != line.trim() => {
                    return Verdict::Failed(format!("`{}` came after `{first}`", line.trim()));
                }
                Some(Some(_)) => {}
            }
        }
        for (between, measured) in self.expect.between.iter().zip(&mut self.measured) {
            let Some(number) = between.number(line) else { continue };
            if number.is_none_or(|number| !(between.least..=between.most).contains(&number)) {
                return Verdict::Failed(format!("not {} to {}: {}", between.least, between.most, line.trim()));
            }
            *measured = true;
        }
        if let Some(shares) = &self.expect.shares {
            shares.take(line, &mut self.had);
        }
        if line.contains(FATAL) {
            self.fatal = true;
            if self.expect.end != End::Fatal {
                return Verdict::Failed(format!("Merus stopped: {}", line.trim()));
            }
        }
        if let Some(pattern) = self.expect.forbidden.iter().find(|pattern| matches(pattern, line)) {
            return Verdict::Failed(format!("printed what it must not (`{pattern}`): {}", line.trim()));
        }
        if let End::After { line: pattern, count } = &self.expect.end
            && matches(pattern, line)
        {
            self.counted += 1;
            if self.counted >= *count {
                return self.missing().map_or(Verdict::Done, Verdict::Failed);
            }
        }
        Verdict::Continue
    }

    /// What to type now, given all output since the last typing.
    pub fn typing(&mut self, recent: &str) -> Option<&'a str> {
        let send = self.expect.script.get(self.typed)?;
        recent.contains(&send.after).then(|| {
            self.typed += 1;
            send.text.as_str()
        })
    }

    /// What is said when QEMU ended by itself; `status` is `None` where a signal ended it.
    pub fn ended(&self, status: Option<i32>) -> Result<(), String> {
        let wanted = match &self.expect.end {
            End::Exit(code) => *code,
            End::Fatal => 0,
            End::After { line, count } => {
                return Err(format!(
                    "QEMU ended after {} of {count} times `{line}`; {}",
                    self.counted,
                    self.last_seen()
                ));
            }
            End::Control => return Err(format!("QEMU ended before all commands were done; {}", self.last_seen())),
        };
        if status != Some(wanted) {
            let got = status.map_or("a signal".to_owned(), |code| format!("status {code}"));
            return Err(format!("QEMU ended by {got}, not status {wanted}; {}", self.last_seen()));
        }
        if self.expect.end == End::Fatal && !self.fatal {
            return Err(format!("no `{FATAL}` line; {}", self.last_seen()));
        }
        self.missing().map_or(Ok(()), Err)
    }

    /// What is said when the time is up; QEMU has waited so long for a CPU.
    pub fn timed_out(&self, waited: Duration) -> String {
        let wanted = match (self.missing(), &self.expect.end) {
            (Some(missing), _) => missing,
            (None, End::After { line, count }) => format!("only {} of {count} times `{line}`", self.counted),
            (None, _) => format!("all expected lines came, but QEMU did not end; {}", self.last_seen()),
        };
        format!(
            "nothing decided within {} s, {} s of waiting for a CPU not counted: {wanted}",
            self.expect.timeout.as_secs(),
            waited.as_secs()
        )
    }

    fn missing(&self) -> Option<String> {
        let numbers = self.expect.between.iter().zip(&self.measured);
        let number = || numbers.clone().find(|(_, measured)| !**measured).map(|(between, _)| &between.text);
        let Some(pattern) = self.expect.lines.get(self.next).or_else(number) else {
            return self.expect.shares.as_ref().and_then(|shares| shares.fault(&self.had));
        };
        Some(format!("never printed `{pattern}`; {}", self.last_seen()))
    }

    fn last_seen(&self) -> String {
        if self.last.is_empty() { "nothing was printed".to_owned() } else { format!("last seen: {}", self.last.trim()) }
    }
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// Why it failed.
    pub result: Result<(), String>,
    /// The last lines printed.
    pub tail: Vec<String>,
    /// What the commands on the control line printed, once all were done.
    pub said: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// A child that does not outlive its owner.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only where the child has gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a machine and watches it to its end. The console goes to `log`, without times so that two logs can be compared.
///
/// # Errors
/// QEMU cannot be started or the log cannot be written; that a run failed is in the [`Outcome`].
pub fn run(
    qemu: &Qemu,
    machine: &Machine,
    expect: &Expect,
    log: &Path,
    mut on_line: impl FnMut(&str),
) -> Result<Outcome> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut log_file = BufWriter::new(File::create(log).with_context(|| format!("cannot write {}", log.display()))?);
    let mut command = machine.command(qemu, "stdio");
    let start = Instant::now();
    let mut child = Guard(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start QEMU: {}", crate::ctx::shown(&command)))?,
    );
    let mut typing = child.0.stdin.take();
    let output = chunks(child.0.stdout.take().context("no pipe")?, child.0.stderr.take().context("no pipe")?);

    let mut watch = Watch::new(expect);
    let mut lines = Lines::default();
    let mut recent = String::new();
    let mut tail = VecDeque::new();
    let mut deadline = start + expect.timeout;
    let mut decided: Option<Result<(), String>> = None;
    let (console, heard) = mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let mut told = Vec::new();
    let mut talk = machine.control.clone().filter(|_| !expect.control.is_empty()).map(|control| {
        let steps = expect.control.clone();
        let over = over.clone();
        thread::spawn(move || control::converse(&control, &steps, &heard, &over))
    });
    loop {
        // What was said on the control line decides as well.
        if let Some(done) = talk.take_if(|talk| talk.is_finished()) {
            let said = done.join().unwrap_or_else(|_| Err("the control line's commands broke this program".to_owned()));
            let rest = watch.missing().map_or(Ok(()), Err);
            match said {
                Ok(lines) => {
                    told = lines;
                    if expect.end == End::Control {
                        decided = Some(rest);
                    }
                }
                Err(why) => decided = decided.or(Some(Err(why))),
            }
            if decided.is_some() {
                deadline = Instant::now() + GRACE;
            }
        }
        let wait = deadline.saturating_duration_since(Instant::now());
        let chunk = match output.recv_timeout(if talk.is_some() { wait.min(LOOK) } else { wait }) {
            Ok(chunk) => chunk,
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => continue,
            Err(RecvTimeoutError::Timeout) => {
                let waited = patience::waited(child.0.id());
                let allowed = start + patience::allowed(expect.timeout, waited);
                if decided.is_none() && Instant::now() < allowed {
                    deadline = allowed;
                    continue;
                }
                decided.get_or_insert_with(|| Err(watch.timed_out(waited)));
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        for line in lines.push(&chunk) {
            writeln!(log_file, "{line}")?;
            on_line(&line);
            // Nobody listens once all commands are done.
            let _ = console.send(line.clone());
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line.clone());
            let verdict = if decided.is_none() { watch.line(&line) } else { Verdict::Continue };
            match verdict {
                Verdict::Continue => continue,
                Verdict::Done => decided = Some(Ok(())),
                Verdict::Failed(why) => decided = Some(Err(why)),
            }
            deadline = Instant::now() + GRACE;
        }
        if let Some(pipe) = &mut typing {
            recent.push_str(&String::from_utf8_lossy(&chunk));
            // What has been waited for is at the end: a flood is not searched again and again.
            if let Some(old) = recent.len().checked_sub(RECENT) {
                recent.drain(..recent.ceil_char_boundary(old));
            }
            if let Some(text) = watch.typing(&recent) {
                recent.clear();
                // A QEMU that has gone is noticed by its output's end.
                let _ = pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush());
            }
        }
        if decided == Some(Ok(())) {
            break;
        }
    }
    if let Some(rest) = lines.rest() {
        writeln!(log_file, "{rest}")?;
        on_line(&rest);
        if decided.is_none()
            && let Verdict::Failed(why) = watch.line(&rest)
        {
            decided = Some(Err(why));
        }
        tail.push_back(rest);
    }
    log_file.flush()?;
    // Whatever still waits for a line gives up; a command whose answer has come ends well, though the machine is gone.
    over.store(true, Ordering::Relaxed);
    drop(console);
    let result = match (decided, talk.take().map(JoinHandle::join)) {
        (Some(Err(why)), Some(Ok(Err(said)))) => Err(format!("{why}; on the control line: {said}")),
        (Some(Err(why)), _) => Err(why),
        (_, Some(Ok(Err(why)))) => Err(format!("it ended before all commands on the control line were done: {why}")),
        (_, Some(Err(_))) => Err("the control line's commands broke this program".to_owned()),
        (Some(result), _) => result,
        // Its output has ended, so it has exited or is about to.
        (None, _) => watch.ended(child.0.wait()?.code()),
    };
    drop(child);
    Ok(Outcome { result, tail: tail.into(), said: told, took: start.elapsed() })
}

#[cfg(test)]
mod tests;
