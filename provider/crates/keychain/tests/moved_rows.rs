//! A sealed version opens in its own place only.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Instant;

use common::{LONG, World, bytes, chain, cluster};
use openkcm_keychain::{
    AccountKeys, SecretKey,
    rows::{AccountId, KeyId, TenantId},
    seal::{Place, SEALED_LEN, Sealer},
};
use proptest::prelude::*;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// Everything that says where a version belongs.
#[derive(Debug, Clone, PartialEq)]
struct Home {
    cluster: String,
    tenant: u128,
    account: u128,
    key: u128,
    version: u32,
    account_key_version: u32,
}

impl Home {
    fn sealer(&self, account_key: &SecretKey) -> Sealer {
        let place = Place {
            cluster: cluster(&self.cluster),
            tenant: TenantId(Uuid::from_u128(self.tenant)),
            account: AccountId(Uuid::from_u128(self.account)),
        };
        Sealer::new(place, self.account_key_version, account_key)
    }

    fn key(&self) -> KeyId {
        KeyId(Uuid::from_u128(self.key))
    }
}

fn home() -> impl Strategy<Value = Home> {
    // Few values, so that homes are often equal in all but one part, and names that run into one another.
    let name = prop_oneof!["a", "ab", "b", "a-b", "[a-z0-9]{1,63}"].prop_map(String::from);
    (name, 0..3u128, 0..3u128, 0..3u128, 1..4u32, 1..4u32).prop_map(
        |(cluster, tenant, account, key, version, account_key_version)| Home {
            cluster,
            tenant,
            account,
            key,
            version,
            account_key_version,
        },
    )
}

proptest! {
    #[test]
    fn opens_at_home_and_nowhere_else(here in home(), there in home(), bit in 0..SEALED_LEN * 8) {
        let account_key = SecretKey::random().unwrap();
        let service_key = SecretKey::random().unwrap();
        let mut sealed = here.sealer(&account_key).seal(here.key(), here.version, &service_key).unwrap();
        prop_assert_eq!(sealed.len(), SEALED_LEN);
        let opened = there.sealer(&account_key).open(there.key(), there.version, &sealed);
        match opened {
            Ok(opened) => prop_assert!(here == there && bytes(&opened) == bytes(&service_key)),
            Err(_) => prop_assert!(here != there),
        }
        let other = SecretKey::random().unwrap();
        prop_assert!(!here.sealer(&other).opens(here.key(), here.version, &sealed));
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!here.sealer(&account_key).opens(here.key(), here.version, &sealed));
    }

    #[test]
    fn hostile_bytes_are_refused(sealed in prop::collection::vec(any::<u8>(), 0..130)) {
        let here = Home { cluster: "a".into(), tenant: 1, account: 1, key: 1, version: 1, account_key_version: 1 };
        prop_assert!(!here.sealer(&SecretKey::random().unwrap()).opens(here.key(), 1, &sealed));
    }
}

/// Someone with write access to the file moves rows about, past every rule.
#[tokio::test]
async fn verify_names_the_row_that_was_moved() {
    // Each statement moves sealed material; the second part says which row cannot be opened afterwards.
    for (what, statement) in [
        (
            "between versions",
            "UPDATE versions SET sealed = (SELECT sealed FROM versions WHERE service_key = 1 AND version = 2) WHERE service_key = 1 AND version = 1",
        ),
        (
            "between keys",
            "UPDATE versions SET sealed = (SELECT sealed FROM versions WHERE service_key = 2 AND version = 1) WHERE service_key = 1 AND version = 1",
        ),
        (
            "a version's number",
            "UPDATE versions SET version = 3 WHERE service_key = 1 AND version = 2; UPDATE service_keys SET current_version = 3 WHERE seq = 1",
        ),
        ("a key's id", "UPDATE service_keys SET id = randomblob(16) WHERE seq = 1"),
        ("a tenant's id", "UPDATE tenants SET id = randomblob(16)"),
        ("a tenant's workspace", "UPDATE tenants SET cluster = 'c9'"),
        (
            "cut short",
            "UPDATE versions SET sealed = substr(sealed, 1, 60) WHERE service_key = 1 AND version = 1",
        ),
        (
            "the number of the account key",
            "UPDATE account_keys SET version = 2; UPDATE versions SET account_key_version = 2",
        ),
    ] {
        let world = World::sqlite().await;
        let chain = chain(&world.ledger, "c1").await;
        let key = chain.create(&world.ledger, "db").await.id;
        chain.rotate(&world.ledger, key).await;
        chain.create(&world.ledger, "other").await;
        let (cache, now) = (AccountKeys::new(LONG), Instant::now());
        for version in [1, 2] {
            cache.insert(chain.account.id, version, chain.account_key.duplicate().unwrap(), now);
        }
        assert_eq!(world.ledger.verify(&cache).await.unwrap().broken, None);
        let mut connection = world.raw().await;
        let rules: Vec<(String,)> = sqlx::query_as("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        sqlx::raw_sql("PRAGMA foreign_keys = OFF").execute(&mut connection).await.unwrap();
        for (rule,) in rules {
            sqlx::raw_sql(AssertSqlSafe(format!("DROP TRIGGER {rule}")))
                .execute(&mut connection)
                .await
                .unwrap();
        }
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        let report = world.ledger.verify(&cache).await.unwrap();
        let broken = report.broken.unwrap_or_else(|| panic!("{what}: not noticed"));
        assert_eq!(broken.table, "versions", "{what}: {broken:?}");
        assert!(broken.what.contains("does not open"), "{what}: {broken:?}");
    }
}

/// A page of the file is damaged: `verify` says so instead of reading on.
#[tokio::test]
async fn verify_notices_broken_structure() {
    let world = World::sqlite().await;
    let chain = chain(&world.ledger, "c1").await;
    chain.create(&world.ledger, "db").await;
    let mut connection = world.raw().await;
    sqlx::raw_sql(
        "PRAGMA foreign_keys = OFF; DROP TRIGGER service_keys_change; UPDATE service_keys SET account = 77",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let report = world.ledger.verify(&AccountKeys::new(LONG)).await.unwrap();
    let broken = report.broken.unwrap();
    assert_eq!(broken.table, "ledger.sqlite");
    assert!(broken.what.contains("not there"), "{broken:?}");
}
