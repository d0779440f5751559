//! Events in the consumers' workspaces.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kcp_client_rs::LogicalCluster;
use kube::core::ObjectMeta;
use serde_json::json;
use tracing::debug;

use crate::{
    CancellationToken, ClientError, ErrorClass, Laned, Outcome, Queue, QueueError, RetryPolicy, ScopedClient,
    World, chain,
};

/// Distinct (object, reason, message) that are remembered, in all and per workspace. More are dropped.
const MOST: usize = 8192;
const MOST_PER_CLUSTER: usize = 256;
/// New pairs of one workspace: so many at once, and then one per interval.
const BURST: u32 = 64;
const REFILL: Duration = Duration::from_millis(500);
/// A repetition is written at the earliest so long after the write before.
const SPACING: Duration = Duration::from_secs(10);
/// A pair that was not repeated for so long is forgotten.
const FORGET: Duration = Duration::from_mins(10);
/// How often a write is tried: events are no ledger.
const TRIES: u32 = 6;
/// Kubernetes' own limit for an event's message, in bytes.
const MESSAGE: usize = 1024;
const WRITERS: usize = 4;

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

impl EventType {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Puts events about objects into their own workspace. The same object, severity, reason and message again raises
/// the count of the event that is there. Never waits and never fails the caller: what is too much, or cannot be written, is
/// dropped and counted. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

/// Writes the recorder's events; to be joined by the binary.
pub struct RecorderDriver(Recorder);

struct Inner {
    world: World,
    component: String,
    notes: Mutex<Notes>,
    queue: Queue<NoteKey>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Notes {
    all: HashMap<NoteKey, Note>,
    clusters: HashMap<LogicalCluster, Share>,
}

/// What one workspace has used up.
struct Share {
    notes: usize,
    tokens: u32,
    refilled: Instant,
}

impl Share {
    fn admit(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        if earned > 0 {
            self.tokens = (u128::from(self.tokens) + earned).min(u128::from(BURST)) as u32;
            self.refilled = now;
        }
        if self.tokens == 0 || self.notes >= MOST_PER_CLUSTER {
            return false;
        }
        self.tokens -= 1;
        self.notes += 1;
        true
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NoteKey {
    cluster: LogicalCluster,
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    uid: Option<String>,
    severity: EventType,
    reason: &'static str,
    /// Hash of the message: what says something new is an event of its own.
    said: u64,
}

impl Laned for NoteKey {
    type Lane = LogicalCluster;
    fn lane(&self) -> LogicalCluster {
        self.cluster.clone()
    }
}

/// What is to be said, and what was.
#[derive(Clone)]
struct Note {
    message: String,
    first: Timestamp,
    last: Timestamp,
    /// Since the last write.
    pending: i32,
    /// In the event object, as far as we know; 0 before the first write.
    written: i32,
    tries: u32,
}

impl Recorder {
    /// A recorder that signs as `component`, and the driver that does its writing.
    pub fn new(world: World, component: &str) -> (Self, RecorderDriver) {
        let retry = RetryPolicy { first: Duration::from_millis(200), limit: Duration::from_mins(1) };
        let recorder = Self(Arc::new(Inner {
            world,
            component: component.to_owned(),
            notes: Mutex::default(),
            queue: Queue::new(retry),
            dropped: AtomicU64::new(0),
        }));
        (recorder.clone(), RecorderDriver(recorder))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something happened to an object. The reference needs apiVersion, kind and name, a namespace if the
    /// kind has one, and should have the uid. The message is for the people of that workspace.
    pub fn note(
        &self,
        cluster: &LogicalCluster,
        regarding: ObjectReference,
        severity: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let ObjectReference { api_version, kind, namespace, name, uid, .. } = regarding;
        let name = name.unwrap_or_default();
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE));
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let said = hasher.finish();
        let key = NoteKey {
            cluster: cluster.clone(),
            api_version,
            kind,
            namespace,
            name,
            uid,
            severity,
            reason,
            said,
        };
        let now = Timestamp::now();
        let mut notes = self.notes();
        let Notes { all, clusters } = &mut *notes;
        if let Some(note) = all.get_mut(&key) {
            (note.last, note.pending) = (now, note.pending.saturating_add(1));
            let wait = if note.written == 0 { Duration::ZERO } else { SPACING };
            drop(notes);
            self.0.queue.add_after(key, wait);
            return;
        }
        let full = || Share { notes: 0, tokens: BURST, refilled: Instant::now() };
        if all.len() >= MOST || !clusters.entry(cluster.clone()).or_insert_with(full).admit(Instant::now()) {
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        all.insert(key.clone(), Note { message, first: now, last: now, pending: 1, written: 0, tries: 0 });
        drop(notes);
        self.0.queue.add(key);
    }

    /// Events that were dropped: too many, or not to be written.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    fn forget(&self, key: &NoteKey) {
        let mut notes = self.notes();
        if notes.all.remove(key).is_none() {
            return;
        }
        if let Some(share) = notes.clusters.get_mut(&key.cluster) {
            share.notes -= 1;
            if share.notes == 0 {
                notes.clusters.remove(&key.cluster);
            }
        }
    }

    async fn write(&self, key: NoteKey) -> Outcome {
        let Some(note) = self.notes().all.get(&key).cloned() else { return Outcome::Done };
        if note.pending == 0 {
            if note.last + FORGET <= Timestamp::now() {
                self.forget(&key);
                return Outcome::Done;
            }
            return Outcome::After(FORGET);
        }
        let result = match self.0.world.client(&key.cluster) {
            Some(client) => self.put(&client, &key, &note).await,
            None => Err(None),
        };
        let mut notes = self.notes();
        let Some(kept) = notes.all.get_mut(&key) else { return Outcome::Done };
        match result {
            Ok(written) => {
                (kept.written, kept.pending, kept.tries) = (written, kept.pending - note.pending, 0);
                Outcome::After(if kept.pending > 0 { SPACING } else { FORGET })
            }
            Err(error) => {
                kept.tries += 1;
                let class = error.as_ref().map(ClientError::class);
                // No right to write events (the claim is not accepted), no namespace: nothing that trying cures.
                let hopeless =
                    matches!(class, Some(ErrorClass::Forbidden | ErrorClass::NotFound | ErrorClass::Invalid));
                if hopeless || kept.tries >= TRIES {
                    drop(notes);
                    self.forget(&key);
                    self.0.dropped.fetch_add(1, Relaxed);
                    let error = error
                        .map_or_else(|| "the workspace is seen nowhere".to_owned(), |error| chain(&error));
                    debug!(cluster = %key.cluster, reason = key.reason, error, "event dropped");
                    return Outcome::Done;
                }
                Outcome::After(Duration::from_secs(1 << kept.tries))
            }
        }
    }

    /// Writes what is pending; returns the count that is in the event now.
    async fn put(
        &self,
        client: &ScopedClient,
        key: &NoteKey,
        note: &Note,
    ) -> Result<i32, Option<ClientError>> {
        // Events about objects without namespace live in `default`.
        let namespace = key.namespace.as_deref().unwrap_or("default");
        let name = self.event_name(key);
        let mut count = note.written;
        if count == 0 {
            match client.create(&self.event(key, note, namespace, &name)).await {
                Ok(_) => return Ok(note.pending),
                Err(error) if error.class() == ErrorClass::AlreadyExists => {}
                Err(error) => return Err(Some(error)),
            }
            // From an earlier life of this process, or another replica.
            count = client
                .get::<Event>(Some(namespace), &name)
                .await
                .map_err(Some)?
                .and_then(|e| e.count)
                .unwrap_or(0);
        }
        count = count.saturating_add(note.pending);
        let patch = json!({"count": count, "lastTimestamp": Time(note.last), "message": note.message});
        match client.patch_merge::<Event>(Some(namespace), &name, &patch).await {
            Ok(_) => Ok(count),
            // Events are removed by the server after an hour.
            Err(error) if error.class() == ErrorClass::NotFound => client
                .create(&self.event(key, note, namespace, &name))
                .await
                .map(|_| note.pending)
                .map_err(Some),
            Err(error) => Err(Some(error)),
        }
    }

    /// The same for the same pair: how repetitions find their event, also after a restart.
    fn event_name(&self, key: &NoteKey) -> String {
        let mut hasher = DefaultHasher::new(); // another hash in another version only starts a new event
        (key, &self.0.component).hash(&mut hasher);
        let stem: String = key.name.chars().take(200).collect();
        format!("{}.{:016x}", stem.trim_end_matches(['.', '-']), hasher.finish())
    }

    fn event(&self, key: &NoteKey, note: &Note, namespace: &str, name: &str) -> Event {
        let NoteKey { api_version, kind, uid, .. } = key.clone();
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version,
                kind,
                uid,
                name: Some(key.name.clone()),
                namespace: key.namespace.clone(),
                ..ObjectReference::default()
            },
            type_: Some(key.severity.name().to_owned()),
            reason: Some(key.reason.to_owned()),
            message: Some(note.message.clone()),
            count: Some(note.pending),
            first_timestamp: Some(Time(note.first)),
            last_timestamp: Some(Time(note.last)),
            source: Some(EventSource { component: Some(self.0.component.clone()), host: None }),
            reporting_component: Some(self.0.component.clone()),
            ..Event::default()
        }
    }
}

impl RecorderDriver {
    /// Writes until `shutdown`. Ends early only if its own code panics.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), QueueError> {
        let recorder = self.0.clone();
        let write = move |key| {
            let recorder = recorder.clone();
            async move { recorder.write(key).await }
        };
        self.0.0.queue.run(WRITERS, shutdown, write).await
    }
}
