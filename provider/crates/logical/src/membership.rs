//! Who else is there: replicas announce themselves with Leases in the provider workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kcp_client_rs::LogicalCluster;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tracing::{debug, info, warn};

use crate::{CancellationToken, chain, slots::owner};

/// Label on the Leases of a group.
const GROUP_LABEL: &str = "openkcm.io/replicas-of";

/// How membership is kept.
#[derive(Clone, Debug)]
pub struct MembershipOptions {
    /// Namespace of the Leases in the provider workspace.
    pub namespace: String,
    /// Name shared by all replicas, for example `openkcm-provider`: prefix of the Leases' names and value of their
    /// label `openkcm.io/replicas-of`.
    pub group: String,
    /// This replica's own name, unique among the replicas and fresh for each process.
    pub replica: String,
    /// A replica that has not renewed for so long is out. Renewed three times as often.
    pub lease: Duration,
}

/// The replicas that are alive. Leases only save work (two replicas never have to do the same); correctness must
/// not rest on them. Cheap to clone.
#[derive(Clone)]
pub struct Membership(Arc<Inner>);

struct Inner {
    leases: Api<Lease>,
    options: MembershipOptions,
    view: Mutex<View>,
}

#[derive(Default)]
struct View {
    members: BTreeSet<String>,
    /// Our own lease holds until then.
    held_until: Option<Instant>,
    /// How often it was renewed.
    renewals: u64,
    /// When each replica's lease was last seen to have moved.
    moved: BTreeMap<String, Instant>,
}

/// Membership cannot be kept at all.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The configuration makes no client.
    #[error("could not make a client for the provider workspace")]
    Client(#[source] kube::Error),
    /// Names become part of an object's name.
    #[error("replica and group names must be DNS labels of at most 63 characters")]
    Name,
}

impl Membership {
    /// Membership through Leases in the provider workspace.
    pub fn new(
        provider_workspace: &kube::Config,
        options: MembershipOptions,
    ) -> Result<Self, MembershipError> {
        // A logical cluster's name obeys the same rules as a DNS label.
        let label = |name: &str| name.parse::<LogicalCluster>().is_ok();
        if !label(&options.group) || !label(&options.replica) {
            return Err(MembershipError::Name);
        }
        let client = Client::try_from(provider_workspace.clone()).map_err(MembershipError::Client)?;
        let leases = Api::namespaced(client, &options.namespace);
        Ok(Self(Arc::new(Inner { leases, options, view: Mutex::default() })))
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.0.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is this workspace this replica's? Always `false` while this replica cannot renew its own lease.
    pub fn owns(&self, cluster: &LogicalCluster) -> bool {
        let view = self.view();
        let held = view.held_until.is_some_and(|until| Instant::now() < until);
        held && owner(cluster, view.members.iter().map(String::as_str)) == Some(&self.0.options.replica)
    }

    /// The replicas that are alive, this one included.
    pub fn members(&self) -> Vec<String> {
        self.view().members.iter().cloned().collect()
    }

    /// How often our own lease was renewed; each time was asked for at most a third of its length before it counted here.
    pub fn renewals(&self) -> u64 {
        self.view().renewals
    }

    /// How long ago a replica has moved its lease: zero while it is alive, as far as is known; `None` if it was never seen.
    pub fn silence(&self, replica: &str) -> Option<Duration> {
        let view = self.view();
        let moved = view.moved.get(replica)?;
        Some(if view.members.contains(replica) { Duration::ZERO } else { moved.elapsed() })
    }

    /// Keeps the lease and watches the others until `shutdown`, then gives the lease up. `on_change` is called when
    /// the set of replicas changed, and when this replica's own lease had run out and holds again, so that it owns
    /// something again: everything should be queued again.
    pub async fn run(&self, shutdown: CancellationToken, on_change: impl Fn() + Send + Sync) {
        let every = self.0.options.lease / 3;
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut others = Others::default();
        let mut returned = false;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let asked = Instant::now();
            if self.within(every, "renew the lease", self.renew()).await.is_some() {
                let mut view = self.view();
                returned |= view.held_until.is_none_or(|until| until <= Instant::now());
                view.held_until = Some(asked + self.0.options.lease);
                view.renewals += 1;
            }
            let Some(leases) = self.within(every, "list the leases", self.list()).await else { continue };
            others.observe(&leases, Instant::now());
            let alive = others.alive(Instant::now(), self.0.options.lease);
            self.bury(&leases, &alive).await;
            let changed = {
                let mut view = self.view();
                let changed = view.members != alive;
                view.members = alive;
                view.moved = others.0.iter().map(|(holder, seen)| (holder.clone(), seen.changed)).collect();
                changed
            };
            if changed {
                info!(members = ?self.members(), "the set of replicas changed");
            }
            if std::mem::take(&mut returned) || changed {
                on_change();
            }
        }
        self.view().held_until = None;
        let name = self.lease_name(&self.0.options.replica);
        self.within(every, "give up the lease", self.0.leases.delete(&name, &DeleteParams::default())).await;
    }

    fn lease_name(&self, replica: &str) -> String {
        format!("{}.{replica}", self.0.options.group)
    }

    async fn within<T>(
        &self,
        time: Duration,
        deed: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Option<T> {
        match tokio::time::timeout(time, call).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => warn!(group = self.0.options.group, error = chain(&error), "could not {deed}"),
            Err(_) => warn!(group = self.0.options.group, "could not {deed} in time"),
        }
        None
    }

    async fn renew(&self) -> kube::Result<()> {
        let MembershipOptions { group, replica, lease, namespace } = &self.0.options;
        let name = self.lease_name(replica);
        let renewed = MicroTime(Timestamp::now());
        let seconds = i32::try_from(lease.as_secs().max(1)).unwrap_or(i32::MAX);
        let patch = Patch::Merge(json!({"spec": {
            "holderIdentity": replica, "leaseDurationSeconds": seconds, "renewTime": renewed,
        }}));
        match self.0.leases.patch(&name, &PatchParams::default(), &patch).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        let fresh = Lease {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.clone()),
                labels: Some(BTreeMap::from([(GROUP_LABEL.to_owned(), group.clone())])),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(replica.clone()),
                lease_duration_seconds: Some(seconds),
                acquire_time: Some(renewed.clone()),
                renew_time: Some(renewed),
                ..LeaseSpec::default()
            }),
        };
        self.0.leases.create(&PostParams::default(), &fresh).await.map(drop)
    }

    async fn list(&self) -> kube::Result<Vec<Lease>> {
        let ours = ListParams::default().labels(&format!("{GROUP_LABEL}={}", self.0.options.group));
        self.0.leases.list(&ours).await.map(|list| list.items)
    }

    /// Removes the leases of processes that died without giving them up, long after.
    async fn bury(&self, leases: &[Lease], alive: &BTreeSet<String>) {
        let long_ago =
            Timestamp::now() - self.0.options.lease.saturating_mul(100).max(Duration::from_hours(1));
        for lease in leases {
            let spec = lease.spec.as_ref();
            let dead =
                spec.and_then(|s| s.holder_identity.as_ref()).is_none_or(|holder| !alive.contains(holder));
            let old = spec.and_then(|s| s.renew_time.as_ref()).is_some_and(|renewed| renewed.0 < long_ago);
            if dead && old {
                let unchanged =
                    Preconditions { uid: lease.uid(), resource_version: lease.resource_version() };
                let params = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
                debug!(lease = lease.name_any(), "removing the lease of a replica that is long dead");
                let _other_may_be_faster = self.0.leases.delete(&lease.name_any(), &params).await;
            }
        }
    }
}

/// What was seen of each replica's lease. Whether one is alive is judged by our own clock, from when its lease last
/// changed: the replicas' clocks need not agree.
#[derive(Default)]
struct Others(BTreeMap<String, Seen>);

struct Seen {
    version: Option<String>,
    changed: Instant,
}

impl Others {
    fn observe(&mut self, leases: &[Lease], now: Instant) {
        let mut seen = BTreeMap::new();
        for lease in leases {
            let Some(holder) = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()) else {
                continue;
            };
            let version = lease.resource_version();
            let changed = match self.0.get(&holder) {
                Some(before) if before.version == version => before.changed,
                _ => now,
            };
            seen.insert(holder, Seen { version, changed });
        }
        self.0 = seen;
    }

    fn alive(&self, now: Instant, lease: Duration) -> BTreeSet<String> {
        let alive = self.0.iter().filter(|(_, seen)| now.duration_since(seen.changed) < lease);
        alive.map(|(holder, _)| holder.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: u32) -> Lease {
        let spec = LeaseSpec { holder_identity: Some(holder.to_owned()), ..LeaseSpec::default() };
        let metadata = ObjectMeta { resource_version: Some(version.to_string()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(spec) }
    }

    #[test]
    fn a_replica_is_out_when_its_lease_stands_still_and_back_when_it_moves() {
        let (start, term) = (Instant::now(), Duration::from_secs(9));
        let mut others = Others::default();
        let at = |s| start + Duration::from_secs(s);
        let alive = |others: &Others, s| others.alive(at(s), term).into_iter().collect::<Vec<_>>().join(" ");
        others.observe(&[lease("a", 1), lease("b", 1)], at(0));
        assert_eq!(alive(&others, 8), "a b");
        others.observe(&[lease("a", 2), lease("b", 1)], at(8));
        assert_eq!(alive(&others, 10), "a");
        others.observe(&[lease("a", 3), lease("b", 2)], at(11));
        assert_eq!(alive(&others, 12), "a b");
        others.observe(&[lease("a", 4)], at(13));
        assert_eq!(alive(&others, 13), "a", "a lease that was given up counts at once");
    }
}
