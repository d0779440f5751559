//! A workspace, and what its users do there: as they would write it, in plain objects.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kcp_client_rs::LogicalCluster;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{kcp::Kcp, wait::eventually};

/// A kind of object. Names of namespaced ones are written `namespace/name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    group: &'static str,
    version: &'static str,
    /// As in `kind:`.
    pub name: &'static str,
    plural: &'static str,
}

macro_rules! kinds {
    ($($constant:ident = $group:literal $version:literal $name:literal $plural:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "` of group `", $group, "`.")]
            pub const $constant: Kind = Kind { group: $group, version: $version, name: $name, plural: $plural };
        )*
        /// All that a scenario uses.
        pub const KINDS: &[Kind] = &[$($constant),*];
    };
}

kinds! {
    TENANT = "openkcm.io" "v1alpha1" "Tenant" "tenants";
    ACCOUNT = "openkcm.io" "v1alpha1" "Account" "accounts";
    SERVICE_KEY = "openkcm.io" "v1alpha1" "ServiceEncryptionKey" "serviceencryptionkeys";
    BINDING = "apis.kcp.io" "v1alpha2" "APIBinding" "apibindings";
    EXPORT = "apis.kcp.io" "v1alpha2" "APIExport" "apiexports";
    SCHEMA = "apis.kcp.io" "v1alpha1" "APIResourceSchema" "apiresourceschemas";
    WORKSPACE = "tenancy.kcp.io" "v1alpha1" "Workspace" "workspaces";
    LOGICAL_CLUSTER = "core.kcp.io" "v1alpha1" "LogicalCluster" "logicalclusters";
    NAMESPACE = "" "v1" "Namespace" "namespaces";
    SERVICE_ACCOUNT = "" "v1" "ServiceAccount" "serviceaccounts";
    EVENT = "" "v1" "Event" "events";
    CLUSTER_ROLE = "rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles";
    CLUSTER_ROLE_BINDING = "rbac.authorization.k8s.io" "v1" "ClusterRoleBinding" "clusterrolebindings";
}

impl Kind {
    fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.name.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    fn api_version(self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// A workspace and its administrator's hand in it.
#[derive(Clone)]
pub struct Workspace {
    path: String,
    cluster: LogicalCluster,
    client: Client,
}

impl Workspace {
    /// Makes the workspace `NAME` below `parent`, and waits until it is ready.
    pub async fn create(kcp: &Kcp, parent: &str, name: &str) -> Result<Self> {
        let spec = json!({"type": {"name": "universal", "path": "root"}});
        let parents = kcp.client(parent).await?;
        let api = Api::<DynamicObject>::all_with(parents, &WORKSPACE.resource());
        let object = json!({
            "apiVersion": WORKSPACE.api_version(), "kind": WORKSPACE.name, "metadata": {"name": name}, "spec": spec,
        });
        api.patch(name, &PatchParams::apply("kcp-e2e").force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("making workspace {parent}:{name}"))?;
        let cluster = eventually(&format!("workspace {parent}:{name} is ready"), || async {
            let now = api.get(name).await.context("reading a workspace")?;
            ensure!(now.data["status"]["phase"] == "Ready", "its phase is {}", now.data["status"]["phase"]);
            text(&now.data["spec"]["cluster"]).context("a workspace without spec.cluster")
        })
        .await?;
        let path = format!("{parent}:{name}");
        // By its name in the path, as a user would; the logical cluster's name is for the ledger and the edge.
        let client = kcp.client(&path).await?;
        Ok(Self { path, cluster: cluster.parse().context("kcp's name of a logical cluster")?, client })
    }

    /// A workspace that exists.
    pub async fn open(kcp: &Kcp, path: &str) -> Result<Self> {
        let client = kcp.client(path).await?;
        let api = Api::<DynamicObject>::all_with(client.clone(), &LOGICAL_CLUSTER.resource());
        let own = api.get("cluster").await.with_context(|| format!("opening workspace {path}"))?;
        let cluster = own
            .metadata
            .annotations
            .unwrap_or_default()
            .remove(kcp_client_rs::logical_cluster::CLUSTER_ANNOTATION);
        let cluster = cluster.context("a logical cluster without its name")?;
        Ok(Self {
            path: path.to_owned(),
            cluster: cluster.parse().context("kcp's name of a logical cluster")?,
            client,
        })
    }

    /// Deletes the child workspace `name` and waits until it is gone.
    pub async fn delete_child(&self, name: &str) -> Result<()> {
        self.delete(WORKSPACE, name).await?;
        self.gone(WORKSPACE, name).await
    }

    /// For example `root:acme:payments`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its identity.
    pub fn cluster(&self) -> &LogicalCluster {
        &self.cluster
    }

    /// The kube client of its administrator.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// `kubectl apply`: the object's kind and name say where it goes.
    pub async fn apply(&self, object: Value) -> Result<Value> {
        let (kind, name) = address(&object)?;
        let applied = self
            .api(kind, &name)
            .patch(base_name(&name), &PatchParams::apply("kcp-e2e").force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("applying {} {name} in {}", kind.name, self.path))?;
        to_value(&applied)
    }

    /// The object, or None if there is none.
    pub async fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>> {
        let found = self
            .api(kind, name)
            .get_opt(base_name(name))
            .await
            .with_context(|| format!("reading {} {name} in {}", kind.name, self.path))?;
        found.as_ref().map(to_value).transpose()
    }

    /// All objects of a kind, of every namespace; none if the kind is not served here.
    pub async fn list(&self, kind: Kind) -> Result<Vec<Value>> {
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &kind.resource());
        match api.list(&ListParams::default()).await {
            Ok(list) => list.items.iter().map(to_value).collect(),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("listing {} in {}", kind.plural, self.path)),
        }
    }

    /// `kubectl patch --type merge`.
    pub async fn patch(&self, kind: Kind, name: &str, patch: Value) -> Result<Value> {
        let patched = self
            .api(kind, name)
            .patch(base_name(name), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("patching {} {name} in {}", kind.name, self.path))?;
        to_value(&patched)
    }

    /// `kubectl patch --type merge --subresource status`: what only the provider may.
    pub async fn patch_status(&self, kind: Kind, name: &str, patch: Value) -> Result<Value> {
        let patched = self
            .api(kind, name)
            .patch_status(base_name(name), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("patching the status of {} {name} in {}", kind.name, self.path))?;
        to_value(&patched)
    }

    /// `kubectl delete --wait=false`.
    pub async fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.api(kind, name)
            .delete(base_name(name), &DeleteParams::default())
            .await
            .with_context(|| format!("deleting {} {name} in {}", kind.name, self.path))?;
        Ok(())
    }

    /// Waits until an object is no more.
    pub async fn gone(&self, kind: Kind, name: &str) -> Result<()> {
        eventually(&format!("{} {name} is gone", kind.name), || async {
            match self.get(kind, name).await? {
                Some(object) => bail!("it is still there: {}", object["status"]),
                None => Ok(()),
            }
        })
        .await
    }

    /// Waits until an object exists for which `holds` is true, and returns it.
    pub async fn expect(
        &self,
        kind: Kind,
        name: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        eventually(&format!("{} {name} in {}: {what}", kind.name, self.path), || async {
            let object = self.get(kind, name).await?.context("there is no such object")?;
            ensure!(holds(&object), "its status is {}", object["status"]);
            Ok(object)
        })
        .await
    }

    /// `kubectl get`: the names of the columns that people see, and each object's cells.
    pub async fn table(&self, kind: Kind) -> Result<(Vec<String>, Vec<Vec<Value>>)> {
        let path = if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
        let request = http::Request::get(format!("/{path}/{}/{}", kind.version, kind.plural))
            .header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
            .body(Vec::new())?;
        let table: Value = self.client.request(request).await.context("asking for a table")?;
        let all = table["columnDefinitions"].as_array().context("a table has columns")?;
        // Others are shown with `-o wide`.
        let shown: Vec<usize> = (0..all.len()).filter(|column| all[*column]["priority"] == 0).collect();
        let names = shown.iter().filter_map(|column| text(&all[*column]["name"])).collect();
        let cells = |row: &Value| shown.iter().map(|column| row["cells"][*column].clone()).collect();
        Ok((names, table["rows"].as_array().into_iter().flatten().map(cells).collect()))
    }

    /// Events about an object, oldest first, as `REASON: message`.
    pub async fn events(&self, kind: Kind, name: &str) -> Result<Vec<String>> {
        let mut events: Vec<(String, String)> = self
            .list(EVENT)
            .await?
            .iter()
            .filter(|event| {
                let about = &event["involvedObject"];
                about["kind"] == kind.name && about["name"] == base_name(name)
            })
            .map(|event| {
                let time = text(&event["eventTime"]).or(text(&event["firstTimestamp"])).unwrap_or_default();
                let line = |field: &str| text(&event[field]).unwrap_or_default();
                (time, format!("{}: {}", line("reason"), line("message")))
            })
            .collect();
        events.sort();
        Ok(events.into_iter().map(|(_, line)| line).collect())
    }

    /// A token of a service account (made if it is not there), as an application's pod has it.
    ///
    /// Without an audience it is for kcp itself.
    pub async fn token(&self, service_account: &str, audience: Option<&str>) -> Result<String> {
        let (namespace, name) =
            service_account.split_once('/').context("a service account is NAMESPACE/NAME")?;
        self.namespace(namespace).await?;
        self.apply(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace},
        }))
        .await?;
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audience.into_iter().collect::<Vec<_>>(), "expirationSeconds": 24 * 3600},
        });
        let request =
            http::Request::post(format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"))
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&body)?)?;
        let answer: Value = self.client.request(request).await.context("asking for a token")?;
        text(&answer["status"]["token"]).context("an answer without a token")
    }

    /// Binds the export `NAME` of the workspace `provider` as most users do, under the export's own name, and waits until kcp has
    /// bound it (about five seconds, all of it kcp's own).
    pub async fn bind(&self, provider: &str, export: &str) -> Result<()> {
        self.apply_binding(binding(export, provider, export, "Accepted")).await?;
        self.expect(BINDING, export, "it is Bound", |it| it["status"]["phase"] == "Bound").await?;
        // Bound is said a moment before the API server answers for every kind.
        eventually(&format!("{} serves the kinds of {export}", self.path), || async {
            for kind in [TENANT, ACCOUNT, SERVICE_KEY] {
                let api = Api::<DynamicObject>::all_with(self.client.clone(), &kind.resource());
                api.list(&ListParams::default().limit(1))
                    .await
                    .with_context(|| format!("listing {}", kind.plural))?;
            }
            Ok(())
        })
        .await
    }

    /// Applies an APIBinding. kcp puts labels of its own on every object that an export claims, and refuses them from others: an apply
    /// that meets the very moment at which it does so is refused too, and works when it is made again.
    pub async fn apply_binding(&self, binding: Value) -> Result<Value> {
        for _ in 0..5 {
            match self.apply(binding.clone()).await {
                Err(error) if format!("{error:#}").contains("labels[claimed.internal.apis.kcp.io/") => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                result => return result,
            }
        }
        self.apply(binding).await
    }

    /// The name of the workspace's Tenant, once it is Active.
    pub async fn tenant(&self) -> Result<String> {
        eventually(&format!("the Tenant in {} is Active", self.path), || async {
            let tenants = self.list(TENANT).await?;
            let tenant = tenants.first().context("there is no Tenant")?;
            ensure!(tenant["status"]["phase"] == "Active", "its status is {}", tenant["status"]);
            text(&tenant["metadata"]["name"]).context("a Tenant without a name")
        })
        .await
    }

    /// Declares an Account with an AWS KMS key.
    pub async fn account(&self, name: &str, key_reference: &str) -> Result<Value> {
        self.account_of(name, "AWSKMS", key_reference).await
    }

    /// Declares an Account with a key of some store.
    pub async fn account_of(&self, name: &str, provider_type: &str, key_reference: &str) -> Result<Value> {
        self.apply(json!({
            "apiVersion": "openkcm.io/v1alpha1", "kind": "Account", "metadata": {"name": name},
            "spec": {"providerType": provider_type, "keyReference": key_reference},
        }))
        .await
    }

    /// Declares a ServiceEncryptionKey that never rotates by itself; `name` is `NAMESPACE/NAME`.
    pub async fn service_key(&self, name: &str, account: &str) -> Result<Value> {
        let (namespace, base) = name.split_once('/').context("a service key is NAMESPACE/NAME")?;
        self.namespace(namespace).await?;
        self.apply(json!({
            "apiVersion": "openkcm.io/v1alpha1", "kind": "ServiceEncryptionKey",
            "metadata": {"name": base, "namespace": namespace},
            "spec": {
                "accountRef": {"name": account}, "algorithm": "AES-GCM-256", "rotationSchedule": "Never", "state": "Enabled",
            },
        }))
        .await
    }

    /// A namespace, made if it is not there.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        self.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await
            .map(drop)
    }

    fn api(&self, kind: Kind, name: &str) -> Api<DynamicObject> {
        match name.split_once('/') {
            Some((namespace, _)) => Api::namespaced_with(self.client.clone(), namespace, &kind.resource()),
            None => Api::all_with(self.client.clone(), &kind.resource()),
        }
    }
}

/// An APIBinding; `claims` is what the workspace says to the export's claim on events: `Accepted` or `Rejected`.
pub fn binding(name: &str, provider: &str, export: &str, claims: &str) -> Value {
    json!({
        "apiVersion": "apis.kcp.io/v1alpha2", "kind": "APIBinding", "metadata": {"name": name},
        "spec": {
            "reference": {"export": {"path": provider, "name": export}},
            "permissionClaims": [{
                "group": "", "resource": "events", "verbs": ["*"], "state": claims, "selector": {"matchAll": true},
            }],
        },
    })
}

/// The value of a condition's field: `condition(&object, "Ready", "reason")`.
pub fn condition<'a>(object: &'a Value, kind: &str, field: &str) -> &'a Value {
    object["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == kind))
        .map_or(&Value::Null, |condition| &condition[field])
}

/// Whether a condition has status "True", and not of an earlier spec: what `kubectl wait` asks.
pub fn is_true(object: &Value, kind: &str) -> bool {
    let of = condition(object, kind, "observedGeneration");
    condition(object, kind, "status") == "True" && (of.is_null() || *of == object["metadata"]["generation"])
}

fn address(object: &Value) -> Result<(Kind, String)> {
    let kind = KINDS
        .iter()
        .find(|kind| object["kind"] == kind.name && object["apiVersion"] == kind.api_version())
        .with_context(|| format!("no scenario uses {} {}", object["apiVersion"], object["kind"]))?;
    let name = text(&object["metadata"]["name"]).context("an object without a name")?;
    Ok((
        *kind,
        text(&object["metadata"]["namespace"])
            .map_or(name.clone(), |namespace| format!("{namespace}/{name}")),
    ))
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn to_value(object: &DynamicObject) -> Result<Value> {
    serde_json::to_value(object).context("an object as JSON")
}
