//! APIResourceSchemas, named after their content.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use kcp_client_rs::apis::{
    ApiResourceSchema, ApiResourceSchemaNames, ApiResourceSchemaSpec, ApiResourceSchemaVersion,
    ApiResourceSchemaVersionAdditionalPrinterColumn, ApiResourceSchemaVersionSubresources,
    ApiResourceSchemaVersionSubresourcesStatus,
};
use kube::CustomResourceExt;
use serde_json::Value;

use super::{MANAGED_BY, MANAGED_BY_LABEL, sorted};
use crate::{Account, ServiceEncryptionKey, Tenant, names::hex_digits};

/// The schemas of all kinds. kcp never changes one: another content is another name (`v<hash>.<plural>.<group>`).
pub fn schemas() -> Vec<ApiResourceSchema> {
    [Tenant::crd(), Account::crd(), ServiceEncryptionKey::crd()].map(schema).into()
}

fn schema(crd: CustomResourceDefinition) -> ApiResourceSchema {
    let crd = crd.spec;
    let list_kind = crd.names.list_kind.unwrap_or_else(|| format!("{}List", crd.names.kind));
    let spec = ApiResourceSchemaSpec {
        conversion: None,
        group: crd.group,
        name_validation: None,
        names: ApiResourceSchemaNames {
            categories: crd.names.categories.unwrap_or_default(),
            kind: crd.names.kind,
            list_kind: Some(list_kind),
            plural: crd.names.plural,
            short_names: crd.names.short_names.unwrap_or_default(),
            singular: crd.names.singular,
        },
        scope: crd.scope,
        versions: crd.versions.into_iter().map(version).collect(),
    };
    // Serializing plain data cannot fail; an empty hash would show at once in the committed files.
    let content = serde_json::to_value(&spec).map(|value| sorted(&value).to_string()).unwrap_or_default();
    let name = format!("v{}.{}.{}", hex_digits(content.as_bytes(), 8), spec.names.plural, spec.group);
    let mut schema = ApiResourceSchema::new(&name, spec);
    schema.metadata.labels = Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into());
    schema
}

fn version(version: CustomResourceDefinitionVersion) -> ApiResourceSchemaVersion {
    let columns = version.additional_printer_columns.unwrap_or_default();
    let open_api = version.schema.and_then(|schema| schema.open_api_v3_schema);
    let mut open_api = open_api.and_then(|schema| serde_json::to_value(schema).ok()).unwrap_or_default();
    tidy(&mut open_api);
    ApiResourceSchemaVersion {
        additional_printer_columns: columns
            .into_iter()
            .map(|column| ApiResourceSchemaVersionAdditionalPrinterColumn {
                description: column.description,
                format: column.format,
                json_path: column.json_path,
                name: column.name,
                priority: column.priority,
                type_: column.type_,
            })
            .collect(),
        deprecated: version.deprecated,
        deprecation_warning: version.deprecation_warning,
        name: version.name,
        schema: sorted(&open_api),
        served: version.served,
        storage: version.storage,
        subresources: Some(ApiResourceSchemaVersionSubresources {
            scale: None,
            status: Some(ApiResourceSchemaVersionSubresourcesStatus {}),
        }),
    }
}

/// Makes an absent value the only way to say "none": without `nullable` the API server drops a null, so that rules
/// need not tell null from absent.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("nullable") == Some(&Value::Bool(true)) {
                members.remove("nullable");
            }
            if members.get("title").is_some_and(Value::is_string) {
                members.remove("title");
            }
            members.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// Everything that the console's gateway cannot carry or CEL's cost estimate needs bounded.
    fn check(path: &str, schema: &Value) {
        assert_ne!(schema["x-kubernetes-preserve-unknown-fields"], true, "{path} is free-form");
        assert!(schema.get("additionalProperties").is_none(), "{path} is a free-form map");
        assert!(schema.get("nullable").is_none(), "{path} is nullable");
        match schema["type"].as_str() {
            Some("object") => {
                let members = schema["properties"].as_object();
                assert!(members.is_some() || path == "Tenant.spec", "{path} has no members");
                members
                    .into_iter()
                    .flatten()
                    .for_each(|(name, member)| check(&format!("{path}.{name}"), member));
            }
            Some("array") => {
                assert!(schema["maxItems"].is_u64(), "{path} has no maxItems");
                check(&format!("{path}[]"), &schema["items"]);
            }
            Some("string") => {
                let bounded = schema["maxLength"].is_u64()
                    || schema["enum"].is_array()
                    || schema["format"] == "date-time";
                assert!(bounded, "{path} has no maxLength");
            }
            Some("integer") => assert_eq!(schema["format"], "int32", "{path}"),
            Some("boolean") => {}
            other => panic!("{path} has type {other:?}"),
        }
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            assert!(rule["message"].as_str().is_some_and(|message| message.len() > 20), "{path}: {rule}");
        }
    }

    #[test]
    fn schemas_are_closed_bounded_and_small() {
        for schema in schemas() {
            let kind = &schema.spec.names.kind;
            check(kind, &schema.spec.versions[0].schema);
            assert!(schema.metadata.name.unwrap().split('.').next().unwrap().len() == 9);
        }
    }

    #[test]
    fn another_content_is_another_name() {
        let name = |crd| schema(crd).metadata.name.unwrap();
        let mut changed = Tenant::crd();
        changed.spec.names.categories = None;
        assert_ne!(name(changed), name(Tenant::crd()));
        assert_eq!(name(Tenant::crd()), name(Tenant::crd()));
    }
}
