//! Which tokens and certificates are believed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use common::{ACME, KCP, OIDC, Pki, TestEdge, TestIssuer, client, entry, now};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode,
    jwk::{Jwk, JwkSet},
};
use openkcm_edge::auth::{Authenticator, IssuerConfig, IssuerKind};
use openkcm_edge_client::{Address, EdgeClient, Key, Token};
use rcgen::SanType;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

fn authenticator(issuer: &TestIssuer, kind: IssuerKind) -> (Authenticator, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    issuer.write_jwks(&path);
    let jwks = path.to_str().unwrap().to_owned();
    let config = IssuerConfig { issuer: issuer.name.clone(), audience: None, jwks, kind, ca_file: None };
    (Authenticator::new(vec![config], "openkcm-edge").unwrap(), directory)
}

/// A change of the claims that makes them wrong.
type Spoil = fn(&mut Value);

#[tokio::test]
async fn wrong_tokens_are_refused_for_the_right_reason() {
    let issuer = TestIssuer::new(KCP, "one");
    let (auth, _directory) = authenticator(&issuer, IssuerKind::Kcp);
    let cases: &[(&str, Spoil, &str)] = &[
        ("expired", |c| c["exp"] = json!(now() - 31), "expired"),
        ("not yet valid", |c| c["nbf"] = json!(now() + 60), "not valid yet"),
        ("other audience", |c| c["aud"] = json!(["https://kcp.default.svc"]), "audience"),
        (
            "no audience",
            |c| {
                c.as_object_mut().unwrap().remove("aud");
            },
            "claim",
        ),
        (
            "no expiry",
            |c| {
                c.as_object_mut().unwrap().remove("exp");
            },
            "does not verify",
        ),
        (
            "no subject",
            |c| {
                c.as_object_mut().unwrap().remove("sub");
            },
            "does not verify",
        ),
        ("other issuer", |c| c["iss"] = json!("https://evil.example"), "not trusted"),
        (
            "no issuer",
            |c| {
                c.as_object_mut().unwrap().remove("iss");
            },
            "no issuer",
        ),
        (
            "no workspace",
            |c| {
                c["kubernetes.io"].as_object_mut().unwrap().remove("clusterName");
            },
            "workspace",
        ),
        ("a path for a workspace", |c| c["kubernetes.io"]["clusterName"] = json!("root:acme"), "workspace"),
        ("subject of another namespace", |c| c["kubernetes.io"]["namespace"] = json!("web"), "workspace"),
        (
            "no service account",
            |c| {
                c["kubernetes.io"].as_object_mut().unwrap().remove("serviceaccount");
            },
            "workspace",
        ),
    ];
    for (case, spoil, expected) in cases {
        let mut claims = issuer.claims(ACME, "payments", "app");
        spoil(&mut claims);
        let error = auth.verify(&issuer.sign(&claims)).await.unwrap_err();
        assert_eq!(error.code.as_str(), "unauthenticated", "{case}");
        assert!(error.message.contains(expected), "{case}: {}", error.message);
    }
    // Clocks may differ a little.
    let mut claims = issuer.claims(ACME, "payments", "app");
    claims["exp"] = json!(now() - 5);
    auth.verify(&issuer.sign(&claims)).await.unwrap();
}

#[tokio::test]
async fn wrong_signatures_are_refused() {
    let issuer = TestIssuer::new(KCP, "one");
    let (auth, _directory) = authenticator(&issuer, IssuerKind::Kcp);
    let good = issuer.service_account(ACME, "payments", "app");
    let verified = auth.verify(&good).await.unwrap();
    assert_eq!(verified.caller.subject(), "system:serviceaccount:payments:app");
    assert_eq!(verified.caller.home().unwrap().cluster.as_str(), ACME);

    let claims = issuer.claims(ACME, "payments", "app");
    // The same name and key id, another key.
    let forger = TestIssuer::new(KCP, "one");
    // A key id that nobody has.
    let unknown = TestIssuer::new(KCP, "two");
    // The public key as an HMAC secret.
    let public = serde_json::to_vec(&issuer.jwk).unwrap();
    let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) };
    let hmac = encode(&header, &claims, &EncodingKey::from_secret(&public)).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    let other_claims = issuer.service_account(ACME, "web", "app");
    let swapped = format!("{}.{}.{}", parts[0], other_claims.split('.').nth(1).unwrap(), parts[2]);
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    let tokens = [
        forger.sign(&claims),
        unknown.sign(&claims),
        hmac,
        none,
        swapped,
        unsigned,
        String::new(),
        "a.b.c".into(),
        "x".repeat(20_000),
    ];
    for token in tokens {
        let error = auth.verify(&token).await.unwrap_err();
        assert_eq!(error.code.as_str(), "unauthenticated");
        // What was sent is not repeated.
        assert!(token.is_empty() || !error.message.contains(&token));
    }
}

#[tokio::test]
async fn rsa_keys_in_the_shape_of_kubernetes_are_understood() {
    let issuer = TestIssuer::rsa(KCP, "one");
    let (auth, directory) = authenticator(&issuer, IssuerKind::Kcp);
    // kube-apiserver writes use, kty, kid, alg, n and e, and nothing else.
    let mut jwk = serde_json::to_value(&issuer.jwk).unwrap();
    let jwk = jwk.as_object_mut().unwrap();
    jwk.retain(|name, _| ["kty", "kid", "n", "e"].contains(&name.as_str()));
    jwk.insert("use".into(), json!("sig"));
    jwk.insert("alg".into(), json!("RS256"));
    std::fs::write(directory.path().join("jwks.json"), json!({ "keys": [jwk] }).to_string()).unwrap();
    auth.verify(&issuer.service_account(ACME, "payments", "app")).await.unwrap();
}

#[tokio::test]
async fn a_plain_issuer_never_speaks_for_a_workspace() {
    let issuer = TestIssuer::new(OIDC, "one");
    let (auth, _directory) = authenticator(&issuer, IssuerKind::Oidc);
    // It may claim what it likes.
    let verified = auth.verify(&issuer.service_account(ACME, "payments", "app")).await.unwrap();
    assert_eq!(verified.caller.home(), None);
}

#[test]
fn an_issuers_file_is_read_and_its_mistakes_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("issuers.yaml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        openkcm_edge::auth::load_issuers(&path)
            .and_then(|issuers| Authenticator::new(issuers, "openkcm-edge"))
            .map(|_| ())
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    };
    load("- {issuer: https://kcp.default.svc, kind: kcp, jwks: /etc/jwks.json}\n- {issuer: x, kind: oidc, audience: y, jwks: 'https://h/jwks'}\n").unwrap();
    for (text, expected) in [
        ("- {issuer: x, kind: kcp, jwks: 'http://h/jwks'}", "https://"),
        ("- {issuer: x, kind: saml, jwks: f}", "saml"),
        ("- {issuer: x, jwks: f}", "kind"),
        ("- {issuer: x, kind: kcp, jwks: f, audiences: [a]}", "audiences"),
        ("issuer: x", "issuers.yaml"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[tokio::test]
async fn client_certificates_open_the_keys_that_name_them() {
    let pki = Pki::new("ours");
    let (listeners, url) = pki.listen();
    let edge = TestEdge::start_with(listeners, "mesh");
    let mut shared = entry(ACME, "payments", "shared");
    shared.clients = vec![client("mesh", "spiffe://mesh/app")];
    edge.store.put(shared).unwrap();

    let use_key = async |edge: EdgeClient, name: &str| {
        let result = edge.encrypt(&Key::new("tenant-root-acme", name), b"x", b"").await;
        result.map_or_else(|error| error.code, |_| "ok".into())
    };
    let app = pki.connect(&url, "spiffe://mesh/app", Token::None).await.unwrap();
    assert_eq!(use_key(app.clone(), "payments/shared").await, "ok");
    assert_eq!(use_key(app, "payments/db").await, "unknown-key");
    let other = pki.connect(&url, "spiffe://mesh/other", Token::None).await.unwrap();
    assert_eq!(use_key(other, "payments/shared").await, "unknown-key");
    // With a token, the token says who calls.
    let token = || Token::Fixed(edge.kcp.service_account(ACME, "payments", "app"));
    let both = pki.connect(&url, "spiffe://mesh/other", token()).await.unwrap();
    assert_eq!(use_key(both, "payments/db").await, "ok");
    // A certificate of other authorities does not even connect, token or not.
    let foreign = Pki { pem: pki.pem.clone(), ..Pki::new("theirs") };
    if let Ok(stranger) = foreign.connect(&url, "spiffe://mesh/app", token()).await {
        assert_ne!(use_key(stranger, "payments/db").await, "ok");
    }
}

/// TLS looks at a certificate once, when the connection is made; the edge looks at its end with every call.
#[tokio::test]
async fn a_client_certificate_that_ends_is_refused_on_the_connection_that_it_made() {
    let pki = Pki::new("ours");
    let (listeners, url) = pki.listen();
    let edge = TestEdge::start_with(listeners, "mesh");
    let mut shared = entry(ACME, "payments", "shared");
    shared.clients = vec![client("mesh", "spiffe://mesh/app")];
    edge.store.put(shared).unwrap();
    let ends = SystemTime::now() + Duration::from_secs(3);
    let (certificate, key) =
        pki.leaf_until("app", SanType::URI("spiffe://mesh/app".try_into().unwrap()), ends);
    let authorities = pki.pem.clone().into_bytes();
    let app =
        EdgeClient::connect(Address::Tls { url, authorities, certificate, key }, Token::None).await.unwrap();
    let shared = Key::new("tenant-root-acme", "payments/shared");
    app.encrypt(&shared, b"x", b"").await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let error = app.encrypt(&shared, b"x", b"").await.unwrap_err();
    assert_eq!(error.code, "unauthenticated");
    assert!(error.message.contains("expired"), "{error}");
}

/// Keys of an issuer over HTTPS, and how often they were asked for.
struct KeyServer {
    url: String,
    keys: Arc<Mutex<Vec<Jwk>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(pki: &Pki, jwk: Jwk) -> Self {
        let (certificate, key) = pki.leaf("keys", SanType::IpAddress("127.0.0.1".parse().unwrap()));
        let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/keys", listener.local_addr().unwrap());
        let server = Self { url, keys: Arc::new(Mutex::new(vec![jwk])), asked: Arc::default() };
        let (keys, asked) = (Arc::clone(&server.keys), Arc::clone(&server.asked));
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let Ok(mut connection) = acceptor.accept(connection).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(connection.read_u8().await.unwrap());
                }
                asked.fetch_add(1, Ordering::SeqCst);
                let keys = keys.lock().unwrap().clone();
                let body = serde_json::to_string(&JwkSet { keys }).unwrap();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                connection.write_all((head + &body).as_bytes()).await.unwrap();
                connection.shutdown().await.unwrap();
            }
        });
        server
    }
}

#[tokio::test]
async fn an_issuer_s_keys_are_fetched_once_again_when_it_rotates_and_not_for_every_unknown_one() {
    let pki = Pki::new("ours");
    let (old, new) = (TestIssuer::new(OIDC, "old"), TestIssuer::new(OIDC, "new"));
    let server = KeyServer::start(&pki, old.jwk.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let authorities = directory.path().join("ca.pem");
    std::fs::write(&authorities, &pki.pem).unwrap();
    let config = |ca_file| IssuerConfig {
        issuer: OIDC.into(),
        audience: None,
        jwks: server.url.clone(),
        kind: IssuerKind::Oidc,
        ca_file,
    };
    let auth = Authenticator::new(vec![config(Some(authorities))], "openkcm-edge").unwrap();
    let token = |issuer: &TestIssuer, name: &str| {
        issuer.sign(&json!({ "iss": OIDC, "aud": "openkcm-edge", "exp": now() + 600, "sub": name }))
    };
    for name in ["one", "two", "three"] {
        auth.verify(&token(&old, name)).await.unwrap();
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 1, "keys are cached");
    // The issuer rotates. A flood of tokens with unknown keys asks it no more than once in five seconds.
    server.keys.lock().unwrap().push(new.jwk.clone());
    let nobody = TestIssuer::new(OIDC, "nobody");
    let patience = Instant::now() + Duration::from_secs(20);
    while auth.verify(&token(&new, "one")).await.is_err() {
        assert!(Instant::now() < patience, "the new key is never seen");
        for name in 0..50 {
            let error = auth.verify(&token(&nobody, &name.to_string())).await.unwrap_err();
            assert_eq!(error.message, "the token's issuer has no such signing key");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
    auth.verify(&token(&old, "four")).await.unwrap();
    // A server whose certificate is of nobody that the operator named is not believed.
    let auth = Authenticator::new(vec![config(None)], "openkcm-edge").unwrap();
    auth.verify(&token(&old, "one")).await.unwrap_err();
}
