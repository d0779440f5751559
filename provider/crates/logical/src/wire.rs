//! What comes over the wire, decoded in two steps: first the frame, in which each object stays raw text, then each
//! object on its own. So an object that does not fit its type costs one entry and not the page or the stream.
//! (kube-rs' `DeserializeGuard` does the same by way of a `Value` for every object, at three times the time.)

use std::sync::Arc;

use kcp_client_rs::{LogicalCluster, logical_cluster::CLUSTER_ANNOTATION};
use kube::core::{ObjectMeta, Status};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Watched;

/// One page of a list.
#[derive(Deserialize)]
pub(crate) struct Page<'a> {
    #[serde(default)]
    pub metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl<'a> Page<'a> {
    pub fn parse(body: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(body)
    }

    pub fn items(&self) -> &[&'a RawValue] {
        self.items.as_deref().unwrap_or_default()
    }

    /// `None`, empty or "0": the server did not read storage, so this list is no statement about what exists.
    pub fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref().filter(|v| !matches!(*v, "" | "0"))
    }

    pub fn next(&self) -> Option<&str> {
        self.metadata.next.as_deref().filter(|token| !token.is_empty())
    }
}

/// One line of a watch.
#[derive(Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "type")]
    pub what: &'a str,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

impl<'a> Event<'a> {
    pub fn parse(line: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }

    /// The content of an `ERROR`.
    pub fn status(&self) -> Status {
        serde_json::from_str(self.object.get())
            .unwrap_or_else(|_| Status::failure("an error that is no Status", "Unknown"))
    }

    /// The resourceVersion of a `BOOKMARK`.
    pub fn bookmark(&self) -> Option<String> {
        partial(self.object)
            .ok()
            .and_then(|object| object.metadata.resource_version)
            .filter(|v| !v.is_empty())
    }
}

/// An object with what the cache needs to file it.
pub(crate) struct Decoded<K> {
    pub cluster: LogicalCluster,
    pub namespace: Option<String>,
    pub name: String,
    /// As text, to go on watching from; may be empty.
    pub resource_version: String,
    pub object: Result<K, Arc<str>>,
}

impl Decoded<()> {
    fn with<K>(self, object: Result<K, Arc<str>>) -> Decoded<K> {
        let Self { cluster, namespace, name, resource_version, .. } = self;
        Decoded { cluster, namespace, name, resource_version, object }
    }
}

/// So little of an object is readable that not even its place is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unplaceable {
    #[error("no readable metadata")]
    Metadata(#[source] serde_json::Error),
    #[error("no name")]
    Name,
    #[error("no valid annotation {CLUSTER_ANNOTATION}")]
    Cluster,
}

#[derive(Deserialize)]
struct Partial {
    metadata: PartialMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialMeta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

fn partial(raw: &RawValue) -> serde_json::Result<Partial> {
    serde_json::from_str(raw.get())
}

/// Decodes one object.
pub(crate) fn decode<K: Watched>(raw: &RawValue) -> Result<Decoded<K>, Unplaceable> {
    match serde_json::from_str::<K>(raw.get()) {
        Ok(object) => {
            let ObjectMeta { name, namespace, resource_version, annotations, .. } = object.meta();
            let placed =
                place(name.clone(), namespace.clone(), resource_version.clone(), annotations.as_ref());
            placed.map(|placed| placed.with(Ok(object)))
        }
        Err(error) => {
            let Partial { metadata } = partial(raw).map_err(Unplaceable::Metadata)?;
            let PartialMeta { name, namespace, resource_version, annotations } = metadata;
            // serde's message may quote a value of the object; people who can read it can read the object too.
            let placed = place(name, namespace, resource_version, annotations.as_ref());
            placed.map(|placed| placed.with(Err(error.to_string().into())))
        }
    }
}

fn place(
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    annotations: Option<&std::collections::BTreeMap<String, String>>,
) -> Result<Decoded<()>, Unplaceable> {
    let name = name.filter(|name| !name.is_empty()).ok_or(Unplaceable::Name)?;
    let cluster = annotations.and_then(|all| all.get(CLUSTER_ANNOTATION)).and_then(|name| name.parse().ok());
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let resource_version = resource_version.unwrap_or_default();
    Ok(Decoded {
        cluster: cluster.ok_or(Unplaceable::Cluster)?,
        namespace,
        name,
        resource_version,
        object: Ok(()),
    })
}
