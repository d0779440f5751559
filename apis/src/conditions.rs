//! Conditions: their types, the reasons that more than one part of the system gives, and the one setter.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// The object does what its spec asks for. On all three kinds.
pub const READY: &str = "Ready";
/// Tenant: the binding gives the provider what the export asks for.
pub const CLAIMS_ACCEPTED: &str = "ClaimsAccepted";
/// Account: the root key was described, and has wrapped and unwrapped a probe.
pub const ROOT_KEY_VERIFIED: &str = "RootKeyVerified";
/// Account: nothing is wrapped under an older account key any more.
pub const REWRAP_COMPLETE: &str = "RewrapComplete";
/// Account: a delete is refused because ServiceEncryptionKeys name it.
pub const DELETION_BLOCKED: &str = "DeletionBlocked";
/// ServiceEncryptionKey: every edge that may have it has acknowledged the current version.
pub const DISTRIBUTED: &str = "Distributed";
/// ServiceEncryptionKey: no edge can use it any more.
pub const EVICTED: &str = "Evicted";
/// Tenant, ServiceEncryptionKey: it was there before and came back with its history.
pub const RECOVERED: &str = "Recovered";
/// ServiceEncryptionKey: a rotation is late.
pub const ROTATION_OVERDUE: &str = "RotationOverdue";

/// Reasons, one word each. Those of a root key are what a key store can answer.
pub mod reasons {
    /// All is well.
    pub const OK: &str = "AsExpected";
    /// Not done yet, and nothing is wrong.
    pub const PROGRESSING: &str = "Progressing";

    /// Root key: it does not exist.
    pub const NOT_FOUND: &str = "NotFound";
    /// Root key: the provider may not use it.
    pub const ACCESS_DENIED: &str = "AccessDenied";
    /// Root key: it is disabled in its store.
    pub const DISABLED: &str = "Disabled";
    /// Root key: it is going to be deleted in its store.
    pub const PENDING_DELETION: &str = "PendingDeletion";
    /// Root key: it cannot wrap keys.
    pub const WRONG_KEY_TYPE: &str = "WrongKeyType";
    /// Root key: the store asks for fewer calls.
    pub const THROTTLED: &str = "Throttled";
    /// Root key: the store does not answer.
    pub const UNREACHABLE: &str = "Unreachable";
    /// Root key: reference, access or the operator's configuration is wrong.
    pub const MISCONFIGURED: &str = "Misconfigured";

    /// ServiceEncryptionKey: the Account that it names does not exist.
    pub const ACCOUNT_NOT_FOUND: &str = "AccountNotFound";
    /// ServiceEncryptionKey: its Account is not ready.
    pub const ACCOUNT_NOT_READY: &str = "AccountNotReady";
    /// ServiceEncryptionKey: its Account is being deleted.
    pub const ACCOUNT_DELETING: &str = "AccountDeleting";
    /// Account: ServiceEncryptionKeys name it.
    pub const HAS_DEPENDENTS: &str = "HasDependents";
    /// The spec slipped past an older schema and is refused now.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The tenant is suspended.
    pub const TENANT_SUSPENDED: &str = "TenantSuspended";
    /// The ledger is older than the object: somebody restored a backup.
    pub const LEDGER_BEHIND: &str = "LedgerBehind";
    /// Tenant: the binding does not accept every claim of the export.
    pub const CLAIMS_NOT_ACCEPTED: &str = "ClaimsNotAccepted";
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows.
    Unknown,
}

impl ConditionStatus {
    /// As it is written in the object.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Longest message that Kubernetes allows, in characters.
const MAX_MESSAGE: usize = 32_768;

/// Sets the condition of that type, keeping its time unless the status flips, and says whether anything but
/// the observed generation changed. Conditions stay sorted by type, so that equal sets are equal lists.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let mut new = Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
        observed_generation,
        last_transition_time: Time(now),
    };
    let Some(old) = conditions.iter_mut().find(|condition| condition.type_ == type_) else {
        let place = conditions.partition_point(|condition| condition.type_.as_str() < type_);
        conditions.insert(place, new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = (&old.status, &old.reason, &old.message) != (&new.status, &new.reason, &new.message);
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn time_moves_only_when_the_status_flips() {
        let (early, late) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(2).unwrap());
        let mut all = Vec::new();
        assert!(set_condition(&mut all, READY, ConditionStatus::False, "A", "m", Some(1), early));
        assert!(!set_condition(&mut all, READY, ConditionStatus::False, "A", "m", Some(2), late));
        assert_eq!((all[0].last_transition_time.0, all[0].observed_generation), (early, Some(2)));
        assert!(set_condition(&mut all, READY, ConditionStatus::False, "B", "m", Some(2), late));
        assert_eq!(all[0].last_transition_time.0, early);
        assert!(set_condition(&mut all, READY, ConditionStatus::True, "B", "m", Some(2), late));
        assert_eq!(all[0].last_transition_time.0, late);
    }

    #[test]
    fn order_of_calls_does_not_show() {
        let now = Timestamp::UNIX_EPOCH;
        let set = |types: &[&str]| {
            let mut all = Vec::new();
            for type_ in types {
                set_condition(&mut all, type_, ConditionStatus::True, "A", "", None, now);
            }
            all
        };
        assert_eq!(set(&[READY, EVICTED, DISTRIBUTED]), set(&[DISTRIBUTED, READY, EVICTED]));
    }
}
