//! Single rules of the list registers, and what the common paths cost in accesses.

use addr::AccessSize::B4;

use super::cpu_interface::{Cpu, SPURIOUS};
use super::{gicd, gicr, vgic};
use crate::irq::{LR_HW, LR_PINTID_SHIFT};
use crate::list_registers::hcr;
use crate::{Refusal, TIMER_PPI, VcpuSet, Vgic};

const LEVEL: u32 = 40;
const EDGE: u32 = 48;
/// SGI 3 to vCPU 0.
const SGI: u64 = (3 << 24) | 1;

/// vCPU 0 loaded, all enabled, SPIs from 48 edge triggered, all at priority 0x80.
fn loaded(lrs: usize) -> (Vgic, Cpu) {
    let mut g = vgic(2, lrs);
    gicd(&mut g, 0, 2);
    for v in 0..2 {
        gicr(&mut g, v, 0x100, u32::MAX);
        for n in 0..8 {
            gicr(&mut g, v, 0x400 + 4 * n, 0x8080_8080);
        }
    }
    for n in 0..24 {
        gicd(&mut g, 0x420 + 4 * n, 0x8080_8080);
    }
    gicd(&mut g, 0x104, u32::MAX);
    gicd(&mut g, 0x108, u32::MAX);
    gicd(&mut g, 0xc0c, u32::MAX);
    let mut cpu = Cpu::new(lrs);
    g.load(0, &mut cpu);
    cpu.guest_setup(0xf8, false);
    g.flush(0, &mut cpu);
    (g, cpu)
}

fn costs(cpu: &mut Cpu) -> (usize, usize, usize) {
    (cpu.reads.take(), core::mem::take(&mut cpu.writes), core::mem::take(&mut cpu.hcr_writes))
}

fn service(g: &mut Vgic, cpu: &mut Cpu) -> u32 {
    let intid = cpu.acknowledge();
    if intid != SPURIOUS {
        cpu.end(intid);
    }
    if cpu.maintenance() {
        g.maintenance(0, cpu);
    }
    g.flush(0, cpu);
    intid
}

#[test]
fn each_source_has_its_own_list_register_format() {
    let (mut g, mut cpu) = loaded(4);
    let common = (1u64 << 62) | (1 << 60) | (0x80 << 48);
    g.sgi1r(0, SGI);
    g.set_spi_level(LEVEL, true);
    g.pulse_spi(EDGE);
    g.hw_timer_fired(0);
    g.flush(0, &mut cpu);
    for value in [
        common | 3,
        common | (1 << 61) | (27 << 32) | 27,
        common | (1 << 41) | u64::from(LEVEL),
        common | u64::from(EDGE),
    ] {
        assert!(cpu.lr.contains(&value), "{value:#x} not in {:x?}", cpu.lr);
    }
}

#[test]
fn a_self_sgi_costs_one_write_and_an_idle_flush_nothing() {
    let (mut g, mut cpu) = loaded(4);
    costs(&mut cpu);
    g.sgi1r(0, SGI);
    assert!(g.needs_flush(0));
    g.flush(0, &mut cpu);
    assert_eq!(costs(&mut cpu), (0, 1, 0));
    assert!(!g.needs_flush(0) && g.take_notify().is_empty());
    g.flush(0, &mut cpu);
    assert_eq!(costs(&mut cpu), (0, 0, 0));
    assert_eq!(cpu.acknowledge(), 3);
    cpu.end(3);
    // Its register is read back, because nobody knows that the guest is done, and reused.
    g.sgi1r(0, SGI);
    g.flush(0, &mut cpu);
    assert_eq!(costs(&mut cpu), (1, 1, 0));
    assert_eq!(service(&mut g, &mut cpu), 3);
}

#[test]
fn another_physical_number_is_the_link_s_alone() {
    let linked = |cpu: &Cpu, pintid: u64| {
        let value = *cpu.lr.iter().find(|value| **value & LR_HW != 0).expect("a linked one");
        assert_eq!((value as u32, value >> LR_PINTID_SHIFT & 0x3ff), (TIMER_PPI, pintid));
    };
    let (mut g, mut cpu) = loaded(4);
    g.put(0, &mut cpu);
    g.link_timer(30);
    g.load(0, &mut cpu);
    (cpu.timer_active, cpu.ap1r) = (true, 0);
    g.hw_timer_fired(0);
    g.flush(0, &mut cpu);
    linked(&cpu, 30);
    // Active, and shown anew after it was away.
    assert_eq!(cpu.acknowledge(), TIMER_PPI);
    g.put(0, &mut cpu);
    let state = g.save();
    g.load(0, &mut cpu);
    g.flush(0, &mut cpu);
    linked(&cpu, 30);
    // The number is the machine's, so it is no part of the state, and neither that nor a reset changes it.
    g.put(0, &mut cpu);
    g.reset();
    g.restore(&state).unwrap();
    g.load(0, &mut cpu);
    g.flush(0, &mut cpu);
    linked(&cpu, 30);
    // Another machine.
    g.put(0, &mut cpu);
    g.link_timer(TIMER_PPI);
    g.load(0, &mut cpu);
    g.flush(0, &mut cpu);
    linked(&cpu, u64::from(TIMER_PPI));
}

#[test]
fn a_timer_tick_touches_its_own_register_only() {
    let (mut g, mut cpu) = loaded(4);
    g.sgi1r(0, SGI);
    g.flush(0, &mut cpu);
    costs(&mut cpu);
    for tick in 0..3 {
        (cpu.timer_active, cpu.ap1r) = (true, 0);
        g.hw_timer_fired(0);
        g.flush(0, &mut cpu);
        assert_eq!(costs(&mut cpu), (usize::from(tick > 0), 1, 0));
        let first = cpu.acknowledge();
        cpu.end(first);
        if tick == 0 {
            assert_eq!(first, 3);
            assert_eq!(cpu.acknowledge(), TIMER_PPI);
            cpu.end(TIMER_PPI);
        }
        assert!(!cpu.timer_active, "the guest's EOI ends the physical one");
    }
}

#[test]
fn a_level_still_high_comes_again_and_a_low_one_goes() {
    let (mut g, mut cpu) = loaded(4);
    g.set_spi_level(LEVEL, true);
    g.flush(0, &mut cpu);
    for _ in 0..3 {
        assert_eq!(service(&mut g, &mut cpu), LEVEL);
    }
    g.take_notify();
    g.set_spi_level(LEVEL, false);
    assert_eq!(g.take_notify(), VcpuSet::one(0), "the owner has to take it out");
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), SPURIOUS);
}

#[test]
fn an_edge_while_active_is_not_lost() {
    let (mut g, mut cpu) = loaded(1);
    g.pulse_spi(EDGE);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), EDGE);
    g.pulse_spi(EDGE);
    g.pulse_spi(EDGE);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.lr[0] >> 62, 3);
    cpu.end(EDGE);
    assert_eq!(service(&mut g, &mut cpu), EDGE);
    assert_eq!(service(&mut g, &mut cpu), SPURIOUS, "two edges while pending are one");
}

#[test]
fn more_than_fits_comes_in_the_order_of_priorities() {
    for lrs in [1, 2, 4] {
        let (mut g, mut cpu) = loaded(lrs);
        for n in 0..16 {
            g.dist_write(0, 0x400 + u64::from(EDGE) + n, addr::AccessSize::B1, 0xf0 - 8 * n).unwrap();
            g.pulse_spi(EDGE + n as u32);
        }
        g.flush(0, &mut cpu);
        assert_eq!(cpu.hcr, hcr::EN | hcr::NPIE);
        for n in (0..16).rev() {
            assert_eq!(service(&mut g, &mut cpu), EDGE + n, "{lrs} list registers");
        }
        assert_eq!(service(&mut g, &mut cpu), SPURIOUS);
        assert_eq!(cpu.hcr & hcr::NPIE, 0);
    }
}

#[test]
fn handlers_nested_deeper_than_the_list_registers_end_well() {
    let (mut g, mut cpu) = loaded(2);
    for n in 0..6u32 {
        g.dist_write(0, 0x400 + u64::from(EDGE + n), addr::AccessSize::B1, u64::from(0xa0 - 8 * n)).unwrap();
        g.pulse_spi(EDGE + n);
        g.flush(0, &mut cpu);
        assert_eq!(cpu.acknowledge(), EDGE + n);
        if cpu.maintenance() {
            g.maintenance(0, &mut cpu);
        }
        g.flush(0, &mut cpu);
    }
    assert_ne!(cpu.hcr & hcr::LRENPIE, 0);
    for n in (0..6).rev() {
        cpu.end(EDGE + n);
        if cpu.maintenance() {
            g.maintenance(0, &mut cpu);
        }
        g.flush(0, &mut cpu);
    }
    g.sync(0, &mut cpu);
    assert_eq!((g.dist_read(0, 0x304, B4), cpu.ap1r), (Ok(0), 0));
}

#[test]
fn dir_of_a_spilled_one_ends_that_one() {
    let (mut g, mut cpu) = loaded(1);
    cpu.guest_setup(0xf8, true);
    for n in 0..3 {
        g.pulse_spi(EDGE + n);
        g.flush(0, &mut cpu);
        assert_eq!(cpu.acknowledge(), EDGE + n);
        cpu.end(EDGE + n);
    }
    assert!(cpu.dir(EDGE + 1), "trapped");
    g.dir(0, EDGE + 1, &mut cpu).unwrap();
    assert_eq!(g.dist_read(0, 0x304, B4), Ok(0b101 << 16));
    g.dir(0, 5000, &mut cpu).unwrap();
    g.flush(0, &mut cpu);
    assert_ne!(cpu.hcr & hcr::TDIR, 0);
}

#[test]
fn dir_of_what_another_vcpu_runs_with_asks_for_the_fold() {
    let (mut g, mut cpu) = loaded(1);
    g.pulse_spi(EDGE);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), EDGE);
    let mut other = Cpu::new(1);
    g.load(1, &mut other);
    other.guest_setup(0xf8, true);
    g.flush(1, &mut other);
    assert_eq!(g.dir(1, EDGE, &mut other), Err(Refusal::Fold(VcpuSet::one(0))));
    g.sync(0, &mut cpu);
    assert_eq!(g.dir(1, EDGE, &mut other), Ok(()));
    assert_eq!(g.take_notify().iter().collect::<std::vec::Vec<_>>(), [0], "its register still shows it");
    g.flush(0, &mut cpu);
    assert_eq!(cpu.lr[0] >> 62, 0);
}

#[test]
fn an_access_to_a_running_vcpus_state_names_who_has_to_fold() {
    let (mut g, mut cpu) = loaded(4);
    g.pulse_spi(EDGE);
    g.flush(0, &mut cpu);
    let fold = Refusal::Fold(VcpuSet::one(0));
    for (at, value) in [(0x184, 1 << 16), (0x284, 1 << 16), (0x304, 1 << 16), (0x384, 1 << 16), (0xc0c, 0), (0x6180, 1)]
    {
        assert_eq!(g.dist_write(1, at, B4, value), Err(fold), "{at:#x}");
    }
    for at in [0x204, 0x284, 0x304, 0x384] {
        assert_eq!(g.dist_read(1, at, B4), Err(fold), "{at:#x}");
    }
    assert_eq!(g.dist_write(1, 0, B4, 0), Err(fold), "EnableGrp1 off");
    for (at, value) in [(0x104, u64::MAX), (0x204, 1 << 16), (0x430, 0), (0x184, 1 << 17), (0xc0c, 0xaaaa_aaaa)] {
        assert_eq!(g.dist_write(1, at, B4, value), Ok(()), "{at:#x} only adds, or is about others");
    }
    g.sync(0, &mut cpu);
    assert_eq!(g.dist_write(1, 0x184, B4, 1 << 16), Ok(()));
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), SPURIOUS);
}

#[test]
fn a_vcpu_takes_its_interrupts_along() {
    let (mut g, mut cpu) = loaded(4);
    g.set_spi_level(LEVEL, true);
    g.hw_timer_fired(0);
    cpu.timer_active = true;
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), TIMER_PPI);
    g.put(0, &mut cpu);
    assert!(cpu.lr.iter().all(|lr| *lr == 0) && cpu.hcr == 0);
    assert!(g.timer_active(0));
    assert!(!g.has_deliverable(0), "the level does not preempt the timer's handler");
    let mut other = Cpu::new(4);
    g.load(0, &mut other);
    other.timer_active = g.timer_active(0);
    g.flush(0, &mut other);
    assert_eq!((other.acknowledge(), other.vmcr, other.ap1r), (SPURIOUS, cpu.vmcr, 1 << 16));
    other.end(TIMER_PPI);
    assert!(!other.timer_active);
    assert_eq!(other.acknowledge(), LEVEL);
}

#[test]
fn wfi_wakes_for_what_the_interface_would_signal() {
    let (mut g, mut cpu) = loaded(4);
    assert!(!g.wfi_wakes(0, &mut cpu));
    g.pulse_spi(EDGE);
    assert!(g.wfi_wakes(0, &mut cpu));
    for (vmcr, wakes) in [(0x81 << 24 | 2, true), (0x80 << 24 | 2, false), (0xf8 << 24, false)] {
        g.flush(0, &mut cpu);
        cpu.vmcr = vmcr;
        assert_eq!(g.wfi_wakes(0, &mut cpu), wakes, "{vmcr:#x}");
    }
    cpu.guest_setup(0xf8, false);
    gicd(&mut g, 0, 0);
    assert!(!g.wfi_wakes(0, &mut cpu));
}

#[test]
fn a_timer_that_was_moved_is_taken_back() {
    let (mut g, mut cpu) = loaded(4);
    g.hw_timer_fired(0);
    cpu.timer_active = true;
    g.flush(0, &mut cpu);
    assert!(!g.hw_timer_retracted(0), "not while it runs");
    g.sync(0, &mut cpu);
    assert!(g.hw_timer_retracted(0));
    g.flush(0, &mut cpu);
    assert_eq!((cpu.acknowledge(), cpu.timer_active), (SPURIOUS, false));
    g.sync(0, &mut cpu);
    assert!(!g.hw_timer_retracted(0), "only once");
}

#[test]
fn a_timer_whose_line_went_low_is_taken_out_of_its_list_register() {
    let (mut g, mut cpu) = loaded(4);
    g.sgi1r(0, SGI);
    g.hw_timer_fired(0);
    cpu.timer_active = true;
    g.flush(0, &mut cpu);
    // The guest runs with it pending; any exit may find the line low.
    assert!(g.hw_timer_low(0, &mut cpu) && g.needs_flush(0));
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), 3, "what else is pending stays");
    cpu.end(3);
    assert_eq!((cpu.acknowledge(), cpu.timer_active), (SPURIOUS, false));
    assert!(!g.hw_timer_low(0, &mut cpu), "only once");
    // The next one comes as ever; one that the guest has taken, or has ended, is left alone.
    for end in [false, true] {
        cpu.timer_active = true;
        g.hw_timer_fired(0);
        g.flush(0, &mut cpu);
        assert_eq!(cpu.acknowledge(), TIMER_PPI);
        if end {
            cpu.end(TIMER_PPI);
        }
        assert!(!g.hw_timer_low(0, &mut cpu));
        assert_eq!(cpu.timer_active, !end);
        if !end {
            cpu.end(TIMER_PPI);
        }
    }
}

#[test]
fn a_timer_that_is_pending_by_software_as_well_stays_pending_when_its_line_goes_low() {
    let (mut g, mut cpu) = loaded(4);
    gicr(&mut g, 0, 0x200, 1 << TIMER_PPI);
    g.hw_timer_fired(0);
    cpu.timer_active = true;
    g.flush(0, &mut cpu);
    assert!(g.hw_timer_low(0, &mut cpu));
    g.flush(0, &mut cpu);
    assert!(!cpu.timer_active);
    assert_eq!(cpu.acknowledge(), TIMER_PPI);
    cpu.end(TIMER_PPI);
    assert_eq!(service(&mut g, &mut cpu), SPURIOUS);
}

#[test]
fn a_fired_timer_that_is_disabled_is_asked_about_before_it_shows() {
    let (mut g, mut cpu) = loaded(4);
    gicr(&mut g, 0, 0x180, 1 << TIMER_PPI);
    g.flush(0, &mut cpu);
    g.hw_timer_fired(0);
    cpu.timer_active = true;
    g.flush(0, &mut cpu);
    let pending = |g: &mut Vgic| g.redist_read(1, 0x1_0200, B4).map(|bits| bits & 1 << TIMER_PPI != 0);
    assert_eq!(pending(&mut g), Err(Refusal::Fold(VcpuSet::one(0))));
    g.sync(0, &mut cpu);
    assert_eq!(pending(&mut g), Ok(true), "the line is high");
    assert!(g.hw_timer_low(0, &mut cpu));
    assert_eq!(pending(&mut g), Ok(false));
    gicr(&mut g, 0, 0x100, 1 << TIMER_PPI);
    assert_eq!((service(&mut g, &mut cpu), cpu.timer_active), (SPURIOUS, false));
}

#[test]
fn the_linked_timer_pending_behind_its_own_handler_gives_up_the_link() {
    let (mut g, mut cpu) = loaded(4);
    (cpu.timer_active, cpu.ap1r) = (true, 0);
    g.hw_timer_fired(0);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), TIMER_PPI);
    gicr(&mut g, 0, 0x200, 1 << TIMER_PPI);
    g.flush(0, &mut cpu);
    let active = (1 << 63) | (1 << 60) | (0x80 << 48) | (1 << 41) | 27;
    assert_eq!(cpu.lr[0], active, "EOI maintenance instead of the link");
    cpu.end(TIMER_PPI);
    assert!(cpu.timer_active && cpu.maintenance());
    g.maintenance(0, &mut cpu);
    assert!(!cpu.timer_active, "EL2 deactivates");
    g.flush(0, &mut cpu);
    assert_eq!(service(&mut g, &mut cpu), TIMER_PPI);
}

#[test]
fn clearing_the_timers_active_bit_frees_the_physical_one() {
    let (mut g, mut cpu) = loaded(4);
    cpu.timer_active = true;
    g.hw_timer_fired(0);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), TIMER_PPI);
    g.sync(0, &mut cpu);
    gicr(&mut g, 0, 0x380, 1 << TIMER_PPI);
    assert!(!g.timer_active(0) && g.needs_flush(0));
    g.flush(0, &mut cpu);
    assert!(!cpu.timer_active && cpu.lr[0] >> 62 == 0);
}

#[test]
fn a_timer_that_was_freed_is_free_however_the_vcpu_goes_on() {
    let (mut g, mut cpu) = loaded(4);
    cpu.timer_active = true;
    g.hw_timer_fired(0);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), TIMER_PPI);
    g.sync(0, &mut cpu);
    gicr(&mut g, 0, 0x380, 1 << TIMER_PPI);
    // It blocks before the flush, and keeps its pCPU: nobody else clears the physical active bit.
    g.put(0, &mut cpu);
    assert!(!cpu.timer_active && !g.timer_active(0));
}

#[test]
fn an_edge_behind_an_active_one_waits_for_better_ones_outside() {
    let (mut g, mut cpu) = loaded(2);
    for (n, priority) in [(0, 0xa0), (1, 0x80), (2, 0x90)] {
        g.dist_write(0, 0x400 + u64::from(EDGE) + n, addr::AccessSize::B1, priority).unwrap();
    }
    g.pulse_spi(EDGE);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.acknowledge(), EDGE);
    for n in 0..3 {
        g.pulse_spi(EDGE + n);
    }
    g.flush(0, &mut cpu);
    cpu.end(EDGE);
    assert!(cpu.maintenance());
    g.maintenance(0, &mut cpu);
    g.flush(0, &mut cpu);
    let order: [u32; 3] = core::array::from_fn(|_| service(&mut g, &mut cpu));
    assert_eq!(order, [EDGE + 1, EDGE + 2, EDGE]);
}

#[test]
fn active_by_a_write_is_shown_active() {
    let (mut g, mut cpu) = loaded(4);
    gicd(&mut g, 0x304, 1 << 16);
    g.flush(0, &mut cpu);
    assert_eq!(cpu.lr[0], (1 << 63) | (1 << 60) | (0x80 << 48) | u64::from(EDGE));
}

#[test]
fn folding_tells_nobody_else() {
    let (mut g, mut cpu) = loaded(4);
    g.set_spi_level(LEVEL, true);
    g.flush(0, &mut cpu);
    g.sync(0, &mut cpu);
    assert!(g.needs_flush(0) && g.take_notify().is_empty());
}

#[test]
fn fewer_list_registers_than_configured_are_used_as_they_are() {
    let (mut g, mut cpu) = loaded(4);
    g.put(0, &mut cpu);
    let mut small = Cpu::new(1);
    g.load(0, &mut small);
    for n in 0..3 {
        g.pulse_spi(EDGE + n);
    }
    g.flush(0, &mut small);
    for n in 0..3 {
        assert_eq!(service(&mut g, &mut small), EDGE + n);
    }
}

#[test]
fn a_warm_reset_of_the_pe_forgets_its_interface() {
    let (mut g, mut cpu) = loaded(4);
    g.pulse_spi(EDGE);
    g.put(0, &mut cpu);
    assert!(g.has_deliverable(0));
    g.reset_cpu_interface(0);
    assert!(!g.has_deliverable(0));
    g.load(0, &mut cpu);
    assert_eq!((cpu.vmcr, cpu.ap1r), (0, 0));
}

#[test]
fn an_absent_vcpu_is_nobody() {
    let (mut g, mut cpu) = loaded(1);
    g.sgi1r(7, SGI | (1 << 40));
    g.set_ppi_level(7, 20, true);
    g.hw_timer_fired(7);
    g.load(7, &mut cpu);
    g.flush(7, &mut cpu);
    g.maintenance(7, &mut cpu);
    g.put(7, &mut cpu);
    assert!(!g.has_deliverable(7) && !g.timer_active(7));
}
