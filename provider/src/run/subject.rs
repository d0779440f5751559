//! What is reconciled: one object of one workspace.

use std::fmt;

use kcp_client_rs::LogicalCluster;
use openkcm_logical::Laned;

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

    /// The kind, for metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "Tenant",
            Self::Account(..) => "Account",
            Self::Key(..) => "ServiceEncryptionKey",
        }
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
        match self {
            Self::Tenant(cluster) => write!(f, "{cluster} Tenant"),
            Self::Account(cluster, name) => write!(f, "{cluster} Account {name}"),
            Self::Key(cluster, namespace, name) => {
                write!(f, "{cluster} ServiceEncryptionKey {namespace}/{name}")
            }
        }
    }
}
