//! Objects of one workspace: ask, compare, apply.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, TypeMeta},
    core::{ApiResource, GroupVersionKind},
};
use openkcm_apis::export::{MANAGED_BY, MANAGED_BY_LABEL};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Action, Change, Error};

/// Server-side apply keeps books by this name: what a later version does not say any more, it takes away.
const FIELD_MANAGER: &str = "openkcm-bootstrap";
/// How long a new workspace may take until it serves kcp's kinds, in steps of [`PAUSE`].
const ATTEMPTS: usize = 150;
const PAUSE: Duration = Duration::from_millis(200);

/// An object to apply.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    value: Value,
    types: TypeMeta,
    name: String,
    namespace: Option<String>,
}

impl TryFrom<Value> for Manifest {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self, Error> {
        let object: DynamicObject = serde_json::from_value(value.clone())
            .map_err(|error| Error::Manifest { what: "an object".to_owned(), source: Box::new(error) })?;
        match (object.types, object.metadata.name) {
            (Some(types), Some(name)) => {
                Ok(Self { value, types, name, namespace: object.metadata.namespace })
            }
            (types, _) => Err(Error::Manifest {
                what: types.map_or_else(|| "an object".to_owned(), |types| types.kind),
                source: "apiVersion, kind and metadata.name are required".into(),
            }),
        }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.types.kind, self.full_name())
    }
}

impl Manifest {
    /// With the label that says that it is ours.
    pub(crate) fn managed(mut self) -> Self {
        self.value["metadata"]["labels"][MANAGED_BY_LABEL] = MANAGED_BY.into();
        self
    }

    pub(crate) fn change(&self, action: Action) -> Change {
        Change { action, kind: self.types.kind.clone(), name: self.full_name(), planned: false }
    }

    #[cfg(test)]
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    fn full_name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// Applies objects in one workspace.
pub(crate) struct Applier {
    client: Client,
    workspace: String,
    dry_run: bool,
    /// What the workspace serves, per `group/version` that was asked for; `None` when that is nothing.
    served: HashMap<String, Option<APIResourceList>>,
}

impl Applier {
    pub(crate) fn new(client: Client, workspace: &str, dry_run: bool) -> Self {
        Self { client, workspace: workspace.to_owned(), dry_run, served: HashMap::new() }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// A workspace that is Ready can still need a moment until it serves what it is bound to.
    pub(crate) async fn wait_until_served(&mut self, api_version: &str) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            if self.resources(api_version).await?.is_some() {
                return Ok(());
            }
            self.served.remove(api_version);
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::NotServed { kind: api_version.to_owned(), workspace: self.workspace.clone() })
    }

    /// Makes the object as the manifest says. `None` when its kind is not served here.
    pub(crate) async fn apply(&mut self, manifest: &Manifest) -> Result<Option<Action>, Error> {
        let Some(api) = self.api(manifest).await? else { return Ok(None) };
        let before =
            api.get_opt(&manifest.name).await.map_err(|error| self.failed("read", manifest, error))?;
        if let Some(before) = &before {
            let label = before.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY_LABEL));
            if label.map(String::as_str) != Some(MANAGED_BY) {
                return Err(Error::Foreign {
                    object: manifest.to_string(),
                    workspace: self.workspace.clone(),
                });
            }
        } else if self.dry_run {
            // Not even a dry request: its namespace need not exist yet.
            return Ok(Some(Action::Created));
        }
        let mut params = PatchParams::apply(FIELD_MANAGER).force();
        params.dry_run = self.dry_run;
        let after = api
            .patch(&manifest.name, &params, &Patch::Apply(&manifest.value))
            .await
            .map_err(|error| self.failed("apply", manifest, error))?;
        Ok(Some(match before {
            None => Action::Created,
            Some(before) if content(&before) == content(&after) => Action::Unchanged,
            Some(_) => Action::Updated,
        }))
    }

    pub(crate) async fn list<K>(&self, params: &ListParams) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let list = Api::<K>::all(self.client()).list(params).await;
        Ok(list.map_err(|error| self.failed("list", &K::plural(&()), error))?.items)
    }

    /// Deletes a cluster-scoped object, unless this is a dry run.
    pub(crate) async fn delete<K>(&self, name: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        if self.dry_run {
            return Ok(());
        }
        match Api::<K>::all(self.client()).delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(self.failed("delete", &format!("{} {name}", K::kind(&())), error)),
            Ok(_) => Ok(()),
        }
    }

    pub(crate) fn not_served(&self, manifest: &Manifest) -> Error {
        let kind = format!("{} of {}", manifest.types.kind, manifest.types.api_version);
        Error::NotServed { kind, workspace: self.workspace.clone() }
    }

    pub(crate) fn failed(&self, deed: &'static str, object: &impl fmt::Display, error: kube::Error) -> Error {
        let (object, workspace) = (object.to_string(), self.workspace.clone());
        Error::Request { deed, object, workspace, source: Box::new(error) }
    }

    async fn api(&mut self, manifest: &Manifest) -> Result<Option<Api<DynamicObject>>, Error> {
        let TypeMeta { api_version, kind } = &manifest.types;
        let client = self.client();
        let Some(resources) = self.resources(api_version).await? else { return Ok(None) };
        // Subresources are listed beside their resource, with a slash in their name.
        let Some(found) = resources.resources.iter().find(|r| r.kind == *kind && !r.name.contains('/'))
        else {
            return Ok(None);
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &found.name);
        Ok(Some(match &manifest.namespace {
            Some(namespace) if found.namespaced => Api::namespaced_with(client, namespace, &resource),
            _ => Api::all_with(client, &resource),
        }))
    }

    async fn resources(&mut self, api_version: &str) -> Result<Option<&APIResourceList>, Error> {
        if !self.served.contains_key(api_version) {
            let answer = if api_version.contains('/') {
                self.client.list_api_group_resources(api_version).await
            } else {
                self.client.list_core_api_resources(api_version).await
            };
            let list = match answer {
                Ok(list) => Some(list),
                Err(kube::Error::Api(status)) if status.code == 404 => None,
                Err(error) => return Err(self.failed("discover", &api_version, error)),
            };
            self.served.insert(api_version.to_owned(), list);
        }
        Ok(self.served.get(api_version).and_then(Option::as_ref))
    }
}

/// What an apply can change: everything but the API server's own bookkeeping and what controllers report.
fn content(object: &DynamicObject) -> (Value, Option<&std::collections::BTreeMap<String, String>>) {
    let mut data = object.data.clone();
    if let Some(members) = data.as_object_mut() {
        members.remove("status");
    }
    (data, object.metadata.labels.as_ref())
}
