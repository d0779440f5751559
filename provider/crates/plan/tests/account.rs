//! Stories of an Account: its root of trust is verified, watched, replaced and let go.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use jiff::SignedDuration;
use openkcm_plan::{
    Plan, TenantView,
    account::{self, Absent, AccountView, Effect, FailureKind::*},
};
use world::{
    account::{PROBE, Root, World, say},
    condition, message,
};

const GRACE: SignedDuration = SignedDuration::from_secs(120);
const READY: &str = "Ready v1 True/Ready True/Verified";

#[test]
fn an_account_is_ready_after_its_root_was_tried() {
    let mut world = World::new();
    world.apply("A");
    let (effect, _) = world.step().unwrap();
    assert_eq!(effect, Effect::AddFinalizer);
    world.settles("record, probe, provision v1");
    world.shows(READY);
    assert_eq!(world.next, Some(world.now + PROBE));
    // Looking again changes nothing.
    let before = world.status().clone();
    world.pass(PROBE);
    world.settles("probe");
    assert_eq!(world.status().conditions, before.conditions);
}

#[test]
fn a_root_that_does_not_work_is_named_and_found_later() {
    for (kind, reason) in [(Refused, "Disabled"), (Unreachable, "Unreachable"), (Throttled, "Throttled")] {
        let mut world = World::new();
        world.root("A", Root::Fails(kind));
        world.apply("A");
        world.settles("hold, record, probe");
        world.shows(&format!("Pending - False/{reason} False/{reason}"));
        assert!(message(&world.status().conditions, "Ready").contains("do this"));
        assert!(matches!(world.view(), AccountView::Pending { .. }));
        world.root("A", Root::Works(1));
        world.settles("");
        world.pass(PROBE);
        world.settles("probe, provision v1");
        world.shows(READY);
    }
}

#[test]
fn a_lost_root_has_a_grace_then_the_keys_leave_and_come_back_by_themselves() {
    for kind in [Refused, Unreachable] {
        let mut world = World::with_account(5);
        world.root("A", Root::Fails(kind));
        world.pass(PROBE);
        world.settles("probe, lost");
        assert!(message(&world.status().conditions, "Ready").starts_with("Keys work."));
        assert!(matches!(world.view(), AccountView::Ready { version: 1, .. }));
        world.pass(GRACE);
        world.settles("probe, forget");
        let root = if kind == Refused { "Disabled" } else { "Unreachable" };
        world.shows(&format!("Unavailable v1 False/{root} False/{root}"));
        assert!(matches!(world.view(), AccountView::Unavailable { .. }));
        assert!(world.loaded.is_empty());
        world.root("A", Root::Works(1));
        world.pass(PROBE);
        world.settles("probe, found, load v1");
        world.shows(READY);
        assert!(matches!(world.view(), AccountView::Ready { version: 1, .. }));
    }
}

#[test]
fn the_grace_ends_at_its_time_and_not_with_the_next_look() {
    let mut world = World::with_account(1);
    world.root("A", Root::Fails(Refused));
    world.pass(PROBE);
    world.settle();
    let lost = world.ledger.as_ref().unwrap().lost_since.unwrap();
    while world.next.unwrap() < lost + GRACE {
        world.now = world.next.unwrap();
        world.settle();
        assert!(matches!(world.view(), AccountView::Ready { .. }));
    }
    world.now = world.next.unwrap();
    assert_eq!(world.now, lost + GRACE);
    assert!(matches!(world.view(), AccountView::Unavailable { .. }));
}

#[test]
fn throttled_is_not_lost() {
    let mut world = World::with_account(1);
    world.root("A", Root::Fails(Throttled));
    for _ in 0..10 {
        world.pass(PROBE);
        world.settles("probe");
        world.shows("Ready v1 True/Ready False/Throttled");
    }
    // A store that answers nothing else for long hides whether its key is still there.
    world.pass(account::THROTTLED_LIMIT);
    world.settles("probe, lost");
    world.pass(GRACE);
    world.settles("probe, forget");
    world.shows("Unavailable v1 False/Throttled False/Throttled");
    world.root("A", Root::Works(1));
    world.pass(PROBE);
    world.settles("probe, found, load v1");
    // And it does not end a loss either.
    world.root("A", Root::Fails(Refused));
    world.pass(PROBE);
    world.settles("probe, lost");
    world.root("A", Root::Fails(Throttled));
    world.pass(GRACE);
    world.settles("probe, forget");
    assert!(matches!(world.view(), AccountView::Unavailable { .. }));
}

#[test]
fn a_loss_survives_a_restart() {
    let mut world = World::with_account(1);
    world.root("A", Root::Fails(Unreachable));
    world.pass(PROBE);
    world.settle();
    world.restart();
    world.pass(GRACE);
    assert!(matches!(world.view(), AccountView::Unavailable { .. }));
    world.settles("probe");
    world.shows("Unavailable v1 False/Unreachable False/Unreachable");
}

#[test]
fn after_a_restart_nothing_new_is_said_before_the_first_look() {
    let mut world = World::with_account(1);
    world.restart();
    let plan = world.plan();
    assert_eq!((plan.effect, plan.status), (Some(Effect::Probe), None));
    world.settles("probe, load v1");
    world.shows(READY);
}

#[test]
fn a_new_version_in_the_store_wraps_the_account_key_again() {
    let mut world = World::with_account(1);
    world.root("A", Root::Works(2));
    world.pass(PROBE);
    world.settles("probe, refresh v1");
    world.settles("");
    assert_eq!(world.status().root_key.as_ref().unwrap().version.as_deref(), Some("2"));
    world.settles("");
}

#[test]
fn a_bad_new_root_changes_nothing_and_says_so() {
    let mut world = World::with_account(7);
    world.root("B", Root::Fails(Refused));
    world.apply("B");
    world.settles("record, probe");
    world.shows("Ready v1 True/Ready False/Disabled");
    assert!(message(&world.status().conditions, "RootKeyVerified").contains("The old root A stays in use."));
    assert_eq!(world.status().root_key.as_ref().unwrap().reference, "A");
    // The old root is still watched.
    world.root("A", Root::Fails(Refused));
    world.pass(PROBE);
    world.settles("probe, probe in use, lost");
    world.pass(GRACE);
    world.settles("probe, probe in use, forget");
    assert!(matches!(world.view(), AccountView::Unavailable { .. }));
    // The new one works after all: what it wraps can be used.
    world.root("B", Root::Works(1));
    world.pass(PROBE);
    world.settles("probe, probe in use, provision v2, found, load v1");
    assert!(matches!(world.view(), AccountView::Ready { version: 2, .. }));
    assert_eq!(world.sealed(), [(1, 7), (2, 0)], "what only the old root opens is kept");
    assert_eq!(condition(&world.status().conditions, "RewrapComplete").as_deref(), Some("False/InProgress"));
}

#[test]
fn a_rekey_provisions_rewraps_everything_and_erases() {
    let mut world = World::with_account(250);
    world.apply("B");
    world.settles("record, probe, provision v2, rewrap v1 to v2, rewrap v1 to v2, rewrap v1 to v2, erase v1");
    assert_eq!(world.sealed(), [(2, 250)]);
    world.shows("Ready v2 True/Ready True/Verified");
    assert_eq!(condition(&world.status().conditions, "RewrapComplete").as_deref(), Some("True/Complete"));
    let rewrap = world.status().rewrap.clone().unwrap();
    assert_eq!((rewrap.from, rewrap.to, rewrap.total, rewrap.done), (1, 2, 250, 250));
    assert!(rewrap.finished_at.is_some());
    assert!(world.cloud_calls <= 2, "{} cloud calls", world.cloud_calls);
}

#[test]
fn a_rekey_shows_its_progress_and_goes_on_after_a_restart_at_any_step() {
    for stop in 0..8 {
        let mut world = World::with_account(250);
        world.apply("B");
        for _ in 0..stop {
            world.step();
        }
        if stop == 5 {
            world.shows("Rekeying v2 True/Ready True/Verified");
            assert_eq!(world.status().rewrap.as_ref().unwrap().done, 100);
        }
        world.restart();
        world.settle();
        assert_eq!(world.sealed(), [(2, 250)], "stopped after {stop} steps");
        world.shows("Ready v2 True/Ready True/Verified");
    }
}

#[test]
fn a_second_rekey_while_one_runs_ends_under_the_last_root() {
    let mut world = World::with_account(250);
    world.apply("B");
    while world.sealed() != [(1, 150), (2, 100)] {
        world.step();
    }
    world.apply("C");
    let done: Vec<_> = world.settle().iter().map(say).collect();
    assert_eq!(world.sealed(), [(3, 250)]);
    assert_eq!(done.iter().filter(|effect| effect.starts_with("erase")).count(), 2);
    world.shows("Ready v3 True/Ready True/Verified");
}

#[test]
fn back_to_the_first_root_half_way_is_one_more_rekey() {
    let mut world = World::with_account(250);
    world.apply("B");
    while world.sealed() != [(1, 150), (2, 100)] {
        world.step();
    }
    world.apply("A");
    world.settle();
    assert_eq!(world.sealed(), [(3, 250)], "no number is used again");
    assert_eq!(world.status().root_key.as_ref().unwrap().reference, "A");
}

#[test]
fn a_rekey_away_from_a_lost_root_saves_what_is_in_memory() {
    let mut world = World::with_account(50);
    world.root("A", Root::Fails(Refused));
    world.pass(PROBE);
    world.settles("probe, lost");
    world.apply("B");
    world.settles("record, probe, provision v2, found, rewrap v1 to v2, erase v1");
    assert_eq!(world.sealed(), [(2, 50)]);
    world.shows("Ready v2 True/Ready True/Verified");
}

#[test]
fn the_end_of_the_grace_waits_for_a_look_at_the_new_root_that_is_under_way() {
    for works in [true, false] {
        let mut world = World::with_account(50);
        world.root("A", Root::Fails(Refused));
        world.pass(PROBE);
        world.settles("probe, lost");
        world.root("B", if works { Root::Works(1) } else { Root::Fails(Unreachable) });
        world.apply("B");
        world.look_begins("B");
        world.settles("record");
        world.pass(GRACE);
        world.settles("probe in use");
        assert!(
            matches!(world.view(), AccountView::Unavailable { .. }),
            "the keys leave the edges all the same"
        );
        world.look_ends("B");
        world.settles(if works { "provision v2, found, rewrap v1 to v2, erase v1" } else { "forget" });
    }
}

#[test]
fn a_compromised_root_asks_every_key_of_before_to_rotate() {
    let mut world = World::with_account(1);
    let asks = |world: &World| match world.view() {
        AccountView::Ready { rotate_before, .. } => rotate_before,
        view => panic!("{view:?}"),
    };
    // Without another root there is nothing to rotate to.
    world.object.as_mut().unwrap().spec.root_compromised = true;
    world.settle();
    assert_eq!(asks(&world), None);
    world.pass(PROBE);
    let rekeyed = world.now;
    world.apply("B");
    world.settle();
    assert_eq!(asks(&world), Some(rekeyed));
    world.object.as_mut().unwrap().spec.root_compromised = false;
    world.settle();
    assert_eq!(asks(&world), None);
}

#[test]
fn an_account_without_dependents_goes() {
    let mut world = World::with_account(0);
    world.delete();
    world.settles("delete, let go");
    assert!(world.object.is_none() && world.ledger.as_ref().unwrap().deleted);
    world.settles("");
    // The same name again: its account key is still there.
    world.apply("A");
    world.settles("hold, record, probe");
    world.shows(READY);
}

#[test]
fn an_account_with_dependents_stays_says_why_and_is_watched_all_the_same() {
    let mut world = World::with_account(3);
    world.dependents = 2;
    world.delete();
    world.settles("");
    world.shows("Deleting v1 False/Deleting True/Verified");
    let blocked = message(&world.status().conditions, "DeletionBlocked");
    assert!(
        blocked.contains("2 ServiceEncryptionKeys") && blocked.contains("shop/key-0, shop/key-1"),
        "{blocked}"
    );
    assert!(matches!(world.view(), AccountView::Ready { deleting: true, .. }));
    // Who disables the root in its store still takes the keys back.
    world.root("A", Root::Fails(Refused));
    world.pass(PROBE);
    world.settles("probe, lost");
    world.pass(GRACE);
    world.settles("probe, forget");
    assert!(matches!(world.view(), AccountView::Unavailable { .. }));
    world.root("A", Root::Works(1));
    world.dependents = 0;
    world.settles("delete, let go");
}

#[test]
fn keys_whose_namespace_is_gone_do_not_hold_their_account_for_ever() {
    let mut world = World::with_account(3);
    world.absent = Absent { homeless: vec!["gone/db".to_owned()], returning: 1 };
    world.delete();
    // One of them may yet come back and be a reason to stay.
    world.settles("");
    assert_eq!(world.next, Some(world.now + SignedDuration::from_secs(1)));
    world.absent.returning = 0;
    world.settles("delete homeless, delete, let go");
    assert!(world.object.is_none());
}

#[test]
fn the_diary_tells_how_a_rewrap_gets_on() {
    let mut world = World::with_account(400);
    world.apply("B");
    let mut diary = Vec::new();
    loop {
        let old = world.object.as_ref().unwrap().status.clone();
        let step = world.step();
        if let Some(new) = &world.object.as_ref().unwrap().status {
            diary.extend(account::events(old.as_ref(), new, world.now));
        }
        if step.is_none() {
            break;
        }
        world.pass(SignedDuration::from_secs(3));
    }
    let lines: Vec<_> = diary.iter().map(|event| format!("{}: {}", event.reason, event.message)).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    RewrapStarted: 400 versions of service keys go from account key v1 to v2, which the new root wraps. They can be used all the while.
    Rewrapping: 100 of 400 versions are re-wrapped, about 18s to go.
    Rewrapping: 200 of 400 versions are re-wrapped, about 9s to go.
    Rewrapping: 300 of 400 versions are re-wrapped, about 4s to go.
    RewrapComplete: 400 versions of service keys are wrapped by account key v2; the wrapped account key v1 is erased, and its root is not needed any more.
    ");
}

#[test]
fn an_account_that_was_never_recorded_goes_at_once() {
    let mut world = World::new();
    world.apply("A");
    world.step();
    world.delete();
    world.settles("let go");
}

#[test]
fn unbind_lets_go_and_forgets_nothing_and_rebind_restores() {
    let mut world = World::with_account(3);
    world.dependents = 2;
    world.tenant = TenantView::Unbinding;
    world.delete();
    world.settles("let go");
    assert!(!world.ledger.as_ref().unwrap().deleted);
    world.restart();
    world.settles("");
    world.tenant = TenantView::Active;
    world.settles("restore, probe, load v1");
    world.shows(READY);
    assert_eq!(world.sealed(), [(1, 3)]);
}

#[test]
fn an_edit_that_nobody_saw_before_the_unbind_is_kept() {
    let mut world = World::with_account(1);
    world.apply("B");
    world.tenant = TenantView::Unbinding;
    world.delete();
    world.settles("record, let go");
    world.tenant = TenantView::Active;
    world.settle();
    assert_eq!(world.object.as_ref().unwrap().spec.key_reference, "B");
}

#[test]
fn what_its_user_deleted_before_the_unbind_stays_deleted() {
    let mut world = World::with_account(0);
    world.delete();
    assert_eq!(world.step().unwrap().0, Effect::Delete);
    // Before its finalizer is off, the workspace unbinds.
    world.tenant = TenantView::Unbinding;
    world.settles("let go");
    world.tenant = TenantView::Active;
    world.settles("");
    assert!(world.object.is_none());
}

#[test]
fn an_unknown_tenant_is_never_a_reason() {
    let mut world = World::with_account(1);
    world.tenant = TenantView::Unknown;
    world.pass(GRACE * 10);
    world.apply("B");
    assert_eq!(world.plan(), Plan::idle());
    world.delete();
    assert_eq!(world.plan(), Plan::idle());
    world.object = None;
    assert_eq!(world.plan(), Plan::idle());
    world.ledger = None;
    assert_eq!(world.plan(), Plan::idle());
}
