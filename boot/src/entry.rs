//! The first instructions, on the first CPU and on the others.
//!
//! Nothing here may use an address that relocation has to mend: all are `adrp`/`:lo12:`.

use core::arch::global_asm;

/// SCTLR_EL2 with everything off: its RES1 bits alone (Arm ARM, "SCTLR_EL2, System Control Register (EL2)").
pub const SCTLR_OFF: u64 = 0x30c5_0830;
/// SCTLR_EL2 as Merus runs: MMU, caches, stack alignment check, and no writable page is executable (WXN).
pub const SCTLR_ON: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;
/// SCTLR_EL1 with everything off, and as Merus says there that this is the wrong level.
pub const SCTLR_EL1_OFF: u64 = 0x30d0_0800;
/// See [`SCTLR_EL1_OFF`].
pub const SCTLR_EL1_ON: u64 = SCTLR_EL1_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;
/// HCR_EL2 with the MMU off: EL1 is AArch64, TGE is 0, E2H too where it can be.
pub const HCR_BOOT: u64 = 1 << 31;
// [`SCTLR_OFF`] and its like are written before any load from memory, so they come as immediates of 16 bits: until then the
// firmware's SCTLR_EL2.EE may have data accesses big-endian.
const _: () = assert!(SCTLR_OFF >> 32 == 0 && SCTLR_EL1_OFF >> 32 == 0);
const R_AARCH64_RELATIVE: u64 = 1027;
/// Bytes of the stack on which the first CPU starts, and stays.
pub const BOOT_STACK: usize = 32 * 1024;

global_asm!(
    r#"
    .section .text.entry, "ax"

    // At EL2: what the firmware may have left that would hurt before the start table (el2/src/start.rs) is written: TGE
    // goes, E2H where it can, data accesses are little-endian, and the pCPU's record is nowhere yet. No load comes before this.
    // Clobbers x9.
boot_own_el2:
    mov     x9, #{hcr}
    msr     HCR_EL2, x9
    movz    x9, #{sctlr_low}
    movk    x9, #{sctlr_high}, lsl #16
    msr     SCTLR_EL2, x9
    msr     TPIDR_EL2, xzr
    isb
    ret

    // The same at EL1, where Merus only says that it needs EL2. Privileged access to what EL0 may access is allowed (PAN):
    // the tables are EL2's, whose entries say that of everything.
boot_own_el1:
    movz    x9, #{sctlr_el1_low}
    movk    x9, #{sctlr_el1_high}, lsl #16
    msr     SCTLR_EL1, x9
    isb
    mrs     x9, ID_AA64MMFR1_EL1
    ubfx    x9, x9, #20, #4
    cbz     x9, 1f
    .inst   0xd500409f              // msr PAN, #0
1:  ret

    // In: x9 = first byte, x10 = end. By the smallest data cache line that this CPU's caches have, to the point of coherency; done,
    // for all who read memory, at the DSB. Clobbers x9, x11, x12.
    .macro boot_by_line name operation
    .global \name
\name:
    mrs     x11, CTR_EL0
    ubfx    x11, x11, #16, #4
    mov     x12, #4
    lsl     x12, x12, x11
    sub     x11, x12, #1
    bic     x9, x9, x11
1:  dc      \operation, x9
    add     x9, x9, x12
    cmp     x9, x10
    b.lo    1b
    dsb     sy
    ret
    .endm

    // Before anything is written with the caches off: a dirty line that whoever ran before us left could be evicted at any time, over
    // what we write past it. (Cleaned, not dropped unseen: what the loader has put there is in memory, or gets there now.)
    boot_by_line boot_flush, civac
    // After it was, and before it is read with the caches on: a line that was filled before it was written must not hide it. None of
    // them is dirty.
    boot_by_line boot_invalidate, ivac

    // Linked at 0, so each entry's addend plus our base is the value. Doing it again changes nothing. Clobbers x9-x14.
    .global boot_relocate
boot_relocate:
    adrp    x14, _start
    adrp    x9, __rela_start
    add     x9, x9, :lo12:__rela_start
    adrp    x10, __rela_end
    add     x10, x10, :lo12:__rela_end
1:  cmp     x9, x10
    b.hs    1f
    ldp     x11, x12, [x9], #16     // offset, type
    ldr     x13, [x9], #8           // addend
    cmp     w12, #{relative}
    b.ne    .                       // the linker's `-z text -pie` makes no other; a debugger finds us here
    add     x13, x13, x14
    str     x13, [x14, x11]
    b       1b
1:  ret

    .global boot_primary
boot_primary:
    msr     daifset, #0xf
    msr     SPSel, #1               // the firmware may run on SP_EL0, which is a guest's
    mov     x21, x0                 // the device tree
    adrp    x19, _start             // where we are
    mrs     x9, CurrentEL
    cmp     x9, #4
    mov     x20, #0
    cset    x22, eq                 // 1: EL1, no hypervisor mode
    cbnz    x22, 1f
    cmp     x9, #0xc
    b.ne    3f
    bl      boot_el3                // the first CPU alone comes back, at EL2
    mov     x20, #1
3:  bl      boot_own_el2
    b       2f
1:  bl      boot_own_el1
2:
    // From here to boot_mmu_on our loads and stores go past all caches, whatever these hold (Arm ARM, "Enabling and disabling the
    // caching of memory accesses"; what firmware leaves in them is nobody's to know: "Behavior of caches at reset" holds for a reset
    // alone). So: flush what will be written, write it, invalidate it, and only then let the caches answer for it.
    adrp    x9, __rodata_end
    add     x9, x9, :lo12:__rodata_end
    adrp    x10, __bss_end
    add     x10, x10, :lo12:__bss_end
    bl      boot_flush
    adrp    x9, boot_stack
    add     x9, x9, :lo12:boot_stack
    add     x9, x9, #{guard}
    add     x10, x9, #{stack}
    bl      boot_flush
    // Zero bss (the heap and the stack are not in it).
    adrp    x9, __bss_start
    add     x9, x9, :lo12:__bss_start
    adrp    x10, __bss_end
    add     x10, x10, :lo12:__bss_end
1:  cmp     x9, x10
    b.hs    1f
    stp     xzr, xzr, [x9], #16
    b       1b
1:
    bl      boot_relocate
    dsb     sy
    adrp    x9, boot_stack
    add     x9, x9, :lo12:boot_stack
    add     x9, x9, #{guard}
    add     x9, x9, #{stack}
    mov     sp, x9
    mov     x29, #0
    mov     x30, #0
    // Data, relocations and bss are written.
    adrp    x9, __rodata_end
    add     x9, x9, :lo12:__rodata_end
    adrp    x10, __bss_end
    add     x10, x10, :lo12:__bss_end
    bl      boot_invalidate
    mov     x0, x21
    mov     x1, x19
    mov     x2, x22
    bl      boot_early              // builds the tables; x0 = &MmuSetup
    mov     x23, x0
    adrp    x9, __bss_start         // the tables and the set-up lie in bss
    adrp    x10, __bss_end
    add     x10, x10, :lo12:__bss_end
    bl      boot_invalidate
    mov     x9, sp                  // and the stack was used
    sub     x9, x9, #{stack}
    mov     x10, sp
    bl      boot_invalidate
    mov     x0, x23
    cbnz    x22, 1f
    bl      boot_mmu_on
    b       2f
1:  bl      boot_mmu_on_el1
2:  mov     x0, x21
    mov     x1, x19
    mov     x2, x20
    mov     x3, x22
    mov     x29, #0
    bl      boot_rust
    b       .

    // In: x0 = &MmuSetup (tcr, mair, ttbr, sctlr, hcr). Clobbers x9-x12.
    //
    // The tables are in memory, and in no cache that is older: their walks are through the caches, inner shareable, so from here on
    // a change by any CPU is seen by all walkers after a DSB. What the TLBs and the instruction cache hold from before is gone before
    // the MMU can use it: invalidations are complete at a DSB, and an ISB makes the registers count before they do (Arm ARM,
    // "Ordering and completion of TLB maintenance instructions", "Ordering and completion of data and instruction cache instructions",
    // "Synchronization requirements for AArch64 System registers"). All of it is this CPU's own: each one does it for itself.
    // MMU and caches go on in one write, so no atomic access is made to memory that is not Normal, write-back and inner shareable
    // ("Load-Exclusive and Store-Exclusive instruction usage restrictions"); that CPUs with their caches on are coherent (a
    // Cortex-A72's CPUECTLR_EL1.SMPEN, say) is for EL3's firmware to have set.
boot_mmu_on:
    // E2H first: it gives the other registers their meaning, and a TLB may have kept it.
    ldr     x9, [x0, #32]
    tlbi    alle2
    dsb     sy
    msr     HCR_EL2, x9
    isb
    mrs     x10, HCR_EL2
    eor     x10, x10, x9
    tbz     x10, #{e2h}, 2f
1:  wfe                             // not the first CPU, and it cannot be in the first one's mode: it stays offline
    b       1b
2:
    ldp     x9, x10, [x0]
    ldp     x11, x12, [x0, #16]
    msr     TCR_EL2, x9
    msr     MAIR_EL2, x10
    msr     TTBR0_EL2, x11
    dsb     sy
    isb
    tlbi    alle2
    tlbi    alle1                   // whatever the firmware's or an older system's guests left, of every VMID
    ic      iallu
    dsb     sy
    isb
    msr     SCTLR_EL2, x12
    isb
    ret

    // The same at EL1.
boot_mmu_on_el1:
    ldp     x9, x10, [x0]
    ldp     x11, x12, [x0, #16]
    msr     TCR_EL1, x9
    msr     MAIR_EL1, x10
    msr     TTBR0_EL1, x11
    dsb     sy
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    msr     SCTLR_EL1, x12
    isb
    ret

    // Every other CPU: PSCI starts it here, MMU off, x0 = &SecondaryStart (physical; cleaned to the point of coherency).
    .global boot_secondary
boot_secondary:
    msr     daifset, #0xf
    msr     SPSel, #1
    mov     x21, x0
    bl      boot_own_el2
1:  mov     x0, x21
    bl      boot_mmu_on
    ldr     x9, [x21, #{stack_top}]
    mov     sp, x9
    ldr     x0, [x21, #{number}]
    mov     x29, #0
    mov     x30, #0
    bl      merus_secondary_main
    b       .

    // The same from a spin table: the address is in memory, for the one CPU that is started now. Read past the caches, as all before
    // boot_mmu_on; the word that let us go was written after both were in memory (release.rs). A CPU that comes so late that the next
    // one's start is there has lost its turn: nobody waits for it, and that start's stack is not its own.
    .global boot_spun
boot_spun:
    msr     daifset, #0xf
    msr     SPSel, #1
    bl      boot_own_el2
    adrp    x21, BOOT_SPUN_START
    ldr     x21, [x21, :lo12:BOOT_SPUN_START]
    ldr     x9, [x21, #{mpidr}]     // whose it is
    mrs     x10, MPIDR_EL1
    and     x11, x10, #0xffffff     // Aff0 to Aff2
    and     x10, x10, #0xff00000000 // Aff3
    orr     x10, x10, x11
    cmp     x9, x10
    b.eq    1b
2:  wfe
    b       2b
    .ltorg

    .section .noinit, "aw", @nobits
    .balign 4096
    .global boot_stack
boot_stack:
    .space  {guard}
    .space  {stack}
    "#,
    sctlr_low = const SCTLR_OFF & 0xffff,
    sctlr_high = const SCTLR_OFF >> 16,
    sctlr_el1_low = const SCTLR_EL1_OFF & 0xffff,
    sctlr_el1_high = const SCTLR_EL1_OFF >> 16,
    hcr = const HCR_BOOT,
    e2h = const crate::mode::E2H.trailing_zeros(),
    relative = const R_AARCH64_RELATIVE,
    guard = const 4096,
    stack_top = const crate::secondary::STACK_TOP,
    number = const crate::secondary::NUMBER,
    mpidr = const crate::secondary::MPIDR,
    stack = const BOOT_STACK,
);
