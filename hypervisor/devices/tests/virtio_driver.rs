//! The `virtio-drivers` crate as the guest's driver: its loads and stores go to the device's registers, its queues are in memory that
//! the device reaches by `GuestMemory` only. Somebody else's reading of VIRTIO 1.2 against ours.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use addr::{AccessSize, Ipa};
use bus::{Absent, AccessError, GuestMemory, IrqLine, MmioDevice};
use devices::virtio::input::PowerKey;
use devices::virtio::mmio::Mmio;
use devices::virtio::spec::WINDOW;
use virtio_drivers::device::input::{InputConfigSelect, VirtIOInput};
use virtio_drivers::transport::mmio::{MmioTransport, MmioVersion, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The guest's RAM: the driver has pointers into it, the device its guest addresses.
struct Ram(NonNull<u8>);

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 256 << 10;

// SAFETY: plain memory that lives as long as the test; driver and device take turns on one thread.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    fn new() -> Arc<Self> {
        let layout = Layout::from_size_align(SIZE as usize, PAGE_SIZE).expect("a layout");
        // SAFETY: the layout is not empty. The memory is leaked: the driver's pointers stay good.
        Arc::new(Self(NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory")))
    }
    fn at(&self, at: Ipa, size: usize) -> Result<*mut u8, Absent> {
        if !self.is_ram(at, size as u64) {
            return Err(Absent { at });
        }
        // SAFETY: within the allocation, as was just checked.
        Ok(unsafe { self.0.as_ptr().add((at.as_u64() - BASE) as usize) })
    }
}

impl GuestMemory for Ram {
    fn is_ram(&self, at: Ipa, size: u64) -> bool {
        at.as_u64() >= BASE && at.as_u64().checked_add(size).is_some_and(|end| end <= BASE + SIZE)
    }
    fn read(&self, at: Ipa, to: &mut [u8]) -> Result<(), Absent> {
        let from = self.at(at, to.len())?;
        // SAFETY: that many bytes are there, and nobody else touches them meanwhile.
        unsafe { from.copy_to(to.as_mut_ptr(), to.len()) };
        Ok(())
    }
    fn write(&self, at: Ipa, from: &[u8]) -> Result<(), Absent> {
        let to = self.at(at, from.len())?;
        // SAFETY: as in `read`.
        unsafe { to.copy_from(from.as_ptr(), from.len()) };
        Ok(())
    }
    fn load_u16(&self, at: Ipa) -> Result<u16, Absent> {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes).map(|()| u16::from_le_bytes(bytes))
    }
    fn store_u16(&self, at: Ipa, value: u16) -> Result<(), Absent> {
        self.write(at, &value.to_le_bytes())
    }
    fn pin(&self, at: Ipa, size: u64) -> Result<(), Absent> {
        self.at(at, size as usize).map(|_| ())
    }
}

#[derive(Clone, Default)]
struct Wire(Arc<AtomicBool>);

impl IrqLine for Wire {
    fn set_level(&self, high: bool) {
        self.0.store(high, Ordering::Relaxed);
    }
}

/// As long as the device's window, so that the driver's pointers point to something; nobody reads or writes it.
#[repr(C, align(4096))]
struct Window([u8; WINDOW as usize]);

struct Machine {
    device: Mmio<PowerKey, Wire>,
    wire: Wire,
    window: Box<Window>,
    ram: Arc<Ram>,
    /// The first byte that nobody was given: queues from below, buffers from above.
    low: u64,
    high: u64,
}

thread_local!(static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) });

fn with<T>(act: impl FnOnce(&mut Machine) -> T) -> T {
    MACHINE.with_borrow_mut(|machine| act(machine.as_mut().expect("a machine")))
}

impl Machine {
    fn offset(&self, at: *const u8) -> u64 {
        let offset = at.addr().checked_sub((&raw const *self.window).addr()).expect("below the window") as u64;
        assert!(offset < WINDOW, "above the window");
        offset
    }
    fn read(&mut self, at: *const u8, size: AccessSize) -> u64 {
        let offset = self.offset(at);
        self.device.read(offset, size).expect("a register")
    }
    fn write(&mut self, at: *mut u8, size: AccessSize, value: u64) {
        let offset = self.offset(at);
        // As the guest's instruction: again until it is done. (The driver gives up a queue by registers of the legacy interface, too.)
        while self.device.write(offset, size, value) == Err(AccessError::Again) {}
    }
    fn pointer(&self, at: u64, size: usize) -> NonNull<u8> {
        NonNull::new(self.ram.at(Ipa::new(at), size).expect("enough RAM")).expect("not null")
    }
}

struct Routed;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $size:expr) => {
        unsafe fn $read(at: *const $type) -> $type {
            with(|machine| machine.read(at.cast(), $size)) as $type
        }
        unsafe fn $write(at: *mut $type, value: $type) {
            with(|machine| machine.write(at.cast(), $size, value.into()));
        }
    };
}

// Each function makes one access of its width to the device, and touches no memory behind the pointer.
impl safe_mmio::MmioOps for Routed {
    access!(read_u8, write_u8, u8, AccessSize::B1);
    access!(read_u16, write_u16, u16, AccessSize::B2);
    access!(read_u32, write_u32, u32, AccessSize::B4);
    access!(read_u64, write_u64, u64, AccessSize::B8);
}

safe_mmio::set_mmio_ops!(Routed);

/// Guest memory for the driver's queues. Its buffers are elsewhere and are copied to and fro.
struct GuestHal;

// SAFETY: pages are handed out once, aligned, and live as long as the test.
unsafe impl Hal for GuestHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        with(|machine| {
            let (at, size) = (machine.low, pages * PAGE_SIZE);
            machine.low += size as u64;
            (at, machine.pointer(at, size))
        })
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("PCI only")
    }
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        with(|machine| {
            machine.high -= buffer.len() as u64;
            let to = machine.pointer(machine.high, buffer.len());
            if direction != BufferDirection::DeviceToDriver {
                // SAFETY: the caller's buffer is good, and `to` has as many bytes.
                unsafe { to.copy_from(buffer.cast(), buffer.len()) };
            }
            machine.high
        })
    }
    unsafe fn unshare(at: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        with(|machine| {
            if direction != BufferDirection::DriverToDevice {
                // SAFETY: as in `share`.
                unsafe { machine.pointer(at, buffer.len()).copy_to(buffer.cast(), buffer.len()) };
            }
        });
    }
}

type Driver = VirtIOInput<GuestHal, MmioTransport<'static>>;

/// A machine without a driver.
fn machine() {
    let (ram, wire) = (Ram::new(), Wire::default());
    let device = Mmio::new(PowerKey::new(), wire.clone(), ram.clone());
    let window = Box::new(Window([0; WINDOW as usize]));
    MACHINE.set(Some(Machine { device, wire, window, ram, low: BASE, high: BASE + SIZE }));
}

/// The driver comes up.
fn up() -> Driver {
    let header = with(|machine| NonNull::from(&mut *machine.window).cast::<VirtIOHeader>());
    // SAFETY: the window is long enough, lives as long as the machine, and is accessed by one driver at a time, through `Routed`.
    let transport = unsafe { MmioTransport::new(header, WINDOW as usize) }.expect("a device");
    assert_eq!(transport.device_type(), DeviceType::Input);
    assert_eq!(transport.version(), MmioVersion::Modern);
    Driver::new(transport).expect("a driver")
}

fn press() -> bool {
    with(|machine| machine.device.press())
}

fn release() {
    with(|machine| machine.device.release());
}

fn is_high() -> bool {
    with(|machine| machine.wire.0.load(Ordering::Relaxed))
}

/// The events that the driver finds: type, code, value.
fn events(driver: &mut Driver) -> Vec<(u16, u16, u32)> {
    std::iter::from_fn(|| driver.pop_pending_event()).map(|e| (e.event_type, e.code, e.value)).collect()
}

#[test]
fn the_driver_finds_a_power_key() {
    machine();
    let mut driver = up();
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
    machine();
    let mut driver = up();
    assert!(events(&mut driver).is_empty());
    // Over the rings' ends a few times.
    for round in 0..100 {
        assert!(press(), "round {round}");
        assert_eq!(events(&mut driver), [(1, 116, 1), (0, 0, 0)]);
        release();
        assert_eq!(events(&mut driver), [(1, 116, 0), (0, 0, 0)]);
    }
    assert_eq!(with(|machine| machine.device.stats()), Default::default());
}

#[test]
fn the_interrupt_stays_until_it_is_acknowledged() {
    machine();
    let mut driver = up();
    assert!(!is_high());
    press();
    assert!(is_high());
    assert!(driver.ack_interrupt() == InterruptStatus::QUEUE_INTERRUPT);
    assert!(!is_high());
    assert!(driver.ack_interrupt().is_empty());
    assert_eq!(events(&mut driver).len(), 2);
}

#[test]
fn a_driver_that_sleeps_misses_presses_and_never_a_release() {
    machine();
    let mut driver = up();
    let mut heard = 0;
    for _ in 0..20 {
        heard += usize::from(press());
        release();
    }
    // 32 buffers: four events each.
    assert_eq!(heard, 8);
    let keys: Vec<u32> = events(&mut driver).iter().filter(|e| e.1 == 116).map(|e| e.2).collect();
    assert_eq!(keys, [1, 0].repeat(8));
}

#[test]
fn a_driver_that_comes_back_finds_a_new_device() {
    machine();
    let driver = up();
    assert!(press());
    drop(driver);
    let mut driver = up();
    assert!(events(&mut driver).is_empty());
    assert!(press());
    assert_eq!(events(&mut driver).len(), 2);
}
