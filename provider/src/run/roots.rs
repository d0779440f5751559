//! Calls to root keys, in the background: a slow or dead key store holds up nobody but its own Accounts.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use kcp_client_rs::LogicalCluster;
use openkcm_apis::AccountSpec;
use openkcm_keychain::{
    AccountKeyInput, AccountKeys, Ledger, SecretKey, crash_point,
    rows::{AccountId, AccountRow, Root, TenantRow},
};
use openkcm_keystores::{
    Binding, Error as StoreError, KeyStores, OwnerCalls, Reason, RootKey, Wrapped, verify, verify_with,
};
use openkcm_plan::account::{Failure, FailureKind, Probe, Verified};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, field::Empty, trace_span};

use super::{
    SPANS,
    provider::{Provider, lock},
    subject::Subject,
};

/// Calls under way to all key stores. Far above what matters: each endpoint and each workspace has its own, small limit,
/// and here one could wait for another's slow store.
const CONCURRENCY: usize = 4_096;
/// Accounts whose calls are counted one by one; what more there are is counted together.
const COUNTED: usize = 1_000;
/// So often, with a second in between, a call waits for a place among those of its workspace or store.
const LONGEST_WAIT: u32 = 30;
/// How long a probe may wait to become an account key.
const CANDIDATE_LIFETIME: Duration = Duration::from_secs(60);
/// First pause after a failure; doubles up to the probe interval.
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(2);

/// What is asked of a root key.
#[derive(Clone)]
pub enum Task {
    /// Describe, wrap and unwrap.
    Verify { spec: AccountSpec },
    /// Make an account key of this version and wrap it.
    Provision { spec: AccountSpec, version: u32 },
    /// Unwrap an account key into memory.
    Load { version: u32 },
    /// Wrap an account key again, by the newest version of the same root key.
    Refresh { version: u32 },
}

/// What is remembered about the root keys of one Account. In memory only.
#[derive(Default)]
struct Memory {
    probes: HashMap<String, Entry>,
    loads: HashMap<u32, LoadFailure>,
    running: Vec<String>,
    /// A wrapping is not renewed again before this.
    refresh_at: Option<Instant>,
    candidate: Option<Candidate>,
}

/// The probe with which a new root was verified: it is as good an account key as any, and known to open again. So a re-key
/// asks the new root for one wrap and one unwrap, all told.
struct Candidate {
    root: String,
    key: SecretKey,
    wrapped: Wrapped,
    made: Instant,
}

struct Entry {
    probe: Probe,
    failing_since: Option<Timestamp>,
    failures: u32,
}

struct LoadFailure {
    retry_at: Instant,
    failures: u32,
    refused: bool,
}

/// The background calls and what they found.
pub struct Roots {
    stores: Arc<KeyStores>,
    interval: SignedDuration,
    memory: Arc<Mutex<HashMap<(LogicalCluster, String), Memory>>>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    calls: Mutex<HashMap<AccountId, Arc<OwnerCalls>>>,
    other_calls: Arc<OwnerCalls>,
}

/// What identifies a root: two specs with the same text mean the same root.
pub fn root_id(spec: &AccountSpec) -> String {
    serde_json::to_string(&(spec.provider_type, &spec.key_reference, &spec.access)).unwrap_or_default()
}

/// The Account spec by which a root of the past can be reached.
pub fn root_of(root: &Root) -> Option<AccountSpec> {
    serde_json::from_value(root.spec.clone()).ok()
}

impl Roots {
    pub fn new(stores: Arc<KeyStores>, interval: SignedDuration) -> Self {
        Self {
            stores,
            interval,
            memory: Arc::default(),
            permits: Arc::new(Semaphore::new(CONCURRENCY)),
            tasks: TaskTracker::new(),
            calls: Mutex::default(),
            other_calls: Arc::default(),
        }
    }

    /// The counter of an Account's calls.
    fn calls_of(&self, account: AccountId) -> Arc<OwnerCalls> {
        let mut calls = lock(&self.calls);
        if calls.len() >= COUNTED && !calls.contains_key(&account) {
            return Arc::clone(&self.other_calls);
        }
        Arc::clone(calls.entry(account).or_default())
    }

    /// Calls by Account; `None` are those beyond the first thousand, together.
    pub fn calls(&self) -> Vec<(Option<AccountId>, Arc<OwnerCalls>)> {
        let calls = lock(&self.calls);
        let single = calls.iter().map(|(account, calls)| (Some(*account), Arc::clone(calls)));
        single.chain([(None, Arc::clone(&self.other_calls))]).collect()
    }

    /// The Account is no more.
    pub fn forget(&self, cluster: &LogicalCluster, row: &AccountRow) {
        lock(&self.memory).remove(&(cluster.clone(), row.name.clone()));
        lock(&self.calls).remove(&row.id);
    }

    /// Forgets what was last found of a root that a spec names anew: it is looked at again, however short ago that was.
    pub fn look_anew(&self, cluster: &LogicalCluster, account: &str, spec: &AccountSpec) {
        if let Some(memory) = lock(&self.memory).get_mut(&(cluster.clone(), account.to_owned())) {
            memory.probes.remove(&root_id(spec));
        }
    }

    /// Lets probes go that did not become an account key.
    pub fn expire(&self) {
        for memory in lock(&self.memory).values_mut() {
            memory.candidate.take_if(|candidate| candidate.made.elapsed() > CANDIDATE_LIFETIME);
        }
    }

    pub fn stores(&self) -> &KeyStores {
        &self.stores
    }

    /// What the last look at a root found.
    pub fn probe(&self, cluster: &LogicalCluster, account: &str, root: &str) -> Probe {
        let memory = lock(&self.memory);
        let entry =
            memory.get(&(cluster.clone(), account.to_owned())).and_then(|memory| memory.probes.get(root));
        entry.map_or(Probe::Never, |entry| entry.probe.clone())
    }

    /// Whether an account key could not be unwrapped because its root refuses.
    pub fn is_refused(&self, cluster: &LogicalCluster, account: &str, version: u32) -> bool {
        let memory = lock(&self.memory);
        let memory = memory.get(&(cluster.clone(), account.to_owned()));
        memory.and_then(|memory| memory.loads.get(&version)).is_some_and(|failure| failure.refused)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for what is under way; nothing new may be started any more.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Starts a task unless it is under way already. When it is done, the Account is in the queue again. Answers when
    /// to ask again, if the task has failed too recently to be started now.
    pub fn start(
        &self,
        provider: &Provider,
        tenant: &TenantRow,
        row: &AccountRow,
        task: Task,
    ) -> Option<Duration> {
        let cluster = &tenant.cluster;
        let slot = (cluster.clone(), row.name.clone());
        let label = task.label();
        let candidate = {
            let mut all = lock(&self.memory);
            let memory = all.entry(slot.clone()).or_default();
            if let Task::Load { version } = &task
                && let Some(failure) = memory.loads.get(version)
                && let Some(left) = failure.retry_at.checked_duration_since(Instant::now())
            {
                return Some(left);
            }
            if let (Task::Refresh { .. }, Some(at)) = (&task, memory.refresh_at)
                && let Some(left) = at.checked_duration_since(Instant::now())
            {
                return Some(left);
            }
            if memory.running.contains(&label) {
                return None;
            }
            memory.running.push(label.clone());
            if let Task::Verify { spec } = &task {
                let entry = memory.probes.entry(root_id(spec)).or_insert(Entry {
                    probe: Probe::Never,
                    failing_since: None,
                    failures: 0,
                });
                entry.probe = Probe::Running;
            }
            match &task {
                Task::Provision { spec, .. } => memory.candidate.take().filter(|it| it.root == root_id(spec)),
                _ => None,
            }
        };
        let mut call = Call {
            stores: Arc::clone(&self.stores),
            ledger: provider.ledger.clone(),
            account_keys: Arc::clone(&provider.account_keys),
            cluster: cluster.clone(),
            path: tenant.path.clone(),
            row: row.clone(),
            calls: self.calls_of(row.id),
            candidate,
        };
        let (memory, permits, queue) =
            (Arc::clone(&self.memory), Arc::clone(&self.permits), provider.queue.clone());
        let (interval, account) = (self.interval, row.id);
        let keys =
            matches!(task, Task::Load { .. } | Task::Provision { .. }).then(|| provider.caches.keys.clone());
        let span = trace_span!(target: SPANS, "root key", otel.name = task.name(), otel.kind = "client",
            cluster = %slot.0, account = slot.1, otel.status_description = Empty);
        let recorded = span.clone();
        let work = async move {
            // Closed never: the semaphore lives as long as the tasks.
            let _permit = permits.acquire().await;
            let mut waited = 0;
            let result = loop {
                // A panic in a client library must not leave the account waiting for ever.
                let result = AssertUnwindSafe(call.run(&task)).catch_unwind().await;
                let result = result.unwrap_or(Err(CallError::Panicked));
                match &result {
                    // Others of the same workspace or store are at it, and that is no finding.
                    Err(CallError::Store(error)) if error.is_ours && waited < LONGEST_WAIT => {
                        waited += 1;
                        tokio::time::sleep(error.retry_after.unwrap_or(Duration::from_secs(1))).await;
                    }
                    _ => break result,
                }
            };
            if let Err(error) = &result {
                let error = openkcm_logical::chain(error);
                tracing::info!(cluster = %slot.0, account = %slot.1, task = task.name(), error, "root key call failed");
                recorded.record("otel.status_description", error);
            }
            remember(&memory, &slot, &label, &task, result, interval, account);
            queue.add(Subject::Account(slot.0.clone(), slot.1.clone()));
            // Also after a failure: they say so, and ask again.
            for (namespace, name, key) in keys.map(|keys| keys.entries(&slot.0)).into_iter().flatten() {
                if *key.summary.account == *slot.1 {
                    queue.add(Subject::Key(slot.0.clone(), namespace.unwrap_or_default(), name));
                }
            }
        };
        self.tasks.spawn(work.instrument(span));
        None
    }
}

impl Task {
    const fn name(&self) -> &'static str {
        match self {
            Self::Verify { .. } => "verify",
            Self::Provision { .. } => "provision",
            Self::Load { .. } => "load",
            Self::Refresh { .. } => "refresh",
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Verify { spec } => format!("{} {}", self.name(), root_id(spec)),
            Self::Provision { version, .. } | Self::Load { version } | Self::Refresh { version } => {
                format!("{} {version}", self.name())
            }
        }
    }
}

/// What a call needs; owned, since it outlives the round that asked for it.
struct Call {
    stores: Arc<KeyStores>,
    ledger: Ledger,
    account_keys: Arc<AccountKeys>,
    cluster: LogicalCluster,
    path: String,
    row: AccountRow,
    calls: Arc<OwnerCalls>,
    candidate: Option<Candidate>,
}

/// What a call brings back.
#[derive(Default)]
struct Found {
    verified: Option<Verified>,
    candidate: Option<Candidate>,
}

/// Why a call failed: at the key store, or at the ledger.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("record the account key")]
    Ledger(#[from] openkcm_keychain::KeychainError),
    #[error("get memory for the account key")]
    Secret(#[from] SecretError),
    #[error("find account key v{0}: it is erased")]
    Erased(u32),
    #[error("call the key store: the client panicked")]
    Panicked,
}

type SecretError = openkcm_secret::SecretError;

impl Call {
    fn open(&self, spec: &AccountSpec) -> Result<Arc<dyn RootKey>, StoreError> {
        self.stores.open_for(&self.cluster, &self.path, spec, Arc::clone(&self.calls))
    }

    fn binding(&self) -> Binding {
        Binding { logical_cluster: self.cluster.clone(), account: self.row.id.to_string() }
    }

    /// Whether the account has no account key by this root yet.
    fn is_new(&self, root: &str) -> bool {
        let current = self.row.current_key().and_then(|key| root_of(&key.root));
        current.is_none_or(|spec| root_id(&spec) != root)
    }

    async fn run(&mut self, task: &Task) -> Result<Found, CallError> {
        match task {
            Task::Verify { spec } => self.verify(spec).await,
            Task::Provision { spec, version } => {
                let (key, wrapped) = match self.candidate.take() {
                    Some(candidate) => (candidate.key, candidate.wrapped),
                    None => {
                        let key = SecretKey::random()?;
                        let wrapped = self.open(spec)?.wrap(&key, &self.binding()).await?;
                        (key, wrapped)
                    }
                };
                crash_point!("root.account-key-wrapped");
                let input = input(spec, *version, wrapped);
                self.ledger.install_account_key(self.row.id, &input, Timestamp::now()).await?;
                crash_point!("root.account-key-durable");
                self.account_keys.insert(self.row.id, *version, key, Instant::now());
                Ok(Found::default())
            }
            Task::Load { version } => {
                let key = self.unwrap(*version).await?;
                crash_point!("root.account-key-unwrapped");
                self.account_keys.insert(self.row.id, *version, key, Instant::now());
                Ok(Found::default())
            }
            Task::Refresh { version } => {
                let row = self.row.keys.iter().find(|key| key.version == *version);
                let row = row.ok_or(CallError::Erased(*version))?;
                let (spec, old) = (root_of(&row.root), row.wrapped.as_deref());
                let (Some(spec), Some(old)) = (spec, old) else { return Err(CallError::Erased(*version)) };
                let key = self.unwrap(*version).await?;
                let wrapped = self.open(&spec)?.wrap(&key, &self.binding()).await?;
                crash_point!("root.account-key-wrapped-again");
                let input = input(&spec, *version, wrapped);
                self.ledger.replace_wrapping(self.row.id, &input, old, Timestamp::now()).await?;
                Ok(Found::default())
            }
        }
    }

    async fn verify(&self, spec: &AccountSpec) -> Result<Found, CallError> {
        let (root, store, binding) = (root_id(spec), self.open(spec)?, self.binding());
        let (verified, candidate) = if self.is_new(&root) {
            let key = SecretKey::random()?;
            let (verified, wrapped) = verify_with(&*store, &binding, &key).await?;
            (verified, Some(Candidate { root, key, wrapped, made: Instant::now() }))
        } else {
            (verify(&*store, &binding).await?, None)
        };
        crash_point!("root.verified");
        let verified = Verified {
            reference: verified.reference,
            version: verified.version,
            algorithm: verified.algorithm,
            at: verified.at,
        };
        Ok(Found { verified: Some(verified), candidate })
    }

    async fn unwrap(&self, version: u32) -> Result<SecretKey, CallError> {
        let row =
            self.row.keys.iter().find(|key| key.version == version).ok_or(CallError::Erased(version))?;
        let (spec, wrapped) = (root_of(&row.root), row.wrapped.as_deref());
        let (Some(spec), Some(wrapped)) = (spec, wrapped) else { return Err(CallError::Erased(version)) };
        Ok(self.open(&spec)?.unwrap(wrapped, &self.binding()).await?)
    }
}

/// An account key as the ledger takes it.
fn input(spec: &AccountSpec, version: u32, wrapped: Wrapped) -> AccountKeyInput {
    AccountKeyInput {
        version,
        wrapped: wrapped.bytes,
        root: Root {
            provider_type: spec.provider_type.as_str().to_owned(),
            reference: wrapped.reference,
            version: wrapped.version,
            spec: serde_json::to_value(spec).unwrap_or_default(),
        },
    }
}

/// Files away what a task found.
fn remember(
    memory: &Mutex<HashMap<(LogicalCluster, String), Memory>>,
    slot: &(LogicalCluster, String),
    label: &str,
    task: &Task,
    result: Result<Found, CallError>,
    interval: SignedDuration,
    account: AccountId,
) {
    let now = Timestamp::now();
    let mut all = lock(memory);
    let memory = all.entry(slot.clone()).or_default();
    memory.running.retain(|running| running != label);
    let result = result.map(|found| {
        if found.candidate.is_some() {
            memory.candidate = found.candidate;
        }
        found.verified
    });
    match (task, result) {
        (Task::Verify { spec }, result) => {
            let id = root_id(spec);
            // Roots that are no longer named or used are forgotten with the next one that is.
            if memory.probes.len() > 4 {
                memory.probes.retain(|other, _| *other == id);
            }
            let old = memory.probes.remove(&id);
            memory.probes.insert(id, entry_after(old, result, interval, now, account));
        }
        (Task::Load { version }, Ok(_)) => {
            memory.loads.remove(version);
        }
        (Task::Load { version }, Err(error)) => {
            let failures = memory.loads.get(version).map_or(0, |failure| failure.failures) + 1;
            let pause = backoff(failures, interval);
            let refused = matches!(&error, CallError::Store(error) if error.reason.is_root_loss() || error.reason == Reason::Misconfigured)
                || matches!(error, CallError::Erased(_));
            let retry_at = Instant::now() + Duration::try_from(pause).unwrap_or_default();
            memory.loads.insert(*version, LoadFailure { retry_at, failures, refused });
        }
        (Task::Provision { spec, .. }, Err(error)) => {
            // The root that verified does not wrap after all: say so, and look again soon.
            let id = root_id(spec);
            let old = memory.probes.remove(&id);
            memory.probes.insert(id, entry_after(old, Err(error), interval, now, account));
        }
        // What the store says of its version may lag: it is compared again after the next probe, not at once.
        (Task::Refresh { .. }, _) => {
            memory.refresh_at = Some(Instant::now() + Duration::try_from(interval).unwrap_or_default());
        }
        (Task::Provision { .. }, Ok(_)) => {}
    }
}

fn entry_after(
    old: Option<Entry>,
    result: Result<Option<Verified>, CallError>,
    interval: SignedDuration,
    now: Timestamp,
    account: AccountId,
) -> Entry {
    let (since, failures) = old.map_or((None, 0), |old| (old.failing_since, old.failures));
    match result {
        Ok(verified) => Entry {
            probe: verified.map_or(Probe::Never, |verified| Probe::Done {
                outcome: Ok(verified),
                next: now + jittered(interval, account, now),
            }),
            failing_since: None,
            failures: 0,
        },
        Err(error) => {
            let since = since.unwrap_or(now);
            let failures = failures + 1;
            let (failure, retry_after) = failure(error, since);
            let pause = backoff(failures, interval).max(retry_after);
            Entry {
                probe: Probe::Done { outcome: Err(failure), next: now + pause },
                failing_since: Some(since),
                failures,
            }
        }
    }
}

fn failure(error: CallError, since: Timestamp) -> (Failure, SignedDuration) {
    match error {
        CallError::Store(error) => {
            let kind = match error.reason {
                Reason::Throttled => FailureKind::Throttled,
                Reason::Unreachable | Reason::Timeout => FailureKind::Unreachable,
                _ => FailureKind::Refused,
            };
            let retry_after =
                error.retry_after.and_then(|after| SignedDuration::try_from(after).ok()).unwrap_or_default();
            (Failure { reason: error.reason.as_str(), message: error.message, kind, since }, retry_after)
        }
        other => {
            let message = "OpenKCM could not record the account key; it is tried again. If this stays, ask its operator.".to_owned();
            tracing::error!(error = %openkcm_logical::chain(&other), "account key");
            (
                Failure { reason: "LedgerUnavailable", message, kind: FailureKind::Throttled, since },
                SignedDuration::ZERO,
            )
        }
    }
}

fn backoff(failures: u32, limit: SignedDuration) -> SignedDuration {
    let doubled = FIRST_RETRY.checked_mul(1 << failures.saturating_sub(1).min(10)).unwrap_or(limit);
    doubled.min(limit)
}

/// Between 0.9 and 1.1 of the interval, different for each Account and each time.
fn jittered(interval: SignedDuration, account: AccountId, now: Timestamp) -> SignedDuration {
    let mixed = (account.0.as_u128() as u64) ^ (now.as_nanosecond() as u64).rotate_left(17);
    let share = i64::try_from(mixed % 201).unwrap_or(100);
    let millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX / 2_000);
    SignedDuration::from_millis(millis / 1_000 * (900 + share))
}
