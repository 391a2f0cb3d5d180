//! The only code at EL2 outside `boot` that touches the processor: vectors, world switch, system registers, list registers,
//! TLB maintenance, timers, and guest RAM.
//!
//! | module | what |
//! |---|---|
//! | [`vectors`] | the way into a guest and out of it |
//! | `probe` | what may be answered by an external abort |
//! | [`start`] | the start-state table: every EL2 control register |
//! | [`world`] | the guest-register table: what is switched with the vCPU |
//! | [`door`], `layout` | the one place that knows HCR_EL2.E2H |
//! | [`fp`], [`debug`], [`timer`] | the parts of a vCPU's state with rules of their own |
//! | [`lists`], [`gic`] | the GICv3 CPU interface, the guest's side and Merus' own |
//! | [`tlb`], [`space`] | stage 2 in real memory |
//! | [`ram`], `declared` | RAM that is not Merus' own, and what of it becomes the heap |
//! | [`errata`] | workarounds by MIDR |
//! | [`backtrace`], [`selftest`] | for the last words, and to test them |
//!
//! [`Pcpu`] ties them together for one pCPU and is what the kernel binary drives; its methods are safe to call in any order,
//! because it keeps track of what is loaded.
//!
//! On the host only the tables of [`errata`], of declared RAM and of `layout` exist, with their tests.
#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(target_os = "none")]
pub mod backtrace;
#[cfg(target_os = "none")]
pub mod debug;
// (On the host: its tests.)
#[cfg(any(test, target_os = "none"))]
mod declared;
#[cfg(target_os = "none")]
pub mod door;
pub mod errata;
#[cfg(target_os = "none")]
pub mod features;
#[cfg(target_os = "none")]
pub mod fp;
#[cfg(target_os = "none")]
pub mod gic;
// (On the host: its tests.)
#[cfg(any(test, target_os = "none"))]
mod layout;
#[cfg(target_os = "none")]
pub mod lists;
#[cfg(target_os = "none")]
mod pcpu;
#[cfg(target_os = "none")]
mod probe;
#[cfg(target_os = "none")]
pub mod ram;
#[cfg(target_os = "none")]
mod regs;
#[cfg(target_os = "none")]
pub mod selftest;
#[cfg(target_os = "none")]
pub mod space;
#[cfg(target_os = "none")]
pub mod start;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
pub mod tlb;
#[cfg(target_os = "none")]
pub mod vectors;
#[cfg(target_os = "none")]
pub mod world;

#[cfg(target_os = "none")]
pub use pcpu::{Anchored, Pcpu, PcpuAnchor, number};
