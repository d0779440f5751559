//! The reject tables in `reject/`, through a real API server.
//!
//! `OPENKCM_TEST_KUBECONFIG` names a kubeconfig whose server is a workspace that has bound the export:
//! `cargo test -p openkcm-apis --test reject -- --ignored`. Nothing is left behind: objects are only created as
//! dry runs, but for one base object per kind that updates are tried on.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use kube::{
    Api, Client, Config,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind, Request},
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    base: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    spec: Option<Value>,
    object: Option<Value>,
    update: Option<Value>,
    #[serde(default)]
    refused: Vec<String>,
}

fn tables() -> Vec<Table> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reject");
    ["accounts.yaml", "serviceencryptionkeys.yaml"]
        .map(|file| serde_yaml_ng::from_str(&std::fs::read_to_string(directory.join(file)).unwrap()).unwrap())
        .into()
}

/// JSON merge patch: null removes.
fn merge(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = expand(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (key, member) in members {
        if member.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], member);
        }
    }
}

/// `{xN}` stands for N times the letter x.
fn expand(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.split_once("{x").and_then(|(a, b)| Some((a, b.split_once('}')?))) {
            Some((before, (count, after))) => {
                format!("{before}{}{after}", "x".repeat(count.parse().unwrap())).into()
            }
            None => value.clone(),
        },
        Value::Array(items) => items.iter().map(expand).collect(),
        Value::Object(members) => members.iter().map(|(key, member)| (key.clone(), expand(member))).collect(),
        other => other.clone(),
    }
}

/// Creates as `kubectl create --dry-run=server` does, which also refuses unknown fields.
async fn create(api: &Api<DynamicObject>, object: &Value) -> kube::Result<DynamicObject> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let body = serde_json::to_vec(object).unwrap();
    let mut request = Request::new(api.resource_url()).create(&params, body).unwrap();
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse().unwrap();
    api.clone().into_client().request(request).await
}

async fn outcome(api: &Api<DynamicObject>, base: &Value, case: &Case) -> Result<(), String> {
    let name = base["metadata"]["name"].as_str().unwrap();
    let result = if let Some(update) = &case.update {
        let mut params = PatchParams { dry_run: true, ..PatchParams::default() };
        params.field_validation = Some(ValidationDirective::Strict);
        api.patch(name, &params, &Patch::Merge(update)).await
    } else {
        let mut object = base.clone();
        object["metadata"]["name"] = "reject-dry-run".into();
        if let Some(spec) = &case.spec {
            object["spec"] = Value::Null;
            merge(&mut object["spec"], spec);
        }
        merge(&mut object, case.object.as_ref().unwrap_or(&Value::Object(serde_json::Map::new())));
        create(api, &object).await
    };
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("{}: {error}", case.name),
    }
}

#[test]
fn every_table_can_be_read() {
    let refusals: usize =
        tables().iter().map(|t| t.cases.iter().filter(|c| !c.refused.is_empty()).count()).sum();
    assert!(refusals > 40, "{refusals}");
}

#[tokio::test]
#[ignore = "needs a workspace of a real kcp: OPENKCM_TEST_KUBECONFIG"]
async fn the_api_server_says_what_is_wrong_and_what_would_be_right() {
    let path = std::env::var("OPENKCM_TEST_KUBECONFIG").expect("OPENKCM_TEST_KUBECONFIG");
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let mut wrong = Vec::new();
    for Table { base, cases } in tables() {
        let kind = base["kind"].as_str().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("openkcm.io", "v1alpha1", kind));
        let api: Api<DynamicObject> = match base["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let name = base["metadata"]["name"].as_str().unwrap();
        let object = serde_json::from_value(base.clone()).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
        for case in &cases {
            match outcome(&api, &base, case).await {
                Ok(()) if case.refused.is_empty() => {}
                Ok(()) => wrong.push(format!("{kind}, {}: accepted", case.name)),
                Err(message) if case.refused.is_empty() => {
                    wrong.push(format!("{kind}, {}: refused: {message}", case.name));
                }
                Err(message) => {
                    for fragment in case.refused.iter().filter(|fragment| !message.contains(*fragment)) {
                        wrong.push(format!("{kind}, {}: no {fragment:?} in: {message}", case.name));
                    }
                }
            }
        }
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // A Tenant has nothing to configure: nobody in a workspace makes or changes one, its administrator neither.
    let tenants = ApiResource::from_gvk(&GroupVersionKind::gvk("openkcm.io", "v1alpha1", "Tenant"));
    let api: Api<DynamicObject> = Api::all_with(client, &tenants);
    let mine = DynamicObject::new("mine", &tenants);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match api.create(&params, &mine).await {
        Err(kube::Error::Api(status)) => {
            assert!(status.code == 403 && status.message.contains("tenants"), "{}", status.message);
        }
        other => panic!("a Tenant was not refused: {other:?}"),
    }
}
