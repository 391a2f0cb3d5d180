extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::fifo::Fifo;
use super::*;
use crate::fakes::{FakeIrq, FakeSink};

type Uart = Pl011<FakeIrq, FakeSink>;

fn uart(room: usize) -> (Uart, FakeIrq, FakeSink) {
    let (irq, sink) = (FakeIrq::default(), FakeSink::with_room(room));
    (Pl011::new(irq.clone(), sink.clone()), irq, sink)
}

fn get(uart: &mut Uart, at: Offset) -> u16 {
    uart.read(at, AccessSize::B4).unwrap() as u16
}

fn put(uart: &mut Uart, at: Offset, value: u16) {
    uart.write(at, AccessSize::B4, u64::from(value)).unwrap();
}

/// As an operating system's driver leaves it: on, with FIFOs, RX and RT unmasked.
fn started(room: usize) -> (Uart, FakeIrq, FakeSink) {
    let (mut uart, irq, sink) = uart(room);
    put(&mut uart, LCR_H, 0x70);
    put(&mut uart, CR, CR_TXE | CR_RXE | 1);
    put(&mut uart, IMSC, INT_RX | INT_RT);
    (uart, irq, sink)
}

#[test]
fn registers_after_reset() {
    // Arm DDI 0183, "Summary of registers"; the flags with idle FIFOs.
    let table = [
        (DR, 0),
        (RSR_ECR, 0),
        (FR, 0x90),
        (ILPR, 0),
        (IBRD, 0),
        (FBRD, 0),
        (LCR_H, 0),
        (CR, 0x300),
        (IFLS, 0x12),
        (IMSC, 0),
        (RIS, 0),
        (MIS, 0),
        (ICR, 0),
        (DMACR, 0),
    ];
    let (mut uart, ..) = uart(1);
    for (at, value) in table {
        assert_eq!(get(&mut uart, at), value, "{at:#x}");
    }
    let ids: [u16; 8] = core::array::from_fn(|i| get(&mut uart, 0xfe0 + 4 * i as u64));
    assert_eq!(ids, [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn registers_hold_the_bits_there_are() {
    let table = [
        (ILPR, 0xff),
        (IBRD, 0xffff),
        (FBRD, 0x3f),
        (LCR_H, 0xff),
        (CR, 0xff87),
        (IFLS, 0x3f),
        (IMSC, 0x7ff),
        (DMACR, 0x7),
        (RIS, 0),
        (MIS, 0),
    ];
    for (at, bits) in table {
        let (mut uart, ..) = uart(1);
        put(&mut uart, at, 0xffff);
        let expected = if at == RIS || at == MIS { 0 } else { bits };
        assert_eq!(get(&mut uart, at), expected, "{at:#x}");
        put(&mut uart, at, 0);
        assert_eq!(get(&mut uart, at), 0, "{at:#x}");
    }
}

#[test]
fn every_offset_is_a_register_or_none() {
    let (mut uart, ..) = uart(usize::MAX);
    let registers: Vec<u64> = [DR, RSR_ECR, FR, ILPR, IBRD, FBRD, LCR_H, CR, IFLS, IMSC, RIS, MIS, ICR, DMACR]
        .into_iter()
        .chain((0xfe0..0x1000).step_by(4))
        .collect();
    for at in (0..0x1004).step_by(if cfg!(miri) { 13 } else { 1 }) {
        for size in [AccessSize::B1, AccessSize::B2, AccessSize::B4, AccessSize::B8] {
            let expected = if at % size.bytes() != 0 {
                Err(AccessError::Unaligned)
            } else if size == AccessSize::B8 {
                Err(AccessError::BadSize)
            } else if registers.contains(&at) {
                Ok(())
            } else {
                Err(AccessError::NoRegister)
            };
            assert_eq!(uart.read(at, size).map(|_| ()), expected, "load {at:#x} {size:?}");
            assert_eq!(uart.write(at, size, 0), expected, "store {at:#x} {size:?}");
        }
    }
}

#[test]
fn bytes_and_halfwords_act_on_the_low_bits() {
    let (mut uart, ..) = uart(1);
    uart.write(IBRD, AccessSize::B2, 0xdead_1234).unwrap();
    assert_eq!(get(&mut uart, IBRD), 0x1234);
    assert_eq!(uart.read(IBRD, AccessSize::B1), Ok(0x34));
    assert_eq!(uart.read(IBRD, AccessSize::B2), Ok(0x1234));
    uart.write(IBRD, AccessSize::B1, 0xffff).unwrap();
    assert_eq!(get(&mut uart, IBRD), 0xff);
}

#[test]
fn a_character_goes_out_at_once_whether_or_not_the_uart_is_on() {
    let (mut uart, irq, sink) = uart(10);
    put(&mut uart, CR, 0);
    put(&mut uart, DR, u16::from(b'a'));
    assert_eq!(sink.bytes(), b"a");
    assert_eq!(get(&mut uart, FR), FR_TXFE | FR_RXFE);
    assert_eq!(get(&mut uart, RIS), INT_TX);
    assert!(!irq.is_high());
    put(&mut uart, IMSC, INT_TX);
    assert!(irq.is_high());
    put(&mut uart, ICR, INT_TX);
    assert!(!irq.is_high());
    put(&mut uart, DR, u16::from(b'b'));
    assert!(irq.is_high());
}

#[test]
fn a_full_sink_fills_the_fifo_then_txff_and_loses_nothing_after_that() {
    let (mut uart, irq, sink) = started(2);
    put(&mut uart, IMSC, INT_TX);
    for byte in 0..34 {
        assert_eq!(get(&mut uart, FR) & FR_TXFF, 0, "{byte}");
        put(&mut uart, DR, byte);
    }
    assert_eq!(get(&mut uart, FR) & (FR_TXFF | FR_TXFE | FR_BUSY), FR_TXFF | FR_BUSY);
    assert!(!irq.is_high(), "TX is held while the FIFO is above its level");
    put(&mut uart, DR, 99);
    assert_eq!(uart.stats(), Stats { sent: 2, received: 0, lost: 1, held: 32 });

    sink.drain(15);
    uart.sink_drained();
    assert!(!irq.is_high(), "17 of 32 is above one half");
    assert_eq!(get(&mut uart, FR) & FR_TXFF, 0);
    sink.drain(1);
    uart.sink_drained();
    assert!(irq.is_high(), "16 of 32 is one half");
    sink.drain(100);
    uart.sink_drained();
    assert_eq!(sink.bytes(), (0..34).collect::<Vec<u8>>());
    assert_eq!(get(&mut uart, FR), FR_TXFE | FR_RXFE);
    assert!(!uart.tx_waiting());
}

#[test]
fn a_write_never_overtakes_what_waits_in_the_fifo() {
    let (mut uart, _, sink) = started(0);
    put(&mut uart, DR, 1);
    put(&mut uart, DR, 2);
    // Room that the device has not been told of.
    sink.drain(10);
    put(&mut uart, DR, 3);
    assert_eq!(sink.bytes(), [1, 2, 3]);
    assert!(!uart.tx_waiting());
}

#[test]
fn transmit_levels_follow_ifls() {
    for (field, level) in [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28), (7, 28)] {
        let (mut uart, ..) = started(0);
        put(&mut uart, IFLS, field);
        for n in 1..=32 {
            put(&mut uart, DR, 0);
            let raised = get(&mut uart, RIS) & INT_TX != 0;
            assert_eq!(raised, n <= level, "IFLS {field}, {n} characters");
        }
    }
}

#[test]
fn without_fifos_one_character_is_held_and_tx_means_empty() {
    let (mut uart, irq, sink) = uart(0);
    put(&mut uart, IMSC, INT_TX);
    put(&mut uart, DR, 1);
    assert_eq!(get(&mut uart, FR) & FR_TXFF, FR_TXFF);
    assert!(!irq.is_high());
    sink.drain(1);
    uart.sink_drained();
    assert!(irq.is_high());
    assert_eq!(get(&mut uart, FR) & FR_TXFF, 0);
}

#[test]
fn switching_the_fifos_off_keeps_what_waits_to_go_out_and_drops_what_came_in() {
    let (mut uart, irq, sink) = started(0);
    for byte in 0..5 {
        put(&mut uart, DR, byte);
    }
    assert_eq!(uart.receive(b"xyz"), 3);
    assert!(irq.is_high());
    put(&mut uart, LCR_H, 0x60);
    assert!(!irq.is_high());
    assert_eq!(get(&mut uart, FR), FR_TXFF | FR_BUSY | FR_RXFE);
    sink.drain(9);
    uart.sink_drained();
    assert_eq!(sink.bytes(), [0, 1, 2, 3, 4]);
}

#[test]
fn input_raises_rx_and_timeout_and_reading_it_clears_them() {
    let (mut uart, irq, _) = started(0);
    assert_eq!(uart.receive(b"ab"), 2);
    assert_eq!(get(&mut uart, MIS), INT_RX | INT_RT);
    assert_eq!(get(&mut uart, FR) & (FR_RXFE | FR_RXFF), 0);
    assert_eq!(get(&mut uart, DR), u16::from(b'a'));
    assert!(irq.is_high());
    assert_eq!(get(&mut uart, DR), u16::from(b'b'));
    assert!(!irq.is_high());
    assert_eq!((get(&mut uart, RIS), get(&mut uart, FR) & FR_RXFE), (0, FR_RXFE));
    assert_eq!(get(&mut uart, DR), 0, "an empty FIFO");
}

#[test]
fn with_the_manual_s_trigger_rx_waits_for_its_level() {
    for (field, level) in [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28)] {
        let irq = FakeIrq::default();
        let mut uart = Pl011::with_rx_trigger(irq.clone(), FakeSink::with_room(0), RxTrigger::Programmed);
        put(&mut uart, LCR_H, LCR_FEN);
        put(&mut uart, IFLS, field << 3);
        for n in 1..=level {
            assert_eq!(uart.receive(b"x"), 1);
            let expected = if n < level { INT_RT } else { INT_RT | INT_RX };
            assert_eq!(get(&mut uart, RIS), expected, "IFLS {field}, {n} characters");
        }
        get(&mut uart, DR);
        assert_eq!(get(&mut uart, RIS), INT_RT, "below the level again");
    }
}

#[test]
fn the_receive_fifo_takes_32_or_1_and_the_rest_stays_with_the_caller() {
    let (mut uart, ..) = started(0);
    let input: Vec<u8> = (0..40).collect();
    assert_eq!(uart.receive(&input), 32);
    assert_eq!((uart.receive(&input), uart.rx_room()), (0, 0));
    assert_eq!(get(&mut uart, FR) & FR_RXFF, FR_RXFF);
    assert_eq!(get(&mut uart, DR), 0);
    assert_eq!(uart.receive(&input[32..]), 1);
    put(&mut uart, LCR_H, 0);
    assert_eq!(uart.receive(&input), 1);
    assert_eq!(get(&mut uart, FR) & FR_RXFF, FR_RXFF);
    assert_eq!(get(&mut uart, RIS) & INT_OE, 0, "held back is no overrun");
}

#[test]
fn input_is_held_back_while_the_receiver_is_off_or_in_loopback() {
    let (mut uart, ..) = started(0);
    for cr in [CR_TXE | 1, CR_TXE | CR_RXE | CR_LBE | 1] {
        put(&mut uart, CR, cr);
        assert_eq!((uart.receive(b"x"), uart.receive_break()), (0, false));
    }
    put(&mut uart, CR, CR_RXE);
    assert_eq!(uart.receive(b"x"), 1);
}

#[test]
fn a_break_is_a_zero_with_its_error_bit_until_it_is_read() {
    let (mut uart, irq, _) = started(0);
    put(&mut uart, IMSC, INT_BE);
    assert!(uart.receive_break());
    assert!(irq.is_high());
    assert_eq!(uart.receive(b"h"), 1);
    assert_eq!(get(&mut uart, RSR_ECR), 0, "nothing has been read yet");
    assert_eq!(get(&mut uart, DR), DR_BE);
    assert_eq!(get(&mut uart, RSR_ECR), DR_BE >> 8);
    assert_eq!(get(&mut uart, DR), u16::from(b'h'));
    assert_eq!(get(&mut uart, RSR_ECR), 0);
    put(&mut uart, ICR, INT_BE);
    assert!(!irq.is_high());
}

#[test]
fn loopback_returns_characters_and_counts_overruns() {
    let (mut uart, _, sink) = started(9);
    put(&mut uart, CR, CR_TXE | CR_RXE | CR_LBE | 1);
    for byte in 0..33 {
        put(&mut uart, DR, byte);
    }
    assert_eq!(sink.bytes(), []);
    assert_eq!(get(&mut uart, RIS) & INT_OE, INT_OE);
    assert_eq!(get(&mut uart, RSR_ECR), RSR_OE);
    assert_eq!(get(&mut uart, DR), DR_OE, "the lost character shows until another is taken in");
    put(&mut uart, DR, 77);
    assert_eq!(get(&mut uart, DR), 1);
    assert_eq!(get(&mut uart, RSR_ECR), RSR_OE, "stays until it is cleared");
    put(&mut uart, RSR_ECR, 0);
    assert_eq!(get(&mut uart, RSR_ECR), 0);
    let rest: Vec<u16> = (0..31).map(|_| get(&mut uart, DR)).collect();
    assert_eq!((rest[0], rest[29], rest[30]), (2, 31, 77));
}

#[test]
fn loopback_connects_the_modem_lines_and_a_break() {
    let (mut uart, ..) = started(0);
    let all = CR_RTS | CR_DTR | CR_OUT1 | CR_OUT2;
    put(&mut uart, CR, all | CR_RXE);
    assert_eq!((get(&mut uart, FR) & 0x107, get(&mut uart, RIS) & 0xf), (0, 0));
    for (out, flag, interrupt) in
        [(CR_RTS, FR_CTS, INT_CTS), (CR_DTR, FR_DSR, INT_DSR), (CR_OUT1, FR_DCD, INT_DCD), (CR_OUT2, FR_RI, INT_RI)]
    {
        put(&mut uart, CR, CR_LBE | CR_RXE);
        put(&mut uart, ICR, INT_MASK);
        put(&mut uart, CR, CR_LBE | CR_RXE | out);
        assert_eq!((get(&mut uart, FR) & 0x107, get(&mut uart, RIS)), (flag, interrupt));
    }
    put(&mut uart, LCR_H, 0x70 | LCR_BRK);
    assert_eq!(get(&mut uart, DR), DR_BE);
}

#[test]
fn a_reset_leaves_only_what_was_already_written() {
    let (mut uart, irq, sink) = started(0);
    put(&mut uart, DR, 5);
    uart.receive(b"x");
    assert!(irq.is_high());
    uart.reset();
    assert!(!irq.is_high());
    assert_eq!((get(&mut uart, CR), get(&mut uart, RIS), get(&mut uart, FR)), (0x300, 0, FR_TXFF | FR_BUSY | FR_RXFE));
    sink.drain(1);
    uart.sink_drained();
    assert_eq!(sink.bytes(), [5]);
    put(&mut uart, ICR, INT_MASK);
    assert_eq!(uart.save(), State::reset());
}

#[test]
fn a_forged_state_is_refused_and_changes_nothing() {
    let (mut uart, ..) = started(0);
    let before = uart.save();
    let two = |mut fifo: Fifo| {
        fifo.push(1);
        fifo.push(2);
        fifo
    };
    for (forged, error) in [
        (State { version: 7, ..State::reset() }, RestoreError::Version(7)),
        (State { ris: 0x800, ..State::reset() }, RestoreError::OutOfRange("UARTRIS")),
        (State { cr: 0x8, ..State::reset() }, RestoreError::OutOfRange("UARTCR")),
        (State { rx: two(Fifo::default()), ..State::reset() }, RestoreError::OutOfRange("receive FIFO")),
    ] {
        assert_eq!(uart.restore(forged), Err(error));
        assert_eq!(uart.save(), before);
    }
}

#[test]
fn the_wire_is_called_for_changes_only() {
    let (mut uart, irq, _) = started(100);
    for _ in 0..10 {
        put(&mut uart, DR, 0);
        uart.receive(b"a");
    }
    assert_eq!(irq.changes(), 1);
}

/// One step of the world around the device.
#[derive(Clone, Debug)]
enum Step {
    Load(u64, u8),
    Store(u64, u8, u64),
    Receive(usize),
    Break,
    Drain(usize),
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = prop_oneof![4 => (0u64..0x14).prop_map(|r| r * 4), 1 => 0u64..0x1010];
    let step = prop_oneof![
        6 => (at.clone(), 0u8..4).prop_map(|(at, sas)| Step::Load(at, sas)),
        6 => (at, 0u8..4, any::<u64>()).prop_map(|(at, sas, value)| Step::Store(at, sas, value)),
        2 => (0usize..40).prop_map(Step::Receive),
        1 => Just(Step::Break),
        2 => (0usize..40).prop_map(Step::Drain),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    #[test]
    fn whatever_happens_the_registers_agree(steps in steps()) {
        let (mut uart, irq, sink) = uart(3);
        for step in steps {
            match step {
                Step::Load(at, sas) => {
                    let size = AccessSize::from_sas(sas);
                    if let Ok(value) = uart.read(at, size) {
                        prop_assert_eq!(value & !size.mask(), 0);
                    }
                }
                Step::Store(at, sas, value) => {
                    let _ = uart.write(at, AccessSize::from_sas(sas), value);
                }
                Step::Receive(count) => {
                    let (room, taken) = (uart.rx_room(), uart.receive(&[b'r'; 40][..count]));
                    prop_assert_eq!(taken, room.min(count));
                }
                Step::Break => {
                    let room = uart.rx_room() != 0;
                    prop_assert_eq!(uart.receive_break(), room);
                }
                Step::Drain(more) => {
                    sink.drain(more);
                    uart.sink_drained();
                }
                Step::Reset => uart.reset(),
            }
            let (ris, imsc, mis) = (get(&mut uart, RIS), get(&mut uart, IMSC), get(&mut uart, MIS));
            prop_assert_eq!(mis, ris & imsc);
            prop_assert_eq!(irq.is_high(), mis != 0);
            let flags = get(&mut uart, FR);
            prop_assert_eq!(flags & FR_TXFE == 0, uart.tx_waiting());
            prop_assert_eq!(flags & FR_BUSY != 0, uart.tx_waiting());
            prop_assert!(flags & (FR_RXFE | FR_RXFF) != FR_RXFE | FR_RXFF);
            prop_assert!(flags & FR_RXFE == 0 || ris & (INT_RX | INT_RT) == 0);
            // A twin that takes over the state is no different.
            let twin_irq = FakeIrq::default();
            let mut twin = Pl011::new(twin_irq.clone(), FakeSink::with_room(0));
            prop_assert_eq!(twin.restore(uart.save()), Ok(()));
            prop_assert_eq!(twin.save(), uart.save());
            prop_assert_eq!(twin_irq.is_high(), irq.is_high());
        }
    }

    /// A guest that polls `TXFF` as an early console does, over a sink that stalls.
    #[test]
    fn a_polling_guest_loses_nothing(
        text in prop::collection::vec(any::<u8>(), 0..300),
        drains in prop::collection::vec(0usize..50, 1..40),
        fifos in any::<bool>(),
    ) {
        let (mut uart, _, sink) = uart(0);
        put(&mut uart, LCR_H, if fifos { LCR_FEN } else { 0 });
        let mut turns = drains.iter().cycle();
        for byte in &text {
            let mut polls = 0;
            while get(&mut uart, FR) & FR_TXFF != 0 {
                // A turn of 0 alone would never end.
                sink.drain(*turns.next().unwrap() + usize::from(polls > 40));
                uart.sink_drained();
                polls += 1;
            }
            put(&mut uart, DR, u16::from(*byte));
        }
        sink.drain(text.len());
        uart.sink_drained();
        prop_assert_eq!(sink.bytes(), text);
        prop_assert_eq!(uart.stats().lost, 0);
    }

    /// A guest that writes half a FIFO at each transmit interrupt without a look at the flags, as Linux does.
    #[test]
    fn an_interrupt_driven_guest_loses_nothing(
        text in prop::collection::vec(any::<u8>(), 0..300),
        drains in prop::collection::vec(0usize..50, 1..40),
    ) {
        let (mut uart, irq, sink) = started(0);
        put(&mut uart, IMSC, INT_TX);
        // The first character starts the interrupts.
        let mut left = text.iter();
        let mut turns = drains.iter().cycle();
        if let Some(byte) = left.next() {
            put(&mut uart, DR, u16::from(*byte));
        }
        while left.len() != 0 {
            if irq.is_high() {
                for byte in left.by_ref().take(FIFO_DEPTH / 2) {
                    put(&mut uart, DR, u16::from(*byte));
                }
            } else {
                sink.drain(1 + *turns.next().unwrap());
                uart.sink_drained();
            }
        }
        sink.drain(text.len());
        uart.sink_drained();
        prop_assert_eq!(sink.bytes(), text);
        prop_assert_eq!(uart.stats().lost, 0);
    }
}
