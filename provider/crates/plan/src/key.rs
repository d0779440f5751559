//! A service key: made, rotated, switched off and on, deleted, brought back.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use openkcm_apis::{
    EdgeCounts, EffectiveState, KeyState, KeyVersion, RotationSchedule, ServiceEncryptionKey,
    ServiceEncryptionKeyStatus, VersionState,
    conditions::{self, reasons},
    format_version, parse_version,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    Event, Plan, Settings, TenantView,
    account::AccountView,
    conditions::{Conditions, has_finalizer},
    earliest, rotation,
};

/// A rotation that is this late is shown as overdue.
const OVERDUE: SignedDuration = SignedDuration::from_mins(15);

/// What the ledger says of a service key.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What ciphertexts name.
    pub id: [u8; 16],
    /// The account that protects it, for life.
    pub account: String,
    /// The spec as last recorded.
    pub spec: Value,
    /// The version that encrypts.
    pub current: u32,
    /// When that version was made.
    pub last_rotation: Timestamp,
    /// The last `rotationRequest` that was served.
    pub served_request: Option<String>,
    /// Deleted by its user; everything is kept until then.
    pub delete_after: Option<Timestamp>,
    /// It was deleted, or its tenant was unbound, and it came back.
    pub recovered_at: Option<Timestamp>,
    /// The world has seen newer versions than this ledger holds.
    pub behind: bool,
    /// The highest version that was seen outside.
    pub seen: u32,
    /// All versions that are left, newest first.
    pub versions: Vec<Version>,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub version: u32,
    /// Its state.
    pub state: VersionState,
    /// The account key version that seals it.
    pub account_key_version: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When it was destroyed.
    pub destroyed: Option<Timestamp>,
}

/// What the ledger says of a key that has no version yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The spec as last recorded.
    pub spec: Value,
    /// The highest version that was seen outside.
    pub seen: u32,
}

/// What the edges hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edges {
    /// The fingerprint of what is handed out now; `None`: nothing was decided since the provider started.
    pub handed_out: Option<HandedOut>,
    /// Edges that may have the key.
    pub total: u32,
    /// Those that have acknowledged what is handed out.
    pub current: u32,
    /// For people, when all of these have: why another edge may be able to use an earlier state.
    pub behind: Option<&'static str>,
    /// Those that cannot use the key any more.
    pub evicted: u32,
    /// No edge can use it.
    pub all_evicted: bool,
    /// For people: `evicted on 98/100, 2 leases end in 3.1 s`, or `evicted on 100/100 edges in 12 ms`.
    pub eviction: String,
    /// The regions that what is handed out may be in, sorted; empty: anywhere.
    pub regions: Vec<String>,
    /// For people, while an edge that may not have the key any more may still be able to use it.
    pub leaving: Option<String>,
    /// Distinct callers in the last window.
    pub active_clients: u32,
    /// What they were given last; none unless they serve the key.
    pub held: Option<Offer>,
}

/// What edges are given of a key: all that can be had of it without a root key's help.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The version that encrypts.
    pub current: u32,
    /// The versions that can be used, newest first.
    pub versions: Vec<u32>,
}

/// What the orchestrator was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedOut {
    /// To serve this.
    Serve(u64),
    /// To take it back, for this reason.
    Evict(Eviction),
}

/// Why nobody can use a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Its user disabled it.
    Disabled,
    /// Its root key is lost.
    RootLost,
    /// The operator suspended its tenant, or it unbinds.
    TenantSuspended,
    /// It is being deleted.
    Deleted,
}

/// Everything that the decision depends on.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The time.
    pub now: Timestamp,
    /// Set for the whole provider.
    pub settings: Settings,
    /// The workspace.
    pub tenant: TenantView,
    /// Name of the Tenant, for callers of the edge.
    pub tenant_name: &'a str,
    /// The ServiceEncryptionKey object.
    pub object: Option<&'a ServiceEncryptionKey>,
    /// Its account.
    pub account: AccountView,
    /// The regions that the Account lets its keys be in, sorted; empty: anywhere.
    pub regions: &'a [String],
    /// The account keys that are unwrapped in memory.
    pub loaded: &'a [u32],
    /// Account keys whose root refuses to unwrap them: what they seal is out of reach until it does.
    pub unopenable: &'a [u32],
    /// The ledger's record.
    pub record: Option<Record>,
    /// What the ledger has of a key of this name that is not made.
    pub declared: Option<Declared>,
    /// The edges.
    pub edges: Edges,
    /// The ledger refused to make the key: it is older than what the object says.
    pub refused: Option<String>,
}

/// What to do about a service key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Put our finalizer on the object.
    AddFinalizer,
    /// Let the object go.
    RemoveFinalizer,
    /// Put the object back as the ledger knows it.
    Restore,
    /// Record the spec, and the highest version that the object speaks of; of a key without a version, too.
    Record {
        /// From the status, or 0.
        seen: u32,
    },
    /// Its user deleted a key that was never made.
    Forget,
    /// Make the key with version 1.
    Create {
        /// Under this account key.
        account_key: u32,
    },
    /// Make one more version, if the current one still is what was seen.
    Rotate {
        /// The version that is current now.
        after: u32,
        /// Under this account key.
        account_key: u32,
        /// The request that this serves.
        request: Option<String>,
        /// Why, for the diary.
        why: Why,
    },
    /// Declare versions compromised.
    Compromise {
        /// These versions.
        versions: Vec<u32>,
    },
    /// Record that the object was deleted; keep everything for the window.
    Delete,
    /// Bring it back from deletion.
    Recover,
    /// Ask for account keys to be unwrapped; the key is planned again when they are.
    Load {
        /// Which ones.
        versions: Vec<u32>,
    },
    /// Hand the key to the edges.
    Serve {
        /// Of what is handed out.
        fingerprint: u64,
        /// What is handed out. Where the account key is not in memory, the version is among those that edges have.
        offer: Offer,
    },
    /// Keep what is handed out to edges of the regions that the Account says now, at once.
    Place,
    /// Take the key back from every edge, at once.
    Evict(Eviction),
}

/// Why a key rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its schedule says so.
    Schedule,
    /// A person asked.
    Request,
    /// A version was declared compromised.
    Compromised,
    /// The old root of its account is compromised.
    RootCompromised,
}

impl Effect {
    /// One word, for logs and tests.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "add-finalizer",
            Self::RemoveFinalizer => "remove-finalizer",
            Self::Restore => "restore",
            Self::Record { .. } => "record",
            Self::Forget => "forget",
            Self::Create { .. } => "create",
            Self::Rotate { .. } => "rotate",
            Self::Compromise { .. } => "compromise",
            Self::Delete => "delete",
            Self::Recover => "recover",
            Self::Load { .. } => "load",
            Self::Serve { .. } => "serve",
            Self::Place => "place",
            Self::Evict(_) => "evict",
        }
    }

    /// What the diary says once the effect is done.
    pub fn event(&self) -> Option<Event> {
        let event = |reason, message: String| Some(Event { warning: false, reason, message });
        match self {
            Self::Create { .. } => event("Created", "Version v1 was made and recorded.".to_owned()),
            Self::Rotate { after, why, .. } => {
                let why = match why {
                    Why::Schedule => "the schedule says so",
                    Why::Request => "rotationRequest asked for it",
                    Why::Compromised => "the version before was declared compromised",
                    Why::RootCompromised => "the account's former root key is compromised",
                };
                event(
                    "Rotated",
                    format!(
                        "Version {} was made because {why}; older versions still decrypt.",
                        format_version(after + 1)
                    ),
                )
            }
            Self::Evict(Eviction::Disabled) => {
                event("Disabled", "The key was taken back from every edge.".to_owned())
            }
            Self::Evict(Eviction::RootLost) => Some(Event {
                warning: true,
                reason: "RootLost",
                message: "The root key cannot be used; the key was taken back from every edge.".to_owned(),
            }),
            Self::Recover => event("Recovered", "The key came back with every version it had.".to_owned()),
            Self::Compromise { versions } => Some(Event {
                warning: true,
                reason: "Compromised",
                message: format!("Declared compromised: {}.", join(versions)),
            }),
            _ => None,
        }
    }
}

fn join(versions: &[u32]) -> String {
    versions.iter().map(|version| format_version(*version)).collect::<Vec<_>>().join(", ")
}

/// Decides about one service key.
pub fn plan(input: &Input<'_>) -> Plan<Effect, ServiceEncryptionKeyStatus> {
    if input.tenant == TenantView::Unknown {
        return Plan::idle();
    }
    let Some(object) = input.object else { return without_object(input) };
    let deleting = object.metadata.deletion_timestamp.is_some();
    let ours = has_finalizer(&object.metadata);
    let record = input.record.as_ref().filter(|record| record.delete_after.is_none());
    let spec = serde_json::to_value(&object.spec).unwrap_or_default();
    let seen = seen_version(object);
    let unrecorded = match record {
        // An object of the same name under another Account is not this key's.
        Some(record) if record.account != object.spec.account_ref.name => false,
        Some(record) => record.spec != spec || seen > record.seen.max(record.current),
        // Its user's delete has been recorded.
        None if deleting && input.record.is_some() && input.declared.is_none() => false,
        None => input.declared.as_ref().is_none_or(|declared| declared.spec != spec || seen > declared.seen),
    };

    if input.tenant == TenantView::Unbinding {
        return if let Some(effect) = evict(input, Eviction::TenantSuspended) {
            Plan::act(effect)
        } else if deleting && ours && unrecorded {
            Plan::act(Effect::Record { seen })
        } else if deleting && ours {
            Plan::act(Effect::RemoveFinalizer)
        } else {
            Plan::idle()
        };
    }
    if deleting {
        return deletion(input, object, ours);
    }
    // Taking back comes before everything else that could fail or wait, or that a consumer could keep undoing.
    if let Some(effect) = reason_to_evict(input, object).and_then(|reason| evict(input, reason)) {
        return Plan::act(effect);
    }
    if matches!(input.edges.handed_out, Some(HandedOut::Serve(_))) && input.edges.regions != input.regions {
        return Plan::act(Effect::Place);
    }
    if !ours {
        return Plan::act(Effect::AddFinalizer);
    }
    if unrecorded {
        return Plan::act(Effect::Record { seen });
    }
    let schedule = match object.spec.rotation_schedule.parse::<RotationSchedule>() {
        Ok(schedule) => schedule,
        Err(error) => {
            return refused(input, object, reasons::INVALID_SPEC, &format!("rotationSchedule: {error}"));
        }
    };
    match (&input.record, &input.account) {
        (_, AccountView::Missing) => refused(
            input,
            object,
            reasons::ACCOUNT_NOT_FOUND,
            &format!(
                "There is no Account {:?} in this workspace. Create it, or create the key under another one; list them with: kubectl get accounts.openkcm.io",
                object.spec.account_ref.name
            ),
        ),
        (Some(record), _) if record.account != object.spec.account_ref.name => Plan {
            // The name is free again then.
            next: record.delete_after,
            ..refused(
                input,
                object,
                reasons::INVALID_SPEC,
                &format!(
                    "A deleted key of this name is kept under Account {:?}. Use that Account to bring it back, use another name, or wait until {}.",
                    record.account,
                    record.delete_after.map_or_else(
                        || "it is destroyed".to_owned(),
                        |until| until.strftime("%FT%TZ").to_string()
                    )
                ),
            )
        },
        (None, AccountView::Deleting | AccountView::Ready { deleting: true, .. }) => refused(
            input,
            object,
            reasons::ACCOUNT_DELETING,
            "The Account is being deleted; no key can be created under it.",
        ),
        (Some(record), _) if record.delete_after.is_some() => Plan::act(Effect::Recover),
        (None, _) if input.tenant == TenantView::Suspended => refused(
            input,
            object,
            reasons::TENANT_SUSPENDED,
            "The operator of OpenKCM suspended this tenant; the key is made when it is resumed. See: kubectl get tenants.openkcm.io",
        ),
        (None, AccountView::Pending { reason, message } | AccountView::Unavailable { reason, message }) => {
            refused(
                input,
                object,
                reasons::ACCOUNT_NOT_READY,
                &format!("Account {:?} is not ready ({reason}): {message}", object.spec.account_ref.name),
            )
        }
        (None, AccountView::Ready { version, .. }) => match &input.refused {
            Some(why) => refused(input, object, reasons::LEDGER_BEHIND, why),
            None => create(input, *version),
        },
        (Some(record), _) => live(input, object, record, schedule),
    }
}

fn without_object(input: &Input<'_>) -> Plan<Effect, ServiceEncryptionKeyStatus> {
    if input.record.as_ref().is_none_or(|record| record.delete_after.is_some()) {
        return match evict(input, Eviction::Deleted) {
            Some(effect) => Plan::act(effect),
            None if input.declared.is_some() && input.tenant != TenantView::Unbinding => {
                Plan::act(Effect::Restore)
            }
            None => Plan::idle(),
        };
    }
    if input.tenant == TenantView::Unbinding {
        return evict(input, Eviction::TenantSuspended).map_or_else(Plan::idle, Plan::act);
    }
    let taken_back = match (input.tenant, &input.account) {
        (TenantView::Suspended, _) => evict(input, Eviction::TenantSuspended),
        (_, AccountView::Unavailable { .. }) => evict(input, Eviction::RootLost),
        _ => None,
    };
    // Its user's delete would have passed our finalizer.
    Plan::act(taken_back.unwrap_or(Effect::Restore))
}

fn deletion(
    input: &Input<'_>,
    object: &ServiceEncryptionKey,
    ours: bool,
) -> Plan<Effect, ServiceEncryptionKeyStatus> {
    if let Some(effect) = evict(input, Eviction::Deleted) {
        return Plan::act(effect);
    }
    if !ours {
        return Plan::idle();
    }
    if input.declared.is_some() {
        return Plan::act(Effect::Forget);
    }
    match &input.record {
        None => Plan::act(Effect::RemoveFinalizer),
        Some(record) if record.delete_after.is_none() => Plan::act(Effect::Delete),
        Some(_) if input.edges.all_evicted => Plan::act(Effect::RemoveFinalizer),
        Some(record) => Plan::settled(
            status(input, object, Some(record), EffectiveState::PendingDeletion, None),
            Some(input.now + SignedDuration::from_secs(1)),
        ),
    }
}

fn create(input: &Input<'_>, account_key: u32) -> Plan<Effect, ServiceEncryptionKeyStatus> {
    if input.loaded.contains(&account_key) {
        Plan::act(Effect::Create { account_key })
    } else {
        Plan {
            next: Some(input.now + SignedDuration::from_secs(30)),
            ..Plan::act(Effect::Load { versions: vec![account_key] })
        }
    }
}

/// Why the key must not be usable at any edge.
fn reason_to_evict(input: &Input<'_>, object: &ServiceEncryptionKey) -> Option<Eviction> {
    if input.tenant == TenantView::Suspended {
        Some(Eviction::TenantSuspended)
    } else if object.spec.state == KeyState::Disabled {
        Some(Eviction::Disabled)
    } else if matches!(input.account, AccountView::Unavailable { .. }) {
        Some(Eviction::RootLost)
    } else {
        None
    }
}

fn evict(input: &Input<'_>, reason: Eviction) -> Option<Effect> {
    // A key that was never made needs no taking back.
    input.record.as_ref()?;
    (input.edges.handed_out != Some(HandedOut::Evict(reason))).then_some(Effect::Evict(reason))
}

/// A key that exists and whose object is not being deleted.
fn live(
    input: &Input<'_>,
    object: &ServiceEncryptionKey,
    record: &Record,
    schedule: RotationSchedule,
) -> Plan<Effect, ServiceEncryptionKeyStatus> {
    let compromised = newly_compromised(object, record);
    if !compromised.is_empty() {
        return Plan::act(Effect::Compromise { versions: compromised });
    }
    let mut evicted = reason_to_evict(input, object);
    let due = due(input, object, record, schedule);
    let scheduled = scheduled(record, schedule);
    // While a root is asked, people read what is true meanwhile.
    let load = |versions: Vec<u32>| Plan {
        status: input
            .edges
            .held
            .as_ref()
            .map(|_| status(input, object, Some(record), EffectiveState::Active, scheduled)),
        ..Plan::act(Effect::Load { versions })
    };
    if evicted.is_none()
        && let AccountView::Ready { version, .. } = &input.account
    {
        let current = record.versions.iter().find(|version| version.version == record.current);
        let in_reach = current.is_none_or(|version| !input.unopenable.contains(&version.account_key_version));
        let (offer, missing) = offer(input, object, record);
        // First of all, and without a root's help: a client or a version that was taken away must not stay for as long as
        // a store is silent.
        if let Some(offer) = offer.filter(|_| in_reach) {
            let fingerprint = fingerprint(input, object, record, &offer);
            if input.edges.handed_out != Some(HandedOut::Serve(fingerprint)) {
                return Plan::act(Effect::Serve { fingerprint, offer });
            }
        }
        if let Some((why, request, at)) = &due
            && *at <= input.now
            && !record.behind
        {
            if !input.loaded.contains(version) {
                return load(vec![*version]);
            }
            return Plan::act(Effect::Rotate {
                after: record.current,
                account_key: *version,
                request: request.clone(),
                why: *why,
            });
        }
        if in_reach && !missing.is_empty() {
            return load(missing);
        }
        if !in_reach {
            // An edge refuses a key whose current version it does not know. It can be known again when the next one is
            // made or the root is back. (A compromised one is known, as such: older versions go on to decrypt.)
            if let Some(effect) = evict(input, Eviction::RootLost) {
                return Plan::act(effect);
            }
            evicted = Some(Eviction::RootLost);
        }
    }
    let state = match evicted {
        Some(Eviction::Disabled) => EffectiveState::Disabled,
        Some(_) => EffectiveState::Unavailable,
        None => EffectiveState::Active,
    };
    let at = due.as_ref().map(|(_, _, at)| *at).filter(|at| *at > input.now);
    let scheduled = scheduled.filter(|_| evicted.is_none());
    let overdue = scheduled.map(|at| at + OVERDUE).filter(|at| *at > input.now);
    let leaving = input.edges.leaving.is_some() || (evicted.is_some() && !input.edges.all_evicted);
    let settle = leaving.then(|| input.now + SignedDuration::from_secs(1));
    Plan::settled(
        status(input, object, Some(record), state, scheduled),
        earliest(earliest(at, settle), overdue),
    )
}

fn period(schedule: RotationSchedule) -> Option<SignedDuration> {
    schedule.seconds().map(|seconds| SignedDuration::from_secs(seconds.into()))
}

/// When the schedule wants the next version.
fn scheduled(record: &Record, schedule: RotationSchedule) -> Option<Timestamp> {
    let period = period(schedule)?;
    rotation::next_rotation(record.last_rotation, period, &record.id, record.current)
}

/// The next rotation, why, and when it may happen.
fn due(
    input: &Input<'_>,
    object: &ServiceEncryptionKey,
    record: &Record,
    schedule: RotationSchedule,
) -> Option<(Why, Option<String>, Timestamp)> {
    let request = object
        .spec
        .rotation_request
        .clone()
        .filter(|request| record.served_request.as_ref() != Some(request));
    let soonest = record.last_rotation + rotation::min_interval(record.versions.len());
    let current = record.versions.iter().find(|version| version.version == record.current);
    let why = if current.is_some_and(|version| version.state == VersionState::Compromised) {
        Some(Why::Compromised)
    } else if matches!(&input.account, AccountView::Ready { rotate_before: Some(before), .. } if record.last_rotation < *before)
    {
        Some(Why::RootCompromised)
    } else if request.is_some() {
        Some(Why::Request)
    } else {
        None
    };
    if let Some(why) = why {
        // A clock that was set back must not hold up what a person asked for.
        let at = if record.last_rotation > input.now { input.now } else { soonest };
        return Some((why, request, at));
    }
    let due = scheduled(record, schedule)?;
    let at = rotation::act_at(due, input.settings.started, period(schedule)?, &record.id, record.current);
    Some((Why::Schedule, None, at.max(soonest)))
}

fn newly_compromised(object: &ServiceEncryptionKey, record: &Record) -> Vec<u32> {
    let named = object.spec.compromised_versions.iter().filter_map(|version| parse_version(version));
    named
        .filter(|number| {
            let usable = |version: &&Version| {
                matches!(version.state, VersionState::Active | VersionState::Deactivated)
            };
            record.versions.iter().filter(usable).any(|version| version.version == *number)
        })
        .collect()
}

/// Versions that an edge may hold: those that may be used and can be opened.
fn usable<'a>(
    object: &'a ServiceEncryptionKey,
    record: &'a Record,
    unopenable: &'a [u32],
) -> impl Iterator<Item = &'a Version> + 'a {
    let allow = object.spec.allow_compromised_decrypt;
    let open = record.versions.iter().filter(|version| !unopenable.contains(&version.account_key_version));
    open.filter(move |version| match version.state {
        VersionState::Active | VersionState::Deactivated => true,
        VersionState::Compromised => allow,
        VersionState::PreActive | VersionState::Destroyed => false,
    })
}

/// What edges can be given now, and the account keys that the rest needs. Nothing, if they have nothing yet and something
/// is missing: half a key helps nobody.
fn offer(input: &Input<'_>, object: &ServiceEncryptionKey, record: &Record) -> (Option<Offer>, Vec<u32>) {
    let held = input.edges.held.as_ref();
    let is_here = |version: &&Version| {
        held.is_some_and(|held| held.versions.contains(&version.version))
            || input.loaded.contains(&version.account_key_version)
    };
    let (here, missing): (Vec<_>, Vec<_>) = usable(object, record, input.unopenable).partition(is_here);
    // Another replica made a version whose account key is not here yet: until it is, the one before goes on.
    let unknown = missing.iter().any(|version| version.version == record.current);
    let current = match held {
        Some(held) if unknown => held.current,
        _ => record.current,
    };
    let versions = here.iter().map(|version| version.version).collect();
    let offer = (missing.is_empty() || held.is_some()).then_some(Offer { current, versions });
    let mut account_keys: Vec<u32> = missing.iter().map(|version| version.account_key_version).collect();
    account_keys.sort_unstable();
    account_keys.dedup();
    (offer, account_keys)
}

/// Changes whenever an edge would notice, and is the same after a restart when nothing did. Never 0.
///
/// The account key that seals a version does not count: a re-wrap changes nothing at the edge.
fn fingerprint(input: &Input<'_>, object: &ServiceEncryptionKey, record: &Record, offer: &Offer) -> u64 {
    let mut hash = Sha256::new();
    hash.update(record.id);
    hash.update(offer.current.to_be_bytes());
    for version in &record.versions {
        let to_the_edge = match version.state {
            _ if offer.versions.contains(&version.version) => 1,
            VersionState::Compromised if !object.spec.allow_compromised_decrypt => 2,
            VersionState::Destroyed => 3,
            _ => continue,
        };
        hash.update(version.version.to_be_bytes());
        // Known as compromised, it never encrypts.
        hash.update([to_the_edge, u8::from(version.state == VersionState::Compromised)]);
    }
    for text in std::iter::once(input.tenant_name).chain(
        object.spec.clients.iter().flat_map(|client| [client.issuer.as_str(), client.subject.as_str()]),
    ) {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let digest = hash.finalize();
    let number = u64::from_be_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ]);
    number.max(1)
}

/// The version that the object's status speaks of; 0 for none.
pub fn seen_version(object: &ServiceEncryptionKey) -> u32 {
    let status = object.status.as_ref();
    status.and_then(|status| status.current_version.as_deref()).and_then(parse_version).unwrap_or(0)
}

/// The spec cannot be followed: say so, change nothing.
fn refused(
    input: &Input<'_>,
    object: &ServiceEncryptionKey,
    reason: &str,
    message: &str,
) -> Plan<Effect, ServiceEncryptionKeyStatus> {
    // The history of a deleted key is not this object's. A version that is shown and then destroyed would be missed in
    // the ledger for ever.
    let record = input
        .record
        .as_ref()
        .filter(|record| record.delete_after.is_none() && record.account == object.spec.account_ref.name);
    let state = if record.is_some() { EffectiveState::Unavailable } else { EffectiveState::Provisioning };
    let mut status = status(input, object, record, state, None);
    let mut set = Conditions::of(Some(status.conditions.as_slice()), object.metadata.generation, input.now);
    set.set_false(conditions::READY, reason, message);
    status.conditions = set.done();
    Plan::settled(status, None)
}

fn status(
    input: &Input<'_>,
    object: &ServiceEncryptionKey,
    record: Option<&Record>,
    state: EffectiveState,
    next: Option<Timestamp>,
) -> ServiceEncryptionKeyStatus {
    let old = object.status.as_ref();
    let mut set =
        Conditions::of(old.map(|status| status.conditions.as_slice()), object.metadata.generation, input.now);
    ready(input, record, state, &mut set);
    let edges = &input.edges;
    let served = matches!(edges.handed_out, Some(HandedOut::Serve(_)));
    if served && state == EffectiveState::Active {
        let leaving = edges.leaving.as_ref().map_or_else(String::new, |leaving| format!(" {leaving}"));
        let behind = edges.behind.map_or_else(String::new, |behind| format!(" {behind}"));
        let all_current = edges.current == edges.total && edges.behind.is_none();
        set.set(
            conditions::DISTRIBUTED,
            all_current.into(),
            if all_current { reasons::OK } else { reasons::PROGRESSING },
            &format!("{}/{} edges have the current version.{behind}{leaving}", edges.current, edges.total),
        );
        set.remove(conditions::EVICTED);
    } else if record.is_some() && matches!(edges.handed_out, Some(HandedOut::Evict(_))) {
        set.remove(conditions::DISTRIBUTED);
        set.set(
            conditions::EVICTED,
            edges.all_evicted.into(),
            if edges.all_evicted { reasons::OK } else { reasons::PROGRESSING },
            &eviction(edges, old),
        );
    } else {
        set.remove(conditions::DISTRIBUTED);
        set.remove(conditions::EVICTED);
    }
    if let Some(at) = record.and_then(|record| record.recovered_at) {
        set.set_true(
            conditions::RECOVERED,
            "Recovered",
            &format!("Came back with its history at {}.", at.strftime("%FT%TZ")),
        );
    }
    match next {
        Some(due) if due + OVERDUE <= input.now => set.set_true(
            conditions::ROTATION_OVERDUE,
            "Overdue",
            &format!("The rotation was due at {}.", due.strftime("%FT%TZ")),
        ),
        _ => set.remove(conditions::ROTATION_OVERDUE),
    }
    ServiceEncryptionKeyStatus {
        state: Some(state),
        current_version: record.map(|record| format_version(record.current)),
        last_rotation: record.map(|record| Time(record.last_rotation)),
        next_rotation: next.map(Time),
        rotation_request: record.and_then(|record| record.served_request.clone()),
        active_clients: i32::try_from(edges.active_clients).unwrap_or(i32::MAX),
        edges: record.map(|_| EdgeCounts {
            total: i32::try_from(edges.total).unwrap_or(i32::MAX),
            current: i32::try_from(edges.current).unwrap_or(i32::MAX),
            evicted: i32::try_from(if served { 0 } else { edges.evicted }).unwrap_or(i32::MAX),
        }),
        versions: record
            .map_or_else(Vec::new, |record| record.versions.iter().take(10).map(version_status).collect()),
        conditions: set.done(),
        observed_generation: object.metadata.generation,
    }
}

/// What is said of an eviction. How long it took is measured once: what a restarted provider finds evicted already took no time.
fn eviction(edges: &Edges, old: Option<&ServiceEncryptionKeyStatus>) -> String {
    let (counts, _) = edges.eviction.split_once(" edges in ").unwrap_or((&edges.eviction, ""));
    let said = old.and_then(|status| status.conditions.iter().find(|one| one.type_ == conditions::EVICTED));
    said.filter(|one| {
        edges.all_evicted && one.status == "True" && one.message.starts_with(&format!("{counts} "))
    })
    .map_or_else(|| edges.eviction.clone(), |one| one.message.clone())
}

fn version_status(version: &Version) -> KeyVersion {
    KeyVersion {
        version: format_version(version.version),
        state: version.state,
        created: Time(version.created),
        account_key_version: i32::try_from(version.account_key_version).unwrap_or(i32::MAX),
        destroyed: version.destroyed.map(Time),
    }
}

fn ready(input: &Input<'_>, record: Option<&Record>, state: EffectiveState, set: &mut Conditions) {
    match (state, record) {
        (EffectiveState::Active, Some(record)) if record.behind => set.set_false(
            conditions::READY,
            reasons::LEDGER_BEHIND,
            format!(
                "This workspace has seen {}, but the ledger only knows {}: it was restored from an older backup. The key works with the \
                 versions that the ledger has and does not rotate. Restore a newer ledger, or ask the operator to accept the loss: \
                 openkcm-provider keys accept-restore",
                format_version(record.seen),
                format_version(record.current)
            ),
        ),
        (EffectiveState::Active, _) => {
            set.set_true(conditions::READY, reasons::OK, "Applications can encrypt and decrypt with this key.");
        }
        (EffectiveState::Disabled, _) => set.set_false(
            conditions::READY,
            "Disabled",
            "spec.state is Disabled: no edge encrypts or decrypts with this key. Set it to Enabled to use it again.",
        ),
        (EffectiveState::PendingDeletion, _) => {
            set.set_false(conditions::READY, "PendingDeletion", "The key is being deleted; its versions are kept for a while.");
        }
        (EffectiveState::Unavailable, _) if input.tenant == TenantView::Suspended => set.set_false(
            conditions::READY,
            reasons::TENANT_SUSPENDED,
            "The operator of OpenKCM suspended this tenant; see: kubectl get tenants.openkcm.io",
        ),
        (EffectiveState::Unavailable, _) => {
            let message = match &input.account {
                AccountView::Unavailable { reason, message } => format!("Its Account's root key cannot be used ({reason}): {message}"),
                _ => "Its Account's root key cannot be used.".to_owned(),
            };
            set.set_false(conditions::READY, reasons::ACCOUNT_NOT_READY, message);
        }
        (EffectiveState::Provisioning, _) => {
            set.set_false(conditions::READY, reasons::PROGRESSING, "The first version is being made.");
        }
    }
}
