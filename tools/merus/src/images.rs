//! `merus image`: makes the images of disks.

use anyhow::Result;
use clap::Subcommand;
use config::setting;
use config::spec::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use merus_client::image::{Request, build};
use std::io::IsTerminal;
use std::path::PathBuf;

/// What to do with images.
#[derive(Subcommand)]
pub enum Image {
    /// Make an ext4 root file system of a tar, with its owners, modes, links and devices
    Build {
        /// The tar, plain or packed by gzip or zstd
        #[arg(long, value_name = "TAR")]
        from: PathBuf,
        /// Where to write the image
        #[arg(short, long)]
        output: PathBuf,
        /// The image's size, such as 64M (without it, what the files need and a quarter more)
        #[arg(long, value_parser = size)]
        size: Option<u64>,
        /// The file system's label, at most 16 bytes
        #[arg(long, default_value = "")]
        label: String,
    },
}

fn size(text: &str) -> Result<u64, String> {
    setting::size(text).ok_or_else(|| format!("write {}", setting::SIZE_FORM))
}

/// A bar for so many bytes, seen on a terminal if it is `wanted`.
pub fn bar(size: u64, wanted: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::hidden());
    if wanted && std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    if let Ok(style) = ProgressStyle::with_template(
        "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    ) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Runs a command.
pub fn run(command: &Image) -> Result<()> {
    let Image::Build { from, output, size, label } = command;
    let bar = bar(0, true);
    bar.set_message(from.display().to_string());
    let made = build(&Request { from, output, size: *size, label }, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let built = made?;
    let files = crate::pack::count(built.files as usize, "file");
    let free = built.free >> 10;
    println!("{}: {}, {files}, {free} KiB free", output.display(), Bytes(built.size));
    if built.without_attributes > 0 {
        eprintln!(
            "merus: the extended attributes of {} are left out",
            crate::pack::count(built.without_attributes as usize, "file")
        );
    }
    Ok(())
}
