//! Random histories: whatever happens in whatever order, some things never do. The simulator itself checks what the
//! ledger would: no number twice, no request twice in a row, nothing handed out that is disabled, no endless loop.
//! More of them: `PROPTEST_CASES=100000 cargo test -p openkcm-plan --test histories`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use jiff::SignedDuration;
use openkcm_apis::KeyState;
use openkcm_plan::{
    Plan, TenantView,
    account::{AccountView, FailureKind},
    key::HandedOut,
};
use proptest::{collection::vec, prelude::*};
use world::{
    account::{self, Root},
    key::{self, lost, ready, spec},
};

#[derive(Debug, Clone)]
enum Deed {
    Apply(&'static str),
    Schedule(&'static str),
    Request(u8),
    State(KeyState),
    Compromise(u8),
    AllowCompromised(bool),
    Delete,
    /// The object is gone without a delete: an older state of the workspace was restored.
    Vanish,
    /// The status says another version: one of the two worlds is older.
    OldStatus(u8),
    AcceptLoss,
    Tenant(u8),
    Account(u8),
    Roots(bool),
    Forget,
    CutOff(bool),
    Restart,
    /// The provider crashes after so many effects.
    Crash(u8),
    /// In seconds; also back.
    Clock(i64),
    Look,
}

fn deed() -> impl Strategy<Value = Deed> {
    let schedules = prop::sample::select(vec!["Hourly", "Daily", "30 Days", "Never", "rubbish"]);
    prop_oneof![
        4 => prop::sample::select(vec!["root", "root", "root", "other"]).prop_map(Deed::Apply),
        3 => schedules.prop_map(Deed::Schedule),
        4 => (0_u8..6).prop_map(Deed::Request),
        4 => prop::sample::select(vec![KeyState::Enabled, KeyState::Enabled, KeyState::Disabled]).prop_map(Deed::State),
        1 => (1_u8..8).prop_map(Deed::Compromise),
        1 => any::<bool>().prop_map(Deed::AllowCompromised),
        2 => Just(Deed::Delete),
        1 => Just(Deed::Vanish),
        1 => (0_u8..20).prop_map(Deed::OldStatus),
        2 => Just(Deed::AcceptLoss),
        4 => (0_u8..8).prop_map(Deed::Tenant),
        4 => (0_u8..9).prop_map(Deed::Account),
        2 => any::<bool>().prop_map(Deed::Roots),
        1 => Just(Deed::Forget),
        1 => any::<bool>().prop_map(Deed::CutOff),
        2 => Just(Deed::Restart),
        3 => (0_u8..4).prop_map(Deed::Crash),
        5 => prop_oneof![0_i64..10, 0_i64..700_000, -100_000_i64..0].prop_map(Deed::Clock),
        4 => Just(Deed::Look),
    ]
}

fn happens(world: &mut key::World, deed: &Deed) {
    match deed {
        Deed::Apply(account) if world.object.is_none() => world.apply(spec(account, "Daily")),
        Deed::Apply(_) | Deed::Look => {}
        Deed::Schedule(text) => world.edit(|spec| (*text).clone_into(&mut spec.rotation_schedule)),
        Deed::Request(n) => world.request(&format!("request {n}")),
        Deed::State(state) => world.state(*state),
        Deed::Compromise(n) => world.edit(|spec| spec.compromised_versions.push(format!("v{n}"))),
        Deed::AllowCompromised(allow) => world.edit(|spec| spec.allow_compromised_decrypt = *allow),
        Deed::Delete => world.delete(),
        Deed::Vanish => world.object = None,
        Deed::OldStatus(n) => {
            // Only what was seen can be shown: a status of another world, not a status without a key.
            if world.record.is_some()
                && let Some(status) = world.object.as_mut().and_then(|object| object.status.as_mut())
            {
                status.current_version = (*n > 0).then(|| format!("v{n}"));
            }
        }
        Deed::AcceptLoss => {
            if let Some(record) = &mut world.record {
                world.accepted = world.accepted.max(record.seen);
                record.behind = false;
            }
        }
        Deed::Tenant(n) => {
            world.tenant = match n {
                0 => TenantView::Unknown,
                1 => TenantView::Suspended,
                2 => TenantView::Unbinding,
                _ => TenantView::Active,
            };
        }
        Deed::Account(n) => {
            let pending = AccountView::Pending { reason: "Verifying".to_owned(), message: "wait".to_owned() };
            world.account = match n {
                0 => AccountView::Missing,
                1 => AccountView::Deleting,
                2 => pending,
                3 => lost(),
                4 => AccountView::Ready { version: 2, rotate_before: Some(world.started), deleting: false },
                5 => AccountView::Ready { version: 2, rotate_before: None, deleting: true },
                6 => ready(2),
                _ => ready(1),
            };
        }
        Deed::Roots(true) => world.loadable.extend([1, 2]),
        Deed::Roots(false) => world.loadable.clear(),
        Deed::Forget => world.loaded.clear(),
        Deed::CutOff(cut) => world.cut_off = *cut,
        Deed::Restart => world.restart(),
        Deed::Crash(after) => {
            for _ in 0..*after {
                let Plan { effect, status, .. } = world.plan();
                if let (Some(status), Some(object)) = (status, &mut world.object) {
                    object.status = Some(status);
                }
                if !effect.is_some_and(|effect| world.act(effect)) {
                    break;
                }
            }
            world.restart();
        }
        Deed::Clock(seconds) => world.pass(SignedDuration::from_secs(*seconds)),
    }
}

proptest! {
    #[test]
    fn a_service_key_survives_any_history(deeds in vec(deed(), 1..60)) {
        let mut world = key::World::new();
        for deed in &deeds {
            let before = (world.current(), world.record.is_some());
            happens(&mut world, deed);
            world.destroy_due();
            let destroyed = before.1 && world.record.is_none();
            let unknown = world.tenant == TenantView::Unknown;
            let done = world.settle();
            prop_assert!(!unknown || done.is_empty(), "absence is a reason: {:?}", done);
            // The pointer never goes back, whatever the clock or another world says.
            prop_assert!(destroyed || world.current() >= before.0);
            if let (Some(object), false) = (&world.object, unknown) {
                let deleting = object.metadata.deletion_timestamp.is_some();
                let stop = deleting
                    || object.spec.state == KeyState::Disabled
                    || world.tenant != TenantView::Active
                    || matches!(world.account, AccountView::Unavailable { .. });
                let served = matches!(world.handed_out, Some(HandedOut::Serve(_)));
                prop_assert!(!(stop && served && world.record.is_some()), "it is served after {:?}", deed);
            }
            if let Some(record) = &world.record {
                let numbers: std::collections::BTreeSet<_> = record.versions.iter().map(|it| it.version).collect();
                prop_assert_eq!(numbers.len(), record.versions.len());
                prop_assert_eq!(numbers.last().copied(), Some(record.current));
            }
        }
    }

    /// Whatever was done to it, a key whose causes are all gone works again, with everything it had.
    #[test]
    fn a_service_key_comes_back_when_the_causes_are_gone(deeds in vec(deed(), 1..40)) {
        let mut world = key::World::with_key("Never");
        for deed in deeds.iter().filter(|deed| !matches!(deed, Deed::Clock(_))) {
            happens(&mut world, deed);
            world.settle();
        }
        let had = world.numbers.clone();
        world.tenant = TenantView::Active;
        world.account = ready(2);
        world.loadable.extend([1, 2]);
        world.cut_off = false;
        world.restart();
        world.settle(); // a delete that was under way ends
        // A new object of another Account has no right to the history, and goes first.
        if world.object.as_ref().is_some_and(|object| object.spec.account_ref.name != "root") {
            world.delete();
            world.settle();
        }
        world.apply(spec("root", "Never"));
        world.edit(|spec| {
            spec.state = KeyState::Enabled;
            spec.rotation_schedule = "Never".to_owned();
        });
        world.settle();
        prop_assert!(world.is_served(), "{:?}", world.object);
        let kept: Vec<_> = world.record.as_ref().unwrap().versions.iter().map(|it| it.version).collect();
        prop_assert!(had.iter().all(|number| kept.contains(number)), "{:?} of {:?}", kept, had);
    }
}

proptest! {
    /// Objects that an unbind took are there again after the re-bind, made or not.
    #[test]
    fn an_unbind_loses_no_object(deeds in vec(deed(), 1..40)) {
        let mut world = key::World::new();
        for deed in &deeds {
            happens(&mut world, deed);
            world.destroy_due();
            world.settle();
        }
        world.tenant = TenantView::Active;
        world.settle();
        let specs = |world: &key::World| {
            let object = world.object.as_ref().filter(|object| object.metadata.deletion_timestamp.is_none());
            object.map(|object| object.spec.clone())
        };
        let before = specs(&world);
        // One that stands in the place of another that lives: that one comes back.
        let living = world.record.as_ref().filter(|record| record.delete_after.is_none());
        let usurped = before.as_ref().zip(living).is_some_and(|(spec, key)| spec.account_ref.name != key.account);
        prop_assume!(!usurped);
        world.tenant = TenantView::Unbinding;
        world.delete();
        world.settle();
        prop_assert!(world.object.is_none());
        world.restart();
        world.settle();
        prop_assert!(world.object.is_none());
        world.tenant = TenantView::Active;
        world.settle();
        prop_assert_eq!(specs(&world), before);
    }
}

#[derive(Debug, Clone)]
enum Turn {
    Apply(&'static str),
    Compromised(bool),
    Root(&'static str, u8),
    Delete,
    Dependents(i32),
    Tenant(u8),
    Seal(u64),
    Restart,
    Crash(u8),
    Clock(i64),
}

fn turn() -> impl Strategy<Value = Turn> {
    let root = || prop::sample::select(vec!["A", "B", "C"]);
    prop_oneof![
        4 => root().prop_map(Turn::Apply),
        1 => any::<bool>().prop_map(Turn::Compromised),
        4 => (root(), 0_u8..8).prop_map(|(root, n)| Turn::Root(root, n)),
        1 => Just(Turn::Delete),
        2 => (0..3_i32).prop_map(Turn::Dependents),
        3 => (0_u8..8).prop_map(Turn::Tenant),
        3 => (0_u64..300).prop_map(Turn::Seal),
        2 => Just(Turn::Restart),
        3 => (0_u8..8).prop_map(Turn::Crash),
        5 => prop_oneof![Just(60_i64), 0_i64..400, -100_i64..0].prop_map(Turn::Clock),
    ]
}

proptest! {
    /// Nothing that an account key seals is ever lost, however roots change, fail and come back; and when they are
    /// back, everything ends under one account key.
    #[test]
    fn an_account_survives_any_history(turns in vec(turn(), 1..50)) {
        let mut world = account::World::new();
        let mut sealed = 0;
        for turn in &turns {
            match turn {
                Turn::Apply(root) => {
                    if world.object.as_ref().is_none_or(|it| it.metadata.deletion_timestamp.is_none()) {
                        world.apply(root);
                    }
                }
                Turn::Compromised(compromised) => {
                    if let Some(object) = &mut world.object {
                        object.spec.root_compromised = *compromised;
                    }
                }
                Turn::Root(root, n) => world.root(root, match n {
                    0 => Root::Fails(FailureKind::Refused),
                    1 => Root::Fails(FailureKind::Unreachable),
                    2 => Root::Fails(FailureKind::Throttled),
                    n => Root::Works(u32::from(*n)),
                }),
                Turn::Delete => {
                    if world.object.as_ref().is_some_and(|it| it.metadata.finalizers.is_some()) {
                        world.delete();
                    }
                }
                Turn::Dependents(n) => world.dependents = *n,
                Turn::Tenant(n) => world.tenant = match n {
                    0 => TenantView::Unknown,
                    1 => TenantView::Suspended,
                    2 => TenantView::Unbinding,
                    _ => TenantView::Active,
                },
                Turn::Seal(n) => {
                    if !world.sealed().is_empty() {
                        world.seal(*n);
                        sealed += n;
                    }
                }
                Turn::Restart => world.restart(),
                Turn::Crash(after) => {
                    for _ in 0..*after {
                        world.step();
                    }
                    world.restart();
                }
                Turn::Clock(seconds) => world.pass(SignedDuration::from_secs(*seconds)),
            }
            let done = world.settle();
            prop_assert!(world.tenant != TenantView::Unknown || done.is_empty());
            prop_assert_eq!(world.sealed().iter().map(|(_, seals)| seals).sum::<u64>(), sealed);
        }
        // Every root works again, and somebody wants the Account.
        for root in ["A", "B", "C"] {
            world.root(root, Root::Works(9));
        }
        world.tenant = TenantView::Active;
        world.dependents = 0;
        world.restart();
        world.settle();
        if world.object.is_none() {
            world.apply("A");
        }
        // What goes on in the background ends a round.
        for _ in 0..4 {
            world.settle();
        }
        world.shows(&format!(
            "Ready v{} True/Ready True/Verified",
            world.sealed().last().unwrap().0
        ));
        prop_assert_eq!(world.sealed().len(), 1, "{:?}", world.sealed());
        prop_assert_eq!(world.sealed()[0].1, sealed);
    }
}
