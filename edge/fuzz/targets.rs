//! What must be true of every input of every parser. The fuzzer (`fuzz_targets/`) and `cargo test` (`tests/corpus.rs`) run
//! the same functions.

use std::{
    io::Write,
    sync::{Arc, OnceLock},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, EncodingKey, Header as TokenHeader, encode,
    jwk::{Jwk, JwkSet},
};
use openkcm_edge::{
    agent::StoreKeys,
    auth::{Authenticator, IssuerConfig, IssuerKind, caller_of_certificate},
    clock::BootInstant,
    engine::address,
    envelope::{Chunker, HEADER_LEN, Header, Position, XaesKey, commitment, decrypt_in_place},
    store::{KeyStore, Lent},
};
use openkcm_edge_protocol::{
    JoinToken,
    orchestrator::{Subscription, ToEdge},
    session::{EdgeSession, MAX_LEASE},
};
use openkcm_secret::SecretKey;
use prost::Message;
use serde_json::Value;
use url::Url;

/// A parser's name, as its corpus is called, and its property.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 10] = [
    ("address", name),
    ("certificate", certificate),
    ("chunker", chunker),
    ("claims", claims),
    ("header", header),
    ("issuers", issuers),
    ("join_token", join_token),
    ("message", message),
    ("orders", orders),
    ("stream", stream),
];

/// The first part, as long as the first byte says, and the rest.
fn two(data: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = data.split_first().unwrap_or((&0, &[]));
    rest.split_at(rest.len().min(usize::from(*length)))
}

/// What is accepted as a name may be quoted in an error without harm.
pub fn name(data: &[u8]) {
    let (Ok(tenant), Ok(key)) = (str::from_utf8(two(data).0), str::from_utf8(two(data).1)) else { return };
    if let Ok(address) = address(tenant, key) {
        assert_eq!(format!("{}/{}", address.namespace, address.name), key);
        assert!(tenant.bytes().chain(key.bytes()).all(|byte| byte.is_ascii_graphic()));
    }
}

/// A caller by certificate has a name, and never a workspace.
pub fn certificate(data: &[u8]) {
    if let Ok(verified) = caller_of_certificate("x509", data) {
        assert_eq!((verified.caller.issuer(), verified.caller.home()), ("x509", None));
    }
}

/// However a stream arrives, its bytes come out in order and cut alike.
pub fn chunker(data: &[u8]) {
    let (head, mut rest) = two(data);
    let size = head.len() + 1;
    let (mut chunker, mut chunks, mut whole) = (Chunker::new(size), Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (mut part, behind) = two(rest);
        whole.extend_from_slice(part);
        while let Some(chunk) = chunker.push(&mut part) {
            assert_eq!(chunk.len(), size);
            chunks.push(chunk);
        }
        rest = behind;
    }
    let last = chunker.finish();
    assert!(last.len() <= size && (!last.is_empty() || chunks.is_empty()));
    chunks.push(last);
    assert_eq!(chunks.concat(), whole);
}

struct Issuer {
    key: EncodingKey,
    auth: Authenticator,
    runtime: tokio::runtime::Runtime,
}

fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let keys = JwkSet { keys: vec![Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()] };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&serde_json::to_vec(&keys).unwrap()).unwrap();
        let config = IssuerConfig {
            issuer: "https://kcp.default.svc".into(),
            audience: None,
            jwks: file.path().to_str().unwrap().into(),
            kind: IssuerKind::Kcp,
            ca_file: None,
        };
        let auth = Authenticator::new(vec![config], "openkcm-edge").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let issuer = Issuer { key, auth, runtime };
        // Reads the file, which goes away behind this function.
        let first = encode(
            &TokenHeader::new(Algorithm::ES256),
            &serde_json::json!({ "iss": "https://kcp.default.svc" }),
            &issuer.key,
        );
        assert!(issuer.runtime.block_on(issuer.auth.verify(&first.unwrap())).is_err());
        issuer
    })
}

/// Whatever a trusted issuer signs: who comes out is a service account of the workspace and namespace that the claims name.
/// And a text that nobody signed is nobody.
pub fn claims(data: &[u8]) {
    let issuer = issuer();
    let verify = |token: &str| issuer.runtime.block_on(issuer.auth.verify(token));
    if let Ok(text) = str::from_utf8(data) {
        assert!(verify(text).is_err());
    }
    let Ok(claims) = serde_json::from_slice::<Value>(data) else { return };
    let Ok(token) = encode(&TokenHeader::new(Algorithm::ES256), &claims, &issuer.key) else { return };
    if let Ok(verified) = verify(&token) {
        let (home, subject) = (verified.caller.home().unwrap(), verified.caller.subject());
        assert!(subject.starts_with(&format!("system:serviceaccount:{}:", home.namespace)));
        assert_eq!(claims["kubernetes.io"]["clusterName"], *home.cluster.as_str());
        assert_eq!(claims["kubernetes.io"]["namespace"], *home.namespace);
    }
}

/// A header that parses is the only writing of itself.
pub fn header(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
        assert_eq!(header.to_bytes()[..], data[..HEADER_LEN]);
    }
}

/// An issuers file that is read and accepted has keys from a file or over TLS.
pub fn issuers(data: &[u8]) {
    let Ok(configs) = serde_yaml_ng::from_slice::<Vec<IssuerConfig>>(data) else { return };
    for mut config in configs {
        config.ca_file = None; // Whatever file that names is none of ours.
        let encrypted = Url::parse(&config.jwks).is_ok_and(|url| url.scheme() == "https");
        let plain = config.jwks.contains("://") && !encrypted;
        assert!(!plain || Authenticator::new(vec![config], "x").is_err());
    }
}

/// A token that parses is the one that its text says.
pub fn join_token(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_text(), text.trim());
    }
}

fn key() -> &'static SecretKey {
    static KEY: OnceLock<SecretKey> = OnceLock::new();
    KEY.get_or_init(|| SecretKey::random().unwrap())
}

/// Lends [`key`] for this header, whose commitment is put right so that the cipher is reached.
fn lend(header: &mut Header, use_it: impl FnOnce(&Lent<'_>, &Header)) {
    header.commitment = commitment(key(), header.key_id, header.version);
    let lent = Lent {
        cipher: &XaesKey::expand(key()),
        key_id: header.key_id,
        version: header.version,
        commitment: &header.commitment,
        cluster: "2x7k1pq9vd3mzs0a",
        now: BootInstant::BOOT,
    };
    use_it(&lent, header);
}

/// Nothing but what was encrypted decrypts.
pub fn message(data: &[u8]) {
    let (aad, envelope) = two(data);
    let Ok(mut header) = Header::parse(envelope) else { return };
    lend(&mut header, |lent, header| {
        let mut envelope = envelope.to_vec();
        envelope[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        assert!(decrypt_in_place(lent, header, aad, &mut envelope).is_err());
    });
}

/// The same for streams, chunk by chunk.
pub fn stream(data: &[u8]) {
    let (aad, rest) = two(data);
    let Ok(mut header) = Header::parse(rest) else { return };
    lend(&mut header, |lent, header| {
        let Ok(mut position) = Position::resume(lent, *header, aad) else { return };
        let mut rest = &rest[HEADER_LEN..];
        loop {
            let (chunk, behind) = two(rest);
            assert!(position.open(lent, &mut chunk.to_vec(), behind.is_empty()).is_err());
            if behind.is_empty() {
                break;
            }
            rest = behind;
        }
    });
}

/// Whatever an orchestrator sends, the edge does not fall over, and no lease is longer than the longest.
pub fn orders(data: &[u8]) {
    let Ok(message) = ToEdge::decode(data) else { return };
    let store = Arc::new(KeyStore::new());
    let keys = StoreKeys(&store);
    let mut session = EdgeSession::default();
    session.connected(0, Subscription::default(), "fuzz");
    for (index, mut order) in message.orders.into_iter().enumerate() {
        order.sequence = index as u64 + 1; // A wrong one ends the stream before anything else is looked at.
        if session.receive(1, order, &keys).is_err() {
            break;
        }
        session.poll(1, &keys);
    }
    assert!(Duration::from_nanos(session.lease()) <= MAX_LEASE + Duration::from_nanos(1));
    session.disconnected();
    session.connected(2, Subscription::default(), "fuzz");
}
