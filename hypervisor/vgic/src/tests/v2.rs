//! The GICv2 face: its registers, and what it means that senders of an SGI count each for itself.

use std::vec::Vec;

use addr::AccessSize::{self, B1, B2, B4, B8};
use bus::AccessError::{BadSize, NoRegister, Unaligned};

use super::cpu_interface::{Cpu, SPURIOUS};
use super::faced;
use crate::v3::DIST_SIZE;
use crate::{Config, ConfigError, Face, Refusal, RestoreError, TIMER_PPI, VcpuSet, Vgic};

const SGIR: u64 = 0xf00;

fn read(g: &mut Vgic, by: u32, at: u64) -> u64 {
    g.v2_dist_read(by, at, B4).unwrap()
}

fn write(g: &mut Vgic, by: u32, at: u64, value: u32) {
    g.v2_dist_write(by, at, B4, value.into()).unwrap();
}

/// Three vCPUs, 0 and 1 loaded, everything forwarded.
fn running(lrs: usize) -> (Vgic, [Cpu; 2]) {
    let mut g = faced(Face::V2, 3, lrs);
    write(&mut g, 0, 0, 1);
    let mut cpus = [Cpu::v2(lrs), Cpu::v2(lrs)];
    for (v, cpu) in (0..).zip(&mut cpus) {
        g.load(v, cpu);
        cpu.guest_setup(0xf8, false);
        g.flush(v, cpu);
    }
    (g, cpus)
}

/// Takes and ends what there is: what GICC_IAR read each time.
fn serve(g: &mut Vgic, v: u32, cpu: &mut Cpu) -> Vec<u32> {
    let mut taken = Vec::new();
    loop {
        if cpu.maintenance() {
            g.maintenance(v, cpu);
        }
        g.flush(v, cpu);
        let iar = cpu.acknowledge();
        if iar == SPURIOUS {
            return taken;
        }
        taken.push(iar);
        cpu.end(iar);
    }
}

#[test]
fn registers_read_as_after_reset() {
    let mut g = faced(Face::V2, 3, 4);
    for (at, value) in [
        (0x0, 0),
        (0x4, 2 << 5 | 3),
        (0x8, 0x4d00_043b),
        (0x80, 0),
        (0x100, 0xffff),
        (0x180, 0xffff),
        (0x104, 0),
        (0x400, 0),
        (0x820, 0),
        (0xc00, 0xaaaa_aaaa),
        (0xc04, 0),
        (0xc08, 0),
        (0xf00, 0),
        (0xf10, 0),
        (0xfe8, 0x2b),
        (0x1000, 0),
        (0xfffc, 0),
    ] {
        assert_eq!(read(&mut g, 0, at), value, "{at:#x}");
    }
    for by in 0..3 {
        assert_eq!(read(&mut g, by, 0x800), 0x0101_0101 << by);
        assert_eq!(read(&mut g, by, 0x81c), 0x0101_0101 << by);
    }
}

#[test]
fn what_is_written_sticks_where_it_may() {
    let mut g = faced(Face::V2, 3, 4);
    for (at, after) in [
        (0x0u64, 1u64),
        (0x4, 2 << 5 | 3),
        (0x80, 0),
        (0x84, 0),
        (0x100, 0xffff_ffff),
        (0x104, 0xffff_ffff),
        (0x200, 0xffff_0000),
        (0x300, 0xffff_ffff),
        (0x41c, 0xf8f8_f8f8),
        (0x420, 0xf8f8_f8f8),
        (0x800, 0x0202_0202),
        (0x820, 0x0707_0707),
        (0x87c, 0x0707_0707),
        (0x880, 0),
        (0xc00, 0xaaaa_aaaa),
        (0xc04, 0),
        (0xc08, 0xaaaa_aaaa),
        (0xf00, 0),
    ] {
        write(&mut g, 1, at, u32::MAX);
        assert_eq!(read(&mut g, 1, at), after, "{at:#x}");
    }
    write(&mut g, 1, 0x180, u32::MAX);
    assert_eq!(read(&mut g, 1, 0x100), 0xffff, "SGIs stay enabled");
    assert_eq!((read(&mut g, 0, 0x300), read(&mut g, 0, 0x41c)), (0, 0), "banked");
    write(&mut g, 1, 0x280, u32::MAX);
    assert_eq!(read(&mut g, 1, 0x200), 0);
}

#[test]
fn spis_go_to_the_lowest_of_their_targets() {
    let mut g = faced(Face::V2, 3, 4);
    write(&mut g, 0, 0, 1);
    write(&mut g, 0, 0x104, u32::MAX);
    g.pulse_spi(32);
    assert!(g.take_notify().is_empty(), "nobody's after reset");
    g.v2_dist_write(0, 0x820, B1, 0b110).unwrap();
    assert_eq!(g.take_notify(), VcpuSet::one(1), "it moves there");
    write(&mut g, 0, 0x824, 0x0804_0200);
    for (spi, to) in [(36, None), (37, Some(1)), (38, Some(2)), (39, None)] {
        g.pulse_spi(spi);
        assert_eq!(g.take_notify(), to.map_or(VcpuSet::EMPTY, VcpuSet::one), "{spi}");
    }
    assert_eq!(g.v2_dist_read(0, 0x826, B1), Ok(4));
    assert_eq!(read(&mut g, 0, 0x824), 0x0004_0200, "there is no fourth vCPU");

    let mut alone = faced(Face::V2, 1, 4);
    write(&mut alone, 0, 0, 1);
    write(&mut alone, 0, 0x104, 1);
    write(&mut alone, 0, 0x820, 0);
    alone.pulse_spi(32);
    assert_eq!((alone.take_notify().bits(), read(&mut alone, 0, 0x820), read(&mut alone, 0, 0x800)), (1, 0, 0));
}

#[test]
fn a_word_of_targets_is_written_whole_or_not_at_all() {
    let (mut g, mut cpus) = running(4);
    write(&mut g, 0, 0x104, 0xff);
    write(&mut g, 0, 0x820, 0x0101_0101);
    g.pulse_spi(34);
    g.flush(0, &mut cpus[0]);
    let fold = Err(Refusal::Fold(VcpuSet::one(0)));
    assert_eq!(g.v2_dist_write(1, 0x820, B4, 0x0202_0202), fold);
    assert_eq!(read(&mut g, 0, 0x820), 0x0101_0101);
    g.sync(0, &mut cpus[0]);
    assert_eq!(g.v2_dist_write(1, 0x820, B4, 0x0202_0202), Ok(()));
    assert_eq!(serve(&mut g, 0, &mut cpus[0]), []);
    assert_eq!(serve(&mut g, 1, &mut cpus[1]), [34]);
}

#[test]
fn sgir_finds_its_targets() {
    for (value, who) in [
        (0b101 << 16, 0b101u64),
        (0xff << 16, 0b111),
        (1 << 24, 0b101),
        (1 << 24 | 0xff << 16, 0b101),
        (2 << 24, 0b010),
        (3 << 24 | 0xff << 16, 0),
        (0, 0),
    ] {
        let mut g = faced(Face::V2, 3, 4);
        write(&mut g, 0, 0, 1);
        write(&mut g, 1, SGIR, value | 9);
        assert_eq!(g.take_notify().bits(), who, "{value:#x}");
        for v in 0..3 {
            let sent = who >> v & 1;
            assert_eq!((read(&mut g, v, 0x200), read(&mut g, v, 0xf28)), (sent << 9, (sent << 1) << 8), "{value:#x}");
        }
    }
}

#[test]
fn each_sender_of_an_sgi_is_taken_once() {
    for lrs in [1, 4] {
        let (mut g, mut cpus) = running(lrs);
        for by in [0, 2, 1, 2] {
            write(&mut g, by, SGIR, 1 << 16 | 5);
        }
        write(&mut g, 1, SGIR, 1 << 16 | 6);
        g.flush(0, &mut cpus[0]);
        let mut taken = serve(&mut g, 0, &mut cpus[0]);
        taken.sort_unstable();
        assert_eq!(taken, [5, 5 | 1 << 10, 6 | 1 << 10, 5 | 2 << 10]);
    }
}

#[test]
fn one_sent_while_its_like_is_active_is_not_lost_nor_given_to_another_sender() {
    for (again, shown) in [(1, 3), (2, 2)] {
        let (mut g, mut cpus) = running(4);
        write(&mut g, 1, SGIR, 1 << 16 | 5);
        g.flush(0, &mut cpus[0]);
        assert_eq!(cpus[0].acknowledge(), 5 | 1 << 10);
        write(&mut g, again, SGIR, 1 << 16 | 5);
        g.flush(0, &mut cpus[0]);
        assert_eq!(cpus[0].lr[0] >> 62, shown, "the same sender's may share the register");
        // It leaves and comes back while active: the sender is remembered.
        g.put(0, &mut cpus[0]);
        let state = g.save();
        let mut twin = faced(Face::V2, 3, 4);
        twin.restore(&state).unwrap();
        let mut cpu = Cpu::v2(4);
        twin.load(0, &mut cpu);
        twin.flush(0, &mut cpu);
        assert_eq!(cpu.lr.iter().find(|lr| **lr >> 62 != 0).map(|lr| lr >> 32 & 7), Some(1));
        cpu.end(5 | 1 << 10);
        assert_eq!(serve(&mut twin, 0, &mut cpu), [5 | again << 10]);
    }
}

#[test]
fn pending_sgis_are_set_and_cleared_by_sender() {
    let (mut g, mut cpus) = running(4);
    g.v2_dist_write(0, 0xf25, B1, 0xff).unwrap();
    g.flush(0, &mut cpus[0]);
    let fold = Err(Refusal::Fold(VcpuSet::one(0)));
    assert_eq!(g.v2_dist_read(0, 0xf24, B4).map(|_| ()), fold);
    assert_eq!(g.v2_dist_write(0, 0xf14, B4, 0b101 << 8), fold);
    g.sync(0, &mut cpus[0]);
    assert_eq!(read(&mut g, 0, 0xf24), 0b111 << 8, "those that exist");
    write(&mut g, 0, 0xf14, 0b101 << 8);
    assert_eq!(serve(&mut g, 0, &mut cpus[0]), [5 | 1 << 10]);
    g.sync(0, &mut cpus[0]);
    write(&mut g, 0, SGIR, 1 << 16 | 5);
    g.v2_dist_write(0, 0xf15, B1, 1).unwrap();
    assert_eq!(serve(&mut g, 0, &mut cpus[0]), []);
    assert_eq!(g.v2_dist_write(1, 0xf25, B1, 0xf8), Ok(()));
    assert_eq!(serve(&mut g, 1, &mut cpus[1]), []);
}

#[test]
fn gicc_dir_always_comes_here() {
    let (mut g, mut cpus) = running(4);
    write(&mut g, 0, 0x100, 1 << TIMER_PPI);
    let [cpu, _] = &mut cpus;
    cpu.guest_setup(0xf8, true);
    cpu.timer_active = true;
    g.hw_timer_fired(0);
    write(&mut g, 1, SGIR, 1 << 16 | 5);
    g.flush(0, cpu);
    for iar in [5 | 1 << 10, TIMER_PPI] {
        assert_eq!(cpu.acknowledge(), iar);
        cpu.end(iar);
        assert!(cpu.dir(iar));
        g.v2_cpu_write(0, 0x1000, B4, iar.into(), cpu).unwrap();
        g.flush(0, cpu);
    }
    assert!(!cpu.timer_active && cpu.lr.iter().all(|lr| *lr == 0));
    assert_eq!(g.v2_cpu_read(0x1000, B4), Ok(0));
    assert_eq!(g.v2_cpu_write(0, 0x1004, B4, 0, cpu), Ok(()));
    assert_eq!(g.v2_cpu_write(0, 0x1000, B8, 0, cpu), Err(BadSize.into()));
    assert_eq!(g.v2_cpu_read(0x1002, B4), Err(Unaligned.into()));
}

#[test]
fn wfi_looks_at_the_group_that_there_is() {
    let (mut g, [mut cpu, _]) = running(4);
    write(&mut g, 0, 0x404, 0x8080_8080);
    write(&mut g, 1, SGIR, 1 << 16 | 5);
    for (vmcr, wakes) in
        [(0x88 << 24 | 1, true), (0x80 << 24 | 1, false), (0x88 << 24 | 2, false), (0x88 << 24 | 7 << 21 | 1, true)]
    {
        g.flush(0, &mut cpu);
        cpu.vmcr = vmcr;
        assert_eq!(g.wfi_wakes(0, &mut cpu), wakes, "{vmcr:#x}");
    }
    // What is active is preempted by what is better only.
    cpu.vmcr = 0xf8 << 24 | 2 << 21 | 1;
    for (active, wakes) in [(1 << 16, false), (1 << 17, true)] {
        g.flush(0, &mut cpu);
        cpu.ap1r = active;
        assert_eq!(g.wfi_wakes(0, &mut cpu), wakes, "{active:#x}");
    }
}

#[test]
fn widths_and_alignments_that_no_register_has_are_refused() {
    let mut g = faced(Face::V2, 2, 4);
    let cases: &[(u64, AccessSize, Refusal)] = &[
        (0x0, B8, BadSize.into()),
        (0x0, B1, BadSize.into()),
        (0x104, B2, BadSize.into()),
        (0x102, B4, Unaligned.into()),
        (0x420, B2, BadSize.into()),
        (0x820, B8, BadSize.into()),
        (0xf20, B2, BadSize.into()),
        (DIST_SIZE, B4, NoRegister.into()),
        (!3, B4, NoRegister.into()),
    ];
    for (at, size, refusal) in cases {
        assert_eq!(g.v2_dist_read(0, *at, *size), Err(*refusal), "{at:#x} {size:?}");
        assert_eq!(g.v2_dist_write(0, *at, *size, 0), Err(*refusal), "{at:#x} {size:?}");
    }
}

#[test]
fn no_access_panics_nor_changes_what_a_reset_does_not_undo() {
    let fresh = faced(Face::V2, 2, 1).save();
    let mut g = faced(Face::V2, 2, 1);
    for size in [B1, B2, B4, B8] {
        for at in (0..0x1_0004).step_by(size.bytes() as usize * if cfg!(miri) { 997 } else { 1 }) {
            for by in [0, 1, 9] {
                let _ = g.v2_dist_read(by, at, size);
                let _ = g.v2_dist_write(by, at, size, u64::MAX);
            }
        }
    }
    assert_ne!(g.save(), fresh);
    g.reset();
    assert_eq!(g.save(), fresh);
}

#[test]
fn eight_vcpus_are_the_most() {
    let config = |vcpus| Config { face: Face::V2, ..super::config(vcpus, 4) };
    assert_eq!(Vgic::new(&config(9)).err(), Some(ConfigError::Vcpus));
    let mut g = Vgic::new(&config(8)).unwrap();
    write(&mut g, 0, 0, 1);
    write(&mut g, 7, SGIR, 1 << 24);
    assert_eq!((g.take_notify().bits(), read(&mut g, 0, 0xf20)), (0x7f, 0x80));
}

#[test]
fn a_state_that_contradicts_itself_is_refused() {
    let mut g = faced(Face::V2, 3, 4);
    write(&mut g, 1, SGIR, 1 << 16 | 5);
    let saved = g.save();
    let mut twin = faced(Face::V2, 3, 4);
    assert_eq!(twin.restore(&saved), Ok(()));
    assert_eq!(twin.save(), saved);
    assert_eq!(super::vgic(3, 4).restore(&saved), Err(RestoreError::Shape), "another face");
    let spoils: [fn(&mut crate::State); 5] = [
        |s| s.vcpus[0].private[5].senders = 0,
        |s| s.vcpus[0].private[5].senders = 1 << 3,
        |s| s.vcpus[0].private[5].sender = 3,
        |s| s.vcpus[0].private[20].senders = 1,
        |s| s.spis[0].sender = 1,
    ];
    for spoil in spoils {
        let mut bad = saved.clone();
        spoil(&mut bad);
        assert_eq!(twin.restore(&bad), Err(RestoreError::Inconsistent));
    }
}
