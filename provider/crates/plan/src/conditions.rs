//! Building a list of conditions on top of the last one.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use openkcm_apis::{Condition, ConditionStatus, LEDGER_FINALIZER, set_condition};

/// Whether the object carries our finalizer.
pub(crate) fn has_finalizer(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|finalizer| finalizer == LEDGER_FINALIZER)
}

/// Conditions under construction.
pub(crate) struct Conditions {
    list: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Conditions {
    /// Starts from what the object has.
    pub(crate) fn of(old: Option<&[Condition]>, generation: Option<i64>, now: Timestamp) -> Self {
        Self { list: old.unwrap_or_default().to_vec(), generation, now }
    }

    pub(crate) fn set(&mut self, type_: &str, status: ConditionStatus, reason: &str, message: &str) {
        set_condition(&mut self.list, type_, status, reason, message, self.generation, self.now);
    }

    pub(crate) fn set_true(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, ConditionStatus::True, reason, message);
    }

    pub(crate) fn set_false(&mut self, type_: &str, reason: &str, message: impl AsRef<str>) {
        self.set(type_, ConditionStatus::False, reason, message.as_ref());
    }

    pub(crate) fn set_unknown(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, ConditionStatus::Unknown, reason, message);
    }

    pub(crate) fn remove(&mut self, type_: &str) {
        self.list.retain(|condition| condition.type_ != type_);
    }

    pub(crate) fn done(self) -> Vec<Condition> {
        self.list
    }
}
