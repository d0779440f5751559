//! Reconciling a service key.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kcp_client_rs::LogicalCluster;
use openkcm_apis::{LEDGER_FINALIZER, ServiceEncryptionKey, ServiceEncryptionKeySpec, VersionState};
use openkcm_keychain::{
    KeychainError, NewKey, crash_point,
    rows::{
        AccountRow, DeclaredKey, ServiceKeyRow, ServiceKeyState, TenantRow, VersionRow,
        VersionState as RowState, Withheld,
    },
    seal::{Sealer, open_version},
};
use openkcm_logical::{ErrorClass, Lookup};
use openkcm_orchestrator::{
    Client, DeadReason, DeadVersion, Desired, EvictReason, KeyId, KeyState, Told, Usable, Version,
};
use openkcm_plan::{
    Event, TenantView,
    key::{self, Effect, Eviction, HandedOut, Offer},
};

use super::{
    account::AccountSnapshot,
    provider::{Flow, Provider, WRITTEN, lock, settle, until},
    subject::Subject,
};

struct KeySnapshot {
    account: AccountSnapshot,
    object: Option<Arc<ServiceEncryptionKey>>,
    row: Option<ServiceKeyRow>,
    declared: Option<DeclaredKey>,
    versions: Vec<VersionRow>,
    record: Option<key::Record>,
}

impl Provider {
    pub async fn key(
        &self,
        cluster: &LogicalCluster,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Option<Duration>> {
        let id = KeyId { cluster: cluster.clone(), namespace: namespace.to_owned(), name: name.to_owned() };
        let next = settle(|| self.key_step(&id)).await?;
        self.report(&id).await?;
        Ok(next)
    }

    async fn key_step(&self, id: &KeyId) -> anyhow::Result<Flow> {
        let now = Timestamp::now();
        let cluster = &id.cluster;
        let workspace = self.workspace(cluster).await?;
        if workspace.view == TenantView::Unknown && !self.is_visible(cluster) {
            // What the ledger says holds also while the workspace cannot be seen.
            let row = workspace.row.as_ref();
            let off = row.is_some_and(|row| row.unbound_at.is_some() || row.operator_suspended_at.is_some());
            if off && matches!(self.orchestrator.told(id), Some(Told::Serve(_))) {
                self.evict(id, Eviction::TenantSuspended);
            }
            return Ok(if off { Flow::Wait(None) } else { self.unknown(cluster, row) });
        }
        let object = match self.caches.keys.open(cluster, Some(&id.namespace), &id.name) {
            Lookup::Found(object) => Some(object),
            Lookup::Absent => None,
            // Announced again when it can be read; until then nothing is decided about it.
            Lookup::Undecodable(why) => {
                let subject = Subject::from(id.clone());
                let (namespace, name) = (Some(id.namespace.as_str()), id.name.as_str());
                return self.unreadable::<ServiceEncryptionKey>(&subject, namespace, name, &why).await;
            }
        };
        let row = match &workspace.row {
            Some(tenant) => self.ledger.key(tenant.id, &id.namespace, &id.name).await?,
            None => None,
        };
        // A living key stays under its account, whatever an object of its name says.
        let living = living(row.as_ref());
        let declared = match (&workspace.row, living) {
            (Some(tenant), None) => self.ledger.declared_key(tenant.id, &id.namespace, &id.name).await?,
            _ => None,
        };
        let account_name = match (&object, living.or(row.as_ref().filter(|_| object.is_none())), &declared) {
            (_, Some(row), _) => row.account_name.clone(),
            (Some(object), None, _) => object.spec.account_ref.name.clone(),
            (None, None, Some(declared)) => spec_of(&declared.spec)?.account_ref.name,
            (None, None, None) => return Ok(Flow::Wait(None)),
        };
        let account = self.account_snapshot(&workspace, cluster, &account_name).await?;
        let (account_view, loaded) = self.account_view(cluster, &account_name, &account, now);
        let versions = match &row {
            Some(row) => self.ledger.history(row.id).await?,
            None => Vec::new(),
        };
        let record = row.as_ref().map(|row| record(row, &versions));
        let owned = self.owns(cluster);
        let told = self.told(id, row.as_ref(), owned);
        let edges = self.all_edges(id, row.as_ref(), told).await?;
        let tenant_name =
            workspace.row.as_ref().map(|row| openkcm_apis::tenant_name(&row.path)).unwrap_or_default();
        let snapshot = KeySnapshot { account, object, row, declared, versions, record };
        let unopenable = self.unopenable(cluster, &account_name, snapshot.account.row.as_ref());
        let regions = snapshot.account.edge_regions()?;
        let plan = key::plan(&key::Input {
            now,
            settings: self.times.plan,
            tenant: workspace.view,
            tenant_name: &tenant_name,
            object: snapshot.object.as_deref(),
            account: account_view,
            regions: &regions,
            loaded: &loaded,
            unopenable: &unopenable,
            record: snapshot.record.clone(),
            declared: snapshot
                .declared
                .as_ref()
                .map(|declared| key::Declared { spec: declared.spec.clone(), seen: declared.seen_version }),
            edges,
            refused: lock(&self.refused).get(id).cloned(),
        });
        if let (Some(status), Some(object), true) = (plan.status, snapshot.object.as_deref(), owned) {
            self.publish(cluster, object, object.status.as_ref(), &status, |status| &status.conditions)
                .await?;
        }
        let Some(effect) = plan.effect else {
            self.planned(id);
            return Ok(Flow::Wait(until(now, plan.next)));
        };
        if !owned
            && !matches!(
                effect,
                Effect::Load { .. } | Effect::Serve { .. } | Effect::Place | Effect::Evict(_)
            )
        {
            return Ok(Flow::Wait(Some(Duration::from_secs(5))));
        }
        let withheld = snapshot.row.as_ref().is_some_and(|row| row.withheld.is_some());
        if !owned && withheld && matches!(effect, Effect::Load { .. } | Effect::Serve { .. }) {
            // The owner releases it, and announces that.
            self.planned(id);
            return Ok(Flow::Wait(Some(Duration::from_secs(5))));
        }
        tracing::info!(%cluster, key = %format!("{}/{}", id.namespace, id.name), ?effect, "key");
        let (event, deed) = (effect.event(), effect.name());
        if matches!(effect, Effect::Delete | Effect::Forget) && !self.is_user_s_delete(cluster).await? {
            return Ok(Flow::Wait(Some(Duration::from_millis(500))));
        }
        crash_point!("ServiceEncryptionKey.before-{deed}");
        let flow = self.key_effect(id, &tenant_name, &snapshot, effect, now).await?;
        crash_point!("ServiceEncryptionKey.after-{deed}");
        if let (Some(event), Some(object), true) = (event, snapshot.object.as_deref(), owned) {
            self.note(cluster, object, event);
        }
        Ok(flow)
    }

    /// Account keys that their root refuses to unwrap.
    fn unopenable(&self, cluster: &LogicalCluster, name: &str, account: Option<&AccountRow>) -> Vec<u32> {
        let versions = account.into_iter().flat_map(|account| &account.keys).map(|key| key.version);
        versions.filter(|version| self.roots.is_refused(cluster, name, *version)).collect()
    }

    /// Notes that what edges should hold of the key has been decided.
    fn planned(&self, id: &KeyId) {
        if let Some(unplanned) = &mut *lock(&self.unplanned)
            && !unplanned.is_empty()
        {
            unplanned.remove(&Subject::Key(id.cluster.clone(), id.namespace.clone(), id.name.clone()));
        }
    }

    /// What the edges were last told, where that goes with what the ledger says of several replicas. `None` lets the owner
    /// say it again, this time to the ledger too.
    fn told(&self, id: &KeyId, row: Option<&ServiceKeyRow>, owned: bool) -> Option<Told> {
        let told = self.orchestrator.told(id);
        let (Some(_), Some(row)) = (&self.replicas, row) else { return told };
        match (row.withheld, told) {
            (Some(why), Some(Told::Serve(_)) | None) if !owned => {
                self.evict(id, eviction_of(why));
                self.orchestrator.told(id)
            }
            (withheld, told) if owned => {
                told.filter(|told| matches!(told, Told::Evicted(_)) == withheld.is_some())
            }
            (_, told) => told,
        }
    }

    async fn key_effect(
        &self,
        id: &KeyId,
        tenant_name: &str,
        snapshot: &KeySnapshot,
        effect: Effect,
        now: Timestamp,
    ) -> anyhow::Result<Flow> {
        let cluster = &id.cluster;
        let row = || snapshot.row.as_ref().context("the key is not in the ledger");
        let object = || snapshot.object.as_deref().context("there is no such object");
        match effect {
            Effect::AddFinalizer | Effect::RemoveFinalizer => {
                let present = effect == Effect::AddFinalizer;
                self.set_finalizer(&self.client(cluster)?, object()?, present).await?;
                Ok(WRITTEN)
            }
            Effect::Restore => self.restore_key(id, snapshot).await,
            Effect::Record { seen } => {
                let spec = serde_json::to_value(&object()?.spec)?;
                if let Some(row) = snapshot.living() {
                    self.ledger.record_spec(row.id, &spec, None, now).await?;
                    if seen > row.seen_version.max(row.current_version) {
                        self.ledger.record_seen_version(row.id, seen).await?;
                    }
                } else {
                    let tenant = snapshot.tenant()?;
                    self.ledger.declare_key(tenant.id, &id.namespace, &id.name, &spec, seen).await?;
                }
                Ok(Flow::Again)
            }
            Effect::Forget => {
                let tenant = snapshot.tenant()?;
                self.ledger.forget_declared_key(tenant.id, &id.namespace, &id.name).await?;
                Ok(Flow::Again)
            }
            Effect::Create { account_key } => {
                let (Some(tenant), Some(account)) = (&snapshot.account.tenant, &snapshot.account.row) else {
                    return Ok(Flow::Wait(Some(Duration::from_secs(1))));
                };
                let Some(sealer) = self.sealer(account, account_key).await? else { return Ok(Flow::Again) };
                let object = object()?;
                let new = NewKey {
                    tenant: tenant.id,
                    account: account.id,
                    namespace: id.namespace.clone(),
                    name: id.name.clone(),
                    spec: serde_json::to_value(&object.spec)?,
                    next_rotation: None,
                    seen_version: key::seen_version(object)
                        .max(snapshot.declared.as_ref().map_or(0, |declared| declared.seen_version)),
                };
                match self.ledger.create_key(&new, &sealer, now).await {
                    Err(error @ KeychainError::LedgerBehind { .. }) => {
                        lock(&self.refused).insert(id.clone(), error.to_string());
                    }
                    result => drop(result?),
                }
                Ok(Flow::Again)
            }
            Effect::Rotate { after, account_key, request, .. } => {
                let Some(account) = &snapshot.account.row else { return Ok(Flow::Again) };
                let Some(sealer) = self.sealer(account, account_key).await? else { return Ok(Flow::Again) };
                self.ledger.rotate(row()?.id, after, request.as_deref(), None, &sealer, now).await?;
                self.counters.rotation();
                Ok(Flow::Again)
            }
            Effect::Compromise { versions } => {
                for version in versions {
                    self.ledger.mark_compromised(row()?.id, version, now).await?;
                }
                Ok(Flow::Again)
            }
            Effect::Delete => {
                self.ledger.schedule_deletion(row()?.id, now + self.times.deletion_window, now).await?;
                Ok(Flow::Again)
            }
            Effect::Recover => {
                self.ledger.undelete(row()?.id, now).await?;
                Ok(Flow::Again)
            }
            Effect::Load { versions } => {
                let (Some(tenant), Some(account)) = (&snapshot.account.tenant, &snapshot.account.row) else {
                    return Ok(Flow::Wait(Some(Duration::from_secs(1))));
                };
                let mut wait = Flow::Wait(None);
                for version in versions {
                    if let after @ Flow::Wait(Some(_)) = self.load(tenant, account, version) {
                        wait = after;
                    }
                }
                Ok(wait)
            }
            Effect::Serve { fingerprint, offer } => {
                self.serve(id, tenant_name, snapshot, fingerprint, &offer).await
            }
            Effect::Place => {
                self.orchestrator.place(id, snapshot.account.edge_regions()?);
                Ok(Flow::Again)
            }
            Effect::Evict(why) => {
                self.evict(id, why);
                self.withhold(id, row()?, why).await?;
                Ok(Flow::Again)
            }
        }
    }

    /// Takes a key back from every edge.
    fn evict(&self, id: &KeyId, why: Eviction) {
        let reason = match why {
            Eviction::Disabled => EvictReason::Disabled,
            Eviction::RootLost => EvictReason::Unavailable,
            Eviction::TenantSuspended => EvictReason::Suspended,
            Eviction::Deleted => EvictReason::Deleted,
        };
        self.orchestrator.set(id.clone(), Desired::Evicted { reason });
        self.counters.eviction();
    }

    /// The key's material is no more: edges that had it say since when.
    pub fn destroyed_key(&self, cluster: &LogicalCluster, namespace: &str, name: &str, at: Timestamp) {
        let reason = EvictReason::Destroyed { since: at.as_second() };
        self.end_key(cluster, namespace, name, Desired::Evicted { reason });
    }

    /// The key is no more: edges need not remember why it was taken back.
    pub fn forget_key(&self, cluster: &LogicalCluster, namespace: &str, name: &str) {
        self.end_key(cluster, namespace, name, Desired::Gone);
    }

    fn end_key(&self, cluster: &LogicalCluster, namespace: &str, name: &str, desired: Desired) {
        let id = KeyId { cluster: cluster.clone(), namespace: namespace.to_owned(), name: name.to_owned() };
        lock(&self.refused).remove(&id);
        self.orchestrator.set(id, desired);
        self.queue.add(Subject::Key(cluster.clone(), namespace.to_owned(), name.to_owned()));
    }

    async fn restore_key(&self, id: &KeyId, snapshot: &KeySnapshot) -> anyhow::Result<Flow> {
        let living = snapshot.living();
        let (spec, message) = match (living, &snapshot.declared) {
            (Some(row), _) => (&row.spec, "The key is back with every version it had."),
            (None, Some(declared)) => (&declared.spec, "The key is declared again; it had no version yet."),
            (None, None) => return Ok(Flow::Again),
        };
        let mut object = ServiceEncryptionKey::new(&id.name, spec_of(spec)?);
        object.metadata = ObjectMeta {
            name: Some(id.name.clone()),
            namespace: Some(id.namespace.clone()),
            finalizers: Some(vec![LEDGER_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        };
        let result = self.client(&id.cluster)?.create(&object).await;
        match &result {
            Err(error) if error.class() == ErrorClass::NotFound => lock(&self.homeless).insert(id.clone()),
            _ => lock(&self.homeless).remove(id),
        };
        match result {
            Ok(created) => {
                let event = Event { warning: false, reason: "Recovered", message: message.to_owned() };
                self.note(&id.cluster, &created, event);
                Ok(WRITTEN)
            }
            Err(error) if error.class() == ErrorClass::AlreadyExists => Ok(WRITTEN),
            Err(error) if error.class() == ErrorClass::NotFound => {
                // Its namespace is gone. The key stays in the ledger and comes back with a namespace of that name;
                // meanwhile nobody can use it.
                if let Some(row) = living {
                    self.evict(id, Eviction::Deleted);
                    self.withhold(id, row, Eviction::Deleted).await?;
                }
                tracing::info!(cluster = %id.cluster, namespace = %id.namespace, key = %id.name, "no namespace to restore into");
                Ok(Flow::Wait(Some(Duration::from_secs(60))))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn sealer(&self, account: &AccountRow, version: u32) -> anyhow::Result<Option<Sealer>> {
        let Some(key) = self.account_keys.get(account.id, version, std::time::Instant::now()) else {
            return Ok(None);
        };
        Ok(Some(Sealer::new(self.ledger.place(account.id).await?, version, &key)))
    }

    /// Hands the key to the orchestrator: versions that it has, and those that are opened now.
    async fn serve(
        &self,
        id: &KeyId,
        tenant_name: &str,
        snapshot: &KeySnapshot,
        fingerprint: u64,
        offer: &Offer,
    ) -> anyhow::Result<Flow> {
        let (Some(row), Some(object), Some(account)) =
            (&snapshot.row, &snapshot.object, &snapshot.account.row)
        else {
            return Ok(Flow::Again);
        };
        if row.withheld.is_some() && !self.release(id, row, object).await? {
            return Ok(Flow::Wait(Some(Duration::from_millis(500))));
        }
        if !self.may_hand_out(id, row).await? {
            return Ok(Flow::Wait(Some(Duration::from_secs(1))));
        }
        let place = self.ledger.place(account.id).await?;
        let at = std::time::Instant::now();
        let mut versions = Vec::new();
        for sealed in snapshot.versions.iter().filter(|sealed| offer.versions.contains(&sealed.version)) {
            let material = match self.orchestrator.material(id, row.id.0, sealed.version) {
                Some(material) => material?,
                None => match self.account_keys.get(account.id, sealed.account_key_version, at) {
                    Some(key) => open_version(&place, sealed, &key)?,
                    // Its time in memory ended since the plan was made: plan again.
                    None => return Ok(Flow::Again),
                },
            };
            let encrypts = sealed.version == offer.current && sealed.state != RowState::Compromised;
            let usable = if encrypts { Usable::Encrypt } else { Usable::Decrypt };
            versions.push(Version { version: sealed.version, material, usable });
        }
        let dead = snapshot.versions.iter().filter_map(|version| {
            let (reason, since) = match version.state {
                RowState::Destroyed => (DeadReason::Destroyed, version.destroyed_at?),
                RowState::Compromised if !object.spec.allow_compromised_decrypt => {
                    (DeadReason::Compromised, version.created_at)
                }
                _ => return None,
            };
            Some(DeadVersion { version: version.version, reason, since: since.as_second() })
        });
        let clients = object.spec.clients.iter();
        let state = KeyState {
            tenant_name: tenant_name.to_owned(),
            regions: snapshot.account.edge_regions()?,
            key_uuid: row.id.0,
            current: offer.current,
            versions,
            dead_versions: dead.collect(),
            clients: clients
                .map(|client| Client { issuer: client.issuer.clone(), subject: client.subject.clone() })
                .collect(),
            fingerprint,
        };
        self.orchestrator.set(id.clone(), Desired::Serve(state));
        Ok(Flow::Again)
    }
}

impl KeySnapshot {
    fn living(&self) -> Option<&ServiceKeyRow> {
        living(self.row.as_ref())
    }

    fn tenant(&self) -> anyhow::Result<&TenantRow> {
        self.account.tenant.as_ref().context("the tenant is not in the ledger")
    }
}

/// The key in the ledger, if it is not deleted.
fn living(row: Option<&ServiceKeyRow>) -> Option<&ServiceKeyRow> {
    row.filter(|row| row.state() == ServiceKeyState::Active)
}

fn spec_of(recorded: &serde_json::Value) -> anyhow::Result<ServiceEncryptionKeySpec> {
    serde_json::from_value(recorded.clone()).context("read the recorded spec of the key")
}

/// What the orchestrator was told, in the planner's words.
pub fn handed_out(told: Told) -> HandedOut {
    match told {
        Told::Serve(fingerprint) => HandedOut::Serve(fingerprint),
        Told::Evicted(EvictReason::Disabled) => HandedOut::Evict(Eviction::Disabled),
        Told::Evicted(EvictReason::Unavailable) => HandedOut::Evict(Eviction::RootLost),
        Told::Evicted(EvictReason::Suspended) => HandedOut::Evict(Eviction::TenantSuspended),
        // A new key of that name is one that was never handed out.
        Told::Evicted(EvictReason::Deleted | EvictReason::Destroyed { .. }) => {
            HandedOut::Evict(Eviction::Deleted)
        }
    }
}

fn eviction_of(why: Withheld) -> Eviction {
    match why {
        Withheld::Disabled => Eviction::Disabled,
        Withheld::RootLost => Eviction::RootLost,
        Withheld::TenantSuspended => Eviction::TenantSuspended,
        Withheld::Deleted => Eviction::Deleted,
    }
}

fn record(row: &ServiceKeyRow, versions: &[VersionRow]) -> key::Record {
    let mut versions: Vec<_> = versions
        .iter()
        .map(|version| key::Version {
            version: version.version,
            state: match version.state {
                RowState::PreActive => VersionState::PreActive,
                RowState::Active => VersionState::Active,
                RowState::Deactivated => VersionState::Deactivated,
                RowState::Compromised => VersionState::Compromised,
                RowState::Destroyed => VersionState::Destroyed,
            },
            account_key_version: version.account_key_version,
            created: version.created_at,
            destroyed: version.destroyed_at,
        })
        .collect();
    versions.sort_unstable_by_key(|version| std::cmp::Reverse(version.version));
    key::Record {
        id: *row.id.0.as_bytes(),
        account: row.account_name.clone(),
        spec: row.spec.clone(),
        current: row.current_version,
        last_rotation: row.last_rotation,
        served_request: row.served_request.clone(),
        delete_after: row.delete_after,
        recovered_at: row.recovered_at,
        behind: row.is_behind(),
        seen: row.seen_version,
        versions,
    }
}
