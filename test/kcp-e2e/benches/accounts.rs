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
use hdrhistogram::Histogram;
use kcp_e2e::{
    installation::total,
    story::{Story, Team, scenario},
    workspace::is_true,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent, WatchParams},
};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let number = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(100);
    scenario(async |story| measure(story, number).await);
}

async fn measure(story: &mut Story, number: usize) -> Result<()> {
    let team = story.workspace("team").await?;
    team.enable().await?;
    let kms = story.kms();
    let root_key = kms.create_key().await?;
    let mut ready = watch(&team);
    let (mut whole, mut raw) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    for n in 0..=number {
        let begun = Instant::now();
        kms.calls_of_a_new_account(&root_key).await?;
        let alone = begun.elapsed();
        let name = format!("account-{n:04}");
        team.account(&name, &root_key).await?;
        let seen = ready_at(&mut ready, &name).await?;
        if n > 0 {
            // The first one warms up connections.
            whole.record(seen.as_micros() as u64)?;
            raw.record(alone.as_micros() as u64)?;
        }
    }
    let metrics = story.installation().await?.metrics().await?;
    let calls = total(&metrics, "openkcm_root_key_calls_total") / (number + 1) as f64;
    println!("\n{number} Accounts, one after the other; calls to the store for each: {calls:.1}");
    println!("{:<52} {:>9} {:>9}", "", "p50 ms", "p99 ms");
    for (what, times) in
        [("created -> Ready, as a watch sees both", whole), ("raw: describe, wrap, unwrap at the store", raw)]
    {
        let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        println!("{what:<52} {:>9.1} {:>9.1}", ms(0.5), ms(0.99));
    }
    Ok(())
}

/// From the creation of an Account to its being Ready.
fn watch(team: &Team) -> mpsc::UnboundedReceiver<(String, Duration)> {
    let (send, receive) = mpsc::unbounded_channel();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("openkcm.io", "v1alpha1", "Account"));
    let api = Api::<DynamicObject>::all_with(team.client().clone(), &kind);
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
