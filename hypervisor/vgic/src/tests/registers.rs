//! Each register of GICD and GICR: reset value, what sticks, which widths.

use addr::AccessSize::{self, B1, B2, B4, B8};
use bus::AccessError::{BadSize, NoRegister, Unaligned};

use super::{gicd, gicr, vgic};
use crate::{Config, ConfigError, DIST_SIZE, REDIST_STRIDE, Refusal, RestoreError, STATE_VERSION, Vgic};

fn d(vgic: &mut Vgic, at: u64) -> u64 {
    vgic.dist_read(0, at, B4).unwrap()
}

fn r(vgic: &mut Vgic, at: u64) -> u64 {
    vgic.redist_read(0, at, B4).unwrap()
}

#[test]
fn distributor_registers_read_as_after_reset() {
    let mut g = vgic(3, 4);
    for (at, value, name) in [
        (0x0, 0x50, "CTLR: DS, ARE"),
        (0x4, (1 << 24) | (9 << 19) | (1 << 16) | 3, "TYPER: A3V, 10 bits, MBIS, 128 INTIDs"),
        (0x8, 0x4d00_043b, "IIDR"),
        (0xc, 0, "TYPER2"),
        (0x10, 0, "STATUSR"),
        (0x40, 0, "SETSPI_NSR"),
        (0x80, 0, "IGROUPR0 of private ones"),
        (0x84, 0xffff_ffff, "IGROUPR1"),
        (0x8c, 0xffff_ffff, "IGROUPR3, the last"),
        (0x90, 0, "IGROUPR4 does not exist"),
        (0x100, 0, "ISENABLER0"),
        (0x104, 0, "ISENABLER1"),
        (0x420, 0, "IPRIORITYR8"),
        (0x820, 0, "ITARGETSR8"),
        (0xc08, 0, "ICFGR2: level"),
        (0xd04, 0, "IGRPMODR1"),
        (0x6100, 0, "IROUTER32"),
        (0xffe8, 0x3b, "PIDR2: GICv3"),
    ] {
        assert_eq!(d(&mut g, at), value, "{name}");
    }
}

#[test]
fn redistributor_registers_read_as_after_reset() {
    let mut g = vgic(3, 4);
    for (at, value, name) in [
        (0x0, 0, "CTLR"),
        (0x4, 0x4d00_043b, "IIDR"),
        (0x8, 0, "TYPER of vCPU 0"),
        (0x14, 6, "WAKER: asleep"),
        (0xffe8, 0x3b, "PIDR2 of RD_base"),
        (0x1_0080, 0xffff_ffff, "IGROUPR0"),
        (0x1_0084, 0, "reserved"),
        (0x1_0c00, 0xaaaa_aaaa, "ICFGR0: SGIs are edges"),
        (0x1_0c04, 0, "ICFGR1: PPIs are levels"),
        (0x1_ffe8, 0x3b, "PIDR2 of SGI_base"),
        (0x2_0008, 1 << 8, "TYPER of vCPU 1: number"),
        (0x2_000c, 1, "its affinity"),
        (0x4_0008, (2 << 8) | (1 << 4), "TYPER of vCPU 2: Last"),
        (0x4_000c, 0x0102_0304, "its affinity"),
    ] {
        assert_eq!(r(&mut g, at), value, "{name}");
    }
    assert_eq!(g.redist_read(0, 0x4_0008, B8), Ok((0x0102_0304 << 32) | 0x210));
    assert_eq!(g.redist_read(0, 0x70, B8), Ok(0), "PROPBASER");
}

#[test]
fn what_is_written_sticks_where_it_may() {
    let mut g = vgic(2, 4);
    for (at, value, reads) in [
        (0x0u64, u32::MAX, 0x52),
        (0x4, u32::MAX, (1 << 24) | (9 << 19) | (1 << 16) | 3),
        (0x84, 0, 0xffff_ffff),
        (0x100, u32::MAX, 0),
        (0x104, 0x8000_0001, 0x8000_0001),
        (0x104, 2, 0x8000_0003),
        (0x184, 1, 0x8000_0002),
        (0x200, u32::MAX, 0),
        (0x208, 0x10, 0x10),
        (0x308, 0x30, 0x30),
        (0x388, 0x10, 0x20),
        (0x110, u32::MAX, 0),
        (0x400, u32::MAX, 0),
        (0x420, 0x0102_faff, 0xf8f8),
        (0x47c, u32::MAX, 0xf8f8_f8f8),
        (0x480, u32::MAX, 0),
        (0x820, u32::MAX, 0),
        (0xc04, u32::MAX, 0),
        (0xc08, u32::MAX, 0xaaaa_aaaa),
        (0xc20, u32::MAX, 0),
        (0xd04, u32::MAX, 0),
        (0xf00, u32::MAX, 0),
        (0x6100, u32::MAX, 0x80ff_ffff),
        (0x6104, u32::MAX, 0xff),
        (0x6000, u32::MAX, 0),
        (0xffe8, 0, 0x3b),
    ] {
        gicd(&mut g, at, value);
        assert_eq!(d(&mut g, at), reads, "GICD + {at:#x} = {value:#x}");
    }
    for (at, value, reads) in [
        (0x080u64, 0, 0xffff_ffff),
        (0x100, 0x0800_0003, 0x0800_0003),
        (0x180, 1, 0x0800_0002),
        (0x200, 0x4000_0001, 0x4000_0001),
        (0x280, 1, 0x4000_0000),
        (0x300, 0x8001, 0x8001),
        (0x380, 1, 0x8000),
        (0x41c, u32::MAX, 0xf8f8_f8f8),
        (0x420, u32::MAX, 0),
        (0xc00, 0, 0xaaaa_aaaa),
        (0xc04, u32::MAX, 0),
    ] {
        gicr(&mut g, 1, at, value);
        assert_eq!(r(&mut g, 0x3_0000 + at), reads, "SGI_base + {at:#x} = {value:#x}");
    }
    assert_eq!(r(&mut g, 0x1_0100), 0, "vCPU 0 has its own");
}

#[test]
fn bytes_of_priorities_can_be_accessed_alone() {
    let mut g = vgic(1, 4);
    g.dist_write(0, 0x421, B1, 0x1234).unwrap();
    assert_eq!(d(&mut g, 0x420), 0x3000);
    assert_eq!(g.dist_read(0, 0x421, B1), Ok(0x30));
    g.redist_write(0, 0x1_041b, B1, 0xa0).unwrap();
    assert_eq!(r(&mut g, 0x1_0418), 0xa000_0000);
    assert_eq!(g.redist_read(0, 0x1_041b, B1), Ok(0xa0));
}

#[test]
fn eight_priority_bits_all_stick() {
    let mut g = Vgic::new(&Config { priority_bits: 8, ..super::config(1, 4) }).unwrap();
    gicd(&mut g, 0x420, 0xff01_0203);
    assert_eq!(d(&mut g, 0x420), 0xff01_0203);
}

#[test]
fn irouter_is_one_register_of_64_bits_or_two_halves() {
    let mut g = vgic(3, 4);
    g.dist_write(0, 0x6108, B8, u64::MAX).unwrap();
    assert_eq!(g.dist_read(0, 0x6108, B8), Ok(0xff_80ff_ffff));
    g.dist_write(0, 0x610c, B4, 0x101).unwrap();
    assert_eq!(g.dist_read(0, 0x6108, B8), Ok(0x01_80ff_ffff));
    g.dist_write(0, 0x6108, B4, 0x0002_0304).unwrap();
    assert_eq!(g.dist_read(0, 0x6108, B8), Ok(0x01_0002_0304));
    gicd(&mut g, 0, 2);
    gicd(&mut g, 0x104, 2);
    g.pulse_spi(33);
    assert_eq!(g.take_notify().bits(), 0b100, "routed by the full affinity");
}

#[test]
fn widths_and_alignments_that_no_register_has_are_refused() {
    let mut g = vgic(2, 4);
    let gicd: &[(u64, AccessSize, Refusal)] = &[
        (0x0, B8, BadSize.into()),
        (0x0, B1, BadSize.into()),
        (0x104, B2, BadSize.into()),
        (0x102, B4, Unaligned.into()),
        (0x420, B2, BadSize.into()),
        (0x420, B8, BadSize.into()),
        (0x6100, B2, BadSize.into()),
        (0x6104, B8, Unaligned.into()),
        (DIST_SIZE, B4, NoRegister.into()),
        (!3, B4, NoRegister.into()),
    ];
    for (at, size, refusal) in gicd {
        assert_eq!(g.dist_read(0, *at, *size), Err(*refusal), "{at:#x} {size:?}");
        assert_eq!(g.dist_write(0, *at, *size, 0), Err(*refusal), "{at:#x} {size:?}");
    }
    let gicr: &[(u64, AccessSize, Refusal)] = &[
        (0x10, B8, BadSize.into()),
        (0x8, B1, BadSize.into()),
        (0x1_0400, B8, BadSize.into()),
        (0x1_0101, B4, Unaligned.into()),
        (2 * REDIST_STRIDE, B4, NoRegister.into()),
        (!3, B4, NoRegister.into()),
    ];
    for (at, size, refusal) in gicr {
        assert_eq!(g.redist_read(0, *at, *size), Err(*refusal), "{at:#x} {size:?}");
        assert_eq!(g.redist_write(0, *at, *size, 0), Err(*refusal), "{at:#x} {size:?}");
    }
}

#[test]
fn no_access_panics() {
    let mut g = vgic(2, 1);
    for size in [B1, B2, B4, B8] {
        for at in (0..0x4_0004).step_by(size.bytes() as usize * if cfg!(miri) { 997 } else { 1 }) {
            let _ = (g.dist_read(0, at, size), g.redist_read(9, at, size));
            let _ = (g.dist_write(0, at, size, u64::MAX), g.redist_write(9, at, size, u64::MAX));
        }
    }
}

#[test]
fn the_waker_follows_at_once() {
    let mut g = vgic(2, 4);
    g.redist_write(0, 0x2_0014, B4, 0).unwrap();
    assert_eq!((r(&mut g, 0x2_0014), r(&mut g, 0x14)), (0, 6));
    g.redist_write(0, 0x2_0014, B4, 2).unwrap();
    assert_eq!(r(&mut g, 0x2_0014), 6);
}

#[test]
fn one_of_n_goes_to_who_is_awake() {
    let mut g = vgic(2, 4);
    gicd(&mut g, 0, 2);
    gicd(&mut g, 0x104, 1);
    gicd(&mut g, 0x6100, 1 << 31);
    g.pulse_spi(32);
    assert_eq!(g.take_notify().bits(), 1, "nobody is: the first");
    g.redist_write(0, 0x2_0014, B4, 0).unwrap();
    assert_eq!(g.take_notify().bits(), 2, "it moves to the one that wakes");
}

#[test]
fn messages_pend_and_clear_spis_only() {
    let mut g = vgic(1, 4);
    g.dist_write(0, 0x40, B2, 40).unwrap();
    g.dist_write(0, 0x40, B4, 3).unwrap();
    g.dist_write(0, 0x40, B4, 128).unwrap();
    assert_eq!((d(&mut g, 0x204), r(&mut g, 0x1_0200)), (1 << 8, 0));
    g.dist_write(0, 0x48, B4, 40).unwrap();
    assert_eq!(d(&mut g, 0x204), 0);
}

#[test]
fn configurations_that_no_vm_can_have() {
    let good = || super::config(2, 4);
    for (config, error) in [
        (Config { vcpus: 0, affinities: [].into(), ..good() }, ConfigError::Vcpus),
        (Config { vcpus: 65, affinities: super::affinities(65), ..good() }, ConfigError::Vcpus),
        (Config { spis: 33, ..good() }, ConfigError::Spis),
        (Config { spis: 992, ..good() }, ConfigError::Spis),
        (Config { list_registers: 0, ..good() }, ConfigError::ListRegisters),
        (Config { list_registers: 17, ..good() }, ConfigError::ListRegisters),
        (Config { priority_bits: 4, ..good() }, ConfigError::PriorityBits),
        (Config { priority_bits: 9, ..good() }, ConfigError::PriorityBits),
        (Config { affinities: [1, 1].into(), ..good() }, ConfigError::Affinities),
        (Config { affinities: [1].into(), ..good() }, ConfigError::Affinities),
    ] {
        assert_eq!(Vgic::new(&config).err(), Some(error), "{config:?}");
    }
    assert!(Vgic::new(&Config { vcpus: 64, spis: 960, affinities: super::affinities(64), ..good() }).is_ok());
}

#[test]
fn sgi1r_finds_its_targets() {
    let all = |g: &mut Vgic| {
        gicd(g, 0, 2);
        for v in 0..20 {
            gicr(g, v, 0x100, 0xffff);
        }
        g.take_notify();
    };
    // Target list, RS, Aff1, Aff2, Aff3, IRM, for INTID 5 from vCPU 1.
    for (list, rs, aff1, aff2, aff3, all_but_self, who) in [
        (0b11u64, 0u64, 0u64, 0u64, 0u64, 0u64, 0b11u64),
        (0xffff, 0, 0, 0, 0, 0, 0xfffb),
        (0xffff, 0, 1, 0, 0, 0, 0xf_0000),
        (1 << 4, 0, 3, 2, 1, 0, 0b100),
        (1, 1, 0, 0, 0, 0, 0),
        (1, 0, 0, 0, 9, 0, 0),
        (0, 0, 0, 0, 0, 0, 0),
        (0, 0, 7, 7, 7, 1, 0xf_fffd),
    ]
    .into_iter()
    .step_by(if cfg!(miri) { 7 } else { 1 })
    {
        let mut g = vgic(20, 4);
        all(&mut g);
        g.sgi1r(1, list | (aff1 << 16) | (5 << 24) | (aff2 << 32) | (all_but_self << 40) | (rs << 44) | (aff3 << 48));
        assert_eq!(g.take_notify().bits(), who, "{list:#x} rs {rs} {aff3}.{aff2}.{aff1}");
        for v in 0..20 {
            assert_eq!(r(&mut g, v * 0x2_0000 + 0x1_0200), ((who >> v) & 1) << 5);
        }
    }
    let mut affinities = super::affinities(2);
    affinities[1] = 0x12;
    let mut g = Vgic::new(&Config { affinities, ..super::config(2, 4) }).unwrap();
    g.sgi1r(0, (1 << 44) | (3 << 24) | (1 << 2));
    assert_eq!(r(&mut g, 0x3_0200), 1 << 3, "RS counts 16 in Aff0");
}

#[test]
fn nothing_survives_a_reset() {
    let fresh = vgic(2, 4).save();
    let mut g = vgic(2, 4);
    for at in (0..0x8000).step_by(if cfg!(miri) { 4 * 13 } else { 4 }) {
        g.dist_write(0, at, B4, 0xffff_ffff).unwrap();
    }
    gicr(&mut g, 1, 0x100, u32::MAX);
    g.set_spi_level(50, true);
    g.hw_timer_fired(1);
    assert_ne!(g.save(), fresh);
    g.reset();
    assert_eq!(g.save(), fresh);
    assert!(g.take_notify().is_empty() && !g.needs_flush(1) && !g.timer_active(1));
}

#[test]
fn a_state_is_restored_whole_or_refused() {
    let mut g = vgic(3, 4);
    gicd(&mut g, 0, 2);
    gicd(&mut g, 0x104, 0xff);
    gicd(&mut g, 0x6108, 1);
    gicd(&mut g, 0x304, 4);
    g.pulse_spi(33);
    g.hw_timer_fired(2);
    let saved = g.save();
    assert_eq!((saved.spis[2].active_on, saved.spis[1].active_on), (Some(0), None));
    let mut twin = vgic(3, 4);
    assert_eq!(twin.restore(&saved), Ok(()));
    assert_eq!(twin.save(), saved);
    assert_eq!(twin.take_notify().bits(), 0b011, "33 for vCPU 1, the active 34 for vCPU 0");
    assert!(twin.timer_active(2));

    let mut bad = saved.clone();
    bad.version = STATE_VERSION + 1;
    assert_eq!(twin.restore(&bad), Err(RestoreError::Version(2)));
    let mut bad = saved.clone();
    bad.spis[0].active_on = Some(3);
    assert_eq!(twin.restore(&bad), Err(RestoreError::Inconsistent));
    let mut bad = saved.clone();
    bad.vcpus[0].private[20].linked = true;
    assert_eq!(twin.restore(&bad), Err(RestoreError::Inconsistent));
    let mut bad = saved.clone();
    bad.vcpus[1].affinity = 7;
    assert_eq!(twin.restore(&bad), Err(RestoreError::Shape));
    assert_eq!(vgic(2, 4).restore(&saved), Err(RestoreError::Shape));
    assert_eq!(twin.save(), saved, "a refused one changes nothing");
}
