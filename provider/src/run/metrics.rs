//! `/metrics`. Labels are kinds, states and reasons; never the name of an object.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use openkcm_keystores::Operation;

use super::provider::Provider;

/// What the reconciles count.
#[derive(Default)]
pub struct Counters {
    rounds: [[AtomicU64; 2]; 3],
    status_writes: AtomicU64,
    rotations: AtomicU64,
    evictions: AtomicU64,
}

const KINDS: [&str; 3] = ["Tenant", "Account", "ServiceEncryptionKey"];

impl Counters {
    pub fn round(&self, kind: &'static str, ok: bool) {
        if let Some(index) = KINDS.iter().position(|known| *known == kind) {
            self.rounds[index][usize::from(!ok)].fetch_add(1, Relaxed);
        }
    }

    pub fn status_write(&self) {
        self.status_writes.fetch_add(1, Relaxed);
    }

    pub fn rotation(&self) {
        self.rotations.fetch_add(1, Relaxed);
    }

    pub fn eviction(&self) {
        self.evictions.fetch_add(1, Relaxed);
    }
}

/// Reads everything at the moment of a scrape.
pub struct Scrape(pub Arc<Provider>);

impl std::fmt::Debug for Scrape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let provider = &self.0;
        let counters = &provider.counters;
        let world = provider.world.metrics();
        let queue = provider.queue.stats();
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("openkcm_endpoints", "Virtual workspace endpoints in use", world.endpoints)?;
        gauge("openkcm_open_watches", "Watches that are open: kinds times endpoints", world.open_watches)?;
        gauge("openkcm_objects", "Objects in the caches", world.objects)?;
        gauge("openkcm_undecodable_objects", "Objects that do not fit their type", world.undecodable)?;
        gauge("openkcm_queue_ready", "Objects that wait for a worker", queue.ready as u64)?;
        gauge("openkcm_queue_delayed", "Objects that wait for a time", queue.delayed as u64)?;
        gauge(
            "openkcm_account_keys_in_memory",
            "Unwrapped account keys",
            provider.account_keys.len() as u64,
        )?;
        if let Some(replicas) = &provider.replicas {
            let alive = replicas.membership.members().len() as u64;
            gauge("openkcm_replicas", "Replicas of the provider that are alive, this one included", alive)?;
        }
        let edges = provider.orchestrator.edges();
        let connected = edges.iter().filter(|edge| edge.connected).count();
        gauge("openkcm_edges_connected", "Crypto Edges on their stream", connected as u64)?;
        gauge("openkcm_edges_remembered", "Crypto Edges connected or not forgotten yet", edges.len() as u64)?;

        let mut counter = |name: &str, help: &str, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        counter("openkcm_watch_events", "Watch events other than bookmarks", world.events)?;
        counter("openkcm_watch_restarts", "Lists and watches that ended in an error", world.restarts)?;
        counter("openkcm_lists", "Full lists", world.lists)?;
        counter("openkcm_status_writes", "Writes of a status to kcp", counters.status_writes.load(Relaxed))?;
        counter("openkcm_rotations", "New versions of service keys", counters.rotations.load(Relaxed))?;
        counter("openkcm_evictions", "Keys taken back from the edges", counters.evictions.load(Relaxed))?;
        counter(
            "openkcm_events_dropped",
            "Events that were not written: too many",
            provider.recorder.dropped(),
        )?;

        let rounds = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "openkcm_reconciles",
            "Reconciles by kind and result",
            None,
            rounds.metric_type(),
        )?;
        for (kind, counts) in KINDS.iter().zip(&counters.rounds) {
            for (result, count) in ["ok", "error"].iter().zip(counts) {
                let labels = [("kind", *kind), ("result", *result)];
                ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "openkcm_root_key_calls",
            "Calls to key stores by store, operation and outcome",
            None,
            rounds.metric_type(),
        )?;
        for (store, operation, outcome, count) in provider.roots.stores().calls().iter() {
            let outcome = outcome.map_or("ok", openkcm_keystores::Reason::as_str);
            let labels = [("store", store.as_str()), ("operation", operation.as_str()), ("outcome", outcome)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        self.account_calls(&mut encoder)?;
        self.states(&mut encoder)
    }
}

impl Scrape {
    /// What each Account costs its store. The label is the ledger's id, which says nothing to who has no access to it
    /// (`openkcm-provider accounts list`), and there are a thousand of them at most.
    fn account_calls(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counter = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "openkcm_account_root_key_calls",
            "Calls to key stores by Account (its id in the ledger) and operation",
            None,
            counter.metric_type(),
        )?;
        for (account, calls) in self.0.roots.calls() {
            let account = account.map_or_else(|| "other".to_owned(), |account| account.to_string());
            for operation in Operation::ALL {
                let labels = [("account", account.as_str()), ("operation", operation.as_str())];
                ConstCounter::new(calls.get(operation)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// Objects by their state and the reason for it, from the caches.
    fn states(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let provider = &self.0;
        let caches = &provider.caches;
        let mut accounts = BTreeMap::<(String, &str), i64>::new();
        for account in caches.accounts.clusters().iter().flat_map(|cluster| caches.accounts.list(cluster)) {
            let (phase, reason) = account.summary;
            let phase = phase.map_or_else(|| "New".to_owned(), |phase| format!("{phase:?}"));
            *accounts.entry((phase, reason)).or_default() += 1;
        }
        let (mut keys, mut overdue) = (BTreeMap::<(String, &str), i64>::new(), 0);
        for key in caches.keys.clusters().iter().flat_map(|cluster| caches.keys.list(cluster)) {
            let state = key.summary.state.map_or_else(|| "New".to_owned(), |state| format!("{state:?}"));
            *keys.entry((state, key.summary.reason)).or_default() += 1;
            overdue += i64::from(key.summary.overdue);
        }
        for (name, help, label, counts) in [
            ("openkcm_accounts", "Accounts by phase and reason", "phase", accounts),
            ("openkcm_service_keys", "ServiceEncryptionKeys by state and reason", "state", keys),
        ] {
            let gauge = ConstGauge::new(0i64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for ((value, reason), count) in counts {
                let labels = [(label, value.as_str()), ("reason", reason)];
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let gauge = ConstGauge::new(overdue);
        gauge.encode(encoder.encode_descriptor(
            "openkcm_rotations_overdue",
            "ServiceEncryptionKeys whose rotation is late",
            None,
            gauge.metric_type(),
        )?)
    }
}
