//! The same calls as typed lines, for a board with one serial line.

use crate::calls::Control;
use crate::host::Host;
use alloc::string::String;
use core::fmt::{self, Write};
use proto::{Answer, Call, EventRow, Page, Refusal, Target, VmRow};

/// What the shell knows, a line each.
pub const HELP: &str = "\
list                      the VMs
info VM | vcpus VM        one of them, its vCPUs
pcpus | machine | groups  the machine
objects                   payloads to make VMs of
start VM | pause VM | resume VM | reset VM
stop VM [SECONDS]         asks the guest, then ends it (at once without SECONDS)
destroy VM                takes a stopped VM away
set VM KEY=VALUE          such as cpu.weight=200
set-group GROUP KEY=VALUE
events | log              what has happened
trace on | trace off
help";

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

/// Does what `line` asks; everything there is to say goes to `out`, in lines.
pub fn run(control: &mut Control, host: &mut impl Host, line: &str, out: &mut impl Write) -> fmt::Result {
    if line.trim().is_empty() {
        return Ok(());
    }
    if line.trim() == "help" {
        return writeln!(out, "{HELP}");
    }
    let call = match parse(line) {
        Ok(call) => call,
        Err(error) => return writeln!(out, "{error}"),
    };
    // Lists come in pages.
    let mut next = Some(call);
    while let Some(call) = next.take() {
        match control.call(host, call.clone()) {
            Ok(answer) => {
                let more = show(&answer, out)?;
                next = more.and_then(|from| go_on(&call, from));
            }
            Err(refusal) => return refuse(&refusal, out),
        }
    }
    Ok(())
}

fn refuse(refusal: &Refusal, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "refused: {refusal}")
}

/// The call that brings the next page.
fn go_on(call: &Call, from: u64) -> Option<Call> {
    let short = u32::try_from(from).ok()?;
    Some(match call {
        Call::List { .. } => Call::List { from: short },
        Call::Vcpus { vm, .. } => Call::Vcpus { vm: vm.clone(), from: short },
        Call::Pcpus { .. } => Call::Pcpus { from: short },
        Call::Groups { .. } => Call::Groups { from: short },
        Call::Objects { .. } => Call::Objects { from: short },
        Call::Events { .. } => Call::Events { from },
        Call::Log { .. } => Call::Log { from },
        _ => return None,
    })
}

fn parse(line: &str) -> Result<Call, ShellError> {
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or_default();
    let first = words.next();
    let second = words.next();
    let nothing = |call: Call, form| if first.is_none() { Ok(call) } else { Err(ShellError::Form(form)) };
    let one = |call: fn(String) -> Call, form| match (first, second) {
        (Some(vm), None) => Ok(call(vm.into())),
        _ => Err(ShellError::Form(form)),
    };
    match command {
        "list" => nothing(Call::List { from: 0 }, "list"),
        "pcpus" => nothing(Call::Pcpus { from: 0 }, "pcpus"),
        "machine" => nothing(Call::Machine, "machine"),
        "groups" => nothing(Call::Groups { from: 0 }, "groups"),
        "objects" => nothing(Call::Objects { from: 0 }, "objects"),
        "events" => nothing(Call::Events { from: 0 }, "events"),
        "log" => nothing(Call::Log { from: 0 }, "log"),
        "info" => one(|vm| Call::Info { vm }, "info VM"),
        "vcpus" => one(|vm| Call::Vcpus { vm, from: 0 }, "vcpus VM"),
        "start" => one(|vm| Call::Start { vm }, "start VM"),
        "pause" => one(|vm| Call::Pause { vm }, "pause VM"),
        "resume" => one(|vm| Call::Resume { vm }, "resume VM"),
        "reset" => one(|vm| Call::Reset { vm }, "reset VM"),
        "destroy" => one(|vm| Call::Destroy { vm }, "destroy VM"),
        "stop" => {
            let form = ShellError::Form("stop VM [SECONDS]");
            let (Some(vm), None) = (first, words.next()) else { return Err(form) };
            let seconds = second.map_or(Some(0), |s| s.parse::<u32>().ok());
            let grace_ms = seconds.and_then(|s| s.checked_mul(1000)).ok_or(form)?;
            Ok(Call::Stop { vm: vm.into(), grace_ms })
        }
        "set" | "set-group" => {
            let form = ShellError::Form("set VM KEY=VALUE, or set-group GROUP KEY=VALUE");
            let (Some(name), Some(_)) = (first, second) else { return Err(form) };
            // The value may have blanks in it.
            let rest = line.trim_start().splitn(3, char::is_whitespace).nth(2).unwrap_or_default();
            let (key, value) = rest.split_once('=').ok_or(form)?;
            let target = if command == "set" { Target::Vm(name.into()) } else { Target::Group(name.into()) };
            Ok(Call::Set { target, key: key.trim().into(), value: value.trim().into() })
        }
        "trace" => match (first, second) {
            (Some("on"), None) => Ok(Call::SetTrace { on: true }),
            (Some("off"), None) => Ok(Call::SetTrace { on: false }),
            _ => Err(ShellError::Form("trace on, or trace off")),
        },
        other => Err(ShellError::Unknown(other.chars().take(32).collect())),
    }
}

/// Prints an answer. `Some`: the `from` of the next page.
fn show(answer: &Answer, out: &mut impl Write) -> Result<Option<u64>, fmt::Error> {
    match answer {
        Answer::Done => writeln!(out, "ok")?,
        Answer::Machine(m) => {
            writeln!(out, "Merus {} on {}, {} pCPUs", m.merus, m.board, m.pcpus)?;
            writeln!(out, "memory {} KiB, free {} KiB, heap {} bytes", m.memory >> 10, m.memory_free >> 10, m.heap)?;
        }
        Answer::List(page) => return rows(page, out, vm),
        Answer::Info(row) => {
            vm(row, out)?;
            writeln!(
                out,
                "  memory {} KiB, steal {} ms, throttled {} ms, {} exits, {} resets",
                row.memory_used >> 10,
                row.waited_ns / 1_000_000,
                row.throttled_ns / 1_000_000,
                row.exits,
                row.resets
            )?;
        }
        Answer::Vcpus(page) => {
            return rows(page, out, |v, out| {
                let (ran, waited) = (v.ran_ns / 1_000_000, v.waited_ns / 1_000_000);
                writeln!(out, "vCPU {} {:?} on pCPU {}, ran {ran} ms, steal {waited} ms", v.index, v.state, v.pcpu)
            });
        }
        Answer::Pcpus(page) => {
            return rows(page, out, |p, out| match &p.running {
                Some((vm, vcpu)) => writeln!(out, "pCPU {}: vm {vm} vCPU {vcpu}, {} wait", p.number, p.ready),
                None => writeln!(out, "pCPU {}: idle, {} wait", p.number, p.ready),
            });
        }
        Answer::Groups(page) => {
            return rows(page, out, |g, out| {
                writeln!(
                    out,
                    "group {}: weight {}, {} VMs, memory {} KiB",
                    g.name,
                    g.weight,
                    g.vms,
                    g.memory_used >> 10
                )
            });
        }
        Answer::Objects(page) => {
            return rows(page, out, |o, out| {
                writeln!(out, "{} {} of {} bytes, {} users", o.name, o.there, o.size, o.users)
            });
        }
        Answer::Events(page) => return rows(page, out, event),
        Answer::Log(page) => {
            return rows(page, out, |l, out| writeln!(out, "{:>10} ms {}", l.at_ns / 1_000_000, l.text));
        }
        Answer::Uploaded(_) | Answer::Console(_) | Answer::Typed(_) | Answer::Trace(_) => {}
    }
    Ok(None)
}

fn rows<T, W: Write>(
    page: &Page<T>,
    out: &mut W,
    print: impl Fn(&T, &mut W) -> fmt::Result,
) -> Result<Option<u64>, fmt::Error> {
    page.rows.iter().try_for_each(|row| print(row, out))?;
    Ok(page.more.then_some(page.next))
}

fn vm(row: &VmRow, out: &mut impl Write) -> fmt::Result {
    let (memory, ran) = (row.memory >> 20, row.ran_ns / 1_000_000);
    writeln!(
        out,
        "{:<16} {:<12} {} vCPUs, {memory} MiB, weight {}, ran {ran} ms",
        row.name, row.state, row.vcpus, row.weight
    )
}

fn event(row: &EventRow, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "{:>10} ms vm {}: {:?}", row.at_ns / 1_000_000, row.vm, row.kind)
}
