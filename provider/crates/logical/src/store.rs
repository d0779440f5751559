//! The state behind a [`crate::Cache`]: pure, without locks, clock or I/O.
//!
//! Every object carries *claims*: the endpoints that said it exists, each with the number of the list (the epoch) in
//! which they last did. An object goes only when an endpoint takes its claim back (a DELETE event, or a complete list
//! of a later epoch without it) and no endpoint of the slice claims it any more. An endpoint that vanishes takes
//! nothing back, so its objects stay, as unknown.

use std::{collections::HashMap, sync::Arc};

use kcp_client_rs::LogicalCluster;

use crate::claims::{Claims, Slot};

/// `namespace/name`, or `/name`; neither part can contain a slash. One allocation, and sorts as the pair does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(Box<str>);

impl Key {
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        Self([namespace.unwrap_or_default(), "/", name].concat().into())
    }

    pub fn parts(&self) -> (Option<&str>, &str) {
        let (namespace, name) = self.0.split_once('/').unwrap_or(("", &self.0));
        (Some(namespace).filter(|n| !n.is_empty()), name)
    }
}

/// What is known of an object's content.
pub(crate) enum Body<V> {
    Good(V),
    /// Why it cannot be read. Boxed twice to keep the common case at a machine word.
    #[allow(clippy::redundant_allocation)]
    Bad(Box<Arc<str>>),
}

pub(crate) struct Item<V> {
    key: Key,
    /// resourceVersion at the endpoint that wrote last; 0 if it is not a number.
    version: u64,
    /// Endpoint to epoch.
    claims: Claims,
    pub body: Body<V>,
}

impl<V> Item<V> {
    pub fn parts(&self) -> (Option<&str>, &str) {
        self.key.parts()
    }
}

/// The objects of one kind in one workspace.
pub(crate) struct Shelf<V> {
    /// Sorted by key. A sorted vector, not a tree: most workspaces have a handful of objects, and lists arrive in order.
    items: Vec<Item<V>>,
    /// Endpoint to number of objects that it claims.
    counts: Claims,
}

pub(crate) struct Store<V> {
    shelves: HashMap<LogicalCluster, Shelf<V>>,
    len: usize,
    bad: usize,
}

impl<V> Default for Store<V> {
    fn default() -> Self {
        Self { shelves: HashMap::new(), len: 0, bad: 0 }
    }
}

/// Who says something, and in which list of theirs.
#[derive(Clone, Copy)]
pub(crate) struct Witness<'a> {
    pub slot: Slot,
    pub epoch: u32,
    /// Is an endpoint named in the slice now?
    pub roster: &'a dyn Listing,
}

/// Knows the slice.
pub(crate) trait Listing {
    /// Is the endpoint named there now?
    fn listed(&self, slot: Slot) -> bool;
}

/// How a statement came: a list is the truth even if it is older than what was known (a server restored from a
/// backup), an event that is older than what its own endpoint has said before is a repetition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    List,
    Watch,
}

impl<V> Store<V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bad(&self) -> usize {
        self.bad
    }

    pub fn clusters(&self) -> impl Iterator<Item = &LogicalCluster> {
        self.shelves.keys()
    }

    pub fn items(&self, cluster: &LogicalCluster) -> &[Item<V>] {
        self.shelves.get(cluster).map_or(&[], |shelf| &shelf.items)
    }

    pub fn item(&self, cluster: &LogicalCluster, key: &Key) -> Option<&Item<V>> {
        let items = self.items(cluster);
        items.binary_search_by(|item| item.key.cmp(key)).ok().map(|at| &items[at])
    }

    /// The endpoints that claim something in the workspace, the last writer first.
    pub fn claims(&self, cluster: &LogicalCluster) -> Option<&Claims> {
        self.shelves.get(cluster).map(|shelf| &shelf.counts)
    }

    /// An endpoint says that the object exists. `true` if that is news.
    pub fn apply(
        &mut self,
        by: Witness<'_>,
        from: Source,
        cluster: LogicalCluster,
        key: Key,
        version: u64,
        body: Body<V>,
    ) -> bool {
        let held = self
            .shelves
            .entry(cluster)
            .or_insert_with(|| Shelf { items: Vec::new(), counts: Claims::one(by.slot, 0) });
        let bad = usize::from(matches!(body, Body::Bad(_)));
        match held.items.binary_search_by(|item| item.key.cmp(&key)) {
            Err(at) => {
                if held.items.len() < 16 {
                    held.items.reserve_exact(1); // small shelves are many: no spare room in them
                }
                held.items.insert(at, Item { key, version, claims: Claims::one(by.slot, by.epoch), body });
                held.count(by.slot, 1);
                (self.len, self.bad) = (self.len + 1, self.bad + bad);
                true
            }
            Ok(at) => {
                let item = &mut held.items[at];
                let same_writer = item.claims.last_writer() == by.slot;
                if same_writer && from == Source::Watch && version != 0 && version < item.version {
                    return false;
                }
                let news = !same_writer || version == 0 || version != item.version;
                let claimed = item.claims.get(by.slot).is_some();
                item.claims.put(by.slot, by.epoch);
                self.bad = self.bad + bad - usize::from(matches!(item.body, Body::Bad(_)));
                (item.version, item.body) = (version, body);
                // What an endpoint outside the slice said is overruled for good by one inside.
                let others = item.claims.iter().map(|claim| claim.0).filter(|slot| *slot != by.slot);
                let overruled: Vec<Slot> = others.filter(|slot| !by.roster.listed(*slot)).collect();
                for slot in &overruled {
                    let _left = item.claims.remove(*slot); // by.slot is left
                }
                held.count(by.slot, i64::from(!claimed));
                for slot in overruled {
                    held.count(slot, -1);
                }
                news
            }
        }
    }

    /// An endpoint in sync says that the object was deleted. `true` if it is gone for good.
    pub fn remove(&mut self, by: Witness<'_>, cluster: &LogicalCluster, key: &Key, version: u64) -> bool {
        let Some(held) = self.shelves.get_mut(cluster) else { return false };
        let Ok(at) = held.items.binary_search_by(|item| item.key.cmp(key)) else { return false };
        let item = &held.items[at];
        if item.claims.last_writer() == by.slot && version != 0 && version < item.version {
            return false;
        }
        let mut gone = 0;
        let bad = self.bad;
        held.retract(at, by, &mut gone, &mut self.bad);
        debug_assert!(self.bad <= bad);
        self.len -= gone;
        if held.items.is_empty() {
            self.shelves.remove(cluster);
        }
        gone == 1
    }

    /// The endpoint's list of epoch `by.epoch` is complete: what it claimed before and has not listed is gone.
    pub fn sweep(&mut self, by: Witness<'_>) -> Vec<(LogicalCluster, Key)> {
        let mut swept = Vec::new();
        let (len, bad) = (&mut self.len, &mut self.bad);
        self.shelves.retain(|cluster, shelf| {
            if shelf.counts.get(by.slot).is_none() {
                return true;
            }
            let mut at = 0;
            while at < shelf.items.len() {
                let item = &shelf.items[at];
                if item.claims.get(by.slot).is_none_or(|epoch| epoch == by.epoch) {
                    at += 1;
                    continue;
                }
                let key = item.key.clone();
                let mut gone = 0;
                shelf.retract(at, by, &mut gone, bad);
                if gone == 1 {
                    *len -= 1;
                    swept.push((cluster.clone(), key));
                } else {
                    at += 1;
                }
            }
            !shelf.items.is_empty()
        });
        swept
    }
}

impl<V> Shelf<V> {
    /// Moves an endpoint's count and, when it wrote, makes it the last writer.
    fn count(&mut self, slot: Slot, by: i64) {
        let count = (i64::from(self.counts.get(slot).unwrap_or(0)) + by).max(0) as u32;
        if count > 0 && by >= 0 {
            self.counts.put(slot, count);
        } else if count > 0 {
            self.counts.set(slot, count);
        } else {
            let _left = self.counts.remove(slot); // the shelf goes with its last item
        }
    }

    /// Takes back `by`'s claim on an item, and removes the item if nobody of the slice claims it any more.
    fn retract(&mut self, at: usize, by: Witness<'_>, gone: &mut usize, bad: &mut usize) {
        let item = &mut self.items[at];
        if item.claims.get(by.slot).is_none() {
            return; // it moved elsewhere and is claimed there
        }
        let elsewhere =
            item.claims.remove(by.slot) && item.claims.iter().any(|(slot, _)| by.roster.listed(slot));
        if elsewhere {
            self.count(by.slot, -1);
            return;
        }
        let item = self.items.remove(at);
        *gone += 1;
        *bad -= usize::from(matches!(item.body, Body::Bad(_)));
        // `remove` leaves a last claim in place, so this covers by.slot and whoever is outside the slice.
        for slot in
            item.claims.iter().map(|c| c.0).chain([by.slot]).collect::<std::collections::BTreeSet<_>>()
        {
            self.count(slot, -1);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
