//! ServiceEncryptionKey: the key that applications encrypt with.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schedule, schema};

/// What a user wants from a key. Nothing but the user ever writes it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "openkcm.io",
    version = "v1alpha1",
    kind = "ServiceEncryptionKey",
    plural = "serviceencryptionkeys",
    singular = "serviceencryptionkey",
    shortname = "sek",
    category = "openkcm",
    namespaced,
    status = "ServiceEncryptionKeyStatus",
    derive = "PartialEq",
    doc = "A key that applications encrypt with at the Crypto Edge. Every version of it is kept.",
    validation = schema::name_rule("a ServiceEncryptionKey"),
    printcolumn(name = "ACCOUNT", type_ = "string", json_path = ".spec.accountRef.name"),
    printcolumn(name = "STATE", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "VERSION", type_ = "string", json_path = ".status.currentVersion"),
    printcolumn(
        name = "NEXT ROTATION",
        type_ = "string",
        format = "date-time",
        json_path = ".status.nextRotation"
    ),
    printcolumn(name = "CLIENTS", type_ = "integer", json_path = ".status.activeClients"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "SCHEDULE", type_ = "string", json_path = ".spec.rotationSchedule", priority = 1),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEncryptionKeySpec {
    /// The Account that protects this key. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("accountRef cannot be changed: create another ServiceEncryptionKey under the other Account and re-encrypt with it"))]
    pub account_ref: AccountRef,
    /// What the key encrypts with. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("algorithm cannot be changed: create another ServiceEncryptionKey with the other algorithm and re-encrypt with it"))]
    pub algorithm: Algorithm,
    /// `Hourly`, `Daily`, `Weekly`, `<n> Hours`, `<n> Days` or `Never`.
    #[serde(default = "schedule::default_text")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = schedule::rule())]
    pub rotation_schedule: String,
    /// Any new value asks for exactly one rotation. A time stamp reads best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub rotation_request: Option<String>,
    /// Whether the key may be used.
    #[serde(default)]
    pub state: KeyState,
    /// Who else may use the key at an edge. Service accounts of this namespace in this workspace always may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["issuer", "subject"]
    ))]
    pub clients: Vec<ClientRef>,
    /// Versions that are compromised, like `v7`: they are not used to decrypt any more, and if the current version
    /// is among them the key rotates at once. A version does not become good again when it is taken off the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 11)), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("self.all(v, v.matches('^v[1-9][0-9]{0,9}$'))")
        .message("compromisedVersions holds versions as status shows them, for example v7"))]
    pub compromised_versions: Vec<String>,
    /// Allow to decrypt with compromised versions all the same, for as long as it takes to re-encrypt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_compromised_decrypt: bool,
}

/// Names an Account of the same workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountRef {
    /// The Account's name.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("accountRef.name is not the name of an Account: lower-case letters, digits, '-' and '.' are allowed"))]
    pub name: String,
}

/// What a key encrypts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// AES-256 in Galois/Counter Mode.
    #[default]
    #[serde(rename = "AES-GCM-256")]
    AesGcm256,
}

/// What a user says about a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KeyState {
    /// It may be used.
    #[default]
    Enabled,
    /// It leaves every edge; encrypt and decrypt fail until it is enabled again.
    Disabled,
}

/// A caller from elsewhere: both values as they are in its token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientRef {
    /// The token's `iss`. The operator of the edge must trust it too.
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https://[^\\s?#]+$')")
        .message("issuer is not an issuer: give the https URL that is in the token's iss, without ? or #"))]
    pub issuer: String,
    /// The token's `sub`, for example `system:serviceaccount:NAMESPACE:NAME`.
    #[schemars(length(min = 1, max = 512))]
    pub subject: String,
}

/// What is true about a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEncryptionKeyStatus {
    /// The effective state, which follows from tenant, Account and spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<EffectiveState>,
    /// The version that encrypts, for example `v54`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 11))]
    pub current_version: Option<String>,
    /// When the current version was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<Time>,
    /// When the next one is due; absent when never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,
    /// The last `spec.rotationRequest` that was served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub rotation_request: Option<String>,
    /// Distinct callers at the edges in the last window.
    #[serde(default)]
    pub active_clients: i32,
    /// How far the edges are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<EdgeCounts>,
    /// The newest versions, newest first; the full history is in the ledger.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub versions: Vec<KeyVersion>,
    /// What is true about it, one entry per type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int32")]
    pub observed_generation: Option<i64>,
}

/// The effective state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EffectiveState {
    /// It has no version yet.
    Provisioning,
    /// It works.
    Active,
    /// Its user disabled it.
    Disabled,
    /// Its Account's root key or its tenant is not available.
    Unavailable,
    /// Deleted; its versions are kept for a window.
    PendingDeletion,
}

/// How many edges hold what. All counts are edges that may have the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeCounts {
    /// Edges that may have the key.
    pub total: i32,
    /// Edges that have acknowledged the current version.
    pub current: i32,
    /// Edges that cannot use the key any more: they acknowledged the eviction or their lease ended.
    pub evicted: i32,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyVersion {
    /// For example `v54`.
    #[schemars(length(max = 11))]
    pub version: String,
    /// What it may still do.
    pub state: VersionState,
    /// When it was made.
    pub created: Time,
    /// The version of the account key that wraps it.
    pub account_key_version: i32,
    /// When its material was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed: Option<Time>,
}

/// The states of NIST SP 800-57.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VersionState {
    /// Made, not yet used.
    PreActive,
    /// Encrypts and decrypts.
    Active,
    /// Decrypts only.
    Deactivated,
    /// Not used, unless the spec allows to decrypt with it.
    Compromised,
    /// Its material is gone.
    Destroyed,
}
