//! The rules hold in the database itself: raw SQL that would break them is refused, on both engines.
#![allow(clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod common;

use common::{World, at, chain, wrapped};
use sqlx::{AnyConnection, AssertSqlSafe};

on_both_engines!(a_bug_cannot_break_the_rules, a_newer_schema_is_refused);

/// What each statement would break. `$now` is any time.
const ATTACKS: &[(&str, &str)] = &[
    (
        "a second living tenant of a workspace",
        "INSERT INTO tenants (id, cluster, path, created_at) SELECT other, cluster, path, 0 FROM tenants, spare",
    ),
    ("a tenant moves to another workspace", "UPDATE tenants SET cluster = 'other'"),
    ("a tenant without history", "DELETE FROM tenants"),
    ("an epoch goes back", "UPDATE tenants SET epoch = 0"),
    ("an unbound tenant without a deadline", "UPDATE tenants SET unbound_at = 5"),
    ("a tenant destroyed while bound", "UPDATE tenants SET destroyed_at = 5"),
    (
        "a tenant destroyed before its accounts",
        "UPDATE tenants SET unbound_at = 1, retention_until = 2, destroyed_at = 5",
    ),
    ("a short id", "UPDATE tenants SET id = id || id"),
    ("an account changes its tenant", "UPDATE accounts SET tenant = tenant + 1"),
    ("an account is renamed", "UPDATE accounts SET name = 'other'"),
    ("an account without history", "DELETE FROM accounts"),
    (
        "a second living account of a name",
        "INSERT INTO accounts (id, tenant, name, spec, created_at) SELECT other, tenant, name, spec, 0 FROM accounts, spare",
    ),
    ("an account destroyed before its keys", "UPDATE accounts SET deleted_at = 1, destroyed_at = 2"),
    ("an account key without history", "DELETE FROM account_keys"),
    (
        "an account key erased in use",
        "UPDATE account_keys SET state = 'Erased', wrapped = NULL, erased_at = 1 WHERE version = 2",
    ),
    (
        "an erased account key that keeps its blob",
        "UPDATE account_keys SET state = 'Erased', erased_at = 1 WHERE version = 2",
    ),
    ("two active account keys", "UPDATE account_keys SET state = 'Active' WHERE version = 1"),
    (
        "an account key number used again",
        "INSERT INTO account_keys (account, version, state, wrapped, root_provider, root_reference, root_version, root_spec, created_at) SELECT account, 1, 'Active', wrapped, '', '', '', '', 0 FROM account_keys WHERE version = 2",
    ),
    ("a service key without history", "DELETE FROM service_keys"),
    ("the pointer goes back", "UPDATE service_keys SET current_version = 1"),
    ("the pointer goes nowhere", "UPDATE service_keys SET current_version = 9"),
    (
        "what was seen is forgotten",
        "UPDATE service_keys SET seen_version = 5; UPDATE service_keys SET seen_version = 4",
    ),
    ("a service key changes its account", "UPDATE service_keys SET account = account + 1"),
    ("a service key changes its namespace", "UPDATE service_keys SET namespace = 'other'"),
    ("a service key is renamed", "UPDATE service_keys SET name = 'other'"),
    ("a service key changes its id", "UPDATE service_keys SET id = (SELECT other FROM spare)"),
    (
        "a second living key of a name",
        "INSERT INTO service_keys (id, tenant, account, namespace, name, spec, created_at, current_version, last_rotation) SELECT other, tenant, account, namespace, name, spec, 0, 1, 0 FROM service_keys, spare",
    ),
    (
        "a key under another tenant's account",
        "INSERT INTO service_keys (id, tenant, account, namespace, name, spec, created_at, current_version, last_rotation) SELECT other, (SELECT MAX(seq) FROM tenants), account, namespace, 'x', spec, 0, 1, 0 FROM service_keys, spare",
    ),
    (
        "a key without a version",
        "INSERT INTO service_keys (id, tenant, account, namespace, name, spec, created_at, current_version, last_rotation) SELECT other, tenant, account, namespace, 'x', spec, 0, 1, 0 FROM service_keys, spare",
    ),
    (
        "a key destroyed before its versions",
        "UPDATE service_keys SET deleted_at = 1, delete_after = 1, destroyed_at = 2",
    ),
    ("a deletion without a date", "UPDATE service_keys SET deleted_at = 1"),
    ("a version without history", "DELETE FROM versions"),
    (
        "a version number used again",
        "INSERT INTO versions (service_key, version, account, account_key_version, state, sealed, created_at) SELECT service_key, 1, account, 2, 'Deactivated', sealed, 0 FROM versions WHERE version = 2",
    ),
    (
        "a version behind the pointer",
        "INSERT INTO versions (service_key, version, account, account_key_version, state, sealed, created_at) SELECT service_key, 2, account, 2, 'PreActive', sealed, 0 FROM versions WHERE version = 3",
    ),
    (
        "a new version that starts in use",
        "INSERT INTO versions (service_key, version, account, account_key_version, state, sealed, created_at) SELECT service_key, 9, account, 2, 'Active', sealed, 0 FROM versions WHERE version = 3",
    ),
    (
        "a new version under a retired account key",
        "INSERT INTO versions (service_key, version, account, account_key_version, state, sealed, created_at) SELECT service_key, 9, account, 1, 'PreActive', sealed, 0 FROM versions WHERE version = 3",
    ),
    ("a version of another account", "UPDATE versions SET account = account + 1 WHERE version = 3"),
    (
        "a version under no account key",
        "UPDATE versions SET account_key_version = 7, sealed = (SELECT sealed FROM versions WHERE version = 1) WHERE version = 3",
    ),
    (
        "a version under an erased account key",
        "UPDATE versions SET account_key_version = 1, sealed = (SELECT sealed FROM versions WHERE version = 1) WHERE version = 3",
    ),
    (
        "sealed bytes replaced",
        "UPDATE versions SET sealed = (SELECT sealed FROM versions WHERE version = 1) WHERE version = 3",
    ),
    (
        "another account key without sealing anew",
        "UPDATE versions SET account_key_version = 3 WHERE version = 3",
    ),
    ("a version renumbered", "UPDATE versions SET version = 7 WHERE version = 1"),
    ("a compromised version in use again", "UPDATE versions SET state = 'Deactivated' WHERE version = 2"),
    ("a retired version in use again", "UPDATE versions SET state = 'Active' WHERE version = 1"),
    (
        "material that is destroyed only in name",
        "UPDATE versions SET state = 'Destroyed', destroyed_at = 1 WHERE version = 1",
    ),
    ("material lost without a trace", "UPDATE versions SET sealed = NULL WHERE version = 1"),
    ("an unknown state", "UPDATE versions SET state = 'Enabled' WHERE version = 1"),
    ("a second counter", "INSERT INTO change_counter (one, value) VALUES (2, 0)"),
];

async fn execute(connection: &mut AnyConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

async fn snapshot(world: &World) -> Vec<u8> {
    let mut out = Vec::new();
    world.ledger.export(&mut out).await.unwrap();
    out
}

async fn a_bug_cannot_break_the_rules(world: World) {
    let ledger = &world.ledger;
    let chain = chain(ledger, "c1").await;
    // Account key 1 is erased, 2 seals, versions v1 (old), v2 (compromised), v3 (current).
    ledger.install_account_key(chain.account.id, &wrapped(2, "aws"), at(1)).await.unwrap();
    ledger.erase_account_key(chain.account.id, 1, at(1)).await.unwrap();
    let place = chain.sealer.place().clone();
    let sealer = openkcm_keychain::seal::Sealer::new(place, 2, &chain.account_key);
    let key = ledger.create_key(&chain.new_key("db"), &sealer, at(2)).await.unwrap().into_row().id;
    ledger.rotate(key, 1, None, None, &sealer, at(3)).await.unwrap();
    ledger.mark_compromised(key, 2, at(4)).await.unwrap();
    ledger.rotate(key, 2, None, None, &sealer, at(5)).await.unwrap();
    ledger.bind_tenant(&common::cluster("c2"), "root:other", at(6)).await.unwrap();

    let before = snapshot(&world).await;
    let mut connection = world.raw().await;
    let (blob, literal) = if world.is_sqlite() { ("BLOB", "x'") } else { ("BYTEA", "'\\x") };
    let spare = format!(
        "CREATE TABLE spare (other {blob}); INSERT INTO spare VALUES ({literal}{}')",
        "ab".repeat(16)
    );
    execute(&mut connection, spare).await.unwrap();
    for (what, statement) in ATTACKS {
        let begin = execute(&mut connection, "BEGIN".to_owned()).await;
        begin.unwrap();
        let outcome = execute(&mut connection, (*statement).to_owned()).await;
        let outcome = match outcome {
            // Deferred rules speak at the end.
            Ok(()) => execute(&mut connection, "COMMIT".to_owned()).await,
            Err(error) => Err(error),
        };
        let error = outcome.expect_err(what);
        // Refused by a rule, not by a slip of the pen.
        let error = error.into_database_error().unwrap();
        // SQLite's classes of constraints (primary and extended codes), PostgreSQL's class 23.
        let by_rule = match error.code().unwrap().as_ref() {
            "19" | "275" | "787" | "1299" | "1555" | "1811" | "2067" | "3091" => world.is_sqlite(),
            code => code.starts_with("23") && code.len() == 5,
        };
        assert!(by_rule, "{what}: {:?} {error}", error.code());
        execute(&mut connection, "ROLLBACK".to_owned()).await.ok();
        assert!(snapshot(&world).await == before, "{what}");
    }
}

async fn a_newer_schema_is_refused(mut world: World) {
    let mut connection = world.raw().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 SELECT 999, 'from the future', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1";
    execute(&mut connection, newer.to_owned()).await.unwrap();
    drop(connection);
    world.ledger.close().await;
    let refused = openkcm_keychain::Ledger::open(&world.location).await;
    assert!(matches!(refused, Err(openkcm_keychain::KeychainError::Migrate(_))), "{refused:?}");
    let mut connection = world.raw().await;
    execute(&mut connection, "DELETE FROM _sqlx_migrations WHERE version = 999".to_owned()).await.unwrap();
    world.reopen().await;
}
