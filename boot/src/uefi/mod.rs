//! UEFI as a boot loader: what Merus is told there becomes a device tree, and Merus starts as from any other.
//!
//! The firmware enters `boot_efi_entry` at EL2 with its own translation on. `stub` finds the board's device tree, the command
//! line and the bundle, writes a new tree that says where they are and which memory is RAM, leaves boot services, and enters the
//! image where a boot loader for Linux would: MMU off, the new tree in x0. From there nothing differs, so Merus itself knows
//! nothing of UEFI. Runtime services are never called; their memory is left alone.

pub mod memory;
pub mod options;
pub mod tree;

#[cfg(target_os = "none")]
mod bundle;
#[cfg(target_os = "none")]
mod services;
#[cfg(target_os = "none")]
mod stub;
#[cfg(test)]
mod tests;
