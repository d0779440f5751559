//! The world on a real kcp of two shards: one story, because the shards take a minute to start.
//!
//! Needs `OPENKCM_KCP_BIN_DIR` (a folder with `kcp`, `kcp-front-proxy` and `cache-server`), `kubectl` and `openssl`.
//! `make e2e` sets it; by hand: `cargo test --workspace --test two_shards -- --ignored`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod shards;

use std::time::Instant;

use kcp_client_rs::{LogicalCluster, apis::ApiBinding};
use kube::CustomResource;
use openkcm_logical::{CancellationToken, ErrorClass, Preconditions, Presence, What, World, trim_metadata};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shards::{Shards, eventually};

#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(group = "logical.example", version = "v1", kind = "Thing", namespaced, status = "ThingStatus")]
struct ThingSpec {
    value: String,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
struct ThingStatus {
    seen: String,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of a kcp with two shards: OPENKCM_KCP_BIN_DIR"]
async fn the_world_on_two_shards() {
    let binaries = std::env::var_os("OPENKCM_KCP_BIN_DIR")
        .expect("OPENKCM_KCP_BIN_DIR: a folder with kcp, kcp-front-proxy and cache-server");
    let mut shards = Shards::start(binaries.into());
    shards.workspace("provider", "root").await;
    shards.publish("root:provider", "logical.example", "things", "Thing").await;

    let mut builder = World::builder(shards.config("root:provider").await, "logical.example");
    let bindings = builder.watch::<ApiBinding>(trim_metadata);
    let things = builder.watch::<Thing>(trim_metadata);
    let changes: std::sync::Arc<std::sync::Mutex<Vec<openkcm_logical::Change>>> = std::sync::Arc::default();
    let log = changes.clone();
    builder.on_change(move |change| log.lock().unwrap().push(change));
    let (world, driver) = builder.build().unwrap();
    let shutdown = CancellationToken::new();
    let driver = tokio::spawn(driver.run(shutdown.clone()));
    let gone = |cluster: &LogicalCluster| {
        let changes = changes.lock().unwrap();
        changes.iter().filter(|c| c.cluster == *cluster && matches!(c.what, What::Gone)).count()
    };
    let value =
        |cluster: &LogicalCluster| things.get(cluster, Some("default"), "it").map(|t| t.spec.value.clone());

    step("nobody has bound: no endpoint, and in sync");
    eventually("sync", async || world.synced()).await;
    assert_eq!(world.endpoints(), []);

    step("consumers on both shards");
    let mut consumer = async |name: &str, shard: &str| -> LogicalCluster {
        let cluster = shards.workspace(name, shard).await;
        shards.bind(&format!("root:{name}"), "root:provider", "logical.example").await;
        shards.thing(&format!("root:{name}"), "it", "1").await;
        cluster.parse().unwrap()
    };
    let (here, there, doomed) = (
        consumer("here", "root").await,
        consumer("there", "shard-1").await,
        consumer("doomed", "shard-1").await,
    );
    for cluster in [&here, &there, &doomed] {
        eventually("the object", async || value(cluster).as_deref() == Some("1")).await;
        assert!(bindings.list(cluster).iter().any(|b| b.is_bound()), "{cluster}");
        assert!(!things.is_stale(cluster));
    }
    let at = |cluster: &LogicalCluster| match world.presence(cluster) {
        Presence::At(endpoint) => endpoint,
        other => panic!("{cluster} is {other:?}"),
    };
    assert_ne!(at(&here), at(&there));
    assert_eq!(at(&there), at(&doomed));
    eventually("the watches", async || world.metrics().open_watches == 4).await;

    step("writes reach their workspace, under conditions, and no other");
    let client = world.client(&there).unwrap();
    let thing = things.get(&there, Some("default"), "it").unwrap();
    let same = Preconditions {
        uid: thing.metadata.uid.as_deref(),
        resource_version: thing.metadata.resource_version.as_deref(),
    };
    client.patch_status::<Thing>(Some("default"), "it", &json!({"seen": "yes"}), same).await.unwrap();
    let again = client.patch_status::<Thing>(Some("default"), "it", &json!({"seen": "no"}), same).await;
    assert_eq!(again.unwrap_err().class(), ErrorClass::Conflict);
    let wrong =
        Preconditions { uid: Some("00000000-0000-0000-0000-000000000000"), ..Preconditions::default() };
    let other = client.delete::<Thing>(Some("default"), "it", wrong).await;
    assert_eq!(other.unwrap_err().class(), ErrorClass::Conflict);
    eventually("the status", async || {
        things
            .get(&there, Some("default"), "it")
            .is_some_and(|t| t.status.as_ref().is_some_and(|s| s.seen == "yes"))
    })
    .await;
    assert!(things.get(&doomed, Some("default"), "it").unwrap().status.is_none());

    step("an idle watch shows progress");
    let idle = std::cell::Cell::new((Instant::now(), world.metrics().events));
    eventually("progress of every watch without an event", async || {
        let (since, events) = idle.get();
        if world.metrics().events != events {
            idle.set((Instant::now(), world.metrics().events));
            return false;
        }
        let (health, quiet) = (world.health(), since.elapsed());
        health.watches.len() == 4 && health.watches.iter().all(|watch| watch.silent_for < quiet)
    })
    .await;
    assert_eq!(world.metrics().restarts, 0, "quiet is not broken");

    step("a shard stops; a workspace there is deleted meanwhile; the other shard goes on");
    shards.stop_shard_1();
    shards.delete("root", "/apis/tenancy.kcp.io/v1alpha1/workspaces/doomed").await;
    shards.set_thing("root:here", "it", "2").await;
    eventually("news from the other shard", async || value(&here).as_deref() == Some("2")).await;
    eventually("staleness", async || things.is_stale(&there)).await;
    assert!(!things.is_stale(&here));
    assert_eq!(
        (value(&there).as_deref(), value(&doomed).as_deref()),
        (Some("1"), Some("1")),
        "the cache still answers"
    );
    assert_eq!((gone(&there), gone(&doomed)), (0, 0), "cannot be seen is not deleted");

    step("the shard comes back");
    shards.start_shard_1();
    eventually("a fresh view", async || !things.is_stale(&there)).await;
    eventually("the deleted workspace's end", async || gone(&doomed) >= 2 && value(&doomed).is_none()).await;
    assert_eq!(gone(&there), 0);
    assert_eq!(world.presence(&doomed), Presence::Unknown);
    shards.set_thing("root:there", "it", "3").await;
    eventually("news from the shard", async || value(&there).as_deref() == Some("3")).await;

    step("the last binding of a shard goes, and one comes back");
    let before = at(&there);
    shards.unbind("root:there").await;
    eventually("the endpoint to go", async || world.endpoints().len() == 1).await;
    eventually("its workspace to be unknown", async || world.presence(&there) == Presence::Unknown).await;
    assert!(world.client(&there).is_none());
    assert!(value(&here).is_some() && gone(&here) == 0);
    shards.bind("root:there", "root:provider", "logical.example").await;
    shards.thing("root:there", "it", "4").await;
    eventually("the new object", async || value(&there).as_deref() == Some("4")).await;
    assert_eq!(at(&there), before);
    eventually("the watches", async || world.metrics().open_watches == 4).await;

    step("everything ends");
    shutdown.cancel();
    driver.await.unwrap().unwrap();
    assert_eq!(world.metrics().open_watches, 0);
    println!("{:?}", world.metrics());
}

fn step(what: &str) {
    eprintln!("-- {what}");
}
