//! The whole controller on the host: register tables, the list registers against a model of the virtual CPU interface, and
//! random histories against an oracle.

mod lists;
mod races;
mod random;
mod registers;

use std::vec::Vec;

use addr::AccessSize;

pub(crate) use crate::fakes as cpu_interface;
use crate::{Config, Vgic};

/// vCPU 0 and 1 in the first cluster, vCPU 2 far away, the others after them.
pub(crate) fn affinities(vcpus: usize) -> Vec<u32> {
    (0..vcpus as u32).map(|n| if n == 2 { 0x0102_0304 } else { ((n >> 4) << 8) | (n & 15) }).collect()
}

pub(crate) fn config(vcpus: usize, list_registers: usize) -> Config {
    Config { vcpus, spis: 96, list_registers, priority_bits: 5, affinities: affinities(vcpus) }
}

pub(crate) fn vgic(vcpus: usize, list_registers: usize) -> Vgic {
    Vgic::new(&config(vcpus, list_registers)).unwrap()
}

/// A 32-bit distributor access that nobody may refuse.
pub(crate) fn gicd(vgic: &mut Vgic, at: u64, value: u32) {
    vgic.dist_write(0, at, AccessSize::B4, value.into()).unwrap();
}

/// Likewise of vCPU `of`'s SGI_base.
pub(crate) fn gicr(vgic: &mut Vgic, of: u64, at: u64, value: u32) {
    vgic.redist_write(0, of * 0x2_0000 + 0x1_0000 + at, AccessSize::B4, value.into()).unwrap();
}
