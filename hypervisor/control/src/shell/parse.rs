//! Typed lines as calls.

use super::{Command, ShellError};
use alloc::collections::VecDeque;
use alloc::string::String;
use config::setting;
use config::spec::key;
use proto::{Call, NewVm, Payload, Target};

const CREATE: &str =
    "create VM kernel=NAME memory=SIZE [vcpus=N] [initrd=NAME] [group=G] [KEY=VALUE...] [cmdline=THE REST]";
const ATTACH: &str = "attach VM rng | disk=boot:NAME[,readonly][,serial=S] | net=SWITCH[,mac=M][,mtu=N][,isolated]";
const GROUP: &str = "group GROUP [KEY=VALUE]";

/// What a line asks for.
pub fn command(line: &str) -> Result<Command, ShellError> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let bare = |command, form| if rest.is_empty() { Ok(command) } else { Err(ShellError::Form(form)) };
    match word {
        "" => Ok(Command::Nothing),
        "help" => bare(Command::Help, "help"),
        "exit" => bare(Command::Exit, "exit"),
        "console" => Ok(Command::Console(one(rest, "console VM")?)),
        "group" => group(rest),
        "create" => Ok(calls([create(rest).ok_or(ShellError::Form(CREATE))?])),
        _ => Ok(calls([call(word, rest)?])),
    }
}

fn calls<const N: usize>(calls: [Call; N]) -> Command {
    Command::Calls(VecDeque::from(calls))
}

fn one(rest: &str, form: &'static str) -> Result<String, ShellError> {
    let mut words = rest.split_whitespace();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word.into()),
        _ => Err(ShellError::Form(form)),
    }
}

/// A line of one call.
fn call(word: &str, rest: &str) -> Result<Call, ShellError> {
    let bare = |call, form| if rest.is_empty() { Ok(call) } else { Err(ShellError::Form(form)) };
    let vm = |form| one(rest, form);
    Ok(match word {
        "list" => bare(Call::List { from: 0 }, "list")?,
        "switches" => bare(Call::Switches { from: 0 }, "switches")?,
        "pcpus" => bare(Call::Pcpus { from: 0 }, "pcpus")?,
        "machine" => bare(Call::Machine, "machine")?,
        "groups" => bare(Call::Groups { from: 0 }, "groups")?,
        "objects" => bare(Call::Objects { from: 0 }, "objects")?,
        "events" => bare(Call::Events { from: 0 }, "events")?,
        "log" => bare(Call::Log { from: 0 }, "log")?,
        "info" => Call::Info { vm: vm("info VM")? },
        "vcpus" => Call::Vcpus { vm: vm("vcpus VM")?, from: 0 },
        "devices" => Call::Devices { vm: vm("devices VM")?, from: 0 },
        "start" => Call::Start { vm: vm("start VM")? },
        "pause" => Call::Pause { vm: vm("pause VM")? },
        "resume" => Call::Resume { vm: vm("resume VM")? },
        "reset" => Call::Reset { vm: vm("reset VM")? },
        "destroy" => Call::Destroy { vm: vm("destroy VM")? },
        "stop" => stop(rest).ok_or(ShellError::Form("stop VM [SECONDS]"))?,
        "attach" | "detach" => {
            let form = if word == "attach" { ATTACH } else { "detach VM DEVICE" };
            let (vm, device) = rest.split_once(char::is_whitespace).ok_or(ShellError::Form(form))?;
            let (vm, device) = (vm.into(), device.trim().into());
            if word == "attach" { Call::Attach { vm, device } } else { Call::Detach { vm, device } }
        }
        "set" => {
            let set = || {
                let (vm, setting) = rest.split_once(char::is_whitespace)?;
                let (key, value) = pair(setting)?;
                Some(Call::Set { target: Target::Vm(vm.into()), key, value })
            };
            set().ok_or(ShellError::Form("set VM KEY=VALUE"))?
        }
        "trace" => match rest {
            "on" => Call::SetTrace { on: true },
            "off" => Call::SetTrace { on: false },
            _ => return Err(ShellError::Form("trace on, or trace off")),
        },
        other => return Err(ShellError::Unknown(other.chars().take(32).collect())),
    })
}

/// `KEY=VALUE`; the value may have blanks in it.
fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    Some((key.trim().into(), value.trim().into()))
}

fn stop(rest: &str) -> Option<Call> {
    let mut words = rest.split_whitespace();
    let vm = words.next()?.into();
    let seconds = words.next().map_or(Some(0), |s| s.parse::<u32>().ok())?;
    words.next().is_none().then_some(())?;
    Some(Call::Stop { vm, grace_ms: seconds.checked_mul(1000)? })
}

fn group(rest: &str) -> Result<Command, ShellError> {
    let (name, setting) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if name.is_empty() {
        return Err(ShellError::Form(GROUP));
    }
    let make = Call::MakeGroup { group: name.into() };
    if setting.trim().is_empty() {
        return Ok(calls([make]));
    }
    let (key, value) = pair(setting).ok_or(ShellError::Form(GROUP))?;
    Ok(calls([make, Call::Set { target: Target::Group(name.into()), key, value }]))
}

/// A VM from the boot bundle's payloads, which are the only ones that one serial line can bring.
fn create(rest: &str) -> Option<Call> {
    // The command line has blanks and `=` of its own.
    let (words, cmdline) = match rest.split_once(" cmdline=") {
        Some((words, cmdline)) => (words, Some(cmdline.trim().into())),
        None => (rest, None),
    };
    let mut words = words.split_whitespace();
    let name: String = words.next().filter(|name| !name.contains('='))?.into();
    let (mut kernel, mut initrd, mut group, mut memory, mut vcpus) = (None, None, None, None, 1);
    let mut settings = String::new();
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            key::KERNEL => kernel = Some(Payload::Boot(value.into())),
            key::INITRD => initrd = Some(Payload::Boot(value.into())),
            key::GROUP => group = Some(value.into()),
            key::MEMORY => memory = Some(setting::size(value)?),
            key::VCPUS => vcpus = value.parse().ok()?,
            _ => {
                settings.push_str(word);
                settings.push('\n');
            }
        }
    }
    Some(Call::Create(NewVm { name, group, kernel: kernel?, initrd, cmdline, memory: memory?, vcpus, settings }))
}
