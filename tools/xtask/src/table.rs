//! The QEMU table: which configurations the test command boots, read from `tools/ci/qemu.toml`.
//!
//! A row is one named test: a board, what to run on it, what must be printed and how it must end. A `[[product]]` is
//! written once and stands for a row of each combination of its axes. The file's head explains its keys.

mod damage;
mod mode;

pub use damage::Damage;

use crate::qemu::control::Step;
use crate::qemu::{Between, End, Expect, Machine, Send, Shares, counted};
use crate::raspi4b;
use crate::test::flood::Flood;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    defaults: Defaults,
    #[serde(default)]
    row: Vec<Row>,
    #[serde(default)]
    product: Vec<Product>,
    #[serde(default)]
    refusal: Vec<Refusal>,
}

/// What a row has that does not say otherwise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    machine: String,
    cpu: String,
    smp: u32,
    board_memory: String,
    vcpus: u32,
    memory: String,
    timeout: u64,
    forbid: Vec<String>,
}

/// One boot under QEMU.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Unique; what a filter is held against.
    pub name: String,
    /// `linux`, or `tests:<name>` for one of the EL1 payload's tests.
    guest: Option<String>,
    /// A manifest's text instead of a guest.
    manifest: Option<String>,
    /// No bundle at all.
    #[serde(default)]
    no_bundle: bool,
    /// Let what `merus pack` would refuse through to Merus.
    #[serde(default)]
    no_check: bool,
    /// What is done to the packed bundle.
    damage: Option<Damage>,
    /// Added to the guest's command line.
    cmdline: Option<String>,
    /// The guest's vCPUs.
    vcpus: Option<u32>,
    /// The guest's memory, as a manifest spells it.
    memory: Option<String>,
    machine: Option<String>,
    cpu: Option<String>,
    /// Another CPU would do as well: the row tests nothing of this one.
    #[serde(skip)]
    any_cpu: bool,
    smp: Option<u32>,
    board_memory: Option<String>,
    /// The board's own `/chosen/bootargs`, which Merus reads.
    append: Option<String>,
    /// Loads the image there and jumps to it, without the boot protocol.
    load_at: Option<String>,
    /// Starts this before Merus.
    preload: Option<Preload>,
    /// The ELF file instead of the image, without the boot protocol.
    #[serde(default)]
    elf: bool,
    /// A firmware finds the image and starts it.
    firmware: Option<Firmware>,
    /// Image and bundle are on a disk, where the firmware finds them.
    #[serde(default)]
    from_disk: bool,
    /// The console is the Raspberry Pi 4's mini-UART.
    #[serde(default)]
    mini_uart: bool,
    /// The board has a second serial port, whose output comes with the first one's.
    #[serde(default)]
    two_ports: bool,
    /// Boots the build that traps FP instructions in EL2.
    #[serde(default)]
    debug_fp: bool,
    /// With HCR_EL2.E2H = 1.
    #[serde(default)]
    vhe: bool,
    /// Lines that must all be the same, the first one aside.
    constant: Option<String>,
    /// A text, and the least and the most that the number after it may be.
    #[serde(default)]
    between: Vec<(String, u64, u64)>,
    /// Numbers that must be to each other as weights are.
    shares: Option<SharesOf>,
    /// Time is what the CPUs execute.
    #[serde(default)]
    icount: bool,
    /// With `icount`: microseconds in which each CPU has had a turn.
    turns: Option<u32>,
    /// Further arguments of QEMU.
    #[serde(default)]
    qemu: Vec<String>,
    /// A line, and the address to which frames come without end from then on.
    flood: Option<(String, String)>,
    /// Seconds.
    timeout: Option<u64>,
    #[serde(default)]
    expect: Vec<String>,
    /// Beside the defaults'.
    #[serde(default)]
    forbid: Vec<String>,
    /// Of the defaults' `forbid`, what may come.
    #[serde(default)]
    allow: Vec<String>,
    /// Pairs of what to wait for and what to type then.
    #[serde(default)]
    script: Vec<(String, String)>,
    /// Commands on the control line.
    #[serde(default)]
    control: Vec<ControlStep>,
    exit: Option<Exit>,
    /// Only in `cargo xtask test --all`.
    #[serde(default)]
    pub all_only: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharesOf {
    /// Percent.
    within: u64,
    of: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Exit {
    Code(i32),
    Word(ExitWord),
    After { after: String, count: u32 },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ExitWord {
    Fatal,
    Control,
}

/// A command on the control line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlStep {
    after: Option<String>,
    noise: Option<(String, usize)>,
    run: String,
    #[serde(default)]
    input: String,
    #[serde(default)]
    expect: Vec<String>,
    #[serde(default)]
    status: i32,
    #[serde(default)]
    times: u32,
    #[serde(default)]
    tries: u32,
}

/// What runs before Merus and starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preload {
    /// `guest-dirty`: leaves every EL2 control register with a value that hurts.
    Dirty,
}

/// What starts Merus on a board, other than QEMU itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// U-Boot, as Debian builds it for the board.
    UBoot,
    /// The same, as UEFI: it starts the image as an EFI application.
    UBootEfi,
    /// TF-A, as Debian builds it for the Raspberry Pi 4; it stays for PSCI.
    TfA,
    /// UEFI (EDK2), as Debian builds it for `virt`.
    Uefi,
    /// GRUB from UEFI, which starts the image as a Linux kernel.
    GrubLinux,
    /// GRUB from UEFI, which starts the image as an EFI application.
    GrubChainloader,
}

impl Firmware {
    /// Whether it starts the image from a disk on this machine: what a row can say.
    fn disks(self, machine: &str) -> &'static [bool] {
        match self {
            Self::UBootEfi | Self::GrubLinux | Self::GrubChainloader => &[true],
            Self::UBoot if machine == raspi4b::NAME => &[true],
            Self::UBoot | Self::Uefi => &[false, true],
            Self::TfA => &[false],
        }
    }
}

/// One row for each combination of the axes; an axis that is left out is the row's own value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Product {
    #[serde(default)]
    cpu: Vec<String>,
    #[serde(default)]
    vcpus: Vec<u32>,
    #[serde(default)]
    smp: Vec<u32>,
    /// Names of the EL1 payload's tests.
    #[serde(default)]
    test: Vec<String>,
    /// What `{how}` in the row's name, manifest and patterns stands for.
    #[serde(default)]
    how: Vec<String>,
    /// The combinations (cpu, vcpus, smp) of the normal run; all where left out.
    covering: Option<Vec<(String, u32, u32)>>,
    row: Row,
}

/// A manifest that `merus check` and `merus pack` must refuse.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// Unique among all rows.
    pub name: String,
    /// The manifest's text.
    pub manifest: String,
    /// Patterns that the message must have, each in some line.
    pub expect: Vec<String>,
}

/// What a row's bundle is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bundle {
    /// The manifest, its placeholders not yet filled.
    pub manifest: String,
    /// Whether what `merus pack` would refuse is packed all the same.
    pub no_check: bool,
    /// What is done to it then.
    pub damage: Option<Damage>,
}

/// A row with every default filled in.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The row's name.
    pub name: String,
    /// The board; kernel and bundle are for the caller to fill in.
    pub machine: Machine,
    /// The bundle, if the row has one.
    pub bundle: Option<Bundle>,
    /// What starts Merus in the firmware's place.
    pub preload: Option<Preload>,
    /// What starts it then.
    pub firmware: Option<Firmware>,
    /// Whether image and bundle are on a disk.
    pub from_disk: bool,
    /// Whether it is the build that traps FP instructions in EL2.
    pub debug_fp: bool,
    /// Whether another CPU would do as well.
    pub any_cpu: bool,
    /// Whether its time is what its CPUs execute and nothing from outside comes into it: it is the same however slowly it runs.
    pub counted: bool,
    /// What the network floods it with, by `{port}`.
    pub flood: Option<Flood>,
    /// What must be printed and how it must end.
    pub expect: Expect,
    /// Only in `cargo xtask test --all`.
    pub all_only: bool,
}

/// The whole table.
pub struct Table {
    /// Boots under QEMU.
    pub boots: Vec<Boot>,
    /// Manifests that the host's program must refuse.
    pub refusals: Vec<Refusal>,
}

impl Table {
    /// Reads the table and expands its products.
    ///
    /// # Errors
    /// The text is no TOML of this shape, or a row contradicts itself; the error names the row.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).context("the QEMU table")?;
        let products = file.product.iter().flat_map(Product::rows);
        let boots = file
            .row
            .iter()
            .cloned()
            .chain(products)
            .map(|row| row.resolve(&file.defaults).with_context(|| format!("row {}", row.name)))
            .collect::<Result<Vec<_>>>()?;
        let mut names = BTreeSet::new();
        for name in boots.iter().map(|boot| &boot.name).chain(file.refusal.iter().map(|refusal| &refusal.name)) {
            ensure!(names.insert(name), "two rows are called {name}");
        }
        Ok(Self { boots, refusals: file.refusal })
    }
}

impl Product {
    fn rows(&self) -> Vec<Row> {
        fn axis<T: Clone>(values: &[T]) -> Vec<Option<T>> {
            if values.is_empty() { vec![None] } else { values.iter().cloned().map(Some).collect() }
        }
        let mut rows = Vec::new();
        for cpu in axis(&self.cpu) {
            for vcpus in axis(&self.vcpus) {
                for smp in axis(&self.smp) {
                    for test in axis(&self.test) {
                        let row = self.row_of(cpu.as_ref(), vcpus, smp, test.as_deref());
                        rows.extend(axis(&self.how).iter().map(|how| row.filled(how.as_deref())));
                    }
                }
            }
        }
        rows
    }

    fn row_of(&self, cpu: Option<&String>, vcpus: Option<u32>, smp: Option<u32>, test: Option<&str>) -> Row {
        let mut row = self.row.clone();
        let covered = self.covering.as_ref().is_none_or(|covering| {
            covering.iter().any(|(c, v, p)| {
                cpu.is_none_or(|x| x == c) && vcpus.is_none_or(|x| x == *v) && smp.is_none_or(|x| x == *p)
            })
        });
        row.all_only |= !covered;
        row.any_cpu = cpu.is_some() && cpu == self.cpu.first() && !self.cpu.iter().any(|cpu| mode::has_vhe(cpu));
        row.cpu = cpu.cloned().or(row.cpu);
        row.vcpus = vcpus.or(row.vcpus);
        row.smp = smp.or(row.smp);
        if let Some(test) = test {
            row.guest = Some(format!("tests:{test}"));
            row.name = row.name.replace("{test}", test);
        }
        row
    }
}

impl Row {
    /// Itself with `{how}` filled in, where the product has that axis.
    fn filled(&self, how: Option<&str>) -> Self {
        let Some(how) = how else { return self.clone() };
        let fill = |text: &String| text.replace("{how}", how);
        Self {
            name: fill(&self.name),
            machine: self.machine.as_ref().map(fill),
            manifest: self.manifest.as_ref().map(fill),
            qemu: self.qemu.iter().map(fill).collect(),
            expect: self.expect.iter().map(fill).collect(),
            forbid: self.forbid.iter().map(fill).collect(),
            ..self.clone()
        }
    }

    fn resolve(&self, defaults: &Defaults) -> Result<Boot> {
        let cpu = self.cpu.as_ref().unwrap_or(&defaults.cpu);
        let smp = self.smp.unwrap_or(defaults.smp);
        let vcpus = self.vcpus.unwrap_or(defaults.vcpus);
        let test = self.guest.as_deref().and_then(|guest| guest.strip_prefix("tests:"));
        let fill = |text: &String| {
            text.replace("{cpu}", cpu)
                .replace("{vcpus}", &vcpus.to_string())
                .replace("{smp}", &smp.to_string())
                .replace("{test}", test.unwrap_or_default())
        };
        let name = fill(&self.name);
        ensure!(!name.contains(['{', ' ', '/']), "`{name}` is no name");
        let loaders = [self.preload.is_some(), self.load_at.is_some(), self.firmware.is_some(), self.elf];
        ensure!(
            loaders.iter().filter(|set| **set).count() <= 1,
            "one of `preload`, `load_at`, `firmware` and `elf` loads the image"
        );
        let machine = self.machine.as_ref().unwrap_or(&defaults.machine);
        let on_raspi = !self.mini_uart && self.firmware != Some(Firmware::TfA);
        ensure!(machine == raspi4b::NAME || on_raspi, "`mini_uart` and TF-A are the Raspberry Pi 4's");
        let disk = self.firmware.map_or(&[false][..], |firmware| firmware.disks(machine));
        let why =
            if self.from_disk { "is for a `firmware` that reads one" } else { "is the only way of this `firmware`" };
        ensure!(disk.contains(&self.from_disk), "`from_disk` {why} on {machine}");
        if let Some(text) = self.allow.iter().find(|text| !defaults.forbid.contains(text)) {
            bail!("`allow` has `{text}`, which is not forbidden");
        }
        ensure!(!self.two_ports || self.control.is_empty(), "`control` has the second port itself");
        ensure!(self.turns.is_none() || self.icount, "`turns` are of `icount`");
        let memory = self.memory.as_ref().unwrap_or(&defaults.memory);
        let end = match &self.exit {
            None => End::Exit(0),
            Some(Exit::Code(code)) => End::Exit(*code),
            Some(Exit::Word(ExitWord::Fatal)) => End::Fatal,
            Some(Exit::Word(ExitWord::Control)) => End::Control,
            Some(Exit::After { after, count }) => End::After { line: fill(after), count: *count },
        };
        let mut boot = Boot {
            bundle: self.bundle(test, vcpus, memory)?.map(|manifest| Bundle {
                manifest: if self.manifest.is_some() { manifest } else { fill(&manifest) },
                no_check: self.no_check,
                damage: self.damage,
            }),
            machine: Machine {
                machine: machine.clone(),
                cpu: cpu.clone(),
                smp,
                memory: self.board_memory.as_ref().unwrap_or(&defaults.board_memory).clone(),
                load_at: self.load_at.clone(),
                elf: self.elf,
                second: self.mini_uart,
                append: self.append.clone(),
                two_ports: self.two_ports,
                extra: [if self.icount { counted(self.turns) } else { Vec::new() }, self.qemu.clone()].concat(),
                ..Machine::default()
            },
            preload: self.preload,
            firmware: self.firmware,
            from_disk: self.from_disk,
            debug_fp: self.debug_fp,
            any_cpu: self.any_cpu || self.cpu.is_none(),
            counted: self.icount && self.script.is_empty() && self.control.is_empty() && self.qemu.is_empty(),
            flood: self.flood.as_ref().map(|(after, to)| Flood::new(fill(after), to)).transpose()?,
            expect: Expect {
                lines: self.expect.iter().map(fill).collect(),
                forbidden: defaults
                    .forbid
                    .iter()
                    .filter(|text| !self.allow.contains(text))
                    .chain(&self.forbid)
                    .map(fill)
                    .collect(),
                constant: self.constant.clone(),
                between: self
                    .between
                    .iter()
                    .map(|(text, least, most)| Between { text: fill(text), least: *least, most: *most })
                    .collect(),
                shares: self.shares.as_ref().map(|s| Shares { within: s.within, of: s.of.clone() }),
                script: self
                    .script
                    .iter()
                    .map(|(after, text)| Send { after: after.clone(), text: text.clone() })
                    .collect(),
                control: self
                    .control
                    .iter()
                    .map(|step| Step {
                        after: step.after.clone(),
                        noise: step.noise.clone(),
                        run: fill(&step.run),
                        input: step.input.clone(),
                        expect: step.expect.clone(),
                        status: step.status,
                        times: step.times,
                        tries: step.tries,
                    })
                    .collect(),
                end,
                timeout: Duration::from_secs(self.timeout.unwrap_or(defaults.timeout)),
            },
            all_only: self.all_only,
            name,
        };
        if self.vhe {
            boot.with_vhe(false)?;
        }
        Ok(boot)
    }

    /// The manifest's text, or `None` for a row without a bundle.
    fn bundle(&self, test: Option<&str>, vcpus: u32, memory: &str) -> Result<Option<String>> {
        let cmdline = |own: &str| match &self.cmdline {
            Some(more) => format!("{own} {more}"),
            None => own.to_owned(),
        };
        let text = match (&self.guest, &self.manifest, self.no_bundle, test) {
            (Some(_), None, false, Some(test)) => {
                vm("test", "tests", None, &cmdline(&format!("test={test}")), memory, vcpus)
            }
            (Some(guest), None, false, None) if guest == "linux" => linux(&cmdline("console=ttyAMA0"), memory, vcpus),
            (Some(guest), None, false, None) => bail!("guest `{guest}` is neither `linux` nor `tests:<name>`"),
            (None, Some(manifest), false, _) => manifest.clone(),
            (None, None, true, _) => return Ok(None),
            _ => bail!("a row has one of `guest`, `manifest` and `no_bundle = true`"),
        };
        Ok(Some(text))
    }
}

/// The manifest of one Debian guest; `{kernel}` and `{initrd}` are filled in by [`Files::fill`].
pub fn linux(cmdline: &str, memory: &str, vcpus: u32) -> String {
    vm("linux", "kernel", Some("initrd"), cmdline, memory, vcpus)
}

fn vm(name: &str, kernel: &str, initrd: Option<&str>, cmdline: &str, memory: &str, vcpus: u32) -> String {
    let initrd = initrd.map(|file| format!("initrd = \"{{{file}}}\"\n")).unwrap_or_default();
    format!(
        "[[vm]]\nname = \"{name}\"\nkernel = \"{{{kernel}}}\"\n{initrd}cmdline = \"{cmdline}\"\n\
         memory = \"{memory}\"\nvcpus = {vcpus}\n"
    )
}

/// The files that a manifest's placeholders stand for.
pub struct Files {
    /// `{kernel}`: the guest's arm64 `Image`.
    pub kernel: PathBuf,
    /// `{initrd}`: its initramfs.
    pub initrd: PathBuf,
    /// `{tests}`: the EL1 payload.
    pub tests: PathBuf,
    /// `{text}`: a file that is neither kernel nor archive.
    pub text: PathBuf,
    /// Those of [`crate::shapes`], as far as rows name them.
    pub shapes: BTreeMap<&'static str, PathBuf>,
}

impl Boot {
    /// Whether it names the file `{name}`, in its manifest, at its console or in a command.
    pub fn names(&self, name: &str) -> bool {
        let place = format!("{{{name}}}");
        let manifest = self.bundle.as_ref().map(|bundle| &bundle.manifest);
        let control = self.expect.control.iter().map(|step| &step.run);
        let typed = self.expect.script.iter().map(|send| &send.text);
        manifest.into_iter().chain(control).chain(typed).chain(&self.machine.extra).any(|text| text.contains(&place))
    }
}

impl Files {
    /// A command with the paths in the place of its placeholders.
    pub fn plain(&self, text: &str) -> String {
        let place = |text: String, name: &str, path: &Path| text.replace(name, &path.display().to_string());
        let text = place(text.to_owned(), "{kernel}", &self.kernel);
        let text = place(text, "{initrd}", &self.initrd);
        let text = place(text, "{tests}", &self.tests);
        self.shapes.iter().fold(text, |text, (name, path)| place(text, &format!("{{{name}}}"), path))
    }

    /// A manifest with the paths in the place of its placeholders.
    pub fn fill(&self, manifest: &str) -> String {
        // They stand within TOML's quotes.
        let quoted = |path: &Path| path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        let place = |text: String, name: &str, path: &Path| text.replace(name, &quoted(path));
        let text = place(manifest.to_owned(), "{kernel}", &self.kernel);
        let text = place(text, "{initrd}", &self.initrd);
        let text = place(text, "{tests}", &self.tests);
        let text = self.shapes.iter().fold(text, |text, (name, path)| place(text, &format!("{{{name}}}"), path));
        place(text, "{text}", &self.text)
    }
}

#[cfg(test)]
mod tests;
