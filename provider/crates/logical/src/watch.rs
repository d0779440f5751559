//! One list+watch: one kind at one endpoint, over all workspaces there.
//!
//! Why not `kube::runtime::watcher`: it decodes whole pages and events at once (one bad object costs the page), it
//! takes a list without resourceVersion and a 404 for an error like any other, and it shows neither bookmarks nor
//! orderly ends, so a quiet watch cannot be told from a dead one. What it does well is kept: pages, bookmarks, going
//! on from the last resourceVersion, relist on 410, jittered back-off.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{AsyncBufRead, AsyncBufReadExt};
use http::{HeaderValue, header::ACCEPT_ENCODING};
use kube::{
    api::{ListParams, WatchParams},
    core::Request,
};
use tokio::time::{error::Elapsed, sleep, timeout};
use tracing::{debug, info, warn};

use crate::{
    Cache, CancellationToken, Change, Kind, State, Timing, Watched, What, chain,
    endpoint::{Roster, Site},
    store::{Body, Key, Source, Witness},
    wire::{Decoded, Event, Page, decode},
};

/// Called with every change.
pub(crate) type Notice = Arc<dyn Fn(Change) + Send + Sync>;

/// No list page and no event is larger; a server that sends more is broken, and must not take all memory.
const MAX_PAGE: usize = 512 << 20;
const MAX_EVENT: usize = 16 << 20;
/// How long the first watch after trouble is asked to last. Its end says that nothing was missed, also where nothing happens; until then
/// what is cached counts as old.
const BRIEF: Duration = Duration::from_secs(1);
/// A watch that ends in order sooner than this, without an event, is not followed by the next at once.
const HASTY: Duration = Duration::from_secs(1);

/// Makes of an object what is stored.
pub(crate) type Shape<K, V> = Arc<dyn Fn(K) -> V + Send + Sync>;

pub(crate) struct Follower<K, V> {
    pub cache: Cache<V>,
    pub shape: Shape<K, V>,
    pub site: Arc<Site>,
    pub roster: Arc<Roster>,
    pub notice: Notice,
    pub timing: Timing,
    /// Number of the current list.
    pub epoch: u32,
}

/// Why a list or watch ended early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the server refuses")]
    Refused(#[source] kube::Error),
    #[error("the connection failed")]
    Connection(#[source] kube::Error),
    #[error("the stream broke off")]
    Stream(#[source] io::Error),
    #[error("nothing came for too long")]
    Silent(#[from] Elapsed),
    #[error("the answer cannot be read")]
    Garbled(#[source] serde_json::Error),
    #[error("the answer is too large")]
    TooLarge,
    #[error("the list changed under its pages")]
    PageExpired,
}

enum Listed {
    /// Complete; watch from here.
    At(String),
    /// Not a statement about what exists.
    NotServed(&'static str),
}

enum Ended {
    /// As asked. Did it bring anything?
    InOrder,
    /// The resourceVersion is too old.
    Expired,
    NotServed,
    Broken(Broken),
}

impl<K: Watched, V: Send + Sync + 'static> Follower<K, V> {
    /// Follows the kind until `stop`; never ends by itself. Returns the number of its last list.
    pub async fn run(mut self, stop: CancellationToken) -> u32 {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
        self.site.update(self.cache.index(), |p| p.open = false);
        self.epoch
    }

    async fn follow(&mut self) {
        let mut pauses = self.pauses();
        // What comes in the first list after an endpoint appeared is announced even if it is as it was before: its
        // user may have put work aside for as long as it was away.
        let mut announce = true;
        loop {
            match self.list(announce).await {
                Ok(Listed::At(version)) => {
                    announce = false;
                    pauses = self.pauses();
                    self.watch_on(version).await;
                }
                Ok(Listed::NotServed(why)) => {
                    debug!(endpoint = %self.site.endpoint, kind = ?Kind::of::<K>(), why, "not served here now");
                    self.progress(State::NotServed, true);
                    announce = true;
                }
                Err(broken) => self.broke(&broken),
            }
            sleep(pauses.next().unwrap_or(self.timing.retry_limit)).await;
        }
    }

    /// Watches, again and again, until a new list is needed.
    async fn watch_on(&mut self, mut version: String) {
        let mut pauses = self.pauses();
        let mut down_since: Option<Instant> = None;
        let mut length = self.timing.watch;
        loop {
            let started = Instant::now();
            let before = version.clone();
            let ended = self.watch(&mut version, length).await;
            self.site.update(self.cache.index(), |p| p.open = false);
            match ended {
                Ended::InOrder => {
                    self.progress(State::Live, true);
                    (length, down_since) = (self.timing.watch, None);
                    if version != before || started.elapsed() >= HASTY {
                        pauses = self.pauses();
                        continue;
                    }
                }
                Ended::Expired => {
                    info!(endpoint = %self.site.endpoint, kind = ?Kind::of::<K>(), "resourceVersion expired, listing again");
                    return;
                }
                Ended::NotServed => {
                    self.progress(State::NotServed, true);
                    return;
                }
                Ended::Broken(broken) => {
                    self.broke(&broken);
                    length = BRIEF;
                    if version != before {
                        (pauses, down_since) = (self.pauses(), None);
                    }
                    // A server that refuses may not know the version (it was restored from a backup, say), and after a
                    // long outage a list tells more than a watch from long ago.
                    let since = *down_since.get_or_insert(started);
                    if matches!(broken, Broken::Refused(_)) || since.elapsed() > self.timing.silence * 2 {
                        return;
                    }
                }
            }
            sleep(pauses.next().unwrap_or(self.timing.retry_limit)).await;
        }
    }

    async fn list(&mut self, announce: bool) -> Result<Listed, Broken> {
        self.epoch += 1;
        self.roster.counters.lists.fetch_add(1, Relaxed);
        let resource = wildcard::<K>();
        let mut params = ListParams::default().limit(self.timing.page);
        let mut version: Option<String> = None;
        loop {
            let request =
                resource.list(&params).map_err(|e| Broken::Refused(kube::Error::BuildRequest(e)))?;
            let mut answer = match self.open(request).await {
                Ok(answer) => answer,
                Err(Broken::Refused(kube::Error::Api(status))) if status.code == 404 => {
                    return Ok(Listed::NotServed("404"));
                }
                Err(Broken::Refused(kube::Error::Api(status))) if status.code == 410 => {
                    return Err(Broken::PageExpired);
                }
                Err(broken) => return Err(broken),
            };
            let body = self.read_to_end(&mut answer).await?;
            let page = Page::parse(&body).map_err(Broken::Garbled)?;
            let Some(at) = page.version() else {
                return Ok(Listed::NotServed("a list without resourceVersion"));
            };
            // The version of the first page: what changed while later ones were read comes again in the watch.
            version.get_or_insert_with(|| at.to_owned());
            self.take(page.items().iter().map(|raw| decode(raw)), Source::List, announce);
            self.site.update(self.cache.index(), |p| p.last = Instant::now());
            match page.next() {
                Some(token) => params = params.continue_token(token),
                None => break,
            }
        }
        self.sweep();
        self.progress(State::Live, true);
        Ok(version.map_or(Listed::NotServed("no page"), Listed::At))
    }

    async fn watch(&mut self, version: &mut String, length: Duration) -> Ended {
        // timeoutSeconds is what makes progress visible on a quiet watch: the server must end it in order.
        let params = WatchParams::default().timeout(length.as_secs().clamp(1, 290) as u32);
        let request = match wildcard::<K>().watch(&params, version) {
            Ok(request) => request,
            Err(e) => return Ended::Broken(Broken::Refused(kube::Error::BuildRequest(e))),
        };
        let mut stream = match self.open(request).await {
            Ok(stream) => stream,
            Err(broken) => return ended(broken),
        };
        self.site.update(self.cache.index(), |p| p.open = true);
        let mut line = Vec::new();
        loop {
            match self.read_line(&mut stream, &mut line).await {
                Ok(true) => {}
                Ok(false) => return Ended::InOrder,
                Err(broken) => return Ended::Broken(broken),
            }
            let event = match Event::parse(&line) {
                Ok(event) => event,
                Err(error) => return Ended::Broken(Broken::Garbled(error)),
            };
            match event.what {
                "ADDED" | "MODIFIED" | "DELETED" => {
                    self.roster.counters.events.fetch_add(1, Relaxed);
                    let decoded = decode::<K>(event.object);
                    if let Ok(Decoded { resource_version, .. }) = &decoded
                        && !resource_version.is_empty()
                    {
                        resource_version.clone_into(version);
                    }
                    match (event.what, decoded) {
                        ("DELETED", Ok(object)) => self.delete(object),
                        (_, decoded) => self.take([decoded], Source::Watch, false),
                    }
                }
                "BOOKMARK" => {
                    if let Some(at) = event.bookmark() {
                        *version = at;
                    }
                }
                "ERROR" => return ended(Broken::Refused(kube::Error::Api(event.status().boxed()))),
                other => debug!(endpoint = %self.site.endpoint, other, "unknown kind of watch event"),
            }
            self.progress(State::Live, true);
        }
    }

    /// Files objects and tells the user. Decoding comes before the lock and telling after it.
    fn take<E: std::error::Error>(
        &self,
        objects: impl IntoIterator<Item = Result<Decoded<K>, E>>,
        from: Source,
        announce: bool,
    ) {
        let readable = |object: Result<Decoded<K>, E>| {
            let left_out = |error: &E| {
                warn!(endpoint = %self.site.endpoint, kind = ?Kind::of::<K>(), %error, "object left out");
            };
            let Decoded { cluster, namespace, name, resource_version, object } =
                object.inspect_err(left_out).ok()?;
            let (body, what) = match object {
                Ok(object) => (Body::Good(Arc::new((self.shape)(object))), What::Applied),
                Err(why) => (Body::Bad(Box::new(why.clone())), What::Undecodable(why)),
            };
            let version = resource_version.parse().unwrap_or(0);
            Some((Change { cluster, kind: Kind::of::<K>(), namespace, name, what }, version, body))
        };
        let objects: Vec<_> = objects.into_iter().filter_map(readable).collect();
        let mut changes = Vec::new();
        {
            let mut store = self.cache.write();
            for (change, version, body) in objects {
                let key = Key::new(change.namespace.as_deref(), &change.name);
                let news = store.apply(self.witness(), from, change.cluster.clone(), key, version, body);
                if news || announce {
                    changes.push(change);
                }
            }
        }
        for change in changes {
            (self.notice)(change);
        }
    }

    fn delete(&self, object: Decoded<K>) {
        let Decoded { cluster, namespace, name, resource_version, .. } = object;
        let key = Key::new(namespace.as_deref(), &name);
        let gone =
            self.cache.write().remove(self.witness(), &cluster, &key, resource_version.parse().unwrap_or(0));
        if gone {
            (self.notice)(Change { cluster, kind: Kind::of::<K>(), namespace, name, what: What::Gone });
        }
    }

    fn sweep(&self) {
        let swept = self.cache.write().sweep(self.witness());
        for (cluster, key) in swept {
            let (namespace, name) = key.parts();
            let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
            (self.notice)(Change { cluster, kind: Kind::of::<K>(), namespace, name, what: What::Gone });
        }
    }

    fn witness(&self) -> Witness<'_> {
        Witness { slot: self.site.slot, epoch: self.epoch, roster: &*self.roster }
    }

    async fn open(
        &self,
        mut request: http::Request<Vec<u8>>,
    ) -> Result<impl AsyncBufRead + Unpin + use<K, V>, Broken> {
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let answer = timeout(self.timing.silence, self.site.client.request_stream(request)).await?;
        answer.map(Box::pin).map_err(|error| match error {
            kube::Error::Api(_) => Broken::Refused(error),
            error => Broken::Connection(error),
        })
    }

    async fn read_to_end(&self, body: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        loop {
            let part = timeout(self.timing.silence, body.fill_buf()).await?.map_err(Broken::Stream)?;
            let size = part.len();
            if size == 0 {
                return Ok(all);
            }
            if all.len() + size > MAX_PAGE {
                return Err(Broken::TooLarge);
            }
            all.extend_from_slice(part);
            body.consume_unpin(size);
        }
    }

    /// One line into `line`; `false` at an orderly end.
    async fn read_line(
        &self,
        stream: &mut (impl AsyncBufRead + Unpin),
        line: &mut Vec<u8>,
    ) -> Result<bool, Broken> {
        line.clear();
        loop {
            let part = timeout(self.timing.silence, stream.fill_buf()).await?.map_err(Broken::Stream)?;
            if part.is_empty() {
                let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "half an event");
                return if line.is_empty() { Ok(false) } else { Err(Broken::Stream(cut())) };
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let size = end.map_or(part.len(), |at| at + 1);
            if line.len() + size > MAX_EVENT {
                return Err(Broken::TooLarge);
            }
            line.extend_from_slice(&part[..size]);
            stream.consume_unpin(size);
            if end.is_some() && line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(true);
            }
        }
    }

    fn progress(&self, state: State, synced: bool) {
        let mut rang = false;
        self.site.update(self.cache.index(), |p| {
            rang = synced && !p.synced;
            p.synced |= synced;
            (p.state, p.last) = (state, Instant::now());
        });
        if rang {
            self.roster.bell.notify_waiters();
        }
    }

    fn broke(&self, broken: &Broken) {
        let error = chain(broken);
        self.roster.counters.restarts.fetch_add(1, Relaxed);
        self.site.update(self.cache.index(), |p| {
            let first = !matches!(p.state, State::Broken(_));
            if first {
                warn!(endpoint = %self.site.endpoint, kind = ?Kind::of::<K>(), error, "watch broken, trying again");
            }
            p.state = State::Broken(error);
        });
    }

    fn pauses(&self) -> ExponentialBackoff {
        backoff(self.timing).build()
    }
}

/// Doubling pauses, each lengthened at random.
pub(crate) fn backoff(timing: Timing) -> ExponentialBuilder {
    let builder =
        ExponentialBuilder::default().with_min_delay(timing.retry_first).with_max_delay(timing.retry_limit);
    builder.with_jitter().without_max_times()
}

fn ended(broken: Broken) -> Ended {
    match broken {
        Broken::Refused(kube::Error::Api(status)) if status.code == 410 => Ended::Expired,
        Broken::Refused(kube::Error::Api(status)) if status.code == 404 => Ended::NotServed,
        broken => Ended::Broken(broken),
    }
}

/// The resource over all workspaces of an endpoint.
fn wildcard<K: Watched>() -> Request {
    Request::new(format!("/clusters/*{}", K::url_path(&(), None)))
}
