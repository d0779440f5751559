//! What every reconcile shares, and how a round goes.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use kcp_client_rs::{LogicalCluster, apis::ApiBinding};
use kube::{Resource, core::PartialObjectMeta};
use openkcm_apis::{
    Account, Condition, ConditionStatus, ServiceEncryptionKey, Tenant, conditions, set_condition,
};
use openkcm_keychain::{AccountKeys, Ledger, crash_point, rows::TenantRow};
use openkcm_logical::{
    Change, ErrorClass, EventType, Outcome, Preconditions, Presence, Queue, Recorder, ScopedClient, What,
    World,
};
use openkcm_orchestrator::{KeyId, Orchestrator};
use openkcm_plan::{Event, Settings, TenantView, tenant};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::{Instrument, field::Empty, trace_span};

use super::{SPANS, caches::Caches, metrics::Counters, replicas::Replicas, roots::Roots, subject::Subject};

/// A round that does not settle after so many effects is put back into the queue, so that others get a turn.
const MAX_EFFECTS: usize = 64;

/// What `run` was told about times.
pub struct Times {
    pub plan: Settings,
    pub retention: SignedDuration,
    pub deletion_window: SignedDuration,
}

/// Everything that the reconciles share.
pub struct Provider {
    pub world: World,
    pub caches: Caches,
    pub queue: Queue<Subject>,
    pub ledger: Ledger,
    pub account_keys: Arc<AccountKeys>,
    pub roots: Roots,
    pub orchestrator: Orchestrator,
    pub recorder: Recorder,
    /// The other replicas, where there can be some.
    pub replicas: Option<Replicas>,
    pub times: Times,
    pub counters: Counters,
    /// Since when a workspace that the ledger calls bound is visible without a binding.
    pub absent: Mutex<HashMap<LogicalCluster, Timestamp>>,
    /// Service keys that were not planned yet since the start; none before they are counted.
    pub unplanned: Mutex<Option<HashSet<Subject>>>,
    /// What was said last of objects that do not fit their type.
    pub told_unreadable: Mutex<HashMap<Subject, Arc<str>>>,
    /// Keys that the ledger refused to make, and why, until an operator changes something.
    pub refused: Mutex<HashMap<KeyId, String>>,
    /// Keys whose object cannot be put back: their namespace is gone.
    pub homeless: Mutex<HashSet<KeyId>>,
    /// The uid of a Tenant whose first status was written, until the watch shows it.
    pub born: Mutex<HashMap<LogicalCluster, String>>,
}

/// The reason in the condition of an object that does not fit its type.
pub const UNREADABLE: &str = "Unreadable";

/// How a step of a round ended.
pub enum Flow {
    /// Plan again.
    Again,
    /// Something goes on in the background and will put the subject into the queue; look again after this time at the latest.
    Wait(Option<Duration>),
}

/// The object was written: its watch brings the subject back. The time is for an event that is lost.
pub const WRITTEN: Flow = Flow::Wait(Some(Duration::from_secs(10)));

/// A workspace as one round sees it.
pub struct Workspace {
    pub view: TenantView,
    pub row: Option<TenantRow>,
    pub bindings: Vec<tenant::Binding>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves its data whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provider {
    /// Reconciles one subject; called by the queue.
    pub async fn reconcile(self: Arc<Self>, subject: Subject) -> Outcome {
        let span = trace_span!(target: SPANS, "reconcile", otel.name = subject.kind(),
            cluster = %subject.cluster(), object = subject.object(), otel.status_description = Empty);
        let round = async {
            match &subject {
                Subject::Tenant(cluster) => self.tenant(cluster).await,
                Subject::Account(cluster, name) => self.account(cluster, name).await,
                Subject::Key(cluster, namespace, name) => self.key(cluster, namespace, name).await,
            }
        };
        let result = round.instrument(span.clone()).await;
        if let Err(error) = &result {
            span.record("otel.status_description", format!("{error:#}"));
        }
        self.counters.round(subject.kind(), result.is_ok());
        match result {
            Ok(next) => next.map_or(Outcome::Done, Outcome::After),
            Err(error) => {
                // A conflict is the normal answer to a stale cache: the watch brings the newer object.
                let conflict = error.downcast_ref::<openkcm_logical::ClientError>().is_some_and(|error| {
                    matches!(error.class(), ErrorClass::Conflict | ErrorClass::NotFound)
                });
                if conflict {
                    tracing::debug!(?subject, error = format!("{error:#}"), "the object has moved on");
                } else {
                    tracing::warn!(
                        ?subject,
                        error = format!("{error:#}"),
                        "reconcile failed and is tried again"
                    );
                }
                Outcome::Retry(error.into())
            }
        }
    }

    /// Puts everything that the change may concern into the queue.
    pub fn on_change(&self, change: &Change) {
        let cluster = change.cluster.clone();
        let soon = Duration::from_millis(200);
        if change.is::<ApiBinding>() || change.is::<Tenant>() {
            self.queue.add(Subject::Tenant(cluster));
        } else if change.is::<Account>() {
            let subject = Subject::Account(cluster.clone(), change.name.clone());
            self.note_readable(&subject, &change.what);
            self.queue.add(subject);
            self.queue.add_after(Subject::Tenant(cluster), soon);
        } else if change.is::<ServiceEncryptionKey>() {
            let namespace = change.namespace.clone().unwrap_or_default();
            match self.caches.keys.get(&cluster, Some(&namespace), &change.name) {
                Some(key) => {
                    let account = key.summary.account.to_string();
                    self.queue.add_after(Subject::Account(cluster.clone(), account), soon);
                }
                None => {
                    for (_, account, _) in self.caches.accounts.entries(&cluster) {
                        self.queue.add_after(Subject::Account(cluster.clone(), account), soon);
                    }
                }
            }
            let subject = Subject::Key(cluster.clone(), namespace, change.name.clone());
            self.note_readable(&subject, &change.what);
            self.queue.add(subject);
            self.queue.add_after(Subject::Tenant(cluster), soon);
        }
    }

    /// If the object does not fit its type another time, that is said again.
    fn note_readable(&self, subject: &Subject, what: &What) {
        if !matches!(what, What::Undecodable(_)) {
            lock(&self.told_unreadable).remove(subject);
        }
    }

    /// Puts every account and key of a workspace into the queue, those that only the ledger knows included. Answers with the keys
    /// that have a version.
    pub async fn wake_workspace(&self, row: &TenantRow) -> anyhow::Result<Vec<Subject>> {
        let cluster = &row.cluster;
        for account in self.ledger.accounts(row.id).await? {
            self.queue.add(Subject::Account(cluster.clone(), account.name));
        }
        let subject = |namespace, name| Subject::Key(cluster.clone(), namespace, name);
        let keys = self.ledger.keys(row.id).await?.into_iter();
        let keys: Vec<_> = keys.map(|key| subject(key.namespace, key.name)).collect();
        let declared = self.ledger.declared_keys(row.id).await?.into_iter();
        let declared = declared.map(|key| subject(key.namespace, key.name));
        keys.iter().cloned().chain(declared).for_each(|key| self.queue.add(key));
        self.wake_objects(cluster);
        Ok(keys)
    }

    /// Puts every account and key that kcp has of a workspace into the queue.
    pub fn wake_objects(&self, cluster: &LogicalCluster) {
        for (_, account, _) in self.caches.accounts.entries(cluster) {
            self.queue.add(Subject::Account(cluster.clone(), account));
        }
        for (namespace, name, _) in self.caches.keys.entries(cluster) {
            self.queue.add(Subject::Key(cluster.clone(), namespace.unwrap_or_default(), name));
        }
    }

    /// The keys under an account.
    pub fn keys_under(&self, cluster: &LogicalCluster, account: &str) -> Vec<KeyId> {
        let keys = self.caches.keys.entries(cluster).into_iter();
        keys.filter(|(_, _, key)| *key.summary.account == *account)
            .map(|(namespace, name, _)| {
                let namespace = namespace.unwrap_or_default();
                KeyId { cluster: cluster.clone(), namespace, name }
            })
            .collect()
    }

    /// Puts every key under an account into the queue.
    pub fn wake_keys(&self, cluster: &LogicalCluster, account: &str) {
        for key in self.keys_under(cluster, account) {
            self.queue.add(Subject::from(key));
        }
    }

    /// A client for the workspace.
    pub fn client(&self, cluster: &LogicalCluster) -> anyhow::Result<ScopedClient> {
        self.world.client(cluster).context("the workspace is not served by any endpoint just now")
    }

    /// How the workspace stands.
    pub async fn workspace(&self, cluster: &LogicalCluster) -> anyhow::Result<Workspace> {
        let row = self.ledger.tenant(cluster).await?;
        let bindings = self.our_bindings(cluster);
        let visible = self.is_visible(cluster);
        let view = match &row {
            _ if !visible => TenantView::Unknown,
            _ if tenant::is_unbinding(&bindings) => TenantView::Unbinding,
            None => TenantView::Unknown,
            Some(row) if !tenant::is_bound(&bindings) => {
                if row.unbound_at.is_some() {
                    TenantView::Unbinding
                } else {
                    TenantView::Unknown
                }
            }
            // Bound again, but not recorded yet: the tenant's own round comes first.
            Some(row) if row.unbound_at.is_some() => TenantView::Unknown,
            Some(row) if row.operator_suspended_at.is_some() => TenantView::Suspended,
            Some(_) => TenantView::Active,
        };
        Ok(Workspace { view, row, bindings })
    }

    /// Whether an object that is being deleted goes because a person wants that, and not with its binding. Asked of kcp: objects and
    /// bindings are watched side by side, and the binding's deletion, which came first, may be seen last.
    pub async fn is_user_s_delete(&self, cluster: &LogicalCluster) -> anyhow::Result<bool> {
        let bindings = self.client(cluster)?.list::<ApiBinding>(None).await?;
        let ours: Vec<_> = bindings.iter().filter_map(|binding| self.caches.view(binding)).collect();
        Ok(tenant::is_bound(&ours))
    }

    /// When to look again at an object of a workspace whose state is not known. Nothing announces that the last kind
    /// of an endpoint has been listed, so it is looked for; an endpoint that is away is announced when it comes back.
    ///
    /// There is nothing to look for where the workspace was unbound and is seen nowhere: its next binding is announced, the end
    /// of its retention comes from the ledger, and there may be more of these than of all others.
    pub fn unknown(&self, cluster: &LogicalCluster, row: Option<&TenantRow>) -> Flow {
        let presence = self.world.presence(cluster);
        if presence == Presence::Unknown && row.is_some_and(|row| row.unbound_at.is_some()) {
            return Flow::Wait(None);
        }
        let young = Timestamp::now().duration_since(self.times.plan.started) < SignedDuration::from_secs(60);
        let listing = presence != Presence::Unknown || (young && !self.world.synced());
        Flow::Wait(Some(if listing { Duration::from_millis(500) } else { Duration::from_secs(30) }))
    }

    /// Whether what the caches say of the workspace is the present state.
    pub fn is_visible(&self, cluster: &LogicalCluster) -> bool {
        let caches = &self.caches;
        self.world.presence(cluster) != Presence::Unknown
            && caches.bindings.undecodable(cluster).is_empty()
            && !caches.bindings.is_stale(cluster)
            && !caches.tenants.is_stale(cluster)
            && !caches.accounts.is_stale(cluster)
            && !caches.keys.is_stale(cluster)
    }

    pub fn our_bindings(&self, cluster: &LogicalCluster) -> Vec<tenant::Binding> {
        self.caches.bindings.list(cluster).iter().filter_map(|binding| (**binding).clone()).collect()
    }

    /// Writes the status if it says anything new, and notes when the object became ready or stopped being so. Answers
    /// whether it wrote.
    pub async fn publish<K, S>(
        &self,
        cluster: &LogicalCluster,
        object: &K,
        old: Option<&S>,
        new: &S,
        conditions: fn(&S) -> &[Condition],
    ) -> anyhow::Result<bool>
    where
        K: openkcm_logical::Watched,
        S: Serialize + Sync,
    {
        let mut patch = serde_json::to_value(new)?;
        if let Some(old) = old.map(serde_json::to_value).transpose()? {
            if same_but_for_times(&old, &patch) {
                return Ok(false);
            }
            null_what_is_gone(&old, &mut patch);
        }
        let meta = object.meta();
        crash_point!("{}.before-status", K::kind(&()));
        self.client(cluster)?
            .patch_status::<K>(
                meta.namespace.as_deref(),
                meta.name.as_deref().unwrap_or_default(),
                &patch,
                Preconditions { uid: meta.uid.as_deref(), resource_version: None },
            )
            .await?;
        crash_point!("{}.after-status", K::kind(&()));
        self.counters.status_write();
        self.note_transition(cluster, object, old.map_or(&[], conditions), conditions(new));
        Ok(true)
    }

    /// Says in the status of an object that does not fit its type, once, why it is left alone. If it is being deleted it is
    /// let go: what the ledger knows of it stays, and comes back as it was recorded.
    pub async fn unreadable<K: openkcm_logical::Watched>(
        &self,
        subject: &Subject,
        namespace: Option<&str>,
        name: &str,
        why: &Arc<str>,
    ) -> anyhow::Result<Flow> {
        if !self.owns(subject.cluster()) {
            return Ok(Flow::Wait(None));
        }
        let client = self.client(subject.cluster())?;
        let Some(object) = client.get::<PartialObjectMeta<K>>(namespace, name).await? else {
            return Ok(Flow::Wait(None));
        };
        let meta = &object.metadata;
        if meta.deletion_timestamp.is_some() {
            if meta.finalizers.iter().flatten().any(|finalizer| finalizer == openkcm_apis::LEDGER_FINALIZER) {
                self.set_finalizer(&client, &object, false).await?;
            }
            return Ok(Flow::Wait(None));
        }
        if lock(&self.told_unreadable).get(subject) == Some(why) {
            return Ok(Flow::Wait(None));
        }
        // serde adds where in the JSON, which nobody sees.
        let what = why.rsplit_once(" at line ").map_or(&**why, |(what, _)| what);
        let message = format!(
            "OpenKCM cannot read this object and leaves it as it is: {what}. Correct it, or delete it and create it again; \
             what is allowed: kubectl explain {}.spec",
            K::plural(&())
        );
        let mut conditions = Vec::new();
        let (ready, no) = (conditions::READY, ConditionStatus::False);
        set_condition(&mut conditions, ready, no, UNREADABLE, &message, meta.generation, Timestamp::now());
        let only_if = Preconditions { uid: meta.uid.as_deref(), resource_version: None };
        let status = json!({ "conditions": conditions });
        client.patch_status::<PartialObjectMeta<K>>(namespace, name, &status, only_if).await?;
        self.counters.status_write();
        lock(&self.told_unreadable).insert(subject.clone(), Arc::clone(why));
        Ok(Flow::Wait(None))
    }

    /// Adds or removes our finalizer.
    pub async fn set_finalizer<K>(
        &self,
        client: &ScopedClient,
        object: &K,
        present: bool,
    ) -> anyhow::Result<()>
    where
        K: openkcm_logical::Watched,
    {
        let meta = object.meta();
        let others = meta.finalizers.iter().flatten().filter(|name| *name != openkcm_apis::LEDGER_FINALIZER);
        let mut finalizers: Vec<&str> = others.map(String::as_str).collect();
        if present {
            finalizers.push(openkcm_apis::LEDGER_FINALIZER);
        }
        let patch = json!({"metadata": {"finalizers": finalizers}});
        // The whole list is written: it must still be the one that was read.
        let only_if =
            Preconditions { uid: meta.uid.as_deref(), resource_version: meta.resource_version.as_deref() };
        let name = meta.name.as_deref().unwrap_or_default();
        let result = client.patch_merge_if::<K>(meta.namespace.as_deref(), name, &patch, only_if).await;
        match result {
            Err(error) if !present && error.class() == ErrorClass::NotFound => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }

    /// Notes something in the diary of an object.
    pub fn note<K: Resource<DynamicType = ()>>(&self, cluster: &LogicalCluster, object: &K, event: Event) {
        let kind = if event.warning { EventType::Warning } else { EventType::Normal };
        self.recorder.note(cluster, object.object_ref(&()), kind, event.reason, event.message);
    }

    /// Notes when an object becomes ready or stops being so.
    fn note_transition<K: Resource<DynamicType = ()>>(
        &self,
        cluster: &LogicalCluster,
        object: &K,
        old: &[Condition],
        new: &[Condition],
    ) {
        let find = |list: &[Condition]| {
            let ready = list.iter().find(|condition| condition.type_ == conditions::READY)?;
            Some((ready.status.clone(), ready.reason.clone(), ready.message.clone()))
        };
        let Some((status, reason, message)) = find(new) else { return };
        let was = find(old);
        if was
            .as_ref()
            .is_some_and(|(old_status, old_reason, _)| (old_status, old_reason) == (&status, &reason))
        {
            return;
        }
        let ready = status == "True";
        let event = Event {
            warning: !ready && was.is_some(),
            reason: if ready { "Ready" } else { "NotReady" },
            message: format!("{reason}: {message}"),
        };
        self.note(cluster, object, event);
    }
}

/// Plans and acts until there is nothing left to do.
pub async fn settle<S, F>(mut step: S) -> anyhow::Result<Option<Duration>>
where
    S: FnMut() -> F,
    F: Future<Output = anyhow::Result<Flow>>,
{
    for _ in 0..MAX_EFFECTS {
        if let Flow::Wait(next) = step().await? {
            return Ok(next);
        }
    }
    Ok(Some(Duration::ZERO))
}

/// From now until `at`, at least a little, so that a time that has just come is not waited for in a busy loop.
pub fn until(now: Timestamp, at: Option<Timestamp>) -> Option<Duration> {
    at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default().max(Duration::from_millis(50)))
}

/// Equal, or different only in a time that is written rarely on purpose.
fn same_but_for_times(old: &Value, new: &Value) -> bool {
    let plain = |value: &Value| {
        let mut value = value.clone();
        if let Some(root) = value.get_mut("rootKey").and_then(Value::as_object_mut) {
            root.remove("lastVerified");
        }
        value
    };
    if plain(old) != plain(new) {
        return false;
    }
    let verified = |value: &Value| -> Option<Timestamp> {
        value.get("rootKey")?.get("lastVerified")?.as_str()?.parse().ok()
    };
    match (verified(old), verified(new)) {
        (Some(old), Some(new)) => new.duration_since(old) < SignedDuration::from_hours(1),
        (None, Some(_)) => false,
        _ => true,
    }
}

/// A merge patch only removes what it names: fields of `old` that `new` does not have become null in it.
fn null_what_is_gone(old: &Value, new: &mut Value) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return };
    for (name, was) in old {
        match new.get_mut(name) {
            Some(is) => null_what_is_gone(was, is),
            None => {
                new.insert(name.clone(), Value::Null);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_what_is_gone() {
        let old = json!({"a": 1, "deep": {"b": 2, "c": 3}, "list": [1, 2]});
        let mut new = json!({"deep": {"c": 4}, "list": [1]});
        null_what_is_gone(&old, &mut new);
        assert_eq!(new, json!({"a": null, "deep": {"b": null, "c": 4}, "list": [1]}));
    }

    #[test]
    fn a_fresh_probe_alone_is_no_reason_to_write() {
        let at = |time: &str, phase: &str| json!({"phase": phase, "rootKey": {"lastVerified": time}});
        let old = at("2026-01-01T00:00:00Z", "Ready");
        assert!(same_but_for_times(&old, &at("2026-01-01T00:59:00Z", "Ready")));
        assert!(!same_but_for_times(&old, &at("2026-01-01T01:00:00Z", "Ready")));
        assert!(!same_but_for_times(&old, &at("2026-01-01T00:01:00Z", "Unavailable")));
    }
}
