//! Several replicas over one ledger: what is withheld and handed out by nobody can be used at no edge.
#![allow(clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod common;

use std::time::Duration;

use common::{World, at, chain, cluster};
use openkcm_keychain::{Changed, HandOut, KeychainError, rows::Withheld};
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(5);

on_both_engines!(
    a_withheld_key_is_handed_out_by_nobody,
    the_database_itself_refuses_what_is_withheld,
    a_replica_that_begins_while_a_key_is_withheld_waits_its_turn,
    a_dead_replica_counts_until_it_is_expelled,
    the_other_replicas_hear_of_each_key,
);

fn told(replica: &str, usable: bool) -> HandOut {
    HandOut {
        replica: replica.to_owned(),
        usable,
        fingerprint: u64::MAX - 1,
        total: 3,
        current: 2,
        evicted: 1,
        clients: 7,
    }
}

async fn a_withheld_key_is_handed_out_by_nobody(World { ledger, .. }: World) {
    let key = chain(&ledger, "c1").await.create(&ledger, "db").await.id;
    for replica in ["a", "b"] {
        ledger.join_replica(replica, LEASE).await.unwrap();
        assert!(ledger.hand_out(replica, key).await.unwrap());
    }
    ledger.withhold(key, Withheld::Disabled).await.unwrap();
    assert_eq!(ledger.key_by_id(key).await.unwrap().unwrap().withheld, Some(Withheld::Disabled));
    // Each replica strikes out its own, and only ever in this direction.
    ledger.report(key, &told("a", false)).await.unwrap();
    ledger.report(key, &told("a", true)).await.unwrap();
    assert_eq!(ledger.hand_outs(key).await.unwrap()[0], told("a", false));
    assert!(ledger.hand_outs(key).await.unwrap()[1].usable, "b has not said anything yet");
    ledger.report(key, &told("b", false)).await.unwrap();
    assert!(ledger.hand_outs(key).await.unwrap().iter().all(|row| !row.usable));
    assert!(!ledger.hand_out("a", key).await.unwrap());
    ledger.release(key).await.unwrap();
    assert!(ledger.hand_out("a", key).await.unwrap());
    assert!(ledger.hand_outs(key).await.unwrap()[0].usable);
}

async fn the_database_itself_refuses_what_is_withheld(world: World) {
    let ledger = &world.ledger;
    let key = chain(ledger, "c1").await.create(ledger, "db").await.id;
    ledger.join_replica("a", LEASE).await.unwrap();
    ledger.withhold(key, Withheld::RootLost).await.unwrap();
    let mut raw = world.raw().await;
    let begin = "INSERT INTO hand_outs (replica, service_key, usable) VALUES ('a', 1, 1)";
    assert!(sqlx::raw_sql(begin).execute(&mut raw).await.is_err());
    ledger.report(key, &told("a", false)).await.unwrap();
    let again = "UPDATE hand_outs SET usable = 1";
    assert!(sqlx::raw_sql(again).execute(&mut raw).await.is_err());
    ledger.release(key).await.unwrap();
    sqlx::raw_sql(again).execute(&mut raw).await.unwrap();
}

async fn a_replica_that_begins_while_a_key_is_withheld_waits_its_turn(World { ledger, .. }: World) {
    let key = chain(&ledger, "c1").await.create(&ledger, "db").await.id;
    ledger.join_replica("a", LEASE).await.unwrap();
    // However the two fall together: either nobody hands it out, or everybody can see who does.
    for _ in 0..50 {
        let (handed_out, withheld) =
            tokio::join!(ledger.hand_out("a", key), ledger.withhold(key, Withheld::Disabled));
        withheld.unwrap();
        let usable = ledger.hand_outs(key).await.unwrap().iter().any(|row| row.usable);
        assert_eq!(handed_out.unwrap(), usable);
        if usable {
            ledger.report(key, &told("a", false)).await.unwrap();
        }
        ledger.release(key).await.unwrap();
    }
}

async fn a_dead_replica_counts_until_it_is_expelled(World { ledger, .. }: World) {
    let key = chain(&ledger, "c1").await.create(&ledger, "db").await.id;
    let edge = Uuid::from_u128(7);
    ledger.join_replica("a", LEASE).await.unwrap();
    ledger.join_replica("b", Duration::from_secs(9)).await.unwrap();
    ledger.hand_out("b", key).await.unwrap();
    ledger.withhold(key, Withheld::TenantSuspended).await.unwrap();
    let all = ledger.beat("b", &[edge]).await.unwrap();
    let [a, b] = &all[..] else { panic!("{all:?}") };
    assert_eq!((a.id.as_str(), a.beat, a.lease, a.edges.len()), ("a", 0, LEASE, 0));
    assert_eq!((b.beat, b.lease.as_secs(), &b.edges[..]), (1, 9, &[edge][..]));
    // It moved after it was looked at: it lives.
    ledger.beat("b", &[edge]).await.unwrap();
    assert!(!ledger.expel_replica("b", 1).await.unwrap());
    assert!(ledger.hand_outs(key).await.unwrap()[0].usable);
    assert!(ledger.expel_replica("b", 2).await.unwrap());
    assert!(ledger.hand_outs(key).await.unwrap().is_empty());
    // Should it wake up after all, it can neither beat nor hand out anything.
    ledger.release(key).await.unwrap();
    assert!(matches!(ledger.beat("b", &[]).await, Err(KeychainError::Expelled(_))));
    assert!(ledger.hand_out("b", key).await.is_err());
}

async fn the_other_replicas_hear_of_each_key(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    ledger.join_replica("a", LEASE).await.unwrap();
    ledger.hand_out("a", key).await.unwrap();
    let of_key = Changed { cluster: cluster("c1"), key: Some(("payments".to_owned(), "db".to_owned())) };
    let token = ledger.change_token().await.unwrap();
    ledger.withhold(key, Withheld::Disabled).await.unwrap();
    let changes = ledger.changes_since(token).await.unwrap();
    assert_eq!(changes.changed, Some(vec![of_key.clone()]));
    ledger.withhold(key, Withheld::Disabled).await.unwrap();
    assert_eq!(ledger.change_token().await.unwrap(), changes.token, "the same again is no news");
    ledger.report(key, &told("a", false)).await.unwrap();
    let changes = ledger.changes_since(changes.token).await.unwrap();
    assert_eq!(changes.changed, Some(vec![of_key.clone()]));
    chain.rotate(&ledger, key).await;
    assert_eq!(ledger.changes_since(changes.token).await.unwrap().changed, Some(vec![of_key]));
    ledger.schedule_deletion(key, at(9), at(8)).await.unwrap();
    ledger.destroy_due(10, at(9)).await.unwrap();
    ledger.withhold(key, Withheld::Deleted).await.unwrap();
    assert!(!ledger.hand_out("a", key).await.unwrap(), "what is destroyed is handed out by nobody");
}
