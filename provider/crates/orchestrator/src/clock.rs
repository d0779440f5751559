//! Time as an argument.

use std::time::{Duration, Instant, SystemTime};

/// Where the orchestrator reads the time.
pub trait Clock: Send + Sync + 'static {
    /// Time since an arbitrary start. Never goes back. May stand still while the machine sleeps: leases then only
    /// seem to last longer than they do.
    fn monotonic(&self) -> Duration;

    /// Civil time, for the validity of certificates and join tokens.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}
