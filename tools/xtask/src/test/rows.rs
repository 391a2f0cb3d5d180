//! Running the QEMU table: bundles packed, rows booted two at a time, failures shown with their last lines.

mod pool;

use super::Tally;
use super::flood;
use crate::bench::runs::Board;
use crate::build::{self, Built, Image};
use crate::ctx::{self, Ctx};
use crate::qemu::Machine;
use crate::qemu::control::{self, Control};
use crate::qemu::{self, Outcome};
use crate::raspi4b::{self, Shape};
use crate::sdcard::Card;
use crate::setup::{self, Qemu, TargetKind};
use crate::shapes;
use crate::symbolize::Symbols;
use crate::table::{Boot, Bundle, Files, Firmware, Preload, Refusal, Table};
use crate::uboot;
use crate::uefi::{self, Grub};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What stands for a free TCP port of this machine in a row's devices and in its manifest.
const PORT: &str = "{port}";

/// The check that all rows had the same image. (One that traps FP instructions in EL2 is built for some, and named by them.)
const ONE_IMAGE: &str = "one-image";

/// What every row needs.
struct Env<'a> {
    ctx: &'a Ctx,
    built: Built,
    qemu: Qemu,
    files: Files,
    /// The build that traps FP instructions in EL2, if a row boots it.
    debug_fp: Option<Image>,
    /// What leaves a mess before Merus starts, if a row has it.
    dirty: Option<PathBuf>,
    /// The Raspberry Pi 4's tree, if a row wants it.
    raspi4b: Option<PathBuf>,
    /// Bundles packed so far, by what they are made of.
    packed: Mutex<HashMap<Bundle, PathBuf>>,
}

/// A bench: its name and its board.
pub type Bench = (&'static str, Board);

/// Fetches and builds what the rows of a whole run need beside the image, so that [`run`] finds it done.
///
/// # Errors
/// Those of set-up and builds.
pub fn ahead(ctx: &Ctx, kind: &TargetKind, all: bool) -> Result<()> {
    let mut boots = table(ctx)?.boots;
    boots.retain(|boot| all || !boot.all_only);
    let payload = |name| build::guest_payload(ctx, kind, name, name);
    payload("guest-tests")?;
    payload("guest-bench")?;
    if boots.iter().any(|boot| boot.debug_fp) {
        build::debug_fp(ctx, kind)?;
    }
    setup::ensure_qemu(ctx)?;
    setup::ensure_guest(ctx)?;
    setup::ensure_root(ctx)?;
    if boots.iter().any(|boot| boot.machine.machine == raspi4b::NAME) {
        setup::ensure_raspi4b(ctx)?;
    }
    for boot in &boots {
        let board = &boot.machine.machine;
        match boot.firmware {
            None => {}
            Some(Firmware::TfA) => drop(setup::ensure_tf_a(ctx)?),
            Some(Firmware::UBoot | Firmware::UBootEfi) => drop(setup::ensure_u_boot(ctx, board)?),
            Some(Firmware::Uefi | Firmware::GrubLinux | Firmware::GrubChainloader) => {
                drop(setup::ensure_uefi(ctx, board)?);
            }
        }
    }
    Ok(())
}

fn table(ctx: &Ctx) -> Result<Table> {
    let path = ctx.root.join("tools/ci/qemu.toml");
    Table::parse(&fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?)
}

/// Runs the rows that the tally selects, and takes the benches to run them beside.
///
/// `vhe`: those that boot, with HCR_EL2.E2H = 1; what cannot have that is counted as skipped.
///
/// # Errors
/// When what all rows need could not be had; they are then counted as skipped.
pub fn run(
    ctx: &Ctx,
    kind: Option<&TargetKind>,
    all: bool,
    vhe: bool,
    benches: &mut Vec<Bench>,
    tally: &mut Tally,
) -> Result<()> {
    let table = table(ctx)?;
    let mut boots = table.boots;
    boots.retain(|boot| tally.selects(&boot.name) && (all || !boot.all_only || tally.names(&boot.name)));
    let mut refusals = table.refusals;
    refusals.retain(|refusal| !vhe && tally.selects(&refusal.name));
    if vhe {
        let selected = boots.len();
        boots.retain_mut(|boot| boot.with_vhe(true).is_ok());
        tally.skipped(selected - boots.len());
        boots.iter_mut().for_each(|boot| boot.name.push_str("+vhe"));
    }
    if boots.is_empty() && refusals.is_empty() {
        return Ok(());
    }
    let env = match prepare(ctx, kind, &boots, &refusals) {
        Ok(env) => env,
        Err(error) => {
            tally.skipped(boots.len() + refusals.len());
            return Err(error);
        }
    };
    for refusal in &refusals {
        tally.check(&refusal.name, |_| refused(&env, refusal));
    }
    let image = sha256(&env.built.img)?;
    pool::run(&env, &boots, kind.map(|kind| (kind, std::mem::take(benches))), tally);
    println!("merus.img: sha256 {image}, on every board and by every firmware");
    tally.check(ONE_IMAGE, |_| {
        let now = sha256(&env.built.img)?;
        ensure!(now == image, "merus.img has become another one (sha256 {now}) while the rows ran; run them again");
        Ok(())
    });
    Ok(())
}

/// A file's SHA-256, in hexadecimal digits.
fn sha256(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn prepare<'a>(ctx: &'a Ctx, kind: Option<&TargetKind>, boots: &[Boot], refusals: &[Refusal]) -> Result<Env<'a>> {
    let kind = kind.context("the target is not set up")?;
    let qemu = setup::ensure_qemu(ctx)?;
    let guest = setup::ensure_guest(ctx)?;
    let built = build::build(ctx, kind)?;
    let tests = build::guest_payload(ctx, kind, "guest-tests", "guest-tests")?;
    let debug_fp = boots.iter().any(|boot| boot.debug_fp).then(|| build::debug_fp(ctx, kind)).transpose()?;
    let dirty = boots.iter().any(|boot| boot.preload == Some(Preload::Dirty));
    let dirty = dirty.then(|| build::guest_payload(ctx, kind, "guest-dirty", "guest-dirty")).transpose()?;
    let raspi4b = boots.iter().any(|boot| boot.machine.machine == raspi4b::NAME);
    let raspi4b = raspi4b.then(|| setup::ensure_raspi4b(ctx)).transpose()?;
    let bundles = ctx.merus_dir.join("bundles");
    if bundles.exists() {
        fs::remove_dir_all(&bundles).with_context(|| format!("cannot remove {}", bundles.display()))?;
    }
    let refused = |name: &str| refusals.iter().any(|refusal| refusal.manifest.contains(&format!("{{{name}}}")));
    let named = |name: &str| boots.iter().any(|boot| boot.names(name)) || refused(name);
    let shapes = shapes::make(ctx, &built.cli, &guest, &tests, named)?;
    let files = Files { kernel: guest.kernel, initrd: guest.initrd, tests, text: ctx.root.join("deny.toml"), shapes };
    Ok(Env { ctx, built, qemu, files, debug_fp, dirty, raspi4b, packed: Mutex::default() })
}

fn boot_one(env: &Env<'_>, boot: &Boot) -> Result<Outcome> {
    let mut machine = boot.machine.clone();
    let (img, elf) = env.image(boot);
    machine.kernel = if machine.elf { elf } else { img }.to_owned();
    machine.preload = match boot.preload {
        None => None,
        Some(Preload::Dirty) => Some(env.dirty.clone().context("the pre-loader was not built")?),
    };
    if let Some(tree) = env.tree(boot) {
        machine.dtb = Some(raspi4b::write_tree(tree, &shape(boot), &env.dir_of(boot))?);
    }
    let mut bundle = boot.bundle.clone();
    let mut flood = None;
    if machine.extra.iter().any(|arg| arg.contains(PORT)) {
        // Free now; whoever takes it in the meantime makes the row fail with QEMU's words about it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        flood = boot.flood.as_ref().map(|what| flood::Waiting::new(what, port));
        let port = port.to_string();
        machine.extra.iter_mut().for_each(|arg| *arg = arg.replace(PORT, &port));
        bundle.iter_mut().for_each(|bundle| bundle.manifest = bundle.manifest.replace(PORT, &port));
    }
    machine.initrd = bundle.as_ref().map(|bundle| env.bundle(bundle)).transpose()?;
    if let Some(firmware) = boot.firmware {
        start_by(env, boot, firmware, &mut machine)?;
    }
    for arg in &mut machine.extra {
        *arg = env.files.plain(arg);
    }
    let mut expect = boot.expect.clone();
    for step in &mut expect.control {
        step.run = env.files.plain(&step.run);
    }
    for send in &mut expect.script {
        send.text = env.files.plain(&send.text);
    }
    if !expect.control.is_empty() {
        machine.control = Some(Control { socket: control::socket(&boot.name), cli: env.built.cli.clone() });
    }
    let mut flooded = Ok(());
    let outcome = qemu::run(&env.qemu, &machine, &expect, &log_of(env, boot), |line| {
        if let (Some(flood), Ok(())) = (&mut flood, &flooded) {
            flooded = flood.line(line);
        }
    });
    drop(flood);
    if let Some(control) = &machine.control {
        // QEMU leaves it behind where it was ended.
        let _ = fs::remove_file(&control.socket);
    }
    if let Some(disk) = &machine.disk {
        // It can be made again, and a whole table of them is large.
        let _ = fs::remove_file(disk);
    }
    flooded?;
    outcome
}

/// Has a firmware start the image: QEMU hands it over, or it lies on a disk.
fn start_by(env: &Env<'_>, boot: &Boot, firmware: Firmware, machine: &mut Machine) -> Result<()> {
    let disk = env.ctx.merus_dir.join("disks").join(format!("{}.img", boot.name));
    match firmware {
        Firmware::TfA => {
            let bl31 = setup::ensure_tf_a(env.ctx)?;
            let tree = env.tree(boot).context("TF-A is the Raspberry Pi 4's")?;
            raspi4b::start_by_tf_a(machine, &bl31, tree, shape(boot), &env.dir_of(boot))?;
        }
        Firmware::Uefi | Firmware::GrubLinux | Firmware::GrubChainloader => {
            let found = setup::ensure_uefi(env.ctx, &machine.machine)?;
            if boot.from_disk {
                machine.disk = Some(write_disk(disk, firmware, Some(&found.grub), machine)?);
            }
            machine.firmware = Some(found.firmware);
        }
        Firmware::UBoot | Firmware::UBootEfi => {
            let u_boot = setup::ensure_u_boot(env.ctx, &machine.machine)?;
            if boot.from_disk {
                machine.disk = Some(match firmware == Firmware::UBoot && machine.machine == raspi4b::NAME {
                    true => write_card(env, disk, &u_boot, machine)?,
                    false => write_disk(disk, firmware, None, machine)?,
                });
            }
            if machine.machine == raspi4b::NAME {
                // The board's own firmware would load it as it loads any kernel.
                machine.kernel = u_boot;
            } else {
                machine.firmware = Some(u_boot);
            }
        }
    }
    Ok(())
}

/// Writes the disk from which `firmware` starts the image with the bundle and the command line; they are nowhere else then.
fn write_disk(at: PathBuf, firmware: Firmware, grub: Option<&Path>, machine: &mut Machine) -> Result<PathBuf> {
    let (image, bundle, append) = (&machine.kernel, machine.initrd.take(), machine.append.take());
    let (bundle, append) = (bundle.as_deref(), append.as_deref());
    let made = match (firmware, grub) {
        (Firmware::GrubLinux, Some(grub)) => uefi::grub_disk(grub, Grub::Linux, image, bundle, append)?,
        (Firmware::GrubChainloader, Some(grub)) => uefi::grub_disk(grub, Grub::Chainloader, image, bundle, append)?,
        (Firmware::UBoot, _) => uboot::disk(image, bundle, append)?,
        _ => uefi::disk(image, bundle, append)?,
    };
    made.write(&at)?;
    Ok(at)
}

/// The same for a Raspberry Pi 4's card, as `cargo xtask sdcard` writes it. What the board's own firmware does with it, QEMU does.
fn write_card(env: &Env<'_>, at: PathBuf, u_boot: &Path, machine: &mut Machine) -> Result<PathBuf> {
    let (bundle, append) = (machine.initrd.take(), machine.append.take().unwrap_or_default());
    let firmware = setup::ensure_rpi4(env.ctx)?;
    let card = Card {
        firmware: &firmware,
        image: &machine.kernel,
        bundle: bundle.as_deref(),
        append: &append,
        u_boot: Some(u_boot),
    };
    card.disk()?.write(&at)?;
    Ok(at)
}

/// The shape of the Raspberry Pi 4's tree for a row.
fn shape(boot: &Boot) -> Shape {
    let card = boot.machine.extra.iter().any(|arg| arg.starts_with("if=sd,"));
    Shape { cpus: boot.machine.smp, mini_uart: boot.machine.second, card, handed: None }
}

fn log_of(env: &Env<'_>, boot: &Boot) -> PathBuf {
    env.ctx.merus_dir.join("logs").join(format!("{}.log", boot.name))
}

/// A failed row's reason and its last lines, the addresses in them with their names.
fn verdict(env: &Env<'_>, boot: &Boot, outcome: &Outcome) -> Result<(), String> {
    let Err(why) = &outcome.result else { return Ok(()) };
    let symbols = Symbols::load(env.image(boot).1, &env.ctx.root).ok();
    let mut text = format!("{why}\nlast lines of {}:", log_of(env, boot).display());
    for line in &outcome.tail {
        text.push_str("\n  ");
        text.push_str(line);
        for place in symbols.iter().flat_map(|symbols| symbols.places(line)) {
            text.push_str("\n  ");
            text.push_str(&place);
        }
    }
    Err(text)
}

impl Env<'_> {
    /// The board's tree, where QEMU makes none.
    fn tree(&self, boot: &Boot) -> Option<&Path> {
        self.raspi4b.as_deref().filter(|_| boot.machine.machine == raspi4b::NAME)
    }

    /// Where a row's own files are made.
    fn dir_of(&self, boot: &Boot) -> PathBuf {
        self.ctx.merus_dir.join("boards").join(&boot.name)
    }

    /// The image that a row boots, flat and with symbols.
    fn image(&self, boot: &Boot) -> (&Path, &Path) {
        match &self.debug_fp {
            Some(image) if boot.debug_fp => (&image.img, &image.elf),
            _ => (&self.built.img, &self.built.elf),
        }
    }

    /// The packed (and damaged) bundle; made once for all rows that have the same.
    fn bundle(&self, bundle: &Bundle) -> Result<PathBuf> {
        let mut packed = self.packed.lock().map_err(|_| anyhow!("another row's bundle broke this program"))?;
        if let Some(path) = packed.get(bundle) {
            return Ok(path.clone());
        }
        let mut hash = DefaultHasher::new();
        bundle.hash(&mut hash);
        let dir = self.ctx.merus_dir.join("bundles").join(format!("{:016x}", hash.finish()));
        let manifest = self.manifest(&dir, &bundle.manifest)?;
        let path = dir.join("bundle.merus");
        let mut command = Command::new(&self.built.cli);
        command.arg("pack").arg(&manifest).arg("-o").arg(&path).args(bundle.no_check.then_some("--no-check"));
        ctx::capture(&mut command)?;
        if let Some(damage) = bundle.damage {
            let mut bytes = fs::read(&path)?;
            damage.apply(&mut bytes)?;
            fs::write(&path, bytes)?;
        }
        packed.insert(bundle.clone(), path.clone());
        Ok(path)
    }

    fn manifest(&self, dir: &Path, text: &str) -> Result<PathBuf> {
        let path = dir.join("merus.toml");
        ctx::write_if_changed(&path, self.files.fill(text).as_bytes())?;
        Ok(path)
    }
}

/// Holds that `merus check` and `merus pack` both refuse a manifest, with the same good message and nothing written.
fn refused(env: &Env<'_>, refusal: &Refusal) -> Result<()> {
    let dir = env.ctx.merus_dir.join("bundles").join(&refusal.name);
    let manifest = env.manifest(&dir, &refusal.manifest)?;
    let bundle = dir.join("bundle.merus");
    for (command, out) in [("check", None), ("pack", Some(&bundle))] {
        let mut cli = Command::new(&env.built.cli);
        cli.arg(command).arg(&manifest);
        if let Some(out) = out {
            cli.arg("-o").arg(out);
        }
        let output = cli.output().with_context(|| format!("cannot start {}", env.built.cli.display()))?;
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.code().is_some_and(|code| code != 0), "`merus {command}` did not refuse it: {message}");
        for pattern in &refusal.expect {
            if !message.lines().any(|line| qemu::matches(pattern, line)) {
                bail!("`merus {command}` does not say `{pattern}`, but: {message}");
            }
        }
    }
    ensure!(!bundle.exists(), "`merus pack` refused and wrote a bundle all the same");
    Ok(())
}
