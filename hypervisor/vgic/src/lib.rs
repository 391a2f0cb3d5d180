//! The interrupt controller that a guest sees, a GICv3 (distributor, redistributors, the memory side of the virtual CPU
//! interface) or a GICv2 (distributor), and which pending interrupts occupy the list registers.
//!
//! The core (`state`, `irq`, `bank`, `wires`, `links`, `list_registers`, `place`, `overflow`) knows INTIDs, vCPUs and list
//! registers; a face knows register offsets and how vCPUs are named: `v3` by affinities, `v2` by bits of a byte. Which one a VM
//! has is decided when it is made, by what hardware there is ([`Face`]).
//!
//! What differs in the core is small: an SGI of a GICv2 is pending once for each vCPU that has sent it, and the guest learns
//! which. That costs a GICv3 nothing, because [`ListRegs::senders`] is a constant of the hardware's type.
//!
//! # Model
//! One [`Vgic`] a VM. 32 private INTIDs (SGI 0-15, PPI 16-31) a vCPU, and [`Config::spis`] shared ones from 32. The guest's
//! accesses to GICD and GICR come in by [`Vgic::dist_read`] and its brothers, its SGIs by [`Vgic::sgi1r`], device wires by
//! [`Vgic::set_spi_level`]; the pCPU that runs a vCPU calls [`Vgic::load`], [`Vgic::flush`] before an entry for which
//! [`Vgic::needs_flush`], [`Vgic::sync`] where asked, [`Vgic::maintenance`] and [`Vgic::put`]. Hardware is reached by
//! [`ListRegs`] only.
//!
//! # Who owns a list register's contents
//! | vCPU is | its list registers | another vCPU's access that reads or takes away pending or active state |
//! |---|---|---|
//! | not loaded | empty | is served from memory |
//! | loaded, folded ([`Vgic::sync`] since the last run) | known here | is served from memory, shown at the next flush |
//! | loaded, running (since [`Vgic::flush`]) | truth is in hardware | [`Refusal::Fold`]: no side effect, fold them, repeat |
//!
//! What only adds (an SGI, an edge, a line going high, ISENABLER, ISPENDR, a priority) is noted in memory and never
//! refused; nor is a line going low, which is folded in later. [`Vgic::take_notify`] says whom to kick or wake.
//!
//! # Decisions
//! * GICv3: one security state (GICD_CTLR.DS = 1), affinity routing always on, group 1 only: IGROUPR reads as ones, EnableGrp0
//!   as zero, and ICC_SGI0R_EL1 and ICC_ASGI1R_EL1 send nothing (both make group 0 SGIs here; the caller ignores the write).
//! * GICv2: no Security Extensions and one group, 0 (IGROUPR is RAZ/WI); SGIs always enabled, as on a GIC-400. An SPI with several
//!   targets goes to the lowest. Writes of GICC_DIR always come to [`Vgic::dir`].
//! * SGIs are edge triggered, PPIs level sensitive (ICFGR0/1 read only), SPIs as the guest says.
//! * Linked to physical interrupts are [`TIMER_PPI`], whose wire is [`Vgic::hw_timer_fired`], and SPIs of devices that were passed
//!   through ([`Vgic::link_spis`], `links`).
//! * IROUTER.IRM = 1 picks the lowest vCPU whose redistributor is awake.
//! * GICR_WAKER is a handshake only: an asleep redistributor still forwards.
//! * Reserved offsets inside a frame are RAZ/WI for 32-bit accesses, as the architecture has them.
//!
//! # Not modelled
//! LPIs and the ITS, group 0, NMIs (FEAT_GICv3_NMI), extended PPI and SPI ranges, GICv4. ICC_DIR_EL1 for an SPI that
//! another vCPU has active is seen only while the writer's accesses are trapped ([`Vgic::dir`]). An EOI (EOImode = 0) out
//! of order of the acknowledges, while active interrupts are spilled, ends the wrong one (the guest's own loss).
//!
//! # Locking
//! The caller holds the VM's vGIC lock; nothing here blocks, allocates after [`Vgic::new`] ([`Vgic::save`] aside), or
//! calls a device.
//!
//! # References
//! Arm IHI 0069 (GICv3 and GICv4 architecture specification): "The Distributor registers", "The Redistributor registers",
//! "Virtual interrupt handling and prioritization", "Maintenance interrupts". Arm IHI 0048 (GICv2 architecture specification):
//! "Distributor register descriptions", "GIC virtual interface control registers".
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
#[cfg(any(test, feature = "fakes"))]
extern crate std;

mod bank;
mod bits;
mod face;
#[cfg(any(test, feature = "fakes"))]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
pub mod fakes;
mod irq;
mod links;
mod list_registers;
mod overflow;
mod place;
mod routes;
mod save;
mod state;
mod v2;
mod v3;
mod wires;

#[cfg(test)]
mod tests;

pub use bits::VcpuSet;
pub use links::PhysicalLines;
pub use list_registers::{ListRegs, hcr};
pub use routes::{Routes, Taken};
pub use save::{IrqState, RestoreError, STATE_VERSION, State, VcpuState};
pub use state::{Config, ConfigError, Face, Vgic};
pub use v2::{CPU_TRAPPED as V2_CPU_TRAPPED, gich};
pub use v3::{DIST_SIZE, REDIST_STRIDE};

/// The index of a vCPU in its VM, from 0.
pub type VcpuId = u32;

/// As many vCPUs as a VM can have.
pub const MAX_VCPUS: usize = 64;

/// As many as a VM with a GICv2 can have: one bit each in a byte.
pub const V2_MAX_VCPUS: usize = 8;

/// The first PPI; below are SGIs.
pub const FIRST_PPI: u32 = 16;

/// The first SPI.
pub const FIRST_SPI: u32 = 32;

/// The virtual timer's PPI as guests see it ("Base System Architecture", PPI assignments), linked by hardware. Where the machine has it under another number, [`Vgic::link_timer`] says so.
pub const TIMER_PPI: u32 = 27;

/// Why an access of the guest was not carried out. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The guest's mistake: the bus decides what it sees.
    Access(bus::AccessError),
    /// The list registers of these vCPUs hold what the access is about: each of their pCPUs calls [`Vgic::sync`], then the
    /// access is repeated. The accessing vCPU may be among them.
    Fold(VcpuSet),
}

impl From<bus::AccessError> for Refusal {
    fn from(error: bus::AccessError) -> Self {
        Self::Access(error)
    }
}
