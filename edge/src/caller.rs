//! Who calls: what a verified token or client certificate says, and which keys that opens.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock},
};

use kcp_client_rs::LogicalCluster;

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(Arc<Identity>);

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    issuer: Box<str>,
    subject: Box<str>,
    home: Option<Home>,
    fingerprint: u64,
    tenant_fingerprint: u64,
}

/// The workspace and namespace of a kcp service account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Home {
    /// The workspace that signed for the service account.
    pub cluster: LogicalCluster,
    /// The service account's namespace.
    pub namespace: Box<str>,
}

impl Caller {
    /// A caller whose issuer, subject and home have been verified. `home` is only for service accounts of a kcp
    /// workspace: in kcp every workspace has the same issuer, so there the subject alone means nothing.
    pub fn new(issuer: &str, subject: &str, home: Option<Home>) -> Self {
        static KEYED: OnceLock<RandomState> = OnceLock::new();
        // The tuple keeps the parts apart; the random key keeps callers from choosing colliding names.
        let keyed = KEYED.get_or_init(RandomState::new);
        let fingerprint = keyed.hash_one((issuer, subject, &home));
        let tenant_fingerprint = keyed.hash_one((issuer, home.as_ref().map(|home| home.cluster.as_str())));
        let (issuer, subject) = (issuer.into(), subject.into());
        Self(Arc::new(Identity { issuer, subject, home, fingerprint, tenant_fingerprint }))
    }

    /// The issuer of the token, or the trust domain of the certificate.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// The subject within the issuer.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Where a kcp service account lives.
    pub fn home(&self) -> Option<&Home> {
        self.0.home.as_ref()
    }

    /// A keyed hash of the identity, stable within this process.
    pub fn fingerprint(&self) -> u64 {
        self.0.fingerprint
    }

    /// The same of the workspace that the caller comes from; of its issuer, if it comes from none.
    pub fn tenant_fingerprint(&self) -> u64 {
        self.0.tenant_fingerprint
    }
}
