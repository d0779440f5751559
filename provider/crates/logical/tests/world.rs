//! The world against an API server that misbehaves in one way per scenario.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;
mod mock;

use std::time::Duration;

use harness::{Stage, TIMING, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use mock::Mode;
use openkcm_logical::{Lookup, Presence, State, Timing};

const MAPS: &str = "configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_read_to_the_end_and_events_follow() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        (0..10).for_each(|n| mock.map("a", &format!("ws{n}"), "m", "1"));
    })
    .await;
    stage.synced().await;
    assert_eq!(stage.maps.len(), 10, "three pages and a bit");
    stage.mock.map("a", "ws3", "m", "2");
    stage.mock.map("a", "new", "m", "1");
    stage.mock.delete("a", MAPS, "ws4", "ns", "m");
    eventually("the last event", || stage.maps.get(&"ws4".parse().unwrap(), Some("ns"), "m").is_none()).await;
    assert_eq!(
        (stage.value("ws3", "m").as_deref(), stage.value("new", "m").as_deref()),
        (Some("2"), Some("1"))
    );
    assert_eq!(stage.changes_of("ws4"), ["applied m", "gone m"]);
    let map = stage.maps.get(&"new".parse().unwrap(), Some("ns"), "m").unwrap();
    assert!(
        map.metadata.managed_fields.is_none() && map.metadata.annotations.is_none(),
        "trimmed before it is stored"
    );
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_watches_is_kinds_times_endpoints() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a", "b"]);
        (0..200).for_each(|n| mock.map(if n % 2 == 0 { "a" } else { "b" }, &format!("ws{n}"), "m", "1"));
    })
    .await;
    stage.synced().await;
    eventually("all watches", || stage.world.metrics().open_watches == 4).await;
    (200..300).for_each(|n| stage.mock.map("a", &format!("ws{n}"), "m", "1"));
    eventually("all workspaces", || stage.maps.clusters().len() == 300).await;
    let metrics = stage.world.metrics();
    assert_eq!((metrics.endpoints, metrics.objects), (2, 300));
    assert!(metrics.open_watches <= 4, "{metrics:?}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_version_is_followed_by_a_list_that_tells_only_differences() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        ["kept", "changed", "deleted"].iter().for_each(|ws| mock.map("a", ws, "m", "1"));
    })
    .await;
    stage.synced().await;
    stage.mock.map("a", "marker", "m", "1");
    stage.mock.mode("a", MAPS, Mode::Dead); // nobody watches while it happens
    stage.mock.delete_unseen("a", MAPS, "deleted", "ns", "m");
    stage.mock.map("a", "changed", "m", "2");
    stage.mock.compact("a", MAPS);
    stage.mock.mode("a", MAPS, Mode::Normal);
    eventually("the deletion", || stage.changes_of("deleted") == ["applied m", "gone m"]).await;
    assert_eq!(stage.value("changed", "m").as_deref(), Some("2"));
    assert_eq!(stage.changes_of("kept"), ["applied m"]);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_pages_expire_begins_again() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        (0..9).for_each(|n| mock.map("a", &format!("ws{n}"), "m", "1"));
        mock.expire_page("a", MAPS, 3);
    })
    .await;
    stage.synced().await;
    assert_eq!(stage.maps.len(), 9);
    assert!(stage.mock.counts("a", MAPS).0 >= 2);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_watch_goes_on_where_it_was() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        mock.map("a", "ws", "m", "0");
    })
    .await;
    stage.synced().await;
    for n in 1..=5 {
        eventually("the next watch", || stage.mock.counts("a", MAPS).1 >= n).await;
        stage.mock.map("a", "ws", "m", n.to_string());
        stage.mock.break_watches("a", MAPS);
        stage.mock.map("a", "ws", &format!("other{n}"), "1");
    }
    eventually("everything", || stage.maps.len() == 6).await;
    eventually("the last value", || stage.value("ws", "m").as_deref() == Some("5")).await;
    assert_eq!(stage.mock.counts("a", MAPS).0, 1, "without another list");
    assert!(stage.world.metrics().restarts >= 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_broke_is_in_sync_again_soon_also_where_nothing_happens() {
    let ws = "ws".parse().unwrap();
    // Longer than anything is waited for here.
    let (watch, silence) = (Duration::from_secs(60), Duration::from_secs(90));
    let stage = Stage::with(Timing { watch, silence, ..TIMING }, |mock| {
        mock.slice(&["a"]);
        mock.map("a", "ws", "m", "1");
    })
    .await;
    stage.synced().await;
    eventually("all watches", || stage.world.metrics().open_watches == 2).await;
    stage.mock.break_watches("a", MAPS);
    eventually("the break", || stage.world.metrics().restarts == 1).await;
    eventually("a fresh view", || !stage.maps.is_stale(&ws)).await;
    assert_eq!(stage.mock.counts("a", MAPS).0, 1, "without another list");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_watch_is_cut_and_shows_in_the_health() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        mock.mode("a", MAPS, Mode::Silent);
    })
    .await;
    stage.synced().await;
    eventually("a second watch", || stage.mock.counts("a", MAPS).1 >= 2).await;
    let health = stage.world.health();
    let stalled: Vec<_> = health.stalled(harness::TIMING.silence).collect();
    assert!(
        stalled.iter().any(|w| w.kind.name() == "ConfigMap")
            && stalled.iter().all(|w| w.kind.name() != "Secret"),
        "{health:?}"
    );
    assert!(stage.maps.is_stale(&"ws".parse().unwrap()) || stage.world.metrics().restarts > 0);
    stage.mock.map("a", "ws", "m", "1");
    stage.mock.mode("a", MAPS, Mode::Normal);
    eventually("the object", || stage.value("ws", "m").is_some()).await;
    eventually("health", || stage.state("a", "ConfigMap") == Some(State::Live)).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_object_hurts_only_itself() {
    let ws = "ws".parse().unwrap();
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        mock.map("a", "ws", "before", "1");
        mock.map("a", "ws", "broken", serde_json::json!({"not": "a string"}));
        mock.map("a", "ws", "zlater", "1");
    })
    .await;
    stage.synced().await;
    assert_eq!(stage.maps.list(&ws).len(), 2);
    assert!(matches!(stage.maps.look(&ws, Some("ns"), "broken"), Lookup::Undecodable(_)));
    assert!(matches!(stage.maps.look(&ws, Some("ns"), "never"), Lookup::Absent));
    assert_eq!(stage.world.metrics().undecodable, 1);
    // Good ones become bad and good again, in events and in lists, and none of it is a deletion.
    stage.mock.map("a", "ws", "before", 7);
    eventually("the damage", || stage.maps.undecodable(&ws).len() == 2).await;
    stage.mock.map("a", "ws", "broken", "healed");
    eventually("the repair", || stage.value("ws", "broken").as_deref() == Some("healed")).await;
    stage.mock.compact("a", MAPS);
    stage.mock.map("a", "ws", "marker", "1");
    eventually("the list", || stage.value("ws", "marker").is_some()).await;
    assert!(matches!(stage.maps.look(&ws, Some("ns"), "before"), Lookup::Undecodable(_)));
    assert_eq!(stage.changes_of("ws").iter().filter(|c| c.starts_with("gone")).count(), 0);
    stage.mock.delete("a", MAPS, "ws", "ns", "before");
    eventually("the deletion", || stage.changes_of("ws").contains(&"gone before".to_owned())).await;
    assert_eq!(stage.world.metrics().undecodable, 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_endpoint_leaves_unknown_workspaces_and_deletes_nothing() {
    let (kept, lost) = ("kept".parse().unwrap(), "lost".parse().unwrap());
    let stage = Stage::new(|mock| {
        mock.slice(&["a", "b"]);
        mock.map("a", "elsewhere", "m", "1");
        ["kept", "lost"].iter().for_each(|ws| mock.map("b", ws, "m", "1"));
    })
    .await;
    stage.synced().await;
    assert_eq!(stage.world.presence(&kept), Presence::At(stage.endpoint("b")));
    assert!(!stage.maps.is_stale(&kept));

    stage.mock.slice(&["a"]);
    stage.mock.mode("b", MAPS, Mode::NotFound);
    eventually("the endpoint to go", || stage.world.presence(&kept) == Presence::Unknown).await;
    assert!(stage.world.client(&kept).is_none());
    assert!(
        stage.value("kept", "m").is_some() && stage.maps.is_stale(&kept),
        "the cache still answers, and says that it may be old"
    );
    stage.mock.delete_unseen("b", MAPS, "lost", "ns", "m");
    stage.mock.map("a", "elsewhere", "m", "2");
    eventually("news from the other endpoint", || stage.value("elsewhere", "m").as_deref() == Some("2"))
        .await;
    assert_eq!(
        (stage.changes_of("kept"), stage.changes_of("lost")),
        (vec!["applied m".to_owned()], vec!["applied m".to_owned()])
    );

    stage.mock.slice(&["a", "b"]);
    stage.mock.mode("b", MAPS, Mode::Normal);
    eventually("what was deleted meanwhile", || stage.changes_of("lost") == ["applied m", "gone m"]).await;
    assert_eq!(
        stage.changes_of("kept"),
        ["applied m", "applied m"],
        "told again: work may have been put aside"
    );
    eventually("a fresh view", || !stage.maps.is_stale(&kept)).await;
    assert_eq!(stage.world.presence(&kept), Presence::At(stage.endpoint("b")));
    assert_eq!(stage.world.presence(&lost), Presence::Unknown);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_found_and_lists_without_version_delete_nothing() {
    for mode in [Mode::NotFound, Mode::NoVersion] {
        let ws = "ws".parse().unwrap();
        let stage = Stage::new(|mock| {
            mock.slice(&["a"]);
            mock.map("a", "ws", "m", "1");
        })
        .await;
        stage.synced().await;
        stage.mock.mode("a", MAPS, mode);
        stage.mock.delete_unseen("a", MAPS, "ws", "ns", "m"); // its list is empty now
        stage.mock.compact("a", MAPS);
        eventually("the state", || stage.state("a", "ConfigMap") == Some(State::NotServed)).await;
        assert!(stage.value("ws", "m").is_some() && stage.maps.is_stale(&ws), "{mode:?}");
        assert_eq!(stage.changes_of("ws"), ["applied m"], "{mode:?}");
        stage.mock.mode("a", MAPS, Mode::Normal);
        eventually("the truth", || stage.changes_of("ws") == ["applied m", "gone m"]).await;
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_served_yet_is_in_sync_and_found_later() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        mock.mode("a", MAPS, Mode::NotFound);
    })
    .await;
    stage.synced().await;
    stage.mock.map("a", "ws", "m", "1");
    stage.mock.mode("a", MAPS, Mode::Normal);
    eventually("the object", || stage.value("ws", "m").is_some()).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_moves_is_never_gone() {
    let ws = "ws".parse().unwrap();
    let stage = Stage::new(|mock| {
        mock.slice(&["a", "b"]);
        mock.map("a", "ws", "m", "1");
    })
    .await;
    stage.synced().await;
    stage.mock.map("b", "ws", "m", "2");
    eventually("both", || {
        stage.world.presence(&ws) == Presence::Several(vec![stage.endpoint("b"), stage.endpoint("a")])
    })
    .await;
    assert_eq!(stage.value("ws", "m").as_deref(), Some("2"), "the last writer wins");
    stage.mock.delete("a", MAPS, "ws", "ns", "m");
    eventually("the new place only", || stage.world.presence(&ws) == Presence::At(stage.endpoint("b"))).await;
    assert_eq!(stage.changes_of("ws"), ["applied m", "applied m"]);
    stage.mock.delete("b", MAPS, "ws", "ns", "m");
    eventually("the end", || stage.changes_of("ws").last().unwrap() == "gone m").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_holds_up_no_other() {
    let stage = Stage::new(|mock| {
        mock.slice(&["dead", "b"]);
        mock.mode("dead", MAPS, Mode::Dead);
        mock.map("b", "ws", "m", "1");
    })
    .await;
    eventually("the other's objects", || stage.value("ws", "m").is_some()).await;
    eventually("the trouble to show", || matches!(stage.state("dead", "ConfigMap"), Some(State::Broken(_))))
        .await;
    assert!(!stage.world.synced());
    assert_eq!(stage.state("b", "ConfigMap"), Some(State::Live));
    stage.mock.mode("dead", MAPS, Mode::Normal);
    stage.synced().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_slice_and_an_empty_slice_are_in_sync_with_nothing() {
    let stage = Stage::new(|_| {}).await;
    stage.synced().await;
    stage.mock.slice(&[]);
    stage.mock.slice(&["a"]);
    stage.mock.map("a", "ws", "m", "1");
    eventually("the first binding", || stage.value("ws", "m").is_some()).await;
    stage.mock.delete("", "apiexportendpointslices", "root:provider", "", "openkcm.io");
    eventually("the slice to go", || stage.world.endpoints().is_empty()).await;
    assert_eq!(stage.changes_of("ws"), ["applied m"]);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_cannot_be_read_shows() {
    let stage = Stage::new(|mock| mock.mode("", "apiexportendpointslices", Mode::Dead)).await;
    eventually("the error", || stage.world.health().slice_error.is_some()).await;
    assert!(!stage.world.synced());
    stage.mock.mode("", "apiexportendpointslices", Mode::Normal);
    stage.mock.slice(&["a"]);
    stage.synced().await;
    assert_eq!(stage.world.health().slice_error, None);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_without_a_workspace_are_left_out() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        mock.map("a", "root:a:path", "m", "1");
        mock.map("a", "../other", "m", "1");
        mock.map("a", "ws", "m", "1");
    })
    .await;
    stage.synced().await;
    assert_eq!(stage.maps.clusters(), ["ws".parse().unwrap()]);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_users_code_ends_the_driver() {
    let mut stage = Stage::new(|mock| mock.slice(&["a"])).await;
    stage.synced().await;
    stage.mock.map("a", "panic", "m", "1");
    let result = stage.driver.take().unwrap().await.unwrap();
    assert!(matches!(result, Err(openkcm_logical::WorldError::Task(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_is_told_from_another() {
    let stage = Stage::new(|mock| {
        mock.slice(&["a"]);
        mock.map("a", "ws", "m", "1");
    })
    .await;
    stage.synced().await;
    let change = stage.changes.lock().unwrap()[0].clone();
    assert!(change.is::<ConfigMap>() && !change.is::<k8s_openapi::api::core::v1::Secret>());
    stage.end().await;
}
