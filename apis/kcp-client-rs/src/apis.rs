//! Kinds of group `apis.kcp.io`.
//!
//! Generated from kcp's CRDs by `generate.sh`: do not edit.
#![allow(missing_docs)]

use serde::{Deserialize, Serialize};

/// Specification of `APIBinding`.
#[derive(kube::CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "apis.kcp.io",
    version = "v1alpha2",
    kind = "APIBinding",
    plural = "apibindings",
    root = "ApiBinding",
    status = "ApiBindingStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingSpec {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permission_claims: Vec<ApiBindingPermissionClaim>,
    pub reference: ApiBindingReference,
}

/// `spec.permissionClaims[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingPermissionClaim {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_selector: Option<crate::PermissionClaimSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_hash: Option<String>,
    pub resource: String,
    pub selector: crate::PermissionClaimSelector,
    pub state: String,
    pub verbs: Vec<String>,
}

/// `spec.reference`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingReference {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ApiBindingReferenceExport>,
}

/// `spec.reference.export`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingReferenceExport {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_export_cluster_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applied_permission_claims: Vec<ApiBindingStatusAppliedPermissionClaim>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound_resources: Vec<ApiBindingStatusBoundResource>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<crate::Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_permission_claims: Vec<ApiBindingStatusExportPermissionClaim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// `status.appliedPermissionClaims[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingStatusAppliedPermissionClaim {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_selector: Option<crate::PermissionClaimSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_hash: Option<String>,
    pub resource: String,
    pub selector: crate::PermissionClaimSelector,
    pub verbs: Vec<String>,
}

/// `status.boundResources[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingStatusBoundResource {
    pub group: String,
    pub resource: String,
    pub schema: ApiBindingStatusBoundResourceSchema,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage_versions: Vec<String>,
}

/// `status.boundResources[].schema`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingStatusBoundResourceSchema {
    #[serde(rename = "UID")]
    pub uid: String,
    pub identity_hash: String,
    pub name: String,
}

/// `status.exportPermissionClaims[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiBindingStatusExportPermissionClaim {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_selector: Option<crate::PermissionClaimSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_hash: Option<String>,
    pub resource: String,
    pub verbs: Vec<String>,
}

/// Specification of `APIExport`.
#[derive(kube::CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "apis.kcp.io",
    version = "v1alpha2",
    kind = "APIExport",
    plural = "apiexports",
    root = "ApiExport",
    status = "ApiExportStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<ApiExportIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximal_permission_policy: Option<ApiExportMaximalPermissionPolicy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permission_claims: Vec<ApiExportPermissionClaim>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ApiExportResource>,
}

/// `spec.identity`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportIdentity {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ApiExportIdentitySecretRef>,
}

/// `spec.identity.secretRef`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportIdentitySecretRef {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// `spec.maximalPermissionPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportMaximalPermissionPolicy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<ApiExportMaximalPermissionPolicyLocal>,
}

/// `spec.maximalPermissionPolicy.local`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportMaximalPermissionPolicyLocal {}

/// `spec.permissionClaims[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportPermissionClaim {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_selector: Option<crate::PermissionClaimSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_hash: Option<String>,
    pub resource: String,
    pub verbs: Vec<String>,
}

/// `spec.resources[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportResource {
    pub group: String,
    pub name: String,
    pub schema: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<ApiExportResourceStorage>,
}

/// `spec.resources[].storage`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportResourceStorage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crd: Option<ApiExportResourceStorageCrd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_: Option<ApiExportResourceStorageVirtual>,
}

/// `spec.resources[].storage.crd`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportResourceStorageCrd {}

/// `spec.resources[].storage.virtual`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportResourceStorageVirtual {
    pub identity_hash: String,
    pub reference: ApiExportResourceStorageVirtualReference,
}

/// `spec.resources[].storage.virtual.reference`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportResourceStorageVirtualReference {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    pub kind: String,
    pub name: String,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<crate::Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_workspaces: Vec<ApiExportStatusVirtualWorkspace>,
}

/// `status.virtualWorkspaces[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportStatusVirtualWorkspace {
    pub url: String,
}

/// Specification of `APIExportEndpointSlice`.
#[derive(kube::CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "apis.kcp.io",
    version = "v1alpha1",
    kind = "APIExportEndpointSlice",
    plural = "apiexportendpointslices",
    root = "ApiExportEndpointSlice",
    status = "ApiExportEndpointSliceStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportEndpointSliceSpec {
    pub export: ApiExportEndpointSliceExport,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
}

/// `spec.export`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportEndpointSliceExport {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportEndpointSliceStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<crate::Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ApiExportEndpointSliceStatusEndpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard_selector: Option<String>,
}

/// `status.endpoints[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiExportEndpointSliceStatusEndpoint {
    pub url: String,
}

/// Specification of `APIResourceSchema`.
#[derive(kube::CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "apis.kcp.io",
    version = "v1alpha1",
    kind = "APIResourceSchema",
    plural = "apiresourceschemas",
    root = "ApiResourceSchema",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<ApiResourceSchemaConversion>,
    pub group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_validation: Option<String>,
    pub names: ApiResourceSchemaNames,
    pub scope: String,
    pub versions: Vec<ApiResourceSchemaVersion>,
}

/// `spec.conversion`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaConversion {
    pub strategy: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<ApiResourceSchemaConversionWebhook>,
}

/// `spec.conversion.webhook`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaConversionWebhook {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_config: Option<ApiResourceSchemaConversionWebhookClientConfig>,
    pub conversion_review_versions: Vec<String>,
}

/// `spec.conversion.webhook.clientConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaConversionWebhookClientConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// `spec.names`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaNames {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_kind: Option<String>,
    pub plural: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub singular: Option<String>,
}

/// `spec.versions[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaVersion {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_printer_columns: Vec<ApiResourceSchemaVersionAdditionalPrinterColumn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecation_warning: Option<String>,
    pub name: String,
    pub schema: serde_json::Value,
    pub served: bool,
    pub storage: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subresources: Option<ApiResourceSchemaVersionSubresources>,
}

/// `spec.versions[].additionalPrinterColumns[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaVersionAdditionalPrinterColumn {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    pub json_path: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    pub type_: String,
}

/// `spec.versions[].subresources`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaVersionSubresources {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ApiResourceSchemaVersionSubresourcesScale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ApiResourceSchemaVersionSubresourcesStatus>,
}

/// `spec.versions[].subresources.scale`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaVersionSubresourcesScale {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector_path: Option<String>,
    pub spec_replicas_path: String,
    pub status_replicas_path: String,
}

/// `spec.versions[].subresources.status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceSchemaVersionSubresourcesStatus {}
