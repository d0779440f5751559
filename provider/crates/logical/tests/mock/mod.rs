//! An API server over real HTTP, as much of one as the scenarios need: shards with resources that are listed in
//! pages, watched and written, and every way of misbehaving that a scenario asks for.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How a resource of a shard behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Normal,
    /// 404 to lists and watches.
    NotFound,
    /// Lists without resourceVersion.
    NoVersion,
    /// Never answers at all.
    Dead,
    /// Answers a watch with headers, and then says nothing and never ends it.
    Silent,
    /// 403 to writes.
    ReadOnly,
}

#[derive(Default)]
struct Resource {
    version: u64,
    objects: BTreeMap<(String, String, String), Value>, // cluster, namespace, name
    log: Vec<(u64, Value)>,
    /// Events up to here are forgotten: watching from before is 410.
    compacted: u64,
    mode: Mode,
    /// Raised to break every open watch.
    breaks: u64,
    /// The n-th next page of a list answers 410.
    expire_page: Option<u32>,
    lists: u64,
    watches: u64,
}

#[derive(Default)]
struct World {
    /// By (base, resource): `("a", "configmaps")`.
    resources: BTreeMap<(String, String), Resource>,
    /// Method and path of everything but lists and watches over all workspaces.
    writes: Vec<String>,
}

#[derive(Clone)]
pub struct Mock {
    world: Arc<Mutex<World>>,
    changed: Arc<watch::Sender<u64>>,
    pub address: std::net::SocketAddr,
    server: Arc<tokio::task::JoinHandle<()>>,
}

impl Drop for Mock {
    fn drop(&mut self) {
        if Arc::strong_count(&self.server) == 1 {
            self.server.abort();
        }
    }
}

impl Mock {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (world, changed) = (Arc::<Mutex<World>>::default(), Arc::new(watch::channel(0).0));
        let state = (world.clone(), changed.clone());
        let app = Router::new().fallback(answer).with_state(state);
        let server = Arc::new(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
        Self { world, changed, address, server }
    }

    pub fn config(&self) -> kube::Config {
        kube::Config::new(format!("http://{}/clusters/root:provider", self.address).parse().unwrap())
    }

    pub fn url(&self, shard: &str) -> String {
        format!("http://{}/{shard}", self.address)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn with<T>(&self, base: &str, resource: &str, change: impl FnOnce(&mut Resource) -> T) -> T {
        let result = change(
            self.world().resources.entry((base.to_owned(), resource.to_owned())).or_insert_with(fresh),
        );
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Names the shards in the endpoint slice.
    pub fn slice(&self, shards: &[&str]) {
        let endpoints: Vec<Value> = shards.iter().map(|shard| json!({"url": self.url(shard)})).collect();
        self.put(
            "",
            "apiexportendpointslices",
            "root:provider",
            "",
            "openkcm.io",
            json!({
                "apiVersion": "apis.kcp.io/v1alpha1", "kind": "APIExportEndpointSlice",
                "spec": {"export": {"name": "openkcm.io"}}, "status": {"endpoints": endpoints},
            }),
        );
    }

    /// Creates or changes an object.
    pub fn put(&self, base: &str, resource: &str, cluster: &str, namespace: &str, name: &str, object: Value) {
        self.with(base, resource, |resource| resource.store(cluster, namespace, name, object));
    }

    /// A ConfigMap with one value.
    pub fn map(&self, shard: &str, cluster: &str, name: &str, value: impl Into<Value>) {
        self.put(shard, "configmaps", cluster, "ns", name, json!({"data": {"value": value.into()}}));
    }

    pub fn delete(&self, base: &str, resource: &str, cluster: &str, namespace: &str, name: &str) {
        self.with(base, resource, |resource| resource.remove(cluster, namespace, name)).unwrap();
    }

    /// Deletes without an event: as if it happened while nobody watched and the history is gone.
    pub fn delete_unseen(&self, base: &str, resource: &str, cluster: &str, namespace: &str, name: &str) {
        self.with(base, resource, |r| {
            r.remove(cluster, namespace, name).unwrap();
            r.log.pop();
        });
    }

    pub fn mode(&self, base: &str, resource: &str, mode: Mode) {
        self.with(base, resource, |r| r.mode = mode);
    }

    /// Breaks open watches in the middle of a chunk.
    pub fn break_watches(&self, base: &str, resource: &str) {
        self.with(base, resource, |r| r.breaks += 1);
    }

    /// Forgets the history and breaks open watches: the next watch is answered with 410.
    pub fn compact(&self, base: &str, resource: &str) {
        self.with(base, resource, |r| {
            r.version += 1;
            (r.compacted, r.breaks) = (r.version, r.breaks + 1);
            r.log.clear();
        });
    }

    pub fn expire_page(&self, base: &str, resource: &str, nth: u32) {
        self.with(base, resource, |r| r.expire_page = Some(nth));
    }

    /// (lists begun, watches begun)
    pub fn counts(&self, base: &str, resource: &str) -> (u64, u64) {
        self.with(base, resource, |r| (r.lists, r.watches))
    }

    pub fn object(
        &self,
        base: &str,
        resource: &str,
        cluster: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Value> {
        let key = (cluster.to_owned(), namespace.to_owned(), name.to_owned());
        self.with(base, resource, |r| r.objects.get(&key).cloned())
    }

    pub fn objects(&self, base: &str, resource: &str) -> Vec<Value> {
        self.with(base, resource, |r| r.objects.values().cloned().collect())
    }

    pub fn writes(&self) -> Vec<String> {
        self.world().writes.clone()
    }
}

fn fresh() -> Resource {
    Resource { version: 100, compacted: 0, ..Resource::default() }
}

impl Resource {
    fn store(&mut self, cluster: &str, namespace: &str, name: &str, mut object: Value) -> Value {
        self.version += 1;
        let key = (cluster.to_owned(), namespace.to_owned(), name.to_owned());
        let before = self.objects.get(&key);
        let uid =
            before.map_or_else(|| json!(format!("uid-{}", self.version)), |o| o["metadata"]["uid"].clone());
        let meta = &mut object["metadata"];
        meta["name"] = name.into();
        if !namespace.is_empty() {
            meta["namespace"] = namespace.into();
        }
        meta["uid"] = uid;
        meta["resourceVersion"] = self.version.to_string().into();
        meta["annotations"]["kcp.io/cluster"] = cluster.into();
        meta["managedFields"] = json!([{"manager": "mock"}]);
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push((self.version, json!({"type": what, "object": object})));
        self.objects.insert(key, object.clone());
        object
    }

    fn remove(&mut self, cluster: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut object = self.objects.remove(&(cluster.to_owned(), namespace.to_owned(), name.to_owned()))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.push((self.version, json!({"type": "DELETED", "object": object.clone()})));
        Some(object)
    }
}

type Shared = (Arc<Mutex<World>>, Arc<watch::Sender<u64>>);

fn status(code: u16, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
}

/// `[/shard]/clusters/C/(api|apis)/…/[namespaces/N/]RESOURCE[/NAME[/status]]`
async fn answer(State((world, changed)): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (base, rest) =
        if segments[0] == "clusters" { ("", &segments[..]) } else { (segments[0], &segments[1..]) };
    let cluster = rest[1];
    let mut rest = if rest[2] == "api" { &rest[4..] } else { &rest[5..] };
    let mut namespace = "";
    if rest[0] == "namespaces" && rest.len() > 2 {
        (namespace, rest) = (rest[1], &rest[2..]);
    }
    let id = (base.to_owned(), rest[0].to_owned());
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();

    let mode = world.lock().unwrap().resources.entry(id.clone()).or_insert_with(fresh).mode;
    match mode {
        Mode::Dead => futures::future::pending().await,
        Mode::NotFound => return status(404, "NotFound"),
        _ => {}
    }
    if query.contains_key("watch") {
        return watch_stream(world, changed, id, cluster.to_owned(), &query, mode);
    }
    let mut all = world.lock().unwrap();
    if parts.method == Method::GET && rest.len() == 1 {
        let scope = (cluster, namespace);
        return list(all.resources.get_mut(&id).unwrap(), scope, &query, mode);
    }
    all.writes.push(format!("{} {path}", parts.method));
    let resource = all.resources.get_mut(&id).unwrap();
    let response = write(resource, &parts.method, (cluster, namespace), rest, &body, mode);
    drop(all);
    changed.send_modify(|n| *n += 1);
    response
}

fn list(
    resource: &mut Resource,
    scope: (&str, &str),
    query: &BTreeMap<String, String>,
    mode: Mode,
) -> Response {
    let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
    if from == 0 {
        resource.lists += 1;
    }
    if let Some(nth) = &mut resource.expire_page {
        *nth -= 1;
        if *nth == 0 {
            resource.expire_page = None;
            return status(410, "Expired");
        }
    }
    let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let fits = |key: &&(String, String, String)| {
        (scope.0 == "*" || scope.0 == key.0) && (scope.1.is_empty() || scope.1 == key.1)
    };
    let all: Vec<&Value> =
        resource.objects.iter().filter(|(key, _)| fits(key)).map(|(_, object)| object).collect();
    let page: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
    let next = from + page.len();
    let mut answer = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": resource.version.to_string()}, "items": page});
    if mode == Mode::NoVersion {
        answer["metadata"] = json!({});
    }
    if next < all.len() {
        answer["metadata"]["continue"] = next.to_string().into();
    }
    axum::Json(answer).into_response()
}

fn write(
    resource: &mut Resource,
    method: &Method,
    (cluster, namespace): (&str, &str),
    rest: &[&str],
    body: &Bytes,
    mode: Mode,
) -> Response {
    if mode == Mode::ReadOnly && *method != Method::GET {
        return status(403, "Forbidden");
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = rest.get(1).map_or_else(
        || body["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        |name| (*name).to_owned(),
    );
    let key = (cluster.to_owned(), namespace.to_owned(), name.clone());
    let current = resource.objects.get(&key).cloned();
    let differs = |current: &Value, wanted: &Value| {
        ["uid", "resourceVersion"].iter().any(|f| !wanted[f].is_null() && wanted[f] != current["metadata"][f])
    };
    match (method.as_str(), current) {
        ("POST", Some(_)) => status(409, "AlreadyExists"),
        ("POST", None) => axum::Json(resource.store(cluster, namespace, &name, body)).into_response(),
        (_, None) => status(404, "NotFound"),
        ("GET", Some(current)) => axum::Json(current).into_response(),
        ("DELETE", Some(current)) if differs(&current, &body["preconditions"]) => status(409, "Conflict"),
        ("DELETE", Some(_)) => axum::Json(resource.remove(cluster, namespace, &name)).into_response(),
        ("PATCH" | "PUT", Some(current)) if differs(&current, &body["metadata"]) => status(409, "Conflict"),
        ("PATCH", Some(mut current)) => {
            merge(&mut current, &body);
            axum::Json(resource.store(cluster, namespace, &name, current)).into_response()
        }
        ("PUT", Some(_)) => axum::Json(resource.store(cluster, namespace, &name, body)).into_response(),
        _ => status(405, "MethodNotAllowed"),
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // a stream outlives its caller
fn watch_stream(
    world: Arc<Mutex<World>>,
    changed: Arc<watch::Sender<u64>>,
    id: (String, String),
    cluster: String,
    query: &BTreeMap<String, String>,
    mode: Mode,
) -> Response {
    let from: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    let seconds: u64 = query.get("timeoutSeconds").map_or(300, |s| s.parse().unwrap());
    let breaks = {
        let mut all = world.lock().unwrap();
        let resource = all.resources.get_mut(&id).unwrap();
        resource.watches += 1;
        if from < resource.compacted {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}});
            return Body::from(format!("{gone}\n")).into_response();
        }
        resource.breaks
    };
    if mode == Mode::Silent {
        return Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()).into_response();
    }
    let ends = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let feed = stream::unfold((from, changed.subscribe(), false), move |(from, mut news, over)| {
        let (world, id, cluster) = (world.clone(), id.clone(), cluster.clone());
        async move {
            if over {
                return None;
            }
            loop {
                let (lines, broken, version) = {
                    let all = world.lock().unwrap();
                    let resource = &all.resources[&id];
                    let fits = |event: &Value| {
                        cluster == "*"
                            || event["object"]["metadata"]["annotations"]["kcp.io/cluster"]
                                == cluster.as_str()
                    };
                    let new = resource.log.iter().filter(|(at, event)| *at > from && fits(event));
                    let lines: String = new.map(|(_, event)| format!("{event}\n")).collect();
                    (lines, resource.breaks != breaks, resource.version)
                };
                if broken {
                    return Some((Err(std::io::Error::other("broken on purpose")), (from, news, true)));
                }
                if !lines.is_empty() {
                    return Some((Ok(Bytes::from(lines)), (version, news, false)));
                }
                tokio::select! {
                    changed = news.changed() => changed.ok()?,
                    () = tokio::time::sleep_until(ends) => return None,
                }
            }
        }
    });
    Body::from_stream(feed.boxed()).into_response()
}
