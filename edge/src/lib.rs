//! The Crypto Edge: keys next to the applications, under a lease.
//!
//! ```text
//! orchestrator ─ agent ─ put / evict / lease ─> store <─ lend ─ service <─ gRPC (unix socket, mTLS) ─ application
//!                                                         └ envelope (XAES-256-GCM)
//! ```
//! - [`store`] is the key table: leases, evictions, who may use what, who did.
//! - [`envelope`] is the format of ciphertexts.
//! - [`caller`] is who calls.
//! - [`clock`] is the clock of leases.
#![warn(missing_docs)]

pub mod agent;
pub mod caller;
pub mod clock;
pub mod envelope;
pub mod store;
