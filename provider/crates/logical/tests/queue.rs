//! The queue with real workers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use openkcm_logical::{CancellationToken, Laned, Outcome, Queue, RetryPolicy};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(u32, u32);

impl Laned for Key {
    type Lane = u32;
    fn lane(&self) -> u32 {
        self.0
    }
}

const QUICK: RetryPolicy = RetryPolicy { first: Duration::from_millis(1), limit: Duration::from_millis(10) };

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_key_runs_never_twice_at_once_and_within_the_workers() {
    let (queue, stop) = (Queue::<Key>::new(QUICK), CancellationToken::new());
    let running: Arc<Mutex<HashMap<Key, usize>>> = Arc::default();
    let (most, failures) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work = {
        let (running, most, failures, queue, stop) =
            (running.clone(), most.clone(), failures.clone(), queue.clone(), stop.clone());
        move |key: Key| {
            let (running, most, failures, queue, stop) =
                (running.clone(), most.clone(), failures.clone(), queue.clone(), stop.clone());
            async move {
                {
                    let mut running = running.lock().unwrap();
                    assert!(running.insert(key.clone(), 1).is_none(), "{key:?} runs twice at once");
                    most.fetch_max(running.len(), SeqCst);
                }
                queue.add(key.clone()); // during its own run: runs again after
                tokio::task::yield_now().await;
                running.lock().unwrap().remove(&key);
                if queue.stats().runs > 5_000 {
                    stop.cancel();
                }
                if key.1 == 0 && failures.fetch_add(1, SeqCst) < 5 {
                    return Outcome::Retry("on purpose".into());
                }
                Outcome::After(Duration::from_millis(1))
            }
        }
    };
    (0..40).for_each(|n| queue.add(Key(n % 4, n)));
    queue.run(3, stop, work).await.unwrap();
    let most = most.load(SeqCst);
    assert!((1..=3).contains(&most), "{most}");
    assert_eq!(queue.stats().running, 0, "who was running was waited for");
    assert!(queue.stats().failures >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_keys_come_and_failing_keys_come_back() {
    let (queue, stop) = (Queue::<Key>::new(QUICK), CancellationToken::new());
    let log: Arc<Mutex<Vec<Key>>> = Arc::default();
    queue.add_after(Key(1, 1), Duration::from_millis(20));
    queue.add_after(Key(1, 2), Duration::from_secs(3600));
    queue.add_after(Key(1, 2), Duration::from_millis(1)); // the earlier holds
    let (seen, done) = (log.clone(), stop.clone());
    let work = move |key: Key| {
        let mut log = seen.lock().unwrap();
        log.push(key.clone());
        let tries = log.iter().filter(|k| **k == key).count();
        if log.iter().filter(|k| k.1 == 1).count() == 4 && log.iter().any(|k| k.1 == 2) {
            done.cancel();
        }
        let outcome =
            if key.1 == 1 && tries < 4 { Outcome::Retry("on purpose".into()) } else { Outcome::Done };
        async move { outcome }
    };
    queue.run(2, stop, work).await.unwrap();
    assert_eq!(log.lock().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_queue_even_while_others_wait() {
    let (queue, stop) = (Queue::<Key>::new(QUICK), CancellationToken::new());
    queue.add(Key(1, 1));
    let work = |_key: Key| async { panic!("on purpose") };
    assert!(queue.run(4, stop, work).await.is_err());
}
