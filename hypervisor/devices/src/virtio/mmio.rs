//! Virtio over MMIO, version 2 ("Virtio Over MMIO"): the registers of one device, its queues and its interrupt.
//!
//! | status | what the device does |
//! |---|---|
//! | up to `FEATURES_OK` | answers its registers, takes the queues' addresses; touches no guest memory |
//! | `FEATURES_OK` | is set only if the driver's features are among those offered and `VIRTIO_F_VERSION_1` is |
//! | `DRIVER_OK` | serves its queues |
//! | `DEVICE_NEEDS_RESET`, `FAILED` | answers its registers, touches no guest memory |
//! | 0 written | everything as after power-on |
//!
//! Bits that the driver leaves out of a later store stay: only a reset clears them. While a queue is ready its addresses and its size
//! stand. The interrupt is high while `InterruptStatus` is not 0.

mod state;

use alloc::boxed::Box;
use alloc::sync::Arc;
use bus::{AccessError, AccessSize, GuestMemory, IrqLine, MmioDevice, Offset};
use sync::nospec;

use super::queue::{Queue, Room};
use super::spec::*;
use super::{Broken, Device, Stop};
use state::Registers;
pub use state::{STATE_VERSION, State};

/// What the transport and the ring offer for every device.
const COMMON: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;
/// What a driver may set of the status.
const DRIVER_BITS: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED;

/// What has happened since the device was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// How often the driver broke a ring.
    pub broken: u64,
    /// How it did the last time.
    pub last: Option<Broken>,
    /// Steps that met a page that was not there.
    pub absent: u64,
}

/// A device behind its registers.
pub struct Mmio<D: Device, I: IrqLine> {
    device: D,
    irq: I,
    memory: Arc<dyn GuestMemory>,
    queues: Box<[Queue]>,
    /// For the chain of a step.
    room: Room,
    registers: Registers,
    /// The level the wire has, so that the wire is called for changes only.
    driven: bool,
    /// Guest memory is not to be touched before a reset.
    quiet: bool,
    stats: Stats,
}

impl<D: Device, I: IrqLine> Mmio<D, I> {
    /// `device` after power-on, in front of the guest's memory. Allocates.
    pub fn new(device: D, irq: I, memory: Arc<dyn GuestMemory>) -> Self {
        irq.set_level(false);
        let queues = device.queues().iter().map(|limits| Queue::new(*limits)).collect();
        let room = Queue::room(device.queues());
        let registers = Registers::default();
        Self { device, irq, memory, queues, room, registers, driven: false, quiet: false, stats: Stats::default() }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, for what changes nothing that the driver sees: [`Mmio::poke`] has it said, [`Mmio::config_changed`] announced.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// What has happened.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether a driver uses the device, and nothing is in its way.
    pub fn is_running(&self) -> bool {
        self.registers.status & (DRIVER_OK | DEVICE_NEEDS_RESET | FAILED) == DRIVER_OK && !self.quiet
    }

    /// Something has happened outside: a step on queue `number`, if a driver uses the device.
    pub fn poke(&mut self, number: usize) {
        if let Some(queue) = self.queues.get_mut(number) {
            queue.due = true;
            self.serve(number);
        }
    }

    /// Whether [`Mmio::poke`] or [`Mmio::run_waiting`] has left more to do than a step may: it goes on by [`Mmio::run_due`], or by
    /// itself when the driver notifies.
    pub fn is_due(&self) -> bool {
        self.is_running() && self.queues.iter().any(|queue| queue.due)
    }

    /// One step of what is due. `true`: there is more.
    pub fn run_due(&mut self) -> bool {
        self.step().is_err()
    }

    /// Pages that were absent have come: queues that met one are due, and a step is done.
    pub fn run_waiting(&mut self) {
        for queue in &mut self.queues {
            queue.due |= core::mem::take(&mut queue.stalled);
        }
        self.run_due();
    }

    /// The device has changed its configuration by itself.
    pub fn config_changed(&mut self) {
        self.registers.generation = self.registers.generation.wrapping_add(1);
        self.interrupt(INTERRUPT_CONFIG);
    }

    /// One queue's state, for tests of the ring by itself.
    #[cfg(test)]
    pub(crate) fn save_queue(&self, number: usize) -> super::queue::State {
        self.queues[number].state.clone()
    }

    fn offered(&self) -> u64 {
        COMMON | self.device.features()
    }

    fn accepts(&self, features: u64) -> bool {
        features & !self.offered() == 0 && features & F_VERSION_1 != 0
    }

    /// A step on one queue, if it is due.
    fn serve(&mut self, number: usize) {
        if !self.is_running() {
            return;
        }
        let Some(queue) = self.queues.get_mut(number).filter(|queue| queue.due) else { return };
        (queue.due, queue.stalled) = (false, false);
        let Some(mut ring) = queue.ring(&mut self.room, &*self.memory, self.registers.features) else { return };
        let result = self.device.serve(number, &mut ring);
        let interrupt = ring.wants_interrupt();
        match result {
            Ok(()) => {}
            Err(Stop::Later) => queue.due = true,
            Err(Stop::Absent(_)) => {
                queue.stalled = true;
                self.stats.absent = self.stats.absent.saturating_add(1);
            }
            Err(Stop::Broken(how)) => self.needs_reset(how),
        }
        if interrupt {
            self.interrupt(INTERRUPT_USED);
        }
    }

    /// One step on the first queue that is due. The guest's store is repeated while there are others.
    fn step(&mut self) -> Result<(), AccessError> {
        if let Some(number) = self.queues.iter().position(|queue| queue.due) {
            self.serve(number);
        }
        if self.is_due() { Err(AccessError::Again) } else { Ok(()) }
    }

    fn needs_reset(&mut self, how: Broken) {
        self.stats.broken = self.stats.broken.saturating_add(1);
        self.stats.last = Some(how);
        self.registers.status |= DEVICE_NEEDS_RESET;
        self.device.halted();
        self.interrupt(INTERRUPT_CONFIG);
    }

    /// A driver that is up is interrupted.
    fn interrupt(&mut self, why: u32) {
        if self.registers.status & DRIVER_OK != 0 {
            self.registers.interrupts |= why;
        }
        self.sync_irq();
    }

    /// Brings the wire up to date.
    fn sync_irq(&mut self) {
        if (self.registers.interrupts != 0) != self.driven {
            self.drive();
        }
    }

    fn drive(&mut self) {
        self.driven = self.registers.interrupts != 0;
        self.irq.set_level(self.driven);
    }

    fn queue(&self) -> Option<&Queue> {
        nospec::get(&self.queues, usize::try_from(self.registers.queue_sel).ok()?)
    }

    fn queue_mut(&mut self) -> Option<&mut Queue> {
        nospec::get_mut(&mut self.queues, usize::try_from(self.registers.queue_sel).ok()?)
    }

    /// The registers; `at` is a multiple of 4 below the configuration.
    fn load(&self, at: Offset) -> Result<u32, AccessError> {
        let r = &self.registers;
        Ok(match at {
            MAGIC => MAGIC_VALUE,
            VERSION => VERSION_VALUE,
            DEVICE_ID => self.device.id(),
            VENDOR_ID => VENDOR_VALUE,
            DEVICE_FEATURES => half(self.offered(), r.device_features_sel),
            QUEUE_NUM_MAX => self.queue().map_or(0, |queue| queue.limits().size.into()),
            QUEUE_READY => self.queue().map_or(0, |queue| queue.state.ready.into()),
            INTERRUPT_STATUS => r.interrupts,
            STATUS => r.status,
            SHM_FIRST..=SHM_LAST => u32::MAX,
            CONFIG_GENERATION => r.generation,
            _ => return Err(AccessError::NoRegister),
        })
    }

    fn store(&mut self, at: Offset, value: u32) -> Result<(), AccessError> {
        let r = &mut self.registers;
        match at {
            DEVICE_FEATURES_SEL => r.device_features_sel = value,
            DRIVER_FEATURES_SEL => r.driver_features_sel = value,
            DRIVER_FEATURES => {
                let shift = r.driver_features_sel.checked_mul(32).filter(|shift| *shift < u64::BITS);
                // What was agreed on stands.
                if let Some(shift) = shift.filter(|_| r.status & FEATURES_OK == 0) {
                    let mask = u64::from(u32::MAX).wrapping_shl(shift);
                    r.features = r.features & !mask | u64::from(value).wrapping_shl(shift);
                }
            }
            QUEUE_SEL => r.queue_sel = value,
            QUEUE_READY => self.set_ready(value & 1 != 0),
            QUEUE_NOTIFY => return self.notify(value),
            INTERRUPT_ACK => {
                r.interrupts &= !value;
                self.sync_irq();
            }
            STATUS => return self.set_status(value),
            QUEUE_NUM..=SHM_SEL => return self.set_up_queue(at, value),
            // Read only: a store does nothing.
            _ => return self.load(at).map(|_| ()),
        }
        Ok(())
    }

    /// `QueueNum` and the addresses, while the queue is not ready.
    fn set_up_queue(&mut self, at: Offset, value: u32) -> Result<(), AccessError> {
        let high = at & 4 != 0;
        let register = at & !4;
        if at == SHM_SEL {
            return Ok(());
        }
        if at != QUEUE_NUM && !matches!(register, QUEUE_DESC | QUEUE_DRIVER | QUEUE_DEVICE) {
            return self.load(at).map(|_| ());
        }
        let Some(queue) = self.queue_mut().filter(|queue| !queue.state.ready) else { return Ok(()) };
        let address = match register {
            QUEUE_DESC => &mut queue.state.desc,
            QUEUE_DRIVER => &mut queue.state.driver,
            QUEUE_DEVICE => &mut queue.state.device,
            _ => {
                // One that is too large is refused with the queue.
                queue.state.size = u16::try_from(value).unwrap_or(0);
                return Ok(());
            }
        };
        let (low, top) = (*address & u64::from(u32::MAX), *address >> 32);
        *address = if high { u64::from(value) << 32 | low } else { top << 32 | u64::from(value) };
        Ok(())
    }

    fn set_ready(&mut self, ready: bool) {
        let memory = self.memory.clone();
        let Some(queue) = self.queue_mut().filter(|queue| queue.state.ready != ready) else { return };
        if !ready {
            // Its addresses stay; it would begin anew.
            queue.state.ready = false;
            (queue.due, queue.stalled) = (false, false);
            self.device.stopped(usize::try_from(self.registers.queue_sel).unwrap_or(usize::MAX));
        } else if let Err(how) = queue.enable(&*memory) {
            self.needs_reset(how);
        }
    }

    fn notify(&mut self, number: u32) -> Result<(), AccessError> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(queue) = nospec::get_mut(&mut self.queues, number) {
            queue.due = queue.state.ready;
        }
        self.step()
    }

    fn set_status(&mut self, value: u32) -> Result<(), AccessError> {
        if value & 0xff == 0 {
            self.reset();
            return Ok(());
        }
        let mut new = value & DRIVER_BITS & !self.registers.status;
        if new & FEATURES_OK != 0 && !self.accepts(self.registers.features) {
            new &= !FEATURES_OK;
        }
        self.registers.status |= new;
        let up = value & DRIVER_OK != 0 && self.registers.status & FEATURES_OK != 0;
        if up && self.registers.status & DRIVER_OK == 0 {
            self.registers.status |= DRIVER_OK;
            self.device.started(self.registers.features);
            // Buffers may have been made available before.
            self.queues.iter_mut().for_each(|queue| queue.due = queue.state.ready);
        }
        if up { self.step() } else { Ok(()) }
    }
}

/// The 32 bits that a selector chooses.
fn half(value: u64, selector: u32) -> u32 {
    selector.checked_mul(32).and_then(|shift| value.checked_shr(shift)).unwrap_or(0) as u32
}

/// Checks an access's size and place. `true`: the configuration, from the offset on.
fn place(at: Offset, size: AccessSize) -> Result<Option<usize>, AccessError> {
    if at & size.bytes().wrapping_sub(1) != 0 {
        return Err(AccessError::Unaligned);
    }
    match at.checked_sub(CONFIG) {
        None if size == AccessSize::B4 => Ok(None),
        // 64-bit fields are accessed by halves ("MMIO Device Register Layout").
        Some(at) if size != AccessSize::B8 => usize::try_from(at).map(Some).map_err(|_| AccessError::NoRegister),
        _ => Err(AccessError::BadSize),
    }
}

impl<D: Device, I: IrqLine> MmioDevice for Mmio<D, I> {
    fn read(&mut self, at: Offset, size: AccessSize) -> Result<u64, AccessError> {
        let Some(at) = place(at, size)? else { return self.load(at).map(u64::from) };
        let mut bytes = [0; 8];
        if let Some(part) = bytes.get_mut(..size.bytes() as usize) {
            self.device.config_read(at, part);
        }
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(&mut self, at: Offset, size: AccessSize, value: u64) -> Result<(), AccessError> {
        let Some(at) = place(at, size)? else { return self.store(at, value as u32) };
        if let Some(part) = value.to_le_bytes().get(..size.bytes() as usize) {
            self.device.config_write(at, part);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(Queue::reset);
        // A driver that reads the configuration across a reset sees that it changed.
        let generation = self.registers.generation.wrapping_add(1);
        self.registers = Registers { generation, ..Registers::default() };
        self.quiet = false;
        self.drive();
    }

    fn quiesce(&mut self) {
        self.quiet = true;
        self.device.halted();
    }
}
