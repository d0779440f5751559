//! What the ledger says, as plain structs: the planner's view of the durable record.
//!
//! Times are kept to the microsecond. States are derived from the recorded facts, never recorded beside them, so
//! they cannot contradict each other.

use std::fmt;

use jiff::Timestamp;
use kcp_client_rs::LogicalCluster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A tenant, for as long as its key chain lives. A shredded tenant's id is never used again.
    TenantId
);
id!(
    /// An account of a tenant.
    AccountId
);
id!(
    /// A service key. It is what ciphertexts name, so it outlives its object's name.
    KeyId
);

/// Declares an enum that is stored as the variant's name.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word for it in the ledger and for people.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            #[allow(dead_code)] // derived states are never stored, so never read
            pub(crate) fn parse(word: &str) -> Option<Self> {
                match word { $(stringify!($variant) => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(
    /// What may happen to a tenant's keys.
    TenantState {
        /// Bound and not suspended.
        Active,
        /// Unbound, suspended by the operator, or both. Nothing is destroyed.
        Suspended,
        /// Shredded: no key of it can be opened ever again.
        Destroyed,
    }
);

/// A workspace's key chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantRow {
    /// Stable over unbind and re-bind.
    pub id: TenantId,
    /// The workspace. Never reused by kcp; a new workspace at an old path is another cluster.
    pub cluster: LogicalCluster,
    /// The workspace's path when last seen. For people only.
    pub path: String,
    /// First binding.
    pub created_at: Timestamp,
    /// Since when the binding is gone.
    pub unbound_at: Option<Timestamp>,
    /// When the keys may be shredded; set exactly while unbound.
    pub retention_until: Option<Timestamp>,
    /// Since when the operator suspends it. Independent of the binding: a re-bind does not lift it.
    pub operator_suspended_at: Option<Timestamp>,
    /// What the operator gave as the reason.
    pub operator_reason: Option<String>,
    /// The last re-bind that found this row.
    pub recovered_at: Option<Timestamp>,
    /// 1 at first, one more with every re-bind.
    pub epoch: u32,
    /// When it was shredded.
    pub destroyed_at: Option<Timestamp>,
}

impl TenantRow {
    /// The effective state.
    pub fn state(&self) -> TenantState {
        if self.destroyed_at.is_some() {
            TenantState::Destroyed
        } else if self.unbound_at.is_some() || self.operator_suspended_at.is_some() {
            TenantState::Suspended
        } else {
            TenantState::Active
        }
    }
}

words!(
    /// Where an account is in its life.
    AccountState {
        /// Its object exists, as far as known.
        Active,
        /// Its object is gone; service keys in their deletion window still need its keys.
        Deleted,
        /// Gone, and its keys erased.
        Destroyed,
    }
);

/// A root of trust as a tenant declared it, with the account keys under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountRow {
    /// What wrap calls bind, beside the cluster.
    pub id: AccountId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Name of the Account object.
    pub name: String,
    /// The object's spec as last recorded; for putting it back after a re-bind.
    pub spec: serde_json::Value,
    /// First seen.
    pub created_at: Timestamp,
    /// The version that seals new service key versions; none before the root was verified.
    pub current_key_version: Option<u32>,
    /// Every account key version that is not erased, oldest first.
    pub keys: Vec<AccountKeyRow>,
    /// Since when the root key in use cannot be used.
    pub root_lost_since: Option<Timestamp>,
    /// Last successful wrap and unwrap with the root key in use.
    pub last_verified: Option<Timestamp>,
    /// When the object was deleted.
    pub deleted_at: Option<Timestamp>,
    /// When a deleted account of this name was last declared again.
    pub recovered_at: Option<Timestamp>,
    /// When its keys were erased.
    pub destroyed_at: Option<Timestamp>,
}

impl AccountRow {
    /// The effective state.
    pub fn state(&self) -> AccountState {
        if self.destroyed_at.is_some() {
            AccountState::Destroyed
        } else if self.deleted_at.is_some() {
            AccountState::Deleted
        } else {
            AccountState::Active
        }
    }

    /// The account key that seals new versions.
    pub fn current_key(&self) -> Option<&AccountKeyRow> {
        let current = self.current_key_version?;
        self.keys.iter().find(|key| key.version == current)
    }
}

words!(
    /// What an account key version is for.
    AccountKeyState {
        /// Seals new versions.
        Active,
        /// Only opens what is not yet re-wrapped.
        Retiring,
        /// Its wrapped form is overwritten.
        Erased,
    }
);

/// The root key that wrapped an account key, with all that is needed to reach it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// `AWSKMS`, `AzureKeyVault`, `GCPKMS` or `ThalesHSM`.
    pub provider_type: String,
    /// The key reference in canonical form.
    pub reference: String,
    /// The root key's own version, empty where the store does not tell.
    pub version: String,
    /// The account spec of that time: how to reach this root after the spec has moved on.
    pub spec: serde_json::Value,
}

/// One version of an account key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountKeyRow {
    /// Its account.
    pub account: AccountId,
    /// Counts from 1.
    pub version: u32,
    /// What it is for.
    pub state: AccountKeyState,
    /// The blob that the root key returned; none once erased.
    #[serde(serialize_with = "as_hex")]
    pub wrapped: Option<Vec<u8>>,
    /// Who wrapped it.
    pub root: Root,
    /// When it was installed.
    pub created_at: Timestamp,
    /// When it was erased.
    pub erased_at: Option<Timestamp>,
}

words!(
    /// Where a service key is in its life. Enabled or Disabled is the spec's business.
    ServiceKeyState {
        /// Its object exists, as far as known.
        Active,
        /// Its object was deleted; every version can still be brought back.
        PendingDeletion,
        /// Its versions are overwritten.
        Destroyed,
    }
);

words!(
    /// Why a service key is kept from every edge.
    Withheld {
        /// Its user disabled it.
        Disabled,
        /// Its root key cannot be used.
        RootLost,
        /// Its tenant is suspended or has unbound.
        TenantSuspended,
        /// Its object is deleted.
        Deleted,
    }
);

/// A ServiceEncryptionKey that has no version yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeclaredKey {
    /// Its tenant.
    pub tenant: TenantId,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// The object's spec as last recorded.
    pub spec: serde_json::Value,
    /// The highest version that was seen outside: not 0 where the ledger has lost the key.
    pub seen_version: u32,
}

/// A service key: the history behind one ServiceEncryptionKey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceKeyRow {
    /// What ciphertexts name.
    pub id: KeyId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its account, for life.
    pub account: AccountId,
    /// The account's name.
    pub account_name: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// What is needed to put the object back (spec, labels), as last recorded.
    pub spec: serde_json::Value,
    /// When version 1 was made.
    pub created_at: Timestamp,
    /// The version that encrypts. Only ever grows.
    pub current_version: u32,
    /// Its state: `Active`, or `Compromised` and in want of a rotation.
    pub current_state: VersionState,
    /// When the current version was made.
    pub last_rotation: Timestamp,
    /// The last `rotationRequest` that was served.
    pub served_request: Option<String>,
    /// When the planner wants to look again; none for `Never`.
    pub next_rotation: Option<Timestamp>,
    /// The highest version ever seen outside the ledger (status, edges).
    pub seen_version: u32,
    /// Up to which seen version the operator accepted that the ledger is older.
    pub accepted_version: u32,
    /// When the object was deleted.
    pub deleted_at: Option<Timestamp>,
    /// When the versions may be destroyed; set while pending deletion.
    pub delete_after: Option<Timestamp>,
    /// When it was last brought back from pending deletion.
    pub recovered_at: Option<Timestamp>,
    /// When its versions were overwritten.
    pub destroyed_at: Option<Timestamp>,
    /// Why no replica may hand it to an edge; `None`: it may be served. Recorded only where there are several replicas.
    pub withheld: Option<Withheld>,
}

impl ServiceKeyRow {
    /// The effective state.
    pub fn state(&self) -> ServiceKeyState {
        if self.destroyed_at.is_some() {
            ServiceKeyState::Destroyed
        } else if self.delete_after.is_some() {
            ServiceKeyState::PendingDeletion
        } else {
            ServiceKeyState::Active
        }
    }

    /// Whether the world has seen versions that this ledger has not (it was restored from an older backup) and
    /// no operator has accepted that. Such a key does not rotate.
    pub fn is_behind(&self) -> bool {
        self.seen_version > self.current_version && self.seen_version > self.accepted_version
    }
}

words!(
    /// State of one version, as NIST SP 800-57 part 1 names them.
    VersionState {
        /// Made, not yet used. Exists only inside the transaction that makes it.
        PreActive,
        /// Encrypts and decrypts: the current version.
        Active,
        /// Decrypts only.
        Deactivated,
        /// Must not be used.
        Compromised,
        /// Overwritten.
        Destroyed,
    }
);

/// One version of a service key. Immutable but for its state and for what seals it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionRow {
    /// Its service key.
    pub key: KeyId,
    /// Counts up; a number is never used twice.
    pub version: u32,
    /// What it may be used for.
    pub state: VersionState,
    /// The account key version that seals it.
    pub account_key_version: u32,
    /// The sealed key; none once destroyed.
    #[serde(serialize_with = "as_hex")]
    pub sealed: Option<Vec<u8>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was overwritten.
    pub destroyed_at: Option<Timestamp>,
}

/// A key whose next rotation has a date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DueKey {
    /// Its workspace.
    pub cluster: LogicalCluster,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service key.
    pub key: KeyId,
    /// When it is due.
    pub at: Timestamp,
}

/// How many service key versions an account key version seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SealedBy {
    /// The account key version.
    pub account_key_version: u32,
    /// Service key versions under it.
    pub versions: u64,
    /// Service keys that have at least one version under it.
    pub keys: u64,
}

/// Blobs as text in exports.
#[allow(clippy::ref_option)] // serde's signature
fn as_hex<S: serde::Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.as_ref().map(hex::encode).serialize(serializer)
}
