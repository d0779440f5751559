//! Join tokens, and who has joined.

use std::{path::Path, time::Duration};

use uuid::Uuid;

use crate::{OrchestratorError, Tenants};

/// What a join token allows.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The only name that can join with it; `None`: any.
    pub name: Option<String>,
    /// The edge is bound to keys of this region.
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
    /// Region it is bound to.
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

/// Makes a join token: one line of text for the edge's `--join-token-file`. Works beside a running provider that
/// uses the same data directory; the authority is made if there is none yet.
pub fn create_join_token(data_dir: &Path, request: &TokenRequest) -> Result<String, OrchestratorError> {
    let _ = (data_dir, request);
    todo!()
}

/// The edges that have joined, by name.
pub fn list_edges(data_dir: &Path) -> Result<Vec<EdgeRecord>, OrchestratorError> {
    let _ = data_dir;
    todo!()
}

/// From now on the edge's certificate is refused; if it is connected, its stream ends with its next request for a
/// lease. False when there is no such edge.
pub fn revoke_edge(data_dir: &Path, id: Uuid) -> Result<bool, OrchestratorError> {
    let _ = (data_dir, id);
    todo!()
}
