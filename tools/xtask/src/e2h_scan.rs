//! Proves by the binary that Merus reaches a guest's registers in both values of HCR_EL2.E2H.
//!
//! With E2H = 1 an `MRS` or `MSR` at EL2 that names one of the registers below reaches EL2's register of that kind instead. Merus
//! records where each such instruction stands, in the section `.guest_regs` (`hypervisor/el2/src/door.rs`), and when it is to run
//! with E2H = 1 rewrites what is recorded before anything of it is executed (`boot/src/mode.rs`). Hence:
//!
//! - an access to such a register that is not recorded would reach EL2's own, in one mode and not in the other;
//! - a record of anything else would make an instruction that is UNDEFINED;
//! - the same record twice, or an `_EL12` or `_EL02` register in the text, is no access that works in both.
//!
//! A function whose name ends in `_el1` or `_el3` runs at that level, by that name, and one whose name begins with `boot_efi_` before
//! Merus has taken EL2 over, with the E2H of the firmware whose timers it stops: these are not looked at.

use crate::fp_scan::{Symbols, words};
use anyhow::{Context as _, Result, bail, ensure};
use object::{Object, ObjectSection, SectionFlags, elf};
use std::collections::BTreeSet;

/// The section of records: each a 32-bit distance from itself to an instruction.
const RECORDS: &str = ".guest_regs";

/// What is redirected, as (op1, CRn, CRm, op2) with op0 = 3 (Arm ARM, "System and Special-purpose register redirection").
const REDIRECTED: [(u32, u32, u32, u32); 39] = [
    (0, 1, 0, 0),  // SCTLR_EL1
    (0, 1, 0, 2),  // CPACR_EL1
    (0, 1, 0, 3),  // SCTLR2_EL1
    (0, 1, 2, 0),  // ZCR_EL1
    (0, 1, 2, 1),  // TRFCR_EL1
    (0, 1, 2, 6),  // SMCR_EL1
    (0, 2, 0, 0),  // TTBR0_EL1
    (0, 2, 0, 1),  // TTBR1_EL1
    (0, 2, 0, 2),  // TCR_EL1
    (0, 2, 0, 3),  // TCR2_EL1
    (0, 2, 5, 0),  // GCSCR_EL1
    (0, 2, 5, 1),  // GCSPR_EL1
    (0, 4, 0, 0),  // SPSR_EL1
    (0, 4, 0, 1),  // ELR_EL1
    (0, 5, 1, 0),  // AFSR0_EL1
    (0, 5, 1, 1),  // AFSR1_EL1
    (0, 5, 2, 0),  // ESR_EL1
    (0, 5, 6, 0),  // TFSR_EL1
    (0, 6, 0, 0),  // FAR_EL1
    (0, 6, 0, 5),  // PFAR_EL1
    (0, 9, 9, 0),  // PMSCR_EL1
    (0, 10, 2, 0), // MAIR_EL1
    (0, 10, 2, 1), // MAIR2_EL1
    (0, 10, 2, 2), // PIRE0_EL1
    (0, 10, 2, 3), // PIR_EL1
    (0, 10, 2, 4), // POR_EL1
    (0, 10, 3, 0), // AMAIR_EL1
    (0, 10, 3, 1), // AMAIR2_EL1
    (0, 10, 5, 0), // MPAM1_EL1
    (0, 12, 0, 0), // VBAR_EL1
    (0, 13, 0, 1), // CONTEXTIDR_EL1
    (0, 13, 0, 7), // SCXTNUM_EL1
    (0, 14, 1, 0), // CNTKCTL_EL1
    (3, 14, 2, 0), // CNTP_TVAL_EL0
    (3, 14, 2, 1), // CNTP_CTL_EL0
    (3, 14, 2, 2), // CNTP_CVAL_EL0
    (3, 14, 3, 0), // CNTV_TVAL_EL0
    (3, 14, 3, 1), // CNTV_CTL_EL0
    (3, 14, 3, 2), // CNTV_CVAL_EL0
];

/// How an instruction has to do with E2H.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// To a register that is redirected.
    Redirected,
    /// By a name that exists with E2H = 1 only, or that means another thing then.
    Other,
}

/// What `word` is, if it is an `MRS` or `MSR` (register) that has to do with E2H.
fn classify(word: u32) -> Option<Access> {
    // 1101 0101 00 L 1 1 op1 CRn CRm op2 Rt: op0 is 3.
    if word & 0xffd8_0000 != 0xd518_0000 {
        return None;
    }
    let field = |shift: u32, bits: u32| (word >> shift) & ((1 << bits) - 1);
    let register = (field(16, 3), field(12, 4), field(8, 4), field(5, 3));
    // CNTVCT_EL0 and CNTVCTSS_EL0 are without the guest's offset where E2H is 1.
    if register.0 == 5 || matches!(register, (3, 14, 0, 2 | 6)) {
        return Some(Access::Other);
    }
    REDIRECTED.contains(&register).then_some(Access::Redirected)
}

/// Whether a function of this name runs where Merus' E2H does not matter.
fn is_elsewhere(function: &str) -> bool {
    function.ends_with("_el1") || function.ends_with("_el3") || function.starts_with("boot_efi_")
}

/// What the scan saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Recorded accesses.
    pub recorded: usize,
    /// What should not be so, a line each.
    pub findings: Vec<String>,
}

/// Scans Merus' ELF file.
///
/// # Errors
/// The file is no object file, or has no records.
pub fn scan(image: &[u8]) -> Result<Report> {
    let file = object::File::parse(image).context("not an object file")?;
    let section = file.section_by_name(RECORDS).with_context(|| format!("no section {RECORDS}"))?;
    let (base, data) = (section.address(), section.data()?);
    let (records, rest) = data.as_chunks::<4>();
    ensure!(rest.is_empty() && !records.is_empty(), "{RECORDS} has {} bytes", data.len());
    let mut report = Report { recorded: records.len(), findings: Vec::new() };
    let symbols = Symbols::of(&file);
    let place = |address: u64| match symbols.name(address) {
        Some((name, offset)) => format!("{address:#x} in {name}+{offset:#x}"),
        None => format!("{address:#x}"),
    };
    let mut recorded = BTreeSet::new();
    for (n, record) in records.iter().enumerate() {
        let at = (base + 4 * n as u64).wrapping_add_signed(i64::from(i32::from_le_bytes(*record)));
        if !recorded.insert(at) {
            report.findings.push(format!("{}: recorded twice", place(at)));
        }
    }
    let mut right = BTreeSet::new();
    let mut instructions = 0;
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        if !sh_flags.contains(elf::SHF_EXECINSTR) {
            continue;
        }
        for (address, word) in words(section.address(), section.data()?) {
            if !symbols.is_code(section.index().0, address) {
                continue;
            }
            instructions += 1;
            let Some(access) = classify(word) else { continue };
            let is_recorded = recorded.contains(&address);
            let elsewhere = symbols.name(address).is_some_and(|(name, _)| is_elsewhere(&name));
            match access {
                Access::Redirected if is_recorded => _ = right.insert(address),
                _ if elsewhere => {}
                Access::Redirected => report.findings.push(format!(
                    "{}: {word:08x} accesses a register that E2H redirects, and is not recorded (guest_mrs!, guest_msr!)",
                    place(address)
                )),
                Access::Other => report
                    .findings
                    .push(format!("{}: {word:08x} names a register that is another one, or none, with the other E2H", place(address))),
            }
        }
    }
    if instructions == 0 {
        bail!("no executable section: is this the linked image?");
    }
    let wrong = recorded.difference(&right);
    report
        .findings
        .extend(wrong.map(|at| format!("{}: recorded, and no access to a register that E2H redirects", place(*at))));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp_scan::tests::code as code_of;

    const NOP: u32 = 0xd503_201f;
    const MRS_SCTLR_EL1: u32 = 0xd538_1000;
    const MSR_CNTV_CTL_EL0: u32 = 0xd51b_e320;
    const MRS_SCTLR_EL12: u32 = 0xd53d_1000;
    const MRS_TPIDR_EL1: u32 = 0xd538_d080;

    /// An object file with `code`, a function of each (name, offset), and records of the given instructions' offsets.
    fn image(code: &[u32], functions: &[(&str, u64)], records: &[i32]) -> Vec<u8> {
        let mut out = code_of(b".text", code, functions);
        // Both sections are at address 0 in an object file, so a record's distance is from where it is itself.
        let data = out.add_section(Vec::new(), RECORDS.as_bytes().to_vec(), object::SectionKind::ReadOnlyData);
        let bytes: Vec<u8> = records.iter().enumerate().flat_map(|(n, at)| (at - 4 * n as i32).to_le_bytes()).collect();
        out.append_section_data(data, &bytes, 4);
        out.write().expect("a small object file")
    }

    #[test]
    fn redirected_registers_are_known_by_their_encoding() {
        for (word, text) in [
            (MRS_SCTLR_EL1, "mrs x0, SCTLR_EL1"),
            (0xd518_1000, "msr SCTLR_EL1, x0"),
            (0xd538_4021, "mrs x1, ELR_EL1"),
            (0xd518_d0e0, "msr SCXTNUM_EL1, x0"),
            (MSR_CNTV_CTL_EL0, "msr CNTV_CTL_EL0, x0"),
            (0xd53b_e25f, "mrs xzr, CNTP_CVAL_EL0"),
        ] {
            assert_eq!(classify(word), Some(Access::Redirected), "{text}");
        }
        for (word, text) in [
            (MRS_TPIDR_EL1, "mrs x0, TPIDR_EL1"),
            (0xd53c_1000, "mrs x0, SCTLR_EL2"),
            (0xd53c_4100, "mrs x0, SP_EL1"),
            (0xd538_7400, "mrs x0, PAR_EL1"),
            (0xd53b_e020, "mrs x0, CNTPCT_EL0"),
            (0xd538_0700, "mrs x0, ID_AA64MMFR0_EL1"),
            (0xd508_871f, "tlbi vmalle1"),
            (NOP, "nop"),
        ] {
            assert_eq!(classify(word), None, "{text}");
        }
        assert_eq!(classify(MRS_SCTLR_EL12), Some(Access::Other));
        assert_eq!(classify(0xd53b_e040), Some(Access::Other), "mrs x0, CNTVCT_EL0");
        assert_eq!(classify(0xd53b_e0c0), Some(Access::Other), "mrs x0, CNTVCTSS_EL0");
    }

    #[test]
    fn an_unrecorded_access_is_found_with_its_function() {
        let code = [NOP, MRS_SCTLR_EL1, MSR_CNTV_CTL_EL0, MRS_TPIDR_EL1];
        let report = scan(&image(&code, &[("save", 0), ("load", 8)], &[4])).unwrap();
        assert_eq!((report.recorded, report.findings.len()), (1, 1));
        assert!(report.findings[0].starts_with("0x8 in load+0x0: d51be320 accesses"), "{:?}", report.findings);
        let good = scan(&image(&code, &[("save", 0), ("load", 8)], &[8, 4])).unwrap();
        assert!(good.findings.is_empty(), "{:?}", good.findings);
    }

    #[test]
    fn other_levels_are_exempt_by_their_functions_names() {
        let report = scan(&image(&[MRS_SCTLR_EL1, MRS_SCTLR_EL1], &[("on_el1", 0), ("el1_on", 4)], &[4])).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        let report = scan(&image(&[MRS_SCTLR_EL1, MRS_SCTLR_EL1], &[("on_el3", 0), ("el1_on", 4)], &[0])).unwrap();
        assert_eq!(report.findings.len(), 1);
        let names = ["boot_own_el1", "x::el1_state", "boot_efi_leave", "boot::uefi::boot_efi"];
        assert_eq!(names.map(is_elsewhere), [true, false, true, false]);
    }

    #[test]
    fn a_record_that_is_none_and_one_too_many_are_found() {
        let code = [NOP, MRS_SCTLR_EL1, MRS_SCTLR_EL12];
        let report = scan(&image(&code, &[], &[4, 4, 0])).unwrap();
        let has = |text: &str| report.findings.iter().any(|line| line.contains(text));
        assert_eq!(report.findings.len(), 3, "{:?}", report.findings);
        assert!(has("0x4: recorded twice") && has("0x0: recorded, and no access") && has("0x8: d53d1000 names"));
    }

    #[test]
    fn an_image_without_records_is_an_error() {
        assert!(scan(&image(&[NOP], &[], &[])).is_err());
        assert!(scan(b"not an ELF file").is_err());
    }
}
