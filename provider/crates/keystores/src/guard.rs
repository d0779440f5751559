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
        let Ok(Ok(_slot)) = timeout(LONGEST_WAIT, Arc::clone(&place.slots).acquire_owned()).await else {
            return Err(busy(kind));
        };
        let admitted = place.health().admit(Instant::now());
        if let Err((reason, wait)) = admitted {
            return Err(Error::new(reason, messages::explain(kind, reason, operation)).with_retry_after(wait));
        }
        let trying = Try(&place);
        let result = match timeout(self.limits.deadline, call).await {
            Ok(result) => result,
            Err(elapsed) => {
                Err(Error::new(Reason::Timeout, messages::explain(kind, Reason::Timeout, operation))
                    .with_source(&elapsed))
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
            Arc::new(Place {
                slots: Arc::new(Semaphore::new(self.limits.per_endpoint)),
                health: Mutex::default(),
            })
        }))
    }
}

/// Our own limit, in the words of a store's limit for who cannot wait.
fn busy(kind: StoreKind) -> Error {
    let message = messages::explain(kind, Reason::Throttled, Operation::Describe);
    let mut error = Error::new(Reason::Throttled, message).with_retry_after(Duration::from_secs(1));
    error.is_ours = true;
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::future::pending;

    use super::*;

    fn guard() -> Guard {
        let limits = LimitsConfig { deadline: Duration::from_millis(20), per_endpoint: 2, per_workspace: 3 };
        Guard::new(limits, Arc::default())
    }

    fn place(name: &str) -> Arc<str> {
        name.into()
    }

    async fn call(guard: &Guard, at: &str, workspace: &str, outcome: Option<Reason>) -> Result<()> {
        let answer = outcome.map_or(Ok(()), |reason| Err(Error::new(reason, "")));
        let workspace = workspace.parse().unwrap();
        guard.call(StoreKind::AwsKms, Operation::Wrap, &place(at), &workspace, async { answer }).await
    }

    async fn hang(guard: &Guard, at: &str, workspace: &str) -> Result<()> {
        let workspace = workspace.parse().unwrap();
        guard.call(StoreKind::AwsKms, Operation::Wrap, &place(at), &workspace, pending()).await
    }

    fn reason<T>(result: Result<T>) -> Option<Reason> {
        result.err().map(|error| error.reason)
    }

    fn fails(health: &mut Health, now: Instant, reason: Reason, after: Option<u64>) {
        let mut error = Error::new(reason, "");
        error.retry_after = after.map(Duration::from_secs);
        health.learn(now, Some(&error));
    }

    #[tokio::test]
    async fn a_store_that_hangs_costs_the_deadline_and_then_nothing() {
        let guard = guard();
        for _ in 0..TOLERATED {
            assert_eq!(reason(hang(&guard, "dead", "a").await), Some(Reason::Timeout));
        }
        let calls = guard.calls.total();
        let refused = hang(&guard, "dead", "a").await.unwrap_err();
        assert_eq!(
            (refused.reason, guard.calls.total()),
            (Reason::Timeout, calls),
            "the open breaker makes no call"
        );
        assert!(refused.retry_after.is_some_and(|after| after <= LONGEST_PAUSE));
        assert_eq!(reason(call(&guard, "alive", "a", None).await), None, "another place is not affected");
    }

    #[test]
    fn after_the_pause_one_call_tries_for_all() {
        let (mut health, start) = (Health::default(), Instant::now());
        for silent in 1..=TOLERATED {
            assert_eq!(health.admit(start), Ok(()), "after {silent} silent calls");
            fails(&mut health, start, Reason::Unreachable, None);
        }
        assert_eq!(health.admit(start), Err((Reason::Unreachable, Duration::from_secs(1))));
        let later = start + Duration::from_secs(1);
        assert_eq!(health.admit(later), Ok(()));
        assert!(health.admit(later).is_err(), "only one at a time");
        fails(&mut health, later, Reason::Unreachable, None);
        assert_eq!(
            health.admit(later),
            Err((Reason::Unreachable, Duration::from_secs(2))),
            "the pause doubles"
        );
        let later = later + Duration::from_secs(2);
        assert_eq!(health.admit(later), Ok(()));
        health.learn(later, None);
        assert_eq!(
            (health.admit(later), health.admit(later)),
            (Ok(()), Ok(())),
            "one answer closes the breaker"
        );
    }

    #[test]
    fn pauses_end() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for _ in 0..1000 {
            fails(&mut health, now, Reason::Timeout, None);
            now += LONGEST_PAUSE;
            assert_eq!(health.admit(now), Ok(()));
        }
    }

    #[test]
    fn throttling_pauses_for_as_long_as_the_store_asks_and_a_refusal_does_not() {
        let (mut health, now) = (Health::default(), Instant::now());
        fails(&mut health, now, Reason::Throttled, Some(7));
        assert_eq!(health.admit(now), Err((Reason::Throttled, Duration::from_secs(7))));
        let now = now + Duration::from_secs(7);
        assert_eq!(health.admit(now), Ok(()));
        for _ in 0..10 {
            fails(&mut health, now, Reason::AccessDenied, None);
            assert_eq!(health.admit(now), Ok(()), "the store is there and said no");
        }
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_in_the_one_try_does_not_keep_the_breaker_open() {
        let guard = guard();
        for _ in 0..TOLERATED {
            assert_eq!(
                reason(call(&guard, "p", "a", Some(Reason::Unreachable)).await),
                Some(Reason::Unreachable)
            );
        }
        guard.place(&place("p")).health().paused = Some((Reason::Unreachable, Instant::now()));
        let (name, cluster) = (place("p"), "a".parse().unwrap());
        let abandoned =
            guard.call(StoreKind::AwsKms, Operation::Wrap, &name, &cluster, pending::<Result<()>>());
        assert!(
            futures::FutureExt::now_or_never(abandoned).is_none(),
            "it was under way when it was dropped"
        );
        assert_eq!(reason(call(&guard, "p", "a", None).await), None);
    }

    #[tokio::test]
    async fn a_workspace_with_many_slow_stores_is_stopped_at_its_limit_and_alone() {
        let guard = guard();
        let names: Vec<_> = (0..3).map(|n| format!("slow-{n}")).collect();
        let slow = futures::future::join_all(names.iter().map(|name| hang(&guard, name, "greedy")));
        let others = async {
            assert_eq!(reason(call(&guard, "fine", "greedy", None).await), Some(Reason::Throttled));
            assert_eq!(reason(call(&guard, "fine", "modest", None).await), None);
        };
        let (ended, ()) = futures::join!(slow, others);
        assert!(ended.into_iter().all(|result| reason(result) == Some(Reason::Timeout)));
        assert_eq!(reason(call(&guard, "fine", "greedy", None).await), None, "the slots are free again");
    }

    #[tokio::test]
    async fn hostile_numbers_of_places_are_forgotten() {
        let guard = guard();
        for n in 0..REMEMBERED + 10 {
            assert_eq!(reason(call(&guard, &format!("p{n}"), &format!("w{n}"), None).await), None);
        }
        assert!(guard.places.lock().unwrap().len() <= REMEMBERED);
        assert!(guard.workspaces.lock().unwrap().len() <= REMEMBERED);
    }
}
