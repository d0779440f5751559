//! A root of trust: verified, watched, replaced, let go.

mod status;

use jiff::{SignedDuration, Timestamp};
use openkcm_apis::{Account, AccountStatus, Impact};
use serde_json::Value;

use crate::{Plan, Settings, TenantView, conditions::has_finalizer, earliest};

pub use status::events;
use status::status;

/// A store that only ever asks for fewer calls says nothing of its key. For so long that is not a loss; then nobody could
/// tell a busy store from one whose key is gone, and it counts as unreachable.
pub const THROTTLED_LIMIT: SignedDuration = SignedDuration::from_mins(15);

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
    /// The store asked for fewer calls; nothing is known. Beyond [`THROTTLED_LIMIT`] it counts as unreachable.
    Throttled,
}

impl Failure {
    /// When it begins to count as a loss.
    fn counts_from(&self) -> Timestamp {
        match self.kind {
            FailureKind::Refused | FailureKind::Unreachable => self.since,
            FailureKind::Throttled => self.since + THROTTLED_LIMIT,
        }
    }
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
    /// Keys of the ledger that have no object, looked for only while the Account is being deleted.
    pub absent: Absent,
}

/// Keys under an Account that the ledger has and the workspace does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absent {
    /// Those whose namespace is gone: their objects cannot be put back. As `namespace/name`.
    pub homeless: Vec<String>,
    /// How many others: their objects come back in a moment.
    pub returning: usize,
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
    /// Delete the keys whose namespace is gone: with their Account nothing could bring their objects back. They are kept
    /// for the deletion window, as any deleted key.
    DeleteHomeless,
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
            Self::DeleteHomeless => "delete-homeless",
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
    let Some(record) = input.record.as_ref().filter(|record| !record.deleted) else {
        return Some(Plan::act(Effect::RemoveFinalizer));
    };
    if input.impact.keys > 0 {
        return None;
    }
    if input.absent.returning > 0 {
        let object = input.object?;
        return Some(Plan::settled(
            status(input, object, record),
            Some(input.now + SignedDuration::from_secs(1)),
        ));
    }
    let effect = if input.absent.homeless.is_empty() { Effect::Delete } else { Effect::DeleteHomeless };
    Some(Plan::act(effect))
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
        Probe::Done { outcome: Err(failure), .. }
            if record.root_lost_since.is_none() && failure.counts_from() <= input.now =>
        {
            Some(Effect::MarkLost { since: failure.since })
        }
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
