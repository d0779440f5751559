//! A ledger on each engine, and what the tests say often.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test binary uses its part

pub mod postgres;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kcp_client_rs::LogicalCluster;
use openkcm_keychain::{
    AccountKeyInput, Created, Ledger, Location, NewKey, Rotated, SecretKey,
    rows::{AccountId, AccountRow, KeyId, Root, ServiceKeyRow, TenantRow, VersionRow},
    seal::{Sealer, open_version},
};
use serde_json::json;
use tempfile::TempDir;

/// A ledger that lives as long as this.
pub struct World {
    pub ledger: Ledger,
    pub location: Location,
    directory: Option<TempDir>,
}

impl World {
    pub async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Directory(directory.path().join("data"));
        let ledger = Ledger::open(&location).await.unwrap();
        Self { ledger, location, directory: Some(directory) }
    }

    pub async fn postgres() -> Self {
        let location = Location::Postgres(postgres::new_database().await);
        let ledger = Ledger::open(&location).await.unwrap();
        Self { ledger, location, directory: None }
    }

    /// A connection that knows none of the ledger's code.
    pub async fn raw(&self) -> sqlx::AnyConnection {
        use sqlx::Connection;
        sqlx::any::install_default_drivers();
        let mut connection = sqlx::AnyConnection::connect(&self.raw_url()).await.unwrap();
        if self.is_sqlite() {
            sqlx::raw_sql("PRAGMA foreign_keys = ON").execute(&mut connection).await.unwrap();
        }
        connection
    }

    pub fn raw_url(&self) -> String {
        match &self.location {
            Location::Directory(path) => format!("sqlite://{}", path.join("ledger.sqlite").display()),
            Location::Postgres(url) => url.clone(),
        }
    }

    pub fn is_sqlite(&self) -> bool {
        self.directory.is_some()
    }

    /// A place for files of the test.
    pub fn scratch(&self) -> &std::path::Path {
        self.directory.as_ref().unwrap().path()
    }

    /// What a crash leaves: all connections gone, and a new process that opens the ledger.
    pub async fn reopen(&mut self) {
        self.ledger.close().await;
        self.ledger = Ledger::open(&self.location).await.unwrap();
    }
}

/// Runs each scenario on both engines.
#[macro_export]
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::World::sqlite().await).await })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::World::postgres().await).await })+
        }
    };
}

/// 2026-01-01T00:00:00Z plus seconds.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap() + SignedDuration::from_secs(seconds)
}

pub const DAY: i64 = 86_400;

pub fn cluster(name: &str) -> LogicalCluster {
    name.parse().unwrap()
}

/// What a root key would return: the tests' root key only marks the blob.
pub fn wrapped(version: u32, label: &str) -> AccountKeyInput {
    AccountKeyInput {
        version,
        wrapped: format!("wrapped by {label} {version}").into_bytes(),
        root: Root {
            provider_type: "AWSKMS".to_owned(),
            reference: format!("arn:aws:kms:eu-central-1:111122223333:key/{label}"),
            version: String::new(),
            spec: json!({"providerType": "AWSKMS", "keyReference": label}),
        },
    }
}

/// An active tenant with one account that has an account key.
pub struct Chain {
    pub tenant: TenantRow,
    pub account: AccountRow,
    pub account_key: SecretKey,
    pub sealer: Arc<Sealer>,
}

pub async fn chain(ledger: &Ledger, cluster_name: &str) -> Chain {
    let tenant = ledger.bind_tenant(&cluster(cluster_name), "root:acme", at(0)).await.unwrap();
    account(ledger, &tenant, "aws").await
}

pub async fn account(ledger: &Ledger, tenant: &TenantRow, name: &str) -> Chain {
    let spec = json!({"providerType": "AWSKMS", "keyReference": name});
    let account = ledger.upsert_account(tenant.id, name, &spec, at(0)).await.unwrap();
    let account = ledger.install_account_key(account.id, &wrapped(1, name), at(0)).await.unwrap();
    let account_key = SecretKey::random().unwrap();
    let place = ledger.place(account.id).await.unwrap();
    let sealer = Arc::new(Sealer::new(place, 1, &account_key));
    Chain { tenant: tenant.clone(), account, account_key, sealer }
}

impl Chain {
    pub fn new_key(&self, name: &str) -> NewKey {
        Self::key_of(&self.tenant, self.account.id, name)
    }

    pub fn key_of(tenant: &TenantRow, account: AccountId, name: &str) -> NewKey {
        NewKey {
            tenant: tenant.id,
            account,
            namespace: "payments".to_owned(),
            name: name.to_owned(),
            spec: json!({"algorithm": "AES-GCM-256"}),
            next_rotation: Some(at(DAY)),
            seen_version: 0,
        }
    }

    pub async fn create(&self, ledger: &Ledger, name: &str) -> ServiceKeyRow {
        match ledger.create_key(&self.new_key(name), &self.sealer, at(1)).await.unwrap() {
            Created::New(row) => row,
            other => panic!("expected a new key, got {other:?}"),
        }
    }

    /// Rotates once, whatever is current.
    pub async fn rotate(&self, ledger: &Ledger, key: KeyId) -> ServiceKeyRow {
        let current = ledger.key_by_id(key).await.unwrap().unwrap().current_version;
        match ledger.rotate(key, current, None, Some(at(DAY)), &self.sealer, at(2)).await.unwrap() {
            Rotated::New(row) => row,
            other => panic!("expected a rotation, got {other:?}"),
        }
    }

    pub fn open(&self, row: &VersionRow) -> openkcm_keychain::Result<SecretKey> {
        open_version(self.sealer.place(), row, &self.account_key)
    }

    /// The plain bytes of every version that is not destroyed.
    pub async fn material(&self, ledger: &Ledger, key: KeyId) -> Vec<(u32, [u8; 32])> {
        let history = ledger.history(key).await.unwrap();
        let living = history.iter().filter(|row| row.sealed.is_some());
        living.map(|row| (row.version, bytes(&self.open(row).unwrap()))).collect()
    }
}

pub fn bytes(key: &SecretKey) -> [u8; 32] {
    key.expose(|bytes| *bytes)
}

pub const LONG: Duration = Duration::from_hours(1);
