use super::*;
use crate::virtio::spec::*;
use crate::virtio::tests::{ALL, BASE, Board, Driver, board};
use alloc::vec::Vec;
use bus::{AccessSize, MmioDevice};

const BUFFERS: u64 = BASE + 0x3000;

/// What the driver reads of the configuration for a selection.
fn ask(b: &mut Board<PowerKey>, select: u8, subsel: u8) -> Vec<u8> {
    let config = |at: usize| 0x100 + at as u64;
    b.device.write(config(SELECT), AccessSize::B1, select.into()).unwrap();
    b.device.write(config(SUBSEL), AccessSize::B1, subsel.into()).unwrap();
    let size = b.device.read(config(SIZE), AccessSize::B1).unwrap() as usize;
    (0..size).map(|n| b.device.read(config(DATA + n), AccessSize::B1).unwrap() as u8).collect()
}

/// A driver with `buffers` for events.
fn up(features: u64, buffers: u16) -> (Board<PowerKey>, Driver) {
    let mut b = board(PowerKey::new());
    b.negotiate(features);
    let mut d = Driver::new(&mut b, EVENTQ as u32, 8);
    Driver::new(&mut b, STATUSQ as u32, 8);
    (0..buffers).for_each(|n| give(&mut d, n));
    b.driver_ok();
    (b, d)
}

fn give(d: &mut Driver, n: u16) {
    d.descriptor(d.desc, n, (BUFFERS + 8 * u64::from(n), 8, DESC_WRITE, 0));
    d.offer(n);
}

/// The events that have come: type, code, value.
fn events(d: &mut Driver) -> Vec<Event> {
    let found = d.collect();
    let event = |(head, size): (u32, u32)| {
        assert_eq!(size, 8);
        let at = BUFFERS + 8 * u64::from(head);
        (d.ram.get_u16(at), d.ram.get_u16(at + 2), d.ram.get_u32(at + 4))
    };
    found.into_iter().map(event).collect()
}

const PRESS: [Event; 2] = [(1, 116, 1), (0, 0, 0)];
const RELEASE: [Event; 2] = [(1, 116, 0), (0, 0, 0)];

#[test]
fn the_configuration_is_a_power_key_s() {
    let mut b = board(PowerKey::new());
    assert_eq!(b.get(DEVICE_ID), 18);
    assert_eq!(ask(&mut b, 1, 0), b"Merus power key");
    assert_eq!(ask(&mut b, 2, 0), b"power");
    assert_eq!(ask(&mut b, 3, 0), [6, 0, 0, 0, 0, 0, 1, 0]);
    let keys = ask(&mut b, 0x11, 1);
    let set: Vec<usize> = (0..keys.len() * 8).filter(|bit| keys[bit / 8] >> (bit % 8) & 1 != 0).collect();
    assert_eq!(set, [116]);
    for (select, subsel) in
        [(0, 0), (1, 1), (2, 7), (3, 1), (0x10, 0), (0x11, 0), (0x11, 2), (0x11, 20), (0x12, 0), (255, 255)]
    {
        assert!(ask(&mut b, select, subsel).is_empty(), "{select:#x} {subsel}");
    }
    // Read only but for the selection, and nothing lies behind the answer.
    ask(&mut b, 1, 0);
    let before = b.device.save();
    for at in 2..0x100 {
        b.device.write(0x100 + at, AccessSize::B1, 0xff).unwrap();
    }
    assert_eq!(b.device.save(), before);
    assert_eq!((8 + 15..0x100).map(|at| b.device.read(0x100 + at, AccessSize::B1).unwrap()).max(), Some(0));
}

#[test]
fn a_press_and_a_release_are_two_events_each() {
    for features in [ALL, F_VERSION_1] {
        let (mut b, mut d) = up(features, 8);
        assert!(b.device.press());
        assert_eq!(events(&mut d), PRESS);
        assert!(b.irq.is_high());
        assert_eq!(b.acknowledge(), INTERRUPT_USED);
        // Still pressed: nothing new.
        assert!(b.device.press());
        assert!(events(&mut d).is_empty() && !b.irq.is_high());
        d.set_used_event(d.seen);
        b.device.release();
        assert_eq!(events(&mut d), RELEASE);
        assert!(b.irq.is_high());
        b.device.release();
        assert!(events(&mut d).is_empty());
    }
}

#[test]
fn without_a_driver_nothing_is_pressed() {
    let mut b = board(PowerKey::new());
    assert!(!b.device.press());
    b.negotiate(ALL);
    assert!(!b.device.press());
    // One without buffers is none: the press has not happened, also for buffers that come later.
    let (mut b, mut d) = up(ALL, 0);
    assert!(!b.device.press());
    b.device.release();
    (0..4).for_each(|n| give(&mut d, n));
    b.set(QUEUE_NOTIFY, EVENTQ as u32);
    assert!(events(&mut d).is_empty());
    assert!(b.device.press());
    assert_eq!(events(&mut d), PRESS);
    b.device.quiesce();
    assert!(!b.device.press(), "its memory is not its own any more");
}

#[test]
fn what_has_no_buffer_waits_for_one() {
    let (mut b, mut d) = up(ALL, 1);
    assert!(b.device.press(), "the driver has the key");
    assert_eq!(events(&mut d), PRESS[..1]);
    b.device.release();
    assert!(!b.device.press(), "nobody would hear of it");
    b.device.release();
    let state = b.device.save();
    (0..8).for_each(|n| give(&mut d, n));
    b.set(QUEUE_NOTIFY, EVENTQ as u32);
    assert_eq!(events(&mut d), [PRESS[1], RELEASE[0], RELEASE[1]]);
    // A state that was saved with events waiting goes on, too.
    let mut twin = board(PowerKey::new());
    twin.device.restore(state.clone()).unwrap();
    assert_eq!(twin.device.save(), state);
}

#[test]
fn presses_without_end_are_not_kept() {
    let (mut b, mut d) = up(ALL, 1);
    for _ in 0..10 {
        b.device.press();
        b.device.release();
    }
    // The first key was taken; presses without a buffer have not happened.
    (1..8).for_each(|n| give(&mut d, n));
    b.set(QUEUE_NOTIFY, EVENTQ as u32);
    assert_eq!(events(&mut d), [PRESS[0], PRESS[1], RELEASE[0], RELEASE[1]]);
    assert!(b.device.press());
}

#[test]
fn what_the_driver_sends_is_taken() {
    let mut b = board(PowerKey::new());
    b.negotiate(ALL);
    let mut d = Driver::new(&mut b, STATUSQ as u32, 8);
    b.driver_ok();
    d.descriptor(d.desc, 3, (BUFFERS, 8, 0, 0));
    d.offer(3);
    b.set(QUEUE_NOTIFY, STATUSQ as u32);
    assert_eq!(d.collect(), [(3, 0)]);
}

#[test]
fn a_buffer_too_small_for_an_event_breaks_the_queue() {
    let (mut b, mut d) = up(ALL, 0);
    d.descriptor(d.desc, 0, (BUFFERS, 7, DESC_WRITE, 0));
    d.offer(0);
    assert!(!b.device.press());
    assert_eq!(b.device.stats().last, Some(crate::virtio::Broken::Small));
    assert_ne!(b.get(STATUS) & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn a_damaged_state_is_refused() {
    let room = State { down: true, waiting: [SYN; 7].into_iter().collect(), ..State::default() };
    let strange = State { waiting: [(2, 0, 5)].into_iter().collect(), ..State::default() };
    for state in [room, strange] {
        assert_eq!(PowerKey::check(&state), Err(RestoreError::OutOfRange("events")));
    }
}
