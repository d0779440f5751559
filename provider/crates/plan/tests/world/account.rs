//! One Account, its key stores and what its account keys seal.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use openkcm_apis::{Account, AccountSpec, AccountStatus, Impact};
use openkcm_plan::{
    Plan, TenantView,
    account::{
        self, Absent, AccountView, Effect, Failure, FailureKind, Input, KeyView, Probe, Record, Verified,
        plan,
    },
};
use serde_json::{Value, json};

use super::{ROUNDS, condition, dawn, hold, settings};

/// Versions that one step of a re-wrap moves.
const BATCH: u64 = 100;
pub const PROBE: SignedDuration = SignedDuration::from_secs(60);

/// What a store says of a root.
#[derive(Clone, Copy)]
pub enum Root {
    /// It works and has this version.
    Works(u32),
    Fails(FailureKind),
}

struct Key {
    view: KeyView,
    erased: bool,
}

pub struct Ledger {
    pub spec: Value,
    pub deleted: bool,
    keys: Vec<Key>,
    pub lost_since: Option<Timestamp>,
    last_erased: Option<(u32, Timestamp)>,
}

pub struct World {
    pub now: Timestamp,
    pub tenant: TenantView,
    pub object: Option<Account>,
    pub ledger: Option<Ledger>,
    pub roots: BTreeMap<String, Root>,
    probes: BTreeMap<String, Probe>,
    pub loaded: BTreeSet<u32>,
    pub dependents: i32,
    /// Keys of the ledger without an object.
    pub absent: Absent,
    pub next: Option<Timestamp>,
    /// Wraps and unwraps at a store, apart from probes.
    pub cloud_calls: u32,
}

pub fn say(effect: &Effect) -> String {
    match effect {
        Effect::AddFinalizer => "hold".to_owned(),
        Effect::RemoveFinalizer => "let go".to_owned(),
        Effect::Record => "record".to_owned(),
        Effect::Restore => "restore".to_owned(),
        Effect::Probe => "probe".to_owned(),
        Effect::ProbeInUse => "probe in use".to_owned(),
        Effect::Provision { after } => format!("provision v{}", after.unwrap_or(0) + 1),
        Effect::Load { version } => format!("load v{version}"),
        Effect::Refresh { version } => format!("refresh v{version}"),
        Effect::Rewrap { from, to } => format!("rewrap v{from} to v{to}"),
        Effect::Erase { version } => format!("erase v{version}"),
        Effect::MarkLost { .. } => "lost".to_owned(),
        Effect::MarkFound => "found".to_owned(),
        Effect::Forget => "forget".to_owned(),
        Effect::Delete => "delete".to_owned(),
        Effect::DeleteHomeless => "delete homeless".to_owned(),
    }
}

fn spec(reference: &str) -> AccountSpec {
    serde_json::from_value(json!({ "providerType": "AWSKMS", "keyReference": reference })).unwrap()
}

impl World {
    /// Three roots that work, an active tenant, no Account.
    pub fn new() -> Self {
        let roots = ["A", "B", "C"].map(|name| (name.to_owned(), Root::Works(1)));
        Self {
            now: dawn(),
            tenant: TenantView::Active,
            object: None,
            ledger: None,
            roots: BTreeMap::from(roots),
            probes: BTreeMap::new(),
            loaded: BTreeSet::new(),
            dependents: 0,
            absent: Absent::default(),
            next: None,
            cloud_calls: 0,
        }
    }

    /// An Account under root A that is ready and seals that much.
    pub fn with_account(seals: u64) -> Self {
        let mut world = Self::new();
        world.apply("A");
        world.settles("hold, record, probe, provision v1");
        world.seal(seals);
        world.cloud_calls = 0;
        world
    }

    pub fn apply(&mut self, reference: &str) {
        if let Some(object) = &mut self.object {
            reference.clone_into(&mut object.spec.key_reference);
            object.metadata.generation = object.metadata.generation.map(|generation| generation + 1);
        } else {
            let mut object = Account::new("root", spec(reference));
            object.metadata.generation = Some(1);
            self.object = Some(object);
        }
        self.probes.remove(reference); // it is looked at anew on every change of the spec
    }

    pub fn delete(&mut self) {
        let now = self.now;
        let metadata = &mut self.object.as_mut().unwrap().metadata;
        metadata.deletion_timestamp.get_or_insert(Time(now));
    }

    pub fn seal(&mut self, seals: u64) {
        let keys = &mut self.ledger.as_mut().unwrap().keys;
        keys.last_mut().unwrap().view.seals += seals;
    }

    pub fn sealed(&self) -> Vec<(u32, u64)> {
        self.living().map(|key| (key.view.version, key.view.seals)).collect()
    }

    pub fn root(&mut self, name: &str, root: Root) {
        self.roots.insert(name.to_owned(), root);
    }

    /// Time passes until the roots are looked at again.
    pub fn pass(&mut self, time: SignedDuration) {
        self.now += time;
    }

    /// A look at this root takes its time.
    pub fn look_begins(&mut self, reference: &str) {
        self.probes.insert(reference.to_owned(), Probe::Running);
    }

    pub fn look_ends(&mut self, reference: &str) {
        self.look(reference);
    }

    pub fn restart(&mut self) {
        self.probes.clear();
        self.loaded.clear();
    }

    fn living(&self) -> impl Iterator<Item = &Key> {
        self.ledger.iter().flat_map(|ledger| &ledger.keys).filter(|key| !key.erased)
    }

    fn probe(&self, reference: &str) -> Probe {
        self.probes.get(reference).cloned().unwrap_or(Probe::Never)
    }

    pub fn input(&self) -> Input<'_> {
        let desired = self.object.as_ref().map(|object| object.spec.key_reference.as_str());
        let view = |key: &Key| KeyView {
            by_desired_root: Some(key.view.reference.as_str()) == desired,
            loaded: self.loaded.contains(&key.view.version),
            ..key.view.clone()
        };
        let current = self.living().last().map(view);
        let retiring =
            self.living().filter(|key| Some(key.view.version) != current.as_ref().map(|it| it.version));
        let in_use = current.as_ref().map(|key| key.reference.as_str()).filter(|it| Some(*it) != desired);
        Input {
            now: self.now,
            settings: settings(dawn()),
            tenant: self.tenant,
            object: self.object.as_ref(),
            desired: desired.map_or(Probe::Never, |reference| self.probe(reference)),
            in_use: in_use.map(|reference| self.probe(reference)),
            record: self.ledger.as_ref().map(|ledger| Record {
                spec: ledger.spec.clone(),
                deleted: ledger.deleted,
                current: current.clone(),
                retiring: retiring.map(view).collect(),
                root_lost_since: ledger.lost_since,
                last_erased: ledger.last_erased,
            }),
            impact: Impact { keys: self.dependents, namespaces: 1, active_clients: 0 },
            dependents: (0..self.dependents).map(|n| format!("shop/key-{n}")).collect(),
            lost: Vec::new(),
            absent: self.absent.clone(),
        }
    }

    pub fn plan(&self) -> Plan<Effect, AccountStatus> {
        let made = plan(&self.input());
        assert_eq!(made, plan(&self.input()), "two looks at one world differ");
        made
    }

    pub fn view(&self) -> AccountView {
        account::view(&self.input())
    }

    /// One plan and its effect; `None` when there is nothing to do.
    pub fn step(&mut self) -> Option<(Effect, bool)> {
        let Plan { effect, status, next } = self.plan();
        if let (Some(status), Some(object)) = (status, &mut self.object) {
            object.status = Some(status);
        }
        self.next = next;
        let effect = effect?;
        let again = self.act(&effect);
        Some((effect, again))
    }

    pub fn settle(&mut self) -> Vec<Effect> {
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            match self.step() {
                Some((effect, again)) => {
                    done.push(effect);
                    if !again {
                        return done;
                    }
                }
                None => {
                    let again = self.plan();
                    assert_eq!(again.effect, None, "its own status makes it act");
                    if let (Some(status), Some(object)) = (again.status, &self.object) {
                        assert_eq!(Some(status), object.status, "its own status makes it write");
                    }
                    return done;
                }
            }
        }
        panic!("it does not come to rest: {}", done.iter().map(say).collect::<Vec<_>>().join(", "));
    }

    fn look(&mut self, reference: &str) {
        let since = match self.probes.get(reference) {
            Some(Probe::Done { outcome: Err(failure), .. }) => failure.since,
            _ => self.now,
        };
        let outcome = match self.roots.get(reference) {
            Some(Root::Works(version)) => Ok(Verified {
                reference: reference.to_owned(),
                version: version.to_string(),
                algorithm: "AES-256".to_owned(),
                at: self.now,
            }),
            Some(Root::Fails(kind)) => Err(failure(*kind, since)),
            None => Err(failure(FailureKind::Refused, since)),
        };
        self.probes.insert(reference.to_owned(), Probe::Done { outcome, next: self.now + PROBE });
    }

    fn answers(&self, reference: &str) -> Option<u32> {
        match self.roots.get(reference) {
            Some(Root::Works(version)) => Some(*version),
            _ => None,
        }
    }

    fn key(&mut self, version: u32) -> &mut Key {
        let keys = &mut self.ledger.as_mut().unwrap().keys;
        keys.iter_mut().find(|key| key.view.version == version && !key.erased).unwrap()
    }

    /// Carries out an effect; whether to plan again.
    fn act(&mut self, effect: &Effect) -> bool {
        let now = self.now;
        let desired = self.object.as_ref().map(|object| object.spec.key_reference.clone());
        match effect {
            Effect::AddFinalizer => hold(&mut self.object.as_mut().unwrap().metadata, true),
            Effect::RemoveFinalizer => {
                let metadata = &mut self.object.as_mut().unwrap().metadata;
                hold(metadata, false);
                if metadata.deletion_timestamp.is_some() {
                    self.object = None;
                }
            }
            Effect::Record => {
                let spec = serde_json::to_value(&self.object.as_ref().unwrap().spec).unwrap();
                let ledger = self.ledger.get_or_insert(Ledger {
                    spec: Value::Null,
                    deleted: false,
                    keys: Vec::new(),
                    lost_since: None,
                    last_erased: None,
                });
                ledger.spec = spec;
                ledger.deleted = false;
            }
            Effect::Restore => {
                let spec = serde_json::from_value(self.ledger.as_ref().unwrap().spec.clone()).unwrap();
                let mut object = Account::new("root", spec);
                object.metadata.generation = Some(1);
                hold(&mut object.metadata, true);
                self.object = Some(object);
            }
            Effect::Probe => self.look(&desired.unwrap()),
            Effect::ProbeInUse => {
                let reference = self.living().last().unwrap().view.reference.clone();
                self.look(&reference);
            }
            Effect::Provision { after } => {
                let newest = self.ledger.as_ref().unwrap().keys.last().map(|key| key.view.version);
                assert_eq!(*after, newest, "an account key is made twice");
                let version = after.unwrap_or(0) + 1;
                let reference = desired.unwrap();
                self.cloud_calls += 1;
                let Some(root_version) = self.answers(&reference) else { return false };
                let view = KeyView {
                    version,
                    by_desired_root: true,
                    reference,
                    root_version: root_version.to_string(),
                    loaded: true,
                    seals: 0,
                    created: now,
                };
                self.ledger.as_mut().unwrap().keys.push(Key { view, erased: false });
                self.loaded.insert(version);
            }
            Effect::Load { version } => {
                assert!(!self.loaded.contains(version));
                let reference = self.key(*version).view.reference.clone();
                self.cloud_calls += 1;
                if self.answers(&reference).is_none() {
                    return false; // tried again later
                }
                self.loaded.insert(*version);
            }
            Effect::Refresh { version } => {
                let reference = self.key(*version).view.reference.clone();
                let Some(root_version) = self.answers(&reference) else { return false };
                self.key(*version).view.root_version = root_version.to_string();
                return false; // the version of the last look may be older than this one: not again before the next look
            }
            Effect::Rewrap { from, to } => {
                assert!(self.loaded.contains(from) && self.loaded.contains(to) && from < to);
                let batch = self.key(*from).view.seals.min(BATCH);
                assert!(batch > 0);
                self.key(*from).view.seals -= batch;
                self.key(*to).view.seals += batch;
            }
            Effect::Erase { version } => {
                let newest = self.living().last().map(|key| key.view.version);
                assert_ne!(newest, Some(*version), "the account key in use is erased");
                let key = self.key(*version);
                assert_eq!(key.view.seals, 0, "an account key that still seals is erased");
                key.erased = true;
                self.ledger.as_mut().unwrap().last_erased = Some((*version, now));
                self.loaded.remove(version);
            }
            // As the ledger does: from the moment that it is recorded.
            Effect::MarkLost { .. } => self.ledger.as_mut().unwrap().lost_since = Some(now),
            Effect::MarkFound => self.ledger.as_mut().unwrap().lost_since = None,
            Effect::Forget => self.loaded.clear(),
            Effect::DeleteHomeless => self.absent.homeless.clear(),
            Effect::Delete => {
                assert_eq!(self.dependents, 0, "an Account goes while keys hang on it");
                assert_eq!(self.absent, Absent::default(), "the ledger would refuse");
                self.ledger.as_mut().unwrap().deleted = true;
            }
        }
        true
    }

    #[track_caller]
    pub fn settles(&mut self, expected: &str) {
        let done = self.settle();
        assert_eq!(done.iter().map(say).collect::<Vec<_>>().join(", "), expected);
    }

    pub fn status(&self) -> &AccountStatus {
        self.object.as_ref().and_then(|object| object.status.as_ref()).expect("no status was written")
    }

    /// `Phase vN Ready=… RootKeyVerified=…`.
    #[track_caller]
    pub fn shows(&self, expected: &str) {
        let status = self.status();
        let phase = status.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
        let version =
            status.account_key_version.map_or_else(|| "-".to_owned(), |version| format!("v{version}"));
        let ready = condition(&status.conditions, "Ready").unwrap_or_default();
        let root = condition(&status.conditions, "RootKeyVerified").unwrap_or_default();
        assert_eq!(format!("{phase} {version} {ready} {root}"), expected);
    }
}

fn failure(kind: FailureKind, since: Timestamp) -> Failure {
    let reason = match kind {
        FailureKind::Refused => "Disabled",
        FailureKind::Unreachable => "Unreachable",
        FailureKind::Throttled => "Throttled",
    };
    Failure { reason, message: format!("{reason}: do this"), kind, since }
}
