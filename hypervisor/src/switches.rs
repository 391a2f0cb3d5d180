//! The machine's switches, by name.

use crate::uplink::Uplink;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::spec::SwitchSpec;
use host::port::Bell;
use proto::SwitchRow;
use spin::Once;
use switch::{Clock, PortConfig, Switch, SwitchPort};

struct Seconds;

impl Clock for Seconds {
    fn seconds(&self) -> u32 {
        (crate::time::now_ns() / 1_000_000_000) as u32
    }
}

/// A switch by its name, and its uplink, if it has one.
pub struct Named {
    name: String,
    /// The switch.
    pub switch: Arc<Switch>,
    /// Its uplink, if it has one.
    pub uplink: Once<Arc<Uplink>>,
}

/// The machine's switches. There are as many as the bundle describes.
#[derive(Default)]
pub struct Switches(Vec<Named>);

impl Switches {
    /// Makes them. `seed`: as [`Switch::new`] asks for it, anew for each.
    pub fn new(specs: &[SwitchSpec], mut seed: impl FnMut() -> u64) -> Self {
        let named = |spec: &SwitchSpec| {
            let switch = Switch::new(Box::new(Seconds), seed());
            Named { name: spec.name.clone(), switch, uplink: Once::new() }
        };
        Self(specs.iter().map(named).collect())
    }

    /// The switch of this name.
    pub fn get(&self, name: &str) -> Option<&Named> {
        self.0.iter().find(|named| named.name == name)
    }

    /// What the control line says of the switch of this name.
    pub fn row(&self, name: &str) -> Option<SwitchRow> {
        let Named { name, switch, uplink } = self.get(name)?;
        let (ports, learned) = (switch.ports() as u32, switch.learned() as u32);
        Some(SwitchRow { name: name.clone(), ports, learned, uplink: uplink.get().map(|uplink| uplink.counts()) })
    }

    /// A port of the switch of this name.
    pub fn attach(&self, name: &str, config: &PortConfig, bell: Box<dyn Bell>) -> Option<SwitchPort> {
        self.get(name)?.switch.attach(config, bell).ok()
    }

    /// Makes this its uplink: before the first VM is made, which else has no way out.
    pub fn set_uplink(&self, name: &str, uplink: Arc<Uplink>) {
        if let Some(named) = self.get(name) {
            named.uplink.call_once(|| uplink);
        }
    }
}
