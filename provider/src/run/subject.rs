//! What is reconciled: one object of one workspace.

use std::fmt;

use kcp_client_rs::LogicalCluster;
use openkcm_logical::Laned;
use openkcm_orchestrator::KeyId;

/// One object of one workspace.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The workspace itself.
    Tenant(LogicalCluster),
    /// An Account, by name.
    Account(LogicalCluster, String),
    /// A ServiceEncryptionKey, by namespace and name.
    Key(LogicalCluster, String, String),
}

impl Subject {
    pub fn cluster(&self) -> &LogicalCluster {
        match self {
            Self::Tenant(cluster) | Self::Account(cluster, _) | Self::Key(cluster, _, _) => cluster,
        }
    }

    /// Its name within the workspace; empty for the workspace itself.
    pub fn object(&self) -> String {
        match self {
            Self::Tenant(_) => String::new(),
            Self::Account(_, name) => name.clone(),
            Self::Key(_, namespace, name) => format!("{namespace}/{name}"),
        }
    }

    /// The kind, for metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "Tenant",
            Self::Account(..) => "Account",
            Self::Key(..) => "ServiceEncryptionKey",
        }
    }
}

impl From<KeyId> for Subject {
    fn from(key: KeyId) -> Self {
        Self::Key(key.cluster, key.namespace, key.name)
    }
}

impl Laned for Subject {
    type Lane = LogicalCluster;

    fn lane(&self) -> LogicalCluster {
        self.cluster().clone()
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.cluster(), self.kind())?;
        match self {
            Self::Tenant(_) => Ok(()),
            _ => write!(f, " {}", self.object()),
        }
    }
}
