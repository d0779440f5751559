//! Beside other replicas, over one PostgreSQL ledger.
//!
//! Every replica plans every key and serves its own edges; the *owner* of a workspace (rendezvous hashing over the replicas
//! that are alive) writes, in the ledger and in kcp. Who owns what only saves work. What must not rest on it, that a key which
//! is said to be evicted can be used at no edge of any replica, rests on the three rules of [`Ledger::hand_out`]'s tables
//! and on the **mandate**: a replica gives leases only for a moment after it has reached the ledger or its Lease in kcp, so
//! that the others know when a silent one has surely stopped. Either will do: an outage of one of the two takes no key
//! from any edge.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    time::Duration,
};

use anyhow::Context;
use kcp_client_rs::LogicalCluster;
use openkcm_apis::ServiceEncryptionKey;
use openkcm_keychain::{
    HandOut, KeychainError, Ledger, Replica,
    rows::{ServiceKeyRow, Withheld},
};
use openkcm_logical::{Membership, MembershipOptions};
use openkcm_orchestrator::{KeyId, PeerEdges, Told};
use openkcm_plan::key::{Edges, Eviction, Offer};

use super::{provider::Provider, reported::Reported};

/// How long after its last word a replica may give leases.
const MANDATE: Duration = Duration::from_secs(5);
/// How often it says that it is alive.
const BEAT: Duration = Duration::from_millis(500);
/// On top of mandate and lease, before a silent replica counts as dead: clocks do not run at quite the same rate.
const SLACK: Duration = Duration::from_secs(1);

/// This replica among the others.
pub struct Replicas {
    /// Who is alive, for the division of work.
    pub membership: Membership,
    id: String,
    reported: Reported,
}

impl Replicas {
    /// Joins the other replicas. No edge may get a lease before this.
    pub async fn join(workspace: &kube::Config, ledger: &Ledger, lease: Duration) -> anyhow::Result<Self> {
        let id = format!("replica-{}", uuid::Uuid::new_v4().simple());
        let options = MembershipOptions {
            namespace: "openkcm-system".to_owned(),
            group: "openkcm-provider".to_owned(),
            replica: id.clone(),
            lease: MANDATE,
        };
        let membership = Membership::new(workspace, options)?;
        ledger.join_replica(&id, lease).await?;
        tracing::info!(replica = %id, "one of several replicas");
        Ok(Self { membership, id, reported: Reported::default() })
    }

    /// Says again and again that this replica is alive, keeps its mandate, and removes those that are dead. Ends only when
    /// the others have taken this one for dead.
    pub async fn beat(&self, provider: &Provider) -> anyhow::Result<()> {
        // Side by side: a database that is slow to answer must not hold up the mandate that kcp gives.
        tokio::select! {
            end = self.beat_in_ledger(provider) => end,
            never = self.follow_lease(provider) => match never {},
        }
    }

    /// Keeps the mandate while our Lease in kcp is renewed.
    async fn follow_lease(&self, provider: &Provider) -> Infallible {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut renewals, mut before) = (0, provider.orchestrator.now());
        loop {
            tick.tick().await;
            let now = provider.orchestrator.now();
            // A renewal that ended since `before` was asked for at most one period of renewing earlier.
            let renewed = self.membership.renewals();
            if std::mem::replace(&mut renewals, renewed) != renewed {
                provider.orchestrator.may_lease_until(before + MANDATE * 2 / 3);
            }
            before = now;
        }
    }

    async fn beat_in_ledger(&self, provider: &Provider) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut peers = Peers::default();
        loop {
            tick.tick().await;
            let now = provider.orchestrator.now();
            let edges = provider.orchestrator.edges();
            let own: Vec<_> = edges.iter().filter(|edge| edge.connected).map(|edge| edge.id).collect();
            match tokio::time::timeout(MANDATE / 2, provider.ledger.beat(&self.id, &own)).await {
                Ok(Ok(all)) => {
                    provider.orchestrator.may_lease_until(now + MANDATE);
                    self.look_at(provider, &all, &mut peers).await;
                }
                Ok(Err(error @ KeychainError::Expelled(_))) => return Err(error.into()),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the other replicas cannot be told that this one is alive");
                }
                Err(_) => tracing::warn!("the ledger does not answer in time"),
            }
        }
    }

    async fn look_at(&self, provider: &Provider, all: &[Replica], peers: &mut Peers) {
        let others: Vec<_> = all.iter().filter(|replica| replica.id != self.id).collect();
        let elsewhere: HashSet<_> = others.iter().flat_map(|other| other.edges.iter().copied()).collect();
        provider.orchestrator.elsewhere(elsewhere);
        let now = provider.orchestrator.now();
        if peers.observe(&others, |id| self.membership.silence(id), now) {
            // Their edges count no more, or count from now on.
            super::wake_all_seen(provider);
        }
        for (id, beat) in peers.dead(now) {
            match provider.ledger.expel_replica(&id, beat).await {
                Ok(true) => tracing::warn!(replica = %id, "a replica is dead and its edges' leases are over"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, replica = %id, "a dead replica cannot be removed yet"),
            }
        }
    }
}

/// When the others were last known to be alive, on our own clock.
#[derive(Default)]
struct Peers(HashMap<String, Peer>);

struct Peer {
    beat: i64,
    lease: Duration,
    /// When its beat was last seen to have moved.
    beaten_at: Duration,
    /// The same, or its Lease in kcp, whichever is later.
    alive_at: Duration,
}

impl Peers {
    /// Takes down who has moved: in the ledger, or with its Lease in kcp. True when the set of replicas is another one.
    fn observe(
        &mut self,
        others: &[&Replica],
        silence: impl Fn(&str) -> Option<Duration>,
        now: Duration,
    ) -> bool {
        let before = self.0.len();
        self.0.retain(|id, _| others.iter().any(|other| other.id == *id));
        let mut changed = self.0.len() != before;
        for other in others {
            let peer = self.0.entry(other.id.clone()).or_insert_with(|| {
                changed = true;
                Peer { beat: other.beat, lease: other.lease, beaten_at: now, alive_at: now }
            });
            if peer.beat != other.beat {
                (peer.beat, peer.beaten_at) = (other.beat, now);
            }
            let in_kcp = silence(&other.id).map_or(Duration::ZERO, |silence| now.saturating_sub(silence));
            peer.alive_at = peer.beaten_at.max(in_kcp);
        }
        changed
    }

    /// Those that may have given no lease for so long that all are over.
    fn dead(&self, now: Duration) -> Vec<(String, i64)> {
        let over = |peer: &Peer| now > peer.alive_at + MANDATE + peer.lease + SLACK;
        self.0.iter().filter(|(_, peer)| over(peer)).map(|(id, peer)| (id.clone(), peer.beat)).collect()
    }
}

impl Provider {
    /// Whether this replica writes for the workspace. Edges are served by every replica.
    pub fn owns(&self, cluster: &LogicalCluster) -> bool {
        self.replicas.as_ref().is_none_or(|replicas| replicas.membership.owns(cluster))
    }

    /// To be called before edges get a key that they do not have. False: it is withheld, by whoever owns its workspace.
    pub async fn may_hand_out(&self, id: &KeyId, row: &ServiceKeyRow) -> anyhow::Result<bool> {
        let Some(replicas) = &self.replicas else { return Ok(true) };
        let write = self.ledger.hand_out(&replicas.id, row.id);
        Ok(replicas.reported.hand_out(id, row.id, write).await?)
    }

    /// After the edges were told to give a key back: the owner makes sure that no other replica hands it out.
    pub async fn withhold(&self, id: &KeyId, row: &ServiceKeyRow, why: Eviction) -> anyhow::Result<()> {
        let Some(replicas) = &self.replicas else { return Ok(()) };
        replicas.reported.begin(id, row.id, nothing(&replicas.id));
        if self.owns(&id.cluster) {
            let why = match why {
                Eviction::Disabled => Withheld::Disabled,
                Eviction::RootLost => Withheld::RootLost,
                Eviction::TenantSuspended => Withheld::TenantSuspended,
                Eviction::Deleted => Withheld::Deleted,
            };
            self.ledger.withhold(row.id, why).await?;
        }
        Ok(())
    }

    /// The owner wants to serve a key that was withheld. What the watch says may be older than the decision, which another
    /// owner may have made: only an object that is the same in kcp itself releases the key.
    pub async fn release(
        &self,
        id: &KeyId,
        row: &ServiceKeyRow,
        seen: &ServiceEncryptionKey,
    ) -> anyhow::Result<bool> {
        let client = self.client(&id.cluster)?;
        let live = client.get::<ServiceEncryptionKey>(Some(&id.namespace), &id.name).await?;
        let (seen, live) = (&seen.metadata, live.map(|live| live.metadata));
        let same = live.is_some_and(|live| (&live.uid, live.generation) == (&seen.uid, seen.generation));
        if same {
            self.ledger.release(row.id).await?;
        }
        Ok(same)
    }

    /// Tells the other replicas how far this one's edges are with a key, if that is news.
    pub async fn report(&self, id: &KeyId) -> anyhow::Result<()> {
        let Some(replicas) = &self.replicas else { return Ok(()) };
        let distribution = self.orchestrator.distribution(id);
        let now = HandOut {
            replica: replicas.id.clone(),
            usable: distribution.serves != 0 || !distribution.is_evicted(),
            fingerprint: distribution.serves,
            total: distribution.total,
            current: distribution.current,
            evicted: distribution.evicted,
            clients: u32::try_from(distribution.active_clients).unwrap_or(u32::MAX),
        };
        let forget = self.orchestrator.told(id).is_none();
        let write = async |row, now| self.ledger.report(row, &now).await;
        let told = replicas.reported.report(id, now, forget, write).await;
        told.context("tell the other replicas about a key")
    }

    /// The edges of all replicas, as the owner of the workspace puts them into the status.
    pub async fn all_edges(
        &self,
        id: &KeyId,
        row: Option<&ServiceKeyRow>,
        told: Option<Told>,
    ) -> anyhow::Result<Edges> {
        let mut all = self.orchestrator.distribution(id);
        let mut withheld = true;
        if let (Some(replicas), Some(row)) = (&self.replicas, row) {
            let others = self.ledger.hand_outs(row.id).await?;
            for other in others.iter().filter(|other| other.replica != replicas.id) {
                all.join(&PeerEdges {
                    usable: other.usable,
                    serves: other.fingerprint,
                    total: other.total,
                    current: other.current,
                    evicted: other.evicted,
                    active_clients: u64::from(other.clients),
                });
            }
            withheld = row.withheld.is_some();
        }
        Ok(Edges {
            handed_out: told.map(super::key::handed_out),
            total: all.total,
            current: all.current,
            behind: all.describe_behind(),
            evicted: all.evicted,
            all_evicted: withheld && all.is_evicted(),
            eviction: all.describe_eviction(),
            regions: self.orchestrator.regions(id),
            leaving: all.describe_leaving(),
            active_clients: u32::try_from(all.active_clients).unwrap_or(u32::MAX),
            held: row
                .and_then(|row| self.orchestrator.served(id, row.id.0))
                .map(|(current, versions)| Offer { current, versions }),
        })
    }
}

fn nothing(replica: &str) -> HandOut {
    HandOut {
        replica: replica.to_owned(),
        usable: false,
        fingerprint: 0,
        total: 0,
        current: 0,
        evicted: 0,
        clients: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: &str, beat: i64) -> Replica {
        Replica { id: id.to_owned(), beat, lease: Duration::from_secs(5), edges: Vec::new() }
    }

    #[test]
    fn a_replica_is_dead_when_it_moves_neither_in_the_ledger_nor_in_kcp() {
        let mut peers = Peers::default();
        let at = Duration::from_secs;
        assert!(peers.observe(&[&replica("b", 1)], |_| None, at(0)), "it is new");
        assert!(!peers.observe(&[&replica("b", 1)], |_| Some(at(0)), at(10)));
        assert!(!peers.observe(&[&replica("b", 1)], |_| Some(at(11)), at(21)));
        assert!(peers.dead(at(21)).is_empty(), "it moved in kcp at 10: mandate until 15, leases until 20");
        assert_eq!(peers.dead(at(22)), [("b".to_owned(), 1)]);
        assert!(!peers.observe(&[&replica("b", 2)], |_| Some(at(12)), at(22)));
        assert!(peers.dead(at(33)).is_empty(), "it moved in the ledger at 22");
        assert!(peers.observe(&[], |_| None, at(34)), "it is gone");
    }
}
