//! States, moves between queues and the tree, by random operations against simple models.
use proptest::prelude::*;
use std::{boxed::Box, collections::BTreeMap, vec, vec::Vec};

use super::{admit, pin, ready, shares};
use crate::{
    EntityId, Error, RunQueue, RunState, SLICE, Started, Stolen, VmId, Wake, Weight, Why, entity::Entity, slab::Slab,
    tree::Tree,
};

#[derive(Clone, Copy, Debug)]
enum Op {
    Admit(u32, u32),
    Remove(u32),
    Start(u32),
    Wake(u32),
    ClearWake(u32),
    Pick,
    Put(u32, Why),
    Stop(u32),
    Reset(u32),
    Hold(u32),
    Unhold(u32),
    Pin(u32, bool),
    Weigh(u32, u32),
    ClearResident,
    Steal,
    Take(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let id = 0u32..10;
    let why = prop::sample::select(vec![Why::Preempted, Why::Yielded, Why::Blocked, Why::Off, Why::Stopped]);
    prop_oneof![
        2 => (id.clone(), 1u32..10_000).prop_map(|(i, w)| Op::Admit(i, w)),
        1 => id.clone().prop_map(Op::Remove),
        3 => id.clone().prop_map(Op::Start),
        3 => id.clone().prop_map(Op::Wake),
        1 => id.clone().prop_map(Op::ClearWake),
        6 => Just(Op::Pick),
        8 => (id.clone(), why).prop_map(|(i, w)| Op::Put(i, w)),
        1 => id.clone().prop_map(Op::Stop),
        1 => id.clone().prop_map(Op::Reset),
        2 => id.clone().prop_map(Op::Hold),
        2 => id.clone().prop_map(Op::Unhold),
        1 => (id.clone(), any::<bool>()).prop_map(|(i, p)| Op::Pin(i, p)),
        1 => (id.clone(), 1u32..10_000).prop_map(|(i, w)| Op::Weigh(i, w)),
        1 => Just(Op::ClearResident),
        2 => Just(Op::Steal),
        1 => id.prop_map(Op::Take),
    ]
}

/// What each vCPU should be: its state, and the three notes.
#[derive(Clone, Copy, Debug)]
struct Model {
    home: usize,
    state: RunState,
    wake: bool,
    start: bool,
    stop: bool,
    hold: bool,
}

struct World {
    queues: [RunQueue; 2],
    model: BTreeMap<u32, Model>,
    now: u64,
}

impl World {
    fn apply(&mut self, at: usize, op: Op) {
        use RunState::{Blocked, Held, Off, Ready, Running, Stopped};
        let now = self.now;
        let queue = &mut self.queues[at];
        let model = |id: u32, m: &BTreeMap<u32, Model>| m.get(&id).copied().filter(|m| m.home == at);
        match op {
            Op::Admit(id, weight) => {
                // A number is the machine's: admitted once.
                self.model.entry(id).or_insert_with(|| {
                    queue.shares.set_vm_weight(VmId(id as u16), Weight::new(weight).unwrap()).unwrap();
                    admit(queue, id, id as u16);
                    Model { home: at, state: Off, wake: false, start: false, stop: false, hold: false }
                });
            }
            Op::Remove(id) => {
                let removed = queue.remove(EntityId(id), now).map(|gone| gone.id().0);
                match model(id, &self.model) {
                    None => assert_eq!(removed, Err(Error::NotHere)),
                    Some(m) if m.state == Running => assert_eq!(removed, Err(Error::State(Running))),
                    Some(_) => assert!(removed.is_ok() && self.model.remove(&id).is_some()),
                }
            }
            Op::Start(id) => {
                let started = queue.start(EntityId(id), now);
                match model(id, &self.model) {
                    None => assert_eq!(started, Err(Error::NotHere)),
                    Some(m) if m.state == Off => {
                        assert!(matches!(started, Ok(Started::Enqueued(_))));
                        self.model.get_mut(&id).unwrap().state = Ready;
                    }
                    Some(m) if m.state == Running && !m.stop => {
                        assert_eq!(started, Ok(Started::WhenPut));
                        self.model.get_mut(&id).unwrap().start = true;
                    }
                    Some(m) => assert_eq!(started, Err(Error::State(m.state))),
                }
            }
            Op::Wake(id) => {
                let woken = queue.wake(EntityId(id), now);
                match model(id, &self.model).map(|m| m.state) {
                    None => assert_eq!(woken, Wake::NotHere),
                    Some(Ready | RunState::Throttled | Held) => assert_eq!(woken, Wake::AlreadyReady),
                    Some(Off | Stopped) => assert_eq!(woken, Wake::Off),
                    Some(Running) => {
                        assert_eq!(woken, Wake::Running);
                        self.model.get_mut(&id).unwrap().wake = true;
                    }
                    Some(Blocked) => {
                        assert!(matches!(woken, Wake::Enqueued(_)));
                        self.model.get_mut(&id).unwrap().state = Ready;
                    }
                }
            }
            Op::ClearWake(id) => {
                queue.clear_wake(EntityId(id));
                if model(id, &self.model).is_some() {
                    self.model.get_mut(&id).unwrap().wake = false;
                }
            }
            Op::Pick => {
                let running = queue.running();
                match queue.pick(now) {
                    None => {
                        assert!(!self.model.values().any(|m| m.home == at && matches!(m.state, Ready | Running)));
                    }
                    Some(pick) => {
                        assert!(running.is_none_or(|r| r == pick.id));
                        if queue.ready_count() > 0 || running.is_none() {
                            assert_eq!(pick.slice_end.is_some(), queue.ready_count() > 0);
                        }
                        let m = self.model.get_mut(&pick.id.0).unwrap();
                        assert!(m.home == at && m.state == if running.is_some() { Running } else { Ready });
                        m.state = Running;
                    }
                }
            }
            Op::Put(id, why) => {
                let put = queue.put(EntityId(id), now, why);
                match model(id, &self.model) {
                    None => assert_eq!(put, Err(Error::NotHere)),
                    Some(m) if m.state != Running => assert_eq!(put, Err(Error::State(m.state))),
                    Some(m) => {
                        let next = match why {
                            _ if m.stop => Stopped,
                            Why::Stopped => Stopped,
                            Why::Off if !m.start => Off,
                            _ if m.hold => Held,
                            Why::Off => Ready,
                            Why::Blocked => [Blocked, Ready][usize::from(m.wake)],
                            Why::Preempted | Why::Yielded => Ready,
                        };
                        assert_eq!(put, Ok(next));
                        let start = m.start && why != Why::Off && next != Stopped;
                        let stop = m.stop && next != Stopped;
                        self.model.insert(id, Model { state: next, wake: false, start, stop, hold: false, ..m });
                    }
                }
            }
            Op::Stop(id) => {
                let stopped = queue.stop(EntityId(id), now);
                match model(id, &self.model) {
                    None => assert_eq!(stopped, Err(Error::NotHere)),
                    Some(m) if m.state == Running => {
                        assert_eq!(stopped, Ok(Running));
                        self.model.get_mut(&id).unwrap().stop = true;
                    }
                    Some(_) => {
                        assert_eq!(stopped, Ok(Stopped));
                        self.model.get_mut(&id).unwrap().state = Stopped;
                    }
                }
            }
            Op::Reset(id) => {
                let reset = queue.reset(EntityId(id));
                match model(id, &self.model).map(|m| m.state) {
                    None => assert_eq!(reset, Err(Error::NotHere)),
                    Some(Stopped) => {
                        assert_eq!(reset, Ok(()));
                        self.model.get_mut(&id).unwrap().state = Off;
                    }
                    Some(state) => assert_eq!(reset, Err(Error::State(state))),
                }
            }
            Op::Hold(id) => {
                let held = queue.hold(EntityId(id), now);
                match model(id, &self.model) {
                    None => assert_eq!(held, Err(Error::NotHere)),
                    Some(m) => {
                        let (next, hold) = match m.state {
                            Running => (Running, true),
                            Ready | Blocked => (Held, m.hold),
                            state => (state, m.hold),
                        };
                        assert_eq!(held, Ok(next));
                        self.model.insert(id, Model { state: next, hold, ..m });
                    }
                }
            }
            Op::Unhold(id) => {
                let let_go = queue.unhold(EntityId(id), now);
                match model(id, &self.model) {
                    None => assert_eq!(let_go, Err(Error::NotHere)),
                    Some(m) => {
                        assert_eq!(let_go.map(|effect| effect.is_some()), Ok(m.state == Held));
                        let state = if m.state == Held { Ready } else { m.state };
                        self.model.insert(id, Model { state, hold: false, ..m });
                    }
                }
            }
            Op::Pin(id, pinned) => {
                assert_eq!(pin(queue, id, pinned), model(id, &self.model).is_some());
            }
            Op::Weigh(id, weight) => {
                queue.shares.set_vm_weight(VmId(id as u16), Weight::new(weight).unwrap()).unwrap();
                let done = queue.refresh(EntityId(id), now);
                assert_eq!(done.is_ok(), model(id, &self.model).is_some());
            }
            Op::ClearResident => queue.set_resident(None),
            Op::Steal => {
                if let Some(stolen) = queue.steal(1 - at, now) {
                    let m = self.model.get_mut(&stolen.id().0).unwrap();
                    assert!(m.home == at && m.state == Ready);
                    m.home = 1 - at;
                    assert!(self.queues[1 - at].receive(stolen, now).unwrap().is_some());
                }
            }
            Op::Take(id) => {
                if queue.affinity(EntityId(id)).is_some_and(|a| !a.has(1 - at)) {
                    return;
                }
                if let Ok(stolen) = queue.take(EntityId(id), now) {
                    let m = self.model.get_mut(&id).unwrap();
                    assert!(m.home == at && m.state != Running);
                    m.home = 1 - at;
                    assert_eq!(self.queues[1 - at].receive(stolen, now).unwrap().is_some(), m.state == Ready);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]

    /// Any calls in any order on two queues: every answer and every state is what the table says, each vCPU is in exactly
    /// one queue, and the running one's time is all accounted for.
    #[test]
    fn states_follow_the_table(ops in prop::collection::vec((0usize..2, op(), 0u64..5_000_000), 1..if cfg!(miri) { 12 } else { 300 })) {
        let shares = shares(2, &[100; 10]);
        let mut queues = [0, 1].map(|p| RunQueue::new(shares.clone(), p));
        queues.iter_mut().for_each(|q| q.resize(10));
        let mut world = World { queues, model: BTreeMap::new(), now: 0 };
        for (at, op, passes) in ops {
            world.now += passes;
            world.apply(at, op);
            for (home, queue) in world.queues.iter().enumerate() {
                queue.check();
                for id in 0..10 {
                    let expected = world.model.get(&id).filter(|m| m.home == home).map(|m| m.state);
                    prop_assert_eq!(queue.state(EntityId(id)), expected);
                }
            }
        }
    }

    #[test]
    fn the_tree_agrees_with_a_list(
        ops in prop::collection::vec((0u32..200, 0u32..50, 0u32..50, 0u32..8), 1..if cfg!(miri) { 15 } else { 400 }),
        at in 0u32..60,
    ) {
        let mut slab = Slab::default();
        drop(slab.grow(Slab::with_room(200)));
        let slots: Vec<u32> = (0..200).map(|i| slab.insert(Box::new(Entity::new(EntityId(i), 0, None))).unwrap()).collect();
        let mut tree = Tree::new();
        let mut list: BTreeMap<u32, (u128, u128, u128)> = BTreeMap::new();
        for (id, start, request, reach) in ops {
            let slot = slots[id as usize];
            if list.remove(&slot).is_some() {
                tree.remove(&mut slab, slot);
            } else {
                let (start, deadline) = (u128::from(start), u128::from(start + request));
                slab.get_mut(slot).unwrap().node.deadline = deadline;
                tree.insert(&mut slab, slot, start, reach.into());
                list.insert(slot, (start, deadline, reach.into()));
            }
            prop_assert_eq!(tree.check(&slab).len(), list.len());
            prop_assert_eq!(tree.first(&slab), list.iter().map(|(i, v)| (v.0, *i)).min().map(|v| v.1));
            let eligible = list.iter().filter(|(_, v)| v.0 <= u128::from(at));
            prop_assert_eq!(tree.best_until(&slab, at.into()), eligible.map(|(i, v)| (v.1, *i)).min().map(|v| v.1));
            for mask in [1, 2, 4, 6] {
                let reached = list.iter().filter(|(_, v)| v.2 & mask != 0).map(|(i, v)| (v.0, *i)).min().map(|v| v.1);
                prop_assert_eq!(tree.first_within(&slab, mask), reached);
            }
            prop_assert_eq!(tree.reach(&slab), list.values().fold(0, |u, v| u | v.2));
        }
    }

    /// Numbers of any sparseness, in any order: found where they are, and only there.
    #[test]
    fn the_table_agrees_with_a_map(ops in prop::collection::vec((0u32..64, 0u32..4, prop::option::weighted(0.05, 0usize..128)), 1..if cfg!(miri) { 40 } else { 400 })) {
        let mut slab = Slab::default();
        drop(slab.grow(Slab::with_room(16)));
        let mut map: BTreeMap<u32, u32> = BTreeMap::new();
        for (low, high, more) in ops {
            let id = low << 10 | high;
            match map.remove(&id) {
                Some(slot) => prop_assert_eq!(slab.remove(slot).unwrap().id, EntityId(id)),
                None => match slab.insert(Box::new(Entity::new(EntityId(id), 0, None))) {
                    Ok(slot) => drop(map.insert(id, slot)),
                    Err(_) => prop_assert_eq!(map.len(), slab.room()),
                },
            }
            if let Some(room) = more {
                let most = slab.room().max(room);
                prop_assert_eq!(slab.grow(Slab::with_room(room)).len(), 0);
                prop_assert_eq!(slab.room(), most);
            }
            prop_assert_eq!(slab.len(), map.len());
            for high in 0..4 {
                let id = low << 10 | high;
                prop_assert_eq!(slab.find(EntityId(id)), map.get(&id).copied());
            }
        }
    }
}

#[test]
fn time_is_either_run_or_waited() {
    let mut queue = ready(&[100, 50, 7]);
    let mut now = 0;
    for step in 1..if cfg!(miri) { 50 } else { 500 } {
        let pick = queue.pick(now).unwrap();
        now += step * 1_000;
        queue.put(pick.id, now, Why::Preempted).unwrap();
    }
    // Give each its last wait too.
    for _ in 0..3 {
        let pick = queue.pick(now).unwrap();
        queue.put(pick.id, now, Why::Stopped).unwrap();
    }
    let stats: Vec<_> = (0..3).map(|id| queue.stats(EntityId(id)).unwrap()).collect();
    assert!(stats.iter().all(|s| s.ran_ns + s.waited_ns == now), "{stats:?} at {now}");
    assert_eq!(stats.iter().map(|s| s.ran_ns).sum::<u64>(), now);
}

/// What was stolen is told with the pick that ends it; time as Held, while a VM is paused, is none of it, nor is sleep.
#[test]
fn a_pause_is_not_stolen() {
    let mut queue = ready(&[100]);
    let id = EntityId(0);
    assert_eq!(queue.pick(5_000).unwrap().stolen_ns, 5_000);
    queue.put(id, 6_000, Why::Preempted).unwrap();
    assert_eq!(queue.hold(id, 7_000), Ok(RunState::Held));
    assert!(queue.unhold(id, 900_000).unwrap().is_some());
    assert_eq!(queue.pick(902_000).unwrap().stolen_ns, 5_000 + 1_000 + 2_000);
    assert_eq!(queue.pick(903_000).unwrap().stolen_ns, 8_000, "of one that runs already");
    queue.clear_wake(id);
    assert_eq!(queue.put(id, 904_000, Why::Blocked), Ok(RunState::Blocked));
    assert!(matches!(queue.wake(id, 990_000), Wake::Enqueued(_)));
    assert_eq!(queue.pick(990_500).unwrap().stolen_ns, 8_500);
    // Its VM's reset does not take it back.
    queue.put(id, 991_000, Why::Stopped).unwrap();
    queue.reset(id).unwrap();
    queue.start(id, 995_000).unwrap();
    assert_eq!(queue.pick(996_000).unwrap().stolen_ns, 9_500);
}

/// A share that is used up is as much stolen time as another one's turn.
#[test]
fn what_a_maximum_keeps_back_is_stolen() {
    let stats = crate::Stats { waited_ns: 3, throttled_ns: 4, blocked_ns: 100, ran_ns: 100, ..crate::Stats::default() };
    assert_eq!(stats.stolen_ns(), 7);
}

/// Two queues of one machine; the first has a vCPU of a VM of its own for each weight, all Ready from time 0.
fn pair(weights: &[u32]) -> [RunQueue; 2] {
    let first = ready(weights);
    let mut second = RunQueue::new(first.shares.clone(), 1);
    second.resize(64);
    [first, second]
}

#[test]
fn an_idle_pcpu_steals_what_may_leave() {
    let mut queues = pair(&[100, 100, 100, 100]);
    let [busy, idle] = &mut queues;
    let first = busy.pick(0).unwrap().id;
    busy.set_resident(Some(first));
    busy.put(first, 1_000, Why::Preempted).unwrap();
    // `first` is Ready but its registers are still loaded; pin another: two of the four may leave.
    assert!(pin(busy, 3, true));
    let mut gone = Vec::new();
    while let Some(stolen) = busy.steal(1, 1_000) {
        gone.push(stolen.id());
        assert!(idle.receive(stolen, 1_000).unwrap().unwrap().preempt);
    }
    gone.sort();
    let expected: Vec<_> = (0..3).map(EntityId).filter(|i| *i != first).collect();
    assert_eq!(gone, expected);
    assert_eq!((busy.ready_count(), idle.ready_count()), (2, 2));
    assert!(busy.steal(2, 1_000).is_none());
    assert_eq!(busy.take(first, 1_000).unwrap_err(), Error::Pinned);
    // Choosing another changes nothing about whose registers are loaded.
    let second = busy.pick(2_000).unwrap().id;
    if second != first {
        assert_eq!(busy.take(first, 2_000).unwrap_err(), Error::Pinned);
    }
    busy.put(second, 2_000, Why::Preempted).unwrap();
    busy.set_resident(None);
    assert_eq!(busy.steal(1, 2_000).unwrap().id(), first);
}

#[test]
fn a_move_carries_debt_but_no_more_than_sixteen_slices() {
    let [mut from, mut to] = pair(&[100, 100, 100, 100]);
    for other in [2, 3] {
        assert!(to.receive(from.take(EntityId(other), 0).unwrap(), 0).unwrap().is_some());
    }
    let id = from.pick(0).unwrap().id;
    // Ran far beyond its slice: deep in debt.
    from.put(id, 1_000_000_000, Why::Preempted).unwrap();
    assert!(to.receive(from.take(id, 0).unwrap(), 0).unwrap().is_some());
    let before = to.stats(id).unwrap().ran_ns;
    let mut now = 0;
    for _ in 0..90 {
        let pick = to.pick(now).unwrap();
        now = pick.slice_end.unwrap();
        to.put(pick.id, now, Why::Preempted).unwrap();
    }
    let got = to.stats(id).unwrap().ran_ns - before;
    assert!(got + SLICE / 2 <= now / 3, "the debt is gone: {got} of {now}");
    assert!(got + 17 * SLICE >= now / 3, "more than sixteen slices of debt: {got} of {now}");
}

#[test]
fn refusals_change_nothing() {
    let shares = shares(2, &[100]);
    let mut queue = RunQueue::new(shares.clone(), 0);
    admit(&mut queue, 1, 0);
    let twin = Stolen::new(&shares, EntityId(1), VmId(0)).unwrap();
    assert_eq!(queue.admit(twin).unwrap_err().id(), EntityId(1));
    assert_eq!(Stolen::new(&shares, EntityId(2), VmId(1)).unwrap_err(), Error::UnknownVm);
    assert_eq!(queue.wake(EntityId(0), 0), Wake::NotHere);
    assert_eq!(queue.wake(EntityId(u32::MAX), 0), Wake::NotHere);
    assert!(queue.pick(0).is_none());
    let mut none = RunQueue::new(shares, 1);
    let stolen = none.receive(queue.take(EntityId(1), 0).unwrap(), 0).unwrap_err();
    assert_eq!(queue.receive(stolen, 0).unwrap(), None);
    assert_eq!(queue.state(EntityId(1)), Some(RunState::Off));
    assert_eq!((Weight::new(0), Weight::new(10_001)), (None, None));
    assert_eq!(Weight::DEFAULT.get(), 100);
}

/// What a pCPU does between two vCPUs is the next one's, from when it was ready on: two that do nothing but give way to each other
/// have had all of the time.
#[test]
fn the_time_between_two_turns_is_charged() {
    let mut queue = ready(&[100, 100]);
    let (mut now, mut left) = (1_000, 1_000);
    for _ in 0..100 {
        let id = queue.pick_from(now, left).unwrap().id;
        left = now + 10;
        queue.put(id, left, Why::Yielded).unwrap();
        now = left + 30;
    }
    let ran: u64 = [0, 1].map(|id| queue.stats(EntityId(id)).unwrap().ran_ns).iter().sum();
    assert_eq!(ran, left - 1_000);
    // One that became ready in between pays from then on.
    queue.stop(EntityId(1), now).unwrap();
    let id = queue.pick(now).unwrap().id;
    queue.put(id, now + 10, Why::Blocked).unwrap();
    let before = queue.stats(id).unwrap().ran_ns;
    queue.wake(id, now + 25);
    assert_eq!(queue.pick_from(now + 30, now + 10).unwrap().id, id);
    queue.put(id, now + 40, Why::Blocked).unwrap();
    assert_eq!(queue.stats(id).unwrap().ran_ns - before, 15);
}
