//! A real server on a real socket, used by the client crate and by the command line.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{os::unix::fs::PermissionsExt, time::Duration};

use common::{
    ACME, KCP, OIDC, OTHER, Pki, TestEdge, TestIssuer, client, cluster, entry, key_name, now, version,
};
use openkcm_edge::{
    engine::Direction,
    error::{Code, OpError},
    store::{EvictReason, Gone, KeyVersion, Material, Usable},
};
use openkcm_edge_client::{Address, EdgeClient, EdgeError, Inputs, Key, Token};
use serde_json::json;

fn db() -> Key {
    Key::new("tenant-root-acme", "payments/db")
}

fn code<T>(result: Result<T, EdgeError>) -> String {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.code,
    }
}

#[tokio::test]
async fn all_calls_work_over_the_socket() {
    let edge = TestEdge::start().await;
    all_calls(&edge.app().await).await;
}

#[tokio::test]
async fn all_calls_work_over_tcp_with_mutual_tls() {
    let pki = Pki::new("ours");
    let (listeners, url) = pki.listen();
    let edge = TestEdge::start_with(listeners, "mesh");
    let token = Token::Fixed(edge.kcp.service_account(ACME, "payments", "app"));
    all_calls(&pki.connect(&url, "spiffe://mesh/app", token).await.unwrap()).await;
}

async fn all_calls(app: &EdgeClient) {
    for size in [0, 1, 1024, 1 << 20] {
        let plaintext = vec![7; size];
        let ciphertext = app.encrypt(&db(), &plaintext, b"row 1").await.unwrap();
        assert_eq!(app.decrypt(&db(), ciphertext.clone(), b"row 1").await.unwrap(), plaintext);
        assert_eq!(code(app.decrypt(&db(), ciphertext, b"row 2").await), "tampered");
    }
    let data_key = app.data_key(&db(), b"").await.unwrap();
    assert_eq!(app.open_data_key(&db(), data_key.wrapped, b"").await.unwrap(), data_key.plaintext);
    let description = app.describe(&db()).await.unwrap();
    assert_eq!((description.current_version, description.versions.len()), (1, 1));
    assert!(description.lease_remaining_ms > 0);
    // The tenant may be named by its logical cluster, too.
    app.encrypt(&Key::new(ACME, "payments/db"), b"x", b"").await.unwrap();
    let mut session = app.batches().await.unwrap();
    let inputs = [b"one".as_slice(), b"", b"three"];
    let outputs = session.encrypt(&db(), inputs.as_slice().try_into().unwrap(), Inputs::default()).await;
    let outputs: Vec<Vec<u8>> = outputs.unwrap().iter().map(|output| output.unwrap().to_vec()).collect();
    for (output, input) in outputs.into_iter().zip(inputs) {
        assert_eq!(app.decrypt(&db(), output, b"").await.unwrap(), input);
    }
    let plaintext: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let encrypted = through(app, Direction::Encrypt, &plaintext).await.unwrap();
    assert!(through(app, Direction::Decrypt, &encrypted).await.unwrap() == plaintext);
}

/// A whole stream.
async fn through(app: &EdgeClient, direction: Direction, input: &[u8]) -> Result<Vec<u8>, EdgeError> {
    let mut output = Vec::new();
    match direction {
        Direction::Encrypt => app.encrypt_stream(&db(), b"aad", input, &mut output).await?,
        Direction::Decrypt => app.decrypt_stream(&db(), b"aad", input, &mut output).await?,
    }
    Ok(output)
}

#[tokio::test]
async fn a_stream_that_is_cut_reordered_or_added_to_is_never_taken_for_whole() {
    const CHUNK: usize = 64 << 10;
    const SEALED: usize = CHUNK + 16;
    let edge = TestEdge::start().await;
    let app = edge.app().await;
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 4 * CHUNK + 5] {
        let plaintext: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let encrypted = through(&app, Direction::Encrypt, &plaintext).await.unwrap();
        assert_eq!(encrypted.len(), 84 + size + 16 * size.div_ceil(CHUNK).max(1));
        assert!(through(&app, Direction::Decrypt, &encrypted).await.unwrap() == plaintext, "{size}");
    }
    let plaintext = vec![7; 4 * CHUNK + 5];
    let whole = through(&app, Direction::Encrypt, &plaintext).await.unwrap();
    let other = through(&app, Direction::Encrypt, &plaintext).await.unwrap();
    let (header, chunks) = whole.split_at(84);
    let chunk = |index: usize| &chunks[index * SEALED..chunks.len().min((index + 1) * SEALED)];
    let of = |order: &[usize]| {
        let chunks: Vec<&[u8]> = order.iter().map(|index| chunk(*index)).collect();
        [header, &chunks.concat()].concat()
    };
    let cases = [
        ("cut behind the header", header.to_vec()),
        ("cut in the header", header[..83].to_vec()),
        ("nothing at all", Vec::new()),
        ("cut between chunks", of(&[0, 1, 2, 3])),
        ("cut after one chunk", of(&[0])),
        ("cut in a chunk", whole[..whole.len() - 1].to_vec()),
        ("swapped", of(&[1, 0, 2, 3, 4])),
        ("dropped", of(&[0, 2, 3, 4])),
        ("doubled", of(&[0, 1, 1, 2, 3, 4])),
        ("only the last", of(&[4])),
        ("added to", [&whole[..], &[0]].concat()),
        ("two streams", [&whole[..], &other[84..]].concat()),
        ("header of another", [&other[..84], chunks].concat()),
    ];
    for (case, changed) in cases {
        assert_eq!(code(through(&app, Direction::Decrypt, &changed).await), "tampered", "{case}");
    }
}

/// The table of codes that applications are written against, and what this edge sends.
#[test]
fn codes_are_those_of_the_published_table() {
    let proto = include_str!("../../provider/crates/edge-protocol/proto/application.proto");
    let table: Vec<(&str, String)> = proto
        .lines()
        .skip_while(|line| !line.starts_with("// CODES"))
        .skip(1)
        .map_while(|line| line.strip_prefix("//"))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.to_owned()))
        })
        .collect();
    let sent: Vec<(&str, String)> = Code::ALL
        .iter()
        .map(|code| {
            let status = tonic::Status::from(OpError::new(*code, ""));
            assert_eq!(status.metadata().get("openkcm-code").unwrap(), code.as_str());
            let mut grpc = String::new();
            for (index, letter) in format!("{:?}", status.code()).char_indices() {
                if index > 0 && letter.is_uppercase() {
                    grpc.push('_');
                }
                grpc.push(letter.to_ascii_uppercase());
            }
            (code.as_str(), grpc)
        })
        .collect();
    assert_eq!(table, sent);
}

#[tokio::test]
async fn limits_are_refused_with_a_code() {
    let edge = TestEdge::start().await;
    let app = edge.app().await;
    assert_eq!(code(app.encrypt(&db(), &vec![0; (1 << 20) + 1], b"").await), "too-large");
    assert_eq!(code(app.encrypt(&db(), b"", &vec![0; (64 << 10) + 1]).await), "too-large");
    assert_eq!(code(app.decrypt(&db(), vec![0; 10], b"").await), "malformed");
    for name in ["db", "payments/db/x", "/db", "payments/", "Payments/db", "payments/d\u{1b}[2J"] {
        let error = app.encrypt(&Key::new(ACME, name), b"", b"").await.unwrap_err();
        assert_eq!(error.code, "malformed", "{name}");
        assert!(!error.message.contains('\u{1b}'));
    }
}

#[tokio::test]
async fn a_batch_reports_each_item_for_itself() {
    let edge = TestEdge::start().await;
    let app = edge.app().await;
    let mut session = app.batches().await.unwrap();
    let inputs: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; usize::from(i)]).collect();
    let aads: Vec<[u8; 1]> = (0..100u8).map(|i| [i]).collect();
    let packed = || Inputs::try_from(aads.as_slice()).unwrap();
    let outputs = session.encrypt(&db(), inputs.as_slice().try_into().unwrap(), packed()).await.unwrap();
    let mut envelopes: Vec<Vec<u8>> = outputs.iter().map(|output| output.unwrap().to_vec()).collect();
    envelopes[3][90] ^= 1;
    envelopes[5].clear();
    envelopes[7][27] = 9; // version 9
    let outputs = session.decrypt(&db(), envelopes.as_slice().try_into().unwrap(), packed()).await.unwrap();
    for (index, output) in outputs.iter().enumerate() {
        match (index, output) {
            (3, Err(error)) => assert_eq!(error.code, "tampered"),
            (5, Err(error)) => assert_eq!(error.code, "malformed"),
            (7, Err(error)) => assert_eq!(error.code, "unknown-version"),
            (index, Ok(plaintext)) => assert_eq!(plaintext, inputs[index]),
            (index, Err(error)) => panic!("{index}: {error}"),
        }
    }
    // A batch takes no part of a refused key.
    edge.store.evict(&key_name(ACME, "payments", "db"), EvictReason::Disabled);
    let outputs = session.decrypt(&db(), envelopes.as_slice().try_into().unwrap(), packed()).await.unwrap();
    let codes: Vec<String> = outputs.iter().map(code).collect();
    assert!(codes.iter().enumerate().all(|(i, code)| code == if i == 5 { "malformed" } else { "disabled" }));
}

#[tokio::test]
async fn rotation_disable_enable_and_lease_as_an_application_sees_them() {
    let edge = TestEdge::start().await;
    let app = edge.app().await;
    let old = app.encrypt(&db(), b"before", b"").await.unwrap();

    let mut rotated = entry(ACME, "payments", "db");
    (rotated.current, rotated.revision) = (2, 2);
    rotated.versions = vec![version(2, Usable::EncryptDecrypt)];
    edge.store.patch(rotated).unwrap();
    let new = app.encrypt(&db(), b"after", b"").await.unwrap();
    assert_eq!((old[27], new[27]), (1, 2), "the header names the version");
    assert_eq!(app.decrypt(&db(), old.clone(), b"").await.unwrap(), b"before");

    for (reason, expected, says) in [
        (EvictReason::RootUnavailable, "evicted", "its root key cannot be used"),
        (EvictReason::TenantSuspended, "evicted", "its tenant is suspended"),
        (EvictReason::Deleted, "evicted", "it was deleted"),
        (EvictReason::Destroyed { on: "2026-11-21".into() }, "destroyed", "2026-11-21"),
        (EvictReason::Disabled, "disabled", "spec.state: Disabled"),
    ] {
        edge.store.evict(&key_name(ACME, "payments", "db"), reason);
        let error = app.decrypt(&db(), old.clone(), b"").await.unwrap_err();
        assert_eq!((error.code.as_str(), error.retryable), (expected, false));
        assert!(error.message.contains(says), "{error}");
    }

    let mut enabled = entry(ACME, "payments", "db");
    (enabled.current, enabled.revision) = (2, 3);
    let destroyed = Material::Absent(Gone::Destroyed { on: "2026-11-21".into() });
    enabled.versions =
        vec![KeyVersion { version: 1, material: destroyed }, version(2, Usable::EncryptDecrypt)];
    edge.store.put(enabled).unwrap();
    assert_eq!(app.decrypt(&db(), new.clone(), b"").await.unwrap(), b"after");
    let error = app.decrypt(&db(), old, b"").await.unwrap_err();
    assert_eq!(error.code, "destroyed");
    assert!(error.message.contains("2026-11-21"), "{error}");

    edge.store.end_lease();
    let error = app.decrypt(&db(), new.clone(), b"").await.unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable), ("lease-lost", true));
    edge.store.renew_lease(edge.store.now().saturating_add(Duration::from_secs(5)));
    app.decrypt(&db(), new, b"").await.unwrap();
}

#[tokio::test]
async fn who_is_refused_and_how() {
    let edge = TestEdge::start().await;
    let mut shared = entry(ACME, "payments", "shared");
    shared.clients = vec![client(OIDC, "spiffe://x/app"), client(KCP, "system:serviceaccount:web:front")];
    edge.store.put(shared).unwrap();
    edge.store.put(entry(OTHER, "payments", "secret")).unwrap();
    edge.store.put(entry(OTHER, "payments", "db")).unwrap();
    let key = |name: &str| Key::new("tenant-root-acme", name);
    let token = |subject: &str| {
        edge.oidc.sign(&json!({ "iss": OIDC, "aud": "openkcm-edge", "exp": now() + 60, "sub": subject }))
    };
    let stranger = TestIssuer::new("https://evil.example", "evil");
    let cases = [
        ("own namespace", edge.kcp.service_account(ACME, "payments", "app"), "payments/db", "ok"),
        ("other namespace", edge.kcp.service_account(ACME, "web", "app"), "payments/db", "not-allowed"),
        (
            "client of the same workspace",
            edge.kcp.service_account(ACME, "web", "front"),
            "payments/shared",
            "ok",
        ),
        // The same issuer and subject in another workspace are somebody else.
        (
            "namesake in another workspace",
            edge.kcp.service_account(OTHER, "web", "front"),
            "payments/shared",
            "unknown-key",
        ),
        (
            "key of another workspace",
            edge.kcp.service_account(ACME, "payments", "app"),
            "payments/secret",
            "unknown-key",
        ),
        (
            "key that nobody has",
            edge.kcp.service_account(ACME, "payments", "app"),
            "payments/nothing",
            "unknown-key",
        ),
        ("outside client", token("spiffe://x/app"), "payments/shared", "ok"),
        ("outside client, key not shared", token("spiffe://x/app"), "payments/db", "unknown-key"),
        ("outside stranger", token("spiffe://x/other"), "payments/shared", "unknown-key"),
        (
            "untrusted issuer",
            stranger.service_account(ACME, "payments", "app"),
            "payments/db",
            "unauthenticated",
        ),
        ("no token", "x".into(), "payments/db", "unauthenticated"),
    ];
    for (case, token, name, expected) in cases {
        let result = edge.client(&token).await.encrypt(&key(name), b"", b"").await;
        assert_eq!(result.err().map_or("ok".into(), |error| error.code), expected, "{case}");
    }
    // Another tenant's key and one that does not exist read exactly alike, evicted or not.
    let app = edge.app().await;
    let mut texts = Vec::new();
    for name in ["payments/secret", "payments/absent"] {
        let error = app.encrypt(&Key::new(OTHER, name), b"", b"").await.unwrap_err();
        texts.push(error.to_string().replace(name, "KEY"));
    }
    edge.store.evict(&key_name(OTHER, "payments", "secret"), EvictReason::Disabled);
    let error = app.encrypt(&Key::new(OTHER, "payments/secret"), b"", b"").await.unwrap_err();
    texts.push(error.to_string().replace("payments/secret", "KEY"));
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
    // One's own workspace is meant, whatever the tenant is called: never the namesake's key.
    let mine = app.encrypt(&key("payments/db"), b"mine", b"").await.unwrap();
    let theirs = edge.client(&edge.kcp.service_account(OTHER, "payments", "app")).await;
    assert_eq!(code(theirs.decrypt(&key("payments/db"), mine, b"").await), "other-key");
}

#[tokio::test]
async fn a_call_without_authorization_is_refused_before_its_body_is_read() {
    let edge = TestEdge::start().await;
    let nobody = EdgeClient::connect(Address::Unix(edge.socket.clone()), Token::None).await.unwrap();
    assert_eq!(code(nobody.encrypt(&db(), b"", b"").await), "unauthenticated");
    assert_eq!(code(nobody.batches().await), "unauthenticated");
    let metrics = edge.metrics.encode().unwrap();
    assert!(metrics.contains(r#"operation="authenticate",code="unauthenticated"} 2"#), "{metrics}");
    assert!(!metrics.contains("payments"), "{metrics}");
}

#[tokio::test]
async fn the_command_line_reads_and_writes_bytes() {
    let edge = TestEdge::start().await;
    let (tenant, key) = (["--tenant", "tenant-root-acme"], ["--key", "payments/db"]);
    let with = |command: &str, more: &[&str]| {
        let arguments = [&[command][..], &tenant, &key, more].concat();
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = async |command: Vec<String>, input: Vec<u8>| {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        edge.cli(&command, &input).await
    };
    for size in [0, 300, (1 << 20) + 1, 20_000_000] {
        let plaintext: Vec<u8> = (0..size).map(|i| (i * 31 % 256) as u8).collect();
        let encrypted = run(with("encrypt", &["--aad", "a"]), plaintext.clone()).await;
        assert_eq!(encrypted.status.code(), Some(0), "{}", String::from_utf8_lossy(&encrypted.stderr));
        let decrypted = run(with("decrypt", &["--aad", "a"]), encrypted.stdout.clone()).await;
        assert_eq!(decrypted.status.code(), Some(0), "{}", String::from_utf8_lossy(&decrypted.stderr));
        assert!(decrypted.stdout == plaintext, "{size}");
        // Cut off: fails, and says so.
        let cut =
            run(with("decrypt", &["--aad", "a"]), encrypted.stdout[..encrypted.stdout.len() - 1].to_vec())
                .await;
        assert_eq!(cut.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&cut.stderr).starts_with("openkcm-edge: tampered: "), "{size}");
    }
    let described = run(with("describe", &[]), Vec::new()).await;
    assert!(String::from_utf8_lossy(&described.stdout).contains(r#""currentVersion": "v1""#));
    let made = run(with("data-key", &[]), Vec::new()).await;
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let opened = run(with("data-key", &["--open"]), made["wrapped"].as_str().unwrap().into()).await;
    let opened: serde_json::Value = serde_json::from_slice(&opened.stdout).unwrap();
    assert_eq!(opened["dataKey"], made["dataKey"]);

    edge.store.evict_tenant(&cluster(ACME), &EvictReason::Disabled);
    let refused = run(with("encrypt", &[]), b"x".to_vec()).await;
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert_eq!(
        String::from_utf8(refused.stderr).unwrap(),
        "openkcm-edge: disabled: key payments/db of tenant tenant-root-acme is disabled (spec.state: Disabled)\n"
    );
    let usage = edge.cli(&["encrypt", "--nonsense"], b"").await;
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn an_eviction_ends_a_stream_at_its_next_chunk() {
    let edge = TestEdge::start().await;
    let app = edge.app().await;
    let (mut writer, reader) = tokio::io::duplex(1 << 16);
    let (sink, mut output) = tokio::io::duplex(1 << 22);
    let stream = tokio::spawn(async move { app.encrypt_stream(&db(), b"", reader, sink).await });
    let chunk = vec![1; 600 << 10];
    tokio::io::AsyncWriteExt::write_all(&mut writer, &chunk).await.unwrap();
    let mut first = [0; 84];
    tokio::io::AsyncReadExt::read_exact(&mut output, &mut first).await.unwrap();
    edge.store.evict(&key_name(ACME, "payments", "db"), EvictReason::RootUnavailable);
    let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, &chunk).await;
    drop(writer);
    assert_eq!(code(stream.await.unwrap()), "evicted");
}

#[tokio::test]
async fn the_socket_is_private_and_gone_at_the_end() {
    let edge = TestEdge::start().await;
    let mode = std::fs::metadata(&edge.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = openkcm_edge::service::Listeners::default().bind_unix(&edge.socket, 0o600);
    assert!(again.is_err(), "a living edge's socket is not taken over");
    let socket = edge.socket.clone();
    let directory = edge.stop().await;
    assert!(!socket.exists());
    // A directory in which others could plant a socket is refused.
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(openkcm_edge::service::Listeners::default().bind_unix(&open.join("edge.sock"), 0o600).is_err());
}
