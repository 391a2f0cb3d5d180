//! A virtual machine: its parts, its vCPUs, and what becomes of each exit.
//!
//! | module | what |
//! |---|---|
//! | [`Vm`] | the parts that all vCPUs of a VM share: bus, interrupt controller, power states, CPU model |
//! | [`Vcpu`] | what belongs to the runner of one vCPU |
//! | [`handle`] | an [`Exit`](trap::Exit) in, a [`Next`] out: total, no wildcard |
//! | [`quick`] | the same for the most frequent exits, from the syndrome alone |
//! | [`Port`] | what others ask of a vCPU: look at your interrupts, hold still, stop |
//! | [`VgicPort`], [`SpiLine`] | the interrupt controller behind its lock, and a device's wire into it |
//! | [`Stage1`], [`Probe`] | the guest's own translation, where an abort has to be told from it |
//! | [`Shown`] | when a vCPU's stolen time is written to its record |
//! | [`debug`], [`timer`] | trapped registers that live with the vCPU |
//!
//! Nothing here touches hardware: the pCPU is a [`Hw`], other pCPUs are a [`Waker`], and time comes from the pCPU. The whole
//! room runs on the host with fakes.
//!
//! # Who may touch what
//! A [`Vcpu`] belongs to whoever runs it, by `&mut`. Everything shared is behind a lock of `sync` or an atomic of [`Port`].
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod calls;
pub mod debug;
mod exit;
mod machine;
mod mmio;
mod port;
mod quick;
mod stolen;
mod sysreg;
#[cfg(test)]
mod tests;
pub mod timer;
mod vcpu;
mod walk;
mod wires;

pub use exit::{Hw, Next, StopReason, handle};
pub use machine::{BuildError, Controller, DeviceHandle, Life, Parts, Vm, VmId, Waker};
pub use port::{Port, Requests};
pub use quick::quick;
pub use stolen::Shown;
pub use vcpu::{ExitCounts, Vcpu};
pub use walk::{Probe, Stage1};
pub use wires::{SpiLine, VgicPort};
