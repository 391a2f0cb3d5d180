//! An ELF file linked at 0, read for its instructions, symbols and lines.

use crate::build;
use addr2line::Loader;
use anyhow::{Context as _, Result, anyhow};
use object::{Object as _, ObjectSymbol as _};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The image with what is known about its addresses.
pub struct Image {
    bytes: Vec<u8>,
    symbols: BTreeMap<u64, String>,
    lines: Loader,
}

impl Image {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn load(elf: &Path) -> Result<Self> {
        let file = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let bytes = build::flatten(&file)?;
        let object = object::File::parse(&*file).with_context(|| format!("cannot read {}", elf.display()))?;
        let symbols = object
            .symbols()
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text || symbol.is_global())
            .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned())))
            // Mapping symbols mark code and data, nothing else.
            .filter(|(_, name)| !name.starts_with('$') && !name.is_empty())
            .collect();
        let lines = Loader::new(elf).map_err(|error| anyhow!("cannot read {}: {error}", elf.display()))?;
        Ok(Self { bytes, symbols, lines })
    }

    /// The instruction at an offset.
    pub fn word(&self, at: u64) -> Option<u32> {
        let at = usize::try_from(at).ok()?;
        Some(u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }

    /// The symbols whose names start so, what follows in the name, and their offsets.
    pub fn marks(&self, prefix: &str) -> Vec<(String, u64)> {
        let rest = |(at, name): (&u64, &String)| Some((name.strip_prefix(prefix)?.to_owned(), *at));
        self.symbols.iter().filter_map(rest).collect()
    }

    /// The function in which an offset is, after inlining.
    pub fn symbol(&self, at: u64) -> String {
        let name = self.symbols.range(..=at).next_back().map_or("?", |(_, name)| name);
        format!("{:#}", rustc_demangle::demangle(name))
    }

    /// Whether a function begins at an offset.
    pub fn begins(&self, at: u64) -> bool {
        self.symbols.contains_key(&at)
    }

    /// The room whose code an offset is: that of the innermost inlined function with a file below `root`.
    pub fn room(&self, at: u64, root: &Path) -> String {
        let mut frames = self.lines.find_frames(at).ok();
        while let Some(Some(frame)) = frames.as_mut().and_then(|frames| frames.next().ok()) {
            let file = frame.location.as_ref().and_then(|location| location.file);
            if let Some(room) = file.and_then(|file| room_of(Path::new(file).strip_prefix(root).ok()?)) {
                return room;
            }
        }
        // The assembly on these paths is all in one room, and has no lines.
        "el2, assembly".to_owned()
    }

    /// The innermost inlined function at an offset, and file and line.
    pub fn place(&self, at: u64) -> (String, String) {
        let frame = self.lines.find_frames(at).ok().and_then(|mut frames| frames.next().ok().flatten());
        let Some(frame) = frame else { return (self.symbol(at), String::new()) };
        let name =
            frame.function.as_ref().and_then(|f| f.demangle().ok()).map_or(self.symbol(at), |name| name.to_string());
        let line = frame.location.as_ref().and_then(|location| {
            let file = location.file?.rsplit('/').take(3).collect::<Vec<_>>();
            Some(format!("{}:{}", file.into_iter().rev().collect::<Vec<_>>().join("/"), location.line?))
        });
        (name, line.unwrap_or_default())
    }
}

/// `image_size` of an arm64 Image's header: what it takes in memory (Linux, "Booting AArch64 Linux").
pub fn size_in_memory(image: &[u8]) -> Option<u64> {
    (image.get(56..60)? == b"ARM\x64").then_some(())?;
    Some(u64::from_le_bytes(image.get(16..24)?.try_into().ok()?))
}

/// The room of a source file, by its path in the workspace.
pub fn room_of(file: &Path) -> Option<String> {
    let parts: Vec<_> = file.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        ["hypervisor", "src", ..] => Some("src".to_owned()),
        ["hypervisor", room, ..] | [room @ ("boot" | "platform"), ..] => Some((*room).to_owned()),
        _ => None,
    }
}
