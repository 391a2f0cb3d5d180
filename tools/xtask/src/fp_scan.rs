//! Proves by the binary that EL2 uses no floating-point or SIMD register: a guest's live there untouched between exits.
//!
//! With E2H = 0 an FP trap cannot be left on under a guest that uses FP (CPTR_EL2.TFP traps EL0, EL1 and EL2 alike), so
//! a stray FP instruction in Merus would silently corrupt a guest. The compiler's soft-float target does not forbid it:
//! `#[target_feature(enable = "neon")]` in a dependency is only a lint. Hence this scan of every executable section.
//!
//! # How an instruction is classified
//! By the top level of the A64 encoding, `op0` = bits 28:25 (Arm ARM, DDI 0487, "A64 instruction set encoding"):
//!
//! | op0 | group | counted |
//! |---|---|---|
//! | `0000`, bit 31 set | SME | yes |
//! | `0010` | SVE | yes |
//! | `x1x0` | loads and stores | when V (bit 26) is set, memory copy and set aside |
//! | `x111` | data processing, scalar FP and Advanced SIMD | yes |
//! | others | reserved, immediate, branches and system, register | no |
//!
//! "Memory copy and memory set" (FEAT_MOPS) uses bit 26 as an opcode bit and touches general registers only. Accesses to
//! FPCR, FPSR or SVCR are system instructions: they name no FP register and are not counted.
//!
//! Words that the mapping symbols (`$x` code, `$d` data; AAELF64, "Mapping symbols") call data are skipped.
//! What Merus needs FP instructions for, the routines that switch a guest's registers, lives in a section
//! `.text.guest_fp`, or in the linked image between the symbols `__guest_fp_start` and `__guest_fp_end`.

use anyhow::{Context as _, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, elf};
use std::fmt;
use std::ops::Range;

/// Why an instruction is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Scalar floating point, Advanced SIMD or cryptography.
    DataProcessing,
    /// A load or store of a SIMD&FP register.
    LoadStore,
    /// Scalable vectors.
    Sve,
    /// Scalable matrices.
    Sme,
}

/// The group that makes `word` an FP/SIMD instruction, or `None` where it uses no such register.
pub fn classify(word: u32) -> Option<Group> {
    let op0 = (word >> 25) & 0b1111;
    match op0 {
        0b0000 if word >> 31 == 1 => Some(Group::Sme),
        0b0010 => Some(Group::Sve),
        _ if op0 & 0b0111 == 0b0111 => Some(Group::DataProcessing),
        _ if op0 & 0b0101 == 0b0100 => {
            let v = (word >> 26) & 1 == 1;
            (v && !is_memory_copy_or_set(word)).then_some(Group::LoadStore)
        }
        _ => None,
    }
}

/// "Memory copy and memory set": `size 011 o0 01 op1 0 Rs op2 01 Rn Rd`.
fn is_memory_copy_or_set(word: u32) -> bool {
    (word >> 27) & 0b111 == 0b011 && (word >> 24) & 0b11 == 0b01 && (word >> 21) & 1 == 0 && (word >> 10) & 0b11 == 0b01
}

/// One FP/SIMD instruction in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Address in the image, relative to its link base.
    pub address: u64,
    /// The instruction.
    pub word: u32,
    /// Why it is counted.
    pub group: Group,
    /// The function it is in (demangled) and the offset in bytes from its start.
    pub symbol: Option<(String, u64)>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: {:08x} ({:?}) in ", self.address, self.word, self.group)?;
        match &self.symbol {
            Some((name, offset)) => write!(f, "{name}+{offset:#x}"),
            None => write!(f, "no known symbol"),
        }
    }
}

/// What the scan saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Instructions looked at.
    pub instructions: u64,
    /// Instructions that the exemption covers and that use FP registers.
    pub exempt: u64,
    /// What should not be there.
    pub findings: Vec<Finding>,
}

/// Scans the executable sections of an AArch64 ELF file.
///
/// # Errors
/// The file is no little-endian AArch64 ELF file, or has no executable section.
pub fn scan(image: &[u8]) -> Result<Report> {
    let file = object::File::parse(image).context("not an object file")?;
    if file.architecture() != object::Architecture::Aarch64 || !file.is_little_endian() {
        bail!("not a little-endian AArch64 file");
    }
    let symbols = Symbols::of(&file);
    let exempt = exempt_ranges(&file);
    let mut report = Report::default();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        if !sh_flags.contains(elf::SHF_EXECINSTR) {
            continue;
        }
        let base = section.address();
        let data = section.data().with_context(|| format!("section {}", section.name().unwrap_or("?")))?;
        for (address, word) in words(base, data) {
            if !symbols.is_code(section.index().0, address) {
                continue;
            }
            report.instructions += 1;
            let Some(group) = classify(word) else { continue };
            if exempt.iter().any(|range| range.contains(&address)) {
                report.exempt += 1;
                continue;
            }
            report.findings.push(Finding { address, word, group, symbol: symbols.name(address) });
        }
    }
    if report.instructions == 0 {
        bail!("no executable section: is this the linked image?");
    }
    Ok(report)
}

/// The aligned words of a section and their addresses.
pub fn words(base: u64, data: &[u8]) -> impl Iterator<Item = (u64, u32)> + '_ {
    let skip = (4 - base % 4) % 4;
    let aligned = data.get(skip as usize..).unwrap_or_default();
    let (chunks, _) = aligned.as_chunks::<4>();
    chunks.iter().enumerate().map(move |(i, bytes)| (base + skip + 4 * i as u64, u32::from_le_bytes(*bytes)))
}

/// The sections and symbol pairs within which FP instructions are meant to be.
fn exempt_ranges(file: &object::File<'_>) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = file
        .sections()
        .filter(|s| s.name().is_ok_and(|name| name == ".text.guest_fp"))
        .map(|s| s.address()..s.address() + s.size())
        .collect();
    let address = |name| file.symbol_by_name(name).map(|s| s.address());
    if let (Some(start), Some(end)) = (address("__guest_fp_start"), address("__guest_fp_end")) {
        ranges.push(start..end);
    }
    ranges
}

/// Function names and mapping symbols, each sorted by address.
pub struct Symbols {
    /// (address, name) of functions.
    functions: Vec<(u64, String)>,
    /// (section, address, is code).
    mapping: Vec<(usize, u64, bool)>,
}

impl Symbols {
    /// Those of an ELF file.
    pub fn of(file: &object::File<'_>) -> Self {
        let (mut functions, mut mapping) = (Vec::new(), Vec::new());
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            match mapping_kind(name) {
                Some(code) => mapping.extend(symbol.section_index().map(|s| (s.0, symbol.address(), code))),
                None if name.is_empty() || symbol.kind() == object::SymbolKind::Section => {}
                None if symbol.section_index().is_some() => functions.push((symbol.address(), name.to_owned())),
                None => {}
            }
        }
        functions.sort();
        mapping.sort();
        Self { functions, mapping }
    }

    /// What the last mapping symbol at or before `address` says; a section without one is code.
    pub fn is_code(&self, section: usize, address: u64) -> bool {
        let after = self.mapping.partition_point(|(s, a, _)| (*s, *a) <= (section, address));
        match after.checked_sub(1).and_then(|last| self.mapping.get(last)) {
            Some((s, _, code)) if *s == section => *code,
            _ => true,
        }
    }

    /// The (demangled) function that an address is in, and how far.
    pub fn name(&self, address: u64) -> Option<(String, u64)> {
        let after = self.functions.partition_point(|(a, _)| *a <= address);
        let (start, name) = self.functions.get(after.checked_sub(1)?)?;
        Some((format!("{:#}", rustc_demangle::demangle(name)), address - start))
    }
}

/// Whether a symbol's name is a mapping symbol's: `Some(true)` for code, `Some(false)` for data.
fn mapping_kind(name: &str) -> Option<bool> {
    let kind = name.split('.').next().unwrap_or(name);
    match kind {
        "$x" => Some(true),
        "$d" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use object::write;

    #[test]
    fn instructions_that_use_fp_registers_are_found() {
        for (word, text, group) in [
            (0x9e67_0020, "fmov d0, x1", Group::DataProcessing),
            (0x1e60_2000, "fcmp d0, d0", Group::DataProcessing),
            (0x1e2e_1000, "fmov s0, #1.0", Group::DataProcessing),
            (0x4ea1_8400, "add v0.4s, v0.4s, v1.4s", Group::DataProcessing),
            (0x6f00_e400, "movi v0.2d, #0", Group::DataProcessing),
            (0x4e28_4820, "aese v0.16b, v1.16b", Group::DataProcessing),
            (0x5e00_4020, "sha256h q0, q1, v0.4s", Group::DataProcessing),
            (0x9e66_0000, "fmov x0, d0", Group::DataProcessing),
            (0x3dc0_0000, "ldr q0, [x0]", Group::LoadStore),
            (0xfd40_0000, "ldr d0, [x0]", Group::LoadStore),
            (0x1c00_0000, "ldr s0, .", Group::LoadStore),
            (0x6d40_27e8, "ldp d8, d9, [sp]", Group::LoadStore),
            (0xad00_0400, "stp q0, q1, [x0]", Group::LoadStore),
            (0x4c40_7000, "ld1 {v0.16b}, [x0]", Group::LoadStore),
            (0x3c81_0400, "str q0, [x0], #16", Group::LoadStore),
            (0x3ce1_6800, "ldr q0, [x0, x1]", Group::LoadStore),
            (0xa400_a000, "ld1b {z0.b}, p0/z, [x0]", Group::Sve),
            (0x0420_0000, "add z0.b, z0.b, z0.b", Group::Sve),
            (0xe100_0000, "ldr za[w12, #0], [x0]", Group::Sme),
            (0xc008_00ff, "zero {za}", Group::Sme),
        ] {
            assert_eq!(classify(word), Some(group), "{word:08x} {text}");
        }
    }

    #[test]
    fn instructions_on_general_registers_are_not() {
        for (word, text) in [
            (0x9ac1_4c00, "crc32x w0, w0, x1"),
            (0xc8e0_fc41, "casal x0, x1, [x2]"),
            (0x4820_7c82, "casp x0, x1, x2, x3, [x4]"),
            (0xa940_0400, "ldp x0, x1, [x0]"),
            (0xa9bf_7bfd, "stp x29, x30, [sp, #-16]!"),
            (0xf940_0000, "ldr x0, [x0]"),
            (0x5800_0000, "ldr x0, ."),
            (0xf980_0000, "prfm pldl1keep, [x0]"),
            (0xd50b_7420, "dc zva, x0"),
            (0xd53b_4400, "mrs x0, fpcr"),
            (0xd51b_4420, "msr fpsr, x0"),
            (0xd503_467f, "smstop"),
            (0xd538_0000, "mrs x0, midr_el1"),
            (0xd69f_03e0, "eret"),
            (0xd400_0002, "hvc #0"),
            (0xd503_201f, "nop"),
            (0x9400_0000, "bl ."),
            (0x9b02_0420, "madd x0, x1, x2, x1"),
            (0x8b01_0000, "add x0, x0, x1"),
            (0x9100_0400, "add x0, x0, #1"),
            (0x1000_0000, "adr x0, ."),
            (0xc85f_fc20, "ldaxr x0, [x1]"),
            (0xf820_0041, "ldadd x0, x1, [x2]"),
            (0xd920_0800, "stg x0, [x0]"),
            (0x1901_0440, "cpyfp [x0]!, [x1]!, x2!"),
            (0x1d01_0440, "cpyp [x0]!, [x1]!, x2!"),
            (0x19c2_0420, "setp [x0]!, x1!, x2"),
            (0x1dc2_0420, "setgp [x0]!, x1!, x2"),
            (0x0000_0000, "udf #0"),
        ] {
            assert_eq!(classify(word), None, "{word:08x} {text}");
        }
    }

    /// An object file to be written, with one section of `words` and the given (name, offset) symbols.
    pub(crate) fn code(section: &[u8], words: &[u32], symbols: &[(&str, u64)]) -> write::Object<'static> {
        let mut out =
            write::Object::new(object::BinaryFormat::Elf, object::Architecture::Aarch64, object::Endianness::Little);
        let id = out.add_section(Vec::new(), section.to_vec(), object::SectionKind::Text);
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        out.append_section_data(id, &bytes, 4);
        for (name, offset) in symbols {
            out.add_symbol(write::Symbol {
                name: name.as_bytes().to_vec(),
                value: *offset,
                size: 0,
                kind: object::SymbolKind::Text,
                scope: object::SymbolScope::Compilation,
                weak: false,
                section: write::SymbolSection::Section(id),
                flags: object::SymbolFlags::None,
            });
        }
        out
    }

    /// An object file with one section of `words` and the given (name, offset) symbols.
    fn object_with(section: &[u8], words: &[u32], symbols: &[(&str, u64)]) -> Vec<u8> {
        code(section, words, symbols).write().expect("a small object file")
    }

    const NOP: u32 = 0xd503_201f;
    const FMOV: u32 = 0x9e67_0020;

    #[test]
    fn a_finding_names_its_function_and_offset() {
        let elf = object_with(b".text", &[NOP, NOP, FMOV], &[("first", 0), ("second", 4)]);
        let report = scan(&elf).unwrap();
        assert_eq!(report.instructions, 3);
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.findings[0].to_string(), "0x8: 9e670020 (DataProcessing) in second+0x4");
    }

    #[test]
    fn data_in_text_is_not_judged_where_mapping_symbols_say_so() {
        let words = [NOP, FMOV, FMOV, NOP];
        let marked = object_with(b".text", &words, &[("$x", 0), ("$d.1", 4), ("$x.2", 12)]);
        let report = scan(&marked).unwrap();
        assert_eq!((report.instructions, report.findings.len()), (2, 0));
        let unmarked = object_with(b".text", &words, &[]);
        assert_eq!(scan(&unmarked).unwrap().findings.len(), 2);
    }

    #[test]
    fn the_guest_fp_section_and_range_are_exempt() {
        let section = object_with(b".text.guest_fp", &[FMOV], &[]);
        let report = scan(&section).unwrap();
        assert_eq!((report.exempt, report.findings.len()), (1, 0));
        let range = object_with(b".text", &[FMOV, FMOV, FMOV], &[("__guest_fp_start", 4), ("__guest_fp_end", 8)]);
        let report = scan(&range).unwrap();
        assert_eq!(report.exempt, 1);
        assert_eq!(report.findings.iter().map(|f| f.address).collect::<Vec<_>>(), [0, 8]);
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        assert!(scan(b"not an ELF file").is_err());
        assert!(scan(&object_with(b".text", &[], &[])).is_err());
    }
}
