extern crate std;

use addr::Span;
use proptest::prelude::*;
use std::{format, vec::Vec};

use super::*;

fn span(start: u64, size: u64) -> Span<Ipa> {
    Span::new(Ipa::new(start), size).unwrap()
}

fn virt() -> Bus<&'static str> {
    let mut bus = Bus::new();
    bus.insert(span(0x0a00_0000, 0x200), "virtio").unwrap();
    bus.insert(span(0x0900_0000, 0x1000), "uart").unwrap();
    bus.insert(span(0x0901_0000, 0x1000), "rtc").unwrap();
    bus
}

#[test]
fn an_access_reaches_the_device_at_its_offset() {
    let bus = virt();
    assert_eq!(bus.find(Ipa::new(0x0900_0018), AccessSize::B4), Some((&"uart", 0x18)));
    assert_eq!(bus.find(Ipa::new(0x0901_0ffc), AccessSize::B4), Some((&"rtc", 0xffc)));
    assert_eq!(bus.find(Ipa::new(0x0a00_01ff), AccessSize::B1), Some((&"virtio", 0x1ff)));
}

#[test]
fn an_access_beside_a_window_or_across_its_end_finds_nothing() {
    let bus = virt();
    for (ipa, size) in [
        (0, AccessSize::B8),
        (0x08ff_ffff, AccessSize::B1),
        (0x08ff_fffc, AccessSize::B8),
        (0x0900_0ffd, AccessSize::B4),
        (0x0900_1000, AccessSize::B1),
        (0x0a00_01fc, AccessSize::B8),
        (u64::MAX, AccessSize::B8),
    ] {
        assert_eq!(bus.find(Ipa::new(ipa), size), None, "{ipa:#x} {size:?}");
    }
}

#[test]
fn adjacent_windows_do_not_share_an_access() {
    let mut bus = Bus::new();
    bus.insert(span(0x1000, 0x10), 1).unwrap();
    bus.insert(span(0x1010, 0x10), 2).unwrap();
    assert_eq!(bus.find(Ipa::new(0x100c), AccessSize::B8), None);
    assert_eq!(bus.find(Ipa::new(0x1010), AccessSize::B8), Some((&2, 0)));
}

#[test]
fn windows_with_a_common_byte_or_none_at_all_are_refused() {
    let mut bus = virt();
    assert_eq!(bus.insert(span(0x0900_0fff, 1), "x"), Err(BusError::Overlap(span(0x0900_0000, 0x1000))));
    assert_eq!(bus.insert(span(0x08ff_ffff, 2), "x"), Err(BusError::Overlap(span(0x0900_0000, 0x1000))));
    assert_eq!(bus.insert(span(0, u64::MAX), "x"), Err(BusError::Overlap(span(0x0900_0000, 0x1000))));
    assert_eq!(bus.insert(span(0x0900_1000, 0), "x"), Err(BusError::Empty));
    assert_eq!(bus.len(), 3);
    bus.insert(span(0x0900_1000, 0xf000), "between").unwrap();
    let starts: Vec<u64> = bus.iter().map(|(s, _)| s.start().as_u64()).collect();
    assert_eq!(starts, [0x0900_0000, 0x0900_1000, 0x0901_0000, 0x0a00_0000]);
}

#[test]
fn a_window_may_reach_the_end_of_the_address_space() {
    let mut bus = Bus::new();
    bus.insert(span(u64::MAX - 7, 7), ()).unwrap();
    assert!(bus.find(Ipa::new(u64::MAX - 7), AccessSize::B4).is_some());
    assert!(bus.find(Ipa::new(u64::MAX - 7), AccessSize::B8).is_none());
}

#[test]
fn refusals_follow_the_table_and_are_counted() {
    let bus = virt();
    assert_eq!(bus.complete_read(Ok(0xff)), Completion::Done(0xff));
    assert_eq!(bus.complete_write(Ok(())), Completion::Done(0));
    for (error, seen) in [
        (AccessError::NoRegister, Completion::Done(0)),
        (AccessError::BadSize, Completion::Done(0)),
        (AccessError::Unaligned, Completion::ExternalAbort),
        (AccessError::Again, Completion::Again),
    ] {
        assert_eq!(bus.refusals().refused(error), 0);
        assert_eq!(bus.complete_read(Err(error)), seen);
        assert_eq!(bus.complete_write(Err(error)), seen);
        assert_eq!(bus.refusals().refused(error), 2);
    }
    assert_eq!(bus.complete_nowhere(), Completion::ExternalAbort);
    assert_eq!(bus.refusals().no_device(), 1);
}

#[test]
fn errors_say_what_is_in_the_way() {
    let text = format!("{}", BusError::Overlap(span(0x1000, 0x1000)));
    assert!(text.contains("0x1000..0x2000"), "{text}");
}

proptest! {
    /// The bus agrees with a plain list that is searched from front to back.
    #[test]
    fn the_lookup_agrees_with_a_list(
        windows in prop::collection::vec((0u64..400, 0u64..60), 0..24),
        probes in prop::collection::vec((0u64..500, 0u8..4), 40),
    ) {
        let mut bus = Bus::new();
        let mut list: Vec<(Span<Ipa>, usize)> = Vec::new();
        for (i, (start, size)) in windows.into_iter().enumerate() {
            let window = span(start, size);
            let fits = size != 0 && !list.iter().any(|(w, _)| w.overlaps(&window));
            prop_assert_eq!(bus.insert(window, i).is_ok(), fits);
            if fits {
                list.push((window, i));
            }
        }
        let mut hint = usize::MAX;
        for (at, sas) in probes {
            let (ipa, size) = (Ipa::new(at), AccessSize::from_sas(sas));
            let expected = list
                .iter()
                .find(|(w, _)| w.contains(ipa) && w.contains_range(ipa, size.bytes()))
                .map(|(w, d)| (*d, at - w.start().as_u64()));
            prop_assert_eq!(bus.find(ipa, size).map(|(d, o)| (*d, o)), expected);
            prop_assert_eq!(bus.find_near(&mut hint, ipa, size).map(|(d, o)| (*d, o)), expected);
        }
    }
}
