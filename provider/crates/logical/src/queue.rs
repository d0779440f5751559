//! A work queue that is fair between workspaces.
use std::{collections::HashMap, future::Future, hash::Hash, sync::{Arc, Mutex}, time::Duration};

use kcp_client_rs::LogicalCluster;

use crate::CancellationToken;

/// A key that belongs to a lane; lanes take turns. The natural lane is the logical cluster.
pub trait Laned {
    /// The lane.
    type Lane: Clone + Eq + Hash + Send + 'static;
    /// The key's lane; always the same for equal keys.
    fn lane(&self) -> Self::Lane;
}

impl Laned for LogicalCluster {
    type Lane = Self;
    fn lane(&self) -> Self { self.clone() }
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing to do until the key is added again.
    Done,
    /// Fine; look again after this time.
    After(Duration),
    /// Failed: again after the key's back-off, which doubles with each failure in a row.
    Retry(Box<dyn std::error::Error + Send + Sync>),
}

/// The back-off of a failing key.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// After the first failure.
    pub first: Duration,
    /// Never longer.
    pub limit: Duration,
}

/// Numbers of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Keys that wait for a worker.
    pub ready: usize,
    /// Keys that wait for a time.
    pub delayed: usize,
    /// Keys that run.
    pub running: usize,
    /// Runs so far.
    pub runs: u64,
    /// Runs that ended in [`Outcome::Retry`].
    pub failures: u64,
}

/// A run of a key panicked, so the state of its work is not known: the process should end.
#[derive(Debug, thiserror::Error)]
#[error("a worker of the queue ended unexpectedly")]
pub struct QueueError(#[source] tokio::task::JoinError);

/// Work by key: deduplicated, never the same key twice at once (an add during its run makes it run again after),
/// lanes in turn, a bounded number of workers. Cheap to clone.
pub struct Queue<K: Laned>(Arc<Mutex<HashMap<K::Lane, K>>>);

impl<K: Laned> Clone for Queue<K> { fn clone(&self) -> Self { Self(self.0.clone()) } }
impl<K: Laned + Clone + Eq + Hash + std::fmt::Debug + Send + 'static> Default for Queue<K> { fn default() -> Self { todo!() } }

#[allow(unused_variables, clippy::unused_async)]
impl<K: Laned + Clone + Eq + Hash + std::fmt::Debug + Send + 'static> Queue<K> {
    /// An empty queue. [`Default`] backs off from 100 ms to 5 minutes.
    pub fn new(retry: RetryPolicy) -> Self { todo!() }
    /// Run the key as soon as its lane's turn comes.
    pub fn add(&self, key: K) { todo!() }
    /// Run the key after a time; of several times the earliest holds.
    pub fn add_after(&self, key: K, delay: Duration) { todo!() }
    /// Runs until `shutdown`, then waits for the runs that are under way.
    pub async fn run<F, Fut>(&self, workers: usize, shutdown: CancellationToken, work: F) -> Result<(), QueueError>
    where F: Fn(K) -> Fut + Send + Sync + 'static, Fut: Future<Output = Outcome> + Send + 'static { todo!() }
    /// Its numbers.
    pub fn stats(&self) -> QueueStats { todo!() }
}
