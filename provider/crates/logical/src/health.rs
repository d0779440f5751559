//! What `/readyz` and `/metrics` want to know.

use std::time::Duration;

use crate::{Endpoint, Kind};

/// How one list+watch (a kind at an endpoint) is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The first list is on its way.
    Listing,
    /// In sync and watching.
    Live,
    /// The endpoint answers, but does not serve the kind now (404, or a list without resourceVersion). Normal on a
    /// shard where nobody has bound the kind yet.
    NotServed,
    /// The endpoint cannot be used: why. It is tried again, with back-off.
    Broken(String),
}

/// One list+watch.
#[derive(Clone, Debug)]
pub struct WatchHealth {
    /// Where.
    pub endpoint: Endpoint,
    /// What.
    pub kind: Kind,
    /// How it is.
    pub state: State,
    /// Has a complete list, or the word that the kind is not served, been had since the endpoint appeared?
    pub synced: bool,
    /// Since the server last said anything: a page, an event, a bookmark, an orderly end of a watch.
    pub silent_for: Duration,
}

/// The health of everything that is watched.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Why the endpoint slice cannot be followed at the moment, if it cannot.
    pub slice_error: Option<String>,
    /// Every kind at every endpoint.
    pub watches: Vec<WatchHealth>,
}

impl Health {
    /// The watches that made no progress for longer than `limit`: `/readyz` goes red when there is one.
    pub fn stalled(&self, limit: Duration) -> impl Iterator<Item = &WatchHealth> {
        self.watches.iter().filter(move |watch| watch.silent_for > limit)
    }
}

/// Plain numbers for an exporter. Counters count from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Gauge: endpoints in the slice.
    pub endpoints: u64,
    /// Gauge: watches that are open now.
    pub open_watches: u64,
    /// Gauge: objects in all caches.
    pub objects: u64,
    /// Gauge: objects that exist and cannot be decoded.
    pub undecodable: u64,
    /// Counter: watch events other than bookmarks.
    pub events: u64,
    /// Counter: full lists.
    pub lists: u64,
    /// Counter: watches or lists that ended in an error, silence included.
    pub restarts: u64,
}
