//! `cargo xtask run`: Merus with a Debian guest in QEMU, on the user's terminal or as a scripted check.
//!
//! With a terminal on standard input the guest's shell is there. Without one the guest runs its short workload, and the
//! command succeeds only if the workload, Merus' shut-down and QEMU's end were all seen.

use crate::build::{self, Built};
use crate::bundle;
use crate::ctx::{self, Ctx};
use crate::qemu::control::{self, Control, Step};
use crate::qemu::{self, End, Expect, Machine};
use crate::rootfs;
use crate::setup::{self, Guest, Qemu};
use crate::symbolize::Symbols;
use crate::table::{self, Files};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The guest that no option changes.
const VCPUS: u32 = 2;
const MEMORY: &str = "256M";
/// The longest that the scripted check may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The same for three guests.
const MANY_TIMEOUT: Duration = Duration::from_secs(240);

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {
    /// A manifest to run instead of the Debian guest
    #[arg(conflicts_with_all = ["vcpus", "memory"])]
    pub manifest: Option<PathBuf>,
    /// What to run instead of one Debian guest: `many` is three of different weights, watched by `merus ctl top`; `net` is a server and
    /// its user at a switch, with a root file system that both have
    #[arg(long, conflicts_with_all = ["manifest", "vcpus", "memory"])]
    pub demo: Option<Demo>,
    /// The Debian guest's vCPUs
    #[arg(long, default_value_t = VCPUS)]
    pub vcpus: u32,
    /// The Debian guest's memory
    #[arg(long, default_value = MEMORY)]
    pub memory: String,
    /// The board's CPUs, as QEMU names them
    #[arg(long, default_value = "cortex-a72")]
    pub cpu: String,
    /// The board's number of CPUs
    #[arg(long, default_value_t = 2)]
    pub smp: u32,
    /// The board's memory
    #[arg(long, default_value = "1G")]
    pub board_memory: String,
    /// Do as without a terminal: run the scripted workload and check it
    #[arg(long)]
    pub check: bool,
}

/// What can be shown.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Demo {
    /// Three busy guests of different weights.
    Many,
    /// Two guests with disks and network cards.
    Net,
}

/// Runs the command.
///
/// # Errors
/// When set-up, the build or the packing fails, and when what was to be seen was not; the text has the last line that was.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let kind = setup::ensure_target(ctx)?;
    let qemu = setup::ensure_qemu(ctx)?;
    let guest = setup::ensure_guest(ctx)?;
    let built = build::build(ctx, &kind)?;
    let scripted = args.check || !io::stdin().is_terminal();
    let port = if args.demo == Some(Demo::Net) { free_port()? } else { 0 };
    let machine = Machine {
        machine: "virt,virtualization=on,gic-version=3".to_owned(),
        cpu: args.cpu.clone(),
        smp: args.smp,
        memory: args.board_memory.clone(),
        kernel: built.img.clone(),
        initrd: Some(bundle_of(ctx, &args, &built, guest, scripted)?),
        // Guests are ended one by one, and the last one's end is to be seen as well.
        append: stays(args.demo, scripted).then(|| "merus.idle=stay".to_owned()),
        control: control_line(ctx, &built),
        extra: if args.demo == Some(Demo::Net) { uplink(port) } else { Vec::new() },
        ..Machine::default()
    };
    match args.demo {
        Some(Demo::Many) if scripted => return many_check(ctx, &qemu, &machine, &built),
        Some(Demo::Many) => return many_live(&qemu, &machine, ctx),
        Some(Demo::Net) if scripted => return net_check(ctx, &qemu, &machine, &built, port),
        Some(Demo::Net) => eprintln!(
            "xtask: two guests boot, `user` with the focus (Ctrl-] 2 gives it to `web`); each one's `exit` ends it, the last one's the machine.\n\
             xtask: meanwhile, in another terminal: curl http://127.0.0.1:{port}/"
        ),
        None => {}
    }
    if scripted { check(ctx, &qemu, &machine, &built, args.manifest.is_none()) } else { interactive(&qemu, &machine) }
}

/// Whether the machine stays on when its last guest has ended.
fn stays(demo: Option<Demo>, scripted: bool) -> bool {
    demo == Some(Demo::Many) || demo == Some(Demo::Net) && scripted
}

/// The control line of the machine: `merus ctl` finds its socket by itself when it is called in the checkout.
fn control_line(ctx: &Ctx, built: &Built) -> Option<Control> {
    let socket = ctx.merus_dir.join("control.sock");
    // One that a QEMU before left behind would be in the way.
    let _ = std::fs::remove_file(&socket);
    control::fits(&socket).then(|| Control { socket, cli: built.cli.clone() })
}

/// Packs what is to run.
fn bundle_of(ctx: &Ctx, args: &Args, built: &Built, guest: Guest, scripted: bool) -> Result<PathBuf> {
    match args.demo {
        Some(Demo::Many) => return bundle::many(ctx, built, &guest),
        Some(Demo::Net) => return bundle::net(ctx, built, &guest, &rootfs::make(ctx, &built.cli)?, !scripted),
        None => {}
    }
    let dir = ctx.merus_dir.join("run");
    if let Some(manifest) = &args.manifest {
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let out = dir.join("bundle.merus");
        ctx::capture(Command::new(&built.cli).arg("pack").arg(manifest).arg("-o").arg(&out))?;
        return Ok(out);
    }
    let script = if scripted { format!("merus.script=demo merus.cpus={}", args.vcpus) } else { String::new() };
    if args.vcpus == VCPUS && args.memory == MEMORY {
        return bundle::demo(ctx, built, &guest, &script);
    }
    let cmdline = format!("console=ttyAMA0 {script}");
    let files = Files {
        kernel: guest.kernel,
        initrd: guest.initrd,
        tests: PathBuf::new(),
        text: PathBuf::new(),
        shapes: BTreeMap::new(),
    };
    let manifest = files.fill(&table::linux(cmdline.trim_end(), &args.memory, args.vcpus));
    ctx::write_if_changed(&dir.join("merus.toml"), manifest.as_bytes())?;
    bundle::pack(ctx, built, &dir)
}

/// Gives the user the machine's console until QEMU ends.
fn interactive(qemu: &Qemu, machine: &Machine) -> Result<()> {
    eprintln!("xtask: booting; the guest's `exit` or `poweroff` ends it, Ctrl-A x kills QEMU, Ctrl-A h shows more");
    // QEMU puts the terminal into raw mode and back.
    let mut command = machine.command(qemu, "mon:stdio");
    let status = command.status().with_context(|| format!("cannot start QEMU: {}", ctx::shown(&command)))?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}

/// Streams the console and holds it against what must be seen.
fn check(ctx: &Ctx, qemu: &Qemu, machine: &Machine, built: &Built, demo: bool) -> Result<()> {
    watch(ctx, qemu, machine, built, &expected(demo), |_| {})
}

/// `seen` is called with each line, before any command on the control line that waits for it.
fn watch(
    ctx: &Ctx,
    qemu: &Qemu,
    machine: &Machine,
    built: &Built,
    expect: &Expect,
    mut seen: impl FnMut(&str),
) -> Result<()> {
    let log = ctx.merus_dir.join("logs/run.log");
    let mut out = io::stdout();
    let outcome = qemu::run(qemu, machine, expect, &log, |line| {
        // Standard output that nobody reads any more does not stop the check.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        seen(line);
    })?;
    let Err(why) = outcome.result else {
        eprintln!("xtask: all that was to be seen has been seen ({:.1} s)", outcome.took.as_secs_f32());
        return Ok(());
    };
    for line in backtrace(&outcome.tail, &built.elf, &ctx.root) {
        eprintln!("{line}");
    }
    bail!("{why} (all of it: {})", log.display())
}

/// A command on the control line, tried so often.
fn step(run: &str, expect: &[&str], tries: u32) -> Step {
    Step {
        after: None,
        noise: None,
        run: run.to_owned(),
        input: String::new(),
        expect: expect.iter().map(|text| (*text).to_owned()).collect(),
        status: 0,
        times: 0,
        tries,
    }
}

/// The machine's network card, which is at the guests' switch; QEMU's user network is at its other end, where `port` of this machine leads to
/// the server.
fn uplink(port: u16) -> Vec<String> {
    let [(_, server), _] = bundle::NET;
    let network = format!("user,id=uplink,restrict=on,hostfwd=tcp:127.0.0.1:{port}-{server}:80");
    ["-netdev", &network, "-device", "virtio-net-device,netdev=uplink"].map(str::to_owned).to_vec()
}

/// A port of this machine that nobody listens at: one that is easy to remember, if it is free.
fn free_port() -> Result<u16> {
    let found = TcpListener::bind(("127.0.0.1", 8080)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(found.and_then(|listener| listener.local_addr()).context("this machine gives no TCP port")?.port())
}

/// What a browser on this machine gets from the guest that serves.
fn page(port: u16) -> io::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut line = TcpStream::connect(("127.0.0.1", port))?;
    line.set_read_timeout(Some(PATIENCE))?;
    line.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    line.read_to_string(&mut text)?;
    Ok(text)
}

/// Two guests at a switch: the user has its page and its file from the server; so has this machine; the server is then told to power off.
fn net_check(ctx: &Ctx, qemu: &Qemu, machine: &Machine, built: &Built, port: u16) -> Result<()> {
    const USER_ENDED: &str = "vm \"user\" ended: powered off";
    const GREETING: &str = "Hello from VM <b>web</b>";
    let steps = vec![
        Step { after: Some(USER_ENDED.to_owned()), ..step("list", &["user*stopped"], 10) },
        step("stop web --grace 60s", &["stopped (powered off)"], 1),
    ];
    let lines = ["web: up", GREETING, "demo: ok", "init: the power key"];
    let lines = lines.map(str::to_owned).to_vec();
    let expect = Expect { lines, control: steps, end: End::Control, ..expected(false) };
    let mut got = None;
    watch(ctx, qemu, machine, built, &expect, |line| {
        if line.contains(USER_ENDED) {
            got = Some(page(port));
        }
    })?;
    let text =
        got.context("the server was not asked")?.with_context(|| format!("http://127.0.0.1:{port}/ gave nothing"))?;
    let Some(page) = text.lines().find(|line| line.contains(GREETING)) else {
        bail!("http://127.0.0.1:{port}/ gave something else: {text}");
    };
    eprintln!("xtask: http://127.0.0.1:{port}/ gave: {page}");
    Ok(())
}

/// What `run --demo net` says when all is well, whatever it says besides; its two outputs keep no order between them.
const NET_SAYS: [&str; 5] = [
    "web: up",
    "demo: ok, 4 MiB from web with sha256 ",
    "vm \"user\" ended: powered off",
    "xtask: all that was to be seen has been seen",
    "xtask: http://127.0.0.1:*/ gave: <p>Hello from VM <b>web</b> under Merus",
];

/// The demo `net` as somebody without a terminal starts it: by its end and by what it says.
///
/// # Errors
/// It failed, or said less; the text has its last lines or what is missing.
pub fn check_net(ctx: &Ctx, step: &ctx::Step) -> Result<()> {
    const LOG: &str = "demo-net";
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--demo", "net"]).current_dir(&ctx.root);
    ctx.run(step, LOG, &mut command)?;
    let at = ctx.log_path(LOG);
    let log = std::fs::read_to_string(&at).with_context(|| format!("cannot read {}", at.display()))?;
    match unsaid(&log, &NET_SAYS) {
        None => Ok(()),
        Some(pattern) => bail!("it ended well without `{pattern}` (all of it: {})", at.display()),
    }
}

/// The first of the patterns that no line has.
fn unsaid<'a>(log: &str, patterns: &[&'a str]) -> Option<&'a str> {
    patterns.iter().find(|pattern| !log.lines().any(|line| qemu::matches(pattern, line))).copied()
}

/// Three busy guests: all run, `merus ctl top` shows them, and each can be ended.
fn many_check(ctx: &Ctx, qemu: &Qemu, machine: &Machine, built: &Built) -> Result<()> {
    let up = |name: &str| step(&format!("console {name} --until 'busy: up nproc=2'"), &["busy: up"], 60);
    let mut steps: Vec<Step> = bundle::MANY.iter().map(|(name, _)| up(name)).collect();
    steps.push(step("top --once", &["small*running", "medium*running", "large*running"], 1));
    steps.push(step("list", &["small * 100 ", "medium * 200 ", "large * 400 "], 1));
    steps.extend(
        bundle::MANY.iter().map(|(name, _)| step(&format!("stop {name} --grace 60s"), &["stopped (powered off)"], 1)),
    );
    let expect =
        Expect { lines: Vec::new(), control: steps, end: End::Control, timeout: MANY_TIMEOUT, ..expected(false) };
    watch(ctx, qemu, machine, built, &expect, |_| {})
}

/// The console goes to a file, and the terminal is `merus ctl top`'s; leaving it ends QEMU.
fn many_live(qemu: &Qemu, machine: &Machine, ctx: &Ctx) -> Result<()> {
    let log = ctx.merus_dir.join("logs/many.log");
    std::fs::create_dir_all(ctx.merus_dir.join("logs"))?;
    let Some(control) = &machine.control else {
        bail!("the path of this checkout is too long for a socket; move it, or start QEMU by hand");
    };
    let mut command = machine.command(qemu, &format!("file:{}", log.display()));
    let mut child = command.stdin(std::process::Stdio::null()).spawn();
    let child = child.as_mut().map_err(|e| anyhow::anyhow!("cannot start QEMU: {e}"))?;
    eprintln!("xtask: three guests boot; their console goes to {}; `q` leaves and ends QEMU", log.display());
    for _ in 0..50 {
        if control.socket.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let connect = format!("unix:{}", control.socket.display());
    let shown = Command::new(&control.cli).args(["ctl", "--connect", &connect, "--timeout", "60", "top"]).status();
    let _ = child.kill();
    let _ = child.wait();
    match shown.context("cannot start `merus ctl top`")? {
        status if status.success() => Ok(()),
        status => bail!("`merus ctl top` ended with {status}"),
    }
}

/// What the scripted check must see: the workload's success (only our own guest has it), and the end.
fn expected(demo: bool) -> Expect {
    let lines = [demo.then_some("demo: ok"), Some("merus: halt")];
    Expect {
        lines: lines.into_iter().flatten().map(str::to_owned).collect(),
        forbidden: vec!["Kernel panic".to_owned(), "demo: FAILED".to_owned()],
        constant: None,
        between: Vec::new(),
        shares: None,
        script: Vec::new(),
        control: Vec::new(),
        end: End::Exit(0),
        timeout: TIMEOUT,
    }
}

/// The places that a backtrace in these lines names.
fn backtrace(tail: &[String], elf: &Path, root: &Path) -> Vec<String> {
    let Ok(symbols) = Symbols::load(elf, root) else { return Vec::new() };
    tail.iter().flat_map(|line| symbols.places(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::{Verdict, Watch};

    #[test]
    fn the_check_wants_the_workload_then_the_halt_then_a_good_end() {
        let expect = expected(true);
        let mut watch = Watch::new(&expect);
        watch.line("merus: halt");
        assert!(
            watch.ended(Some(0)).is_err_and(|why| why.contains("`demo: ok`") && why.contains("last seen: merus: halt"))
        );
        let mut watch = Watch::new(&expect);
        watch.line("[debian] demo: ok");
        assert!(watch.ended(Some(0)).is_err());
        watch.line("merus: halt");
        assert_eq!(watch.ended(Some(0)), Ok(()));
        assert!(watch.ended(Some(1)).is_err());
        assert!(matches!(watch.line("demo: FAILED sha256"), Verdict::Failed(_)));
    }

    #[test]
    fn the_demo_is_judged_by_what_it_says() {
        let log = "web: up\n[web] x\ngot <b>web</b>\n";
        assert_eq!(unsaid(log, &["web: up", "got *web"]), None);
        assert_eq!(unsaid(log, &["web: up", "got *user"]), Some("got *user"));
        assert_eq!(unsaid("", &NET_SAYS), Some(NET_SAYS[0]));
    }

    #[test]
    fn a_users_own_guest_must_only_end() {
        let expect = expected(false);
        let mut watch = Watch::new(&expect);
        watch.line("merus: halt");
        assert_eq!(watch.ended(Some(0)), Ok(()));
    }
}
