//! `openkcm-provider run`: everything wired together.

mod account;
mod caches;
mod http;
mod key;
mod metrics;
mod provider;
mod replicas;
mod reported;
mod roots;
mod sole;
mod subject;
mod tenant;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use kcp_client_rs::LogicalCluster;
use kube::config::{KubeConfigOptions, Kubeconfig};
use openkcm_keychain::{AccountKeys, Changed, Ledger, Location, rows::TenantRow};
use openkcm_keystores::{Config as StoresConfig, KeyStores};
use openkcm_logical::{CancellationToken, Queue, Recorder, World};
use openkcm_orchestrator::{Config as OrchestratorConfig, Orchestrator, SystemClock};
use openkcm_plan::Settings;
use tokio::task::JoinSet;

use self::{
    caches::Caches,
    provider::{Provider, Times, lock},
    replicas::Replicas,
    roots::Roots,
    subject::Subject,
};
use crate::cli::{LedgerArgs, RunArgs};

/// Target of the spans of reconciles and of calls to root keys: no usual log level reaches them, an exporter of traces does.
pub const SPANS: &str = "openkcm_provider::work";
/// How long an unwrapped account key stays in memory before the root key is asked again.
const ACCOUNT_KEY_LIFETIME: Duration = Duration::from_secs(3_600);
/// How often the ledger is asked whether somebody else (operator, other replica) changed something.
const LEDGER_POLL: Duration = Duration::from_secs(1);
/// How often what has reached its end is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// So long after its destruction a key is still called destroyed, and not unknown, at edges that had it.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Edges wait no longer than this for keys that cannot be planned (a key store that does not answer).
const FIRST_PLANS: Duration = Duration::from_secs(60);

/// How long calls to key stores may go on after a stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where the ledger is.
pub fn location(args: &LedgerArgs) -> Location {
    match &args.database_url {
        Some(url) => Location::Postgres(url.clone()),
        None => Location::Directory(args.data_dir.clone()),
    }
}

/// Runs until `shutdown` or until something vital ends.
pub async fn run(args: RunArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)
        .with_context(|| format!("read the kubeconfig {}", args.kubeconfig.display()))?;
    let workspace = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("use the kubeconfig")?;
    let stores = match &args.key_stores {
        Some(file) => StoresConfig::read(file).context("read --key-stores")?,
        None => StoresConfig::default(),
    };
    let _sole = match &args.ledger.database_url {
        Some(_) => None,
        None => Some(sole::lock(&args.ledger.data_dir)?),
    };
    let ledger = Ledger::open(&location(&args.ledger)).await.context("open the ledger")?;
    let lease = Duration::try_from(args.lease)?;
    let replicas = match &args.ledger.database_url {
        Some(_) => Some(Replicas::join(&workspace, &ledger, lease).await.context("join the other replicas")?),
        None => None,
    };
    let (orchestrator, orchestrating) = Orchestrator::start(
        OrchestratorConfig {
            address: args.orchestrator_address,
            urls: args.orchestrator_url.clone(),
            data_dir: args.ledger.data_dir.clone(),
            lease,
            replicated: replicas.is_some(),
        },
        Arc::new(SystemClock),
    )
    .await
    .context("start the orchestrator")?;

    let mut builder = World::builder(workspace.clone(), &args.export);
    let caches = Caches::watch(&mut builder, &args.export);
    // The watches start with the driver, after the provider is there.
    let late: Arc<OnceLock<Arc<Provider>>> = Arc::default();
    let listener = Arc::clone(&late);
    builder.on_change(move |change| {
        if let openkcm_logical::What::Undecodable(why) = &change.what {
            tracing::warn!(cluster = %change.cluster, kind = change.kind.name(), name = %change.name, %why,
                "an object does not fit its schema and is left alone");
        }
        if let Some(provider) = listener.get() {
            provider.on_change(&change);
        }
    });
    let (world, watching) = builder.build().context("prepare the watches")?;
    let (recorder, recording) = Recorder::new(world.clone(), "openkcm-provider");
    let interval = args.probe_interval;
    let provider = Arc::new(Provider {
        world,
        caches,
        queue: Queue::default(),
        ledger,
        account_keys: Arc::new(AccountKeys::new(ACCOUNT_KEY_LIFETIME)),
        roots: Roots::new(Arc::new(KeyStores::from_config(stores)?), interval),
        orchestrator,
        recorder,
        replicas,
        times: Times {
            plan: Settings { started: Timestamp::now(), root_loss_grace: args.root_loss_grace },
            retention: args.retention,
            deletion_window: args.deletion_window,
        },
        counters: metrics::Counters::default(),
        absent: Mutex::default(),
        unplanned: Mutex::default(),
        refused: Mutex::default(),
        told_unreadable: Mutex::default(),
        homeless: Mutex::default(),
        born: Mutex::default(),
    });
    if late.set(Arc::clone(&provider)).is_err() {
        anyhow::bail!("the provider was made twice");
    }

    // Whoever ends first, in whatever way, ends the process: nothing here may be missing.
    let mut vital = JoinSet::new();
    let stop = || shutdown.clone();
    vital.spawn(named("watches", {
        let stop = stop();
        async move { Ok(watching.run(stop).await?) }
    }));
    vital.spawn(named("events", {
        let stop = stop();
        async move { Ok(recording.run(stop).await?) }
    }));
    vital.spawn(named("orchestrator", until_stopped(stop(), async move { Ok(orchestrating.await?) })));
    vital.spawn(named("health and metrics", http::serve(args.http_address, Arc::clone(&provider), stop())));
    vital.spawn(named("edges", until_stopped(stop(), follow_edges(Arc::clone(&provider)))));
    vital.spawn(named("ledger", until_stopped(stop(), follow_ledger(Arc::clone(&provider)))));
    vital.spawn(named("sweep", until_stopped(stop(), sweep(Arc::clone(&provider)))));
    if provider.replicas.is_some() {
        vital.spawn(named("membership", {
            let (provider, stop) = (Arc::clone(&provider), stop());
            async move {
                if let Some(replicas) = &provider.replicas {
                    let all = Arc::clone(&provider);
                    replicas.membership.run(stop, move || wake_all_seen(&all)).await;
                }
                Ok(())
            }
        }));
        vital.spawn(named("replicas", {
            let provider = Arc::clone(&provider);
            until_stopped(stop(), async move {
                match &provider.replicas {
                    Some(replicas) => replicas.beat(&provider).await,
                    None => Ok(()),
                }
            })
        }));
    }
    vital.spawn(named("reconciles", {
        let (provider, stop, workers) = (Arc::clone(&provider), stop(), args.workers);
        async move {
            first_round(&provider).await?;
            let reconciler = Arc::clone(&provider);
            provider
                .queue
                .run(workers, stop, move |subject| Arc::clone(&reconciler).reconcile(subject))
                .await
                .context("run the queue")
        }
    }));
    vital.spawn(named("first plans", until_stopped(stop(), first_plans(Arc::clone(&provider)))));

    let mut result = Ok(());
    while let Some(ended) = vital.join_next().await {
        let ended =
            ended.unwrap_or_else(|error| Err(anyhow::Error::new(error).context("a vital task panicked")));
        if !shutdown.is_cancelled() {
            match ended {
                Ok(("first plans", ())) => continue,
                Ok((name, ())) => result = Err(anyhow::anyhow!("{name} ended unexpectedly")),
                Err(error) => result = Err(error),
            }
            shutdown.cancel();
        } else if let (Err(error), true) = (ended, result.is_ok()) {
            result = Err(error);
        }
    }
    // What a silent store holds up is done again after the next start.
    if tokio::time::timeout(FAREWELL, provider.roots.close()).await.is_err() {
        tracing::warn!("key stores did not answer to the last");
    }
    provider.ledger.close().await;
    result
}

async fn named(
    name: &'static str,
    task: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<(&'static str, ())> {
    task.await.map(|()| (name, ())).with_context(|| format!("{name} failed"))
}

async fn until_stopped(
    stop: CancellationToken,
    task: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    stop.run_until_cancelled(task).await.unwrap_or(Ok(()))
}

/// Puts what lives in the ledger into the queue. What only kcp knows comes with the watches, and so does what is unbound: it is
/// on no edge, and most of it never comes back.
async fn first_round(provider: &Provider) -> anyhow::Result<()> {
    let mut unplanned = HashSet::new();
    let tenants = provider.ledger.tenants().await?;
    for row in tenants.iter().filter(|row| row.unbound_at.is_none()) {
        provider.queue.add(Subject::Tenant(row.cluster.clone()));
        unplanned.extend(provider.wake_workspace(row).await?);
    }
    // Edges go on saying of these what they said before the restart.
    let clusters: HashMap<_, _> = tenants.iter().map(|row| (row.id, &row.cluster)).collect();
    for key in provider.ledger.destroyed_since(Timestamp::now() - REMEMBERED).await? {
        let (Some(cluster), Some(at)) = (clusters.get(&key.tenant), key.destroyed_at) else { continue };
        let (cluster, namespace, name) = (LogicalCluster::clone(cluster), key.namespace, key.name);
        // One that lives under its name has the word.
        if !unplanned.contains(&Subject::Key(cluster.clone(), namespace.clone(), name.clone())) {
            provider.destroyed_key(&cluster, &namespace, &name, at);
        }
    }
    *lock(&provider.unplanned) = Some(unplanned);
    Ok(())
}

/// Tells the orchestrator when every key has been planned once, so that it may let edges forget the others.
async fn first_plans(provider: Arc<Provider>) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        let all = lock(&provider.unplanned).as_ref().is_some_and(HashSet::is_empty);
        let planned = provider.world.synced() && all && provider.roots.is_idle();
        if planned || begun.elapsed() > FIRST_PLANS {
            provider.orchestrator.ready();
            tracing::info!(after = ?begun.elapsed(), "every key was planned once; edges drop what is gone");
            return Ok(());
        }
    }
}

/// Brings what edges acknowledge into the status of keys.
async fn follow_edges(provider: Arc<Provider>) -> anyhow::Result<()> {
    let mut changes = provider.orchestrator.changes();
    loop {
        let key = changes.next().await;
        provider.queue.add_after(
            Subject::Key(key.cluster, key.namespace, key.name),
            // Acknowledgements of many edges come close together.
            Duration::from_millis(20),
        );
    }
}

/// Notices what the operator's commands and other replicas change in the ledger.
async fn follow_ledger(provider: Arc<Provider>) -> anyhow::Result<()> {
    let mut token = provider.ledger.change_token().await?;
    let replicated = provider.replicas.is_some();
    let mut tick = tokio::time::interval(if replicated { LEDGER_POLL / 4 } else { LEDGER_POLL });
    loop {
        tick.tick().await;
        // What was not read to its end is read again.
        match wake_changed(&provider, token).await {
            Ok(next) => token = next,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the ledger does not say what changed");
            }
        }
    }
}

/// Puts what changed since `token` into the queue; the token for the next time.
async fn wake_changed(provider: &Provider, token: i64) -> anyhow::Result<i64> {
    let changes = provider.ledger.changes_since(token).await?;
    let all = |row: TenantRow| Changed { cluster: row.cluster, key: None };
    let news = match changes.changed {
        Some(some) => some,
        None => provider.ledger.tenants().await?.into_iter().map(all).collect(),
    };
    for Changed { cluster, key } in news {
        if let Some((namespace, name)) = key {
            provider.queue.add(Subject::Key(cluster, namespace, name));
            continue;
        }
        lock(&provider.refused).retain(|key, _| key.cluster != cluster);
        if let Some(row) = provider.ledger.tenant(&cluster).await? {
            provider.queue.add(Subject::Tenant(cluster));
            provider.wake_workspace(&row).await?;
        }
    }
    Ok(changes.token)
}

/// Destroys deleted keys whose window is over, and lets account keys out of memory in time.
async fn sweep(provider: Arc<Provider>) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        provider.account_keys.expire(std::time::Instant::now());
        provider.roots.expire();
        match provider.ledger.destroy_due(1_000, Timestamp::now()).await {
            Ok(destroyed) => {
                let tenants = provider.ledger.tenants().await.unwrap_or_default();
                for row in destroyed {
                    if let Some(tenant) = tenants.iter().find(|tenant| tenant.id == row.tenant) {
                        let at = row.destroyed_at.unwrap_or_else(Timestamp::now);
                        provider.destroyed_key(&tenant.cluster, &row.namespace, &row.name, at);
                    }
                    tracing::warn!(namespace = %row.namespace, key = %row.name, id = %row.id, "window is over: the key is destroyed");
                }
            }
            Err(error) => tracing::warn!(%error, "deleted keys could not be destroyed and are tried again"),
        }
        // Not before it is known of every workspace that can be seen whether it is bound: that may have happened while nobody looked.
        if provider.world.synced()
            && let Err(error) = shred_due(&provider, Timestamp::now()).await
        {
            tracing::warn!(error = format!("{error:#}"), "tenants could not be shredded and are tried again");
        }
    }
}

/// Destroys the keys of tenants whose retention is over. Most of their workspaces are gone for good and seen nowhere.
async fn shred_due(provider: &Provider, now: Timestamp) -> anyhow::Result<()> {
    for row in provider.ledger.tenants_to_shred(now).await? {
        let (cluster, path) = (&row.cluster, &row.path);
        if provider.our_bindings(cluster).iter().any(|binding| !binding.deleting) {
            provider.queue.add(Subject::Tenant(cluster.clone()));
            continue;
        }
        for key in provider.ledger.keys(row.id).await? {
            provider.forget_key(cluster, &key.namespace, &key.name);
        }
        provider.ledger.shred_tenant(row.id, now).await?;
        tracing::warn!(%cluster, %path, "retention is over: the tenant's keys are destroyed");
    }
    Ok(())
}

fn wake_all_seen(provider: &Provider) {
    for cluster in provider.caches.bindings.clusters() {
        provider.queue.add(Subject::Tenant(cluster.clone()));
        provider.wake_objects(&cluster);
    }
}
