//! The rules of [`crate::Queue`], without clock and tasks.
//!
//! A key is at any time *ready* (in its lane), *running*, and/or *due* at a time. What was asked for is never lost:
//! each `add` is followed by a run that begins after it, and each due time that was set either comes true or an
//! earlier one of the same key does.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    hash::Hash,
    time::Instant,
};

use crate::{Laned, QueueStats};

struct Entry {
    ready: bool,
    running: bool,
    /// Asked for during its run.
    again: bool,
    due: Option<Instant>,
    failures: u32,
}

/// A due time in the heap; it holds only if it is still the one in the key's entry.
struct Alarm<K> {
    at: Instant,
    key: K,
}

impl<K> PartialEq for Alarm<K> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl<K> Eq for Alarm<K> {}
impl<K> PartialOrd for Alarm<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Alarm<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

pub(crate) struct Core<K: Laned> {
    entries: HashMap<K, Entry>,
    lanes: HashMap<K::Lane, VecDeque<K>>,
    /// The lanes that have ready keys, in the order of their turns.
    turns: VecDeque<K::Lane>,
    alarms: BinaryHeap<Reverse<Alarm<K>>>,
    stats: QueueStats,
}

impl<K: Laned> Default for Core<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            alarms: BinaryHeap::new(),
            stats: QueueStats::default(),
        }
    }
}

impl<K: Laned + Clone + Eq + Hash> Core<K> {
    /// As soon as the lane's turn comes.
    pub fn add(&mut self, key: K) {
        let entry = self.entry(&key);
        if entry.running {
            entry.again = true;
        } else if !entry.ready {
            self.make_ready(key);
        }
    }

    /// At a time, or earlier if an earlier one is set.
    pub fn add_at(&mut self, key: K, at: Instant) {
        let entry = self.entry(&key);
        if entry.due.is_some_and(|due| due <= at) {
            return;
        }
        let first = entry.due.replace(at).is_none();
        self.stats.delayed += usize::from(first);
        self.alarms.push(Reverse(Alarm { at, key }));
        // Alarms that were overtaken stay in the heap until they ring; do not let them outnumber the others.
        if self.alarms.len() > 2 * self.stats.delayed + 64 {
            let entries = &self.entries;
            self.alarms
                .retain(|Reverse(alarm)| entries.get(&alarm.key).is_some_and(|e| e.due == Some(alarm.at)));
        }
    }

    /// The next key to run now, of the lane whose turn it is.
    pub fn take(&mut self, now: Instant) -> Option<K> {
        self.ring(now);
        let lane = self.turns.pop_front()?;
        let keys = self.lanes.get_mut(&lane)?;
        let key = keys.pop_front()?;
        if keys.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        let entry = self.entry(&key);
        (entry.ready, entry.running) = (false, true);
        self.stats.ready -= 1;
        self.stats.running += 1;
        self.stats.runs += 1;
        Some(key)
    }

    /// A run ended well; look again at a time, if one is given.
    pub fn done(&mut self, key: K, again_at: Option<Instant>) {
        self.entry(&key).failures = 0;
        self.end(key, again_at);
    }

    /// A run failed.
    pub fn failed(&mut self, key: K, again_at: Instant) {
        let entry = self.entry(&key);
        entry.failures = entry.failures.saturating_add(1);
        self.stats.failures += 1;
        self.end(key, Some(again_at));
    }

    /// Failures of a key in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.entries.get(key).map_or(0, |entry| entry.failures)
    }

    /// When to look at the clock again.
    pub fn next_due(&self) -> Option<Instant> {
        self.alarms.peek().map(|Reverse(alarm)| alarm.at)
    }

    pub fn has_ready(&self) -> bool {
        !self.turns.is_empty()
    }

    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    fn end(&mut self, key: K, again_at: Option<Instant>) {
        let entry = self.entry(&key);
        entry.running = false;
        let again = std::mem::take(&mut entry.again);
        self.stats.running -= 1;
        if let Some(at) = again_at {
            self.add_at(key.clone(), at);
        }
        if again {
            self.make_ready(key);
        } else {
            self.forget(&key);
        }
    }

    fn ring(&mut self, now: Instant) {
        while self.alarms.peek().is_some_and(|Reverse(alarm)| alarm.at <= now) {
            let Some(Reverse(Alarm { at, key })) = self.alarms.pop() else { return };
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.due == Some(at)) else {
                continue;
            };
            entry.due = None;
            self.stats.delayed -= 1;
            self.add(key);
        }
    }

    fn entry(&mut self, key: &K) -> &mut Entry {
        let fresh = || Entry { ready: false, running: false, again: false, due: None, failures: 0 };
        self.entries.entry(key.clone()).or_insert_with(fresh)
    }

    fn make_ready(&mut self, key: K) {
        self.entry(&key).ready = true;
        self.stats.ready += 1;
        let lane = key.lane();
        let keys = self.lanes.entry(lane.clone()).or_default();
        if keys.is_empty() {
            self.turns.push_back(lane);
        }
        keys.push_back(key);
    }

    /// Drops the entry of a key that nothing is known of any more.
    fn forget(&mut self, key: &K) {
        let idle = |e: &Entry| !e.ready && !e.running && e.due.is_none() && e.failures == 0;
        if self.entries.get(key).is_some_and(idle) {
            self.entries.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "queue_core_tests.rs"]
mod tests;
