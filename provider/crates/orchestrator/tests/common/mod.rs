//! An orchestrator and edges in one process, over real TLS on loopback.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use openkcm_edge::{
    agent::{Agent, AgentConfig, AgentError, AgentStatus},
    store::{KeyName, KeyStore},
};
use openkcm_orchestrator::{
    Clock, Config, Desired, KeyId, KeyState, Orchestrator, SystemClock, Tenants, TokenRequest, Usable,
    Version, create_join_token,
};
use openkcm_secret::SecretKey;
use tokio::{sync::watch, task::JoinHandle};

/// Whatever is awaited here happens within milliseconds, or the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[path = "../../../../../test/kcp-e2e/src/link.rs"]
pub mod link;

pub struct Provider {
    pub orchestrator: Orchestrator,
    pub url: String,
    pub data_dir: PathBuf,
    driver: JoinHandle<()>,
}

impl Provider {
    pub async fn start(data_dir: &Path, lease: Duration) -> Self {
        Self::start_at(data_dir, lease, "127.0.0.1:0").await
    }

    pub async fn start_at(data_dir: &Path, lease: Duration, address: &str) -> Self {
        Self::start_with(data_dir, lease, address, Vec::new(), Arc::new(SystemClock)).await
    }

    /// Reached by edges through a link only.
    pub async fn start_behind(data_dir: &Path, lease: Duration, link: &link::Link) -> Self {
        let clock = Arc::new(SystemClock);
        let provider = Self::start_with(data_dir, lease, "127.0.0.1:0", vec![link.url()], clock).await;
        link.to(provider.orchestrator.address());
        provider
    }

    pub async fn start_with(
        data_dir: &Path,
        lease: Duration,
        address: &str,
        urls: Vec<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let config = Config {
            address: address.parse().unwrap(),
            urls: urls.clone(),
            data_dir: data_dir.to_owned(),
            lease,
            replicated: false,
        };
        let (orchestrator, driver) = Orchestrator::start(config, clock).await.unwrap();
        let url = urls.into_iter().next().unwrap_or_else(|| format!("https://{}", orchestrator.address()));
        let driver = tokio::spawn(async move { driver.await.unwrap() });
        Self { orchestrator, url, data_dir: data_dir.to_owned(), driver }
    }

    /// As if the process had died, for the edges.
    pub async fn stop(self) -> String {
        self.driver.abort();
        let _ = self.driver.await;
        self.orchestrator.address().to_string()
    }

    pub fn token(&self, request: &TokenRequest) -> String {
        create_join_token(&self.data_dir, request).unwrap()
    }
}

pub fn any() -> TokenRequest {
    TokenRequest { name: None, region: None, tenants: Tenants::All, ttl: Duration::from_mins(1) }
}

pub struct Edge {
    pub store: Arc<KeyStore>,
    pub status: watch::Receiver<AgentStatus>,
    pub data_dir: PathBuf,
    pub agent: JoinHandle<AgentError>,
}

impl Edge {
    pub fn start(provider: &Provider, data_dir: &Path, name: &str, token: Option<&str>) -> Self {
        Self::with(config(provider, data_dir, name, token))
    }

    pub fn with(config: AgentConfig) -> Self {
        let data_dir = config.data_dir.clone();
        let store = Arc::new(KeyStore::new());
        let agent = Agent::new(config, Arc::clone(&store));
        let status = agent.status();
        let agent = tokio::spawn(async move {
            let Err(error) = agent.run().await;
            error
        });
        Self { store, status, data_dir, agent }
    }

    pub fn holds(&self, key: &KeyId) -> Option<u32> {
        use openkcm_edge::store::{Address, Refusal};
        let caller = caller(key);
        let address = Address { tenant: key.cluster.as_str(), namespace: &key.namespace, name: &key.name };
        let described: Result<_, Refusal> = self.store.describe(address, &caller);
        described.ok().map(|description| description.current)
    }

    pub fn revision(&self, key: &KeyId) -> Option<u64> {
        self.store.revision(&KeyName {
            cluster: key.cluster.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        })
    }

    pub async fn connected(&mut self) {
        let connected = self.status.wait_for(|status| status.connected_to.is_some());
        tokio::time::timeout(PATIENCE, connected).await.unwrap().unwrap();
    }

    pub async fn stop(self) -> PathBuf {
        self.agent.abort();
        let _ = self.agent.await;
        self.data_dir
    }
}

pub fn config(provider: &Provider, data_dir: &Path, name: &str, token: Option<&str>) -> AgentConfig {
    AgentConfig {
        name: name.to_owned(),
        orchestrators: vec![provider.url.clone()],
        data_dir: data_dir.to_owned(),
        join_token: token.map(|token| token.parse().unwrap()),
        authority_file: None,
        tenants: Vec::new(),
        region: None,
    }
}

/// A service account of the key's own namespace.
pub fn caller(key: &KeyId) -> openkcm_edge::caller::Caller {
    use openkcm_edge::caller::{Caller, Home};
    let home = Home { cluster: key.cluster.clone(), namespace: key.namespace.as_str().into() };
    Caller::new("https://kcp.test", "system:serviceaccount:payments:app", Some(home))
}

pub fn key(name: &str) -> KeyId {
    KeyId { cluster: "2x7k1pq9vd3mzs0a".parse().unwrap(), namespace: "payments".into(), name: name.into() }
}

pub fn serve(current: u32) -> Desired {
    serve_as("tenant-root-demo", &[], current)
}

pub fn serve_as(tenant: &str, regions: &[&str], current: u32) -> Desired {
    let version = |version| Version {
        version,
        material: SecretKey::from_bytes(&mut [version as u8; 32]).unwrap(),
        usable: Usable::Encrypt,
    };
    Desired::Serve(KeyState {
        tenant_name: tenant.into(),
        regions: regions.iter().map(ToString::to_string).collect(),
        key_uuid: uuid::Uuid::from_u128(7),
        current,
        versions: (1..=current).map(version).collect(),
        dead_versions: Vec::new(),
        clients: Vec::new(),
        fingerprint: u64::from(current),
    })
}

/// A key of one version with these bytes.
pub fn serve_with(version: u32, mut material: [u8; 32]) -> Desired {
    let Desired::Serve(mut state) = serve(version) else { unreachable!() };
    let material = SecretKey::from_bytes(&mut material).unwrap();
    state.versions = vec![Version { version, material, usable: Usable::Encrypt }];
    Desired::Serve(state)
}

pub async fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fact() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
