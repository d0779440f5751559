//! Which tokens and certificates are believed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{ACME, KCP, OIDC, TestEdge, TestIssuer, client, entry, now};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use openkcm_edge::{
    auth::{Authenticator, IssuerConfig, IssuerKind},
    service::{Listeners, TlsConfig},
};
use openkcm_edge_client::{Address, EdgeClient, Key, Token};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

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

struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn leaf(&self, name: &str, san: SanType) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(san);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

#[tokio::test]
async fn client_certificates_open_the_keys_that_name_them() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let pki = Pki::new("ours");
    let (certificate, key) = pki.leaf("edge", SanType::IpAddress("127.0.0.1".parse().unwrap()));
    let tls = TlsConfig { certificate, key, client_authorities: pki.pem.clone().into_bytes() };
    let listeners = Listeners::default().bind_tcp("127.0.0.1:0".parse().unwrap(), tls).await.unwrap();
    let url = format!("https://{}", listeners.tcp_address().unwrap());
    let edge = TestEdge::start_with(listeners, "mesh");
    let mut shared = entry(ACME, "payments", "shared");
    shared.clients = vec![client("mesh", "spiffe://mesh/app")];
    edge.store.put(shared).unwrap();

    let connect = async |from: &Pki, uri: &str, token: Token| {
        let (certificate, key) = from.leaf("app", SanType::URI(uri.try_into().unwrap()));
        let authorities = pki.pem.clone().into_bytes();
        EdgeClient::connect(Address::Tls { url: url.clone(), authorities, certificate, key }, token).await
    };
    let use_key = async |edge: EdgeClient, name: &str| {
        let result = edge.encrypt(&Key::new("tenant-root-acme", name), b"x", b"").await;
        result.map_or_else(|error| error.code, |_| "ok".into())
    };
    let app = connect(&pki, "spiffe://mesh/app", Token::None).await.unwrap();
    assert_eq!(use_key(app.clone(), "payments/shared").await, "ok");
    assert_eq!(use_key(app, "payments/db").await, "unknown-key");
    let other = connect(&pki, "spiffe://mesh/other", Token::None).await.unwrap();
    assert_eq!(use_key(other, "payments/shared").await, "unknown-key");
    // With a token, the token says who calls.
    let token = Token::Fixed(edge.kcp.service_account(ACME, "payments", "app"));
    let both = connect(&pki, "spiffe://mesh/other", token).await.unwrap();
    assert_eq!(use_key(both, "payments/db").await, "ok");
    // A certificate of other authorities does not even connect, token or not.
    let foreign = Pki::new("theirs");
    let token = Token::Fixed(edge.kcp.service_account(ACME, "payments", "app"));
    if let Ok(stranger) = connect(&foreign, "spiffe://mesh/app", token).await {
        assert_ne!(use_key(stranger, "payments/db").await, "ok");
    }
}
