//! Account: a root of trust in a key store that the customer owns.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{names, references, schema};

/// Which master key protects everything below this Account.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "openkcm.io",
    version = "v1alpha1",
    kind = "Account",
    plural = "accounts",
    shortname = "kcma",
    category = "openkcm",
    status = "AccountStatus",
    derive = "PartialEq",
    doc = "A root of trust: a master key in a key store that the customer owns.",
    validation = schema::name_rule("an Account"),
    printcolumn(name = "PROVIDER", type_ = "string", json_path = ".spec.providerType"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"RootKeyVerified\")].reason"
    ),
    printcolumn(name = "KEYS", type_ = "integer", json_path = ".status.dependents"),
    printcolumn(name = "VERIFIED", type_ = "date", json_path = ".status.rootKey.lastVerified"),
    printcolumn(name = "KEY REFERENCE", type_ = "string", json_path = ".spec.keyReference", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = references::aws_rule(),
    validation = references::azure_rule(),
    validation = references::gcp_rule(),
    validation = references::pkcs11_query_rule(),
    validation = references::pkcs11_rule(),
    validation = Rule::new("!has(self.access) || !has(self.access.aws) || self.providerType == 'AWSKMS'")
        .message("access.aws belongs to providerType AWSKMS: remove it, or use the member that fits the provider type")
        .field_path(".access"),
    validation = Rule::new("!has(self.access) || !has(self.access.azure) || self.providerType == 'AzureKeyVault'")
        .message("access.azure belongs to providerType AzureKeyVault: remove it, or use the member that fits the provider type")
        .field_path(".access"),
    validation = Rule::new("!has(self.access) || !has(self.access.gcp) || self.providerType == 'GCPKMS'")
        .message("access.gcp belongs to providerType GCPKMS: remove it, or use the member that fits the provider type")
        .field_path(".access"),
    validation = Rule::new("!has(self.access) || self.providerType != 'ThalesHSM'")
        .message("providerType ThalesHSM takes no access: the operator of OpenKCM configures HSM tokens and PINs; remove access")
        .field_path(".access")
)]
#[serde(rename_all = "camelCase")]
pub struct AccountSpec {
    /// The kind of key store.
    pub provider_type: ProviderType,
    /// The master key in the form of its key store: AWS key or alias ARN; Azure `https://VAULT/keys/NAME[/VERSION]`;
    /// Google `projects/…/locations/…/keyRings/…/cryptoKeys/…[/cryptoKeyVersions/…]`; HSM `pkcs11:token=…;object=…`.
    /// A changed reference asks for a re-key: everything below is re-wrapped under the new root.
    #[schemars(length(min = 1, max = 512))]
    pub key_reference: String,
    /// How the provider gets access to the key. Without it an operator's grant for this workspace is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// The root key that a re-key leaves behind is compromised: every service key also gets a new version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub root_compromised: bool,
    /// Regions that keys under this Account may be in: only Crypto Edges of these regions get them. Empty: anywhere. A
    /// change takes effect at once: edges outside lose the keys. The operator of OpenKCM says which regions there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63)), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = names::region_rule())]
    pub edge_regions: Vec<String>,
}

/// The kinds of key store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ProviderType {
    /// AWS Key Management Service.
    #[serde(rename = "AWSKMS")]
    AwsKms,
    /// Azure Key Vault and Managed HSM.
    AzureKeyVault,
    /// Google Cloud Key Management Service.
    #[serde(rename = "GCPKMS")]
    GcpKms,
    /// A Thales Luna HSM, through PKCS#11.
    #[serde(rename = "ThalesHSM")]
    ThalesHsm,
}

impl ProviderType {
    /// As it is written in `spec.providerType`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwsKms => "AWSKMS",
            Self::AzureKeyVault => "AzureKeyVault",
            Self::GcpKms => "GCPKMS",
            Self::ThalesHsm => "ThalesHSM",
        }
    }
}

/// How the provider gets access: exactly the member that fits the provider type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.aws) || has(self.azure) || has(self.gcp)")
    .message("access is empty: give the member that fits the provider type (aws, azure or gcp), or leave access out"))]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// For `AWSKMS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsAccess>,
    /// For `AzureKeyVault`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureAccess>,
    /// For `GCPKMS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp: Option<GcpAccess>,
}

/// A role in the customer's AWS account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsAccess {
    /// The role that the provider assumes. Its trust policy must require the external id that the provider sends:
    /// the name of this workspace's logical cluster (`kubectl get kcmt -o jsonpath='{.items[*].status.logicalCluster}'`).
    #[schemars(length(max = 512))]
    #[x_kube(validation = references::role_rule())]
    pub role_arn: String,
}

/// An application in the customer's Microsoft Entra tenant that trusts the provider (federated credential).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureAccess {
    /// Directory (tenant) id.
    #[schemars(length(max = 36))]
    #[x_kube(validation = references::uuid_rule("tenantId"))]
    pub tenant_id: String,
    /// Application (client) id.
    #[schemars(length(max = 36))]
    #[x_kube(validation = references::uuid_rule("clientId"))]
    pub client_id: String,
}

/// A service account in the customer's Google Cloud project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpAccess {
    /// Address of the service account that the provider impersonates.
    #[schemars(length(max = 256))]
    #[x_kube(validation = references::service_account_rule())]
    pub service_account: String,
}

/// What the provider found out about the root key and what hangs on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// Where the Account is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<AccountPhase>,
    /// The root key that is in use, which during a re-key is still the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<RootKeyStatus>,
    /// Version of the account key, counted from 1; a re-key adds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_key_version: Option<i32>,
    /// The last or running re-wrap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrap: Option<Rewrap>,
    /// What a re-key, disable or delete of this Account would touch now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impact: Option<Impact>,
    /// Number of ServiceEncryptionKeys that name this Account. The API server refuses a delete unless it is 0.
    #[serde(default)]
    pub dependents: i32,
    /// What is true about it, one entry per type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int32")]
    pub observed_generation: Option<i64>,
}

/// Where an Account is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AccountPhase {
    /// The root key was not verified yet.
    Pending,
    /// The root key was described, and has wrapped and unwrapped a probe.
    Ready,
    /// Everything below is being re-wrapped under another root.
    Rekeying,
    /// The root key cannot be used any more; the keys below have left the edges.
    Unavailable,
    /// Being deleted.
    Deleting,
}

/// A verified root key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyStatus {
    /// Its reference, as it was in the spec when it was taken into use.
    #[schemars(length(max = 512))]
    pub reference: String,
    /// Its version in the store, where the store has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// Its algorithm, in the store's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub algorithm: Option<String>,
    /// When a wrap and an unwrap last succeeded. Written rarely: only when something else changes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<Time>,
}

/// Progress of a re-wrap. Counts are versions of service keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rewrap {
    /// Account key version before.
    pub from: i32,
    /// Account key version after.
    pub to: i32,
    /// How many there are.
    pub total: i32,
    /// How many are done.
    pub done: i32,
    /// How many cannot be done.
    #[serde(default)]
    pub failed: i32,
    /// The first of those that cannot be done, as `namespace/name vN`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 320)))]
    pub lost: Vec<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// What hangs on an Account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Impact {
    /// ServiceEncryptionKeys.
    pub keys: i32,
    /// Namespaces that they are in.
    pub namespaces: i32,
    /// Distinct callers at the edges in the last window.
    pub active_clients: i32,
}
