//! Bootstrap against a real kcp: `OPENKCM_TEST_ADMIN_KUBECONFIG` names an administrator's kubeconfig.
//! `cargo test -p openkcm-bootstrap --test real_kcp -- --ignored`
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{path::Path, time::Duration};

use k8s_openapi::api::{core::v1::Secret, rbac::v1::ClusterRole};
use kcp_client_rs::{
    apis::{ApiBinding, ApiExport, ApiExportEndpointSlice, ApiResourceSchema},
    tenancy::{Workspace, WorkspaceSpec},
};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use openkcm_apis::{Account, Tenant, TenantSpec, export};
use openkcm_bootstrap::{Action, Change, Error, Options, Summary, run};
use serde_json::{Value, json};

const CONSOLE: &str =
    "apiVersion: ui.platform-mesh.io/v1alpha1\nkind: ContentConfiguration\nmetadata: {name: a}\n";

/// What `openkcm-provider bootstrap` brings along.
const REGISTRATION: [&str; 2] = [
    include_str!("../../../../luigi-config/contentconfiguration.yaml"),
    include_str!("../../../../luigi-config/providermetadata.yaml"),
];

async fn config(path: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// A client for a workspace path, or with `endpoint` for a logical cluster of a virtual workspace.
fn client(config: &Config, endpoint: Option<&str>, cluster: &str) -> Client {
    let server = config.cluster_url.to_string();
    let base = endpoint.unwrap_or_else(|| server.split("/clusters/").next().unwrap());
    let mut config = config.clone();
    config.cluster_url = format!("{base}/clusters/{cluster}").parse().unwrap();
    Client::try_from(config).unwrap()
}

async fn publish(options: &Options) -> Result<(Summary, Vec<Change>), Error> {
    let mut changes = Vec::new();
    let summary = run(options.clone(), |change| changes.push(change)).await?;
    Ok((summary, changes))
}

/// Waits for what kcp does in its own time; half a minute is far beyond anything seen.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    for _ in 0..150 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("never saw {what}");
}

fn code<T>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
        Ok(_) => 200,
    }
}

async fn bound_schema(bindings: &Api<ApiBinding>) -> Option<String> {
    let bound = bindings.get_opt(export::EXPORT_NAME).await.unwrap()?.status?.bound_resources;
    bound.into_iter().find(|resource| resource.resource == "accounts").map(|resource| resource.schema.name)
}

/// Where Platform Mesh is, its kinds are served: then the console's registration is applied, with the address in it.
async fn registers_where_the_kinds_are_served(root: &Client, options: &Options) {
    let kinds =
        [("ContentConfiguration", "contentconfigurations"), ("ProviderMetadata", "providermetadatas")];
    let resource = |group: &str, version: &str, kind: &str, plural: &str| ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let definition =
        resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
    for (kind, plural) in kinds {
        let name = format!("{plural}.ui.platform-mesh.io");
        let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let object = json!({
            "apiVersion": definition.api_version, "kind": definition.kind, "metadata": {"name": name},
            "spec": {
                "group": "ui.platform-mesh.io", "scope": "Cluster",
                "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": any}}],
            },
        });
        Api::<DynamicObject>::all_with(root.clone(), &definition)
            .patch(&name, &PatchParams::apply("test"), &Patch::Apply(&object))
            .await
            .unwrap();
    }
    let options = Options { console_manifests: REGISTRATION.map(str::to_owned).to_vec(), ..options.clone() };
    let of_kinds = |changes: Vec<Change>| -> Vec<Action> {
        let ours = |change: &Change| kinds.iter().any(|(kind, _)| *kind == change.kind);
        changes.into_iter().filter(ours).map(|change| change.action).collect()
    };
    eventually("both kinds served", async || {
        let made = of_kinds(publish(&options).await.unwrap().1);
        made.iter().all(|action| !matches!(action, Action::Skipped(_))).then_some(())
    })
    .await;
    let again = of_kinds(publish(&options).await.unwrap().1);
    assert_eq!(again, [Action::Unchanged, Action::Unchanged]);
    let read = async |(kind, plural), name: &str| {
        let resource = resource("ui.platform-mesh.io", "v1alpha1", kind, plural);
        Api::<DynamicObject>::all_with(root.clone(), &resource).get(name).await.unwrap()
    };
    let pages = read(kinds[0], "openkcm-ui").await;
    let content = pages.data["spec"]["inlineConfiguration"]["content"].as_str().unwrap().to_owned();
    assert!(content.contains("https://console.example/index.html#") && !content.contains("CONSOLE_URL"));
    assert_eq!(pages.labels()["ui.platform-mesh.io/content-for"], export::EXPORT_NAME);
    // The marketplace joins the two by name.
    assert_eq!(read(kinds[1], export::EXPORT_NAME).await.data["spec"]["displayName"], "OpenKCM");
}

#[tokio::test]
#[ignore = "needs a real kcp: OPENKCM_TEST_ADMIN_KUBECONFIG"]
async fn a_provider_workspace_is_made_kept_upgraded_and_used() {
    let kubeconfig = std::env::var("OPENKCM_TEST_ADMIN_KUBECONFIG").expect("OPENKCM_TEST_ADMIN_KUBECONFIG");
    let admin = config(Path::new(&kubeconfig)).await;
    let directory = tempfile::tempdir().unwrap();
    let provider_kubeconfig = directory.path().join("provider.kubeconfig");
    let (parent, consumer) =
        (format!("bootstrap-{}", std::process::id()), format!("consumer-{}", std::process::id()));
    let workspace = format!("root:{parent}:openkcm");
    let options = Options {
        kubeconfig: kubeconfig.into(),
        workspace: workspace.clone(),
        console_url: Some("https://console.example".to_owned()),
        console_manifests: vec![CONSOLE.to_owned()],
        dry_run: false,
        kubeconfig_out: Some(provider_kubeconfig.clone()),
    };
    let workspaces: Api<Workspace> = Api::all(client(&admin, None, "root"));

    // A dry run says what it would do and does nothing.
    let (rehearsed, _) = publish(&Options { dry_run: true, ..options.clone() }).await.unwrap();
    assert_eq!((rehearsed.updated, rehearsed.unchanged), (0, 0));
    assert!(workspaces.get_opt(&parent).await.unwrap().is_none());
    assert!(!provider_kubeconfig.exists());

    // The real run makes the same, and the kubeconfig; a second one changes nothing.
    let (first, changes) = publish(&options).await.unwrap();
    assert_eq!(first.created, rehearsed.created + 1);
    let console = changes.iter().find(|change| change.kind == "ContentConfiguration").unwrap();
    assert_eq!(console.action, Action::Skipped("its kind is not served here"));
    let (second, _) = publish(&options).await.unwrap();
    assert_eq!(second, Summary { unchanged: first.created, skipped: first.skipped, ..Summary::default() });

    // A workspace binds the export, with the sample as it is.
    workspaces
        .create(&PostParams::default(), &Workspace::new(&consumer, WorkspaceSpec::default()))
        .await
        .unwrap();
    let cluster = eventually("the consumer's workspace", async || {
        let found = workspaces.get(&consumer).await.unwrap();
        found.status.filter(|status| status.phase.as_deref() == Some("Ready")).and(found.spec.cluster)
    })
    .await;
    let as_consumer = client(&admin, None, &format!("root:{consumer}"));
    let bindings: Api<ApiBinding> = Api::all(as_consumer.clone());
    eventually("the binding accepted", async || {
        bindings.create(&PostParams::default(), &export::api_binding(&workspace)).await.ok()
    })
    .await;
    eventually("Bound", async || bindings.get(export::EXPORT_NAME).await.unwrap().is_bound().then_some(()))
        .await;

    // The ServiceAccount finds the virtual workspace and may do its work there, and nothing else here.
    let scoped = config(&provider_kubeconfig).await;
    let here = client(&scoped, None, &workspace);
    let slices: Api<ApiExportEndpointSlice> = Api::all(here.clone());
    let endpoint = eventually("an endpoint", async || {
        let slice = slices.get(export::EXPORT_NAME).await.unwrap();
        slice.status?.endpoints.into_iter().next().map(|endpoint| endpoint.url)
    })
    .await;
    let everywhere: Api<Tenant> = Api::all(client(&scoped, Some(&endpoint), "*"));
    eventually("the wildcard list", async || everywhere.list(&ListParams::default()).await.ok()).await;
    let inside = client(&scoped, Some(&endpoint), &cluster);
    let tenants: Api<Tenant> = Api::all(inside.clone());
    let tenant = Tenant::new("tenant-x", TenantSpec::default());
    tenants.create(&PostParams::default(), &tenant).await.unwrap();
    let secrets: Api<Secret> = Api::all(here.clone());
    assert_eq!(code(secrets.list(&ListParams::default()).await), 403);
    let exports: Api<ApiExport> = Api::all(here);
    assert_eq!(code(exports.delete(export::EXPORT_NAME, &DeleteParams::default()).await), 403);

    // Consumers cannot write Tenants or status, whatever rights they have in their own workspace.
    let merge = |value: Value| Patch::Merge(value);
    let theirs: Api<Tenant> = Api::all(as_consumer.clone());
    assert_eq!(
        code(theirs.create(&PostParams::default(), &Tenant::new("forged", TenantSpec::default())).await),
        403
    );
    assert_eq!(code(theirs.delete("tenant-x", &DeleteParams::default()).await), 403);
    let labels = merge(json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(code(theirs.patch("tenant-x", &PatchParams::default(), &labels).await), 403);
    let accounts: Api<Account> = Api::all(as_consumer);
    let account = json!({
        "apiVersion": "openkcm.io/v1alpha1", "kind": "Account", "metadata": {"name": "used"},
        "spec": {"providerType": "AWSKMS", "keyReference": "arn:aws:kms:eu-central-1:111122223333:alias/a"},
    });
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let forged = merge(json!({"status": {"phase": "Ready"}}));
    assert_eq!(code(accounts.patch_status("used", &PatchParams::default(), &forged).await), 403);

    // An Account in use cannot be deleted, and the message says why and what to do.
    let ours: Api<Account> = Api::all(inside);
    let used = merge(json!({"status": {"dependents": 12}}));
    ours.patch_status("used", &PatchParams::default(), &used).await.unwrap();
    let Err(kube::Error::Api(refusal)) = accounts.delete("used", &DeleteParams::default()).await else {
        panic!("an Account in use was deleted");
    };
    for part in ["Account used", "12 ServiceEncryptionKeys", "kubectl get sek -A"] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }

    // Upgrade: an export that still names an older schema is moved on, bindings follow, the old schema goes last.
    let root = client(&admin, None, &workspace);
    let schemas: Api<ApiResourceSchema> = Api::all(root.clone());
    let exports: Api<ApiExport> = Api::all(root.clone());
    let current = bound_schema(&bindings).await.unwrap();
    let older = "v00000001.accounts.openkcm.io";
    let mut schema = schemas.get(&current).await.unwrap();
    schema.metadata = kube::api::ObjectMeta {
        name: Some(older.to_owned()),
        labels: schema.meta().labels.clone(),
        ..Default::default()
    };
    schemas.create(&PostParams::default(), &schema).await.unwrap();
    let mut published = exports.get(export::EXPORT_NAME).await.unwrap();
    published.spec.resources.iter_mut().find(|resource| resource.name == "accounts").unwrap().schema =
        older.to_owned();
    exports.replace(export::EXPORT_NAME, &PostParams::default(), &published).await.unwrap();
    eventually("the older schema bound", async || (bound_schema(&bindings).await? == older).then_some(()))
        .await;

    let (upgrade, changes) = publish(&options).await.unwrap();
    assert_eq!((upgrade.created, upgrade.updated, upgrade.deleted), (0, 1, 0), "{changes:?}");
    eventually("the new schema bound", async || (bound_schema(&bindings).await? == current).then_some(()))
        .await;
    assert!(accounts.get_opt("used").await.unwrap().is_some(), "an upgrade loses nothing");
    let (after, _) = publish(&options).await.unwrap();
    assert_eq!((after.created, after.updated, after.deleted), (0, 0, 1));
    assert!(schemas.get_opt(older).await.unwrap().is_none());

    registers_where_the_kinds_are_served(&root, &options).await;

    // What somebody else made is not taken over.
    let roles: Api<ClusterRole> = Api::all(root);
    let disowned = merge(json!({"metadata": {"labels": {export::MANAGED_BY_LABEL: null}}}));
    roles.patch("openkcm-bind", &PatchParams::default(), &disowned).await.unwrap();
    let refusal = publish(&options).await.unwrap_err();
    assert!(
        matches!(&refusal, Error::Foreign { object, .. } if object == "ClusterRole openkcm-bind"),
        "{refusal}"
    );
    assert!(roles.get("openkcm-bind").await.unwrap().labels().is_empty());

    // Unbinding passes, dependents or not.
    bindings.delete(export::EXPORT_NAME, &DeleteParams::default()).await.unwrap();
    eventually("the binding gone", async || {
        bindings.get_opt(export::EXPORT_NAME).await.unwrap().is_none().then_some(())
    })
    .await;
    for name in [&parent, &consumer] {
        workspaces.delete(name, &DeleteParams::default()).await.unwrap();
    }
}
