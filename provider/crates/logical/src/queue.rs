//! A work queue that is fair between workspaces. The rules are in [`Core`], which knows no clock and no task; here
//! are the workers.

use std::{
    fmt::Debug,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use kcp_client_rs::LogicalCluster;
use tokio::{sync::Notify, task::JoinSet};
use tracing::warn;

use crate::{CancellationToken, chain, queue_core::Core};

/// A key that belongs to a lane; lanes take turns. The natural lane is the logical cluster.
pub trait Laned {
    /// The lane.
    type Lane: Clone + Eq + Hash + Send + 'static;
    /// The key's lane; always the same for equal keys.
    fn lane(&self) -> Self::Lane;
}

impl Laned for LogicalCluster {
    type Lane = Self;
    fn lane(&self) -> Self {
        self.clone()
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing to do until the key is added again.
    Done,
    /// Fine; look again after this time.
    After(Duration),
    /// Failed (the queue logs why): again after the key's back-off, which doubles with each failure in a row.
    Retry(Box<dyn std::error::Error + Send + Sync>),
}

/// The back-off of a failing key. Each pause is up to doubled at random, so that keys that failed together do not
/// come back together.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// After the first failure.
    pub first: Duration,
    /// Longest pause before the random part.
    pub limit: Duration,
}

/// The first pause is short: kcp may say "not found" for a moment of a kind that has just been bound.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(20), limit: Duration::from_mins(5) }
    }
}

impl RetryPolicy {
    fn pause(self, failures: u32) -> Duration {
        // 2^40 times anything is over any limit.
        let pauses = ExponentialBuilder::default().with_min_delay(self.first).with_max_delay(self.limit);
        let nth = failures.clamp(1, 40) as usize - 1;
        pauses.with_jitter().without_max_times().build().nth(nth).unwrap_or(self.limit)
    }
}

/// Numbers of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Keys that wait for a worker.
    pub ready: usize,
    /// Keys that wait for a time (they may be ready or running as well).
    pub delayed: usize,
    /// Keys that run.
    pub running: usize,
    /// Runs begun so far.
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
pub struct Queue<K: Laned>(Arc<Inner<K>>);

struct Inner<K: Laned> {
    core: Mutex<Core<K>>,
    retry: RetryPolicy,
    /// Rung once for each key that became ready, and when an earlier due time was set.
    bell: Notify,
}

impl<K: Laned> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Laned + Clone + Eq + Hash + Debug + Send + 'static> Default for Queue<K> {
    fn default() -> Self {
        Self::new(RetryPolicy::default())
    }
}

impl<K: Laned + Clone + Eq + Hash + Debug + Send + 'static> Queue<K> {
    /// An empty queue. [`Default`] backs off from 20 ms to 5 minutes.
    pub fn new(retry: RetryPolicy) -> Self {
        Self(Arc::new(Inner { core: Mutex::new(Core::default()), retry, bell: Notify::new() }))
    }

    fn core(&self) -> MutexGuard<'_, Core<K>> {
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Run the key as soon as its lane's turn comes.
    pub fn add(&self, key: K) {
        self.core().add(key);
        self.0.bell.notify_one();
    }

    /// Run the key after a time; of several times the earliest holds.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.core().add_at(key, Instant::now() + delay);
        self.0.bell.notify_one();
    }

    /// Its numbers.
    pub fn stats(&self) -> QueueStats {
        self.core().stats()
    }

    /// Runs until `shutdown`, then waits for the runs that are under way. To be called once per queue.
    pub async fn run<F, Fut>(
        &self,
        workers: usize,
        shutdown: CancellationToken,
        work: F,
    ) -> Result<(), QueueError>
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let work = Arc::new(work);
        // One worker's panic must not let the others go on for ever.
        let stop = shutdown.child_token();
        let mut tasks = JoinSet::new();
        for _ in 0..workers.max(1) {
            tasks.spawn(self.clone().worker(stop.clone(), work.clone()));
        }
        let mut failed = None;
        while let Some(joined) = tasks.join_next().await {
            if let Err(error) = joined {
                stop.cancel();
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), |error| Err(QueueError(error)))
    }

    async fn worker<F, Fut>(self, stop: CancellationToken, work: Arc<F>)
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        loop {
            if stop.is_cancelled() {
                return;
            }
            let (key, due, more) = {
                let mut core = self.core();
                let key = core.take(Instant::now());
                (key, core.next_due(), core.has_ready())
            };
            if more {
                self.0.bell.notify_one(); // a colleague may be asleep
            }
            let Some(key) = key else {
                let due = due.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.0.bell.notified() => {}
                    () = tokio::time::sleep_until(due.into()) => {}
                }
                continue;
            };
            let outcome = work(key.clone()).await;
            let mut core = self.core();
            match outcome {
                Outcome::Done => core.done(key, None),
                Outcome::After(delay) => core.done(key, Some(Instant::now() + delay)),
                Outcome::Retry(error) => {
                    let failures = core.failures(&key) + 1;
                    let pause = self.0.retry.pause(failures);
                    core.failed(key.clone(), Instant::now() + pause);
                    drop(core);
                    warn!(?key, failures, retry_in = ?pause, error = chain(error.as_ref()), "failed, trying again");
                }
            }
        }
    }
}
