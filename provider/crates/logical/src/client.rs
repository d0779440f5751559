//! A client for exactly one workspace.
use kcp_client_rs::LogicalCluster;
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

/// Reads and writes in one logical cluster. The URL prefix is fixed when it is made and every namespace and name is
/// checked before it becomes a path segment: no argument can reach another workspace. Cheap to clone.
#[derive(Clone)]
pub struct ScopedClient(LogicalCluster);

/// What must still be true of the object when the server takes a write. Default: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preconditions<'a> {
    /// The same object, not another one of the same name.
    pub uid: Option<&'a str>,
    /// Nobody wrote in between.
    pub resource_version: Option<&'a str>,
}

/// Why a request to a workspace failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {deed}")]
pub struct ClientError { deed: String, class: ErrorClass, #[source] source: Option<Box<dyn std::error::Error + Send + Sync>> }

/// Classes of failure: fixed names for metrics, and whether the same request may work later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// No such object, or the kind is not bound there (any more).
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// A precondition or the resourceVersion does not hold any more.
    Conflict,
    /// Not allowed.
    Forbidden,
    /// The server refuses the content: retrying the same is useless.
    Invalid,
    /// Too many requests.
    Throttled,
    /// No answer, a broken one, or the server's own failure.
    Unavailable,
    /// The answer does not fit the type.
    Undecodable,
}

impl ClientError {
    /// The class.
    pub fn class(&self) -> ErrorClass { self.class }
}

#[allow(unused_variables, clippy::unused_async)]
impl ScopedClient {
    /// The workspace.
    pub fn cluster(&self) -> &LogicalCluster { &self.0 }
    /// One object; `None` if the server says there is none.
    pub async fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, ClientError> { todo!() }
    /// All objects of a kind, in one namespace or all, read in pages.
    pub async fn list<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: Option<&str>) -> Result<Vec<K>, ClientError> { todo!() }
    /// Creates an object (namespace and name from its metadata).
    pub async fn create<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>(&self, object: &K) -> Result<K, ClientError> { todo!() }
    /// JSON merge patch. Name every field that shall go with an explicit `null`.
    pub async fn patch_merge<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: Option<&str>, name: &str, patch: &impl Serialize) -> Result<K, ClientError> { todo!() }
    /// JSON merge patch with preconditions.
    pub async fn patch_merge_if<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: Option<&str>, name: &str, patch: &impl Serialize, only_if: Preconditions<'_>) -> Result<K, ClientError> { todo!() }
    /// JSON merge patch of the status subresource; `status` is the content of `.status`, with explicit nulls.
    pub async fn patch_status<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: Option<&str>, name: &str, status: &impl Serialize, only_if: Preconditions<'_>) -> Result<K, ClientError> { todo!() }
    /// Replaces `.status` with the object's; needs its resourceVersion. Fields that are left out go.
    pub async fn replace_status<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>(&self, object: &K) -> Result<K, ClientError> { todo!() }
    /// Deletes an object; `false` if there was none.
    pub async fn delete<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>, name: &str, only_if: Preconditions<'_>) -> Result<bool, ClientError> { todo!() }
}
