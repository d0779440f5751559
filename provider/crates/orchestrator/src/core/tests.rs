//! The core alone: what a single stream may and may not.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeSet, time::Duration};

use openkcm_edge_protocol::orchestrator::{self as wire, from_edge::Message, order::Order};
use openkcm_secret::SecretKey;
use uuid::Uuid;

use super::{Core, Identity, Start, StreamEnd};
use crate::{Desired, EvictReason, KeyId, KeyState, Tenants, Usable, Version, wire::key_ref};

const NOW: Duration = Duration::from_secs(100);
const EDGE: Uuid = Uuid::from_u128(1);

fn core() -> Core {
    started_after(BTreeSet::new())
}

/// These edges may hold keys and a lease of before the start.
fn started_after(absent: BTreeSet<Uuid>) -> Core {
    Core::new(Start {
        now: NOW,
        lease: Duration::from_secs(5),
        earlier_lease: Duration::from_secs(5),
        absent,
        mandated: false,
        incarnation: vec![1],
        urls: Vec::new(),
    })
}

fn key(name: &str) -> KeyId {
    KeyId { cluster: "c".parse().unwrap(), namespace: "n".into(), name: name.into() }
}

fn serve(tenant: &str, fingerprint: u64) -> Desired {
    Desired::Serve(KeyState {
        tenant_name: tenant.into(),
        regions: Vec::new(),
        key_uuid: Uuid::nil(),
        current: 1,
        versions: vec![Version {
            version: 1,
            material: SecretKey::random().unwrap(),
            usable: Usable::Encrypt,
        }],
        dead_versions: Vec::new(),
        clients: Vec::new(),
        fingerprint,
    })
}

/// An edge of one tenant that has said hello and listed what it claims to hold.
fn attach(core: &mut Core, held: &[&KeyId]) -> u64 {
    let tenants = Tenants::Only(vec!["mine".into()]);
    let number = core.attach(NOW, Identity { id: EDGE, name: "edge".into(), region: None, tenants });
    let hello = wire::Hello { protocol: 1, subscription: None, ..wire::Hello::default() };
    core.receive(NOW, EDGE, number, Message::Hello(hello)).unwrap();
    let keys = held.iter().map(|key| wire::HeldKey { key: Some(key_ref(key)), fingerprint: 9 }).collect();
    core.receive(NOW, EDGE, number, Message::Held(wire::Held { keys, last: true })).unwrap();
    number
}

fn orders(core: &mut Core, number: u64) -> Vec<Order> {
    let mut orders = Vec::new();
    loop {
        let some = core.poll(NOW, EDGE, number).unwrap();
        if some.is_empty() {
            return orders;
        }
        orders.extend(some.into_iter().filter_map(|order| order.order));
    }
}

fn renew(core: &mut Core, stream: u64, number: u64) {
    core.receive(NOW, EDGE, stream, Message::Renew(wire::Renew { number })).unwrap();
}

#[test]
fn another_protocol_version_is_refused() {
    for protocol in [0, 2, u32::MAX] {
        let mut core = core();
        let identity = Identity { id: EDGE, name: "edge".into(), region: None, tenants: Tenants::All };
        let number = core.attach(NOW, identity);
        let hello = wire::Hello { protocol, subscription: None, ..wire::Hello::default() };
        assert_eq!(core.receive(NOW, EDGE, number, Message::Hello(hello)), Err(StreamEnd::Protocol));
    }
}

#[test]
fn a_stream_begins_with_hello_and_has_one() {
    let mut core = core();
    let identity = Identity { id: EDGE, name: "edge".into(), region: None, tenants: Tenants::All };
    let number = core.attach(NOW, identity);
    let early = core.receive(NOW, EDGE, number, Message::Renew(wire::Renew { number: 1 }));
    assert_eq!(early, Err(StreamEnd::Violation));
    let number = attach(&mut core, &[]);
    let hello = wire::Hello { protocol: 1, subscription: None, ..wire::Hello::default() };
    assert_eq!(core.receive(NOW, EDGE, number, Message::Hello(hello)), Err(StreamEnd::Violation));
    let ack = wire::Ack { through: 99, refused: Vec::new(), missing: Vec::new() };
    assert_eq!(core.receive(NOW, EDGE, number, Message::Ack(ack)), Err(StreamEnd::Violation));
}

#[test]
fn a_key_of_another_tenant_and_no_key_look_the_same() {
    let mut core = core();
    core.set(NOW, key("theirs"), serve("theirs", 9));
    core.set(NOW, key("off"), serve("theirs", 9));
    core.set(NOW, key("off"), Desired::Evicted { reason: EvictReason::Disabled });
    core.ready(NOW);
    let claimed = [key("theirs"), key("off"), key("none")];
    let number = attach(&mut core, &claimed.each_ref());
    let mut evicted = Vec::new();
    for order in orders(&mut core, number) {
        match order {
            Order::Evict(evict) => {
                assert_eq!(evict.reason(), wire::EvictReason::Unspecified);
                evicted.push(evict.key.unwrap().name);
            }
            Order::Welcome(_) | Order::Synced(_) => {}
            other => panic!("{other:?}"),
        }
    }
    evicted.sort();
    assert_eq!(evicted, ["none", "off", "theirs"]);
}

#[test]
fn no_lease_overtakes_an_evict() {
    let mut core = core();
    core.ready(NOW);
    let number = attach(&mut core, &[]);
    for n in 0..40 {
        core.set(NOW, key(&n.to_string()), serve("mine", 1));
    }
    orders(&mut core, number);
    renew(&mut core, number, 1);
    for n in 0..40 {
        core.set(NOW, key(&n.to_string()), Desired::Evicted { reason: EvictReason::Disabled });
    }
    let sent = orders(&mut core, number);
    let lease = sent.iter().position(|order| matches!(order, Order::Lease(_))).unwrap();
    let last_evict = sent.iter().rposition(|order| matches!(order, Order::Evict(_))).unwrap();
    assert_eq!(sent.iter().filter(|order| matches!(order, Order::Evict(_))).count(), 40);
    assert!(lease > last_evict);
}

#[test]
fn an_edge_that_does_not_acknowledge_gets_no_more_leases() {
    let mut core = core();
    core.ready(NOW);
    let number = attach(&mut core, &[]);
    let mut leases = 0;
    for n in 1..10_000 {
        renew(&mut core, number, n);
        leases += orders(&mut core, number).iter().filter(|order| matches!(order, Order::Lease(_))).count();
    }
    assert!((1..=4096).contains(&leases), "{leases}");
}

#[test]
fn setting_the_same_again_sends_nothing_and_what_changes_twice_is_sent_once() {
    let mut core = core();
    core.ready(NOW);
    let number = attach(&mut core, &[]);
    core.set(NOW, key("k"), serve("mine", 1));
    orders(&mut core, number);
    core.set(NOW, key("k"), serve("mine", 1));
    assert_eq!(orders(&mut core, number), []);
    for fingerprint in 2..10 {
        core.set(NOW, key("k"), serve("mine", fingerprint));
        core.set(NOW, key("k"), Desired::Evicted { reason: EvictReason::Disabled });
    }
    core.set(NOW, key("k"), serve("mine", 10));
    let sent = orders(&mut core, number);
    assert!(matches!(sent.as_slice(), [Order::Put(put)] if put.fingerprint == 10), "{sent:?}");
}

#[test]
fn callers_are_counted_for_held_keys_only() {
    let mut core = core();
    core.ready(NOW);
    core.set(NOW, key("mine"), serve("mine", 1));
    core.set(NOW, key("theirs"), serve("theirs", 1));
    let number = attach(&mut core, &[]);
    orders(&mut core, number);
    let usage = |callers| {
        let count = |name: &str| wire::KeyUsage { key: Some(key_ref(&key(name))), callers };
        Message::Usage(wire::Usage { keys: vec![count("mine"), count("theirs"), count("none")] })
    };
    core.receive(NOW, EDGE, number, usage(7)).unwrap();
    assert_eq!(core.distribution(NOW, &key("mine")).active_clients, 7);
    assert_eq!(core.distribution(NOW, &key("theirs")).active_clients, 0);
    core.receive(NOW, EDGE, number, usage(0)).unwrap();
    assert_eq!(core.distribution(NOW, &key("mine")).active_clients, 0);
}

#[test]
fn a_cut_off_edge_is_pending_until_its_lease_has_surely_ended() {
    let mut core = core();
    core.ready(NOW);
    core.set(NOW, key("k"), serve("mine", 1));
    let number = attach(&mut core, &[]);
    renew(&mut core, number, 1);
    orders(&mut core, number);
    core.detach(NOW, EDGE, number);
    core.set(NOW, key("k"), Desired::Evicted { reason: EvictReason::Disabled });
    let soon = NOW + Duration::from_secs(2);
    assert_eq!(
        core.distribution(soon, &key("k")).describe_eviction(),
        "evicted on 0/1, 1 lease ends in 3.1 s"
    );
    assert!(!core.distribution(NOW + Duration::from_millis(5099), &key("k")).is_evicted());
    assert!(core.distribution(NOW + Duration::from_millis(5100), &key("k")).is_evicted());
    core.take_changed();
    core.tick(NOW + Duration::from_millis(5100));
    assert_eq!(core.take_changed(), Some(key("k")));
}

#[test]
fn after_a_start_all_are_current_when_the_edges_of_before_are_back_or_their_leases_are_over() {
    for back in [true, false] {
        let mut core = started_after(BTreeSet::from([EDGE]));
        core.set(NOW, key("k"), serve("mine", 1));
        core.ready(NOW);
        assert_eq!(core.take_changed(), Some(key("k")));
        let said = core.distribution(NOW, &key("k"));
        assert_eq!((said.current, said.total, said.is_current()), (0, 0, false));
        assert!(said.describe_behind().is_some_and(|why| why.contains("has not come back")));

        // Either is news of the key.
        let (now, edges) = if back {
            attach(&mut core, &[]);
            (NOW, 1)
        } else {
            core.tick(NOW + Duration::from_millis(5099));
            assert_eq!(core.take_changed(), None);
            (NOW + Duration::from_millis(5100), 0)
        };
        core.tick(now);
        assert_eq!(core.take_changed(), Some(key("k")));
        let said = core.distribution(now, &key("k"));
        assert_eq!((said.current, said.total, said.is_current()), (0, edges, !back));
        assert_eq!((said.settling, said.describe_behind()), (None, None));
    }
}

#[test]
fn people_read_how_many_edges_are_left_and_for_how_long() {
    let mut core = core();
    core.ready(NOW);
    core.set(NOW, key("k"), serve("mine", 1));
    let ids: Vec<Uuid> = (1..=100).map(Uuid::from_u128).collect();
    let identity =
        |id: &Uuid| Identity { id: *id, name: id.to_string(), region: None, tenants: Tenants::All };
    let streams: Vec<u64> = ids.iter().map(|id| core.attach(NOW, identity(id))).collect();
    let mut sent = Vec::new();
    for (id, stream) in ids.iter().zip(&streams) {
        let hello = wire::Hello { protocol: 1, subscription: None, ..wire::Hello::default() };
        core.receive(NOW, *id, *stream, Message::Hello(hello)).unwrap();
        let held = wire::Held { keys: Vec::new(), last: true };
        core.receive(NOW, *id, *stream, Message::Held(held)).unwrap();
        core.receive(NOW, *id, *stream, Message::Renew(wire::Renew { number: 1 })).unwrap();
        while !core.poll(NOW, *id, *stream).unwrap().is_empty() {}
    }
    core.set(NOW, key("k"), Desired::Evicted { reason: EvictReason::Disabled });
    for (id, stream) in ids.iter().zip(&streams) {
        sent.extend(core.poll(NOW, *id, *stream).unwrap().last().map(|order| (*id, *stream, order.sequence)));
    }
    assert_eq!(
        core.distribution(NOW, &key("k")).describe_eviction(),
        "evicted on 0/100, 100 leases end in 5.1 s"
    );
    for (id, stream, through) in &sent[2..] {
        let ack = wire::Ack { through: *through, refused: Vec::new(), missing: Vec::new() };
        core.receive(NOW, *id, *stream, Message::Ack(ack)).unwrap();
    }
    let distribution = core.distribution(NOW + Duration::from_secs(2), &key("k"));
    assert_eq!(distribution.describe_eviction(), "evicted on 98/100, 2 leases end in 3.1 s");
    assert!(!distribution.is_evicted());
    // The last two never answer: their leases end.
    let end = NOW + Duration::from_millis(5100);
    core.tick(end);
    assert_eq!(core.distribution(end, &key("k")).describe_eviction(), "evicted on 100/100");
    assert!(core.distribution(end, &key("k")).is_evicted());
}

#[test]
fn a_key_of_many_versions_comes_in_parts_that_others_can_pass() {
    use openkcm_edge_protocol::session::{EdgeSession, Eviction, Keys, Refused};

    struct Whole(std::cell::RefCell<Vec<(String, usize)>>);
    impl Keys for Whole {
        fn put(&self, put: wire::Put) -> Result<(), Refused> {
            self.0.borrow_mut().push((put.key.unwrap().name, put.versions.len() + put.dead_versions.len()));
            Ok(())
        }
        fn evict(&self, key: &wire::KeyRef, _: Eviction) {
            self.0.borrow_mut().push((format!("evict {}", key.name), 0));
        }
        fn lease(&self, _: u64) {}
    }

    let many = |fingerprint| match serve("mine", fingerprint) {
        Desired::Serve(mut state) => {
            let version = |version| Version {
                version,
                material: SecretKey::random().unwrap(),
                usable: Usable::Encrypt,
            };
            state.versions = (3..=300).map(version).collect();
            let dead =
                |version| crate::DeadVersion { version, reason: crate::DeadReason::Destroyed, since: 0 };
            state.dead_versions = (1..=2).map(dead).collect();
            Desired::Serve(state)
        }
        other => other,
    };
    let mut core = core();
    core.ready(NOW);
    let number = attach(&mut core, &[]);
    let (mut session, store) = (EdgeSession::default(), Whole(Vec::new().into()));
    session.connected(1, wire::Subscription::default(), "");
    core.set(NOW, key("many"), many(1));
    core.set(NOW, key("small"), serve("mine", 1));
    let (mut most, mut rounds, mut passed) = (0, 0, false);
    loop {
        let orders = core.poll(NOW, EDGE, number).unwrap();
        for order in orders {
            if let Some(Order::Put(put)) = &order.order {
                most = most.max(put.versions.len() + put.dead_versions.len());
            }
            passed |= matches!(order.order, Some(Order::Lease(_))) && store.0.borrow().is_empty();
            session.receive(1, order, &store).unwrap();
        }
        let said = session.poll(1, &store);
        if said.is_empty() {
            break;
        }
        for message in said {
            core.receive(NOW, EDGE, number, message.message.unwrap()).unwrap();
        }
        rounds += 1;
        if rounds == 2 {
            renew(&mut core, number, 2);
        }
    }
    assert_eq!(*store.0.borrow(), [("many".to_owned(), 300), ("small".to_owned(), 1)]);
    assert!(most <= super::stream::PART_VERSIONS, "{most} versions in one message");
    assert!(rounds > 2 && passed, "a lease waits for all of a large key");
    assert!(core.distribution(NOW, &key("many")).current == 1);

    // Taken back in the middle of its parts: never whole, and gone.
    core.set(NOW, key("many"), many(2));
    for order in core.poll(NOW, EDGE, number).unwrap() {
        session.receive(1, order, &store).unwrap();
    }
    core.set(NOW, key("many"), Desired::Evicted { reason: EvictReason::Disabled });
    store.0.borrow_mut().clear();
    loop {
        for message in session.poll(1, &store) {
            core.receive(NOW, EDGE, number, message.message.unwrap()).unwrap();
        }
        let orders = core.poll(NOW, EDGE, number).unwrap();
        if orders.is_empty() {
            break;
        }
        for order in orders {
            session.receive(1, order, &store).unwrap();
        }
    }
    assert_eq!(*store.0.borrow(), [("evict many".to_owned(), 0)]);
    assert!(core.distribution(NOW, &key("many")).is_evicted());
}

#[test]
fn what_an_edge_misses_of_a_confirmation_says_nothing_of_a_put_after_it() {
    let mut core = core();
    core.ready(NOW);
    core.set(NOW, key("k"), serve("mine", 9));
    let number = attach(&mut core, &[&key("k")]);
    renew(&mut core, number, 1);
    let confirmed = orders(&mut core, number).len() as u64; // The last of them: welcome, lease, confirmation, synced.
    core.set(NOW, key("k"), serve("mine", 10));
    assert!(matches!(orders(&mut core, number).as_slice(), [Order::Put(_)]));
    let ack = wire::Ack { through: confirmed, refused: Vec::new(), missing: vec![0] };
    core.receive(NOW, EDGE, number, Message::Ack(ack)).unwrap();
    core.set(NOW, key("k"), Desired::Evicted { reason: EvictReason::Disabled });
    assert!(!core.distribution(NOW, &key("k")).is_evicted(), "the put is on its way to the edge");
}
