//! Reconciling an Account.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kcp_client_rs::LogicalCluster;
use openkcm_apis::{Account, AccountSpec, Impact, LEDGER_FINALIZER};
use openkcm_keychain::{
    crash_point,
    rows::{AccountKeyRow, AccountKeyState, AccountRow, TenantRow},
    seal::Sealer,
};
use openkcm_logical::{ErrorClass, Lookup};
use openkcm_orchestrator::{KeyId, Told};
use openkcm_plan::{
    Event, TenantView,
    account::{self, AccountView, Effect, KeyView},
};

use super::{
    provider::{Flow, Provider, UNREADABLE, WRITTEN, Workspace, lock, settle, until},
    roots::{self, Task},
    subject::Subject,
};

/// Service key versions that one re-wrap transaction moves: the ledger's other writers get their turn in between.
const REWRAP_BATCH: u32 = 10_000;
/// How long batches follow one another before the Account is planned again: progress shows, and a change of mind counts.
const REWRAP_ROUND: Duration = Duration::from_secs(1);
/// How many names a message lists.
const NAMES: usize = 10;

/// What one round knows of an Account.
pub struct AccountSnapshot {
    pub tenant: Option<TenantRow>,
    pub row: Option<AccountRow>,
    pub object: Option<Arc<Account>>,
    /// The object exists, and does not fit the schema: why.
    pub unreadable: Option<Arc<str>>,
    pub record: Option<account::Record>,
    pub view: TenantView,
}

impl AccountSnapshot {
    /// The regions that the Account lets its keys be in, sorted; empty: anywhere.
    pub fn edge_regions(&self) -> anyhow::Result<Vec<String>> {
        let mut regions = match (&self.object, &self.row) {
            (Some(object), _) => object.spec.edge_regions.clone(),
            (None, Some(row)) => {
                serde_json::from_value::<AccountSpec>(row.spec.clone())
                    .context("read the recorded spec of the Account")?
                    .edge_regions
            }
            (None, None) => Vec::new(),
        };
        regions.sort_unstable();
        Ok(regions)
    }
}

impl Provider {
    pub async fn account(&self, cluster: &LogicalCluster, name: &str) -> anyhow::Result<Option<Duration>> {
        settle(|| self.account_step(cluster, name)).await
    }

    /// Reads what the ledger and the caches say.
    pub async fn account_snapshot(
        &self,
        workspace: &Workspace,
        cluster: &LogicalCluster,
        name: &str,
    ) -> anyhow::Result<AccountSnapshot> {
        let (object, unreadable) = match self.caches.accounts.open(cluster, None, name) {
            Lookup::Found(object) => (Some(object), None),
            Lookup::Undecodable(why) => (None, Some(why)),
            Lookup::Absent => (None, None),
        };
        let row = match &workspace.row {
            Some(tenant) => self.ledger.account(tenant.id, name).await?,
            None => None,
        };
        let record = match &row {
            Some(row) => Some(self.account_record(row, object.as_deref()).await?),
            None => None,
        };
        let tenant = workspace.row.clone();
        Ok(AccountSnapshot { tenant, row, object, unreadable, record, view: workspace.view })
    }

    /// How the Account looks from one of its keys, with the account keys that are at hand.
    pub fn account_view(
        &self,
        cluster: &LogicalCluster,
        name: &str,
        snapshot: &AccountSnapshot,
        now: Timestamp,
    ) -> (AccountView, Vec<u32>) {
        let loaded = snapshot.row.as_ref().map_or_else(Vec::new, |row| self.loaded(row));
        if let Some(why) = &snapshot.unreadable {
            let pending = AccountView::Pending { reason: UNREADABLE.to_owned(), message: why.to_string() };
            return (pending, loaded);
        }
        let input = self.account_input(cluster, name, snapshot, now, &[], Vec::new());
        (account::view(&input), loaded)
    }

    fn loaded(&self, row: &AccountRow) -> Vec<u32> {
        let now = std::time::Instant::now();
        let held = |key: &&AccountKeyRow| self.account_keys.get(row.id, key.version, now).is_some();
        row.keys.iter().filter(held).map(|key| key.version).collect()
    }

    fn account_input<'a>(
        &self,
        cluster: &LogicalCluster,
        name: &str,
        snapshot: &'a AccountSnapshot,
        now: Timestamp,
        keys: &[KeyId],
        lost: Vec<String>,
    ) -> account::Input<'a> {
        let namespaces: BTreeSet<_> = keys.iter().map(|key| &key.namespace).collect();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let clients: u64 = keys.iter().map(|key| self.orchestrator.distribution(key).active_clients).sum();
        let desired_root = snapshot.object.as_ref().map(|object| roots::root_id(&object.spec));
        let current = snapshot.row.as_ref().and_then(AccountRow::current_key);
        let root_in_use = current.and_then(|key| roots::root_of(&key.root));
        let in_use_id = root_in_use.as_ref().map(roots::root_id);
        account::Input {
            now,
            settings: self.times.plan,
            tenant: snapshot.view,
            object: snapshot.object.as_deref(),
            record: snapshot.record.clone(),
            desired: desired_root
                .as_ref()
                .map_or(account::Probe::Never, |id| self.roots.probe(cluster, name, id)),
            in_use: in_use_id
                .filter(|id| Some(id) != desired_root.as_ref())
                .map(|id| self.roots.probe(cluster, name, &id)),
            impact: Impact {
                keys: count(keys.len()),
                namespaces: count(namespaces.len()),
                active_clients: i32::try_from(clients).unwrap_or(i32::MAX),
            },
            dependents: keys
                .iter()
                .take(NAMES)
                .map(|key| format!("{}/{}", key.namespace, key.name))
                .collect(),
            lost,
            absent: account::Absent::default(),
        }
    }

    async fn account_record(
        &self,
        row: &AccountRow,
        object: Option<&Account>,
    ) -> anyhow::Result<account::Record> {
        let loaded = self.loaded(row);
        let desired = object.map(|object| roots::root_id(&object.spec));
        let rekeying = row.keys.len() > 1;
        // Counted while there is more than one account key, and once more at the end: until that has been told.
        let told = object.and_then(|object| object.status.as_ref()?.rewrap.as_ref()).is_some_and(|rewrap| {
            rewrap.finished_at.is_some() && u32::try_from(rewrap.to).ok() == row.current_key_version
        });
        let ended = !rekeying && !told && row.current_key_version.is_some_and(|version| version > 1);
        let sealed = if rekeying || ended { self.ledger.rewrap_progress(row.id).await? } else { Vec::new() };
        let last_erased = if ended { self.last_erased(row).await? } else { None };
        let view = |key: &AccountKeyRow| KeyView {
            version: key.version,
            by_desired_root: roots::root_of(&key.root).map(|spec| roots::root_id(&spec)) == desired,
            reference: key.root.reference.clone(),
            root_version: key.root.version.clone(),
            loaded: loaded.contains(&key.version),
            seals: sealed.iter().find(|by| by.account_key_version == key.version).map_or(0, |by| by.versions),
            created: key.created_at,
        };
        Ok(account::Record {
            spec: row.spec.clone(),
            deleted: row.deleted_at.is_some(),
            current: row.current_key().map(view),
            retiring: row
                .keys
                .iter()
                .filter(|key| key.state == AccountKeyState::Retiring)
                .map(view)
                .collect(),
            root_lost_since: row.root_lost_since,
            last_erased,
        })
    }

    async fn last_erased(&self, row: &AccountRow) -> anyhow::Result<Option<(u32, Timestamp)>> {
        let history = self.ledger.account_key_history(row.id).await?;
        Ok(history.iter().rev().find_map(|key| Some((key.version, key.erased_at?))))
    }

    /// Keys of an Account that is being deleted which the ledger has and the workspace does not.
    async fn absent(&self, cluster: &LogicalCluster, row: &AccountRow) -> anyhow::Result<account::Absent> {
        let mut absent = account::Absent::default();
        for key in self.ledger.keys(row.tenant).await? {
            let living = key.account == row.id && key.deleted_at.is_none();
            if !living || self.caches.keys.get(cluster, Some(&key.namespace), &key.name).is_some() {
                continue;
            }
            let id = KeyId { cluster: cluster.clone(), namespace: key.namespace, name: key.name };
            if lock(&self.homeless).contains(&id) {
                absent.homeless.push(format!("{}/{}", id.namespace, id.name));
            } else {
                absent.returning += 1;
            }
        }
        Ok(absent)
    }

    async fn account_step(&self, cluster: &LogicalCluster, name: &str) -> anyhow::Result<Flow> {
        let now = Timestamp::now();
        let workspace = self.workspace(cluster).await?;
        if workspace.view == TenantView::Unknown && !self.is_visible(cluster) {
            return Ok(self.unknown(cluster, workspace.row.as_ref()));
        }
        let snapshot = self.account_snapshot(&workspace, cluster, name).await?;
        if let Some(why) = &snapshot.unreadable {
            let subject = Subject::Account(cluster.clone(), name.to_owned());
            return self.unreadable::<Account>(&subject, None, name, why).await;
        }
        let keys = self.keys_under(cluster, name);
        let lost = match &snapshot.row {
            Some(row) => self.lost_versions(cluster, name, row).await?,
            None => Vec::new(),
        };
        let mut input = self.account_input(cluster, name, &snapshot, now, &keys, lost);
        let deleting = |object: &Arc<Account>| object.metadata.deletion_timestamp.is_some();
        if let (Some(row), true) = (&snapshot.row, snapshot.object.as_ref().is_some_and(deleting)) {
            input.absent = self.absent(cluster, row).await?;
        }
        // Whoever still serves a key of a lost root, or in regions that it has left, takes it back now, whatever else this
        // round brings and whoever owns the workspace.
        let lost = matches!(account::view(&input), AccountView::Unavailable { .. });
        let regions = snapshot.edge_regions()?;
        for key in &keys {
            let served = matches!(self.orchestrator.told(key), Some(Told::Serve(_)));
            if served && (lost || self.orchestrator.regions(key) != regions) {
                self.queue.add(Subject::from(key.clone()));
            }
        }
        let plan = account::plan(&input);
        let owned = self.owns(cluster);
        if let (Some(status), Some(object), true) = (plan.status, snapshot.object.as_deref(), owned) {
            let old = object.status.as_ref();
            let wrote = self.publish(cluster, object, old, &status, |status| &status.conditions).await?;
            if wrote {
                for event in account::events(old, &status, now) {
                    self.note(cluster, object, event);
                }
                if old.and_then(|status| status.phase) != status.phase {
                    self.wake_keys(cluster, name);
                }
            }
        }
        let Some(effect) = plan.effect else { return Ok(Flow::Wait(until(now, plan.next))) };
        if !owned
            && !matches!(effect, Effect::Probe | Effect::ProbeInUse | Effect::Load { .. } | Effect::Forget)
        {
            return Ok(Flow::Wait(Some(Duration::from_secs(5))));
        }
        if matches!(effect, Effect::Probe | Effect::ProbeInUse) {
            tracing::debug!(%cluster, account = name, ?effect, "account");
        } else {
            tracing::info!(%cluster, account = name, ?effect, "account");
        }
        if matches!(effect, Effect::Delete | Effect::DeleteHomeless)
            && !self.is_user_s_delete(cluster).await?
        {
            return Ok(Flow::Wait(Some(Duration::from_millis(500))));
        }
        let deed = effect.name();
        crash_point!("Account.before-{deed}");
        let flow = self.account_effect(cluster, name, snapshot, effect, now).await?;
        crash_point!("Account.after-{deed}");
        Ok(flow)
    }

    async fn account_effect(
        &self,
        cluster: &LogicalCluster,
        name: &str,
        snapshot: AccountSnapshot,
        effect: Effect,
        now: Timestamp,
    ) -> anyhow::Result<Flow> {
        let AccountSnapshot { tenant: Some(tenant), row, object, .. } = snapshot else {
            return Ok(Flow::Wait(Some(Duration::from_secs(1))));
        };
        match (effect, row, object) {
            (effect @ (Effect::AddFinalizer | Effect::RemoveFinalizer), _, Some(object)) => {
                self.set_finalizer(&self.client(cluster)?, &*object, effect == Effect::AddFinalizer).await?;
                Ok(WRITTEN)
            }
            (Effect::Record, _, Some(object)) => {
                self.ledger
                    .upsert_account(tenant.id, name, &serde_json::to_value(&object.spec)?, now)
                    .await?;
                self.roots.look_anew(cluster, name, &object.spec);
                self.wake_keys(cluster, name);
                Ok(Flow::Again)
            }
            (Effect::Restore, Some(row), None) => {
                let account = Account {
                    metadata: ObjectMeta {
                        name: Some(name.to_owned()),
                        finalizers: Some(vec![LEDGER_FINALIZER.to_owned()]),
                        ..ObjectMeta::default()
                    },
                    spec: serde_json::from_value::<AccountSpec>(row.spec)?,
                    status: None,
                };
                match self.client(cluster)?.create(&account).await {
                    Err(error) if error.class() == ErrorClass::AlreadyExists => {}
                    result => drop(result?),
                }
                Ok(WRITTEN)
            }
            (Effect::Probe, Some(row), Some(object)) => {
                self.roots.start(self, &tenant, &row, Task::Verify { spec: object.spec.clone() });
                Ok(Flow::Wait(None))
            }
            (Effect::ProbeInUse, Some(row), _) => {
                if let Some(spec) = row.current_key().and_then(|key| roots::root_of(&key.root)) {
                    self.roots.start(self, &tenant, &row, Task::Verify { spec });
                }
                Ok(Flow::Wait(None))
            }
            (Effect::Provision { after }, Some(row), Some(object)) => {
                let version = after.unwrap_or(0) + 1;
                self.roots.start(self, &tenant, &row, Task::Provision { spec: object.spec.clone(), version });
                Ok(Flow::Wait(None))
            }
            (Effect::Load { version }, Some(row), _) => Ok(self.load(&tenant, &row, version)),
            (Effect::Refresh { version }, Some(row), _) => {
                Ok(Flow::Wait(self.roots.start(self, &tenant, &row, Task::Refresh { version })))
            }
            (Effect::Rewrap { from, to }, Some(row), _) => self.rewrap(cluster, &row, from, to).await,
            (Effect::Erase { version }, Some(row), _) => {
                self.ledger.erase_account_key(row.id, version, now).await?;
                Ok(Flow::Again)
            }
            (Effect::MarkLost { .. }, Some(row), _) => {
                self.ledger.record_probe(row.id, false, now).await?;
                Ok(Flow::Again)
            }
            (Effect::MarkFound, Some(row), _) => {
                self.ledger.record_probe(row.id, true, now).await?;
                self.wake_keys(cluster, name);
                Ok(Flow::Again)
            }
            (Effect::Forget, Some(row), _) => {
                self.account_keys.forget(row.id);
                self.wake_keys(cluster, name);
                Ok(Flow::Again)
            }
            (Effect::DeleteHomeless, Some(row), Some(object)) => {
                self.delete_homeless(cluster, &object, &row, now).await?;
                Ok(Flow::Again)
            }
            (Effect::Delete, Some(row), _) => {
                self.ledger.delete_account(row.id, now).await?;
                self.roots.forget(cluster, &row);
                Ok(Flow::Again)
            }
            _ => Ok(Flow::Wait(Some(Duration::from_secs(5)))),
        }
    }

    /// Moves service key versions to another account key, for a while.
    async fn rewrap(
        &self,
        cluster: &LogicalCluster,
        row: &AccountRow,
        from: u32,
        to: u32,
    ) -> anyhow::Result<Flow> {
        let place = self.ledger.place(row.id).await?;
        let begun = std::time::Instant::now();
        let sealer = |version| {
            let key = self.account_keys.get(row.id, version, begun)?;
            Some(Sealer::new(place.clone(), version, &key))
        };
        // Their time in memory is over: they are loaded again.
        let (Some(old), Some(new)) = (sealer(from), sealer(to)) else { return Ok(Flow::Again) };
        let (mut done, mut failed) = (0, 0);
        let mut rewrap = self.ledger.rewrap(old, new, REWRAP_BATCH);
        while begun.elapsed() < REWRAP_ROUND
            && let Some(batch) = rewrap.next().await?
        {
            done += batch.done;
            failed += batch.failed;
            crash_point!("Account.rewrapped-batch");
        }
        tracing::info!(%cluster, account = row.name, from, to, done, failed, took = ?begun.elapsed(), "re-wrapped");
        if failed > 0 && done == 0 {
            tracing::error!(%cluster, account = row.name, failed, "versions do not open; see openkcm-provider ledger verify");
            return Ok(Flow::Wait(Some(Duration::from_secs(60))));
        }
        Ok(Flow::Again)
    }

    /// Deletes the keys of an Account that goes whose namespace is gone already, and says so.
    async fn delete_homeless(
        &self,
        cluster: &LogicalCluster,
        object: &Account,
        row: &AccountRow,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let homeless = self.absent(cluster, row).await?.homeless;
        let until = now + self.times.deletion_window;
        for name in &homeless {
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            if let Some(key) = self.ledger.key(row.tenant, namespace, name).await? {
                self.ledger.schedule_deletion(key.id, until, now).await?;
            }
        }
        let message = format!(
            "{} keys whose namespace is gone are deleted with their Account: {}. The operator of OpenKCM can bring them back until {}.",
            homeless.len(),
            homeless.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", "),
            until.strftime("%FT%TZ")
        );
        self.note(cluster, object, Event { warning: true, reason: "KeysDeleted", message });
        Ok(())
    }

    /// Asks for an account key to be unwrapped. Ends the round: the subject comes back when it is.
    pub fn load(&self, tenant: &TenantRow, row: &AccountRow, version: u32) -> Flow {
        // The end of the task wakes its subjects; the time is for the case that it does not.
        let patience = Duration::from_secs(30);
        let left = self.roots.start(self, tenant, row, Task::Load { version });
        Flow::Wait(Some(left.map_or(patience, |left| left.min(patience))))
    }

    /// Versions that only a root could open that refuses, as far as a message lists them.
    async fn lost_versions(
        &self,
        cluster: &LogicalCluster,
        name: &str,
        row: &AccountRow,
    ) -> anyhow::Result<Vec<String>> {
        let refused: Vec<u32> = row
            .keys
            .iter()
            .filter(|key| {
                key.state == AccountKeyState::Retiring && self.roots.is_refused(cluster, name, key.version)
            })
            .map(|key| key.version)
            .collect();
        let mut lost = Vec::new();
        if refused.is_empty() {
            return Ok(lost);
        }
        for key in self.ledger.keys(row.tenant).await?.into_iter().filter(|key| key.account == row.id) {
            for version in self.ledger.history(key.id).await? {
                if refused.contains(&version.account_key_version) && version.sealed.is_some() {
                    lost.push(format!("{}/{} v{}", key.namespace, key.name, version.version));
                }
                if lost.len() >= 20 {
                    return Ok(lost);
                }
            }
        }
        Ok(lost)
    }
}
