//! The whole controller on the host: register tables, the list registers against a model of the virtual CPU interface, and
//! random histories against an oracle.

mod links;
mod lists;
mod races;
mod random;
mod registers;
mod v2;

use std::vec::Vec;

use addr::AccessSize;

pub(crate) use crate::fakes as cpu_interface;
use crate::{Config, Face, Refusal, Vgic};
use cpu_interface::Cpu;

/// vCPU 0 and 1 in the first cluster, vCPU 2 far away, the others after them.
pub(crate) fn affinities(vcpus: usize) -> Vec<u32> {
    (0..vcpus as u32).map(|n| if n == 2 { 0x0102_0304 } else { ((n >> 4) << 8) | (n & 15) }).collect()
}

pub(crate) fn config(vcpus: usize, list_registers: usize) -> Config {
    Config { vcpus, spis: 96, list_registers, priority_bits: 5, affinities: affinities(vcpus), face: Face::V3 }
}

pub(crate) fn vgic(vcpus: usize, list_registers: usize) -> Vgic {
    Vgic::new(&config(vcpus, list_registers)).unwrap()
}

/// With this face.
pub(crate) fn faced(face: Face, vcpus: usize, list_registers: usize) -> Vgic {
    Vgic::new(&Config { face, ..config(vcpus, list_registers) }).unwrap()
}

/// The hardware for it.
pub(crate) fn interface(face: Face, list_registers: usize) -> Cpu {
    if face == Face::V2 { Cpu::v2(list_registers) } else { Cpu::new(list_registers) }
}

/// A load from a register that both faces have at the same offset: `at` counts from GICD, and for SGIs and PPIs from their
/// banked frame, of which a GICv3 has one a redistributor.
pub(crate) fn read(g: &mut Vgic, of: usize, private: bool, at: u64, size: AccessSize) -> Result<u64, Refusal> {
    match g.face {
        Face::V2 => g.v2_dist_read(of as u32, at, size),
        Face::V3 if private => g.redist_read(0, of as u64 * 0x2_0000 + 0x1_0000 + at, size),
        Face::V3 => g.dist_read(0, at, size),
    }
}

/// A store to one.
pub(crate) fn write(
    g: &mut Vgic,
    of: usize,
    private: bool,
    at: u64,
    size: AccessSize,
    value: u64,
) -> Result<(), Refusal> {
    match g.face {
        Face::V2 => g.v2_dist_write(of as u32, at, size, value),
        Face::V3 if private => g.redist_write(0, of as u64 * 0x2_0000 + 0x1_0000 + at, size, value),
        Face::V3 => g.dist_write(0, at, size, value),
    }
}

/// The value of GICD_CTLR that forwards interrupts or does not.
pub(crate) fn switch(face: Face, on: bool) -> u64 {
    match (face, on) {
        (Face::V3, true) => 0x12,
        (Face::V3, false) => 0x10,
        (Face::V2, on) => on.into(),
    }
}

/// A 32-bit distributor access that nobody may refuse.
pub(crate) fn gicd(vgic: &mut Vgic, at: u64, value: u32) {
    vgic.dist_write(0, at, AccessSize::B4, value.into()).unwrap();
}

/// Likewise of vCPU `of`'s SGI_base.
pub(crate) fn gicr(vgic: &mut Vgic, of: u64, at: u64, value: u32) {
    vgic.redist_write(0, of * 0x2_0000 + 0x1_0000 + at, AccessSize::B4, value.into()).unwrap();
}
