//! The same calls as typed lines, for a board with one serial line.
//!
//! A [`Shell`] works on one line at a time, in steps of one call each: whoever owns it prints what a step has said before it takes
//! the next, so that neither a long list nor a slow line holds anything up, and memory for text is bounded by one page's.

mod parse;
mod show;

use crate::calls::Control;
use crate::host::{Host, VmNumber};
use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::{self, Write};
use proto::{Answer, Call};

/// What the shell knows, a line each.
pub const HELP: &str = "\
list                      the VMs
info VM | vcpus VM        one of them, its vCPUs
devices VM | switches     its disks and network cards; what those are plugged into
pcpus | machine | groups  the machine
objects                   payloads to make VMs of
attach VM DEVICE          disk=boot:NAME[,readonly], net=SWITCH or rng, to a stopped VM
detach VM DEVICE          such as disk0, from a stopped VM
create VM kernel=NAME memory=SIZE [vcpus=N] [initrd=NAME] [group=G] [KEY=VALUE...] [cmdline=THE REST]
start VM | pause VM | resume VM | reset VM
stop VM [SECONDS]         asks the guest, then ends it (at once without SECONDS)
destroy VM                takes a stopped VM away
console VM                its last output; the focus, if it runs
set VM KEY=VALUE          such as cpu.weight=200
group GROUP [KEY=VALUE]   makes a group, or changes it
events | log              what has happened
trace on | trace off
help
exit                      leaves the shell, as Ctrl-] and a focus key do";

/// Why a line is no command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShellError {
    /// Not one of the commands.
    Unknown(String),
    /// A word is missing, or there is one too many: how it is written.
    Form(&'static str),
}

impl fmt::Display for ShellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "there is no command \"{word}\"; `help` lists them"),
            Self::Form(form) => write!(f, "write: {form}"),
        }
    }
}

/// What a line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Command {
    Nothing,
    Help,
    Exit,
    Calls(VecDeque<Call>),
    Console(String),
}

/// What is left of a line after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There is another step to take.
    More,
    /// The line is answered.
    Done,
    /// The line is answered, and the shell is left.
    Leave,
    /// The line is answered, and this VM is to have the focus.
    Attach(VmNumber),
}

/// The most bytes of a VM's output that `console` shows: what is kept of it, and not what comes meanwhile.
const KEPT: u64 = 16384;

/// A VM's output on its way to the screen.
struct Reading {
    vm: String,
    from: u64,
    /// Where to stop, once the first piece has come.
    until: Option<u64>,
    /// Within a line.
    within: bool,
}

/// A line that is being worked on.
#[derive(Default)]
pub struct Shell {
    calls: VecDeque<Call>,
    reading: Option<Reading>,
    leave: bool,
}

impl Shell {
    /// A shell with nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins with `line`; everything that there is to say of a line that is none goes to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(&mut self, line: &str, out: &mut dyn Write) -> fmt::Result {
        match parse::command(line) {
            Ok(Command::Nothing) => {}
            Ok(Command::Help) => writeln!(out, "{HELP}")?,
            Ok(Command::Exit) => self.leave = true,
            Ok(Command::Calls(calls)) => self.calls = calls,
            Ok(Command::Console(vm)) => self.reading = Some(Reading { vm, from: 0, until: None, within: false }),
            Err(error) => writeln!(out, "{error}")?,
        }
        Ok(())
    }

    /// Makes one call of what is left of the line; what there is to say goes to `out`, in lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn step(
        &mut self,
        control: &mut Control,
        host: &mut dyn Host,
        out: &mut dyn Write,
    ) -> Result<Progress, fmt::Error> {
        if core::mem::take(&mut self.leave) {
            return Ok(Progress::Leave);
        }
        if let Some(reading) = self.reading.take() {
            return self.read(reading, control, host, out);
        }
        let Some(call) = self.calls.pop_front() else { return Ok(Progress::Done) };
        match control.call(host, call.clone()) {
            // The last of several says it for all.
            Ok(Answer::Done) if !self.calls.is_empty() => {}
            Ok(answer) => {
                let more = show::show(&answer, out)?;
                if let Some(next) = more.and_then(|from| go_on(&call, from)) {
                    self.calls.push_front(next);
                }
            }
            Err(refusal) => {
                // What was to follow relies on it.
                self.calls.clear();
                writeln!(out, "refused: {refusal}")?;
            }
        }
        Ok(if self.calls.is_empty() { Progress::Done } else { Progress::More })
    }

    /// The next piece of a VM's output.
    fn read(
        &mut self,
        mut reading: Reading,
        control: &mut Control,
        host: &mut dyn Host,
        out: &mut dyn Write,
    ) -> Result<Progress, fmt::Error> {
        let part = match control.call(host, Call::Console { vm: reading.vm.clone(), from: reading.from }) {
            Ok(Answer::Console(part)) => part,
            Ok(_) => return Ok(Progress::Done),
            Err(refusal) => {
                writeln!(out, "refused: {refusal}")?;
                return Ok(Progress::Done);
            }
        };
        let until = *reading.until.get_or_insert(part.from.saturating_add(KEPT));
        show::output(&reading.vm, &part.bytes.0, &mut reading.within, out)?;
        reading.from = part.from.saturating_add(part.bytes.0.len() as u64);
        if !part.bytes.0.is_empty() && reading.from < until {
            self.reading = Some(reading);
            return Ok(Progress::More);
        }
        if reading.within {
            writeln!(out)?;
        }
        if reading.from == 0 {
            writeln!(out, "vm \"{}\" has printed nothing", reading.vm)?;
        }
        Ok(match control.number(&reading.vm).filter(|_| part.live) {
            Some(number) => Progress::Attach(number),
            None => Progress::Done,
        })
    }
}

/// The call that brings the next page.
fn go_on(call: &Call, from: u64) -> Option<Call> {
    let short = u32::try_from(from).ok()?;
    Some(match call {
        Call::List { .. } => Call::List { from: short },
        Call::Vcpus { vm, .. } => Call::Vcpus { vm: vm.clone(), from: short },
        Call::Devices { vm, .. } => Call::Devices { vm: vm.clone(), from: short },
        Call::Switches { .. } => Call::Switches { from: short },
        Call::Pcpus { .. } => Call::Pcpus { from: short },
        Call::Groups { .. } => Call::Groups { from: short },
        Call::Objects { .. } => Call::Objects { from: short },
        Call::Events { .. } => Call::Events { from },
        Call::Log { .. } => Call::Log { from },
        _ => return None,
    })
}
