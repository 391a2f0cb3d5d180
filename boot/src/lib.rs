//! From the firmware's jump to Rust with the MMU on.
//!
//! Whoever loads the image (QEMU, U-Boot, the Raspberry Pi's firmware) follows Linux's arm64 boot protocol: x0 holds the
//! board's device tree, the MMU is off, the caches hold nothing dirty of the image. [`entry`] checks the exception level,
//! relocates the image to where it is, and lets [`early`] build the first translation tables; only then does Rust proper
//! start, because before that memory is Device memory and an atomic access need not work (Arm ARM, "Load-Exclusive and
//! Store-Exclusive instruction usage restrictions").
//!
//! | entered at | what happens |
//! |---|---|
//! | EL3 | there is no firmware: [`el3`] sets EL3 up, stays there to give PSCI, has the other CPUs wait, and the first one drops to EL2 |
//! | EL2 | the ordinary case |
//! | EL1 | the MMU is switched on there as well, and the kernel binary says so and stops: there is no hypervisor mode to be had |
//!
//! UEFI enters elsewhere, with its MMU on; [`uefi`] makes of what it offers a tree as the boot protocol has it, and enters here.
//!
//! So nothing that Merus prints is printed with the MMU off. A firmware may leave EL2's registers as it likes: [`entry`] puts
//! right what would hurt until the start table of `el2` is written (HCR_EL2 with E2H and TGE, SCTLR_EL2 with EE, the stack
//! pointer's selection, TPIDR_EL2, the TLBs), and does so before its first load from memory.
//!
//! Whether E2H is 1 from then on is chosen by [`early`] ([`mode`]) and becomes true when the MMU is switched on; other CPUs follow the first.
//!
//! The kernel binary defines three functions that this room calls: `merus_main`, `merus_secondary_main` and
//! `merus_entered_at_el1`.
//!
//! On a host only [`stage1`], [`mode`], what [`uefi`] reads and writes and what decides in [`el3`] are built, for their tests: the rest is what
//! surrounds assembly.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(target_os = "none")]
mod early;
pub mod el3;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod header;
pub mod mode;
// The CPU's side of it is assembly.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod release;
#[cfg(target_os = "none")]
pub mod secondary;
pub mod stage1;
pub mod uefi;

#[cfg(target_os = "none")]
pub use early::{image, mode_refusal, tree_bytes, wipe_in_tree, with_tree};
#[cfg(target_os = "none")]
pub use platform::BootInfo;
