//! An edge in this process, filled directly, and issuers of tokens for it.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode,
    jwk::{Jwk, JwkSet},
};
use kcp_client_rs::LogicalCluster;
use openkcm_edge::{
    auth::{Authenticator, IssuerConfig, IssuerKind},
    engine::Engine,
    metrics::Metrics,
    service::{self, Listeners, TlsConfig},
    store::{Client, KeyEntry, KeyName, KeyStore, KeyVersion, Material, Usable},
};
use openkcm_edge_client::{Address, EdgeClient, EdgeError, Token};
use openkcm_secret::SecretKey;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub const KCP: &str = "https://kcp.default.svc";
pub const OIDC: &str = "https://workload.example";
pub const ACME: &str = "1acme";
pub const OTHER: &str = "2other";

/// An issuer with one key.
pub struct TestIssuer {
    pub name: String,
    pub key_id: String,
    algorithm: Algorithm,
    key: EncodingKey,
    pub jwk: Jwk,
}

impl TestIssuer {
    pub fn new(name: &str, key_id: &str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self::with_key(name, key_id, Algorithm::ES256, key)
    }

    /// With an RSA key, as kcp and Kubernetes sign.
    pub fn rsa(name: &str, key_id: &str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self::with_key(name, key_id, Algorithm::RS256, key)
    }

    fn with_key(name: &str, key_id: &str, algorithm: Algorithm, key: EncodingKey) -> Self {
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        jwk.common.key_id = Some(key_id.into());
        Self { name: name.into(), key_id: key_id.into(), algorithm, key, jwk }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }

    /// A token as `kubectl create token --audience openkcm-edge` makes it in a kcp workspace.
    pub fn service_account(&self, cluster: &str, namespace: &str, name: &str) -> String {
        self.sign(&self.claims(cluster, namespace, name))
    }

    pub fn claims(&self, cluster: &str, namespace: &str, name: &str) -> Value {
        let now = now();
        json!({
            "iss": self.name, "aud": ["openkcm-edge"], "exp": now + 3600, "iat": now, "nbf": now,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {
                "clusterName": cluster, "namespace": namespace,
                "serviceaccount": { "name": name, "uid": "3f0e9c0a-0000-0000-0000-000000000000" },
            },
        })
    }

    pub fn write_jwks(&self, path: &Path) {
        std::fs::write(path, serde_json::to_vec(&JwkSet { keys: vec![self.jwk.clone()] }).unwrap()).unwrap();
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn cluster(name: &str) -> LogicalCluster {
    name.parse().unwrap()
}

pub fn key_name(cluster_name: &str, namespace: &str, name: &str) -> KeyName {
    KeyName { cluster: cluster(cluster_name), namespace: namespace.into(), name: name.into() }
}

pub fn version(number: u32, usable: Usable) -> KeyVersion {
    let key = SecretKey::from_bytes(&mut [u8::try_from(number).unwrap(); 32]).unwrap();
    KeyVersion { version: number, material: Material::Present { key, usable } }
}

/// A key with version 1, of tenant `tenant-root-acme` in both workspaces: names of tenants are no identity.
pub fn entry(cluster_name: &str, namespace: &str, name: &str) -> KeyEntry {
    let mut key_id = [0; 16];
    key_id[..4].copy_from_slice(&cluster_name.as_bytes()[..4]);
    key_id[4] = u8::try_from(name.len()).unwrap();
    KeyEntry {
        cluster: cluster(cluster_name),
        tenant_name: "tenant-root-acme".into(),
        namespace: namespace.into(),
        name: name.into(),
        key_id,
        current: 1,
        versions: vec![version(1, Usable::EncryptDecrypt)],
        clients: Vec::new(),
        revision: 1,
    }
}

pub fn client(issuer: &str, subject: &str) -> Client {
    Client { issuer: issuer.into(), subject: subject.into() }
}

/// Certificate authorities for client certificates.
pub struct Pki {
    pub issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Pki {
    pub fn new(name: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, PEM.
    pub fn leaf(&self, name: &str, san: SanType) -> (Vec<u8>, Vec<u8>) {
        self.leaf_until(name, san, SystemTime::now() + Duration::from_secs(3600))
    }

    pub fn leaf_until(&self, name: &str, san: SanType, until: SystemTime) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(san);
        params.not_after = until.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    /// A TCP listener that wants certificates of these authorities, and its URL.
    pub fn listen(&self) -> (Listeners, String) {
        let (certificate, key) = self.leaf("edge", SanType::IpAddress("127.0.0.1".parse().unwrap()));
        let tls = TlsConfig { certificate, key, client_authorities: self.pem.clone().into_bytes() };
        let listeners = Listeners::default().bind_tcp("127.0.0.1:0".parse().unwrap(), tls).unwrap();
        let url = format!("https://{}", listeners.tcp_address().unwrap());
        (listeners, url)
    }

    /// Connects with a new certificate for this URI.
    pub async fn connect(&self, url: &str, uri: &str, token: Token) -> Result<EdgeClient, EdgeError> {
        let (certificate, key) = self.leaf("app", SanType::URI(uri.try_into().unwrap()));
        let authorities = self.pem.clone().into_bytes();
        EdgeClient::connect(Address::Tls { url: url.to_owned(), authorities, certificate, key }, token).await
    }
}

/// A running edge.
pub struct TestEdge {
    pub directory: TempDir,
    pub socket: PathBuf,
    pub store: Arc<KeyStore>,
    pub metrics: Arc<Metrics>,
    pub kcp: TestIssuer,
    pub oidc: TestIssuer,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl TestEdge {
    /// An edge with a long lease and the key payments/db of workspace `1acme`.
    pub async fn start() -> Self {
        std::future::ready(Self::start_with(Listeners::default(), "x509")).await
    }

    pub fn start_with(listeners: Listeners, certificate_issuer: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/edge.sock");
        let store = Arc::new(KeyStore::new());
        store.renew_lease(store.now().saturating_add(Duration::from_mins(10)));
        store.put(entry(ACME, "payments", "db")).unwrap();

        let (kcp, oidc) = (TestIssuer::new(KCP, "kcp-1"), TestIssuer::new(OIDC, "oidc-1"));
        let issuers = [(&kcp, IssuerKind::Kcp), (&oidc, IssuerKind::Oidc)].map(|(issuer, kind)| {
            let path = directory.path().join(format!("{}.json", issuer.key_id));
            issuer.write_jwks(&path);
            let jwks = path.to_str().unwrap().to_owned();
            IssuerConfig { issuer: issuer.name.clone(), audience: None, jwks, kind, ca_file: None }
        });
        let auth = Arc::new(Authenticator::new(issuers.into(), "openkcm-edge").unwrap());
        let metrics = Arc::new(Metrics::new(Arc::clone(&store)));
        let gate =
            service::service(Engine::new(Arc::clone(&store)), auth, Arc::clone(&metrics), certificate_issuer);
        let listeners = listeners.bind_unix(&socket, 0o600).unwrap();
        let stop = CancellationToken::new();
        let until = stop.clone();
        let server = tokio::spawn(async move { service::serve(listeners, gate, until).await.unwrap() });
        Self { directory, socket, store, metrics, kcp, oidc, stop, server: Some(server) }
    }

    pub async fn client(&self, token: &str) -> EdgeClient {
        EdgeClient::connect(Address::Unix(self.socket.clone()), Token::Fixed(token.into())).await.unwrap()
    }

    /// A client with a token of service account `app` in the key's namespace.
    pub async fn app(&self) -> EdgeClient {
        self.client(&self.kcp.service_account(ACME, "payments", "app")).await
    }

    /// Runs the command-line client as `payments:app`.
    pub async fn cli(&self, command: &[&str], input: &[u8]) -> Output {
        let token = self.directory.path().join("token");
        std::fs::write(&token, self.kcp.service_account(ACME, "payments", "app")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_openkcm-edge"))
            .args(command)
            .args(["--socket", self.socket.to_str().unwrap(), "--token-file", token.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        let writer = tokio::spawn(async move {
            // The process may refuse before it has read everything.
            let _ = stdin.write_all(&input).await;
        });
        let output = child.wait_with_output().await.unwrap();
        writer.await.unwrap();
        output
    }

    pub async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        self.server.take().unwrap().await.unwrap();
        self.directory
    }
}
