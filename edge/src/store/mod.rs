//! The edge's key table: leases, not possessions.
//!
//! Readers never lock: the table is sharded, each shard is an immutable snapshot behind one atomic pointer, and a
//! change swaps the pointer (read-copy-update). Every use checks the lease on `CLOCK_BOOTTIME` before the key is
//! touched and again before the result is released, so neither a partition nor a stopped process gets a success
//! out of a lease that is over.
//!
//! **How long key bytes live after an eviction.** No operation that starts after [`KeyStore::evict`] has returned sees
//! the key. Operations already running hold the old snapshot; the longest is one message of at most
//! [`MAX_MESSAGE`](crate::envelope::MAX_MESSAGE) bytes or one chunk of a stream (below 2 ms). `evict` waits for them up
//! to [`DRAIN`] and says whether all are gone; the last one to let go wipes the bytes.

mod entry;
mod types;
mod usage;

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hashbrown::DefaultHashBuilder;
use kcp_client_rs::LogicalCluster;

use self::{
    entry::{Entry, Home, Places, State, Stored, Table, expanded, merge_versions},
    usage::Usage,
};
pub use self::{
    types::{
        Client, EvictReason, Gone, KeyEntry, KeyName, KeyNameRef, KeyVersion, Material, PutError, Refusal,
        Usable, Want,
    },
    usage::MAX_CALLERS,
};
use crate::{
    caller::Caller,
    clock::{BootClock, BootInstant, Clock},
    envelope::{COMMITMENT_LEN, XaesKey},
};

/// Shards of the table: a change copies one shard's pointers, some 25 of them at 100,000 keys.
const SHARDS: usize = 4096;
/// How long an eviction waits for operations that were running when it came.
pub const DRAIN: Duration = Duration::from_millis(20);
/// Default window of [`KeyStore::usage_report`].
pub const USAGE_WINDOW: Duration = Duration::from_mins(5);

/// The keys that this edge holds on lease.
pub struct KeyStore {
    shards: Box<[ArcSwap<Table>]>,
    /// Fast and keyed at random. Names are made by tenants' users, whom their API server bounds in number; a collision
    /// costs a comparison, never a mix-up.
    hasher: DefaultHashBuilder,
    /// `CLOCK_BOOTTIME` nanoseconds at which every key becomes unusable; 0 is "no lease".
    lease_until: AtomicU64,
    /// When the lease was last renewed, on the same clock.
    lease_renewed: AtomicU64,
    usage_window: Duration,
    clock: Arc<dyn Clock>,
    writer: Mutex<Writer>,
    /// Tenant names to workspaces, for callers whose token names no workspace. A name may mean several.
    tenants: RwLock<HashMap<Box<str>, Vec<LogicalCluster>>>,
    /// What `spec.clients` opens: how many entries make this hash of caller and key. Callers from outside are looked up
    /// here before any key is, so that a key they may not use and one that does not exist cost the same.
    granted: RwLock<HashMap<u64, u32>>,
    expanded: Places,
    counts: Counts,
}

/// What only changes need: one thread at a time.
#[derive(Default)]
struct Writer {
    homes: HashSet<Arc<Home>>,
}

#[derive(Default)]
struct Counts {
    live: AtomicU64,
    tombstones: AtomicU64,
    evictions: AtomicU64,
}

/// Figures for metrics: no names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStats {
    /// Keys with material.
    pub live: u64,
    /// Evicted keys whose reason is kept.
    pub tombstones: u64,
    /// Evictions since the start.
    pub evictions: u64,
}

/// The state of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Time left; zero if the lease is over or was never given.
    pub remaining: Duration,
    /// Whether this edge ever had a lease.
    pub ever: bool,
    /// Time since the lease was last renewed; since the machine started if it never was.
    pub age: Duration,
}

/// Distinct callers of one key in the usage window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUsage {
    /// The key.
    pub name: KeyName,
    /// How many callers; at most [`MAX_CALLERS`].
    pub callers: u32,
}

/// What became of an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Keys that were live and no longer are.
    pub keys: usize,
    /// Whether no operation holds them any more, so that their bytes are wiped. `false`: the last one wipes them.
    pub wiped: bool,
}

/// What a caller names: its key, and the tenant as it calls it.
#[derive(Debug, Clone, Copy)]
pub struct Address<'a> {
    /// The Tenant's name or the logical cluster's. Never identity.
    pub tenant: &'a str,
    /// Namespace of the key.
    pub namespace: &'a str,
    /// Name of the key.
    pub name: &'a str,
}

/// A key for the length of one operation.
pub struct Lent<'a> {
    /// The key itself, expanded.
    pub cipher: &'a XaesKey,
    /// UUID of the service key.
    pub key_id: [u8; 16],
    /// The version that `cipher` is.
    pub version: u32,
    /// The key commitment of this version.
    pub commitment: &'a [u8; COMMITMENT_LEN],
    /// The key's workspace.
    pub cluster: &'a str,
    /// When the lease was checked.
    pub now: BootInstant,
}

/// What a caller may know of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// UUID of the service key.
    pub key_id: [u8; 16],
    /// The version that encrypts.
    pub current: u32,
    /// All versions and whether each can encrypt, only decrypt, or neither.
    pub versions: Vec<(u32, Result<Usable, Gone>)>,
}

impl Default for KeyStore {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyStore {
    /// An empty table without a lease, on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(BootClock))
    }

    /// An empty table without a lease, on this clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            lease_until: AtomicU64::new(0),
            lease_renewed: AtomicU64::new(0),
            usage_window: USAGE_WINDOW,
            clock,
            writer: Mutex::default(),
            tenants: RwLock::default(),
            granted: RwLock::default(),
            expanded: Places::default(),
            counts: Counts::default(),
        }
    }

    /// The same table with another window for [`Self::usage_report`].
    #[must_use]
    pub fn with_usage_window(mut self, window: Duration) -> Self {
        self.usage_window = window;
        self
    }

    // ---- lease ----

    /// Keys may be used until `until`. A renewal never shortens a lease: messages may overtake each other.
    ///
    /// `until` must be counted from a moment *before* the orchestrator gave the lease (when the edge asked for it),
    /// so that transport time shortens it.
    pub fn renew_lease(&self, until: BootInstant) {
        self.lease_until.fetch_max(until.as_nanos(), Ordering::AcqRel);
        self.lease_renewed.store(self.clock.now().as_nanos(), Ordering::Relaxed);
    }

    /// Ends the lease now.
    pub fn end_lease(&self) {
        self.lease_until.store(1, Ordering::Release);
    }

    /// Time left on the lease.
    pub fn lease(&self) -> Lease {
        let (until, now) = (self.lease_until.load(Ordering::Acquire), self.clock.now());
        let renewed = BootInstant::from_nanos(self.lease_renewed.load(Ordering::Relaxed));
        Lease {
            remaining: BootInstant::from_nanos(until).saturating_since(now),
            ever: until != 0,
            age: now.saturating_since(renewed),
        }
    }

    /// The present moment on the clock of the lease.
    pub fn now(&self) -> BootInstant {
        self.clock.now()
    }

    fn fresh(&self, now: BootInstant) -> Result<(), Refusal> {
        if now.as_nanos() < self.lease_until.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(Refusal::LeaseLost)
        }
    }

    // ---- changes ----

    /// Puts a key with all its versions in the place of what was held under its name.
    pub fn put(&self, entry: KeyEntry) -> Result<(), PutError> {
        self.change(entry, false)
    }

    /// Like [`Self::put`], but versions that `entry` does not list stay as they are.
    pub fn patch(&self, entry: KeyEntry) -> Result<(), PutError> {
        self.change(entry, true)
    }

    fn change(&self, mut entry: KeyEntry, keep_versions: bool) -> Result<(), PutError> {
        let mut writer = self.writer();
        let name =
            KeyNameRef { cluster: entry.cluster.as_str(), namespace: &entry.namespace, name: &entry.name };
        let hash = self.hasher.hash_one(name);
        let shard = self.shard(hash);
        let snapshot = shard.load_full();
        let held = snapshot.find(hash, name).cloned();
        if let Some(held) = &held
            && entry.revision < held.revision
        {
            return Err(PutError::Older { offered: entry.revision, held: held.revision });
        }
        let base = match held.as_deref() {
            _ if !keep_versions => None,
            Some(held) if held.key_id == entry.key_id && matches!(held.state, State::Live { .. }) => {
                Some(held)
            }
            _ => return Err(PutError::NotHeld),
        };
        let versions = merge_versions(&mut entry, base)?;
        // An orchestrator that has not heard of the newest version yet waits: this edge has something to decrypt with it.
        if let Some(Entry { key_id, state: State::Live { current, .. }, .. }) = held.as_deref()
            && *key_id == entry.key_id
            && entry.current < *current
        {
            return Err(PutError::OlderVersion { offered: entry.current, held: *current });
        }
        let state = State::Live { current: entry.current, versions };
        self.replace(&mut writer, hash, &snapshot, held.as_deref(), entry, state);
        Ok(())
    }

    /// Leaves word why a key that this edge does not hold cannot be used. `entry` carries no versions.
    pub fn bury(&self, entry: KeyEntry, reason: EvictReason) -> Result<(), PutError> {
        let mut writer = self.writer();
        let name =
            KeyNameRef { cluster: entry.cluster.as_str(), namespace: &entry.namespace, name: &entry.name };
        let hash = self.hasher.hash_one(name);
        let snapshot = self.shard(hash).load_full();
        let held = snapshot.find(hash, name).cloned();
        if let Some(held) = &held
            && entry.revision < held.revision
        {
            return Err(PutError::Older { offered: entry.revision, held: held.revision });
        }
        self.replace(&mut writer, hash, &snapshot, held.as_deref(), entry, State::Evicted(reason));
        Ok(())
    }

    /// Takes a key back. Its name, clients and revision stay as a tombstone with the reason.
    #[allow(clippy::needless_pass_by_value)] // Reads as what it is: the reason goes into the tombstone.
    pub fn evict(&self, name: &KeyName, reason: EvictReason) -> Evicted {
        let hash = self.hasher.hash_one(name.as_ref());
        let mut removed = Vec::new();
        {
            let _writer = self.writer();
            let shard = self.shard(hash);
            let snapshot = shard.load_full();
            if let Some(held) = snapshot.find(hash, name.as_ref()) {
                let mut table = Table::clone(&snapshot);
                self.entomb(&mut table, held, &reason, &mut removed);
                shard.store(Arc::new(table));
            }
        }
        drain(removed)
    }

    /// Takes all keys of a workspace back.
    pub fn evict_tenant(&self, cluster: &LogicalCluster, reason: &EvictReason) -> Evicted {
        self.evict_where(reason, |entry| entry.home.cluster == *cluster)
    }

    /// Takes all keys back, for example when the edge is told to leave.
    pub fn evict_all(&self, reason: &EvictReason) -> Evicted {
        self.evict_where(reason, |_| true)
    }

    fn evict_where(&self, reason: &EvictReason, matches: impl Fn(&Entry) -> bool) -> Evicted {
        let mut removed = Vec::new();
        {
            let _writer = self.writer();
            for shard in &self.shards {
                let snapshot = shard.load_full();
                let hit = |entry: &&Arc<Entry>| matches(entry);
                if !snapshot.iter().any(|entry| matches(entry)) {
                    continue;
                }
                let mut table = Table::clone(&snapshot);
                for held in snapshot.iter().filter(hit) {
                    self.entomb(&mut table, held, reason, &mut removed);
                }
                shard.store(Arc::new(table));
            }
        }
        drain(removed)
    }

    /// Drops a key or tombstone without a trace, for example when its tenant's retention is over.
    pub fn forget(&self, name: &KeyName) -> Evicted {
        let hash = self.hasher.hash_one(name.as_ref());
        let mut removed = Vec::new();
        {
            let _writer = self.writer();
            let shard = self.shard(hash);
            let snapshot = shard.load_full();
            if let Some(held) = snapshot.find(hash, name.as_ref()) {
                self.count_out(held);
                self.grant(held, false);
                let mut table = Table::clone(&snapshot);
                table.remove(hash, name.as_ref());
                shard.store(Arc::new(table));
                removed.push(Arc::clone(held));
            }
        }
        drain(removed)
    }

    fn entomb(
        &self,
        table: &mut Table,
        held: &Arc<Entry>,
        reason: &EvictReason,
        removed: &mut Vec<Arc<Entry>>,
    ) {
        let tombstone = Entry {
            home: Arc::clone(&held.home),
            name: held.name.clone(),
            key_id: held.key_id,
            revision: held.revision,
            clients: held.clients.clone(),
            state: State::Evicted(reason.clone()),
            usage: OnceLock::new(),
        };
        let hash = self.hasher.hash_one(held.name_ref());
        table.insert(hash, Arc::new(tombstone), &self.hasher);
        if matches!(held.state, State::Live { .. }) {
            self.count_out(held);
            self.counts.tombstones.fetch_add(1, Ordering::Relaxed);
            self.counts.evictions.fetch_add(1, Ordering::Relaxed);
            removed.push(Arc::clone(held));
        }
    }

    fn replace(
        &self,
        writer: &mut Writer,
        hash: u64,
        snapshot: &Table,
        held: Option<&Entry>,
        entry: KeyEntry,
        state: State,
    ) {
        self.name_tenant(&entry.tenant_name, &entry.cluster);
        let home = writer.intern(Home {
            cluster: entry.cluster,
            tenant_name: entry.tenant_name.into(),
            namespace: entry.namespace.into(),
        });
        let usage = OnceLock::new();
        if let Some(held) = held {
            self.count_out(held);
            self.grant(held, false);
            if let Some(used) = held.usage.get() {
                let _ = usage.set(Arc::clone(used));
            }
        }
        let counter =
            if matches!(state, State::Live { .. }) { &self.counts.live } else { &self.counts.tombstones };
        counter.fetch_add(1, Ordering::Relaxed);
        let clients = (!entry.clients.is_empty()).then(|| Box::new(entry.clients));
        let fresh = Entry {
            home,
            name: entry.name.into(),
            key_id: entry.key_id,
            revision: entry.revision,
            clients,
            state,
            usage,
        };
        self.grant(&fresh, true);
        let mut table = Table::clone(snapshot);
        table.insert(hash, Arc::new(fresh), &self.hasher);
        self.shard(hash).store(Arc::new(table));
    }

    fn count_out(&self, held: &Entry) {
        let counter = if matches!(held.state, State::Live { .. }) {
            &self.counts.live
        } else {
            &self.counts.tombstones
        };
        counter.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes what the clients of `entry` may use, or forgets it.
    fn grant(&self, entry: &Entry, may: bool) {
        let Some(clients) = &entry.clients else { return };
        let mut granted = self.granted.write().unwrap_or_else(PoisonError::into_inner);
        for client in clients.iter() {
            let hash = self.granted_hash(&client.issuer, &client.subject, entry.name_ref());
            let count = granted.entry(hash).or_default();
            *count = if may { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                granted.remove(&hash);
            }
        }
    }

    fn granted_hash(&self, issuer: &str, subject: &str, key: KeyNameRef<'_>) -> u64 {
        self.hasher.hash_one((issuer, subject, key))
    }

    fn name_tenant(&self, tenant: &str, cluster: &LogicalCluster) {
        let known = |tenants: &HashMap<Box<str>, Vec<LogicalCluster>>| {
            tenants.get(tenant).is_some_and(|clusters| clusters.contains(cluster))
        };
        if known(&self.tenants.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if !known(&tenants) {
            tenants.entry(tenant.into()).or_default().push(cluster.clone());
        }
    }

    // ---- use ----

    /// Lends the version that `want` asks for to `operate`, if `caller` may use the key and the lease is fresh both
    /// before and after. On [`Refusal::LeaseLost`] after the operation its result has been dropped: the caller of this
    /// function must not release what `operate` wrote elsewhere.
    #[inline]
    pub fn lend<R>(
        &self,
        address: Address<'_>,
        want: Want,
        caller: &Caller,
        operate: impl FnOnce(Lent<'_>) -> R,
    ) -> Result<R, Refusal> {
        self.authorised(address, caller, |entry| self.use_entry(entry, want, caller, operate))
    }

    /// What `caller` may know of a key.
    pub fn describe(&self, address: Address<'_>, caller: &Caller) -> Result<Description, Refusal> {
        self.authorised(address, caller, |entry| {
            let State::Live { current, versions } = &entry.state else { return Err(refusal(entry)) };
            self.fresh(self.clock.now())?;
            let versions = versions.iter().map(|version| {
                let state = match &version.material {
                    Stored::Key { usable, .. } => Ok(*usable),
                    Stored::Gone(gone) => Err(gone.clone()),
                };
                (version.number, state)
            });
            Ok(Description { key_id: entry.key_id, current: *current, versions: versions.collect() })
        })
    }

    /// Finds the one key that the address means for this caller.
    ///
    /// A kcp service account always means its own workspace, so nothing that it says can reach another one. For others
    /// the tenant is a logical cluster or the name of one; what they may not use does not exist for them.
    fn authorised<R>(
        &self,
        address: Address<'_>,
        caller: &Caller,
        found: impl FnOnce(&Arc<Entry>) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let name = |cluster| KeyNameRef { cluster, namespace: address.namespace, name: address.name };
        if let Some(home) = caller.home() {
            return self.find(name(home.cluster.as_str()), |entry| {
                if !entry.home.is_called(address.tenant) {
                    return Err(Refusal::UnknownKey);
                }
                let own = *entry.home.namespace == *home.namespace;
                if own || entry.is_client(caller) { found(entry) } else { Err(Refusal::NotAllowed) }
            });
        }
        let clusters = {
            let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
            tenants.get(address.tenant).cloned().unwrap_or_default()
        };
        let granted = |cluster: &str| {
            let key = KeyNameRef { cluster, namespace: address.namespace, name: address.name };
            let hash = self.granted_hash(caller.issuer(), caller.subject(), key);
            self.granted.read().unwrap_or_else(PoisonError::into_inner).contains_key(&hash)
        };
        let named = clusters.iter().map(LogicalCluster::as_str).chain([address.tenant]);
        let mut named = named.filter(|cluster| granted(cluster)).filter(|cluster| {
            let mine = self.find(name(*cluster), |entry| {
                let mine = entry.is_client(caller) && entry.home.is_called(address.tenant);
                if mine { Ok(()) } else { Err(Refusal::UnknownKey) }
            });
            mine.is_ok()
        });
        // A tenant's name is not unique. Where two tenants of that name let the caller in, one may have done so to be
        // mistaken for the other: the caller has to name the logical cluster.
        match (named.next(), named.next()) {
            (Some(cluster), None) => self.find(name(cluster), found),
            _ => Err(Refusal::UnknownKey),
        }
    }

    #[inline]
    fn find<R>(
        &self,
        name: KeyNameRef<'_>,
        found: impl FnOnce(&Arc<Entry>) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let hash = self.hasher.hash_one(name);
        let snapshot = self.shard(hash).load();
        match snapshot.find(hash, name) {
            Some(entry) => found(entry),
            None => Err(Refusal::UnknownKey),
        }
    }

    #[inline]
    fn use_entry<R>(
        &self,
        entry: &Entry,
        want: Want,
        caller: &Caller,
        operate: impl FnOnce(Lent<'_>) -> R,
    ) -> Result<R, Refusal> {
        let State::Live { current, .. } = &entry.state else { return Err(refusal(entry)) };
        let number = match want {
            Want::Current => *current,
            Want::Exactly { key_id, .. } if key_id != entry.key_id => return Err(Refusal::OtherKey),
            Want::Exactly { version, .. } => version,
        };
        let version = entry.version(number).ok_or(Refusal::UnknownVersion)?;
        let (key, usable, commitment, kept) = match &version.material {
            Stored::Key { key, usable, commitment, expanded } => (key, *usable, commitment, expanded),
            Stored::Gone(Gone::Destroyed { on }) => return Err(Refusal::Destroyed(on.clone())),
            Stored::Gone(Gone::Compromised) => return Err(Refusal::Compromised),
        };
        if want == Want::Current && usable == Usable::DecryptOnly {
            return Err(Refusal::UnknownVersion);
        }
        let now = self.clock.now();
        self.fresh(now)?;
        let on_stack;
        let cipher = if let Some(cipher) = expanded(kept, key, &self.expanded) {
            cipher
        } else {
            on_stack = XaesKey::expand(key);
            &on_stack
        };
        let cluster = entry.home.cluster.as_str();
        let result =
            operate(Lent { cipher, key_id: entry.key_id, version: number, commitment, cluster, now });
        let after = self.clock.now();
        self.fresh(after)?;
        let usage = entry.usage.get_or_init(Arc::default);
        usage.record(caller.fingerprint(), after.as_nanos(), self.usage_nanos());
        Ok(result)
    }

    // ---- reports ----

    /// Distinct callers in the last window, of every key that had any. Reads every key: for a ticker of seconds.
    pub fn usage_report(&self) -> Vec<KeyUsage> {
        let now = self.clock.now().as_nanos();
        let mut report = Vec::new();
        for shard in &self.shards {
            for entry in shard.load().iter() {
                let callers =
                    entry.usage.get().map_or(0, |usage: &Arc<Usage>| usage.distinct(now, self.usage_nanos()));
                if callers > 0 {
                    report.push(KeyUsage { name: entry.key_name(), callers });
                }
            }
        }
        report
    }

    /// The revision held under a name, tombstones included: what a resumed stream need not send again.
    pub fn revision(&self, name: &KeyName) -> Option<u64> {
        let hash = self.hasher.hash_one(name.as_ref());
        self.shard(hash).load().find(hash, name.as_ref()).map(|entry| entry.revision)
    }

    /// Figures for metrics.
    pub fn stats(&self) -> StoreStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            live: get(&self.counts.live),
            tombstones: get(&self.counts.tombstones),
            evictions: get(&self.counts.evictions),
        }
    }

    fn usage_nanos(&self) -> u64 {
        u64::try_from(self.usage_window.as_nanos()).unwrap_or(u64::MAX)
    }

    fn shard(&self, hash: u64) -> &ArcSwap<Table> {
        // The table inside uses the low and the top bits of the hash.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // Every change is one pointer swap, so a writer that died left nothing half done.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn intern(&mut self, home: Home) -> Arc<Home> {
        if let Some(known) = self.homes.get(&home) {
            return Arc::clone(known);
        }
        let home = Arc::new(home);
        self.homes.insert(Arc::clone(&home));
        home
    }
}

impl Home {
    fn is_called(&self, tenant: &str) -> bool {
        self.cluster.as_str() == tenant || *self.tenant_name == *tenant
    }
}

impl Entry {
    fn is_client(&self, caller: &Caller) -> bool {
        let is = |client: &Client| client.issuer == caller.issuer() && client.subject == caller.subject();
        self.clients.as_ref().is_some_and(|clients| clients.iter().any(is))
    }

    fn key_name(&self) -> KeyName {
        KeyName {
            cluster: self.home.cluster.clone(),
            namespace: self.home.namespace.as_ref().into(),
            name: self.name.as_str().into(),
        }
    }
}

fn refusal(entry: &Entry) -> Refusal {
    match &entry.state {
        State::Evicted(reason) => Refusal::Evicted(reason.clone()),
        State::Live { .. } => Refusal::UnknownKey,
    }
}

/// Waits until no operation holds these entries any more, or [`DRAIN`] is over, and lets go of them.
fn drain(removed: Vec<Arc<Entry>>) -> Evicted {
    let keys = removed.len();
    let deadline = Instant::now() + DRAIN;
    let mut wiped = true;
    for entry in removed {
        while Arc::strong_count(&entry) > 1 {
            if Instant::now() > deadline {
                wiped = false;
                break;
            }
            std::thread::yield_now();
        }
    }
    Evicted { keys, wiped }
}

#[cfg(test)]
mod tests;
