//! What somebody without a certificate can do to the orchestrator's port: little, and nothing to the others.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Edge, PATIENCE, Provider, any, eventually, key, serve};
use openkcm_edge::agent::AgentError;
use openkcm_edge_protocol::JoinToken;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
    version::TLS13,
};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

const LEASE: Duration = Duration::from_secs(5);

async fn closed(connection: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = Vec::new();
    let read = connection.read_to_end(&mut rest);
    // With or without an error, but for good.
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("the connection stays open");
}

async fn stranger(provider: &Provider) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = provider.data_dir.join("orchestrator/authority.pem");
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(provider.orchestrator.address()).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect("127.0.0.1".try_into().unwrap(), tcp).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_shown_out_and_holds_up_nobody() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(provider.orchestrator.address()).await.unwrap());
    }
    // More strangers than there are places, all done with TLS: the first ones make room.
    let mut strangers = Vec::new();
    for _ in 0..70 {
        strangers.push(stranger(&provider).await);
    }
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    eventually("an edge joins and gets its key", || edge.holds(&key("db")) == Some(1)).await;
    for connection in &mut strangers[..5] {
        closed(connection).await;
    }
    // The time for a handshake ends, and the time to join.
    closed(&mut silent[299]).await;
    closed(&mut strangers[69]).await;
    assert_eq!(edge.holds(&key("db")), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_tokens_is_not_listened_to_for_a_while() {
    let data = tempfile::tempdir().unwrap();
    let provider = Provider::start(data.path(), LEASE).await;
    let mut real: JoinToken = provider.token(&any()).parse().unwrap();
    real.secret[0] ^= 1;
    for _ in 0..10 {
        let home = tempfile::tempdir().unwrap();
        let edge = Edge::start(&provider, home.path(), "edge-1", Some(&real.to_text()));
        let gave_up = tokio::time::timeout(PATIENCE, edge.agent).await.unwrap().unwrap();
        assert!(matches!(gave_up, AgentError::TokenRefused), "{gave_up}");
    }
    // From here on the answer does not depend on the token; the edge goes on trying.
    let home = tempfile::tempdir().unwrap();
    let mut edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    let waits = edge.status.wait_for(|status| {
        status.trouble.as_deref().is_some_and(|trouble| trouble.contains("wait a minute"))
    });
    tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap();
    edge.connected().await;
}
