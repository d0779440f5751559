//! Who else is there: replicas announce themselves with Leases in the provider workspace.
use std::time::Duration;

use kcp_client_rs::LogicalCluster;

use crate::CancellationToken;

/// How membership is kept.
#[derive(Clone, Debug)]
pub struct MembershipOptions {
    /// Namespace of the Leases in the provider workspace.
    pub namespace: String,
    /// Name shared by all replicas, for example `openkcm-provider`: prefix of the Leases' names and value of their label.
    pub group: String,
    /// This replica's own name, unique among the replicas and fresh for each process.
    pub replica: String,
    /// A replica that has not renewed for so long is out. Renewed three times as often.
    pub lease: Duration,
}

/// The replicas that are alive. Leases only save work (two replicas never have to do the same); correctness must
/// not rest on them. Cheap to clone.
#[derive(Clone)]
pub struct Membership(String);

/// Membership cannot be kept at all.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The configuration makes no client.
    #[error("could not make a client for the provider workspace")]
    Client(#[source] kube::Error),
    /// Names must be DNS labels.
    #[error("replica and group names must be DNS labels")]
    Name,
}

#[allow(unused_variables, clippy::unused_async)]
impl Membership {
    /// Membership through Leases in the provider workspace.
    pub fn new(provider_workspace: &kube::Config, options: MembershipOptions) -> Result<Self, MembershipError> { todo!() }
    /// Keeps the lease and watches the others until `shutdown`, then gives the lease up. `on_change` is called when
    /// the set of replicas changed: everything should be queued again.
    pub async fn run(&self, shutdown: CancellationToken, on_change: impl Fn() + Send + Sync) { todo!() }
    /// Is this workspace this replica's? Always `false` while this replica cannot renew its own lease.
    pub fn owns(&self, cluster: &LogicalCluster) -> bool { todo!() }
    /// The replicas that are alive, this one included.
    pub fn members(&self) -> Vec<String> { todo!() }
}
