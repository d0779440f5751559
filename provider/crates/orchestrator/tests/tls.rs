//! What the TLS around the protocol refuses.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Edge, PATIENCE, Provider, any, config};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const LEASE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_tls_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let provider = Provider::start(data.path(), LEASE).await;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(data.path().join("orchestrator/authority.pem")).unwrap())
        .unwrap();
    let connect = async |version: &'static SupportedProtocolVersion| {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let tcp = TcpStream::connect(provider.orchestrator.address()).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect("127.0.0.1".try_into().unwrap(), tcp).await.map(drop)
    };
    connect(&TLS13).await.unwrap();
    connect(&TLS12).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_s_certificate_does_not_make_a_server() {
    let (data, home, victim) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    let mut enrolled = Vec::new();
    for (home, name) in [(&home, "malicious"), (&victim, "victim")] {
        let mut edge = Edge::start(&provider, home.path(), name, Some(&provider.token(&any())));
        edge.connected().await;
        enrolled.push(edge.stop().await);
    }

    let pem = enrolled[0].join("identity/edge.pem");
    let chain: Vec<_> = CertificateDer::pem_file_iter(&pem).unwrap().map(Result::unwrap).collect();
    let mut impostor = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&pem).unwrap())
        .unwrap();
    impostor.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut towards = config(&provider, &enrolled[1], "victim", None);
    towards.orchestrators = vec![format!("https://{}", listener.local_addr().unwrap())];
    let edge = Edge::with(towards);
    let (tcp, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let handshake = TlsAcceptor::from(Arc::new(impostor)).accept(tcp);
    let refused = tokio::time::timeout(PATIENCE, async {
        // In TLS 1.3 a server may be done before it hears that its certificate is refused.
        let mut tls = handshake.await?;
        tokio::io::AsyncReadExt::read_u8(&mut tls).await
    });
    let error = refused.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("ertificate"), "{error}");
    assert_eq!(edge.status.borrow().connected_to, None);
}
