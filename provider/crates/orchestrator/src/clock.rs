//! Time as an argument.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Where the orchestrator reads the time.
pub trait Clock: Send + Sync + 'static {
    /// Time since an arbitrary start. Never goes back, and goes on while the machine sleeps: an orchestrator that wakes up
    /// must not believe that it still has the right to give leases.
    fn monotonic(&self) -> Duration;

    /// Civil time, for the validity of certificates and join tokens.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}
