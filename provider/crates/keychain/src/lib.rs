//! The key hierarchy and its ledger.
//!
//! ```text
//! root key (customer's key store)  wraps  account key  seals  service key version  (this crate ends here)
//! ```
//!
//! Nothing here calls a key store: the caller hands in *plaintext* account keys as [`SecretKey`] and the opaque
//! blobs that a root key made of them. [`Ledger`] keeps the durable record, with wrapped material only; [`seal`]
//! binds every sealed version to its place, so that a row moved elsewhere does not open; [`AccountKeys`] holds
//! unwrapped account keys in locked memory for a bounded time.
//!
//! Time is an argument everywhere. Every mutation is one transaction that is on disk when the call returns, and
//! may be repeated after a crash without a second effect.
#![warn(missing_docs)]

mod account_keys;
pub mod crash;
mod error;
mod ledger;
pub mod rows;
pub mod seal;

pub use account_keys::AccountKeys;
pub use error::{KeychainError, Result};
pub use ledger::{
    AccountKeyInput, BrokenRow, Changed, Changes, Created, HandOut, Ledger, Location, NewKey, Replica,
    Rewrap, RewrapBatch, RewrapCursor, Rotated, VerifyReport,
};
pub use openkcm_secret::SecretKey;
