//! What is saved of a device behind its registers.

use alloc::vec::Vec;
use bus::IrqLine;

use super::{DRIVER_BITS, Mmio};
use crate::state::RestoreError;
use crate::virtio::spec::*;
use crate::virtio::{Device, queue};

/// The format of [`State`].
pub const STATE_VERSION: u16 = 1;

/// All that the guest can change or see; `S` is the device's own. Opaque: it comes from [`Mmio::save`] and goes to [`Mmio::restore`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State<S> {
    pub(in crate::virtio) version: u16,
    pub(in crate::virtio) registers: Registers,
    pub(in crate::virtio) queues: Vec<queue::State>,
    device: S,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::virtio) struct Registers {
    pub(in crate::virtio) status: u32,
    pub(in crate::virtio) features: u64,
    pub(in crate::virtio) device_features_sel: u32,
    pub(in crate::virtio) driver_features_sel: u32,
    pub(in crate::virtio) queue_sel: u32,
    pub(in crate::virtio) interrupts: u32,
    pub(in crate::virtio) generation: u32,
}

impl<D: Device, I: IrqLine> Mmio<D, I> {
    /// The state as the guest sees it.
    pub fn save(&self) -> State<D::State> {
        State {
            version: STATE_VERSION,
            registers: self.registers,
            queues: self.queues.iter().map(|queue| queue.state.clone()).collect(),
            device: self.device.save(),
        }
    }

    /// Takes over a saved state and drives the wire accordingly; [`Mmio::run_waiting`] goes on with what was under way. On an error
    /// nothing has changed.
    pub fn restore(&mut self, state: State<D::State>) -> Result<(), RestoreError> {
        if state.version != STATE_VERSION {
            return Err(RestoreError::Version(state.version));
        }
        let r = &state.registers;
        if r.status & !(DRIVER_BITS | DRIVER_OK | DEVICE_NEEDS_RESET) != 0
            || r.status & (FEATURES_OK | DRIVER_OK) == DRIVER_OK
        {
            return Err(RestoreError::OutOfRange("Status"));
        }
        if r.status & FEATURES_OK != 0 && !self.accepts(r.features) {
            return Err(RestoreError::OutOfRange("DriverFeatures"));
        }
        if r.interrupts & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
            return Err(RestoreError::OutOfRange("InterruptStatus"));
        }
        let fit = self.queues.iter().zip(&state.queues).all(|(queue, saved)| saved.fits(queue.limits()));
        if state.queues.len() != self.queues.len() || !fit {
            return Err(RestoreError::OutOfRange("Queue"));
        }
        D::check(&state.device)?;
        self.device.restore(state.device);
        self.registers = state.registers;
        for (queue, saved) in self.queues.iter_mut().zip(state.queues) {
            queue.reset();
            queue.stalled = saved.ready;
            queue.state = saved;
        }
        self.quiet = false;
        if self.is_running() {
            self.device.started(self.registers.features);
        }
        self.drive();
        Ok(())
    }
}
