#![allow(clippy::unwrap_used, clippy::panic)]
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use proptest::prelude::*;

use super::*;

struct Slice(RefCell<BTreeSet<Slot>>);

impl Listing for Slice {
    fn listed(&self, slot: Slot) -> bool {
        self.0.borrow().contains(&slot)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Applied {
        slot: Slot,
        object: u8,
        bad: bool,
    },
    Deleted {
        slot: Slot,
        object: u8,
    },
    /// A complete list.
    List {
        slot: Slot,
        objects: BTreeSet<u8>,
    },
    /// A list that broke off.
    HalfList {
        slot: Slot,
        objects: BTreeSet<u8>,
    },
    Vanish(Slot),
    Appear(Slot),
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0u16..3;
    let object = 0u8..8;
    let objects = prop::collection::btree_set(0u8..8, 0..8);
    prop_oneof![
        4 => (slot.clone(), object.clone(), prop::bool::weighted(0.2)).prop_map(|(slot, object, bad)| Step::Applied { slot, object, bad }),
        3 => (slot.clone(), object).prop_map(|(slot, object)| Step::Deleted { slot, object }),
        2 => (slot.clone(), objects.clone()).prop_map(|(slot, objects)| Step::List { slot, objects }),
        1 => (slot.clone(), objects).prop_map(|(slot, objects)| Step::HalfList { slot, objects }),
        1 => slot.clone().prop_map(Step::Vanish),
        1 => slot.prop_map(Step::Appear),
    ]
}

/// Objects 0..4 are in one workspace, the others in a second.
fn place(object: u8) -> (LogicalCluster, Key) {
    (if object < 4 { "one" } else { "two" }.parse().unwrap(), Key::new(Some("ns"), &format!("o{object}")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn an_object_goes_only_when_nobody_of_the_slice_claims_it(steps in prop::collection::vec(step(), 1..80)) {
        let slice = Slice(RefCell::new(BTreeSet::from([0, 1])));
        let mut store = Store::<u64>::default();
        let mut epochs = [0u32; 3];
        let mut version = 0;
        // The model: who claims what.
        let mut claims: BTreeMap<u8, BTreeSet<Slot>> = BTreeMap::new();
        let settle = |claims: &mut BTreeMap<u8, BTreeSet<Slot>>, object: u8, by: Slot, slice: &Slice| -> bool {
            let Some(all) = claims.get_mut(&object) else { return false };
            if !all.remove(&by) { return false; }
            if all.iter().any(|slot| slice.listed(*slot)) { return false; }
            claims.remove(&object);
            true
        };
        for step in steps {
            version += 1;
            match step {
                Step::Vanish(slot) => { slice.0.borrow_mut().remove(&slot); }
                Step::Appear(slot) => { slice.0.borrow_mut().insert(slot); }
                // Who is not in the slice says nothing: its tasks have ended.
                Step::Applied { slot, .. } | Step::Deleted { slot, .. } | Step::List { slot, .. } | Step::HalfList { slot, .. }
                    if !slice.listed(slot) => {}
                Step::Applied { slot, object, bad } => {
                    let by = Witness { slot, epoch: epochs[usize::from(slot)], roster: &slice };
                    let (cluster, key) = place(object);
                    let body = if bad { Body::Bad(Box::new("bad".into())) } else { Body::Good(version) };
                    prop_assert!(store.apply(by, Source::Watch, cluster, key, version, body));
                    let all = claims.entry(object).or_default();
                    all.insert(slot);
                    all.retain(|at| slice.listed(*at));
                }
                Step::Deleted { slot, object } => {
                    let by = Witness { slot, epoch: epochs[usize::from(slot)], roster: &slice };
                    let (cluster, key) = place(object);
                    let gone = settle(&mut claims, object, slot, &slice);
                    prop_assert_eq!(store.remove(by, &cluster, &key, version), gone);
                }
                Step::List { slot, ref objects } | Step::HalfList { slot, ref objects } => {
                    epochs[usize::from(slot)] += 1;
                    let by = Witness { slot, epoch: epochs[usize::from(slot)], roster: &slice };
                    for object in objects {
                        let (cluster, key) = place(*object);
                        store.apply(by, Source::List, cluster, key, version, Body::Good(version));
                        let all = claims.entry(*object).or_default();
                        all.insert(slot);
                        all.retain(|at| slice.listed(*at));
                    }
                    if matches!(step, Step::List { .. }) {
                        let missing: Vec<u8> = (0..8).filter(|o| !objects.contains(o)).collect();
                        let expected: BTreeSet<_> = missing.into_iter().filter(|o| settle(&mut claims, *o, slot, &slice)).map(|o| place(o).1).collect();
                        let swept: BTreeSet<_> = store.sweep(by).into_iter().map(|(_, key)| key).collect();
                        prop_assert_eq!(swept, expected);
                    }
                }
            }
            // Claims of endpoints outside the slice may linger in either; what exists, and the sums, must agree.
            let there: BTreeSet<Key> = claims.keys().map(|o| place(*o).1).collect();
            let held: BTreeSet<Key> = store.shelves.values().flat_map(|s| s.items.iter().map(|i| i.key.clone())).collect();
            prop_assert_eq!(&there, &held);
            prop_assert_eq!(store.len(), held.len());
            let bad = store.shelves.values().flat_map(|s| &s.items).filter(|i| matches!(i.body, Body::Bad(_))).count();
            prop_assert_eq!(store.bad(), bad);
            for shelf in store.shelves.values() {
                prop_assert!(!shelf.items.is_empty() && shelf.items.is_sorted_by(|a, b| a.key < b.key));
                for slot in 0..3 {
                    let claimed = shelf.items.iter().filter(|i| i.claims.get(slot).is_some()).count();
                    prop_assert_eq!(shelf.counts.get(slot).unwrap_or(0) as usize, claimed, "slot {}", slot);
                }
            }
        }
    }
}

#[test]
fn an_event_older_than_what_its_endpoint_said_is_a_repetition() {
    let slice = Slice(RefCell::new(BTreeSet::from([0, 1])));
    let by = |slot| Witness { slot, epoch: 1, roster: &slice };
    let mut store = Store::<&str>::default();
    let (cluster, key) = place(0);
    assert!(store.apply(by(0), Source::Watch, cluster.clone(), key.clone(), 7, Body::Good("new")));
    assert!(!store.apply(by(0), Source::Watch, cluster.clone(), key.clone(), 5, Body::Good("old")));
    assert!(!store.remove(by(0), &cluster, &key, 6), "a delete from before");
    assert!(matches!(store.item(&cluster, &key).unwrap().body, Body::Good("new")));
    // Another endpoint counts differently, and a list is the truth.
    assert!(store.apply(by(1), Source::Watch, cluster.clone(), key.clone(), 2, Body::Good("moved")));
    assert!(store.apply(by(1), Source::List, cluster.clone(), key.clone(), 1, Body::Good("restored")));
    assert!(matches!(store.item(&cluster, &key).unwrap().body, Body::Good("restored")));
}

#[test]
fn keys_keep_namespaces_apart() {
    assert_ne!(Key::new(Some("a"), "b"), Key::new(None, "a.b"));
    assert_eq!(Key::new(None, "b").parts(), (None, "b"));
    assert_eq!(Key::new(Some("a"), "b").parts(), (Some("a"), "b"));
}
