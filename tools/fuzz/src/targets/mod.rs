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

    /// Inputs that failed once: the target, what was wrong, the input.
    const FOUND: [(&str, &str, &str); 2] = [
        (
            "transport",
            "pages had come back for two queues, and both were served in one step",
            "006c0000000000000000000c00000000
             001300b17476f97e645a000000000000
             002a1b0000e800000000000000000000
             00d5000000038b807d00000000000000
             002e00cb000000000000000000000000
             002a0000003500000000000000000000
             001b0000000000000000000000000000
             00ade000000000000000000000000000
             00",
        ),
        (
            "net",
            "the same, with a card",
            "add12500000000000000000000000000
             000cfc00000000000000000045000000
             006e00a7005e00000000000000000000
             00960063000008003a00b10000000000
             00ca7f000000bd000000000000000000
             00b80000000000000000000000000000
             00ca00000000bd000000000000000000
             00510000000000000000000000000000
             00b8b900000000000000000000000000
             000fd900000000000000000000000000
             00",
        ),
    ];

    #[test]
    fn what_failed_once_does_not_any_more() {
        for (name, what, text) in FOUND {
            println!("{name}: {what}");
            let (_, target) = ALL.into_iter().find(|(known, _)| *known == name).expect(name);
            target(&crate::input::from_text(text).expect(what));
        }
    }

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
