//! `merus ctl`: the command line of the control channel's client.

mod act;
mod console;
mod equip;
mod follow;
mod json;
mod ping;
mod show;
mod soak;
mod table;
mod top;
mod top_detail;
mod top_devices;
mod top_screen;
mod traced;

use clap::{Args, Subcommand};
use merus_client::{Address, Client, Error, Wire};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Where `cargo xtask run` serves the control channel.
const DEFAULT_SOCKET: &str = "target/merus/control.sock";

const EXIT_CODES: &str = "\
Exit status:
  0  done
  1  refused by Merus; the message says why and what to do
  2  wrong usage
  3  no connection, or no answer or not the state waited for in time
  4  there is no such VM, payload or group
  5  the VM is in a state that does not allow it
  6  not enough memory, or a limit is reached";

/// A running Merus, and what is asked of it.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Ctl {
    /// Where the control channel is: unix:PATH, tcp:HOST:PORT or serial:DEVICE[,BAUD] [default: unix:target/merus/control.sock]
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        env = "MERUS_CONNECT",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    connect: Option<Address>,
    /// Print JSON
    #[arg(long, global = true, help_heading = "Options of every command")]
    json: bool,
    /// How long to wait for an answer, and for what a command waits for
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the VMs
    List,
    /// Show a VM with its vCPUs, its devices and its exits by reason
    Info {
        /// The VM
        vm: String,
    },
    /// Show the machine
    Machine,
    /// List the switches, with what has gone through their uplinks
    Switches,
    /// List the pCPUs
    Pcpus,
    /// List the groups
    Groups,
    /// List the payloads: those of the boot bundle and those that were uploaded
    Objects,
    /// Upload a payload: once, whatever its name; a cut upload goes on where it ended
    Put {
        /// The file
        file: PathBuf,
        /// What people shall call it [default: the file's name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Give up an uploaded payload
    Forget {
        /// Its name, or its SHA-256 or the beginning of it
        object: String,
    },
    /// Make a VM
    Create(Create),
    /// Make, run and destroy a VM, again and again: all its memory must come back. "{round}" in its command line is the round's number
    Soak {
        /// How often
        #[arg(long, default_value = "100")]
        rounds: u32,
        /// Kill it, so long after it has started at the latest, instead of waiting until it ends by itself
        #[arg(long, value_name = "TIME", value_parser = duration)]
        kill: Option<Duration>,
        #[command(flatten)]
        create: Create,
    },
    /// Ask for the list of VMs again and again: how much of the machine's time an answer takes
    Ping {
        /// How often
        #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
    /// Make a group, or change one: group tenant cpu.max=25%
    Group {
        /// Its name
        name: String,
        /// Settings: cpu.weight, cpu.max, memory.max
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Run a VM; one that has stopped is made anew
    Start(OfVm),
    /// Take a VM's vCPUs off the pCPUs; its time stands
    Pause(OfVm),
    /// Let a paused VM go on
    Resume(OfVm),
    /// Make a VM begin again
    Reset(OfVm),
    /// Press a VM's power key, and end it by force if that does not help
    Stop {
        #[command(flatten)]
        of: OfVm,
        /// How long the guest has, such as 10s or 500ms
        #[arg(long, value_parser = duration, default_value = "10s", conflicts_with = "force")]
        grace: Duration,
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
    /// Take a VM away with all that it has
    Destroy {
        /// The VM
        vm: String,
        /// End it first if need be
        #[arg(long)]
        force: bool,
    },
    /// Give a stopped VM a device: attach web --disk root.img
    Attach {
        /// The VM
        vm: String,
        #[command(flatten)]
        devices: Devices,
    },
    /// Take a device from a stopped VM: detach web disk0
    Detach {
        /// The VM
        vm: String,
        /// The device, as `info` names it
        device: String,
    },
    /// Change settings of a VM or group: set web cpu.weight=200; set --group tenant cpu.max=50%
    Set {
        /// Of this group, not of a VM
        #[arg(long)]
        group: Option<String>,
        /// The VM (without --group), then settings
        #[arg(required = true, value_name = "[VM] KEY=VALUE")]
        words: Vec<String>,
    },
    /// Attach to a VM's console; Ctrl-] q detaches
    Console(Console),
    /// Watch pCPUs and VMs
    Top {
        /// Print one frame as text and end
        #[arg(long)]
        once: bool,
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: Duration,
        /// In which order the VMs stand
        #[arg(long, value_enum, default_value = "cpu")]
        sort: top::Sort,
    },
    /// Print what happened to VMs
    Events(Follow),
    /// Print Merus' own lines
    Log(Follow),
    /// Record what runs on the pCPUs, as Chrome trace JSON (ui.perfetto.dev opens it)
    Trace {
        /// Where to write it
        #[arg(short, long)]
        output: PathBuf,
        /// How long to record
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
}

#[derive(Args)]
struct OfVm {
    /// The VM
    vm: String,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
}

/// Devices that a VM gets.
#[derive(Args)]
struct Devices {
    /// A disk: boot:NAME, sha256:HASH (or its beginning), host:PARTLABEL=NAME (or as in a manifest), or an image's file, which is uploaded if
    /// it is not there; behind it ",readonly" and ",serial=S" as needed
    #[arg(long, value_name = "SOURCE[,OPTION...]")]
    disk: Vec<String>,
    /// A network card at this switch; behind it ",mac=52:54:00:00:00:01", ",mtu=1500" and ",isolated" as needed
    #[arg(long, value_name = "SWITCH[,OPTION...]")]
    net: Vec<String>,
    /// A source of random numbers
    #[arg(long)]
    rng: bool,
}

#[derive(Args)]
struct Create {
    /// Its name: 1 to 32 of a-z 0-9 - _
    name: String,
    /// The kernel: boot:NAME, sha256:HASH (or its beginning), or a file, which is uploaded if it is not there
    #[arg(long)]
    kernel: act::Source,
    /// The initrd, likewise
    #[arg(long)]
    initrd: Option<act::Source>,
    /// The kernel's command line
    #[arg(long)]
    cmdline: Option<String>,
    /// RAM, such as 128M
    #[arg(long, value_parser = size)]
    memory: u64,
    /// How many vCPUs
    #[arg(long, default_value = "1")]
    vcpus: u32,
    /// Its group, which must be there
    #[arg(long)]
    group: Option<String>,
    /// A setting, such as cpu.weight=200
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    devices: Devices,
    /// Run it, too
    #[arg(long)]
    start: bool,
    /// Wait until it is made (and runs, with --start): that is the default
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Do not wait until its memory is filled
    #[arg(long, conflicts_with = "start")]
    no_wait: bool,
}

#[derive(Args)]
struct Console {
    /// The VM
    vm: String,
    /// End when this text was printed
    #[arg(long, value_name = "TEXT")]
    until: Option<String>,
    /// Begin with what is printed from now on
    #[arg(long)]
    no_backlog: bool,
}

#[derive(Args)]
struct Follow {
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// Begin with this number
    #[arg(long, default_value = "0")]
    from: u64,
}

/// What every command needs.
struct Session {
    client: Client,
    json: bool,
    timeout: Duration,
}

impl Session {
    /// How long to wait for a state.
    fn wait(&self, no_wait: bool) -> Option<Duration> {
        (!no_wait).then_some(self.timeout)
    }

    /// Prints `value` where JSON is wanted, else `text`.
    fn print(&self, value: impl FnOnce() -> serde_json::Value, text: impl FnOnce() -> String) {
        if self.json { say(&format!("{:#}\n", value())) } else { say(&text()) }
    }
}

/// Writes to the standard output. A reader that has had enough ends the program.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        drop(out);
        std::process::exit(if error.kind() == ErrorKind::BrokenPipe { 0 } else { 2 });
    }
}

/// Runs a command.
pub fn run(ctl: &Ctl) -> ExitCode {
    // What is wrong with the words is told before anything is connected.
    let words = match &ctl.command {
        Command::Set { group, words } => act::settings(group.as_deref(), words).map(|_| ()),
        Command::Attach { devices, .. } => equip::check(devices, true),
        Command::Create(create) | Command::Soak { create, .. } => equip::check(&create.devices, false),
        _ => Ok(()),
    };
    match words.and_then(|()| connect(ctl)).and_then(|session| execute(session, &ctl.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            if ctl.json {
                eprintln!("{}", serde_json::json!({ "error": { "code": code, "message": error.to_string() } }));
            } else {
                eprintln!("merus: {error}");
            }
            ExitCode::from(code)
        }
    }
}

fn connect(ctl: &Ctl) -> Result<Session, Error> {
    let address = match &ctl.connect {
        Some(address) => address.clone(),
        None if Path::new(DEFAULT_SOCKET).exists() => Address::Unix(DEFAULT_SOCKET.into()),
        None => {
            return Err(Error::Connect {
                address: "no control channel".into(),
                why: format!("no --connect, no MERUS_CONNECT, and no {DEFAULT_SOCKET} here"),
                remedy: "start Merus with `cargo xtask run` in this directory, or say where it is, such as --connect tcp:HOST:PORT",
            });
        }
    };
    let client = Client::new(Wire::open(&address, ctl.timeout)?, ctl.timeout);
    Ok(Session { client, json: ctl.json, timeout: ctl.timeout })
}

fn execute(mut s: Session, command: &Command) -> Result<(), Error> {
    match command {
        Command::List => show::list(&mut s),
        Command::Info { vm } => show::info(&mut s, vm),
        Command::Machine => show::machine(&mut s),
        Command::Switches => show::switches(&mut s),
        Command::Pcpus => show::pcpus(&mut s),
        Command::Groups => show::groups(&mut s),
        Command::Objects => show::objects(&mut s),
        Command::Put { file, name } => act::put(&mut s, file, name.as_deref()),
        Command::Forget { object } => act::forget(&mut s, object),
        Command::Create(create) => act::create(&mut s, create),
        Command::Soak { rounds, kill, create } => soak::run(&mut s, *rounds, *kill, create),
        Command::Ping { count } => ping::run(&mut s, *count),
        Command::Group { name, settings } => act::group(&mut s, name, settings),
        Command::Start(of) => act::life(&mut s, of, &act::Step::Start),
        Command::Pause(of) => act::life(&mut s, of, &act::Step::Pause),
        Command::Resume(of) => act::life(&mut s, of, &act::Step::Resume),
        Command::Reset(of) => act::life(&mut s, of, &act::Step::Reset),
        Command::Stop { of, grace, force } => {
            act::life(&mut s, of, &act::Step::Stop(if *force { Duration::ZERO } else { *grace }))
        }
        Command::Destroy { vm, force } => act::destroy(&mut s, vm, *force),
        Command::Attach { vm, devices } => equip::attach(&mut s, vm, devices),
        Command::Detach { vm, device } => equip::detach(&mut s, vm, device),
        Command::Set { group, words } => act::set(&mut s, group.as_deref(), words),
        Command::Console(console) => console::run(&mut s, console),
        Command::Top { once: true, interval, sort } => top::once(&mut s, *interval, *sort),
        Command::Top { interval, sort, .. } => top_screen::run(&mut s, *interval, *sort),
        Command::Events(of) => follow::events(&mut s, of),
        Command::Log(of) => follow::log(&mut s, of),
        Command::Trace { output, seconds } => traced::run(&mut s, output, *seconds),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no time; write seconds such as 5 or 0.5, at most a day");
    let seconds = text.parse::<f64>().ok().filter(|n| *n > 0.0 && *n <= 86_400.0).ok_or_else(wrong)?;
    Ok(Duration::from_secs_f64(seconds))
}

fn duration(text: &str) -> Result<Duration, String> {
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(ms), _) => {
            ms.parse().map(Duration::from_millis).map_err(|_| format!("\"{text}\" is no time; write 500ms"))
        }
        (None, rest) => seconds(rest.unwrap_or(text))
            .map_err(|_| format!("\"{text}\" is no time; write 10s or 500ms, at most a day")),
    }
}

fn size(text: &str) -> Result<u64, String> {
    config::setting::size(text).ok_or_else(|| format!("\"{text}\" is no size; write {}", config::setting::SIZE_FORM))
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !text.contains('\n') => Ok((key.trim().into(), value.into())),
        _ => Err(format!("\"{text}\" is no setting; write KEY=VALUE such as cpu.weight=200")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        ctl: Ctl,
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["ctl", "stop", "web", "--grace", "500ms", "--timeout", "0.5", "--json"]);
        assert!(cli.ctl.json && cli.ctl.timeout == Duration::from_millis(500));
        assert!(matches!(cli.ctl.command, Command::Stop { grace, .. } if grace == Duration::from_millis(500)));
        for text in ["0", "-1", "x", "1e9", "NaN"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
