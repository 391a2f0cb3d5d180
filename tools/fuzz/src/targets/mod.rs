//! The devices, each with what is outside of it.

mod blk;
mod key;
mod net;
mod rng;
mod transport;

use crate::play::run;

/// A target by name.
pub type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Entry; 5] = [
    ("transport", run::<transport::Echo>),
    ("blk", run::<blk::Disks>),
    ("net", run::<net::Network>),
    ("rng", run::<rng::Randomness>),
    ("key", run::<key::Finger>),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Until};

    #[test]
    fn devices_survive_blind_inputs_and_one_that_is_broken_does_not() {
        for (name, target) in ALL {
            let failure = Engine::new(name, target, 7).run(&Until::Inputs(150), None);
            assert!(failure.is_none(), "{name}: {failure:?}");
        }
        for (name, target, message) in transport::BROKEN {
            let failure = Engine::new(name, target, 7).run(&Until::Inputs(3000), None).expect(name);
            assert!(failure.message.contains(message), "{name}: {}", failure.message);
        }
    }
}
