//! Keeping a process's memory to itself.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// The process could not be closed to dumps.
#[derive(Debug, thiserror::Error)]
#[error("switch off core dumps and tracing of this process")]
pub struct HardenError(#[source] rustix::io::Errno);

/// Switches core dumps off and makes the process non-dumpable, so that neither a crash nor another process of the
/// same user reads its memory. Call it first in `main` of every binary that holds keys.
pub fn harden_process() -> Result<(), HardenError> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(HardenError)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(HardenError)
}
