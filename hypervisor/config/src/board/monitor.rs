//! What EL3 alone is told of the board, where Merus itself is there: nodes that are on for the Secure side.
//!
//! Linux, Documentation/devicetree/bindings: `arm/secure`, `power/reset/gpio-poweroff`, `power/reset/gpio-restart`, `gpio/pl061-gpio`.
//! What has another form than these is as good as absent: the machine has to be ended by hand then.

use super::PowerPins;
use super::nodes::{Place, words};
use alloc::vec::Vec;

/// The pins that end the machine, where the Secure side has such on a PL061.
pub(super) fn power_pins(root: &Place<'_>) -> Option<PowerPins> {
    let nodes: Vec<Place<'_>> = root.children().filter(Place::is_usable_by_secure).collect();
    let pin = |compatible: &str| {
        let node = nodes.iter().find(|node| node.is_compatible(&[compatible]))?;
        // One pin: the controller, its number and flags, of which 0 is "high when active".
        match words(node.value("gpios")?)?.as_slice() {
            [controller, pin @ 0..=7, 0] => Some((*controller, *pin as u8)),
            _ => None,
        }
    };
    let (off, reset) = (pin("gpio-poweroff"), pin("gpio-restart"));
    let (controller, _) = off.or(reset)?;
    let of = |pin: Option<(u32, u8)>| pin.filter(|(own, _)| *own == controller).map(|(_, pin)| pin);
    let gpio = nodes.iter().find(|node| node.phandle() == Some(controller) && node.is_compatible(&["arm,pl061"]))?;
    let registers = gpio.reg().ok()?.first().copied()?;
    Some(PowerPins { registers, off: of(off), reset: of(reset) })
}
