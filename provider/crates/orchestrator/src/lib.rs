//! Hands key versions to Crypto Edges under leases and takes them back.
//!
//! The caller says what should be true of a key ([`Orchestrator::set`]); the orchestrator makes it so on every edge
//! that may have the key, and counts how far it got ([`Orchestrator::distribution`]).
//!
//! * A key is usable at an edge only under a **lease** that this orchestrator renews, and a lease covers only keys
//!   that *this incarnation* of the orchestrator has put or confirmed there. After a restart nothing is dropped and
//!   nothing is renewed on hearsay: keys come under the new lease one by one as they are [`set`](Orchestrator::set),
//!   and only after [`Orchestrator::ready`] is an edge told to forget what nobody has set.
//! * An eviction is true for an edge when the edge has acknowledged it, or when the last lease that the edge can
//!   have for the key has surely ended on the orchestrator's own clock. Leases of before a restart count, here and
//!   when every edge is said to be current: see [`Distribution::settling`].
//! * Which edge may have which key is read from the edge's certificate, which the orchestrator signed; an edge can
//!   ask for less, never for more.
#![warn(missing_docs)]

mod authority;
mod clock;
mod core;
mod door;
mod enrolment;
mod error;
mod files;
mod orchestrator;
mod server;
mod types;
mod wire;

pub use clock::{Clock, SystemClock};
pub use enrolment::{EdgeRecord, TokenRequest, create_join_token, list_edges, revoke_edge};
pub use error::OrchestratorError;
pub use orchestrator::{Changes, Config, Orchestrator};
pub use types::{
    Client, DeadReason, DeadVersion, Desired, Distribution, EdgeInfo, EvictReason, KeyId, KeyState,
    PeerEdges, PendingEdge, Tenants, Told, Usable, Version,
};
