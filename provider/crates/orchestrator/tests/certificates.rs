//! The life of an edge's certificate: renewed in time on the stream, and worth nothing when it has ended.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{Edge, PATIENCE, Provider, any, eventually, key, serve};
use openkcm_edge::agent::AgentError;
use openkcm_orchestrator::{Clock, SystemClock, list_edges};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;

const LEASE: Duration = Duration::from_secs(5);
const HOUR: u64 = 3600;

/// An orchestrator whose civil time is behind, so that what it signs is as if it had been signed then.
#[derive(Default)]
struct Behind(SystemClock, AtomicU64);

impl Behind {
    fn hours(hours: u64) -> Arc<Self> {
        Arc::new(Self(SystemClock, AtomicU64::new(hours * HOUR)))
    }
}

impl Clock for Behind {
    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now() - Duration::from_secs(self.1.load(Relaxed))
    }
}

fn in_hours(hours: u64) -> i64 {
    (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + hours * HOUR).cast_signed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_on_the_stream_and_used_from_the_next_on() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = Behind::hours(20);
    let provider = Provider::start_with(data.path(), LEASE, "127.0.0.1:0", Vec::new(), clock.clone()).await;
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    let mut edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    edge.connected().await;
    let file = home.path().join("identity/edge.pem");
    let (first, before) = (std::fs::read_to_string(&file).unwrap(), edge.status.borrow().clone());
    assert!(before.certificate_ends.unwrap() < in_hours(5), "it is due");
    eventually("v1 is at the edge", || edge.holds(&key("db")) == Some(1)).await;

    clock.1.store(0, Relaxed);
    let mut interrupted = false;
    let renewed = edge.status.wait_for(|status| {
        interrupted |= status.connected_to.is_none();
        status.certificate_ends.is_some_and(|ends| ends > in_hours(23))
    });
    tokio::time::timeout(PATIENCE, renewed).await.unwrap().unwrap();
    assert!(!interrupted, "the stream goes on");
    let second = std::fs::read_to_string(&file).unwrap();
    let key_of = |text: &str| text.split("-----END PRIVATE KEY").next().unwrap().to_owned();
    assert_ne!(key_of(&first), key_of(&second), "a new certificate is for a new key");
    assert_eq!(edge.status.borrow().edge_id, before.edge_id);
    let records = list_edges(data.path()).unwrap();
    assert!(records.len() == 1 && records[0].certificate_ends > in_hours(23), "{records:?}");
    assert_eq!(edge.holds(&key("db")), Some(1));

    // It opens the next stream.
    edge.stop().await;
    let mut edge = Edge::start(&provider, home.path(), "edge-1", None);
    edge.connected().await;
    assert_eq!(edge.status.borrow().edge_id, before.edge_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_ended_opens_nothing() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = Behind::hours(26);
    let provider = Provider::start_with(data.path(), LEASE, "127.0.0.1:0", Vec::new(), clock).await;
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    let gave_up = tokio::time::timeout(PATIENCE, edge.agent).await.unwrap().unwrap();
    assert!(matches!(gave_up, AgentError::CertificateEnded(_)), "{gave_up}");
    assert!(gave_up.to_string().contains("join with a new token"), "{gave_up}");

    // A thief who does not look at the date.
    let pem = home.path().join("identity/edge.pem");
    let certificates: Vec<_> = CertificateDer::pem_file_iter(&pem).unwrap().map(Result::unwrap).collect();
    let mut roots = RootCertStore::empty();
    roots.add(certificates[1].clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificates[0].clone()], PrivateKeyDer::from_pem_file(&pem).unwrap())
        .unwrap();
    let tcp = TcpStream::connect(provider.orchestrator.address()).await.unwrap();
    // In TLS 1.3 the client may be done before it hears that its certificate is refused.
    let refused = async {
        let mut tls =
            TlsConnector::from(Arc::new(config)).connect("127.0.0.1".try_into().unwrap(), tcp).await?;
        tls.read_to_end(&mut Vec::new()).await
    };
    let error = tokio::time::timeout(PATIENCE, refused).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("ertificate"), "{error}");
    assert!(provider.orchestrator.edges().is_empty());
}
