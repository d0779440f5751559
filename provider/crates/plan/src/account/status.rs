//! What an Account says of itself: status, conditions, diary.

use jiff::{SignedDuration, SignedDurationRound, Timestamp, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use openkcm_apis::{Account, AccountPhase, AccountStatus, Rewrap, RootKeyStatus, conditions};

use super::{Input, KeyView, Probe, Record};
use crate::{Event, conditions::Conditions};

pub(super) fn status(input: &Input<'_>, object: &Account, record: &Record) -> AccountStatus {
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
    let left = left(record);
    if record.retiring.is_empty() {
        set.set_true(
            conditions::REWRAP_COMPLETE,
            "Complete",
            &format!(
                "Everything is wrapped by account key v{}; older account keys are erased.",
                current.version
            ),
        );
    } else if input.lost.is_empty() {
        let old = record.retiring.iter().find(|key| !key.loaded && key.seals > 0);
        let how = match (old, remaining(current.created, input.now, current.seals, left)) {
            (Some(old), _) => format!(
                "; account key v{} has yet to be unwrapped by its root {}",
                old.version, old.reference
            ),
            (None, Some(time)) => format!(", about {time:#} to go"),
            (None, None) => String::new(),
        };
        set.set_false(
            conditions::REWRAP_COMPLETE,
            "InProgress",
            format!(
                "{} of {} versions are re-wrapped{how}. Applications encrypt and decrypt all the while.",
                current.seals,
                current.seals + left
            ),
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
    let left = left(record);
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

/// Versions that are still under an older account key.
fn left(record: &Record) -> u64 {
    record.retiring.iter().map(|key| key.seals).sum()
}

/// How long a re-wrap goes on at the pace that it has had so far; none before it has one, or when it is over at once.
fn remaining(started: Timestamp, now: Timestamp, done: u64, left: u64) -> Option<SignedDuration> {
    let so_far = now.duration_since(started);
    if done == 0 || left == 0 || so_far < SignedDuration::from_secs(1) {
        return None;
    }
    let seconds = so_far.as_secs_f64() / done as f64 * left as f64;
    let time = SignedDuration::try_from_secs_f64(seconds.ceil()).ok()?;
    // Two minutes of a guess need no seconds.
    let unit = if seconds > 120.0 { Unit::Minute } else { Unit::Second };
    time.round(SignedDurationRound::new().smallest(unit)).ok()
}

/// What a change of the status adds to the diary: the beginning of a re-wrap, how it gets on, its end.
pub fn events(old: Option<&AccountStatus>, new: &AccountStatus, now: Timestamp) -> Vec<Event> {
    let Some(rewrap) = &new.rewrap else { return Vec::new() };
    let before = old.and_then(|old| old.rewrap.as_ref()).filter(|before| before.to == rewrap.to);
    let note = |reason, message| Event { warning: false, reason, message };
    let mut events = Vec::new();
    if rewrap.finished_at.is_some() {
        if before.is_none_or(|before| before.finished_at.is_none()) {
            events.push(note(
                "RewrapComplete",
                format!(
                    "{} versions of service keys are wrapped by account key v{}; the wrapped account key v{} is erased, and its root is not needed any more.",
                    rewrap.done, rewrap.to, rewrap.from
                ),
            ));
        }
        return events;
    }
    if before.is_none() {
        events.push(note(
            "RewrapStarted",
            format!(
                "{} versions of service keys go from account key v{} to v{}, which the new root wraps. They can be used all the while.",
                rewrap.total, rewrap.from, rewrap.to
            ),
        ));
    }
    let started = rewrap.started_at.as_ref().map_or(now, |time| time.0);
    let (done, left) =
        (u64::try_from(rewrap.done).unwrap_or(0), u64::try_from(rewrap.total - rewrap.done).unwrap_or(0));
    if quarter(rewrap) > before.map_or(0, quarter)
        && let Some(time) = remaining(started, now, done, left)
    {
        events.push(note(
            "Rewrapping",
            format!("{done} of {} versions are re-wrapped, about {time:#} to go.", rewrap.total),
        ));
    }
    if rewrap.failed > before.map_or(0, |before| before.failed) {
        events.push(Event {
            warning: true,
            reason: "OldRootUnavailable",
            message: format!(
                "{} versions can only be opened by the old root, which cannot be used: {}. Everything else is safe under the new root.",
                rewrap.failed,
                rewrap.lost.join(", ")
            ),
        });
    }
    events
}

/// How many quarters are done: after each the diary says how long the rest takes.
fn quarter(rewrap: &Rewrap) -> i64 {
    if rewrap.total == 0 { 0 } else { i64::from(rewrap.done) * 4 / i64::from(rewrap.total) }
}
