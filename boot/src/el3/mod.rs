//! EL3, where no firmware is there: Merus' own, which stays below it.
//!
//! A board that enters the image at EL3 has all its CPUs come to the entry, and nobody to call. So EL3 is set up here for a
//! hypervisor, CPUs wait here for theirs to begin, and PSCI is given by SMC.
//!
//! | part | what |
//! |---|---|
//! | `vectors` | where all CPUs come in, the vectors, the way down |
//! | [`settings`] | the registers' values, by the CPU's features |
//! | [`psci`] | which CPUs are on; the calls |
//! | [`devices`] | interrupt groups, the pin that ends the machine |
//! | [`calls`] | what EL2 tells EL3 of the board |
//! | `monitor` | all that on a CPU |
//!
//! Everything but a vector's few instructions is Rust, and what decides is tested on the host.
//!
//! # Who may reach it
//! SMC from EL2 alone: a guest's goes to EL2 (HCR_EL2.TSC). Any other exception that comes from below (an SMC that got through all
//! the same, an access that an EL3 control bit traps) is handed to EL2 as an undefined instruction, which gives it back to the guest.
//! EL3's memory (`.el3`: stacks, records, set-up) is mapped by nobody, its code is in the image's text, which EL2 maps read-only.
//!
//! # Not modelled
//! CPU_SUSPEND; power domains (a CPU that is off waits in WFE); a Secure world; RAS at EL3; affinities beyond [`psci::SLOTS`].

pub mod calls;
// On the host they are there for their tests.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod devices;
#[cfg(target_os = "none")]
mod monitor;
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod psci;
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod settings;
#[cfg(target_os = "none")]
mod vectors;
