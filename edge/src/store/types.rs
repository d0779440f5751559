//! What goes into the key table and what comes out of it.

use std::fmt;

use kcp_client_rs::LogicalCluster;
use openkcm_secret::SecretKey;

/// The name of a service key: unique among all workspaces of a kcp, because it starts with the logical cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyName {
    /// The workspace.
    pub cluster: LogicalCluster,
    /// Namespace of the ServiceEncryptionKey.
    pub namespace: String,
    /// Name of the ServiceEncryptionKey.
    pub name: String,
}

impl KeyName {
    /// The same name, borrowed: the form that lookups take.
    pub fn as_ref(&self) -> KeyNameRef<'_> {
        KeyNameRef { cluster: self.cluster.as_str(), namespace: &self.namespace, name: &self.name }
    }
}

/// A borrowed [`KeyName`]. The parts stay apart all the way to the hash: `a/b` + `c` is never `a` + `b/c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyNameRef<'a> {
    /// The workspace.
    pub cluster: &'a str,
    /// Namespace of the ServiceEncryptionKey.
    pub namespace: &'a str,
    /// Name of the ServiceEncryptionKey.
    pub name: &'a str,
}

/// What a version with material may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// Active: encrypts while it is the current version, and decrypts.
    EncryptDecrypt,
    /// Deactivated: decrypts what it once encrypted.
    DecryptOnly,
}

/// Why a version has no material here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    /// The material was destroyed; the text is the date as people read it (`2026-11-21`).
    Destroyed {
        /// The day of destruction.
        on: Box<str>,
    },
    /// The version is known to be compromised and is never used again.
    Compromised,
}

/// One version of a service key.
pub struct KeyVersion {
    /// Its number, from 1 (shown as `v1`).
    pub version: u32,
    /// Its material, or why there is none.
    pub material: Material,
}

/// Key bytes or the reason for their absence.
pub enum Material {
    /// The version can be used.
    Present {
        /// The AES-256 key.
        key: SecretKey,
        /// For what.
        usable: Usable,
    },
    /// The version cannot be used.
    Absent(Gone),
}

/// A caller that may use a key although it is no service account of the key's namespace (`spec.clients`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Exact `iss` of its tokens.
    pub issuer: String,
    /// Exact `sub` of its tokens.
    pub subject: String,
}

/// A service key with all its versions, as the orchestrator hands it out.
pub struct KeyEntry {
    /// The workspace.
    pub cluster: LogicalCluster,
    /// Name of the workspace's Tenant (`tenant-root-acme`): for people, never identity.
    pub tenant_name: String,
    /// Namespace of the ServiceEncryptionKey.
    pub namespace: String,
    /// Name of the ServiceEncryptionKey.
    pub name: String,
    /// UUID of the service key in the ledger: a key deleted for good and made again under the same name has another.
    pub key_id: [u8; 16],
    /// The version that encrypts.
    pub current: u32,
    /// Every version that the ledger knows, or, with [`KeyStore::patch`](super::KeyStore::patch), those that changed.
    pub versions: Vec<KeyVersion>,
    /// Who else may use the key.
    pub clients: Vec<Client>,
    /// Grows with every change of the key in the ledger.
    pub revision: u64,
}

/// Why a key left this edge. Kept as a tombstone, so that callers read the cause rather than "unknown".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvictReason {
    /// `spec.state: Disabled`.
    Disabled,
    /// The root of trust cannot be used.
    RootUnavailable,
    /// The tenant is suspended, by its unbinding or by the operator.
    TenantSuspended,
    /// The key was deleted and waits for the end of its window.
    Deleted,
    /// The key's material was destroyed on this day.
    Destroyed {
        /// The day of destruction, as people read it.
        on: Box<str>,
    },
    /// Another reason, in the orchestrator's words.
    Other(Box<str>),
}

impl fmt::Display for EvictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("its spec.state is Disabled"),
            Self::RootUnavailable => f.write_str("its root key cannot be used"),
            Self::TenantSuspended => f.write_str("its tenant is suspended"),
            Self::Deleted => f.write_str("it was deleted"),
            Self::Destroyed { on } => write!(f, "it was destroyed on {on}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// A put or a patch was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The table already holds a newer state of this key: no edge goes back.
    #[error("revision {offered} of the key is older than revision {held} that this edge holds")]
    Older {
        /// The revision that was refused.
        offered: u64,
        /// The revision in the table.
        held: u64,
    },
    /// The current version would go back under the applications' hands.
    #[error(
        "the offered state's current version v{offered} is older than v{held}, with which this edge encrypts"
    )]
    OlderVersion {
        /// The version that was refused.
        offered: u32,
        /// The current version here.
        held: u32,
    },
    /// A patch needs the key that it changes to be here, with the same key id.
    #[error("the patch is for a key that this edge does not hold")]
    NotHeld,
    /// `current` names no version, or a version number occurs twice or is 0.
    #[error("the key's versions contradict each other")]
    Inconsistent,
    /// No locked memory for the keys that stay.
    #[error("move the key's versions")]
    Memory,
}

/// Which version an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The current version, to encrypt.
    Current,
    /// This version, to decrypt; the key id must match too.
    Exactly {
        /// From the ciphertext's header.
        key_id: [u8; 16],
        /// From the ciphertext's header.
        version: u32,
    },
}

/// Why the table does not lend a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No such key here, or the caller may not know of it. One value for both, on purpose.
    UnknownKey,
    /// The caller belongs to the key's workspace, but not to its namespace, and is not among its clients.
    NotAllowed,
    /// No fresh lease: the edge has lost its orchestrator.
    LeaseLost,
    /// The key was taken back.
    Evicted(EvictReason),
    /// The version was destroyed on this day.
    Destroyed(Box<str>),
    /// The version is compromised.
    Compromised,
    /// The key has no such version here.
    UnknownVersion,
    /// The ciphertext belongs to another key than the one named.
    OtherKey,
}
