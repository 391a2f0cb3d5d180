//! The wake-up from another CPU under loom: queues under their locks, every order in which the CPUs can come to them, and every
//! value that the memory model lets them read outside.
use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
use std::{collections::BTreeSet, vec::Vec};

use super::{admit, shares};
use crate::{EntityId, RunQueue, RunState, Wake, Why};

const V: EntityId = EntityId(3);

/// Two pCPUs, a vCPU that runs or waits on the first, and its interrupt.
struct World {
    queues: Vec<Mutex<RunQueue>>,
    home: AtomicUsize,
    pending: AtomicBool,
}

impl World {
    fn new(blocked: bool) -> Arc<Self> {
        let shares = shares(2, &[100]);
        let mut queues: Vec<_> = (0..2).map(|p| RunQueue::new(shares.clone(), p)).collect();
        admit(&mut queues[0], V.0, 0);
        queues[1].resize(1);
        queues[0].start(V, 0).unwrap();
        queues[0].pick(0).unwrap();
        if blocked {
            queues[0].put(V, 0, Why::Blocked).unwrap();
        }
        let queues = queues.into_iter().map(Mutex::new).collect();
        Arc::new(Self { queues, home: AtomicUsize::new(0), pending: AtomicBool::new(false) })
    }

    /// What another CPU does: the interrupt first, then the wake-up wherever the vCPU is.
    fn interrupt(&self) {
        self.pending.store(true, Ordering::Relaxed);
        loop {
            let home = self.home.load(Ordering::Acquire);
            if self.queues[home].lock().unwrap().wake(V, 1) != Wake::NotHere {
                return;
            }
            // On its way from one queue to the other.
            thread::yield_now();
        }
    }

    /// What the vCPU's pCPU does before it sleeps; `careless`: it looks before it forgets earlier wake-ups.
    fn block(&self, careless: bool) {
        let look = || self.pending.load(Ordering::Relaxed);
        let clear = || self.queues[0].lock().unwrap().clear_wake(V);
        let seen = if careless {
            let seen = look();
            clear();
            seen
        } else {
            clear();
            look()
        };
        if !seen {
            self.queues[0].lock().unwrap().put(V, 1, Why::Blocked).unwrap();
        }
    }

    /// Takes the vCPU to the other pCPU.
    fn carry(&self) {
        self.queues[0].lock().unwrap().set_resident(None);
        let stolen = self.queues[0].lock().unwrap().take(V, 1).unwrap();
        let mut there = self.queues[1].lock().unwrap();
        assert!(there.receive(stolen, 1).is_ok());
        self.home.store(1, Ordering::Release);
    }

    fn state(&self) -> RunState {
        self.queues[self.home.load(Ordering::Acquire)].lock().unwrap().state(V).unwrap()
    }
}

/// The states in which the vCPU can be once its pCPU wanted it to sleep and another CPU has interrupted it.
fn ends(careless: bool) -> BTreeSet<&'static str> {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let all = seen.clone();
    loom::model(move || {
        let world = World::new(false);
        let other = world.clone();
        let waker = thread::spawn(move || other.interrupt());
        world.block(careless);
        waker.join().unwrap();
        all.lock().unwrap().insert(match world.state() {
            RunState::Running => "running",
            RunState::Ready => "ready",
            _ => "asleep",
        });
    });
    seen.lock().unwrap().clone()
}

#[test]
#[cfg_attr(miri, ignore = "loom has its own machine")]
fn a_vcpu_never_sleeps_on_an_interrupt() {
    assert_eq!(ends(false), BTreeSet::from(["ready", "running"]));
}

/// The model finds what the order of the calls prevents.
#[test]
#[cfg_attr(miri, ignore = "loom has its own machine")]
fn the_other_order_would() {
    assert!(ends(true).contains("asleep"));
}

/// A waker finds a sleeper that another CPU carries to the other queue.
#[test]
#[cfg_attr(miri, ignore = "loom has its own machine")]
fn a_sleeper_that_moves_is_woken() {
    loom::model(|| {
        let world = World::new(true);
        let other = world.clone();
        let waker = thread::spawn(move || other.interrupt());
        world.carry();
        waker.join().unwrap();
        assert_eq!(world.state(), RunState::Ready);
    });
}
