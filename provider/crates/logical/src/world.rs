//! Everything the provider sees.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use kcp_client_rs::LogicalCluster;
use kube::Client;
use serde::Serialize;

use crate::{
    Cache, CancellationToken, Change, Endpoint, Health, Kind, Metrics, Packed, ScopedClient, WatchHealth,
    Watched,
    cache::Kept,
    driver::{Driver, Start},
    endpoint::{Roster, Site},
    packed::Packer,
    store::Listing,
    watch::{Follower, Notice, Shape},
};

/// Where a workspace is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// At one endpoint.
    At(Endpoint),
    /// At several, the last to speak first: it is being moved between shards. Writes go to the first.
    Several(Vec<Endpoint>),
    /// At none: not known yet, or its endpoint is away. Never a reason to destroy anything.
    Unknown,
}

/// Times and sizes of the watches.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The server is asked to end each watch after this time (whole seconds); the next goes on from there. An idle
    /// watch shows progress this often even where a server sends no bookmarks.
    pub watch: Duration,
    /// A request or watch that says nothing for so long is cut and started again. Longer than `watch`.
    pub silence: Duration,
    /// Objects per page of a list.
    pub page: u32,
    /// Pause after a first failure; doubles with each further one.
    pub retry_first: Duration,
    /// Longest pause.
    pub retry_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(20),
            silence: Duration::from_secs(28),
            page: 500,
            retry_first: Duration::from_millis(50),
            retry_limit: Duration::from_secs(5),
        }
    }
}

/// Why the world cannot be built, or ended.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The configuration makes no client.
    #[error("could not make a client for the provider workspace")]
    Client(#[source] kube::Error),
    /// A task that watches ended unexpectedly: the cache can no longer be trusted, the process should end.
    #[error("a watch task ended unexpectedly")]
    Task(#[source] tokio::task::JoinError),
}

/// Says what is watched.
pub struct Builder {
    config: kube::Config,
    slice: String,
    roster: Arc<Roster>,
    kinds: Vec<Arc<dyn Kept>>,
    starts: Vec<Box<dyn FnOnce(Notice, Timing) -> Start + Send>>,
    notices: Vec<Notice>,
    timing: Timing,
}

impl Builder {
    /// Watch a kind. `trim` runs on every object before it is stored: drop there what is never read.
    pub fn watch<K: Watched>(&mut self, trim: fn(&mut K)) -> Cache<K> {
        self.watch_as(move |mut object: K| {
            trim(&mut object);
            object
        })
    }

    /// Watch a kind, and store of each object only what `shape` makes of it. For fleets of a size where a typed
    /// object (metadata alone is half a kilobyte) is too much.
    pub fn watch_as<K: Watched, V: Send + Sync + 'static>(
        &mut self,
        shape: impl Fn(K) -> V + Send + Sync + 'static,
    ) -> Cache<V> {
        let cache = Cache::<V>::new(Kind::of::<K>(), self.kinds.len(), self.roster.clone());
        self.kinds.push(Arc::new(cache.clone()));
        let (followed, roster) = (cache.clone(), self.roster.clone());
        let shape: Shape<K, V> = Arc::new(shape);
        self.starts.push(Box::new(move |notice, timing| {
            Box::new(move |site: Arc<Site>, epoch: u32, stop: CancellationToken| -> BoxFuture<'static, u32> {
                let (cache, shape) = (followed.clone(), shape.clone());
                let (roster, notice) = (roster.clone(), notice.clone());
                Follower { cache, shape, site, roster, notice, timing, epoch }.run(stop).boxed()
            })
        }));
        cache
    }

    /// Watch a kind, and keep its objects compressed: for fleets. `trim` as in [`Builder::watch`]; `summary` takes out what
    /// is read so often, or of so many objects at once, that it should not be decoded each time.
    pub fn watch_packed<K: Watched + Serialize, S: Send + Sync + 'static>(
        &mut self,
        trim: fn(&mut K),
        summary: impl Fn(&K) -> S + Send + Sync + 'static,
    ) -> Cache<Packed<K, S>> {
        let packer = Packer::default();
        self.watch_as(move |mut object: K| {
            trim(&mut object);
            let summary = summary(&object);
            packer.pack(&object, summary)
        })
    }

    /// Called for every change, after it is in the cache, by the task that put it there: be quick, for example add
    /// a key to a queue.
    pub fn on_change(&mut self, notice: impl Fn(Change) + Send + Sync + 'static) -> &mut Self {
        self.notices.push(Arc::new(notice));
        self
    }

    /// Other times and sizes than the default.
    pub fn timing(&mut self, timing: Timing) -> &mut Self {
        self.timing = timing;
        self
    }

    /// Everything is said.
    pub fn build(self) -> Result<(World, Driver), WorldError> {
        let Self { mut config, slice, roster, kinds, starts, notices, timing } = self;
        // Watches and the queue back off by themselves; a second layer below would only hide failures.
        config.default_retry = false;
        // kube's watcher, which follows the slice, puts no limit on its lists.
        let mut patient = config.clone();
        (patient.read_timeout, patient.reset_reader_on_write) = (Some(timing.silence), true);
        let client = Client::try_from(patient).map_err(WorldError::Client)?;
        let notice: Notice = Arc::new(move |change: Change| {
            if let Some((last, others)) = notices.split_last() {
                for notice in others {
                    notice(change.clone());
                }
                last(change);
            }
        });
        let starts = starts.into_iter().map(|start| start(notice.clone(), timing)).collect();
        let world = World(Arc::new(Inner { roster: roster.clone(), kinds }));
        Ok((world, Driver { config, client, slice, roster, starts, timing }))
    }
}

/// All workspaces that bound the export. Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    roster: Arc<Roster>,
    kinds: Vec<Arc<dyn Kept>>,
}

impl World {
    /// Starts to say what is watched. `provider_workspace` must point to the workspace of the export
    /// (`https://HOST/clusters/root:providers:openkcm`); its credentials and CA serve for the endpoints too.
    /// `slice` is the name of the `APIExportEndpointSlice`: kcp makes one with the name of the export.
    pub fn builder(provider_workspace: kube::Config, slice: impl Into<String>) -> Builder {
        Builder {
            config: provider_workspace,
            slice: slice.into(),
            roster: Arc::default(),
            kinds: vec![],
            starts: vec![],
            notices: vec![],
            timing: Timing::default(),
        }
    }

    /// Where a workspace is seen.
    pub fn presence(&self, cluster: &LogicalCluster) -> Presence {
        let mut endpoints: Vec<Endpoint> =
            self.sites(cluster).iter().map(|site| site.endpoint.clone()).collect();
        match endpoints.len() {
            0 => Presence::Unknown,
            1 => Presence::At(endpoints.remove(0)),
            _ => Presence::Several(endpoints),
        }
    }

    /// A client for a workspace, if it is seen anywhere.
    pub fn client(&self, cluster: &LogicalCluster) -> Option<ScopedClient> {
        let site = self.sites(cluster).into_iter().next()?;
        Some(ScopedClient::new(site.client.clone(), cluster.clone()))
    }

    /// The endpoints of the slice where something of the workspace is seen; the last writer of the kind that was
    /// registered first comes first.
    fn sites(&self, cluster: &LogicalCluster) -> Vec<Arc<Site>> {
        let mut slots: Vec<u16> = Vec::new();
        for kind in &self.0.kinds {
            for slot in kind.claimants(cluster) {
                if !slots.contains(&slot) && self.0.roster.listed(slot) {
                    slots.push(slot);
                }
            }
        }
        slots.into_iter().filter_map(|slot| self.0.roster.site(slot)).collect()
    }

    /// The endpoints that the slice names now.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let listed = self.0.roster.sites().into_iter().filter(|site| site.listed());
        listed.map(|site| site.endpoint.clone()).collect()
    }

    /// Has every kind been listed, or found not to be served, at every endpoint that the slice names?
    pub fn synced(&self) -> bool {
        self.0.roster.synced(None)
    }

    /// Waits for [`World::synced`]. A dead endpoint holds this up: do not let work for a single workspace wait.
    pub async fn wait_synced(&self) {
        loop {
            let mut rung = std::pin::pin!(self.0.roster.bell.notified());
            rung.as_mut().enable();
            if self.synced() {
                return;
            }
            rung.await;
        }
    }

    /// How each watch is doing.
    pub fn health(&self) -> Health {
        let roster = &self.0.roster;
        let mut watches = Vec::new();
        for site in roster.sites().iter().filter(|site| site.listed()) {
            for (index, kind) in self.0.kinds.iter().enumerate() {
                let Some(progress) = site.progress(index) else { continue };
                watches.push(WatchHealth {
                    endpoint: site.endpoint.clone(),
                    kind: kind.kind(),
                    state: progress.state,
                    synced: progress.synced,
                    silent_for: progress.last.elapsed(),
                });
            }
        }
        let slice_error = roster.slice_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Health { slice_error, watches }
    }

    /// Plain numbers.
    pub fn metrics(&self) -> Metrics {
        let roster = &self.0.roster;
        let listed: Vec<_> = roster.sites().into_iter().filter(|site| site.listed()).collect();
        let open = |site: &Arc<Site>| {
            (0..self.0.kinds.len()).filter(|kind| site.progress(*kind).is_some_and(|p| p.open)).count() as u64
        };
        let sizes = self.0.kinds.iter().map(|kind| kind.sizes());
        let (objects, undecodable) =
            sizes.fold((0, 0), |sum, (len, bad)| (sum.0 + len as u64, sum.1 + bad as u64));
        Metrics {
            endpoints: listed.len() as u64,
            open_watches: listed.iter().map(open).sum(),
            objects,
            undecodable,
            events: roster.counters.events.load(Relaxed),
            lists: roster.counters.lists.load(Relaxed),
            restarts: roster.counters.restarts.load(Relaxed),
        }
    }
}
