//! Stories of a service key: what happens, what is done about it, what people read.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use jiff::SignedDuration;
use openkcm_apis::{KeyState, VersionState};
use openkcm_plan::{
    Plan, TenantView,
    account::AccountView,
    key::{Effect, Eviction, HandedOut, Offer, Why},
};
use world::{
    condition,
    key::{World, lost, ready, spec},
    message,
};

const SECOND: SignedDuration = SignedDuration::from_secs(1);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

#[test]
fn a_key_is_held_made_and_served() {
    let mut world = World::new();
    world.apply(spec("root", "30 Days"));
    world.settles("hold, record, load [1], create, serve");
    world.shows("Active v1 True/AsExpected");
    let next = world.next_rotation().unwrap();
    assert!(next <= world.now + DAY * 30 && next >= world.now + DAY * 27);
    world.settles("");
}

#[test]
fn other_regions_take_effect_before_anything_that_could_wait() {
    let mut world = World::with_key("30 Days");
    world.regions = vec!["eu-1".to_owned()];
    world.settles("place");
    // A new version is due as well, and the root does not answer.
    world.loaded.clear();
    world.loadable.clear();
    world.regions = vec!["eu-2".to_owned()];
    world.pass(MINUTE);
    world.request("now");
    world.settles("place, record, load [1]");
    // Nothing is handed out: there is nothing to keep anywhere.
    world.state(KeyState::Disabled);
    world.settles("evict (disabled), record");
    world.regions.clear();
    world.settles("");
}

fn pending() -> AccountView {
    AccountView::Pending { reason: "Verifying".to_owned(), message: "wait".to_owned() }
}

#[test]
fn an_account_that_cannot_protect_a_key_is_named() {
    let leaving = || AccountView::Ready { version: 1, rotate_before: None, deleting: true };
    let table = [
        (AccountView::Missing, "AccountNotFound"),
        (AccountView::Deleting, "AccountDeleting"),
        (leaving(), "AccountDeleting"),
        (pending(), "AccountNotReady"),
        (lost(), "AccountNotReady"),
    ];
    for (account, reason) in table {
        let mut world = World::new();
        world.account = account;
        world.apply(spec("root", "Daily"));
        world.settles("hold, record");
        world.shows(&format!("Provisioning - False/{reason}"));
        // The cause goes, and no one has to help.
        world.account = ready(1);
        world.settles("load [1], create, serve");
        world.shows("Active v1 True/AsExpected");
    }
}

/// A key that is declared under an Account that is not ready.
fn waiting() -> World {
    let mut world = World::new();
    world.account = pending();
    world.apply(spec("root", "Daily"));
    world.settles("hold, record");
    world
}

#[test]
fn a_key_that_was_never_made_comes_back_after_an_unbind() {
    let mut world = waiting();
    world.tenant = TenantView::Unbinding;
    world.delete();
    world.settles("let go");
    world.restart();
    world.tenant = TenantView::Active;
    world.settles("restore");
    world.shows("Provisioning - False/AccountNotReady");
    world.account = ready(1);
    world.settles("load [1], create, serve");
    assert_eq!(world.declared, None);
}

#[test]
fn a_key_that_was_deleted_before_it_was_made_stays_away() {
    let mut world = waiting();
    world.delete();
    world.settles("forget, let go");
    world.tenant = TenantView::Unbinding;
    world.settles("");
    world.tenant = TenantView::Active;
    world.settles("");
}

#[test]
fn a_key_that_the_ledger_lost_is_still_missed_after_an_unbind() {
    let mut world = World::with_key("Never");
    world.record = None; // the ledger is an older one
    world.restart();
    world.settles("record, load [1], create");
    assert!(world.refused.is_some());
    world.tenant = TenantView::Unbinding;
    world.delete();
    world.settles("let go");
    world.restart();
    world.tenant = TenantView::Active;
    world.settles("restore, load [1], create");
    assert!(world.refused.is_some(), "a number is used again");
}

#[test]
fn a_suspended_tenant_gets_no_new_key_and_reads_why() {
    let mut world = World::new();
    world.tenant = TenantView::Suspended;
    world.apply(spec("root", "Daily"));
    world.settles("hold, record");
    world.shows("Provisioning - False/TenantSuspended");
    world.tenant = TenantView::Active;
    world.settles("load [1], create, serve");
}

#[test]
fn a_key_that_is_born_disabled_is_made_and_never_handed_out() {
    let mut world = World::new();
    let mut disabled = spec("root", "Daily");
    disabled.state = KeyState::Disabled;
    world.apply(disabled);
    world.settles("hold, record, load [1], create, evict (disabled)");
    world.shows("Disabled v1 False/Disabled");
}

#[test]
fn a_request_is_served_once_however_often_it_is_applied() {
    let mut world = World::with_key("Never");
    world.pass(MINUTE);
    world.request("a");
    world.settles("record, rotate to v2 (request), serve");
    assert_eq!(world.status().rotation_request.as_deref(), Some("a"));
    for _ in 0..3 {
        world.pass(MINUTE);
        world.request("a");
        world.settles("");
    }
    world.restart();
    world.settles("load [1], serve");
    world.edit(|spec| spec.rotation_request = None);
    world.settles("record");
    assert_eq!(world.current(), 2);
    // Any other value is a new request, also one that came before the last.
    world.request("b");
    world.settles("record, rotate to v3 (request), serve");
    world.pass(MINUTE);
    world.request("a");
    world.settles("record, rotate to v4 (request), serve");
}

#[test]
fn a_request_waits_for_what_stands_in_its_way() {
    // What stands in the way, and how it goes.
    type Change = fn(&mut World);
    let table: [(&str, Change, Change); 4] = [
        ("disabled", |w| w.state(KeyState::Disabled), |w| w.state(KeyState::Enabled)),
        ("suspended", |w| w.tenant = TenantView::Suspended, |w| w.tenant = TenantView::Active),
        ("root lost", |w| w.account = lost(), |w| w.account = ready(1)),
        ("unknown", |w| w.tenant = TenantView::Unknown, |w| w.tenant = TenantView::Active),
    ];
    for (name, before, after) in table {
        for request_first in [false, true] {
            let mut world = World::with_key("Never");
            world.pass(MINUTE);
            if request_first {
                world.request("a");
                before(&mut world);
            } else {
                before(&mut world);
                world.settle();
                world.request("a");
            }
            world.settle();
            assert_eq!(world.current(), 1, "{name}");
            after(&mut world);
            world.settle();
            assert_eq!((world.current(), world.requests.len()), (2, 1), "{name}");
            assert!(world.is_served(), "{name}");
        }
    }
}

#[test]
fn ten_thousand_requests_in_a_minute_are_a_version_a_second_and_the_last_is_served() {
    let mut world = World::with_key("Never");
    world.pass(MINUTE);
    for n in 0..10_000 {
        world.request(&format!("request {n}"));
        world.settle();
        world.pass(SignedDuration::from_millis(6));
    }
    assert!((59..=61).contains(&(world.current() - 1)), "{}", world.current());
    // It says when it will look again, and then serves the last.
    let next = world.next.unwrap_or(world.now);
    assert!(next <= world.now + SECOND);
    world.now = world.now.max(next);
    world.settle();
    assert_eq!(world.status().rotation_request.as_deref(), Some("request 9999"));
    world.pass(MINUTE);
    world.settles("");
}

#[test]
fn a_new_schedule_shows_at_once() {
    let mut world = World::with_key("30 Days");
    let (born, before) = (world.now, world.next_rotation().unwrap());
    world.pass(HOUR);
    world.edit(|spec| spec.rotation_schedule = "Daily".to_owned());
    world.settles("record");
    let next = world.next_rotation().unwrap();
    assert!(next < before && next <= born + DAY && next > born + HOUR * 21);
    assert_eq!(world.next, Some(next));
    world.edit(|spec| spec.rotation_schedule = "Never".to_owned());
    world.settles("record");
    assert_eq!((world.next_rotation(), world.next), (None, None));
    // A schedule that makes it late rotates in the same round.
    world.edit(|spec| spec.rotation_schedule = "Hourly".to_owned());
    world.settles("record, rotate to v2 (schedule), serve");
}

#[test]
fn never_is_never() {
    let mut world = World::with_key("Never");
    world.pass(DAY * 365 * 100);
    world.settles("");
    assert_eq!(world.next_rotation(), None);
    world.restart();
    world.settles("load [1], serve");
}

#[test]
fn the_schedule_is_kept_without_anybody_looking_in_between() {
    let mut world = World::with_key("Hourly");
    for version in 2..=50 {
        world.now = world.next.unwrap();
        let before = world.record.as_ref().unwrap().last_rotation;
        world.settles(&format!("rotate to v{version} (schedule), serve"));
        let gap = world.now.duration_since(before);
        assert!(gap <= HOUR && gap >= MINUTE * 54, "{gap:?}");
    }
}

#[test]
fn after_downtime_it_is_overdue_rotates_once_and_counts_from_there() {
    let mut world = World::with_key("Daily");
    world.pass(DAY * 40);
    world.restart();
    world.settles("load [1], serve");
    assert_eq!(condition(&world.status().conditions, "RotationOverdue").as_deref(), Some("True/Overdue"));
    let act = world.next.unwrap();
    assert!(act >= world.now && act <= world.now + MINUTE * 5);
    world.now = act;
    world.settles("rotate to v2 (schedule), serve");
    assert_eq!(condition(&world.status().conditions, "RotationOverdue"), None);
    assert!(world.next_rotation().unwrap() > world.now + HOUR * 21);
    world.settles("");
}

#[test]
fn a_clock_that_jumps_forward_rotates_once() {
    let mut world = World::with_key("Daily");
    world.pass(DAY * 3_650);
    world.settles("rotate to v2 (schedule), serve");
    world.pass(HOUR);
    world.settles("");
}

#[test]
fn a_clock_that_is_set_back_rotates_nothing_and_holds_up_no_request() {
    let mut world = World::with_key("Daily");
    world.pass(HOUR);
    world.request("a");
    world.settles("record, rotate to v2 (request), serve");
    world.now -= DAY * 2;
    world.settles("");
    world.request("b");
    world.settles("record, rotate to v3 (request), serve");
    // The pace holds by the clock that there is.
    world.request("c");
    world.settles("record");
    world.pass(SECOND);
    world.settles("rotate to v4 (request), serve");
    // Forward again: what is late comes once.
    world.pass(DAY * 2);
    world.settles("rotate to v5 (schedule), serve");
    world.settles("");
}

#[test]
fn disable_takes_back_before_anything_that_can_fail() {
    let mut world = World::with_key("Daily");
    let before = world.handed_out;
    world.pass(DAY * 2);
    world.state(KeyState::Disabled);
    world.edit(|spec| {
        spec.rotation_request = Some("a".to_owned());
        spec.rotation_schedule = "nonsense".to_owned();
    });
    world.account = AccountView::Missing;
    assert_eq!(
        world.plan(),
        Plan { effect: Some(Effect::Evict(Eviction::Disabled)), status: None, next: None }
    );
    // And back: what is handed out is the same as before.
    world.account = ready(1);
    world.edit(|spec| {
        spec.rotation_request = None;
        spec.rotation_schedule = "Never".to_owned();
    });
    world.settles("evict (disabled), record");
    world.shows("Disabled v1 False/Disabled");
    assert_eq!(condition(&world.status().conditions, "Evicted").as_deref(), Some("True/AsExpected"));
    assert_eq!(world.next_rotation(), None);
    world.state(KeyState::Enabled);
    world.settles("record, serve");
    world.shows("Active v1 True/AsExpected");
    assert_eq!(world.handed_out, before);
    assert_eq!(condition(&world.status().conditions, "Evicted"), None);
}

#[test]
fn evicted_is_true_only_when_no_edge_can_use_it() {
    let mut world = World::with_key("Never");
    world.cut_off = true;
    world.state(KeyState::Disabled);
    world.settles("evict (disabled), record");
    assert_eq!(condition(&world.status().conditions, "Evicted").as_deref(), Some("False/Progressing"));
    assert_eq!(world.next, Some(world.now + SECOND));
    world.pass(SECOND * 5);
    world.settles("");
    assert_eq!(condition(&world.status().conditions, "Evicted").as_deref(), Some("True/AsExpected"));
    assert_eq!(world.next, None);
}

#[test]
fn distributed_is_true_only_when_no_edge_can_use_another_state() {
    let mut world = World::with_key("Never");
    let shown = |world: &World| condition(&world.status().conditions, "Distributed");
    assert_eq!(shown(&world).as_deref(), Some("True/AsExpected"));
    for (cut_off, behind, said) in [
        (true, None, "1/2 edges have the current version."),
        (false, Some("One is away."), "2/2 edges have the current version. One is away."),
    ] {
        (world.cut_off, world.behind) = (cut_off, behind);
        world.settles("");
        assert_eq!(shown(&world).as_deref(), Some("False/Progressing"));
        assert_eq!(message(&world.status().conditions, "Distributed"), said);
    }
}

#[test]
fn a_restart_while_disabled_says_evict_again_and_never_serve() {
    let mut world = World::with_key("Daily");
    world.state(KeyState::Disabled);
    world.settle();
    world.restart();
    world.settles("evict (disabled)");
}

#[test]
fn how_long_an_eviction_took_is_not_measured_again_by_a_restart() {
    let mut world = World::with_key("Never");
    world.eviction = "evicted on 2/2 edges in 12 ms";
    world.state(KeyState::Disabled);
    world.settle();
    for after_restart in ["evicted on 2/2 edges in 0.2 ms", "evicted on 2/2"] {
        world.restart();
        world.eviction = after_restart;
        world.settles("evict (disabled)");
        assert_eq!(message(&world.status().conditions, "Evicted"), "evicted on 2/2 edges in 12 ms");
    }
    world.restart();
    world.eviction = "evicted on 3/3 edges in 5.0 ms";
    world.settle();
    assert_eq!(message(&world.status().conditions, "Evicted"), "evicted on 3/3 edges in 5.0 ms");
}

#[test]
fn delete_lets_the_object_go_when_no_edge_can_use_the_key() {
    let mut world = World::with_key("Daily");
    world.cut_off = true;
    world.delete();
    world.settles("evict (deleted), delete");
    world.shows("PendingDeletion v1 False/PendingDeletion");
    assert!(world.object.is_some() && world.next.is_some());
    world.pass(SECOND * 5);
    world.settles("let go");
    assert!(world.object.is_none());
    assert!(world.record.as_ref().unwrap().delete_after.is_some(), "the versions are kept");
    world.settles("");
}

#[test]
fn a_key_that_was_never_made_goes_at_once() {
    let mut world = World::new();
    world.account = AccountView::Missing;
    world.apply(spec("root", "Daily"));
    world.settle();
    world.delete();
    world.settles("forget, let go");
}

#[test]
fn the_same_name_in_the_window_brings_every_version_back() {
    let mut world = World::with_key("Never");
    world.pass(MINUTE);
    world.request("a");
    world.settle();
    world.delete();
    world.settles("evict (deleted), delete, let go");
    world.pass(DAY);
    world.apply(spec("root", "Daily"));
    world.settles("hold, record, recover, record, serve, rotate to v3 (schedule), serve");
    world.shows("Active v3 True/AsExpected");
    assert_eq!(condition(&world.status().conditions, "Recovered").as_deref(), Some("True/Recovered"));
    assert_eq!(world.status().versions.len(), 3);
}

#[test]
fn another_account_does_not_get_the_history_and_can_start_anew_after_the_window() {
    let mut world = World::with_key("Never");
    world.delete();
    world.settle();
    world.apply(spec("other", "Never"));
    world.settles("hold, record");
    let text = message(&world.status().conditions, "Ready");
    assert!(text.contains("kept under Account \"root\"") && text.contains("wait until 20"), "{text}");
    // The history of the other key is not shown as its own: it would later be missed in the ledger.
    world.shows("Provisioning - False/InvalidSpec");
    assert_eq!(world.next, world.record.as_ref().unwrap().delete_after, "it does not wait for ever");
    world.now = world.next.unwrap();
    world.destroy_due();
    world.settles("create, serve");
    world.shows("Active v1 True/AsExpected");
}

#[test]
fn unbind_records_takes_back_lets_go_and_deletes_nothing() {
    let mut world = World::with_key("Daily");
    world.edit(|spec| spec.rotation_schedule = "7 Days".to_owned());
    // kcp deletes every object of the export; the last edit was not seen before.
    world.tenant = TenantView::Unbinding;
    world.delete();
    world.settles("evict (suspended), record, let go");
    assert_eq!(world.record.as_ref().unwrap().delete_after, None);
    world.settles("");
    world.pass(DAY);
    // Bound again, also after a restart in between.
    world.restart();
    world.tenant = TenantView::Active;
    world.settles("restore, load [1], serve");
    world.shows("Active v1 True/AsExpected");
    assert_eq!(world.object.as_ref().unwrap().spec.rotation_schedule, "7 Days");
}

#[test]
fn what_its_user_deleted_before_the_unbind_stays_deleted() {
    let mut world = World::with_key("Daily");
    world.cut_off = true;
    world.delete();
    world.settles("evict (deleted), delete");
    world.tenant = TenantView::Unbinding;
    world.settles("evict (suspended), let go, evict (deleted)");
    world.tenant = TenantView::Active;
    world.settles("");
    assert!(world.object.is_none());
}

#[test]
fn an_operator_suspends_and_resumes() {
    let mut world = World::with_key("Never");
    let before = world.handed_out;
    world.tenant = TenantView::Suspended;
    world.settles("evict (suspended)");
    world.shows("Unavailable v1 False/TenantSuspended");
    world.tenant = TenantView::Active;
    world.settles("serve");
    assert_eq!(world.handed_out, before);
}

#[test]
fn a_lost_root_takes_the_key_back_and_gives_it_back() {
    let mut world = World::with_key("Never");
    let before = world.handed_out;
    world.account = lost();
    world.settles("evict (root lost)");
    world.shows("Unavailable v1 False/AccountNotReady");
    assert!(message(&world.status().conditions, "Ready").contains("enable it"));
    world.loaded.clear();
    world.loadable.clear();
    world.account = ready(1);
    // Its account key is not there yet: nothing is handed out, nothing spins.
    world.settles("load [1]");
    world.loadable.insert(1);
    world.settles("load [1], serve");
    assert_eq!(world.handed_out, before);
}

#[test]
fn an_unknown_tenant_is_never_a_reason() {
    let mut world = World::with_key("Hourly");
    world.request("a");
    world.state(KeyState::Disabled);
    world.pass(DAY);
    world.account = AccountView::Missing;
    world.tenant = TenantView::Unknown;
    assert_eq!(world.plan(), Plan::idle());
    world.delete();
    assert_eq!(world.plan(), Plan::idle());
    world.object = None;
    assert_eq!(world.plan(), Plan::idle());
    world.record = None;
    assert_eq!(world.plan(), Plan::idle());
}

#[test]
fn an_object_that_is_simply_not_there_is_put_back() {
    let mut world = World::with_key("Never");
    world.object = None; // its finalizers were forced away, or an older etcd was restored
    world.settles("restore");
    world.shows("Active v1 True/AsExpected");
}

#[test]
fn a_compromised_version_is_replaced_and_not_used_again() {
    let mut world = World::with_key("Never");
    let before = world.handed_out;
    world.pass(MINUTE);
    world.edit(|spec| spec.compromised_versions = vec!["v1".to_owned()]);
    world.settles("record, compromise [1], serve, rotate to v2 (compromised), serve");
    assert_ne!(world.handed_out, before);
    let states: Vec<_> = world.status().versions.iter().map(|version| version.state).collect();
    assert_eq!(states, [VersionState::Active, VersionState::Compromised]);
    // Off the list does not make it good again; a number that does not exist is nobody's.
    world.edit(|spec| spec.compromised_versions = vec!["v9".to_owned(), "x".to_owned()]);
    world.settles("record");
    // An explicit permission reaches the edges, and its end too.
    world.edit(|spec| spec.allow_compromised_decrypt = true);
    world.settles("record, serve");
    world.edit(|spec| spec.allow_compromised_decrypt = false);
    world.settles("record, serve");
    // An old version alone needs no rotation.
    world.pass(MINUTE);
    world.request("a");
    world.settle();
    world.edit(|spec| spec.compromised_versions = vec!["v2".to_owned()]);
    world.settles("record, compromise [2], serve");
    assert_eq!(world.current(), 3);
}

#[test]
fn a_compromise_and_a_request_are_one_rotation() {
    let mut world = World::with_key("Never");
    world.pass(MINUTE);
    world.edit(|spec| {
        spec.compromised_versions = vec!["v1".to_owned()];
        spec.rotation_request = Some("a".to_owned());
    });
    world.settles("record, compromise [1], serve, rotate to v2 (compromised), serve");
    assert_eq!(world.status().rotation_request.as_deref(), Some("a"));
}

#[test]
fn a_version_made_in_the_last_second_is_taken_back_at_once_and_replaced_a_second_later() {
    let mut world = World::with_key("Never");
    world.edit(|spec| spec.compromised_versions = vec!["v1".to_owned()]);
    world.settles("record, compromise [1], serve");
    world.pass(SECOND);
    world.settles("rotate to v2 (compromised), serve");
}

#[test]
fn a_compromised_root_gives_every_key_just_one_new_version() {
    let mut world = World::with_key("Never");
    world.pass(HOUR);
    world.account = AccountView::Ready { version: 2, rotate_before: Some(world.now), deleting: false };
    world.loadable.insert(2);
    world.pass(MINUTE);
    world.settles("load [2], rotate to v2 (root compromised), serve");
    world.pass(DAY);
    world.settles("");
    world.restart();
    world.settles("load [1, 2], serve");
    assert_eq!(world.current(), 2);
}

#[test]
fn a_rewrap_changes_nothing_at_the_edge() {
    let mut world = World::with_key("Never");
    world.account = ready(2);
    world.loadable.insert(2);
    for version in &mut world.record.as_mut().unwrap().versions {
        version.account_key_version = 2;
    }
    world.settles("");
}

#[test]
fn the_ledger_wins_over_an_older_object() {
    let mut world = World::with_key("Never");
    for n in 0..3 {
        world.pass(MINUTE);
        world.request(&format!("{n}"));
        world.settle();
    }
    world.object.as_mut().unwrap().status.as_mut().unwrap().current_version = Some("v2".to_owned());
    world.settles("");
    world.shows("Active v4 True/AsExpected");
}

#[test]
fn a_ledger_behind_the_object_does_not_rotate_and_says_how_to_accept() {
    let mut world = World::with_key("Hourly");
    world.object.as_mut().unwrap().status.as_mut().unwrap().current_version = Some("v54".to_owned());
    world.settles("record");
    world.shows("Active v1 False/LedgerBehind");
    assert!(message(&world.status().conditions, "Ready").contains("keys accept-restore"));
    assert!(world.is_served(), "what the ledger has goes on");
    world.pass(DAY);
    world.request("a");
    world.settles("record");
    world.edit(|spec| spec.compromised_versions = vec!["v1".to_owned()]);
    world.settles("record, compromise [1], serve");
    assert_eq!((world.current(), world.record.as_ref().unwrap().seen), (1, 54));
    // Accepted: it goes on above everything that was ever seen.
    world.accepted = 54;
    world.record.as_mut().unwrap().behind = false;
    world.settle();
    assert_eq!((world.current(), world.requests.len()), (55, 1));
}

#[test]
fn a_ledger_that_does_not_know_the_key_at_all_makes_no_v1_again() {
    let mut world = World::with_key("Never");
    world.record = None;
    world.restart();
    world.settles("record, load [1], create");
    world.shows("Provisioning - False/LedgerBehind");
}

#[test]
fn an_invalid_schedule_is_a_condition() {
    for schedule in ["", "hourly", "0 Days", "-1 Days", "99999999999999999999 Days", "1 Hours\n", "٣ Days"] {
        let mut world = World::new();
        world.apply(spec("root", schedule));
        world.settles("hold, record");
        world.shows("Provisioning - False/InvalidSpec");
        assert!(message(&world.status().conditions, "Ready").contains("use Hourly, Daily"));
        world.edit(|spec| spec.rotation_schedule = "Hourly".to_owned());
        world.settles("record, load [1], create, serve");
    }
}

#[test]
fn who_may_use_it_reaches_the_edges_and_other_edits_do_not() {
    let mut world = World::with_key("Never");
    world.edit(|spec| {
        spec.clients = serde_json::from_value(
            serde_json::json!([{ "issuer": "https://a.example", "subject": "system:serviceaccount:a:b" }]),
        )
        .unwrap();
    });
    world.settles("record, serve");
    world.edit(|spec| spec.rotation_schedule = "9999 Days".to_owned());
    world.settles("record");
    let Some(HandedOut::Serve(_)) = world.handed_out else { panic!("it is not served") };
}

#[test]
fn what_is_taken_away_is_gone_also_while_the_store_is_silent() {
    let mut world = World::with_key("30 Days");
    world.edit(|spec| spec.clients = clients(&["billing", "audit"]));
    world.settles("record, serve");
    world.request("another version");
    world.pass(SignedDuration::from_secs(5));
    world.settles("record, rotate to v2 (request), serve");
    // The account key's time in memory is over, and its store does not answer.
    world.loaded.clear();
    world.loadable.clear();
    world.edit(|spec| spec.clients = clients(&["billing"]));
    world.settles("record, serve");
    assert_eq!(world.held, Some(Offer { current: 2, versions: vec![2, 1] }), "and nothing else is");
    world.edit(|spec| spec.compromised_versions = vec!["v2".to_owned()]);
    world.pass(SignedDuration::from_secs(5));
    world.settles("record, compromise [2], serve, load [1]");
    assert_eq!(world.held, Some(Offer { current: 2, versions: vec![1] }));
    world.loadable.insert(1);
    world.settles("load [1], rotate to v3 (compromised), serve");
    assert_eq!(world.held, Some(Offer { current: 3, versions: vec![3, 1] }));
}

#[test]
fn a_version_of_another_replica_waits_for_its_account_key_and_holds_up_no_removal() {
    let mut world = World::with_key("Never");
    world.edit(|spec| spec.clients = clients(&["billing"]));
    world.settles("record, serve");
    world.loaded = vec![2];
    world.account = ready(2);
    world.request("elsewhere");
    world.pass(SignedDuration::from_secs(5));
    let served = world.held.clone();
    world.act(Effect::Record { seen: 0 });
    world.act(Effect::Rotate {
        after: 1,
        account_key: 2,
        request: Some("elsewhere".to_owned()),
        why: Why::Request,
    });
    world.loaded.clear();
    world.loadable.clear();
    world.settles("load [2]");
    assert_eq!(world.held, served, "nothing changed for edges yet");
    world.edit(|spec| spec.clients.clear());
    world.settles("record, serve, load [2]");
    assert_eq!(world.held, Some(Offer { current: 1, versions: vec![1] }));
    world.loadable.insert(2);
    world.settles("load [2], serve");
    assert_eq!(world.held, Some(Offer { current: 2, versions: vec![2, 1] }));
}

fn clients(subjects: &[&str]) -> Vec<openkcm_apis::ClientRef> {
    let client = |subject: &&str| serde_json::json!({"issuer": "https://issuer.example", "subject": subject});
    serde_json::from_value(subjects.iter().map(client).collect()).unwrap()
}
