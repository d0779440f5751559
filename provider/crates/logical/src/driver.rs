//! The task tree behind a world: one watcher of the endpoint slice, and one follower per kind and endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use backon::BackoffBuilder;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use kube::{
    Api, Client,
    core::{ApiResource, GroupVersionKind, Object},
    runtime::watcher,
};
use serde::Deserialize;
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use crate::{
    CancellationToken, Endpoint, Timing, WorldError, chain,
    claims::Slot,
    endpoint::{Roster, Site},
    watch::backoff,
};

/// Starts to follow a kind at an endpoint, with the number of the list before; ends with the number of the last.
pub(crate) type Start =
    Box<dyn Fn(Arc<Site>, u32, CancellationToken) -> BoxFuture<'static, u32> + Send + Sync>;

/// The one future behind a [`crate::World`]; nothing moves until it is polled. To be joined by the binary.
pub struct Driver {
    pub(crate) config: kube::Config,
    pub(crate) client: Client,
    pub(crate) slice: String,
    pub(crate) roster: Arc<Roster>,
    /// By position of the kind.
    pub(crate) starts: Vec<Start>,
    pub(crate) timing: Timing,
}

/// The part of an `APIExportEndpointSlice` that is read.
type Slice = Object<SliceSpec, SliceStatus>;

#[derive(Clone, Debug, Deserialize)]
struct SliceSpec {}

#[derive(Clone, Debug, Default, Deserialize)]
struct SliceStatus {
    #[serde(default)]
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, Deserialize)]
struct SliceEndpoint {
    url: String,
}

/// The tasks of one endpoint.
struct Running {
    stop: CancellationToken,
    tasks: usize,
}

impl Driver {
    /// Watches until `shutdown`; every task that it started has ended when it returns.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorldError> {
        let gvk = GroupVersionKind::gvk("apis.kcp.io", "v1alpha1", "APIExportEndpointSlice");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "apiexportendpointslices");
        let slices: Api<Slice> = Api::all_with(self.client.clone(), &resource);
        // One small object, followed by name: what kube's own watcher is made for.
        let only = watcher::Config::default()
            .fields(&format!("metadata.name={}", self.slice))
            .timeout(self.timing.watch.as_secs().clamp(1, 290) as u32);
        // A watcher goes on after an error without a word, and what is red would stay so: a new one lists first.
        let watched = |pause| {
            let (slices, only) = (slices.clone(), only.clone());
            let later = async move { tokio::time::sleep(pause).await };
            later.map(move |()| watcher(slices, only)).flatten_stream().boxed()
        };
        let mut pauses = backoff(self.timing).build();
        let mut events = watched(Duration::ZERO);

        let mut tasks = Tasks { set: JoinSet::new(), running: BTreeMap::new(), epochs: BTreeMap::new() };
        let mut wanted: BTreeSet<Endpoint> = BTreeSet::new();
        // kube's watcher tells a list as Init, InitApply…, InitDone: without InitApply the slice is not there.
        let mut listed: BTreeSet<Endpoint> = BTreeSet::new();
        let mut read = false;
        let mut failed = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(joined) = tasks.set.join_next() => match joined {
                    Ok(ended) => tasks.ended(ended),
                    Err(error) => { failed = Some(error); break }
                },
                event = events.next() => {
                    let (error, known) = match event {
                        Some(Ok(watcher::Event::Init)) => { listed.clear(); (None, None) }
                        Some(Ok(watcher::Event::InitApply(slice))) => { listed = self.endpoints(slice); (None, None) }
                        Some(Ok(watcher::Event::InitDone)) => (None, Some(std::mem::take(&mut listed))),
                        Some(Ok(watcher::Event::Apply(slice))) => (None, Some(self.endpoints(slice))),
                        Some(Ok(watcher::Event::Delete(_))) => (None, Some(BTreeSet::new())),
                        Some(Err(error)) => (Some(chain(&error)), None),
                        // The watcher's stream never ends.
                        None => (Some("the watch of the endpoint slice ended".to_owned()), None),
                    };
                    if let Some(error) = error {
                        let mut last = self.roster.slice_error.lock().unwrap_or_else(PoisonError::into_inner);
                        if last.is_none() {
                            warn!(slice = self.slice, error, "cannot follow the endpoint slice, trying again");
                        }
                        *last = Some(error);
                        events = watched(pauses.next().unwrap_or(self.timing.retry_limit));
                    }
                    if let Some(known) = known {
                        *self.roster.slice_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
                        pauses = backoff(self.timing).build();
                        wanted = known;
                        read = true;
                        self.part(&wanted, &tasks);
                    }
                }
            }
            self.greet(&wanted, &mut tasks);
            if read {
                self.roster.slice_read(); // only now: an endpoint that is about to start is not in sync
            }
        }
        tasks.running.values().for_each(|endpoint| endpoint.stop.cancel());
        while let Some(joined) = tasks.set.join_next().await {
            failed = failed.or(joined.err());
        }
        failed.map_or(Ok(()), |error: JoinError| Err(WorldError::Task(error)))
    }

    /// The endpoints of a slice that are usable.
    fn endpoints(&self, slice: Slice) -> BTreeSet<Endpoint> {
        let urls = slice.status.map(|status| status.endpoints).unwrap_or_default();
        let usable = urls.into_iter().filter_map(|SliceEndpoint { url }| {
            let parsed = url.parse::<http::Uri>().ok()?;
            // Our credentials go there: never over a weaker channel than to the provider workspace itself.
            let secure = parsed.scheme() == self.config.cluster_url.scheme();
            let usable = secure && parsed.host().is_some() && parsed.query().is_none();
            if !usable {
                warn!(slice = self.slice, url, "endpoint left out: not a usable URL");
            }
            usable.then(|| Endpoint::from(url.as_str()))
        });
        usable.collect()
    }

    /// Stops what runs at endpoints that the slice does not name any more.
    fn part(&self, wanted: &BTreeSet<Endpoint>, tasks: &Tasks) {
        for site in
            self.roster.sites().iter().filter(|site| site.listed() && !wanted.contains(&site.endpoint))
        {
            info!(endpoint = %site.endpoint, "endpoint gone from the slice; what was there is unknown from now on");
            self.roster.vanish(site);
            if let Some(running) = tasks.running.get(&site.slot) {
                running.stop.cancel();
            }
        }
    }

    /// Starts at endpoints that are new or came back, once the tasks of their life before have ended.
    fn greet(&self, wanted: &BTreeSet<Endpoint>, tasks: &mut Tasks) {
        for endpoint in wanted {
            let known = self.roster.sites().into_iter().find(|site| site.endpoint == *endpoint);
            if known.is_some_and(|site| site.listed() || tasks.running.contains_key(&site.slot)) {
                continue;
            }
            let client = || {
                let mut config = self.config.clone();
                config.cluster_url = endpoint
                    .url()
                    .parse()
                    .map_err(|e: http::uri::InvalidUri| kube::Error::HttpError(e.into()))?;
                Client::try_from(config)
            };
            match self.roster.appear(endpoint, self.starts.len(), client) {
                Some(Ok(site)) => {
                    info!(%endpoint, "endpoint appeared");
                    tasks.start(&site, &self.starts);
                }
                Some(Err(error)) => {
                    warn!(%endpoint, error = chain(&error), "endpoint left out: no client for it");
                }
                None => warn!(%endpoint, "endpoint left out: too many in the life of this process"),
            }
        }
    }
}

/// A follower's farewell: where, which kind, its last list.
struct Ended {
    slot: Slot,
    kind: usize,
    epoch: u32,
}

struct Tasks {
    set: JoinSet<Ended>,
    running: BTreeMap<Slot, Running>,
    /// The last list's number, by endpoint and kind: a list of a later life counts on from it.
    epochs: BTreeMap<(Slot, usize), u32>,
}

impl Tasks {
    fn start(&mut self, site: &Arc<Site>, starts: &[Start]) {
        let stop = CancellationToken::new();
        for (kind, start) in starts.iter().enumerate() {
            let slot = site.slot;
            let before = self.epochs.get(&(slot, kind)).copied().unwrap_or(0);
            let follow = start(site.clone(), before, stop.clone());
            self.set.spawn(async move { Ended { slot, kind, epoch: follow.await } });
        }
        self.running.insert(site.slot, Running { stop, tasks: starts.len() });
    }

    fn ended(&mut self, Ended { slot, kind, epoch }: Ended) {
        self.epochs.insert((slot, kind), epoch);
        if let Some(running) = self.running.get_mut(&slot) {
            running.tasks -= 1;
            if running.tasks == 0 {
                self.running.remove(&slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::World;

    #[tokio::test]
    async fn credentials_go_to_usable_endpoints_only() {
        let config = kube::Config::new("https://kcp.example/clusters/root:provider".parse().unwrap());
        let (_, driver) = World::builder(config, "openkcm.io").build().unwrap();
        let urls = [
            "https://shard-1/services/apiexport/1abc/openkcm.io/",
            "http://shard-1/services/apiexport/1abc/openkcm.io",
            "https://shard-1/services?x=1",
            "/services/apiexport/1abc/openkcm.io",
            "not a url",
            "",
        ];
        let endpoints: Vec<_> = urls.iter().map(|url| json!({"url": url})).collect();
        let slice =
            json!({"metadata": {"name": "openkcm.io"}, "spec": {}, "status": {"endpoints": endpoints}});
        let usable = driver.endpoints(serde_json::from_value(slice).unwrap());
        let usable: Vec<&str> = usable.iter().map(Endpoint::url).collect();
        assert_eq!(usable, ["https://shard-1/services/apiexport/1abc/openkcm.io"]);
    }
}
