//! The orchestrator as its caller sees it.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use openkcm_secret::{SecretError, SecretKey};
use tokio::{net::TcpListener, sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;
use uuid::Uuid;

use crate::{
    Clock, Desired, Distribution, EdgeInfo, KeyId, OrchestratorError, Told,
    authority::{Authority, SERVER_VALIDITY, unix},
    core::{Core, Identity, Start},
    enrolment,
    files::Files,
    server::{self, ServerCertificate},
};

const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_mins(1);
const TICK: Duration = Duration::from_millis(100);
const LEASE_FILE: &str = "lease-ms";

/// How an orchestrator is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one, see [`Orchestrator::address`].
    pub address: SocketAddr,
    /// What edges dial, `https://HOST[:PORT]`, this replica's first. The hosts become names of the server's
    /// certificate; join tokens and edges get the whole list. Empty: made from the address.
    pub urls: Vec<String>,
    /// Where the authority's key, join tokens and the list of edges are kept (in `orchestrator/`, mode 0700).
    /// Replicas share this directory.
    pub data_dir: PathBuf,
    /// How long an edge may use keys without hearing from us: 1 to 60 seconds.
    pub lease: Duration,
    /// There are other replicas: leases are given only as far as [`Orchestrator::may_lease_until`] allows.
    pub replicated: bool,
}

/// Handle to a running orchestrator; clones share it.
#[derive(Clone)]
pub struct Orchestrator {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// What the handle, the streams and the driver share.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Notify,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) files: Files,
    pub(crate) authority: Authority,
    pub(crate) lease: Duration,
    pub(crate) stopped: CancellationToken,
}

struct State {
    core: Core,
    streams: HashMap<Uuid, (u64, Arc<Notify>)>,
}

impl Orchestrator {
    /// Listens and returns the handle and the work: the future must be polled for anything to happen, serves until
    /// it is dropped, and ends only with an error.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, impl Future<Output = Result<(), OrchestratorError>> + Send + 'static), OrchestratorError>
    {
        if config.lease < SHORTEST_LEASE || config.lease > LONGEST_LEASE {
            return Err(OrchestratorError::Lease(config.lease));
        }
        let listener = TcpListener::bind(config.address)
            .await
            .map_err(|source| OrchestratorError::Listen { address: config.address, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| OrchestratorError::Listen { address: config.address, source })?;
        let urls =
            if config.urls.is_empty() { vec![format!("https://{address}")] } else { config.urls.clone() };
        let hosts = urls.iter().map(|url| host(url)).collect::<Result<Vec<_>, _>>()?;

        let files = Files::open(&config.data_dir)?;
        let authority = Authority::open(&files, clock.wall())?;
        enrolment::sweep(&files, clock.wall())?;
        let core = Core::new(beginning(&files, &*clock, &config, urls)?);
        let certificate = authority.sign_server(clock.wall(), &hosts)?;
        let certificate = Arc::new(ServerCertificate(ArcSwap::from_pointee(certificate)));
        let acceptor = server::tls(&authority, Arc::clone(&certificate))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { core, streams: HashMap::new() }),
            changed: Notify::new(),
            clock,
            files,
            authority,
            lease: config.lease,
            stopped: CancellationToken::new(),
        });
        let handle = Self { shared: Arc::clone(&shared), address };
        // Streams run on the server's own tasks; they end with the driver.
        let stop = shared.stopped.clone().drop_guard();
        let driver = async move {
            let _stop = stop;
            tokio::select! {
                served = server::serve(listener, acceptor, Arc::clone(&shared)) => served,
                kept = keep(&shared, &certificate, &hosts) => kept,
            }
        };
        Ok((handle, driver))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was last [`set`](Self::set), so that the caller unwraps material only when something changed. `None` when
    /// nothing was, or that there is no such key.
    pub fn told(&self, key: &KeyId) -> Option<Told> {
        self.shared.with(|core, _| core.told(key))
    }

    /// The regions that a key was last [`set`](Self::set) or [`place`](Self::place)d in.
    pub fn regions(&self, key: &KeyId) -> Vec<String> {
        self.shared.with(|core, _| core.regions(key))
    }

    /// Keeps a key that is served to edges of these regions (sorted; empty: all edges) from now on.
    pub fn place(&self, key: &KeyId, regions: Vec<String>) {
        self.shared.with(|core, now| core.place(now, key, regions));
    }

    /// The current version and all versions that are served of a key, if it is that one; `None` when it is not served.
    pub fn served(&self, key: &KeyId, uuid: Uuid) -> Option<(u32, Vec<u32>)> {
        self.shared.with(|core, _| {
            let state = core.served(key, uuid)?;
            Some((state.current, state.versions.iter().map(|version| version.version).collect()))
        })
    }

    /// A second holder of a version that is served, so that a key can be set anew without its account key.
    pub fn material(&self, key: &KeyId, uuid: Uuid, version: u32) -> Option<Result<SecretKey, SecretError>> {
        self.shared.with(|core, _| {
            let versions = &core.served(key, uuid)?.versions;
            Some(versions.iter().find(|it| it.version == version)?.material.duplicate())
        })
    }

    /// Says what should be true of a key. Returns at once; the pushes are on their way when it does. Setting the
    /// same again changes nothing.
    pub fn set(&self, key: KeyId, desired: Desired) {
        self.shared.with(|core, now| core.set(now, key, desired));
    }

    /// To be called when every key that exists has been [`set`](Self::set) once since the start: from then on edges
    /// are told to forget keys that have not been.
    pub fn ready(&self) {
        self.shared.with(Core::ready);
    }

    /// How far the edges are with a key.
    pub fn distribution(&self, key: &KeyId) -> Distribution {
        self.shared.with(|core, now| core.distribution(now, key))
    }

    /// The time on the clock that leases are measured on.
    pub fn now(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    /// Beside other replicas: this one may give leases until then. They count on it that it gives none later.
    pub fn may_lease_until(&self, until: Duration) {
        self.shared.with(|core, _| core.may_lease_until(until));
    }

    /// Edges that are connected to other replicas.
    pub fn elsewhere(&self, edges: HashSet<Uuid>) {
        self.shared.with(|core, _| core.elsewhere(edges));
    }

    /// Keys whose distribution or number of callers changed. For one receiver: of several, each key reaches one.
    pub fn changes(&self) -> Changes {
        Changes { shared: Arc::clone(&self.shared) }
    }

    /// The edges that are connected or still remembered, by name.
    pub fn edges(&self) -> Vec<EdgeInfo> {
        self.shared.with(|core, now| core.edges(now))
    }
}

/// Keys whose [`Distribution`] changed, each reported once however often it changed since it was last taken.
pub struct Changes {
    shared: Arc<Shared>,
}

impl Changes {
    /// Waits for the next key. Cancel-safe.
    pub async fn next(&mut self) -> KeyId {
        loop {
            if let Some(key) = self.shared.with(|core, _| core.take_changed()) {
                return key;
            }
            self.shared.changed.notified().await;
        }
    }
}

impl Shared {
    /// Does something with the core and wakes whom it concerns.
    pub(crate) fn with<R>(&self, deed: impl FnOnce(&mut Core, Duration) -> R) -> R {
        // The core's methods do not panic half-way through a change by design; should one, going on is still the
        // safer half: leases run out by themselves.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = deed(&mut state.core, self.clock.monotonic());
        for id in state.core.take_wake() {
            if let Some((_, notify)) = state.streams.get(&id) {
                notify.notify_one();
            }
        }
        let changed = state.core.has_changed();
        drop(state);
        if changed {
            self.changed.notify_one();
        }
        result
    }

    pub(crate) fn attach(&self, identity: &Identity) -> (u64, Arc<Notify>) {
        let number = self.with(|core, now| core.attach(now, identity.clone()));
        let notify = Arc::new(Notify::new());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = state.streams.insert(identity.id, (number, Arc::clone(&notify)));
        if let Some((_, old)) = replaced {
            old.notify_one(); // It finds itself replaced.
        }
        (number, notify)
    }

    pub(crate) fn forget_stream(&self, id: Uuid, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.streams.get(&id).is_some_and(|(current, _)| *current == number) {
            state.streams.remove(&id);
        }
    }
}

/// What an earlier incarnation has left behind, and a mark that this one has begun.
fn beginning(
    files: &Files,
    clock: &dyn Clock,
    config: &Config,
    urls: Vec<String>,
) -> Result<Start, OrchestratorError> {
    let lease = config.lease;
    let number = |name: &str| -> Result<Option<u64>, OrchestratorError> {
        let Some(bytes) = files.read(name)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let parsed = text.trim().parse();
        parsed
            .map(Some)
            .map_err(|source| OrchestratorError::Content { path: files.path(name), source: Box::new(source) })
    };
    let earlier_lease = number(LEASE_FILE)?.map_or(LONGEST_LEASE, Duration::from_millis);
    // The shorter one is written when the longer ones of before are over.
    let longest = earlier_lease.max(lease).as_millis();
    let recorded = enrolment::records(files)?;
    files.write(
        LEASE_FILE,
        if recorded.is_empty() { lease.as_millis() } else { longest }.to_string().as_bytes(),
    )?;
    let since = unix(clock.wall()) - i64::try_from(2 * LONGEST_LEASE.as_secs()).unwrap_or(i64::MAX);
    let absent = recorded.iter().filter(|edge| edge.certificate_ends > since).map(|edge| edge.id).collect();
    Ok(Start {
        now: clock.monotonic(),
        lease,
        earlier_lease,
        absent,
        mandated: config.replicated,
        incarnation: Uuid::new_v4().as_bytes().to_vec(),
        urls,
    })
}

/// What time asks for: ends of leases, a fresh certificate.
async fn keep(
    shared: &Shared,
    certificate: &ServerCertificate,
    hosts: &[String],
) -> Result<(), OrchestratorError> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = shared.clock.monotonic();
    let mut lease_written = false;
    let mut renew_at = shared.clock.wall() + SERVER_VALIDITY * 2 / 3;
    loop {
        ticks.tick().await;
        shared.with(Core::tick);
        if !lease_written && shared.clock.monotonic() > started + LONGEST_LEASE + TICK {
            lease_written = true;
            shared.files.write(LEASE_FILE, shared.lease.as_millis().to_string().as_bytes())?;
        }
        let now = shared.clock.wall();
        if now >= renew_at {
            certificate.0.store(Arc::new(shared.authority.sign_server(now, hosts)?));
            enrolment::sweep(&shared.files, now)?;
            renew_at = now + SERVER_VALIDITY * 2 / 3;
        }
    }
}

fn host(url: &str) -> Result<String, OrchestratorError> {
    let uri: Uri = url.parse().map_err(|_| OrchestratorError::Url)?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(OrchestratorError::Url)?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(OrchestratorError::Url);
    }
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}
