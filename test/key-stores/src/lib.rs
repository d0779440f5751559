//! Servers that speak the protocols of key stores, for tests: never part of the product.
//!
//! [`azure`] and [`gcp`] are contract servers: our reading of Azure Key Vault (with the token endpoint of Microsoft Entra) and of Google Cloud
//! KMS, held honest by the vendors' own Python clients (`vendor-clients`). [`aws`] is a small stub of KMS and STS for what LocalStack cannot
//! show: refusals, throttling, errors, silence, roles with an external id.
//!
//! SoftHSM is its own server; [`hsm`] is the hand of its administrator.
//!
//! Each of ours has a second port for control ([`control`]): make, rotate, disable and delete keys, switch faults, count calls.
#![warn(missing_docs)]

pub mod aws;
pub mod azure;
pub mod control;
pub mod gcp;
pub mod hsm;
pub mod keys;
mod serve;
pub mod tls;
