//! Waiting for something to become true, with the reason it is not yet.

use std::{future::Future, time::Duration};

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};

use crate::process::Ended;

/// How long a scenario waits before it says that something does not happen. Generous: it is no measurement, and CI has two
/// cores for kcp and everything else.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Tries until `attempt` succeeds; the last failure is the error. `what` completes "still not true: …".
pub async fn eventually<T, F, Fut>(what: &str, attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    within(PATIENCE, what, attempt).await
}

/// [`eventually`] with a patience of its own.
pub async fn within<T, F, Fut>(patience: Duration, what: &str, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(50);
    let mut last = anyhow!("not tried yet");
    while start.elapsed() < patience {
        // An attempt that hangs must not hide what the others said.
        match tokio::time::timeout(patience.saturating_sub(start.elapsed()), attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            // Nothing is worth waiting for from a process that is no more.
            Ok(Err(error)) if error.is::<Ended>() => return Err(error.context(what.to_owned())),
            Ok(Err(error)) => last = error,
            Err(_) => break,
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
    Err(last.context(format!("still not true after {} s: {what}", start.elapsed().as_secs())))
}
