//! What provider, Crypto Edges and applications say to each other.
//!
//! [`orchestrator`] is the stream on which keys come and go; [`application`] is what applications call at an edge.
//! [`session`] is the edge's end of that stream
//! without any input or output. Messages that carry key bytes print without them.
#![warn(missing_docs)]

mod join_token;
pub mod mask;
mod redact;
pub mod session;

pub use join_token::{JoinToken, JoinTokenError};

/// Provider and edge: enrolment, and the stream of put, evict and lease.
pub mod orchestrator {
    #![allow(missing_docs, clippy::pedantic)] // Generated; documented in `proto/orchestrator.proto`.
    tonic::include_proto!("openkcm.orchestrator.v1");
}

/// Application and edge.
#[cfg(has_application_proto)]
pub mod application {
    #![allow(missing_docs, clippy::pedantic)] // Generated; documented in `proto/application.proto`.
    tonic::include_proto!("openkcm.edge.v1");
}
