//! The operator's list of trusted issuers.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use url::Url;

use super::jwks::{Jwks, Source};

/// One entry of the issuers file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IssuerConfig {
    /// Exact `iss` of its tokens.
    pub issuer: String,
    /// The audience its tokens must have, if not the edge's own.
    pub audience: Option<String>,
    /// Where its keys are: a file, or an `https://` URL.
    pub jwks: String,
    /// Whether a token names a kcp workspace.
    pub kind: IssuerKind,
    /// For an `https://` URL: trust only these certificate authorities (PEM).
    pub ca_file: Option<PathBuf>,
}

/// What the issuer's tokens say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    /// Service accounts of kcp workspaces: `kubernetes.io.clusterName` and `namespace` are required and open the keys of
    /// that namespace. All workspaces share one issuer, so `spec.clients` reaches within the workspace only.
    Kcp,
    /// Anything else, workload clusters included: opens only keys whose `spec.clients` names it.
    Oidc,
}

/// The issuers file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuersError {
    /// Not readable.
    #[error("read issuers file {0}")]
    Read(PathBuf, #[source] io::Error),
    /// Not the expected YAML.
    #[error("parse issuers file {0}")]
    Parse(PathBuf, #[source] serde_yaml_ng::Error),
    /// A JWKS source that is neither a file nor an https URL.
    #[error("issuer {0}: jwks must be a file or an https:// URL")]
    Source(String),
    /// No HTTP client for the JWKS URL.
    #[error("issuer {0}: prepare to fetch its keys")]
    Client(String, #[source] anyhow::Error),
}

pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) audience: String,
    pub(super) kind: IssuerKind,
    pub(super) keys: Jwks,
}

/// Reads the issuers file: a YAML list.
pub fn load_issuers(path: &Path) -> Result<Vec<IssuerConfig>, IssuersError> {
    let text = fs::read_to_string(path).map_err(|error| IssuersError::Read(path.into(), error))?;
    serde_yaml_ng::from_str(&text).map_err(|error| IssuersError::Parse(path.into(), error))
}

impl Issuer {
    pub(super) fn new(config: IssuerConfig, audience: &str) -> Result<Self, IssuersError> {
        let source = if config.jwks.contains("://") {
            let url = Url::parse(&config.jwks).ok().filter(|url| url.scheme() == "https");
            let url = url.ok_or_else(|| IssuersError::Source(config.issuer.clone()))?;
            Source::url(url, config.ca_file.as_deref())
                .map_err(|error| IssuersError::Client(config.issuer.clone(), error))?
        } else {
            Source::File(config.jwks.into())
        };
        Ok(Self {
            name: config.issuer,
            audience: config.audience.unwrap_or_else(|| audience.to_owned()),
            kind: config.kind,
            keys: Jwks::new(source),
        })
    }
}
