//! Callers who want more than their share, or are nobody at all: the edge stays within its limits and serves the others.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::Read,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use common::{ACME, OTHER, TestEdge, TestIssuer, entry};
use hyper_util::rt::TokioIo;
use openkcm_edge_client::{EdgeError, Key};
use openkcm_edge_protocol::application::{
    Key as WireKey, StreamRequest, StreamResponse, crypto_client::CryptoClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

fn db() -> Key {
    Key::new("tenant-root-acme", "payments/db")
}

/// A connection below the client crate, for what that does not do.
async fn raw(edge: &TestEdge) -> CryptoClient<Channel> {
    let socket = edge.socket.clone();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    CryptoClient::new(Endpoint::from_static("http://edge").connect_with_connector(connector).await.unwrap())
}

fn first() -> StreamRequest {
    let key = WireKey { tenant: ACME.into(), name: "payments/db".into() };
    StreamRequest { key: Some(key), ..StreamRequest::default() }
}

/// An encrypting stream of a caller, and where its input goes.
async fn stream(
    client: &mut CryptoClient<Channel>,
    token: &str,
) -> Result<(mpsc::Sender<StreamRequest>, Streaming<StreamResponse>), Status> {
    let (sender, receiver) = mpsc::channel(1);
    sender.send(first()).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    Ok((sender, client.encrypt_stream(request).await?.into_inner()))
}

fn code(status: &Status) -> &str {
    status.metadata().get("openkcm-code").unwrap().to_str().unwrap()
}

#[tokio::test]
async fn a_caller_who_opens_too_many_streams_is_refused_and_others_are_served() {
    let edge = TestEdge::start().await;
    edge.store.put(entry(OTHER, "payments", "db")).unwrap();
    let greedy = edge.kcp.service_account(ACME, "payments", "app");
    let mut connections = [raw(&edge).await, raw(&edge).await];
    let mut open = Vec::new();
    let refused = loop {
        let connection = &mut connections[open.len() % 2];
        match stream(connection, &greedy).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((open.len(), code(&refused)), (128, "overloaded"));
    assert!(refused.message().contains("the caller has too much under way"), "{}", refused.message());
    assert!(EdgeError::from(refused).retryable);
    // Another service account of the same namespace, and one of another tenant.
    for (cluster, name) in [(ACME, "web"), (OTHER, "app")] {
        let app = edge.client(&edge.kcp.service_account(cluster, "payments", name)).await;
        app.encrypt(&Key::new(cluster, "payments/db"), b"x", b"").await.unwrap();
    }
    // What ended makes room.
    open.truncate(100);
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(status) = stream(&mut connections[0], &greedy).await {
        assert_eq!(code(&status), "overloaded");
        assert!(Instant::now() < deadline, "ended streams still count");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    const PIECE: usize = 256 << 10;
    const PIECES: usize = 128;
    let edge = TestEdge::start().await;
    let mut client = raw(&edge).await;
    let token = edge.kcp.service_account(ACME, "payments", "app");
    let (sender, mut answers) = stream(&mut client, &token).await.unwrap();
    let mut sent = 0;
    let piece = || StreamRequest { data: vec![7; PIECE], ..StreamRequest::default() };
    while sent < PIECES
        && tokio::time::timeout(Duration::from_millis(500), sender.send(piece())).await.is_ok()
    {
        sent += 1;
    }
    assert!(sent < PIECES / 4, "{sent} pieces of 256 KiB went in and nobody has read one");
    // Others do not notice, and the stream goes on when it is read.
    edge.app().await.encrypt(&db(), b"x", b"").await.unwrap();
    let writer = tokio::spawn(async move {
        for _ in sent..PIECES {
            sender.send(piece()).await.unwrap();
        }
    });
    let mut received = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        received += answer.data.len();
    }
    writer.await.unwrap();
    assert_eq!(received, 84 + PIECES * PIECE + 16 * PIECES * PIECE / (64 << 10));
}

#[tokio::test]
async fn strangers_in_numbers_do_not_keep_out_who_is_known() {
    let edge = TestEdge::start().await;
    let app = edge.app().await;
    app.encrypt(&db(), b"x", b"").await.unwrap();
    // Well-formed tokens with a known key id: each costs a signature.
    let namesake = TestIssuer::new(common::KCP, "kcp-1");
    let forged: Vec<String> =
        (0..20).map(|number| namesake.service_account(ACME, "payments", &format!("app-{number}"))).collect();
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let socket = edge.socket.clone();
            let forged = forged.clone();
            tokio::spawn(async move {
                for token in forged.iter().cycle().take(100) {
                    let address = openkcm_edge_client::Address::Unix(socket.clone());
                    let token = openkcm_edge_client::Token::Fixed(token.clone());
                    let client = openkcm_edge_client::EdgeClient::connect(address, token).await.unwrap();
                    let error = client.encrypt(&db(), b"x", b"").await.unwrap_err();
                    assert!(["unauthenticated", "overloaded"].contains(&error.code.as_str()), "{error}");
                }
            })
        })
        .collect();
    for _ in 0..200 {
        app.encrypt(&db(), b"x", b"").await.unwrap();
    }
    for flood in floods {
        flood.await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_of_a_stranger_is_closed_after_some_refusals() {
    let edge = TestEdge::start().await;
    let mut client = raw(&edge).await;
    let mut codes = Vec::new();
    for _ in 0..70 {
        let status = stream(&mut client, "nobody").await.unwrap_err();
        codes.push(status.metadata().get("openkcm-code").map(|code| code.to_str().unwrap().to_owned()));
    }
    let refused = |code: &&Option<String>| code.as_deref() == Some("unauthenticated");
    // The connection goes with the 64th answer, or just before it; the next one begins anew.
    assert!((63..=64).contains(&codes.iter().take_while(refused).count()), "{codes:?}");
    assert!(codes.iter().filter(refused).count() < codes.len(), "{codes:?}");
}

#[tokio::test]
async fn one_user_cannot_have_all_connections() {
    let edge = TestEdge::start().await;
    edge.app().await.encrypt(&db(), b"x", b"").await.unwrap();
    let open: Vec<UnixStream> = (0..300).map(|_| UnixStream::connect(&edge.socket).unwrap()).collect();
    let mut last = open.last().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // An HTTP/2 server speaks first, unless it closes. It has threads of its own, so this one may wait.
    let read = last.read(&mut [0; 64]);
    assert!(matches!(read, Ok(0)), "{read:?}");
    drop(open);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let token = edge.kcp.service_account(ACME, "payments", "app");
        let address = openkcm_edge_client::Address::Unix(edge.socket.clone());
        let client =
            openkcm_edge_client::EdgeClient::connect(address, openkcm_edge_client::Token::Fixed(token)).await;
        if let Ok(client) = client
            && client.encrypt(&db(), b"x", b"").await.is_ok()
        {
            break;
        }
        assert!(Instant::now() < deadline, "closed connections still count");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
