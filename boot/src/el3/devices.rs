//! What EL3 alone can do to devices: give the interrupts to the Non-secure side, and drive a pin that ends the machine.
//!
//! Every wait here is bounded: a device that does not answer is the drivers' affair, which say so with words.
//!
//! Arm IHI 0069, "Interrupt grouping" and "Interrupt security" (GICv3); Arm IHI 0048, "Interrupt grouping" (GICv2); Arm DDI 0190
//! (PL061).

/// The physical addresses, as EL3 sees them.
pub trait Bus {
    /// Reads a register.
    fn read(&self, at: u64) -> u32;
    /// Writes one.
    fn write(&self, at: u64, value: u32);
}

/// The most reads of a register that shall change.
const PATIENCE: u32 = 1_000_000;

const GICD_CTLR: u64 = 0x000;
const GICD_TYPER: u64 = 0x004;
const GICD_IGROUPR: u64 = 0x080;
const GICD_IGRPMODR: u64 = 0xd00;
const CTLR_ARE: u32 = 3 << 4;
const CTLR_RWP: u32 = 1 << 31;
const GICR_TYPER: u64 = 0x008;
const GICR_WAKER: u64 = 0x014;
const SGI_FRAME: u64 = 0x1_0000;
const TYPER_VLPIS: u32 = 1 << 1;
const TYPER_LAST: u32 = 1 << 4;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
const GICC_PMR: u64 = 0x004;
const ALL: u32 = u32::MAX;

fn wait(bus: &impl Bus, at: u64, bit: u32) {
    let _ = (0..PATIENCE).find(|_| bus.read(at) & bit == 0);
}

/// Words of [`GICD_IGROUPR`] for shared interrupts.
fn shared_words(bus: &impl Bus, distributor: u64) -> impl Iterator<Item = u64> {
    let lines = bus.read(distributor.wrapping_add(GICD_TYPER)) & 0x1f;
    (1..=u64::from(lines)).map(|word| word.wrapping_mul(4))
}

/// A GICv3's distributor: off, affinity routing for both sides, every shared interrupt Non-secure group 1.
pub fn open_distributor_v3(bus: &impl Bus, at: u64) {
    bus.write(at.wrapping_add(GICD_CTLR), 0);
    wait(bus, at.wrapping_add(GICD_CTLR), CTLR_RWP);
    bus.write(at.wrapping_add(GICD_CTLR), CTLR_ARE);
    wait(bus, at.wrapping_add(GICD_CTLR), CTLR_RWP);
    for word in shared_words(bus, at) {
        bus.write(at.wrapping_add(GICD_IGROUPR).wrapping_add(word), ALL);
        bus.write(at.wrapping_add(GICD_IGRPMODR).wrapping_add(word), 0);
    }
}

/// All redistributors in `size` bytes from `start`: awake, every private interrupt Non-secure group 1.
pub fn open_redistributors(bus: &impl Bus, start: u64, size: u64) {
    let mut offset = 0_u64;
    while offset < size {
        let at = start.wrapping_add(offset);
        let waker = at.wrapping_add(GICR_WAKER);
        bus.write(waker, bus.read(waker) & !WAKER_PROCESSOR_SLEEP);
        wait(bus, waker, WAKER_CHILDREN_ASLEEP);
        let private = at.wrapping_add(SGI_FRAME);
        bus.write(private.wrapping_add(GICD_IGROUPR), ALL);
        bus.write(private.wrapping_add(GICD_IGRPMODR), 0);
        let typer = bus.read(at.wrapping_add(GICR_TYPER));
        if typer & TYPER_LAST != 0 {
            break;
        }
        offset = offset.wrapping_add(if typer & TYPER_VLPIS != 0 { 0x4_0000 } else { 0x2_0000 });
    }
}

/// A GICv2's distributor: every shared interrupt group 1.
pub fn open_distributor_v2(bus: &impl Bus, at: u64) {
    for word in shared_words(bus, at) {
        bus.write(at.wrapping_add(GICD_IGROUPR).wrapping_add(word), ALL);
    }
}

/// What of a GICv2 is this CPU's own: every private interrupt group 1, and a priority mask that the Non-secure side can write
/// (one in the Secure half it could not).
pub fn open_own_v2(bus: &impl Bus, distributor: u64, interface: u64) {
    bus.write(distributor.wrapping_add(GICD_IGROUPR), ALL);
    bus.write(interface.wrapping_add(GICC_PMR), 0xff);
}

/// Drives pin `pin` (0 to 7) of the PL061 at `at` high.
pub fn drive_pin(bus: &impl Bus, at: u64, pin: u64) {
    const DIRECTION: u64 = 0x400;
    let bit = 1_u32.wrapping_shl((pin & 7) as u32);
    let direction = at.wrapping_add(DIRECTION);
    // The address says which pins a write is for. The pin's level is there before it is an output, and once more when it is one.
    let data = at.wrapping_add(u64::from(bit).wrapping_mul(4));
    bus.write(data, bit);
    bus.write(direction, bus.read(direction) | bit);
    bus.write(data, bit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    /// Registers that keep what is written; those of `fixed` do not.
    #[derive(Default)]
    struct Fake {
        fixed: BTreeMap<u64, u32>,
        now: RefCell<BTreeMap<u64, u32>>,
        written: RefCell<Vec<u64>>,
    }

    impl Bus for Fake {
        fn read(&self, at: u64) -> u32 {
            *self.fixed.get(&at).or(self.now.borrow().get(&at)).unwrap_or(&0)
        }
        fn write(&self, at: u64, value: u32) {
            self.written.borrow_mut().push(at);
            self.now.borrow_mut().insert(at, value);
        }
    }

    #[test]
    fn a_gicv3s_shared_interrupts_go_to_group_1() {
        let gic = Fake { fixed: [(0x1004, 3)].into(), ..Fake::default() };
        open_distributor_v3(&gic, 0x1000);
        assert_eq!(gic.read(0x1000), 0x30);
        for word in 1..=3 {
            assert_eq!((gic.read(0x1080 + word * 4), gic.read(0x1d00 + word * 4)), (ALL, 0));
        }
        // The private ones are not the distributor's; nothing lies behind the last.
        assert!([0x1080, 0x1090].iter().all(|at| !gic.written.borrow().contains(at)));
    }

    #[test]
    fn redistributors_are_walked_to_the_last_one() {
        // The second one has two more frames.
        let fixed = [(0x8, 0), (0x2_0008, TYPER_VLPIS), (0x6_0008, TYPER_LAST), (0x8_0008, 0)];
        let gic = Fake { fixed: fixed.into(), ..Fake::default() };
        gic.now.borrow_mut().insert(0x2_0014, 2);
        open_redistributors(&gic, 0, 0x10_0000);
        for base in [0, 0x2_0000, 0x6_0000] {
            assert_eq!((gic.read(base + 0x14), gic.read(base + 0x1_0080), gic.read(base + 0x1_0d00)), (0, ALL, 0));
        }
        assert!(gic.written.borrow().iter().all(|at| *at < 0x8_0000));
    }

    #[test]
    fn a_region_without_a_last_one_ends() {
        let gic = Fake::default();
        open_redistributors(&gic, 0, 0x4_0000);
        assert!(gic.written.borrow().iter().all(|at| *at < 0x4_0000));
        // One that sleeps for ever does not stop the others.
        let asleep = Fake { fixed: [(0x14, 6)].into(), ..Fake::default() };
        open_redistributors(&asleep, 0, 0x4_0000);
        assert_eq!(asleep.read(0x3_0080), ALL);
    }

    #[test]
    fn a_gicv2_has_what_is_each_cpus_own() {
        let gic = Fake { fixed: [(4, 1)].into(), ..Fake::default() };
        open_distributor_v2(&gic, 0);
        assert_eq!(*gic.written.borrow(), [0x84]);
        open_own_v2(&gic, 0, 0x1_0000);
        assert_eq!((gic.read(0x80), gic.read(0x1_0004)), (ALL, 0xff));
    }

    #[test]
    fn a_pin_is_driven_and_no_other() {
        let gpio = Fake::default();
        gpio.now.borrow_mut().insert(0x400, 0x80);
        drive_pin(&gpio, 0, 1);
        assert_eq!((gpio.read(0x400), gpio.read(2 << 2)), (0x82, 2));
        assert_eq!(*gpio.written.borrow(), [8, 0x400, 8]);
    }
}
