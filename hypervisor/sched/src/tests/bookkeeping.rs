//! States, moves between queues and the tree, by random operations against simple models.
use proptest::prelude::*;
use std::{collections::BTreeMap, vec, vec::Vec};

use super::ready;
use crate::{EntityId, Error, RunQueue, RunState, SLICE, Started, Wake, Weight, Why, tree::Tree};

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
}

struct World {
    queues: [RunQueue; 2],
    model: BTreeMap<u32, Model>,
    now: u64,
}

impl World {
    fn apply(&mut self, at: usize, op: Op) {
        use RunState::{Blocked, Off, Ready, Running, Stopped};
        let now = self.now;
        let queue = &mut self.queues[at];
        let model = |id: u32, m: &BTreeMap<u32, Model>| m.get(&id).copied().filter(|m| m.home == at);
        match op {
            Op::Admit(id, weight) => {
                // A number is the machine's: admitted once.
                self.model.entry(id).or_insert_with(|| {
                    queue.admit(EntityId(id), Weight::new(weight).unwrap()).unwrap();
                    Model { home: at, state: Off, wake: false, start: false, stop: false }
                });
            }
            Op::Remove(id) => {
                let removed = queue.remove(EntityId(id));
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
                    Some(Ready) => assert_eq!(woken, Wake::AlreadyReady),
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
                            Why::Off => [Off, Ready][usize::from(m.start)],
                            Why::Blocked => [Blocked, Ready][usize::from(m.wake)],
                            Why::Preempted | Why::Yielded => Ready,
                        };
                        assert_eq!(put, Ok(next));
                        let start = m.start && why != Why::Off && next != Stopped;
                        let stop = m.stop && next != Stopped;
                        self.model.insert(id, Model { state: next, wake: false, start, stop, ..m });
                    }
                }
            }
            Op::Stop(id) => {
                let stopped = queue.stop(EntityId(id));
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
            Op::Pin(id, pinned) => {
                assert_eq!(queue.pin(EntityId(id), pinned).is_ok(), model(id, &self.model).is_some());
            }
            Op::Weigh(id, weight) => {
                let done = queue.set_weight(EntityId(id), Weight::new(weight).unwrap(), now);
                assert_eq!(done.is_ok(), model(id, &self.model).is_some());
            }
            Op::ClearResident => queue.set_resident(None),
            Op::Steal => {
                if let Some(stolen) = queue.steal() {
                    let m = self.model.get_mut(&stolen.id().0).unwrap();
                    assert!(m.home == at && m.state == Ready);
                    m.home = 1 - at;
                    assert!(self.queues[1 - at].receive(stolen, now).unwrap().is_some());
                }
            }
            Op::Take(id) => {
                if let Ok(stolen) = queue.take(EntityId(id)) {
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
    fn states_follow_the_table(ops in prop::collection::vec((0usize..2, op(), 0u64..5_000_000), 1..300)) {
        let mut world = World { queues: [RunQueue::new(10), RunQueue::new(10)], model: BTreeMap::new(), now: 0 };
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
        ops in prop::collection::vec((0u32..200, 0u32..50, 0u32..50, any::<bool>()), 1..400),
        at in 0u32..60,
    ) {
        let mut tree = Tree::new(200);
        let mut list: BTreeMap<u32, (u128, u128, bool)> = BTreeMap::new();
        for (id, start, request, movable) in ops {
            if list.remove(&id).is_some() {
                tree.remove(id);
            } else {
                let (start, deadline) = (u128::from(start), u128::from(start + request));
                tree.set_times(id, start, deadline);
                tree.insert(id, movable);
                list.insert(id, (start, deadline, movable));
            }
            prop_assert_eq!(tree.check(), list.len());
            prop_assert_eq!(tree.first(), list.iter().map(|(i, v)| (v.0, *i)).min().map(|v| v.1));
            let eligible = list.iter().filter(|(_, v)| v.0 <= u128::from(at));
            prop_assert_eq!(tree.best_eligible(at.into()), eligible.map(|(i, v)| (v.1, *i)).min().map(|v| v.1));
            let movable = list.iter().filter(|(_, v)| v.2).map(|(i, v)| (v.1, *i)).min().map(|v| v.1);
            prop_assert_eq!(tree.best_movable(), movable);
        }
    }
}

#[test]
fn time_is_either_run_or_waited() {
    let mut queue = ready(&[100, 50, 7]);
    let mut now = 0;
    for step in 1..500 {
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

#[test]
fn an_idle_pcpu_steals_what_may_leave() {
    let mut queues = [ready(&[100, 100, 100, 100]), RunQueue::new(64)];
    let [busy, idle] = &mut queues;
    let first = busy.pick(0).unwrap().id;
    busy.set_resident(Some(first));
    busy.put(first, 1_000, Why::Preempted).unwrap();
    // `first` is Ready but its registers are still loaded; pin another: two of the four may leave.
    busy.pin(EntityId(3), true).unwrap();
    let mut gone = Vec::new();
    while let Some(stolen) = busy.steal() {
        gone.push(stolen.id());
        assert!(idle.receive(stolen, 1_000).unwrap().unwrap().preempt);
    }
    gone.sort();
    let expected: Vec<_> = (0..3).map(EntityId).filter(|i| *i != first).collect();
    assert_eq!(gone, expected);
    assert_eq!((busy.ready_count(), idle.ready_count()), (2, 2));
    assert_eq!(busy.take(first).unwrap_err(), Error::Pinned);
    // Choosing another changes nothing about whose registers are loaded.
    let second = busy.pick(2_000).unwrap().id;
    if second != first {
        assert_eq!(busy.take(first).unwrap_err(), Error::Pinned);
    }
    busy.put(second, 2_000, Why::Preempted).unwrap();
    busy.set_resident(None);
    assert_eq!(busy.steal().unwrap().id(), first);
}

#[test]
fn a_move_carries_credit_and_debt_but_no_more_than_a_request() {
    let mut from = ready(&[100, 100]);
    let id = from.pick(0).unwrap().id;
    // Ran far beyond its slice: deep in debt.
    from.put(id, 1_000_000_000, Why::Preempted).unwrap();
    from.set_resident(None);
    let stolen = from.take(id).unwrap();
    let mut to = ready(&[100, 100, 100]);
    to.remove(id).unwrap();
    assert!(to.receive(stolen, 0).unwrap().is_some());
    let before = to.stats(id).unwrap().ran_ns;
    let mut now = 0;
    for _ in 0..31 {
        let pick = to.pick(now).unwrap();
        now = pick.slice_end.unwrap();
        to.put(pick.id, now, Why::Preempted).unwrap();
    }
    let got = to.stats(id).unwrap().ran_ns - before;
    assert!(got + SLICE / 2 <= now / 3, "the debt is gone: {got} of {now}");
    assert!(got + 2 * SLICE >= now / 3, "more than a request of debt: {got} of {now}");
}

#[test]
fn refusals_change_nothing() {
    let mut queue = RunQueue::new(2);
    assert_eq!(queue.admit(EntityId(2), Weight::DEFAULT), Err(Error::TooLarge));
    queue.admit(EntityId(1), Weight::DEFAULT).unwrap();
    assert_eq!(queue.admit(EntityId(1), Weight::DEFAULT), Err(Error::Exists));
    assert_eq!(queue.wake(EntityId(0), 0), Wake::NotHere);
    assert_eq!(queue.wake(EntityId(u32::MAX), 0), Wake::NotHere);
    assert!(queue.pick(0).is_none());
    let mut small = RunQueue::new(1);
    let stolen = small.receive(queue.take(EntityId(1)).unwrap(), 0).unwrap_err();
    assert_eq!(queue.receive(stolen, 0).unwrap(), None);
    assert_eq!(queue.state(EntityId(1)), Some(RunState::Off));
    assert_eq!((Weight::new(0), Weight::new(10_001)), (None, None));
    assert_eq!(Weight::DEFAULT.get(), 100);
}
