//! `passthrough`: devices of the board that a VM is given, and whether one that reaches memory by itself may be among them.

use super::Fault;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The most devices of one VM.
pub const MAX_PASSTHROUGH: usize = 16;
/// The most bytes of a device's path.
pub const MAX_DEVICE_PATH: usize = 255;
/// What `passthrough` looks like.
pub const PASSTHROUGH_FORM: &str = "a list of paths in the board's device tree such as [\"/soc/serial@7e215040\"]";
/// What `unsafe-dma` looks like.
pub const UNSAFE_DMA_FORM: &str = "true or false";

/// What a VM is given of the board.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PassthroughSpec {
    /// Devices, by their path in the board's tree (from `/`), or by an alias of it (`serial1`).
    pub devices: Vec<String>,
    /// Devices that write to memory by themselves are given too. There is no IOMMU between them and any memory.
    pub unsafe_dma: bool,
}

impl PassthroughSpec {
    /// A list as it is typed: paths with commas between them, with or without brackets and quotation marks.
    pub fn parse_devices(text: &str) -> Vec<String> {
        let list = text.trim().trim_start_matches('[').trim_end_matches(']');
        let words = list.split(',').map(|word| word.trim().trim_matches('"').to_string());
        words.filter(|word| !word.is_empty()).collect()
    }

    /// As `Display` of a `bool` writes it.
    pub fn parse_unsafe_dma(text: &str) -> Option<bool> {
        match text.trim() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// Checks it without the board.
    pub fn check(&self) -> Result<(), Fault> {
        if self.devices.len() > MAX_PASSTHROUGH {
            return Err(Fault::PassthroughCount { devices: self.devices.len() });
        }
        for (index, device) in self.devices.iter().enumerate() {
            let path = device.starts_with('/') && device.len() > 1;
            let alias = device.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            let plain =
                !device.is_empty() && device.len() <= MAX_DEVICE_PATH && device.chars().all(|c| c.is_ascii_graphic());
            if !plain || !(path || alias) {
                return Err(Fault::DevicePath { device: device.to_string() });
            }
            if self.devices.iter().take(index).any(|other| other == device) {
                return Err(Fault::DeviceTwice { device: device.to_string() });
            }
        }
        Ok(())
    }

    /// The first device that both have.
    pub fn shared(&self, other: &Self) -> Option<&str> {
        self.devices.iter().find(|device| other.devices.contains(device)).map(String::as_str)
    }
}
