//! The Crypto Edge: keys next to the applications, under a lease.
//!
//! ```text
//! orchestrator ─ agent ─ put / evict / lease ─> store <─ lend ─ service <─ gRPC (unix socket, mTLS) ─ application
//!                                                         └ envelope (XAES-256-GCM)
//! ```
//! - [`store`] is the key table: leases, evictions, who may use what, who did.
//! - [`envelope`] is the format of ciphertexts.
//! - [`engine`] brings both together: the operations, and the in-process door for applications in Rust.
//! - [`error`] has the codes that callers read.
//! - [`caller`] is who calls.
//! - [`clock`] is the clock of leases.
#![warn(missing_docs)]

pub mod agent;
pub mod auth;
pub mod caller;
pub mod clock;
pub mod engine;
pub mod envelope;
pub mod error;
pub mod metrics;
pub mod service;
pub mod store;
