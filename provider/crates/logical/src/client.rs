//! A client for exactly one workspace.

use std::time::Duration;

use kcp_client_rs::LogicalCluster;
use kube::{
    Client, Resource,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams},
    core::Request,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::{Instrument, field::Empty, trace_span};

/// A typed kind that a client can read.
pub trait Readable: Resource<DynamicType = ()> + DeserializeOwned {}
impl<K: Resource<DynamicType = ()> + DeserializeOwned> Readable for K {}

/// Target of the spans of requests to workspaces, at level TRACE: for an exporter of traces.
pub const SPANS: &str = "openkcm_logical::request";
/// A write that takes longer has failed, as far as the caller is concerned.
const PATIENCE: Duration = Duration::from_secs(20);
const PAGE: u32 = 500;

/// Reads and writes in one logical cluster. The URL prefix is fixed when it is made and every namespace and name is
/// checked before it becomes a path segment: no argument can reach another workspace. Cheap to clone; all clients of
/// an endpoint share its connections.
#[derive(Clone)]
pub struct ScopedClient {
    client: Client,
    cluster: LogicalCluster,
}

/// What must still be true of the object when the server takes a write. Default: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preconditions<'a> {
    /// The same object, not another one of the same name.
    pub uid: Option<&'a str>,
    /// Nobody wrote in between.
    pub resource_version: Option<&'a str>,
}

/// Why a request to a workspace failed. The server's own words are in the source.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ClientError(Box<Failure>);

#[derive(Debug, thiserror::Error)]
#[error("could not {deed} {object} in workspace {cluster}")]
struct Failure {
    deed: &'static str,
    /// Kind, namespace and name.
    object: String,
    cluster: LogicalCluster,
    class: ErrorClass,
    source: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Kube(kube::Error),
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Patience,
    #[error("the answer does not fit the type")]
    Answer(#[source] serde_json::Error),
    #[error("the content cannot be written as JSON")]
    Content(#[source] serde_json::Error),
    #[error("not the name of an object or namespace")]
    Name,
}

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
    /// The server refuses the content: repeating it is useless.
    Invalid,
    /// Too many requests.
    Throttled,
    /// No answer, a broken one, or the server's own failure.
    Unavailable,
    /// The answer does not fit the type; a write has happened all the same.
    Undecodable,
}

impl ErrorClass {
    /// Can the very same request work later?
    pub fn may_pass(self) -> bool {
        !matches!(self, Self::Invalid | Self::Undecodable)
    }

    /// For a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Undecodable => "undecodable",
        }
    }
}

impl ClientError {
    /// The class.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// The server's message, if it was the server that refused.
    pub fn server_message(&self) -> Option<&str> {
        match &self.0.source {
            Cause::Kube(kube::Error::Api(status)) => Some(&status.message),
            _ => None,
        }
    }
}

impl ScopedClient {
    pub(crate) fn new(client: Client, cluster: LogicalCluster) -> Self {
        Self { client, cluster }
    }

    /// The workspace.
    pub fn cluster(&self) -> &LogicalCluster {
        &self.cluster
    }

    /// One object; `None` if the server says that there is none (or that the kind is not bound).
    pub async fn get<K: Readable>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<K>, ClientError> {
        let call = self.call::<K>("read", namespace, Some(name))?;
        match call.send(call.url.get(name, &GetParams::default())).await {
            Ok(text) => call.decode(&text).map(Some),
            Err(error) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind, in one namespace or (`None`) in all, read in pages.
    pub async fn list<K: Readable>(&self, namespace: Option<&str>) -> Result<Vec<K>, ClientError> {
        #[derive(Deserialize)]
        #[serde(bound = "K: DeserializeOwned")]
        struct List<K> {
            #[serde(default)]
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
            items: Option<Vec<K>>,
        }
        let call = self.call::<K>("list", namespace, None)?;
        let (mut all, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            let List { metadata, items } =
                call.decode::<List<K>>(&call.send(call.url.list(&params)).await?)?;
            all.extend(items.into_iter().flatten());
            match metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// Creates an object; namespace and name are those of its metadata.
    pub async fn create<K: Readable + Serialize>(&self, object: &K) -> Result<K, ClientError> {
        let meta = object.meta();
        let call = self.call::<K>(
            "create",
            meta.namespace.as_deref(),
            Some(meta.name.as_deref().unwrap_or_default()),
        )?;
        let body = serde_json::to_vec(object).map_err(|e| call.fail(Cause::Content(e)))?;
        call.decode(&call.send(call.url.create(&PostParams::default(), body)).await?)
    }

    /// JSON merge patch (RFC 7396). Name every field that shall go with an explicit `null`.
    pub async fn patch_merge<K: Readable>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &impl Serialize,
    ) -> Result<K, ClientError> {
        self.patch_merge_if(namespace, name, patch, Preconditions::default()).await
    }

    /// JSON merge patch with preconditions.
    pub async fn patch_merge_if<K: Readable>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &impl Serialize,
        only_if: Preconditions<'_>,
    ) -> Result<K, ClientError> {
        let call = self.call::<K>("patch", namespace, Some(name))?;
        let patch = call.conditional(patch, only_if)?;
        call.decode(&call.send(call.url.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?)
    }

    /// JSON merge patch of the status subresource. `status` is the content of `.status`, with explicit nulls for
    /// what shall go (kcp's virtual workspaces do not drop left-out fields in a server-side apply).
    pub async fn patch_status<K: Readable>(
        &self,
        namespace: Option<&str>,
        name: &str,
        status: &impl Serialize,
        only_if: Preconditions<'_>,
    ) -> Result<K, ClientError> {
        let call = self.call::<K>("patch the status of", namespace, Some(name))?;
        let status = serde_json::to_value(status).map_err(|e| call.fail(Cause::Content(e)))?;
        let patch = Patch::Merge(call.conditional(&json!({ "status": status }), only_if)?);
        call.decode(
            &call.send(call.url.patch_subresource("status", name, &PatchParams::default(), &patch)).await?,
        )
    }

    /// Replaces `.status` by the object's; its resourceVersion must be the current one. Left-out fields go.
    pub async fn replace_status<K: Readable + Serialize>(&self, object: &K) -> Result<K, ClientError> {
        let meta = object.meta();
        let name = meta.name.as_deref().unwrap_or_default();
        let call = self.call::<K>("replace the status of", meta.namespace.as_deref(), Some(name))?;
        let body = serde_json::to_vec(object).map_err(|e| call.fail(Cause::Content(e)))?;
        call.decode(
            &call.send(call.url.replace_subresource("status", name, &PostParams::default(), body)).await?,
        )
    }

    /// Deletes an object (or, if it has finalizers, starts to); `false` if there was none.
    pub async fn delete<K: Resource<DynamicType = ()>>(
        &self,
        namespace: Option<&str>,
        name: &str,
        only_if: Preconditions<'_>,
    ) -> Result<bool, ClientError> {
        let call = self.call::<K>("delete", namespace, Some(name))?;
        let preconditions = kube::api::Preconditions {
            uid: only_if.uid.map(str::to_owned),
            resource_version: only_if.resource_version.map(str::to_owned),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match call.send(call.url.delete(name, &params)).await {
            Ok(_) => Ok(true),
            Err(error) if error.class() == ErrorClass::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The one place where a URL is made.
    fn call<K: Resource<DynamicType = ()>>(
        &self,
        deed: &'static str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Call<'_>, ClientError> {
        let shown =
            [namespace, name].into_iter().flatten().filter(|part| is_segment(part)).collect::<Vec<_>>();
        let object = format!("{} {}", K::kind(&()), shown.join("/"));
        let url = Request::new(format!("/clusters/{}{}", self.cluster, K::url_path(&(), namespace)));
        let call = Call { at: self, deed, object, url };
        let sound = namespace.is_none_or(is_segment) && name.is_none_or(is_segment);
        if sound { Ok(call) } else { Err(call.fail(Cause::Name)) }
    }
}

/// What Kubernetes allows in names of our kinds: a DNS subdomain. Nothing that means something in a URL is in it.
fn is_segment(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|c| inner(c) || c == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

struct Call<'a> {
    at: &'a ScopedClient,
    deed: &'static str,
    object: String,
    url: Request,
}

impl Call<'_> {
    fn fail(&self, source: Cause) -> ClientError {
        let class = match &source {
            Cause::Kube(kube::Error::Api(status)) => match (status.code, status.reason.as_str()) {
                (404, _) => ErrorClass::NotFound,
                (409, "AlreadyExists") => ErrorClass::AlreadyExists,
                (409 | 412, _) => ErrorClass::Conflict,
                (401 | 403, _) => ErrorClass::Forbidden,
                (429, _) => ErrorClass::Throttled,
                (400..=499, _) => ErrorClass::Invalid,
                _ => ErrorClass::Unavailable,
            },
            Cause::Kube(_) | Cause::Patience => ErrorClass::Unavailable,
            Cause::Answer(_) => ErrorClass::Undecodable,
            Cause::Content(_) | Cause::Name => ErrorClass::Invalid,
        };
        let (deed, object) = (self.deed, self.object.clone());
        ClientError(Box::new(Failure { deed, object, cluster: self.at.cluster.clone(), class, source }))
    }

    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<String, ClientError> {
        let request = request.map_err(|e| self.fail(Cause::Kube(kube::Error::BuildRequest(e))))?;
        let span = trace_span!(target: SPANS, "request", otel.name = self.deed, otel.kind = "client",
            cluster = %self.at.cluster, object = self.object, otel.status_description = Empty);
        let sent = tokio::time::timeout(PATIENCE, self.at.client.request_text(request));
        let answer = sent.instrument(span.clone()).await.map_err(|_| Cause::Patience);
        let result = answer.and_then(|answer| answer.map_err(Cause::Kube)).map_err(|cause| self.fail(cause));
        if let Err(error) = &result {
            span.record("otel.status_description", error.class().name());
        }
        result
    }

    fn decode<T: DeserializeOwned>(&self, text: &str) -> Result<T, ClientError> {
        serde_json::from_str(text).map_err(|e| self.fail(Cause::Answer(e)))
    }

    /// A merge patch that also names uid and resourceVersion: the server refuses it (409) where they differ.
    fn conditional(&self, patch: &impl Serialize, only_if: Preconditions<'_>) -> Result<Value, ClientError> {
        let mut patch = serde_json::to_value(patch).map_err(|e| self.fail(Cause::Content(e)))?;
        let conditions = [("uid", only_if.uid), ("resourceVersion", only_if.resource_version)];
        for (field, value) in conditions {
            if let Some(value) = value {
                patch["metadata"][field] = value.into();
            }
        }
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_means_something_in_a_url_is_a_name() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a%2fb",
            "a?b",
            "a#b",
            "../x",
            "a..b",
            "A",
            "a b",
            "-a",
            "a-",
            "*",
            "a\n",
            "a:b",
            &"a".repeat(254),
        ] {
            assert!(!is_segment(name), "{name:?}");
        }
        for name in ["a", "aws-root-production", "tenant-root-a.b", "0"] {
            assert!(is_segment(name), "{name:?}");
        }
    }
}
