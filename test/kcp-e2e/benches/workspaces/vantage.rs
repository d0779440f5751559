//! Where both the provider and the raw bound are looked at from: raw watches on the virtual workspace.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use kcp_client_rs::{LogicalCluster, logical_cluster::CLUSTER_ANNOTATION};
use kcp_e2e::{
    installation::{EXPORT, Installation},
    kcp,
    wait::{eventually, within},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{
        ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, WatchEvent,
        WatchParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::task::JoinSet;

/// Notes when a binding was first seen Bound, and when a Tenant was first seen at all and Active.
pub struct Vantage {
    seen: Arc<Mutex<HashMap<String, Seen>>>,
    everywhere: Client,
    /// Ends the watches when it is dropped.
    _watches: JoinSet<()>,
}

#[derive(Default, Clone, Copy)]
struct Seen {
    bound: Option<Instant>,
    made: Option<Instant>,
    active: Option<Instant>,
}

/// From Bound to the Tenant, and to its being Active.
#[derive(Clone, Copy)]
pub struct Latency {
    made: Duration,
    active: Duration,
}

/// Those of many workspaces.
pub struct Latencies(Vec<Latency>);

impl Vantage {
    /// Beside a provider.
    pub async fn of(installation: &Installation) -> Result<Self> {
        let kubeconfig = installation.folder().join("provider.kubeconfig");
        Self::start(&kubeconfig, installation.workspace(), false).await
    }

    /// `serve`: does the least that a provider could do, as the raw bound.
    pub async fn start(kubeconfig: &Path, workspace: &str, serve: bool) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).context("reading the provider's kubeconfig")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let here = Client::try_from(config.clone()).context("a client of the provider workspace")?;
        let slice = format!("/apis/apis.kcp.io/v1alpha1/apiexportendpointslices/{EXPORT}");
        let url = eventually(&format!("the export of {workspace} has an endpoint"), || async {
            let slice = kcp::get(&here, &slice).await?;
            let url = slice["status"]["endpoints"][0]["url"].as_str().context("it has none")?;
            Ok(url.to_owned())
        })
        .await?;
        let at = move |cluster: &str| {
            let mut config = config.clone();
            config.read_timeout = None;
            config.cluster_url = format!("{url}/clusters/{cluster}").parse().context("an endpoint's URL")?;
            Client::try_from(config).context("a client of the endpoint")
        };
        let everywhere = at("*")?;
        let seen = Arc::<Mutex<HashMap<String, Seen>>>::default();
        let mut watches = JoinSet::new();
        for kind in [binding_kind(), tenant_kind()] {
            let (seen, api) = (Arc::clone(&seen), Api::all_with(everywhere.clone(), &kind));
            let at = at.clone();
            watches.spawn(async move {
                let served = move |cluster: String, path: Option<String>| {
                    if let (true, Ok(client)) = (serve, at(&cluster)) {
                        tokio::spawn(raw_tenant(client, path.unwrap_or(cluster)));
                    }
                };
                loop {
                    if let Err(error) = follow(&api, &seen, &served).await {
                        println!("a watch of the benchmark broke: {error:#}");
                    }
                }
            });
        }
        Ok(Self { seen, everywhere, _watches: watches })
    }

    /// From Bound to Active, once both were seen.
    pub fn latency(&self, cluster: &LogicalCluster) -> Option<Latency> {
        let seen = lock(&self.seen).get(cluster.as_str()).copied()?;
        let since_bound = |at: Instant| seen.bound.map(|bound| at.saturating_duration_since(bound));
        Some(Latency { made: since_bound(seen.made?)?, active: since_bound(seen.active?)? })
    }

    /// The resourceVersion of every object of ours, and of every event, in all workspaces.
    pub async fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions = BTreeMap::new();
        let ours = ["Tenant", "Account", "ServiceEncryptionKey"]
            .map(|kind| resource("openkcm.io", "v1alpha1", kind));
        for kind in ours.into_iter().chain([binding_kind(), resource("", "v1", "Event")]) {
            let api = Api::<DynamicObject>::all_with(self.everywhere.clone(), &kind);
            let list =
                api.list(&ListParams::default()).await.with_context(|| format!("listing {}", kind.plural))?;
            for object in list {
                let name = format!(
                    "{} {:?} {:?}/{}",
                    kind.kind,
                    cluster_of(&object),
                    object.namespace(),
                    object.name_any()
                );
                versions.insert(name, object.resource_version().unwrap_or_default());
            }
        }
        Ok(versions)
    }
}

/// Lists, then watches until the server ends it.
async fn follow(
    api: &Api<DynamicObject>,
    seen: &Mutex<HashMap<String, Seen>>,
    bound: &impl Fn(String, Option<String>),
) -> Result<()> {
    let list = api.list(&ListParams::default()).await.context("listing")?;
    let mut version = list.metadata.resource_version.clone().unwrap_or_default();
    list.iter().for_each(|object| note(object, seen, bound));
    loop {
        let mut events = Box::pin(api.watch(&WatchParams::default(), &version).await.context("watching")?);
        while let Some(event) = events.try_next().await.context("reading a watch")? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version = object.resource_version().unwrap_or_default();
                    note(&object, seen, bound);
                }
                WatchEvent::Error(status) => anyhow::bail!("{}", status.message),
                WatchEvent::Deleted(object) => version = object.resource_version().unwrap_or_default(),
                WatchEvent::Bookmark(_) => {}
            }
        }
    }
}

fn note(
    object: &DynamicObject,
    seen: &Mutex<HashMap<String, Seen>>,
    bound: &impl Fn(String, Option<String>),
) {
    let Some(cluster) = cluster_of(object) else { return };
    let mut all = lock(seen);
    let seen = all.entry(cluster.clone()).or_default();
    if object.types.as_ref().is_some_and(|types| types.kind == "Tenant") {
        seen.made.get_or_insert_with(Instant::now);
    }
    match object.data["status"]["phase"].as_str() {
        Some("Bound") if seen.bound.is_none() => {
            seen.bound = Some(Instant::now());
            bound(cluster, object.annotations().get("kcp.io/path").cloned());
        }
        Some("Active") if seen.active.is_none() => seen.active = Some(Instant::now()),
        _ => {}
    }
}

/// Creates a Tenant and writes its status: nothing less makes one Active.
async fn raw_tenant(client: Client, path: String) {
    let api = Api::<DynamicObject>::all_with(client, &tenant_kind());
    let name = format!("tenant-{}", path.replace(':', "-"));
    let object = json!({"apiVersion": "openkcm.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": {}});
    let result = async {
        let object = serde_json::from_value(object)?;
        // kcp may forbid it for a moment in a workspace that was bound before.
        within(Duration::from_secs(60), "the Tenant is made", async || {
            Ok(api.create(&PostParams::default(), &object).await?)
        })
        .await?;
        let status = json!({"status": {"phase": "Active", "path": path}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        anyhow::Ok(())
    };
    if let Err(error) = result.await {
        println!("the raw provider failed: {error:#}");
    }
}

fn cluster_of(object: &DynamicObject) -> Option<String> {
    object.annotations().get(CLUSTER_ANNOTATION).cloned()
}

fn binding_kind() -> ApiResource {
    resource("apis.kcp.io", "v1alpha2", "APIBinding")
}

fn tenant_kind() -> ApiResource {
    resource("openkcm.io", "v1alpha1", "Tenant")
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn lock(seen: &Mutex<HashMap<String, Seen>>) -> MutexGuard<'_, HashMap<String, Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Latencies {
    /// Over the lines.
    pub const HEAD: &str = "                                       n    p50 ms    p99 ms    max ms    (Bound -> Tenant: p50, p99)";

    /// A line of the table.
    pub fn print(&self, name: &str) {
        let sorted = |of: fn(&Latency) -> Duration| {
            let mut all: Vec<Duration> = self.0.iter().map(of).collect();
            all.sort_unstable();
            all
        };
        let at = |all: &[Duration], share: f64| {
            let index = (all.len() as f64 * share).ceil() as usize;
            all.get(index.saturating_sub(1)).map_or(f64::NAN, |it| it.as_secs_f64() * 1_000.0)
        };
        let (made, active) = (sorted(|it| it.made), sorted(|it| it.active));
        let (p50, p99, max) = (at(&active, 0.5), at(&active, 0.99), at(&active, 1.0));
        let (made50, made99) = (at(&made, 0.5), at(&made, 0.99));
        println!(
            "{name:<34} {:>5} {p50:>9.1} {p99:>9.1} {max:>9.1}    ({made50:.1}, {made99:.1})",
            active.len()
        );
    }
}

impl FromIterator<Latency> for Latencies {
    fn from_iter<I: IntoIterator<Item = Latency>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}
