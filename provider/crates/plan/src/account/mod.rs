//! A root of trust: verified, watched, replaced, let go.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use openkcm_apis::{Account, AccountPhase, AccountStatus, Impact, Rewrap, RootKeyStatus, conditions};
use serde_json::Value;

use crate::{
    Plan, Settings, TenantView,
    conditions::{Conditions, has_finalizer},
    earliest,
};

/// What the last look at a root key found. Kept in memory only: after a restart every root is looked at again.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// Not looked at since the spec last changed or the provider started.
    Never,
    /// A look is under way.
    Running,
    /// It was looked at.
    Done {
        /// What was found.
        outcome: Result<Verified, Failure>,
        /// When to look again.
        next: Timestamp,
    },
}

impl Probe {
    fn verified(&self) -> Option<&Verified> {
        match self {
            Self::Done { outcome: Ok(verified), .. } => Some(verified),
            _ => None,
        }
    }

    fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Done { outcome: Err(failure), .. } => Some(failure),
            _ => None,
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        match self {
            Self::Never => true,
            Self::Running => false,
            Self::Done { next, .. } => now >= *next,
        }
    }

    fn next(&self) -> Option<Timestamp> {
        match self {
            Self::Done { next, .. } => Some(*next),
            _ => None,
        }
    }
}

/// A root key that described itself, wrapped and unwrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its reference, as the store resolved it.
    pub reference: String,
    /// Its version in the store; `-` where there is none.
    pub version: String,
    /// Its algorithm.
    pub algorithm: String,
    /// When.
    pub at: Timestamp,
}

/// A root key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of the reasons of `docs/key-store-errors.md`.
    pub reason: &'static str,
    /// What is wrong and the fix; safe for the tenant.
    pub message: String,
    /// What it says about the root key.
    pub kind: FailureKind,
    /// Since when this root fails without a break.
    pub since: Timestamp,
}

/// What a failure says about the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The store says that the key may not be used: its owner has decided.
    Refused,
    /// The store could not be asked.
    Unreachable,
    /// The store asked for fewer calls; nothing is known.
    Throttled,
}

/// What the ledger says of an account.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The spec as last recorded.
    pub spec: Value,
    /// Its object was deleted.
    pub deleted: bool,
    /// The account key that seals new versions.
    pub current: Option<KeyView>,
    /// Older account keys that still seal something or are not erased yet.
    pub retiring: Vec<KeyView>,
    /// Since when the root in use has been known to be lost.
    pub root_lost_since: Option<Timestamp>,
    /// When the last re-wrap ended: the last account key was erased.
    pub last_erased: Option<(u32, Timestamp)>,
}

/// One account key version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// Counts from 1.
    pub version: u32,
    /// It is wrapped by the root that the spec names.
    pub by_desired_root: bool,
    /// The reference of the root that wraps it.
    pub reference: String,
    /// That root's version in the store when it wrapped.
    pub root_version: String,
    /// It is unwrapped in memory.
    pub loaded: bool,
    /// Service key versions that it seals.
    pub seals: u64,
    /// When it was made.
    pub created: Timestamp,
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
    /// The Account object.
    pub object: Option<&'a Account>,
    /// The ledger's record.
    pub record: Option<Record>,
    /// The root that the spec names.
    pub desired: Probe,
    /// The root in use, where it is another one than the spec names.
    pub in_use: Option<Probe>,
    /// What hangs on the account.
    pub impact: Impact,
    /// The first keys that hang on it, as `namespace/name`.
    pub dependents: Vec<String>,
    /// Versions that only a lost root could open, as `namespace/name vN`.
    pub lost: Vec<String>,
}

/// What to do about an Account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Put our finalizer on the object.
    AddFinalizer,
    /// Let the object go.
    RemoveFinalizer,
    /// Record the account and its spec; bring it back if it was deleted.
    Record,
    /// Put the object back as the ledger knows it.
    Restore,
    /// Look at the root that the spec names. Goes on in the background.
    Probe,
    /// Look at the root in use. Goes on in the background.
    ProbeInUse,
    /// Make the next account key and wrap it by the root that the spec names. Goes on in the background.
    Provision {
        /// The version that is current now.
        after: Option<u32>,
    },
    /// Unwrap an account key into memory. Goes on in the background.
    Load {
        /// Which one.
        version: u32,
    },
    /// Wrap the current account key again: its root has a new version. Goes on in the background.
    Refresh {
        /// Which one.
        version: u32,
    },
    /// Re-wrap one batch of service key versions.
    Rewrap {
        /// From this account key.
        from: u32,
        /// To this one.
        to: u32,
    },
    /// Erase an account key that seals nothing any more.
    Erase {
        /// Which one.
        version: u32,
    },
    /// Record that the root in use is lost; its account keys leave memory when the grace is over.
    MarkLost {
        /// Since when.
        since: Timestamp,
    },
    /// Record that the root in use works.
    MarkFound,
    /// Drop the unwrapped account keys from memory.
    Forget,
    /// Record that the object was deleted.
    Delete,
}

impl Effect {
    /// One word, for logs and tests.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "add-finalizer",
            Self::RemoveFinalizer => "remove-finalizer",
            Self::Record => "record",
            Self::Restore => "restore",
            Self::Probe => "probe",
            Self::ProbeInUse => "probe-in-use",
            Self::Provision { .. } => "provision",
            Self::Load { .. } => "load",
            Self::Refresh { .. } => "refresh",
            Self::Rewrap { .. } => "rewrap",
            Self::Erase { .. } => "erase",
            Self::MarkLost { .. } => "mark-lost",
            Self::MarkFound => "mark-found",
            Self::Forget => "forget",
            Self::Delete => "delete",
        }
    }
}

/// How an account looks from one of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountView {
    /// There is no such Account.
    Missing,
    /// It is being deleted.
    Deleting,
    /// Its root was never verified.
    Pending {
        /// One word.
        reason: String,
        /// What is wrong and the fix.
        message: String,
    },
    /// Its root is lost beyond the grace.
    Unavailable {
        /// One word.
        reason: String,
        /// What is wrong and the fix.
        message: String,
    },
    /// Usable.
    Ready {
        /// The account key that seals new versions.
        version: u32,
        /// Keys that were last rotated before this must rotate: the root of that time is compromised.
        rotate_before: Option<Timestamp>,
        /// Its object is being deleted: what is there works, and nothing new begins.
        deleting: bool,
    },
}

impl Input<'_> {
    /// The probe of the root that wraps the current account key.
    fn in_use(&self) -> &Probe {
        self.in_use.as_ref().unwrap_or(&self.desired)
    }

    fn lost_beyond_grace(&self) -> bool {
        let since = self.record.as_ref().and_then(|record| record.root_lost_since);
        since.is_some_and(|since| self.now >= since + self.settings.root_loss_grace)
    }
}

/// How the account looks from its keys.
pub fn view(input: &Input<'_>) -> AccountView {
    let Some(object) = input.object else { return AccountView::Missing };
    let (Some(record), deleting) = (&input.record, object.metadata.deletion_timestamp.is_some()) else {
        return pending(input);
    };
    let Some(current) = &record.current else {
        return if deleting { AccountView::Deleting } else { pending(input) };
    };
    if input.lost_beyond_grace() {
        let failure = input.in_use().failure();
        return AccountView::Unavailable {
            reason: failure.map_or("RootLost", |failure| failure.reason).to_owned(),
            message: failure
                .map_or_else(|| "its root key cannot be used".to_owned(), |failure| failure.message.clone()),
        };
    }
    let rotate_before = (object.spec.root_compromised && current.version > 1).then_some(current.created);
    AccountView::Ready { version: current.version, rotate_before, deleting }
}

fn pending(input: &Input<'_>) -> AccountView {
    match input.desired.failure() {
        Some(failure) => {
            AccountView::Pending { reason: failure.reason.to_owned(), message: failure.message.clone() }
        }
        None => AccountView::Pending {
            reason: "Verifying".to_owned(),
            message: "its root key is being verified".to_owned(),
        },
    }
}

/// Decides about one Account.
pub fn plan(input: &Input<'_>) -> Plan<Effect, AccountStatus> {
    if input.tenant == TenantView::Unknown {
        return Plan::idle();
    }
    let Some(object) = input.object else { return without_object(input) };
    let deleting = object.metadata.deletion_timestamp.is_some();
    let ours = has_finalizer(&object.metadata);
    let spec = serde_json::to_value(&object.spec).unwrap_or_default();
    if input.tenant == TenantView::Unbinding {
        // What its user had deleted before stays deleted.
        let edited = input.record.as_ref().is_some_and(|record| record.spec != spec && !record.deleted);
        return match (deleting && ours, edited) {
            (true, true) => Plan::act(Effect::Record),
            (true, false) => Plan::act(Effect::RemoveFinalizer),
            _ => Plan::idle(),
        };
    }
    if deleting && let Some(plan) = deletion(input, ours) {
        return plan;
    }
    let unrecorded = input.record.as_ref().is_none_or(|record| record.spec != spec || record.deleted);
    if !ours {
        return Plan::act(Effect::AddFinalizer);
    }
    if unrecorded {
        return Plan::act(Effect::Record);
    }
    let Some(record) = &input.record else { return Plan::idle() };
    if let Some(effect) = watch_roots(input, record).or_else(|| key_work(input, record)) {
        // What takes long shows how far it is, and a first look that it is going on.
        let long = matches!(effect, Effect::Rewrap { .. } | Effect::Load { .. }) || object.status.is_none();
        return Plan { status: long.then(|| status(input, object, record)), ..Plan::act(effect) };
    }
    let next = earliest(input.desired.next(), input.in_use.as_ref().and_then(Probe::next));
    let grace_end = record.root_lost_since.map(|since| since + input.settings.root_loss_grace);
    let next = earliest(next, grace_end.filter(|end| *end > input.now));
    if matches!(input.desired, Probe::Never | Probe::Running) && object.status.is_some() {
        // Say nothing new before the first look after a restart is over.
        return Plan::wait(next);
    }
    Plan::settled(status(input, object, record), next)
}

fn without_object(input: &Input<'_>) -> Plan<Effect, AccountStatus> {
    match &input.record {
        // It was never deleted by its user: that passes our finalizer. So it went with an unbind, or an older
        // state of the workspace was restored.
        Some(record) if !record.deleted && input.tenant != TenantView::Unbinding => {
            Plan::act(Effect::Restore)
        }
        _ => Plan::idle(),
    }
}

/// Lets the object go, unless keys hang on it: then its roots are watched as before, because those keys are in use.
fn deletion(input: &Input<'_>, ours: bool) -> Option<Plan<Effect, AccountStatus>> {
    if !ours {
        return Some(Plan::idle());
    }
    if input.record.as_ref().is_none_or(|record| record.deleted) {
        return Some(Plan::act(Effect::RemoveFinalizer));
    }
    (input.impact.keys == 0).then(|| Plan::act(Effect::Delete))
}

/// Looks at the roots, and keeps the ledger's note of a loss.
fn watch_roots(input: &Input<'_>, record: &Record) -> Option<Effect> {
    if input.desired.is_due(input.now) {
        return Some(Effect::Probe);
    }
    if input.in_use.as_ref().is_some_and(|probe| probe.is_due(input.now)) {
        return Some(Effect::ProbeInUse);
    }
    record.current.as_ref()?;
    match input.in_use() {
        Probe::Done { outcome: Ok(_), .. } if record.root_lost_since.is_some() => Some(Effect::MarkFound),
        Probe::Done { outcome: Err(failure), .. } if record.root_lost_since.is_none() => match failure.kind {
            FailureKind::Refused | FailureKind::Unreachable => {
                Some(Effect::MarkLost { since: failure.since })
            }
            FailureKind::Throttled => None,
        },
        _ => None,
    }
}

/// Makes, loads, re-wraps and erases account keys.
fn key_work(input: &Input<'_>, record: &Record) -> Option<Effect> {
    let Some(current) = &record.current else {
        return input.desired.verified().map(|_| Effect::Provision { after: None });
    };
    if input.lost_beyond_grace() {
        let held = current.loaded || record.retiring.iter().any(|key| key.loaded);
        // A re-key away from a lost root still saves what is in memory, also while the new one is being looked at.
        let rescue = !current.by_desired_root && input.desired.failure().is_none();
        if held && !rescue && record.retiring.is_empty() {
            return Some(Effect::Forget);
        }
    }
    if !current.by_desired_root {
        // A new root that does not work changes nothing.
        return input.desired.verified().map(|_| Effect::Provision { after: Some(current.version) });
    }
    let verified = input.desired.verified()?;
    if !current.loaded {
        return Some(Effect::Load { version: current.version });
    }
    for old in &record.retiring {
        if old.seals == 0 {
            return Some(Effect::Erase { version: old.version });
        }
        if old.loaded {
            return Some(Effect::Rewrap { from: old.version, to: current.version });
        }
    }
    if let Some(old) = record.retiring.iter().find(|old| !old.loaded) {
        return Some(Effect::Load { version: old.version });
    }
    (verified.version != current.root_version).then_some(Effect::Refresh { version: current.version })
}

fn status(input: &Input<'_>, object: &Account, record: &Record) -> AccountStatus {
    let old = object.status.clone().unwrap_or_default();
    let mut set = Conditions::of(Some(old.conditions.as_slice()), object.metadata.generation, input.now);
    let deleting = object.metadata.deletion_timestamp.is_some();
    let rekeying = record.current.is_some() && !record.retiring.is_empty();
    let unavailable = record.current.is_some() && input.lost_beyond_grace();

    match &input.desired {
        Probe::Done { outcome: Ok(verified), .. } => set.set_true(
            conditions::ROOT_KEY_VERIFIED,
            "Verified",
            &format!(
                "The root key was described, and has wrapped and unwrapped a probe ({}).",
                verified.algorithm
            ),
        ),
        Probe::Done { outcome: Err(failure), .. } => {
            let note = match &record.current {
                Some(current) if !current.by_desired_root => {
                    format!(" The old root {} stays in use.", current.reference)
                }
                _ => String::new(),
            };
            set.set_false(
                conditions::ROOT_KEY_VERIFIED,
                failure.reason,
                format!("{}{note}", failure.message),
            );
        }
        Probe::Never | Probe::Running => {
            set.set_unknown(conditions::ROOT_KEY_VERIFIED, "Verifying", "The root key is being verified.");
        }
    }
    rewrap_condition(input, record, &mut set);
    if deleting && input.impact.keys > 0 {
        set.set_true(
            conditions::DELETION_BLOCKED,
            "HasDependents",
            &format!(
                "{} ServiceEncryptionKeys still use this Account: {}. Delete them first; \
                 list them with: kubectl get sek -A -o wide",
                input.impact.keys,
                input.dependents.join(", ")
            ),
        );
    } else {
        set.remove(conditions::DELETION_BLOCKED);
    }
    let phase = if deleting {
        set.set_false(conditions::READY, "Deleting", "The Account is being deleted.");
        AccountPhase::Deleting
    } else if record.current.is_none() {
        let (reason, message) = match input.desired.failure() {
            Some(failure) => (failure.reason, failure.message.clone()),
            None => ("Verifying", "The root key is being verified.".to_owned()),
        };
        set.set_false(conditions::READY, reason, message);
        AccountPhase::Pending
    } else if unavailable {
        let failure = input.in_use().failure();
        set.set_false(
            conditions::READY,
            failure.map_or("RootLost", |failure| failure.reason),
            format!(
                "The root key cannot be used since {}; the keys below it have left the edges and come back by themselves when it works again. {}",
                record.root_lost_since.map_or_else(String::new, |since| since.strftime("%FT%TZ").to_string()),
                failure.map_or("", |failure| failure.message.as_str())
            ),
        );
        AccountPhase::Unavailable
    } else {
        let message = match (record.root_lost_since, rekeying) {
            (Some(since), _) => format!(
                "Keys work. The root key fails since {}; if it still does at {}, they leave the edges.",
                since.strftime("%FT%TZ"),
                (since + input.settings.root_loss_grace).strftime("%FT%TZ")
            ),
            (None, true) => "Keys work while they are re-wrapped under the new root.".to_owned(),
            (None, false) => "Keys can be created and used under this root.".to_owned(),
        };
        set.set_true(conditions::READY, "Ready", &message);
        if rekeying { AccountPhase::Rekeying } else { AccountPhase::Ready }
    };
    AccountStatus {
        phase: Some(phase),
        root_key: record.current.as_ref().map(|current| root_key(input, current, old.root_key.as_ref())),
        account_key_version: record.current.as_ref().and_then(|current| i32::try_from(current.version).ok()),
        rewrap: rewrap(input, record).or(old.rewrap),
        impact: Some(input.impact),
        dependents: input.impact.keys,
        conditions: set.done(),
        observed_generation: object.metadata.generation,
    }
}

fn root_key(input: &Input<'_>, current: &KeyView, old: Option<&RootKeyStatus>) -> RootKeyStatus {
    let verified = input.in_use().verified();
    let some = |text: &str| (!text.is_empty() && text != "-").then(|| text.to_owned());
    RootKeyStatus {
        reference: current.reference.clone(),
        version: some(&current.root_version),
        algorithm: verified.and_then(|verified| some(&verified.algorithm)).or_else(|| old?.algorithm.clone()),
        last_verified: verified.map(|verified| Time(verified.at)).or_else(|| old?.last_verified.clone()),
    }
}

fn rewrap_condition(input: &Input<'_>, record: &Record, set: &mut Conditions) {
    let Some(current) = record.current.as_ref().filter(|current| current.version > 1) else {
        set.remove(conditions::REWRAP_COMPLETE);
        return;
    };
    let left: u64 = record.retiring.iter().map(|key| key.seals).sum();
    if left == 0 && record.retiring.is_empty() {
        set.set_true(
            conditions::REWRAP_COMPLETE,
            "Complete",
            &format!(
                "Everything is wrapped by account key v{}; older account keys are erased.",
                current.version
            ),
        );
    } else if input.lost.is_empty() {
        set.set_false(
            conditions::REWRAP_COMPLETE,
            "InProgress",
            format!("{left} versions are still wrapped by an older account key."),
        );
    } else {
        set.set_false(
            conditions::REWRAP_COMPLETE,
            "OldRootUnavailable",
            format!(
                "{left} versions can only be opened by the old root, which cannot be used: {}. They come back if the old root does; \
                 everything else is safe under the new root.",
                input.lost.join(", ")
            ),
        );
    }
}

fn rewrap(input: &Input<'_>, record: &Record) -> Option<Rewrap> {
    let current = record.current.as_ref().filter(|current| current.version > 1)?;
    let clamp = |count: u64| i32::try_from(count).unwrap_or(i32::MAX);
    let left: u64 = record.retiring.iter().map(|key| key.seals).sum();
    let from = record
        .retiring
        .iter()
        .map(|key| key.version)
        .min()
        .or(record.last_erased.map(|(version, _)| version))?;
    let failed = if input.lost.is_empty() { 0 } else { left };
    Some(Rewrap {
        from: clamp(from.into()),
        to: clamp(current.version.into()),
        total: clamp(left + current.seals),
        done: clamp(current.seals),
        failed: clamp(failed),
        lost: input.lost.iter().take(20).cloned().collect(),
        started_at: Some(Time(current.created)),
        finished_at: record.retiring.is_empty().then(|| record.last_erased.map(|(_, at)| Time(at))).flatten(),
    })
}
