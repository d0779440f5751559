//! The orchestrator as its caller sees it.

use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::{Clock, Desired, Distribution, EdgeInfo, KeyId, OrchestratorError};

/// How an orchestrator is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one, see [`Orchestrator::address`].
    pub address: SocketAddr,
    /// What edges dial, `https://HOST[:PORT]`, this replica's first. The hosts become names of the server's
    /// certificate; join tokens and edges get the whole list. Empty: made from the address.
    pub urls: Vec<String>,
    /// Where the authority's key, join tokens and the list of edges are kept (in `orchestrator/`, mode 0700).
    pub data_dir: PathBuf,
    /// How long an edge may use keys without hearing from us: 1 to 60 seconds.
    pub lease: Duration,
}

/// Handle to a running orchestrator; clones share it.
#[derive(Clone)]
pub struct Orchestrator {}

impl Orchestrator {
    /// Listens and returns the handle and the work: the future must be polled for anything to happen, serves until
    /// it is dropped, and ends only with an error.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, impl Future<Output = Result<(), OrchestratorError>> + Send + 'static), OrchestratorError> {
        let _ = (config, clock);
        Ok((Self {}, async { Ok(()) }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Fingerprint of the state that was last set with [`Desired::Serve`], so that the caller unwraps material only
    /// when something changed. `None` when the key is not served.
    pub fn fingerprint(&self, key: &KeyId) -> Option<u64> {
        let _ = key;
        todo!()
    }

    /// Says what should be true of a key. Returns at once; the pushes are on their way when it does. Setting the
    /// same again changes nothing.
    pub fn set(&self, key: KeyId, desired: Desired) {
        let _ = (key, desired);
        todo!()
    }

    /// To be called when every key that exists has been [`set`](Self::set) once since the start: from then on edges
    /// are told to forget keys that have not been.
    pub fn ready(&self) {
        todo!()
    }

    /// How far the edges are with a key.
    pub fn distribution(&self, key: &KeyId) -> Distribution {
        let _ = key;
        todo!()
    }

    /// Keys whose distribution or number of callers changed. One receiver: the last call's.
    pub fn changes(&self) -> Changes {
        todo!()
    }

    /// The edges that are connected or still remembered, by name.
    pub fn edges(&self) -> Vec<EdgeInfo> {
        todo!()
    }
}

/// Keys whose [`Distribution`] changed, each reported once however often it changed since it was last taken.
pub struct Changes {}

impl Changes {
    /// Waits for the next key. Cancel-safe.
    pub async fn next(&mut self) -> KeyId {
        std::future::pending().await
    }
}
