//! Stories of a workspace: it binds, unbinds and binds again.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use openkcm_apis::{Tenant, TenantPhase, TenantSpec};
use openkcm_plan::{
    Plan,
    tenant::{Binding, Effect, Input, Record, is_bound, is_unbinding, plan},
};
use world::{ROUNDS, condition, dawn, hold, message};

struct World {
    now: Timestamp,
    visible: bool,
    absent_since: Option<Timestamp>,
    bindings: Vec<Binding>,
    object: Option<Tenant>,
    record: Option<Record>,
    next: Option<Timestamp>,
}

fn bound() -> Binding {
    Binding { bound: true, path: Some("root:acme:shop".to_owned()), ..Binding::default() }
}

impl World {
    fn new() -> Self {
        Self {
            now: dawn(),
            visible: true,
            absent_since: None,
            bindings: Vec::new(),
            object: None,
            record: None,
            next: None,
        }
    }

    fn active() -> Self {
        let mut world = Self::new();
        world.bindings = vec![bound()];
        world.settles("activate root:acme:shop, create tenant-root-acme-shop");
        world
    }

    fn input(&self) -> Input<'_> {
        Input {
            now: self.now,
            cluster: "abc123",
            visible: self.visible,
            absent_since: self.absent_since,
            bindings: self.bindings.clone(),
            object: self.object.as_ref(),
            record: self.record.clone(),
            accounts: 2,
            keys: 3,
        }
    }

    fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            let Plan { effect, status, next } = plan(&self.input());
            if let (Some(status), Some(object)) = (status, &mut self.object) {
                object.status = Some(status);
            }
            self.next = next;
            let Some(effect) = effect else { return done };
            done.push(self.act(effect));
        }
        panic!("it does not come to rest: {done:?}");
    }

    fn act(&mut self, effect: Effect) -> String {
        match effect {
            Effect::Activate { path } => {
                let old = self.record.take().unwrap_or_default();
                let text = format!("activate {path}");
                let recovered = old.recovered || old.unbound;
                self.record = Some(Record { unbound: false, recovered, path, ..old });
                text
            }
            Effect::Suspend => {
                let record = self.record.as_mut().unwrap();
                assert!(!record.unbound, "it is suspended twice");
                record.unbound = true;
                "suspend".to_owned()
            }
            Effect::Create { name } => {
                assert!(self.object.is_none());
                let mut object = Tenant::new(&name, TenantSpec::default());
                hold(&mut object.metadata, true);
                self.object = Some(object);
                format!("create {name}")
            }
            Effect::AddFinalizer => {
                hold(&mut self.object.as_mut().unwrap().metadata, true);
                "hold".to_owned()
            }
            Effect::RemoveFinalizer => {
                assert!(self.object.take().unwrap().metadata.deletion_timestamp.is_some());
                "let go".to_owned()
            }
        }
    }

    #[track_caller]
    fn settles(&mut self, expected: &str) {
        assert_eq!(self.settle().join(", "), expected);
    }

    fn unbind(&mut self) {
        for binding in &mut self.bindings {
            binding.deleting = true;
        }
        if let Some(object) = &mut self.object {
            object.metadata.deletion_timestamp = Some(Time(self.now));
        }
    }

    fn ready(&self) -> Option<String> {
        condition(&self.object.as_ref().unwrap().status.as_ref().unwrap().conditions, "Ready")
    }
}

#[test]
fn bound_is_active() {
    let mut world = World::active();
    let status = world.object.as_ref().unwrap().status.clone().unwrap();
    assert_eq!(status.phase, Some(TenantPhase::Active));
    assert_eq!((status.accounts, status.service_encryption_keys, status.recovered), (2, 3, false));
    assert_eq!(status.logical_cluster.as_deref(), Some("abc123"));
    assert_eq!(condition(&status.conditions, "ClaimsAccepted").as_deref(), Some("True/Accepted"));
    world.settles("");
}

#[test]
fn unbind_suspends_first_then_lets_go_and_rebind_recovers() {
    let mut world = World::active();
    for _ in 0..3 {
        world.unbind();
        assert!(is_unbinding(&world.bindings) && !is_bound(&world.bindings));
        world.settles("suspend, let go");
        world.bindings.clear();
        world.settles("");
        assert_eq!(world.next, None);
        world.now += SignedDuration::from_hours(1);
        world.bindings = vec![bound()];
        world.settles("activate root:acme:shop, create tenant-root-acme-shop");
        assert!(world.object.as_ref().unwrap().status.as_ref().unwrap().recovered);
    }
}

#[test]
fn unbound_while_nobody_looked_waits_before_it_believes() {
    let mut world = World::active();
    world.bindings.clear();
    world.object = None;
    world.absent_since = Some(world.now);
    world.settles("");
    assert_eq!(world.next, Some(world.now + SignedDuration::from_mins(10)));
    world.now += SignedDuration::from_mins(10);
    world.settles("suspend");
    world.settles("");
}

#[test]
fn what_cannot_be_seen_is_not_gone() {
    let mut world = World::active();
    world.bindings.clear();
    world.object = None;
    world.visible = false;
    world.now += SignedDuration::from_hours(10_000);
    assert_eq!(plan(&world.input()), Plan::idle());
}

#[test]
fn an_operator_suspends_with_a_reason() {
    let mut world = World::active();
    world.record.as_mut().unwrap().operator_reason = Some("unpaid".to_owned());
    world.settles("");
    assert_eq!(world.ready().as_deref(), Some("False/SuspendedByOperator"));
    let status = world.object.as_ref().unwrap().status.clone().unwrap();
    assert_eq!(status.phase, Some(TenantPhase::Suspended));
    assert!(message(&status.conditions, "Ready").contains("unpaid"));
    world.record.as_mut().unwrap().operator_reason = None;
    world.settles("");
    assert_eq!(world.ready().as_deref(), Some("True/Active"));
}

#[test]
fn claims_that_are_not_accepted_are_a_condition() {
    let mut world = World::active();
    world.bindings[0].unaccepted_claims = vec!["events".to_owned()];
    world.settles("");
    let conditions = world.object.as_ref().unwrap().status.clone().unwrap().conditions;
    assert_eq!(condition(&conditions, "ClaimsAccepted").as_deref(), Some("False/NotAccepted"));
    assert!(message(&conditions, "ClaimsAccepted").contains("events"));
    assert_eq!(world.ready().as_deref(), Some("True/Active"));
}

#[test]
fn a_second_binding_changes_nothing_and_its_end_is_no_unbind() {
    let mut world = World::active();
    world.bindings.push(Binding { deleting: true, ..Binding::default() });
    world.settles("");
    let conditions = world.object.as_ref().unwrap().status.clone().unwrap().conditions;
    assert_eq!(condition(&conditions, "SingleBinding").as_deref(), Some("False/SeveralBindings"));
    world.bindings.pop();
    world.settles("");
    let conditions = world.object.as_ref().unwrap().status.clone().unwrap().conditions;
    assert_eq!(condition(&conditions, "SingleBinding"), None);
}

#[test]
fn a_moved_workspace_is_recorded_and_a_path_is_waited_for() {
    let mut world = World::new();
    world.bindings = vec![Binding { path: None, ..bound() }];
    world.settles("");
    assert!(world.next.is_some());
    world.bindings = vec![bound()];
    world.settle();
    world.bindings = vec![Binding { path: Some("root:b".to_owned()), ..bound() }];
    world.settles("activate root:b");
    // A path that is not told again is the one that was.
    world.bindings = vec![Binding { path: None, ..bound() }];
    world.settles("");
}

#[test]
fn a_tenant_that_somebody_deletes_is_made_again() {
    let mut world = World::active();
    world.object.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(world.now));
    world.settles("let go, create tenant-root-acme-shop");
    hold(&mut world.object.as_mut().unwrap().metadata, false);
    world.settles("hold");
}

#[test]
fn a_stranger_is_nobodys_business() {
    assert_eq!(plan(&World::new().input()), Plan::idle());
}
