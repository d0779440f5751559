//! Random histories against a small model: nothing is lost, no number is used twice, and whatever happens in
//! between (crash, clock jump, unbind, disable, deletion, re-wrap, a restore from a backup), what can be read stays
//! what it was.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{LONG, World, at, bytes, chain, wrapped};
use openkcm_keychain::{
    AccountKeys, Created, KeychainError, Ledger, Location, Rotated, SecretKey,
    rows::{KeyId, ServiceKeyState, TenantState},
    seal::Sealer,
};
use proptest::prelude::*;
use serde_json::json;

const NAMES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    /// Rotates with a request token, expecting the current version or an older one.
    Rotate {
        name: usize,
        request: Option<u8>,
        stale: bool,
    },
    Disable(usize, bool),
    Delete(usize),
    Undelete(usize),
    Compromise(usize),
    DestroyDue,
    Unbind,
    Bind,
    Suspend,
    Resume,
    Rekey,
    RewrapSome(u32),
    Crash,
    Backup,
    Restore,
    Clock(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES;
    prop_oneof![
        4 => name.clone().prop_map(Step::Create),
        8 => (name.clone(), prop::option::of(0..4u8), any::<bool>())
            .prop_map(|(name, request, stale)| Step::Rotate { name, request, stale }),
        2 => (name.clone(), any::<bool>()).prop_map(|(name, on)| Step::Disable(name, on)),
        2 => name.clone().prop_map(Step::Delete),
        1 => name.clone().prop_map(Step::Undelete),
        1 => name.prop_map(Step::Compromise),
        1 => Just(Step::DestroyDue),
        1 => Just(Step::Unbind),
        3 => Just(Step::Bind),
        1 => Just(Step::Suspend),
        2 => Just(Step::Resume),
        1 => Just(Step::Rekey),
        2 => (1..6u32).prop_map(Step::RewrapSome),
        1 => Just(Step::Crash),
        1 => Just(Step::Backup),
        1 => Just(Step::Restore),
        2 => (-50..100i64).prop_map(Step::Clock),
    ]
}

/// What the ledger must say about a living key.
#[derive(Debug, Clone)]
struct Key {
    id: KeyId,
    versions: BTreeMap<u32, [u8; 32]>,
    served: Option<String>,
    delete_after: Option<i64>,
}

#[derive(Debug, Clone, Default)]
struct State {
    keys: BTreeMap<usize, Key>,
    unbound: bool,
    suspended: bool,
    /// Account key versions; the last one is active.
    account_keys: u32,
}

struct Run {
    world: World,
    chain: common::Chain,
    sealers: Vec<Arc<Sealer>>,
    state: State,
    now: i64,
    backup: Option<(State, std::path::PathBuf)>,
    /// Every version that the world was ever told of, with its material: the oracle that no restore changes.
    told: BTreeMap<(KeyId, u32), [u8; 32]>,
    restores: usize,
}

impl Run {
    async fn new() -> Self {
        let world = World::sqlite().await;
        let chain = chain(&world.ledger, "c1").await;
        let sealers = vec![Arc::clone(&chain.sealer)];
        let state = State { account_keys: 1, ..State::default() };
        Self { world, chain, sealers, state, now: 10, backup: None, told: BTreeMap::new(), restores: 0 }
    }

    fn ledger(&self) -> &Ledger {
        &self.world.ledger
    }

    fn active(&self) -> Arc<Sealer> {
        Arc::clone(&self.sealers[self.state.account_keys as usize - 1])
    }

    fn is_active(&self) -> bool {
        !self.state.unbound && !self.state.suspended
    }

    async fn read(&self, key: KeyId, version: u32) -> [u8; 32] {
        let row = self.ledger().version(key, version).await.unwrap();
        let sealer = &self.sealers[row.account_key_version as usize - 1];
        bytes(&sealer.open(key, version, &row.sealed.unwrap()).unwrap())
    }

    /// A version is made known to the world: it is new, and durable in the ledger.
    async fn tell(&mut self, name: usize, key: KeyId, version: u32) {
        let material = self.read(key, version).await;
        let before = self.told.insert((key, version), material);
        assert!(before.is_none(), "v{version} of {key} is used again");
        self.state.keys.get_mut(&name).unwrap().versions.insert(version, material);
    }

    async fn step(&mut self, step: Step) {
        let (now, tenant) = (at(self.now), self.chain.tenant.id);
        match step {
            Step::Create(name) => self.create(name).await,
            Step::Rotate { name, request, stale } => self.rotate(name, request, stale).await,
            Step::Disable(name, on) => {
                if let Some(key) = self.state.keys.get(&name) {
                    self.ledger().record_spec(key.id, &json!({"disabled": on}), None, at(9)).await.unwrap();
                }
            }
            Step::Delete(name) => {
                if let Some(key) = self.state.keys.get_mut(&name) {
                    let until = self.now + 60;
                    let row = self.world.ledger.schedule_deletion(key.id, at(until), now).await.unwrap();
                    let date = *key.delete_after.get_or_insert(until);
                    assert_eq!(
                        (row.state(), row.delete_after),
                        (ServiceKeyState::PendingDeletion, Some(at(date)))
                    );
                }
            }
            Step::Undelete(name) => {
                if let Some(key) = self.state.keys.get_mut(&name) {
                    let row = self.world.ledger.undelete(key.id, now).await.unwrap();
                    assert_eq!(row.state(), ServiceKeyState::Active);
                    key.delete_after = None;
                }
            }
            Step::Compromise(name) => {
                if let Some(key) = self.state.keys.get(&name) {
                    self.ledger()
                        .mark_compromised(key.id, *key.versions.keys().next().unwrap(), now)
                        .await
                        .unwrap();
                }
            }
            Step::DestroyDue => {
                let destroyed = self.ledger().destroy_due(100, now).await.unwrap();
                let due = |key: &Key| key.delete_after.is_some_and(|until| until <= self.now);
                let mut expected: Vec<_> =
                    self.state.keys.values().filter(|key| due(key)).map(|key| key.id).collect();
                let mut ids: Vec<_> = destroyed.iter().map(|row| row.id).collect();
                expected.sort();
                ids.sort();
                assert_eq!(ids, expected);
                let now = self.now;
                self.state.keys.retain(|_, key| key.delete_after.is_none_or(|until| until > now));
            }
            Step::Unbind => {
                self.ledger().unbind_tenant(tenant, at(1_000_000), now).await.unwrap();
                self.state.unbound = true;
            }
            Step::Bind => {
                let row = self.ledger().bind_tenant(&common::cluster("c1"), "root:acme", now).await.unwrap();
                assert_eq!(row.id, tenant);
                self.state.unbound = false;
            }
            Step::Suspend => {
                self.ledger().suspend_tenant(tenant, "test", now).await.unwrap();
                self.state.suspended = true;
            }
            Step::Resume => {
                self.ledger().resume_tenant(tenant, at(9)).await.unwrap();
                self.state.suspended = false;
            }
            Step::Rekey => self.rekey().await,
            Step::RewrapSome(limit) => {
                let to = self.active();
                for from in &self.sealers[..self.state.account_keys as usize - 1] {
                    let batch = self.ledger().rewrap_batch(from, &to, limit).await.unwrap();
                    assert_eq!(batch.failed, 0);
                }
            }
            Step::Crash => self.world.reopen().await,
            Step::Backup => self.take_backup().await,
            Step::Restore => self.restore().await,
            Step::Clock(by) => self.now = (self.now + by).max(1),
        }
    }

    async fn create(&mut self, name: usize) {
        let new = self.chain.new_key(&format!("k{name}"));
        let created = self.ledger().create_key(&new, &self.active(), at(self.now)).await;
        match (self.state.keys.get_mut(&name), created) {
            (None, Err(KeychainError::TenantSuspended(_))) => assert!(!self.is_active()),
            (None, Ok(Created::New(row))) => {
                assert!(self.is_active());
                let key = Key { id: row.id, versions: BTreeMap::new(), served: None, delete_after: None };
                self.state.keys.insert(name, key);
                self.tell(name, row.id, row.current_version).await;
            }
            (Some(key), Ok(Created::Existing(row))) => assert_eq!((row.id, key.delete_after), (key.id, None)),
            (Some(key), Ok(Created::Recovered(row))) => {
                assert!(row.id == key.id && key.delete_after.take().is_some());
            }
            (known, created) => panic!("{known:?} {created:?}"),
        }
    }

    async fn rotate(&mut self, name: usize, request: Option<u8>, stale: bool) {
        let Some(key) = self.state.keys.get(&name).cloned() else { return };
        let request = request.map(|request| request.to_string());
        let current = self.ledger().key_by_id(key.id).await.unwrap().unwrap().current_version;
        let expected = if stale { current - 1 } else { current };
        let sealer = self.active();
        let rotated =
            self.ledger().rotate(key.id, expected, request.as_deref(), None, &sealer, at(self.now)).await;
        match rotated {
            Ok(Rotated::New(row)) => {
                assert!(
                    self.is_active() && !stale && key.delete_after.is_none() && row.current_version > current
                );
                assert!(request.is_none() || request != key.served);
                let known = self.state.keys.get_mut(&name).unwrap();
                known.served = request.or(key.served);
                self.tell(name, key.id, row.current_version).await;
            }
            Ok(Rotated::AlreadyServed(_)) => assert!(request.is_some() && request == key.served),
            Ok(Rotated::Superseded(_)) => assert!(stale),
            Err(KeychainError::KeyPendingDeletion(_)) => assert!(key.delete_after.is_some()),
            Err(KeychainError::TenantSuspended(_)) => assert!(!self.is_active()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn rekey(&mut self) {
        let version = self.state.account_keys + 1;
        let key = SecretKey::random().unwrap();
        let sealer = Arc::new(Sealer::new(self.chain.sealer.place().clone(), version, &key));
        // A restored ledger counts from its own past: the number may be one that was in use before.
        self.sealers.truncate(version as usize - 1);
        self.sealers.push(sealer);
        let label = format!("root{}", self.restores);
        self.ledger()
            .install_account_key(self.chain.account.id, &wrapped(version, &label), at(self.now))
            .await
            .unwrap();
        self.state.account_keys = version;
    }

    async fn take_backup(&mut self) {
        let directory = self.world.scratch().join(format!("backup{}-{}", self.restores, self.told.len()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        self.ledger().backup(&directory.join("ledger.sqlite")).await.unwrap();
        self.backup = Some((self.state.clone(), directory));
    }

    /// The ledger is put back; kcp's objects keep what they were told, and say so; an operator accepts it.
    async fn restore(&mut self) {
        let Some((state, directory)) = self.backup.take() else { return };
        self.world.ledger.close().await;
        self.world.location = Location::Directory(directory);
        self.world.ledger = Ledger::open(&self.world.location).await.unwrap();
        self.state = state;
        self.restores += 1;
        for key in self.state.keys.values() {
            let seen =
                self.told.keys().filter(|(id, _)| *id == key.id).map(|(_, version)| *version).max().unwrap();
            let row = self.ledger().record_seen_version(key.id, seen).await.unwrap();
            assert_eq!(row.is_behind(), seen > row.current_version);
            if row.is_behind() {
                let refused = self
                    .ledger()
                    .rotate(key.id, row.current_version, None, None, &self.active(), at(self.now))
                    .await;
                assert!(refused.is_err(), "an older ledger rotates: {refused:?}");
                self.ledger().accept_loss(row.tenant, &row.namespace, &row.name, seen).await.unwrap();
            }
        }
    }

    /// The ledger says what the model says, and every version reads as it always did.
    async fn check(&self) {
        let tenant = self.ledger().tenant(&common::cluster("c1")).await.unwrap().unwrap();
        assert_eq!(tenant.state() == TenantState::Active, self.is_active());
        let rows = self.ledger().keys(tenant.id).await.unwrap();
        assert_eq!(rows.len(), self.state.keys.len());
        for (name, key) in &self.state.keys {
            let row = rows.iter().find(|row| row.name == format!("k{name}")).unwrap();
            assert_eq!((row.id, row.delete_after), (key.id, key.delete_after.map(at)));
            assert_eq!(row.served_request, key.served);
            assert_eq!(Some(&row.current_version), key.versions.keys().last());
            let history = self.ledger().history(key.id).await.unwrap();
            assert_eq!(history.len(), key.versions.len());
            for version in &history {
                let material = self.read(key.id, version.version).await;
                assert_eq!(material, key.versions[&version.version]);
                assert_eq!(material, self.told[&(key.id, version.version)]);
            }
        }
        let report = self.ledger().verify(&AccountKeys::new(LONG)).await.unwrap();
        assert_eq!(report.broken, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("OPENKCM_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_histories_lose_nothing(steps in prop::collection::vec(step(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run.step(step).await;
            }
            run.check().await;
            run.world.reopen().await;
            run.check().await;
        });
    }
}
