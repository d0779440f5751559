//! What the ledger promises, as stories that are the same on both engines.
#![allow(clippy::unwrap_used, clippy::panic, clippy::too_many_lines)]

#[macro_use]
mod common;

use std::{sync::Arc, time::Instant};

use common::{Chain, DAY, LONG, World, account, at, bytes, chain, cluster, wrapped};
use openkcm_keychain::{
    AccountKeys, Changed, Created, KeychainError, Ledger, Rotated, SecretKey,
    rows::{AccountKeyState, AccountState, ServiceKeyState, TenantState, VersionState},
    seal::Sealer,
};
use serde_json::json;

on_both_engines!(
    a_tenant_survives_unbind_and_rebind,
    a_rebind_does_not_lift_the_operators_suspension,
    a_tenant_is_shredded_only_after_its_retention,
    a_new_binding_after_shredding_inherits_nothing,
    keys_are_made_once,
    a_rotation_adds_a_version_and_moves_the_pointer,
    two_replicas_make_one_version,
    one_request_is_served_once,
    nothing_new_for_a_suspended_tenant,
    a_deleted_key_comes_back_inside_the_window_only,
    a_deleted_key_under_another_account_is_a_clear_error,
    a_compromised_version_stays_out_of_use,
    an_older_ledger_refuses_until_told,
    a_declared_key_is_kept_until_it_is_made,
    a_lost_key_is_not_silently_made_anew,
    account_keys_count_up_and_retire,
    a_rewrap_moves_every_version_and_can_be_cut_off,
    an_account_key_in_use_is_not_erased,
    an_account_is_deleted_after_its_dependents,
    operators_are_noticed_from_another_process,
    what_is_due_comes_in_order,
    a_second_opening_sees_the_same,
    an_export_holds_every_row_and_no_plain_key,
    verify_opens_everything,
    probes_are_written_sparingly,
);

async fn a_tenant_survives_unbind_and_rebind(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await;
    let before = chain.material(&ledger, key.id).await;
    for round in 1..=3 {
        let unbound = ledger.unbind_tenant(chain.tenant.id, at(30 * DAY), at(100 * round)).await.unwrap();
        assert_eq!((unbound.state(), unbound.retention_until), (TenantState::Suspended, Some(at(30 * DAY))));
        let again = ledger.unbind_tenant(chain.tenant.id, at(60 * DAY), at(100 * round + 1)).await.unwrap();
        assert_eq!(again, unbound, "the first deadline stays");
        let back = ledger.bind_tenant(&cluster("c1"), "root:moved", at(100 * round + 50)).await.unwrap();
        assert_eq!((back.id, back.state()), (chain.tenant.id, TenantState::Active));
        assert_eq!(back.recovered_at, Some(at(100 * round + 50)));
        assert_eq!((i64::from(back.epoch), back.path.as_str()), (round + 1, "root:moved"));
        assert_eq!(ledger.bind_tenant(&cluster("c1"), "root:moved", at(9999)).await.unwrap(), back);
    }
    assert_eq!(chain.material(&ledger, key.id).await, before);
    assert_eq!(ledger.key(chain.tenant.id, "payments", "db").await.unwrap().unwrap(), key);
}

async fn a_rebind_does_not_lift_the_operators_suspension(World { ledger, .. }: World) {
    let tenant = ledger.bind_tenant(&cluster("c1"), "root:a", at(0)).await.unwrap();
    let suspended = ledger.suspend_tenant(tenant.id, "unpaid", at(1)).await.unwrap();
    assert_eq!(
        (suspended.state(), suspended.operator_reason.as_deref()),
        (TenantState::Suspended, Some("unpaid"))
    );
    ledger.unbind_tenant(tenant.id, at(DAY), at(2)).await.unwrap();
    let bound = ledger.bind_tenant(&cluster("c1"), "root:a", at(3)).await.unwrap();
    assert_eq!((bound.unbound_at, bound.state()), (None, TenantState::Suspended));
    ledger.unbind_tenant(tenant.id, at(DAY), at(4)).await.unwrap();
    let resumed = ledger.resume_tenant(tenant.id, at(9)).await.unwrap();
    assert_eq!(resumed.state(), TenantState::Suspended, "resuming does not bind");
    let bound = ledger.bind_tenant(&cluster("c1"), "root:a", at(5)).await.unwrap();
    assert_eq!(bound.state(), TenantState::Active);
}

async fn a_tenant_is_shredded_only_after_its_retention(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let neighbour = common::chain(&ledger, "c2").await;
    let (key, other) = (chain.create(&ledger, "db").await, neighbour.create(&ledger, "db").await);
    let early = ledger.shred_tenant(chain.tenant.id, at(100 * DAY)).await;
    assert!(
        matches!(early, Err(KeychainError::TooEarly { .. })),
        "a bound tenant is not shredded: {early:?}"
    );
    ledger.unbind_tenant(chain.tenant.id, at(30 * DAY), at(10)).await.unwrap();
    assert!(ledger.tenants_to_shred(at(30 * DAY - 1)).await.unwrap().is_empty());
    assert!(ledger.shred_tenant(chain.tenant.id, at(30 * DAY - 1)).await.is_err());
    let due = ledger.tenants_to_shred(at(30 * DAY)).await.unwrap();
    assert_eq!(due.iter().map(|tenant| tenant.id).collect::<Vec<_>>(), [chain.tenant.id]);
    for _ in 0..2 {
        ledger.shred_tenant(chain.tenant.id, at(30 * DAY)).await.unwrap();
    }
    let history = ledger.history(key.id).await.unwrap();
    assert_eq!((history[0].state, &history[0].sealed), (VersionState::Destroyed, &None));
    assert_eq!(
        ledger.account_by_id(chain.account.id).await.unwrap().unwrap().state(),
        AccountState::Destroyed
    );
    assert_eq!(ledger.account_key_history(chain.account.id).await.unwrap()[0].wrapped, None);
    assert_eq!(ledger.tenant(&cluster("c1")).await.unwrap(), None);
    assert_eq!(neighbour.material(&ledger, other.id).await.len(), 1, "the neighbour keeps its keys");
}

async fn a_new_binding_after_shredding_inherits_nothing(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    chain.create(&ledger, "db").await;
    ledger.unbind_tenant(chain.tenant.id, at(1), at(0)).await.unwrap();
    ledger.shred_tenant(chain.tenant.id, at(2)).await.unwrap();
    let fresh = ledger.bind_tenant(&cluster("c1"), "root:acme", at(3)).await.unwrap();
    assert_ne!(fresh.id, chain.tenant.id);
    assert_eq!((fresh.epoch, fresh.recovered_at), (1, None));
    assert!(ledger.accounts(fresh.id).await.unwrap().is_empty());
    assert!(ledger.keys(fresh.id).await.unwrap().is_empty());
    // A new workspace at the same path is another cluster.
    let other = ledger.bind_tenant(&cluster("c2"), "root:acme", at(3)).await.unwrap();
    assert_ne!(other.id, fresh.id);
}

async fn keys_are_made_once(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await;
    assert_eq!((key.current_version, key.current_state), (1, VersionState::Active));
    let again = ledger.create_key(&chain.new_key("db"), &chain.sealer, at(9)).await.unwrap();
    assert_eq!(again, Created::Existing(key.clone()));
    // Same names elsewhere are other keys.
    let neighbour = common::chain(&ledger, "c2").await;
    let theirs = neighbour.create(&ledger, "db").await;
    assert_ne!(theirs.id, key.id);
    assert_ne!(chain.material(&ledger, key.id).await, neighbour.material(&ledger, theirs.id).await);
    // Another account, same name.
    let second = account(&ledger, &chain.tenant, "gcp").await;
    let taken = ledger.create_key(&second.new_key("db"), &second.sealer, at(9)).await;
    assert!(matches!(taken, Err(KeychainError::NameTaken { owner }) if owner == "aws"));
    // Another tenant's account.
    let mut foreign = chain.new_key("other");
    foreign.account = neighbour.account.id;
    assert!(ledger.create_key(&foreign, &neighbour.sealer, at(9)).await.is_err());
    let stale = Sealer::new(chain.sealer.place().clone(), 2, &chain.account_key);
    let refused = ledger.create_key(&chain.new_key("new"), &stale, at(9)).await;
    assert!(matches!(refused, Err(KeychainError::StaleAccountKey { current: Some(1), given: 2, .. })));
}

async fn a_rotation_adds_a_version_and_moves_the_pointer(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    let first = chain.material(&ledger, key).await;
    for expected in 2..=5 {
        let row = chain.rotate(&ledger, key).await;
        assert_eq!((row.current_version, row.last_rotation), (expected, at(2)));
    }
    let history = ledger.history(key).await.unwrap();
    let states: Vec<_> = history.iter().map(|row| (row.version, row.state)).collect();
    let old = |version| (version, VersionState::Deactivated);
    assert_eq!(states, [old(1), old(2), old(3), old(4), (5, VersionState::Active)]);
    let material = chain.material(&ledger, key).await;
    assert_eq!(material[0], first[0]);
    let distinct: std::collections::BTreeSet<_> = material.iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(distinct.len(), 5);
    let newest: Vec<_> =
        ledger.newest_versions(key, 2).await.unwrap().iter().map(|row| row.version).collect();
    assert_eq!(newest, [5, 4]);
}

async fn two_replicas_make_one_version(world: World) {
    let chain = Arc::new(chain(&world.ledger, "c1").await);
    let key = chain.create(&world.ledger, "db").await.id;
    let other = Ledger::open(&world.location).await.unwrap();
    for current in 1..=10 {
        let attempts = (0..6).map(|n| {
            let ledger = if n % 2 == 0 { world.ledger.clone() } else { other.clone() };
            let chain = Arc::clone(&chain);
            tokio::spawn(async move {
                ledger
                    .rotate(key, current, Some(&format!("r{current}")), None, &chain.sealer, at(5))
                    .await
                    .unwrap()
            })
        });
        let mut new = 0;
        for attempt in attempts.collect::<Vec<_>>() {
            new += u32::from(matches!(attempt.await.unwrap(), Rotated::New(_)));
        }
        assert_eq!(new, 1);
    }
    assert_eq!(world.ledger.history(key).await.unwrap().len(), 11);
    // And creation.
    let attempts = (0..6).map(|n| {
        let ledger = if n % 2 == 0 { world.ledger.clone() } else { other.clone() };
        let chain = Arc::clone(&chain);
        tokio::spawn(
            async move { ledger.create_key(&chain.new_key("n"), &chain.sealer, at(5)).await.unwrap() },
        )
    });
    let mut ids = std::collections::BTreeSet::new();
    for attempt in attempts.collect::<Vec<_>>() {
        ids.insert(attempt.await.unwrap().into_row().id);
    }
    assert_eq!(ids.len(), 1);
}

async fn one_request_is_served_once(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    let rotate = |current, request| ledger.rotate(key, current, Some(request), None, &chain.sealer, at(5));
    let Rotated::New(row) = rotate(1, "a").await.unwrap() else { panic!("not rotated") };
    assert_eq!((row.current_version, row.served_request.as_deref()), (2, Some("a")));
    assert!(matches!(rotate(2, "a").await.unwrap(), Rotated::AlreadyServed(row) if row.current_version == 2));
    assert!(
        matches!(rotate(1, "b").await.unwrap(), Rotated::Superseded(row) if row.served_request.as_deref() == Some("a"))
    );
    assert!(matches!(rotate(2, "b").await.unwrap(), Rotated::New(row) if row.current_version == 3));
    // A scheduled rotation does not forget which request was served.
    let scheduled = ledger.rotate(key, 3, None, None, &chain.sealer, at(6)).await.unwrap().into_row();
    assert_eq!((scheduled.current_version, scheduled.served_request.as_deref()), (4, Some("b")));
    assert!(matches!(rotate(4, "b").await.unwrap(), Rotated::AlreadyServed(_)));
}

async fn nothing_new_for_a_suspended_tenant(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    ledger.suspend_tenant(chain.tenant.id, "why", at(1)).await.unwrap();
    let refused = ledger.rotate(key, 1, Some("a"), None, &chain.sealer, at(5)).await;
    assert!(matches!(refused, Err(KeychainError::TenantSuspended(_))), "{refused:?}");
    assert!(ledger.create_key(&chain.new_key("x"), &chain.sealer, at(5)).await.is_err());
    ledger.resume_tenant(chain.tenant.id, at(9)).await.unwrap();
    assert!(matches!(
        ledger.rotate(key, 1, Some("a"), None, &chain.sealer, at(5)).await,
        Ok(Rotated::New(_))
    ));
}

async fn a_deleted_key_comes_back_inside_the_window_only(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    chain.rotate(&ledger, key).await;
    let before = chain.material(&ledger, key).await;
    let deleted = ledger.schedule_deletion(key, at(7 * DAY), at(10)).await.unwrap();
    assert_eq!(
        (deleted.state(), deleted.delete_after),
        (ServiceKeyState::PendingDeletion, Some(at(7 * DAY)))
    );
    let again = ledger.schedule_deletion(key, at(9 * DAY), at(11)).await.unwrap();
    assert_eq!(again.delete_after, Some(at(7 * DAY)), "the first date stays");
    assert!(matches!(
        ledger.rotate(key, 2, None, None, &chain.sealer, at(12)).await,
        Err(KeychainError::KeyPendingDeletion(_))
    ));
    assert!(ledger.destroy_due(100, at(7 * DAY - 1)).await.unwrap().is_empty());
    let back = ledger.create_key(&chain.new_key("db"), &chain.sealer, at(20)).await.unwrap();
    let Created::Recovered(row) = back else { panic!("{back:?}") };
    assert_eq!((row.id, row.current_version, row.recovered_at), (key, 2, Some(at(20))));
    assert_eq!(chain.material(&ledger, key).await, before);

    // An operator can, too.
    ledger.schedule_deletion(key, at(7 * DAY), at(30)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ledger.undelete(key, at(31)).await.unwrap().recovered_at, Some(at(31)));
    }

    ledger.schedule_deletion(key, at(7 * DAY), at(40)).await.unwrap();
    let destroyed = ledger.destroy_due(100, at(7 * DAY)).await.unwrap();
    assert_eq!(destroyed.iter().map(|row| row.id).collect::<Vec<_>>(), [key]);
    assert!(ledger.destroy_due(100, at(7 * DAY)).await.unwrap().is_empty());
    let history = ledger.history(key).await.unwrap();
    assert!(history.iter().all(|row| row.state == VersionState::Destroyed && row.sealed.is_none()));
    let opened = chain.open(&history[0]);
    assert!(matches!(opened, Err(KeychainError::VersionDestroyed { at: when, .. }) if when == at(7 * DAY)));
    assert!(matches!(ledger.undelete(key, at(8 * DAY)).await, Err(KeychainError::KeyDestroyed { .. })));
    let fresh = chain.create(&ledger, "db").await;
    assert_ne!(fresh.id, key, "a new key, nothing inherited");
}

async fn a_deleted_key_under_another_account_is_a_clear_error(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let second = account(&ledger, &chain.tenant, "gcp").await;
    let key = chain.create(&ledger, "db").await.id;
    ledger.schedule_deletion(key, at(DAY), at(10)).await.unwrap();
    let refused = ledger.create_key(&second.new_key("db"), &second.sealer, at(11)).await.unwrap_err();
    assert!(
        matches!(&refused, KeychainError::OtherAccount { owner, until } if owner == "aws" && *until == at(DAY))
    );
    assert!(refused.to_string().contains("\"aws\""), "{refused}");
}

async fn a_compromised_version_stays_out_of_use(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    chain.rotate(&ledger, key).await;
    for _ in 0..2 {
        let row = ledger.mark_compromised(key, 2, at(5)).await.unwrap();
        assert_eq!(row.state, VersionState::Compromised);
    }
    let row = ledger.key_by_id(key).await.unwrap().unwrap();
    assert_eq!((row.current_version, row.current_state), (2, VersionState::Compromised));
    let row = chain.rotate(&ledger, key).await;
    assert_eq!((row.current_version, row.current_state), (3, VersionState::Active));
    assert_eq!(ledger.version(key, 2).await.unwrap().state, VersionState::Compromised);
    assert!(matches!(ledger.mark_compromised(key, 9, at(5)).await, Err(KeychainError::NoVersion { .. })));
}

async fn a_declared_key_is_kept_until_it_is_made(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let (tenant, first, second) = (chain.tenant.id, json!({"first": 1}), json!({"second": 2}));
    for (name, spec, seen) in [("a", &first, 0), ("b", &first, 7), ("b", &second, 3), ("c", &first, 0)] {
        ledger.declare_key(tenant, "payments", name, spec, seen).await.unwrap();
    }
    ledger.unbind_tenant(tenant, at(30 * DAY), at(1)).await.unwrap();
    ledger.bind_tenant(&cluster("c1"), "root:acme", at(2)).await.unwrap();
    let declared = ledger.declared_keys(tenant).await.unwrap();
    let said: Vec<_> = declared.iter().map(|key| (key.name.as_str(), &key.spec, key.seen_version)).collect();
    assert_eq!(said, [("a", &first, 0), ("b", &second, 7), ("c", &first, 0)]);

    ledger.forget_declared_key(tenant, "payments", "c").await.unwrap();
    assert_eq!(ledger.declared_key(tenant, "payments", "c").await.unwrap(), None);
    let key = chain.create(&ledger, "a").await.id;
    assert_eq!(ledger.declared_key(tenant, "payments", "a").await.unwrap(), None);
    // A deleted key is declared anew, and is itself again.
    ledger.schedule_deletion(key, at(DAY), at(10)).await.unwrap();
    ledger.declare_key(tenant, "payments", "a", &second, 0).await.unwrap();
    ledger.undelete(key, at(11)).await.unwrap();
    let left = ledger.declared_keys(tenant).await.unwrap();
    assert_eq!(left.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["b"]);

    ledger.unbind_tenant(tenant, at(DAY), at(12)).await.unwrap();
    ledger.shred_tenant(tenant, at(2 * DAY)).await.unwrap();
    assert!(ledger.declared_keys(tenant).await.unwrap().is_empty());
}

async fn an_older_ledger_refuses_until_told(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    chain.rotate(&ledger, key).await;
    // A status from an older world: the ledger wins, nothing to record.
    let row = ledger.record_seen_version(key, 1).await.unwrap();
    assert_eq!((row.seen_version, row.is_behind()), (0, false));
    // A status that is newer than the ledger.
    assert!(ledger.record_seen_version(key, 54).await.unwrap().is_behind());
    assert_eq!(ledger.record_seen_version(key, 53).await.unwrap().seen_version, 54);
    let refused = ledger.rotate(key, 2, Some("a"), None, &chain.sealer, at(5)).await;
    assert!(matches!(refused, Err(KeychainError::LedgerBehind { current: 2, seen: 54, .. })), "{refused:?}");
    ledger.accept_loss(chain.tenant.id, "payments", "db", 54).await.unwrap();
    let row = ledger.rotate(key, 2, Some("a"), None, &chain.sealer, at(5)).await.unwrap().into_row();
    assert_eq!(row.current_version, 55, "no number is used again");
    assert_eq!(ledger.history(key).await.unwrap().len(), 3);
    assert!(ledger.record_seen_version(key, 60).await.unwrap().is_behind());
}

async fn a_lost_key_is_not_silently_made_anew(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let mut new = chain.new_key("db");
    new.seen_version = 7;
    let refused = ledger.create_key(&new, &chain.sealer, at(1)).await;
    assert!(matches!(refused, Err(KeychainError::LedgerBehind { current: 0, seen: 7, .. })));
    ledger.accept_loss(chain.tenant.id, "payments", "db", 6).await.unwrap();
    assert!(ledger.create_key(&new, &chain.sealer, at(1)).await.is_err(), "v7 is not accepted");
    ledger.accept_loss(chain.tenant.id, "payments", "db", 7).await.unwrap();
    let row = ledger.create_key(&new, &chain.sealer, at(1)).await.unwrap().into_row();
    assert_eq!(row.current_version, 8);
    assert_eq!(chain.rotate(&ledger, row.id).await.current_version, 9);
}

async fn account_keys_count_up_and_retire(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let account = chain.account.id;
    assert_eq!(ledger.install_account_key(account, &wrapped(1, "aws"), at(9)).await.unwrap(), chain.account);
    let raced = ledger.install_account_key(account, &wrapped(1, "other"), at(9)).await;
    assert!(
        matches!(raced, Err(KeychainError::StaleAccountKey { current: Some(1), given: 1, .. })),
        "{raced:?}"
    );
    assert!(ledger.install_account_key(account, &wrapped(3, "aws"), at(9)).await.is_err());
    let row = ledger.install_account_key(account, &wrapped(2, "gcp"), at(9)).await.unwrap();
    assert_eq!(row.current_key_version, Some(2));
    let states: Vec<_> = row.keys.iter().map(|key| (key.version, key.state)).collect();
    assert_eq!(states, [(1, AccountKeyState::Retiring), (2, AccountKeyState::Active)]);
    assert_eq!(
        row.keys[0].root.reference,
        wrapped(1, "aws").root.reference,
        "the old root can still be reached"
    );

    let mut anew = wrapped(2, "gcp-v2");
    let wrong = ledger.replace_wrapping(account, &anew, b"something else", at(9)).await.unwrap();
    assert_eq!(wrong, row, "the blob that it replaces is not there");
    let replaced = ledger.replace_wrapping(account, &anew, &wrapped(2, "gcp").wrapped, at(9)).await.unwrap();
    assert_eq!(replaced.current_key().unwrap().wrapped.as_ref(), Some(&anew.wrapped));
    anew.version = 9;
    assert_eq!(ledger.replace_wrapping(account, &anew, b"x", at(9)).await.unwrap(), replaced);

    let erased = ledger.erase_account_key(account, 1, at(20)).await.unwrap();
    assert_eq!(erased.keys.len(), 1);
    let history = ledger.account_key_history(account).await.unwrap();
    assert_eq!((history[0].state, history[0].erased_at), (AccountKeyState::Erased, Some(at(20))));
    let kept = ledger.erase_account_key(account, 2, at(21)).await.unwrap();
    assert_eq!(kept.keys.len(), 1, "the active account key stays");
}

/// A second account key, and its sealer.
async fn rekey(ledger: &Ledger, chain: &Chain, version: u32) -> (SecretKey, Arc<Sealer>) {
    ledger.install_account_key(chain.account.id, &wrapped(version, "next"), at(50)).await.unwrap();
    let key = SecretKey::random().unwrap();
    let sealer = Arc::new(Sealer::new(chain.sealer.place().clone(), version, &key));
    (key, sealer)
}

async fn a_rewrap_moves_every_version_and_can_be_cut_off(World { ledger, .. }: World) {
    let mut chain = chain(&ledger, "c1").await;
    let neighbour = account(&ledger, &chain.tenant, "neighbour").await;
    let other = neighbour.create(&ledger, "other").await.id;
    let mut before = Vec::new();
    for n in 0..7 {
        let key = chain.create(&ledger, &format!("k{n}")).await.id;
        for _ in 0..n {
            chain.rotate(&ledger, key).await;
        }
        before.push((key, chain.material(&ledger, key).await));
    }
    let (account_key, to) = rekey(&ledger, &chain, 2).await;
    let first = ledger.rewrap_batch(&chain.sealer, &to, 10).await.unwrap();
    assert_eq!((first.done, first.failed), (10, 0));
    // Cut off here; someone else begins without a cursor.
    let progress = ledger.rewrap_progress(chain.account.id).await.unwrap();
    assert_eq!(
        progress.iter().map(|by| (by.account_key_version, by.versions)).collect::<Vec<_>>(),
        [(1, 18), (2, 10)]
    );
    let (mut cursor, mut done) = (None, 0);
    loop {
        let batch = ledger.rewrap_after(&chain.sealer, &to, cursor, 5).await.unwrap();
        done += batch.done;
        cursor = batch.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(done, 18);
    let progress = ledger.rewrap_progress(chain.account.id).await.unwrap();
    assert_eq!(
        progress.iter().map(|by| (by.account_key_version, by.versions, by.keys)).collect::<Vec<_>>(),
        [(2, 28, 7)]
    );
    assert!(
        chain.open(&ledger.history(before[0].0).await.unwrap()[0]).is_err(),
        "the old account key opens nothing"
    );
    chain.account_key = account_key;
    for (key, material) in before {
        assert_eq!(chain.material(&ledger, key).await, material);
    }
    assert_eq!(neighbour.material(&ledger, other).await.len(), 1);
    assert!(matches!(ledger.rewrap_batch(&neighbour.sealer, &to, 5).await, Err(KeychainError::WrongSealers)));
    // New versions go under the new account key only.
    let stale = ledger
        .rotate(ledger.keys(chain.tenant.id).await.unwrap()[0].id, 1, None, None, &chain.sealer, at(60))
        .await;
    assert!(matches!(stale, Err(KeychainError::StaleAccountKey { current: Some(2), .. })));
    ledger.erase_account_key(chain.account.id, 1, at(70)).await.unwrap();
}

async fn an_account_key_in_use_is_not_erased(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    let (_, to) = rekey(&ledger, &chain, 2).await;
    let refused = ledger.erase_account_key(chain.account.id, 1, at(60)).await;
    assert!(matches!(refused, Err(KeychainError::StillInUse { versions: 1, .. })), "{refused:?}");
    // A re-key with a wrong account key in hand changes nothing.
    let wrong = Arc::new(Sealer::new(chain.sealer.place().clone(), 1, &SecretKey::random().unwrap()));
    let batch = ledger.rewrap_batch(&wrong, &to, 10).await.unwrap();
    assert_eq!((batch.done, batch.failed), (0, 1));
    assert_eq!(chain.material(&ledger, key).await.len(), 1);
    // Back to the first root half-way is a third account key.
    let (_, third) = rekey(&ledger, &chain, 3).await;
    assert_eq!(ledger.rewrap_batch(&chain.sealer, &third, 10).await.unwrap().done, 1);
    for version in [1, 2] {
        ledger.erase_account_key(chain.account.id, version, at(70)).await.unwrap();
    }
}

async fn an_account_is_deleted_after_its_dependents(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    let refused = ledger.delete_account(chain.account.id, at(5)).await;
    assert!(matches!(refused, Err(KeychainError::HasDependents { keys: 1, .. })), "{refused:?}");
    ledger.schedule_deletion(key, at(DAY), at(6)).await.unwrap();
    assert_eq!(ledger.delete_account(chain.account.id, at(7)).await.unwrap().state(), AccountState::Deleted);
    assert!(matches!(
        ledger.create_key(&chain.new_key("x"), &chain.sealer, at(8)).await,
        Err(KeychainError::AccountDeleted(_))
    ));
    // Declared again, it still has the keys that the deleted service key needs.
    let back = ledger.upsert_account(chain.tenant.id, "aws", &chain.account.spec, at(9)).await.unwrap();
    assert_eq!(
        (back.id, back.state(), back.recovered_at),
        (chain.account.id, AccountState::Active, Some(at(9)))
    );
    assert_eq!(back.keys, chain.account.keys);
    ledger.delete_account(chain.account.id, at(10)).await.unwrap();
    ledger.destroy_due(10, at(DAY)).await.unwrap();
    let gone = ledger.account_by_id(chain.account.id).await.unwrap().unwrap();
    assert_eq!((gone.state(), gone.keys.len()), (AccountState::Destroyed, 0));
    let fresh = ledger.upsert_account(chain.tenant.id, "aws", &json!({}), at(DAY)).await.unwrap();
    assert_ne!(fresh.id, chain.account.id);
}

async fn operators_are_noticed_from_another_process(world: World) {
    let whole = |name| Changed { cluster: cluster(name), key: None };
    let provider = &world.ledger;
    let chain = chain(provider, "c1").await;
    let neighbour = common::chain(provider, "c2").await;
    let key = chain.create(provider, "db").await.id;
    let token = provider.change_token().await.unwrap();
    let quiet = provider.changes_since(token).await.unwrap();
    assert_eq!((quiet.token, quiet.changed), (token, Some(vec![])));
    let operator = Ledger::open(&world.location).await.unwrap();
    operator.suspend_tenant(chain.tenant.id, "why", at(1)).await.unwrap();
    operator.resume_tenant(chain.tenant.id, at(9)).await.unwrap();
    operator.mark_compromised(key, 1, at(1)).await.unwrap();
    let changes = provider.changes_since(token).await.unwrap();
    assert_eq!(changes.changed, Some(vec![whole("c1")]));
    operator.suspend_tenant(neighbour.tenant.id, "why", at(1)).await.unwrap();
    let later = provider.changes_since(changes.token).await.unwrap();
    assert_eq!(later.changed, Some(vec![whole("c2")]));
    assert_eq!(provider.changes_since(later.token + 5).await.unwrap().changed, None, "a restored ledger");
}

async fn what_is_due_comes_in_order(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let neighbour = common::chain(&ledger, "c2").await;
    let mut keys = Vec::new();
    for (n, owner) in [(0, &chain), (1, &neighbour), (2, &chain), (3, &chain), (4, &chain)] {
        let mut new = owner.new_key(&format!("k{n}"));
        new.next_rotation = (n != 3).then(|| at(1000 - n));
        keys.push(ledger.create_key(&new, &owner.sealer, at(1)).await.unwrap().into_row().id);
    }
    ledger.schedule_deletion(keys[4], at(DAY), at(2)).await.unwrap();
    let due = |due: Vec<openkcm_keychain::rows::DueKey>| {
        due.into_iter().map(|due| (due.key, due.at)).collect::<Vec<_>>()
    };
    assert_eq!(
        due(ledger.next_due(10).await.unwrap()),
        [(keys[2], at(998)), (keys[1], at(999)), (keys[0], at(1000))]
    );
    assert_eq!(due(ledger.next_due(1).await.unwrap()), [(keys[2], at(998))]);
    ledger.unbind_tenant(neighbour.tenant.id, at(DAY), at(3)).await.unwrap();
    ledger.record_spec(keys[2], &json!({"rotationSchedule": "Never"}), None, at(9)).await.unwrap();
    ledger.record_spec(keys[3], &json!({"rotationSchedule": "Hourly"}), Some(at(5)), at(9)).await.unwrap();
    assert_eq!(due(ledger.next_due(10).await.unwrap()), [(keys[3], at(5)), (keys[0], at(1000))]);
}

async fn a_second_opening_sees_the_same(mut world: World) {
    let chain = chain(&world.ledger, "c1").await;
    let key = chain.create(&world.ledger, "db").await;
    let material = chain.material(&world.ledger, key.id).await;
    world.reopen().await;
    assert_eq!(world.ledger.tenants().await.unwrap(), std::slice::from_ref(&chain.tenant));
    assert_eq!(world.ledger.accounts(chain.tenant.id).await.unwrap(), std::slice::from_ref(&chain.account));
    assert_eq!(world.ledger.keys(chain.tenant.id).await.unwrap(), std::slice::from_ref(&key));
    assert_eq!(chain.material(&world.ledger, key.id).await, material);
}

async fn an_export_holds_every_row_and_no_plain_key(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let key = chain.create(&ledger, "db").await.id;
    chain.rotate(&ledger, key).await;
    let mut out = Vec::new();
    ledger.export(&mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> =
        lines.iter().map(|line| line.as_object().unwrap().keys().next().unwrap().as_str()).collect();
    assert_eq!(kinds, ["tenant", "account", "accountKey", "serviceKey", "version", "version"]);
    let sealed = ledger.version(key, 2).await.unwrap().sealed.unwrap();
    assert_eq!(lines[5]["version"]["sealed"], hex::encode(sealed));
    for (_, plain) in chain.material(&ledger, key).await {
        assert!(!text.contains(&hex::encode(plain)));
    }
    assert!(!text.contains(&hex::encode(bytes(&chain.account_key))));
}

async fn verify_opens_everything(World { ledger, .. }: World) {
    let chain = chain(&ledger, "c1").await;
    let neighbour = common::chain(&ledger, "c2").await;
    let key = chain.create(&ledger, "db").await.id;
    chain.rotate(&ledger, key).await;
    neighbour.create(&ledger, "db").await;
    let (cache, now) = (AccountKeys::new(LONG), Instant::now());
    cache.insert(chain.account.id, 1, chain.account_key.duplicate().unwrap(), now);
    let report = ledger.verify(&cache).await.unwrap();
    assert_eq!(report.broken, None);
    assert_eq!((report.tenants, report.accounts, report.account_keys, report.keys), (2, 2, 2, 2));
    assert_eq!((report.versions, report.opened), (3, 2));
    // With another account key in hand, the first version that it should open is named.
    cache.insert(chain.account.id, 1, SecretKey::random().unwrap(), now);
    let broken = ledger.verify(&cache).await.unwrap().broken.unwrap();
    assert_eq!((broken.table.as_str(), broken.row), ("versions", format!("{key} v1")));
}

async fn probes_are_written_sparingly(World { ledger, .. }: World) {
    let account = chain(&ledger, "c1").await.account.id;
    let probe = |verified, seconds| ledger.record_probe(account, verified, at(seconds));
    assert_eq!(probe(true, 0).await.unwrap().last_verified, Some(at(0)));
    assert_eq!(probe(true, 60).await.unwrap().last_verified, Some(at(0)));
    assert_eq!(probe(true, 1000).await.unwrap().last_verified, Some(at(1000)));
    assert_eq!(probe(false, 1060).await.unwrap().root_lost_since, Some(at(1060)));
    let lost = probe(false, 1120).await.unwrap();
    assert_eq!((lost.root_lost_since, lost.last_verified), (Some(at(1060)), Some(at(1000))));
    let back = probe(true, 1180).await.unwrap();
    assert_eq!((back.root_lost_since, back.last_verified), (None, Some(at(1180))));
    // The clock went back: written again rather than never.
    assert_eq!(probe(true, 500).await.unwrap().last_verified, Some(at(500)));
}
