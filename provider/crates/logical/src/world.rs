//! Everything the provider sees.
use std::{sync::Arc, time::Duration};

use kcp_client_rs::LogicalCluster;

use crate::{Cache, CancellationToken, Change, Endpoint, Health, Metrics, ScopedClient, Watched};

/// Where a workspace is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// At one endpoint.
    At(Endpoint),
    /// At several: it is being moved between shards. Writes go where it was seen last.
    Several(Vec<Endpoint>),
    /// At none: not known yet, or its endpoint is away. Never a reason to destroy anything.
    Unknown,
}

/// Times and sizes of the watches.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The server is asked to end each watch after this time; it goes on from where it was. An idle watch shows
    /// progress this often even where a server sends no bookmarks.
    pub watch: Duration,
    /// A request or watch that says nothing for so long is cut and started again. Longer than `watch`.
    pub silence: Duration,
    /// Objects per page of a list.
    pub page: u32,
    /// Pause after a first failure; doubles with each further one.
    pub retry_first: Duration,
    /// Longest pause.
    pub retry_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(20),
            silence: Duration::from_secs(28),
            page: 500,
            retry_first: Duration::from_millis(50),
            retry_limit: Duration::from_secs(5),
        }
    }
}

/// Why the world cannot be built or ended.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The configuration makes no client.
    #[error("could not make a client for the provider workspace")]
    Client(#[source] kube::Error),
    /// A task that watches ended unexpectedly: the cache can no longer be trusted, the process should end.
    #[error("a watch task ended unexpectedly")]
    Task(#[source] tokio::task::JoinError),
}

/// Says what is watched.
pub struct Builder;

/// All workspaces that bound the export. Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<()>);

/// The one future behind a [`World`]; nothing moves until it is polled. To be joined by the binary.
pub struct Driver(World);

#[allow(unused_variables, clippy::unused_async)]
impl Builder {
    /// Watch a kind. `trim` runs on every object before it is stored: drop there what is never read.
    pub fn watch<K: Watched>(&mut self, trim: fn(&mut K)) -> Cache<K> { todo!() }
    /// Called for every change, after it is in the cache, by the task that put it there: be quick, for example add
    /// a key to a queue.
    pub fn on_change(&mut self, notice: impl Fn(Change) + Send + Sync + 'static) -> &mut Self { todo!() }
    /// Other times and sizes than the default.
    pub fn timing(&mut self, timing: Timing) -> &mut Self { todo!() }
    /// Everything is said.
    pub fn build(self) -> Result<(World, Driver), WorldError> { todo!() }
}

#[allow(unused_variables, clippy::unused_async)]
impl World {
    /// Starts to say what is watched. `provider_workspace` must point to the workspace of the export
    /// (`https://HOST/clusters/root:providers:openkcm`); its credentials and CA serve for the endpoints too.
    pub fn builder(provider_workspace: kube::Config, slice: impl Into<String>) -> Builder { todo!() }
    /// Where a workspace is seen.
    pub fn presence(&self, cluster: &LogicalCluster) -> Presence { todo!() }
    /// A client for a workspace, if it is seen anywhere.
    pub fn client(&self, cluster: &LogicalCluster) -> Option<ScopedClient> { todo!() }
    /// The endpoints that the slice names now.
    pub fn endpoints(&self) -> Vec<Endpoint> { todo!() }
    /// Has every kind been listed at every endpoint that the slice names?
    pub fn synced(&self) -> bool { todo!() }
    /// Waits for [`World::synced`]. A dead endpoint holds this up: do not wait with work for a single workspace.
    pub async fn wait_synced(&self) { todo!() }
    /// How each watch is doing.
    pub fn health(&self) -> Health { todo!() }
    /// Plain numbers.
    pub fn metrics(&self) -> Metrics { todo!() }
}

#[allow(unused_variables, clippy::unused_async)]
impl Driver {
    /// Watches until `shutdown`; every task it started has ended when it returns.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorldError> { todo!() }
}
