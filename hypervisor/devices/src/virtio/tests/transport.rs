//! The registers: what a driver finds, sets up and acknowledges.

use super::*;
use crate::virtio::Broken;
use crate::virtio::mmio::State;

#[test]
fn registers_after_power_on() {
    let mut b = board(Echo::default());
    assert_eq!([MAGIC, VERSION, DEVICE_ID, VENDOR_ID].map(|at| b.get(at)), [0x7472_6976, 2, 42, 0x5355_524d]);
    assert_eq!([STATUS, INTERRUPT_STATUS, QUEUE_READY, CONFIG_GENERATION].map(|at| b.get(at)), [0; 4]);
    assert_eq!([0xb0, 0xb4, 0xb8, 0xbc].map(|at| b.get(at)), [u32::MAX; 4], "no shared memory");
    let halves = [0, 1, 2, u32::MAX].map(|half| {
        b.set(DEVICE_FEATURES_SEL, half);
        b.get(DEVICE_FEATURES)
    });
    assert_eq!(halves, [1 << 28 | 1 << 29 | 1 << 5, 1, 0, 0]);
    let sizes = [0, 1, 2, u32::MAX].map(|queue| {
        b.set(QUEUE_SEL, queue);
        b.get(QUEUE_NUM_MAX)
    });
    assert_eq!(sizes, [16, 16, 0, 0]);
    for at in [0x018, 0x028, 0x03c, 0x048, 0x068, 0x088, 0x0c0, 0x0f8] {
        assert_eq!(b.device.read(at, AccessSize::B4), Err(AccessError::NoRegister), "{at:#x}");
        assert_eq!(b.put(at, 1), Err(AccessError::NoRegister), "{at:#x}");
    }
    assert!(!b.irq.is_high());
}

#[test]
fn registers_are_words_and_the_configuration_is_not() {
    let mut b = board(Echo::default());
    for size in [AccessSize::B1, AccessSize::B2, AccessSize::B8] {
        assert_eq!(b.device.read(MAGIC, size), Err(AccessError::BadSize));
        assert_eq!(b.device.write(STATUS, size, 1), Err(AccessError::BadSize));
    }
    assert_eq!(b.device.read(2, AccessSize::B4), Err(AccessError::Unaligned));
    assert_eq!(b.device.read(CONFIG + 1, AccessSize::B2), Err(AccessError::Unaligned));
    b.device.write(CONFIG + 1, AccessSize::B1, 0xffab).unwrap();
    b.device.write(CONFIG + 2, AccessSize::B2, 0x1234).unwrap();
    assert_eq!(b.device.read(CONFIG, AccessSize::B4), Ok(0x1234_ab00));
    assert_eq!(b.device.read(CONFIG + 0xfc, AccessSize::B4), Ok(0));
    assert_eq!(b.device.read(CONFIG, AccessSize::B8), Err(AccessError::BadSize));
}

#[test]
fn features_are_agreed_on_once_and_need_version_1() {
    // The last bit is offered by nobody.
    for (features, good) in [(F_VERSION_1, true), (ALL | 1 << 5, true), (F_EVENT_IDX, false), (F_VERSION_1 | 1, false)]
    {
        let mut b = board(Echo::default());
        for half in [1, 0, 2, 7] {
            b.set(DRIVER_FEATURES_SEL, half);
            b.set(DRIVER_FEATURES, features.checked_shr(32 * half).unwrap_or(u64::MAX) as u32);
        }
        b.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(b.get(STATUS) & FEATURES_OK != 0, good, "{features:#x}");
        // What comes later changes nothing.
        b.set(DRIVER_FEATURES_SEL, 0);
        b.set(DRIVER_FEATURES, 1 << 31);
        b.driver_ok();
        assert_eq!(b.get(STATUS) & DRIVER_OK != 0, good);
        assert_eq!(b.device.device().started, if good { features } else { 0 });
    }
}

#[test]
fn a_driver_sets_its_bits_only_and_clears_none() {
    let mut b = board(Echo::default());
    b.negotiate(ALL);
    b.set(STATUS, 0xffff_ff00 | DEVICE_NEEDS_RESET | 0x30);
    assert_eq!(b.get(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    b.set(STATUS, DRIVER_OK);
    assert_eq!(b.get(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    b.set(STATUS, FAILED);
    assert!(!b.device.is_running());
    b.set(STATUS, 0);
    assert_eq!(b.get(STATUS), 0);
}

#[test]
fn a_ready_queue_stands() {
    let (mut b, [d, _]) = echo(ALL, 8);
    b.set(QUEUE_SEL, 0);
    let before = b.device.save();
    for at in [QUEUE_NUM, QUEUE_DESC, QUEUE_DESC + 4, QUEUE_DRIVER, QUEUE_DRIVER + 4, QUEUE_DEVICE, QUEUE_DEVICE + 4] {
        b.set(at, 0x1234_5678);
    }
    b.set(QUEUE_READY, 1);
    assert_eq!(b.device.save(), before);
    // Taken back, it is not served any more; handed over again, it begins at its start.
    b.set(QUEUE_READY, 0);
    assert_eq!(b.get(QUEUE_READY), 0);
    b.ram.taken();
    b.set(QUEUE_NOTIFY, 0);
    assert_eq!(b.ram.taken().0, 0);
    let mut d = Driver::new(&mut b, 0, d.size);
    d.descriptor(d.desc, 0, (BASE + 0x3000, 4, DESC_WRITE, 0));
    d.offer(0);
    b.set(QUEUE_NOTIFY, 0);
    assert_eq!(d.collect(), [(0, 0)]);
}

#[test]
fn a_queue_that_cannot_be_is_refused() {
    let good = [BASE, BASE + 0x400, BASE + 0x800];
    let end = BASE + SIZE;
    let bad: [(u32, [u64; 3], Broken); 11] = [
        (0, good, Broken::Size(0)),
        (3, good, Broken::Size(3)),
        (32, good, Broken::Size(32)),
        (0x1_0008, good, Broken::Size(0)),
        (8, [BASE + 8, good[1], good[2]], Broken::Place(Ipa::new(BASE + 8))),
        (8, [good[0], good[1] + 1, good[2]], Broken::Place(Ipa::new(good[1] + 1))),
        (8, [good[0], good[1], good[2] + 2], Broken::Place(Ipa::new(good[2] + 2))),
        (8, [0, good[1], good[2]], Broken::Place(Ipa::new(0))),
        (8, [end - 0x70, good[1], good[2]], Broken::Place(Ipa::new(end - 0x70))),
        (8, [good[0], end - 20, good[2]], Broken::Place(Ipa::new(end - 20))),
        (8, [good[0], good[1], u64::MAX - 3], Broken::Place(Ipa::new(u64::MAX - 3))),
    ];
    for (size, parts, how) in bad {
        let mut b = board(Echo::default());
        b.negotiate(ALL);
        b.queue(0, size, parts);
        assert_eq!((b.get(QUEUE_READY), b.device.stats().last), (0, Some(how)));
        assert_ne!(b.get(STATUS) & DEVICE_NEEDS_RESET, 0);
        assert!(!b.irq.is_high(), "there is no driver yet");
        b.negotiate(ALL);
        b.queue(0, 8, good);
        assert_eq!(b.get(QUEUE_READY), 1);
    }
    // The last bytes of RAM are good enough, and the largest size.
    let mut b = board(Echo::default());
    b.negotiate(ALL);
    b.queue(0, 16, [end - 0x100, BASE, BASE + 0x800]);
    b.queue(1, 8, [BASE + 0x1000, BASE + 0x1400, end - 6 - 8 * 8 - 2]);
    assert_eq!(b.device.stats(), Default::default());
}

#[test]
fn notifications_before_the_driver_is_up_are_not_lost() {
    let mut b = board(Echo::default());
    b.negotiate(ALL);
    let mut d = Driver::new(&mut b, 1, 8);
    d.descriptor(d.desc, 5, (BASE + 0x3000, 4, DESC_WRITE, 0));
    d.offer(5);
    b.ram.taken();
    b.set(QUEUE_NOTIFY, 1);
    assert_eq!(b.ram.taken().0, 0, "no memory is touched before");
    b.driver_ok();
    assert_eq!(d.collect(), [(5, 0)]);
    assert!(b.irq.is_high());
    assert_eq!(b.acknowledge(), INTERRUPT_USED);
    assert!(!b.irq.is_high());
}

#[test]
fn a_reset_forgets_everything_at_any_point() {
    let fresh = board(Echo::default()).device.save();
    for stage in 0..4 {
        let mut b = board(Echo::default());
        if stage > 0 {
            b.negotiate(ALL);
        }
        if stage > 1 {
            let mut d = Driver::new(&mut b, 0, 8);
            d.descriptor(d.desc, 0, (BASE + 0x3000, 4, DESC_WRITE, 0));
            d.offer(0);
            b.driver_ok();
            assert!(b.irq.is_high());
        }
        if stage > 2 {
            b.ram.put(BASE + 0x400 + AVAIL_IDX, &[77, 0]);
            b.set(QUEUE_NOTIFY, 0);
            assert_ne!(b.get(STATUS) & DEVICE_NEEDS_RESET, 0);
        }
        b.set(CONFIG, 0x11);
        b.set(DEVICE_FEATURES_SEL, 1);
        b.ram.taken();
        b.set(STATUS, 0);
        assert!(!b.irq.is_high());
        assert_eq!(b.ram.taken().0, 0);
        let generation = b.get(CONFIG_GENERATION);
        assert!(generation > 0);
        let mut twin = board(Echo::default());
        for _ in 0..generation {
            twin.set(STATUS, 0);
        }
        assert_eq!(b.device.save(), twin.device.save(), "stage {stage}");
    }
    assert_eq!(fresh, board(Echo::default()).device.save());
}

#[test]
fn a_quiet_device_touches_no_memory_until_it_is_reset() {
    let (mut b, [mut d, _]) = echo(ALL, 8);
    d.descriptor(d.desc, 0, (BASE + 0x3000, 4, DESC_WRITE, 0));
    d.offer(0);
    b.device.quiesce();
    b.ram.taken();
    b.set(QUEUE_NOTIFY, 0);
    b.device.poke(0);
    b.device.run_waiting();
    assert_eq!((b.ram.taken().0, b.irq.is_high()), (0, false));
    b.device.reset();
    assert_eq!(b.get(STATUS), 0);
}

#[test]
fn a_change_of_the_configuration_is_announced() {
    let (mut b, _) = echo(ALL, 8);
    let before = b.get(CONFIG_GENERATION);
    b.device.device_mut().config[0] = 7;
    b.device.config_changed();
    assert_eq!((b.get(CONFIG_GENERATION), b.get(CONFIG)), (before + 1, 7));
    assert!(b.irq.is_high());
    assert_eq!(b.acknowledge(), INTERRUPT_CONFIG);
    // Nobody is told who is not there.
    b.set(STATUS, 0);
    b.device.config_changed();
    assert!(!b.irq.is_high());
}

#[test]
fn a_saved_device_goes_on_in_its_twin() {
    let (mut b, [mut d, _]) = echo(ALL, 8);
    for head in 0..4 {
        d.descriptor(d.desc, head, (BASE + 0x3000, 4, DESC_WRITE, 0));
        d.offer(head);
    }
    b.set(QUEUE_NOTIFY, 0);
    assert_eq!(d.collect().len(), 4);
    d.offer(1);
    let state = b.device.save();
    let mut twin = Board { device: Mmio::new(Echo::default(), b.irq.clone(), b.ram.clone()), ..board(Echo::default()) };
    twin.irq = b.irq.clone();
    type Spoil = fn(&mut State<[u8; 4]>);
    let spoils: [(Spoil, RestoreError); 8] = [
        (|s| s.version = 7, RestoreError::Version(7)),
        (|s| s.registers.status |= 0x20, RestoreError::OutOfRange("Status")),
        (|s| s.registers.status &= !FEATURES_OK, RestoreError::OutOfRange("Status")),
        (|s| s.registers.features |= 1, RestoreError::OutOfRange("DriverFeatures")),
        (|s| s.registers.interrupts |= 4, RestoreError::OutOfRange("InterruptStatus")),
        (|s| s.queues[0].size = 9, RestoreError::OutOfRange("Queue")),
        (|s| s.queues[1].device |= 2, RestoreError::OutOfRange("Queue")),
        (|s| s.queues.truncate(1), RestoreError::OutOfRange("Queue")),
    ];
    let before = twin.device.save();
    for (spoil, error) in spoils {
        let mut spoilt = state.clone();
        spoil(&mut spoilt);
        assert_eq!(twin.device.restore(spoilt), Err(error));
        assert_eq!(twin.device.save(), before);
    }
    twin.device.restore(state.clone()).unwrap();
    assert_eq!(twin.device.save(), state);
    assert!(twin.irq.is_high(), "the interrupt was not acknowledged");
    twin.device.run_waiting();
    assert_eq!(d.collect(), [(1, 0)]);
    assert_eq!(
        twin.device.restore(state_with(&state, |b| b.set(CONFIG, 0xff00_0000))),
        Err(RestoreError::OutOfRange("config"))
    );
    // Another device's.
    struct One(Echo);
    impl Device for One {
        type State = [u8; 4];
        fn id(&self) -> u32 {
            1
        }
        fn queues(&self) -> &[Limits] {
            &[Limits { size: 4, chain: 4 }, ECHO]
        }
        fn config_read(&self, _: usize, _: &mut [u8]) {}
        fn serve(&mut self, number: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
            self.0.serve(number, ring)
        }
        fn reset(&mut self) {}
        fn save(&self) -> [u8; 4] {
            [0; 4]
        }
        fn check(_: &[u8; 4]) -> Result<(), RestoreError> {
            Ok(())
        }
        fn restore(&mut self, _: [u8; 4]) {}
    }
    let mut other = board(One(Echo::default()));
    assert_eq!(
        other.device.restore(state),
        Err(RestoreError::OutOfRange("Queue")),
        "a queue of 8 where 4 is the largest"
    );
}

/// `state` after something was done to a device in that state.
fn state_with(state: &State<[u8; 4]>, act: impl FnOnce(&mut Board<Echo>)) -> State<[u8; 4]> {
    let mut b = board(Echo::default());
    b.device.restore(state.clone()).unwrap();
    act(&mut b);
    b.device.save()
}
