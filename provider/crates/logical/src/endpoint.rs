//! Virtual-workspace endpoints: one per shard that has consumers.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use kube::Client;
use tokio::sync::Notify;

use crate::{State, claims::Slot, store::Listing};

/// An endpoint of the export, named by its URL without a trailing slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint(pub(crate) Arc<str>);

impl Endpoint {
    /// The URL, for example `https://shard-1:6443/services/apiexport/1abc/openkcm.io`.
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Endpoint {
    fn from(url: &str) -> Self {
        Self(url.trim_end_matches('/').into())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An endpoint that the slice names or has named, with the connection pool that everything there shares.
pub(crate) struct Site {
    pub slot: Slot,
    pub endpoint: Endpoint,
    pub client: Client,
    listed: AtomicBool,
    /// By position of the kind.
    watches: Box<[Mutex<Progress>]>,
}

/// How one kind is doing there.
#[derive(Clone)]
pub(crate) struct Progress {
    pub state: State,
    pub synced: bool,
    pub open: bool,
    pub last: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { state: State::Listing, synced: false, open: false, last: Instant::now() }
    }
}

impl Site {
    pub fn listed(&self) -> bool {
        self.listed.load(Relaxed)
    }

    pub fn progress(&self, kind: usize) -> Option<Progress> {
        self.watches.get(kind).map(|p| p.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub fn update(&self, kind: usize, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = self.watches.get(kind) {
            change(&mut progress.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Counters of the watches, for all endpoints.
#[derive(Default)]
pub(crate) struct Counters {
    pub events: AtomicU64,
    pub lists: AtomicU64,
    pub restarts: AtomicU64,
}

/// All endpoints since the start; a slot is never given to another URL.
#[derive(Default)]
pub(crate) struct Roster {
    sites: RwLock<Vec<Arc<Site>>>,
    /// Has the slice been read at least once?
    known: AtomicBool,
    pub slice_error: Mutex<Option<String>>,
    /// Rung when something may have come into sync.
    pub bell: Notify,
    pub counters: Counters,
}

impl Listing for Roster {
    fn listed(&self, slot: Slot) -> bool {
        self.site(slot).is_some_and(|site| site.listed())
    }
}

impl Roster {
    pub fn sites(&self) -> Vec<Arc<Site>> {
        self.sites.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn site(&self, slot: Slot) -> Option<Arc<Site>> {
        self.sites.read().unwrap_or_else(PoisonError::into_inner).get(usize::from(slot)).cloned()
    }

    /// `None` if the endpoint is not in the slice.
    pub fn state(&self, slot: Slot, kind: usize) -> Option<State> {
        self.site(slot).filter(|site| site.listed()).and_then(|site| site.progress(kind)).map(|p| p.state)
    }

    /// Is a kind (or each kind) in sync at every endpoint of the slice?
    pub fn synced(&self, kind: Option<usize>) -> bool {
        let in_sync = |site: &Arc<Site>| match kind {
            Some(kind) => site.progress(kind).is_some_and(|p| p.synced),
            None => (0..site.watches.len()).all(|kind| site.progress(kind).is_some_and(|p| p.synced)),
        };
        self.known.load(Relaxed) && self.sites().iter().filter(|site| site.listed()).all(in_sync)
    }

    /// The site of an endpoint that appeared: the one it had, or a new one. `None` when slots have run out.
    pub fn appear(
        &self,
        endpoint: &Endpoint,
        kinds: usize,
        client: impl FnOnce() -> kube::Result<Client>,
    ) -> Option<kube::Result<Arc<Site>>> {
        let known = self.sites().into_iter().find(|site| site.endpoint == *endpoint);
        let site = if let Some(site) = known {
            site
        } else {
            let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
            let slot = Slot::try_from(sites.len()).ok()?;
            let client = match client() {
                Ok(client) => client,
                Err(error) => return Some(Err(error)),
            };
            let watches = (0..kinds).map(|_| Mutex::new(Progress::new())).collect();
            let site = Arc::new(Site {
                slot,
                endpoint: endpoint.clone(),
                client,
                listed: AtomicBool::new(false),
                watches,
            });
            sites.push(site.clone());
            site
        };
        for kind in 0..kinds {
            site.update(kind, |progress| *progress = Progress::new());
        }
        site.listed.store(true, Relaxed);
        Some(Ok(site))
    }

    /// The endpoint is not in the slice any more.
    pub fn vanish(&self, site: &Site) {
        site.listed.store(false, Relaxed);
        self.bell.notify_waiters();
    }

    /// The slice has been read.
    pub fn slice_read(&self) {
        self.known.store(true, Relaxed);
        self.bell.notify_waiters();
    }
}
