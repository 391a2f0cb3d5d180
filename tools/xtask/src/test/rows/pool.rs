//! Who runs when: rows two at a time, and a third thread at a low priority.
//!
//! Rows leave CPUs idle, when their guests sleep. What goes by counted instructions is the same however slowly it runs, so a third
//! thread runs that, at a low priority: the benches, and the rows with `icount` to which nothing comes from outside.

use super::{Bench, Env, boot_one, verdict};
use crate::bench;
use crate::ctx::{self, Step};
use crate::qemu;
use crate::setup::TargetKind;
use crate::table::Boot;
use crate::test::Tally;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Rows that run at once, beside those of the low priority. Each QEMU has a thread for every pCPU, so more would only make them slower.
const AT_ONCE: usize = 2;

/// What is taken from a queue.
enum Job<'a> {
    Boot(&'a Boot),
    /// One after the other: they build the same payload.
    Benches(&'a TargetKind, Vec<Bench>),
}

/// Jobs, taken by several threads in their order.
struct Queue<'a> {
    jobs: Vec<Job<'a>>,
    next: AtomicUsize,
}

impl<'a> Queue<'a> {
    fn new(jobs: Vec<Job<'a>>) -> Self {
        Self { jobs, next: AtomicUsize::new(0) }
    }

    fn take(&self) -> Option<&Job<'a>> {
        self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Boots the rows, [`AT_ONCE`] at a time, each counted when it is done. What is counted in instructions runs beside them, and with
/// them once all others are done.
pub fn run<'a>(env: &Env<'_>, boots: &'a [Boot], benches: Option<(&'a TargetKind, Vec<Bench>)>, tally: &mut Tally) {
    let (counted, timed): (Vec<_>, Vec<_>) = boots.iter().partition(|boot| boot.counted);
    let benches = benches.filter(|(_, benches)| !benches.is_empty());
    let benches = benches.map(|(kind, benches)| Job::Benches(kind, benches));
    let timed = Queue::new(timed.into_iter().map(Job::Boot).collect());
    let counted = Queue::new(benches.into_iter().chain(counted.into_iter().map(Job::Boot)).collect());
    let beside = !timed.jobs.is_empty() && !counted.jobs.is_empty();
    let tally = Mutex::new(tally);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(timed.jobs.len() + counted.jobs.len()) {
            scope.spawn(|| {
                ctx::quiet();
                while let Some(job) = timed.take().or_else(|| counted.take()) {
                    job.run(env, &tally);
                }
            });
        }
        if beside {
            scope.spawn(|| {
                ctx::quiet();
                qemu::yielding();
                while let Some(job) = counted.take() {
                    job.run(env, &tally);
                }
            });
        }
    });
}

impl Job<'_> {
    fn run(&self, env: &Env<'_>, tally: &Mutex<&mut Tally>) {
        let count = |name: &str, took: Duration, result: Result<(), String>| {
            // A thread that panicked has ended the program by the scope's end; its lock is no worse for it.
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(()) => tally.passed(name, took),
                Err(why) => tally.failed(name, took, &why),
            }
        };
        let start = Instant::now();
        match self {
            Self::Boot(boot) => {
                let (took, result) = match boot_one(env, boot) {
                    Ok(outcome) => (outcome.took, verdict(env, boot, &outcome)),
                    Err(error) => (start.elapsed(), Err(format!("{error:#}"))),
                };
                count(&boot.name, took, result);
            }
            Self::Benches(kind, benches) => {
                for (name, board) in benches {
                    let start = Instant::now();
                    let result = bench::check(env.ctx, kind, &Step::start(*name), *board);
                    count(name, start.elapsed(), result.map_err(|error| format!("{error:#}")));
                }
            }
        }
    }
}
