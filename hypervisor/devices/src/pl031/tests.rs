use proptest::prelude::*;

use super::*;
use crate::fakes::{FakeClock, FakeIrq};

const NOW: u64 = 1_700_000_000;

fn rtc() -> (Pl031<FakeIrq, FakeClock>, FakeIrq, FakeClock) {
    let (irq, clock) = (FakeIrq::default(), FakeClock::at(NOW));
    (Pl031::new(irq.clone(), clock.clone()), irq, clock)
}

fn get(rtc: &mut Pl031<FakeIrq, FakeClock>, at: Offset) -> u64 {
    rtc.read(at, AccessSize::B4).unwrap()
}

fn put(rtc: &mut Pl031<FakeIrq, FakeClock>, at: Offset, value: u64) {
    rtc.write(at, AccessSize::B4, value).unwrap();
}

#[test]
fn registers_after_reset() {
    let (mut rtc, ..) = rtc();
    for (at, value) in [(DR, NOW), (MR, 0), (LR, 0), (CR, 1), (IMSC, 0), (RIS, 0), (MIS, 0), (ICR, 0)] {
        assert_eq!(get(&mut rtc, at), value, "{at:#x}");
    }
    let ids: [u64; 8] = core::array::from_fn(|i| get(&mut rtc, 0xfe0 + 4 * i as u64));
    assert_eq!(ids, [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn the_counter_follows_the_wall_clock_from_the_loaded_value() {
    let (mut rtc, _, clock) = rtc();
    clock.set(NOW + 5);
    assert_eq!(get(&mut rtc, DR), NOW + 5);
    put(&mut rtc, LR, 100);
    assert_eq!((get(&mut rtc, DR), get(&mut rtc, LR)), (100, 100));
    clock.set(NOW + 15);
    assert_eq!((get(&mut rtc, DR), get(&mut rtc, LR)), (110, 100));
    put(&mut rtc, LR, 0xffff_ffff);
    clock.set(NOW + 16);
    assert_eq!(get(&mut rtc, DR), 0);
}

#[test]
fn the_alarm_goes_off_at_its_second_and_once() {
    let (mut rtc, irq, clock) = rtc();
    put(&mut rtc, MR, NOW + 10);
    assert_eq!(rtc.next_alarm(), None);
    put(&mut rtc, IMSC, 1);
    assert_eq!(rtc.next_alarm(), Some(NOW + 10));
    clock.set(NOW + 9);
    rtc.poll();
    assert!(!irq.is_high());
    clock.set(NOW + 10);
    rtc.poll();
    assert!(irq.is_high());
    assert_eq!((get(&mut rtc, RIS), get(&mut rtc, MIS), rtc.next_alarm()), (1, 1, None));
    put(&mut rtc, ICR, 1);
    rtc.poll();
    assert!(!irq.is_high());
    assert_eq!(rtc.next_alarm(), Some(NOW + 10 + (1 << 32)));
}

#[test]
fn a_masked_alarm_shows_in_ris_only() {
    let (mut rtc, irq, clock) = rtc();
    put(&mut rtc, MR, NOW + 1);
    clock.set(NOW + 3);
    assert_eq!((get(&mut rtc, RIS), get(&mut rtc, MIS), irq.is_high()), (1, 0, false));
    put(&mut rtc, IMSC, 1);
    assert!(irq.is_high());
    put(&mut rtc, IMSC, 0);
    assert!(!irq.is_high());
}

#[test]
fn a_match_with_the_present_second_goes_off_at_once() {
    let (mut rtc, irq, _) = rtc();
    put(&mut rtc, IMSC, 1);
    put(&mut rtc, MR, NOW);
    assert!(irq.is_high());
}

#[test]
fn loading_the_counter_moves_the_alarm() {
    let (mut rtc, irq, clock) = rtc();
    put(&mut rtc, IMSC, 1);
    put(&mut rtc, MR, NOW + 1000);
    put(&mut rtc, LR, NOW + 990);
    assert_eq!(rtc.next_alarm(), Some(NOW + 10));
    clock.set(NOW + 10);
    rtc.poll();
    assert!(irq.is_high());
}

#[test]
fn a_board_without_a_clock_has_no_alarm_at_second_0() {
    let (irq, clock) = (FakeIrq::default(), FakeClock::at(0));
    let mut rtc = Pl031::new(irq, clock);
    assert_eq!(get(&mut rtc, RIS), 0);
    rtc.reset();
    assert_eq!(get(&mut rtc, RIS), 0);
}

#[test]
fn a_reset_goes_back_to_the_wall_clock() {
    let (mut rtc, irq, _) = rtc();
    let fresh = rtc.save();
    put(&mut rtc, LR, 5);
    put(&mut rtc, IMSC, 1);
    put(&mut rtc, MR, 5);
    assert!(irq.is_high());
    rtc.reset();
    assert!(!irq.is_high());
    assert_eq!(rtc.save(), fresh);
}

#[test]
fn an_alarm_that_passed_between_save_and_restore_goes_off() {
    let (mut first, ..) = rtc();
    put(&mut first, IMSC, 1);
    put(&mut first, MR, NOW + 10);
    let (mut second, irq, clock) = rtc();
    clock.set(NOW + 20);
    second.restore(first.save()).unwrap();
    assert!(irq.is_high());
    assert_eq!(get(&mut second, DR), NOW + 20);
    let forged = State { version: 9, ..first.save() };
    assert_eq!(second.restore(forged), Err(RestoreError::Version(9)));
    let forged = State { ris: 2, ..first.save() };
    assert_eq!(second.restore(forged), Err(RestoreError::OutOfRange("RTCRIS")));
}

proptest! {
    #[test]
    fn every_access_is_answered_and_the_wire_follows_mis(
        steps in prop::collection::vec((0u64..0x1010, 0u8..4, any::<u64>(), any::<bool>(), 0u64..20), 100),
        registers_only in any::<bool>(),
    ) {
        let (mut rtc, irq, clock) = rtc();
        let mut now = NOW;
        for (at, sas, value, store, passed) in steps {
            let at = if registers_only { at & 0x1c } else { at };
            // Values near the present, so that alarms go off.
            let value = if value & 1 == 0 { now + (value & 15) } else { value };
            now += passed;
            clock.set(now);
            let size = AccessSize::from_sas(sas);
            if store {
                let _ = rtc.write(at, size, value);
            } else if let Ok(value) = rtc.read(at, size) {
                prop_assert_eq!(value & !size.mask(), 0);
            }
            let (ris, imsc, mis) = (get(&mut rtc, RIS), get(&mut rtc, IMSC), get(&mut rtc, MIS));
            prop_assert_eq!(mis, ris & imsc);
            prop_assert_eq!(irq.is_high(), mis != 0);
            prop_assert!(rtc.next_alarm().is_none_or(|at| at > now));
            let mut twin = Pl031::new(FakeIrq::default(), clock.clone());
            twin.restore(rtc.save()).unwrap();
            prop_assert_eq!(twin.save(), rtc.save());
        }
    }
}
