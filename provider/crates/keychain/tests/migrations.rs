//! A ledger of each earlier version of the schema opens with all that it had, and goes on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::similar_names)]

mod common;

use common::{at, cluster, wrapped};
use openkcm_keychain::{
    Ledger, Location, Rotated, SecretKey,
    rows::{KeyId, TenantId},
    seal::Sealer,
};
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

/// Versions of the schema before this one.
const EARLIER: [usize; 2] = [1, 2];

/// An earlier version: written past the API, which only knows the newest one.
async fn earlier(version: usize, location: &Location, url: &str) -> (KeyId, SecretKey, SecretKey) {
    let ledger = Ledger::open_at(location, version).await.unwrap();
    let tenant = ledger.bind_tenant(&cluster("c1"), "root:acme", at(0)).await.unwrap();
    let account = ledger.upsert_account(tenant.id, "aws", &serde_json::json!({}), at(0)).await.unwrap();
    let account = ledger.install_account_key(account.id, &wrapped(1, "aws"), at(0)).await.unwrap();
    let (account_key, material) = (SecretKey::random().unwrap(), SecretKey::random().unwrap());
    let sealer = Sealer::new(ledger.place(account.id).await.unwrap(), 1, &account_key);
    let key = KeyId(Uuid::from_u128(4711));
    let hex = |bytes: &[u8]| {
        let text = hex::encode(bytes);
        if matches!(location, Location::Postgres(_)) { format!("'\\x{text}'") } else { format!("x'{text}'") }
    };
    let sealed = sealer.seal(key, 1, &material).unwrap();
    let mut raw = sqlx::AnyConnection::connect(url).await.unwrap();
    let sql = format!(
        "BEGIN; \
         INSERT INTO service_keys (id, tenant, account, namespace, name, spec, created_at, current_version, last_rotation) \
         VALUES ({}, 1, 1, 'payments', 'db', '{{}}', 5, 1, 5); \
         INSERT INTO versions (service_key, version, account, account_key_version, state, sealed, created_at) \
         VALUES (1, 1, 1, 1, 'Active', {}, 5); \
         UPDATE change_counter SET value = 1; INSERT INTO changes (token, cluster) VALUES (1, 'c1'); COMMIT",
        hex(key.0.as_bytes()),
        hex(&sealed),
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    ledger.close().await;
    (key, account_key, material)
}

async fn from(version: usize, location: Location, url: String) {
    let (key, account_key, material) = earlier(version, &location, &url).await;
    let ledger = Ledger::open(&location).await.unwrap();
    let row = ledger.key_by_id(key).await.unwrap().unwrap();
    assert_eq!((row.current_version, row.withheld), (1, None));
    assert_eq!(ledger.changes_since(0).await.unwrap().changed.unwrap().len(), 1);
    let place = ledger.place(row.account).await.unwrap();
    let sealer = Sealer::new(place, 1, &account_key);
    let version = ledger.version(key, 1).await.unwrap();
    let opened = sealer.open(key, 1, version.sealed.as_deref().unwrap()).unwrap();
    assert_eq!(opened.expose(|bytes| *bytes), material.expose(|bytes| *bytes));
    let rotated = ledger.rotate(key, 1, Some("now"), None, &sealer, at(9)).await.unwrap();
    assert!(matches!(rotated, Rotated::New(row) if row.current_version == 2));
    let report = ledger.verify(&openkcm_keychain::AccountKeys::new(common::LONG)).await.unwrap();
    assert_eq!((report.broken, report.versions), (None, 2));
    ledger.close().await;
    // Once more changes nothing.
    let again = Ledger::open(&location).await.unwrap();
    assert_eq!(again.history(key).await.unwrap().len(), 2);
    assert_ne!(row.tenant, TenantId(Uuid::nil()));
}

#[tokio::test]
async fn from_each_earlier_version_sqlite() {
    for version in EARLIER {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("ledger.sqlite").display());
        from(version, Location::Directory(directory.path().to_owned()), url).await;
    }
}

#[tokio::test]
async fn from_each_earlier_version_postgres() {
    for version in EARLIER {
        let url = common::postgres::new_database().await;
        from(version, Location::Postgres(url.clone()), url).await;
    }
}

#[tokio::test]
async fn no_earlier_version_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().to_owned());
    Ledger::open(&location).await.unwrap().close().await;
    let url = format!("sqlite://{}", directory.path().join("ledger.sqlite").display());
    let mut raw = sqlx::AnyConnection::connect(&url).await.unwrap();
    let newest: i64 =
        sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(&mut raw).await.unwrap();
    assert_eq!(newest as usize, EARLIER.len() + 1);
}
