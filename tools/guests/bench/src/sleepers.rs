//! CPUs that wake by their timers, one after the other all over the VMs of the row, and sleep again at once.
//!
//! Of `of` CPUs each has its turn once in `of` times [`SPACING`] ticks of the physical counter, which all VMs share. This VM's are
//! those from `first` on, `cpus` in number. They have no stack and take no exception: an interrupt is only acknowledged and ended.

use core::arch::global_asm;
use guest_rt::mmio::{GICR, GICR_STRIDE, read32, write32};
use guest_rt::{fdt, gic, println, psci};

/// Ticks between the turns of two CPUs: longer than a turn takes.
const SPACING: u64 = 40_000;
/// CPUs in a cluster of the platform.
const CLUSTER: u64 = 16;
const TIMER: u32 = 27;

// SAFETY: both are below, take the context in x0, use no stack, and never come back.
unsafe extern "C" {
    fn bench_sleeper(context: u64) -> !;
    fn bench_spinner(context: u64) -> !;
}

/// Never comes back. `spin`: none of them ever sleeps.
pub fn all(spin: bool) -> ! {
    let main = if spin { bench_spinner } else { bench_sleeper };
    let [first, of, cpus] = ["first", "of", "cpus"].map(|key| fdt::number(key).unwrap_or(1));
    gic::init();
    for cpu in 0..cpus {
        let base = GICR + cpu * GICR_STRIDE;
        // WAKER: awake. IGROUPR0: all in group 1. ISENABLER0: the timer.
        write32(base + 0x14, read32(base + 0x14) & !2);
        write32(base + 0x1_0080, u32::MAX);
        write32(base + 0x1_0100, 1 << TIMER);
        let context = of << 32 | (first + cpu);
        if cpu != 0 {
            let mpidr = ((cpu / CLUSTER) << 8) | (cpu % CLUSTER);
            let entry = main as *const () as u64;
            let status = psci::cpu_on(mpidr, entry, context);
            if status != 0 {
                println!("bench: FAILED: CPU {cpu} does not start: {status}");
            }
        }
    }
    // SAFETY: it uses no stack, and nothing of this CPU is wanted any more.
    unsafe { main(of << 32 | first) }
}

global_asm!(
    r#"
    .section .text.sleeper, "ax"
    // (x0 its number, and how many there are above bit 32)
    .global bench_sleeper
bench_sleeper:
    msr     DAIFSet, #15
    mrs     x1, ICC_SRE_EL1
    orr     x1, x1, #1
    msr     ICC_SRE_EL1, x1
    isb
    mov     x1, #0xff
    msr     ICC_PMR_EL1, x1
    mov     x1, #1
    msr     ICC_IGRPEN1_EL1, x1
    isb
    mov     x1, #{spacing}
    lsr     x2, x0, #32
    mul     x2, x2, x1              // the period
    and     x0, x0, #0xffffffff
    mul     x0, x0, x1              // its place in it
    mrs     x3, CNTPCT_EL0
    mrs     x4, CNTVCT_EL0
    sub     x4, x3, x4
    udiv    x3, x3, x2
    add     x3, x3, #1
    madd    x3, x3, x2, x0
    sub     x3, x3, x4              // its next turn
1:  msr     CNTV_CVAL_EL0, x3
    mov     x5, #1
    msr     CNTV_CTL_EL0, x5
    isb
2:  wfi
    mrs     x6, ICC_IAR1_EL1
    cmp     x6, #{timer}
    b.ne    2b
    msr     CNTV_CTL_EL0, xzr
    isb
    msr     ICC_EOIR1_EL1, x6
    isb
3:  add     x3, x3, x2
    mrs     x5, CNTVCT_EL0
    cmp     x3, x5
    b.ls    3b
    b       1b
    .global bench_spinner
bench_spinner:
    b       bench_spinner
    "#,
    spacing = const SPACING,
    timer = const TIMER,
);
