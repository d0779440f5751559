//! A world on a mock.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use openkcm_logical::{
    Cache, CancellationToken, Change, Endpoint, State, Timing, What, World, WorldError, trim_metadata,
};
use tokio::task::JoinHandle;

use crate::mock::Mock;

/// Fast enough for tests. Nothing is asserted about how long anything takes.
pub const TIMING: Timing = Timing {
    watch: Duration::from_secs(1),
    silence: Duration::from_millis(1500),
    page: 3,
    retry_first: Duration::from_millis(5),
    retry_limit: Duration::from_millis(100),
};

pub struct Stage {
    pub mock: Mock,
    pub world: World,
    pub maps: Cache<ConfigMap>,
    pub secrets: Cache<Secret>,
    pub changes: Arc<Mutex<Vec<Change>>>,
    pub shutdown: CancellationToken,
    pub driver: Option<JoinHandle<Result<(), WorldError>>>,
}

impl Stage {
    /// ConfigMaps and Secrets are watched; `prepare` runs before.
    pub async fn new(prepare: impl FnOnce(&Mock)) -> Self {
        Self::with(TIMING, prepare).await
    }

    pub async fn with(timing: Timing, prepare: impl FnOnce(&Mock)) -> Self {
        let mock = Mock::start().await;
        prepare(&mock);
        let mut builder = World::builder(mock.config(), "openkcm.io");
        let maps = builder.watch::<ConfigMap>(trim_metadata);
        let secrets = builder.watch::<Secret>(trim_metadata);
        let changes: Arc<Mutex<Vec<Change>>> = Arc::default();
        let log = changes.clone();
        builder.on_change(move |change| {
            assert_ne!(change.cluster.as_str(), "panic", "on purpose");
            log.lock().unwrap().push(change);
        });
        builder.timing(timing);
        let (world, driver) = builder.build().unwrap();
        let shutdown = CancellationToken::new();
        let driver = Some(tokio::spawn(driver.run(shutdown.clone())));
        Self { mock, world, maps, secrets, changes, shutdown, driver }
    }

    pub async fn synced(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.world.wait_synced()).await.expect("in sync");
    }

    /// What was told of a workspace, in order: `applied NAME`, `gone NAME`, `bad NAME`.
    pub fn changes_of(&self, cluster: &str) -> Vec<String> {
        let changes = self.changes.lock().unwrap();
        let of = changes.iter().filter(|change| change.cluster.as_str() == cluster);
        of.map(|change| {
            let what = match change.what {
                What::Applied => "applied",
                What::Gone => "gone",
                What::Undecodable(_) => "bad",
            };
            format!("{what} {}", change.name)
        })
        .collect()
    }

    pub fn value(&self, cluster: &str, name: &str) -> Option<String> {
        let map = self.maps.get(&cluster.parse().unwrap(), Some("ns"), name)?;
        map.data.as_ref()?.get("value").cloned()
    }

    pub fn endpoint(&self, shard: &str) -> Endpoint {
        let url = self.mock.url(shard);
        self.world.endpoints().into_iter().find(|endpoint| endpoint.url() == url).expect("listed")
    }

    pub fn state(&self, shard: &str, kind: &str) -> Option<State> {
        let url = self.mock.url(shard);
        let health = self.world.health();
        health.watches.into_iter().find(|w| w.endpoint.url() == url && w.kind.name() == kind).map(|w| w.state)
    }

    /// A clean end: every task joined, nothing open.
    pub async fn end(mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.driver.take().unwrap()).await;
        ended.expect("shutdown").expect("no panic").expect("no error");
        assert_eq!(self.world.metrics().open_watches, 0);
    }
}

/// Waits for something that must come true; how long it takes says nothing.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
