//! From what a tenant wrote to a root key that it may use.

use std::sync::Arc;

use kcp_client_rs::LogicalCluster;
use openkcm_apis::AccountSpec;

use crate::{CloudCalls, Config, Error, Result, RootKey, StoreKind};

/// All key stores, under the operator's configuration. Made once; cheap to share in an `Arc`.
pub struct KeyStores {
    calls: Arc<CloudCalls>,
}

impl KeyStores {
    /// Checks the configuration and reads the files it names. Makes no network call.
    pub fn from_config(config: Config) -> Result<Self> {
        let _ = config;
        Ok(Self { calls: Arc::default() })
    }

    /// Opens the root key that an Account of this workspace names. Makes no network call: what is wrong with the text or not allowed is
    /// said at once, everything else by the calls on the result.
    ///
    /// `path` is the workspace's path at this moment, for grants by path; empty if unknown.
    pub fn open(&self, cluster: &LogicalCluster, path: &str, spec: &AccountSpec) -> Result<Arc<dyn RootKey>> {
        let _ = (cluster, path);
        Err(Error::misconfigured(format!("{} is not supported", StoreKind::from(spec.provider_type))))
    }

    /// Calls made so far.
    pub fn calls(&self) -> &CloudCalls {
        &self.calls
    }
}
