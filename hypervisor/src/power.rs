//! A VM's power keys, which are one key: `gpio-keys` at the PL061, and a virtio input device for kernels without a driver for that.

use addr::Ipa;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::GuestMemory;
use config::map;
use config::spec;
use devices::pl061::Pl061;
use devices::virtio::input::PowerKey;
use devices::virtio::mmio::Mmio;
use sync::{Rank, SpinLock};
use vm::{DeviceHandle, SpiLine, VgicPort};

/// Those that the VM has.
pub struct PowerKeys {
    gpio: Option<Arc<SpinLock<Pl061<SpiLine>>>>,
    virtio: Option<Arc<SpinLock<Mmio<PowerKey, SpiLine>>>>,
}

impl PowerKeys {
    /// Makes them; `memory` is the guest's.
    pub fn new(kind: spec::PowerKey, vgic: &Arc<VgicPort>, memory: &Arc<dyn GuestMemory>) -> Self {
        let wire = |spi: u32| SpiLine::new(vgic.clone(), map::SPI_BASE.wrapping_add(spi));
        let gpio = || Arc::new(SpinLock::new(Rank::Device, Pl061::new(wire(map::PL061_SPI))));
        let virtio = || {
            let wire = wire(map::virtio_spi(map::VIRTIO_KEY_SLOT));
            Arc::new(SpinLock::new(Rank::Device, Mmio::new(PowerKey::new(), wire, memory.clone())))
        };
        Self { gpio: kind.gpio().then(gpio), virtio: kind.virtio().then(virtio) }
    }

    /// Their windows.
    pub fn devices(&self) -> Vec<(Ipa, u64, DeviceHandle)> {
        let gpio = self.gpio.clone().map(|gpio| (map::PL061_BASE, map::PL061_SIZE, gpio as DeviceHandle));
        let slot = map::virtio_base(map::VIRTIO_KEY_SLOT);
        let virtio = self.virtio.clone().map(|virtio| (slot, map::VIRTIO_SIZE, virtio as DeviceHandle));
        gpio.into_iter().chain(virtio).collect()
    }

    /// Presses the key: one of them, so that a guest with drivers for both hears of one press. The virtio device knows whether a
    /// driver took it, the PL061 does not. `false`: nobody can have heard.
    pub fn press(&self) -> bool {
        if self.virtio.as_ref().is_some_and(|virtio| virtio.lock().press()) {
            return true;
        }
        let Some(gpio) = &self.gpio else { return false };
        gpio.lock().press(map::POWER_KEY_LINE);
        true
    }

    /// Lets go of it, whichever it was.
    pub fn release(&self) {
        if let Some(virtio) = &self.virtio {
            virtio.lock().release();
        }
        if let Some(gpio) = &self.gpio {
            gpio.lock().release(map::POWER_KEY_LINE);
        }
    }
}
