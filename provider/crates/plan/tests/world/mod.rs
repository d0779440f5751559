//! What surrounds a decision, in memory: objects, ledger, edges, account keys. Each effect is carried out as the
//! provider would, with the checks that the ledger makes.
#![allow(dead_code)] // every test uses its own part

pub mod account;
pub mod key;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use openkcm_apis::LEDGER_FINALIZER;
use openkcm_plan::Settings;

/// Effects in a row that one change may lead to. More is an endless loop.
pub const ROUNDS: usize = 40;

/// When every story begins.
pub fn dawn() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

pub fn settings(started: Timestamp) -> Settings {
    Settings { started, root_loss_grace: SignedDuration::from_secs(120) }
}

pub fn hold(metadata: &mut ObjectMeta, present: bool) {
    let finalizers = metadata.finalizers.get_or_insert_default();
    finalizers.retain(|finalizer| finalizer != LEDGER_FINALIZER);
    if present {
        finalizers.push(LEDGER_FINALIZER.to_owned());
    }
}

/// `type=Status/Reason`, or nothing where there is no such condition.
pub fn condition(conditions: &[Condition], type_: &str) -> Option<String> {
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some(format!("{}/{}", found.status, found.reason))
}

pub fn message(conditions: &[Condition], type_: &str) -> String {
    conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .map_or_else(String::new, |condition| condition.message.clone())
}
