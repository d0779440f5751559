//! What the local shell learns from its server: the pages to show and a token for the demo workspace.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

/// The very file that `openkcm-provider bootstrap` applies.
const CONTENT: &str = include_str!("../../contentconfiguration.yaml");

/// The file behind `--shell-config`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    /// The workspace to show, for example `root:demo`.
    workspace: String,
    /// Holds a bearer token of that workspace and nothing else; read at every sign-in, so it can be replaced.
    token_file: PathBuf,
    /// kcp's address for the browser when there is no `--kcp-url`.
    kcp_url: Option<String>,
    /// A GraphQL gateway's address, `…/graphql`; without it the pages speak Kubernetes REST.
    gateway_url: Option<String>,
    /// Who is signed in, for the shell's header.
    user: Option<String>,
}

/// The local shell and what it may know.
#[derive(Clone, Debug)]
pub struct Shell {
    /// The built pages.
    pub dir: PathBuf,
    config: Config,
    origin: String,
    hosts: [String; 2],
    proxied: bool,
    content: Value,
}

impl Shell {
    /// `proxied`: kcp is offered under `/kcp/`.
    pub fn new(dir: PathBuf, config: &Path, address: SocketAddr, proxied: bool) -> Result<Self> {
        let text =
            std::fs::read_to_string(config).with_context(|| format!("reading {}", config.display()))?;
        let config: Config =
            serde_json::from_str(&text).with_context(|| format!("reading {}", config.display()))?;
        ensure!(
            proxied || config.kcp_url.is_some(),
            "the shell needs a way to kcp: --kcp-url, or kcpUrl in its configuration"
        );
        let origin = format!("http://{address}");
        Ok(Self {
            dir,
            content: content(&origin)?,
            hosts: [address.to_string(), format!("localhost:{}", address.port())],
            origin,
            config,
            proxied,
        })
    }

    /// A page elsewhere, also one whose name was pointed at us, must not get the token.
    fn own(&self, headers: &HeaderMap) -> bool {
        let is = |name: header::HeaderName, ok: &dyn Fn(&str) -> bool| {
            headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(ok)
        };
        is(header::HOST, &|h| self.hosts.iter().any(|own| own == h))
            && is(header::HeaderName::from_static("sec-fetch-site"), &|s| s == "same-origin")
            && is(header::HeaderName::from_static("x-openkcm-shell"), &|s| s == "1")
    }
}

/// The registration's content with our own address put in.
fn content(origin: &str) -> Result<Value> {
    let object: Value = serde_yaml_ng::from_str(CONTENT).context("reading contentconfiguration.yaml")?;
    let text = object
        .pointer("/spec/inlineConfiguration/content")
        .and_then(Value::as_str)
        .context("contentconfiguration.yaml has no inline content")?;
    serde_json::from_str(&text.replace("${CONSOLE_URL}", &format!("{origin}/mfe")))
        .context("reading the content of contentconfiguration.yaml")
}

fn no_store(body: Value) -> Response {
    let mut response = Json(body).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What to show and where kcp is; no secret in it.
pub async fn config(State(shell): State<Shell>, headers: HeaderMap) -> Response {
    if !shell.own(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let kcp = match (&shell.config.kcp_url, shell.proxied) {
        (_, true) => format!("{}/kcp", shell.origin),
        (Some(url), false) => url.trim_end_matches('/').to_owned(),
        (None, false) => return StatusCode::NOT_FOUND.into_response(),
    };
    no_store(json!({
        "content": shell.content,
        "kcpPath": shell.config.workspace,
        "kcpWorkspaceUrl": format!("{kcp}/clusters/{}", shell.config.workspace),
        "gatewayUrl": shell.config.gateway_url,
        "user": shell.config.user.as_deref().unwrap_or("demo"),
    }))
}

/// A token for the demo workspace, read anew each time.
pub async fn session(State(shell): State<Shell>, headers: HeaderMap) -> Response {
    if !shell.own(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    match tokio::fs::read_to_string(&shell.config.token_file).await {
        Ok(token) if !token.trim().is_empty() => no_store(json!({ "token": token.trim() })),
        Ok(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Err(error) => {
            tracing::warn!(%error, "the demo's token cannot be read");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_registration_gets_our_address() {
        let content = content("http://127.0.0.1:1234").unwrap();
        let nodes = content.pointer("/luigiConfigFragment/data/nodes").unwrap().as_array().unwrap();
        assert_eq!(nodes.len(), 3);
        for node in nodes {
            let url = node["url"].as_str().unwrap();
            assert!(url.starts_with("http://127.0.0.1:1234/mfe/"), "{url}");
        }
    }

    #[test]
    fn an_unknown_word_in_the_configuration_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shell.json");
        std::fs::write(&file, r#"{"workspace":"root:demo","tokenFile":"/t","token":"x"}"#).unwrap();
        assert!(Shell::new(dir.path().into(), &file, "127.0.0.1:1".parse().unwrap(), true).is_err());
    }
}
