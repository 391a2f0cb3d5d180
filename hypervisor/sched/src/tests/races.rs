//! Every order in which the steps of a few CPUs can interleave. A step is what happens under one lock.
use std::vec::Vec;

use super::{admit, shares};
use crate::{EntityId, RunQueue, RunState, Started, Wake, Why};

const V: EntityId = EntityId(3);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// The vCPU's pCPU, on its way to block.
    Clear,
    Look,
    Block,
    /// A CPU that interrupts it.
    Raise,
    Wake,
    /// Its pCPU gives it back first (a tick), then picks again.
    Preempt,
    Pick,
}

struct World {
    queue: RunQueue,
    /// What the vGIC would show.
    pending: bool,
    /// What its pCPU saw when it looked.
    seen: bool,
}

impl World {
    fn new() -> Self {
        let mut queue = RunQueue::new(shares(2, &[100]), 0);
        admit(&mut queue, V.0, 0);
        queue.start(V, 0).unwrap();
        queue.pick(0).unwrap();
        Self { queue, pending: false, seen: false }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Clear => self.queue.clear_wake(V),
            Step::Look => self.seen = self.pending,
            Step::Block if self.seen => {}
            Step::Block => drop(self.queue.put(V, 1, Why::Blocked).unwrap()),
            Step::Raise => self.pending = true,
            Step::Wake => assert_ne!(self.queue.wake(V, 1), Wake::NotHere),
            Step::Preempt => drop(self.queue.put(V, 1, Why::Preempted).unwrap()),
            Step::Pick => drop(self.queue.pick(1)),
        }
    }
}

/// Calls `run` with every interleaving of `threads`.
fn interleavings(threads: &[&[Step]], run: &mut impl FnMut(&[Step])) {
    fn go(threads: &[&[Step]], at: &mut [usize], so_far: &mut Vec<Step>, run: &mut impl FnMut(&[Step])) {
        let mut leaf = true;
        for t in 0..threads.len() {
            if let Some(step) = threads[t].get(at[t]) {
                leaf = false;
                at[t] += 1;
                so_far.push(*step);
                go(threads, at, so_far, run);
                so_far.pop();
                at[t] -= 1;
            }
        }
        if leaf {
            run(so_far);
        }
    }
    go(threads, &mut std::vec![0; threads.len()], &mut Vec::new(), run);
}

fn sleeps_on_a_pending_interrupt(order: &[Step]) -> bool {
    let mut world = World::new();
    order.iter().for_each(|s| world.step(*s));
    world.queue.check();
    world.pending && world.queue.state(V) == Some(RunState::Blocked)
}

const BLOCKER: &[Step] = &[Step::Clear, Step::Look, Step::Block];
const WAKER: &[Step] = &[Step::Raise, Step::Wake];

#[test]
fn no_wake_up_is_lost() {
    let mut runs = 0;
    let wakers = [&[BLOCKER, WAKER][..], &[BLOCKER, WAKER, WAKER], &[BLOCKER, WAKER, WAKER, WAKER]];
    // With more wakers there are too many orders for Miri.
    for threads in wakers.into_iter().take(if cfg!(miri) { 1 } else { 3 }) {
        interleavings(threads, &mut |order| {
            runs += 1;
            assert!(!sleeps_on_a_pending_interrupt(order), "{order:?}");
        });
    }
    assert_eq!(runs, 10 + if cfg!(miri) { 0 } else { 210 + 7_560 });
}

#[test]
fn no_wake_up_is_lost_across_a_preemption() {
    let twice = &[Step::Preempt, Step::Pick, Step::Clear, Step::Look, Step::Block];
    let threads = [twice, WAKER, WAKER];
    interleavings(&threads[..if cfg!(miri) { 2 } else { 3 }], &mut |order| {
        assert!(!sleeps_on_a_pending_interrupt(order), "{order:?}");
    });
}

/// The harness can see a lost wake-up: in the wrong order of the blocker's steps it does.
#[test]
fn looking_before_clearing_would_lose_one() {
    let wrong = &[Step::Look, Step::Clear, Step::Block];
    let mut lost = false;
    interleavings(&[wrong, WAKER], &mut |order| lost |= sleeps_on_a_pending_interrupt(order));
    assert!(lost);
}

/// CPU_OFF on its own pCPU against CPU_ON from another: whichever comes first, it is Ready in the end.
#[test]
fn a_cpu_on_during_cpu_off_takes_effect() {
    for start_first in [true, false] {
        let mut queue = World::new().queue;
        if start_first {
            assert_eq!(queue.start(V, 1), Ok(Started::WhenPut));
            // Blocking in between does not use the start up.
            queue.put(V, 1, Why::Preempted).unwrap();
            queue.pick(1).unwrap();
            assert_eq!(queue.put(V, 2, Why::Off), Ok(RunState::Ready));
        } else {
            assert_eq!(queue.put(V, 1, Why::Off), Ok(RunState::Off));
            assert!(matches!(queue.start(V, 2), Ok(Started::Enqueued(_))));
        }
        queue.check();
        assert_eq!(queue.state(V), Some(RunState::Ready));
        // It is used up: the next CPU_OFF holds.
        queue.pick(3).unwrap();
        assert_eq!(queue.put(V, 4, Why::Off), Ok(RunState::Off));
    }
}

/// A thief moves the vCPU while a waker, who knows only its last home, follows it.
#[test]
fn a_waker_finds_a_vcpu_that_moves() {
    // Thief: take, receive + new home. Waker: raise, then wake at the home it reads, again while it is not there.
    for taken_before_wake in [false, true] {
        let first = World::new().queue;
        let mut queues = [RunQueue::new(first.shares.clone(), 1), first];
        queues.swap(0, 1);
        queues[1].resize(8);
        queues[0].put(V, 1, Why::Blocked).unwrap();
        queues[0].set_resident(None);
        let mut home = 0;
        if !taken_before_wake {
            assert!(matches!(queues[home].wake(V, 1), Wake::Enqueued(_)));
        }
        let stolen = queues[0].take(V, 1).unwrap();
        assert_eq!(queues[home].wake(V, 1), Wake::NotHere);
        queues[1].receive(stolen, 2).unwrap();
        home = 1;
        let found = queues[home].wake(V, 3);
        assert!(matches!(found, Wake::Enqueued(_)) == taken_before_wake);
        assert_eq!(queues[1].state(V), Some(RunState::Ready));
        queues.iter().for_each(RunQueue::check);
    }
}
