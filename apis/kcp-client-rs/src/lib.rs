//! kcp's own kinds for kube-rs, generated from kcp's CRDs, and the one type that names a workspace
//! unmistakably.
//!
//! Names follow Rust's habits: kcp's `APIBinding` is [`apis::ApiBinding`]. Enumerations are text, because a
//! value that a later kcp adds must not make an object undecodable.
#![warn(missing_docs)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelectorRequirement, Time};
use serde::{Deserialize, Serialize};

pub mod apis;
pub mod logical_cluster;
pub mod tenancy;

pub use logical_cluster::{LogicalCluster, LogicalClusterError};

/// A condition as kcp writes it: unlike Kubernetes' own it has a severity and no observed generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about, for example `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// `Error`, `Warning` or `Info`; absent when the status is `True`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// One word for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When `status` last changed.
    pub last_transition_time: Time,
}

/// Which objects a permission claim covers: all of them, or those with matching labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionClaimSelector {
    /// All objects; excludes the other two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_all: Option<bool>,
    /// Labels with their exact values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

impl apis::ApiBinding {
    /// Whether the binding is complete: the bound kinds are served in its workspace.
    pub fn is_bound(&self) -> bool {
        self.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    }

    /// The condition of that type, if the binding has it.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
    }
}
