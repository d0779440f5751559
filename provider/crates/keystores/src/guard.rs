//! What stands between an Account and a store that is slow, dead or tired.
//!
//! Every call has a deadline. Calls to one *place* (a vault; an AWS region and account; a Google project; a token; each under one identity)
//! share a limit of calls under way, a circuit breaker that opens after three calls in a row without an answer, and a pause when the store
//! asks for fewer calls. A refused call costs nothing and says when to try again. Nothing waits in line here for longer than a moment: the
//! caller's worker is free for the next Account.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kcp_client_rs::LogicalCluster;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{CloudCalls, Error, Operation, Reason, Result, StoreKind, config::LimitsConfig, messages};

/// Calls without an answer before the breaker opens.
const TOLERATED: u32 = 3;
/// Longest pause, so that a store that is back is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a call may wait for others to the same place.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// Places and workspaces remembered; beyond it the idle ones are forgotten.
const REMEMBERED: usize = 4096;

/// See the module.
pub(crate) struct Guard {
    limits: LimitsConfig,
    calls: Arc<CloudCalls>,
    places: Mutex<HashMap<Arc<str>, Arc<Place>>>,
    workspaces: Mutex<HashMap<LogicalCluster, Arc<Semaphore>>>,
}

struct Place {
    slots: Arc<Semaphore>,
    health: Mutex<Health>,
}

/// `silent` and `throttled` count in a row. `paused` names why and until when.
#[derive(Default)]
struct Health {
    silent: u32,
    throttled: u32,
    paused: Option<(Reason, Instant)>,
    trying: bool,
}

impl Health {
    /// Whether a call may go out now. After a pause one call tries for all.
    fn admit(&mut self, now: Instant) -> std::result::Result<(), (Reason, Duration)> {
        match self.paused {
            None => Ok(()),
            Some((reason, until)) if now < until => Err((reason, until - now)),
            Some((reason, _)) if self.trying => Err((reason, Duration::from_secs(1))),
            Some(_) => {
                self.trying = true;
                Ok(())
            }
        }
    }

    fn learn(&mut self, now: Instant, error: Option<&Error>) {
        self.trying = false;
        match error.map(|error| (error.reason, error.retry_after)) {
            Some((Reason::Throttled, asked)) => {
                self.throttled = self.throttled.saturating_add(1);
                let pause = asked.unwrap_or_else(|| pause(self.throttled)).min(LONGEST_PAUSE);
                self.paused = Some((Reason::Throttled, now + pause));
            }
            Some((reason @ (Reason::Unreachable | Reason::Timeout), _)) => {
                self.silent = self.silent.saturating_add(1);
                self.paused =
                    (self.silent >= TOLERATED).then(|| (reason, now + pause(self.silent - TOLERATED + 1)));
            }
            // Any other answer, also a refusal, shows that the store is there.
            _ => *self = Self::default(),
        }
    }
}

/// 1, 2, 4 … seconds.
fn pause(times: u32) -> Duration {
    Duration::from_secs(1 << (times - 1).min(6)).min(LONGEST_PAUSE)
}

/// Gives the breaker's one try back when the caller goes away in the middle.
struct Try<'a>(&'a Place);

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.0.health().trying = false;
    }
}

impl Place {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    pub(crate) fn new(limits: LimitsConfig, calls: Arc<CloudCalls>) -> Self {
        Self { limits, calls, places: Mutex::default(), workspaces: Mutex::default() }
    }

    /// Makes one call, or says why not now.
    pub(crate) async fn call<T>(
        &self,
        kind: StoreKind,
        operation: Operation,
        place: &Arc<str>,
        workspace: &LogicalCluster,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let _workspace = self.workspace_slot(kind, workspace)?;
        let place = self.place(place);
        let _slot = match timeout(LONGEST_WAIT, Arc::clone(&place.slots).acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            _ => return Err(busy(kind)),
        };
        let admitted = place.health().admit(Instant::now());
        if let Err((reason, wait)) = admitted {
            return Err(Error::new(reason, messages::explain(kind, reason, operation)).with_retry_after(wait));
        }
        let trying = Try(&place);
        let result = match timeout(self.limits.deadline, call).await {
            Ok(result) => result,
            Err(elapsed) => {
                Err(Error::new(Reason::Timeout, messages::explain(kind, Reason::Timeout, operation)).with_source(elapsed))
            }
        };
        self.calls.count(kind, operation, result.as_ref().err().map(|error| error.reason));
        place.health().learn(Instant::now(), result.as_ref().err());
        drop(trying);
        result
    }

    fn workspace_slot(&self, kind: StoreKind, workspace: &LogicalCluster) -> Result<OwnedSemaphorePermit> {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        if workspaces.len() >= REMEMBERED {
            workspaces.retain(|_, slots| Arc::strong_count(slots) > 1);
        }
        let slots = workspaces
            .entry(workspace.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(self.limits.per_workspace)));
        Arc::clone(slots).try_acquire_owned().map_err(|_| busy(kind))
    }

    fn place(&self, name: &Arc<str>) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= REMEMBERED {
            let now = Instant::now();
            // What is paused stays: forgetting it would close its breaker.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.health().paused.is_some_and(|(_, until)| now < until)
            });
        }
        Arc::clone(places.entry(Arc::clone(name)).or_insert_with(|| {
            Arc::new(Place { slots: Arc::new(Semaphore::new(self.limits.per_endpoint)), health: Mutex::default() })
        }))
    }
}

/// Our own limit, in the words of a store's limit: the effect is the same.
fn busy(kind: StoreKind) -> Error {
    Error::new(Reason::Throttled, messages::explain(kind, Reason::Throttled, Operation::Describe))
        .with_retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::future::pending;

    use super::*;

    fn guard() -> Guard {
        Guard::new(LimitsConfig { per_endpoint: 2, per_workspace: 3, ..LimitsConfig::default() }, Arc::default())
    }

    fn place(name: &str) -> Arc<str> {
        name.into()
    }

    async fn call(guard: &Guard, at: &str, workspace: &str, outcome: Option<Reason>) -> Result<()> {
        let answer = outcome.map_or(Ok(()), |reason| Err(Error::new(reason, "")));
        let workspace = workspace.parse().unwrap();
        guard.call(StoreKind::AwsKms, Operation::Wrap, &place(at), &workspace, async { answer }).await
    }

    fn reason<T>(result: Result<T>) -> Option<Reason> {
        result.err().map(|error| error.reason)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_costs_the_deadline_and_then_nothing_until_it_is_tried_again() {
        let guard = guard();
        let hang = || async {
            let cluster = "a".parse().unwrap();
            guard
                .call(StoreKind::AwsKms, Operation::Wrap, &place("dead"), &cluster, pending::<Result<()>>())
                .await
        };
        for _ in 0..TOLERATED {
            assert_eq!(reason(hang().await), Some(Reason::Timeout));
        }
        let calls = guard.calls.total();
        let refused = hang().await.unwrap_err();
        assert_eq!((refused.reason, guard.calls.total()), (Reason::Timeout, calls), "the open breaker makes no call");
        assert!(refused.retry_after.is_some_and(|after| after <= LONGEST_PAUSE));
        assert_eq!(reason(call(&guard, "alive", "a", None).await), None, "another place is not affected");

        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(reason(call(&guard, "dead", "b", None).await), None, "one try after the pause closes the breaker");
        assert_eq!(reason(call(&guard, "dead", "a", None).await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_in_the_one_try_does_not_keep_the_breaker_open() {
        let guard = guard();
        for _ in 0..TOLERATED {
            let _ = call(&guard, "p", "a", Some(Reason::Unreachable)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (name, cluster) = (place("p"), "a".parse().unwrap());
        let abandoned = guard.call(StoreKind::AwsKms, Operation::Wrap, &name, &cluster, pending::<Result<()>>());
        assert!(timeout(Duration::from_millis(10), abandoned).await.is_err());
        assert_eq!(reason(call(&guard, "p", "a", None).await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_pauses_for_as_long_as_the_store_asks_and_a_refusal_does_not() {
        let guard = guard();
        let cluster = "a".parse().unwrap();
        let asked = Duration::from_secs(7);
        let answer = async { Err::<(), _>(Error::new(Reason::Throttled, "").with_retry_after(asked)) };
        let _ = guard.call(StoreKind::GcpKms, Operation::Wrap, &place("p"), &cluster, answer).await;
        let refused = call(&guard, "p", "a", None).await.unwrap_err();
        assert_eq!((refused.reason, refused.retry_after), (Reason::Throttled, Some(asked)));
        tokio::time::sleep(asked).await;
        for _ in 0..10 {
            assert_eq!(reason(call(&guard, "p", "a", Some(Reason::AccessDenied)).await), Some(Reason::AccessDenied));
        }
        assert_eq!(reason(call(&guard, "p", "a", None).await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_workspace_with_many_slow_stores_is_stopped_at_its_limit_and_alone() {
        let guard = guard();
        let cluster: LogicalCluster = "greedy".parse().unwrap();
        let names: Vec<_> = (0..3).map(|n| place(&format!("slow-{n}"))).collect();
        let slow = names.iter().map(|name| {
            guard.call(StoreKind::AzureKeyVault, Operation::Wrap, name, &cluster, pending::<Result<()>>())
        });
        let slow = futures::future::join_all(slow);
        let others = async {
            tokio::task::yield_now().await;
            assert_eq!(reason(call(&guard, "fine", "greedy", None).await), Some(Reason::Throttled));
            assert_eq!(reason(call(&guard, "fine", "modest", None).await), None);
        };
        let (ended, ()) = futures::join!(slow, others);
        assert!(ended.into_iter().all(|result| reason(result) == Some(Reason::Timeout)));
        assert_eq!(reason(call(&guard, "fine", "greedy", None).await), None, "the slots are free again");
    }

    #[tokio::test(start_paused = true)]
    async fn hostile_numbers_of_places_are_forgotten() {
        let guard = guard();
        for n in 0..REMEMBERED + 10 {
            let _ = call(&guard, &format!("p{n}"), &format!("w{n}"), None).await;
        }
        assert!(guard.places.lock().unwrap().len() <= REMEMBERED);
        assert!(guard.workspaces.lock().unwrap().len() <= REMEMBERED);
    }
}
