//! Counts of calls to key stores. No names: a label is one of a fixed set.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Reason, StoreKind};

/// What was asked of a key store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Metadata read.
    Describe,
    /// Wrap.
    Wrap,
    /// Unwrap.
    Unwrap,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 3] = [Self::Describe, Self::Wrap, Self::Unwrap];

    /// Metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
        }
    }
}

/// How a call ended: `None` is success.
pub type Outcome = Option<Reason>;

const OUTCOMES: usize = Reason::ALL.len() + 1;

/// Calls by store, operation and outcome since the process started. Calls that the circuit breaker refused are not in it: they cost nothing.
#[derive(Debug, Default)]
pub struct CloudCalls([[[AtomicU64; OUTCOMES]; 3]; 4]);

impl CloudCalls {
    pub(crate) fn count(&self, kind: StoreKind, operation: Operation, outcome: Outcome) {
        self.cell(kind, operation, outcome).fetch_add(1, Ordering::Relaxed);
    }

    /// Calls of one store, operation and outcome.
    pub fn get(&self, kind: StoreKind, operation: Operation, outcome: Outcome) -> u64 {
        self.cell(kind, operation, outcome).load(Ordering::Relaxed)
    }

    /// Every cell that is not zero.
    pub fn iter(&self) -> impl Iterator<Item = (StoreKind, Operation, Outcome, u64)> + '_ {
        StoreKind::ALL.into_iter().flat_map(move |kind| {
            Operation::ALL.into_iter().flat_map(move |operation| {
                std::iter::once(None).chain(Reason::ALL.map(Some)).filter_map(move |outcome| {
                    let calls = self.get(kind, operation, outcome);
                    (calls > 0).then_some((kind, operation, outcome, calls))
                })
            })
        })
    }

    /// All calls.
    pub fn total(&self) -> u64 {
        self.iter().map(|(.., calls)| calls).sum()
    }

    fn cell(&self, kind: StoreKind, operation: Operation, outcome: Outcome) -> &AtomicU64 {
        &self.0[kind as usize][operation as usize][outcome.map_or(0, |reason| reason as usize + 1)]
    }
}

/// Calls that were made for one owner, by operation.
#[derive(Debug, Default)]
pub struct OwnerCalls([AtomicU64; 3]);

impl OwnerCalls {
    pub(crate) fn count(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Calls of one operation.
    pub fn get(&self, operation: Operation) -> u64 {
        self.0[operation as usize].load(Ordering::Relaxed)
    }
}
