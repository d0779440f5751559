#![allow(clippy::unwrap_used, clippy::panic)]
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;

type Key = (u8, u8); // lane, key in the lane

impl Laned for Key {
    type Lane = u8;
    fn lane(&self) -> u8 {
        self.0
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(Key),
    AddAfter(Key, u64),
    Take,
    /// Ends the n-th of the running keys: done, done and again after, or failed.
    Done(usize),
    After(usize, u64),
    Failed(usize, u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = (0u8..3, 0u8..3);
    prop_oneof![
        3 => key.clone().prop_map(Step::Add),
        2 => (key, 0u64..50).prop_map(|(key, after)| Step::AddAfter(key, after)),
        4 => Just(Step::Take),
        2 => any::<usize>().prop_map(Step::Done),
        1 => (any::<usize>(), 0u64..50).prop_map(|(n, after)| Step::After(n, after)),
        1 => (any::<usize>(), 0u64..50).prop_map(|(n, after)| Step::Failed(n, after)),
        2 => (0u64..30).prop_map(Step::Pass),
    ]
}

/// The promises of the module's documentation, kept as plainly as possible.
#[derive(Default)]
struct Model {
    /// A run must begin: asked for without a time.
    owed: HashSet<Key>,
    /// A run must begin at this time or before.
    due: HashMap<Key, u64>,
    running: Vec<Key>,
}

impl Model {
    fn due_at(&mut self, key: Key, at: u64) {
        self.due.entry(key).and_modify(|due| *due = at.min(*due)).or_insert(at);
    }

    fn ring(&mut self, now: u64) {
        let rung: Vec<Key> = self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
        for key in rung {
            self.due.remove(&key);
            self.owed.insert(key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nothing_is_lost_doubled_or_run_twice_at_once(steps in prop::collection::vec(step(), 1..120)) {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (mut core, mut model, mut now) = (Core::<Key>::default(), Model::default(), 0u64);
        for step in steps {
            match step {
                Step::Add(key) => { core.add(key); model.owed.insert(key); }
                Step::AddAfter(key, after) => { core.add_at(key, at(now + after)); model.due_at(key, now + after); }
                Step::Pass(ms) => now += ms,
                Step::Take => {
                    model.ring(now);
                    match core.take(at(now)) {
                        Some(key) => {
                            prop_assert!(!model.running.contains(&key), "{key:?} runs twice at once");
                            prop_assert!(model.owed.remove(&key), "{key:?} runs unasked");
                            model.running.push(key);
                        }
                        None => prop_assert!(model.owed.iter().all(|key| model.running.contains(key)), "work left lying"),
                    }
                }
                Step::Done(n) | Step::After(n, _) | Step::Failed(n, _) if !model.running.is_empty() => {
                    let key = model.running.swap_remove(n % model.running.len());
                    let failures = core.failures(&key);
                    match step {
                        Step::After(_, after) => { core.done(key, Some(at(now + after))); model.due_at(key, now + after); }
                        Step::Failed(_, after) => {
                            core.failed(key, at(now + after));
                            model.due_at(key, now + after);
                            prop_assert_eq!(core.failures(&key), failures + 1);
                        }
                        _ => { core.done(key, None); prop_assert_eq!(core.failures(&key), 0); }
                    }
                }
                Step::Done(_) | Step::After(..) | Step::Failed(..) => {}
            }
            prop_assert_eq!(core.stats().running, model.running.len());
        }
        // Let everything end: what is owed or due must still come, and then the queue must be empty.
        for key in model.running.drain(..) { core.done(key, None); }
        model.ring(u64::MAX);
        while let Some(key) = core.take(at(now + 1_000_000)) {
            prop_assert!(model.owed.remove(&key), "{key:?} runs unasked at the end");
            core.done(key, None);
        }
        prop_assert!(model.owed.is_empty(), "lost: {:?}", model.owed);
        prop_assert!(core.entries.is_empty() && core.lanes.is_empty() && core.turns.is_empty());
    }

    /// Between two runs of a lane that always has work, every other lane that has work runs once.
    #[test]
    fn lanes_take_turns(sizes in prop::collection::vec(1usize..200, 2..6)) {
        let mut core = Core::<(u8, u8)>::default();
        for (lane, size) in sizes.iter().enumerate() {
            for key in 0..*size { core.add((lane as u8, key as u8)); }
        }
        let mut left = sizes.clone();
        let mut since: Vec<usize> = vec![0; sizes.len()];
        while let Some((lane, key)) = core.take(Instant::now()) {
            core.done((lane, key), None);
            let lane = usize::from(lane);
            prop_assert!(since[lane] < sizes.len(), "lane {lane} waited for {} runs", since[lane]);
            left[lane] -= 1;
            for (other, waited) in since.iter_mut().enumerate() {
                *waited = if other == lane { 0 } else { *waited + 1 };
            }
        }
        prop_assert!(left.iter().all(|n| *n == 0));
    }
}

#[test]
fn overtaken_alarms_do_not_pile_up() {
    let (mut core, start) = (Core::<Key>::default(), Instant::now());
    for n in (0..100_000u64).rev() {
        core.add_at((0, 0), start + Duration::from_secs(n));
    }
    assert!(core.alarms.len() < 200, "{}", core.alarms.len());
    assert_eq!(core.take(start), Some((0, 0)));
}
