//! Events in the consumers' workspaces.
use k8s_openapi::api::core::v1::ObjectReference;
use kcp_client_rs::LogicalCluster;

use crate::{CancellationToken, QueueError, World};

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Puts events about objects into their own workspace. The same object and reason again raises the count of the
/// event that is there. Never waits and never fails the caller: what is too much is dropped and counted. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(World);

/// Writes the recorder's events; to be joined by the binary.
pub struct RecorderDriver(Recorder);

#[allow(unused_variables, clippy::unused_async)]
impl Recorder {
    /// A recorder that signs as `component`, and the driver that does its writing.
    pub fn new(world: World, component: &str) -> (Self, RecorderDriver) { todo!() }
    /// Notes that something happened to an object (at least kind, apiVersion and name must be set in the reference).
    pub fn note(&self, cluster: &LogicalCluster, regarding: ObjectReference, kind: EventType, reason: &'static str, message: impl Into<String>) { todo!() }
    /// Events that were dropped because there were too many.
    pub fn dropped(&self) -> u64 { todo!() }
}

#[allow(unused_variables, clippy::unused_async)]
impl RecorderDriver {
    /// Writes until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), QueueError> { todo!() }
}
