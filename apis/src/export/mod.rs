//! What the provider workspace publishes: schemas, export, rights and admission policies.
//!
//! Everything is made from the kinds of this crate, so that it can be committed, compared (`openkcm-apiexport
//! --check`) and applied (`openkcm-provider bootstrap`) from one source. Manifests are JSON values: that is what
//! both uses need, and what a reader knows from YAML.

mod rights;
mod schemas;

use kcp_client_rs::{
    PermissionClaimSelector,
    apis::{
        ApiBinding, ApiBindingPermissionClaim, ApiBindingReference, ApiBindingReferenceExport,
        ApiBindingSpec, ApiExport, ApiExportMaximalPermissionPolicy, ApiExportMaximalPermissionPolicyLocal,
        ApiExportPermissionClaim, ApiExportResource, ApiExportResourceStorage, ApiExportResourceStorageCrd,
        ApiExportSpec,
    },
};
pub use rights::{admission, consumer_rights, consumer_roles, provider_rights};
pub use schemas::schemas;
use serde::Serialize;
use serde_json::Value;

use crate::GROUP;

/// Name of the APIExport.
pub const EXPORT_NAME: &str = "openkcm.io";
/// Label on everything that bootstrap makes; what lacks it is not ours to change.
pub const MANAGED_BY_LABEL: &str = "openkcm.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "openkcm-provider";
/// Namespace in the provider workspace for the provider's ServiceAccount and its Leases.
pub const PROVIDER_NAMESPACE: &str = "openkcm-system";
/// The ServiceAccount that `openkcm-provider run` uses.
pub const PROVIDER_SERVICE_ACCOUNT: &str = "openkcm-provider";
/// The Secret that kcp fills with the ServiceAccount's token.
pub const PROVIDER_TOKEN_SECRET: &str = "openkcm-provider-token";
/// Platform Mesh: joins the export, its console pages and its ProviderMetadata.
pub const CONTENT_FOR_LABEL: &str = "ui.platform-mesh.io/content-for";

/// The APIExport, which names the current [`schemas`].
pub fn api_export() -> ApiExport {
    let resources = schemas()
        .into_iter()
        .map(|schema| ApiExportResource {
            group: GROUP.to_owned(),
            name: schema.spec.names.plural,
            schema: schema.metadata.name.unwrap_or_default(),
            storage: Some(ApiExportResourceStorage {
                crd: Some(ApiExportResourceStorageCrd {}),
                virtual_: None,
            }),
        })
        .collect();
    let spec = ApiExportSpec {
        identity: None,
        maximal_permission_policy: Some(ApiExportMaximalPermissionPolicy {
            local: Some(ApiExportMaximalPermissionPolicyLocal {}),
        }),
        // kcp intersects verbs literally and marketplaces accept `*`: any other list would come to nothing.
        permission_claims: vec![ApiExportPermissionClaim {
            default_selector: None,
            group: Some(String::new()),
            identity_hash: None,
            resource: "events".to_owned(),
            verbs: vec!["*".to_owned()],
        }],
        resources,
    };
    let mut export = ApiExport::new(EXPORT_NAME, spec);
    let labels = [(MANAGED_BY_LABEL, MANAGED_BY), (CONTENT_FOR_LABEL, EXPORT_NAME)];
    export.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    export
}

/// The binding that switches OpenKCM on in a workspace, all claims accepted.
pub fn api_binding(export_path: &str) -> ApiBinding {
    let claim = ApiBindingPermissionClaim {
        resource: "events".to_owned(),
        group: Some(String::new()),
        verbs: vec!["*".to_owned()],
        state: "Accepted".to_owned(),
        selector: PermissionClaimSelector { match_all: Some(true), ..Default::default() },
        ..Default::default()
    };
    let export =
        ApiBindingReferenceExport { name: EXPORT_NAME.to_owned(), path: Some(export_path.to_owned()) };
    let reference = ApiBindingReference { export: Some(export) };
    ApiBinding::new(EXPORT_NAME, ApiBindingSpec { permission_claims: vec![claim], reference })
}

/// Every generated file: its path below `apiexport/` and its text.
pub fn files() -> Result<Vec<(String, String)>, serde_json::Error> {
    let mut files = Vec::new();
    for schema in schemas() {
        files.push((format!("schema-{}.yaml", schema.spec.names.plural), vec![to_manifest(&schema)?]));
    }
    files.push(("apiexport.yaml".to_owned(), vec![to_manifest(&api_export())?]));
    files.push(("provider-rights.yaml".to_owned(), provider_rights()));
    files.push(("consumer-rights.yaml".to_owned(), consumer_rights()));
    files.push(("admission.yaml".to_owned(), admission()));
    let binding = to_manifest(&api_binding("root:providers:openkcm"))?;
    files.push(("samples/apibinding.yaml".to_owned(), vec![binding]));
    files.push(("samples/consumer-roles.yaml".to_owned(), consumer_roles()));
    files.into_iter().map(|(path, manifests)| Ok((path, to_yaml(&manifests)?))).collect()
}

/// A typed object as a manifest: sorted keys, nothing that is null.
pub fn to_manifest(object: &impl Serialize) -> Result<Value, serde_json::Error> {
    serde_json::to_value(object).map(|value| sorted(&value))
}

/// The value with sorted keys, so that text and hash of equal manifests are equal whatever map serde_json was
/// built with; null members are left out, because kcp refuses some of them.
pub(crate) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().filter(|(_, member)| !member.is_null()).collect();
            members.sort_by_key(|(key, _)| *key);
            Value::Object(members.into_iter().map(|(key, member)| (key.clone(), sorted(member))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn to_yaml(manifests: &[Value]) -> Result<String, serde_json::Error> {
    let mut text = "# Generated by openkcm-apiexport from apis/: do not edit.\n".to_owned();
    for manifest in manifests {
        let yaml = serde_yaml_ng::to_string(manifest).map_err(serde::ser::Error::custom)?;
        text.push_str("---\n");
        text.push_str(&yaml);
    }
    Ok(text)
}
