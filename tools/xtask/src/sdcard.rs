//! `cargo xtask sdcard`: what a board's firmware boots Merus from, as files for the first partition of a card, or as a card's image.
//!
//! Raspberry Pi Ltd, "The config.txt file". The bundle is loaded to an address of its own: `followkernel` would put it behind the
//! image's file, where Merus has its heap and its first stack.

use crate::build;
use crate::bundle;
use crate::ctx::Ctx;
use crate::disk::{Content, Disk, Use};
use crate::setup::{self, rpi4};
use crate::uboot;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `cargo xtask sdcard`.
#[derive(clap::Args)]
pub struct Args {
    /// The board
    #[arg(long)]
    pub board: Board,
    /// Where to: a directory, or a disk image if the name ends in `.img`
    #[arg(short, long, value_name = "DIR|IMG")]
    pub output: PathBuf,
    /// What to run, as `merus pack` wrote it [default: the Debian guest of `cargo xtask run`]
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Merus' own command line, such as `merus.idle=stay`
    #[arg(long, default_value = "", value_name = "WORDS")]
    pub append: String,
    /// Have the firmware start U-Boot, and that start Merus
    #[arg(long)]
    pub u_boot: bool,
}

/// Boards that start from a card.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Board {
    /// The Raspberry Pi 4 Model B.
    Rpi4,
}

/// Where the firmware puts the image: the place that the arm64 boot protocol wants, above what the firmware keeps for itself.
const IMAGE_AT: u64 = 0x20_0000;
/// Where it puts the bundle.
const BUNDLE_AT: u64 = 0x800_0000;
/// The largest bundle: behind it, below 1 GiB, are the tree and the graphics processor's memory.
const LARGEST_BUNDLE: u64 = 512 << 20;
/// The first line of a `config.txt` of ours.
const OURS: &str = "# Written by `cargo xtask sdcard`; it writes it anew.";

/// Runs the command.
///
/// # Errors
/// When something cannot be fetched, built, read or written, or would overwrite what is not ours.
pub fn main(ctx: &Ctx, args: &Args) -> Result<()> {
    let Board::Rpi4 = args.board;
    let built = build::build(ctx, &setup::ensure_target(ctx)?)?;
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => bundle::demo(ctx, &built, &setup::ensure_guest(ctx)?, "")?,
    };
    let u_boot = args.u_boot.then(|| setup::ensure_u_boot(ctx, crate::raspi4b::NAME)).transpose()?;
    let card = Card {
        firmware: &setup::ensure_rpi4(ctx)?,
        image: &built.img,
        bundle: Some(&bundle),
        append: &args.append,
        u_boot: u_boot.as_deref(),
    };
    if args.output.extension().is_some_and(|extension| extension == "img") {
        card.disk()?.write(&args.output)?;
        println!("{}: write it to a whole card, for example by `dd`", args.output.display());
    } else {
        card.write(&args.output)?;
        println!("{}: copy what is in it to the first partition of a card, a FAT32", args.output.display());
    }
    Ok(())
}

/// A card.
pub struct Card<'a> {
    /// Where the board's firmware is ([`rpi4::FILES`]).
    pub firmware: &'a Path,
    /// Merus.
    pub image: &'a Path,
    /// What it runs.
    pub bundle: Option<&'a Path>,
    /// Its command line.
    pub append: &'a str,
    /// U-Boot, if it comes in between.
    pub u_boot: Option<&'a Path>,
}

impl Card<'_> {
    /// The card as a disk.
    ///
    /// # Errors
    /// As [`Disk::write`] for what is known by now.
    pub fn disk(&self) -> Result<Disk> {
        Ok(self.files()?.into_iter().fold(Disk::new(Use::Boot), |disk, (name, content)| disk.with(&name, content)))
    }

    /// Writes the card's files into a directory, which is made. What else is in it stays.
    ///
    /// # Errors
    /// A file cannot be read or written, or the directory is somebody's: it has another `config.txt`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let config = dir.join("config.txt");
        let other = fs::read(&config).is_ok_and(|text| !text.starts_with(OURS.as_bytes()));
        ensure!(!other, "{} is not of this command; move it away, or choose another directory", config.display());
        let files = self.files()?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (name, content) in files {
            let to = dir.join(name);
            match content {
                Content::Bytes(bytes) => fs::write(&to, bytes),
                Content::Host(from) => fs::copy(&from, &to).map(|_| ()),
            }
            .with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<(String, Content)>> {
        ensure!(self.append.lines().count() <= 1, "a command line is one line: `{}`", self.append);
        if let Some(bundle) = self.bundle {
            let found = fs::metadata(bundle).with_context(|| format!("cannot read {}", bundle.display()))?;
            let size = found.len();
            if size > LARGEST_BUNDLE {
                bail!(
                    "{} has {} MiB; the firmware has room for {} MiB",
                    bundle.display(),
                    size >> 20,
                    LARGEST_BUNDLE >> 20
                );
            }
        }
        let mut files: Vec<(String, Content)> =
            rpi4::FILES.iter().map(|name| ((*name).to_owned(), Content::Host(self.firmware.join(name)))).collect();
        let mut host = |name: &str, path: &Path| files.push((name.to_owned(), Content::Host(path.to_owned())));
        host("merus.img", self.image);
        if let Some(bundle) = self.bundle {
            host("bundle.merus", bundle);
        }
        if let Some(u_boot) = self.u_boot {
            host("u-boot.bin", u_boot);
            let script = uboot::boot_script(self.bundle.is_some(), self.append)?;
            files.push(("boot.scr".to_owned(), Content::Bytes(script)));
        }
        files.push(("config.txt".to_owned(), Content::Bytes(self.config().into_bytes())));
        files.push(("cmdline.txt".to_owned(), Content::Bytes(format!("{}\n", self.append.trim()).into_bytes())));
        Ok(files)
    }

    /// The firmware's configuration.
    fn config(&self) -> String {
        let mut text = format!("{OURS}\n");
        let mut set = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        set("arm_64bit=1".into());
        match self.u_boot {
            Some(_) => set("kernel=u-boot.bin".into()),
            None => {
                set("kernel=merus.img".into());
                set(format!("kernel_address={IMAGE_AT:#x}"));
                if self.bundle.is_some() {
                    // This key has no `=`.
                    set(format!("initramfs bundle.merus {BUNDLE_AT:#x}"));
                }
            }
        }
        set(format!("device_tree={}", rpi4::TREE));
        set("enable_gic=1".into());
        // The mini-UART on the header, at the speed of the tree's stdout-path, and a core clock that stays.
        set("enable_uart=1".into());
        text
    }
}

#[cfg(test)]
mod tests;
