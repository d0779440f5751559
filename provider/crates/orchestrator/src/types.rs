//! What callers say about keys and hear about edges.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use kcp_client_rs::LogicalCluster;
use openkcm_secret::SecretKey;
use uuid::Uuid;

/// A service key as it is known outside its workspace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct KeyId {
    /// The workspace.
    pub cluster: LogicalCluster,
    /// Namespace of the ServiceEncryptionKey.
    pub namespace: String,
    /// Name of the ServiceEncryptionKey.
    pub name: String,
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.name)
    }
}

/// What should be true of a key on every edge that may have it.
pub enum Desired {
    /// The key can be used.
    Serve(KeyState),
    /// Nobody can use the key; edges remember why, to tell callers.
    Evicted {
        /// What callers are told.
        reason: EvictReason,
    },
    /// There is no such key.
    Gone,
}

/// A key that can be used. No `Debug`: it holds key bytes.
pub struct KeyState {
    /// Name of the Tenant, for example `tenant-root-demo`.
    pub tenant_name: String,
    /// Regions that the key may be in, sorted; only edges of these get it. Empty: every edge.
    pub regions: Vec<String>,
    /// The key's identity in the ledger; part of what ciphertexts are bound to.
    pub key_uuid: Uuid,
    /// The version that encrypts. Never goes back while an edge remembers the key.
    pub current: u32,
    /// Every version that can be used, in any order; `current` is among them.
    pub versions: Vec<Version>,
    /// Versions that cannot be used any more.
    pub dead_versions: Vec<DeadVersion>,
    /// Who may use the key beside the service accounts of its own namespace.
    pub clients: Vec<Client>,
    /// Changes whenever anything above changes and is the same after a restart of the provider when nothing did:
    /// a revision or hash of the ledger rows and spec it was made from. Not 0.
    pub fingerprint: u64,
}

/// One version of a key.
pub struct Version {
    /// Its number.
    pub version: u32,
    /// Its bytes.
    pub material: SecretKey,
    /// What for.
    pub usable: Usable,
}

/// What a version may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usable {
    /// Encrypts while it is the current version, and decrypts.
    Encrypt,
    /// Decrypts only.
    Decrypt,
}

/// A version that cannot be used any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadVersion {
    /// Its number.
    pub version: u32,
    /// Why.
    pub reason: DeadReason,
    /// Since when, Unix seconds.
    pub since: i64,
}

/// Why a version is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadReason {
    /// Its material was destroyed.
    Destroyed,
    /// It was declared compromised.
    Compromised,
}

/// A client of another issuer that may use the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// The token's `iss`.
    pub issuer: String,
    /// The token's `sub`.
    pub subject: String,
}

/// Why nobody can use a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvictReason {
    /// The key is disabled.
    Disabled,
    /// Its root key cannot be used.
    Unavailable,
    /// Its tenant is suspended or has unbound.
    Suspended,
    /// It is being deleted.
    Deleted,
    /// Its material was destroyed.
    Destroyed {
        /// Unix seconds.
        since: i64,
    },
}

/// What was last desired of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// To serve the state with this fingerprint.
    Serve(u64),
    /// To take it back.
    Evicted(EvictReason),
}

/// How far the edges are with what is desired of a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Distribution {
    /// Edges that may have the key: connected ones, and lost ones that are still remembered (10 minutes).
    pub total: u32,
    /// Edges that acknowledged the desired state and hold a lease; 0 unless the key is served.
    pub current: u32,
    /// Edges that surely cannot use the key: acknowledged, never had it, or their lease has ended.
    pub evicted: u32,
    /// Edges that may still be able to use what is not desired, and for how long at most.
    pub pending: Vec<PendingEdge>,
    /// After a restart: how long an edge that has not come back yet may live on a lease of before.
    pub settling: Option<Duration>,
    /// From the decision to the last acknowledgement, when the key is evicted everywhere and every edge answered.
    pub took: Option<Duration>,
    /// Distinct callers in the last window, over all edges.
    pub active_clients: u64,
    /// Tells apart what is served, the regions included; 0: the key is taken back, or unknown.
    pub serves: u64,
    /// Of the other replicas that were [joined](Self::join): those of which an edge may be able to use the key.
    pub usable_elsewhere: u32,
    /// One of these serves another state.
    pub behind: bool,
}

/// How far another replica is with a key, as it said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerEdges {
    /// One of its edges may be able to use the key.
    pub usable: bool,
    /// What it [serves](Distribution::serves).
    pub serves: u64,
    /// Its edges, as in [`Distribution`].
    pub total: u32,
    /// Those that have acknowledged what it serves.
    pub current: u32,
    /// Those that cannot use the key.
    pub evicted: u32,
    /// Distinct callers in the last window.
    pub active_clients: u64,
}

/// An edge that has not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingEdge {
    /// The edge's name.
    pub edge: String,
    /// Its last lease for the key surely ends in this time.
    pub lease_ends_in: Duration,
}

impl Distribution {
    /// No edge can use the key any more, nor can one that this orchestrator has not heard of since its start.
    pub fn is_evicted(&self) -> bool {
        self.evicted == self.total && self.settling.is_none() && self.usable_elsewhere == 0
    }

    /// Every edge that may have the key serves the desired state, and none that has not been heard of since the start can
    /// serve another.
    pub fn is_current(&self) -> bool {
        self.current == self.total && self.settling.is_none() && !self.behind
    }

    /// Counts the edges of another replica too.
    pub fn join(&mut self, peer: &PeerEdges) {
        self.total += peer.total;
        self.evicted += peer.evicted;
        self.active_clients += peer.active_clients;
        if peer.total > 0 {
            self.took = None; // measured at our own edges only
        }
        // Edges with another state than ours are not current, whatever their replica says of them.
        if peer.serves == self.serves {
            self.current += peer.current;
        }
        self.usable_elsewhere += u32::from(peer.usable);
        // Even without an edge: one may have come to it since it said so.
        self.behind |= peer.usable && peer.serves != self.serves;
    }

    /// For people: `evicted on 98/100, 2 leases end in 3.1 s`, or `evicted on 100/100 edges in 12 ms`.
    pub fn describe_eviction(&self) -> String {
        let longest = self.pending.iter().map(|edge| edge.lease_ends_in).max();
        let mut text = format!("evicted on {}/{}", self.evicted, self.total);
        if let Some(took) = self.took {
            let milliseconds = took.as_secs_f64() * 1e3;
            let digits = usize::from(milliseconds < 10.0);
            let _ = write!(text, " edges in {milliseconds:.digits$} ms");
        }
        if let Some(longest) = longest {
            let (count, noun) =
                (self.pending.len(), if self.pending.len() == 1 { "lease ends" } else { "leases end" });
            let _ = write!(text, ", {count} {noun} in {:.1} s", longest.as_secs_f64());
        }
        if let Some(settling) = self.settling {
            let _ = write!(text, ", leases of before the restart end in {:.1} s", settling.as_secs_f64());
        }
        if self.usable_elsewhere > 0 {
            text.push_str(", another replica of the provider has not confirmed it for its edges yet");
        }
        text
    }

    /// For people, when all edges that are counted are current: why another one may not be.
    pub fn describe_behind(&self) -> Option<&'static str> {
        if self.current != self.total {
            None
        } else if self.settling.is_some() {
            Some(
                "An edge of before the provider's start has not come back yet and may use an earlier one until its lease ends.",
            )
        } else {
            self.behind.then_some("Another replica of the provider may still hand out an earlier state.")
        }
    }

    /// For people, while the key is served: edges that may not have it any more and may still be able to use it.
    pub fn describe_leaving(&self) -> Option<String> {
        let longest = self.pending.iter().map(|edge| edge.lease_ends_in).max()?;
        let (count, noun) = (self.pending.len(), if self.pending.len() == 1 { "edge" } else { "edges" });
        let left = longest.as_secs_f64();
        Some(format!(
            "{count} {noun} outside spec.edgeRegions of the Account may use it for {left:.1} s more."
        ))
    }
}

/// Which tenants an edge may serve.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tenants {
    /// All.
    #[default]
    All,
    /// Names of tenants (`tenant-root-demo`) or of logical clusters.
    Only(Vec<String>),
}

impl Tenants {
    /// Whether a tenant is among them.
    pub fn contains(&self, tenant_name: &str, cluster: &LogicalCluster) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|name| name == tenant_name || name == cluster.as_str()),
        }
    }
}

/// An edge, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgeInfo {
    /// Identity in its certificate.
    pub id: Uuid,
    /// The name it was enrolled with.
    pub name: String,
    /// Region it is in.
    pub region: Option<String>,
    /// Tenants it may serve.
    pub tenants: Tenants,
    /// On the stream now.
    pub connected: bool,
    /// Its lease ends in this time; `None`: it has none.
    pub lease_ends_in: Option<Duration>,
    /// Keys it may be able to use.
    pub keys: u64,
}
