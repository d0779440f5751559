//! Clients, events and replicas against a mock.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;
mod mock;

use std::{collections::BTreeSet, time::Duration};

use harness::{Stage, eventually};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kcp_client_rs::LogicalCluster;
use mock::{Mock, Mode};
use openkcm_logical::{
    CancellationToken, ErrorClass, EventType, Membership, MembershipOptions, Preconditions, Recorder,
};
use serde_json::json;

async fn stage() -> Stage {
    let stage = Stage::new(|mock| {
        mock.slice(&["a", "b"]);
        mock.map("a", "ws", "m", "1");
        mock.map("b", "other", "m", "other's");
    })
    .await;
    stage.synced().await;
    stage
}

fn ws() -> LogicalCluster {
    "ws".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reads_and_writes_in_its_workspace_only() {
    let stage = stage().await;
    let client = stage.world.client(&ws()).unwrap();
    let ns = Some("ns");
    let map: ConfigMap = client.get(ns, "m").await.unwrap().unwrap();
    assert_eq!(client.get::<ConfigMap>(ns, "none").await.unwrap(), None);

    let patched: ConfigMap =
        client.patch_merge(ns, "m", &json!({"data": {"value": null, "new": "2"}})).await.unwrap();
    assert_eq!(patched.data.unwrap().into_iter().collect::<Vec<_>>(), [("new".to_owned(), "2".to_owned())]);
    let old = Preconditions {
        resource_version: map.metadata.resource_version.as_deref(),
        ..Preconditions::default()
    };
    let error = client.patch_merge_if::<ConfigMap>(ns, "m", &json!({"data": null}), old).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert_eq!(error.to_string(), "could not patch ConfigMap ns/m in workspace ws");

    let mut fresh = ConfigMap::default();
    (fresh.metadata.name, fresh.metadata.namespace) = (Some("fresh".into()), Some("ns".into()));
    client.create(&fresh).await.unwrap();
    assert_eq!(client.create(&fresh).await.unwrap_err().class(), ErrorClass::AlreadyExists);
    (0..5).for_each(|n| stage.mock.map("a", "ws", &format!("n{n}"), "1"));
    assert_eq!(client.list::<ConfigMap>(None).await.unwrap().len(), 7);

    let wrong = Preconditions { uid: Some("another"), ..Preconditions::default() };
    assert_eq!(
        client.delete::<ConfigMap>(ns, "fresh", wrong).await.unwrap_err().class(),
        ErrorClass::Conflict
    );
    assert!(client.delete::<ConfigMap>(ns, "fresh", Preconditions::default()).await.unwrap());
    assert!(!client.delete::<ConfigMap>(ns, "fresh", Preconditions::default()).await.unwrap());

    let foreign: Vec<String> =
        stage.mock.writes().into_iter().filter(|w| !w.contains("/a/clusters/ws/")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_eq!(stage.value("other", "m").as_deref(), Some("other's"));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_change_the_address_are_refused_unsent() {
    let stage = stage().await;
    let client = stage.world.client(&ws()).unwrap();
    let tricks = [
        "../m",
        "..",
        ".",
        "",
        "m/../../x",
        "%2e%2e",
        "m?x=1",
        "m#",
        "x/../../../../../../clusters/other",
        "M",
        "*",
    ];
    for trick in tricks {
        for (namespace, name) in [(Some("ns"), trick), (Some(trick), "m")] {
            let error = client.patch_merge::<ConfigMap>(namespace, name, &json!({})).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Invalid, "{trick}");
            assert!(!error.class().may_pass());
            assert_eq!(
                client.get::<ConfigMap>(namespace, name).await.unwrap_err().class(),
                ErrorClass::Invalid
            );
            let gone = client.delete::<ConfigMap>(namespace, name, Preconditions::default()).await;
            assert_eq!(gone.unwrap_err().class(), ErrorClass::Invalid);
        }
    }
    assert_eq!(stage.mock.writes(), Vec::<String>::new());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_patched_beside_the_rest_and_under_conditions() {
    let stage = stage().await;
    let client = stage.world.client(&ws()).unwrap();
    let map: ConfigMap = client.get(Some("ns"), "m").await.unwrap().unwrap();
    let same = Preconditions {
        uid: map.metadata.uid.as_deref(),
        resource_version: map.metadata.resource_version.as_deref(),
    };
    client.patch_status::<ConfigMap>(Some("ns"), "m", &json!({"phase": "Ready"}), same).await.unwrap();
    let stored = stage.mock.object("a", "configmaps", "ws", "ns", "m").unwrap();
    assert_eq!((&stored["status"], &stored["data"]["value"]), (&json!({"phase": "Ready"}), &json!("1")));
    let again = client.patch_status::<ConfigMap>(Some("ns"), "m", &json!({"phase": "No"}), same).await;
    assert_eq!(again.unwrap_err().class(), ErrorClass::Conflict);
    assert!(
        stage
            .mock
            .writes()
            .last()
            .unwrap()
            .ends_with("/a/clusters/ws/api/v1/namespaces/ns/configmaps/m/status")
    );
    stage.end().await;
}

fn about(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("ConfigMap".into()),
        name: Some(name.into()),
        namespace: Some("ns".into()),
        uid: Some("u1".into()),
        ..ObjectReference::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_again_raises_its_count_also_after_a_restart() {
    let stage = stage().await;
    for life in 1..=2 {
        let stop = CancellationToken::new();
        let (recorder, driver) = Recorder::new(stage.world.clone(), "openkcm-provider");
        for _ in 0..5 {
            recorder.note(&ws(), about("m"), EventType::Warning, "RootLost", "the key cannot be used");
        }
        let driver = tokio::spawn(driver.run(stop.clone()));
        eventually("the count", || {
            let events = stage.mock.objects("a", "events");
            events.len() == 1 && events[0]["count"] == json!(5 * life)
        })
        .await;
        stop.cancel();
        driver.await.unwrap().unwrap();
    }
    let event = &stage.mock.objects("a", "events")[0];
    assert_eq!(event["metadata"]["namespace"], "ns");
    assert_eq!(
        (&event["reason"], &event["type"], &event["involvedObject"]["uid"]),
        (&json!("RootLost"), &json!("Warning"), &json!("u1"))
    );
    assert!(stage.mock.objects("b", "events").is_empty());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_events_is_bounded_and_one_workspace_does_not_use_up_anothers_share() {
    let stage = stage().await;
    let stop = CancellationToken::new();
    let (recorder, driver) = Recorder::new(stage.world.clone(), "openkcm-provider");
    for n in 0..10_000 {
        recorder.note(&ws(), about(&format!("m{n}")), EventType::Normal, "Rotated", "x".repeat(5000));
    }
    assert!(recorder.dropped() > 9_000);
    recorder.note(&"other".parse().unwrap(), about("m"), EventType::Normal, "Rotated", "fine");
    let driver = tokio::spawn(driver.run(stop.clone()));
    eventually("the other's event", || stage.mock.objects("b", "events").len() == 1).await;
    eventually("the share", || stage.mock.objects("a", "events").len() >= 64).await;
    assert!(
        stage
            .mock
            .objects("a", "events")
            .iter()
            .all(|event| event["message"].as_str().unwrap().len() == 1024)
    );
    stop.cancel();
    driver.await.unwrap().unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_may_not_be_written_are_dropped_and_counted() {
    let stage = stage().await;
    stage.mock.mode("a", "events", Mode::ReadOnly);
    let stop = CancellationToken::new();
    let (recorder, driver) = Recorder::new(stage.world.clone(), "openkcm-provider");
    recorder.note(&ws(), about("m"), EventType::Normal, "Rotated", "text");
    let driver = tokio::spawn(driver.run(stop.clone()));
    eventually("the drop", || recorder.dropped() == 1).await;
    stop.cancel();
    driver.await.unwrap().unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_workspaces_and_take_over() {
    let mock = Mock::start().await;
    let join = |replica: &str| {
        let (namespace, group) = ("default".into(), "openkcm-provider".into());
        let options =
            MembershipOptions { namespace, group, replica: replica.into(), lease: Duration::from_secs(2) };
        let (membership, stop) =
            (Membership::new(&mock.config(), options).unwrap(), CancellationToken::new());
        let (runner, token) = (membership.clone(), stop.clone());
        let task = tokio::spawn(async move { runner.run(token, || {}).await });
        (membership, stop, task)
    };
    let all: Vec<LogicalCluster> = (0..100).map(|n| format!("c{n}").parse().unwrap()).collect();
    let share = |m: &Membership| all.iter().filter(|c| m.owns(c)).cloned().collect::<BTreeSet<_>>();
    let (a, stop_a, task_a) = join("a");
    let (b, stop_b, task_b) = join("b");
    eventually("both", || a.members() == ["a", "b"] && b.members() == ["a", "b"]).await;
    eventually("a split", || share(&a).len() + share(&b).len() == 100 && share(&a).is_disjoint(&share(&b)))
        .await;
    assert!(!share(&a).is_empty() && !share(&b).is_empty());

    task_b.abort(); // dies without a word
    eventually("the takeover", || share(&a).len() == 100).await;
    let (c, stop_c, task_c) = join("c");
    eventually("the new one", || a.members() == ["a", "c"] && c.members() == ["a", "c"]).await;
    stop_c.cancel();
    task_c.await.unwrap();
    assert!(
        mock.object("", "leases", "root:provider", "default", "openkcm-provider.c").is_none(),
        "given up"
    );
    assert_eq!(share(&c).len(), 0);

    mock.mode("", "leases", Mode::Dead);
    eventually("a replica that cannot renew to stand back", || share(&a).is_empty()).await;
    mock.mode("", "leases", Mode::Normal);
    eventually("its return", || share(&a).len() == 100).await;
    stop_a.cancel();
    stop_b.cancel();
    task_a.await.unwrap();
}
