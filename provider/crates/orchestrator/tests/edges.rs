//! Orchestrator and edges over real TLS: joining, putting, taking back, restarts.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use common::{Edge, Provider, any, config, eventually, key, link::Link, serve, serve_as};
use openkcm_edge::agent::AgentError;
use openkcm_orchestrator::{
    Config, Desired, EvictReason, Orchestrator, SystemClock, Tenants, TokenRequest, Told, list_edges,
    revoke_edge,
};

const LEASE: Duration = Duration::from_secs(5);

fn evicted() -> Desired {
    Desired::Evicted { reason: EvictReason::Disabled }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_comes_rotates_and_goes() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    provider.orchestrator.ready();
    let k = key("db");

    provider.orchestrator.set(k.clone(), serve(1));
    eventually("v1 is at the edge", || edge.holds(&k) == Some(1)).await;
    eventually("and acknowledged", || provider.orchestrator.distribution(&k).current == 1).await;
    assert_eq!(provider.orchestrator.told(&k), Some(Told::Serve(1)));

    provider.orchestrator.set(k.clone(), serve(2));
    eventually("v2 is acknowledged", || provider.orchestrator.distribution(&k).is_current()).await;
    assert_eq!(edge.holds(&k), Some(2));

    provider.orchestrator.set(k.clone(), evicted());
    eventually("evicted", || provider.orchestrator.distribution(&k).is_evicted()).await;
    assert_eq!(edge.holds(&k), None);
    assert_eq!(edge.store.stats().live, 0);
    let said = provider.orchestrator.distribution(&k).describe_eviction();
    assert!(said.starts_with("evicted on 1/1 edges in ") && said.ends_with(" ms"), "{said}");

    provider.orchestrator.set(k.clone(), serve(2));
    eventually("back as it was", || edge.holds(&k) == Some(2)).await;

    provider.orchestrator.set(k.clone(), Desired::Gone);
    eventually("forgotten", || edge.revision(&k).is_none()).await;
    eventually("by both", || provider.orchestrator.distribution(&k).total == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_name_the_key_whose_eviction_is_complete() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    provider.orchestrator.ready();
    let k = key("db");
    let mut changes = provider.orchestrator.changes();
    provider.orchestrator.set(k.clone(), serve(1));
    eventually("v1 is at the edge", || edge.holds(&k) == Some(1)).await;
    provider.orchestrator.set(k.clone(), evicted());
    loop {
        let told = tokio::time::timeout(common::PATIENCE, changes.next()).await.unwrap();
        assert_eq!(told, k);
        if provider.orchestrator.distribution(&k).is_evicted() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_works_once_in_time_for_its_name_and_only_if_real() {
    let data = tempfile::tempdir().unwrap();
    let provider = Provider::start(data.path(), LEASE).await;
    let refused = async |token: &str, name: &str| {
        let home = tempfile::tempdir().unwrap();
        let edge = Edge::start(&provider, home.path(), name, Some(token));
        let error = tokio::time::timeout(common::PATIENCE, edge.agent).await.unwrap().unwrap();
        assert!(!home.path().join("identity/edge.pem").exists());
        error
    };

    let bound = provider.token(&TokenRequest { name: Some("edge-1".into()), ..any() });
    assert!(matches!(refused(&bound, "edge-2").await, AgentError::TokenRefused));
    let home = tempfile::tempdir().unwrap();
    let mut edge = Edge::start(&provider, home.path(), "edge-1", Some(&bound));
    edge.connected().await; // A refusal has not spent it.
    assert!(matches!(refused(&bound, "edge-1").await, AgentError::TokenRefused));

    let expired = provider.token(&TokenRequest { ttl: Duration::ZERO, ..any() });
    assert!(matches!(refused(&expired, "edge-2").await, AgentError::TokenRefused));

    let mut forged: openkcm_edge_protocol::JoinToken = provider.token(&any()).parse().unwrap();
    forged.secret[0] ^= 1;
    assert!(matches!(refused(&forged.to_text(), "edge-2").await, AgentError::TokenRefused));

    let records = list_edges(data.path()).unwrap();
    assert_eq!(records.iter().map(|edge| edge.name.as_str()).collect::<Vec<_>>(), ["edge-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_shown_to_nobody_but_the_authority_it_names() {
    let (data, other, home) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let real = Provider::start(data.path(), LEASE).await;
    let impostor = Provider::start(other.path(), LEASE).await;
    // The impostor even has the token's file: it would accept it.
    let token = real.token(&any());
    let name = std::fs::read_dir(data.path().join("orchestrator/tokens"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let (from, to) = (data.path().join("orchestrator/tokens"), other.path().join("orchestrator/tokens"));
    std::fs::copy(from.join(&name), to.join(&name)).unwrap();

    let mut edge = Edge::start(&impostor, home.path(), "edge-1", Some(&token));
    let trouble = edge.status.wait_for(|status| status.trouble.is_some());
    tokio::time::timeout(common::PATIENCE, trouble).await.unwrap().unwrap();
    assert!(to.join(&name).exists(), "the token was given away");
    assert!(list_edges(other.path()).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_gets_the_keys_of_its_tenants_whatever_it_asks_for() {
    let data = tempfile::tempdir().unwrap();
    let homes: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    let acme =
        provider.token(&TokenRequest { tenants: Tenants::Only(vec!["tenant-root-acme".into()]), ..any() });
    let mut asking = config(&provider, homes[0].path(), "acme", Some(&acme));
    asking.tenants = vec!["tenant-root-demo".into(), "tenant-root-acme".into()];
    let mut acme = Edge::with(asking);
    let mut narrow = config(&provider, homes[1].path(), "narrow", Some(&provider.token(&any())));
    narrow.tenants = vec!["tenant-root-demo".into()];
    let mut narrow = Edge::with(narrow);
    for edge in [&mut acme, &mut narrow] {
        edge.connected().await;
    }

    provider.orchestrator.set(key("a"), serve_as("tenant-root-acme", &[], 1));
    provider.orchestrator.set(key("b"), serve_as("tenant-root-demo", &[], 1));
    eventually("acme has its own", || acme.holds(&key("a")).is_some()).await;
    eventually("the other what it asked for", || narrow.holds(&key("b")).is_some()).await;
    for name in ["a", "b"] {
        eventually("each is counted", || provider.orchestrator.distribution(&key(name)).is_current()).await;
        assert_eq!(provider.orchestrator.distribution(&key(name)).total, 1);
    }
    assert_eq!((acme.revision(&key("b")), narrow.revision(&key("a"))), (None, None));
    // A key that moves to another tenant leaves the edge.
    provider.orchestrator.set(key("a"), serve_as("tenant-root-demo", &[], 2));
    eventually("acme has lost it", || acme.revision(&key("a")).is_none()).await;
    eventually("the other has it", || narrow.holds(&key("a")).is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_only_where_its_regions_are_and_moves_at_once() {
    let data = tempfile::tempdir().unwrap();
    let homes: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    let token =
        |region: Option<&str>| provider.token(&TokenRequest { region: region.map(str::to_owned), ..any() });
    let start =
        |home: usize, name: &str, token: &str| Edge::start(&provider, homes[home].path(), name, Some(token));
    let mut north = start(0, "north", &token(Some("eu-north-1")));
    let mut south = start(1, "south", &token(Some("eu-south-1")));
    let mut nowhere = start(2, "nowhere", &token(None));
    for edge in [&mut north, &mut south, &mut nowhere] {
        edge.connected().await;
    }
    provider.orchestrator.set(key("n"), serve_as("tenant-root-demo", &["eu-north-1"], 1));
    provider.orchestrator.set(key("ns"), serve_as("tenant-root-demo", &["eu-north-1", "eu-south-1"], 1));
    provider.orchestrator.set(key("any"), serve_as("tenant-root-demo", &[], 1));
    let has = |edge: &Edge| ["n", "ns", "any"].map(|name| edge.holds(&key(name)).is_some());
    let settled = async || {
        for name in ["n", "ns", "any"] {
            eventually(name, || {
                let distribution = provider.orchestrator.distribution(&key(name));
                distribution.is_current() && distribution.total > 0
            })
            .await;
        }
        ["n", "ns", "any"].map(|name| provider.orchestrator.distribution(&key(name)).total)
    };
    assert_eq!(settled().await, [1, 2, 3], "only edges that may have a key are counted");
    assert_eq!(
        [has(&north), has(&south), has(&nowhere)],
        [[true, true, true], [false, true, true], [false, false, true]]
    );

    // Other regions, with nothing else in hand.
    provider.orchestrator.place(&key("ns"), vec!["eu-south-1".into()]);
    provider.orchestrator.place(&key("any"), vec!["eu-north-1".into()]);
    provider.orchestrator.place(&key("n"), Vec::new());
    assert_eq!(settled().await, [3, 1, 1]);
    assert_eq!(
        [has(&north), has(&south), has(&nowhere)],
        [[true, false, true], [true, true, false], [true, false, false]]
    );
    // What it may not have it has never heard of.
    assert_eq!(nowhere.revision(&key("any")), None);

    // An edge that believes to be elsewhere than its certificate says is told so.
    let mut wrong = config(&provider, homes[3].path(), "wrong", Some(&token(Some("eu-north-1"))));
    wrong.region = Some("eu-south-1".into());
    let mut wrong = Edge::with(wrong);
    let told = wrong
        .status
        .wait_for(|status| status.trouble.as_deref().is_some_and(|trouble| trouble.contains("--region")));
    tokio::time::timeout(common::PATIENCE, told).await.unwrap().unwrap();
    assert_eq!(has(&wrong), [false; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_gets_no_more_leases_and_no_stream() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), Duration::from_secs(1)).await;
    provider.orchestrator.ready();
    let k = key("db");
    provider.orchestrator.set(k.clone(), serve(1));
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    eventually("v1 is at the edge", || edge.holds(&k) == Some(1)).await;
    let id = list_edges(data.path()).unwrap()[0].id;
    assert!(revoke_edge(data.path(), id).unwrap());
    eventually("it has lost its lease", || edge.holds(&k).is_none()).await;
    eventually("and is told why", || {
        edge.status.borrow().trouble.as_deref().is_some_and(|trouble| trouble.contains("revoked"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_certificate_replaces_the_stream_and_cannot_have_another_name() {
    let (data, home, thief) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    let token =
        provider.token(&TokenRequest { tenants: Tenants::Only(vec!["tenant-root-acme".into()]), ..any() });
    let mut edge = Edge::start(&provider, home.path(), "edge-1", Some(&token));
    edge.connected().await;
    let home = edge.stop().await;
    std::fs::create_dir(thief.path().join("identity")).unwrap();
    std::fs::copy(home.join("identity/edge.pem"), thief.path().join("identity/edge.pem")).unwrap();

    let mut stolen = Edge::start(&provider, thief.path(), "edge-of-all-tenants", None);
    stolen.connected().await;
    let edges = provider.orchestrator.edges();
    assert_eq!(edges.iter().map(|edge| edge.name.as_str()).collect::<Vec<_>>(), ["edge-1"]);
    provider.orchestrator.set(key("b"), serve(1));
    provider.orchestrator.set(key("a"), serve_as("tenant-root-acme", &[], 1));
    eventually("its own tenant's key", || stolen.holds(&key("a")).is_some()).await;
    assert_eq!(stolen.revision(&key("b")), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_edge_keeps_its_keys_and_is_sent_only_what_changed() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    provider.orchestrator.ready();
    for name in ["same", "newer", "disabled", "deleted"] {
        provider.orchestrator.set(key(name), serve(1));
        eventually("v1 is at the edge", || edge.holds(&key(name)) == Some(1)).await;
    }
    let revision = edge.revision(&key("same")).unwrap();
    let address = provider.stop().await;
    assert_eq!(edge.holds(&key("same")), Some(1), "a dead orchestrator takes nothing away at once");

    let provider = Provider::start_at(data.path(), LEASE, &address).await;
    let settling = provider.orchestrator.distribution(&key("disabled")).settling;
    assert!(settling.is_some(), "the edge of before may still use its keys");
    provider.orchestrator.set(key("same"), serve(1));
    provider.orchestrator.set(key("newer"), serve(2));
    provider.orchestrator.set(key("disabled"), evicted());
    eventually("what changed has changed", || {
        edge.holds(&key("newer")) == Some(2) && edge.holds(&key("disabled")).is_none()
    })
    .await;
    assert_eq!(edge.holds(&key("same")), Some(1));
    assert_eq!(edge.revision(&key("same")), Some(revision), "confirmed, not sent again");
    assert_eq!(edge.holds(&key("deleted")), Some(1), "nobody has spoken of it yet");
    eventually("settled", || provider.orchestrator.distribution(&key("disabled")).is_evicted()).await;
    provider.orchestrator.ready();
    eventually("gone now", || edge.revision(&key("deleted")).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cut_nothing_is_sent_again_that_the_edge_has() {
    const KEYS: u64 = 500;
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let link = Link::listen().await.unwrap();
    let provider = Provider::start_behind(data.path(), LEASE, &link).await;
    let names: Vec<_> = (0..KEYS).map(|n| key(&format!("key-{n}"))).collect();
    for name in &names {
        provider.orchestrator.set(name.clone(), serve(1));
    }
    provider.orchestrator.ready();
    let mut edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    let all_current = || names.iter().all(|name| provider.orchestrator.distribution(name).is_current());
    eventually("all keys are at the edge", || edge.store.stats().live == KEYS && all_current()).await;
    let first = edge.status.borrow().orders;
    assert!(first >= KEYS, "{first} orders for {KEYS} keys");

    link.cut();
    let cut = edge.status.wait_for(|status| status.connected_to.is_none());
    tokio::time::timeout(common::PATIENCE, cut).await.unwrap().unwrap();
    provider.orchestrator.set(names[7].clone(), serve(2));
    edge.connected().await;
    eventually("what changed is there", || edge.holds(&names[7]) == Some(2) && all_current()).await;
    // A welcome, one confirmation of all, the end of them, the key that changed, a few leases.
    let second = edge.status.borrow().orders - first;
    assert!(second < 20, "{second} orders after the cut");
    assert_eq!(edge.store.stats().live, KEYS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_orchestrator_the_lease_ends_and_with_it_again_all_recovers() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), Duration::from_secs(1)).await;
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    eventually("v1 is at the edge", || edge.holds(&key("db")) == Some(1)).await;
    let address = provider.stop().await;
    eventually("the lease has ended", || edge.holds(&key("db")).is_none()).await;
    let provider = Provider::start_at(data.path(), Duration::from_secs(1), &address).await;
    provider.orchestrator.set(key("db"), serve(1));
    provider.orchestrator.ready();
    eventually("back under a new lease", || edge.holds(&key("db")) == Some(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_restarts_needs_no_token_and_gets_its_keys_again() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    let edge = Edge::start(&provider, home.path(), "edge-1", Some(&provider.token(&any())));
    eventually("v1 is at the edge", || edge.holds(&key("db")) == Some(1)).await;
    let id = edge.status.borrow().edge_id.clone();
    edge.stop().await;
    let edge = Edge::start(&provider, home.path(), "edge-1", None);
    eventually("v1 is at the edge again", || edge.holds(&key("db")) == Some(1)).await;
    assert_eq!(edge.status.borrow().edge_id, id);
    assert_eq!(provider.orchestrator.edges().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_finds_another_orchestrator_within_its_lease() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Provider::start(data.path(), LEASE).await;
    let second = Provider::start(data.path(), LEASE).await;
    for provider in [&first, &second] {
        provider.orchestrator.set(key("db"), serve(1));
        provider.orchestrator.ready();
    }
    let token = first.token(&any());
    let mut config = config(&first, home.path(), "edge-1", Some(&token));
    config.orchestrators.push(second.url.clone());
    let mut edge = Edge::with(config);
    edge.connected().await;
    eventually("v1 is at the edge", || edge.holds(&key("db")) == Some(1)).await;
    let (dead, alive) = match edge.status.borrow().connected_to.clone() {
        Some(url) if url == first.url => (first, second),
        _ => (second, first),
    };
    dead.stop().await;
    let alive = alive.url.clone();
    let moved = edge.status.wait_for(|status| status.connected_to.as_deref() == Some(alive.as_str()));
    tokio::time::timeout(common::PATIENCE, moved).await.unwrap().unwrap();
    assert_eq!(edge.holds(&key("db")), Some(1));
}

#[tokio::test]
async fn a_lease_is_one_to_sixty_seconds() {
    for (millis, allowed) in [(999, false), (1_000, true), (5_000, true), (60_000, true), (60_001, false)] {
        let data = tempfile::tempdir().unwrap();
        let config = Config {
            address: "127.0.0.1:0".parse().unwrap(),
            urls: Vec::new(),
            data_dir: data.path().to_owned(),
            lease: Duration::from_millis(millis),
            replicated: false,
        };
        let started = Orchestrator::start(config, Arc::new(SystemClock)).await.map(drop);
        assert_eq!(started.is_ok(), allowed, "{millis} ms");
    }
}

#[test]
fn the_authority_s_key_and_the_tokens_are_for_nobody_else_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().unwrap();
    let token = openkcm_orchestrator::create_join_token(data.path(), &any()).unwrap();
    let mode = |path: &str| std::fs::metadata(data.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("orchestrator"), 0o700);
    assert_eq!(mode("orchestrator/authority.key.pem"), 0o600);
    let parsed: openkcm_edge_protocol::JoinToken = token.parse().unwrap();
    let file = data.path().join("orchestrator/tokens").join(uuid::Uuid::from_bytes(parsed.id).to_string());
    let text = std::fs::read_to_string(file).unwrap();
    assert!(!text.contains(&base64::prelude::BASE64_STANDARD.encode(parsed.secret)), "only a hash is kept");
}
