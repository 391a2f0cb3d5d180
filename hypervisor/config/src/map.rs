//! The guest platform: addresses and interrupt numbers of QEMU's `virt` machine, which every guest sees.
//!
//! QEMU, "'virt' generic virtual platform"; the numbers are those of its generated device tree.

use addr::{Ipa, Span};
use alloc::vec::Vec;

/// The interrupt controller's distributor, 64 KiB.
pub const GICD_BASE: Ipa = Ipa::new(0x0800_0000);
/// Size of the distributor's frame in bytes.
pub const GICD_SIZE: u64 = 0x1_0000;
/// The CPU interface of a GICv2 guest, 64 KiB.
pub const GICC_BASE: Ipa = Ipa::new(0x0801_0000);
/// Size of a GICv2 guest's CPU interface in bytes.
pub const GICC_SIZE: u64 = 0x1_0000;
/// As many vCPUs as a GICv2 guest can have: its registers name them by bits of a byte.
pub const GICV2_VCPUS: u32 = 8;
/// The first redistributor of a GICv3 guest.
pub const GICR_BASE: Ipa = Ipa::new(0x080a_0000);
/// Bytes that one vCPU's redistributor takes: the RD and the SGI frame, 64 KiB each.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// The serial port.
pub const PL011_BASE: Ipa = Ipa::new(0x0900_0000);
/// Size of the serial port's frame in bytes.
pub const PL011_SIZE: u64 = 0x1000;
/// The serial port's SPI (not INTID).
pub const PL011_SPI: u32 = 1;
/// The real-time clock.
pub const PL031_BASE: Ipa = Ipa::new(0x0901_0000);
/// Size of the real-time clock's frame in bytes.
pub const PL031_SIZE: u64 = 0x1000;
/// The real-time clock's SPI (not INTID).
pub const PL031_SPI: u32 = 2;
/// The general purpose input that the power key is at.
pub const PL061_BASE: Ipa = Ipa::new(0x0903_0000);
/// Size of its frame in bytes.
pub const PL061_SIZE: u64 = 0x1000;
/// Its SPI (not INTID).
pub const PL061_SPI: u32 = 7;
/// The power key's line there.
pub const POWER_KEY_LINE: u32 = 3;
/// The first of the windows of virtio over MMIO.
pub const VIRTIO_BASE: Ipa = Ipa::new(0x0a00_0000);
/// Bytes of each.
pub const VIRTIO_SIZE: u64 = 0x200;
/// How many there are.
pub const VIRTIO_SLOTS: u32 = 32;
/// The SPI (not INTID) of the first; the others follow.
pub const VIRTIO_SPI: u32 = 16;
/// The power key's: the last, so that it stays where it is when others come, which begin at the first.
pub const VIRTIO_KEY_SLOT: u32 = VIRTIO_SLOTS - 1;
/// The records of stolen time, which a guest can only read: Arm DEN 0057, and where `virt` has them.
pub const PV_TIME_BASE: Ipa = Ipa::new(0x090a_0000);
/// Room for them in bytes: 64 a vCPU, in whole pages.
pub const PV_TIME_SIZE: u64 = 0x1_0000;
/// What `virt` keeps for devices of the machine it runs on: its platform bus.
pub const PLATFORM_BUS_BASE: Ipa = Ipa::new(0x0c00_0000);
/// Its size in bytes.
pub const PLATFORM_BUS_SIZE: u64 = 0x0200_0000;
/// INTIDs of the interrupts that `virt` keeps for them.
pub const PLATFORM_BUS_INTIDS: core::ops::Range<u32> = SPI_BASE + 112..SPI_BASE + 176;
/// How many SPIs a guest has.
pub const SPIS: u32 = 256;
/// The INTID behind a guest's last one.
pub const SPI_END: u32 = SPI_BASE + SPIS;
/// Where guest RAM begins.
pub const RAM_BASE: Ipa = Ipa::new(0x4000_0000);
/// The most RAM that fits between [`RAM_BASE`] and the windows that `virt` has from 256 GiB upwards.
pub const RAM_MAX: u64 = 255 << 30;

/// INTID of the first SPI (Arm IHI 0069, "INTIDs").
pub const SPI_BASE: u32 = 32;
/// INTID of the first PPI (Arm IHI 0069, "INTIDs").
pub const PPI_BASE: u32 = 16;
/// INTID of the EL1 virtual timer.
pub const VIRTUAL_TIMER_INTID: u32 = 27;
/// INTID of the EL1 physical timer (non-secure), which Merus emulates.
pub const PHYSICAL_TIMER_INTID: u32 = 30;
/// INTID that `virt` gives the secure physical timer. No guest has that timer: the number only keeps its place in the
/// device tree, where the timers are told apart by position.
pub const SECURE_TIMER_INTID: u32 = 29;
/// INTID of the serial port.
pub const PL011_INTID: u32 = SPI_BASE + PL011_SPI;
/// INTID of the real-time clock.
pub const PL031_INTID: u32 = SPI_BASE + PL031_SPI;
/// INTID of the general purpose input.
pub const PL061_INTID: u32 = SPI_BASE + PL061_SPI;

/// What a guest's own devices have, or may come to have, apart from RAM: nothing else is put there.
pub fn fixed() -> Vec<Span<Ipa>> {
    let interrupts = PL011_BASE.as_u64().saturating_sub(GICD_BASE.as_u64());
    let fixed = [
        // Interrupt controllers of any shape.
        (GICD_BASE, interrupts),
        (PL011_BASE, PL011_SIZE),
        (PL031_BASE, PL031_SIZE),
        (PL061_BASE, PL061_SIZE),
        (PV_TIME_BASE, PV_TIME_SIZE),
        (VIRTIO_BASE, VIRTIO_SIZE.saturating_mul(VIRTIO_SLOTS as u64)),
    ];
    fixed.into_iter().filter_map(|(at, size)| Span::new(at, size)).collect()
}

/// Whether a guest's own devices have this INTID, or may come to have it.
pub fn is_fixed_interrupt(intid: u32) -> bool {
    let virtio = SPI_BASE + VIRTIO_SPI..SPI_BASE + VIRTIO_SPI + VIRTIO_SLOTS;
    intid < SPI_BASE || virtio.contains(&intid) || [PL011_INTID, PL031_INTID, PL061_INTID].contains(&intid)
}

/// The window of virtio slot `slot`.
pub const fn virtio_base(slot: u32) -> Ipa {
    Ipa::new(VIRTIO_BASE.as_u64().wrapping_add((slot as u64).wrapping_mul(VIRTIO_SIZE)))
}
/// The SPI (not INTID) of virtio slot `slot`.
pub const fn virtio_spi(slot: u32) -> u32 {
    VIRTIO_SPI.wrapping_add(slot)
}

/// vCPUs that share one Aff1 value, as on `virt` with a GICv3: what one SGI's target list can name.
pub const CPUS_PER_CLUSTER: u32 = 16;

/// Affinity of vCPU `n` as in MPIDR_EL1 (the affinity fields only): Aff0 = n mod 16, Aff1 = n / 16.
pub const fn vcpu_mpidr(n: u32) -> u64 {
    (((n / CPUS_PER_CLUSTER) as u64) << 8) | (n % CPUS_PER_CLUSTER) as u64
}

/// The redistributors of a guest with `vcpus` vCPUs; `None` where they would run into the serial port.
pub fn redistributors(vcpus: u32) -> Option<Span<Ipa>> {
    let span = Span::new(GICR_BASE, u64::from(vcpus).checked_mul(GICR_STRIDE)?)?;
    (span.end() <= PL011_BASE).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn affinities_follow_virt() {
        assert_eq!([0, 1, 15, 16, 63].map(vcpu_mpidr), [0, 1, 15, 0x100, 0x30f]);
    }

    /// No two windows overlap, whatever a VM has of them.
    #[test]
    fn windows_keep_apart() {
        let most = redistributors(crate::spec::MAX_VCPUS).unwrap();
        let fixed = [
            (GICD_BASE, GICD_SIZE),
            (GICC_BASE, GICC_SIZE),
            (PL011_BASE, PL011_SIZE),
            (PL031_BASE, PL031_SIZE),
            (PL061_BASE, PL061_SIZE),
            (PV_TIME_BASE, PV_TIME_SIZE),
            (VIRTIO_BASE, VIRTIO_SIZE * VIRTIO_SLOTS as u64),
            (PLATFORM_BUS_BASE, PLATFORM_BUS_SIZE),
            (RAM_BASE, RAM_MAX),
        ];
        let all: Vec<_> = fixed.into_iter().map(|(at, size)| Span::new(at, size).unwrap()).chain([most]).collect();
        for (n, one) in all.iter().enumerate() {
            assert!(all.iter().skip(n + 1).all(|other| !one.overlaps(other)), "{one:?}");
        }
        assert!(PV_TIME_SIZE >= 64 * u64::from(crate::spec::MAX_VCPUS));
    }

    #[test]
    fn virtio_slots_follow_virt() {
        assert_eq!((virtio_base(0).as_u64(), virtio_spi(0)), (0x0a00_0000, 16));
        assert_eq!((virtio_base(31).as_u64(), virtio_spi(31)), (0x0a00_3e00, 47));
    }

    #[test]
    fn redistributors_stop_before_the_serial_port() {
        assert_eq!(redistributors(64).unwrap().size(), 64 * GICR_STRIDE);
        assert!(redistributors(123).is_some() && redistributors(124).is_none());
        assert!(redistributors(u32::MAX).is_none());
    }
}
