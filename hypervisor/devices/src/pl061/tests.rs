use proptest::prelude::*;

use super::*;
use crate::fakes::FakeIrq;

const KEY: u32 = 3;

fn gpio() -> (Pl061<FakeIrq>, FakeIrq) {
    let irq = FakeIrq::default();
    (Pl061::new(irq.clone()), irq)
}

fn get(gpio: &mut Pl061<FakeIrq>, at: Offset) -> u64 {
    gpio.read(at, AccessSize::B4).unwrap()
}

fn put(gpio: &mut Pl061<FakeIrq>, at: Offset, value: u64) {
    gpio.write(at, AccessSize::B4, value).unwrap();
}

#[test]
fn registers_after_reset() {
    let (mut gpio, irq) = gpio();
    for at in [DATA, DATA_END, DIR, IS, IBE, IEV, IE, RIS, MIS, IC, AFSEL] {
        assert_eq!(get(&mut gpio, at), 0, "{at:#x}");
    }
    let ids: [u64; 8] = core::array::from_fn(|i| get(&mut gpio, 0xfe0 + 4 * i as u64));
    assert_eq!(ids, [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    for no in [0x424, 0x600, 0xfdc, 0x1000] {
        assert_eq!(gpio.read(no, AccessSize::B4), Err(AccessError::NoRegister), "{no:#x}");
        assert_eq!(gpio.write(no, AccessSize::B4, 1), Err(AccessError::NoRegister), "{no:#x}");
    }
    // The same by bytes, as Linux' driver does it.
    assert_eq!(gpio.read(0xfe0, AccessSize::B1), Ok(0x61));
    assert!(!irq.is_high());
}

#[test]
fn data_is_masked_by_its_address() {
    let (mut gpio, _) = gpio();
    put(&mut gpio, DIR, 0xf0);
    put(&mut gpio, DATA_END, 0xa5);
    assert_eq!(get(&mut gpio, DATA_END), 0xa0, "outputs show what was written, inputs what is there");
    put(&mut gpio, 0x30 << 2, 0x10);
    assert_eq!((get(&mut gpio, DATA_END), get(&mut gpio, 0x30 << 2), get(&mut gpio, 0x80 << 2)), (0x90, 0x10, 0x80));
    put(&mut gpio, DATA, 0xff);
    assert_eq!(get(&mut gpio, DATA_END), 0x90, "the word of no lines");
    gpio.press(KEY);
    assert_eq!((get(&mut gpio, 8 << 2), get(&mut gpio, DATA_END), get(&mut gpio, DATA)), (8, 0x98, 0));
    // What was written to an input is remembered for when it becomes an output.
    put(&mut gpio, DIR, 0x07);
    assert_eq!(get(&mut gpio, DATA_END), 0x0d);
}

/// Sense, both edges, event, then what a press, a release and a clear leave in `RIS`.
#[test]
fn each_kind_of_interrupt_comes_as_the_table_says() {
    let table = [
        // (IS, IBE, IEV), before, pressed, pressed and cleared, released, released and cleared
        ((1, 0, 0), [1, 0, 0, 1, 1]),
        ((1, 1, 0), [1, 0, 0, 1, 1]),
        ((1, 0, 1), [0, 1, 1, 0, 0]),
        ((0, 0, 0), [0, 0, 0, 1, 0]),
        ((0, 0, 1), [0, 1, 0, 0, 0]),
        ((0, 1, 0), [0, 1, 0, 1, 0]),
        ((0, 1, 1), [0, 1, 0, 1, 0]),
    ];
    for ((is, ibe, iev), want) in table {
        for masked in [false, true] {
            let (mut gpio, irq) = gpio();
            for (at, value) in [(IS, is), (IBE, ibe), (IEV, iev), (IE, u64::from(!masked))] {
                put(&mut gpio, at, value << KEY);
            }
            let ris = |gpio: &mut Pl061<FakeIrq>| {
                let (ris, mis) = (get(gpio, RIS), get(gpio, MIS));
                // Lines that nobody touches have edges configured, and none comes.
                assert_eq!(ris & !8, 0);
                assert_eq!((mis, irq.is_high()), if masked { (0, false) } else { (ris, ris != 0) });
                ris >> KEY
            };
            let mut got = [ris(&mut gpio), 0, 0, 0, 0];
            gpio.press(KEY);
            got[1] = ris(&mut gpio);
            put(&mut gpio, IC, 8);
            got[2] = ris(&mut gpio);
            gpio.release(KEY);
            got[3] = ris(&mut gpio);
            put(&mut gpio, IC, 8);
            got[4] = ris(&mut gpio);
            assert_eq!(got, want, "{is} {ibe} {iev}");
            assert!(irq.changes() <= 4);
        }
    }
}

#[test]
fn a_masked_edge_comes_when_it_is_unmasked_and_a_second_press_is_none() {
    let (mut gpio, irq) = gpio();
    put(&mut gpio, IEV, 8);
    gpio.press(KEY);
    gpio.press(KEY);
    put(&mut gpio, IE, 8);
    assert!(irq.is_high());
    put(&mut gpio, IC, !8);
    assert!(irq.is_high(), "another line's bits");
    put(&mut gpio, IC, 8);
    gpio.press(KEY);
    assert!(!irq.is_high(), "it is held already");
}

#[test]
fn outputs_make_no_edges_but_have_levels() {
    let (mut gpio, irq) = gpio();
    for (at, value) in [(DIR, 8), (IBE, 8), (IE, 8)] {
        put(&mut gpio, at, value);
    }
    put(&mut gpio, DATA_END, 8);
    gpio.press(KEY);
    assert!(!irq.is_high());
    put(&mut gpio, IS, 8);
    put(&mut gpio, IEV, 8);
    assert!(irq.is_high());
    put(&mut gpio, DATA_END, 0);
    assert!(!irq.is_high(), "the line is the guest's own, whatever is pressed");
}

#[test]
fn lines_that_do_not_exist_are_ignored() {
    let (mut gpio, _) = gpio();
    put(&mut gpio, IBE, 0xff);
    for line in [LINES, 31, 32, 255, u32::MAX] {
        gpio.press(line);
        gpio.release(line);
    }
    assert_eq!((get(&mut gpio, DATA_END), get(&mut gpio, RIS)), (0, 0));
}

#[test]
fn a_reset_lets_go_and_a_forged_state_is_refused() {
    let (mut gpio, irq) = gpio();
    let fresh = gpio.save();
    for at in [DATA_END, IEV, IE, AFSEL] {
        put(&mut gpio, at, 0xff);
    }
    gpio.press(KEY);
    let held = gpio.save();
    assert!(irq.is_high());
    gpio.reset();
    assert_eq!(gpio.save(), fresh);
    assert!(!irq.is_high());
    assert_eq!(gpio.restore(State { version: 7, ..held.clone() }), Err(RestoreError::Version(7)));
    assert_eq!(gpio.restore(State { is: 8, ..held.clone() }), Err(RestoreError::OutOfRange("GPIORIS")));
    assert_eq!(gpio.save(), fresh);
    gpio.restore(held).unwrap();
    assert!(irq.is_high());
    gpio.release(KEY);
    assert!(irq.is_high(), "a rising edge stays until it is cleared");
}

proptest! {
    /// Against the manual's rules, line by line, over a history of levels.
    #[test]
    fn every_access_is_answered_and_the_wire_follows_mis(
        steps in prop::collection::vec((0u64..0x1010, 0u8..4, any::<u64>(), 0u8..4, 0u32..9), 100),
        registers_only in any::<bool>(),
    ) {
        let (mut gpio, irq) = gpio();
        for (at, sas, value, what, line) in steps {
            let at = if registers_only { DIR + (at & 0x3c) } else { at };
            let size = AccessSize::from_sas(sas);
            let before = gpio.save();
            match what {
                0 => {
                    if let Ok(value) = gpio.read(at, size) {
                        prop_assert_eq!(value & !0xff, 0);
                    }
                    prop_assert_eq!(gpio.save(), before);
                }
                1 => {
                    let _ = gpio.write(at, size, value);
                }
                2 => gpio.press(line),
                _ => gpio.release(line),
            }
            let levels = get(&mut gpio, DATA_END);
            let [is, iev, ie, ris, mis] = [IS, IEV, IE, RIS, MIS].map(|at| get(&mut gpio, at));
            for line in (0..LINES).map(|line| 1 << line) {
                if is & line != 0 {
                    prop_assert_eq!(ris & line != 0, (levels ^ iev) & line == 0);
                }
            }
            prop_assert_eq!(mis, ris & ie);
            prop_assert_eq!(irq.is_high(), mis != 0);
            let mut twin = Pl061::new(FakeIrq::default());
            twin.restore(gpio.save()).unwrap();
            prop_assert_eq!(twin.save(), gpio.save());
        }
    }
}
