//! Writes the Rust types of kcp's kinds from kcp's CRDs: `generate CRD_DIRECTORY OUT_DIRECTORY`.
//!
//! Run it through `generate.sh`, which knows the version of kcp. It translates structure only, not prose.
//! Rules: required → plain field, optional → `Option`, optional list or map → empty when absent; enumerations
//! stay text, so that a value that a later kcp adds does not make a whole object undecodable.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{env, fmt::Write as _, fs, path::Path};

use serde_json::Value;

/// What is generated: module, then CRD file and version of each kind in it.
type Kinds = &'static [(&'static str, &'static str)];
const MODULES: [(&str, &str, Kinds); 2] = [
    (
        "apis",
        "Kinds of group `apis.kcp.io`.",
        &[
            ("apis.kcp.io_apibindings.yaml", "v1alpha2"),
            ("apis.kcp.io_apiexports.yaml", "v1alpha2"),
            ("apis.kcp.io_apiexportendpointslices.yaml", "v1alpha1"),
            ("apis.kcp.io_apiresourceschemas.yaml", "v1alpha1"),
        ],
    ),
    ("tenancy", "Kinds of group `tenancy.kcp.io`.", &[("tenancy.kcp.io_workspaces.yaml", "v1alpha1")]),
];

fn main() {
    let [_, crds, out] =
        env::args().collect::<Vec<_>>().try_into().expect("usage: generate CRD_DIRECTORY OUT_DIRECTORY");
    for (module, summary, kinds) in MODULES {
        let mut text =
            format!("//! {summary}\n//!\n//! Generated from kcp's CRDs by `generate.sh`: do not edit.\n");
        text.push_str("#![allow(missing_docs)]\n\nuse serde::{Deserialize, Serialize};\n");
        for (file, version) in kinds {
            let yaml = fs::read_to_string(Path::new(&crds).join(file)).unwrap();
            kind(&mut text, &serde_yaml_ng::from_str(&yaml).unwrap(), version);
        }
        fs::write(Path::new(&out).join(format!("{module}.rs")), text).unwrap();
    }
}

fn kind(text: &mut String, crd: &Value, version: &str) {
    let names = &crd["spec"]["names"];
    let (group, kind, plural) = (&crd["spec"]["group"], names["kind"].as_str().unwrap(), &names["plural"]);
    assert_eq!(crd["spec"]["scope"], "Cluster", "only cluster-scoped kinds are handled");
    let base = kind.strip_prefix("API").map_or_else(|| kind.to_owned(), |rest| format!("Api{rest}"));
    let versions = crd["spec"]["versions"].as_array().unwrap();
    let schema =
        &versions.iter().find(|v| v["name"] == version).unwrap()["schema"]["openAPIV3Schema"]["properties"];
    let mut attributes =
        format!("group = {group}, version = \"{version}\", kind = \"{kind}\", plural = {plural}");
    if base != kind {
        write!(attributes, ", root = \"{base}\"").unwrap();
    }
    if schema["status"].is_object() {
        write!(attributes, ", status = \"{base}Status\"").unwrap();
    }
    let head = format!(
        "/// Specification of `{kind}`.\n#[derive(kube::CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]\n\
         #[kube({attributes}, derive = \"PartialEq\", schema = \"disabled\")]\n"
    );
    structure(text, &format!("{base}Spec"), &base, &schema["spec"], "spec", Some(head));
    if schema["status"].is_object() {
        let name = format!("{base}Status");
        structure(text, &name, &name, &schema["status"], "status", None);
    }
}

/// Writes the struct `name` for an object schema, then the structs its fields need, named after `prefix`.
fn structure(text: &mut String, name: &str, prefix: &str, schema: &Value, path: &str, head: Option<String>) {
    let mut nested = String::new();
    let mut body = String::new();
    let empty = serde_json::Map::new();
    for (key, property) in schema["properties"].as_object().unwrap_or(&empty) {
        let required = schema["required"].as_array().is_some_and(|r| r.iter().any(|v| v == key));
        let here = format!("{path}.{key}");
        let ty = field_type(&mut nested, prefix, key, property, &here);
        let field = field_name(key);
        let mut serde = Vec::new();
        if camel(&field) != *key {
            serde.push(format!("rename = \"{key}\""));
        }
        let collection = ["Vec<", "std::collections::BTreeMap<"].iter().find(|c| ty.starts_with(*c));
        let ty = match (required, collection) {
            (true, _) => ty,
            (false, Some(collection)) => {
                let function = format!("{}::is_empty", collection.trim_end_matches('<'));
                serde.extend(["default".to_owned(), format!("skip_serializing_if = \"{function}\"")]);
                ty
            }
            (false, None) => {
                serde.extend(["default".to_owned(), "skip_serializing_if = \"Option::is_none\"".to_owned()]);
                format!("Option<{ty}>")
            }
        };
        if !serde.is_empty() {
            writeln!(body, "    #[serde({})]", serde.join(", ")).unwrap();
        }
        writeln!(body, "    pub {field}: {ty},").unwrap();
    }
    let head = head.unwrap_or_else(|| {
        format!("/// `{path}`.\n#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]\n")
    });
    let braces = if body.is_empty() { "{}".to_owned() } else { format!("{{\n{body}}}") };
    write!(text, "\n{head}#[serde(rename_all = \"camelCase\")]\npub struct {name} {braces}\n{nested}")
        .unwrap();
}

fn field_type(nested: &mut String, prefix: &str, key: &str, schema: &Value, path: &str) -> String {
    let has = |name: &str| schema["properties"][name].is_object();
    match (schema["type"].as_str(), schema["format"].as_str()) {
        _ if schema["x-kubernetes-preserve-unknown-fields"] == true => "serde_json::Value".to_owned(),
        _ if has("matchAll") && has("matchLabels") => "crate::PermissionClaimSelector".to_owned(),
        _ if has("matchLabels") => "k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector".to_owned(),
        _ if has("lastTransitionTime") => "crate::Condition".to_owned(),
        (Some("string"), Some("date-time")) => {
            "k8s_openapi::apimachinery::pkg::apis::meta::v1::Time".to_owned()
        }
        (Some("string"), _) => "String".to_owned(),
        (Some("boolean"), _) => "bool".to_owned(),
        (Some("integer"), Some("int32")) => "i32".to_owned(),
        (Some("integer"), _) => "i64".to_owned(),
        (Some("array"), _) => format!(
            "Vec<{}>",
            field_type(nested, prefix, singular(key), &schema["items"], &format!("{path}[]"))
        ),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            let value = field_type(nested, prefix, key, &schema["additionalProperties"], path);
            format!("std::collections::BTreeMap<String, {value}>")
        }
        (Some("object"), _) => {
            let name = format!("{prefix}{}", pascal(key));
            structure(nested, &name, &name, schema, path, None);
            name
        }
        other => panic!("{path}: no rule for {other:?}"),
    }
}

fn singular(key: &str) -> &str {
    key.strip_suffix('s').unwrap_or(key)
}

fn pascal(key: &str) -> String {
    let mut letters = key.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `snake_case` of a JSON name; runs of capitals count as one word, and a word of Rust's gets a `_`.
fn field_name(key: &str) -> String {
    let letters: Vec<char> = key.chars().collect();
    let mut name = String::new();
    for (i, c) in letters.iter().enumerate() {
        let starts_word = i > 0 && c.is_uppercase() && letters[i - 1].is_lowercase()
            || i > 0 && c.is_uppercase() && letters.get(i + 1).is_some_and(|next| next.is_lowercase());
        if starts_word {
            name.push('_');
        }
        name.extend(c.to_lowercase());
    }
    if ["type", "ref", "virtual"].contains(&name.as_str()) { name + "_" } else { name }
}

/// What serde's `camelCase` makes of a field name.
fn camel(field: &str) -> String {
    let mut out = String::new();
    for (i, word) in field.split('_').enumerate() {
        out.push_str(&if i == 0 { word.to_owned() } else { pascal(word) });
    }
    out
}
