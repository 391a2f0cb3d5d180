//! Guests whose drivers are the crate `virtio-drivers`: its loads and stores go to a device's registers, its queues are in memory that the
//! device reaches by `GuestMemory` only. There may be several on a thread: [`Machine::run`] says whose driver wants memory.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use addr::{AccessSize, Ipa};
use bus::{Absent, AccessError, GuestMemory, IrqLine, MmioDevice};
use devices::virtio::Device;
use devices::virtio::mmio::Mmio;
use devices::virtio::spec::WINDOW;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// A guest's RAM: the driver has pointers into it, the device its guest addresses.
struct Ram(NonNull<u8>);

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 2 << 20;

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

/// A device's wire.
#[derive(Clone, Default)]
pub struct Wire(Arc<AtomicBool>);

impl Wire {
    /// Whether it is high.
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl IrqLine for Wire {
    fn set_level(&self, high: bool) {
        self.0.store(high, Ordering::Relaxed);
    }
}

/// As long as a device's window, so that the driver's pointers point to something; nobody reads or writes it.
#[repr(C, align(4096))]
struct Window([u8; WINDOW as usize]);

/// What a driver's accesses need of a machine.
struct Reached {
    device: Rc<RefCell<dyn MmioDevice>>,
    window: Box<Window>,
    ram: Arc<Ram>,
    /// The first byte that nobody was given: queues from below, buffers from above.
    low: u64,
    high: u64,
}

thread_local! {
    static ALL: RefCell<Vec<Reached>> = const { RefCell::new(Vec::new()) };
    static CURRENT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Acts on the machine whose driver wants memory.
fn with<T>(act: impl FnOnce(&mut Reached) -> T) -> T {
    ALL.with_borrow_mut(|all| act(all.get_mut(CURRENT.get()).expect("a driver wants memory")))
}

/// A machine with one device of type `D`.
pub struct Machine<D: Device> {
    /// The device behind its registers.
    pub device: Rc<RefCell<Mmio<D, Wire>>>,
    /// Its wire.
    pub wire: Wire,
    number: usize,
}

impl<D: Device + 'static> Machine<D> {
    /// A machine whose driver is not up.
    pub fn new(device: D) -> Self {
        let (ram, wire) = (Ram::new(), Wire::default());
        let device = Rc::new(RefCell::new(Mmio::new(device, wire.clone(), ram.clone())));
        let window = Box::new(Window([0; WINDOW as usize]));
        let reached = Reached { device: device.clone(), window, ram, low: BASE, high: BASE + SIZE };
        let number = ALL.with_borrow_mut(|all| {
            all.push(reached);
            all.len() - 1
        });
        Self { device, wire, number }
    }

    /// What the driver does that takes memory, it does here.
    pub fn run<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(self.number);
        let result = act();
        CURRENT.set(before);
        result
    }

    /// What the driver finds at the device's window.
    pub fn transport(&self) -> MmioTransport<'static> {
        let header = self.run(|| with(|reached| NonNull::from(&mut *reached.window).cast::<VirtIOHeader>()));
        // SAFETY: the window is long enough, lives as long as the thread, and is accessed by one driver at a time, through `Routed`.
        self.run(|| unsafe { MmioTransport::new(header, WINDOW as usize) }).expect("a device")
    }
}

/// The device in whose window `at` is, and where there.
fn device(at: *const u8) -> (Rc<RefCell<dyn MmioDevice>>, u64) {
    let offset = |reached: &Reached| at.addr().wrapping_sub((&raw const *reached.window).addr()) as u64;
    ALL.with_borrow(|all| {
        let reached = all.iter().find(|reached| offset(reached) < WINDOW).expect("a window");
        (reached.device.clone(), offset(reached))
    })
}

fn read(at: *const u8, size: AccessSize) -> u64 {
    let (device, offset) = device(at);
    let value = device.borrow_mut().read(offset, size);
    value.expect("a register")
}

fn write(at: *mut u8, size: AccessSize, value: u64) {
    let (device, offset) = device(at);
    // As the guest's instruction: again until it is done. (The driver gives up a queue by registers of the legacy interface, too.)
    while device.borrow_mut().write(offset, size, value) == Err(AccessError::Again) {}
}

impl Reached {
    fn pointer(&self, at: u64, size: usize) -> NonNull<u8> {
        NonNull::new(self.ram.at(Ipa::new(at), size).expect("enough RAM")).expect("not null")
    }
}

struct Routed;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $size:expr) => {
        unsafe fn $read(at: *const $type) -> $type {
            read(at.cast(), $size) as $type
        }
        unsafe fn $write(at: *mut $type, value: $type) {
            write(at.cast(), $size, value.into());
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
pub struct GuestHal;

// SAFETY: pages are handed out once, aligned, and live as long as the test.
unsafe impl Hal for GuestHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        with(|reached| {
            let (at, size) = (reached.low, pages * PAGE_SIZE);
            reached.low += size as u64;
            assert!(reached.low <= reached.high, "the guest has no RAM left");
            (at, reached.pointer(at, size))
        })
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("PCI only")
    }
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        with(|reached| {
            // Buffers are taken from one end to the other and round again; no test leaves one with the device for so long.
            let size = buffer.len() as u64;
            reached.high = if reached.high - size < BASE + SIZE / 4 { BASE + SIZE } else { reached.high } - size;
            assert!(reached.low <= BASE + SIZE / 4, "the guest has no RAM left");
            let to = reached.pointer(reached.high, buffer.len());
            if direction != BufferDirection::DeviceToDriver {
                // SAFETY: the caller's buffer is good, and `to` has as many bytes.
                unsafe { to.copy_from(buffer.cast(), buffer.len()) };
            }
            reached.high
        })
    }
    unsafe fn unshare(at: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        with(|reached| {
            if direction != BufferDirection::DriverToDevice {
                // SAFETY: as in `share`.
                unsafe { reached.pointer(at, buffer.len()).copy_to(buffer.cast(), buffer.len()) };
            }
        });
    }
}
