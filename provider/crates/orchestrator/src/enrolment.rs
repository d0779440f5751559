//! Join tokens, and who has joined.
//!
//! A token is a file named by its id in `tokens/`, with a hash of its secret. Spending it is renaming that file into
//! `spent/`: of any number of attempts, also by several replicas over one directory, one succeeds.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use openkcm_edge_protocol::{JoinToken, orchestrator::JoinRequest};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    OrchestratorError, Tenants,
    authority::{Authority, unix},
    core::Identity,
    files::Files,
};

/// What a join token allows.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The only name that can join with it; `None`: any.
    pub name: Option<String>,
    /// The region that the edge is in.
    pub region: Option<String>,
    /// Tenants the edge may serve.
    pub tenants: Tenants,
    /// The token can be spent for so long.
    pub ttl: Duration,
}

/// An edge that has joined, as the data directory remembers it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeRecord {
    /// Identity in its certificate.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Region it is in.
    pub region: Option<String>,
    /// Tenants it may serve.
    pub tenants: Tenants,
    /// When it joined, Unix seconds.
    pub joined: i64,
    /// When its newest certificate ends, Unix seconds.
    pub certificate_ends: i64,
    /// Its certificate is not accepted any more.
    #[serde(skip)]
    pub revoked: bool,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenFile {
    secret_sha256: String,
    name: Option<String>,
    region: Option<String>,
    tenants: Tenants,
    /// Unix seconds.
    expires: i64,
}

/// Makes a join token: one line of text for the edge's `--join-token-file`. Works beside a running provider that
/// uses the same data directory; the authority is made if there is none yet.
pub fn create_join_token(data_dir: &Path, request: &TokenRequest) -> Result<String, OrchestratorError> {
    if request.name.as_deref().is_some_and(|name| !valid_name(name)) {
        return Err(OrchestratorError::Name);
    }
    let files = Files::open(data_dir)?;
    let now = SystemTime::now();
    let authority = Authority::open(&files, now)?;
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| OrchestratorError::Random)?;
    let id = Uuid::new_v4();
    let token = TokenFile {
        secret_sha256: hash(&secret),
        name: request.name.clone(),
        region: request.region.clone(),
        tenants: request.tenants.clone(),
        expires: unix(now + request.ttl),
    };
    files.create(&format!("tokens/{id}"), &json(&token))?;
    Ok(JoinToken { id: *id.as_bytes(), secret, authority: authority.fingerprint() }.to_text())
}

/// The edges that have joined, by name.
pub fn list_edges(data_dir: &Path) -> Result<Vec<EdgeRecord>, OrchestratorError> {
    records(&Files::open(data_dir)?)
}

/// From now on the edge's certificate is refused; if it is connected, its stream ends with its next request for a
/// lease. False when there is no such edge.
pub fn revoke_edge(data_dir: &Path, id: Uuid) -> Result<bool, OrchestratorError> {
    let files = Files::open(data_dir)?;
    if !files.exists(&format!("edges/{id}")) {
        return Ok(false);
    }
    files.create(&format!("revoked/{id}"), b"")?;
    Ok(true)
}

pub(crate) fn records(files: &Files) -> Result<Vec<EdgeRecord>, OrchestratorError> {
    let mut records = Vec::new();
    for name in files.list("edges")? {
        let Some(bytes) = files.read(&format!("edges/{name}"))? else { continue };
        let mut record: EdgeRecord =
            serde_json::from_slice(&bytes).map_err(|source| OrchestratorError::Content {
                path: files.path(&format!("edges/{name}")),
                source: Box::new(source),
            })?;
        record.revoked = revoked(files, record.id);
        records.push(record);
    }
    records.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(records)
}

pub(crate) fn revoked(files: &Files, id: Uuid) -> bool {
    files.exists(&format!("revoked/{id}"))
}

/// Whether a token could be spent now. Costs nothing but reading a small file.
pub(crate) fn known(
    files: &Files,
    now: SystemTime,
    request: &JoinRequest,
) -> Result<bool, OrchestratorError> {
    Ok(look_up(files, now, request)?.is_some())
}

/// The token and its id. `None`: it is unknown, spent, expired, has another secret or is for another name.
fn look_up(
    files: &Files,
    now: SystemTime,
    request: &JoinRequest,
) -> Result<Option<(Uuid, TokenFile)>, OrchestratorError> {
    // Only a UUID in its one canonical form becomes part of a path.
    let Ok(id) = request.token_id.parse::<Uuid>() else { return Ok(None) };
    let Some(bytes) = files.read(&format!("tokens/{id}"))? else { return Ok(None) };
    let Ok(token) = serde_json::from_slice::<TokenFile>(&bytes) else { return Ok(None) };
    // Hashes are compared, so the comparison's timing says nothing about the secret.
    let right = token.secret_sha256 == hash(&request.token_secret);
    let named = valid_name(&request.name) && token.name.as_ref().is_none_or(|only| *only == request.name);
    Ok((right && named && unix(now) < token.expires).then_some((id, token)))
}

/// Spends a token. `None`: it cannot be, or somebody else was faster.
pub(crate) fn spend(
    files: &Files,
    now: SystemTime,
    request: &JoinRequest,
) -> Result<Option<Identity>, OrchestratorError> {
    let Some((id, token)) = look_up(files, now, request)? else { return Ok(None) };
    if !files.take(&format!("tokens/{id}"), &format!("spent/{id}"))? {
        return Ok(None);
    }
    Ok(Some(Identity {
        id: Uuid::new_v4(),
        name: request.name.clone(),
        region: token.region,
        tenants: token.tenants,
    }))
}

/// Remembers an edge, or its new certificate.
pub(crate) fn record(
    files: &Files,
    now: SystemTime,
    identity: &Identity,
    certificate_ends: i64,
) -> Result<(), OrchestratorError> {
    let file = format!("edges/{}", identity.id);
    let known = files.read(&file)?.and_then(|bytes| serde_json::from_slice::<EdgeRecord>(&bytes).ok());
    let record = EdgeRecord {
        id: identity.id,
        name: identity.name.clone(),
        region: identity.region.clone(),
        tenants: identity.tenants.clone(),
        joined: known.map_or_else(|| unix(now), |known| known.joined),
        certificate_ends,
        revoked: false,
    };
    files.write(&file, &json(&record))
}

/// Forgets what is of no more use: tokens past their time, and edges whose last certificate ended a month ago.
pub(crate) fn sweep(files: &Files, now: SystemTime) -> Result<(), OrchestratorError> {
    const KEEP: i64 = 30 * 24 * 3600;
    for directory in ["tokens", "spent"] {
        for name in files.list(directory)? {
            let file = format!("{directory}/{name}");
            let token = files.read(&file)?.and_then(|bytes| serde_json::from_slice::<TokenFile>(&bytes).ok());
            if token.is_none_or(|token| token.expires + KEEP < unix(now)) {
                files.remove(&file)?;
            }
        }
    }
    for edge in records(files)? {
        if edge.certificate_ends + KEEP < unix(now) {
            files.remove(&format!("edges/{}", edge.id))?;
            files.remove(&format!("revoked/{}", edge.id))?;
        }
    }
    Ok(())
}

fn valid_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.' | b'_');
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn hash(secret: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(Sha256::digest(secret))
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Plain structs with string keys: this cannot fail.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}
