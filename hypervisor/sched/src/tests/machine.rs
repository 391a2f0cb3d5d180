//! A simulated machine: several queues, vCPUs with a behaviour, and a kernel that makes the calls as the crate's table says.
use std::{collections::BTreeMap, sync::Arc, vec::Vec};

use crate::{Affinity, Class, Enqueued, EntityId, RunQueue, RunState, Shares, Stolen, VmId, Wake, Why, place};

/// What a vCPU does: runs for some time, then sleeps for some. For ever running: (u64::MAX, 0).
pub type Behaviour = std::boxed::Box<dyn FnMut(u64) -> (u64, u64)>;

/// Slept for so long, a vCPU has not slept but spins: it gives way to a sibling, or anybody.
pub const YIELD: u64 = u64::MAX;

/// Runs for ever.
pub fn busy() -> Behaviour {
    std::boxed::Box::new(|_| (u64::MAX, 0))
}

/// Each time for `run`, then sleeps for `sleep`.
pub fn sleeper(run: u64, sleep: u64) -> Behaviour {
    std::boxed::Box::new(move |_| (run, sleep))
}

pub struct Guest {
    behaviour: Behaviour,
    /// Service that is left of its burst, and how long it sleeps then.
    left: u64,
    sleep: u64,
    home: usize,
    vm: u16,
    /// When it wakes, if it sleeps.
    wakes: Option<u64>,
    /// When the burst began, and the longest from that to its end.
    began: u64,
    pub longest: u64,
}

pub struct Machine {
    pub shares: Arc<Shares>,
    pub queues: Vec<RunQueue>,
    pub guests: BTreeMap<u32, Guest>,
    pub now: u64,
    /// What runs on each pCPU since when.
    on: Vec<Option<(u32, u64)>>,
    pub moves: u64,
    pub steals: u64,
    pub placed: u64,
    pub slices: u64,
    /// A put comes this much after the slice's end at most.
    pub late: u64,
    /// A kick arrives this much after it was sent at most.
    pub latency: u64,
    kicks: Vec<Option<u64>>,
    seed: u64,
    wakes: std::collections::BTreeSet<(u64, u32)>,
}

impl Machine {
    pub fn new(pcpus: usize, shares: Shares) -> Self {
        let shares = Arc::new(shares);
        let queues = (0..pcpus).map(|p| RunQueue::new(shares.clone(), p)).collect();
        let on = (0..pcpus).map(|_| None).collect();
        let guests = BTreeMap::new();
        let wakes = Default::default();
        Self {
            shares,
            queues,
            guests,
            now: 0,
            on,
            moves: 0,
            steals: 0,
            placed: 0,
            slices: 0,
            late: 0,
            latency: 0,
            kicks: std::vec![None; pcpus],
            seed: 1,
            wakes,
        }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below.max(1)
    }

    pub fn add(&mut self, id: u32, vm: u16, home: usize, class: Class, allowed: Affinity, mut behaviour: Behaviour) {
        let new = Stolen::new(&self.shares, EntityId(id), VmId(vm)).unwrap().allow(allowed);
        let total = self.guests.len() + 1;
        for queue in &mut self.queues {
            if queue.slab.room() < total {
                queue.resize(2 * total);
            }
        }
        let queue = &mut self.queues[home];
        queue.admit(new).unwrap();
        if class != Class::Fair {
            queue.set_class(EntityId(id), class, self.now).unwrap();
        }
        queue.start(EntityId(id), self.now).unwrap();
        let (left, sleep) = behaviour(self.now);
        self.guests.insert(id, Guest { behaviour, left, sleep, home, vm, wakes: None, began: self.now, longest: 0 });
    }

    pub fn ran(&self, id: u32) -> u64 {
        let home = self.guests[&id].home;
        let on = self.on[home].filter(|(on, _)| *on == id).map_or(0, |_| self.now - self.queues[home].charged);
        self.queues[home].stats(EntityId(id)).unwrap().ran_ns + on
    }

    fn receive(&mut self, stolen: Stolen, to: usize) -> Enqueued {
        let id = stolen.id().0;
        assert!(stolen.allowed().has(to));
        self.guests.get_mut(&id).unwrap().home = to;
        self.queues[to].receive(stolen, self.now).unwrap().unwrap()
    }

    /// What the kernel does about an arrival on `pcpu`.
    fn enqueued(&mut self, pcpu: usize, effect: Enqueued) {
        if effect.preempt && self.on[pcpu].is_some() {
            if self.latency == 0 {
                self.preempt(pcpu);
            } else {
                let at = self.now + self.random(self.latency);
                self.kicks[pcpu] = Some(self.kicks[pcpu].map_or(at, |before| before.min(at)));
            }
        }
        if self.on[pcpu].is_none() {
            self.dispatch(pcpu);
        }
        // `offer`.
        for idle in 0..self.queues.len() {
            if self.on[idle].is_none() {
                self.dispatch(idle);
            }
        }
    }

    /// A kick has come: what runs is put, and the queue picks again.
    fn preempt(&mut self, pcpu: usize) {
        self.kicks[pcpu] = None;
        if self.on[pcpu].is_some() {
            self.put(pcpu, Why::Preempted);
            self.push(pcpu);
        }
        if self.on[pcpu].is_none() {
            self.dispatch(pcpu);
        }
    }

    /// The kernel's look for a pCPU that runs a woken vCPU sooner.
    fn sooner(&mut self, id: u32, home: usize) -> bool {
        let queue = &mut self.queues[home];
        let (Some(allowed), Some(class)) = (queue.affinity(EntityId(id)), queue.class(EntityId(id))) else {
            return false;
        };
        let shares = &self.shares;
        let found = place(|p| shares.view(p), self.on.len(), home, allowed, class, false);
        let Some(to) = found.filter(|to| *to != home) else { return false };
        let Ok(stolen) = self.queues[home].take(EntityId(id), self.now) else { return false };
        self.placed += 1;
        let effect = self.receive(stolen, to);
        self.enqueued(to, effect);
        true
    }

    /// After each `put` that leaves others waiting, as the kernel does it.
    fn push(&mut self, pcpu: usize) {
        if self.queues[pcpu].ready_count() < 2 {
            return;
        }
        if let Some((stolen, to)) = self.queues[pcpu].shed(self.now) {
            self.moves += 1;
            let effect = self.receive(stolen, to);
            self.enqueued(to, effect);
        }
    }

    fn put(&mut self, pcpu: usize, why: Why) -> RunState {
        let (id, since) = self.on[pcpu].take().unwrap();
        let guest = self.guests.get_mut(&id).unwrap();
        guest.left = guest.left.saturating_sub(self.now - since);
        self.slices += 1;
        self.queues[pcpu].put(EntityId(id), self.now, why).unwrap()
    }

    fn dispatch(&mut self, pcpu: usize) {
        loop {
            let now = self.now;
            if let Some(pick) = self.queues[pcpu].pick(now) {
                self.queues[pcpu].set_resident(Some(pick.id));
                self.on[pcpu] = Some((pick.id.0, now));
                return;
            }
            self.queues[pcpu].set_resident(None);
            let spare = |m: &Self, p: usize| m.on[p].is_some() || m.queues[p].ready_count() > 1;
            let Some(stolen) = (0..self.queues.len())
                .filter(|p| *p != pcpu && spare(self, *p))
                .collect::<Vec<_>>()
                .into_iter()
                .find_map(|p| self.queues[p].steal(pcpu, now))
            else {
                return;
            };
            self.steals += 1;
            let _ = self.receive(stolen, pcpu);
        }
    }

    /// The end of a slice.
    fn turn(&mut self, pcpu: usize) {
        self.put(pcpu, Why::Preempted);
        self.push(pcpu);
        if self.on[pcpu].is_none() {
            self.dispatch(pcpu);
        }
    }

    /// The next thing to happen on `pcpu`: its time, 0 for the end of a burst, 1 for its timer, 2 for a kick.
    fn next_on(&self, pcpu: usize) -> (u64, u8) {
        let queue = &self.queues[pcpu];
        let timer = queue.slice_end().unwrap_or(u64::MAX).min(queue.next_event().unwrap_or(u64::MAX));
        let burst = self.on[pcpu].map_or(u64::MAX, |(id, since)| since.saturating_add(self.guests[&id].left));
        let kick = self.kicks[pcpu].unwrap_or(u64::MAX);
        match burst.min(timer) {
            first if kick < first => (kick.max(self.now), 2),
            _ if burst <= timer => (burst, 0),
            _ => (timer.max(self.now), 1),
        }
    }

    /// Goes on until `end`, with a look at the machine after each event.
    pub fn run_until(&mut self, end: u64, mut look: impl FnMut(&Self)) {
        for pcpu in 0..self.queues.len() {
            if self.on[pcpu].is_none() {
                self.dispatch(pcpu);
            }
        }
        loop {
            let wake = self.wakes.first().copied();
            let (mut at, pcpu, what) =
                (0..self.queues.len()).map(|p| (self.next_on(p).0, p, self.next_on(p).1)).min().unwrap();
            if let Some((when, id)) = wake.filter(|(when, _)| *when <= at) {
                if when > end {
                    break;
                }
                self.now = self.now.max(when);
                self.wakes.pop_first();
                self.wake(id);
                look(self);
                continue;
            }
            if at > end {
                break;
            }
            if what == 1 && self.late != 0 {
                at += self.random(self.late);
            }
            self.now = self.now.max(at);
            match what {
                0 => self.sleep(pcpu),
                1 => self.timer(pcpu),
                _ => self.preempt(pcpu),
            }
            look(self);
        }
        self.now = self.now.max(end);
    }

    fn timer(&mut self, pcpu: usize) {
        let now = self.now;
        if let Some(effect) = self.queues[pcpu].release(now) {
            self.enqueued(pcpu, effect);
        }
        if self.queues[pcpu].slice_end().is_some_and(|end| end <= now) {
            self.turn(pcpu);
        }
    }

    fn sleep(&mut self, pcpu: usize) {
        let (id, _) = self.on[pcpu].unwrap();
        let now = self.now;
        if self.guests[&id].sleep == YIELD {
            if !self.queues[pcpu].contended() {
                // Not trapped: nobody waits.
                let guest = self.guests.get_mut(&id).unwrap();
                (guest.left, guest.sleep) = (guest.behaviour)(now);
                guest.began = now;
                self.on[pcpu] = Some((id, now));
                return;
            }
            let vm = self.guests[&id].vm;
            let siblings: Vec<u32> =
                self.guests.iter().filter(|(s, g)| g.vm == vm && **s != id).map(|(s, _)| *s).collect();
            let first = siblings.iter().position(|s| *s > id).unwrap_or(0);
            for n in 0..siblings.len() {
                if self.queues[pcpu].yield_to(EntityId(siblings[(first + n) % siblings.len()]), now) == Ok(true) {
                    break;
                }
            }
            self.put(pcpu, Why::Yielded);
            let guest = self.guests.get_mut(&id).unwrap();
            (guest.left, guest.sleep) = (guest.behaviour)(now);
            self.push(pcpu);
            if self.on[pcpu].is_none() {
                self.dispatch(pcpu);
            }
            return;
        }
        self.put(pcpu, Why::Blocked);
        let guest = self.guests.get_mut(&id).unwrap();
        guest.longest = guest.longest.max(now - guest.began);
        let wakes = now + guest.sleep;
        guest.wakes = Some(wakes);
        self.wakes.insert((wakes, id));
        self.push(pcpu);
        if self.on[pcpu].is_none() {
            self.dispatch(pcpu);
        }
    }

    fn wake(&mut self, id: u32) {
        let now = self.now;
        let guest = self.guests.get_mut(&id).unwrap();
        guest.wakes = None;
        (guest.left, guest.sleep) = (guest.behaviour)(now);
        guest.began = now;
        let home = guest.home;
        match self.queues[home].wake(EntityId(id), now) {
            Wake::Enqueued(effect) if effect.preempt || !self.sooner(id, home) => self.enqueued(home, effect),
            Wake::Enqueued(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// No pCPU is idle while another has somebody Ready whom it could run.
    pub fn assert_busy(&self) {
        for idle in (0..self.queues.len()).filter(|p| self.on[*p].is_none()) {
            for other in 0..self.queues.len() {
                let ready = self.queues[other].slab.all().filter(|e| e.state == RunState::Ready && e.is_fair());
                let movable = ready.filter(|e| e.allowed.has(idle)).count();
                assert!(movable == 0, "{idle} is idle, and {movable} wait on {other} at {}", self.now);
            }
        }
    }
}
