//! The `virtio-drivers` crate as the guest's driver of the power key. Somebody else's reading of VIRTIO 1.2 against ours.

mod guest;

use devices::virtio::input::PowerKey;
use guest::{GuestHal, Machine};
use virtio_drivers::device::input::{InputConfigSelect, VirtIOInput};
use virtio_drivers::transport::mmio::{MmioTransport, MmioVersion};
use virtio_drivers::transport::{DeviceType, InterruptStatus, Transport};

type Driver = VirtIOInput<GuestHal, MmioTransport<'static>>;

/// The driver comes up.
fn up(machine: &Machine<PowerKey>) -> Driver {
    let transport = machine.transport();
    assert_eq!(transport.device_type(), DeviceType::Input);
    assert_eq!(transport.version(), MmioVersion::Modern);
    machine.run(|| Driver::new(transport)).expect("a driver")
}

/// A machine with its driver.
fn machine() -> (Machine<PowerKey>, Driver) {
    let machine = Machine::new(PowerKey::new());
    let driver = up(&machine);
    (machine, driver)
}

fn press(machine: &Machine<PowerKey>) -> bool {
    machine.device.borrow_mut().press()
}

fn release(machine: &Machine<PowerKey>) {
    machine.device.borrow_mut().release();
}

/// The events that the driver finds: type, code, value.
fn events(machine: &Machine<PowerKey>, driver: &mut Driver) -> Vec<(u16, u16, u32)> {
    std::iter::from_fn(|| machine.run(|| driver.pop_pending_event())).map(|e| (e.event_type, e.code, e.value)).collect()
}

#[test]
fn the_driver_finds_a_power_key() {
    let (_machine, mut driver) = machine();
    assert_eq!(driver.name().as_deref(), Ok("Merus power key"));
    assert_eq!(driver.serial_number().as_deref(), Ok("power"));
    let ids = driver.ids().expect("ids");
    assert_eq!((ids.bustype, ids.vendor, ids.product, ids.version), (6, 0, 0, 1));
    assert!(driver.prop_bits().expect("properties").is_empty());
    let keys = driver.ev_bits(1).expect("keys");
    assert_eq!((keys.len(), keys[14]), (15, 1 << 4));
    assert!(keys[..14].iter().all(|bits| *bits == 0));
    assert!((2..32).all(|kind| driver.ev_bits(kind).expect("none").is_empty()));
    let mut answer = [0; 4];
    assert_eq!(driver.query_config_select(InputConfigSelect::AbsInfo, 0, &mut answer), Ok(0));
}

#[test]
fn the_driver_hears_each_press_and_release() {
    let (machine, mut driver) = machine();
    assert!(events(&machine, &mut driver).is_empty());
    // Over the rings' ends a few times.
    for round in 0..100 {
        assert!(press(&machine), "round {round}");
        assert_eq!(events(&machine, &mut driver), [(1, 116, 1), (0, 0, 0)]);
        release(&machine);
        assert_eq!(events(&machine, &mut driver), [(1, 116, 0), (0, 0, 0)]);
    }
    assert_eq!(machine.device.borrow().stats(), Default::default());
}

#[test]
fn the_interrupt_stays_until_it_is_acknowledged() {
    let (machine, mut driver) = machine();
    assert!(!machine.wire.is_high());
    press(&machine);
    assert!(machine.wire.is_high());
    assert!(driver.ack_interrupt() == InterruptStatus::QUEUE_INTERRUPT);
    assert!(!machine.wire.is_high());
    assert!(driver.ack_interrupt().is_empty());
    assert_eq!(events(&machine, &mut driver).len(), 2);
}

#[test]
fn a_driver_that_sleeps_misses_presses_and_never_a_release() {
    let (machine, mut driver) = machine();
    let mut heard = 0;
    for _ in 0..20 {
        heard += usize::from(press(&machine));
        release(&machine);
    }
    // 32 buffers: four events each.
    assert_eq!(heard, 8);
    let keys: Vec<u32> = events(&machine, &mut driver).iter().filter(|e| e.1 == 116).map(|e| e.2).collect();
    assert_eq!(keys, [1, 0].repeat(8));
}

#[test]
fn a_driver_that_comes_back_finds_a_new_device() {
    let (machine, driver) = machine();
    assert!(press(&machine));
    drop(driver);
    let mut driver = up(&machine);
    assert!(events(&machine, &mut driver).is_empty());
    assert!(press(&machine));
    assert_eq!(events(&machine, &mut driver).len(), 2);
}
