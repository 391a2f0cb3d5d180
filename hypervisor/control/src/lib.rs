//! Management: who may do what to which VM and when, the payloads that were uploaded for them, what has happened, and the
//! channel that asks.
//!
//! [`Control`] keeps the books and decides; a [`Host`] does. Neither knows how the calls come: [`Channel`] makes them of a byte
//! stream, [`shell`] of typed lines, and any number of channels may share one [`Control`]. Nothing here waits: what takes its
//! time is begun, and the host tells of its end ([`Control::made`], [`Control::paused`], [`Control::ended`] ...).
//!
//! # A VM's life
//! | state | call or news | next |
//! |---|---|---|
//! | (absent) | `Create` | Creating |
//! | Creating | `Start`, once | Creating, to run at once |
//! | Creating | made | Created, or Running where it was to start at once |
//! | Creating | failed | Stopped (failed) |
//! | Created | `Start` | Running |
//! | Running | `Pause` | Pausing |
//! | Pausing | paused | Paused |
//! | Paused | `Resume` | Running |
//! | Running | `Reset`, or the guest's own reset | Resetting |
//! | Resetting | restarted | Running |
//! | Running | `Stop` with a grace | Running, asked to power off; killed when the grace is over |
//! | Running, Resetting, Paused, Created, Creating | `Stop` without | Stopping |
//! | any with memory | ended | Stopped |
//! | Stopped | `Start` | Creating, to start at once |
//! | Stopped | `Attach`, `Detach` | Stopped, with other devices |
//! | Created, Stopped | `Destroy` | (absent) |
//!
//! Every other call is refused with the state that the VM is in, and changes nothing. A VM that is Stopped has no memory any more;
//! its description and its last output stay until `Destroy`.
//!
//! # Limits
//! [`MAX_VMS`] VMs, [`MAX_GROUPS`] groups, [`MAX_OBJECTS`] payloads uploaded or on their way, [`EVENTS`] events. Uploads are written
//! to memory that the host gives for them, and are names for VMs only when all of their bytes are there and have their SHA-256.
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
mod channel;
mod devices;
mod events;
mod host;
mod news;
mod objects;
mod registry;
mod rows;
mod settings;
pub mod shell;
#[cfg(test)]
mod tests;

pub use calls::Control;
pub use channel::Channel;
pub use events::EVENTS;
pub use host::{Host, Payloads, Region, Source, Usage, VmNumber};
pub use objects::MAX_OBJECTS;
pub use registry::{MAX_GROUPS, MAX_VMS};
