//! What this pCPU can do, as far as Merus itself must know. What a *guest* is shown is another matter (`config`'s CPU model).

use crate::regs::mrs;

/// The features of one pCPU, or ([`Features::common`]) what all of them have. `bool`s are "present".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names are the Arm ARM's feature names.
pub struct Features {
    pub pauth: bool,
    pub sve: bool,
    pub sme: bool,
    pub ras: bool,
    pub iesb: bool,
    pub mpam: bool,
    pub amu: bool,
    pub csv2_2: bool,
    pub fgt: bool,
    pub fgt2: bool,
    pub hcx: bool,
    pub ecv_cntpoff: bool,
    pub evt: bool,
    pub fwb: bool,
    pub lor: bool,
    pub mte: bool,
    pub spe: bool,
    pub trbe: bool,
    pub trf: bool,
    pub pmu: bool,
    pub vhe: bool,
    pub crc32: bool,
    pub mops: bool,
    pub dic: bool,
    pub xnx: bool,
    pub twed: bool,
    pub gic_sysregs: bool,
    /// ID_AA64MMFR0_EL1.PARange, as the field.
    pub pa_range: u64,
    /// Whether VMIDs have 16 bits.
    pub vmid16: bool,
    /// Hardware breakpoints and watchpoints.
    pub breakpoints: u8,
    /// Watchpoints.
    pub watchpoints: u8,
    /// Bytes that `DC ZVA` zeroes, or 0 where it is forbidden.
    pub zva: u32,
    /// Bytes of the smallest data cache line.
    pub dline: u32,
}

fn field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}

impl Features {
    /// This pCPU's.
    pub fn here() -> Self {
        let pfr0 = mrs!("ID_AA64PFR0_EL1");
        let pfr1 = mrs!("ID_AA64PFR1_EL1");
        let dfr0 = mrs!("ID_AA64DFR0_EL1");
        let isar0 = mrs!("ID_AA64ISAR0_EL1");
        let isar1 = mrs!("ID_AA64ISAR1_EL1");
        let isar2 = mrs!("S3_0_C0_C6_2");
        let mmfr0 = mrs!("ID_AA64MMFR0_EL1");
        let mmfr1 = mrs!("ID_AA64MMFR1_EL1");
        let mmfr2 = mrs!("S3_0_C0_C7_2");
        let ctr = mrs!("CTR_EL0");
        let dczid = mrs!("DCZID_EL0");
        let pmu = field(dfr0, 8);
        Self {
            pauth: field(isar1, 4) | field(isar1, 8) | field(isar2, 12) != 0,
            sve: field(pfr0, 32) != 0,
            sme: field(pfr1, 24) != 0,
            ras: field(pfr0, 28) != 0,
            iesb: field(mmfr2, 12) != 0,
            mpam: field(pfr0, 40) != 0 || field(pfr1, 16) != 0,
            amu: field(pfr0, 44) != 0,
            // FEAT_CSV2_2, or FEAT_CSV2_1p2 by the fraction.
            csv2_2: field(pfr0, 56) >= 2 || (field(pfr0, 56) == 1 && field(pfr1, 32) >= 2),
            fgt: field(mmfr0, 56) != 0,
            fgt2: field(mmfr0, 56) >= 2,
            hcx: field(mmfr1, 40) != 0,
            ecv_cntpoff: field(mmfr0, 60) >= 2,
            evt: field(mmfr2, 56) != 0,
            fwb: field(mmfr2, 40) != 0,
            lor: field(mmfr1, 16) != 0,
            mte: field(pfr1, 8) != 0,
            spe: field(dfr0, 32) != 0,
            trbe: field(dfr0, 44) != 0,
            trf: field(dfr0, 40) != 0,
            pmu: pmu != 0 && pmu != 0xf,
            vhe: field(mmfr1, 8) != 0,
            crc32: field(isar0, 16) != 0,
            mops: field(isar2, 16) != 0,
            dic: ctr >> 29 & 1 != 0,
            xnx: field(mmfr1, 28) != 0,
            twed: field(mmfr1, 32) != 0,
            gic_sysregs: field(pfr0, 24) != 0,
            pa_range: mmfr0 & 0xf,
            vmid16: field(mmfr1, 4) == 2,
            breakpoints: field(dfr0, 12) as u8 + 1,
            watchpoints: field(dfr0, 20) as u8 + 1,
            zva: if dczid & 1 << 4 != 0 { 0 } else { 4 << (dczid & 0xf) },
            dline: 4 << (ctr >> 16 & 0xf),
        }
    }
    /// What both have: a feature only one has is absent, a size is the smaller one.
    pub fn common(&self, other: &Self) -> Self {
        let (a, b) = (self, other);
        Self {
            pauth: a.pauth && b.pauth,
            sve: a.sve || b.sve,
            sme: a.sme || b.sme,
            ras: a.ras && b.ras,
            iesb: a.iesb && b.iesb,
            mpam: a.mpam || b.mpam,
            amu: a.amu || b.amu,
            csv2_2: a.csv2_2 && b.csv2_2,
            fgt: a.fgt && b.fgt,
            fgt2: a.fgt2 && b.fgt2,
            hcx: a.hcx && b.hcx,
            ecv_cntpoff: a.ecv_cntpoff && b.ecv_cntpoff,
            evt: a.evt && b.evt,
            fwb: a.fwb && b.fwb,
            lor: a.lor && b.lor,
            mte: a.mte || b.mte,
            spe: a.spe || b.spe,
            trbe: a.trbe || b.trbe,
            trf: a.trf || b.trf,
            pmu: a.pmu && b.pmu,
            vhe: a.vhe && b.vhe,
            crc32: a.crc32 && b.crc32,
            mops: a.mops && b.mops,
            dic: a.dic && b.dic,
            xnx: a.xnx && b.xnx,
            twed: a.twed && b.twed,
            gic_sysregs: a.gic_sysregs && b.gic_sysregs,
            pa_range: a.pa_range.min(b.pa_range),
            vmid16: a.vmid16 && b.vmid16,
            breakpoints: a.breakpoints.min(b.breakpoints),
            watchpoints: a.watchpoints.min(b.watchpoints),
            zva: if a.zva == b.zva { a.zva } else { 0 },
            dline: a.dline.min(b.dline),
        }
    }
    /// The physical address size in bits (48 at most: LPA2 is not used).
    pub fn pa_bits(&self) -> u32 {
        match self.pa_range {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        }
    }
}

/// MPIDR_EL1's affinity fields.
pub fn mpidr() -> u64 {
    mrs!("MPIDR_EL1") & 0xff_00ff_ffff
}

/// The raw value of the ID register `S3_0_C0_C<crm>_<op2>`, crm 1 to 7 (all of that space reads as something, at least zero),
/// and of MIDR_EL1 (0, 0), MPIDR_EL1 (0, 5) and REVIDR_EL1 (0, 6). Anything else reads as zero.
pub fn id_register(crm: u8, op2: u8) -> u64 {
    macro_rules! table {
        ($(($m:literal, $o:literal)),*) => {
            match (crm, op2) {
                $(($m, $o) => mrs!(concat!("S3_0_C0_C", $m, "_", $o)),)*
                _ => 0,
            }
        };
    }
    table!(
        (0, 0),
        (0, 5),
        (0, 6),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (1, 5),
        (1, 6),
        (1, 7),
        (2, 0),
        (2, 1),
        (2, 2),
        (2, 3),
        (2, 4),
        (2, 5),
        (2, 6),
        (2, 7),
        (3, 0),
        (3, 1),
        (3, 2),
        (3, 3),
        (3, 4),
        (3, 5),
        (3, 6),
        (3, 7),
        (4, 0),
        (4, 1),
        (4, 2),
        (4, 3),
        (4, 4),
        (4, 5),
        (4, 6),
        (4, 7),
        (5, 0),
        (5, 1),
        (5, 2),
        (5, 3),
        (5, 4),
        (5, 5),
        (5, 6),
        (5, 7),
        (6, 0),
        (6, 1),
        (6, 2),
        (6, 3),
        (6, 4),
        (6, 5),
        (6, 6),
        (6, 7),
        (7, 0),
        (7, 1),
        (7, 2),
        (7, 3),
        (7, 4),
        (7, 5),
        (7, 6),
        (7, 7)
    )
}

/// AIDR_EL1.
pub fn aidr() -> u64 {
    mrs!("S3_1_C0_C0_7")
}
/// CTR_EL0.
pub fn ctr() -> u64 {
    mrs!("CTR_EL0")
}
/// DCZID_EL0.
pub fn dczid() -> u64 {
    mrs!("DCZID_EL0")
}
/// CLIDR_EL1.
pub fn clidr() -> u64 {
    mrs!("CLIDR_EL1")
}
/// CCSIDR_EL1 and CCSIDR2_EL1 of the cache that `selector` (CSSELR_EL1's layout) names. Selects it on the way, so: only before guests run.
pub fn ccsidr(selector: u64) -> (u64, u64) {
    // SAFETY: CSSELR_EL1 chooses what CCSIDR_EL1 shows and nothing else; no guest has put anything there yet.
    unsafe {
        crate::regs::msr!("CSSELR_EL1", selector);
        crate::regs::op!("isb");
    }
    // CCSIDR2_EL1 exists with FEAT_CCIDX and AArch32 only.
    let wide = field(mrs!("S3_0_C0_C7_2"), 20) != 0 && field(mrs!("ID_AA64PFR0_EL1"), 0) == 2;
    (mrs!("CCSIDR_EL1"), if wide { mrs!("S3_1_C0_C0_2") } else { 0 })
}

/// ESR_EL2: for the last words.
pub fn esr() -> u64 {
    mrs!("ESR_EL2")
}

/// RNDR: a random number of the CPU's own, where it has FEAT_RNG and is willing.
pub fn random() -> Option<u64> {
    if field(mrs!("ID_AA64ISAR0_EL1"), 60) == 0 {
        return None;
    }
    (0..16).find_map(|_| {
        let (value, fine): (u64, u64);
        // SAFETY: reads the CPU's generator; a refusal sets the flags to Z.
        unsafe {
            core::arch::asm!("mrs {v}, S3_3_C2_C4_0", "cset {f}, ne", v = out(reg) value, f = out(reg) fine,
                options(nomem, nostack));
        }
        (fine != 0).then_some(value)
    })
}
