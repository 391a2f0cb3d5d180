//! What a guest has been shown of the time that was stolen from a vCPU, and when it is shown more.
//!
//! The time is told when the vCPU gets a pCPU: while it waits for one, nobody of its own could read it. One that goes on
//! where it was after next to no wait (it has blocked and was woken, or nobody else was there) costs a comparison and no
//! store; what is held back is less than [`GRAIN`] in all, and comes with what follows.
//!
//! | the VM is | its vCPUs' stolen time |
//! |---|---|
//! | running | grows while a vCPU waits for a pCPU or has used up its share (`cpu.max`, a real-time budget) |
//! | paused | stands: its own clock stands as well |
//! | reset | stays: a guest that starts again takes what it finds for the beginning |
//! | created again | is 0 |

/// ns of stolen time from which on it is told.
const GRAIN: u64 = 10_000;

/// What a guest has been shown of one vCPU's stolen time; 0 at first, as its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shown(u64);

impl Shown {
    /// The vCPU gets a pCPU, and `stolen` ns have been stolen from it in its life: what to write to its record, if anything. Never
    /// less than before.
    #[inline]
    pub fn grows_to(&mut self, stolen: u64) -> Option<u64> {
        if stolen.saturating_sub(self.0) < GRAIN {
            return None;
        }
        self.0 = stolen;
        Some(stolen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_wait_is_told_with_the_next() {
        let mut shown = Shown::default();
        assert_eq!(shown.grows_to(0), None);
        assert_eq!(shown.grows_to(GRAIN - 1), None);
        assert_eq!(shown.grows_to(GRAIN), Some(GRAIN));
        assert_eq!(shown.grows_to(GRAIN), None);
        assert_eq!(shown.grows_to(2 * GRAIN + 1), Some(2 * GRAIN + 1));
    }

    proptest! {
        /// Whatever is counted, the record never goes back, and is never behind by a grain.
        #[test]
        fn the_record_follows_and_never_goes_back(counted in prop::collection::vec(
            prop_oneof![0..4 * GRAIN, any::<u64>(), Just(u64::MAX)], 1..50,
        )) {
            let (mut shown, mut record, mut most) = (Shown::default(), 0, 0);
            for stolen in counted {
                if let Some(ns) = shown.grows_to(stolen) {
                    prop_assert!(ns > record);
                    record = ns;
                }
                most = most.max(stolen);
                prop_assert!(record <= most && most - record < GRAIN);
            }
        }
    }
}
