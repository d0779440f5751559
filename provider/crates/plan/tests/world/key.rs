//! One service key and what surrounds it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use openkcm_apis::{
    KeyState, ServiceEncryptionKey, ServiceEncryptionKeySpec, ServiceEncryptionKeyStatus, VersionState,
    parse_version,
};
use openkcm_plan::{
    Plan, TenantView,
    account::AccountView,
    key::{self, Declared, Edges, Effect, Eviction, HandedOut, Input, Offer, Record, Version, Why},
};
use serde_json::json;

use super::{ROUNDS, condition, dawn, hold, settings};

const LEASE: SignedDuration = SignedDuration::from_secs(5);
const WINDOW: SignedDuration = SignedDuration::from_hours(7 * 24);

pub struct World {
    pub now: Timestamp,
    pub started: Timestamp,
    pub tenant: TenantView,
    pub account: AccountView,
    /// Account keys whose root answers.
    pub loadable: BTreeSet<u32>,
    pub loaded: Vec<u32>,
    /// What the Account says, and what the orchestrator was told.
    pub regions: Vec<String>,
    placed: Vec<String>,
    pub object: Option<ServiceEncryptionKey>,
    pub record: Option<Record>,
    pub declared: Option<Declared>,
    /// The operator accepts that the ledger is older, up to here.
    pub accepted: u32,
    pub refused: Option<String>,
    pub handed_out: Option<HandedOut>,
    /// What edges were given with it.
    pub held: Option<Offer>,
    /// An edge does not answer; only the end of its lease makes it safe.
    pub cut_off: bool,
    /// An edge that is not counted may have an earlier state.
    pub behind: Option<&'static str>,
    evicted_at: Timestamp,
    /// What the orchestrator says of an eviction.
    pub eviction: &'static str,
    pub next: Option<Timestamp>,
    /// Every version that was ever made.
    pub numbers: Vec<u32>,
    /// Every request that was served, in order.
    pub requests: Vec<String>,
}

pub fn ready(version: u32) -> AccountView {
    AccountView::Ready { version, rotate_before: None, deleting: false }
}

pub fn lost() -> AccountView {
    AccountView::Unavailable { reason: "Disabled".to_owned(), message: "enable it".to_owned() }
}

pub fn spec(account: &str, schedule: &str) -> ServiceEncryptionKeySpec {
    let spec = json!({ "accountRef": { "name": account }, "rotationSchedule": schedule });
    serde_json::from_value(spec).unwrap()
}

pub fn say(effect: &Effect) -> String {
    match effect {
        Effect::AddFinalizer => "hold".to_owned(),
        Effect::RemoveFinalizer => "let go".to_owned(),
        Effect::Restore => "restore".to_owned(),
        Effect::Record { .. } => "record".to_owned(),
        Effect::Forget => "forget".to_owned(),
        Effect::Create { .. } => "create".to_owned(),
        Effect::Rotate { after, why, .. } => {
            let why = match why {
                Why::Schedule => "schedule",
                Why::Request => "request",
                Why::Compromised => "compromised",
                Why::RootCompromised => "root compromised",
            };
            format!("rotate to v{} ({why})", after + 1)
        }
        Effect::Compromise { versions } => format!("compromise {versions:?}"),
        Effect::Delete => "delete".to_owned(),
        Effect::Recover => "recover".to_owned(),
        Effect::Load { versions } => format!("load {versions:?}"),
        Effect::Serve { .. } => "serve".to_owned(),
        Effect::Place => "place".to_owned(),
        Effect::Evict(Eviction::Disabled) => "evict (disabled)".to_owned(),
        Effect::Evict(Eviction::RootLost) => "evict (root lost)".to_owned(),
        Effect::Evict(Eviction::TenantSuspended) => "evict (suspended)".to_owned(),
        Effect::Evict(Eviction::Deleted) => "evict (deleted)".to_owned(),
    }
}

impl World {
    /// An empty ledger, an active tenant, an Account that is ready.
    pub fn new() -> Self {
        Self {
            now: dawn(),
            started: dawn(),
            tenant: TenantView::Active,
            account: ready(1),
            loadable: BTreeSet::from([1]),
            loaded: Vec::new(),
            regions: Vec::new(),
            placed: Vec::new(),
            object: None,
            record: None,
            declared: None,
            accepted: 0,
            refused: None,
            handed_out: None,
            held: None,
            cut_off: false,
            behind: None,
            evicted_at: dawn(),
            eviction: "evicted on 1/2",
            next: None,
            numbers: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// A key of that schedule that is made and served.
    pub fn with_key(schedule: &str) -> Self {
        let mut world = Self::new();
        world.apply(spec("root", schedule));
        world.settles("hold, record, load [1], create, serve");
        world
    }

    // What people and the world do.

    /// `kubectl apply`.
    pub fn apply(&mut self, spec: ServiceEncryptionKeySpec) {
        if let Some(object) = &mut self.object {
            if object.metadata.deletion_timestamp.is_none() && object.spec != spec {
                object.spec = spec;
                object.metadata.generation = object.metadata.generation.map(|generation| generation + 1);
            }
            return;
        }
        let mut object = ServiceEncryptionKey::new("orders", spec);
        object.metadata.generation = Some(1);
        self.object = Some(object);
    }

    pub fn edit(&mut self, change: impl FnOnce(&mut ServiceEncryptionKeySpec)) {
        if let Some(object) = &self.object {
            let mut spec = object.spec.clone();
            change(&mut spec);
            self.apply(spec);
        }
    }

    pub fn request(&mut self, request: &str) {
        self.edit(|spec| spec.rotation_request = Some(request.to_owned()));
    }

    pub fn state(&mut self, state: KeyState) {
        self.edit(|spec| spec.state = state);
    }

    /// `kubectl delete`.
    pub fn delete(&mut self) {
        let Some(object) = &mut self.object else { return };
        if object.metadata.finalizers.iter().flatten().next().is_none() {
            self.object = None;
        } else if object.metadata.deletion_timestamp.is_none() {
            object.metadata.deletion_timestamp = Some(Time(self.now));
        }
    }

    pub fn pass(&mut self, time: SignedDuration) {
        self.now += time;
    }

    /// The provider starts again: what it had in memory only is gone.
    pub fn restart(&mut self) {
        self.started = self.now;
        self.handed_out = None;
        self.held = None;
        self.loaded.clear();
        self.refused = None;
    }

    /// The deletion window ends.
    pub fn destroy_due(&mut self) {
        if self.record.as_ref().is_some_and(|record| record.delete_after.is_some_and(|at| at <= self.now)) {
            self.record = None;
            self.handed_out = None;
            // Another key of this name starts from the beginning.
            self.numbers.clear();
            self.requests.clear();
        }
    }

    // The provider.

    fn all_evicted(&self) -> bool {
        matches!(self.handed_out, Some(HandedOut::Evict(_)))
            && (!self.cut_off || self.now >= self.evicted_at + LEASE)
    }

    pub fn input(&self) -> Input<'_> {
        Input {
            now: self.now,
            settings: settings(self.started),
            tenant: self.tenant,
            tenant_name: "tenant-root-demo",
            object: self.object.as_ref(),
            account: self.account.clone(),
            regions: &self.regions,
            loaded: &self.loaded,
            unopenable: &[],
            record: self.record.clone(),
            declared: self.declared.clone(),
            edges: Edges {
                handed_out: self.handed_out,
                total: 2,
                current: u32::from(!self.cut_off) + 1,
                behind: self.behind,
                evicted: if self.all_evicted() { 2 } else { 1 },
                all_evicted: self.all_evicted(),
                eviction: self.eviction.to_owned(),
                regions: if self.is_served() { self.placed.clone() } else { Vec::new() },
                leaving: None,
                active_clients: 3,
                held: self.held.clone().filter(|_| self.is_served()),
            },
            refused: self.refused.clone(),
        }
    }

    pub fn plan(&self) -> Plan<Effect, ServiceEncryptionKeyStatus> {
        let plan = key::plan(&self.input());
        assert_eq!(plan, key::plan(&self.input()), "two looks at one world differ");
        plan
    }

    /// Plans and acts until there is nothing to do; what was done.
    pub fn settle(&mut self) -> Vec<Effect> {
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            let Plan { effect, status, next } = self.plan();
            if let (Some(status), Some(object)) = (status, &mut self.object) {
                let shown = status.current_version.as_deref().and_then(parse_version).unwrap_or(0);
                let recorded = self.record.as_ref().map_or(0, |record| record.current);
                assert!(shown <= recorded, "the status shows v{shown}, the ledger has v{recorded}");
                object.status = Some(status);
            }
            self.next = next;
            let Some(effect) = effect else {
                let again = self.plan();
                assert_eq!(again.effect, None, "its own status makes it act");
                if let (Some(status), Some(object)) = (again.status, &self.object) {
                    assert_eq!(Some(status), object.status, "its own status makes it write");
                }
                return done;
            };
            done.push(effect.clone());
            if !self.act(effect) {
                return done;
            }
        }
        panic!("it does not come to rest: {}", done.iter().map(say).collect::<Vec<_>>().join(", "));
    }

    /// Carries out an effect; whether to plan again.
    pub fn act(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::AddFinalizer => hold(&mut self.object.as_mut().unwrap().metadata, true),
            Effect::RemoveFinalizer => {
                let metadata = &mut self.object.as_mut().unwrap().metadata;
                hold(metadata, false);
                if metadata.deletion_timestamp.is_some() {
                    self.object = None;
                }
            }
            Effect::Restore => {
                assert!(self.object.is_none());
                let living = self.record.as_ref().filter(|record| record.delete_after.is_none());
                let spec = living
                    .map_or_else(|| &self.declared.as_ref().unwrap().spec, |record| &record.spec)
                    .clone();
                let spec = serde_json::from_value(spec).unwrap();
                self.apply(spec);
                hold(&mut self.object.as_mut().unwrap().metadata, true);
            }
            Effect::Record { seen } => {
                let spec = serde_json::to_value(&self.object.as_ref().unwrap().spec).unwrap();
                let living = self.record.as_mut().filter(|record| record.delete_after.is_none());
                let Some(record) = living else {
                    let seen = self.declared.as_ref().map_or(seen, |declared| declared.seen.max(seen));
                    self.declared = Some(Declared { spec, seen });
                    return true;
                };
                record.spec = spec;
                record.seen = record.seen.max(seen);
                record.behind = record.seen > record.current && record.seen > self.accepted;
            }
            Effect::Forget => assert!(self.declared.take().is_some()),
            Effect::Create { account_key } => self.create(account_key),
            Effect::Rotate { after, account_key, request, .. } => self.rotate(after, account_key, request),
            Effect::Compromise { versions } => {
                assert!(!versions.is_empty());
                for version in &mut self.record.as_mut().unwrap().versions {
                    if versions.contains(&version.version) {
                        version.state = VersionState::Compromised;
                    }
                }
            }
            Effect::Delete => {
                let until = self.now + WINDOW;
                let record = self.record.as_mut().unwrap();
                assert_eq!(record.delete_after, None);
                record.delete_after = Some(until);
            }
            Effect::Recover => {
                let now = self.now;
                let record = self.record.as_mut().unwrap();
                assert!(record.delete_after.take().is_some());
                record.recovered_at = Some(now);
                self.declared = None;
            }
            Effect::Load { versions } => {
                assert!(versions.iter().any(|version| !self.loaded.contains(version)));
                for version in versions {
                    if !self.loadable.contains(&version) {
                        return false; // it comes back when its root answers
                    }
                    self.loaded.push(version);
                }
            }
            Effect::Serve { fingerprint, offer } => {
                let (object, record) = (self.object.as_ref().unwrap(), self.record.as_ref().unwrap());
                assert_eq!(object.spec.state, KeyState::Enabled, "a disabled key is handed out");
                assert_eq!(self.tenant, TenantView::Active);
                assert!(record.delete_after.is_none());
                for number in &offer.versions {
                    let version = record.versions.iter().find(|version| version.version == *number).unwrap();
                    let held = self.held.as_ref().is_some_and(|held| held.versions.contains(number));
                    assert!(
                        held || self.loaded.contains(&version.account_key_version),
                        "v{number} cannot be opened"
                    );
                    let compromised = version.state == VersionState::Compromised;
                    assert!(!compromised || object.spec.allow_compromised_decrypt, "v{number} is handed out");
                }
                self.held = Some(offer);
                assert_ne!(self.handed_out, Some(HandedOut::Serve(fingerprint)));
                self.handed_out = Some(HandedOut::Serve(fingerprint));
                self.placed.clone_from(&self.regions);
            }
            Effect::Place => {
                assert!(self.is_served());
                self.placed.clone_from(&self.regions);
            }
            Effect::Evict(reason) => {
                self.held = None;
                if !matches!(self.handed_out, Some(HandedOut::Evict(_))) {
                    self.evicted_at = self.now;
                }
                self.handed_out = Some(HandedOut::Evict(reason));
            }
        }
        true
    }

    fn create(&mut self, account_key: u32) {
        assert!(self.record.is_none() && self.loaded.contains(&account_key));
        assert_eq!(self.tenant, TenantView::Active, "the ledger makes no key for this tenant");
        let object = self.object.as_ref().unwrap();
        let shown = object.status.as_ref().and_then(|status| status.current_version.as_deref());
        let shown = shown.and_then(parse_version).unwrap_or(0);
        let seen = shown.max(self.declared.as_ref().map_or(0, |declared| declared.seen));
        if seen > self.accepted {
            self.refused = Some(format!("was seen with v{seen}, the ledger has none"));
            return;
        }
        let first = seen + 1;
        self.numbers.push(first);
        self.declared = None;
        self.record = Some(Record {
            id: [7; 16],
            account: object.spec.account_ref.name.clone(),
            spec: serde_json::to_value(&object.spec).unwrap(),
            current: first,
            last_rotation: self.now,
            served_request: None,
            delete_after: None,
            recovered_at: None,
            behind: false,
            seen,
            versions: vec![version(first, account_key, self.now)],
        });
    }

    fn rotate(&mut self, after: u32, account_key: u32, request: Option<String>) {
        assert_eq!(self.tenant, TenantView::Active, "the ledger makes no version for this tenant");
        assert!(self.loaded.contains(&account_key));
        let now = self.now;
        let record = self.record.as_mut().unwrap();
        assert_eq!(record.current, after, "it rotates what is not current");
        assert!(!record.behind && record.delete_after.is_none());
        assert!(request.is_none() || request != record.served_request, "a request is served twice");
        let next = record.current.max(record.seen) + 1;
        assert!(!self.numbers.contains(&next), "v{next} is used again");
        self.numbers.push(next);
        for old in &mut record.versions {
            if old.state == VersionState::Active {
                old.state = VersionState::Deactivated;
            }
        }
        record.versions.insert(0, version(next, account_key, now));
        record.current = next;
        record.last_rotation = now;
        if let Some(request) = request {
            self.requests.push(request.clone());
            record.served_request = Some(request);
        }
    }

    // What one sees.

    /// Plans and acts, and says what must have been done.
    #[track_caller]
    pub fn settles(&mut self, expected: &str) {
        let done = self.settle();
        let words: Vec<_> = done.iter().map(say).collect();
        assert_eq!(words.join(", "), expected);
    }

    pub fn status(&self) -> &ServiceEncryptionKeyStatus {
        self.object.as_ref().and_then(|object| object.status.as_ref()).expect("no status was written")
    }

    /// `State vN Ready=…`.
    #[track_caller]
    pub fn shows(&self, expected: &str) {
        let status = self.status();
        let state = status.state.map_or_else(String::new, |state| format!("{state:?}"));
        let version = status.current_version.as_deref().unwrap_or("-");
        let ready = condition(&status.conditions, "Ready").unwrap_or_default();
        assert_eq!(format!("{state} {version} {ready}"), expected);
    }

    pub fn is_served(&self) -> bool {
        matches!(self.handed_out, Some(HandedOut::Serve(_)))
    }

    pub fn current(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.current)
    }

    pub fn next_rotation(&self) -> Option<Timestamp> {
        self.status().next_rotation.as_ref().map(|time| time.0)
    }
}

fn version(version: u32, account_key_version: u32, created: Timestamp) -> Version {
    Version { version, state: VersionState::Active, account_key_version, created, destroyed: None }
}
