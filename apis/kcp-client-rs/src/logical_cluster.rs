//! The identity of a workspace.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Annotation that kcp puts on every object it serves through a virtual workspace.
pub const CLUSTER_ANNOTATION: &str = "kcp.io/cluster";
/// Annotation with the workspace's path at the time the object was written.
pub const PATH_ANNOTATION: &str = "kcp.io/path";

/// The name of a logical cluster, for example `2x7k1pq9vd3mzs0a`.
///
/// It is the only identity of a workspace that is never reused: paths are, and so are names and UIDs of
/// bindings. It is deliberately not a `String`: a path (`root:acme`) does not parse as one, and what may be put
/// into a URL segment is decided here, once.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogicalCluster(Arc<str>);

/// The text is not the name of a logical cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalClusterError;

impl fmt::Display for LogicalClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a logical cluster name: 1 to 63 characters of a-z, 0-9 and inner '-' are allowed")
    }
}

impl std::error::Error for LogicalClusterError {}

impl LogicalCluster {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogicalCluster {
    type Err = LogicalClusterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid { Ok(Self(text.into())) } else { Err(LogicalClusterError) }
    }
}

impl TryFrom<String> for LogicalCluster {
    type Error = LogicalClusterError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LogicalCluster> for String {
    fn from(cluster: LogicalCluster) -> Self {
        cluster.0.as_ref().to_owned()
    }
}

impl fmt::Display for LogicalCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LogicalCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_wildcards_and_tricks_are_refused() {
        for text in ["", "root:acme", "*", "..", "a/b", "A", "-a", "a-", "a%2fb", &"a".repeat(64)] {
            assert!(text.parse::<LogicalCluster>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_survive_a_round_trip() {
        for text in ["root", "2x7k1pq9vd3mzs0a", "system-shard"] {
            assert_eq!(text.parse::<LogicalCluster>().map(String::from).as_deref(), Ok(text));
        }
    }
}
