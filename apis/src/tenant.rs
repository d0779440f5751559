//! Tenant: a workspace that has OpenKCM switched on.

#![allow(clippy::duplicated_attributes)] // columns repeat theirs by nature

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A Tenant has nothing to configure: it is made by the provider and read by everybody else.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "openkcm.io",
    version = "v1alpha1",
    kind = "Tenant",
    plural = "tenants",
    shortname = "kcmt",
    category = "openkcm",
    status = "TenantStatus",
    derive = "PartialEq",
    doc = "A workspace that has OpenKCM switched on. Made by the provider; read-only for everybody else.",
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "PATH", type_ = "string", json_path = ".status.path"),
    printcolumn(name = "ACCOUNTS", type_ = "integer", json_path = ".status.accounts"),
    printcolumn(name = "KEYS", type_ = "integer", json_path = ".status.serviceEncryptionKeys"),
    printcolumn(name = "RECOVERED", type_ = "boolean", json_path = ".status.recovered", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {}

/// What the provider knows about the workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Where the tenant is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TenantPhase>,
    /// Name of the logical cluster: the tenant's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub logical_cluster: Option<String>,
    /// The workspace's path when it was last seen. For people: a path can be used again by another workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub path: Option<String>,
    /// True when this tenant was switched off before and its Accounts and keys were put back.
    #[serde(default)]
    pub recovered: bool,
    /// Number of Accounts.
    #[serde(default)]
    pub accounts: i32,
    /// Number of ServiceEncryptionKeys.
    #[serde(default)]
    pub service_encryption_keys: i32,
    /// What is true about it, one entry per type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int32")]
    pub observed_generation: Option<i64>,
}

/// Where a Tenant is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TenantPhase {
    /// Seen, not yet recorded.
    Provisioning,
    /// Keys work.
    Active,
    /// Switched off: by unbinding or by the operator. No key works, none is lost.
    Suspended,
}
