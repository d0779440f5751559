//! What a root key can do, whatever store it lives in.

use futures::future::BoxFuture;
use jiff::Timestamp;
use kcp_client_rs::LogicalCluster;
use openkcm_secret::SecretKey;

use crate::{Error, Reason, Result, StoreKind};

/// Whom a wrapped key belongs to. Bound cryptographically by every store: a blob opens only under the binding it was made with.
///
/// It is sent to the store as encryption context (AWS) or additional authenticated data (Google, AES-GCM over PKCS#11), and where a store
/// has neither, its hash is inside the wrapped payload. It is not secret and shows in the customer's audit log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The workspace.
    pub logical_cluster: LogicalCluster,
    /// The Account's id in the ledger: never its name, which can be used again.
    pub account: String,
}

/// A key wrapped by a root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Self-describing: format version, store kind, algorithm, key, key version, ciphertext. Nothing secret without the root key.
    pub bytes: Vec<u8>,
    /// The key that wrapped it, resolved: an alias became a key ARN, a label stayed a label.
    pub reference: String,
    /// The version of the root key that wrapped it; `-` where a store has none.
    pub version: String,
}

/// What the store says of a root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The reference, resolved (see [`Wrapped::reference`]).
    pub reference: String,
    /// The version that new wraps use; `-` where a store has none. A change means that the root was rotated.
    pub version: String,
    /// For example `SYMMETRIC_DEFAULT`, `RSA-OAEP-256`, `AES-GCM-256`.
    pub algorithm: String,
}

/// A root key in some store. Every call has a deadline, is counted, and passes the circuit breaker of its store's endpoint.
pub trait RootKey: Send + Sync {
    /// Which store it lives in.
    fn kind(&self) -> StoreKind;

    /// Reads the key's metadata: it exists, is enabled, and has a usage and type that can wrap keys.
    fn describe(&self) -> BoxFuture<'_, Result<Description>>;

    /// Wraps 32 bytes under the current version of the root key.
    fn wrap<'a>(&'a self, key: &'a SecretKey, binding: &'a Binding) -> BoxFuture<'a, Result<Wrapped>>;

    /// Unwraps what [`RootKey::wrap`] made, under any version of the root key that the store still has.
    fn unwrap<'a>(&'a self, wrapped: &'a [u8], binding: &'a Binding) -> BoxFuture<'a, Result<SecretKey>>;
}

/// Proof that a root key was described, has wrapped, and has unwrapped the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The reference, resolved.
    pub reference: String,
    /// The version that new wraps use; `-` where the store has none.
    pub version: String,
    /// The algorithm.
    pub algorithm: String,
    /// When.
    pub at: Timestamp,
}

/// Describes the root key and sends a random value there and back.
///
/// Each of the three alone lies somewhere: Azure wraps with a disabled key, a PKCS#11 key can be seen without a login, and a permission to
/// encrypt is not one to decrypt.
pub async fn verify(root: &dyn RootKey, binding: &Binding) -> Result<Verified> {
    let probe = SecretKey::random().map_err(|error| {
        Error::new(Reason::Unreachable, "no locked memory or randomness for the probe; it is tried again")
            .with_source(&error)
    })?;
    verify_with(root, binding, &probe).await.map(|(verified, _)| verified)
}

/// [`verify`] with a value that is good for more: an account key to be, which is then known to open again.
pub async fn verify_with(
    root: &dyn RootKey,
    binding: &Binding,
    probe: &SecretKey,
) -> Result<(Verified, Wrapped)> {
    let description = root.describe().await?;
    let wrapped = root.wrap(probe, binding).await?;
    let back = root.unwrap(&wrapped.bytes, binding).await?;
    let same = probe.expose(|sent| {
        back.expose(|got| aws_lc_rs::constant_time::verify_slices_are_equal(sent, got).is_ok())
    });
    if !same {
        return Err(Error::new(
            Reason::BadCiphertext,
            "the key store returned another value than the one it wrapped",
        ));
    }
    let verified = Verified {
        reference: wrapped.reference.clone(),
        version: description.version,
        algorithm: description.algorithm,
        at: Timestamp::now(),
    };
    Ok((verified, wrapped))
}
