//! The allow-list: each field of an ID register that a guest may see, how unlike cores are merged, and why.
//!
//! Every field is a nibble of its register; a nibble that is not named is merged to the lower value and reads as zero.
//! Those that are named as hidden are there for the reason beside them. Registers that are not named at all
//! (ID_AA64PFR2, ZFR0, SMFR0, FPFR0, DFR1, DFR2, AFR0, AFR1, ISAR3, MMFR3, MMFR4, and ID_AFR0, ID_DFR1 of AArch32)
//! describe SVE, SME, FP8, the PMU's and debug's extensions, IMPLEMENTATION DEFINED things, and features of Armv8.9 and
//! Armv9.3 on (TCR2, SCTLR2, permission indirection and overlays, memory encryption, THE, D128): all hidden.

/// Which of two cores' values is safe for a guest that runs on both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Safe {
    /// The lower one: less of a feature.
    Lower,
    /// The lower one as a signed number: 0xf (-1) means absent.
    LowerSigned,
    /// The higher one: more of a property that software has to cope with.
    Higher,
    /// Only an equal one; else zero.
    Exact,
    /// That of the first core; no guest depends on it.
    First,
}

/// What a guest is shown of a (merged) field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Guest {
    /// As it is.
    Host,
    /// At most this: the highest value that Merus knows to need nothing of it. A signed field that says "absent" stays so.
    Cap(u8),
    /// This, whatever the host has.
    Is(u8),
}

/// One four-bit field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub nibble: u8,
    pub safe: Safe,
    pub guest: Guest,
}

/// Up to `most`; the lower of two cores' values is safe.
const fn cap(nibble: u8, most: u8) -> Field {
    Field { nibble, safe: Safe::Lower, guest: Guest::Cap(most) }
}
/// Up to `most`, signed.
const fn signed(nibble: u8, most: u8) -> Field {
    Field { nibble, safe: Safe::LowerSigned, guest: Guest::Cap(most) }
}
/// Up to `most`, where all cores agree.
const fn exact(nibble: u8, most: u8) -> Field {
    Field { nibble, safe: Safe::Exact, guest: Guest::Cap(most) }
}
/// Up to `most`; the higher of two cores' values is safe.
const fn higher(nibble: u8, most: u8) -> Field {
    Field { nibble, safe: Safe::Higher, guest: Guest::Cap(most) }
}
/// As the host has it; the lower of two cores' values is safe.
const fn host(nibble: u8) -> Field {
    Field { nibble, safe: Safe::Lower, guest: Guest::Host }
}
/// As the first core has it.
const fn first(nibble: u8) -> Field {
    Field { nibble, safe: Safe::First, guest: Guest::Host }
}
/// The same for every guest.
const fn is(nibble: u8, value: u8) -> Field {
    Field { nibble, safe: Safe::Lower, guest: Guest::Is(value) }
}
/// Not for guests.
const fn hide(nibble: u8) -> Field {
    is(nibble, 0)
}

/// The fields of the ID register at an index of the ID space ([`super::id_index`]).
pub(super) const fn fields(index: usize) -> &'static [Field] {
    match index {
        // Rows 1 to 3: AArch32.
        0o10 => ID_PFR0,
        0o11 => ID_PFR1,
        0o12 => ID_DFR0,
        0o14..=0o17 => AS_FIRST,
        0o20..=0o25 => AS_HOST,
        0o26 => ID_MMFR4,
        0o27 => ID_ISAR6,
        0o30..=0o32 => AS_HOST,
        0o34 => ID_PFR2,
        0o36 => ID_MMFR5,
        0o40 => ID_AA64PFR0,
        0o41 => ID_AA64PFR1,
        0o50 => ID_AA64DFR0,
        0o60 => ID_AA64ISAR0,
        0o61 => ID_AA64ISAR1,
        0o62 => ID_AA64ISAR2,
        0o70 => ID_AA64MMFR0,
        0o71 => ID_AA64MMFR1,
        0o72 => ID_AA64MMFR2,
        _ => &[],
    }
}

const ID_AA64PFR0: &[Field] = &[
    cap(0, 2),    // EL0: AArch32 at EL0 as the cores have it; no control forbids it
    is(1, 1),     // EL1: AArch64 only (HCR_EL2.RW is set)
    hide(2),      // EL2: no nested virtualization
    hide(3),      // EL3: no firmware of the guest's own
    signed(4, 1), // FP: half precision needs nothing of EL2
    signed(5, 1), // AdvSIMD: as FP
    is(6, 1),     // GIC: system registers of the virtual CPU interface
    hide(7),      // RAS: error records are the machine's; ERR* and DISR are trapped or undefined
    hide(8),      // SVE: its registers are not switched yet
    hide(9),      // SEL2: there is no Secure state
    hide(10),     // MPAM: partitions are Merus' to give
    hide(11),     // AMU: counters would tell of other guests
    cap(12, 1),   // DIT: a PSTATE bit
    hide(13),     // RME: no Realms
    cap(14, 2),   // CSV2: SCXTNUM_ELx is switched with the vCPU, so 2 is kept
    cap(15, 1),   // CSV3: a property of the core
];

const ID_AA64PFR1: &[Field] = &[
    cap(0, 1), // BT: branch targets, PSTATE.BTYPE
    cap(1, 2), // SSBS: a PSTATE bit and its MSR/MRS
    hide(2),   // MTE: tags are not switched; HCR_EL2.ATA is clear
    hide(3),   // RAS_frac: with RAS
    hide(4),   // MPAM_frac: with MPAM
    hide(6),   // SME: its registers are not switched yet
    hide(7),   // RNDR_trap: EL3's
    cap(8, 2), // CSV2_frac: as CSV2
    hide(9),   // NMI: the virtual GIC has none
    hide(10),  // MTE_frac: with MTE
    hide(11),  // GCS: its registers are not switched; HCRX_EL2.GCSEn is clear
    hide(12),  // THE: HCRX_EL2 keeps it off
    hide(13),  // MTEX: with MTE
    hide(14),  // DF2: with RAS
    hide(15),  // PFAR: with RAS
];

const ID_AA64DFR0: &[Field] = &[
    cap(0, 8),    // DebugVer: Armv8.2's; later ones bring trace and EL2 features
    hide(1),      // TraceVer: trapped by CPTR_EL2.TTA
    hide(2),      // PMUVer: trapped by MDCR_EL2.TPM
    host(3),      // BRPs: breakpoints are switched with the vCPU
    hide(4),      // PMSS: with the PMU
    host(5),      // WRPs: watchpoints are switched with the vCPU
    hide(6),      // SEBEP: with the PMU
    host(7),      // CTX_CMPs: of the breakpoints
    hide(8),      // PMSVer: profiling writes guest memory by physical time; MDCR_EL2 traps it
    signed(9, 0), // DoubleLock: 0 is present; as the core
    hide(10),     // TraceFilt: trapped by MDCR_EL2.TTRF
    hide(11),     // TraceBuffer: MDCR_EL2 traps it
    hide(12),     // MTPMU: with the PMU
    hide(13),     // BRBE: branch records would tell of other guests
    hide(14),     // ExtTrcBuff: with TraceBuffer
    hide(15),     // HPMN0: EL2's
];

const ID_AA64ISAR0: &[Field] = &[
    cap(1, 2),  // AES: instructions only, like all here unless said otherwise
    cap(2, 1),  // SHA1
    cap(3, 2),  // SHA2
    cap(4, 1),  // CRC32
    cap(5, 3),  // Atomic
    hide(6),    // TME: transactions would have to be aborted by each exit
    cap(7, 1),  // RDM
    cap(8, 1),  // SHA3
    cap(9, 1),  // SM3
    cap(10, 1), // SM4
    cap(11, 1), // DP
    cap(12, 3), // FHM
    cap(13, 2), // TS
    cap(14, 2), // TLB: range and outer shareable maintenance act on the guest's VMID
    cap(15, 1), // RNDR: the core's generator
];

const ID_AA64ISAR1: &[Field] = &[
    cap(0, 2),   // DPB: cache maintenance by address
    exact(1, 5), // APA: a signature must verify wherever it was made; PAuth_LR (6) needs SCTLR2_EL1
    exact(2, 5), // API: as APA
    cap(3, 1),   // JSCVT
    cap(4, 1),   // FCMA
    cap(5, 3),   // LRCPC
    exact(6, 1), // GPA: as APA
    exact(7, 1), // GPI: as APA
    cap(8, 1),   // FRINTTS
    cap(9, 1),   // SB
    cap(10, 2),  // SPECRES: prediction restriction by context, which holds the VMID
    cap(11, 2),  // BF16
    cap(12, 1),  // DGH
    cap(13, 1),  // I8MM
    hide(14),    // XS: HCRX_EL2 decides over its TLBI and DSB forms
    hide(15),    // LS64: HCRX_EL2 keeps it off
];

const ID_AA64ISAR2: &[Field] = &[
    hide(0),     // WFxT: its deadline would have to be armed by the scheduler
    cap(1, 1),   // RPRES: FPCR is switched
    exact(2, 1), // GPA3: as APA
    exact(3, 5), // APA3: as APA
    hide(4),     // MOPS: HCRX_EL2.MSCEn is clear
    cap(5, 1),   // BC
    exact(6, 1), // PAC_frac: as APA
    cap(7, 1),   // CLRBHB: the guest's own protection from branch history
    hide(8),     // SYSREG_128: with D128
    hide(9),     // SYSINSTR_128: with D128
    cap(12, 1),  // RPRFM: a hint
    cap(13, 2),  // CSSC
    cap(14, 2),  // LUT
    hide(15),    // ATS1A: with the fine-grained traps
];

const ID_AA64MMFR0: &[Field] = &[
    cap(0, 5),    // PARange: 48 bits at most without LPA2; cut again to the VM's map
    cap(1, 2),    // ASIDBits
    cap(2, 1),    // BigEnd
    hide(3),      // SNSMem: there is no Secure state
    cap(4, 1),    // BigEndEL0
    cap(5, 1),    // TGran16: without LPA2
    signed(6, 0), // TGran64
    signed(7, 0), // TGran4: without LPA2
    hide(8),      // TGran16_2: stage 2 is not the guest's
    hide(9),      // TGran64_2: as above
    hide(10),     // TGran4_2: as above
    cap(11, 1),   // ExS: SCTLR_EL1 bits
    hide(12),     // NVTGE: no nested virtualization
    hide(14),     // FGT: EL2's
    cap(15, 1),   // ECV: self-synchronized counter views; the physical offset (2) is EL2's
];

const ID_AA64MMFR1: &[Field] = &[
    cap(0, 2),    // HAFDBS: hardware access flag and dirty state at stage 1; no table flag (HAFT)
    hide(1),      // VMIDBits: EL2's
    hide(2),      // VH: EL2's
    cap(3, 2),    // HPDS: TCR_EL1 bits
    hide(4),      // LO: HCR_EL2.TLOR traps its registers
    cap(5, 3),    // PAN: a PSTATE bit and SCTLR_EL1.EPAN
    higher(6, 1), // SpecSEI: a property of the core
    hide(7),      // XNX: stage 2 is not the guest's
    hide(8),      // TWED: delays of EL2's traps
    cap(9, 3),    // ETS: ordering of translation faults
    hide(10),     // HCX: EL2's
    cap(11, 1),   // AFP: FPCR is switched
    cap(12, 1),   // nTLBPA: a property of the core
    hide(13),     // TIDCP1: the registers that it traps trap to EL2
    hide(14),     // CMOW: HCRX_EL2 has a part in it
    cap(15, 1),   // ECBHB: a property of the core
];

const ID_AA64MMFR2: &[Field] = &[
    cap(0, 1),  // CnP: vCPUs of one VM with one ASID share tables
    cap(1, 1),  // UAO: a PSTATE bit
    cap(2, 1),  // LSM: SCTLR_EL1 bits
    hide(3),    // IESB: with RAS
    cap(4, 1),  // VARange: 52-bit virtual addresses with 64 KiB pages
    first(5),   // CCIDX: the format of CCSIDR_EL1, which is the first core's
    hide(6),    // NV: no nested virtualization
    cap(7, 1),  // ST: small tables at stage 1
    cap(8, 1),  // AT: single-copy atomicity of unaligned accesses
    cap(9, 1),  // IDS: how a trapped ID read of EL0 is reported to EL1
    hide(10),   // FWB: stage 2 is not the guest's
    cap(12, 1), // TTL: level hints of TLB maintenance
    hide(13),   // BBM: conflict aborts of live block changes would have to be told apart
    hide(14),   // EVT: EL2's
    cap(15, 1), // E0PD: TCR_EL1 bits
];

// AArch32, for EL0 only. What describes an AArch32 EL1 is shown as it is and means nothing.

/// All eight fields; the lower is safe.
const AS_HOST: &[Field] = &[host(0), host(1), host(2), host(3), host(4), host(5), host(6), host(7)];
/// All eight fields as the first core has them: an AArch32 EL1's memory model.
const AS_FIRST: &[Field] = &[first(0), first(1), first(2), first(3), first(4), first(5), first(6), first(7)];

const ID_PFR0: &[Field] = &[
    host(0),   // State0: A32
    host(1),   // State1: T32
    host(2),   // State2: trivial Jazelle
    host(3),   // State3: T32EE
    cap(4, 2), // CSV2: as in AArch64
    hide(5),   // AMU
    cap(6, 1), // DIT
    hide(7),   // RAS
];

const ID_PFR1: &[Field] = &[
    first(0),  // ProgMod
    hide(1),   // Security: there is no EL3
    first(2),  // MProgMod
    hide(3),   // Virtualization: there is no EL2
    cap(4, 1), // GenTimer: without ECV's offset
    hide(5),   // Sec_frac
    hide(6),   // Virt_frac
    is(7, 1),  // GIC: as in AArch64
];

/// The PMU, trace and external debug are hidden.
const ID_DFR0: &[Field] = &[
    cap(0, 8), // CopDbg: as DebugVer
];

const ID_MMFR4: &[Field] = &[
    higher(0, 1), // SpecSEI
    cap(1, 1),    // AC2
    hide(2),      // XNX: stage 2 is not the guest's
    cap(3, 1),    // CnP
    cap(4, 2),    // HPDS
    cap(5, 1),    // LSM
    first(6),     // CCIDX: with AArch64's
    hide(7),      // EVT: EL2's
];

const ID_ISAR6: &[Field] = &[
    cap(0, 1), // JSCVT: instructions only, like all here
    cap(1, 1), // DP
    cap(2, 1), // FHM
    cap(3, 1), // SB
    cap(4, 1), // SPECRES
    cap(5, 1), // BF16
    cap(6, 1), // I8MM
];

const ID_PFR2: &[Field] = &[
    cap(0, 1), // CSV3
    cap(1, 1), // SSBS
    hide(2),   // RAS_frac
];

const ID_MMFR5: &[Field] = &[
    cap(0, 1), // ETS
    cap(1, 1), // nTLBPA
];
