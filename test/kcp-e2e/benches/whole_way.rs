//! From the accepted `kubectl patch` on a real kcp to the last edge: Disabled until nobody can decrypt, rotate now until
//! everybody encrypts with the new version. The provider is the built one; edges are the real agent and key table, many in this
//! process, over real mTLS. They are asked to decrypt all the time.
//!
//! Beside it, of the same rounds, when a bare watch of the same virtual workspace shows the change: nobody can know sooner.
//!
//! `cargo build --release --workspace --bins && cargo bench --workspace --bench whole_way [-- EDGES EVICTIONS ROTATIONS]`
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use hdrhistogram::Histogram;
use kcp_e2e::{
    kcp::get,
    story::{Story, Team, scenario},
    wait::eventually,
    workspace::{SERVICE_KEY, is_true},
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use openkcm_edge::{
    agent::{Agent, AgentConfig},
    caller::{Caller, Home},
    engine::Engine,
    store::{Address, KeyStore},
};
use openkcm_orchestrator::{Tenants, TokenRequest, create_join_token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const KEY: &str = "payments/payments-db";

/// Milliseconds after the patch was answered; what happened before counts as 0.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(Histogram::new(3).unwrap())
    }

    fn add(&mut self, answered: Instant, happened: Instant) {
        self.0.record(happened.saturating_duration_since(answered).as_micros() as u64).unwrap();
    }

    fn show(&self, what: &str) {
        let ms = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        let max = self.0.max() as f64 / 1000.0;
        println!("{what:44} {:8.1} {:8.1} {max:8.1}   ({} rounds)", ms(0.5), ms(0.99), self.0.len());
    }
}

/// When a resource version came out of a bare watch.
type Seen = Arc<Mutex<HashMap<String, Instant>>>;

/// The watch that the provider has, and nothing behind it.
async fn bare_watch(story: &Story) -> Result<(Seen, JoinSet<Result<()>>)> {
    let installation = story.installation().await?;
    let kubeconfig = Kubeconfig::read_from(installation.folder().join("provider.kubeconfig"))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("kubeconfig")?;
    let provider = Client::try_from(config.clone())?;
    let slice = get(&provider, "/apis/apis.kcp.io/v1alpha1/apiexportendpointslices/openkcm.io").await?;
    let url = slice["status"]["endpoints"][0]["url"].as_str().context("an endpoint")?.to_owned();
    config.cluster_url = format!("{url}/clusters/*").parse()?;
    let kind =
        ApiResource::from_gvk(&GroupVersionKind::gvk("openkcm.io", "v1alpha1", "ServiceEncryptionKey"));
    let api = Api::<DynamicObject>::all_with(Client::try_from(config)?, &kind);
    let mut version = api.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    let seen = Seen::default();
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let seen = Arc::clone(&seen);
        async move {
            loop {
                let mut events = api.watch(&WatchParams::default(), &version).await?.boxed();
                while let Some(event) = events.next().await {
                    let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event? else { continue };
                    let now = Instant::now();
                    version = object.metadata.resource_version.unwrap_or_default();
                    seen.lock().unwrap().entry(version.clone()).or_insert(now);
                }
            }
        }
    });
    Ok((seen, tasks))
}

async fn seen_at(seen: &Seen, version: &str) -> Instant {
    loop {
        if let Some(at) = seen.lock().unwrap().get(version) {
            return *at;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Edges in this process, and who asks them.
struct Fleet {
    engines: Vec<Engine>,
    tenant: String,
    caller: Caller,
    _agents: JoinSet<()>,
}

impl Fleet {
    async fn start(story: &Story, team: &Team, count: usize, home: &Path) -> Result<Self> {
        let installation = story.installation().await?;
        let data = installation.folder().join("data");
        let mut agents = JoinSet::new();
        let mut engines = Vec::new();
        let mut joined = Vec::new();
        for number in 0..count {
            let request = TokenRequest {
                name: None,
                region: None,
                tenants: Tenants::All,
                ttl: Duration::from_secs(600),
            };
            let token = create_join_token(&data, &request)?;
            let keys = Arc::new(KeyStore::new());
            let config = AgentConfig {
                name: format!("fleet-{number}"),
                orchestrators: vec![installation.orchestrator_url()],
                data_dir: home.join(number.to_string()),
                join_token: Some(token.parse()?),
                authority_file: None,
                tenants: Vec::new(),
                region: None,
            };
            let agent = Agent::new(config, Arc::clone(&keys));
            let mut status = agent.status();
            agents.spawn(async move {
                let Err(error) = agent.run().await;
                panic!("{error}");
            });
            joined
                .push(async move { status.wait_for(|status| status.connected_to.is_some()).await.map(drop) });
            engines.push(Engine::new(keys));
            if joined.len() == 32 || number + 1 == count {
                for edge in joined.drain(..) {
                    edge.await?;
                }
            }
        }
        let cluster = team.cluster().clone();
        let caller = Caller::new(
            "https://kcp.default.svc",
            "system:serviceaccount:payments:app",
            Some(Home { cluster: cluster.clone(), namespace: "payments".into() }),
        );
        Ok(Self { engines, tenant: cluster.to_string(), caller, _agents: agents })
    }

    fn address(&self) -> Address<'_> {
        Address { tenant: &self.tenant, namespace: "payments", name: "payments-db" }
    }

    /// The version that an edge encrypts with, and what it wrote.
    fn encrypt(&self, engine: &Engine) -> Option<(u32, Vec<u8>)> {
        let mut out = Vec::new();
        let version = engine.encrypt(self.address(), &self.caller, b"text", b"", &mut out).ok()?;
        Some((version, out))
    }

    /// Asks every edge in turn, without end, until each has answered as awaited once. When the last answer was that was
    /// not awaited, and when all were.
    fn ask(self: &Arc<Self>, awaited: impl Fn(&Self, &Engine) -> bool + Send + 'static) -> Asked {
        let fleet = Arc::clone(self);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut waiting: Vec<&Engine> = fleet.engines.iter().collect();
            let mut last = Instant::now();
            let patience = last + Duration::from_secs(60);
            while !waiting.is_empty() && Instant::now() < patience {
                let begun = Instant::now();
                waiting.retain(|engine| {
                    let there = awaited(&fleet, engine);
                    if !there {
                        last = Instant::now();
                    }
                    !there
                });
                // Those who ask leave two thirds of a core to those who work.
                std::thread::sleep(
                    (begun.elapsed() * 2).clamp(Duration::from_micros(50), Duration::from_millis(2)),
                );
            }
            let _ = sender.send((last, Instant::now(), waiting.len()));
        });
        Asked(receiver)
    }
}

struct Asked(tokio::sync::oneshot::Receiver<(Instant, Instant, usize)>);

impl Asked {
    async fn done(self) -> Result<(Instant, Instant)> {
        let (last, all, waiting) = self.0.await?;
        ensure!(waiting == 0, "{waiting} edges never came to it");
        Ok((last, all))
    }
}

/// The patch, and when it was answered.
async fn patch(team: &Team, patch: Value) -> Result<(Instant, String)> {
    let object = team.patch(SERVICE_KEY, KEY, patch).await?;
    let answered = Instant::now();
    Ok((answered, object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()))
}

fn resident(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}

async fn measure(story: &mut Story, edges: usize, evictions: usize, rotations: usize) -> Result<()> {
    story.with_own_provider(&["--lease=30s", "--log=warn"]).await?;
    let team = story.workspace("team").await?;
    team.enable().await?;
    team.chain(&story.kms(), "aws", KEY).await?;
    let pid = story.own()?.provider().context("a provider")?.pid();
    let before = resident(pid)?;
    let home = story.installation().await?.folder().join("fleet");
    let begun = Instant::now();
    let fleet = Arc::new(Fleet::start(story, &team, edges, &home).await?);
    fleet.ask(|fleet, engine| fleet.encrypt(engine).is_some()).done().await?;
    let joined = begun.elapsed();
    let (seen, _watch) = bare_watch(story).await?;
    println!(
        "{edges} edges joined in {:.1} s; milliseconds after the patch was answered",
        joined.as_secs_f64()
    );
    println!("{:44} {:>8} {:>8} {:>8}", "", "p50", "p99", "max");

    let mut bound = Times::new();
    let (mut last, mut refused, mut told) = (Times::new(), Times::new(), Times::new());
    for _ in 0..evictions {
        let sealed: HashMap<usize, Vec<u8>> = fleet
            .engines
            .iter()
            .enumerate()
            .filter_map(|(number, engine)| Some((number, fleet.encrypt(engine)?.1)))
            .collect();
        ensure!(sealed.len() == edges, "{} of {edges} edges encrypt", sealed.len());
        let sample = sealed.into_values().next().context("an edge")?;
        let asked = fleet.ask(move |fleet, engine| {
            engine.decrypt(fleet.address(), &fleet.caller, &mut sample.clone(), b"").is_err()
        });
        let (answered, version) = patch(&team, json!({"spec": {"state": "Disabled"}})).await?;
        let (success, all) = asked.done().await?;
        last.add(answered, success);
        refused.add(answered, all);
        bound.add(answered, seen_at(&seen, &version).await);
        let said = eventually("the status says Evicted", || async {
            let object = team.get(SERVICE_KEY, KEY).await?.context("the key")?;
            ensure!(is_true(&object, "Evicted"), "it is {}", object["status"]);
            Ok(object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
        })
        .await?;
        told.add(answered, seen_at(&seen, &said).await);
        let asked = fleet.ask(|fleet, engine| fleet.encrypt(engine).is_some());
        patch(&team, json!({"spec": {"state": "Enabled"}})).await?;
        asked.done().await?;
    }
    bound.show("a bare watch shows the patch");
    last.show("Disabled: last success at any edge");
    refused.show("Disabled: every edge asked has refused");
    told.show("Disabled: the status says Evicted");

    let (mut bound, mut rotated) = (Times::new(), Times::new());
    let mut version = fleet.engines.first().and_then(|engine| fleet.encrypt(engine)).context("an edge")?.0;
    for round in 0..rotations {
        version += 1;
        // Two rotations are at least a second apart, and one more for every 64 versions.
        tokio::time::sleep(Duration::from_millis(1100 + 1000 * u64::from(version / 64))).await;
        let asked =
            fleet.ask(move |fleet, engine| fleet.encrypt(engine).is_some_and(|(now, _)| now >= version));
        let request = format!("round {round}");
        let (answered, at) = patch(&team, json!({"spec": {"rotationRequest": request}})).await?;
        let (_, all) = asked.done().await?;
        rotated.add(answered, all);
        bound.add(answered, seen_at(&seen, &at).await);
    }
    if rotations > 0 {
        bound.show("a bare watch shows the patch");
        rotated.show("rotate now: every edge asked has the version");
    }
    let after = resident(pid)?;
    println!(
        "provider: {} KiB before the edges, {} KiB with them: {:.1} KiB an edge",
        before,
        after,
        after.saturating_sub(before) as f64 / edges as f64
    );
    Ok(())
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let number = |index: usize, usual| numbers.get(index).copied().unwrap_or(usual);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let (edges, evictions, rotations) = (number(0, 100), number(1, 100), number(2, 50));
    scenario(async |story| measure(story, edges, evictions, rotations).await);
}
