//! OpenKCM's decisions as pure functions: what is there, what time it is, what to do.
//!
//! There is no I/O, no clock, no randomness and no client here. The provider takes a snapshot of one object, calls
//! one of [`tenant::plan`], [`account::plan`] and [`key::plan`], carries out the one effect that it names, and starts over
//! with a new snapshot until there is none; then the status is written. A status therefore only ever describes what
//! the ledger already holds, and a crash between two effects is repaired by planning again.
//!
//! An effect names no workspace: whoever carries it out was made for one.
#![warn(missing_docs)]

pub mod account;
mod conditions;
pub mod key;
pub mod rotation;
pub mod tenant;

use jiff::Timestamp;

/// What to do about one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<Effect, Status> {
    /// What to do now. Its result is planned from again.
    pub effect: Option<Effect>,
    /// What to write, before the effect if there is one. `None`: leave the status alone.
    pub status: Option<Status>,
    /// When to look again if nothing changes before.
    pub next: Option<Timestamp>,
}

impl<Effect, Status> Plan<Effect, Status> {
    /// Do nothing until something changes.
    pub const fn idle() -> Self {
        Self { effect: None, status: None, next: None }
    }

    fn act(effect: Effect) -> Self {
        Self { effect: Some(effect), status: None, next: None }
    }

    fn wait(until: Option<Timestamp>) -> Self {
        Self { effect: None, status: None, next: until }
    }

    fn settled(status: Status, next: Option<Timestamp>) -> Self {
        Self { effect: None, status: Some(status), next }
    }
}

/// Something for the diary of an object (`kubectl describe`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whether a person should worry.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// How the tenant of an object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantView {
    /// Bound, and its binding is visible.
    Active,
    /// Bound, and the operator has suspended it.
    Suspended,
    /// Its binding is being deleted, or is gone.
    Unbinding,
    /// It cannot be seen whole just now: its endpoint is away or not in sync, or the tenant is not recorded yet.
    Unknown,
}

/// What is set for the whole provider.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// When this provider began to look.
    pub started: Timestamp,
    /// How long a root key may fail before its keys leave the edges.
    pub root_loss_grace: jiff::SignedDuration,
}

fn earliest(one: Option<Timestamp>, two: Option<Timestamp>) -> Option<Timestamp> {
    match (one, two) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    }
}
