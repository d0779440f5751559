//! The provider on a real kcp with 200 workspaces: how soon a bound workspace is a tenant, what is written when nothing
//! happens, and what a workspace costs in memory and connections.
//!
//! `cargo bench --workspace --bench workspaces [-- NUMBER] [--bursts] [--wait] [--provider=FLAG…]`, after `cargo build --release
//! --workspace --bins`. With `--bursts` it measures nothing but those, `--provider` hands a flag to the provider, and with `--wait` it
//! makes everything ready and then waits for a line on standard input, so that a busy machine can be made quiet first.
//! The raw bound of the same minute: a program without ledger, queue and plan, which only watches, creates and writes a status.
#![allow(clippy::print_stdout)]

mod process;
mod vantage;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::BufRead as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kcp_e2e::{
    installation::{EXPORT, Installation, Plan, total},
    kcp::{Kcp, KcpOptions},
    paths,
    process::{Lifetime, free_ports},
    stores::{Aws, ContractPorts, KeyStores},
    wait::within,
    workspace::{BINDING, SERVICE_KEY, Workspace, binding},
};
use vantage::{Latencies, Vantage};

/// Workspaces are made, and filled, by so many at a time.
const HANDS: usize = 8;
/// Between two bindings that are made "one by one". kcp itself takes seconds for each, so several are under way all the same.
const STAGGER: Duration = Duration::from_millis(300);
/// Enough for a bound, one by one.
const RAW: usize = 20;
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let has = |flag| arguments.iter().any(|it| it == flag);
    let number = arguments.iter().find_map(|it| it.parse().ok()).unwrap_or(200);
    let flags = arguments.iter().filter_map(|it| it.strip_prefix("--provider=")).map(str::to_owned).collect();
    let measured = measure(number, has("--bursts"), has("--wait"), flags);
    tokio::runtime::Runtime::new().context("a runtime")?.block_on(measured)
}

async fn measure(number: usize, bursts_only: bool, wait: bool, flags: Vec<String>) -> Result<()> {
    let folder = paths::test_run()?;
    println!("{} workspaces; logs: {}", number, folder.display());
    let [kcp_port, aws_port] = free_ports()?;
    let options = KcpOptions {
        folder: folder.join("kcp"),
        logs: folder.clone(),
        lifetime: Lifetime::Owned,
        port: kcp_port,
    };
    let (kcp, aws) = tokio::try_join!(Kcp::start(&options), Aws::start(aws_port, &folder, Lifetime::Owned))?;
    let granted = vec!["root:bench-*".to_owned()];
    let stores =
        KeyStores::start(aws, ContractPorts::free()?, granted, &folder, &folder, Lifetime::Owned).await?;
    let root_key = stores.aws.kms().create_key().await?;

    let begun = Instant::now();
    let first = Workspace::create(&kcp, "root", "bench-first").await?;
    let workspaces: Vec<Workspace> = stream::iter(0..number)
        .map(async |n| Workspace::create(&kcp, "root", &format!("bench-{n:04}")).await)
        .buffered(HANDS)
        .try_collect()
        .await?;
    println!("workspaces ready after {:.0?}", begun.elapsed());
    if wait {
        println!("ready to measure: press Enter");
        std::io::stdin().lock().read_line(&mut String::new()).context("reading standard input")?;
    }

    let raw = RawProvider::start(&kcp, &folder)?;
    let bench = Bench { kcp, kcp_port, stores, folder, flags, raw, first, workspaces };
    println!("\nBound -> Tenant Active\n{}", Latencies::HEAD);
    if !bursts_only {
        bench.one_by_one(&root_key).await?;
    }
    bench.burst().await
}

/// What is measured with.
struct Bench {
    kcp: Kcp,
    kcp_port: u16,
    stores: KeyStores,
    folder: PathBuf,
    /// Of the provider.
    flags: Vec<String>,
    raw: RawProvider,
    /// Bound before the others, so that none of them is the first of its export.
    first: Workspace,
    workspaces: Vec<Workspace>,
}

impl Bench {
    async fn raw(&self) -> Result<Vantage> {
        self.first.bind(&self.raw.workspace, EXPORT).await?;
        Vantage::start(&self.raw.kubeconfig, &self.raw.workspace, true).await
    }

    async fn install(&self, name: &str) -> Result<(Installation, Vantage)> {
        let mut plan = Plan::owned(&self.folder.join(name), &format!("root:providers:{name}"))?;
        plan.provider_flags.clone_from(&self.flags);
        let installation = Installation::start(plan, &self.kcp, &self.stores).await?;
        self.first.bind(installation.workspace(), EXPORT).await?;
        let seen = Vantage::of(&installation).await?;
        Ok((installation, seen))
    }

    /// One after the other; then what they cost, and what is written when nothing happens.
    async fn one_by_one(&self, root_key: &str) -> Result<()> {
        let (number, seen) = (self.workspaces.len(), self.raw().await?);
        let some = &self.workspaces[..number.min(RAW)];
        bind_all(&seen, &self.raw.workspace, some, STAGGER).await?.print("raw: create + status, one by one");
        unbind_all(some.iter().chain([&self.first])).await?;
        drop(seen);

        let (installation, seen) = self.install("bench").await?;
        let mut costs = vec![process::Cost::of(&installation, 0, self.kcp_port).await?];
        for step in [number / 4, number / 2, number] {
            let from = costs.last().map_or(0, |cost| cost.workspaces);
            let group = &self.workspaces[from..step];
            let latencies = bind_all(&seen, installation.workspace(), group, STAGGER).await?;
            latencies.print(&format!("provider, one by one, to {step}"));
            fill_all(group, root_key).await?;
            tokio::time::sleep(Duration::from_secs(5)).await;
            costs.push(process::Cost::of(&installation, step, self.kcp_port).await?);
        }
        process::print(&costs);
        println!("\nOne quiet minute with {number} workspaces, each with an Account and a key:");
        println!("{}\n", quiet_minute(&self.kcp, &installation, &seen).await?);
        unbind_all(self.workspaces.iter().chain([&self.first])).await
    }

    /// All at once: for the raw bound, and for a provider that knows none of them, so that these are births, not returns.
    async fn burst(&self) -> Result<()> {
        let seen = self.raw().await?;
        bind_all(&seen, &self.raw.workspace, &self.workspaces, Duration::ZERO)
            .await?
            .print("raw: create + status, burst");
        unbind_all(self.workspaces.iter().chain([&self.first])).await?;
        drop(seen);

        let (installation, seen) = self.install("burst").await?;
        bind_all(&seen, installation.workspace(), &self.workspaces, Duration::ZERO)
            .await?
            .print("provider, burst");
        Ok(())
    }
}

/// An export that no provider serves.
struct RawProvider {
    workspace: String,
    kubeconfig: PathBuf,
}

impl RawProvider {
    fn start(kcp: &Kcp, folder: &Path) -> Result<Self> {
        let plan = Plan::owned(&folder.join("raw"), "root:providers:raw")?;
        std::fs::create_dir_all(&plan.folder).context("making a folder")?;
        plan.publish(kcp)?;
        Ok(Self { workspace: plan.workspace.clone(), kubeconfig: plan.folder.join("provider.kubeconfig") })
    }
}

/// Binds, and waits until each has an Active Tenant.
async fn bind_all(
    seen: &Vantage,
    provider: &str,
    workspaces: &[Workspace],
    stagger: Duration,
) -> Result<Latencies> {
    let mut clock = tokio::time::interval(stagger.max(Duration::from_millis(1)));
    let mut under_way = Vec::new();
    for workspace in workspaces {
        clock.tick().await;
        let (workspace, object) = (workspace.clone(), binding(EXPORT, provider, EXPORT, "Accepted"));
        // Connections that idled while others were measured are closed: the first attempt may meet that.
        under_way.push(tokio::spawn(async move {
            within(PATIENCE, "the binding is made", || workspace.apply_binding(object.clone())).await
        }));
    }
    for binding in under_way {
        binding.await.context("a task that binds")??;
    }
    within(PATIENCE, "every tenant is Active", || async {
        let missing = workspaces.iter().filter(|it| seen.latency(it.cluster()).is_none()).count();
        ensure!(missing == 0, "{missing} of {} are not", workspaces.len());
        Ok(())
    })
    .await?;
    Ok(workspaces.iter().filter_map(|it| seen.latency(it.cluster())).collect())
}

async fn unbind_all(workspaces: impl Iterator<Item = &Workspace>) -> Result<()> {
    let unbind = async |workspace: &Workspace| {
        workspace.delete(BINDING, EXPORT).await?;
        within(PATIENCE, "the binding is gone", || async {
            ensure!(workspace.get(BINDING, EXPORT).await?.is_none(), "it is there");
            Ok(())
        })
        .await
    };
    stream::iter(workspaces).map(unbind).buffer_unordered(HANDS * 4).try_collect().await
}

/// An Account and a key in each.
async fn fill_all(workspaces: &[Workspace], root_key: &str) -> Result<()> {
    let fill = async |workspace: &Workspace| {
        workspace.account("aws", root_key).await?;
        workspace.service_key("payments/db", "aws").await?;
        within(PATIENCE, "the key is Active", || async {
            let key = workspace.get(SERVICE_KEY, "payments/db").await?.context("there is no key")?;
            ensure!(key["status"]["state"] == "Active", "its status is {}", key["status"]);
            Ok(())
        })
        .await
    };
    stream::iter(workspaces).map(fill).buffer_unordered(HANDS).try_collect().await
}

/// What is written while nobody asks for anything: seen from the objects, from kcp and from the provider.
async fn quiet_minute(kcp: &Kcp, installation: &Installation, seen: &Vantage) -> Result<String> {
    // Edges report their callers, and the last events are written.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let count = async || -> Result<_> {
        let provider = installation.metrics().await?;
        let status_writes = provider.get("openkcm_status_writes_total").copied().unwrap_or_default();
        let probes = total(&provider, "openkcm_root_key_calls_total");
        let time = process::processor_time(installation)?;
        Ok((seen.versions().await?, writes(&kcp.metrics().await?), status_writes, probes, time))
    };
    let (objects, at_kcp, status_writes, probes, time) = count().await?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (objects_after, at_kcp_after, status_writes_after, probes_after, time_after) = count().await?;
    let changed =
        objects_after.iter().filter(|(object, version)| objects.get(*object) != Some(*version)).count();
    let mut text = format!(
        "  objects {}, changed {changed}\n  the provider's writes of a status: {}\n  its calls to root keys: {}\n  its processor time: {:?}\n",
        objects_after.len(),
        status_writes_after - status_writes,
        probes_after - probes,
        time_after.saturating_sub(time),
    );
    text += "  writes that kcp counted, by resource (its own included):";
    for (resource, count) in at_kcp_after {
        let more = count - at_kcp.get(&resource).copied().unwrap_or_default();
        if more > 0.0 {
            let _ = write!(text, " {resource} {more};");
        }
    }
    Ok(text)
}

/// kcp's `apiserver_request_total` for verbs that write, by resource.
fn writes(metrics: &str) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let value = line.split_once(&format!("{name}=\""))?.1;
            value.split_once('"').map(|(value, _)| value)
        };
        let writes = matches!(label("verb"), Some("POST" | "PUT" | "PATCH" | "APPLY" | "DELETE"));
        let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<f64>().ok());
        if let (true, Some(count)) = (writes, count) {
            let (group, resource) =
                (label("group").unwrap_or_default(), label("resource").unwrap_or_default());
            let name = format!("{resource}.{group}");
            *counts.entry(name.trim_matches('.').to_owned()).or_default() += count;
        }
    }
    counts
}
