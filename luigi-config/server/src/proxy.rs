//! The way to one kcp: the caller's own token and nothing else, only to what the console needs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use url::Url;

/// A write of the console is a few hundred bytes.
const MAX_BODY: usize = 256 * 1024;

/// One kcp, reached with no credentials of our own.
#[derive(Clone, Debug)]
pub struct Proxy {
    base: Url,
    client: reqwest::Client,
}

impl Proxy {
    /// `base` is the server's address without `/clusters/…`.
    pub fn new(base: Url, ca: Option<&Path>) -> Result<Self> {
        ensure!(base.scheme() == "https", "kcp is reached over https, not {base}");
        ensure!(matches!(base.path(), "" | "/"), "the address of kcp without a path is wanted, not {base}");
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            // Bookmarks come every minute; a stream that is silent for longer is broken.
            .read_timeout(Duration::from_mins(3));
        if let Some(path) = ca {
            let pem = std::fs::read(path).with_context(|| format!("reading the CA {}", path.display()))?;
            let cas = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("reading the CA {}", path.display()))?;
            builder = builder.tls_certs_only(cas);
        }
        Ok(Self { base, client: builder.build().context("making the client for kcp")? })
    }
}

/// Which requests the console makes: its own kinds, the question what the user may do, events, names of namespaces.
fn allowed(method: &Method, path: &str) -> bool {
    let Some((workspace, rest)) = path.strip_prefix("clusters/").and_then(|p| p.split_once('/')) else {
        return false;
    };
    let named =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b));
    // Percent signs and dot segments have no place in any of these, so no second reading of the path can differ.
    if !named(workspace)
        || !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-./:".contains(&b))
        || rest.split('/').any(|s| s.is_empty() || s == "." || s == "..")
    {
        return false;
    }
    let read = method == Method::GET;
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        ["apis", "openkcm.io", "v1alpha1", ..] => {
            read || method == Method::POST || method == Method::PATCH || method == Method::DELETE
        }
        ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => method == Method::POST,
        ["api", "v1", "namespaces"] | ["api", "v1", "namespaces", _, "events"] => read,
        _ => false,
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    // The shape of the API server's own refusals, so that the page reads one kind of answer.
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status.as_u16(),
    });
    (status, axum::Json(body)).into_response()
}

/// Passes a request on and streams the answer back, watches included.
pub async fn forward(State(proxy): State<Proxy>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches("/kcp/");
    if !allowed(&parts.method, path) {
        return refuse(StatusCode::FORBIDDEN, "the console does not pass this request on");
    }
    let Some(token) = parts.headers.get(header::AUTHORIZATION).cloned() else {
        return refuse(StatusCode::UNAUTHORIZED, "no bearer token");
    };
    let mut url = proxy.base.clone();
    url.set_path(path);
    url.set_query(parts.uri.query());
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, token);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    match proxy.client.request(parts.method, url).headers(headers).body(body).send().await {
        Ok(answer) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = answer.status();
            for name in [header::CONTENT_TYPE, header::RETRY_AFTER, header::WARNING] {
                if let Some(value) = answer.headers().get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            *response.body_mut() = Body::from_stream(answer.bytes_stream());
            response
        }
        Err(error) => {
            tracing::warn!(error = %error.without_url(), "kcp does not answer");
            refuse(StatusCode::BAD_GATEWAY, "kcp does not answer")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_what_the_console_asks_passes() {
        for (method, path) in [
            (Method::GET, "clusters/root:acme/apis/openkcm.io/v1alpha1/accounts"),
            (
                Method::PATCH,
                "clusters/root:acme/apis/openkcm.io/v1alpha1/namespaces/a/serviceencryptionkeys/k",
            ),
            (Method::POST, "clusters/root:acme/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
            (Method::GET, "clusters/1a2b3c/api/v1/namespaces/default/events"),
            (Method::GET, "clusters/1a2b3c/api/v1/namespaces"),
        ] {
            assert!(allowed(&method, path), "{method} {path}");
        }
        for (method, path) in [
            (Method::GET, "clusters/root:acme/api/v1/secrets"),
            (Method::GET, "clusters/root:acme/api/v1/namespaces/default/secrets"),
            (Method::POST, "clusters/root:acme/api/v1/namespaces/default/events"),
            (Method::PUT, "clusters/root:acme/apis/openkcm.io/v1alpha1/accounts/a"),
            (Method::GET, "clusters/root:acme/apis/apis.kcp.io/v1alpha2/apiexports"),
            (Method::GET, "services/apiexport/x/openkcm.io/clusters/*/apis/openkcm.io/v1alpha1/accounts"),
            (Method::GET, "clusters/root:acme/apis/openkcm.io/v1alpha1/../../../api/v1/secrets"),
            (Method::GET, "clusters/root:acme/apis/openkcm.io/v1alpha1/%2e%2e/secrets"),
            (Method::GET, "clusters/*/apis/openkcm.io/v1alpha1/accounts"),
            (Method::GET, "clusters//apis/openkcm.io/v1alpha1/accounts"),
            (Method::GET, "metrics"),
            (Method::GET, ""),
        ] {
            assert!(!allowed(&method, path), "{method} {path}");
        }
    }

    #[test]
    fn plain_http_and_paths_are_refused() {
        assert!(Proxy::new("http://127.0.0.1:6443".parse().unwrap(), None).is_err());
        assert!(Proxy::new("https://127.0.0.1:6443/clusters/root".parse().unwrap(), None).is_err());
    }
}
