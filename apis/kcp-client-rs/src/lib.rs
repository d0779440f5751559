//! kcp's own kinds for kube-rs, generated from kcp's CRDs, and the one type that names a workspace
//! unmistakably.

pub mod logical_cluster;

pub use logical_cluster::{LogicalCluster, LogicalClusterError};
