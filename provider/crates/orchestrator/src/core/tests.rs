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
    Core::new(Start {
        now: NOW,
        lease: Duration::from_secs(5),
        earlier_lease: Duration::from_secs(5),
        absent: BTreeSet::new(),
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
        region: None,
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
    let hello = wire::Hello { protocol: 1, subscription: None, software: String::new(), revision: 0 };
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
        let hello = wire::Hello { protocol, subscription: None, software: String::new(), revision: 0 };
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
    let hello = wire::Hello { protocol: 1, subscription: None, software: String::new(), revision: 0 };
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
