//! How long an Account takes from its creation to Ready on a real kcp, beside the key store's own calls of the same minute.
//!
//! `cargo bench --workspace --bench accounts [-- NUMBER]`, after `cargo build --release --workspace --bins`. One Account after the other, on
//! AWS KMS (LocalStack). The raw bound: the calls that make an Account Ready, by a bare client of the store.
#![allow(clippy::print_stdout)]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use kcp_e2e::{
    installation::{EXPORT, Installation, Plan},
    kcp::{Kcp, KcpOptions},
    paths,
    process::{Lifetime, free_ports},
    stores::{Aws, ContractPorts, KeyStores},
    workspace::{Workspace, is_true},
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent, WatchParams},
};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let number = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(100);
    tokio::runtime::Runtime::new().context("a runtime")?.block_on(measure(number))
}

async fn measure(number: usize) -> Result<()> {
    let folder = paths::test_run()?;
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
    let plan = Plan::owned(&folder.join("bench"), "root:providers:bench")?;
    let installation = Installation::start(plan, &kcp, &stores).await?;
    let workspace = Workspace::create(&kcp, "root", "bench-accounts").await?;
    workspace.bind(installation.workspace(), EXPORT).await?;
    workspace.tenant().await?;

    let kms = stores.aws.kms();
    let root_key = kms.create_key().await?;
    let mut ready = watch(&workspace);
    let (mut whole, mut raw) = (Vec::new(), Vec::new());
    for n in 0..=number {
        let begun = Instant::now();
        kms.calls_of_a_new_account(&root_key).await?;
        let alone = begun.elapsed();
        let name = format!("account-{n:04}");
        workspace.account(&name, &root_key).await?;
        let seen = ready_at(&mut ready, &name).await?;
        if n > 0 {
            // The first one warms up connections.
            whole.push(seen);
            raw.push(alone);
        }
    }
    let calls = calls(&installation).await? / (number + 1) as f64;
    println!("\n{number} Accounts, one after the other; calls to the store for each: {calls:.1}");
    println!("{:<52} {:>9} {:>9}", "", "p50 ms", "p99 ms");
    print("created -> Ready, as a watch sees both", &mut whole);
    print("raw: describe, wrap, unwrap at the store", &mut raw);
    Ok(())
}

/// From the creation of an Account to its being Ready.
fn watch(workspace: &Workspace) -> mpsc::UnboundedReceiver<(String, Duration)> {
    let (send, receive) = mpsc::unbounded_channel();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("openkcm.io", "v1alpha1", "Account"));
    let api = Api::<DynamicObject>::all_with(workspace.client().clone(), &kind);
    tokio::spawn(async move {
        let mut created = HashMap::new();
        let mut events = Box::pin(api.watch(&WatchParams::default(), "0").await?);
        while let Some(event) = events.try_next().await? {
            let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else { continue };
            let since = *created.entry(object.name_any()).or_insert_with(Instant::now);
            if is_true(&serde_json::to_value(&object)?, "Ready") {
                // Nobody listens any more at the end.
                let _ = send.send((object.name_any(), since.elapsed()));
            }
        }
        anyhow::Ok(())
    });
    receive
}

async fn ready_at(ready: &mut mpsc::UnboundedReceiver<(String, Duration)>, name: &str) -> Result<Duration> {
    let found = async {
        while let Some((account, took)) = ready.recv().await {
            if account == name {
                return Some(took);
            }
        }
        None
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.with_context(|| format!("{name} is not Ready"))?.context("the watch ended")
}

/// Calls to root keys, as the provider counts them.
async fn calls(installation: &Installation) -> Result<f64> {
    let text =
        reqwest::get(installation.metrics_url()).await.context("the provider's metrics")?.text().await?;
    let calls = text.lines().filter(|line| line.starts_with("openkcm_root_key_calls_total"));
    Ok(calls.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

fn print(name: &str, all: &mut [Duration]) {
    all.sort_unstable();
    let at = |share: f64| {
        let index = (all.len() as f64 * share).ceil() as usize;
        all.get(index.saturating_sub(1)).map_or(f64::NAN, |it| it.as_secs_f64() * 1_000.0)
    };
    println!("{name:<52} {:>9.1} {:>9.1}", at(0.5), at(0.99));
}
