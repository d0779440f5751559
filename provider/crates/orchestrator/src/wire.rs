//! Between this crate's words and the protocol's.

use openkcm_edge_protocol::orchestrator as wire;

use crate::{DeadReason, EvictReason, KeyId, KeyState, Usable};

pub(crate) fn key_ref(key: &KeyId) -> wire::KeyRef {
    wire::KeyRef {
        cluster: key.cluster.as_str().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// `None` for what cannot be the name of a key.
pub(crate) fn key_id(key: &wire::KeyRef) -> Option<KeyId> {
    let sane = |text: &str| (1..=253).contains(&text.len());
    let cluster = key.cluster.parse().ok()?;
    (sane(&key.namespace) && sane(&key.name)).then(|| KeyId {
        cluster,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    })
}

pub(crate) fn evict_order(key: wire::KeyRef, reason: Option<EvictReason>) -> wire::order::Order {
    let since = if let Some(EvictReason::Destroyed { since }) = reason { since } else { 0 };
    let reason = match reason {
        None => wire::EvictReason::Unspecified,
        Some(EvictReason::Disabled) => wire::EvictReason::Disabled,
        Some(EvictReason::Unavailable) => wire::EvictReason::Unavailable,
        Some(EvictReason::Suspended) => wire::EvictReason::Suspended,
        Some(EvictReason::Deleted) => wire::EvictReason::Deleted,
        Some(EvictReason::Destroyed { .. }) => wire::EvictReason::Destroyed,
    };
    wire::order::Order::Evict(wire::Evict { key: Some(key), reason: reason.into(), since })
}

/// A key's state with these of its versions. The copies of key bytes live in the message until it is sent, and are wiped
/// with it.
pub(crate) fn put_order(
    key: &KeyId,
    state: &KeyState,
    revision: u64,
    versions: &[crate::Version],
    dead_versions: &[crate::DeadVersion],
) -> wire::Put {
    let version = |version: &crate::Version| wire::KeyVersion {
        version: version.version,
        material: version.material.expose(|bytes| bytes.to_vec()),
        encrypts: version.usable == Usable::Encrypt,
    };
    let dead = |dead: &crate::DeadVersion| wire::DeadVersion {
        version: dead.version,
        reason: match dead.reason {
            DeadReason::Destroyed => wire::DeadReason::Destroyed,
            DeadReason::Compromised => wire::DeadReason::Compromised,
        }
        .into(),
        since: dead.since,
    };
    let client = |client: &crate::Client| wire::Client {
        issuer: client.issuer.clone(),
        subject: client.subject.clone(),
    };
    wire::Put {
        key: Some(key_ref(key)),
        fingerprint: state.fingerprint,
        revision,
        tenant_name: state.tenant_name.clone(),
        key_uuid: state.key_uuid.as_bytes().to_vec(),
        current: state.current,
        versions: versions.iter().map(version).collect(),
        dead_versions: dead_versions.iter().map(dead).collect(),
        clients: state.clients.iter().map(client).collect(),
        more: false,
    }
}
