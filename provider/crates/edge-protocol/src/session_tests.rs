//! The edge's end of the stream, order by order. Whole histories are in the orchestrator's simulation.
#![allow(clippy::unwrap_used, clippy::panic, clippy::unnecessary_wraps)]

use std::{cell::RefCell, time::Duration};

use super::*;
use crate::orchestrator::{Confirm, Evict, Lease, Synced, Welcome};

const SECOND: u64 = 1_000_000_000;

#[derive(Default)]
struct Log(RefCell<Vec<String>>);

impl Log {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

impl Keys for Log {
    fn put(&self, put: Put) -> Result<(), Refused> {
        self.0.borrow_mut().push(format!("put {}", put.key.unwrap().name));
        if put.current == 0 { Err(Refused) } else { Ok(()) }
    }

    fn evict(&self, key: &KeyRef, reason: Eviction) {
        self.0.borrow_mut().push(format!("evict {} {reason:?}", key.name));
    }

    fn lease(&self, until: u64) {
        self.0.borrow_mut().push(format!("lease {until}"));
    }
}

fn key(name: &str) -> Option<KeyRef> {
    Some(KeyRef { cluster: "c".into(), namespace: "n".into(), name: name.into() })
}

fn put(name: &str, fingerprint: u64) -> order::Order {
    order::Order::Put(Put { key: key(name), fingerprint, current: 1, ..Put::default() })
}

fn lease(number: u64) -> order::Order {
    order::Order::Lease(Lease { number, lease_ms: 5000 })
}

struct Edge(EdgeSession, Log, u64);

impl Edge {
    fn connected(mut self, now: u64) -> (Self, Vec<FromEdge>) {
        let said = self.0.connected(now, Subscription::default(), "test");
        self.2 = 0;
        self.order(now, order::Order::Welcome(Welcome { lease_ms: 5000, ..Welcome::default() }));
        (self, said)
    }

    fn order(&mut self, now: u64, order: order::Order) -> Vec<FromEdge> {
        self.2 += 1;
        self.0.receive(now, Order { sequence: self.2, order: Some(order) }, &self.1).unwrap();
        self.0.poll(now, &self.1)
    }
}

fn new() -> Edge {
    Edge(EdgeSession::default(), Log::default(), 0)
}

#[test]
fn a_replayed_or_missing_order_ends_the_stream() {
    for sequence in [0, 1, 3, u64::MAX] {
        let (mut edge, _) = new().connected(0);
        let again = Order { sequence, order: Some(put("a", 1)) };
        let error = edge.0.receive(0, again, &edge.1).unwrap_err();
        assert_eq!(error, SessionError::Sequence { expected: 2, got: sequence });
        assert!(edge.1.take().is_empty());
    }
}

#[test]
fn a_lease_counts_from_its_request_and_answers_nothing_else() {
    let (mut edge, _) = new().connected(10 * SECOND);
    // The request went out with the welcome, at 10 s; the answer is 3 s late.
    edge.order(13 * SECOND, lease(1));
    assert_eq!(edge.1.take(), ["lease 15000000000"]);
    // The same answer again, an answer to a request that was never made: nothing.
    edge.order(14 * SECOND, lease(1));
    edge.order(14 * SECOND, lease(99));
    assert!(edge.1.take().is_empty());
}

#[test]
fn a_lease_longer_than_the_longest_is_cut() {
    let (mut edge, _) = new().connected(0);
    edge.order(0, order::Order::Lease(Lease { number: 1, lease_ms: u32::MAX }));
    assert_eq!(edge.0.lease(), 60 * SECOND);
}

#[test]
fn what_the_next_orchestrator_does_not_confirm_is_dropped_before_its_lease_begins() {
    let (mut edge, _) = new().connected(0);
    edge.order(0, put("a", 1));
    edge.order(0, put("b", 2));
    edge.order(0, lease(1));
    edge.1.take();
    edge.0.disconnected();
    let (mut edge, said) = edge.connected(SECOND);
    let Some(from_edge::Message::Held(held)) = &said[1].message else { panic!("{said:?}") };
    assert_eq!(held.keys.iter().map(|held| held.fingerprint).collect::<Vec<_>>(), [1, 2]);
    edge.order(SECOND, order::Order::Confirm(Confirm { held: vec![0] }));
    edge.order(SECOND, lease(1));
    edge.order(SECOND, order::Order::Synced(Synced {}));
    assert!(edge.1.take().is_empty(), "the old lease still runs, for both");
    edge.0.poll(4_500_000_000, &edge.1);
    assert_eq!(edge.1.take(), ["evict b Unconfirmed", "lease 6000000000"]);
    // A confirmation that comes after that is answered with "missing".
    let said = edge.order(4_600_000_000, order::Order::Confirm(Confirm { held: vec![1] }));
    assert!(
        said.iter()
            .any(|said| matches!(&said.message, Some(from_edge::Message::Ack(ack)) if ack.missing == [1]))
    );
}

#[test]
fn when_the_old_lease_is_over_the_edge_waits_for_the_orchestrator_to_speak_of_all() {
    let (mut edge, _) = new().connected(0);
    edge.order(0, put("a", 1));
    edge.order(0, lease(1));
    edge.0.disconnected();
    edge.1.take();
    let (mut edge, _) = edge.connected(100 * SECOND);
    edge.order(100 * SECOND, lease(1));
    assert!(edge.1.take().is_empty());
    edge.order(100 * SECOND, order::Order::Confirm(Confirm { held: vec![0] }));
    assert_eq!(edge.1.take(), ["lease 105000000000"], "nothing was dropped, nothing sent again");
}

#[test]
fn acknowledgements_come_after_the_deed_and_name_what_was_refused() {
    let (mut edge, _) = new().connected(0);
    let refused = order::Order::Put(Put { key: key("a"), current: 0, ..Put::default() });
    let said = edge.order(0, refused);
    assert_eq!(edge.1.take(), ["put a"]);
    assert!(
        matches!(&said[0].message, Some(from_edge::Message::Ack(ack)) if ack.through == 2 && ack.refused == [2])
    );
    let evict = Evict { key: key("a"), reason: EvictReason::Disabled.into(), since: 0 };
    let said = edge.order(0, order::Order::Evict(evict));
    assert_eq!(edge.1.take(), ["evict a Ordered(Disabled)"]);
    assert!(
        matches!(&said[0].message, Some(from_edge::Message::Ack(ack)) if ack.through == 3 && ack.refused.is_empty())
    );
}

#[test]
fn requests_for_leases_are_made_three_times_in_one_and_age_unanswered() {
    let (mut edge, _) = new().connected(0);
    let mut asked = 0;
    for tenth in 0..50 {
        let said = edge.0.poll(tenth * SECOND / 10, &edge.1);
        asked +=
            said.iter().filter(|said| matches!(said.message, Some(from_edge::Message::Renew(_)))).count();
    }
    assert_eq!(asked, 2, "after the one that went out with the welcome");
    assert_eq!(edge.0.unanswered(4 * SECOND), Duration::from_secs(4));
    edge.order(4 * SECOND, lease(3));
    assert_eq!(edge.0.unanswered(4 * SECOND), Duration::ZERO);
}
