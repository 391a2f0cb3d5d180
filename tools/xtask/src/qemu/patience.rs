//! How long a run may take on a machine that has other work: what QEMU waited for a CPU is not held against it.
//!
//! A row's timeout is for a machine that gives QEMU the CPUs it asks for. Where others want them as well, the kernel counts
//! for each thread how long it was ready and did not run. The most that any thread of QEMU waited is added to the timeout:
//! a guest that sleeps for ever, or spins for ever, is ended all the same, for its threads run while they spin.

use std::fs;
use std::time::Duration;

/// The longest that a run may take, in timeouts, however busy the machine is.
const MOST: u32 = 10;

/// How long a run with this timeout may take from its start, whose QEMU has waited so long for a CPU.
pub fn allowed(timeout: Duration, waited: Duration) -> Duration {
    timeout.saturating_add(waited).min(timeout.saturating_mul(MOST))
}

/// The longest that a thread of the process was ready and had no CPU; zero where the kernel does not say.
pub fn waited(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let waits = threads.into_iter().flatten().flatten().filter_map(|thread| {
        let path = thread.path().join("schedstat");
        waited_of(&fs::read_to_string(path).ok()?)
    });
    waits.max().unwrap_or(Duration::ZERO)
}

/// The second number of a `schedstat` file: nanoseconds on a run queue.
fn waited_of(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_cpu_is_not_held_against_a_run() {
        let second = Duration::from_secs(1);
        assert_eq!(allowed(60 * second, Duration::ZERO), 60 * second);
        assert_eq!(allowed(60 * second, 30 * second), 90 * second);
        // However long: a run ends.
        assert_eq!(allowed(second, 3600 * second), MOST * second);
        assert_eq!(allowed(Duration::MAX, second), Duration::MAX);
    }

    #[test]
    fn the_wait_is_the_second_number() {
        assert_eq!(waited_of("120173798 1315373321 199\n"), Some(Duration::from_nanos(1_315_373_321)));
        for none in ["", "1", "1 x 2"] {
            assert_eq!(waited_of(none), None, "{none}");
        }
    }

    /// No process has this number.
    #[test]
    fn a_process_that_has_gone_has_not_waited() {
        assert_eq!(waited(u32::MAX), Duration::ZERO);
    }
}
