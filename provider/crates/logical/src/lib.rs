//! kcp in kube-rs terms: one program that serves every workspace that bound its `APIExport`.
//!
//! A provider on kcp looks at *all* consumer workspaces through a few virtual-workspace endpoints (one per shard
//! that has consumers) and writes into *one* workspace at a time. kube-rs knows one API server and one flat
//! (namespace, name) space; this crate adds what lies between:
//!
//! * [`World`] follows the `APIExportEndpointSlice` and keeps one list+watch per kind **and endpoint**, whatever
//!   the number of workspaces;
//! * [`Cache`] holds typed, trimmed objects by logical cluster, then namespace and name; as [`Packed`], a tenth of
//!   the size, for fleets;
//! * [`Presence`] says where a workspace is seen: at an endpoint, at several, or nowhere. Nowhere is *unknown*, and
//!   never means "deleted": only an endpoint that is in sync can say that an object is [`What::Gone`];
//! * [`Queue`] runs work by key: each key once at a time, workspaces in turn, back-off per key;
//! * [`ScopedClient`] reads and writes in one workspace and cannot name another; [`Recorder`] puts events there;
//! * [`Membership`] and [`owner`] share workspaces out over replicas.
//!
//! ```no_run
//! use std::time::Duration;
//! use k8s_openapi::api::core::v1::ConfigMap; // stands for a kind of your own
//! use kcp_client_rs::LogicalCluster;
//! use openkcm_logical::{CancellationToken, Outcome, Queue, What, World, trim_metadata};
//!
//! # async fn provider(provider_workspace: kube::Config) -> Result<(), Box<dyn std::error::Error>> {
//! let shutdown = CancellationToken::new();
//! let queue: Queue<LogicalCluster> = Queue::default();
//!
//! let mut builder = World::builder(provider_workspace, "openkcm.io"); // the APIExportEndpointSlice's name
//! let things = builder.watch::<ConfigMap>(trim_metadata);
//! let to_queue = queue.clone();
//! builder.on_change(move |change| {
//!     if let What::Undecodable(why) = &change.what {
//!         tracing::warn!(cluster = %change.cluster, name = %change.name, %why, "object does not fit its schema");
//!     }
//!     to_queue.add(change.cluster);
//! });
//! let (world, driver) = builder.build()?;
//!
//! let (at, cache) = (world.clone(), things.clone());
//! let work = queue.run(8, shutdown.clone(), move |cluster: LogicalCluster| {
//!     let (at, cache) = (at.clone(), cache.clone());
//!     async move {
//!         let Some(client) = at.client(&cluster) else {
//!             return Outcome::After(Duration::from_secs(30)); // seen nowhere: unknown, decide nothing
//!         };
//!         for thing in cache.list(&cluster) {
//!             let name = thing.metadata.name.as_deref().unwrap_or_default();
//!             let namespace = thing.metadata.namespace.as_deref();
//!             let patch = serde_json::json!({"data": {"seen": "yes"}});
//!             if let Err(e) = client.patch_merge::<ConfigMap>(namespace, name, &patch).await {
//!                 return Outcome::Retry(e.into());
//!             }
//!         }
//!         Outcome::Done
//!     }
//! });
//! tokio::try_join!(
//!     async { driver.run(shutdown.clone()).await.map_err(Box::<dyn std::error::Error>::from) },
//!     async { work.await.map_err(Box::<dyn std::error::Error>::from) },
//! )?;
//! # Ok(()) }
//! ```
#![warn(missing_docs)]

mod cache;
mod chain;
mod change;
mod claims;
mod client;
mod driver;
mod endpoint;
mod health;
mod membership;
mod packed;
mod queue;
mod queue_core;
mod recorder;
mod slots;
mod store;
mod trim;
mod watch;
mod wire;
mod world;

pub use cache::{Cache, Lookup};
pub use chain::chain;
pub use change::{Change, Kind, Watched, What};
pub use client::{ClientError, ErrorClass, Preconditions, Readable, SPANS, ScopedClient};
pub use driver::Driver;
pub use endpoint::Endpoint;
pub use health::{Health, Metrics, State, WatchHealth};
pub use membership::{Membership, MembershipError, MembershipOptions};
pub use packed::Packed;
pub use queue::{Laned, Outcome, Queue, QueueError, QueueStats, RetryPolicy};
pub use recorder::{EventType, Recorder, RecorderDriver};
pub use slots::owner;
pub use tokio_util::sync::CancellationToken;
pub use trim::trim_metadata;
pub use world::{Builder, Presence, Timing, World, WorldError};
