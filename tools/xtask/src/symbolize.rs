//! `cargo xtask symbolize`: names and lines beside a console log's addresses.
//!
//! Merus prints a backtrace as lines `merus: backtrace: 0x<offset>`, the offset being from the image's load address, as
//! in merus.elf. An address is that of the instruction after a call, so the line shown is the call's; the one place where
//! something happened, not a call, is printed as `merus: backtrace: pc 0x<offset>`.

use crate::ctx::Ctx;
use addr2line::Loader;
use anyhow::{Result, anyhow};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// What begins an address in a console log, after a possible prefix.
const MARK: &str = "merus: backtrace: ";

/// Arguments of `cargo xtask symbolize`.
#[derive(clap::Args)]
pub struct Args {
    /// The console log; standard input when absent
    pub log: Option<PathBuf>,
    /// The image with symbols; target/merus/merus.elf when absent
    #[arg(long)]
    pub elf: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When the log or the image cannot be read.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let elf = args.elf.unwrap_or_else(|| ctx.merus_dir.join("merus.elf"));
    let symbols = Symbols::load(&elf, &ctx.root)?;
    let input: Box<dyn BufRead> = match args.log {
        Some(path) => {
            let file = File::open(&path).map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
            Box::new(BufReader::new(file))
        }
        None => Box::new(io::stdin().lock()),
    };
    let mut out = io::stdout().lock();
    for line in input.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{}", line.trim_end())?;
        for place in symbols.places(&line) {
            writeln!(out, "{place}")?;
        }
    }
    Ok(())
}

/// The debug information of an image.
pub struct Symbols {
    loader: Loader,
    root: PathBuf,
}

impl Symbols {
    /// Reads the image; file names below `root` are shown from there.
    ///
    /// # Errors
    /// It is no readable object file.
    pub fn load(elf: &Path, root: &Path) -> Result<Self> {
        let loader = Loader::new(elf)
            .map_err(|error| anyhow!("cannot read {}: {error} (`cargo xtask build` makes it)", elf.display()))?;
        Ok(Self { loader, root: root.to_owned() })
    }

    /// Where a line's address is, innermost inlined function first; nothing for a line without one.
    pub fn places(&self, line: &str) -> Vec<String> {
        let Some(address) = address_in(line) else { return Vec::new() };
        let mut places = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|f| f.demangle().ok()).unwrap_or("?".into());
                places.push(self.place(&name, frame.location.as_ref()));
            }
        }
        if places.is_empty() {
            let name = self.loader.find_symbol(address).map(|name| format!("{:#}", rustc_demangle::demangle(name)));
            places.push(self.place(name.as_deref().unwrap_or("?"), None));
        }
        places
    }

    fn place(&self, name: &str, location: Option<&addr2line::Location<'_>>) -> String {
        let file = location.and_then(|location| location.file).map(|file| {
            let path = Path::new(file);
            path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
        });
        match (file, location.and_then(|location| location.line)) {
            (Some(file), Some(line)) => format!("    {file}:{line} {name}"),
            (Some(file), None) => format!("    {file} {name}"),
            (None, _) => format!("    {name}"),
        }
    }
}

/// The address to look up for a line of a backtrace.
fn address_in(line: &str) -> Option<u64> {
    let rest = line.split_once(MARK)?.1.trim();
    let (exact, number) = match rest.strip_prefix("pc ") {
        Some(number) => (true, number),
        None => (false, rest),
    };
    let digits = number.strip_prefix("0x")?;
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let address = u64::from_str_radix(&digits[..end], 16).ok()?;
    if exact { Some(address) } else { address.checked_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_console_lines() {
        assert_eq!(address_in("merus: backtrace: 0x1234"), Some(0x1233));
        assert_eq!(address_in("[x] merus: backtrace: 0x1234 (something)\r"), Some(0x1233));
        assert_eq!(address_in("merus: backtrace: pc 0x1234"), Some(0x1234));
        assert_eq!(address_in("merus: backtrace: 0x0"), None);
        assert_eq!(address_in("merus: backtrace: none"), None);
        assert_eq!(address_in("merus: x0 0x1234"), None);
    }

    #[test]
    fn a_line_of_this_program_is_found_by_its_address() {
        // This test's own executable: what `main` of the test harness calls is somewhere in this file.
        let own = std::env::current_exe().unwrap();
        let symbols = Symbols::load(&own, Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let data = std::fs::read(&own).unwrap();
        let file = object::File::parse(&*data).unwrap();
        use object::{Object as _, ObjectSymbol as _};
        let symbol = file
            .symbols()
            .find(|s| s.name().is_ok_and(|name| name.contains("symbolize") && name.contains("address_in")))
            .unwrap();
        let places = symbols.places(&format!("merus: backtrace: pc {:#x}", symbol.address()));
        assert!(places[0].contains("symbolize.rs:") && places[0].contains("address_in"), "{places:?}");
        assert_eq!(symbols.places("merus: backtrace: pc 0xffffffffffff"), ["    ?"]);
        assert!(symbols.places("nothing").is_empty());
    }
}
