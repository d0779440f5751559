//! Virtual-workspace endpoints: one per shard that has consumers.

use std::{fmt, sync::Arc};

/// An endpoint of the export, named by its URL without a trailing slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint(pub(crate) Arc<str>);

impl Endpoint {
    /// The URL, for example `https://shard-1:6443/services/apiexport/1abc/openkcm.io`.
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
