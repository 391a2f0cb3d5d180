//! The machine that QEMU is, as a command.

use super::control::Control;
use crate::raspi4b;
use crate::setup::Qemu;
use std::cell::Cell;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where the image lies that a [`Machine::preload`] jumps to (its own constant `MERUS`).
const PRELOADED_AT: &str = "0x41000000";

/// Where the bundle lies in RAM that goes with an ELF file.
const MODULE_AT: &str = "0x50000000";

/// Arguments for a machine whose time is the number of instructions that its CPUs execute, one after the other, a nanosecond each.
pub const COUNTED: [&str; 6] = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-seed", "1"];

/// [`COUNTED`], with turns of the CPUs that are over after so many microseconds. By itself QEMU lets a CPU execute until the next
/// deadline of any timer, and a CPU that sets many timers gets far less than one that sets none; a network filter without a
/// network has the only timer that can be asked for.
pub fn counted(turns: Option<u32>) -> Vec<String> {
    let mut args: Vec<String> = COUNTED.iter().map(|&arg| arg.to_owned()).collect();
    if let Some(us) = turns {
        let filter = format!("filter-buffer,id=turns,netdev=none,interval={us}");
        args.extend(["-netdev", "hubport,id=none,hubid=0", "-object", &filter].map(str::to_owned));
    }
    args
}

thread_local! {
    /// Whether this thread's machines take only what others leave of the CPUs.
    static YIELDING: Cell<bool> = const { Cell::new(false) };
}

/// From here on the machines that this thread starts run at a low priority, where the system has util-linux's `setpriv`.
pub fn yielding() {
    YIELDING.set(true);
}

/// The machine to boot.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// QEMU's `-M`.
    pub machine: String,
    /// QEMU's `-cpu`.
    pub cpu: String,
    /// Physical CPUs.
    pub smp: u32,
    /// QEMU's `-m`.
    pub memory: String,
    /// The image to boot.
    pub kernel: PathBuf,
    /// The image is an ELF file, which QEMU starts without the boot protocol, at EL3 where the machine has it: the bundle is a module
    /// at [`MODULE_AT`].
    pub elf: bool,
    /// A firmware that QEMU starts instead (`-bios`); it finds the image and the bundle in `fw_cfg`, or on the disk.
    pub firmware: Option<PathBuf>,
    /// A disk, which nothing of the run changes: an SD card on a Raspberry Pi, else a virtio disk. With `firmware`, image and bundle
    /// are on it and nowhere else.
    pub disk: Option<PathBuf>,
    /// Put the image there and jump to it, without the boot protocol (x0 = 0): QEMU's `-device loader`. Then there is no bundle.
    pub load_at: Option<String>,
    /// Started in the image's place, by the boot protocol; it jumps to the image, which is put at [`PRELOADED_AT`].
    pub preload: Option<PathBuf>,
    /// Files that lie in memory, and where, when the CPUs leave reset; where there are any, QEMU starts no image itself.
    pub loaded: Vec<(PathBuf, u64)>,
    /// The console is QEMU's second serial line, the control line its first.
    pub second: bool,
    /// The board's device tree, where QEMU makes none.
    pub dtb: Option<PathBuf>,
    /// The bundle, if any.
    pub initrd: Option<PathBuf>,
    /// The board's `/chosen/bootargs`, if any.
    pub append: Option<String>,
    /// Its control line, if anybody is to talk on it.
    pub control: Option<Control>,
    /// There is a second serial port, whose output comes out of the first one's line as well.
    pub two_ports: bool,
    /// Further arguments.
    pub extra: Vec<String>,
}

impl Machine {
    /// The command that boots it; `serial` is where the serial line goes (`stdio`, `mon:stdio`).
    pub fn command(&self, qemu: &Qemu, serial: &str) -> Command {
        let mut command = with_parent(qemu.command());
        // This one has no fewer; its tree says how many there are.
        let smp = if self.machine == raspi4b::NAME { 4 } else { self.smp };
        command.args(["-M", &self.machine, "-cpu", &self.cpu, "-smp", &smp.to_string(), "-m", &self.memory]);
        if !self.extra.iter().any(|arg| arg == "-accel") {
            // CPUs that nobody starts wait by WFE, which QEMU's threads do not: in one thread they cost next to nothing.
            let thread = if smp > self.smp { "single" } else { "multi" };
            command.args(["-accel", &format!("tcg,thread={thread}")]);
        }
        command.args(["-display", "none", "-monitor", "none", "-nic", "none"]);
        let control = self.control.as_ref().map(|control| {
            let socket = format!("socket,id=control,path={},server=on,wait=off", control.socket.display());
            command.args(["-chardev", &socket]);
            "chardev:control"
        });
        // `mon:` brings its own monitor, which `-monitor none` would not take away.
        if self.two_ports {
            command.args(["-chardev", "stdio,id=both,mux=on,signal=off"]);
        }
        let lines = if self.two_ports {
            [Some("chardev:both"); 2]
        } else if self.second {
            [control.or(Some("null")), Some(serial)]
        } else {
            [Some(serial), control]
        };
        for line in lines.into_iter().flatten() {
            command.args(["-serial", line]);
        }
        let at = |at: &str| format!("loader,file={},addr={at},force-raw=on", self.kernel.display());
        match (&self.preload, &self.load_at) {
            (Some(first), _) => command.arg("-kernel").arg(first).args(["-device", &at(PRELOADED_AT)]),
            (None, Some(place)) => {
                command.args(["-device", &at(place), "-device", &format!("loader,addr={place},cpu-num=0")])
            }
            (None, None) if self.firmware.is_some() && self.disk.is_some() || !self.loaded.is_empty() => &mut command,
            (None, None) => command.arg("-kernel").arg(&self.kernel),
        };
        for (file, at) in &self.loaded {
            command.args(["-device", &format!("loader,file={},addr={at:#x},force-raw=on", file.display())]);
        }
        if let Some(firmware) = &self.firmware {
            command.arg("-bios").arg(firmware);
        }
        if let Some(disk) = &self.disk {
            let bus = if self.machine.starts_with("raspi") { "sd" } else { "virtio" };
            // What a run writes is forgotten, so rows can share the file.
            command.args(["-drive", &format!("if={bus},format=raw,snapshot=on,file={}", disk.display())]);
        }
        if let Some(dtb) = &self.dtb {
            command.arg("-dtb").arg(dtb);
        }
        match &self.initrd {
            Some(initrd) if self.elf => {
                let module = format!("guest-loader,addr={MODULE_AT},initrd={}", initrd.display());
                command.args(["-device", &module]);
            }
            Some(initrd) => {
                command.arg("-initrd").arg(initrd);
            }
            None => {}
        }
        if let Some(append) = &self.append {
            command.args(["-append", append]);
        }
        command.args(&self.extra);
        command
    }
}

/// The same command, ended by the kernel when this program dies, where the system has util-linux's `setpriv`.
fn with_parent(command: Command) -> Command {
    static SETPRIV: OnceLock<bool> = OnceLock::new();
    let usable = *SETPRIV.get_or_init(|| {
        let mut probe = Command::new("setpriv");
        probe.args(["--pdeathsig", "KILL", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    });
    if !usable {
        return command;
    }
    let mut wrapped = Command::new("setpriv");
    // QEMU's own libraries are not setpriv's: `env` sets the variables after it.
    wrapped.args(["--pdeathsig", "KILL", "--"]);
    if YIELDING.get() {
        wrapped.args(["nice", "-n", "10"]);
    }
    wrapped.arg("env");
    for (name, value) in command.get_envs() {
        let mut pair = name.to_owned();
        pair.push("=");
        pair.push(value.unwrap_or_default());
        wrapped.arg(pair);
    }
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}
