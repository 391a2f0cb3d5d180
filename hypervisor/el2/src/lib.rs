//! The only code at EL2 outside `boot` that touches the processor: vectors, world switch, system registers, list registers,
//! TLB maintenance, timers, and guest RAM.
//!
//! | module | what |
//! |---|---|
//! | [`vectors`] | the way into a guest and out of it |
//! | [`start`] | the start-state table: every EL2 control register |
//! | [`world`] | the guest-register table: what is switched with the vCPU |
//! | [`door`] | the one place that knows HCR_EL2.E2H |
//! | [`fp`], [`debug`], [`timer`] | the parts of a vCPU's state with rules of their own |
//! | [`lists`], [`gic`] | the GICv3 CPU interface, the guest's side and Merus' own |
//! | [`tlb`], [`space`] | stage 2 in real memory |
//! | [`ram`] | RAM that is not Merus' own |
//! | [`errata`] | workarounds by MIDR |
//! | [`backtrace`], [`selftest`] | for the last words, and to test them |
//!
//! [`Pcpu`] ties them together for one pCPU and is what the kernel binary drives; its methods are safe to call in any order,
//! because it keeps track of what is loaded.
#![no_std]

pub mod backtrace;
pub mod debug;
pub mod door;
pub mod errata;
pub mod features;
pub mod fp;
pub mod gic;
pub mod lists;
mod pcpu;
pub mod ram;
mod regs;
pub mod selftest;
pub mod space;
pub mod start;
pub mod timer;
pub mod tlb;
pub mod vectors;
pub mod world;

pub use pcpu::{Pcpu, PcpuAnchor, number};
