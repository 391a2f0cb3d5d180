//! A firmware that leaves a mess: it runs at EL2 before Merus, gives every control register that Merus' start table names a
//! value that would break a guest (or Merus), and jumps to Merus by Linux's arm64 boot protocol.
//!
//! QEMU starts it in Merus' place (it has the same Image header) and puts Merus' image at [`MERUS`]. What the protocol
//! promises is kept: x0 is the device tree, x1 to x3 are zero, the MMU is off. Everything else is as unhelpful as the CPU's
//! ID registers allow: HCR_EL2 all ones (E2H and TGE too, where there is FEAT_VHE), data accesses big-endian, SP_EL0
//! selected, exceptions unmasked, timers firing, list registers full, a priority active in the CPU interface, the debug
//! locks closed, streaming mode on.
//!
//! A register is filled with ones where every bit may be set, and with the worst value that is architecturally valid
//! elsewhere; the comments say which. No load or store happens after SCTLR_EL2.EE is set.
#![no_std]
#![no_main]

use core::arch::global_asm;

/// Where Merus' image lies (`PRELOADED_AT` in `xtask`): QEMU's `virt` has RAM from 1 GiB on, the tree and the bundle 128 MiB
/// further up, and this image 2 MiB above the start.
const MERUS: u64 = 0x4100_0000;

/// MDCR_EL2: all ones but HPMN, of which only 1 is valid on every CPU.
const MDCR: u64 = !0x1f | 1;
/// SCTLR_EL2: all ones but M.
const SCTLR: u64 = !1;
/// A list register: group 1, priority 0, pending, virtual INTID 27.
const LIST: u64 = 1 << 62 | 1 << 60 | 27;
/// DBGBCR<n>_EL1: enabled at every level.
const BREAKPOINT: u64 = 1 | 3 << 1 | 0xf << 5 | 1 << 13;
/// DBGWCR<n>_EL1: enabled at every level, for loads and stores, in 2 GiB.
const WATCHPOINT: u64 = 1 | 3 << 1 | 3 << 3 | 0xff << 5 | 1 << 13 | 31 << 24;

global_asm!(
    r#"
    .section .head.text, "ax"
    .global _start
_start:
    b       dirty
    .word   0
    .quad   0
    .quad   (__image_end - .) + 0x10
    .quad   0xa
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   0

    // Writes x20 (all ones) to each of the registers.
    .macro fill registers:vararg
    .irp register, \registers
    msr     \register, x20
    .endr
    .endm

    // x9 = a four-bit field of an ID register; goes to \absent where it is zero.
    .macro needs id, shift, absent
    mrs     x9, \id
    ubfx    x9, x9, #\shift, #4
    cbz     x9, \absent
    .endm

dirty:
    mov     x28, x0                 // the device tree
    mov     x20, #-1
    mov     x9, #1 << 31            // E2H = 0: the _EL1 names below are EL1's registers
    msr     HCR_EL2, x9
    mov     x9, #0x22ff             // CPTR_EL2: nothing traps, SVE and SME included
    msr     CPTR_EL2, x9
    isb

    // EL1's and EL0's.
    fill    CPACR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1, MAIR_EL1, AMAIR_EL1, VBAR_EL1, CONTEXTIDR_EL1, ESR_EL1, FAR_EL1
    fill    AFSR0_EL1, AFSR1_EL1, ELR_EL1, SPSR_EL1, PAR_EL1, CNTKCTL_EL1, TPIDR_EL1, TPIDR_EL0, TPIDRRO_EL0, SP_EL0, SP_EL1
    fill    S3_3_C4_C4_0, S3_3_C4_C4_1 // FPCR, FPSR
    msr     CSSELR_EL1, x20
    msr     SCTLR_EL1, x20

    // EL2's.
    fill    HSTR_EL2, HACR_EL2, VPIDR_EL2, VMPIDR_EL2, CNTVOFF_EL2, VTCR_EL2, VTTBR_EL2
    fill    TCR_EL2, TTBR0_EL2, MAIR_EL2, VBAR_EL2, TPIDR_EL2, ESR_EL2, FAR_EL2, HPFAR_EL2, ELR_EL2, SPSR_EL2
    ldr     x9, ={mdcr}
    msr     MDCR_EL2, x9

    // Timers that have fired, each with its interrupt on.
    mov     x9, #1
    msr     CNTP_CVAL_EL0, xzr
    msr     CNTP_CTL_EL0, x9
    msr     CNTV_CVAL_EL0, xzr
    msr     CNTV_CTL_EL0, x9
    msr     CNTHP_CVAL_EL2, xzr
    msr     CNTHP_CTL_EL2, x9
    needs   ID_AA64MMFR1_EL1, 8, 1f // FEAT_VHE
    mov     x9, #1
    msr     S3_4_C14_C3_2, xzr      // CNTHV_CVAL_EL2
    msr     S3_4_C14_C3_1, x9       // CNTHV_CTL_EL2
    fill    S3_4_C2_C0_1            // TTBR1_EL2
    fill    S3_4_C13_C0_1           // CONTEXTIDR_EL2
1:
    // AArch32's, where EL1 can be AArch32.
    mrs     x9, ID_AA64PFR0_EL1
    ubfx    x9, x9, #4, #4
    cmp     x9, #2
    b.ne    1f
    fill    S3_4_C3_C0_0, S3_4_C5_C0_1, S3_4_C5_C3_0 // DACR32_EL2, IFSR32_EL2, FPEXC32_EL2
1:
    // Fine-grained traps and what else hides behind an ID field.
    mrs     x9, ID_AA64MMFR0_EL1
    ubfx    x9, x9, #60, #4         // FEAT_ECV with CNTPOFF_EL2
    cmp     x9, #2
    b.lo    1f
    fill    S3_4_C14_C0_6           // CNTPOFF_EL2
1:  needs   ID_AA64MMFR0_EL1, 56, 1f // FEAT_FGT
    fill    S3_4_C1_C1_4, S3_4_C1_C1_5, S3_4_C1_C1_6, S3_4_C3_C1_4, S3_4_C3_C1_5 // HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR
    needs   ID_AA64PFR0_EL1, 44, 1f // FEAT_AMUv1
    fill    S3_4_C3_C1_6            // HAFGRTR_EL2
1:  mrs     x9, ID_AA64MMFR0_EL1
    ubfx    x9, x9, #56, #4         // FEAT_FGT2
    cmp     x9, #2
    b.lo    1f
    fill    S3_4_C3_C1_0, S3_4_C3_C1_1, S3_4_C3_C1_2, S3_4_C3_C1_3, S3_4_C3_C1_7
1:  needs   ID_AA64MMFR1_EL1, 40, 1f // FEAT_HCX
    fill    S3_4_C1_C2_2            // HCRX_EL2
1:  needs   ID_AA64PFR0_EL1, 28, 1f // FEAT_RAS
    fill    S3_4_C12_C1_1, S3_4_C5_C2_3 // VDISR_EL2, VSESR_EL2
1:  needs   ID_AA64PFR0_EL1, 40, 1f // FEAT_MPAM
    mov     x9, #0x7fffffff
    msr     S3_4_C10_C5_0, x9       // MPAM2_EL2: partitions, and no traps
1:  needs   ID_AA64DFR0_EL1, 40, 1f // FEAT_TRF
    fill    S3_4_C1_C2_1            // TRFCR_EL2
1:  needs   ID_AA64DFR0_EL1, 32, 1f // FEAT_SPE
    fill    S3_4_C9_C9_0            // PMSCR_EL2
1:  mrs     x9, ID_AA64PFR0_EL1
    ubfx    x9, x9, #56, #4         // FEAT_CSV2_2
    cmp     x9, #2
    b.lo    1f
    fill    S3_4_C13_C0_7, S3_0_C13_C0_7, S3_3_C13_C0_7 // SCXTNUM_EL2, _EL1, _EL0
1:  needs   ID_AA64ISAR1_EL1, 4, 1f // pointer authentication: one of the keys, with the algorithm of the field
    fill    S3_0_C2_C1_0, S3_0_C2_C1_1
1:  needs   ID_AA64PFR0_EL1, 32, 1f // FEAT_SVE
    msr     S3_4_C1_C2_0, xzr       // ZCR_EL2: the shortest vectors
1:  needs   ID_AA64PFR1_EL1, 24, 1f // FEAT_SME
    fill    S3_4_C1_C2_6, S3_4_C1_C2_5, S3_3_C13_C0_5 // SMCR_EL2, SMPRIMAP_EL2, TPIDR2_EL0
    mov     x9, #3
    msr     S3_3_C4_C2_2, x9        // SVCR: streaming mode and ZA on
1:
    // Performance counters that count and have overflowed.
    mrs     x9, ID_AA64DFR0_EL1
    ubfx    x9, x9, #8, #4
    cbz     x9, 1f
    cmp     x9, #0xf
    b.eq    1f
    mov     x10, #1
    msr     PMCR_EL0, x10
    fill    PMCNTENSET_EL0, PMINTENSET_EL1, PMOVSSET_EL0, PMUSERENR_EL0
1:
    // Debug: both locks closed, everything armed behind them.
    msr     OSLAR_EL1, x20
    fill    MDSCR_EL1, MDCCINT_EL1
    mov     x10, #0x40000000
    ldr     x11, ={breakpoint}
    ldr     x12, ={watchpoint}
    .irp    n, 0, 1
    msr     DBGBVR\n\()_EL1, x10
    msr     DBGBCR\n\()_EL1, x11
    msr     DBGWVR\n\()_EL1, x10
    msr     DBGWCR\n\()_EL1, x12
    .endr
    msr     OSDLR_EL1, x20

    // The interrupt controller's CPU interface, physical and virtual.
    needs   ID_AA64PFR0_EL1, 24, 1f
    mov     x9, #0xf
    msr     S3_4_C12_C9_5, x9       // ICC_SRE_EL2
    isb
    mov     x9, #1
    msr     S3_0_C12_C12_6, x9      // ICC_IGRPEN0_EL1
    msr     S3_0_C12_C12_7, x9      // ICC_IGRPEN1_EL1
    msr     S3_0_C12_C8_4, x9       // ICC_AP0R0_EL1: the most urgent priority is active, in both groups
    msr     S3_0_C12_C9_0, x9       // ICC_AP1R0_EL1
    mov     x9, #7
    msr     S3_0_C12_C8_3, x9       // ICC_BPR0_EL1
    msr     S3_0_C12_C12_3, x9      // ICC_BPR1_EL1
    mov     x9, #1
    msr     S3_0_C12_C12_4, x9      // ICC_CTLR_EL1: a common binary point, EOI deactivates
    msr     S3_0_C4_C6_0, x20       // ICC_PMR_EL1
    ldr     x9, ={list}
    fill    S3_4_C12_C8_0, S3_4_C12_C9_0 // ICH_AP0R0_EL2, ICH_AP1R0_EL2
    fill    S3_4_C12_C11_7          // ICH_VMCR_EL2
    msr     S3_4_C12_C12_0, x9      // ICH_LR0_EL2 and the next ones
    mrs     x10, S3_4_C12_C11_1     // ICH_VTR_EL2
    and     x10, x10, #0x1f
    cmp     x10, #3
    b.lo    2f
    msr     S3_4_C12_C12_1, x9
    msr     S3_4_C12_C12_2, x9
    msr     S3_4_C12_C12_3, x9
2:  fill    S3_4_C12_C11_0          // ICH_HCR_EL2: every maintenance interrupt
1:
    ldr     x19, ={merus}
    ldr     x21, ={sctlr}
    mov     x0, x28
    mov     x1, #0
    mov     x2, #0
    mov     x3, #0
    .irp    n, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 22, 23, 24, 25, 26, 27, 28, 29, 30
    mov     x\n, #-1
    .endr
    mov     sp, x20
    fill    CNTHCTL_EL2, CPTR_EL2   // with E2H = 1 next, ones mean "nothing traps" there; with E2H = 0 everything does
    msr     HCR_EL2, x20            // E2H and TGE with the rest
    msr     SCTLR_EL2, x21
    isb
    msr     SPSel, #0
    mov     sp, x20
    msr     daifclr, #0xf
    br      x19
    .ltorg
    "#,
    merus = const MERUS,
    mdcr = const MDCR,
    sctlr = const SCTLR,
    list = const LIST,
    breakpoint = const BREAKPOINT,
    watchpoint = const WATCHPOINT,
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
