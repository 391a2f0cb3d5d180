//! The client of Merus' control channel, and what VMs are made of, for `merus` and for other programs.
//!
//! | module | what |
//! |---|---|
//! | [`wire`] | a byte stream to Merus: UNIX socket, TCP port, serial device |
//! | [`client`] | calls and their answers, lists page by page, repeating what was lost |
//! | [`life`] | a VM's life: calls that begin something, and waiting for its end |
//! | [`upload`] | payloads: named by their hash, sent once, resumed |
//! | [`image`] | root file systems made of archives |
//! | [`kernel`] | kernels unpacked and laid out |
//! | [`chrome`] | trace records as Chrome trace JSON |
//! | [`error`] | what can go wrong, with exit codes for scripts |
//!
//! Nothing here prints.
#![forbid(unsafe_code)]

pub mod chrome;
pub mod client;
pub mod error;
pub mod image;
pub mod kernel;
pub mod life;
pub mod upload;
pub mod wire;

pub use client::Client;
pub use error::Error;
pub use wire::{Address, Wire};
